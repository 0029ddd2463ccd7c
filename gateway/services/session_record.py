"""One media session toward a device, as its owner (sessions.py) and its watchers see it. Plain state, few rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

from gateway.model import SessionInfo, SessionKind, SessionState
from gateway.services.errors import PlayFailed
from gateway.services.nodes import NodeHandle
from media.specs import PayloadFormat, StreamReady
from sip.endpoint import InviteSession
from sip.incoming import RequestCallback

LiveKey = tuple[str, str, int]
"""device_id, channel_id, stream number (0 main)."""


@dataclass(frozen=True, slots=True)
class DeviceHistory:
    """A recording that the device shall play or hand over (2022 9.8, 9.9). Times in unix seconds; ``record_type`` as
    in ``u=``: 0 all, 1 manual, 2 alarm, 3 time. ``download_speed`` None: it is played."""

    start: int
    end: int
    record_type: int = 0
    download_speed: int | None = None

    @property
    def name(self) -> str:
        """``s=`` of the offer."""
        return "Playback" if self.download_speed is None else "Download"


class Watcher(Protocol):
    """Who holds on to a session, such as the relay to an upper platform. Both calls are short and synchronous.

    ``session_moved`` says that the media node was lost and the picture runs again in another session; a
    watcher that cannot follow does what it does in ``session_ended``.
    """

    def session_ended(self, session: LiveSession, cause: str) -> None: ...

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None: ...


@dataclass(slots=True, eq=False)
class LiveSession:
    """Shared by all viewers of one channel and stream number.

    ``info`` is what the API shows. ``undo`` holds what must be given back, in the order it was taken.
    """

    key: LiveKey
    info: SessionInfo
    opened_mono: float
    touched_mono: float
    """When somebody last asked for the picture; an idle report just after that is looked at again."""
    node: NodeHandle | None = None
    dialog: InviteSession | None = None
    payload: PayloadFormat | None = None
    """What the device said it sends; None: PS, as everybody."""
    undo: AsyncExitStack | None = None
    opening: asyncio.Task[LiveSession] = field(init=False)
    ending: asyncio.Task[None] | None = None
    picture: asyncio.Future[StreamReady] | None = None
    waiting: int = 0
    """play() calls that wait for the first picture."""
    abort_cause: PlayFailed | None = None
    watchers: list[Watcher] = field(default_factory=list)
    moving: bool = False
    """Its node was lost and it is being opened again elsewhere: watchers wait for the outcome."""
    local: bool = False
    """The picture comes from an input of our own, not from a device's INVITE."""
    history: DeviceHistory | None = None
    """A recording in the device; None: live pictures, or no device's."""
    filesize: int | None = None
    """Bytes that the device announced for a download."""
    on_receiver: Callable[[NodeHandle], Awaitable[None]] | None = None
    """Called when the receiver is open, before the device is asked to send into it."""
    on_request: RequestCallback | None = None
    """Answers INFO and MESSAGE that the device sends inside the dialog."""
    idle_grace_s: float | None = None
    """So long it may be without viewers; None: as set for all."""
    derived: bool = False
    """Made of another session's picture; it ends with that one."""
    missing_beats: int = 0
    """Heartbeats in a row in which the node did not know our stream."""
    idle_beats: int = 0
    proof_mono: float = 0.0
    packets_seen: int = 0

    @property
    def session_id(self) -> str:
        return self.info.session_id

    @property
    def stream_id(self) -> str:
        return self.info.stream_id

    @property
    def live(self) -> bool:
        """The camera's own picture now. A recording says nothing about its camera and does not end with it."""
        return self.info.kind is SessionKind.LIVE and not self.derived

    @property
    def streaming(self) -> bool:
        return self.info.state is SessionState.STREAMING

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Hold on to the session: it is not ended as idle, and the watcher hears how it ends. Returns the release."""
        self.watchers.append(watcher)

        def release() -> None:
            if watcher in self.watchers:
                self.watchers.remove(watcher)

        return release

    def fail_picture(self, failure: PlayFailed) -> None:
        """End the wait for the first picture with ``failure``, if somebody still waits."""
        if self.picture is not None and not self.picture.done():
            self.picture.set_exception(failure)
