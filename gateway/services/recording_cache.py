"""Files that are only in object storage, brought back to a bounded directory while somebody plays or downloads them.

A file is fetched once for all who want it and stays until its room is needed: the one unused for the longest goes first,
one that is held never. What is found here after a restart is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from config.settings import S3Settings
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.recording_disks import Space, space_of
from gateway.services.recording_s3 import NotWritten, ObjectMissing, StorageUnavailable
from gateway.storage.recordings import StoredSegment

log = logging.getLogger(__name__)

SUFFIX = ".mp4"
PART = ".part"
MB = 1_000_000


class Objects(Protocol):
    """What is needed of gateway.services.recording_s3.ObjectStore."""

    async def download(self, key: str, path: Path, progress: Callable[[int], None]) -> int: ...


class RecordingCache:
    """``counts``: fetched, joined (somebody else's fetch was waited for), found, missing, failed, evicted."""

    def __init__(
        self,
        *,
        settings: S3Settings,
        directory: Path,
        objects: Objects,
        space: Callable[[Path], Space] = space_of,
    ) -> None:
        self.directory = settings.cache_directory or directory
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._objects = objects
        self._space = space
        self._files: OrderedDict[str, int] = OrderedDict()
        """Segment id to bytes, the one unused for the longest first."""
        self._coming: dict[str, int] = {}
        """Bytes promised to files that are being fetched."""
        self._holds: Counter[str] = Counter()
        self._fetches: dict[str, asyncio.Task[bool]] = {}
        self._progress: dict[str, int] = {}
        self._slots = asyncio.Semaphore(settings.fetches_at_once)
        self._room = asyncio.Lock()

    async def start(self) -> None:
        """Take over what is there, drop what was left half. OSError when the directory cannot be made."""
        found = await asyncio.to_thread(_scan, self.directory)
        self._files.update(found)
        log.info("recording cache directory=%s files=%d bytes=%d", self.directory, len(found), self.bytes)

    async def close(self) -> None:
        tasks = tuple(self._fetches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def bytes(self) -> int:
        return sum(self._files.values())

    @property
    def files(self) -> int:
        return len(self._files)

    @property
    def limit_bytes(self) -> int:
        return self._settings.cache_bytes

    def path_of(self, segment_id: str) -> Path:
        return self.directory / f"{segment_id}{SUFFIX}"

    # --- who needs what -------------------------------------------------------------------------------------

    def hold(self, segment_ids: Iterable[str]) -> None:
        """Keep these files, here and on the disks (services/recording_s3.py), until they are released."""
        self._holds.update(segment_ids)

    def release(self, segment_ids: Iterable[str]) -> None:
        self._holds.subtract(segment_ids)
        self._holds = +self._holds

    def in_use(self, segment_id: str) -> bool:
        return segment_id in self._holds

    # --- fetching -------------------------------------------------------------------------------------------

    async def fetch(self, segment: StoredSegment) -> bool:
        """Have the file here; False when the storage has no such object.

        Raises PlayFailed: storage_unavailable, cache_full, storage_timeout (the fetch goes on; ask again).
        """
        segment_id = segment.info.segment_id
        if segment_id in self._files:
            if await asyncio.to_thread(self.path_of(segment_id).exists):
                if segment_id in self._files:
                    self._files.move_to_end(segment_id)
                    self.counts["found"] += 1
                    return True
            else:
                self._files.pop(segment_id, None)
        task = self._fetches.get(segment_id)
        if task is None:
            task = asyncio.create_task(self._bring(segment), name=f"recording-fetch-{segment_id}")
            self._fetches[segment_id] = task
            task.add_done_callback(lambda done: self._fetched(segment_id, done))
        else:
            self.counts["joined"] += 1
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise PlayFailed(
                PlayCause.STORAGE_TIMEOUT,
                f"a file is still being fetched from the object storage: {self.progress([segment])}; ask again",
            ) from None

    def progress(self, segments: Iterable[StoredSegment]) -> str:
        """How much of these files is here, for people."""
        here = whole = 0
        for segment in segments:
            segment_id, size = segment.info.segment_id, segment.info.bytes
            whole += size
            here += size if segment_id in self._files else self._progress.get(segment_id, 0)
        return f"{here / MB:.1f} of {whole / MB:.1f} MB are here"

    def _fetched(self, segment_id: str, task: asyncio.Task[bool]) -> None:
        self._fetches.pop(segment_id, None)
        self._progress.pop(segment_id, None)
        self._coming.pop(segment_id, None)
        if not task.cancelled():
            task.exception()  # told to those who wait, if there is anybody

    async def _bring(self, segment: StoredSegment) -> bool:
        info = segment.info
        path = self.path_of(info.segment_id)
        half = path.with_suffix(PART)
        try:
            async with self._slots:
                await self._make_room(info.segment_id, info.bytes)
                size = await self._objects.download(
                    segment.remote_key, half, lambda done: self._progress.__setitem__(info.segment_id, done)
                )
                if size != info.bytes:
                    raise StorageUnavailable(f"the object has {size} bytes, recorded were {info.bytes}")
                await asyncio.to_thread(half.replace, path)
        except ObjectMissing:
            self.counts["missing"] += 1
            log.error("recording not in the object storage key=%s", segment.remote_key)
            return False
        except NotWritten as error:
            raise self._failed(
                segment, PlayCause.CACHE_FULL, f"the cache cannot be written: {error}"
            ) from error
        except OSError as error:
            raise self._failed(
                segment, PlayCause.STORAGE_UNAVAILABLE, f"the object storage does not give the file: {error}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(half.unlink, True)
        self._files[info.segment_id] = size
        self.counts["fetched"] += 1
        return True

    def _failed(self, segment: StoredSegment, cause: PlayCause, detail: str) -> PlayFailed:
        self.counts["failed"] += 1
        log.error("recording not fetched segment_id=%s cause=%s", segment.info.segment_id, detail)
        return PlayFailed(cause, detail)

    # --- room -----------------------------------------------------------------------------------------------

    async def _make_room(self, segment_id: str, need: int) -> None:
        """Promise ``need`` bytes to a file. Raises PlayFailed(cache_full)."""
        settings = self._settings
        async with self._room:
            while self.bytes + sum(self._coming.values()) + need > settings.cache_bytes:
                if not await self._evict():
                    raise self._full(f"its {settings.cache_bytes / MB:.0f} MB are in use")
            while (await asyncio.to_thread(self._space, self.directory)).free_bytes - need < (
                settings.cache_reserve_bytes
            ):
                if not await self._evict():
                    raise self._full("its disk has no room")
            self._coming[segment_id] = need

    def _full(self, why: str) -> PlayFailed:
        self.counts["failed"] += 1
        log.error("recording cache full cause=%s", why)
        return PlayFailed(
            PlayCause.CACHE_FULL, f"the cache for recordings from the object storage is full: {why}"
        )

    async def _evict(self) -> bool:
        """Drop the file unused for the longest; False when all are held."""
        oldest = next((found for found in self._files if found not in self._holds), None)
        if oldest is None:
            return False
        self.counts["evicted"] += 1
        await self._drop(oldest)
        return True

    async def _drop(self, segment_id: str) -> None:
        self._files.pop(segment_id, None)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.path_of(segment_id).unlink, True)

    async def forget(self, segment_ids: Iterable[str]) -> None:
        """These recordings are deleted."""
        for segment_id in segment_ids:
            if segment_id in self._files:
                await self._drop(segment_id)


def _scan(directory: Path) -> list[tuple[str, int]]:
    """In a thread: (segment id, bytes) of whole files, oldest first; halves and empty ones are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for path in directory.iterdir():
        if path.suffix not in (SUFFIX, PART) or not path.is_file():
            continue
        state = path.stat()
        if path.suffix == PART or not state.st_size:
            path.unlink(missing_ok=True)
        else:
            found.append((state.st_mtime, path.stem, state.st_size))
    return [(segment_id, size) for _, segment_id, size in sorted(found)]
