"""Access units in, recorded segments out: where files begin and end, and their bytes. Pure; media/segments.py has the format.

Pictures are kept back for the length of their group, then leave as one moof and mdat together with the sound that is
there by then. A file ends at the first key frame of a new slice of wall-clock, when codec or size change, and when
wall-clock and media time have come apart. The last 0.7 s of its sound may come a moment later.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from media import fmp4
from media.readers.aac import AacFrame
from media.readers.fanout import Chunk
from media.readers.muxing import DEFAULT_DURATION, Picture, TrackMuxer
from media.unit import TICKS_PER_SECOND, AccessUnit

LEAP_S = 5.0
"""A hole between two pictures beyond this ends the file."""
APART_S = 2.0
"""Wall-clock and media time that differ by more than this end the file."""
SLEW_S = 0.25
"""Smaller differences are taken out by at most this at the border of two files."""
LONG_GROUP_TICKS = 2 * TICKS_PER_SECOND
LONG_GROUP_BYTES = 4 * 1024 * 1024
"""What is longer than this is written in several pieces, so that a crash costs no more."""
TAIL_TICKS = TICKS_PER_SECOND * 7 // 10
"""So long after its last picture a file waits for its sound."""
WINDOW_S = 15.0
_KEY_FLAGS, _DELTA_FLAGS = 0x02000000, 0x01010000
_SAMPLE = struct.Struct(">IIIi")


@dataclass(slots=True, eq=False)
class Segment:
    """One file as its writer needs it. ``start`` and ``offset`` in seconds: wall-clock = offset + output clock."""

    start: float
    offset: float
    start_ticks: int
    init: bytes
    video: fmp4.VideoConfig
    audio: fmp4.AudioConfig | None
    frames: int = 0
    end_ticks: int = 0
    sequence: int = 0
    audio_next: int = 0
    groups: int = 0

    @property
    def end(self) -> float:
        """Wall-clock of the end of the last picture that was handed out."""
        return self.start + max(0, self.end_ticks - self.start_ticks) / TICKS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Opened:
    segment: Segment


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to append, with so many ``pictures``. ``key``: they begin with a key frame. ``end`` and ``frames``: of the
    file, with this piece."""

    segment: Segment
    data: bytes
    key: bool
    at_ticks: int
    pictures: int
    frames: int
    end: float


@dataclass(frozen=True, slots=True)
class Closed:
    """No more pieces. cause: length | stopped | stream_ended | format_changed | time_jump."""

    segment: Segment
    cause: str


Step = Opened | Piece | Closed


class WallClock:
    """Where on the wall-clock the output clock stands: the earliest arrivals tell, late ones are queueing.

    All values in seconds. The estimate is the least (arrival - media time) of the last 15 to 30 s.
    """

    def __init__(self) -> None:
        self._now: float | None = None
        self._before: float | None = None
        self._since = 0.0
        self._group: list[float] = []
        self._group_from = 0.0

    @property
    def offset(self) -> float:
        known = [value for value in (self._now, self._before) if value is not None]
        return min(known) if known else 0.0

    def note(self, at_s: float, wall: float) -> None:
        """A picture of media time ``at_s`` came at ``wall``."""
        offset = wall - at_s
        if self._now is None or at_s - self._since > WINDOW_S:
            self._before, self._now, self._since = self._now, offset, at_s
        self._now = min(self._now, offset)
        if not self._group:
            self._group_from = at_s
        self._group.append(offset)

    def apart(self, offset: float, at_s: float) -> bool:
        """At a key frame: whether the clocks have come apart from ``offset`` for good. Forgets the group.

        A burst after a congestion catches up by itself and is no reason; a pause of the sender is.
        """
        group, self._group = self._group, []
        if not group:
            return False
        if self.offset - offset < -APART_S:
            return True
        catching_up = group[0] - group[-1] > 0.5 * max(at_s - self._group_from, 0.04)
        if min(group) - offset > APART_S and not catching_up:
            self._now, self._before, self._since = min(group), None, at_s
            return True
        return False


@dataclass(slots=True)
class _Pending:
    """Whole samples that wait to be written."""

    pictures: list[tuple[int, Picture]] = field(default_factory=list)
    """(duration, picture)."""
    sounds: list[AacFrame] = field(default_factory=list)
    bytes: int = 0


