"""The session part of the gateway on loopback: real SIP endpoint, real media node, devices put in by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway_process import free_ports
from port_ranges import kept_ports
from scripted_camera import DOMAIN, Trace

from config.settings import MediaSettings, SipSettings
from gateway.events import Event, EventBus
from gateway.model import Channel, Device, Profile, State
from gateway.networks import OwnAddress
from gateway.registry import Registry
from gateway.services.nodes import NodePlan, Nodes
from gateway.services.session_address import MediaAddress
from gateway.services.session_journal import DialogJournal
from gateway.services.session_opening import Opener
from gateway.services.session_record import LiveSession
from gateway.services.sessions import Sessions
from sip.endpoint import Endpoint, Identity, Incoming, Reply, Timers
from sip.flow import Flow
from sip.ids import SsrcPool

SERVER = "41018300002000000001"
TICKETS = "ticket-secret-for-tests"
RTP_PORTS, WEBRTC_PORTS = kept_ports(400), kept_ports(100)


def media_settings(**values: Any) -> MediaSettings:
    """Short times, ports beside those of other tests."""
    return MediaSettings.model_validate(
        {
            "transport": "udp",
            "viewer_host": "127.0.0.1",
            "rtsp_port": None,
            "rtp_port_min": RTP_PORTS[0],
            "rtp_port_max": RTP_PORTS[1],
            "webrtc_port": WEBRTC_PORTS[0],
            "webrtc_port_min": WEBRTC_PORTS[0],
            "webrtc_port_max": WEBRTC_PORTS[1],
            "invite_timeout_s": 4.0,
            "first_picture_timeout_s": 4.0,
            "no_rtp_timeout_s": 1.5,
            "idle_grace_s": 1.0,
            "port_quarantine_s": 0.2,
            **values,
        }
    )


def node_plan(**values: Any) -> NodePlan:
    settings = media_settings(viewer_port=free_ports(1)[0], **values)
    return NodePlan(settings, TICKETS, media_host="127.0.0.1", bind_host="127.0.0.1", log_level="WARNING")


class MemoryJournal(dict[str, Any]):
    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        self[key] = state

    def remove(self, kind: str, key: str) -> None:
        self.pop(key, None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        return dict(self)


class Watching:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.causes: list[str] = []
        self.successors: list[LiveSession] = []

    def session_ended(self, session: LiveSession, cause: str) -> None:
        self.causes.append(cause)

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None:
        self.successors.append(successor)


class LiveHouse:
    """Give it running nodes; ``add`` devices; ``sessions`` plays them."""

    def __init__(
        self,
        nodes: Nodes,
        *,
        rest_s: float = 60.0,
        journal: MemoryJournal | None = None,
        timers: Timers | None = None,
        **media: Any,
    ) -> None:
        self.nodes = nodes
        self.handler: Callable[[Incoming], Any] | None = None
        """Who takes requests from outside; None: all are refused."""
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.subscribe(Event, callback=self.events.append)
        self.registry = Registry(bus=self.bus)
        self.trace = Trace()
        self.journal = journal if journal is not None else MemoryJournal()
        sip = SipSettings(server_id=SERVER, domain=DOMAIN, host="127.0.0.1", allow_loopback=True)
        own = OwnAddress(sip)
        self.endpoint = Endpoint(
            Identity(SERVER, DOMAIN),
            host="127.0.0.1",
            port=0,
            handler=self._handle,
            advertise=own.configured,
            observer=self.trace,
            timers=timers,
        )
        own.route = self.endpoint.local_address
        settings = media_settings(**media)
        self.pool = SsrcPool(DOMAIN, rest_s=rest_s)
        self.dialogs = DialogJournal(journal=self.journal, endpoint=self.endpoint, ssrc_pool=self.pool)
        self.opener = Opener(
            settings=settings,
            server_id=SERVER,
            domain=DOMAIN,
            endpoint=self.endpoint,
            nodes=nodes,
            address=MediaAddress(own=own, media=settings),
            journal=self.dialogs,
            ssrc_pool=self.pool,
            clock=self.registry.clock,
        )
        self.sessions = Sessions(
            settings=settings,
            registry=self.registry,
            bus=self.bus,
            opener=self.opener,
            nodes=nodes,
            journal=self.dialogs,
            ticket_secret=TICKETS,
        )

    def _handle(self, incoming: Incoming) -> Any:
        return Reply(403) if self.handler is None else self.handler(incoming)

    async def __aenter__(self) -> LiveHouse:
        await self.endpoint.start()
        await self.sessions.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.sessions.close()
        await self.endpoint.close(0.2)

    def add(
        self,
        device_id: str,
        flow: Callable[[int], Flow],
        *channels: str,
        edition: str = "2.0",
        **profile: Any,
    ) -> Device:
        """A device that is registered over ``flow(our port)``, with its channels (itself when none is named)."""
        device = Device(
            device_id,
            state=State.ONLINE,
            edition=edition,
            flow=flow(self.endpoint.port),
            profile=Profile(**profile),
        )
        self.registry.put_device(device)
        for channel_id in channels or (device_id,):
            self.registry.put_channel(Channel(device_id, channel_id, reported="ON"))
        return device

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def assert_nothing_left(self) -> None:
        """No receiver on the nodes, no SSRC, dialog, journal entry or session here."""
        await until(
            lambda: self.sessions.list() == []
        )  # the last lines of the end come after the BYE's answer
        await until(lambda: self.pool.leased == 0)
        await until(lambda: not self.journal)
        await until(lambda: not self.opener.by_stream)
        await until(lambda: self.endpoint.counts["dialogs"] == 0)
        for node in self.nodes.handles():
            async with asyncio.timeout(10.0):
                while (await node.client.stats()).streams:
                    await asyncio.sleep(0.05)


async def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Wait until ``condition()`` is true; returns its value."""
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.02)
    return value
