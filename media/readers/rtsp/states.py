"""The states of an RTSP session (RFC 2326 A.2) as a table, and the names of its methods. Pure."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    INIT = "init"
    READY = "ready"
    PLAYING = "playing"


STEPS: dict[tuple[State, str], State] = {
    (State.INIT, "SETUP"): State.READY,
    (State.READY, "SETUP"): State.READY,
    (State.READY, "PLAY"): State.PLAYING,
    (State.READY, "TEARDOWN"): State.INIT,
    (State.PLAYING, "PLAY"): State.PLAYING,
    (State.PLAYING, "PAUSE"): State.READY,
    (State.PLAYING, "TEARDOWN"): State.INIT,
}
"""What is not here is answered 455. A transport is not changed while playing (10.4 leaves that to the server)."""

ALWAYS = ("OPTIONS", "DESCRIBE", "GET_PARAMETER", "SET_PARAMETER")
"""Methods that go with every state."""
SERVED = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER")
REFUSED = ("ANNOUNCE", "RECORD", "REDIRECT")
"""Methods of RFC 2326 that a server of live pictures has no use for: 405. Others are not known: 501."""


def step(state: State, method: str) -> State | None:
    """The state after ``method``; None when it does not go with ``state``."""
    return state if method in ALWAYS else STEPS.get((state, method))
