"""The TLS listener: handshakes of peers that call, bounded in number and time (G279)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import cast

from sip.connection import Connection
from sip.streams import Streams
from sip.tls import Tls, TlsFault, tls_fault
from sip.transport_shared import Shared

log = logging.getLogger(__name__)


class _Caller(asyncio.Protocol):
    """An accepted connection before its TLS handshake: nothing is read until the handshake runs."""

    def __init__(self, owner: TlsListener) -> None:
        self._owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.pause_reading()
        self._owner.greet(stream)


class TlsListener:
    """Accepts at the TLS port; what has shown itself becomes a connection among the others."""

    def __init__(self, shared: Shared, tls: Tls | None, streams: Streams) -> None:
        self._shared, self._tls, self._streams = shared, tls, streams
        self.port = tls.port if tls is not None and tls.port is not None else 0
        self.under_way = 0
        """Handshakes."""
        self._server: asyncio.Server | None = None
        self._refusals_told = (0.0, 0)

    async def listen(self) -> None:
        """Open the TLS port, where there is a certificate to show. Raises OSError."""
        if self._tls is None or self._tls.port is None or self._tls.server is None:
            return
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Caller(self), self._shared.host or None, self._tls.port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    async def closed(self) -> None:
        if self._server is not None:
            await self._server.wait_closed()

    def greet(self, stream: asyncio.Transport) -> None:
        """Begin the handshake of an accepted connection, unless too many are under way."""
        if self._shared.closing or self.under_way >= self._shared.limits.handshakes:
            self._shared.observer.dropped("handshake")
            stream.abort()
            return
        self.under_way += 1
        self._shared.spawn(self._greet(stream))

    async def _greet(self, stream: asyncio.Transport) -> None:
        peer = stream.get_extra_info("peername") or ("", 0)
        context = self._tls.server if self._tls is not None else None
        connection = Connection(self._streams)
        try:
            if context is None:
                stream.abort()
                return
            secured = await asyncio.get_running_loop().start_tls(
                stream,
                connection,
                context,
                server_side=True,
                ssl_handshake_timeout=self._shared.limits.handshake_timeout_s,
            )
        except (OSError, TimeoutError) as error:
            stream.abort()
            self._handshake_refused(str(peer[0]), tls_fault(error))
            return
        except asyncio.CancelledError:
            stream.abort()
            raise
        finally:
            self.under_way -= 1
        if secured is not None:
            connection.connection_made(secured)

    def _handshake_refused(self, host: str, fault: TlsFault) -> None:
        """Counted always, logged at most once a second: anybody can dial and hang up."""
        self._shared.observer.tls_refused("in", fault.label)
        now = time.monotonic()
        told, silent = self._refusals_told
        if now - told < 1.0:
            self._refusals_told = (told, silent + 1)
            return
        self._refusals_told = (now, 0)
        log.warning("event=tls_refused source=%s cause=%s more=%d", host, fault.text, silent)
