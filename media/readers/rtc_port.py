"""One UDP port for all WebRTC viewers of a node: each datagram finds its viewer's ICE connection.

A binding request names its viewer by the user name fragment (RFC 8445 7.2.2) and is proven by its integrity check;
from then on the sender's address is that viewer's, until a proven request comes from another address (a router gave
the viewer a new port). Whatever comes from elsewhere is counted and dropped. The sockets, one per local address so
that answers leave from where they were asked for, are drained in batches by the packet pump.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from aioice import stun
from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import Connection, StunProtocol

from media import mmsg
from media.errors import MediaError
from media.ports import media_socket
from media.pump import SOL_UDP, UDP_SEGMENT, Pump, probe_gso
from media.readers.rtc import announced_hosts, local_addresses
from media.specs import NodeConfig

log = logging.getLogger(__name__)

Address = tuple[str, int]

STRIDE = 1536
ROUNDS = 8
"""Batches of 64 that one drain takes at most."""
QUEUED_DATAGRAMS = 256
"""Waiting for one viewer's DTLS and RTCP; more are dropped."""
ADDRESSES_PER_VIEWER = 16
SILENT_S = 3.0
"""A chosen address that said nothing for so long gives way to another one that proves itself."""

_SEGMENT = struct.Struct("=H")
_MAX_REFUSALS = 3


@dataclass(slots=True)
class PortCounters:
    """Datagrams of one node's WebRTC viewers."""

    received: int = 0
    stray: int = 0
    """From nobody we know."""
    refused: int = 0
    """Binding requests that could not prove that they belong to a viewer."""
    dropped: int = 0
    """Known, but its viewer did not keep up."""
    unsent: int = 0
    """Outgoing packets that the kernel did not take; receivers ask for them again."""
    moved: int = 0
    """Viewers that went on from another address."""


class Wire:
    """One bound socket, the way out."""

    def __init__(self, sock: socket.socket, counters: PortCounters, *, gso: bool) -> None:
        self.sock = sock
        self.gso = gso
        self.host: str = sock.getsockname()[0]
        self._counters = counters
        self._refusals = 0
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}

    def send(self, data: bytes, address: Address) -> None:
        """One datagram; what the kernel does not take is lost, as on any network."""
        try:
            self.sock.sendto(data, address)
        except OSError:
            self._counters.unsent += 1

    def send_run(self, run: memoryview, size: int, count: int, address: Address) -> None:
        """``count`` packets side by side, all but the last of ``size`` bytes: one call where the kernel can cut."""
        if count > 1 and self.gso:
            ancillary = self._ancillary.get(size)
            if ancillary is None:
                ancillary = self._ancillary[size] = [(SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(size))]
            try:
                self.sock.sendmsg((run,), ancillary, 0, address)
            except BlockingIOError:
                self._counters.unsent += count
                return
            except OSError as error:
                self._refused(error)
            else:
                return
        for start in range(0, len(run), size):
            try:
                self.sock.sendto(run[start : start + size], address)
            except OSError:
                self._counters.unsent += 1

    def _refused(self, error: OSError) -> None:
        """Some paths take no segmented sends. After a few refusals, do without."""
        if error.errno in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP):
            self._refusals += 1
            if self._refusals == _MAX_REFUSALS:
                self.gso = False
                log.warning("event=segmentation_off reason=%s", errno.errorcode.get(error.errno, "unknown"))


class Leg(StunProtocol):
    """What an ICE connection takes for its own socket: one viewer's share of a :class:`Wire`."""

    def __init__(self, port: ViewerPort, wire: Wire, connection: Connection, announced: Candidate) -> None:
        super().__init__(connection)
        self.wire = wire
        self.connection = connection
        self.local_candidate = announced
        self._port = port

    async def close(self) -> None:
        self._port.remove(self.connection)

    async def request(
        self, request: stun.Message, *args: Any, **options: Any
    ) -> tuple[stun.Message, Address]:
        """A transaction of ours: its answer is known by its id, wherever it comes from."""
        try:
            return await super().request(request, *args, **options)
        finally:
            self._port.asked.pop(request.transaction_id, None)

    async def send_data(self, data: bytes, addr: Address) -> None:
        self.wire.send(data, addr)

    def send_stun(self, message: stun.Message, addr: Address) -> None:
        if message.message_class == stun.Class.REQUEST:
            self._port.asked[message.transaction_id] = self
        self.wire.send(bytes(message), addr)


@dataclass(slots=True)
class _Route:
    leg: Leg
    heard_mono: float


@dataclass(slots=True)
class _Guest:
    """One viewer of the port."""

    connection: Connection
    candidate: Candidate
    legs: dict[Wire, Leg]
    addresses: list[tuple[Wire, Address]]


