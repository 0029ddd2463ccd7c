"""One channel that is to be recorded: its session, its recorder at the node, its waits. Owned by services/recording.py."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from gateway.services.session_record import LiveSession

Key = tuple[str, str]
"""device_id, channel_id."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted of a channel now. ``kind``: continuous | event | manual; event means standby until triggered."""

    kind: str
    storage_class: str
    stream: int = 0

    @property
    def standby(self) -> bool:
        return self.kind == "event"


class Owner(Protocol):
    """Who hears what becomes of the session."""

    def lost(self, one: ChannelRecording, cause: str) -> None: ...

    def moved(self, one: ChannelRecording, successor: LiveSession) -> None: ...


@dataclass(slots=True, eq=False)
class ChannelRecording:
    """A watcher of the session it holds, so that it is not ended as idle."""

    key: Key
    owner: Owner
    desired: Desired | None = None
    running: Desired | None = None
    """What the recorder at the node was asked for; None: there is none."""
    recording_id: str = ""
    session: LiveSession | None = None
    task: asyncio.Task[None] | None = None
    retry_at_mono: float = 0.0
    backoff_s: float = 0.0
    failure: str = ""
    """Why it is not recorded although it should be; the cause of the gap."""
    gap_id: int | None = None
    gap_cause: str = ""
    event_until: float = 0.0
    """Monotonic end of the event that is to be written."""
    triggered_until: float = 0.0
    last_segment_end: float = 0.0
    """Unix time up to which files are known."""
    opened_at: float | None = None
    """A file began at this unix time, and nobody has looked at it yet."""
    fault: str = ""
    """The recorder runs but writes nothing for this reason."""
    missing_beats: int = 0

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()

    def hold(self, session: LiveSession) -> None:
        self.let_go()
        self.session = session
        session.watchers.append(self)

    def let_go(self) -> None:
        if self.session is not None and self in self.session.watchers:
            self.session.watchers.remove(self)
        self.session = None

    def session_ended(self, session: LiveSession, cause: str) -> None:
        if session is self.session:
            self.session = None
            self.owner.lost(self, cause)

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None:
        if session is self.session:
            self.session = None
            self.owner.moved(self, successor)
