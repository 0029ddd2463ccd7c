"""Keeps the index of recorded files in step with what the nodes tell. Writes in batches; the newest word on a file wins.

What is lost here (a full queue, a crash) is found again by services/recording_healing.py from the files themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from media.specs import SegmentInfo

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
ROWS_AT_ONCE = 200
MOST_WAITING = 20_000
RETRY_S = 3.0


class SegmentRows(Protocol):
    """gateway.storage.recordings.RecordingStore as the index needs it."""

    async def put_segments(self, segments: list[SegmentInfo]) -> None: ...


class RecordingIndex:
    """One task that writes. ``opened`` and ``failures`` are counts for metrics."""

    def __init__(self, store: SegmentRows) -> None:
        self.closed = 0
        self.dropped = 0
        self.failures = 0
        self._store = store
        self._waiting: dict[str, SegmentInfo] = {}
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="recording-index")

    async def close(self) -> None:
        """Stop the task and write what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self.flush()

    def put(self, info: SegmentInfo) -> None:
        """Enter or renew a file's row, soon."""
        if info.segment_id not in self._waiting and len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self.closed += info.complete
        self._waiting.pop(info.segment_id, None)
        self._waiting[info.segment_id] = info

    async def flush(self) -> bool:
        """Write all that waits now. False when the database refused; it is tried again later."""
        async with self._lock:
            while self._waiting:
                batch = list(self._waiting.values())[:ROWS_AT_ONCE]
                try:
                    await self._store.put_segments(batch)
                except SQLAlchemyError as error:
                    self.failures += 1
                    log.error("recording index not written rows=%d cause=%s", len(batch), error)
                    return False
                for info in batch:
                    if self._waiting.get(info.segment_id) is info:
                        del self._waiting[info.segment_id]
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            if self._waiting and not await self.flush():
                await asyncio.sleep(RETRY_S)
