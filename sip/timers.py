"""The timer values of RFC 3261 17 as one record, and a bounded-cost queue of deadlines."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Generic, Protocol, TypeVar

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Timers:
    """T1, T2, T4 in seconds and what is derived from them (RFC 3261 table 4)."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    ringing: float = 180.0
    """How long an INVITE with a provisional answer is remembered at most (as timer C of RFC 3261 16.6)."""

    @property
    def timeout(self) -> float:
        """64*T1: timers B, F, H, J, L and M."""
        return 64 * self.t1

    @property
    def linger_invite(self) -> float:
        """Timer D: at least 32 s on an unreliable transport."""
        return 64 * self.t1

    def next_interval(self, interval: float, *, capped: bool) -> float:
        """The interval after this one: doubled, for all but the INVITE client at most T2."""
        return min(2 * interval, self.t2) if capped else 2 * interval


class Timed(Protocol):
    """Something with one deadline; ``NEVER`` means none. ``queued`` belongs to :class:`Deadlines`."""

    next_timer: float
    queued: float


_Item = TypeVar("_Item", bound=Timed)


class Deadlines(Generic[_Item]):
    """A heap of items by ``next_timer``. An item that moved its deadline is put in again; stale entries are
    skipped when they come up, so a move costs O(log n) and nothing is ever searched."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Item]] = []
        self._order = count()

    def put(self, item: _Item) -> None:
        when = item.next_timer
        if when != item.queued:
            item.queued = when
            if when != NEVER:
                heapq.heappush(self._heap, (when, next(self._order), item))

    def next(self) -> float:
        heap = self._heap
        while heap and heap[0][2].queued != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def due(self, now: float) -> list[_Item]:
        """Items whose deadline passed, earliest first; each is out of the queue until it is put again."""
        heap = self._heap
        found: list[_Item] = []
        while heap and heap[0][0] <= now:
            when, _, item = heapq.heappop(heap)
            if item.queued == when:
                item.queued = NEVER
                found.append(item)
        return found


_Key = TypeVar("_Key")


class ExpiryRing(Generic[_Key]):
    """Keys that all live equally long: one deque, no timer per key."""

    __slots__ = ("_ring", "lifetime_s")

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s = lifetime_s
        self._ring: deque[tuple[float, _Key]] = deque()

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, key: _Key, now: float) -> None:
        self._ring.append((now + self.lifetime_s, key))

    def oldest(self) -> float:
        """When the oldest key expires; NEVER when there is none."""
        return self._ring[0][0] if self._ring else NEVER

    def expired(self, now: float) -> list[_Key]:
        ring = self._ring
        found: list[_Key] = []
        while ring and ring[0][0] <= now:
            found.append(ring.popleft()[1])
        return found

    def pop_oldest(self) -> _Key:
        return self._ring.popleft()[1]
