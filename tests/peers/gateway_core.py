"""The gateway's signalling parts on a loopback socket, and raw and scripted devices that speak to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from config.settings import CatalogSettings, HeartbeatSettings, RegistrationSettings
from gateway.clock import Clock, ManualClock
from gateway.credentials import DeviceSecret
from gateway.dispatch import Dispatch
from gateway.events import Event, EventBus
from gateway.model import Device
from gateway.peers import Peers
from gateway.registry import Registry
from gateway.services.catalog import CatalogService
from gateway.services.liveness import Liveness
from gateway.services.registrar import Registrar
from gateway.services.subscriptions import SubscriptionService
from gateway.storage.journal import Journal
from sip.endpoint import Endpoint, Identity, Incoming, Reply, Timers
from sip.flow import Flow, Target
from sip.manscdp import CONTENT_TYPE, Body, Edition, decode, encode
from sip.message import Request, Response, parse

SERVER = "41018300002000000001"
DOMAIN = "4101830000"
NVR = "41018300001180000001"
CAMERA = "41018300001320000001"
PASSWORD = "Xm-Demo-0001"
FAST = Timers(t1=0.05, t2=0.2, t4=0.2)

E = TypeVar("E", bound=Event)
_numbers = itertools.count(1)


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait until something is true; AssertionError when it does not become so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        assert loop.time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


class Core:
    """Registrar, liveness, dispatch, catalog and subscriptions behind a real endpoint, without storage and media."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        registration: RegistrationSettings | None = None,
        heartbeat: HeartbeatSettings | None = None,
        catalog: CatalogSettings | None = None,
        with_services: bool = False,
        timers: Timers = FAST,
        stray_notify: bool = False,
    ) -> None:
        self.clock = clock or ManualClock()
        self.bus = EventBus()
        self.seen: list[Event] = []
        self.bus.subscribe(Event, callback=self.seen.append)
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.registration = registration or RegistrationSettings(domain_password=PASSWORD)  # type: ignore[arg-type]
        self.heartbeat = heartbeat or HeartbeatSettings()
        self.catalog_settings = catalog or CatalogSettings(query_on_register=False, subscribe=False)
        self.liveness = Liveness(
            settings=self.heartbeat,
            registry=self.registry,
            heartbeat_revives=self.registration.heartbeat_revives,
            clock=self.clock,
        )
        self.registrar = Registrar(
            settings=self.registration,
            heartbeat=self.heartbeat,
            domain=DOMAIN,
            registry=self.registry,
            liveness=self.liveness,
            bus=self.bus,
            clock=self.clock,
        )
        self.peers = Peers(registry=self.registry, liveness=self.liveness, clock=self.clock)
        self.peers.contested = self.registrar.same_id.contested
        self.endpoint = Endpoint(
            Identity(SERVER, DOMAIN),
            host="127.0.0.1",
            port=0,
            handler=lambda incoming: self.dispatch.handle(incoming),
            timers=timers,
            stray_notify=stray_notify,
        )
        self.endpoint.on_connection_closed = self.liveness.connection_closed
        self.dispatch = Dispatch(
            endpoint=self.endpoint,
            domain=DOMAIN,
            peers=self.peers,
            registrar=self.registrar,
            liveness=self.liveness,
            bus=self.bus,
            clock=self.clock,
        )
        self.journal = Journal(clock=self.clock)
        self.catalog = CatalogService(
            settings=self.catalog_settings,
            registry=self.registry,
            bus=self.bus,
            dispatch=self.dispatch,
            clock=self.clock,
            linger_s=0.05,
            spread_s=0.0,
        )
        self.subscriptions = SubscriptionService(
            settings=self.catalog_settings,
            domain=DOMAIN,
            registry=self.registry,
            bus=self.bus,
            dispatch=self.dispatch,
            endpoint=self.endpoint,
            catalog=self.catalog,
            journal=self.journal,
            clock=self.clock,
            spread_s=0.0,
            resubscribe_s=0.05,
        )
        self._with_services = with_services

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.endpoint.port)

    async def start(self) -> None:
        await self.endpoint.start()
        self.catalog.start()
        if self._with_services:
            await self.subscriptions.start()

    async def close(self) -> None:
        await self.subscriptions.close()
        await self.catalog.close()
        await self.dispatch.close()
        await self.endpoint.close(0)

    def events(self, *types: type[E]) -> list[E]:
        """What was published so far, of these types."""
        return [event for event in self.seen if isinstance(event, types)]

    def device(self, device_id: str = NVR) -> Device:
        return self.registry.devices[device_id]

    def provision(self, device_id: str, password: str) -> Device:
        """Enter a device with its own password, as an operator does."""
        device = Device(device_id=device_id, provisioned=True)
        return self.registry.put_device(device, secret=DeviceSecret.of_password(device_id, DOMAIN, password))