class ViewerPort:
    """The sockets of one port number and the viewers behind them. Close it when the node ends.

    ``on_empty``: it serves one viewer, closes with it and says so.
    """

    def __init__(
        self,
        pump: Pump,
        counters: PortCounters,
        *,
        gso: bool,
        on_empty: Callable[[ViewerPort], None] | None = None,
    ) -> None:
        self.port = 0
        self.counters = counters
        self.asked: dict[bytes, Leg] = {}
        """Our own STUN requests under way."""
        self._pump = pump
        self._gso = gso
        self._on_empty = on_empty
        self._wires: dict[str, Wire] = {}
        self._guests: dict[str, _Guest] = {}
        self._routes: dict[tuple[Wire, Address], _Route] = {}
        self._names: dict[bytes, Address] = {}

    def open(self, hosts: Iterable[str], port: int) -> None:
        """Bind ``port`` (0: any free one) at each of these local addresses. OSError when one of them is taken: then
        none is bound."""
        try:
            for host in hosts:
                if host not in self._wires:
                    self._bind(host, self.port or port)
        except OSError:
            self.close()
            raise

    def cover(self, hosts: Iterable[str]) -> None:
        """Bind at addresses that have come since; one that cannot be bound is left out."""
        for host in hosts:
            if host not in self._wires:
                with contextlib.suppress(OSError):
                    self._bind(host, self.port)

    def _bind(self, host: str, port: int) -> None:
        sock = media_socket(host, port)
        self.port = sock.getsockname()[1]
        wire = self._wires[host] = Wire(sock, self.counters, gso=self._gso)
        self._pump.register(sock, lambda now: self._drain(wire, now))

    def close(self) -> None:
        """Release the port. Idempotent."""
        for wire in self._wires.values():
            self._pump.unregister(wire.sock)
            wire.sock.close()
        self._wires.clear()
        self._guests.clear()
        self._routes.clear()
        self.asked.clear()

    @property
    def viewers(self) -> int:
        return len(self._guests)

    # --- viewers -----------------------------------------------------------------------------------------------

    def add(self, connection: Connection, announced: Iterable[str]) -> list[Candidate]:
        """A new viewer: the host candidates for its answer, by address to announce."""
        candidates = [_candidate(host, self.port) for host in announced]
        self._guests[connection.local_username] = _Guest(connection, candidates[0], {}, [])
        return candidates

    def remove(self, connection: Connection) -> None:
        """The viewer is gone: its addresses are anybody's. Idempotent."""
        guest = self._guests.pop(connection.local_username, None)
        if guest is None:
            return
        for key in guest.addresses:
            route = self._routes.get(key)
            if route is not None and route.leg.connection is connection:
                del self._routes[key]
        if self._on_empty is not None:
            self.close()
            self._on_empty(self)

    def _leg(self, guest: _Guest, wire: Wire) -> Leg:
        """Made when the viewer is first heard on a socket: nothing is sent to addresses that only its offer claims."""
        leg = guest.legs.get(wire)
        if leg is None:
            leg = guest.legs[wire] = Leg(self, wire, guest.connection, guest.candidate)
            cast(Any, guest.connection)._protocols.append(leg)
        return leg

    # --- datagrams ---------------------------------------------------------------------------------------------

    def _drain(self, wire: Wire, now: float) -> None:
        receiver = self._pump.receiver(wire.sock.family)
        if receiver is None:
            self._drain_singly(wire, now)
            return
        for _ in range(ROUNDS):
            if wire.sock.fileno() < 0:
                return  # the viewer of a private port has left meanwhile
            lengths = receiver.receive(wire.sock.fileno(), STRIDE)
            # Copied first: what a datagram sets off may use the receiver's arena.
            packets = [
                (receiver.source(slot), receiver.whole(slot, STRIDE, length))
                for slot, length in enumerate(lengths)
            ]
            for name, data in packets:
                self._receive(wire, self._address(name), data, now)
            if len(lengths) < mmsg.SLOTS:
                return

    def _drain_singly(self, wire: Wire, now: float) -> None:
        for _ in range(ROUNDS * mmsg.SLOTS):
            try:
                data, address = wire.sock.recvfrom(9216)
            except OSError:
                return
            self._receive(wire, address[:2], data, now)

    def _address(self, name: bytes) -> Address:
        address = self._names.get(name)
        if address is None:
            if len(self._names) > 4096:
                self._names.clear()
            address = self._names[name] = mmsg.address_of(name)
        return address

    def _receive(self, wire: Wire, address: Address, data: bytes, now: float) -> None:
        """One datagram, told apart by its first byte (RFC 7983 7)."""
        counters = self.counters
        counters.received += 1
        if not data:
            counters.stray += 1
            return
        if data[0] < 4:
            self._stun(wire, address, data, now)
            return
        route = self._routes.get((wire, address))
        if route is None:
            counters.stray += 1
            return
        route.heard_mono = now
        connection = route.leg.connection
        if cast(Any, connection)._queue.qsize() >= QUEUED_DATAGRAMS:
            counters.dropped += 1
            return
        connection.data_received(data, 1)

    def _stun(self, wire: Wire, address: Address, data: bytes, now: float) -> None:
        try:
            message = stun.parse_message(data)
        except (ValueError, LookupError, struct.error):
            self.counters.stray += 1
            return
        if message.message_class == stun.Class.REQUEST:
            self._request(wire, address, message, now)
            return
        leg = self.asked.get(message.transaction_id)
        if leg is None or message.message_class == stun.Class.INDICATION:
            self.counters.stray += 1
            return
        if (route := self._routes.get((wire, address))) is not None:
            route.heard_mono = now
        leg.transactions[message.transaction_id].response_received(message, address)

    def _request(self, wire: Wire, address: Address, message: stun.Message, now: float) -> None:
        name = str(message.attributes.get("USERNAME", "")).partition(":")[0]
        guest = self._guests.get(name)
        if guest is None:
            self.counters.stray += 1
            return
        connection = guest.connection
        known = len(cast(Any, connection)._remote_candidates)
        if known > 4 * ADDRESSES_PER_VIEWER or not message.check_message_integrity(
            connection.local_password.encode()
        ):
            self.counters.refused += 1
            return
        leg = self._leg(guest, wire)
        self._learn(guest, leg, address, now)
        if self._moved(connection, leg, address, now):
            message.attributes["USE-CANDIDATE"] = None
        connection.request_received(message, address, leg)

    def _learn(self, guest: _Guest, leg: Leg, address: Address, now: float) -> None:
        key = (leg.wire, address)
        route = self._routes.get(key)
        if route is not None and route.leg is leg:
            route.heard_mono = now
            return
        self._routes[key] = _Route(leg, now)
        guest.addresses.append(key)
        if len(guest.addresses) > ADDRESSES_PER_VIEWER:
            oldest = guest.addresses.pop(0)
            stale = self._routes.get(oldest)
            if stale is not None and stale.leg.connection is guest.connection:
                del self._routes[oldest]

    def _moved(self, connection: Connection, leg: Leg, address: Address, now: float) -> bool:
        """Whether this is the viewer's only living address now: the chosen one has gone silent.

        Browsers nominate again by themselves; a consent check (RFC 7675) of others does not.
        """
        pair = cast(Any, connection)._nominated.get(1)
        if pair is None or (pair.remote_addr == address and pair.protocol is leg):
            return False
        chosen = self._routes.get((pair.protocol.wire, pair.remote_addr))
        if chosen is not None and chosen.leg.connection is connection and now - chosen.heard_mono < SILENT_S:
            return False
        self.counters.moved += 1
        return True


