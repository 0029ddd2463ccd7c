"""Batching and damping of notifications, by moving the clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.services.cascade_changes import ChangeBuffer, batches


def buffer() -> ChangeBuffer:
    return ChangeBuffer(damping_s=1.5, batch_s=2.0)


@pytest.mark.gb("G117")
def test_a_flapping_device_gives_one_entry_after_it_rests() -> None:
    changes = buffer()
    for step in range(20):
        changes.status_changed("a", step * 0.5)
        assert changes.take(step * 0.5) == []
    assert changes.take(10.9) == []
    assert changes.next_timer(9.5) == 11.0
    assert changes.take(13.0) == [("", "a")]
    assert changes.take(20.0) == []


def test_an_entry_that_never_rests_is_told_in_the_end() -> None:
    changes = buffer()
    now = told = 0.0
    while not told and now < 100:
        changes.status_changed("a", now)
        if changes.take(now):
            told = now
        now += 0.5
    assert 30.0 <= told <= 33.0


@pytest.mark.gb("G119")
def test_one_change_is_due_within_the_goal_of_five_seconds() -> None:
    changes = buffer()
    changes.status_changed("a", 0.0)
    now = 0.0
    while not changes.take(now):
        timer = changes.next_timer(now)
        assert timer is not None
        assert timer > now
        now = timer
    assert now <= 4.0


@pytest.mark.gb("G116")
def test_a_hundred_ready_changes_do_not_wait() -> None:
    changes = buffer()
    for number in range(500):
        changes.status_changed(str(number), 0.0)
    assert changes.take(1.4) == []
    assert len(changes.take(1.5)) == 500
    assert len(changes) == 0


def test_fewer_wait_for_company() -> None:
    changes = buffer()
    changes.structure_changed("ADD", "a", 0.0)
    assert changes.take(0.0) == []
    changes.structure_changed("DEL", "b", 1.9)
    assert changes.take(2.0) == [("ADD", "a"), ("DEL", "b")]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["ADD", "UPDATE"], ["ADD"]),
        (["ADD", "DEL"], []),
        (["DEL", "ADD"], ["UPDATE"]),
        (["UPDATE", "DEL"], ["DEL"]),
        (["", "UPDATE"], ["UPDATE"]),
        (["DEL", ""], ["DEL"]),
    ],
)
def test_what_comes_together_is_told_as_one(steps: list[str], expected: list[str]) -> None:
    changes = buffer()
    for step in steps:
        if step:
            changes.structure_changed(step, "a", 0.0)
        else:
            changes.status_changed("a", 0.0)
    assert [event for event, _ in changes.take(10.0)] == expected


def test_an_empty_buffer_has_no_timer() -> None:
    assert buffer().next_timer(5.0) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 900)), max_size=300))
def test_batches_cover_all_in_order_and_fit(items: list[tuple[bool, int]]) -> None:
    parts = [(full, b"x" * length) for full, length in items]
    cuts = list(batches(parts, entries=100, full_entries=1, limit_bytes=800))
    covered = [index for cut in cuts for index in range(cut.start, cut.stop)]
    assert covered == list(range(len(parts)))
    for cut in cuts:
        inside = parts[cut]
        assert len(inside) <= 100
        assert sum(full for full, _ in inside) <= 1
        assert len(inside) == 1 or sum(len(data) for _, data in inside) <= 800


@pytest.mark.gb("G116")
def test_short_entries_go_a_hundred_per_message() -> None:
    cuts = list(batches([(False, b"x" * 60)] * 500, entries=100, full_entries=100))
    assert [cut.stop - cut.start for cut in cuts] == [100] * 5
