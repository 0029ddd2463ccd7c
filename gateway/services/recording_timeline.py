"""The timeline of one channel: what is recorded, where the gaps are and why, hours with pictures by month."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.clock import BEIJING, Clock
from gateway.services.recording_gaps import NOBODY
from gateway.services.recording_plan import Plan
from gateway.storage.recordings import Mark, RecordingStore, StoredGap, StoredSegment

JOIN_S = 1.0
"""Files closer together than this are one range."""
MOST_SEGMENTS = 100_000

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Range:
    """Recorded without a gap. ``kinds`` in alphabetical order; ``open``: it is still growing."""

    start: float
    end: float
    kinds: tuple[str, ...]
    segments: int
    bytes: int
    locked: bool
    open: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing is recorded. ``cause``: no_plan, unknown, gateway_down, offline, no_disk, or what kept the camera away."""

    start: float
    end: float
    cause: str


@dataclass(frozen=True, slots=True)
class Timeline:
    ranges: list[Range]
    gaps: list[Gap]
    marks: list[Mark]


def join(segments: Iterable[StoredSegment], growing_to: Callable[[StoredSegment], float]) -> list[Range]:
    """Segments in order of their start as ranges. ``growing_to``: present end of a file that is being written."""
    out: list[Range] = []
    for segment in segments:
        info = segment.info
        end = info.end if info.complete else max(info.end, growing_to(segment))
        if out and info.start - out[-1].end <= JOIN_S:
            last = out[-1]
            kinds = tuple(sorted({*last.kinds, info.kind}))
            out[-1] = Range(
                *(last.start, max(last.end, end), kinds, last.segments + 1, last.bytes + info.bytes),
                *(last.locked or segment.locked, last.open or not info.complete),
            )
        else:
            out.append(Range(info.start, end, (info.kind,), 1, info.bytes, segment.locked, not info.complete))
    return out


def subtract(spans: Iterable[Span], taken: Sequence[Span]) -> list[Span]:
    """What is left of ``spans`` without ``taken``."""
    left = list(spans)
    for start, end in taken:
        rest: list[Span] = []
        for low, high in left:
            if end <= low or start >= high:
                rest.append((low, high))
                continue
            if low < start:
                rest.append((low, start))
            if end < high:
                rest.append((end, high))
        left = rest
    return left


def overlap(span: Span, others: Iterable[Span]) -> list[Span]:
    return [
        (max(span[0], low), min(span[1], high)) for low, high in others if low < span[1] and high > span[0]
    ]


def explain(
    holes: Iterable[Span], known: Sequence[StoredGap], wanted: Sequence[Span], now: float
) -> list[Gap]:
    """Each hole, cut where its cause changes. ``wanted``: spans the plan wants; ``known``: causes written down."""
    gaps: list[Gap] = []
    for hole in holes:
        rest = [hole]
        for note in known:
            span = note.start, now if note.end is None else note.end
            scope = overlap(span, wanted) if (note.device_id, note.channel_id) == NOBODY else [span]
            for part in scope:
                pieces = [piece for left in rest for piece in overlap(part, [left])]
                gaps += [Gap(*piece, note.cause) for piece in pieces]
                rest = subtract(rest, pieces)
        inside = [piece for left in rest for piece in overlap(left, wanted)]
        gaps += [Gap(*piece, "unknown") for piece in inside]
        gaps += [Gap(*piece, "no_plan") for piece in subtract(rest, inside)]
    gaps = [gap for gap in gaps if gap.end - gap.start > 0.001]
    return sorted(gaps, key=lambda gap: gap.start)


class TimelineService:
    """Answers from the index and the notes about gaps."""

    def __init__(
        self,
        *,
        store: RecordingStore,
        clock: Clock,
        plan_of: Callable[[str, str], Plan],
        recording: Callable[[str, str], bool],
    ) -> None:
        self._store = store
        self._clock = clock
        self._plan_of = plan_of
        self._recording = recording

    async def timeline(self, device_id: str, channel_id: str, start: float, end: float) -> Timeline:
        """Ranges, gaps and marks of [start, end); nothing is said of the future."""
        segments = await self.segments(device_id, channel_id, start, end)
        now = self._clock.utc().timestamp()
        ranges = [
            Range(max(r.start, start), min(r.end, end), r.kinds, r.segments, r.bytes, r.locked, r.open)
            for r in join(segments, self._growing(device_id, channel_id))
        ]
        holes = [
            hole
            for hole in subtract(
                [(start, min(end, now))] if start < now else [], [(r.start, r.end) for r in ranges]
            )
            if hole[1] - hole[0] > JOIN_S
        ]
        notes = await self._store.gaps_between(device_id, channel_id, start, end)
        notes += await self._store.gaps_between(*NOBODY, start, end)
        plan = self._plan_of(device_id, channel_id)
        wanted = [
            (low.timestamp(), high.timestamp())
            for low, high in plan.wanted_between(_moment(start), _moment(min(end, now)))
        ]
        marks = await self._store.marks_between(device_id, channel_id, start, end)
        return Timeline(ranges, explain(holes, notes, wanted, now), marks)

    async def segments(
        self, device_id: str, channel_id: str, start: float, end: float
    ) -> list[StoredSegment]:
        return await self._store.segments_between(device_id, channel_id, start, end, limit=MOST_SEGMENTS)

    async def month(self, device_id: str, channel_id: str, year: int, month: int) -> dict[str, list[int]]:
        """Seconds recorded in each of the 24 Beijing hours, by day (``YYYY-MM-DD``); days without pictures are left out."""
        first = datetime(year, month, 1, tzinfo=BEIJING)
        following = (first + timedelta(days=32)).replace(day=1)
        segments = await self.segments(device_id, channel_id, first.timestamp(), following.timestamp())
        hours: dict[str, list[float]] = {}
        for part in join(segments, self._growing(device_id, channel_id)):
            at = max(part.start, first.timestamp())
            end = min(part.end, following.timestamp())
            while at < end:
                local = datetime.fromtimestamp(at, BEIJING)
                border = local.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
                step = min(end, border.timestamp())
                hours.setdefault(f"{local:%Y-%m-%d}", [0.0] * 24)[local.hour] += step - at
                at = step
        return {day: [round(seconds) for seconds in row] for day, row in sorted(hours.items())}

    def _growing(self, device_id: str, channel_id: str) -> Callable[[StoredSegment], float]:
        live = self._recording(device_id, channel_id)
        now = self._clock.utc().timestamp()
        return lambda segment: now if live else segment.info.end


def _moment(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC)