@contextlib.asynccontextmanager
async def core(**options: Any) -> AsyncIterator[Core]:
    made = Core(**options)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def digest_answer(
    challenge: str,
    *,
    user: str,
    password: str,
    uri: str = f"sip:{SERVER}@{DOMAIN}",
    qop: bool = False,
    method: str = "REGISTER",
) -> str:
    """An Authorization value computed here, independently of the code under test."""
    found = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge))
    ha1 = md5(f"{user}:{found['realm']}:{password}")
    ha2 = md5(f"{method}:{uri}")
    tail = ""
    if qop:
        response = md5(f"{ha1}:{found['nonce']}:00000001:0a4f113b:auth:{ha2}")
        tail = ', qop=auth, nc=00000001, cnonce="0a4f113b"'
    else:
        response = md5(f"{ha1}:{found['nonce']}:{ha2}")
    return (
        f'Digest username="{user}", realm="{found["realm"]}", nonce="{found["nonce"]}", uri="{uri}", '
        f'response="{response}", algorithm=MD5{tail}'
    )


def register_text(
    device_id: str = NVR,
    *,
    port: int = 5060,
    cseq: int = 1,
    call_id: str = "",
    expires: int | None = 86400,
    contact: str | None = None,
    authorization: str = "",
    version: str | None = "3.0",
    transport: str = "UDP",
    agent: str = "Example NVR",
    extra: str = "",
    from_uri: str = "",
) -> bytes:
    """One REGISTER as a device writes it."""
    uri = from_uri or f"sip:{device_id}@{DOMAIN}"
    lines = [
        f"REGISTER sip:{SERVER}@{DOMAIN} SIP/2.0",
        f"Via: SIP/2.0/{transport} 127.0.0.1:{port};rport;branch=z9hG4bK{next(_numbers)}",
        f"From: <{uri}>;tag=n1",
        f"To: <{uri}>",
        f"Call-ID: {call_id or f'reg-{device_id}'}",
        f"CSeq: {cseq} REGISTER",
        f"Contact: <sip:{device_id}@127.0.0.1:{port}>" if contact is None else f"Contact: {contact}",
        "Max-Forwards: 70",
    ]
    if contact == "":
        del lines[6]
    if expires is not None:
        lines.append(f"Expires: {expires}")
    if version is not None:
        lines.append(f"X-GB-Ver: {version}")
    if agent:
        lines.append(f"User-Agent: {agent}")
    if authorization:
        lines.append(f"Authorization: {authorization}")
    if extra:
        lines.append(extra)
    return ("\r\n".join(lines) + "\r\nContent-Length: 0\r\n\r\n").encode()


