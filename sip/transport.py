"""Sockets: UDP and TCP on one port number, TLS on another, the table of connections, and the way to a peer.

One UDP socket is drained in one callback (a bounded batch), so there is no asyncio machinery per datagram.
Whatever a peer does, a write never waits: what does not fit within bounds is dropped (UDP) or ends the
connection (TCP).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from typing import Protocol, cast

from sip.errors import TransportFailed
from sip.flow import Flow, Target, TransportName
from sip.framing import FrameFault, StreamFramer
from sip.observer import Observer
from sip.tls import Tls, TlsFault, tls_fault

log = logging.getLogger(__name__)

_connection_numbers = count(1)


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds of the sockets."""

    udp_batch: int = 64
    udp_receive_buffer: int = 8 * 1024 * 1024
    udp_send_queue: int = 4096
    connections: int = 20_000
    connect_timeout_s: float = 3.0
    write_buffer_bytes: int = 2 * 1024 * 1024
    write_stall_s: float = 10.0
    partial_message_s: float = 30.0
    idle_s: float = 1800.0
    dial_queue: int = 256
    handshakes: int = 500
    """TLS handshakes of peers at one time."""
    handshake_timeout_s: float = 10.0


class Receiver(Protocol):
    """What the transport tells."""

    def message_received(self, data: bytes, flow: Flow) -> None: ...
    def stream_broken(self, fault: FrameFault, flow: Flow) -> None: ...
    def batch_done(self) -> None: ...
    def connection_closed(self, flow: Flow) -> None: ...
    def send_failed(self, destination: Flow | Target, cause: str = "") -> None: ...


def is_address(host: str) -> bool:
    """Whether a host is an IP literal."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


_Peer = tuple[str, str, int, str]


def _peer(target: Target) -> _Peer:
    """What makes a connection fit a target: transport, address, and the name its certificate was checked for."""
    return target.transport, target.host, target.port, target.server_name


class Routes:
    """Under which of our addresses a peer sees us: asked of the kernel's routes, remembered for a minute."""

    def __init__(self, bound_host: str, *, max_entries: int = 20_000, lifetime_s: float = 60.0) -> None:
        self._fixed = "" if bound_host in ("", "0.0.0.0", "::") else bound_host
        self._known: dict[str, str] = {}
        self._since = 0.0
        self._max_entries = max_entries
        self._lifetime_s = lifetime_s

    def local_host(self, host: str) -> str:
        """Our address towards ``host``. A name instead of an address is answered by the default route."""
        if self._fixed:
            return self._fixed
        now = time.monotonic()
        if now - self._since > self._lifetime_s or len(self._known) >= self._max_entries:
            self._known.clear()
            self._since = now
        found = self._known.get(host)
        if found is None:
            found = self._known[host] = self._ask(host)
        return found

    def _ask(self, host: str) -> str:
        peer = host if is_address(host) else "203.0.113.1"
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((peer, 9))
                return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


class Connection(asyncio.Protocol):
    """One TCP connection, accepted or dialled."""

    def __init__(self, transport: SocketTransport, target: Target | None = None) -> None:
        self._owner = transport
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
        owner = self._owner
        self.last_heard = time.monotonic()
        messages = self._framer.feed(data)
        for message in messages:
            owner.receiver.message_received(message, self.flow)
        fault = self._framer.fault
        if fault is not None:
            owner.receiver.stream_broken(fault, self.flow)
        owner.receiver.batch_done()
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


class _Greeting(asyncio.Protocol):
    """An accepted connection before its TLS handshake: nothing is read until the handshake runs."""

    def __init__(self, owner: SocketTransport) -> None:
        self._owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.pause_reading()
        self._owner.greet(stream)


