"""Dialogs of an earlier life: written when confirmed, ended with BYE after a crash (G237, quirk 33).

A dialog over UDP is ended at start. One over TCP has lost its connection with the crash: it is ended over the
device's new connection when the device registers again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.clock import Clock
from gateway.services.session_ghosts import Ghost, Ghosts
from sip.errors import LocalError
from sip.flow import Flow
from sip.ids import SsrcPool

log = logging.getLogger(__name__)

KIND = "invite"
ATTEMPTS_AT_ONCE = 20


class Journal(Protocol):
    """Small durable store, written in the background (storage)."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None: ...

    def remove(self, kind: str, key: str) -> None: ...

    def load(self, kind: str) -> Awaitable[dict[str, dict[str, Any]]]: ...


class OrphanEnder(Protocol):
    """The part of the SIP endpoint that says BYE for a dialog it no longer knows."""

    async def end_orphan(self, snapshot: dict[str, Any], *, flow: Flow | None = None) -> bool: ...


@dataclass(slots=True)
class _Orphan:
    call_id: str
    device_id: str
    channel_id: str
    ssrc: int
    dialog: dict[str, Any]


class DialogJournal:
    """Keeps confirmed INVITE dialogs on record while they live and ends those that a crash left behind."""

    def __init__(
        self, *, journal: Journal, endpoint: OrphanEnder, ssrc_pool: SsrcPool, clock: Clock | None = None
    ) -> None:
        self._journal = journal
        self._endpoint = endpoint
        self._ssrc_pool = ssrc_pool
        self._clock = clock or Clock()
        self._waiting: dict[str, list[_Orphan]] = defaultdict(list)
        self._slots = asyncio.Semaphore(ATTEMPTS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.ghosts = Ghosts(end=self._bye_again, forget=self.remove)
        self.orphans_found = 0
        self.orphans_ended = 0

    def put(self, device_id: str, channel_id: str, ssrc: int, dialog: dict[str, Any]) -> None:
        """Remember a confirmed dialog with the SSRC it uses; written to storage in the background."""
        state = {"device_id": device_id, "channel_id": channel_id, "ssrc": ssrc, "dialog": dialog}
        self._journal.put(KIND, str(dialog["call_id"]), state)

    def haunted(self, device_id: str, channel_id: str, ssrc: int, dialog: dict[str, Any]) -> None:
        """The device did not answer the BYE: the dialog stays on record and is chased (session_ghosts.py)."""
        self.ghosts.add(Ghost(str(dialog["call_id"]), device_id, channel_id, ssrc, dialog))

    async def _bye_again(self, dialog: dict[str, Any], flow: Flow | None) -> bool:
        try:
            return await self._endpoint.end_orphan(dialog, flow=flow)
        except LocalError as error:
            log.warning("journal entry cannot be read call_id=%s cause=%s", dialog.get("call_id"), error)
            return True

    def remove(self, call_id: str) -> None:
        """The dialog is over: its BYE was answered, or given up."""
        self._journal.remove(KIND, call_id)

    async def end_orphans(self) -> None:
        """At start: BYE for every dialog on record; those over TCP wait for their device.

        Their SSRC values stay taken until then: the camera may still be sending with them.
        """
        for call_id, state in (await self._journal.load(KIND)).items():
            dialog, device_id, ssrc = state.get("dialog"), state.get("device_id"), state.get("ssrc")
            if not isinstance(dialog, dict) or not isinstance(device_id, str) or not isinstance(ssrc, int):
                self._journal.remove(KIND, call_id)
                continue
            self.orphans_found += 1
            self._ssrc_pool.reserve(ssrc)
            orphan = _Orphan(call_id, device_id, str(state.get("channel_id", "")), ssrc, dialog)
            if dialog.get("transport") == "udp":
                self._start(orphan)
            else:
                self._waiting[device_id].append(orphan)

    @property
    def waiting(self) -> list[str]:
        """Devices whose return is waited for."""
        return list(self._waiting)

    def device_registered(self, device_id: str, flow: Flow | None) -> None:
        """End what waited for this device's new connection."""
        self.ghosts.device_here(device_id, flow)
        for orphan in self._waiting.pop(device_id, []):
            self._start(orphan, flow)

    async def close(self) -> None:
        await self.ghosts.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, orphan: _Orphan, flow: Flow | None = None) -> None:
        task = asyncio.create_task(self._end(orphan, flow))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, orphan: _Orphan, flow: Flow | None) -> None:
        async with self._slots:
            answered = await self._bye_again(orphan.dialog, flow)
        self._ssrc_pool.release(orphan.ssrc, self._clock.mono())
        if not answered:
            self.haunted(orphan.device_id, orphan.channel_id, orphan.ssrc, orphan.dialog)
            return
        self._journal.remove(KIND, orphan.call_id)
        self.orphans_ended += 1
        log.info("orphan dialog ended call_id=%s", orphan.call_id)
