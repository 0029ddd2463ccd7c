"""How an input's own process hands access units to the node: over a socket, never waiting for it, with a bound."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import threading
from collections import deque
from typing import Any

from media.unit import AccessUnit, Codec

CODECS = tuple(Codec)
HEAD = struct.Struct("!cBBxIqqI")
"""Kind, codec, flags, bytes that follow, pts, dts, units dropped so far. The last four are 0 in a note."""
UNIT, NOTE = b"U", b"N"
KEY, DAMAGED = 1, 2
PENDING_BYTES = 4 * 1024 * 1024
"""What may wait for a busy node. Above it pictures are dropped up to the next key frame."""
GOODBYE_S = 1.0
"""So long the camera may take for our TEARDOWN when the input is closed."""


class NodeGone(Exception):
    """The node closed the socket."""


class Failure(Exception):
    """Why reading ended. ``cause``: refused | not_found | dial_failed | connection_lost | no_rtp | unreadable |
    ended. ``detail`` never holds an address or a password."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause, detail)
        self.cause = cause
        self.detail = detail


class Outlet:
    """The socket to the node: units in order, never blocking the reading, with a bound on what waits."""

    def __init__(self, sock: socket.socket) -> None:
        self.closing = threading.Event()
        """The node wants no more."""
        self.dropped = 0
        self._sock = sock
        self._pending: deque[memoryview] = deque()
        self._pending_bytes = 0
        self._wait_for_key = False
        sock.setblocking(False)

    def watch(self) -> None:
        """In a thread of its own: the node closes the socket, the reading gets a moment to say goodbye, then it ends."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLHUP)
        poll.poll()
        self.closing.set()
        threading.Event().wait(GOODBYE_S)
        os._exit(0)

    def unit(self, unit: AccessUnit) -> None:
        """Hand over one unit, or count it as dropped. Raises NodeGone."""
        self._flush()
        if self._wait_for_key and unit.key and self._pending_bytes < PENDING_BYTES // 2:
            self._wait_for_key = False
        full = self._pending_bytes + len(unit.data) > PENDING_BYTES
        if full or (self._wait_for_key and unit.codec.is_video):
            self._wait_for_key = self._wait_for_key or unit.codec.is_video
            self.dropped += 1
            return
        flags = unit.key * KEY | unit.damaged * DAMAGED
        head = HEAD.pack(
            UNIT, CODECS.index(unit.codec), flags, len(unit.data), unit.pts, unit.dts, self.dropped
        )
        self._put(head + unit.data)

    def note(self, **fields: Any) -> None:
        """Something the node should know, as a JSON object."""
        body = json.dumps(fields).encode()
        self._put(HEAD.pack(NOTE, 0, 0, len(body), 0, 0, self.dropped) + body)

    def finish(self) -> None:
        """Send what is left, as far as the node takes it."""
        with contextlib.suppress(OSError):
            self._sock.settimeout(GOODBYE_S)
            while self._pending:
                self._sock.sendall(self._pending.popleft())
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _put(self, message: bytes) -> None:
        self._pending.append(memoryview(message))
        self._pending_bytes += len(message)
        self._flush()

    def _flush(self) -> None:
        while self._pending:
            piece = self._pending[0]
            try:
                sent = self._sock.send(piece)
            except BlockingIOError:
                return
            except OSError:
                raise NodeGone from None
            self._pending_bytes -= sent
            if sent == len(piece):
                self._pending.popleft()
            else:
                self._pending[0] = piece[sent:]
