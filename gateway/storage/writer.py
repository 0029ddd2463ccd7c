"""Saves what changed in the registry and the journal, in batches, behind everything else: no SIP path waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import Clock
from gateway.registry import Changes, Registry
from gateway.storage.database import Database
from gateway.storage.devices import delete_devices, save_channels, save_devices
from gateway.storage.journal import Journal

logger = logging.getLogger(__name__)

CHANNELS_PER_COMMIT = 2000
"""A long catalog is saved in several transactions, so that other writers get their turn."""
JOURNAL_DELAY_S = 0.02
"""Dialogs are saved almost at once: after a crash an unsaved one is a stream that nobody ends."""


@dataclass(slots=True)
class WriterCounts:
    """For metrics: how often, how much, how long, how often in vain."""

    flushes: int = 0
    rows: int = 0
    failures: int = 0
    last_duration_s: float = 0.0
    failing: bool = False
    """The last flush was in vain."""


class Writer:
    """One task that flushes every ``interval_s``, sooner for the journal, and a last time when it is closed."""

    def __init__(
        self,
        *,
        database: Database,
        registry: Registry,
        journal: Journal,
        interval_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._journal = journal
        self._interval_s = interval_s
        self._clock = clock or Clock()
        self._urgent = asyncio.Event()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.counts = WriterCounts()

    async def start(self) -> None:
        self._journal.on_change = self._urgent.set
        self._task = asyncio.create_task(self._run(), name="storage-writer")

    async def close(self) -> None:
        """Stop the task and flush what is left."""
        self._journal.on_change = None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self.flush()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), self._interval_s)
                await asyncio.sleep(JOURNAL_DELAY_S)
            self._urgent.clear()
            await self.flush()

    async def flush(self) -> bool:
        """Save everything that changed. False when the database refused: the changes are kept for the next try."""
        async with self._lock:
            changes = self._registry.take_changes()
            entries = self._journal.take_changes()
            if not changes and not entries:
                return True
            started = self._clock.mono()
            try:
                async with self._database.begin() as connection:
                    rows = await self._journal.save(connection, entries)
                    entries = {}
                rows += await self._save(changes)
            except (SQLAlchemyError, OSError) as error:
                self._registry.return_changes(changes)
                self._journal.return_changes(entries)
                self.counts.failures += 1
                self.counts.failing = True
                logger.error("saving failed, will be tried again error=%s", error)
                return False
            except asyncio.CancelledError:
                self._registry.return_changes(changes)
                self._journal.return_changes(entries)
                raise
            self.counts.flushes += 1
            self.counts.failing = False
            self.counts.rows += rows
            self.counts.last_duration_s = self._clock.mono() - started
            return True

    async def _save(self, changes: Changes) -> int:
        async with self._database.begin() as connection:
            await delete_devices(connection, changes.removed_devices)
            rows = await save_devices(connection, self._registry, changes.devices)
        keys = sorted(changes.channels)
        for start in range(0, len(keys), CHANNELS_PER_COMMIT):
            async with self._database.begin() as connection:
                rows += await save_channels(
                    connection, self._registry, keys[start : start + CHANNELS_PER_COMMIT]
                )
        return rows
