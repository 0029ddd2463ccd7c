"""What is recorded in devices: RecordInfo asked for, collected part by part, told while it comes (9.7, quirk 22).

A long range is asked for in pieces. A device that stops in the middle, or whose SumNum lies, ends its piece by silence;
a piece that stayed incomplete is asked for again in halves. Whoever asks the same at the same time shares one search.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from config.settings import DeviceRecordingSettings
from gateway.answers import Question
from gateway.clock import Clock
from gateway.errors import DeviceIsOffline, GatewayError, NotFound, NotSupported, QueryTimedOut
from gateway.model import Device
from gateway.registry import Registry
from sip.manscdp import Body, Edition, RecordInfoQuery, RecordInfoResponse, RecordItem

log = logging.getLogger(__name__)

LINGER_S = 0.3
"""After SumNum items came: so long more are awaited (quirk 15)."""
SHORTEST = timedelta(hours=1)
"""A piece is not halved below this."""
REMEMBERED = 200
NO_ANSWER = "no answer"


class Asker(Protocol):
    """The part of gateway.dispatch that asks devices."""

    async def ask(self, device: Device, body: Body) -> Question: ...


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Further wishes of a query (A.2.4.5). ``stream_number``, ``alarm_method`` and ``alarm_type``: 2022 only."""

    type: str = "all"
    secrecy: int | None = None
    file_path: str = ""
    address: str = ""
    recorder_id: str = ""
    indistinct: int | None = None
    stream_number: int | None = None
    alarm_method: str = ""
    alarm_type: str = ""

    def check(self, device: Device) -> None:
        """Raises NotSupported for fields that a device of 2016 does not know (G136)."""
        newer = self.stream_number is not None or self.alarm_method or self.alarm_type
        if newer and Edition.from_header(device.edition) is Edition.V2016:
            raise NotSupported(
                "stream_number, alarm_method and alarm_type need GB/T 28181-2022; "
                f"{device.device_id} speaks {device.edition or '2.0'}"
            )


@dataclass(frozen=True, slots=True)
class SearchKey:
    """What makes two searches the same."""

    device_id: str
    channel_id: str
    start: datetime
    end: datetime
    filter: RecordFilter


@dataclass(slots=True, eq=False)
class RecordSearch:
    """One search that runs or is over. ``version`` grows with each change; :meth:`changed` waits for it."""

    key: SearchKey
    items: list[RecordItem] = field(default_factory=list)
    """Sorted by start, end and path, each once."""
    searched_until: datetime | None = None
    """All before this moment has been asked for."""
    sum_num: int = 0
    parts: int = 0
    repeated: int = 0
    faulty: int = 0
    """Items without usable times, or that do not touch the range."""
    incomplete: list[str] = field(default_factory=list)
    """Pieces of the range that the device did not answer whole, and why."""
    done: bool = False
    failure: GatewayError | None = None
    version: int = 0
    ended_mono: float = 0.0
    _known: set[tuple[datetime, datetime, str]] = field(default_factory=set)
    _waiters: set[asyncio.Future[None]] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return self.done and self.failure is None and not self.incomplete

    def add(self, item: RecordItem) -> bool:
        """Whether it is a new one inside the range. Odd items are counted, not kept."""
        start, end = item.start_time, item.end_time
        if start is None or end is None or end < start or start >= self.key.end or end <= self.key.start:
            self.faulty += 1
            return False
        name = (start, end, item.file_path)
        if name in self._known:
            self.repeated += 1
            return False
        self._known.add(name)
        self.items.append(item)
        return True

    def sort(self) -> None:
        self.items.sort(key=_order)

    def touch(self) -> None:
        """Tell all who wait that something is new."""
        self.version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def changed(self, version: int) -> int:
        """Wait until there is something newer than ``version``; the version now."""
        while self.version <= version and not self.done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.version


def _order(item: RecordItem) -> tuple[float, float, str]:
    start, end = item.start_time, item.end_time
    return (start.timestamp() if start else 0.0, end.timestamp() if end else 0.0, item.file_path)


