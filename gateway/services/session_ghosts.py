"""Ghost streams: calls that a device did not let us end. They are chased with BYE until it answers or a day has passed.

A device whose BYE was lost goes on sending, and its packets reach whoever gets the port next (quirk 33). What is known
of the dialog is kept, also over a restart (session_journal.py); BYE is said again when the device shows up, when its
packets are heard, and from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sip.flow import Flow

log = logging.getLogger(__name__)

PAUSES_S = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, *(7200.0,) * 11)
"""Waits between two tries, together about a day."""
MOST = 1000
"""Ghosts chased at one time; the oldest is given up for a new one."""

OrphanEnd = Callable[[dict[str, Any], Flow | None], Awaitable[bool]]


@dataclass(slots=True, eq=False)
class Ghost:
    """One call whose end the device did not confirm. ``flow``: where the device was seen last, None: as in the dialog."""

    call_id: str
    device_id: str
    channel_id: str
    ssrc: int
    dialog: dict[str, Any]
    flow: Flow | None = None
    tries: int = 0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is reason to try at once."""


class Ghosts:
    """Chases them. ``end(dialog, flow)`` says BYE and tells whether it was answered; ``forget(call_id)`` drops the record."""

    def __init__(self, *, end: OrphanEnd, forget: Callable[[str], None]) -> None:
        self._end = end
        self._forget = forget
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.ghosts: dict[str, Ghost] = {}
        """By Call-ID."""
        self.laid = 0
        """Ghosts that were ended after all."""
        self.given_up = 0

    def add(self, ghost: Ghost) -> None:
        """The device did not answer a BYE: chase it from now on."""
        if ghost.call_id in self.ghosts:
            return
        if len(self.ghosts) >= MOST:
            self._drop(next(iter(self.ghosts)))
        self.ghosts[ghost.call_id] = ghost
        task = asyncio.create_task(self._chase(ghost), name=f"ghost-{ghost.channel_id}")
        self._tasks[ghost.call_id] = task
        log.warning(
            "ghost stream device_id=%s channel_id=%s call_id=%s",
            ghost.device_id,
            ghost.channel_id,
            ghost.call_id,
        )

    def device_here(self, device_id: str, flow: Flow | None) -> None:
        """The device registered: its ghosts can be ended over this flow."""
        for ghost in self.ghosts.values():
            if ghost.device_id == device_id:
                ghost.flow = flow
                ghost.wanted.set()

    def heard(self, ssrc: int) -> bool:
        """Packets of this SSRC came where they do not belong. True when they are a ghost's."""
        found = [ghost for ghost in self.ghosts.values() if ghost.ssrc == ssrc]
        for ghost in found:
            ghost.wanted.set()
        return bool(found)

    async def close(self) -> None:
        """Stop chasing; the records stay for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _chase(self, ghost: Ghost) -> None:
        for pause_s in PAUSES_S:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ghost.wanted.wait(), pause_s)
            ghost.wanted.clear()
            ghost.tries += 1
            if await self._end(ghost.dialog, ghost.flow):
                self.laid += 1
                log.info("ghost stream ended call_id=%s tries=%d", ghost.call_id, ghost.tries)
                self._over(ghost.call_id)
                return
        self.given_up += 1
        log.warning("ghost stream given up call_id=%s tries=%d", ghost.call_id, ghost.tries)
        self._over(ghost.call_id)

    def _drop(self, call_id: str) -> None:
        self.given_up += 1
        self._tasks[call_id].cancel()
        self._over(call_id)

    def _over(self, call_id: str) -> None:
        self._tasks.pop(call_id, None)
        self.ghosts.pop(call_id, None)
        self._forget(call_id)
