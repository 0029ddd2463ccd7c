"""Token buckets, failure locks and the inbox: what is bounded stays bounded."""

from __future__ import annotations

import asyncio

import pytest

from gateway.clock import ManualClock
from gateway.inbox import Inbox
from gateway.services.limits import FailureLock, TokenBuckets


def test_a_bucket_fills_at_its_rate() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(rate=2, burst=3)
    assert [buckets.take("a", 0) for _ in range(4)] == [True, True, True, False]
    assert not buckets.take("a", 0.4)
    assert buckets.take("a", 0.6)
    assert buckets.take("b", 0.6)
    buckets.give_back("a", 10)
    assert [buckets.take("a", 0.6) for _ in range(4)] == [True, True, True, False]
    buckets.give_back("nobody", 1)


@pytest.mark.quirk(7)
def test_memory_is_constant_however_many_keys_come() -> None:
    buckets: TokenBuckets[int] = TokenBuckets(rate=1, burst=1, max_keys=100)
    lock: FailureLock[int] = FailureLock(limit=2, window_s=60, max_keys=100)
    for key in range(10_000):
        buckets.take(key, 0)
        lock.fail(key, 0)
    assert len(buckets) == 100
    assert len(lock._failures) == 100


def test_a_lock_opens_after_its_window() -> None:
    lock: FailureLock[str] = FailureLock(limit=2, window_s=60)
    assert not lock.locked("a", 0)
    assert lock.fail("a", 0) == 1
    assert not lock.locked("a", 1)
    assert lock.fail("a", 1) == 2
    assert lock.locked("a", 30)
    assert not lock.locked("a", 62)
    assert lock.fail("a", 62) == 1
    assert lock.fail("a", 200) == 1  # an old failure is forgotten
    lock.clear("a")
    assert lock.fail("a", 201) == 1


async def test_the_inbox_bounds_jobs_and_bytes_and_ends_cleanly() -> None:
    clock = ManualClock()
    inbox = Inbox(jobs_per_peer=10, bytes_per_peer=100, clock=clock)
    release = asyncio.Event()

    async def job() -> None:
        await release.wait()

    assert inbox.put("a", job, 90)
    assert not inbox.put("a", job, 20)
    assert inbox.put("b", job, 1000)  # one job always fits
    clock.advance(3)
    assert inbox.oldest_age_s() == 3
    assert inbox.waiting == 2
    release.set()
    await asyncio.sleep(0.01)
    assert inbox.waiting == 0
    assert inbox.oldest_age_s() == 0
    release.clear()
    inbox.put("a", job)
    await asyncio.sleep(0)
    await inbox.close()
    assert not inbox.put("a", job)
    assert inbox.counts["full"] == 2
