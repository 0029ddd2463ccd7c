"""What was recorded here of a channel, as files that a media node can play and as entries that an upper can be told."""

from __future__ import annotations

from collections.abc import Mapping
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


class Library:
    """Our own recordings. ``directories`` are the disks by their id; times are unix seconds."""

    def __init__(self, index: SegmentIndex, directories: Mapping[str, Path]) -> None:
        self._index = index
        self._directories = directories

    async def find(self, device_id: str, channel_id: str, start: float, end: float) -> Found:
        """What can be played of ``[start, end)``. A file that is on no disk here counts as not recorded.

        Raises LibraryFailed.
        """
        parts, size = [], 0.0
        for segment in await self._between(device_id, channel_id, start, end):
            info, directory = segment.info, self._directories.get(segment.info.disk_id)
            if not segment.local or directory is None:
                continue
            parts.append(
                ClipPart(
                    path=str(directory / info.path), start=info.start, end=info.end, bytes=info.bytes,
                    growing=not info.complete,
                )
            )  # fmt: skip
            length = info.end - info.start
            if length > 0:
                size += info.bytes * max(0.0, min(end, info.end) - max(start, info.start)) / length
        return Found(tuple(parts), round(size))

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
