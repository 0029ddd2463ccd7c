"""A run: RTP packets of one stream, in order and without a gap, side by side in one buffer. Pure.

The unit of work between socket, demuxer, cache and relays, so that Python pays per run what it can instead of per
packet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_FEW = 4


class Run:
    """Packets ``index`` to ``index + len - 1`` of a stream.

    ``buffer`` holds each whole packet at ``starts[i]`` with ``sizes[i]`` bytes; ``stride`` is the distance of the
    starts where it is the same for all, else 0. ``stamps`` are the RTP timestamps as received, ``shift`` what relays
    add to them so that they go on over a change of sender. ``lost`` packets are missing in front (-1: the sender
    started anew). ``plain``: every RTP header has twelve bytes. The buffer may be reused after the call that handed
    out the run; :meth:`own` and :meth:`copy` keep it.
    """

    __slots__ = (
        "arrival", "buffer", "index", "lost", "owned", "payload_type", "plain", "shift", "sizes", "stamps", "starts",
        "stride", "view",
    )  # fmt: skip

    def __init__(
        self,
        buffer: bytearray,
        view: memoryview,
        starts: Sequence[int],
        sizes: list[int],
        stamps: Sequence[int],
        index: int,
        payload_type: int,
        arrival: float,
        stride: int = 0,
        lost: int = 0,
        shift: int = 0,
        plain: bool = True,
    ) -> None:
        self.buffer = buffer
        self.view = view
        self.starts = starts
        self.sizes = sizes
        self.stamps = stamps
        self.index = index
        self.payload_type = payload_type
        self.arrival = arrival
        self.stride = stride
        self.lost = lost
        self.shift = shift
        self.plain = plain
        self.owned = False

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def end_index(self) -> int:
        return self.index + len(self.sizes)

    def copy(self) -> Run:
        """The same packets in a buffer of their own."""
        starts = self.starts
        first, last = starts[0], starts[-1] + self.sizes[-1]
        if first:
            shifted = [start - first for start in starts]
            starts = range(0, len(starts) * self.stride, self.stride) if self.stride else shifted
        buffer = bytearray(self.view[first:last])
        return Run(
            buffer, memoryview(buffer), starts, self.sizes, self.stamps, self.index, self.payload_type,
            self.arrival, self.stride, self.lost, self.shift, self.plain,
        )  # fmt: skip

    def own(self) -> Run:
        """Itself, its packets now in a buffer of their own; what holds it afterwards may keep it."""
        if not self.owned:
            starts, first = self.starts, self.starts[0]
            buffer = bytearray(self.view[first : starts[-1] + self.sizes[-1]])
            if first:
                count, stride = len(starts), self.stride
                self.starts = range(0, count * stride, stride) if stride else [at - first for at in starts]
            self.buffer, self.view, self.owned = buffer, memoryview(buffer), True
        return self

    def part(self, first: int, until: int) -> Run:
        """Packets ``first`` to ``until - 1`` by their place, in the same buffer."""
        if first == 0 and until >= len(self.sizes):
            return self
        return Run(
            self.buffer, self.view, self.starts[first:until], self.sizes[first:until], self.stamps[first:until],
            index=self.index + first, payload_type=self.payload_type, arrival=self.arrival, stride=self.stride,
            lost=self.lost if first == 0 else 0, shift=self.shift, plain=self.plain,
        )  # fmt: skip

    def packet(self, position: int) -> bytes:
        """A copy of one packet, by its place in the run."""
        start = self.starts[position]
        return bytes(self.view[start : start + self.sizes[position]])

    def payloads(self, first: int, until: int) -> list[bytes | memoryview]:
        """The payloads of plain packets, in pieces that may hold several."""
        starts, sizes, view = self.starts, self.sizes, self.view
        last = until - 1
        stride = self.stride
        if stride and last - first >= _FEW and sizes[first:last].count(stride) == last - first:
            # All but the last are as long as the stride: cut the headers out with one strided copy.
            table = np.frombuffer(self.buffer, np.uint8, (last - first) * stride, starts[first])
            body = table.reshape(last - first, stride)[:, 12:].tobytes()
            return [body, view[starts[last] + 12 : starts[last] + sizes[last]]]
        return [view[starts[i] + 12 : starts[i] + sizes[i]] for i in range(first, until)]

    def is_one_group(self, max_count: int, max_bytes: int) -> bool:
        """Whether one segmented send takes it all: side by side, of one size, the last may be shorter."""
        sizes = self.sizes
        total, size = len(sizes), sizes[0]
        if size != self.stride or total > max_count or total * size > max_bytes:
            return False
        equal = sizes.count(size)
        return equal == total or (equal == total - 1 and sizes[-1] < size)

    def groups(self, max_count: int, max_bytes: int) -> Iterator[tuple[int, int]]:
        """Neighbours of one size, the last may be shorter: (first, count) for one segmented send each."""
        sizes = self.sizes
        total = len(sizes)
        size = sizes[0]
        if total <= max_count and total * size <= max_bytes:
            equal = sizes.count(size)
            if equal == total or (equal == total - 1 and sizes[-1] < size):
                yield 0, total
                return
        first = 0
        while first < total:
            size = sizes[first]
            limit = min(first + max_count, first + max(1, max_bytes // size), total)
            following = first + 1
            while following < limit and sizes[following] == size:
                following += 1
            if following < limit and sizes[following] < size:
                following += 1
            yield first, following - first
            first = following
