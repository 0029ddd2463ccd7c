"""Messages as devices and platforms in the field write them: each gets a proper answer or is silently counted."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sip_wire import CAMERA, DOMAIN, FLOW, SERVER, Counter, UdpPeer, make_core, only_request, sent, wire

from sip.core import RequestReceived
from sip.digest import DigestParams, DigestServer, Secret, Verdict, digest_response, ha1
from sip.endpoint import Endpoint, Identity, Incoming, Reply
from sip.errors import ParseError
from sip.message import Request, Response, parse

CORPUS = Path(os.environ.get("GB_CORPUS", "no-corpus"))
"""A folder with captured *.sip files, where somebody has one."""

Result = Reply | Awaitable[Reply | None] | None


@asynccontextmanager
async def endpoint(handler: Callable[[Incoming], Result]) -> AsyncIterator[Endpoint]:
    made = Endpoint(Identity(SERVER, DOMAIN), host="127.0.0.1", port=0, handler=handler)
    await made.start()
    try:
        yield made
    finally:
        await made.close(drain_s=0.1)


@pytest.mark.quirk(50)
def test_a_route_header_with_the_devices_own_user_is_ignored() -> None:
    """``Route: <sip:41018300001320000001@192.0.2.1:5060;lr>`` on a REGISTER."""
    core = make_core()
    core.receive(wire("REGISTER", extra=(("Route", f"<sip:{CAMERA}@192.0.2.1:5060;lr>"),)), FLOW, 0.0)
    assert only_request(core).request.method == "REGISTER"


@pytest.mark.quirk(50)
def test_info_with_a_picture_outside_of_any_dialog() -> None:
    """An INFO of 12 kB base64 with ``Content-Type: application/octet-stream`` and no To tag."""
    core = make_core()
    picture = base64.b64encode(bytes(9000))
    core.receive(wire("INFO", body=picture, content_type="application/octet-stream"), FLOW, 0.0)
    (answer,) = sent(core)
    assert isinstance(answer, Response)
    assert answer.status == 481
    assert core.events() == []


@pytest.mark.quirk(50)
@pytest.mark.parametrize("from_", ["", "<sip:>;tag=1", "<sip:@4101830000>;tag=1", "<>"])
async def test_an_empty_from_address_gets_400(from_: str) -> None:
    """``From: <sip:@4101830000>;tag=1``: the handler's first look at the sender refuses it."""
    async with (
        endpoint(lambda i: Reply(200 if i.request.from_.uri.user else 400)) as server,
        UdpPeer() as peer,
    ):
        peer.send(wire(via=peer.via(), from_=from_), server.port)
        assert (await peer.response()).status == 400


@pytest.mark.quirk(50)
def test_the_cookie_with_two_letters_swapped() -> None:
    """``branch=z3hG9bK…``, the same for every request: the CSeq tells them apart."""
    core = make_core()
    for number in (1, 2, 3):
        via = "SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z3hG9bK1234"
        core.receive(wire("MESSAGE", via=via, cseq=number), FLOW, 0.0)
        core.respond(only_request(core).transaction, 200, 0.0)
        assert len(sent(core)) == 1


@pytest.mark.quirk(13)
def test_a_piece_of_a_message_without_a_start_line_is_a_fault_of_its_own() -> None:
    """``<Item>…</Item></DeviceList></Response>`` as a datagram: one SIP message cut into several."""
    counter = Counter()
    core = make_core(observer=counter)
    core.receive(b"<Item><DeviceID>1</DeviceID></Item>\r\n</DeviceList>\r\n</Response>\r\n", FLOW, 0.0)
    assert core.to_send() == []
    assert counter.malformed_labels == ["start_line"]


class Registrar:
    """Challenges everything; keeps how often a log-in failed and which bindings there are."""

    def __init__(self) -> None:
        self.digest = DigestServer()
        self.failed = 0
        self.bound: dict[str, int] = {}

    def __call__(self, incoming: Incoming) -> Reply:
        request = incoming.request
        verdict = self.digest.verify(
            request.headers.get("Authorization"),
            "REGISTER",
            DOMAIN,
            incoming.flow.host,
            incoming.received_mono,
            Secret(password="Demo-0001"),
        )
        if verdict is Verdict.OK:
            user = request.to.uri.user
            self.bound[user] = request.expires or 0
            return Reply(200, [("Expires", str(request.expires))])
        self.failed += verdict is Verdict.WRONG
        stale = verdict is Verdict.STALE
        values = self.digest.challenge(DOMAIN, incoming.flow.host, incoming.received_mono, stale=stale)
        return Reply(401, [("WWW-Authenticate", value) for value in values])