class Segmenter(TrackMuxer):
    """One recording. ``wall_of`` turns ``time.monotonic()`` seconds into unix time. Steps are taken by :meth:`take`."""

    def __init__(self, *, segment_s: float, wall_of: Callable[[float], float]) -> None:
        super().__init__()
        self.lost = 0
        """Pictures dropped because their file was abandoned."""
        self._abandoned = False
        self._segment_s = segment_s
        self._wall_of = wall_of
        self._wall = WallClock()
        self._steps: deque[Step] = deque()
        self._segment: Segment | None = None
        self._tail: tuple[Segment, str, list[AacFrame]] | None = None
        self._pending = _Pending()
        self._held: Picture | None = None
        self._leap = False
        self._formats: tuple[fmp4.VideoConfig, fmp4.AudioConfig | None] | None = None
        self._reformatted = False
        self._arrival = 0.0

    def push(self, unit: AccessUnit) -> list[Step]:
        """Take one unit in stream order; what follows from it for the files."""
        self._arrival = unit.arrival_mono
        self.feed(unit)
        return self.take()

    def take(self) -> list[Step]:
        steps = list(self._steps)
        self._steps.clear()
        return steps

    def finish(self, cause: str) -> list[Step]:
        """The end: all that is there is written, and the files are closed."""
        if self._held is not None:
            self._release(self._held.dts + DEFAULT_DURATION)
        self._flush()
        self._end_tail()
        if self._segment is not None:
            self._steps.append(Closed(self._segment, cause))
            self._segment = None
        return self.take()

    def abandon(self, segment: Segment) -> None:
        """This file cannot be written any more: what waits for it is dropped, another begins at the next key frame."""
        if self._tail is not None and self._tail[0] is segment:
            self._tail = None
        if self._segment is segment:
            self.lost += len(self._pending.pictures) + (self._held is not None)
            self._segment, self._held, self._pending = None, None, _Pending()
            self._wall = WallClock()
            self._waiting = self._abandoned = True

    def _skip(self) -> list[Chunk]:
        self.lost += self._abandoned
        return super()._skip()

    # --- pictures ----------------------------------------------------------------------------------------------

    def _begin(self, video: fmp4.VideoConfig, audio: fmp4.AudioConfig | None) -> None:
        self._formats = video, audio
        self._reformatted = True

    def _before(self, dts: int) -> list[Chunk]:
        if self._held is not None:
            self._leap = dts - self._held.dts > LEAP_S * TICKS_PER_SECOND
            self._release(self._held.dts + DEFAULT_DURATION if self._leap else dts)
        return []

    def _release(self, next_dts: int) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        pending = self._pending
        pending.pictures.append((next_dts - held.dts, held))
        pending.bytes += len(held.data)
        if next_dts - pending.pictures[0][1].dts >= LONG_GROUP_TICKS or pending.bytes >= LONG_GROUP_BYTES:
            self._flush()

    def _write_picture(self, picture: Picture) -> list[Chunk]:
        at_s = picture.dts / TICKS_PER_SECOND
        if picture.key:
            self._key_frame(picture, at_s)
        self._wall.note(at_s, self._wall_of(self._arrival))
        if self._segment is not None:
            self._held = picture
        if self._tail is not None and picture.dts - self._tail[0].end_ticks > TAIL_TICKS:
            self._end_tail()
        return []

    def _key_frame(self, picture: Picture, at_s: float) -> None:
        self._flush()
        segment = self._segment
        cause = ""
        if segment is not None:
            apart = self._wall.apart(segment.offset, at_s)
            wall = segment.offset + at_s
            if self._reformatted:
                cause = "format_changed"
            elif apart or self._leap:
                cause = "time_jump"
            elif wall // self._segment_s > segment.start // self._segment_s:
                cause = "length"
            if not cause:
                return
            self._end_tail()
            self._tail = segment, cause, []
        self._open(picture, at_s, segment, cause)

    def _open(self, picture: Picture, at_s: float, last: Segment | None, cause: str) -> None:
        if self._formats is None:
            return
        if last is None or cause == "time_jump":
            self._wall.note(at_s, self._wall_of(self._arrival))
            offset = self._wall.offset
        else:
            offset = last.offset + min(max(self._wall.offset - last.offset, -SLEW_S), SLEW_S)
        video, audio = self._formats
        start = offset + at_s
        self._segment = Segment(
            start, offset, picture.dts, fmp4.init_segment(video, audio), video, audio, end_ticks=picture.dts
        )
        self._reformatted = self._leap = self._abandoned = False
        self._steps.append(Opened(self._segment))

    # --- sound -------------------------------------------------------------------------------------------------

    def _write_sound(self, frames: Sequence[AacFrame]) -> list[Chunk]:
        for frame in frames:
            segment = self._segment
            if segment is None or segment.audio is None:
                continue
            if self._tail is not None and self._tail[0].audio == segment.audio:
                begin = segment.start_ticks * segment.audio.sample_rate // TICKS_PER_SECOND
                if frame.position + 512 < begin:
                    self._tail[2].append(frame)
                    continue
                self._end_tail()
            self._pending.sounds.append(frame)
        return []

    def _end_tail(self) -> None:
        if self._tail is None:
            return
        (segment, cause, frames), self._tail = self._tail, None
        if frames:
            runs = [run] if (run := _sound_run(segment, frames)) is not None else []
            self._append(segment, runs, key=False, at_ticks=segment.end_ticks, pictures=0)
        self._steps.append(Closed(segment, cause))

    # --- bytes -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """What waits becomes one piece of the present file."""
        pending, self._pending = self._pending, _Pending()
        segment = self._segment
        if segment is None or not (pending.pictures or pending.sounds):
            return
        if not pending.pictures and not segment.frames:
            self._pending = pending  # sound never comes before the first picture
            return
        runs: list[_Run] = []
        key, at_ticks = False, segment.end_ticks
        if pending.pictures:
            first, (last_duration, last) = pending.pictures[0][1], pending.pictures[-1]
            key, at_ticks = first.key, first.dts
            runs.append(_picture_run(segment, pending.pictures))
            segment.frames += len(pending.pictures)
            segment.end_ticks = last.dts + last_duration
        if pending.sounds and (run := _sound_run(segment, pending.sounds)) is not None:
            runs.append(run)
        self._append(segment, runs, key=key, at_ticks=at_ticks, pictures=len(pending.pictures))

    def _append(self, segment: Segment, runs: list[_Run], *, key: bool, at_ticks: int, pictures: int) -> None:
        if not runs:
            return
        segment.sequence += 1
        segment.groups += key
        data = _fragment(segment.sequence, runs)
        self._steps.append(
            Piece(segment, data, key, at_ticks - segment.start_ticks, pictures, segment.frames, segment.end)
        )


