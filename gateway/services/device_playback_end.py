"""When a recording that a device plays is over: MediaStatus 121 in its many forms, or what the media node sees.

GB/T 28181-2022 A.2.5.4, 9.8 and 9.9: 200 to the notice, the last packets are let in, then BYE. Devices send the notice
inside the dialog, outside of it, under the channel's code or a foreign one (field quirk 23), or not at all (quirk 24).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.peers import Peer
from gateway.services.session_record import LiveSession
from media.specs import PlaybackEnded
from sip.endpoint import Incoming, Reply
from sip.errors import ParseError
from sip.manscdp import MediaStatusNotify, decode
from sip.manscdp.media_status import FILE_SENT

log = logging.getLogger(__name__)

Over = Callable[[str], None]
"""Hears once that the device has sent all, with what said so: media_status | media_time."""


class Ender(Protocol):
    def end(self, session: LiveSession, cause: str) -> asyncio.Task[None]: ...


@dataclass(slots=True, eq=False)
class _Open:
    session: LiveSession
    on_over: Over
    draining: asyncio.Task[None] | None = None
    told: bool = False


class HistoryEnds:
    """All open recordings of devices, playings and downloads. ``counts``: matched_call, matched_channel, matched_device,
    unmatched, other_type, media_time."""

    def __init__(self, *, sessions: Ender, drain_s: float) -> None:
        self._sessions = sessions
        self._drain_s = drain_s
        self._open: dict[LiveSession, _Open] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, session: LiveSession, on_over: Over) -> None:
        """Watch over a session until :meth:`remove`."""
        self._open[session] = _Open(session, on_over)

    def remove(self, session: LiveSession) -> None:
        found = self._open.pop(session, None)
        if found is not None and found.draining is not None and found.draining is not asyncio.current_task():
            found.draining.cancel()

    def over(self, session: LiveSession) -> bool:
        """Whether the device has sent all of it."""
        found = self._open.get(session)
        return found is not None and found.told

    def revive(self, session: LiveSession) -> None:
        """It was moved back, and goes on after all."""
        found = self._open.get(session)
        if found is not None and found.told:
            found.told = False
            if found.draining is not None:
                found.draining.cancel()
                found.draining = None

    # -- notices ---------------------------------------------------------------------------------------------

    async def notice(self, peer: Peer, body: MediaStatusNotify, incoming: Incoming) -> None:
        """A MediaStatus outside of a dialog of ours, or one that nobody took there."""
        self._noticed(peer.id, body, incoming.request.call_id)

    def in_dialog(self, session: LiveSession, incoming: Incoming) -> Reply:
        """A request of the device inside the dialog of a recording; whoever From names, the dialog proves it."""
        if incoming.request.method != "MESSAGE":
            return Reply(200)
        try:
            body = decode(incoming.request.body).body
        except ParseError as error:
            return Reply(400, reason=f"Body Not Readable: {error.label}")
        if isinstance(body, MediaStatusNotify):
            self._noticed(session.key[0], body, incoming.request.call_id)
        return Reply(200)

    def _noticed(self, device_id: str, body: MediaStatusNotify, call_id: str) -> None:
        if body.notify_type.strip() != FILE_SENT:
            self.counts["other_type"] += 1
            return
        found, way = self._match(device_id, body.device_id, call_id)
        self.counts[way] += 1
        if found is None:
            log.info(
                "media status fits no recording device=%s named=%s call_id=%s",
                device_id,
                body.device_id,
                call_id,
            )
            return
        self._over(found, "media_status")

    def _match(self, device_id: str, named: str, call_id: str) -> tuple[_Open | None, str]:
        """By Call-ID, else the only one of the channel named, else the only one of the device (quirk 23)."""
        here = [
            found for found in self._open.values() if found.session.key[0] == device_id and not found.told
        ]
        for found in here:
            if found.session.info.call_id == call_id:
                return found, "matched_call"
        of_channel = [found for found in here if found.session.key[1] == named]
        if len(of_channel) == 1:
            return of_channel[0], "matched_channel"
        if len(here) == 1 and not of_channel:
            return here[0], "matched_device"
        return None, "unmatched"

    def node_ended(self, session: LiveSession, event: PlaybackEnded) -> None:
        """The media node saw the end of the range (quirk 24)."""
        found = self._open.get(session)
        if found is not None and not found.told:
            self.counts["media_time"] += 1
            log.info(
                "recording over by its media call_id=%s position_s=%.1f",
                session.info.call_id,
                event.position_s,
            )
            self._over(found, "media_time")

    def _over(self, found: _Open, what: str) -> None:
        if found.told:
            return
        found.told = True
        found.on_over(what)
        task = asyncio.create_task(self._drain(found), name=f"drain-{found.session.key[1]}")
        found.draining = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, found: _Open) -> None:
        """What is on the way may still arrive; then BYE."""
        await asyncio.sleep(self._drain_s)
        found.draining = None
        self._sessions.end(found.session, "played_to_end")
