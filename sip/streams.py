"""Connections by TCP and TLS: the table of those that are open, the TCP listener, and the dialling of peers."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from ipaddress import ip_address

from sip.connection import Connection
from sip.errors import TransportFailed
from sip.flow import Flow, Target
from sip.routes import is_address
from sip.tls import Tls, tls_fault
from sip.transport_shared import Receiver, Shared

log = logging.getLogger(__name__)

_Peer = tuple[str, str, int, str]


def _peer(target: Target) -> _Peer:
    """What makes a connection fit a target: transport, address, and the name its certificate was checked for."""
    return target.transport, target.host, target.port, target.server_name


class Streams:
    """Owns all connections, whoever opened them."""

    def __init__(self, shared: Shared, tls: Tls | None) -> None:
        self._shared = shared
        self._tls = tls
        self._server: asyncio.Server | None = None
        self.connections: dict[int, Connection] = {}
        self._dialled: dict[_Peer, Connection] = {}
        self._dialling: dict[_Peer, list[bytes]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def receiver(self) -> Receiver:
        return self._shared.receiver

    # -- life ---------------------------------------------------------------------------------------------

    async def listen(self, port: int) -> None:
        """Accept TCP connections. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), self._shared.host or None, port, backlog=1024
        )

    def stop_sweep(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    def hang_up(self) -> None:
        """Close every connection after what is written."""
        for connection in list(self.connections.values()):
            connection.close()

    def abort(self) -> None:
        """Close every connection that is left."""
        for connection in list(self.connections.values()):
            connection.abort()

    async def closed(self) -> None:
        if self._server is not None:
            await self._server.wait_closed()

    def schedule_sweep(self) -> None:
        """Look every second for connections that are overdue."""
        self._sweep = asyncio.get_running_loop().call_later(1.0, self._sweep_connections)

    def _sweep_connections(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections.values()):
            cause = connection.overdue(now, self._shared.limits)
            if cause:
                self._shared.observer.dropped(cause)
                connection.abort()
        self.schedule_sweep()

    # -- sending ------------------------------------------------------------------------------------------

    def reply(self, data: bytes, flow: Flow) -> None:
        """By the very connection of this flow, never by another."""
        connection = self.connections.get(flow.connection)
        if connection is None or not connection.write(data, self._shared.limits.write_buffer_bytes):
            self._shared.fail_soon(flow)

    def send(self, data: bytes, target: Target) -> None:
        """By the connection that was dialled for this target, or by a new one."""
        peer = _peer(target)
        connection = self._dialled.get(peer)
        if connection is not None and connection.write(data, self._shared.limits.write_buffer_bytes):
            return
        waiting = self._dialling.get(peer)
        if waiting is not None:
            if len(waiting) < self._shared.limits.dial_queue:
                waiting.append(data)
            else:
                self._shared.observer.dropped("dial_queue")
            return
        self._dialling[peer] = [data]
        self._shared.spawn(self._dial(target))

    async def _dial(self, target: Target) -> None:
        peer = _peer(target)
        try:
            async with asyncio.timeout(self._shared.limits.connect_timeout_s):
                connection = await self._connected(target)
        except (OSError, TimeoutError, UnicodeError, TransportFailed) as error:
            self._dial_failed(target, error)
            return
        except asyncio.CancelledError:
            self._dialling.pop(peer, None)
            raise
        self._dialled[peer] = connection
        for data in self._dialling.pop(peer, ()):
            connection.write(data, self._shared.limits.write_buffer_bytes)

    async def _connected(self, target: Target) -> Connection:
        """A connection to a peer; by TLS its certificate is checked against our CAs and the name we call it by."""
        loop = asyncio.get_running_loop()
        context = None
        if target.transport == "tls":
            context = self._tls.client if self._tls is not None else None
            if context is None:
                raise TransportFailed("TLS is not set up", label="tls")
        _, connection = await loop.create_connection(
            lambda: Connection(self, target),
            target.host,
            target.port,
            ssl=context,
            # bound to one address, we are seen under this one, as by UDP
            local_addr=(self._shared.host, 0)
            if is_address(self._shared.host) and not ip_address(self._shared.host).is_unspecified
            else None,
            server_hostname=(target.server_name or target.host) if context is not None else None,
        )
        return connection

    def _dial_failed(self, target: Target, error: Exception) -> None:
        cause = str(error)
        if isinstance(error, ssl.SSLError | ssl.CertificateError):
            fault = tls_fault(error)
            cause = f"TLS {fault.text}"
            self._shared.observer.tls_refused("out", fault.label)
            log.warning("event=tls_refused host=%s port=%s cause=%s", target.host, target.port, fault.text)
        else:
            log.info("event=dial_failed host=%s port=%s error=%s", target.host, target.port, error)
        self._dialling.pop(_peer(target), None)
        self._shared.receiver.send_failed(target, cause)

    # -- the table ----------------------------------------------------------------------------------------

    def connection_opened(self, connection: Connection) -> bool:
        """Enter a connection; False when there are too many."""
        if self._shared.closing or len(self.connections) >= self._shared.limits.connections:
            self._shared.observer.dropped("connection")
            return False
        self.connections[connection.number] = connection
        return True

    def connection_lost(self, connection: Connection) -> None:
        if self.connections.pop(connection.number, None) is None:
            return
        target = connection.target
        if target is not None and self._dialled.get(_peer(target)) is connection:
            del self._dialled[_peer(target)]
            if not self._shared.closing:
                self._shared.receiver.send_failed(target)
        if not self._shared.closing:
            self._shared.receiver.connection_closed(connection.flow)
