"""A stretch of recordings as one row of access units: several files on the wall clock, forward and backward.

Blocking: everything here reads files and belongs into a thread, one thread at a time. Each run (a pass from one place
on) has a clock of its own that starts at 0 and has no holes: what was not recorded is left out, unless the clip keeps
gaps, and then they last on that clock as long as they lasted.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from media.mp4_read import KeyFrame, NotPlayable, Recording, Sample
from media.specs import ClipPart
from media.unit import TICKS_PER_SECOND, AccessUnit

log = logging.getLogger(__name__)

GAP_S = 0.5
"""Files whose ends are nearer than this follow each other without a gap."""
SOUND_LAG_TICKS = TICKS_PER_SECOND
"""So far behind its picture sound may stand in a file (media/segments.py: up to 0.7 s)."""
OPEN_FILES = 4
AWAITED_S = 120.0
"""A part that is awaited and not brought in this time counts as not recorded in this run."""
LOOK_S = 0.05


@dataclass(slots=True)
class ClipUnit:
    """A unit on the run's clock (90 kHz from 0) and where it lies in the recording (unix seconds)."""

    unit: AccessUnit
    at: float


class Clip:
    """The parts in order of time, bounded by ``start`` and ``end`` (unix seconds). Close it in the same thread."""

    def __init__(
        self,
        parts: Sequence[ClipPart],
        start: float,
        end: float,
        *,
        keep_gaps: bool = False,
        on_part: Callable[[str], None] | None = None,
    ) -> None:
        self.start, self.end = start, end
        self.hurry = threading.Event()
        """Set it from any thread when the run is of no use any more: nothing is waited for until it is cleared."""
        self._on_part = on_part
        """Told the path of each part before it is opened."""
        self.missing = 0
        """Files that could not be opened or read; what they held counts as not recorded."""
        self._parts = sorted(parts, key=lambda part: part.start)
        self._keep_gaps = keep_gaps
        self._open: OrderedDict[str, Recording] = OrderedDict()
        self._bad: set[str] = set()

    @property
    def bits_per_s(self) -> float:
        """Mean rate of the recordings, from their sizes."""
        seconds = sum(part.end - part.start for part in self._parts)
        return sum(part.bytes for part in self._parts) * 8 / seconds if seconds > 0 else 0.0

    def close(self) -> None:
        """Close all files. Idempotent."""
        while self._open:
            self._open.popitem()[1].close()

    # --- forward -----------------------------------------------------------------------------------------------

    def forward(self, at: float, *, keys_only: bool = False, sound: bool = True) -> Iterator[ClipUnit]:
        """Units from the last key frame at or before ``at`` (where that was recorded, else the next one) to the end.

        The end is that of the clip, or of what is written by then.
        """
        clock, covered = 0, None
        for part in self._parts:
            if part.start >= self.end:
                return
            if not part.growing and part.end <= at:
                continue
            recording = self._recording(part)
            if recording is None:
                continue
            wanted = at if covered is None else max(at, covered)
            key = self._begin(part, recording, wanted, overlapping=covered is not None)
            if key is None:
                continue
            began = part.start + key.dts / TICKS_PER_SECOND
            if began >= self.end:
                return
            if covered is not None and self._keep_gaps and began - covered > GAP_S:
                clock += round((began - covered) * TICKS_PER_SECOND)
            shift = clock - key.dts
            for sample in self._samples(recording, key, keys_only=keys_only, sound=sound):
                place = part.start + sample.dts / TICKS_PER_SECOND
                if sample.track.codec.is_video:
                    if place >= self.end:
                        return
                    clock = sample.end + shift
                    covered = part.start + sample.end / TICKS_PER_SECOND
                unit = recording.unit(sample)
                if unit is not None and unit.dts >= key.dts:
                    unit.dts += shift
                    unit.pts += shift
                    yield ClipUnit(unit, place)
            if keys_only:  # the last key frame stands for its whole group
                clock = recording.end_dts() + shift
                covered = part.start + recording.end_dts() / TICKS_PER_SECOND

    def _begin(
        self, part: ClipPart, recording: Recording, wanted: float, *, overlapping: bool
    ) -> KeyFrame | None:
        """Where to begin in a file; None when nothing of it comes at or after ``wanted``."""
        offset = round((wanted - part.start) * TICKS_PER_SECOND)
        if offset <= 0 or (overlapping and wanted - part.start <= GAP_S):
            return recording.key_at(0)
        if offset >= round((part.end - part.start) * TICKS_PER_SECOND) and offset >= recording.end_dts():
            return None
        key = recording.key_at(offset)
        if key is not None and overlapping and key.dts < offset:  # shown already from the file before
            return next((later for later in recording.extend() if later.dts >= offset), None)
        return key

    @staticmethod
    def _samples(recording: Recording, start: KeyFrame, *, keys_only: bool, sound: bool) -> Iterator[Sample]:
        """Samples in the order of their times, whatever their order in the file."""
        if keys_only:
            following = (key for key in recording.extend() if key.dts >= start.dts)
            yield from (sample for key in following if (sample := recording.key_sample(key)) is not None)
            return
        waiting: list[tuple[int, int, Sample]] = []
        newest = start.dts
        for number, sample in enumerate(recording.samples(start)):
            if not sound and not sample.track.codec.is_video:
                continue
            heapq.heappush(waiting, (sample.dts, number, sample))
            newest = max(newest, sample.dts)
            while waiting[0][0] < newest - SOUND_LAG_TICKS:
                yield heapq.heappop(waiting)[2]
        while waiting:
            yield heapq.heappop(waiting)[2]

    # --- backward ----------------------------------------------------------------------------------------------

    def backward(self, at: float, until: float | None = None, *, groups: bool = False) -> Iterator[ClipUnit]:
        """Pictures from ``at`` down to ``until`` (the clip's start): one per group of pictures, the newest first.

        With ``groups`` all pictures, each group forward in itself (GB/T 28181-2022 B.2.8). No sound either way.
        """
        clock, bound = 0, max(self.start, self.start if until is None else until)
        for part in reversed(self._parts):
            recording = self._recording(part) if part.start < at else None
            if recording is None:
                continue
            end = recording.end_dts()
            for key in reversed(recording.extend()):
                place = part.start + key.dts / TICKS_PER_SECOND
                length, end = end - key.dts, key.dts
                if place >= min(at, self.end):
                    continue
                if place + length / TICKS_PER_SECOND <= bound:
                    return
                yield from self._group(part, recording, key, length, clock, groups=groups)
                clock += length

    @staticmethod
    def _group(
        part: ClipPart, recording: Recording, key: KeyFrame, length: int, clock: int, *, groups: bool
    ) -> Iterator[ClipUnit]:
        for sample in recording.samples(key):
            if not sample.track.codec.is_video:
                continue
            if sample.dts >= key.dts + length or (not groups and sample.dts > key.dts):
                return
            unit = recording.unit(sample)
            if unit is not None:
                unit.dts += clock - key.dts
                unit.pts += clock - key.dts
                yield ClipUnit(unit, part.start + sample.dts / TICKS_PER_SECOND)

    # --- files -------------------------------------------------------------------------------------------------

    def _recording(self, part: ClipPart) -> Recording | None:
        found = self._open.get(part.path)
        if found is None and part.path not in self._bad:
            found = self._opened(part)
            if found is None:
                return None
            self._open[part.path] = found
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        if found is not None:
            self._open.move_to_end(part.path)
        return found

    def _opened(self, part: ClipPart) -> Recording | None:
        if self.hurry.is_set():
            return None
        if self._on_part is not None:
            self._on_part(part.path)
        until_mono = time.monotonic() + AWAITED_S
        while True:
            try:
                return Recording(Path(part.path))
            except FileNotFoundError:
                if not part.awaited:
                    break
                if self.hurry.wait(LOOK_S):
                    return None
                if time.monotonic() > until_mono:
                    log.warning("event=recording_not_brought path=%s waited_s=%d", part.path, AWAITED_S)
                    return None
            except (OSError, NotPlayable) as error:
                log.warning("event=recording_unreadable path=%s error=%s", part.path, error)
                break
        self.missing += 1
        if not part.awaited:
            self._bad.add(part.path)
        return None
