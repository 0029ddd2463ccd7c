"""A municipal platform above the gateway: registrar, catalog reader, subscriber, viewer of pictures, sender of PTZ.

It misbehaves on demand (:class:`UpperFaults`), so that flows can be tested against an upper that loses answers,
withholds ACKs, restarts or falls silent.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from av import VideoFrame

from simulator.audio_upper import Announcements
from simulator.upper_pull import MediaPort
from sip import mansrtsp
from sip.digest import DigestServer, Secret, Verdict
from sip.endpoint import (
    Endpoint,
    Identity,
    Incoming,
    IncomingInvite,
    InviteSession,
    Reply,
    Subscription,
)
from sip.errors import ParseError, RemoteError
from sip.flow import Flow, Target
from sip.ids import format_ssrc
from sip.manscdp import (
    CONTENT_TYPE,
    AlarmNotify,
    AlarmResponse,
    Body,
    CatalogItem,
    CatalogNotify,
    CatalogQuery,
    CatalogResponse,
    DeviceControl,
    DeviceInfoQuery,
    DeviceStatusQuery,
    Edition,
    KeepaliveNotify,
    MediaStatusNotify,
    RecordInfoQuery,
    RecordInfoResponse,
    decode,
    encode,
)
from sip.manscdp.media_status import FILE_SENT
from sip.mansrtsp import PlayAnswer, PlayControl
from sip.message import Request, Response
from sip.note import NoteKey, PeerGuard
from sip.observer import Observer
from sip.sdp import SessionDescription, history_offer, live_offer, parse
from sip.timers import Timers
from sip.tls import Tls

log = logging.getLogger(__name__)

BEIJING = timezone(timedelta(hours=8))
ANSWER_TIMEOUT_S = 10.0
MAX_RECORDED = 100_000


@dataclass(slots=True)
class UpperFaults:
    """What the upper does wrong; all may be changed while it runs.

    ``refuse_registers`` counts down: so many REGISTERs get ``refuse_status``. ``silent_messages`` counts down:
    so many MESSAGEs get no answer at all. ``silent``: no request is answered. ``message_status`` replaces the 200
    to every MESSAGE.
    """

    refuse_registers: int = 0
    refuse_status: int = 403
    silent: bool = False
    silent_messages: int = 0
    message_status: int = 200
    notify_status: int = 200
    withhold_ack: bool = False
    """No ACK leaves the upper."""


@dataclass(slots=True)
class UpperRules:
    """How the registrar behaves.

    ``granted_s`` None grants what was asked. ``expires_in``: header | contact | both. ``challenges`` builds the
    WWW-Authenticate values from (realm, nonce); None: one plain MD5 challenge. ``algorithms`` are accepted.
    ``clock_offset_s`` shifts the Date header. ``version`` is sent as X-GB-Ver, "" sends none.
    """

    realm: str = ""
    password: str | None = None
    granted_s: int | None = None
    expires_in: str = "header"
    challenges: Callable[[str, str], list[str]] | None = None
    algorithms: tuple[str, ...] = ("MD5", "SHA-256")
    clock_offset_s: float = 0.0
    version: str = "3.0"
    redirect: str = ""
    """Contact of a 302 answered to every authenticated REGISTER."""


class _Witness(Observer):
    """Keeps what the upper saw: statuses received with their time, and every byte that came in."""

    def __init__(self) -> None:
        self.statuses: deque[tuple[float, str]] = deque(maxlen=MAX_RECORDED)
        self.wire_in: deque[bytes] = deque(maxlen=MAX_RECORDED)

    def on_received(self, method_or_status: str, flow: Flow) -> None:
        self.statuses.append((time.monotonic(), method_or_status))

    def wire(self, direction: str, flow: Flow | Target, data: bytes) -> None:
        if direction == "in":
            self.wire_in.append(data)


@dataclass(slots=True)
class Registered:
    """One registered lower platform."""

    user: str
    flow: Flow
    uri: str
    call_id: str
    expires_at: float


@dataclass(slots=True)
class Pull:
    """One running view of a channel: its dialog, its media port and the answer that came."""

    session: InviteSession
    media: MediaPort
    answer: SessionDescription
    ssrc: int | None
    answered_s: float
    """Seconds from INVITE to 200."""
    told_ends: list[str] = field(default_factory=list)
    """Call-IDs of the dialogs in which MediaStatus 121 came, of all pulls of this upper."""

    async def control(self, control: PlayControl) -> PlayAnswer:
        """INFO with MANSRTSP in the dialog. Raises ParseError when the answer is no 200 with a MANSRTSP body."""
        response = await self.session.request(
            "INFO", body=control.to_bytes(), content_type=mansrtsp.CONTENT_TYPE
        )
        answer = mansrtsp.parse(response.body) if response.status == 200 else None
        if not isinstance(answer, PlayAnswer):
            raise ParseError(f"INFO answered {response.status}", status=response.status)
        return answer

    @property
    def ended_sending(self) -> bool:
        """The lower platform said that all was sent (MediaStatus 121 in this dialog)."""
        return self.session.call_id in self.told_ends

    async def close(self) -> None:
        """BYE and release of the port."""
        await self.session.bye()
        await self.media.close()


@dataclass(slots=True)
class _Collector:
    items: dict[str, CatalogItem] = field(default_factory=dict)
    parts: list[CatalogResponse] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    sum_num: int | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class UpperPlatform:
    """One upper platform on loopback. ``lower_id`` is the code it expects our gateway to use."""

    def __init__(
        self,
        platform_id: str,
        *,
        lower_id: str,
        password: str | None = None,
        domain: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        transport: str = "udp",
        edition: Edition = Edition.V2022,
        charset: str = "GB18030",
        rules: UpperRules | None = None,
        faults: UpperFaults | None = None,
        timers: Timers | None = None,
        tls: Tls | None = None,
        note: NoteKey | None = None,
    ) -> None:
        self.platform_id = platform_id
        self.tls = tls
        self.guard = PeerGuard(note, mono=time.monotonic) if note is not None else None
        self.domain = domain or platform_id[:10]
        self.lower_id = lower_id
        self.host = host
        self.transport = transport
        self.edition, self.charset = edition, charset
        self.rules = rules or UpperRules()
        self.rules.realm = self.rules.realm or self.domain
        self.rules.password = password if password is not None else self.rules.password
        self.faults = faults or UpperFaults()
        self.lowers: dict[str, Registered] = {}
        self.registers: list[Request] = []
        """Every REGISTER received, in order."""
        self.register_times: list[float] = []
        self.heartbeats: list[tuple[float, KeepaliveNotify]] = []
        self.messages: list[tuple[Body, Incoming]] = []
        self.notifies: list[tuple[CatalogNotify, Request, float]] = []
        self.told: list[tuple[Body, Request, float]] = []
        """All other bodies that came in NOTIFYs: alarms, positions."""
        self.ended: list[str] = []
        """Why subscriptions ended without the upper's will."""
        self.refused = Counter[str]()
        self.pulls: list[Pull] = []
        self.told_ends: list[str] = []
        """Call-IDs of dialogs in which MediaStatus 121 came."""
        self._port = port
        self._digest = DigestServer()
        self._collectors: dict[int, _Collector] = {}
        self._record_parts: dict[int, asyncio.Queue[RecordInfoResponse]] = {}
        self._answers: dict[tuple[str, int], asyncio.Future[Body]] = {}
        self._subscriptions: list[Subscription] = []
        self._sn = secrets.randbelow(1000) + 1
        self._timers = timers
        self._witness = _Witness()
        self.endpoint = self._new_endpoint(port)
        self.announcements = Announcements(self)

    def _new_endpoint(self, port: int) -> Endpoint:
        extra = {"timers": self._timers} if self._timers is not None else {}
        endpoint = Endpoint(
            Identity(self.platform_id, self.domain),
            host=self.host,
            port=port,
            handler=self._handle,
            user_agent="upper-simulator",
            observer=self._witness,
            tls=self.tls,
            guard=self.guard,
            **extra,  # type: ignore[arg-type]
        )
        transport = endpoint._transport
        send = transport.send

        def lossy(data: bytes, destination: Flow | Target) -> None:
            if not (self.faults.withhold_ack and data.startswith(b"ACK ")):
                send(data, destination)

        transport.send = lossy  # type: ignore[method-assign]
        return endpoint

    @property
    def statuses(self) -> list[tuple[float, str]]:
        """(monotonic time, status or method) of everything received, in order."""
        return list(self._witness.statuses)

    @property
    def wire_in(self) -> list[bytes]:
        """Every SIP message received, as bytes."""
        return list(self._witness.wire_in)

    @property
    def port(self) -> int:
        """The port to register at: that of TLS where this is the transport."""
        if self.transport == "tls":
            return self.endpoint.tls_port
        return self._port or self.endpoint.port

    async def start(self) -> None:
        await self.endpoint.start()
        self._port = self.endpoint.port
        if self.tls is not None and self.tls.port is not None:
            self.tls.port = self.endpoint.tls_port  # a restart comes back on the same one

    async def stop(self) -> None:
        """BYE to everything it watches, then close."""
        for pull in self.pulls:
            await pull.close()
        self.pulls.clear()
        await self.announcements.hang_up()
        await self.endpoint.close(drain_s=0.2)

    async def vanish(self) -> None:
        """Gone without a word: no BYE, the port closed."""
        for pull in self.pulls:
            await pull.media.close()
        self.pulls.clear()
        await self.endpoint.close(drain_s=0.0)

    async def restart(self) -> None:
        """Vanish and come back on the same port with no memory: registrations, dialogs and subscriptions are gone."""
        await self.vanish()
        self.forget()
        self.endpoint = self._new_endpoint(self._port)
        await self.endpoint.start()

    def forget(self) -> None:
        """Lose all registrations and subscriptions: MESSAGEs get 403, NOTIFYs 481 from here on."""
        self.lowers.clear()
        self._subscriptions.clear()

    # -- waiting ---------------------------------------------------------------------------------------------

    async def wait(self, done: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
        """Wait until ``done()`` is true. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"upper waited {timeout_s} s in vain {what}")
            await asyncio.sleep(0.01)

    async def wait_registered(self, timeout_s: float = 10.0) -> Registered:
        await self.wait(lambda: self.lower_id in self.lowers, timeout_s, "for a registration")
        return self.lowers[self.lower_id]

    @property
    def lower(self) -> Registered:
        """The gateway as registered. KeyError when it is not."""
        return self.lowers[self.lower_id]

    # -- requests from below ---------------------------------------------------------------------------------

    async def _handle(self, incoming: Incoming) -> Reply | None:
        request = incoming.request
        if self.faults.silent:
            await asyncio.sleep(3600)
        if request.method == "REGISTER":
            return self._register(incoming)
        if request.method == "MESSAGE":
            return await self._message(incoming)
        if request.method == "OPTIONS":
            return Reply(200)
        if isinstance(incoming, IncomingInvite):
            return await self.announcements.invited(incoming)
        return Reply(405)

    def _register(self, incoming: Incoming) -> Reply:
        request, rules = incoming.request, self.rules
        self.registers.append(request)
        self.register_times.append(time.monotonic())
        version = [("X-GB-Ver", rules.version)] if rules.version else []
        if self.faults.refuse_registers > 0:
            self.faults.refuse_registers -= 1
            self.refused["register"] += 1
            return Reply(self.faults.refuse_status, version)
        challenge = self._challenge(incoming)
        if challenge is not None:
            return Reply(401, [*version, *(("WWW-Authenticate", value) for value in challenge)])
        if rules.redirect:
            return Reply(302, [*version, ("Contact", rules.redirect)])
        return self._grant(incoming, version)

    def _challenge(self, incoming: Incoming) -> list[str] | None:
        """Values to challenge with, None when the request proved itself (or no password is asked)."""
        rules, host = self.rules, incoming.flow.host
        if rules.password is None:
            return None
        now = time.monotonic()
        verdict = self._digest.verify(
            incoming.request.headers.get("Authorization") or "",
            "REGISTER",
            rules.realm,
            host,
            now,
            Secret(password=rules.password),
            algorithms=rules.algorithms,
        )
        if verdict is Verdict.OK:
            return None
        if verdict is not Verdict.MISSING:
            self.refused[f"digest {verdict.value}"] += 1
        if rules.challenges is not None:
            return rules.challenges(rules.realm, self._digest.nonce(rules.realm, host, now))
        return self._digest.challenge(rules.realm, host, now)

    def _grant(self, incoming: Incoming, version: list[tuple[str, str]]) -> Reply:
        request, rules = incoming.request, self.rules
        asked = request.expires if request.expires is not None else 86400
        user = request.to.uri.user
        contact = request.contact
        granted = asked if rules.granted_s is None or asked == 0 else rules.granted_s
        if granted:
            uri = str(contact.uri) if contact is not None else f"sip:{user}@{incoming.flow.host}"
            self.lowers[user] = Registered(
                user, incoming.flow, uri, request.call_id, time.monotonic() + granted
            )
        else:
            self.lowers.pop(user, None)
        moment = datetime.now(UTC) + timedelta(seconds=rules.clock_offset_s)
        date = moment.astimezone(BEIJING).replace(tzinfo=None).isoformat(timespec="milliseconds")
        headers = [*version, ("Date", date)]
        text = f"<{contact.uri}>" if contact is not None else f"<sip:{user}@{incoming.flow.host}>"
        if rules.expires_in in ("contact", "both"):
            text += f";expires={granted}"
        headers.append(("Contact", text))
        if rules.expires_in in ("header", "both"):
            headers.append(("Expires", str(granted)))
        elif rules.expires_in == "contact":
            headers.append(("Expires", str(granted * 10)))
        return Reply(200, headers)

    async def _message(self, incoming: Incoming) -> Reply:
        if self.faults.silent_messages > 0:
            self.faults.silent_messages -= 1
            await asyncio.sleep(3600)
        user = incoming.request.from_.uri.user
        if user not in self.lowers and incoming.session is None:  # in a dialog the channel is the sender
            self.refused["message"] += 1
            return Reply(403)
        if self.faults.message_status != 200:
            return Reply(self.faults.message_status)
        try:
            body = decode(incoming.request.body).body
        except RemoteError as error:
            self.refused["body"] += 1
            return Reply(error.status)
        if user in self.lowers:
            self.lowers[user].flow = incoming.flow
        self._take(body, incoming)
        return Reply(200)

    def _take(self, body: Body, incoming: Incoming) -> None:
        if len(self.messages) < MAX_RECORDED:
            self.messages.append((body, incoming))
        if isinstance(body, KeepaliveNotify):
            self.heartbeats.append((time.monotonic(), body))
        elif isinstance(body, AlarmNotify):
            self.endpoint.spawn(self._answer_alarm(body))
        elif isinstance(body, MediaStatusNotify) and body.notify_type == FILE_SENT:
            self.told_ends.append(incoming.request.call_id)
        elif isinstance(body, RecordInfoResponse) and body.sn in self._record_parts:
            self._record_parts[body.sn].put_nowait(body)
        elif isinstance(body, CatalogResponse) and body.sn in self._collectors:
            collector = self._collectors[body.sn]
            collector.parts.append(body)
            collector.sizes.append(len(incoming.request.to_bytes()))
            collector.flows.append(incoming.flow)
            collector.sum_num = body.sum_num
            collector.items.update((item.device_id, item) for item in body.items)
            if len(collector.items) >= body.sum_num:
                collector.done.set()
        waiter = self._answers.pop((body.cmd_type, body.sn), None)
        if waiter is not None and not waiter.done():
            waiter.set_result(body)

    # -- requests downward -----------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        return Identity(self.platform_id, self.domain)

    def next_sn(self) -> int:
        self._sn += 1
        return self._sn

    def target(self, user: str = "") -> Target:
        """Request-URI of ``user`` (default the gateway itself) over the gateway's flow."""
        lower = self.lower
        return Target.of_flow(f"sip:{user or self.lower_id}@{self.lower_id[:10]}", lower.flow)

    async def send(
        self, body: Body, *, to: str = "", headers: list[tuple[str, str]] | None = None
    ) -> Response:
        """One MESSAGE to the gateway, in the upper's charset and edition."""
        user = to or self.lower_id
        return await self.endpoint.request(
            "MESSAGE",
            self.target(user),
            to=f"sip:{user}@{self.lower_id[:10]}",
            body=encode(body, charset=self.charset, edition=self.edition),
            content_type=CONTENT_TYPE,
            headers=headers or (),
        )

    async def ask(self, body: Body, *, timeout_s: float = ANSWER_TIMEOUT_S, **send: object) -> Body:
        """Send a query or control and wait for the answer with the same CmdType and SN. Raises TimeoutError."""
        waiter: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        self._answers[body.cmd_type, body.sn] = waiter
        try:
            response = await self.send(body, **send)  # type: ignore[arg-type]
            if response.status != 200:
                raise ParseError(f"{body.cmd_type} answered {response.status}", status=response.status)
            async with asyncio.timeout(timeout_s):
                return await waiter
        finally:
            self._answers.pop((body.cmd_type, body.sn), None)

    async def collect(
        self,
        device_id: str = "",
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> _Collector:
        """Query a catalog and keep its parts as they came. Raises TimeoutError when it does not get complete."""
        query = CatalogQuery(
            sn=self.next_sn(), device_id=device_id or self.lower_id, start_time=start_time, end_time=end_time
        )
        collector = self._collectors[query.sn] = _Collector()
        try:
            await self.send(query)
            async with asyncio.timeout(timeout_s):
                await collector.done.wait()
        finally:
            del self._collectors[query.sn]
        return collector

    async def query_catalog(
        self, device_id: str = "", *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> list[CatalogItem]:
        """The gateway's catalog, or the part below ``device_id``, in the order it came."""
        return list((await self.collect(device_id, timeout_s=timeout_s)).items.values())

    async def subscribe_catalog(
        self, device_id: str = "", *, to: str = "", expires_s: int = 600, event: str | None = None
    ) -> Subscription:
        """Subscribe; NOTIFYs are kept in ``notifies``. ``to``: another system than the gateway, below it (N.2.2)."""
        user = to or self.lower_id
        query = CatalogQuery(sn=self.next_sn(), device_id=device_id or user)
        subscription = await self.endpoint.subscribe(
            self.target(user),
            to=f"sip:{user}@{self.lower_id[:10]}",
            event=event if event is not None else f"Catalog;id={secrets.randbelow(10_000)}",
            expires_s=expires_s,
            body=encode(query, charset=self.charset, edition=self.edition),
            content_type=CONTENT_TYPE,
            on_notify=self._notified,
            on_end=self.ended.append,
        )
        self._subscriptions.append(subscription)
        return subscription

    def _notified(self, incoming: Incoming) -> Reply:
        if self.faults.notify_status != 200:
            return Reply(self.faults.notify_status)
        if incoming.request.body:
            body = decode(incoming.request.body).body
            if isinstance(body, CatalogNotify):
                self.notifies.append((body, incoming.request, time.monotonic()))
            elif len(self.told) < MAX_RECORDED:
                self.told.append((body, incoming.request, time.monotonic()))
        return Reply(200)

    async def subscribe(self, query: Body, *, event: str = "presence", expires_s: int = 600) -> Subscription:
        """Subscribe to alarms or positions; what is notified is kept in ``told``."""
        subscription = await self.endpoint.subscribe(
            self.target(query.device_id),
            to=f"sip:{query.device_id}@{self.lower_id[:10]}",
            event=event,
            expires_s=expires_s,
            body=encode(query, charset=self.charset, edition=self.edition),
            content_type=CONTENT_TYPE,
            on_notify=self._notified,
            on_end=self.ended.append,
        )
        self._subscriptions.append(subscription)
        return subscription

    async def _answer_alarm(self, alarm: AlarmNotify) -> None:
        """Response/Alarm with the alarm's SN (9.4.2)."""
        await self.send(AlarmResponse(sn=alarm.sn, device_id=alarm.device_id))

    def events(self) -> list[tuple[str, str]]:
        """(event, code) of every entry notified so far, in order."""
        return [(item.event, item.device_id) for notify, _, _ in self.notifies for item in notify.items]

    async def invite(
        self,
        channel_id: str,
        transport: str = "udp",
        *,
        with_y: bool = True,
        ssrc: int | None = None,
        uri_user: str = "",
        subject: str | None = None,
        offer: bytes | None = None,
        keep: Path | None = None,
        timeout_s: float = 30.0,
        headers: list[tuple[str, str]] | None = None,
    ) -> Pull:
        """Play one channel and receive its media. Raises Rejected with the gateway's answer.

        ``transport`` is the upper's part: udp, tcp_passive (it listens), tcp_active (it dials). ``uri_user``
        replaces the channel in Request-URI and To; ``subject`` replaces the Subject ("" sends none).
        """
        media = MediaPort(transport, self.host, keep=keep)
        if transport != "tcp_active":
            media.start()
        try:
            return await self._invite(
                channel_id, transport, media, with_y, ssrc, uri_user, subject, offer, timeout_s, headers or []
            )
        except BaseException:
            await media.close()
            raise

    def offer(self, media: MediaPort, transport: str, ssrc: int | None) -> SessionDescription:
        """The offer the upper makes by itself; tests change it before they send it."""
        return live_offer(
            own_id=self.platform_id,
            address=media.host,
            port=media.port,
            ssrc=ssrc,
            transport=transport,
            edition=self.edition,
        )

    async def _invite(
        self,
        channel_id: str,
        transport: str,
        media: MediaPort,
        with_y: bool,
        ssrc: int | None,
        uri_user: str,
        subject: str | None,
        offer: bytes | None,
        timeout_s: float,
        headers: list[tuple[str, str]],
    ) -> Pull:
        chosen = (ssrc if ssrc is not None else 100_000_000 + secrets.randbelow(10_000)) if with_y else None
        user = uri_user or channel_id
        if subject is None:
            subject = f"{channel_id}:{format_ssrc(chosen or secrets.randbelow(10_000))},{self.platform_id}:0"
        began = time.monotonic()
        session = await self.endpoint.invite(
            self.target(user),
            to=f"sip:{user}@{self.lower_id[:10]}",
            offer=offer if offer is not None else self.offer(media, transport, chosen).to_bytes(),
            subject=subject,
            headers=headers,
            timeout_s=timeout_s,
        )
        answered = time.monotonic() - began
        answer = parse(session.remote_sdp)
        section = answer.first("video")
        if transport == "tcp_active" and section is not None:
            media.start((answer.address, section.port))
        pull = Pull(session, media, answer, chosen, answered, self.told_ends)
        self.pulls.append(pull)
        return pull

    async def query_records(
        self,
        channel_id: str,
        start: datetime,
        end: datetime,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        to: str = "",
        **filters: Any,
    ) -> list[RecordInfoResponse]:
        """Ask what is recorded (``to``: in the To header instead of the platform); the parts of the answer as they came.

        Raises TimeoutError when one is missing.
        """
        query = RecordInfoQuery(
            sn=self.next_sn(), device_id=channel_id, start_time=start, end_time=end, **filters
        )
        queue = self._record_parts[query.sn] = asyncio.Queue()
        parts: list[RecordInfoResponse] = []
        try:
            response = await self.send(query, to=to)
            if response.status != 200:
                raise ParseError(f"RecordInfo answered {response.status}", status=response.status)
            async with asyncio.timeout(timeout_s):
                while not parts or sum(len(part.items) for part in parts) < parts[0].sum_num:
                    parts.append(await queue.get())
        finally:
            del self._record_parts[query.sn]
        return parts

    async def play_back(
        self,
        channel_id: str,
        start: datetime,
        end: datetime,
        transport: str = "udp",
        *,
        name: str = "Playback",
        download_speed: int | None = None,
        record_type: int = 0,
        ssrc: int | None = None,
        on_frame: Callable[[VideoFrame], None] | None = None,
        timeout_s: float = 30.0,
    ) -> Pull:
        """Play (or download) what was recorded. Raises Rejected with the gateway's answer."""
        media = MediaPort(transport, self.host)
        media.on_frame = on_frame
        if transport != "tcp_active":
            media.start()
        chosen = 1_100_000_000 + secrets.randbelow(10_000) if ssrc is None else ssrc
        offer = history_offer(
            self.offer(media, transport, chosen), name=name, source_id=channel_id, record_type=record_type,
            start_unix=int(start.timestamp()), end_unix=int(end.timestamp()), download_speed=download_speed,
        )  # fmt: skip
        try:
            return await self._invite(
                channel_id, transport, media, True, chosen, "", None, offer.to_bytes(), timeout_s, []
            )
        except BaseException:
            await media.close()
            raise

    async def ptz(
        self, channel_id: str, digits: str, *, headers: list[tuple[str, str]] | None = None
    ) -> Response:
        """A PTZCmd of 16 hex digits, right or wrong, for one channel."""
        return await self.send(
            DeviceControl(sn=self.next_sn(), device_id=channel_id, ptz_cmd=digits), headers=headers
        )

    async def device_info(self, device_id: str = "") -> Body:
        return await self.ask(DeviceInfoQuery(sn=self.next_sn(), device_id=device_id or self.lower_id))

    async def device_status(self, device_id: str = "") -> Body:
        return await self.ask(DeviceStatusQuery(sn=self.next_sn(), device_id=device_id or self.lower_id))
