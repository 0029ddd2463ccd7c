"""Decoding times for pictures that only carry the time of their presentation, as RTP does (RFC 6184 5.1). Pure."""

from __future__ import annotations

import heapq

from media.unit import TICKS_PER_SECOND

MAX_DEPTH = 16
"""Pictures that may be reordered at most (H.264 A.3.1, H.265 A.4.1)."""
_JUMP = 5 * TICKS_PER_SECOND
_FIRST_STEP = TICKS_PER_SECOND // 25


class DecodeOrder:
    """Gives each picture, in decoding order, a dts: the pts of ``depth`` pictures ago when sorted.

    ``depth`` grows by itself when pictures turn out to be reordered more than the parameter sets said.
    """

    def __init__(self) -> None:
        self.depth = 0
        self._heap: list[int] = []
        self._count = 0
        self._first = 0
        self._last_pts: int | None = None
        self._last_dts: int | None = None

    def expect(self, depth: int | None) -> None:
        """What the parameter sets say; None when they do not."""
        if depth is not None and self._count == 0:
            self.depth = min(max(depth, self.depth), MAX_DEPTH)

    def stamp(self, pts: int) -> tuple[int, int]:
        """(pts, dts) in 90 kHz ticks. dts grows strictly and is never above pts."""
        if self._last_pts is None or abs(pts - self._last_pts) > _JUMP:
            self._heap.clear()
            self._count, self._first = 0, pts
            self._last_dts = None
        self._last_pts = pts
        self._count += 1
        heapq.heappush(self._heap, pts)
        if len(self._heap) > self.depth:
            dts = heapq.heappop(self._heap)
        else:
            dts = self._first - (self.depth - self._count + 1) * _FIRST_STEP
        if dts > pts or (self._last_dts is not None and dts <= self._last_dts):
            if self.depth < MAX_DEPTH and self._last_dts is not None and pts <= self._last_dts:
                self.depth += 1
            dts = pts if self._last_dts is None else max(min(dts, pts), self._last_dts + 1)
        self._last_dts = dts
        return max(pts, dts), dts
