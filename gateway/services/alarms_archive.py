"""Keeps alarms: written behind in batches with a bound, forgotten after their time together with their pictures."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from config.settings import AlarmSettings
from gateway.clock import Clock
from gateway.storage.alarms import AlarmFilter, AlarmStore, StoredAlarm

log = logging.getLogger(__name__)

MOST_WAITING = 20_000
"""Alarms that may wait for the database; beyond it they are counted as ``lost`` and logged with their fields."""
WRITE_PAUSE_S = 0.2
RETENTION_S = 600.0


class AlarmArchive:
    """``put`` and ``change`` touch memory only; one task writes. ``counts``: written, lost, removed."""

    def __init__(self, *, store: AlarmStore, settings: AlarmSettings, directory: Path, clock: Clock) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self.directory = directory
        """Where pictures taken at alarm time are."""
        self._new: dict[str, StoredAlarm] = {}
        self._changes: dict[str, dict[str, Any]] = {}
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        await asyncio.to_thread(self.directory.mkdir, parents=True, exist_ok=True)
        self._tasks = [
            asyncio.create_task(self._write(), name="alarms-write"),
            asyncio.create_task(self._forget(), name="alarms-retention"),
        ]

    async def close(self) -> None:
        """End the tasks, then write what waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.flush()

    @property
    def waiting(self) -> int:
        return len(self._new) + len(self._changes)

    def put(self, alarm: StoredAlarm) -> bool:
        """Have a new alarm written; False (counted and logged) when too many wait."""
        if len(self._new) >= MOST_WAITING:
            self.counts["lost"] += 1
            log.error(
                "alarm not kept device=%s channel=%s method=%s type=%s at=%s",
                alarm.device_id, alarm.channel_id, alarm.method, alarm.alarm_type, alarm.received_at,
            )  # fmt: skip
            return False
        self._new[alarm.alarm_id] = alarm
        self._wake.set()
        return True

    def change(self, alarm_id: str, **values: Any) -> None:
        """Have fields of an alarm written."""
        waiting = self._new.get(alarm_id)
        if waiting is not None:
            for name, value in values.items():
                setattr(waiting, name, value)
            return
        if alarm_id in self._changes or len(self._changes) < MOST_WAITING:
            self._changes.setdefault(alarm_id, {}).update(values)
            self._wake.set()

    async def flush(self) -> None:
        """Write what waits, now. A failing database is logged; what could not be written stays."""
        async with self._writing:
            new, self._new = self._new, {}
            changes, self._changes = self._changes, {}
            try:
                if new:
                    await self._store.put(list(new.values()))
                    self.counts["written"] += len(new)
                    new = {}
                for alarm_id in list(changes):
                    await self._store.change(alarm_id, **changes[alarm_id])
                    del changes[alarm_id]
            except SQLAlchemyError as error:
                self._new = new | self._new
                for alarm_id, values in changes.items():
                    self._changes[alarm_id] = values | self._changes.get(alarm_id, {})
                log.error("alarms not written waiting=%d error=%s", self.waiting, error)

    async def get(self, alarm_id: str) -> StoredAlarm | None:
        await self.flush()
        return await self._store.get(alarm_id)

    async def find(self, wanted: AlarmFilter, *, limit: int, offset: int) -> tuple[int, list[StoredAlarm]]:
        await self.flush()
        return await self._store.find(wanted, limit=limit, offset=offset)

    def picture_path(self, alarm_id: str) -> Path:
        return self.directory / alarm_id[:6] / f"{alarm_id}.jpg"

    async def keep_picture(self, alarm_id: str, jpeg: bytes) -> None:
        """Raises OSError."""
        path = self.picture_path(alarm_id)
        await asyncio.to_thread(_write_file, path, jpeg)
        self.change(alarm_id, snapshot=path.name)

    async def picture(self, alarm_id: str) -> bytes | None:
        try:
            return await asyncio.to_thread(self.picture_path(alarm_id).read_bytes)
        except OSError:
            return None

    # -- the tasks -------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            await asyncio.sleep(WRITE_PAUSE_S)
            if self.waiting:
                self._wake.set()

    async def _forget(self) -> None:
        while True:
            try:
                await self.forget()
            except SQLAlchemyError as error:
                log.error("old alarms not removed error=%s", error)
            await asyncio.sleep(RETENTION_S)

    async def forget(self) -> int:
        """Remove what is older than ``keep_days`` or beyond ``keep_most``, with the pictures; returns how many."""
        before = self._clock.utc() - timedelta(days=self._settings.keep_days)
        removed = 0
        while found := (
            await self._store.remove_before(before)
            or await self._store.remove_beyond(self._settings.keep_most)
        ):
            await asyncio.to_thread(self._remove_pictures, found)
            removed += len(found)
            await asyncio.sleep(0)
        self.counts["removed"] += removed
        return removed

    def _remove_pictures(self, alarm_ids: list[str]) -> None:
        for alarm_id in alarm_ids:
            path = self.picture_path(alarm_id)
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(data)
    partial.replace(path)
