"""Live pictures and sound: media nodes, sessions, control of cameras, inputs that are no GB/T 28181, and talks."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack

from config.settings import Settings
from gateway.assembly.signalling import Signalling
from gateway.assembly.state import State
from gateway.networks import address_of
from gateway.services.control import Control
from gateway.services.inputs import Inputs
from gateway.services.inputs_provisioning import enter_inputs
from gateway.services.nodes import NodePlan, Nodes
from gateway.services.onvif import Onvif
from gateway.services.session_address import MediaAddress
from gateway.services.session_journal import DialogJournal
from gateway.services.session_opening import Opener
from gateway.services.session_third_party import MediaServerRole
from gateway.services.sessions import Sessions
from gateway.services.talk import Talks
from gateway.services.talk_calls import TalkCalls
from gateway.storage.inputs import InputStore
from sip.ids import SsrcPool


class Media:
    """What plays now. Recordings are a part of their own."""

    def __init__(self, settings: Settings, state: State, signalling: Signalling) -> None:
        self._settings = settings
        sip = settings.sip
        tickets = secrets.token_urlsafe(32)
        self.nodes = Nodes(_plan(settings, tickets))
        self.address = MediaAddress(own=signalling.own_address, media=settings.media)
        self.ssrc_pool = SsrcPool(
            sip.domain if sip.domain[:8].isdecimal() else sip.server_id, rest_s=settings.media.ssrc_rest_s
        )
        self.dialogs = DialogJournal(
            journal=state.journal,
            endpoint=signalling.endpoint,
            ssrc_pool=self.ssrc_pool,
            clock=state.clock,
        )
        self._build_sessions(state, signalling, tickets)
        self._build_inputs(state)
        self._build_talks(state, signalling)

    def _build_sessions(self, state: State, signalling: Signalling, tickets: str) -> None:
        settings = self._settings
        self.opener = Opener(
            settings=settings.media,
            server_id=settings.sip.server_id,
            domain=settings.sip.domain,
            endpoint=signalling.endpoint,
            nodes=self.nodes,
            address=self.address,
            journal=self.dialogs,
            ssrc_pool=self.ssrc_pool,
            clock=state.clock,
        )
        self.sessions = Sessions(
            settings=settings.media,
            registry=state.registry,
            bus=state.bus,
            opener=self.opener,
            nodes=self.nodes,
            journal=self.dialogs,
            ticket_secret=tickets,
            clock=state.clock,
        )
        self.control = Control(registry=state.registry, sender=signalling.dispatch, clock=state.clock)
        self.control.said_last = signalling.dispatch.said_last
        self.sessions.connect(key_frame=self.control.key_frame)
        self.media_server = MediaServerRole(
            server_id=settings.sip.server_id, opener=self.opener, sessions=self.sessions
        )

    def _build_inputs(self, state: State) -> None:
        self.inputs = Inputs(
            settings=self._settings.inputs,
            media=self._settings.media,
            server_id=self._settings.sip.server_id,
            registry=state.registry,
            bus=state.bus,
            store=InputStore(state.database),
            opener=self.opener,
            clock=state.clock,
        )
        self.onvif = Onvif(find=self.inputs.find)
        self.inputs.sessions = self.sessions
        self.sessions.connect(local=self.inputs)
        self.control.local = self.onvif

    def _build_talks(self, state: State, signalling: Signalling) -> None:
        settings = self._settings
        self.talk_calls = TalkCalls(
            server_id=settings.sip.server_id,
            domain=settings.sip.domain,
            media=settings.media,
            endpoint=signalling.endpoint,
            address=self.address,
            journal=self.dialogs,
            ssrc_pool=self.ssrc_pool,
            clock=state.clock,
        )
        self.talks = Talks(
            settings=settings.talk,
            media=settings.media,
            registry=state.registry,
            bus=state.bus,
            asker=signalling.dispatch,
            player=self.sessions,
            nodes=self.nodes,
            calls=self.talk_calls,
            clock=state.clock,
        )
        signalling.dispatch.on_method("INVITE", "device")(self.talks.broadcasts.invite)

    def hold(self, stack: AsyncExitStack) -> None:
        """What is closed after all that uses it."""
        stack.push_async_callback(self.nodes.close)
        stack.push_async_callback(self.control.close)
        stack.push_async_callback(self.sessions.close)

    async def start(self, stack: AsyncExitStack) -> None:
        """Dialogs of an earlier life are ended first; devices register while the nodes load their codecs."""
        await self.sessions.start()
        await self.nodes.start()
        stack.push_async_callback(self.talks.close)
        self.talks.start()
        stack.push_async_callback(self.onvif.close)
        stack.push_async_callback(self.inputs.close)
        await enter_inputs(self.inputs, self._settings.inputs.cameras)
        await self.inputs.start()


def _plan(settings: Settings, tickets: str) -> NodePlan:
    """How the media processes are started."""
    media, sip = settings.media, settings.sip
    bound = address_of(sip.host)
    return NodePlan(
        settings=media,
        ticket_secret=tickets,
        media_host=str(media.host or sip.advertise_host or sip.host),
        bind_host=sip.host if bound is not None and bound.is_loopback else "0.0.0.0",
        log_level=settings.log.level,
        log_format=settings.log.format,
        recording_queue_bytes=settings.recording.queue_bytes,
        downloads=settings.playback.most_downloads,
        inputs_directory=str(settings.inputs.directory or ""),
    )
