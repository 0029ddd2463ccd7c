"""One link to an upper platform: registers, beats, refreshes and tells when the upper is there and when it is gone."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Protocol

from config.settings import CascadeSettings
from gateway.clock import BEIJING, Clock
from gateway.events import EventBus, PlatformChanged
from gateway.model import Platform, PlatformState, PlatformStatus
from gateway.services.cascade_state import Due, LinkMachine, LinkTimes
from sip.endpoint import Credentials, Identity
from sip.errors import ParseError, RemoteError, TransportFailed
from sip.flow import Target, TransportName
from sip.ids import domain_of
from sip.manscdp import CONTENT_TYPE, Body, Edition, KeepaliveNotify, encode
from sip.message import Response
from sip.routes import is_address
from sip.uri import SipUri, join_host_port

log = logging.getLogger(__name__)

FORGOTTEN = frozenset({401, 403, 404, 407, 481})
"""Answers to a heartbeat that mean: the upper does not know us any more (report F.1)."""
MAX_REDIRECTS = 3
_TRANSPORTS: dict[str, TransportName] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}
FAREWELL_TIMEOUT_S = 2.0
OUR_VERSION = "3.0"


class Requester(Protocol):
    """What the link needs of the SIP endpoint."""

    async def request(
        self,
        method: str,
        target: Target,
        *,
        to: str,
        sender: Identity | None = None,
        body: bytes = b"",
        content_type: str = "",
        headers: Sequence[tuple[str, str]] = (),
        call_id: str | None = None,
        cseq: int | None = None,
        from_tag: str | None = None,
        credentials: Credentials | None = None,
        timeout_s: float | None = None,
    ) -> Response: ...


class UpperLink:
    """Owner of the tasks that keep one upper informed of us.

    ``on_up`` is called after each fresh registration, ``on_down(cause)`` when the upper counts as offline:
    whatever lives in its dialogs has to be dropped then. ``healthy`` is our own state for the heartbeat.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        identity: Identity,
        settings: CascadeSettings,
        endpoint: Requester,
        bus: EventBus,
        clock: Clock | None = None,
        random: Random | None = None,
        healthy: Callable[[], bool] = lambda: True,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda cause: None,
    ) -> None:
        self.platform = platform
        self.identity = identity
        self._endpoint, self._bus, self._clock = endpoint, bus, clock or Clock()
        self._healthy, self._on_up, self._on_down = healthy, on_up, on_down
        self.machine = LinkMachine(
            LinkTimes(
                heartbeat_interval_s=platform.heartbeat_interval_s,
                heartbeat_count=platform.heartbeat_count,
                register_retry_s=settings.register_retry_s,
                spread=settings.register_retry_spread,
                refresh_at=settings.refresh_at,
            ),
            random or Random(),
        )
        self._status = PlatformStatus(platform.platform_id, since_at=self._clock.utc())
        self._told: PlatformState | None = None
        self._redirect: Target | None = None
        self._server_id = ""
        """Code of the server that a redirect named."""
        self._hosts: frozenset[str] = frozenset()
        self._call_id = self._from_tag = ""
        self._cseq = 1
        self._sn = 0
        self._peer_edition: Edition | None = None
        self._wake = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._register_task: asyncio.Task[None] | None = None
        self._beat_task: asyncio.Task[None] | None = None

    # -- what others ask -------------------------------------------------------------------------------------

    @property
    def online(self) -> bool:
        return self.machine.state is PlatformState.ONLINE

    @property
    def heard(self) -> bool:
        """Whether its requests are served: it may ask in the same moment as it grants our REGISTER."""
        return self.machine.state in (PlatformState.ONLINE, PlatformState.REGISTERING)

    @property
    def edition(self) -> Edition:
        """What may be sent: the operator's setting, lowered to what the upper says of itself (2022 annex I)."""
        ours = Edition.from_header(self.platform.edition)
        return Edition.V2016 if self._peer_edition is Edition.V2016 else ours

    @property
    def hosts(self) -> frozenset[str]:
        """Addresses this upper may send from: the configured one, or those its name stands for, and a redirect's."""
        return self._hosts | {self.target.host}

    @property
    def uri(self) -> str:
        """Whom our requests are for: the upper, or the server it redirected us to."""
        if self._redirect is not None and self._server_id:
            return f"sip:{self._server_id}@{domain_of(self._server_id) or self.platform.domain}"
        return f"sip:{self.platform.platform_id}@{self.platform.domain}"

    @property
    def target(self) -> Target:
        if self._redirect is not None:
            return self._redirect
        platform = self.platform
        uri = f"sip:{platform.platform_id}@{platform.domain}"
        name = platform.tls_server_name if platform.transport == "tls" else ""
        return Target(uri, platform.host, platform.port, _TRANSPORTS[platform.transport], server_name=name)

    def status(self) -> PlatformStatus:
        """A copy of the live state; subscriptions and streams are filled in by the owner."""
        return replace(
            self._status,
            state=self.machine.state,
            expires_s=self.machine.granted_s,
            missed_heartbeats=self.machine.missed,
            next_try_in_s=self.machine.next_try_in(self._clock.mono()),
            server=join_host_port(self.target.host, self.target.port),
        )

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.machine.start(self._clock.mono())
        self._tell()
        self._runner = asyncio.create_task(self._run(), name=f"upper {self.platform.platform_id}")

    async def stop(self, *, farewell: bool) -> None:
        """End all tasks. With ``farewell`` an upper that believes us online gets a REGISTER with Expires 0."""
        online = self.machine.stop()
        tasks = [task for task in (self._runner, self._register_task, self._beat_task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if online and farewell:
            try:
                async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                    await self._send_register(0)
            except (RemoteError, TimeoutError) as error:
                log.info(
                    "upper farewell unanswered platform_id=%s cause=%s", self.platform.platform_id, error
                )
        self._tell()

    def report_now(self) -> None:
        """Our own health changed: tell the upper at once (9.6.1 a)."""
        self.machine.report_now(self._clock.mono())
        self._wake.set()

    def connection_lost(self) -> None:
        """The TCP connection to the upper ended: register anew over another one (9.1.1 f)."""
        if self.online and self.target.transport != "udp":
            self._lost("connection lost")

    async def message(
        self, body: Body, *, target: Target | None = None, timeout_s: float | None = None
    ) -> Response:
        """Send one body as MESSAGE in the upper's edition and charset. Raises RemoteError when no answer came."""
        return await self._endpoint.request(
            "MESSAGE",
            target or self.target,
            to=self.uri,
            sender=self.identity,
            body=self.encode(body),
            content_type=CONTENT_TYPE,
            timeout_s=timeout_s,
        )

    def encode(self, body: Body) -> bytes:
        charset = self.platform.charset
        known = charset if charset in ("GB2312", "GB18030", "UTF-8") else "GB18030"
        return encode(body, charset=known, edition=self.edition)

    def next_sn(self) -> int:
        self._sn += 1
        return self._sn

    # -- the loop --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            for due in self.machine.due(self._clock.mono()):
                if due is Due.HEARTBEAT:
                    self._beat_task = asyncio.create_task(self._beat())
                else:
                    self._register_task = asyncio.create_task(self._register(fresh=due is Due.REGISTER))
            self._tell()
            timer = self.machine.next_timer()
            delay = None if timer is None else max(0.0, timer - self._clock.mono())
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _register(self, *, fresh: bool) -> None:
        if fresh:
            # A Call-ID that failed is not used again: some uppers answer 400 to it (quirk 36).
            self._call_id, self._from_tag, self._cseq = secrets.token_hex(12), secrets.token_hex(5), 1
            self._redirect = None
        before = self.target
        try:
            self._hosts = await resolve(self.platform.host, self.platform.port)
            if self._redirect is not None:
                self._hosts |= await resolve(self._redirect.host, self._redirect.port)
            response = await self._register_following()
        except RemoteError as error:
            self._failed(f"no answer: {error}")
            return
        granted = granted_expires(response, self.identity.user, self.platform.expires_s)
        if response.status // 100 != 2 or granted <= 0:
            self._failed(f"{response.status} {response.reason}")
            return
        if not fresh and self.target != before:
            self._on_down("redirected")  # what lives in dialogs with the other server is over
            fresh = True
        self._granted(response, granted, fresh=fresh)

    async def _register_following(self) -> Response:
        """REGISTER, following 302 (9.1.2.3) and one 423 with Min-Expires.

        A circle of servers ends at the first one met twice, any chain after MAX_REDIRECTS (G052).
        """
        response = await self._send_register(self.platform.expires_s)
        met = {(self.target.host, self.target.port)}
        for _ in range(MAX_REDIRECTS + 1):
            if response.status == 423:
                shortest = response.headers.get("Min-Expires")
                if shortest is None or not shortest.isdecimal():
                    break
                response = await self._send_register(int(shortest))
            elif response.status in (301, 302):
                there, server_id = _redirected(response, self.target)
                if there is None or len(met) > MAX_REDIRECTS or (there.host, there.port) in met:
                    log.warning(
                        "upper redirects in vain platform_id=%s hops=%d contact=%s",
                        *(self.platform.platform_id, len(met), response.headers.get("Contact")[:200]),
                    )
                    response.reason = f"{response.reason} (not followed after {len(met)} servers)"
                    break
                await self._follow(there, server_id)
                met.add((there.host, there.port))
                response = await self._send_register(self.platform.expires_s)
            else:
                break
        return response

    async def _follow(self, there: Target, server_id: str) -> None:
        """Another server from here on: a registration of its own under a Call-ID of its own."""
        log.info(
            "upper redirects platform_id=%s server=%s to=%s:%d",
            *(self.platform.platform_id, server_id, there.host, there.port),
        )
        self._hosts |= await resolve(there.host, there.port)
        self._redirect, self._server_id = there, server_id
        self._call_id, self._from_tag, self._cseq = secrets.token_hex(12), secrets.token_hex(5), 1

    async def _send_register(self, expires_s: int) -> Response:
        platform, identity = self.platform, self.identity
        response = await self._endpoint.request(
            "REGISTER",
            self.target,
            to=identity.uri,
            sender=identity,
            headers=[("Expires", str(expires_s)), ("X-GB-Ver", OUR_VERSION)],
            call_id=self._call_id,
            cseq=self._cseq,
            from_tag=self._from_tag,
            credentials=Credentials(platform.username or identity.user, platform.password),
        )
        self._cseq = response.cseq.number + 1
        self._status.last_response = f"{response.status} {response.reason}"
        return response

    def _granted(self, response: Response, granted_s: int, *, fresh: bool) -> None:
        now = self._clock.utc()
        version = response.headers.get("X-GB-Ver")
        self._peer_edition = Edition.from_header(version) if version else None
        self._status.clock_offset_s = date_offset(response.headers.get("Date"), now)
        self._status.registered_at = now
        self.machine.registered(granted_s, self._clock.mono())
        log.info(
            "upper registered platform_id=%s call_id=%s expires_s=%d fresh=%s",
            self.platform.platform_id,
            self._call_id,
            granted_s,
            fresh,
        )
        if fresh:
            self._on_up()
        self._tell()
        self._wake.set()

    def _failed(self, text: str) -> None:
        was_online = self.online
        self._status.last_response = text
        log.warning(
            "upper refused register platform_id=%s call_id=%s response=%s",
            self.platform.platform_id,
            self._call_id,
            text,
        )
        self.machine.register_failed(self._clock.mono())
        self._redirect = None
        if was_online:
            self._went_down("refresh failed")
        self._tell()
        self._wake.set()

    async def _beat(self) -> None:
        machine, platform = self.machine, self.platform
        body = KeepaliveNotify(
            sn=self.next_sn(), device_id=self.identity.user, status="OK" if self._healthy() else "ERROR"
        )
        try:
            response = await self.message(body, timeout_s=min(32.0, platform.heartbeat_interval_s))
        except RemoteError as error:
            self._status.last_response = f"heartbeat unanswered: {error}"
            log.warning(
                "upper heartbeat unanswered platform_id=%s missed=%d",
                platform.platform_id,
                machine.missed + 1,
            )
            if machine.heartbeat_missed(self._clock.mono()):
                self._went_down("heartbeats unanswered")
            self._wake.set()
            return
        self._status.last_response = f"{response.status} {response.reason}"
        if response.status in FORGOTTEN:
            self._lost(f"heartbeat answered {response.status}")
        elif response.status // 100 == 2:
            machine.heartbeat_answered()
        elif machine.heartbeat_missed(self._clock.mono()):
            self._went_down("heartbeats refused")
        self._wake.set()

    def _lost(self, cause: str) -> None:
        self.machine.lost(self._clock.mono())
        self._went_down(cause)

    def _went_down(self, cause: str) -> None:
        """The upper counts as offline: drop the exchange that still runs and tell who has to clean up."""
        for task in (self._register_task, self._beat_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        log.warning("upper offline platform_id=%s cause=%s", self.platform.platform_id, cause)
        self._on_down(cause)
        self._tell()
        self._wake.set()

    def _tell(self) -> None:
        """Publish each change of state once."""
        if self._told is not self.machine.state:
            self._told = self.machine.state
            self._status.since_at = self._clock.utc()
            self._bus.publish(PlatformChanged(self.status()))


async def resolve(host: str, port: int) -> frozenset[str]:
    """The addresses of a host; itself when it is one. Raises TransportFailed for a name nobody knows."""
    if is_address(host):
        return frozenset({host})
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port)
    except OSError as error:
        raise TransportFailed(f"{host} cannot be resolved: {error}") from error
    return frozenset(str(entry[4][0]) for entry in found)


def granted_expires(response: Response, user: str, asked_s: int) -> int:
    """The lifetime in a 200 to REGISTER: our Contact's ``expires``, else the header, else what was asked (10.2.4)."""
    try:
        contacts = response.contacts
    except ParseError:
        contacts = []
    ours = next(
        (contact for contact in contacts if contact.uri.user == user), contacts[0] if contacts else None
    )
    text = ours.params.get("expires") if ours is not None else None
    if text is not None and text.strip().isdecimal():
        return int(text)
    return asked_s if response.expires is None else response.expires


def date_offset(text: str | None, now: datetime) -> float | None:
    """Seconds by which the upper's clock is ahead of ours, from its Date header in Beijing time (9.10.3)."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=BEIJING)
    return (moment - now).total_seconds()


def _redirected(response: Response, before: Target) -> tuple[Target | None, str]:
    """Where a 302 sends us and the code of the server there; None when its Contact names no other place."""
    try:
        contact = response.contact
    except ParseError:
        return None, ""
    if contact is None or contact.uri.scheme not in ("sip", "sips"):
        return None, ""
    uri: SipUri = contact.uri
    named = "tls" if uri.scheme == "sips" else (uri.param("transport") or "").lower()
    transport = _TRANSPORTS.get(named, before.transport)
    port = uri.port or (5061 if transport == "tls" else 5060)
    if (uri.host, port) == (before.host, before.port):
        return None, ""
    name = before.server_name if transport == "tls" else ""
    return (
        Target(f"sip:{uri.user}@{_bracketed(uri.host)}:{port}", uri.host, port, transport, server_name=name),
        uri.user,
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
