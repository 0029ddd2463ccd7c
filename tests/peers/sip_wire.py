"""Raw SIP for tests: messages written out as text, and scripted UDP and TCP peers that know no protocol."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from sip.core import RequestReceived, SipCore
from sip.flow import Flow
from sip.message import Request, Response, parse
from sip.observer import Observer

DOMAIN = "4101830000"
SERVER = "41018300002000000001"
CAMERA = "41018300001320000001"
FLOW = Flow("udp", "192.0.2.10", 5060, "192.0.2.1", 5060)
TCP_FLOW = Flow("tcp", "192.0.2.10", 40000, "192.0.2.1", 5060, 7)
WAIT_S = 10.0


def wire(
    method: str = "MESSAGE",
    *,
    uri: str = f"sip:{SERVER}@{DOMAIN}",
    via: str = "SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK-1",
    from_: str = f"<sip:{CAMERA}@{DOMAIN}>;tag=camera",
    to: str = f"<sip:{SERVER}@{DOMAIN}>",
    call_id: str = "call-1",
    cseq: str | int = 1,
    body: bytes = b"",
    content_type: str = "Application/MANSCDP+xml",
    length: int | str | None = None,
    extra: tuple[tuple[str, str], ...] = (),
    drop: tuple[str, ...] = (),
) -> bytes:
    """One request as a camera would write it. ``drop`` leaves headers out, ``length`` lies about the body."""
    fields = [
        ("Via", via),
        ("From", from_),
        ("To", to),
        ("Call-ID", call_id),
        ("CSeq", f"{cseq} {method}" if isinstance(cseq, int) else cseq),
        ("Max-Forwards", "70"),
        *extra,
    ]
    if body and content_type:
        fields.append(("Content-Type", content_type))
    fields.append(("Content-Length", str(len(body) if length is None else length)))
    names = {name for name, _ in extra}
    if "Max-Forwards" in names:
        fields.remove(("Max-Forwards", "70"))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields if name not in drop)
    return f"{method} {uri} SIP/2.0\r\n{head}\r\n".encode() + body


def answer(
    request: Request | bytes,
    status: int = 200,
    *,
    to_tag: str = "peer",
    body: bytes = b"",
    content_type: str = "application/sdp",
    extra: tuple[tuple[str, str], ...] = (),
    drop: tuple[str, ...] = (),
) -> bytes:
    """The answer of a scripted peer to one of our requests."""
    message = parse(request) if isinstance(request, bytes) else request
    headers = message.headers
    to = headers.get("To")
    if to_tag and "tag=" not in to:
        to = f"{to};tag={to_tag}"
    fields = [
        ("Via", headers.get("Via")),
        ("From", headers.get("From")),
        ("To", to),
        ("Call-ID", headers.get("Call-ID")),
        ("CSeq", headers.get("CSeq")),
        *extra,
    ]
    if body:
        fields.append(("Content-Type", content_type))
    fields.append(("Content-Length", str(len(body))))
    response = Response(status, "", [field for field in fields if field[0] not in drop], body)
    if "Content-Length" in drop:
        return response.to_bytes().replace(b"Content-Length: 0\r\n", b"")
    return response.to_bytes()


class Counter(Observer):
    """Keeps every label that was counted."""

    def __init__(self) -> None:
        self.malformed_labels: list[str] = []
        self.dropped_labels: list[str] = []
        self.repeated: list[tuple[str, str]] = []
        self.timeouts: list[str] = []
        self.received: list[str] = []
        self.sent: list[str] = []

    def on_received(self, method_or_status: str, flow: Flow) -> None:
        self.received.append(method_or_status)

    def on_sent(self, method_or_status: str, destination: Any) -> None:
        self.sent.append(method_or_status)

    def retransmitted(self, method: str, direction: Any = "in") -> None:
        self.repeated.append((method, direction))

    def timed_out(self, method: str) -> None:
        self.timeouts.append(method)

    def malformed(self, label: str, flow: Flow) -> None:
        self.malformed_labels.append(label)

    def dropped(self, label: str) -> None:
        self.dropped_labels.append(label)


def make_core(**options: Any) -> SipCore:
    """A core that believes to live at 192.0.2.1:5060."""
    return SipCore(lambda destination: "192.0.2.1:5060", **options)


def sent(core: SipCore) -> list[Request | Response]:
    """What left since the last look, parsed."""
    return [parse(data) for data, _ in core.to_send()]


def statuses(core: SipCore) -> list[int | str]:
    """Status of each response and method of each request that left."""
    return [m.status if isinstance(m, Response) else m.method for m in sent(core)]


def only_request(core: SipCore) -> RequestReceived:
    """The one request event that is waiting."""
    (event,) = core.events()
    assert isinstance(event, RequestReceived)
    return event


class UdpPeer:
    """A UDP socket under the test's control. Use as an asynchronous context manager."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))

    async def __aenter__(self) -> UdpPeer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def via(self, branch: str = "z9hG4bK-raw", *, rport: bool = True) -> str:
        return f"SIP/2.0/UDP 127.0.0.1:{self.port}{';rport' if rport else ''};branch={branch}"

    def send(self, data: bytes, port: int) -> None:
        self.socket.sendto(data, ("127.0.0.1", port))

    async def receive(self, timeout_s: float = WAIT_S) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().sock_recv(self.socket, 65535)

    async def message(self, timeout_s: float = WAIT_S) -> Request | Response:
        return parse(await self.receive(timeout_s))

    async def request(self, timeout_s: float = WAIT_S) -> Request:
        message = await self.message(timeout_s)
        assert isinstance(message, Request), message
        return message

    async def response(self, timeout_s: float = WAIT_S) -> Response:
        message = await self.message(timeout_s)
        assert isinstance(message, Response), message
        return message

    async def final(self, timeout_s: float = WAIT_S) -> Response:
        """The next final response."""
        while True:
            response = await self.response(timeout_s)
            if response.status >= 200:
                return response

    async def silent(self, for_s: float = 0.2) -> bool:
        """Whether nothing arrives for a while."""
        try:
            await self.receive(for_s)
        except TimeoutError:
            return True
        return False


class TcpPeer:
    """A TCP connection to an endpoint, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> TcpPeer:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * 1024 * 1024)
        return cls(reader, writer)

    async def __aenter__(self) -> TcpPeer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, timeout_s: float = WAIT_S) -> bytes:
        """One message with its body."""
        async with asyncio.timeout(timeout_s):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(parse(head.replace(b"Content-Length", b"X-Length")).headers.get("X-Length", "0"))
            return head + (await self.reader.readexactly(length) if length else b"")

    async def response(self, timeout_s: float = WAIT_S) -> Response:
        message = parse(await self.receive(timeout_s))
        assert isinstance(message, Response), message
        return message

    async def request(self, timeout_s: float = WAIT_S) -> Request:
        message = parse(await self.receive(timeout_s))
        assert isinstance(message, Request), message
        return message

    async def closed(self, timeout_s: float = WAIT_S) -> bool:
        """Whether the other side closes within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True


async def eventually(condition: Any, timeout_s: float = WAIT_S) -> None:
    """Wait until a condition holds, looking every 10 ms."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
