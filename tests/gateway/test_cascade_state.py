"""The link machine by moving the clock: tries, refreshes, heartbeats, losses."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from gateway.model import PlatformState
from gateway.services.cascade_state import Due, LinkMachine, LinkTimes


def machine(seed: int = 1, **times: float) -> LinkMachine:
    return LinkMachine(LinkTimes(**times), Random(seed))  # type: ignore[arg-type]


def online(seed: int = 1, granted_s: int = 3600, **times: float) -> LinkMachine:
    link = machine(seed, **times)
    link.start(0.0)
    assert link.due(0.0) == [Due.REGISTER]
    link.registered(granted_s, 0.1)
    return link


def test_the_first_register_is_due_at_once_and_only_once() -> None:
    link = machine()
    link.start(10.0)
    assert link.next_timer() == 10.0
    assert link.due(10.0) == [Due.REGISTER]
    assert link.due(11.0) == []
    assert link.next_timer() is None


@pytest.mark.gb("G053")
@pytest.mark.parametrize("seed", range(8))
def test_tries_after_failures_are_a_minute_apart_with_spread(seed: int) -> None:
    link = machine(seed)
    link.start(0.0)
    tries = []
    for _ in range(6):
        timer = link.next_timer()
        assert timer is not None
        assert link.due(timer - 0.001) == []
        assert link.due(timer) == [Due.REGISTER]
        tries.append(timer)
        link.register_failed(timer + 0.2)
        assert link.state is PlatformState.WAITING
    gaps = [b - a for a, b in pairwise(tries)]
    assert all(60.0 <= gap <= 72.0 for gap in gaps)
    assert len({round(gap, 3) for gap in gaps}) > 1


@pytest.mark.gb("G054")
def test_the_refresh_comes_at_85_percent_of_what_was_granted() -> None:
    link = online(granted_s=3600, heartbeat_interval_s=100000.0)
    assert link.due(3059.0) == []
    assert link.due(3060.2) == [Due.REFRESH]
    link.registered(100, 3061.0)
    assert link.due(3145.0) == []
    assert link.due(3146.1) == [Due.REFRESH]


@pytest.mark.gb("G065")
def test_three_unanswered_heartbeats_take_the_upper_offline() -> None:
    link = online()
    lost = []
    now = 0.0
    for _ in range(3):
        timer = link.next_timer()
        assert timer is not None
        now = timer
        assert link.due(now) == [Due.HEARTBEAT]
        lost.append(link.heartbeat_missed(now + 20))
    assert lost == [False, False, True]
    assert link.state is PlatformState.WAITING
    timer = link.next_timer()
    assert timer is not None
    assert now + 20 <= timer <= now + 32 + 1e-6  # the last REGISTER is long ago: soon, but spread
    assert link.due(timer) == [Due.REGISTER]
    assert link.state is PlatformState.REGISTERING


def test_an_answer_in_between_forgives() -> None:
    link = online()
    for answered in (False, False, True, False, False):
        timer = link.next_timer()
        assert timer is not None
        assert link.due(timer) == [Due.HEARTBEAT]
        if answered:
            link.heartbeat_answered()
        else:
            assert link.heartbeat_missed(timer + 1) is False
    assert link.state is PlatformState.ONLINE


def test_an_upper_that_forgets_at_once_is_not_hammered() -> None:
    """REGISTER is granted, the first heartbeat refused, over and over: still one REGISTER a minute."""
    link = online(heartbeat_interval_s=5.0)
    timer = link.next_timer()
    assert timer is not None
    link.due(timer)
    link.lost(timer)
    again = link.next_timer()
    assert again is not None
    assert again >= 60.0


@pytest.mark.gb("G070")
def test_heartbeats_of_many_links_spread_over_the_interval() -> None:
    first = []
    for seed in range(200):
        timer = online(seed).next_timer()
        assert timer is not None
        first.append(timer)
    seconds = [int(at) for at in first]
    assert max(seconds.count(second) for second in set(seconds)) < 15
    assert all(at <= 60.2 for at in first)


def test_a_heartbeat_never_comes_later_than_the_interval() -> None:
    link = online()
    before = 0.1
    for _ in range(20):
        timer = link.next_timer()
        assert timer is not None
        assert timer - before <= 60.0
        link.due(timer)
        link.heartbeat_answered()
        before = timer


@pytest.mark.gb("G068")
def test_a_fault_of_ours_is_due_at_once_even_while_a_heartbeat_is_out() -> None:
    link = online()
    timer = link.next_timer()
    assert timer is not None
    assert link.due(timer) == [Due.HEARTBEAT]
    link.report_now(timer + 0.5)
    assert link.due(timer + 0.6) == []
    link.heartbeat_answered()
    assert link.due(timer + 0.7) == [Due.HEARTBEAT]


def test_stop_tells_whether_a_farewell_is_worth_it() -> None:
    link = online()
    assert link.stop() is True
    assert link.next_timer() is None
    link = machine()
    link.start(0.0)
    assert link.stop() is False


def test_an_outcome_without_its_cause_is_our_fault() -> None:
    with pytest.raises(KeyError):
        machine().registered(10, 0.0)