class SocketTransport:
    """Owns the UDP socket, the TCP and TLS listeners, all connections and the tasks that dial or look names up."""

    def __init__(
        self,
        host: str,
        port: int,
        receiver: Receiver,
        *,
        limits: TransportLimits | None = None,
        observer: Observer | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.tls_port = tls.port if tls is not None and tls.port is not None else 0
        self.receiver = receiver
        self.limits = limits or TransportLimits()
        self.observer = observer or Observer()
        self.routes = Routes(host)
        self._udp: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._tls_server: asyncio.Server | None = None
        self._greeting = 0
        self._refusals_told = (0.0, 0)
        self._buffer = bytearray(65536)
        self._view = memoryview(self._buffer)
        self._flows: dict[tuple[str, int], Flow] = {}
        self._flows_until = 0.0
        self._udp_queue: deque[tuple[bytes, tuple[str, int]]] = deque()
        self._connections: dict[int, Connection] = {}
        self._dialled: dict[_Peer, Connection] = {}
        self._dialling: dict[_Peer, list[bytes]] = {}
        self._names: dict[str, tuple[float, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closing = False

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind UDP and TCP to the same port number (any free one for 0). Raises OSError."""
        for attempt in range(20):
            udp = self._bind_udp()
            port = udp.getsockname()[1]
            try:
                self._server = await asyncio.get_running_loop().create_server(
                    lambda: Connection(self), self.host or None, port, backlog=1024
                )
            except OSError:
                udp.close()
                if self.port or attempt == 19:
                    raise
                continue
            self._udp, self.port = udp, port
            asyncio.get_running_loop().add_reader(udp.fileno(), self._udp_readable)
            self._schedule_sweep()
            await self._start_tls_listener()
            return

    async def _start_tls_listener(self) -> None:
        """The TLS port, where there is a certificate to show (G279). Raises OSError after closing the rest."""
        if self.tls is None or self.tls.port is None or self.tls.server is None:
            return
        try:
            self._tls_server = await asyncio.get_running_loop().create_server(
                lambda: _Greeting(self), self.host or None, self.tls.port, backlog=1024
            )
        except OSError:
            await self.close()
            raise
        self.tls_port = self._tls_server.sockets[0].getsockname()[1]

    def _bind_udp(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.setblocking(False)
            # the kernel caps what it grants at net.core.rmem_max (quirk 13: ask for 4 MiB or more)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.limits.udp_receive_buffer)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.udp_receive_buffer)
            udp.bind((self.host, self.port))
        except OSError:
            udp.close()
            raise
        return udp

    async def close(self) -> None:
        """Release every socket and task."""
        self._closing = True
        if self._sweep is not None:
            self._sweep.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._udp is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._udp.fileno())
            loop.remove_writer(self._udp.fileno())
            self._udp.close()
            self._udp = None
        for server in (self._server, self._tls_server):
            if server is not None:
                server.close()
        for connection in list(self._connections.values()):
            connection.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)
        for connection in list(self._connections.values()):
            connection.abort()
        for server in (self._server, self._tls_server):
            if server is not None:
                await server.wait_closed()
        self._udp_queue.clear()

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def _schedule_sweep(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(1.0, self._sweep_connections)

    def _sweep_connections(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections.values()):
            cause = connection.overdue(now, self.limits)
            if cause:
                self.observer.dropped(cause)
                connection.abort()
        self._schedule_sweep()

    # -- UDP ----------------------------------------------------------------------------------------------

    def _udp_readable(self) -> None:
        udp, view = self._udp, self._view
        if udp is None:
            return
        flows, receive = self._flows, self.receiver.message_received
        for _ in range(self.limits.udp_batch):
            try:
                size, address = udp.recvfrom_into(view)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # an ICMP error of an earlier send is no reason to stop reading
            flow = flows.get(address)
            if flow is None:
                flow = self._udp_flow(address)
            receive(bytes(view[:size]), flow)
        self.receiver.batch_done()

    def _udp_flow(self, address: tuple[str, int]) -> Flow:
        """The flow of a source address, remembered; forgotten all at once when too many or too old."""
        now = time.monotonic()
        if len(self._flows) >= 50_000 or now > self._flows_until:
            self._flows.clear()
            self._flows_until = now + 60.0
        host, port = address[0], address[1]
        flow = Flow("udp", host, port, self.routes.local_host(host), self.port)
        self._flows[address] = flow
        return flow

    def _send_udp(self, data: bytes, host: str, port: int, destination: Flow | Target) -> None:
        udp = self._udp
        if udp is None:
            return
        if self._udp_queue:
            self._queue_udp(udp, data, (host, port))
            return
        try:
            udp.sendto(data, (host, port))
        except (BlockingIOError, InterruptedError):
            self._queue_udp(udp, data, (host, port))
        except (OSError, OverflowError) as error:
            number = error.errno if isinstance(error, OSError) else None
            if number in (errno.ENOBUFS, errno.ECONNREFUSED, errno.EMSGSIZE):
                self.observer.dropped("udp_send")
                return
            log.warning("event=udp_send_failed peer=%s error=%s", destination, error)
            self._fail_soon(destination)

    def _queue_udp(self, udp: socket.socket, data: bytes, address: tuple[str, int]) -> None:
        if len(self._udp_queue) >= self.limits.udp_send_queue:
            self.observer.dropped("udp_send")
            return
        if not self._udp_queue:
            asyncio.get_running_loop().add_writer(udp.fileno(), self._udp_writable)
        self._udp_queue.append((data, address))

    def _udp_writable(self) -> None:
        udp, queue = self._udp, self._udp_queue
        while queue and udp is not None:
            try:
                udp.sendto(*queue[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.observer.dropped("udp_send")
            queue.popleft()
        if udp is not None:
            asyncio.get_running_loop().remove_writer(udp.fileno())

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, data: bytes, destination: Flow | Target) -> None:
        """Send one message. Never waits; failure is told by ``Receiver.send_failed`` in a later callback."""
        if isinstance(destination, Flow):
            if destination.transport == "udp":
                self._send_udp(data, destination.host, destination.port, destination)
                return
            connection = self._connections.get(destination.connection)
            if connection is None or not connection.write(data, self.limits.write_buffer_bytes):
                self._fail_soon(destination)
            return
        if destination.transport == "udp":
            if is_address(destination.host):
                self._send_udp(data, destination.host, destination.port, destination)
            else:
                self._spawn(self._send_to_name(data, destination))
            return
        self._send_tcp(data, destination)

    def _send_tcp(self, data: bytes, target: Target) -> None:
        peer = _peer(target)
        connection = self._dialled.get(peer)
        if connection is not None and connection.write(data, self.limits.write_buffer_bytes):
            return
        waiting = self._dialling.get(peer)
        if waiting is not None:
            if len(waiting) < self.limits.dial_queue:
                waiting.append(data)
            else:
                self.observer.dropped("dial_queue")
            return
        self._dialling[peer] = [data]
        self._spawn(self._dial(target))

    async def _dial(self, target: Target) -> None:
        peer = _peer(target)
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                connection = await self._connected(target)
        except (OSError, TimeoutError, UnicodeError, TransportFailed) as error:
            self._dial_failed(target, error)
            return
        except asyncio.CancelledError:
            self._dialling.pop(peer, None)
            raise
        self._dialled[peer] = connection
        for data in self._dialling.pop(peer, ()):
            connection.write(data, self.limits.write_buffer_bytes)

    async def _connected(self, target: Target) -> Connection:
        """A connection to a peer; by TLS its certificate is checked against our CAs and the name we call it by."""
        loop = asyncio.get_running_loop()
        context = None
        if target.transport == "tls":
            context = self.tls.client if self.tls is not None else None
            if context is None:
                raise TransportFailed("TLS is not set up", label="tls")
        _, connection = await loop.create_connection(
            lambda: Connection(self, target),
            target.host,
            target.port,
            ssl=context,
            # bound to one address, we are seen under this one, as by UDP
            local_addr=(self.host, 0)
            if is_address(self.host) and not ip_address(self.host).is_unspecified
            else None,
            server_hostname=(target.server_name or target.host) if context is not None else None,
        )
        return connection

    def _dial_failed(self, target: Target, error: Exception) -> None:
        cause = str(error)
        if isinstance(error, ssl.SSLError | ssl.CertificateError):
            fault = tls_fault(error)
            cause = f"TLS {fault.text}"
            self.observer.tls_refused("out", fault.label)
            log.warning("event=tls_refused host=%s port=%s cause=%s", target.host, target.port, fault.text)
        else:
            log.info("event=dial_failed host=%s port=%s error=%s", target.host, target.port, error)
        self._dialling.pop(_peer(target), None)
        self.receiver.send_failed(target, cause)

    # -- TLS of peers that call ---------------------------------------------------------------------------

    def greet(self, stream: asyncio.Transport) -> None:
        """Begin the handshake of an accepted connection, unless too many are under way."""
        if self._closing or self._greeting >= self.limits.handshakes:
            self.observer.dropped("handshake")
            stream.abort()
            return
        self._greeting += 1
        self._spawn(self._greet(stream))

    async def _greet(self, stream: asyncio.Transport) -> None:
        peer = stream.get_extra_info("peername") or ("", 0)
        context = self.tls.server if self.tls is not None else None
        connection = Connection(self)
        try:
            if context is None:
                stream.abort()
                return
            secured = await asyncio.get_running_loop().start_tls(
                stream,
                connection,
                context,
                server_side=True,
                ssl_handshake_timeout=self.limits.handshake_timeout_s,
            )
        except (OSError, TimeoutError) as error:
            stream.abort()
            self._handshake_refused(str(peer[0]), tls_fault(error))
            return
        except asyncio.CancelledError:
            stream.abort()
            raise
        finally:
            self._greeting -= 1
        if secured is not None:
            connection.connection_made(secured)

    def _handshake_refused(self, host: str, fault: TlsFault) -> None:
        """Counted always, logged at most once a second: anybody can dial and hang up."""
        self.observer.tls_refused("in", fault.label)
        now = time.monotonic()
        told, silent = self._refusals_told
        if now - told < 1.0:
            self._refusals_told = (told, silent + 1)
            return
        self._refusals_told = (now, 0)
        log.warning("event=tls_refused source=%s cause=%s more=%d", host, fault.text, silent)

    async def _send_to_name(self, data: bytes, target: Target) -> None:
        now = time.monotonic()
        known = self._names.get(target.host)
        if known is None or known[0] < now:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    target.host, target.port, family=family, type=socket.SOCK_DGRAM
                )
            except (OSError, UnicodeError) as error:
                log.warning("event=name_unknown host=%s error=%s", target.host, error)
                self.receiver.send_failed(target)
                return
            if len(self._names) >= 1000:
                self._names.clear()
            known = self._names[target.host] = (now + 60.0, str(found[0][4][0]))
        self._send_udp(data, known[1], target.port, target)

    def _spawn(self, work: asyncio._CoroutineLike[None]) -> None:
        if self._closing:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail_soon(self, destination: Flow | Target) -> None:
        """Tell it in a callback of its own: the sender is in the middle of its own work."""
        if not self._closing:
            asyncio.get_running_loop().call_soon(self.receiver.send_failed, destination)

    # -- connections --------------------------------------------------------------------------------------

    def connection_opened(self, connection: Connection) -> bool:
        """Enter a connection; False when there are too many."""
        if self._closing or len(self._connections) >= self.limits.connections:
            self.observer.dropped("connection")
            return False
        self._connections[connection.number] = connection
        return True

    def connection_lost(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is None:
            return
        target = connection.target
        if target is not None and self._dialled.get(_peer(target)) is connection:
            del self._dialled[_peer(target)]
            if not self._closing:
                self.receiver.send_failed(target)
        if not self._closing:
            self.receiver.connection_closed(connection.flow)

    @property
    def is_open(self) -> bool:
        return self._udp is not None

    def require_open(self) -> None:
        """Raises TransportFailed before start and after close."""
        if not self.is_open:
            raise TransportFailed("endpoint is not open", label="closed")
