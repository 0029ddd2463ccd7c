"""What simulated cameras and recorders share: registration, answers to queries and controls, calls with real media."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from simulator.answers import AnswerBook, broken_xml
from simulator.answers_aim import moved
from simulator.audio import AudioOptions, Loudspeakers
from simulator.calls import Call, Calls
from simulator.condition import Condition
from simulator.configuration import Configuration
from simulator.faults import Faults
from simulator.notices import Notices, kind_of_subscription
from simulator.register import RegisterSettings, Registration
from simulator.sending import Pictures
from simulator.snapshots import Snapshots
from sip import ptz
from sip.endpoint import (
    Endpoint,
    Identity,
    Incoming,
    IncomingInvite,
    IncomingSubscribe,
    NotifierSubscription,
    Reply,
)
from sip.errors import RemoteError
from sip.flow import Flow, Target, TransportName
from sip.ids import TypeKind, kind_of
from sip.manscdp import (
    CONTENT_TYPE,
    Body,
    CatalogItem,
    CatalogNotify,
    DeviceControl,
    Edition,
    KeepaliveNotify,
    decode,
    encode,
)
from sip.message import Response
from sip.note import NoteKey, PeerGuard
from sip.timers import Timers
from sip.tls import Tls
from sip.uri import SipUri

log = logging.getLogger(__name__)

MAX_RECORDED = 10_000
_TRANSPORTS: dict[str, TransportName] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}
MediaChoice = Literal["any", "udp", "tcp"]


@dataclass(slots=True)
class Channel:
    """One channel of a device as its catalog shows it. ``extra`` are further CatalogItem fields."""

    channel_id: str
    name: str
    status: str = "ON"
    parent_ids: tuple[str, ...] = ()
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def has_pictures(self) -> bool:
        return kind_of(self.channel_id) is TypeKind.CAMERA


@dataclass(slots=True)
class DeviceOptions:
    """Everything about a simulated device except who it is.

    ``transport`` is that of SIP (tls needs ``tls``, with ``server_name`` the name in the server's certificate);
    ``note`` signs and checks all messages; ``media`` what it accepts in offers. ``page_size`` is the number of catalog items
    per message. ``max_calls`` parallel streams, beyond which 486. ``longest_subscription_s`` is the most a subscriber
    is granted. ``charset`` None: as the edition asks.
    """

    transport: TransportName = "udp"
    media: MediaChoice = "any"
    edition: Edition = Edition.V2022
    charset: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    manufacturer: str = "Simulator"
    model: str = "SIM-1"
    firmware: str = "1.0"
    user_agent: str = "device-simulator"
    page_size: int = 4
    max_calls: int = 16
    longest_subscription_s: int = 86400
    pictures: Pictures = field(default_factory=Pictures)
    sub_pictures: Pictures | None = None
    """What the first sub stream shows; None: the device knows no sub stream and sends its main one."""
    audio: AudioOptions = field(default_factory=AudioOptions)
    """How its loudspeaker takes sound."""
    register: RegisterSettings = field(default_factory=RegisterSettings)
    timers: Timers | None = None
    tls: Tls | None = None
    server_name: str = ""
    note: NoteKey | None = None


@dataclass(slots=True)
class Received:
    """One request that came: method, body (None where it had no MANSCDP), ``time.monotonic()`` of its arrival."""

    method: str
    body: Body | None
    raw: bytes
    at_mono: float


class SimulatedDevice:
    """A device that registers, beats, answers and sends pictures. Cameras and recorders differ in their channels.

    ``received`` records every request, ``ptz_log`` every valid PTZ command with the channel it was for, ``condition``
    holds what commands changed.
    """

    def __init__(
        self,
        device_id: str,
        channels: Sequence[Channel],
        *,
        server: tuple[str, int],
        server_id: str,
        domain: str = "",
        password: str | None = None,
        name: str = "",
        options: DeviceOptions | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.device_id = device_id
        self.name = name or device_id
        self.channels = {channel.channel_id: channel for channel in channels}
        self.options = options or DeviceOptions()
        self.faults = faults or Faults()
        self.domain = domain or server_id[:10]
        self.server_id = server_id
        self.server_uri = f"sip:{server_id}@{self.domain}"
        self.identity = Identity(device_id, self.domain)
        self.received: deque[Received] = deque(maxlen=MAX_RECORDED)
        self.ptz_log: deque[tuple[str, ptz.PtzCommand, float]] = deque(maxlen=MAX_RECORDED)
        self.refused_ptz: deque[str] = deque(maxlen=100)
        self.subscriptions: dict[str, NotifierSubscription] = {}
        self.sn = secrets.randbelow(1000)
        extra = {"timers": self.options.timers} if self.options.timers is not None else {}
        note = self.options.note
        self.guard = PeerGuard(note, mono=time.monotonic) if note is not None else None
        self.endpoint = Endpoint(
            self.identity,
            host=self.options.host,
            port=self.options.port,
            handler=self._handle,
            user_agent=self.options.user_agent,
            tls=self.options.tls,
            guard=self.guard,
            **extra,  # type: ignore[arg-type]
        )
        self.target = Target(
            self.server_uri, *server, self.options.transport, server_name=self.options.server_name
        )
        self.registration = Registration(
            self.endpoint,
            self.target,
            self.identity,
            self.server_uri,
            password=password,
            edition=self.options.edition,
            heartbeat=self._heartbeat,
            settings=self.options.register,
            faults=self.faults,
            other_port=self._send_from_other_port,
        )
        self.registration.on_moved = self._moved
        self.calls = Calls(self)
        self.audio = Loudspeakers(self)
        self.notices = Notices(self)
        self.configuration = Configuration(self)
        self.snapshots = Snapshots(self)
        self.condition = Condition()
        self.answers = AnswerBook(self)

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the port and begin to register; does not wait for the answer (see ``wait_registered``)."""
        await self.endpoint.start()
        self.target = self.registration.target = self.registration.home = self._on_udp_flow(self.target)
        self.registration.start()

    def _on_udp_flow(self, target: Target) -> Target:
        """A flow keeps long answers on UDP, as devices do."""
        if target.transport != "udp":
            return target
        local = self.endpoint.local_address(target.host)
        flow = Flow("udp", target.host, target.port, local, self.endpoint.port)
        return Target.of_flow(target.uri, flow)

    def _moved(self, contact: SipUri | None) -> None:
        """Another server from here on, or the first one again (None)."""
        if contact is None:
            target = self.registration.home
        else:
            named = (contact.param("transport") or "").lower()
            transport = _TRANSPORTS.get(named, self.options.transport)
            uri = f"sip:{contact.user}@{contact.user[:10]}"
            where = Target(
                uri,
                contact.host,
                contact.port or 5060,
                transport,
                server_name=self.options.server_name,
            )
            target = self._on_udp_flow(where)
        self.target = self.registration.target = target
        self.server_uri = self.registration.server_uri = target.uri

    async def stop(self, *, unregister: bool = True) -> None:
        """BYE all calls, unregister, close the port."""
        self.notices.close()
        self.snapshots.close()
        await self.calls.close()
        await self.audio.close()
        await self.registration.stop(unregister=unregister)
        await self.endpoint.close(drain_s=0.1)

    async def vanish(self) -> None:
        """Gone without a word: no BYE, no unregister."""
        self.notices.close()
        self.snapshots.close()
        self.calls.abandon()
        await self.registration.stop(unregister=False)
        await self.endpoint.close(drain_s=0.0)
        await self.calls.close()

    async def wait_registered(self, timeout_s: float = 10.0) -> None:
        """Raises TimeoutError."""
        await asyncio.wait_for(self.registration.registered.wait(), timeout_s)

    async def wait(self, done: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
        """Wait until ``done()`` is true. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.device_id} waited {timeout_s} s in vain {what}")
            await asyncio.sleep(0.01)

    @property
    def port(self) -> int:
        return self.endpoint.port

    def received_bodies(self, cmd_type: str) -> list[Body]:
        """Bodies of that CmdType in the order of arrival."""
        return [
            entry.body
            for entry in self.received
            if entry.body is not None and entry.body.cmd_type == cmd_type
        ]

    # -- what we send -------------------------------------------------------------------------------------

    def next_sn(self) -> int:
        self.sn += 1
        return self.sn

    def encoded(self, body: Body) -> bytes:
        data = encode(body, charset=self.options.charset, edition=self.options.edition)
        if self.faults.gbk_under_gb2312:
            text = encode(body, charset="GB18030", edition=self.options.edition)
            return text.replace(b'encoding="GB18030"', b'encoding="GB2312"', 1)
        return data

    async def send(self, body: Body) -> Response | None:
        """A MESSAGE to the server; None when no answer came."""
        return await self.send_raw(self.encoded(body))

    async def send_raw(self, data: bytes) -> Response | None:
        try:
            return await self.endpoint.request(
                "MESSAGE", self.target, to=self.server_uri, body=data, content_type=CONTENT_TYPE
            )
        except RemoteError as error:
            log.info("event=message_unanswered device=%s error=%s", self.device_id, error)
            return None

    def _heartbeat(self) -> bytes:
        faulty = tuple(channel.channel_id for channel in self.channels.values() if channel.status == "DEFECT")
        return self.encoded(KeepaliveNotify(sn=self.next_sn(), device_id=self.device_id, faulty=faulty))

    async def _send_from_other_port(self, body: bytes) -> None:
        """One heartbeat whose answer nobody waits for, from a port that never registered (quirk 11)."""
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setblocking(False)
        sender.bind((self.options.host, 0))
        host, port = sender.getsockname()
        head = (
            f"MESSAGE {self.server_uri} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{port};rport;branch=z9hG4bK{secrets.token_hex(8)}\r\n"
            f"From: <{self.identity.uri}>;tag={secrets.token_hex(4)}\r\nTo: <{self.server_uri}>\r\n"
            f"Call-ID: {secrets.token_hex(8)}\r\nCSeq: 1 MESSAGE\r\nMax-Forwards: 70\r\n"
            f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            sender.sendto(head.encode() + body, (self.target.host, self.target.port))
            await asyncio.sleep(0.05)
        finally:
            sender.close()

    async def send_catalog(self, sn: int | None = None, items: Sequence[CatalogItem] | None = None) -> None:
        """Send the catalog, or some items of it, without being asked (quirk 16)."""
        await self.answers.send_catalog(self.next_sn() if sn is None else sn, self.device_id, items)

    async def notify_catalog(self, events: Sequence[CatalogItem]) -> Response | None:
        """Tell the catalog subscriber of changes; None when there is none."""
        body = CatalogNotify(
            sn=self.next_sn(), device_id=self.device_id, sum_num=len(events), items=list(events)
        )
        return await self._notify("catalog", body)

    async def set_status(self, channel_id: str, status: str) -> Response | None:
        """Change a channel to ON, OFF, VLOST or DEFECT and tell the subscriber."""
        self.channels[channel_id].status = status
        return await self.notify_catalog([CatalogItem(device_id=channel_id, event=status)])

    async def add_channel(self, channel: Channel) -> Response | None:
        self.channels[channel.channel_id] = channel
        item = self.answers.item(channel).model_copy(update={"event": "ADD"})
        return await self.notify_catalog([item])

    async def remove_channel(self, channel_id: str) -> Response | None:
        self.channels.pop(channel_id)
        return await self.notify_catalog([CatalogItem(device_id=channel_id, event="DEL")])

    async def alarm(
        self, channel_id: str, *, method: int = 5, alarm_type: int = 2, priority: int = 4
    ) -> Response | None:
        """An alarm: in the subscription where there is one, else by MESSAGE. More: ``notices``."""
        return await self.notices.alarm(channel_id, method=method, alarm_type=alarm_type, priority=priority)

    async def position(self, longitude: float, latitude: float) -> Response | None:
        """Tell the subscriber where we are; None when there is none. More: ``notices``."""
        return await self.notices.position(longitude, latitude, via="notify")

    @property
    def edition(self) -> Edition:
        return self.options.edition

    async def _notify(self, kind: str, body: Body) -> Response | None:
        subscription = self.subscriptions.get(kind)
        if subscription is None or not subscription.active:
            return None
        try:
            return await subscription.notify(self.encoded(body))
        except RemoteError as error:
            log.info("event=notify_unanswered device=%s error=%s", self.device_id, error)
            return None

    # -- what comes in ------------------------------------------------------------------------------------

    async def _handle(self, incoming: Incoming) -> Reply | None:
        request = incoming.request
        body = self._decoded(incoming)
        self.received.append(Received(request.method, body, request.body, time.monotonic()))
        names = {request.method} | ({body.cmd_type} if body is not None else set())
        if names & self.faults.silent:
            await asyncio.Event().wait()
        delay_s = max((self.faults.answer_delay_s.get(name, 0.0) for name in names), default=0.0)
        if delay_s:
            await asyncio.sleep(delay_s)
        status = next((self.faults.statuses[name] for name in names if name in self.faults.statuses), None)
        if status is not None:
            return Reply(status)
        if isinstance(incoming, IncomingInvite):
            if self.audio.meant(incoming):
                return await self.audio.invited(incoming)
            return await self.calls.invited(incoming)
        if isinstance(incoming, IncomingSubscribe):
            return self._subscribed(incoming, body)
        if request.method == "MESSAGE" and body is not None:
            return await self._message(body)
        if request.method == "INFO" and incoming.session is not None:
            return await self.calls.early_request(incoming)
        return Reply(200 if request.method in ("MESSAGE", "NOTIFY", "INFO") else 405)

    def _decoded(self, incoming: Incoming) -> Body | None:
        if not incoming.request.content_type.endswith("xml"):
            return None
        try:
            return decode(incoming.request.body).body
        except RemoteError:
            return None

    async def _message(self, body: Body) -> Reply:
        if isinstance(body, DeviceControl):
            self._control(body)
        answers = self.answers.answers_to(body)
        if not answers:
            return Reply(200)
        parts = self.answers.encoded_parts(answers)
        if self.faults.answer_in_200:
            return Reply(200, body=parts[0], content_type=CONTENT_TYPE)
        self.endpoint.spawn(self._send_parts(parts))
        return Reply(200)

    async def _send_parts(self, parts: Sequence[bytes]) -> None:
        for index, part in enumerate(parts):
            if index in self.faults.lose_parts:
                continue
            data = broken_xml(part) if index in self.faults.broken_parts else part
            await self.send_raw(data)
            if index in self.faults.repeat_parts:
                await self.send_raw(data)

    def _control(self, body: DeviceControl) -> None:
        if body.iframe:
            self.calls.key_frame(body.device_id)
        if body.ptz_cmd:
            try:
                command = ptz.decode(body.ptz_cmd)
            except RemoteError:
                self.refused_ptz.append(body.ptz_cmd)  # dropped; the MESSAGE still gets its 200 (G160)
            else:
                self.ptz_log.append((body.device_id, command, time.monotonic()))
                moved(self, body, command)

    def _subscribed(self, incoming: IncomingSubscribe, body: Body | None) -> Reply | None:
        expires = incoming.request.expires
        granted = min(600 if expires is None else expires, self.options.longest_subscription_s)
        kind = kind_of_subscription(incoming, body)
        if not self.notices.subscribed(kind, body):
            return Reply(489)
        subscription = incoming.accept(granted)
        self.subscriptions[kind] = subscription
        if kind == "catalog":
            self.endpoint.spawn(self._first_notify())
        return None

    async def _first_notify(self) -> None:
        """The state of all that is not ON, at once after the 200 (9.11.3.2)."""
        await self.notify_catalog(
            [
                CatalogItem(device_id=channel.channel_id, event=channel.status)
                for channel in self.channels.values()
                if channel.status != "ON"
            ]
        )

    def answer_headers(self, incoming: Incoming) -> Sequence[tuple[str, str]]:
        """Further headers of the 200 to an INVITE; platforms add the way the call took."""
        del incoming
        return ()

    @property
    def live_calls(self) -> list[Call]:
        return self.calls.running


async def run_devices(devices: Sequence[SimulatedDevice], stop: asyncio.Event) -> None:
    """Start devices, keep them until ``stop`` is set, unregister them. For the command line and the demo."""
    for device in devices:
        await device.start()
    try:
        await stop.wait()
    finally:
        await asyncio.gather(*(device.stop() for device in devices), return_exceptions=True)
