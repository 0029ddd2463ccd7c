"""The files of one playing or download: which of them have to be fetched from object storage, and when.

A playing holds the file it reads and the next one; a download all of its files. Local files are held as well, so that
the upload does not take them away meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.playback_library import FileCache, Found, Library
from gateway.storage.recordings import StoredSegment
from media.specs import ClipPart

log = logging.getLogger(__name__)

MB = 1_000_000


class Supply:
    """``parts`` in order of time. ``backward``: in which direction the next file lies."""

    def __init__(
        self,
        library: Library,
        cache: FileCache,
        found: Found,
        *,
        on_failure: Callable[[PlayFailed], None] = lambda failure: None,
    ) -> None:
        self.parts: tuple[ClipPart, ...] = found.parts
        self.backward = False
        self._library = library
        self._cache = cache
        self._segments = found.segments
        self._on_failure = on_failure
        self._held: list[str] = []
        self._local = [
            s.info.segment_id for p, s in zip(found.parts, found.segments, strict=True) if not p.awaited
        ]
        self._empty: list[Path] = []
        self._task: asyncio.Task[None] | None = None
        cache.hold(self._local)

    async def look(self) -> None:
        """Local files that were taken away after they had been found are awaited from the storage."""
        self.parts = await asyncio.to_thread(self._looked)

    def _looked(self) -> tuple[ClipPart, ...]:
        return tuple(
            (self._library.remote_part(segment) or part)
            if segment.remote_key and not part.awaited and not Path(part.path).exists()
            else part
            for part, segment in zip(self.parts, self._segments, strict=True)
        )

    # --- a playing ------------------------------------------------------------------------------------------

    async def bring(self, place: float) -> None:
        """Have the file here that is played first from ``place`` (unix seconds) on. Raises PlayFailed."""
        for index in self._from(place):
            self._keep(index)
            if not self.parts[index].awaited or await self._cache.fetch(self._segments[index]):
                return

    def _from(self, place: float) -> list[int]:
        """Parts in the order of playing from a place on."""
        if self.backward:
            return [i for i in reversed(range(len(self.parts))) if self.parts[i].start < place] or [0]
        return [i for i, part in enumerate(self.parts) if part.growing or part.end > place] or [
            len(self.parts) - 1
        ]

    def wanted(self, path: str) -> None:
        """The media node begins to read a file: bring it if need be, then the next one."""
        index = next((i for i, part in enumerate(self.parts) if part.path == path), None)
        if index is None:
            return
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._follow(index), name="playback-supply")

    async def _follow(self, index: int) -> None:
        following = index - 1 if self.backward else index + 1
        self._keep(index, following)
        try:
            if self.parts[index].awaited and not await self._cache.fetch(self._segments[index]):
                await asyncio.to_thread(self._none, Path(self.parts[index].path))
        except PlayFailed as failure:
            self._on_failure(failure)
            return
        if 0 <= following < len(self.parts) and self.parts[following].awaited:
            try:
                await self._cache.fetch(self._segments[following])
            except PlayFailed as failure:
                log.info("next file not fetched ahead cause=%s", failure)

    def _none(self, path: Path) -> None:
        """In a thread: tell the node that this file is not to be had."""
        with contextlib.suppress(OSError):
            path.touch(exist_ok=True)
            self._empty.append(path)

    def _keep(self, *indices: int) -> None:
        """Hold these files and no others."""
        held = [self._segments[i].info.segment_id for i in indices if 0 <= i < len(self.parts)]
        self._cache.hold(held)
        self._cache.release(self._held)
        self._held = held

    # --- a download -----------------------------------------------------------------------------------------

    async def bring_all(self) -> None:
        """Have all files here. Raises PlayFailed; what was fetched by then stays for the next try."""
        remote = [s for p, s in zip(self.parts, self._segments, strict=True) if p.awaited]
        size = sum(segment.info.bytes for segment in remote)
        if size > self._cache.limit_bytes:
            raise PlayFailed(
                PlayCause.CACHE_FULL,
                f"{size / MB:.0f} MB of this range are in the object storage only, the cache holds "
                f"{self._cache.limit_bytes / MB:.0f} MB: ask for a shorter one",
            )
        self._keep(*(i for i, part in enumerate(self.parts) if part.awaited))
        results = await asyncio.gather(*(self._cache.fetch(s) for s in remote), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not (isinstance(failure, PlayFailed) and failure.cause is PlayCause.STORAGE_TIMEOUT):
                raise failure
        if failures:
            raise self._not_in_time(remote)

    def _not_in_time(self, remote: list[StoredSegment]) -> PlayFailed:
        return PlayFailed(
            PlayCause.STORAGE_TIMEOUT,
            f"the files are still being fetched from the object storage: {self._cache.progress(remote)}; ask again",
        )

    # --- the end --------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Nothing is held any more. Idempotent."""
        self._keep()
        self._cache.release(self._local)
        self._local = []

    async def close(self) -> None:
        """End the task, release all."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.release()
        if self._empty:
            await asyncio.to_thread(self._sweep)

    def _sweep(self) -> None:
        for path in self._empty:
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:
                    path.unlink()
