"""The clock of a recording that a device plays to us: times a player can follow at every speed, and where it stands. Pure.

Devices differ in what they do to their timestamps at another speed than 1 (field quirk 40): some send those of the
recording, four seconds of it in one second, others squeeze them to the time it takes. Which of the two is measured
against the arrival. Backward they do anything, so there the arrival is the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from media.unit import TICKS_PER_SECOND, AccessUnit

FRAME_TICKS = TICKS_PER_SECOND // 25
HOLE_TICKS = TICKS_PER_SECOND * 3 // 4
"""A longer step between two pictures is a place that was moved to, or not recorded: it is left out."""
APART_TICKS = TICKS_PER_SECOND * 3 // 2
"""At another speed than 1 the times may leave the arrival this far behind, or run so far ahead."""
MEASURE_S = 0.6
MOVED_WITHIN_S = 0.7
"""A device that was told to move may send from the new place before it says so."""


@dataclass(slots=True)
class _Measure:
    """How many seconds of stamps pass in a second."""

    ticks: int = 0
    since: float | None = None
    doubts: int = 0
    doubted: int = 0


class HistoryClock:
    """Maps units of one playing. ``length_s``: of the range that was asked for. ``keep_times``: a download, whose
    units keep the times of the recording and are only counted.
    """

    def __init__(self, length_s: float, *, speed: float = 1.0, keep_times: bool = False) -> None:
        self.length_s = length_s
        self.speed = speed
        self.keep_times = keep_times
        self.squeezed = False
        """The device's stamps pass in the time of the playing, not of the recording."""
        self._position = 0.0
        self._raw: int | None = None
        self._out: int | None = None
        self._sound_out = -1
        self._arrival: float | None = None
        self._measure = _Measure()
        self._moved_at: float | None = None
        self._moved_from = 0.0
        self._wall: tuple[float, int] | None = None
        self._move_to: float | None = None

    @property
    def position_s(self) -> float:
        """Seconds from the start of the range, of the picture that came last."""
        return min(max(0.0, self._position), self.length_s)

    @property
    def overrun(self) -> bool:
        """More came than was asked for."""
        return self._position > self.length_s + 0.2

    def order(
        self,
        now: float,
        *,
        speed: float | None = None,
        position_s: float | None = None,
        resumed: bool = False,
    ) -> None:
        """The device took an order: it plays at another speed, from another place, or goes on after a pause."""
        if speed is not None and speed != self.speed:
            self.speed = speed
        if speed is not None or resumed or position_s is not None:
            self._wall, self._measure = None, _Measure()
        if position_s is None:
            return
        early = self._moved_at is not None and now - self._moved_at < MOVED_WITHIN_S
        if early:  # the first pictures of the new place were here before its answer
            self._position = position_s + (self._position - self._moved_from)
        else:
            self._position, self._move_to = position_s, position_s
        self._moved_at = None

    def take(self, unit: AccessUnit, *, jumped: bool = False) -> AccessUnit | None:
        """The unit with the times of the playing; None for sound that does not belong to the picture's speed.

        ``jumped``: the sender's clock was found elsewhere than before, and the jump was taken out already.
        """
        if not unit.codec.is_video:
            return self._sound(unit)
        raw, now = unit.dts, unit.arrival_mono
        step = 0 if self._raw is None else raw - self._raw
        arrived = 0.0 if self._arrival is None else max(0.0, now - self._arrival)
        self._raw, self._arrival = raw, now
        if self.keep_times:
            self._position += step / TICKS_PER_SECOND
            return unit
        hole = jumped or step > max(HOLE_TICKS, round(HOLE_TICKS * self.speed))
        self._count(step, arrived, key=unit.key)
        if hole:
            self._moved_at, self._moved_from = now, self._position
        self._look_at_rate(0 if hole else step, now)
        delay = 0 if self.speed < 0 else self._scaled(unit.pts - raw)
        self._out = self._next(step, now, hole=hole)
        unit.dts, unit.pts = self._out, self._out + delay
        return unit

    def _scaled(self, ticks: int) -> int:
        return ticks if self.squeezed else round(ticks / abs(self.speed))

    def _count(self, step: int, arrived: float, *, key: bool) -> None:
        """Where in the recording this picture lies."""
        if self._move_to is not None and key:
            self._position, self._move_to = self._move_to, None
        elif self.speed < 0:
            self._position += self.speed * min(arrived, 2.0)
        else:
            self._position += step / TICKS_PER_SECOND * (self.speed if self.squeezed else 1.0)

    def _look_at_rate(self, step: int, now: float) -> None:
        """Twice in a row the same finding: that is how this device does it."""
        measure = self._measure
        if self.speed == 1 or self.speed < 0:
            return
        if measure.since is None:
            measure.since = now
            return
        measure.ticks += step
        elapsed = now - measure.since
        if elapsed < MEASURE_S:
            return
        rate = measure.ticks / TICKS_PER_SECOND / elapsed
        between = self.speed**0.5
        squeezed = rate < between if self.speed > 1 else rate > between
        measure.doubted = measure.doubted + measure.ticks if squeezed != self.squeezed else 0
        measure.doubts = measure.doubts + 1 if squeezed != self.squeezed else 0
        measure.ticks, measure.since = 0, now
        if measure.doubts >= 2:
            more = measure.doubted / TICKS_PER_SECOND * (self.speed - 1)
            self._position += more if squeezed else -more  # what was counted wrongly until now
            self.squeezed, measure.doubts, measure.doubted = squeezed, 0, 0

    def _next(self, step: int, now: float, *, hole: bool) -> int:
        """The picture's time in the playing."""
        last = self._out
        if last is None:
            self._wall = now, 0
            return 0
        if self._wall is None:  # an order was obeyed: it goes on right behind the picture before
            self._wall = now, last + FRAME_TICKS
            return last + FRAME_TICKS
        steady = last + (FRAME_TICKS if hole else self._scaled(step))
        out = self._by_arrival(now) if self.speed < 0 else steady
        if self.speed != 1 and abs(out - self._by_arrival(now)) > APART_TICKS:
            out = self._by_arrival(now)
        return max(out, last + 1)

    def _by_arrival(self, now: float) -> int:
        if self._wall is None:
            return (self._out or 0) + FRAME_TICKS
        return self._wall[1] + round((now - self._wall[0]) * TICKS_PER_SECOND)

    def _sound(self, unit: AccessUnit) -> AccessUnit | None:
        """At normal speed only, beside the picture that came last (quirk 40)."""
        if self.keep_times:
            return unit
        if self.speed != 1 or self._raw is None or self._out is None:
            return None
        distance = unit.dts - self._raw
        if abs(distance) > TICKS_PER_SECOND:
            return None
        out = self._out + distance
        if out <= self._sound_out:
            return None
        self._sound_out = out
        unit.dts = unit.pts = out
        return unit
