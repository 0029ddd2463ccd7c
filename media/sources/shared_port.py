"""One receiving port for many sessions, where firewalls leave no more (field quirk 27)."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from media import rtp
from media.host_check import kernel_drops
from media.ingest import Ingest
from media.mmsg import SLOTS, BatchReceiver, address_of
from media.pump import ARENA_BYTES, Pump
from media.sources.tcp_input import Address, TcpInput
from media.specs import ReceiverSpec, Transport
from media.tcp import tune

_DRAIN_LIMIT = ARENA_BYTES - 64 * 1024
_DRAIN_ROUNDS = 64
"""Batches of 64 packets that one tick takes: 9 Gbit/s."""
_STRIDE = 2048
"""Room for each packet: streams of all packet sizes come in here."""
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
        self._known: dict[bytes, SharedSession] = {}
        """The same by raw address and SSRC, as they stand in a batch."""
        self._strangers: list[TcpInput] = []
        pump.register(udp, self._drain)
        pump.register(listener, self._accept)

    def add(self, source: SharedSession) -> None:
        self._sessions.append(source)

    def remove(self, source: SharedSession) -> None:
        if source in self._sessions:
            self._sessions.remove(source)
        self._routes = {key: value for key, value in self._routes.items() if value is not source}
        self._known = {key: value for key, value in self._known.items() if value is not source}

    @property
    def kernel_drops(self) -> int:
        """Datagrams that did not fit into the port's buffer."""
        return kernel_drops(self._udp)

    def close(self) -> None:
        for connection in self._strangers:
            connection.close()
        for sock in (self._udp, self._listener):
            self._pump.unregister(sock)
            sock.close()

    def _drain(self, now: float) -> None:
        """Read what is there, many packets at a time where the system can."""
        receiver = self._pump.receiver(self._udp.family)
        if receiver is None:
            self._drain_singly(now)
            return
        number = self._udp.fileno()
        for _ in range(_DRAIN_ROUNDS):
            lengths = receiver.receive(number, _STRIDE)
            self._sort(receiver, lengths, now)
            if len(lengths) < SLOTS or self._udp.fileno() < 0:
                return

    def _sort(self, receiver: BatchReceiver, lengths: list[int], now: float) -> None:
        """One batch: each session gets its packets with one call, in their order."""
        batches: dict[int, tuple[SharedSession, list[int], list[int]]] = {}
        arena, names, size_of_name = receiver.arena, receiver.names, receiver.name_size
        for slot, size in enumerate(lengths):
            start = slot * _STRIDE
            if size < rtp.HEADER_SIZE:
                continue
            key = bytes(
                names[slot * size_of_name : (slot + 1) * size_of_name] + arena[start + 8 : start + 12]
            )
            source = self._known.get(key)
            if source is None:
                source = self._first(receiver, slot, size, key, now)
                if source is None:
                    continue
            batch = batches.get(id(source))
            if size > _STRIDE:
                if batch is not None:
                    self._hand_on(batches.pop(id(source)), now)
                whole = bytearray(receiver.whole(slot, _STRIDE, size))
                source.feed(whole, memoryview(whole), [0], [size], now)
                continue
            if batch is None:
                batch = batches[id(source)] = (source, [], [])
            batch[1].append(start)
            batch[2].append(size)
        for batch in batches.values():
            self._hand_on(batch, now)

    def _hand_on(self, batch: tuple[SharedSession, list[int], list[int]], now: float) -> None:
        source, starts, sizes = batch
        source.feed(self._pump.arena, self._pump.view, starts, sizes, now)

    def _first(
        self, receiver: BatchReceiver, slot: int, size: int, key: bytes, now: float
    ) -> SharedSession | None:
        """The session of a source and SSRC that were not seen together before."""
        packet = receiver.whole(slot, _STRIDE, size)
        ssrc = int.from_bytes(packet[8:12], "big")
        address = address_of(receiver.source(slot))
        source = self._routes.get((address, ssrc)) or self._route(packet, address, ssrc, now)
        if source is not None:
            self._known[key] = source
        return source

    def _drain_singly(self, now: float) -> None:
        """One system call per packet, where there is no other way."""
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
