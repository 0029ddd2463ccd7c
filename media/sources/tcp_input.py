"""One TCP connection that brings RTP: read into its deframer, whole packets handed on."""

from __future__ import annotations

import socket
from collections.abc import Callable

from media.pump import Pump
from media.rfc4571 import Deframer

Address = tuple[str, int]


class TcpInput:
    """One TCP connection: reads into its deframer, hands whole packets on. Closed by its owner or by the peer."""

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        pump: Pump,
        now: float,
        *,
        packets: Callable[[TcpInput, list[tuple[int, int]], float], None],
        ended: Callable[[TcpInput], None],
    ) -> None:
        self.sock = sock
        self.address = address
        self.opened_mono = now
        self.deframer = Deframer()
        self._pump = pump
        self._packets = packets
        self._ended = ended
        pump.register(sock, self._drain)

    def take(self, data: bytes, now: float) -> None:
        """Bytes that were read before."""
        self.deframer.space()[: len(data)] = data
        spans = self.deframer.advance(len(data))
        if spans:
            self._packets(self, spans, now)

    def close(self) -> None:
        self._pump.unregister(self.sock)
        self.sock.close()

    def _drain(self, now: float) -> None:
        try:
            count = self.sock.recv_into(self.deframer.space())
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0:
            self.close()
            self._ended(self)
            return
        spans = self.deframer.advance(count)
        if spans:
            self._packets(self, spans, now)
