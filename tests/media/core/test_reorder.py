"""The reorder buffer: a window of time, loss told, restarts told. Time is moved, never slept."""

from __future__ import annotations

import pytest

from media.reorder import ReorderBuffer


def push(buffer: ReorderBuffer[int], *entries: tuple[int, float]) -> list[tuple[int, int]]:
    return [
        (item.lost, item.sequence)
        for sequence, now in entries
        for item in buffer.push(sequence, sequence, now)
    ]


@pytest.mark.gb("G220")
def test_packets_that_change_places_within_50_ms_come_out_in_order() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(0.2)
    out = push(buffer, (10, 0.0), (13, 0.01), (12, 0.03), (11, 0.06), (14, 0.07))
    assert out == [(0, 10), (0, 11), (0, 12), (0, 13), (0, 14)]
    assert (buffer.lost, buffer.late) == (0, 0)
    assert buffer.reordered == 2  # 12 and 11 came late
    assert not buffer.holding


@pytest.mark.gb("G219")
def test_a_hole_is_given_up_after_the_window_and_counted() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(0.2)
    assert push(buffer, (1, 0.0), (4, 0.1), (5, 0.15)) == [(0, 1)]
    assert buffer.expire(0.29) == []
    assert [(item.lost, item.sequence) for item in buffer.expire(0.301)] == [(2, 4), (0, 5)]
    assert buffer.lost == 2
    assert push(buffer, (2, 0.31)) == []
    assert buffer.late == 1


def test_the_window_is_a_time_not_a_count() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(0.2)
    out = push(buffer, (0, 0.0), *((number, 0.01) for number in range(2, 1000)))
    assert out == [(0, 0)]
    assert len(push(buffer, (1, 0.02))) == 999
    assert buffer.lost == 0


def test_the_sequence_wraps() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer()
    assert push(buffer, (0xFFFE, 0), (0, 0), (0xFFFF, 0), (1, 0)) == [
        (0, 0xFFFE),
        (0, 0xFFFF),
        (0, 0),
        (0, 1),
    ]


@pytest.mark.quirk(40)
def test_two_far_packets_in_a_row_are_a_restart_one_alone_is_a_stray() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer()
    assert push(buffer, (100, 0), (40000, 0), (101, 0)) == [(0, 100), (0, 101)]
    assert buffer.restarts == 0
    buffer = ReorderBuffer()
    push(buffer, (20000, 0))
    assert push(buffer, (5, 0), (6, 0), (7, 0)) == [(-1, 5), (0, 6), (0, 7)]
    assert buffer.restarts == 1
    assert buffer.lost == 0


def test_the_start_waits_for_a_packet_that_begins_something() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(0.2)
    assert buffer.push(0, 0, 0.0, begins=False) == []
    assert buffer.push(2, 2, 0.01, begins=False) == []
    out = buffer.push(0xFFFF, 0xFFFF, 0.03, begins=True)
    assert [item.sequence for item in out] == [0xFFFF, 0]
    assert [item.sequence for item in buffer.push(1, 1, 0.04)] == [1, 2]
    buffer.restart()
    assert buffer.push(50, 50, 1.0, begins=False) == []
    assert [(item.lost, item.sequence) for item in buffer.expire(1.21)] == [(0, 50)]
    buffer.restart()
    buffer.push(70, 70, 2.0, begins=False)
    assert [item.sequence for item in buffer.flush()] == [70]


def test_duplicates_are_counted_as_late() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer()
    assert push(buffer, (1, 0), (3, 0), (3, 0), (1, 0)) == [(0, 1)]
    assert buffer.late == 2


def test_a_flood_of_future_packets_stays_bounded() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(1e9)
    push(buffer, (0, 0.0))
    for number in range(2, 2900):
        buffer.push(number, number, 0.0)
    assert len(buffer.flush()) == 2898
    assert not buffer.holding
