"""The clock of a recording that a device plays: smooth at each speed, whatever the device does to its timestamps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from media.sources.history import HistoryClock
from media.unit import AccessUnit, Codec

RATE = 25
TICK = 90_000 // RATE


def picture(dts: int, now: float, *, key: bool = False) -> AccessUnit:
    return AccessUnit(Codec.H264, dts, dts, key, b"", arrival_mono=now)


def sound(dts: int, now: float) -> AccessUnit:
    return AccessUnit(Codec.PCMA, dts, dts, False, b"", arrival_mono=now)


class Device:
    """Sends pictures at ``RATE * speed`` a second; ``squeezed`` stamps pass with the clock on the wall."""

    def __init__(self, *, squeezed: bool = False, keys_every: int = 50) -> None:
        self.squeezed, self.keys_every = squeezed, keys_every
        self.now, self.stamp, self.number = 100.0, 0.0, 0

    def send(
        self, seconds: float, speed: float = 1.0, *, keys_only: bool = False
    ) -> Iterator[tuple[AccessUnit, float]]:
        """Units with the wall-clock of their arrival, for so many seconds of the wall."""
        until = self.now + seconds
        step = self.keys_every if keys_only else 1
        while self.now < until:
            yield picture(round(self.stamp), self.now, key=self.number % self.keys_every == 0), self.now
            self.number += step
            self.now += step / RATE / speed
            self.stamp += step * TICK / (speed if self.squeezed else 1.0)


def pace(outs: list[tuple[int, float]]) -> float:
    """Seconds of playing per second of the wall."""
    return (outs[-1][0] - outs[0][0]) / 90_000 / (outs[-1][1] - outs[0][1])


@pytest.mark.quirk(40)
@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0, 8.0])
def test_pictures_come_at_the_pace_of_the_wall_at_every_speed(speed: float, squeezed: bool) -> None:
    clock, device = HistoryClock(3600.0), Device(squeezed=squeezed)
    for unit, _ in device.send(2.0):
        assert clock.take(unit) is unit
    clock.order(device.now, speed=speed)
    before = clock.position_s
    began = device.now
    outs = []
    for unit, now in device.send(8.0, speed, keys_only=speed >= 8):
        assert clock.take(unit) is unit
        outs.append((unit.dts, now))
    steps = [b[0] - a[0] for a, b in pairwise(outs)]
    assert min(steps) > 0
    settled = [entry for entry in outs if entry[1] > began + 3.0]
    assert pace(settled) == pytest.approx(1.0, rel=0.05)
    # Where it stands: squeezed stamps are found out after a moment, and the count is corrected.
    assert clock.position_s - before == pytest.approx(8.0 * speed, abs=0.3 + 0.25 * speed)
    assert clock.squeezed == (squeezed and speed != 1)


def test_backward_the_arrival_is_the_clock() -> None:
    clock, device = HistoryClock(60.0), Device()
    for unit, _ in device.send(1.0):
        clock.take(unit)
    clock.order(device.now, speed=-1.0, position_s=40.0)
    outs = []
    for number in range(20):
        unit = picture(round(device.stamp) + number, device.now + 0.5 * number, key=True)
        clock.take(unit)
        outs.append((unit.dts, device.now + 0.5 * number))
    assert pace(outs) == pytest.approx(1.0, rel=0.1)
    assert clock.position_s == pytest.approx(40.0 - 9.5, abs=0.6)


@pytest.mark.parametrize("told_late", [False, True])
@pytest.mark.parametrize("jumped", [False, True])
def test_a_move_leaves_no_hole_in_the_playing(told_late: bool, jumped: bool) -> None:
    clock, device = HistoryClock(3600.0), Device()
    last = 0
    for unit, _ in device.send(1.0):
        clock.take(unit)
        last = unit.dts
    if not told_late:
        clock.order(device.now, position_s=100.0)
    device.number = 0
    device.stamp += 0 if jumped else 3 * 90_000
    for count, (unit, _) in enumerate(device.send(0.4)):
        clock.take(unit, jumped=jumped and count == 0)
        assert 0 < unit.dts - last <= TICK
        last = unit.dts
    if told_late:
        clock.order(device.now, position_s=100.0)
        for unit, _ in device.send(0.2):
            clock.take(unit)
    assert clock.position_s == pytest.approx(100.5, abs=0.3)


def test_after_a_pause_it_goes_on_where_it_was() -> None:
    clock, device = HistoryClock(60.0), Device()
    last = 0
    for unit, _ in device.send(1.0):
        clock.take(unit)
        last = unit.dts
    device.now += 30.0
    clock.order(device.now, resumed=True)
    for unit, _ in device.send(1.0):
        clock.take(unit)
        assert unit.dts - last == TICK
        last = unit.dts
    assert clock.position_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.quirk(40)
def test_sound_is_left_out_at_any_other_speed() -> None:
    clock = HistoryClock(60.0)
    assert clock.take(sound(0, 1.0)) is None  # nothing to put it beside yet
    clock.take(picture(0, 1.0, key=True))
    beside = clock.take(sound(1800, 1.02))
    assert beside is not None
    assert beside.dts == 1800
    clock.order(1.1, speed=2.0)
    clock.take(picture(3600, 1.1))
    assert clock.take(sound(5400, 1.12)) is None


def test_a_download_keeps_the_times_of_the_recording() -> None:
    clock, device = HistoryClock(10.0, keep_times=True), Device()
    for unit, _ in device.send(1.0, 8.0):
        stamp = unit.dts
        clock.take(unit)
        assert unit.dts == stamp
    assert clock.position_s == pytest.approx(8.0, abs=0.1)
    assert not clock.overrun
    for unit, _ in device.send(1.0, 8.0):
        clock.take(unit)
    assert clock.overrun
