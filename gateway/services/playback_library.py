"""What was recorded here of a channel, as files that a media node can play and as entries that an upper can be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import GatewayError
from gateway.storage.recordings import StoredSegment
from media.specs import ClipPart, SegmentInfo

SEARCH_LIMIT = 100_000
"""Segments of one answer: a year of five-minute files."""


class LibraryFailed(GatewayError):
    """The index of recordings cannot be read."""

    cause = "storage_failed"
    status = 503


class FileCache(Protocol):
    """What is needed of gateway.services.recording_cache.RecordingCache."""

    @property
    def limit_bytes(self) -> int: ...

    def path_of(self, segment_id: str) -> Path: ...

    def hold(self, segment_ids: Iterable[str]) -> None: ...

    def release(self, segment_ids: Iterable[str]) -> None: ...

    async def fetch(self, segment: StoredSegment) -> bool: ...

    def progress(self, segments: Iterable[StoredSegment]) -> str: ...


class SegmentIndex(Protocol):
    """What is needed of gateway.storage.recordings.RecordingStore."""

    async def segments_between(
        self, device_id: str, channel_id: str, start: float, end: float, *, limit: int = 5000
    ) -> list[StoredSegment]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """One stretch of recordings: ``parts`` in order of time, ``bytes`` of what lies inside the range (estimated)."""

    parts: tuple[ClipPart, ...]
    bytes: int
    segments: tuple[StoredSegment, ...] = ()
    """The entries behind the parts, in the same order."""


class Library:
    """Our own recordings. ``directories`` are the disks by their id; times are unix seconds."""

    def __init__(
        self, index: SegmentIndex, directories: Mapping[str, Path], cache: FileCache | None = None
    ) -> None:
        self._index = index
        self._directories = directories
        self.cache = cache

    async def find(self, device_id: str, channel_id: str, start: float, end: float) -> Found:
        """What can be played of ``[start, end)``. A file that is on no disk here is awaited in the cache, if it was
        uploaded; else it counts as not recorded.

        Raises LibraryFailed.
        """
        parts, segments, size = [], [], 0.0
        for segment in await self._between(device_id, channel_id, start, end):
            part = self._part(segment)
            if part is None:
                continue
            info = segment.info
            parts.append(part)
            segments.append(segment)
            length = info.end - info.start
            if length > 0:
                size += info.bytes * max(0.0, min(end, info.end) - max(start, info.start)) / length
        return Found(tuple(parts), round(size), tuple(segments))

    def _part(self, segment: StoredSegment) -> ClipPart | None:
        info, directory = segment.info, self._directories.get(segment.info.disk_id)
        if not segment.local or directory is None:
            return self.remote_part(segment)
        return ClipPart(
            path=str(directory / info.path), start=info.start, end=info.end, bytes=info.bytes,
            growing=not info.complete,
        )  # fmt: skip

    def remote_part(self, segment: StoredSegment) -> ClipPart | None:
        """The file as it will lie in the cache; None when it is in no object storage that we know."""
        if self.cache is None or not segment.remote_key:
            return None
        info = segment.info
        path = self.cache.path_of(info.segment_id)
        return ClipPart(path=str(path), start=info.start, end=info.end, bytes=info.bytes, awaited=True)

    async def files(self, device_id: str, channel_id: str, start: float, end: float) -> list[SegmentInfo]:
        """The recorded files that hold something of ``[start, end)``, oldest first. Raises LibraryFailed."""
        return [segment.info for segment in await self._between(device_id, channel_id, start, end)]

    async def has(self, device_id: str, channel_id: str) -> bool:
        """Whether anything was ever recorded of the channel (and still is there). Raises LibraryFailed."""
        return bool(await self._between(device_id, channel_id, 0.0, 1e11, limit=1))

    async def _between(
        self, device_id: str, channel_id: str, start: float, end: float, *, limit: int = SEARCH_LIMIT
    ) -> list[StoredSegment]:
        try:
            return await self._index.segments_between(device_id, channel_id, start, end, limit=limit)
        except SQLAlchemyError as error:
            raise LibraryFailed("the index of recordings cannot be read") from error
