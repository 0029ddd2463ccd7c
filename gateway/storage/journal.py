"""The journal: what must be ended or taken up again after a crash (dialogs, subscriptions). Written behind, read at start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import Clock
from gateway.storage.database import upsert_rows
from gateway.storage.schema import journal

Key = tuple[str, str]


class Journal:
    """Entries by (kind, key). ``put`` and ``remove`` touch memory only; the writer saves soon after.

    ``load`` gives what an earlier life of the process left behind, whatever was put since.
    """

    def __init__(self, *, clock: Clock | None = None, on_change: Callable[[], None] | None = None) -> None:
        self._clock = clock or Clock()
        self.on_change = on_change
        self._pending: dict[Key, dict[str, Any] | None] = {}
        self._left_behind: dict[Key, dict[str, Any]] = {}

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        self._set((kind, key), state)

    def remove(self, kind: str, key: str) -> None:
        self._left_behind.pop((kind, key), None)
        self._set((kind, key), None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        """Entries of this kind from before this start, by key."""
        return {key: state for (its_kind, key), state in self._left_behind.items() if its_kind == kind}

    def _set(self, key: Key, state: dict[str, Any] | None) -> None:
        self._pending[key] = state
        if self.on_change is not None:
            self.on_change()

    def take_changes(self) -> dict[Key, dict[str, Any] | None]:
        taken, self._pending = self._pending, {}
        return taken

    def return_changes(self, taken: dict[Key, dict[str, Any] | None]) -> None:
        self._pending = {**taken, **self._pending}

    async def read(self, connection: AsyncConnection) -> None:
        for row in (await connection.execute(select(journal))).all():
            if isinstance(row.state, dict):
                self._left_behind[row.kind, row.key] = row.state

    async def save(self, connection: AsyncConnection, taken: dict[Key, dict[str, Any] | None]) -> int:
        now = self._clock.utc()
        rows = [
            {"kind": kind, "key": key, "state": state, "written_at": now}
            for (kind, key), state in taken.items()
            if state is not None
        ]
        await upsert_rows(connection, journal, rows)
        for (kind, key), state in taken.items():
            if state is None:
                await connection.execute(delete(journal).where(journal.c.kind == kind, journal.c.key == key))
        return len(taken)
