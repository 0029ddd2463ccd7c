"""The audit log: who changed or commanded what, when, and how it went (GB/T 28181-2022 8.5)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.clock import Clock

log = logging.getLogger(__name__)

MAX_DETAIL = 2000
MAX_WHO = 128
QUEUE_SIZE = 1000
CLOSE_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log. ``detail`` names fields, never passwords or tokens."""

    at: datetime
    who: str
    action: str
    target: str
    result: str
    detail: str = ""
    audit_id: int = 0


class AuditNotWritten(Exception):
    """The database refused the entry."""


class AuditStore(Protocol):
    """Raises AuditNotWritten."""

    async def add_audit(self, entry: AuditEntry) -> None: ...
    async def audit_entries(self, *, before: int | None, limit: int) -> list[AuditEntry]: ...


class Audit:
    """Writes entries: ``record`` before the answer leaves, ``note`` behind a bounded queue for callers that cannot wait."""

    def __init__(self, *, store: AuditStore, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or Clock()
        self._queue: asyncio.Queue[AuditEntry] = asyncio.Queue(QUEUE_SIZE)
        self._writer: asyncio.Task[None] | None = None
        self.dropped = 0
        """Entries that ``note`` could not keep because the database was too slow."""

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    async def start(self) -> None:
        self._writer = asyncio.create_task(self._write(), name="audit")

    async def close(self) -> None:
        """Write what waits, then end. May be called again."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._queue.join()
        except TimeoutError:
            log.error("audit entries lost at stop count=%d", self._queue.qsize())
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    async def record(self, *, who: str, action: str, target: str, result: str, detail: str = "") -> None:
        """``action`` like ``device.create``; ``target`` the id; ``result`` ok or the cause of the failure."""
        log.info("audit who=%s action=%s target=%s result=%s", who, action, target, result)
        await self._store.add_audit(self._entry(who, action, target, result, detail))

    def note(self, who: str, action: str, target: str, result: str, detail: str = "") -> None:
        """As :meth:`record`, written soon. For camera commands, where the next one must not wait for the disk."""
        try:
            self._queue.put_nowait(self._entry(who, action, target, result, detail))
        except asyncio.QueueFull:
            self.dropped += 1

    async def entries(self, *, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
        return await self._store.audit_entries(before=before, limit=limit)

    def _entry(self, who: str, action: str, target: str, result: str, detail: str) -> AuditEntry:
        if (
            len(who) > MAX_WHO
        ):  # a user of a platform far above carries the codes of all platforms between (8.3)
            detail, who = f"{detail} who={who}".strip(), who[:MAX_WHO]
        return AuditEntry(self._clock.utc(), who, action, target, result, detail[:MAX_DETAIL])

    async def _write(self) -> None:
        while True:
            entry = await self._queue.get()
            try:
                await self._store.add_audit(entry)
            except AuditNotWritten as error:
                self.dropped += 1
                log.error("audit entry not written action=%s cause=%s", entry.action, error)
            finally:
                self._queue.task_done()
