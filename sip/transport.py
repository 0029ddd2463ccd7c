"""The sockets of an endpoint: UDP and TCP on one port number, TLS on another, and the way to a peer.

Whatever a peer does, a write never waits: what does not fit within bounds is dropped (UDP) or ends the
connection (TCP).
"""

from __future__ import annotations

import asyncio

from sip.errors import TransportFailed
from sip.flow import Flow, Target
from sip.greeting import TlsListener
from sip.observer import Observer
from sip.routes import Routes, is_address
from sip.streams import Streams
from sip.tls import Tls
from sip.transport_shared import Receiver, Shared, TransportLimits
from sip.udp import UdpPort


class SocketTransport:
    """Owns the UDP socket (``udp``), all connections (``streams``) and the TLS listener (``greeting``)."""

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
        self.shared = Shared(host, receiver, limits or TransportLimits(), observer or Observer())
        self.udp = UdpPort(self.shared)
        self.streams = Streams(self.shared, tls)
        self.greeting = TlsListener(self.shared, tls, self.streams)

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind UDP and TCP to the same port number (any free one for 0). Raises OSError."""
        for attempt in range(20):
            port = self.udp.bind(self.port)
            try:
                await self.streams.listen(port)
            except OSError:
                self.udp.close()
                if self.port or attempt == 19:
                    raise
                continue
            self.port = port
            self.udp.listen()
            self.streams.schedule_sweep()
            try:
                await self.greeting.listen()
            except OSError:
                await self.close()
                raise
            return

    async def close(self) -> None:
        """Release every socket and task."""
        self.shared.closing = True
        self.streams.stop_sweep()
        self.shared.cancel_tasks()
        self.udp.close()
        self.streams.stop_listening()
        self.greeting.stop_listening()
        self.streams.hang_up()
        await self.shared.tasks_ended()
        await asyncio.sleep(0)
        self.streams.abort()
        await self.streams.closed()
        await self.greeting.closed()

    @property
    def is_open(self) -> bool:
        return self.udp.is_open

    def require_open(self) -> None:
        """Raises TransportFailed before start and after close."""
        if not self.is_open:
            raise TransportFailed("endpoint is not open", label="closed")

    @property
    def tls_port(self) -> int:
        """The port number of TLS, 0 when there is none."""
        return self.greeting.port

    @property
    def connection_count(self) -> int:
        return len(self.streams.connections)

    @property
    def routes(self) -> Routes:
        return self.shared.routes

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, data: bytes, destination: Flow | Target) -> None:
        """Send one message. Never waits; failure is told by ``Receiver.send_failed`` in a later callback."""
        if isinstance(destination, Flow):
            if destination.transport == "udp":
                self.udp.send(data, destination.host, destination.port, destination)
            else:
                self.streams.reply(data, destination)
        elif destination.transport == "udp":
            if is_address(destination.host):
                self.udp.send(data, destination.host, destination.port, destination)
            else:
                self.shared.spawn(self.udp.send_to_name(data, destination))
        else:
            self.streams.send(data, destination)