@dataclass(slots=True)
class _Run:
    track: int
    decode_time: int
    table: bytes
    count: int
    data: bytes


def _picture_run(segment: Segment, pictures: list[tuple[int, Picture]]) -> _Run:
    table, data = bytearray(), []
    for duration, picture in pictures:
        sample = picture.sample
        flags = _KEY_FLAGS if picture.key else _DELTA_FLAGS
        table += _SAMPLE.pack(duration, len(sample), flags, picture.offset)
        data.append(sample)
    start = pictures[0][1].dts - segment.start_ticks
    return _Run(fmp4.VIDEO_TRACK, start, bytes(table), len(pictures), b"".join(data))


def _sound_run(segment: Segment, frames: list[AacFrame]) -> _Run | None:
    if segment.audio is None:
        return None
    begin = segment.start_ticks * segment.audio.sample_rate // TICKS_PER_SECOND
    start = max(frames[0].position - begin, segment.audio_next)
    table = b"".join(_SAMPLE.pack(1024, len(frame.data), _KEY_FLAGS, 0) for frame in frames)
    segment.audio_next = start + 1024 * len(frames)
    return _Run(fmp4.AUDIO_TRACK, start, table, len(frames), b"".join(frame.data for frame in frames))


def _fragment(sequence: int, runs: list[_Run]) -> bytes:
    """One moof with a traf per run, and their mdat (ISO/IEC 14496-12 8.8.4 to 8.8.8)."""
    sizes = [8 + 16 + 20 + 20 + len(run.table) for run in runs]
    moof_size = 8 + 16 + sum(sizes)
    out = [struct.pack(">I4sI4sII", moof_size, b"moof", 16, b"mfhd", 0, sequence)]
    at = moof_size + 8
    for run, size in zip(runs, sizes, strict=True):
        out.append(struct.pack(">I4sI4sII", size, b"traf", 16, b"tfhd", 0x020000, run.track))
        out.append(struct.pack(">I4sIQ", 20, b"tfdt", 0x01000000, run.decode_time))
        out.append(struct.pack(">I4sIIi", 20 + len(run.table), b"trun", 0x01000F01, run.count, at))
        out.append(run.table)
        at += len(run.data)
    out.append(struct.pack(">I4s", at - moof_size, b"mdat"))
    out += [run.data for run in runs]
    return b"".join(out)


def access_table(groups: Sequence[tuple[int, int]]) -> bytes:
    """The mfra box: (time in ticks, offset of the moof) of each group of track 1 (ISO/IEC 14496-12 8.8.9 to 8.8.11)."""
    entries = b"".join(struct.pack(">QQBBB", time, offset, 1, 1, 1) for time, offset in groups)
    tfra = struct.pack(">I4sIIII", 24 + len(entries), b"tfra", 0x01000000, fmp4.VIDEO_TRACK, 0, len(groups))
    size = 8 + len(tfra) + len(entries) + 16
    tail = struct.pack(">I4sII", 16, b"mfro", 0, size)
    return struct.pack(">I4s", size, b"mfra") + tfra + entries + tail