def _candidate(host: str, port: int) -> Candidate:
    return Candidate(
        foundation=candidate_foundation("host", "udp", host),
        component=1,
        transport="udp",
        priority=candidate_priority(1, "host"),
        host=host,
        port=port,
        type="host",
    )


class ViewerPorts:
    """Where a node's viewers are received: one port for all, or one each out of a range.

    A shared port that another program has is told, and the range used instead.
    """

    def __init__(self, config: NodeConfig, pump: Pump) -> None:
        self.counters = PortCounters()
        self._config = config
        self._pump = pump
        self._gso = False
        self._shared: ViewerPort | None = None
        self._private: set[ViewerPort] = set()
        self._homes: dict[Connection, ViewerPort] = {}

    @property
    def port(self) -> int:
        """The shared port; 0 when there is none."""
        return self._shared.port if self._shared is not None else 0

    def open(self) -> None:
        """Bind the shared port where one is wanted."""
        self._gso = probe_gso()
        wanted = self._config.webrtc_port
        if wanted is None:
            return
        shared = ViewerPort(self._pump, self.counters, gso=self._gso)
        try:
            shared.open(local_addresses(self._config.bind_host), wanted)
        except OSError as error:
            log.warning(
                "event=webrtc_port_taken port=%d error=%s advice='viewers use the range'", wanted, error
            )
        else:
            self._shared = shared

    def place(self, connection: Connection, forced_host: str | None) -> None:
        """Make ``connection`` live here instead of gathering sockets of its own.

        Its gathering raises MediaError(no_port) when the range has no port left.
        """
        config = self._config
        announced = announced_hosts(config.bind_host, config.media_host, forced_host)

        async def gather(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
            local = local_addresses(config.bind_host)
            if self._shared is not None:
                self._shared.cover(local)
                port = self._shared
            else:
                port = self._open_private(local)
            self._homes[connection] = port
            return port.add(connection, announced)

        cast(Any, connection).get_component_candidates = gather

    def leave(self, connection: Connection) -> None:
        """The viewer has gone, perhaps before anything was heard of it. Idempotent."""
        port = self._homes.pop(connection, None)
        if port is not None:
            port.remove(connection)

    def _open_private(self, hosts: list[str]) -> ViewerPort:
        """A port of one viewer's own; a random place first, so that it is rarely one just given back."""
        ports = range(self._config.webrtc_port_min, self._config.webrtc_port_max + 1)
        start = random.randrange(len(ports))
        for step in range(len(ports)):
            port = ViewerPort(self._pump, self.counters, gso=self._gso, on_empty=self._private.discard)
            with contextlib.suppress(OSError):
                port.open(hosts, ports[(start + step) % len(ports)])
                self._private.add(port)
                return port
        raise MediaError("no_port", "no UDP port is free for another WebRTC viewer")

    def close(self) -> None:
        """Release all ports. Idempotent."""
        for port in (*self._private, *((self._shared,) if self._shared is not None else ())):
            port.close()
        self._private.clear()
        self._homes.clear()
        self._shared = None
