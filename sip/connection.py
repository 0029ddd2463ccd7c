"""One connection to a peer: its messages cut out of the stream, a bounded way to write, and when it has to go."""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import count
from typing import Protocol, cast

from sip.flow import Flow, Target, TransportName
from sip.framing import StreamFramer
from sip.transport_shared import Receiver, TransportLimits

log = logging.getLogger(__name__)

_connection_numbers = count(1)


class Owner(Protocol):
    """What a connection needs of the table it is in."""

    @property
    def receiver(self) -> Receiver: ...

    def connection_opened(self, connection: Connection) -> bool: ...

    def connection_lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One TCP or TLS connection, accepted or dialled."""

    def __init__(self, owner: Owner, target: Target | None = None) -> None:
        self._owner = owner
        self._framer = StreamFramer()
        self._stream: asyncio.Transport | None = None
        self.target = target
        self.number = next(_connection_numbers)
        self.flow = Flow("tcp", "", 0, "", 0, self.number)
        self._early: list[bytes] = []
        self._over = False
        self.last_heard = self.stalled_since = self.partial_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        local = transport.get_extra_info("sockname") or ("", 0)
        name: TransportName = "tls" if transport.get_extra_info("ssl_object") is not None else "tcp"
        self.flow = Flow(name, str(peer[0]), int(peer[1]), str(local[0]), int(local[1]), self.number)
        self.last_heard = time.monotonic()
        self._stream.set_write_buffer_limits(high=64 * 1024)
        if self._over or not self._owner.connection_opened(self):
            self._stream.abort()
            return
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self._stream is None:  # start_tls may deliver before it returns
            self._early.append(data)
            return
        receiver = self._owner.receiver
        self.last_heard = time.monotonic()
        messages = self._framer.feed(data)
        for message in messages:
            receiver.message_received(message, self.flow)
        fault = self._framer.fault
        if fault is not None:
            receiver.stream_broken(fault, self.flow)
        receiver.batch_done()
        if fault is not None and self._stream is not None:
            self._stream.close()
        if not self._framer.pending:
            self.partial_since = 0.0
        elif messages or not self.partial_since:
            self.partial_since = self.last_heard

    def write(self, data: bytes, limit: int) -> bool:
        """Queue bytes; False when the peer has stopped reading and the bound is reached (it is then closed)."""
        stream = self._stream
        if stream is None or stream.is_closing():
            return False
        if stream.get_write_buffer_size() + len(data) > limit:
            log.warning("event=peer_does_not_read flow=%s", self.flow)
            stream.abort()
            return False
        stream.write(data)
        return True

    def pause_writing(self) -> None:
        self.stalled_since = time.monotonic()

    def resume_writing(self) -> None:
        self.stalled_since = 0.0

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream = None
        self._over = True
        self._owner.connection_lost(self)

    def overdue(self, now: float, limits: TransportLimits) -> str:
        """Why this connection has to go, "" when it may stay."""
        if self.stalled_since and now - self.stalled_since > limits.write_stall_s:
            return "write_stall"
        if self.partial_since and now - self.partial_since > limits.partial_message_s:
            return "partial_message"
        return "idle" if now - self.last_heard > limits.idle_s else ""

    def abort(self) -> None:
        if self._stream is not None:
            self._stream.abort()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
