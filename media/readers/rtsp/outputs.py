"""The ways to one RTSP viewer, per track: on two channels of its connection (interleaved), or from a pair of UDP ports."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Protocol

from media.ports import PortLease
from media.pump import UdpOutput
from media.readers.rtsp import rtcp
from media.readers.rtsp.tracks import PAYLOAD_LIMIT, PackedUnit, TrackPackets
from media.runs import Run


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
