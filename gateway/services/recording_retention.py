"""Deletes what has been kept long enough, and guards what has not: storage classes, evidence, disks without room.

Nothing is deleted before its time unless the operator chose so (``when_full: delete_oldest``), and then never
without an event, an entry in the audit log and a count. Locked files are never deleted by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from config.settings import RecordingSettings
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.services.recording_disks import LOW_FACTOR, DiskGuard, DiskState, DiskStatus
from gateway.services.recording_events import RecordingsDeleted
from gateway.storage.recordings import RecordingStore, StoredSegment

log = logging.getLogger(__name__)

DAY_S = 86_400.0
BATCH = 200
ROOM_BATCH = 20
NOBODY = "gateway"

Auditor = Callable[[str, str, str, str, str], None]
"""who, action, target, result, detail (gateway.services.audit.Audit.note)."""


class RemoteObjects(Protocol):
    """Where uploaded files are (services/recording_s3.py). ``remove`` raises OSError."""

    async def remove(self, key: str) -> None: ...


@dataclass(slots=True)
class Deleted:
    segments: int = 0
    bytes: int = 0


class Retention:
    """``sweep`` deletes the expired; ``make_room`` is called when a disk runs low."""

    def __init__(
        self,
        *,
        settings: RecordingSettings,
        store: RecordingStore,
        guard: DiskGuard,
        bus: EventBus,
        clock: Clock,
        remote: RemoteObjects | None = None,
    ) -> None:
        self.audit: Auditor | None = None
        self.on_removed: Callable[[list[str]], Awaitable[None]] | None = None
        """Told the ids of files that were deleted."""
        self.deleted: dict[str, Deleted] = defaultdict(Deleted)
        """By cause, for metrics."""
        self._settings = settings
        self._store = store
        self._guard = guard
        self._bus = bus
        self._clock = clock
        self._remote = remote
        self._task: asyncio.Task[None] | None = None
        self._rooms: dict[str, asyncio.Task[None]] = {}
        self._alarmed: set[str] = set()

    async def start(self) -> None:
        self._guard.on_low = self._low
        self._task = asyncio.create_task(self._run(), name="recording-retention")

    async def close(self) -> None:
        self._guard.on_low = None
        tasks = [task for task in (self._task, *self._rooms.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        self._rooms.clear()

    def days_of(self, storage_class: str) -> int:
        """How long a class is kept; one that is not configured any more as long as the longest."""
        classes = self._settings.classes
        return classes.get(storage_class, max(classes.values()))

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except SQLAlchemyError as error:
                log.error("expired recordings not looked for cause=%s", error)
            await asyncio.sleep(self._settings.retention_s)

    async def sweep(self, disk_id: str | None = None) -> Deleted:
        """Delete what has expired, of one disk or of all that can be reached."""
        total = Deleted()
        now = self._clock.utc().timestamp()
        for storage_class in await self._store.known_classes():
            before = now - self.days_of(storage_class) * DAY_S
            while True:
                found = await self._store.expired(
                    storage_class,
                    before,
                    disks=self._reachable(disk_id),
                    with_remote=disk_id is None,
                    limit=BATCH,
                )
                removed = await self.remove(found, "expired")
                total.segments += removed.segments
                total.bytes += removed.bytes
                if len(found) < BATCH or removed.segments < len(found):
                    break
        if disk_id is None:
            longest = max(self._settings.classes.values())
            await self._store.forget_gaps(now - longest * DAY_S)
        return total

    async def remove(self, found: Sequence[StoredSegment], cause: str) -> Deleted:
        """Delete these files, their objects and their entries. What cannot be deleted keeps its entry."""
        gone: list[StoredSegment] = []
        for segment in found:
            try:
                if segment.local:
                    await self._unlink(segment)
                if segment.remote_key and self._remote is not None:
                    await self._remote.remove(segment.remote_key)
            except OSError as error:
                log.error(
                    "recording not deleted segment_id=%s disk_id=%s cause=%s",
                    *(segment.info.segment_id, segment.info.disk_id, error),
                )
            else:
                gone.append(segment)
        ids = [segment.info.segment_id for segment in gone]
        await self._store.remove_segments(ids)
        if self.on_removed is not None:
            await self.on_removed(ids)
        by_disk: dict[str, Deleted] = defaultdict(Deleted)
        for segment in gone:
            by_disk[segment.info.disk_id].segments += 1
            by_disk[segment.info.disk_id].bytes += segment.info.bytes
        for disk_id, part in by_disk.items():
            self.deleted[cause].segments += part.segments
            self.deleted[cause].bytes += part.bytes
            log.info(
                "recordings deleted cause=%s disk_id=%s segments=%d bytes=%d",
                *(cause, disk_id, part.segments, part.bytes),
            )
            self._bus.publish(RecordingsDeleted(cause, disk_id, part.segments, part.bytes))
        return Deleted(len(gone), sum(segment.info.bytes for segment in gone))

    async def _unlink(self, segment: StoredSegment) -> None:
        path = self._guard.path_of(segment.info.disk_id, segment.info.path)
        if path is None:
            raise FileNotFoundError(f"disk {segment.info.disk_id} is not configured")
        if segment.info.disk_id not in self._reachable(None):
            raise FileNotFoundError(f"disk {segment.info.disk_id} is not there")
        await asyncio.to_thread(_unlink, path)

    def _reachable(self, disk_id: str | None) -> list[str]:
        return [
            disk.disk_id
            for disk in self._guard.disks.values()
            if disk_id in (None, disk.disk_id) and (disk.state.writable or disk.state is DiskState.FULL)
        ]

    # --- disks without room ------------------------------------------------------------------------------------

    def _low(self, disk: DiskStatus) -> None:
        running = self._rooms.get(disk.disk_id)
        if running is None or running.done():
            self._rooms[disk.disk_id] = asyncio.create_task(
                self._make_room(disk), name=f"recording-room-{disk.disk_id}"
            )

    async def _make_room(self, disk: DiskStatus) -> None:
        try:
            await self.make_room(disk)
        except (SQLAlchemyError, OSError) as error:
            log.error("no room made disk_id=%s cause=%s", disk.disk_id, error)

    async def make_room(self, disk: DiskStatus) -> Deleted:
        """First what has expired. If the disk is full still: stop or delete on, as configured, and say so."""
        await self.sweep(disk.disk_id)
        if not await self._full(disk):
            self._alarmed.discard(disk.disk_id)
            return Deleted()
        if self._settings.when_full == "stop":
            self._alarm(disk, "stopped", "nothing on it has expired; no new files go there")
            return Deleted()
        total = Deleted()
        while await self._full(disk, factor=LOW_FACTOR):
            oldest = await self._store.oldest_deletable(disk.disk_id, limit=ROOM_BATCH)
            removed = await self.remove(oldest, "disk_full")
            if not removed.segments:
                self._alarm(disk, "stopped", "what is left is evidence or cannot be deleted")
                break
            total.segments += removed.segments
            total.bytes += removed.bytes
        if total.segments:
            self._note(disk, "deleted", f"{total.segments} files before their time, {total.bytes} bytes")
        self._guard.look_soon()
        return total

    async def _full(self, disk: DiskStatus, *, factor: float = 1.0) -> bool:
        space = await asyncio.to_thread(self._guard.space, disk.directory)
        return space.free_bytes <= disk.reserve_bytes * factor

    def _alarm(self, disk: DiskStatus, result: str, detail: str) -> None:
        """Once per time that the disk runs full."""
        if disk.disk_id not in self._alarmed:
            self._alarmed.add(disk.disk_id)
            self._note(disk, result, detail)

    def _note(self, disk: DiskStatus, result: str, detail: str) -> None:
        log.error("recording disk full disk_id=%s result=%s detail=%s", disk.disk_id, result, detail)
        if self.audit is not None:
            self.audit(NOBODY, "recording.disk_full", disk.disk_id, result, detail)


def _unlink(path: Path) -> None:
    """Remove a file and the folders that are empty with it. A file that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with contextlib.suppress(OSError):
        for folder in list(path.parents)[:3]:  # channel, device, day
            folder.rmdir()
