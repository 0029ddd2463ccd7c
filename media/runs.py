"""A run: RTP packets of one stream, in order and without a gap, side by side in one buffer. Pure.

The unit of work between socket, demuxer, cache and relays, so that Python pays per run what it can instead of per
packet.
"""

from __future__ import annotations

from collections.abc import Iterator


class Run:
    """Packets ``index`` to ``index + len - 1`` of a stream.

    ``view`` is writable and holds each whole packet at ``starts[i]`` with ``sizes[i]`` bytes; ``stamps`` are the
    RTP timestamps as received, ``shift`` what relays add to them so that they go on over a change of sender.
    ``lost`` packets are missing in front (-1: the sender started anew). ``plain``: every RTP header has twelve bytes.
    The buffer may be reused after the call that handed out the run; :meth:`copy` keeps it.
    """

    __slots__ = (
        "arrival",
        "index",
        "lost",
        "payload_type",
        "plain",
        "shift",
        "sizes",
        "stamps",
        "starts",
        "view",
    )

    def __init__(
        self,
        view: memoryview,
        starts: list[int],
        sizes: list[int],
        stamps: list[int],
        *,
        index: int,
        payload_type: int,
        arrival: float,
        lost: int = 0,
        shift: int = 0,
        plain: bool = True,
    ) -> None:
        self.view = view
        self.starts = starts
        self.sizes = sizes
        self.stamps = stamps
        self.index = index
        self.payload_type = payload_type
        self.arrival = arrival
        self.lost = lost
        self.shift = shift
        self.plain = plain

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def end_index(self) -> int:
        return self.index + len(self.sizes)

    def copy(self) -> Run:
        """The same packets in a buffer of their own."""
        first, last = self.starts[0], self.starts[-1] + self.sizes[-1]
        starts = [start - first for start in self.starts] if first else self.starts
        return Run(
            memoryview(bytearray(self.view[first:last])), starts, self.sizes, self.stamps,
            index=self.index, payload_type=self.payload_type, arrival=self.arrival, lost=self.lost,
            shift=self.shift, plain=self.plain,
        )  # fmt: skip

    def tail(self, index: int) -> Run:
        """The packets from ``index`` on, in the same buffer; the run itself when nothing is cut off."""
        cut = index - self.index
        if cut <= 0:
            return self
        return Run(
            self.view, self.starts[cut:], self.sizes[cut:], self.stamps[cut:],
            index=index, payload_type=self.payload_type, arrival=self.arrival, shift=self.shift, plain=self.plain,
        )  # fmt: skip

    def packet(self, position: int) -> bytes:
        """A copy of one packet, by its place in the run."""
        start = self.starts[position]
        return bytes(self.view[start : start + self.sizes[position]])

    def groups(self, max_count: int, max_bytes: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Neighbours of one size, the last may be shorter: (first, count, begin, end, size) for one segmented send."""
        starts, sizes = self.starts, self.sizes
        total = len(sizes)
        first = 0
        while first < total:
            size = sizes[first]
            begin = starts[first]
            end = begin + size
            limit = min(first + max_count, total)
            following = first + 1
            while following < limit and starts[following] == end:
                length = sizes[following]
                if length > size or end + length - begin > max_bytes:
                    break
                end += length
                following += 1
                if length < size:
                    break
            yield first, following - first, begin, end, size
            first = following
