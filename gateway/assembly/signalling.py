"""SIP: the endpoint, who may register and is alive, who a sender is, and where each message goes."""

from __future__ import annotations

from contextlib import AsyncExitStack

from config.settings import Settings
from gateway.assembly.state import State
from gateway.dispatch import Answer, Dispatch
from gateway.networks import OwnAddress
from gateway.peers import Peers
from gateway.services.liveness import Liveness
from gateway.services.note_check import NoteCheck
from gateway.services.redirect import Redirect
from gateway.services.registrar import Registrar
from gateway.services.tls_files import TlsFiles
from gateway.services.wire import LineKey
from gateway.storage.notes import NoteStore
from sip.endpoint import Endpoint, Identity, Incoming, Limits
from sip.transport_shared import TransportLimits

DRAIN_S = 2.0


class Signalling:
    """``dispatch`` hands requests to the handlers that later parts enter."""

    def __init__(self, settings: Settings, state: State) -> None:
        self.identity = Identity(settings.sip.server_id, settings.sip.domain)
        self.own_address = OwnAddress(settings.sip)
        self.tls_files = TlsFiles(settings.sip.tls)
        self._build_endpoint(settings, state)
        self._build_dispatch(settings, state)

    def _build_endpoint(self, settings: Settings, state: State) -> None:
        sip = settings.sip
        self.notes = NoteCheck(
            store=NoteStore(state.database),
            registry=state.registry,
            bus=state.bus,
            window_s=sip.note_window_s,
            clock=state.clock,
        )
        self.endpoint = Endpoint(
            self.identity,
            host=sip.host,
            port=sip.port,
            handler=self._serve,
            user_agent=sip.user_agent,
            limits=Limits(transport=TransportLimits(connections=sip.max_connections)),
            advertise=self.own_address.configured,
            observer=state.metrics,
            stray_notify=settings.catalog.tolerant_notify,
            tls=self.tls_files.tls,
            guard=self.notes,
        )
        self.own_address.route = self.endpoint.local_address
        if state.wire.enabled:
            self.endpoint.tap = state.wire.tap

    def _serve(self, incoming: Incoming) -> Answer:
        return self.dispatch.handle(incoming)

    def _build_dispatch(self, settings: Settings, state: State) -> None:
        self.liveness = Liveness(
            settings=settings.heartbeat,
            registry=state.registry,
            heartbeat_revives=settings.registration.heartbeat_revives,
            clock=state.clock,
        )
        self.registrar = Registrar(
            settings=settings.registration,
            heartbeat=settings.heartbeat,
            domain=settings.sip.domain,
            registry=state.registry,
            liveness=self.liveness,
            bus=state.bus,
            clock=state.clock,
            redirect=Redirect(settings.redirect, settings.sip.server_id),
        )
        self.peers = Peers(registry=state.registry, liveness=self.liveness, clock=state.clock)
        self.peers.contested = self.registrar.same_id.contested
        self.dispatch = Dispatch(
            endpoint=self.endpoint,
            domain=settings.sip.domain,
            peers=self.peers,
            registrar=self.registrar,
            liveness=self.liveness,
            bus=state.bus,
            clock=state.clock,
            own_id=settings.sip.server_id,
        )
        self.endpoint.on_connection_closed = self.liveness.connection_closed

    def own_end(self, key: LineKey) -> tuple[str, int]:
        """Our address and port toward a peer, for the wire view."""
        port = self.endpoint.tls_port if key[2] == "tls" else self.endpoint.port
        return self.endpoint.local_address(key[0]), port

    async def start(self, stack: AsyncExitStack) -> None:
        """Open the sockets. Raises OSError."""
        await self.notes.load()
        await self.tls_files.start()
        stack.push_async_callback(self.tls_files.close)
        await self.endpoint.start()
        stack.push_async_callback(self.endpoint.close, DRAIN_S)
        stack.push_async_callback(self.dispatch.close)

    async def resume(self, stack: AsyncExitStack) -> None:
        """Take up the registrations of an earlier life, and watch heartbeats."""
        self.registrar.resume()
        await self.liveness.start()
        stack.push_async_callback(self.liveness.close)
        await self.registrar.same_id.start()
        stack.push_async_callback(self.registrar.same_id.close)
