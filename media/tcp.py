"""TCP connections that carry RTP: dial with retries, write with a bounded backlog that drops whole packets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from media.runs import Run

DIAL_TRIES = 4
DIAL_INTERVAL_S = 1.0
"""GB/T 28181-2022 annex D: at least three tries, at least one second apart."""
DIAL_TIMEOUT_S = 3.0
_LENGTH = struct.Struct("!H")
_MAX_PIECES = 1024
"""Most pieces of one vectored write (IOV_MAX)."""


async def dial(
    host: str,
    port: int,
    *,
    local: tuple[str, int] | None = None,
    tries: int = DIAL_TRIES,
    interval_s: float = DIAL_INTERVAL_S,
) -> socket.socket:
    """Connect to ``host:port``, from ``local`` where the kernel allows it. OSError when the last try failed."""
    loop = asyncio.get_running_loop()
    for attempt in range(1, tries + 1):
        started = loop.time()
        sock = _outgoing(host, local)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await loop.sock_connect(sock, (host, port))
        except (OSError, TimeoutError) as error:
            sock.close()
            if attempt == tries:
                raise OSError(f"no connection to {host}:{port} after {tries} tries: {error}") from error
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                local = None
            await asyncio.sleep(max(0.0, interval_s - (loop.time() - started)))
            continue
        except BaseException:
            sock.close()
            raise
        tune(sock)
        return sock
    raise OSError("no try was asked for")


def _outgoing(host: str, local: tuple[str, int] | None) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if local is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # the port of our SDP is a courtesy; any other works
            sock.bind(local)
    return sock


def tune(sock: socket.socket) -> None:
    """Non-blocking, without Nagle's delay."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class TcpOutput:
    """Writes runs with RFC 4571 lengths. Above ``limit_bytes`` of backlog whole runs are dropped and counted.

    After a drop nothing is taken until half of the backlog is gone, so a slow peer gets few long gaps instead of
    many short ones. ``on_lost`` is called once when the connection broke.
    """

    def __init__(self, sock: socket.socket, *, limit_bytes: int, on_lost: Callable[[], None]) -> None:
        self.sock = sock
        self.sent = 0
        self.dropped = 0
        self.backlog_bytes = 0
        self._limit = limit_bytes
        self._backlog: deque[memoryview] = deque()
        self._dropping = False
        self._on_lost = on_lost
        self._broken = False

    def send(self, run: Run) -> None:
        """Send all packets of ``run``, or keep what the socket does not take."""
        if self._broken:
            return
        if self._dropping and self.backlog_bytes <= self._limit // 2:
            self._dropping = False
        if self._dropping or self.backlog_bytes > self._limit:
            self._dropping = True
            self.dropped += len(run)
            return
        self.sent += len(run)
        whole = _with_lengths(run)
        if whole is not None:
            self._write_pieces([whole])
            return
        pack, view = _LENGTH.pack, run.view
        parts: list[bytes | memoryview] = []
        for start, size in zip(run.starts, run.sizes, strict=True):
            parts.append(pack(size))
            parts.append(view[start : start + size])
        for first in range(0, len(parts), _MAX_PIECES):
            self._write_pieces(parts[first : first + _MAX_PIECES])

    def _write_pieces(self, parts: Sequence[bytes | memoryview]) -> None:
        """Lengths and packets as they lie, in one call. What the socket does not take is copied into the backlog."""
        if self._broken:
            return
        taken = 0
        if not self._backlog:
            try:
                taken = self.sock.sendmsg(parts)
            except BlockingIOError:
                pass
            except OSError:
                self._broken = True
                self._on_lost()
                return
            if taken == sum(map(len, parts)):
                return
        rest = memoryview(b"".join(parts))[taken:]
        self._backlog.append(rest)
        self.backlog_bytes += len(rest)

    @property
    def waiting_bytes(self) -> int:
        """The backlog, nothing once the connection is broken."""
        return 0 if self._broken else self.backlog_bytes

    def write(self, data: bytes) -> None:
        """Send framed bytes in order."""
        rest = memoryview(data)
        if not self._backlog:
            rest = self._send(rest)
        if rest:
            self._backlog.append(rest)
            self.backlog_bytes += len(rest)

    def flush(self, now: float) -> bool:
        """Try the backlog again; True while some is left (a paced worker of the pump)."""
        while self._backlog and not self._broken:
            head = self._backlog[0]
            rest = self._send(head)
            self.backlog_bytes -= len(head) - len(rest)
            if rest:
                self._backlog[0] = rest
                break
            self._backlog.popleft()
        return bool(self._backlog) and not self._broken

    def _send(self, data: memoryview) -> memoryview:
        while data and not self._broken:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                break
            except OSError:
                self._broken = True
                self._on_lost()
                return memoryview(b"")
        return data


def _with_lengths(run: Run) -> memoryview | None:
    """The run with its lengths in front of the packets, where it came in so: from one TCP connection to the next."""
    starts, sizes, stride = run.starts, run.sizes, run.stride
    first, last, before = starts[0], starts[-1], len(sizes) - 1
    size = stride - _LENGTH.size
    if size <= 0 or first < _LENGTH.size or sizes[:-1].count(size) != before:
        return None
    buffer, high, low = run.buffer, *_LENGTH.pack(size)
    if (
        buffer[first - 2 : last - 2 : stride] != bytes((high,)) * before
        or buffer[first - 1 : last - 1 : stride] != bytes((low,)) * before
        or buffer[last - 2 : last] != _LENGTH.pack(sizes[-1])
    ):
        return None
    return run.view[first - _LENGTH.size : last + sizes[-1]]