def authorization(nonce: str, user: str = CAMERA) -> tuple[str, str]:
    uri = f"sip:{SERVER}@{DOMAIN}"
    response = digest_response(ha1(user, DOMAIN, "Demo-0001"), method="REGISTER", uri=uri, nonce=nonce)
    return (
        "Authorization",
        f'Digest username="{user}", realm="{DOMAIN}", nonce="{nonce}", uri="{uri}", response="{response}"',
    )


@pytest.mark.quirk(44)
@pytest.mark.gb("G031", "G036")
async def test_an_invented_nonce_first_and_the_retry_in_another_call() -> None:
    """The first REGISTER carries ``nonce="0"``; the answer to the challenge has a new Call-ID and CSeq 1."""
    registrar = Registrar()
    async with endpoint(registrar) as server, UdpPeer() as peer:
        first = wire("REGISTER", via=peer.via("z9hG4bK1"), call_id="a", cseq=88, extra=(authorization("0"),))
        peer.send(first, server.port)
        challenge = await peer.response()
        assert challenge.status == 401
        value = challenge.headers.get("WWW-Authenticate")
        assert "stale=true" in value
        assert registrar.failed == 0
        nonce = DigestParams.parse(value).get("nonce")
        extra = (authorization(nonce), ("Expires", "600"))
        peer.send(wire("REGISTER", via=peer.via("z9hG4bK2"), call_id="b", cseq=1, extra=extra), server.port)
        assert (await peer.response()).status == 200
        assert (registrar.bound, registrar.failed) == ({f"{SERVER}": 600}, 0)


@pytest.mark.gb("G037")
async def test_a_captured_register_from_another_port_and_another_address() -> None:
    registrar = Registrar()
    async with (
        endpoint(registrar) as server,
        UdpPeer() as camera,
        UdpPeer() as thief,
        UdpPeer("127.0.0.2") as far,
    ):
        camera.send(wire("REGISTER", via=camera.via("z9hG4bK1")), server.port)
        nonce = DigestParams.parse((await camera.response()).headers.get("WWW-Authenticate")).get("nonce")
        taken = authorization(nonce)
        camera.send(wire("REGISTER", via=camera.via("z9hG4bK2"), cseq=2, extra=(taken,)), server.port)
        assert (await camera.response()).status == 200
        for peer in (thief, far):
            peer.send(wire("REGISTER", via=peer.via("z9hG4bK3"), cseq=3, extra=(taken,)), server.port)
            assert (await peer.response()).status == 401


@pytest.mark.quirk(49)
@pytest.mark.parametrize("user", [f"{CAMERA}@", f"{CAMERA}@{DOMAIN}", "admin"])
async def test_user_names_in_odd_forms(user: str) -> None:
    """``username="41018300001320000001@"`` and kin."""
    registrar = Registrar()
    async with endpoint(registrar) as server, UdpPeer() as peer:
        peer.send(wire("REGISTER", via=peer.via("z9hG4bK1")), server.port)
        nonce = DigestParams.parse((await peer.response()).headers.get("WWW-Authenticate")).get("nonce")
        value = authorization(nonce, user)
        peer.send(wire("REGISTER", via=peer.via("z9hG4bK2"), cseq=2, extra=(value,)), server.port)
        assert (await peer.response()).status == 200


@pytest.mark.skipif(not CORPUS.is_dir(), reason="GB_CORPUS names no folder with captured messages")
def test_captured_messages_come_back_as_the_same_bytes() -> None:
    """Parse, read every view, write: the same fields in the same order with the same values."""
    checked = 0
    for path in sorted(CORPUS.rglob("*.sip")):
        data = path.read_bytes()
        try:
            message = parse(data)
        except ParseError:
            continue  # cut or rebuilt by those who published it
        again = parse(message.to_bytes())
        assert (
            again.headers.items()
            == [
                (name, value if name.lower() not in ("content-length", "l") else str(len(message.body)))
                for name, value in message.headers.items()
            ]
            or "Content-Length" not in message.headers
        )
        assert again.body == message.body
        if isinstance(message, Request):
            core = make_core(stray_notify=True)
            core.receive(data, FLOW, 0.0)
            events = core.events()
            assert (
                (events and isinstance(events[0], RequestReceived))
                or core.to_send()
                or message.method == "ACK"
            )
        checked += 1
    assert checked >= 10
