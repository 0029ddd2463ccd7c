"""Room for one more stream at a device that gives only so many (quirk 34): idle ones end first, then the answer is "busy"."""

from __future__ import annotations

import logging

from gateway.clock import Clock
from gateway.model import Device
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_opening import Opener
from gateway.services.session_record import LiveSession
from gateway.services.session_table import SessionTable

log = logging.getLogger(__name__)

FRESH_S = 3.0
"""A stream asked for so recently is not idle: its viewer may be on the way."""


class Room:
    """Makes room, or says that there is none."""

    def __init__(self, *, table: SessionTable, opener: Opener, clock: Clock) -> None:
        self._table = table
        self._opener = opener
        self._clock = clock
        self.made = 0
        """Idle streams that were ended for another one."""

    async def make(self, device: Device) -> None:
        """Before an INVITE: see to it that the device's limit is kept. Raises PlayFailed(busy).

        A limit that was learned is not the last word: the device is asked all the same when nothing here is idle.
        """
        limit = device.profile.max_streams
        if limit is None or self._opener.open_streams(device.device_id) < limit:
            return
        if await self.end_idle(device.device_id) or device.profile.origin("max_streams") == "learned":
            return
        raise self.busy(device, f"it gives {limit} streams at the same time")

    def busy(self, device: Device, detail: str) -> PlayFailed:
        """The failure to tell: who has the device's streams."""
        sessions = self._sessions(device.device_id)
        viewers = sum(session.info.viewers + len(session.watchers) for session in sessions)
        text = f"device busy, {viewers} viewers of {len(sessions)} streams: {detail}"
        return PlayFailed(PlayCause.BUSY, text, open_streams=self._opener.open_streams(device.device_id))

    async def end_idle(self, device_id: str) -> bool:
        """End the stream of this device that nobody has watched for longest. False when all are watched."""
        now = self._clock.mono()
        idle = [s for s in self._sessions(device_id) if _idle(s) and now - s.touched_mono > FRESH_S]
        if not idle:
            return False
        session = min(idle, key=lambda s: s.touched_mono)
        log.info("stream ended to make room device_id=%s channel_id=%s", *session.key[:2])
        self.made += 1
        await self._table.end(session, "room")
        return True

    def _sessions(self, device_id: str) -> list[LiveSession]:
        return [
            session
            for session in self._table.sessions.values()
            if session.info.device_id == device_id and session.streaming and session.dialog is not None
        ]


def _idle(session: LiveSession) -> bool:
    return not (session.info.viewers or session.watchers or session.waiting)
