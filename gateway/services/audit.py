"""The audit log: who changed or commanded what, when, and how it went (GB/T 28181-2022 8.5)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.clock import Clock

log = logging.getLogger(__name__)

MAX_DETAIL = 2000


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


class AuditStore(Protocol):
    async def add_audit(self, entry: AuditEntry) -> None: ...
    async def audit_entries(self, *, before: int | None, limit: int) -> list[AuditEntry]: ...


class Audit:
    """Writes entries before the answer leaves, so that no change goes unrecorded."""

    def __init__(self, *, store: AuditStore, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or Clock()

    async def record(self, *, who: str, action: str, target: str, result: str, detail: str = "") -> None:
        """``action`` like ``device.create``; ``target`` the id; ``result`` ok or the cause of the failure."""
        log.info("audit who=%s action=%s target=%s result=%s", who, action, target, result)
        await self._store.add_audit(
            AuditEntry(self._clock.utc(), who, action, target, result, detail[:MAX_DETAIL])
        )

    async def entries(self, *, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
        return await self._store.audit_entries(before=before, limit=limit)
