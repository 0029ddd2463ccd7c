"""What one RTSP viewer is sent: over its connection (interleaved) or by UDP, paced at the start, never too much waiting.

A viewer that is too slow loses what waits, up to the next key frame. Its sequence numbers go on without a gap, so
that only what the network loses looks lost.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from media.ports import PortLease
from media.pump import UdpOutput
from media.readers.rtsp import rtcp
from media.readers.rtsp.channel import Channel
from media.readers.rtsp.tracks import PAYLOAD_LIMIT, VIDEO, PackedUnit, TrackPackets
from media.runs import Run

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

    def every_tick(self, owner: object, work: Callable[[float], bool]) -> None: ...

    def forget(self, owner: object) -> None: ...


class Wire(Protocol):
    """The viewer's RTSP connection."""

    @property
    def blocked(self) -> bool:
        """As much waits in its buffer as may."""
        ...

    def write(self, data: bytes | bytearray) -> None: ...


class TrackOutput:
    """One track's way to one viewer. ``next_sequence`` is the number of its next packet; None before the first."""

    def __init__(self, track: TrackPackets, name: str) -> None:
        self.track = track
        self.next_sequence: int | None = None
        self.packets = 0
        self.octets = 0
        self._name = name
        self._reported_s: float | None = None

    def _advance(self, packed: PackedUnit) -> int:
        """Account for ``packed``; returns its first sequence number for this viewer."""
        sequence = packed.sequence if self.next_sequence is None else self.next_sequence
        self.next_sequence = sequence + packed.count & 0xFFFF
        self.packets += packed.count
        self.octets += packed.payload_bytes
        return sequence

    def send(self, packed: PackedUnit, budget: int) -> int:
        """Send ``packed``, or as much of it as ``budget`` bytes allow; returns the bytes sent."""
        raise NotImplementedError

    @property
    def unfinished(self) -> bool:
        """Part of the last unit is still to be sent."""
        return False

    def forget_rest(self) -> None:
        """What is left of the last unit will not be sent."""

    def _report(self, data: bytes) -> None:
        raise NotImplementedError

    def report(self, ticks: int | None, unix_s: float) -> None:
        """A sender report when one is due. ``ticks``: where the stream's clock is at ``unix_s``."""
        due = self._reported_s is None or unix_s - self._reported_s >= rtcp.INTERVAL_S
        if ticks is None or not due:
            return
        self._reported_s = unix_s
        self._report(
            rtcp.sender_report(
                self.track.ssrc, unix_s=unix_s, rtp_timestamp=self.track.stamp(ticks),
                packets=self.packets, octets=self.octets, name=self._name,
            )
        )  # fmt: skip

    def close(self, *, over: bool) -> None:
        """Give back what was taken. ``over``: tell the viewer that no more will come."""
        if over:
            self._report(rtcp.goodbye(self.track.ssrc, self._name))


class InterleavedOutput(TrackOutput):
    """Over the RTSP connection, on two channels of it."""

    def __init__(self, track: TrackPackets, name: str, wire: Wire, channels: tuple[int, int]) -> None:
        super().__init__(track, name)
        self.channels = channels
        self._wire = wire
        self._other = channels[0] if channels[0] != 2 * track.number else None

    def send(self, packed: PackedUnit, budget: int) -> int:
        sequence = self._advance(packed)
        if sequence == packed.sequence and self._other is None:
            self._wire.write(packed.data)
        else:
            self._wire.write(packed.renumbered(sequence, self._other))
        return len(packed.data)

    def _report(self, data: bytes) -> None:
        self._wire.write(bytes((0x24, self.channels[1])) + len(data).to_bytes(2, "big") + data)


class UdpTrackOutput(TrackOutput):
    """From a leased pair of ports to the client's; both sockets are connected."""

    def __init__(
        self,
        track: TrackPackets,
        name: str,
        lease: PortLease,
        *,
        gso: bool,
        give_back: Callable[[PortLease], None],
    ) -> None:
        super().__init__(track, name)
        self.lease = lease
        self._give_back = give_back
        self._output = UdpOutput(lease.rtp, gso=gso)
        self._rest: Run | None = None

    @property
    def dropped(self) -> int:
        return self._output.dropped

    @property
    def unfinished(self) -> bool:
        return self._rest is not None

    def forget_rest(self) -> None:
        self._rest = None

    def send(self, packed: PackedUnit, budget: int) -> int:
        run = self._rest
        if run is None:
            sequence = self._advance(packed)
            copy = None if sequence == packed.sequence else packed.renumbered(sequence, None)
            run = packed.run(copy)
        self._rest = None
        fitting = max(1, budget // (PAYLOAD_LIMIT + 12))
        if fitting < len(run):
            self._rest = run.part(fitting, len(run))
            run = run.part(0, fitting)
        self._output.send(run)
        return sum(run.sizes)

    def _report(self, data: bytes) -> None:
        if self.lease.rtcp is not None:
            with contextlib.suppress(OSError):
                self.lease.rtcp.send(data)

    def close(self, *, over: bool) -> None:
        super().close(over=over)
        self._give_back(self.lease)

    def heard(self) -> bool:
        """Read away what came to both ports; True when a receiver report was among it."""
        alive = False
        for sock in (self.lease.rtp, self.lease.rtcp):
            alive |= sock is not None and _read_away(sock, report=sock is self.lease.rtcp)
        return alive


def _read_away(sock: socket.socket, *, report: bool) -> bool:
    alive = False
    with contextlib.suppress(OSError):
        for _ in range(32):
            alive |= rtcp.is_report(sock.recv(2048)) and report
    return alive


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
        if not self._pending and size <= BURST_BYTES and not self._held_back:
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
        budget = max(PACED_BYTES, self._pending_bytes // 64)
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
