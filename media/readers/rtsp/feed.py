"""What one RTSP viewer is sent: over its connection (interleaved) or by UDP, paced at the start, never too much waiting.

A viewer that is too slow loses what waits, up to the next key frame. Its sequence numbers go on without a gap, so
that only what the network loses looks lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from media.readers.rtsp.channel import Channel
from media.readers.rtsp.outputs import InterleavedOutput, TrackOutput, UdpTrackOutput, Wire
from media.readers.rtsp.tracks import VIDEO, PackedUnit

QUEUE_BYTES = 4 * 1024 * 1024
"""A viewer that is further behind than this (beyond its start) is moved on to the next key frame."""
PACED_BYTES = 32 * 1024
"""Per tick of 5 ms while the cached pictures or a burst go out: about 52 Mbit/s."""
BURST_BYTES = 64 * 1024
"""A larger picture goes out in several ticks: receive buffers of players are small."""


WHOLE = 1 << 30
"""A budget that no unit exceeds."""


class Ticks(Protocol):
    """What is used of the node's pump."""

    @property
    def share(self) -> int: ...

    def every_tick(self, owner: object, work: Callable[[float], bool]) -> None: ...

    def forget(self, owner: object) -> None: ...


class Feed:
    """One viewer's units on their way to its outputs (by track). ``on_drop(units)`` counts what it does not get."""

    def __init__(self, channel: Channel, ticks: Ticks, wire: Wire, on_drop: Callable[[int], None]) -> None:
        self.outputs: dict[int, TrackOutput] = {}
        self.dropped = 0
        self._channel = channel
        self._ticks = ticks
        self._wire = wire
        self._on_drop = on_drop
        self._pending: deque[PackedUnit] = deque()
        self._pending_bytes = 0
        self._limit = QUEUE_BYTES
        self._needs_key = False
        self._playing = False
        self._interleaved = False

    @property
    def waiting_bytes(self) -> int:
        return self._pending_bytes

    def add(self, output: TrackOutput) -> None:
        """Set a track up; a second time replaces the first (and gives it back)."""
        number = output.track.number
        if number in self.outputs:
            self.outputs[number].close(over=False)
        self.outputs[number] = output
        self._interleaved = any(isinstance(one, InterleavedOutput) for one in self.outputs.values())

    @property
    def interleaved_only(self) -> bool:
        """Nothing goes by UDP: the connection itself shows that the viewer lives."""
        return not any(isinstance(output, UdpTrackOutput) for output in self.outputs.values())

    def start_of(self) -> tuple[int, dict[int, int]]:
        """Where a play would begin: the stream's tick, and the sequence number per set-up track."""
        backlog = self._channel.backlog()
        ticks = backlog[0].start if backlog else self._channel.last_ticks
        first: dict[int, int] = {}
        for packed in backlog:
            first.setdefault(packed.track, packed.sequence)
        return ticks, {
            number: first.get(number, output.track.sequence)
            if output.next_sequence is None
            else output.next_sequence
            for number, output in self.outputs.items()
        }

    def play(self) -> None:
        """Begin with the cached pictures, paced; then live."""
        if self._playing:
            return
        self._playing = True
        _, first = self.start_of()
        for number, output in self.outputs.items():
            output.next_sequence = first[number]
        backlog = [packed for packed in self._channel.backlog() if packed.track in self.outputs]
        self._needs_key = VIDEO in self.outputs and not backlog
        self._pending.extend(backlog)
        self._pending_bytes = sum(len(packed.data) for packed in backlog)
        self._limit = QUEUE_BYTES + self._pending_bytes
        self._channel.join(self)
        self.wake()
        if self._needs_key:
            self._channel.stream.request_key_frame()

    def pause(self) -> None:
        """Send no more; what waits is forgotten."""
        self._playing = False
        self._channel.leave(self)
        self._ticks.forget(self)
        self._clear()

    def close(self, *, over: bool = False) -> None:
        """Stop and close the outputs. ``over``: the stream has ended by itself."""
        self.pause()
        for output in self.outputs.values():
            output.close(over=over)
        self.outputs = {}

    def offer(self, packed: PackedUnit) -> None:
        """One unit of the channel."""
        output = self.outputs.get(packed.track)
        if output is None:
            return
        if self._needs_key:
            if packed.track != VIDEO or not packed.key:
                self._drop(1)
                return
            self._needs_key = False
        size = len(packed.data)
        if not self._pending and size <= BURST_BYTES * self._ticks.share and not self._held_back:
            output.send(packed, WHOLE)
            return
        if self._pending_bytes + size > self._limit:
            self._overflow(packed)
            return
        self._pending.append(packed)
        self._pending_bytes += size
        if not self._held_back:
            self._ticks.every_tick(self, self._tick)

    def wake(self) -> None:
        """The connection takes bytes again, or something waits."""
        if self._playing and self._pending:
            self._ticks.every_tick(self, self._tick)
        elif self._playing and self._needs_key:
            self._channel.stream.request_key_frame()

    @property
    def _held_back(self) -> bool:
        return self._interleaved and self._wire.blocked

    def _tick(self, now: float) -> bool:
        """Paced work: a share of what waits."""
        budget = max(PACED_BYTES * self._ticks.share, self._pending_bytes // 64)
        while self._pending and budget > 0:
            if self._held_back:
                return False  # wake() goes on
            packed = self._pending[0]
            output = self.outputs[packed.track]
            budget -= output.send(packed, budget)
            if not output.unfinished:
                self._pending.popleft()
                self._pending_bytes -= len(packed.data)
        return bool(self._pending)

    def _overflow(self, packed: PackedUnit) -> None:
        """Too far behind: leave out what waits. A key frame begins anew at once."""
        self._drop(len(self._pending))
        self._clear()
        self._limit = QUEUE_BYTES
        if packed.key or VIDEO not in self.outputs:
            self._pending.append(packed)
            self._pending_bytes = len(packed.data)
        else:
            self._needs_key = True
            self._drop(1)

    def _clear(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0
        for output in self.outputs.values():
            output.forget_rest()

    def _drop(self, units: int) -> None:
        self.dropped += units
        self._on_drop(units)
