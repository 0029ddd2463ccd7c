"""The window of a live HLS playlist: parts and segments of fMP4, and the text that names them. Pure: no clock, no sockets.

RFC 8216bis (low latency: 4.4.3.7, 4.4.3.8, 4.4.4.9, 6.2.5.2). Parts are numbered through all segments, so that the
part named in advance is always the one that comes, whether or not a key frame begins a segment with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

from media.unit import TICKS_PER_SECOND

PART_S = 0.4
TARGET_S, LONGEST_TARGET_S = 4, 10
"""Target duration: the first group of pictures, within these. A longer group is cut where it is too long."""
MIN_SEGMENT_S = 1.0
KEPT_SEGMENTS = 3
"""How many segments stay to be fetched after they have left the playlist."""
LIMIT_BYTES = 48 * 1024 * 1024
CLOCK_SLIP_S = 0.5
"""When media time and wall clock are further apart than this, the program date is set anew."""
_ROUNDING_S = 0.001


@dataclass(slots=True)
class Part:
    number: int
    data: bytes
    duration_s: float
    independent: bool


@dataclass(slots=True)
class Segment:
    number: int
    init: int
    discontinuity: bool
    start_unix: float = 0.0
    duration_s: float = 0.0
    size: int = 0
    parts: list[Part] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return b"".join(part.data for part in self.parts)


class LivePlaylist:
    """Feed samples, read the playlist. ``target_s`` and ``part_s`` are settled by the first group of pictures."""

    def __init__(self) -> None:
        self.target_s = TARGET_S
        self.part_s = PART_S
        self.ended = False
        self.segments: list[Segment] = []
        """Complete ones, oldest first; those that have left the playlist are at the front."""
        self._inits: dict[int, bytes] = {}
        self._gone = 0
        """How many of ``segments`` are no longer named."""
        self._discontinuities = 0
        """How many discontinuities are in front of the first named segment."""
        self._open: Segment | None = None
        self._pending: list[bytes] = []
        self._pending_s = 0.0
        self._pending_key = False
        self._part_number = 0
        self._init = -1
        self._text = ""

    # --- filling -----------------------------------------------------------------------------------------------

    def begin(self, init: bytes) -> None:
        """Samples from now on need this initialisation segment."""
        self._close_part()
        self._pending = []
        self._init += 1
        self._inits[self._init] = init

    def add(self, data: bytes, duration: int, *, key: bool, now_unix: float) -> bool:
        """One sample; ``duration`` in 90 kHz ticks, 0 for sound. True when there is something new to fetch."""
        duration_s = duration / TICKS_PER_SECOND
        news = self._open is not None and self._is_full(duration_s, key) and self._close_segment(now_unix)
        if self._open is None:
            if not key and not self.segments:
                return False
            number = self.segments[-1].number + 1 if self.segments else 0
            changed = bool(self.segments) and self.segments[-1].init != self._init
            self._open = Segment(number, self._init, changed)
            if not self.segments:
                self.part_s = max(PART_S, round(2 * duration_s, 3))
        elif duration and self._pending_s + duration_s > self.part_s + _ROUNDING_S:
            news |= self._close_part()
        self._pending_key |= key and not self._pending_s
        self._pending.append(data)
        self._pending_s += duration_s
        self._open.size += len(data)
        if (
            duration and self._pending_s + duration_s > self.part_s + _ROUNDING_S
        ):  # the next would be too much
            news |= self._close_part()
        return news

    def end(self, now_unix: float) -> None:
        """Nothing more will come."""
        self._close_segment(now_unix)
        self.ended = True
        self._text = ""

    def _is_full(self, duration_s: float, key: bool) -> bool:
        """Whether the sample that comes begins another segment."""
        if self._open is None:
            return False
        if self._open.init != self._init:
            return True
        length = self._open.duration_s + self._pending_s
        if key and length >= MIN_SEGMENT_S:
            return True
        longest = (self.target_s if self.segments else LONGEST_TARGET_S) + 0.49
        return duration_s > 0 and (length + duration_s > longest or self._open.size > LIMIT_BYTES // 4)

    def _close_part(self) -> bool:
        segment = self._open
        if segment is None or not self._pending_s:  # sound alone waits for the next picture
            return False
        part = Part(self._part_number, b"".join(self._pending), self._pending_s, self._pending_key)
        self._part_number += 1
        segment.parts.append(part)
        segment.duration_s += part.duration_s
        self._pending, self._pending_s, self._pending_key = [], 0.0, False
        self._text = ""
        return True

    def _close_segment(self, now_unix: float) -> bool:
        self._close_part()
        segment, self._open = self._open, None
        if segment is None or not segment.parts:
            return False
        if not self.segments:
            self.target_s = min(max(TARGET_S, math.ceil(segment.duration_s)), LONGEST_TARGET_S)
        segment.start_unix = now_unix - segment.duration_s
        if self.segments:
            expected = self.segments[-1].start_unix + self.segments[-1].duration_s
            if abs(expected - segment.start_unix) < CLOCK_SLIP_S:
                segment.start_unix = expected
        self.segments.append(segment)
        self._slide()
        self._text = ""
        return True

    def _slide(self) -> None:
        """The playlist keeps three target durations (6.2.2), the store a few segments more, within a limit of bytes."""
        named_s = sum(segment.duration_s for segment in self.segments[self._gone :])
        while named_s - self.segments[self._gone].duration_s > 3 * self.target_s - _ROUNDING_S:
            named_s -= self.segments[self._gone].duration_s
            self._forget_first_named()
        size = sum(segment.size for segment in self.segments)
        while self._gone > KEPT_SEGMENTS or (size > LIMIT_BYTES and len(self.segments) > 1):
            if not self._gone:
                self._forget_first_named()
            size -= self.segments.pop(0).size
            self._gone -= 1
        used = {segment.init for segment in self.segments} | {self._init}
        self._inits = {number: data for number, data in self._inits.items() if number in used}

    def _forget_first_named(self) -> None:
        self._discontinuities += self.segments[self._gone].discontinuity
        self._gone += 1

    # --- reading -----------------------------------------------------------------------------------------------

    @property
    def playable(self) -> bool:
        """There is a whole segment: players that know nothing of parts can begin."""
        return len(self.segments) > self._gone

    @property
    def size_bytes(self) -> int:
        """What is kept in memory."""
        opened = self._open.size if self._open is not None else 0
        return sum(segment.size for segment in self.segments) + opened

    @property
    def next_number(self) -> int:
        """The segment that is being made, or would be next."""
        return self.segments[-1].number + 1 if self.segments else 0

    def covers(self, number: int, part: int | None) -> bool:
        """Whether the playlist already names segment ``number`` (whole, or its part ``part``) or later ones."""
        if number != self.next_number:
            if part is None or number < self.next_number - 1:
                return number < self.next_number
            if number >= self.next_number or part < len(self.segments[-1].parts):
                return number < self.next_number
            part = 0  # a part behind the last one is the first of the next segment (6.2.5.2)
        return part is not None and self._open is not None and part < len(self._open.parts)

    def init(self, number: int) -> bytes | None:
        return self._inits.get(number)

    def segment(self, number: int) -> bytes | None:
        return next((segment.data for segment in self.segments if segment.number == number), None)

    def part(self, number: int) -> bytes | None:
        opened = [self._open] if self._open is not None else []
        for segment in [*self.segments, *opened]:
            first = segment.parts[0].number if segment.parts else number + 1
            if first <= number < first + len(segment.parts):
                return segment.parts[number - first].data
        return None

    @property
    def next_part(self) -> int:
        """The part that is being made."""
        return self._part_number

    def text(self) -> str:
        """The media playlist."""
        self._text = self._text or self._write()
        return self._text

    def _write(self) -> str:
        named = self.segments[self._gone :]
        first = named[0].number if named else self.next_number
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:6",
            f"#EXT-X-TARGETDURATION:{self.target_s}",
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,"
            f"PART-HOLD-BACK={3 * self.part_s:.3f},HOLD-BACK={3 * self.target_s:.1f}",
            f"#EXT-X-PART-INF:PART-TARGET={self.part_s:.3f}",
            f"#EXT-X-MEDIA-SEQUENCE:{first}",
            f"#EXT-X-DISCONTINUITY-SEQUENCE:{self._discontinuities}",
        ]
        init = -1
        for segment in named:
            lines += _beginning(segment, init)
            init = segment.init
            lines += [
                *map(_part_line, segment.parts),
                f"#EXTINF:{segment.duration_s:.5f},",
                f"seg{segment.number}.m4s",
            ]
        if self.ended:
            return "\n".join([*lines, "#EXT-X-ENDLIST", ""])
        if self._open is not None and self._open.parts:
            if named:
                self._open.start_unix = named[-1].start_unix + named[-1].duration_s
            lines += [*_beginning(self._open, init), *map(_part_line, self._open.parts)]
        lines.append(f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="part{self._part_number}.m4s"')
        return "\n".join([*lines, ""])


def _beginning(segment: Segment, init: int) -> list[str]:
    """What is said in front of a segment; ``init`` is the one of the segment before."""
    lines = ["#EXT-X-DISCONTINUITY"] if segment.discontinuity else []
    if segment.init != init:
        lines.append(f'#EXT-X-MAP:URI="init{segment.init}.mp4"')
    if segment.start_unix:
        date = datetime.fromtimestamp(segment.start_unix, UTC)
        lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{date.isoformat(timespec='milliseconds')}")
    return lines


def _part_line(part: Part) -> str:
    independent = ",INDEPENDENT=YES" if part.independent else ""
    return f'#EXT-X-PART:DURATION={part.duration_s:.5f},URI="part{part.number}.m4s"{independent}'


def master(uri: str, codecs: str, width: int, height: int, bit_s: int) -> str:
    """The multivariant playlist with the one variant there is."""
    size = f",RESOLUTION={width}x{height}" if width and height else ""
    return f'#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-STREAM-INF:BANDWIDTH={bit_s}{size},CODECS="{codecs}"\n{uri}\n'
