"""One receiving port for many sessions, where firewalls leave no more (field quirk 27)."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from media import rtp
from media.ingest import Ingest
from media.pump import ARENA_BYTES, Pump
from media.sources.tcp_input import Address, TcpInput
from media.specs import ReceiverSpec, Transport
from media.tcp import tune

_DRAIN_LIMIT = ARENA_BYTES - 64 * 1024
_MAX_STRANGERS = 64


class SharedSession(Protocol):
    """What the port needs of a session."""

    spec: ReceiverSpec
    ingest: Ingest
    source: Address | None
    remote_host: str | None

    def accepts(self, packet: bytes, address: Address, now: float) -> bool: ...

    def feed(
        self, buffer: bytearray, view: memoryview, starts: Sequence[int], sizes: list[int], now: float
    ) -> None: ...

    def adopt(self, sock: socket.socket, address: Address, now: float, data: bytes = b"") -> None: ...


class SharedPort:
    """One UDP and TCP port for many sessions, told apart by SSRC and source (field quirk 27).

    A packet of an unknown source goes to the session that waits for its SSRC, else to the only waiting session of its
    host, else to the only waiting session at all; else it is foreign.
    """

    def __init__(
        self, port: int, *, host: str, pump: Pump, udp: socket.socket, listener: socket.socket
    ) -> None:
        self.port = port
        self.foreign = 0
        self._pump = pump
        self._udp = udp
        self._listener = listener
        self._sessions: list[SharedSession] = []
        self._routes: dict[tuple[Address, int], SharedSession] = {}
        self._strangers: list[TcpInput] = []
        pump.register(udp, self._drain)
        pump.register(listener, self._accept)

    def add(self, source: SharedSession) -> None:
        self._sessions.append(source)

    def remove(self, source: SharedSession) -> None:
        if source in self._sessions:
            self._sessions.remove(source)
        self._routes = {key: value for key, value in self._routes.items() if value is not source}

    def close(self) -> None:
        for connection in self._strangers:
            connection.close()
        for sock in (self._udp, self._listener):
            self._pump.unregister(sock)
            sock.close()

    def _drain(self, now: float) -> None:
        receive, view = self._udp.recvfrom_into, self._pump.view
        batches: dict[int, tuple[SharedSession, list[int], list[int]]] = {}
        position = 0
        while position < _DRAIN_LIMIT:
            try:
                size, address = receive(view[position:])
            except OSError:
                break
            if size < rtp.HEADER_SIZE:
                continue
            ssrc = int.from_bytes(view[position + 8 : position + 12], "big")
            source = self._routes.get((address[:2], ssrc))
            if source is None:
                source = self._route(bytes(view[position : position + size]), address[:2], ssrc, now)
                if source is None:
                    continue
            batch = batches.get(id(source))
            if batch is None:
                batch = batches[id(source)] = (source, [], [])
            batch[1].append(position)
            batch[2].append(size)
            position += size
        for source, starts, sizes in batches.values():
            source.feed(self._pump.arena, view, starts, sizes, now)

    def _route(self, packet: bytes, address: Address, ssrc: int, now: float) -> SharedSession | None:
        source = self._match(address, ssrc, Transport.UDP)
        if source is None or not source.accepts(packet, address, now):
            self.foreign += 1
            return None
        source.source = address
        self._routes[(address, ssrc)] = source
        return source

    def _match(self, address: Address, ssrc: int, transport: Transport) -> SharedSession | None:
        sessions = [source for source in self._sessions if source.spec.transport is transport]
        named = [source for source in sessions if ssrc in (source.ingest.wanted, source.ingest.ssrc)]
        if named:
            return next((source for source in named if source.remote_host == address[0]), named[0])
        same = [
            source for source in sessions if source.source == address and source.remote_host == address[0]
        ]
        if len(same) == 1:
            return same[0]
        waiting = [source for source in sessions if source.source is None]
        of_host = [source for source in waiting if source.remote_host == address[0]]
        for fitting in (of_host, waiting):
            if len(fitting) == 1:
                return fitting[0]
        return None

    def _accept(self, now: float) -> None:
        while True:
            try:
                sock, address = self._listener.accept()
            except OSError:
                return
            self._strangers = [item for item in self._strangers if item.sock.fileno() >= 0]
            while len(self._strangers) >= _MAX_STRANGERS:
                self._strangers.pop(0).close()
            tune(sock)
            self._strangers.append(
                TcpInput(
                    sock, address[:2], self._pump, now, packets=self._assign, ended=lambda connection: None
                )
            )

    def _assign(self, connection: TcpInput, spans: list[tuple[int, int]], now: float) -> None:
        """The first packets of a connection say whose it is; the session takes it over with the bytes read."""
        view = connection.deframer.view
        start, size = spans[0]
        if rtp.is_rtcp(view[start : start + size]):
            return
        ssrc = int.from_bytes(view[start + 8 : start + 12], "big")
        source = self._match(connection.address, ssrc, Transport.TCP_PASSIVE)
        self._strangers.remove(connection)
        self._pump.unregister(connection.sock)
        if source is None:
            self.foreign += len(spans)
            connection.sock.close()
            return
        source.adopt(connection.sock, connection.address, now, bytes(connection.deframer.unread_from(start)))
