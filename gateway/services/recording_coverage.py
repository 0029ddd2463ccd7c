"""How much of what should have been recorded in the last 24 hours was recorded, by storage class. Renewed now and then."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import Clock
from gateway.services.recording_plan import Plan
from gateway.services.recording_wishes import SLICE, Wishes
from gateway.storage.recordings import RecordingStore

log = logging.getLogger(__name__)

RENEW_S = 300.0
TOTALS_S = 1800.0
"""Counting all rows takes seconds when there are millions."""
SPAN = timedelta(hours=24)


class Coverage:
    """``ratio`` by storage class, between 0 and 1; ``totals`` by class and place: (files, bytes)."""

    def __init__(self, *, store: RecordingStore, wishes: Wishes, clock: Clock) -> None:
        self.ratio: dict[str, float] = {}
        self.totals: dict[tuple[str, str], tuple[int, int]] = {}
        self._store = store
        self._wishes = wishes
        self._clock = clock
        self._totals_mono = -TOTALS_S
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="recording-coverage")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self.renew()
            except SQLAlchemyError as error:
                log.error("coverage of recordings not counted cause=%s", error)
            await asyncio.sleep(RENEW_S)

    async def renew(self) -> None:
        """Count once. Plans count as they are now; channels without a plan for continuous recording do not count."""
        if self._clock.mono() - self._totals_mono >= TOTALS_S:
            self._totals_mono = self._clock.mono()
            self.totals = await self._store.totals()
        end = self._clock.utc()
        start = end - SPAN
        recorded = await self._store.recorded_seconds(start.timestamp(), end.timestamp())
        spans: dict[Plan, float] = {}
        wanted_s: dict[str, float] = defaultdict(float)
        recorded_s: dict[str, float] = defaultdict(float)
        for number, key in enumerate(list(self._wishes.cameras()) if self._wishes.rules.planned else [], 1):
            rule = self._wishes.of_channel(key)
            if rule.plan not in spans:
                parts = rule.plan.wanted_between(start, end)
                spans[rule.plan] = sum((high - low).total_seconds() for low, high in parts)
            wanted = spans[rule.plan]
            wanted_s[rule.storage_class] += wanted
            recorded_s[rule.storage_class] += min(wanted, recorded.get(key, 0.0))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        self.ratio = {name: recorded_s[name] / wanted for name, wanted in wanted_s.items() if wanted}
