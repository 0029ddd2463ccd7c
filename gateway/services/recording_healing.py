"""Brings the index of recordings in line with the disks after a crash, in the background and at a bounded pace.

Files that were open when something died are mended and entered; files that the index does not know are read and
entered; entries whose file is gone are removed. Files that a living recorder holds (a lock on the file) are left alone,
and entries of a disk that is not there are kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from gateway.events import EventBus
from gateway.services.recording_disks import DiskGuard, DiskState, DiskStatus
from gateway.services.recording_events import IndexHealed
from gateway.services.recording_index import RecordingIndex
from gateway.storage.recordings import RecordingStore, StoredSegment
from media import segments
from media.specs import SegmentInfo

log = logging.getLogger(__name__)

OPEN_EVERY_S = 60.0
SETTLE_S = 2.0
"""So long after a node died its files are looked at: the kernel frees its locks at once, its successor may be busy."""
SLICE_FILES = 100


@dataclass(slots=True)
class Healed:
    """What one pass did."""

    entered: int = 0
    mended: int = 0
    removed: int = 0
    unreadable: int = 0
    files: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.entered or self.mended or self.removed or self.unreadable)


class Healer:
    """``heal_open`` is quick and looks at entries not complete; ``heal_disk`` compares a whole disk, day by day."""

    def __init__(
        self,
        *,
        store: RecordingStore,
        index: RecordingIndex,
        guard: DiskGuard,
        bus: EventBus,
        files_per_s: float,
    ) -> None:
        self.counts = Healed()
        """Since the start, for metrics."""
        self._store = store
        self._index = index
        self._guard = guard
        self._bus = bus
        self._pause_s = SLICE_FILES / files_per_s
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._watch_open(), name="recording-mend"),
            asyncio.create_task(self._compare_all(), name="recording-heal"),
        ]

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look_soon(self) -> None:
        """A node died or gave up a file."""
        self._wake.set()

    # --- files that were open ----------------------------------------------------------------------------------

    async def _watch_open(self) -> None:
        while True:
            try:
                await self.heal_open()
            except SQLAlchemyError as error:
                log.error("open recordings not looked at cause=%s", error)
            try:
                await asyncio.wait_for(self._wake.wait(), OPEN_EVERY_S)
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass
            self._wake.clear()

    async def heal_open(self) -> Healed:
        """Mend what is marked as being written and nobody writes."""
        await self._index.flush()
        done: dict[str, Healed] = {}
        for row in await self._store.incomplete():
            disk = self._guard.disks.get(row.info.disk_id)
            if disk is None or disk.state in (DiskState.MISSING, DiskState.FAILING):
                continue
            healed = done.setdefault(disk.disk_id, Healed())
            await self._heal_entry(disk, row, healed)
        await self._index.flush()
        for disk_id, healed in done.items():
            self._report(disk_id, healed)
        return _sum(done.values())

    async def _heal_entry(self, disk: DiskStatus, row: StoredSegment, healed: Healed) -> None:
        part = row.info.path
        final = part.removesuffix(segments.PART)
        for path in dict.fromkeys((part, final)):
            try:
                info = await asyncio.to_thread(_read, disk.directory, disk.disk_id, path)
            except FileNotFoundError:
                continue
            except segments.Busy:
                return
            except segments.Unreadable:
                healed.unreadable += 1
                await asyncio.to_thread((disk.directory / path).unlink, True)
                break
            except OSError as error:
                log.warning("recording not mended disk_id=%s path=%s cause=%s", disk.disk_id, path, error)
                return
            healed.mended += 1
            self._index.put(info)
            return
        healed.removed += 1
        await self._store.remove_segments([row.info.segment_id])

    # --- whole disks -------------------------------------------------------------------------------------------

    async def _compare_all(self) -> None:
        for disk_id in list(self._guard.disks):
            try:
                await self.heal_disk(disk_id)
            except SQLAlchemyError as error:
                log.error("index not compared disk_id=%s cause=%s", disk_id, error)

    async def heal_disk(self, disk_id: str) -> Healed:
        """Compare a disk with the index, the newest day first. Does nothing for a disk that is not there."""
        healed = Healed()
        disk = self._guard.disks[disk_id]
        if disk.state in (DiskState.MISSING, DiskState.FAILING):
            return healed
        days = await asyncio.to_thread(segments.days, disk.directory)
        oldest = await self._store.oldest_of_disk(disk_id)
        for day in sorted({*days, *_days_since(oldest)}, reverse=True):
            await self._heal_day(disk, day, healed)
        await self._index.flush()
        self._report(disk_id, healed)
        return healed

    async def _heal_day(self, disk: DiskStatus, day: str, healed: Healed) -> None:
        start = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
        try:
            files = await asyncio.to_thread(_names_of_day, disk.directory, day)
        except OSError as error:
            log.warning("recordings not listed disk_id=%s day=%s cause=%s", disk.disk_id, day, error)
            return
        rows = await self._store.of_disk(
            disk.disk_id, start.timestamp(), (start + timedelta(days=1)).timestamp()
        )
        known = {row.info.segment_id: row for row in rows}
        healed.files += len(files)
        for number, (segment_id, path) in enumerate(files.items(), 1):
            row = known.get(segment_id)
            if row is None:
                await self._enter(disk, path, healed)
            if number % SLICE_FILES == 0:
                await asyncio.sleep(self._pause_s)
        for row in rows:
            if row.info.complete and row.info.segment_id not in files:
                await self._remove(disk, row, healed)

    async def _enter(self, disk: DiskStatus, path: str, healed: Healed) -> None:
        try:
            info = await asyncio.to_thread(_read, disk.directory, disk.disk_id, path)
        except (segments.Busy, FileNotFoundError):
            return
        except segments.Unreadable:
            healed.unreadable += 1
            if path.endswith(segments.PART):  # not one whole group of pictures: nothing is lost with it
                await asyncio.to_thread((disk.directory / path).unlink, True)
            return
        except OSError as error:
            log.warning("recording not read disk_id=%s path=%s cause=%s", disk.disk_id, path, error)
            return
        healed.entered += 1
        self._index.put(info)

    async def _remove(self, disk: DiskStatus, row: StoredSegment, healed: Healed) -> None:
        if await asyncio.to_thread((disk.directory / row.info.path).exists):
            return  # it was finished while we looked
        healed.removed += 1
        if row.remote_key:
            await self._store.set_location(row.info.segment_id, local=False, remote_key=row.remote_key)
        else:
            await self._store.remove_segments([row.info.segment_id])

    def _report(self, disk_id: str, healed: Healed) -> None:
        if not healed.anything:
            return
        counts = self.counts
        counts.entered += healed.entered
        counts.mended += healed.mended
        counts.removed += healed.removed
        counts.unreadable += healed.unreadable
        log.warning(
            "recording index healed disk_id=%s entered=%d mended=%d removed=%d unreadable=%d",
            *(disk_id, healed.entered, healed.mended, healed.removed, healed.unreadable),
        )
        self._bus.publish(
            IndexHealed(disk_id, healed.entered, healed.mended, healed.removed, healed.unreadable)
        )


def _read(directory: Path, disk_id: str, path: str) -> SegmentInfo:
    """What a file holds; a part is mended first. Unreadable, Busy, OSError."""
    if path.endswith(segments.PART):
        return segments.mend(directory, disk_id, path).info
    found = segments.scan(directory, disk_id, path)
    if found.torn_bytes:
        return segments.mend(directory, disk_id, path).info
    return found.info.model_copy(update={"cause": "recovered"})


def _names_of_day(directory: Path, day: str) -> dict[str, str]:
    """Segment id to relative path."""
    found: dict[str, str] = {}
    for path in segments.files_of_day(directory, day):
        parsed = segments.parse_name(path.rsplit("/", 1)[-1])
        if parsed is not None:
            found[parsed[1]] = path
    return found


def _days_since(oldest: float | None) -> list[str]:
    """All days from the oldest entry's on, so that entries of folders that are gone are looked at too."""
    if oldest is None:
        return []
    day, now = datetime.fromtimestamp(oldest, UTC), datetime.now(UTC)
    days = []
    while day.date() <= now.date():
        days.append(f"{day:%Y%m%d}")
        day += timedelta(days=1)
    return days


def _sum(parts: Iterable[Healed]) -> Healed:
    total = Healed()
    for part in parts:
        total.entered += part.entered
        total.mended += part.mended
        total.removed += part.removed
        total.unreadable += part.unreadable
    return total