def message_text(
    body: bytes,
    device_id: str = NVR,
    *,
    port: int = 5060,
    content_type: str = CONTENT_TYPE,
    method: str = "MESSAGE",
    transport: str = "UDP",
    extra: str = "",
) -> bytes:
    """One request with a body as a device writes it."""
    number = next(_numbers)
    head = (
        f"{method} sip:{SERVER}@{DOMAIN} SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} 127.0.0.1:{port};rport;branch=z9hG4bK{number}\r\n"
        f"From: <sip:{device_id}@{DOMAIN}>;tag=m{number}\r\nTo: <sip:{SERVER}@{DOMAIN}>\r\n"
        f"Call-ID: m{number}\r\nCSeq: {number} {method}\r\nMax-Forwards: 70\r\n{extra}"
        + (f"Content-Type: {content_type}\r\n" if content_type else "")
        + f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def keepalive_xml(
    device_id: str = NVR, *, sn: int = 1, status: str = "OK", faulty: tuple[str, ...] = ()
) -> bytes:
    info = "".join(f"<DeviceID>{child}</DeviceID>\r\n" for child in faulty)
    return (
        '<?xml version="1.0" encoding="GB2312"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n'
        f"<SN>{sn}</SN>\r\n<DeviceID>{device_id}</DeviceID>\r\n<Status>{status}</Status>\r\n"
        + (f"<Info>\r\n{info}</Info>\r\n" if faulty else "")
        + "</Notify>\r\n"
    ).encode()


class RawDevice:
    """A UDP socket that sends exactly the bytes it is given."""

    def __init__(self, server: tuple[str, int], device_id: str = NVR, *, host: str = "127.0.0.1") -> None:
        self.server = server
        self.device_id = device_id
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.setblocking(False)
        self.host, self.port = self.socket.getsockname()
        self.cseq = 0

    async def __aenter__(self) -> RawDevice:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.socket.close()

    async def exchange(self, data: bytes, timeout_s: float = 5.0) -> Response:
        """Send a request and return its final answer; requests that come meanwhile are dropped."""
        loop = asyncio.get_running_loop()
        sent = parse(data)
        self.socket.sendto(data, self.server)
        async with asyncio.timeout(timeout_s):
            while True:
                answer = parse(await loop.sock_recv(self.socket, 65535))
                if (
                    isinstance(answer, Response)
                    and answer.call_id == sent.call_id
                    and answer.cseq == sent.cseq
                ):
                    return answer

    async def receive(self, timeout_s: float = 5.0) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().sock_recv(self.socket, 65535)

    async def silent(self, wait_s: float = 0.1) -> bool:
        """True when nothing arrives for a moment."""
        try:
            await self.receive(wait_s)
        except TimeoutError:
            return True
        return False

    async def challenge(self, **options: Any) -> str:
        """The challenge to a REGISTER without credentials."""
        self.cseq += 1
        answer = await self.exchange(register_text(self.device_id, port=self.port, cseq=self.cseq, **options))
        assert answer.status == 401, answer
        return answer.headers.get("WWW-Authenticate")

    async def register(
        self, *, password: str = PASSWORD, user: str = "", qop: bool = False, **options: Any
    ) -> Response:
        """Register with digest: the answer to the second request."""
        challenge = await self.challenge(**options)
        self.cseq += 1
        authorization = digest_answer(challenge, user=user or self.device_id, password=password, qop=qop)
        return await self.exchange(
            register_text(
                self.device_id, port=self.port, cseq=self.cseq, authorization=authorization, **options
            )
        )

    async def message(self, body: bytes, **options: Any) -> Response:
        return await self.exchange(
            message_text(body, options.pop("device_id", self.device_id), port=self.port, **options)
        )

    async def keepalive(self, **options: Any) -> Response:
        return await self.message(keepalive_xml(self.device_id, **options))


Script = Callable[[Body, Incoming], Reply | Awaitable[Reply] | None]


class ScriptedDevice:
    """A device made of the same endpoint; ``script`` answers what the gateway sends to it."""

    def __init__(
        self,
        server: tuple[str, int],
        device_id: str = NVR,
        *,
        password: str = PASSWORD,
        transport: str = "udp",
        edition: Edition = Edition.V2022,
        script: Script | None = None,
    ) -> None:
        self.server = server
        self.device_id = device_id
        self.password = password
        self.transport = transport
        self.edition = edition
        self.script = script
        self.received: list[Body] = []
        self.requests: list[Request] = []
        self.on_subscribe: Callable[[Any], Any] | None = None
        self.flow: Flow | None = None
        self.endpoint = Endpoint(
            Identity(device_id, DOMAIN), host="127.0.0.1", port=0, handler=self._handle, timers=FAST
        )

    async def __aenter__(self) -> ScriptedDevice:
        await self.endpoint.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.endpoint.close(0)

    @property
    def target(self) -> Target:
        uri = f"sip:{SERVER}@{DOMAIN}"
        return Target(uri, self.server[0], self.server[1], self.transport, self.flow)  # type: ignore[arg-type]

    def _handle(self, incoming: Incoming) -> Any:
        self.requests.append(incoming.request)
        if incoming.request.method == "SUBSCRIBE":
            return self.on_subscribe(incoming) if self.on_subscribe is not None else Reply(489)
        body = decode(incoming.request.body).body
        self.received.append(body)
        answer = self.script(body, incoming) if self.script is not None else None
        return answer if answer is not None else Reply(200)

    async def register(self, *, expires: int = 86400) -> Response:
        from sip.digest import Credentials

        return await self.endpoint.request(
            "REGISTER",
            self.target,
            to=f"sip:{self.device_id}@{DOMAIN}",
            headers=(("Expires", str(expires)), ("X-GB-Ver", str(self.edition.value))),
            credentials=Credentials(self.device_id, self.password),
            call_id=f"reg-{self.device_id}",
        )

    async def send(self, body: Body, *, charset: str | None = None) -> Response:
        return await self.send_bytes(encode(body, edition=self.edition, charset=charset))

    async def send_bytes(self, body: bytes) -> Response:
        return await self.endpoint.request(
            "MESSAGE", self.target, to=f"sip:{SERVER}@{DOMAIN}", body=body, content_type=CONTENT_TYPE
        )

    def of(self, kind: type[Body]) -> list[Any]:
        return [body for body in self.received if isinstance(body, kind)]