class DeviceRecords:
    """All searches. ``counts``: searches, shared, complete, incomplete, failed, parts."""

    def __init__(
        self,
        *,
        settings: DeviceRecordingSettings,
        registry: Registry,
        asker: Asker,
        clock: Clock | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._asker = asker
        self._clock = clock or Clock()
        self._linger_s = linger_s
        self._searches: dict[SearchKey, RecordSearch] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- for users -------------------------------------------------------------------------------------------

    def search(
        self,
        device_id: str,
        channel_id: str,
        start: datetime,
        end: datetime,
        wish: RecordFilter | None = None,
    ) -> RecordSearch:
        """Begin a search, or join one that runs or has just been completed. Raises NotFound, DeviceIsOffline,
        NotSupported."""
        wish = wish or RecordFilter()
        device = self._registry.devices.get(device_id)
        if device is None or device.local:
            raise NotFound(f"device {device_id} has no recordings in it")
        if not device.online:
            raise DeviceIsOffline(f"device {device_id} is offline")
        wish.check(device)
        key = SearchKey(device_id, channel_id, start, end, wish)
        self._forget()
        found = self._searches.get(key)
        if found is not None:
            self.counts["shared"] += 1
            return found
        self.counts["searches"] += 1
        search = self._searches[key] = RecordSearch(key)
        task = asyncio.create_task(self._run(device, search), name=f"records-{channel_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return search

    async def find(
        self,
        device_id: str,
        channel_id: str,
        start: datetime,
        end: datetime,
        wish: RecordFilter | None = None,
    ) -> RecordSearch:
        """The same, waited for. Raises QueryTimedOut or QueryRefused when nothing at all came."""
        search = self.search(device_id, channel_id, start, end, wish)
        await self.wait(search)
        return search

    async def wait(self, search: RecordSearch) -> None:
        """Until it is done. Raises what ended it when nothing at all came."""
        async for _ in self.follow(search):
            pass
        if search.failure is not None and not search.items:
            raise search.failure

    async def follow(self, search: RecordSearch) -> AsyncIterator[RecordSearch]:
        """The search at once, and after each change; the last time when it is done."""
        version = -1
        while True:
            version = await search.changed(version)
            yield search
            if search.done:
                return

    def _forget(self) -> None:
        """Searches that are over are given again only for a while, and only when they are whole."""
        now, keep_s = self._clock.mono(), self._settings.keep_s
        for key, search in list(self._searches.items()):
            stale = now - search.ended_mono > keep_s or key.end > self._clock.utc()
            if search.done and (stale or not search.complete):
                del self._searches[key]
        while len(self._searches) > REMEMBERED:
            oldest = next((key for key, search in self._searches.items() if search.done), None)
            if oldest is None:
                return
            del self._searches[oldest]

    # -- asking ----------------------------------------------------------------------------------------------

    async def _run(self, device: Device, search: RecordSearch) -> None:
        """Piece by piece, one question at a time per device: some mix the answers up."""
        turn = self._turns.setdefault(device.device_id, asyncio.Lock())
        try:
            async with turn:
                await self._pieces(device, search)
        except GatewayError as failure:
            search.failure = failure
            search.incomplete.append(str(failure))
        finally:
            search.sort()
            search.done, search.ended_mono = True, self._clock.mono()
            outcome = (
                "failed" if search.failure is not None else "complete" if search.complete else "incomplete"
            )
            self.counts[outcome] += 1
            search.touch()
            log.info(
                "records collected device=%s channel=%s records=%d parts=%d outcome=%s",
                *(device.device_id, search.key.channel_id, len(search.items), search.parts, outcome),
            )

    async def _pieces(self, device: Device, search: RecordSearch) -> None:
        key = search.key
        longest = device.profile.record_query_hours or self._settings.step_h
        step = timedelta(hours=min(self._settings.step_h, longest))
        waiting = [(*piece, False) for piece in pieces(key.start, key.end, step)][::-1]
        answered = miscounts = False
        while waiting:
            start, end, again = waiting.pop()
            known = len(search.items)
            if len(search.items) >= self._settings.most_records:
                search.incomplete.append(f"more than {self._settings.most_records} records")
                return
            reason = await self._piece(device, search, start, end, first=not answered)
            answered = answered or reason != NO_ANSWER
            # Asked again, it says the same: its count is wrong, not the way to us (quirk 15).
            miscounts = miscounts or (again and reason not in ("", NO_ANSWER) and len(search.items) == known)
            if reason and reason != NO_ANSWER and miscounts:
                reason = ""
            if reason and end - start > SHORTEST and answered:
                middle = start + (end - start) / 2
                waiting += [(middle, end, True), (start, middle, True)]
                continue
            if reason:
                search.incomplete.append(f"{start:%Y-%m-%dT%H:%MZ}: {reason}")
            search.searched_until = end
            search.sort()
            search.touch()

    async def _piece(
        self, device: Device, search: RecordSearch, start: datetime, end: datetime, *, first: bool
    ) -> str:
        """One question; "" when it was answered whole, else why not. Raises when the very first stays unanswered."""
        question = await self._asker.ask(device, self._query(search.key, start, end))
        names: set[tuple[object, object, str]] = set()
        total, parts = 0, 0
        with question:
            timeout_s = self._settings.first_answer_timeout_s
            while True:
                try:
                    part = await question.next(timeout_s)
                except QueryTimedOut:
                    if not parts and first:
                        raise
                    break
                if not isinstance(part, RecordInfoResponse):
                    continue
                parts += 1
                total = max(total, part.sum_num)
                names |= {(item.start_time, item.end_time, item.file_path) for item in part.items}
                self._take(search, part)
                if part.sum_num == 0 and not part.items and not names:
                    return ""  # nothing recorded: SumNum 0 without a list (A.2.6.7)
                timeout_s = self._linger_s if len(names) >= total > 0 else self._settings.gap_timeout_s
        if not parts:
            return NO_ANSWER
        return "" if len(names) >= total else f"{len(names)} of {total} records"

    def _take(self, search: RecordSearch, part: RecordInfoResponse) -> None:
        self.counts["parts"] += 1
        search.parts += 1
        search.sum_num = max(search.sum_num, part.sum_num)
        fresh = [search.add(item) for item in part.items]
        if any(fresh):
            search.sort()
            search.touch()

    def _query(self, key: SearchKey, start: datetime, end: datetime) -> RecordInfoQuery:
        wish = key.filter
        return RecordInfoQuery(
            device_id=key.channel_id,
            start_time=start,
            end_time=end,
            file_path=wish.file_path,
            address=wish.address,
            secrecy=wish.secrecy,
            type=wish.type,
            recorder_id=wish.recorder_id,
            indistinct_query=wish.indistinct,
            stream_number=wish.stream_number,
            alarm_method=wish.alarm_method,
            alarm_type=wish.alarm_type,
        )


def pieces(start: datetime, end: datetime, step: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """``[start, end)`` in pieces of at most ``step``."""
    while start < end:
        stop = min(start + step, end)
        yield start, stop
        start = stop


def stretches(items: Sequence[RecordItem]) -> list[tuple[datetime, datetime]]:
    """What sorted items cover together: overlaps merged, neighbours that touch or overlap joined."""
    merged: list[tuple[datetime, datetime]] = []
    for item in items:
        if item.start_time is None or item.end_time is None:
            continue
        if merged and item.start_time <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], item.end_time))
        else:
            merged.append((item.start_time, item.end_time))
    return merged
