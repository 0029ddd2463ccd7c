"""Work that messages cause: a bounded queue per peer, worked off in order, so a slow or noisy peer holds up no other."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from gateway.clock import Clock

logger = logging.getLogger(__name__)

Job = Callable[[], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class _Lane:
    jobs: deque[tuple[Job, int, float, Context]] = field(default_factory=deque)
    size_bytes: int = 0
    task: asyncio.Task[None] | None = None


class Inbox:
    """One lane per peer that has work now. ``counts``: done, failed, full.

    A job that raises is logged and counted; the lane goes on with the next one.
    """

    def __init__(
        self, *, jobs_per_peer: int = 2000, bytes_per_peer: int = 32 << 20, clock: Clock | None = None
    ) -> None:
        self._jobs_per_peer = jobs_per_peer
        self._bytes_per_peer = bytes_per_peer
        self._clock = clock or Clock()
        self._lanes: dict[Hashable, _Lane] = {}
        self._closed = False
        self.counts: Counter[str] = Counter()

    def put(self, key: Hashable, job: Job, size_bytes: int = 0) -> bool:
        """Queue one job for a peer; False when its lane is full (counted) or everything is being closed.

        The job runs in the context (gateway.origin) of whoever put it, not of whoever began the lane.
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        full = len(lane.jobs) >= self._jobs_per_peer or lane.size_bytes + size_bytes > self._bytes_per_peer
        if self._closed or (full and lane.jobs):
            self.counts["full"] += 1
            return False
        lane.jobs.append((job, size_bytes, self._clock.mono(), copy_context()))
        lane.size_bytes += size_bytes
        if lane.task is None:
            lane.task = asyncio.create_task(self._work_off(key, lane), name=f"inbox-{key}")
        return True

    async def _work_off(self, key: Hashable, lane: _Lane) -> None:
        while lane.jobs:
            job, size_bytes, _, context = lane.jobs[0]
            task = asyncio.create_task(job(), context=context)
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                task.cancel()
                raise
            lane.jobs.popleft()
            lane.size_bytes -= size_bytes
            self._report(key, task)
        del self._lanes[key]

    def _report(self, key: Hashable, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.counts["done" if error is None else "failed"] += 1
        if error is not None:
            logger.error("message handler failed peer=%s error=%r", key, error, exc_info=error)

    @property
    def waiting(self) -> int:
        return sum(len(lane.jobs) for lane in self._lanes.values())

    def oldest_age_s(self) -> float:
        """How long the oldest job has been waiting, for metrics (quirk 10)."""
        started = min((lane.jobs[0][2] for lane in self._lanes.values() if lane.jobs), default=None)
        return 0.0 if started is None else self._clock.mono() - started

    async def close(self) -> None:
        """Stop at once; what is queued is given up."""
        self._closed = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lanes.clear()
