"""Token buckets and failure locks with a bounded memory: what one source or one device may do per second."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class TokenBuckets(Generic[K]):
    """One bucket per key: ``rate`` tokens a second, at most ``burst``. The keys used longest ago are forgotten first."""

    def __init__(self, *, rate: float, burst: float, max_keys: int = 50_000) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[K, list[float]] = OrderedDict()

    def take(self, key: K, now: float) -> bool:
        """Take one token; False when there is none. ``now`` is monotonic seconds."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._max_keys:
                self._buckets.popitem(last=False)
            self._buckets[key] = [self._burst - 1, now]
            return True
        tokens = min(self._burst, bucket[0] + (now - bucket[1]) * self._rate)
        bucket[1] = now
        if tokens < 1:
            bucket[0] = tokens
            return False
        bucket[0] = tokens - 1
        return True

    def give_back(self, key: K, tokens: float) -> None:
        """What turned out to be welcome does not count."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket[0] = min(self._burst, bucket[0] + tokens)

    def __len__(self) -> int:
        return len(self._buckets)


class FailureLock(Generic[K]):
    """Counts failures per key in a window; from ``limit`` on the key is locked until the window has passed."""

    def __init__(self, *, limit: int, window_s: float, max_keys: int = 20_000) -> None:
        self._limit = limit
        self._window_s = window_s
        self._max_keys = max_keys
        self._failures: OrderedDict[K, tuple[int, float]] = OrderedDict()

    def locked(self, key: K, now: float) -> bool:
        if not self._failures:
            return False
        count, last = self._failures.get(key, (0, 0.0))
        if count >= self._limit and now - last >= self._window_s:
            del self._failures[key]
            return False
        return count >= self._limit

    def fail(self, key: K, now: float) -> int:
        """One more failure; returns how many there are in the window now."""
        count, last = self._failures.pop(key, (0, now))
        if now - last >= self._window_s:
            count = 0
        if len(self._failures) >= self._max_keys:
            self._failures.popitem(last=False)
        self._failures[key] = (count + 1, now)
        return count + 1

    def clear(self, key: K) -> None:
        self._failures.pop(key, None)
