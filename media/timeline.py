"""Turns a sender's clock into one that never wraps, jumps or stands still. Pure.

Field experience: 33-bit and 32-bit wraps, steps at file borders, PTS that stay at zero, RTP timestamps that do,
clocks that count milliseconds. Picture and sound stay together over a jump that both make.
"""

from __future__ import annotations

from dataclasses import dataclass

from media.unit import TICKS_PER_SECOND

MAX_STEP = 5 * TICKS_PER_SECOND
"""A forward step of more than 5 s is a jump of the clock."""
MAX_BACK = TICKS_PER_SECOND
"""A backward step of more than 1 s is a jump; smaller ones are B-frames."""
DEFAULT_STEP = TICKS_PER_SECOND // 25
_STALLED_UNITS = 3
_BITS = {"pts": 33, "rtp": 32, "arrival": 62}
_RATE_CHECK_S = 0.5
_RATE_GIVE_UP_S = 4.0
"""A sender that begins with a burst shows its clock's true rate only later."""
_RATE_SURE = TICKS_PER_SECOND // 4


def signed_delta(newer: int, older: int, bits: int) -> int:
    """Distance of two counters of ``bits`` width, from minus half to half the range."""
    half = 1 << (bits - 1)
    return ((newer - older + half) & ((1 << bits) - 1)) - half


@dataclass(slots=True)
class _Track:
    raw: int | None = None
    """Unwrapped newest value of the sender's clock; None before the first."""
    offset: int = 0
    out: int | None = None
    """dts of the newest unit handed out."""
    step: int = DEFAULT_STEP


class Timeline:
    """Maps raw clock values of video and audio units to 90 kHz ticks that start at 0.

    The clock is chosen by what moves: PES timestamps, else RTP timestamps, else the arrival time. The picture's
    clock decides for both tracks.
    """

    def __init__(self) -> None:
        self.jumps = 0
        self.source = "pts"
        self.scale = 1
        """90 when the sender counts milliseconds."""
        self._tracks = {True: _Track(), False: _Track()}
        self._before: tuple[int | None, int | None, float] | None = None
        self._decider = False
        self._stalled = 0
        self._epoch: float | None = None
        self._rate_start: tuple[int, float] | None = None
        self._rate_checked = False

    def map(
        self, pts: int | None, dts: int | None, rtp_timestamp: int | None, now: float, *, video: bool
    ) -> tuple[int, int]:
        """One unit's (pts, dts). ``pts`` and ``dts`` are 33-bit raw values or None; ``now`` in seconds.

        dts grows strictly within a track; pts is never below dts.
        """
        if video and not self._decider:
            self._decider, self._before = True, None
        if video == self._decider:
            self._choose(pts, rtp_timestamp, now)
        composition = 0
        if self.source == "pts" and pts is not None and dts is not None:
            composition = signed_delta(pts, dts, 33) * self.scale
            if not 0 <= composition <= MAX_BACK:
                composition, dts = 0, pts
        track = self._tracks[video]
        raw = self._raw(pts if dts is None else dts, rtp_timestamp, now)
        out = self._advance(track, self._tracks[not video], raw)
        last = track.out
        if last is None:
            out = max(out, 0)
        else:
            if out <= last:
                out = last + 1
            elif out - last <= MAX_BACK:
                track.step = out - last
        track.out = out
        return out + composition, out

    def _raw(self, stamp: int | None, rtp_timestamp: int | None, now: float) -> int | None:
        if self.source == "pts":
            return stamp
        if self.source == "rtp":
            return rtp_timestamp
        if self._epoch is None:
            self._epoch = now
        return round((now - self._epoch) * TICKS_PER_SECOND)

    def _advance(self, track: _Track, other: _Track, raw: int | None) -> int:
        """The position of ``raw`` on the output clock; a missing value is one step after the last."""
        if raw is None:
            return 0 if track.out is None else track.out + track.step
        bits = _BITS[self.source]
        if track.raw is not None:
            delta = signed_delta(raw, track.raw, bits) * self.scale
            if -MAX_BACK <= delta <= MAX_STEP:
                position = track.raw * self.scale + delta
                track.raw += delta // self.scale if delta > 0 else 0
                return position + track.offset
            self.jumps += 1
        if other.raw is not None:
            delta = signed_delta(raw, other.raw, bits) * self.scale
            if -MAX_STEP <= delta <= MAX_STEP:  # the other track is on this clock already: stay together
                track.raw = other.raw + delta // self.scale
                track.offset = other.offset
                return track.raw * self.scale + track.offset
        start = other.out or 0 if track.out is None else track.out + track.step
        track.raw = raw
        track.offset = start - raw * self.scale
        return start

    def _choose(self, pts: int | None, rtp_timestamp: int | None, now: float) -> None:
        """Leave a clock that is missing or stands still; find out once whether it counts milliseconds."""
        before, self._before = self._before, (pts, rtp_timestamp, now)
        if before is None:
            if pts is None and rtp_timestamp is not None:
                self._change("rtp")
            return
        if self.source == "pts":
            stands = pts is None or (pts == before[0] and (rtp_timestamp != before[1] or now > before[2]))
        elif self.source == "rtp":
            stands = rtp_timestamp is None or (rtp_timestamp == before[1] and now > before[2])
        else:
            return
        self._stalled = self._stalled + 1 if stands else 0
        if self._stalled >= _STALLED_UNITS:
            moves = rtp_timestamp is not None and rtp_timestamp != before[1]
            self._change("rtp" if self.source == "pts" and moves else "arrival")
        elif not self._rate_checked:
            self._check_rate(pts if self.source == "pts" else rtp_timestamp, now)

    def _check_rate(self, raw: int | None, now: float) -> None:
        if raw is None:
            return
        if self._rate_start is None:
            self._rate_start = raw, now
            return
        elapsed = now - self._rate_start[1]
        if elapsed < _RATE_CHECK_S:
            return
        rate = signed_delta(raw, self._rate_start[0], _BITS[self.source]) / elapsed
        if 700 < rate < 1300:
            self._change(self.source)
            self.scale = 90
        elif rate < _RATE_SURE and elapsed < _RATE_GIVE_UP_S:
            return
        self._rate_checked = True

    def _change(self, source: str) -> None:
        """The next value of each track is the first of a new clock."""
        self.source = source
        self.scale = 1
        self._stalled = 0
        for track in self._tracks.values():
            track.raw = None
