"""Leases even RTP ports with their RTCP neighbour, drains what still arrives after a stream, lets ports rest.

A camera that never heard the BYE keeps sending. A port is therefore lent again only after it was silent for the
quarantine time; what arrives meanwhile is read away and counted as ghost packets (RFC 3550 11 for even and odd).
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Asked for each media socket: a key frame of 2K video overflows the usual 212 KiB (N packets at wire speed)."""
SHARED_RECEIVE_BUFFER = 32 * 1024 * 1024
"""Asked for a port that all streams share."""
SEND_BUFFER = 4 * 1024 * 1024
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_BUSY_REST_S = 5.0
_DRAIN_BATCH = 64


class NoPort(Exception):
    """Every port of the range is lent, resting or taken by another program."""


def media_socket(
    host: str,
    port: int,
    kind: socket.SocketKind = socket.SOCK_DGRAM,
    *,
    receive_buffer: int = RECEIVE_BUFFER,
) -> socket.socket:
    """A non-blocking socket bound to ``host`` and ``port`` with large buffers. OSError when it cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            grow(sock, receive_buffer, SEND_BUFFER)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def grow(sock: socket.socket, receive: int, send: int) -> tuple[int, int]:
    """Ask for buffers of so many bytes, beyond the kernel's limit where we may; returns what was given."""
    return (
        _grow(sock, socket.SO_RCVBUF, _SO_RCVBUFFORCE, receive),
        _grow(sock, socket.SO_SNDBUF, _SO_SNDBUFFORCE, send),
    )


def _grow(sock: socket.socket, option: int, force: int, size: int) -> int:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)  # needs CAP_NET_ADMIN
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    return sock.getsockopt(socket.SOL_SOCKET, option) // 2  # Linux reports the double


@dataclass(eq=False)
class PortLease:
    """One lent pair of ports. ``rtp`` and ``rtcp`` are bound sockets: UDP, or a TCP listener and None.

    The lease owns the sockets; :meth:`release` gives them back to the pool and is idempotent.
    """

    port: int
    rtp: socket.socket
    rtcp: socket.socket | None
    _pool: PortPool = field(repr=False)
    released: bool = False

    def release(self, now: float, *, hear_ghosts: bool = True) -> None:
        """``hear_ghosts`` False closes the UDP socket at once: nobody sends media to a sender's port."""
        if not self.released:
            self.released = True
            self._pool.take_back(self, now, hear_ghosts=hear_ghosts)


@dataclass(eq=False)
class _Resting:
    port: int
    silent_since: float
    sock: socket.socket | None


class PortPool:
    """Even ports from ``low`` to ``high``, lent in turn so that each rests as long as possible."""

    def __init__(self, low: int, high: int, host: str = "0.0.0.0", quarantine_s: float = 30.0) -> None:
        first = low + (low & 1)
        self._free = deque(range(first, high, 2))
        self._total = len(self._free)
        self._host = host
        self._quarantine_s = quarantine_s
        self._leased: set[PortLease] = set()
        self._resting: list[_Resting] = []
        self.ghost_packets = 0
        """Packets that came to a port after its stream had ended."""
        self.on_ghost: Callable[[int], None] | None = None

    @property
    def leased(self) -> int:
        return len(self._leased)

    @property
    def quarantined(self) -> int:
        return len(self._resting)

    @property
    def free(self) -> int:
        return len(self._free)

    def lease_udp(self, now: float) -> PortLease:
        """A bound pair of UDP sockets. Raises NoPort."""
        return self._lease(now, udp=True)

    def lease_tcp(self, now: float, *, listen: bool = True) -> PortLease:
        """A TCP socket bound, and listening unless it only keeps the port for dialling. Raises NoPort."""
        return self._lease(now, udp=False, listen=listen)

    def _lease(self, now: float, *, udp: bool, listen: bool = True) -> PortLease:
        self.sweep(now)
        for _ in range(len(self._free)):
            port = self._free.popleft()
            try:
                lease = self._open(port, udp=udp, listen=listen)
            except OSError:  # another program has it: try again later
                self._resting.append(_Resting(port, now - self._quarantine_s + _BUSY_REST_S, None))
                continue
            self._leased.add(lease)
            return lease
        raise NoPort(f"none of {self._total} ports is free")

    def _open(self, port: int, *, udp: bool, listen: bool) -> PortLease:
        if not udp:
            listener = media_socket(self._host, port, socket.SOCK_STREAM)
            try:
                if listen:
                    listener.listen(8)
            except OSError:
                listener.close()
                raise
            return PortLease(port, listener, None, self)
        rtp = media_socket(self._host, port)
        try:
            rtcp = media_socket(self._host, port + 1)
        except OSError:
            rtp.close()
            raise
        return PortLease(port, rtp, rtcp, self)

    def take_back(self, lease: PortLease, now: float, *, hear_ghosts: bool) -> None:
        """Called by :meth:`PortLease.release`: close what listens, keep the UDP socket to hear ghosts."""
        self._leased.discard(lease)
        if lease.rtcp is not None:
            lease.rtcp.close()
        sock: socket.socket | None = lease.rtp
        if lease.rtp.type == socket.SOCK_STREAM or not hear_ghosts:
            lease.rtp.close()
            sock = None
        self._resting.append(_Resting(lease.port, now, sock))

    def sweep(self, now: float) -> None:
        """Read ghosts away and free the ports that were silent long enough. Call it every second or so."""
        remaining = []
        for resting in self._resting:
            if resting.sock is not None and (ghosts := _drain(resting.sock)):
                self.ghost_packets += ghosts
                resting.silent_since = now
                if self.on_ghost is not None:
                    self.on_ghost(resting.port)
            if now - resting.silent_since < self._quarantine_s:
                remaining.append(resting)
                continue
            if resting.sock is not None:
                resting.sock.close()
            self._free.append(resting.port)
        self._resting = remaining

    def close(self) -> None:
        """Close the sockets of resting ports; leases are their owners' business."""
        for resting in self._resting:
            if resting.sock is not None:
                resting.sock.close()
        self._resting.clear()


def _drain(sock: socket.socket) -> int:
    count = 0
    with contextlib.suppress(OSError):
        while count < _DRAIN_BATCH:
            sock.recv(2048)
            count += 1
    return count
