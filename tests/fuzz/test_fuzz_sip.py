"""Mutated SIP for the parser, the core, the framer and a living endpoint: a value or a ParseError, in bounded time.

GB_FUZZ_ROUNDS raises the number of messages (the normal run takes some seconds). Seeds are fixed, so that a
failure can be run again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest
from sip_wire import CAMERA, DOMAIN, FLOW, SERVER, TCP_FLOW, Counter, UdpPeer, answer, make_core, wire

from sip.core import CoreLimits, RequestReceived, SipCore
from sip.digest import DigestParams, DigestServer, Secret, Verdict, answer_challenges
from sip.endpoint import Credentials, Endpoint, Identity, Reply
from sip.errors import ParseError, RemoteError
from sip.flow import Target
from sip.framing import StreamFramer
from sip.message import Request, Response, parse
from sip.transaction import InviteServerTransaction
from sip.uri import NameAddr, SipUri

ROUNDS = int(os.environ.get("GB_FUZZ_ROUNDS", "4000"))
OWN = Path(__file__).parents[1] / "data" / "sip"

XML = b'<?xml version="1.0"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n</Notify>\r\n'
DIGEST = (
    'Digest username="u", realm="4101830000", nonce="0123456789abcdef0123456789abcdef0123", '
    'uri="sip:x@y", response="00112233445566778899aabbccddeeff", algorithm=MD5, qop=auth, nc=00000001, cnonce="c"'
)
SEEDS = [
    wire(
        "REGISTER", extra=(("Authorization", DIGEST), ("Expires", "3600"), ("Contact", "<sip:a@b>;expires=9"))
    ),
    wire("MESSAGE", body=XML),
    wire("INVITE", body=b"v=0\r\ns=Play\r\n", content_type="application/sdp"),
    wire("ACK", to="<sip:a@b>;tag=x"),
    wire("BYE", to="<sip:a@b>;tag=x"),
    wire("CANCEL"),
    wire("SUBSCRIBE", extra=(("Event", "Catalog;id=1"), ("Expires", "600")), body=XML),
    wire("NOTIFY", to="<sip:a@b>;tag=x", extra=(("Event", "Catalog"), ("Subscription-State", "active"))),
    wire("INFO", to="<sip:a@b>;tag=x", body=b"PLAY RTSP/1.0\r\n\r\n", content_type="Application/MANSRTSP"),
    b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n"
    b"To: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    *(path.read_bytes() for path in sorted(OWN.glob("*.sip"))),
]
SPICE = [
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b":",
    b";",
    b",",
    b'"',
    b"<",
    b">",
    b"@",
    b"=",
    b" ",
    b"\t",
    b"%",
    b"\xff\xfe",
    b"\xc2\xb2",
    b"99999999999999999999",
    b"-1",
    b"SIP/2.0",
    b";tag=",
    b";branch=z9hG4bK",
    b";rport",
    b"Content-Length: 0\r\n",
    b"[::1]:",
    b"A" * 300,
    "新密".encode("gb18030"),
]


def mutated(rng: random.Random) -> bytes:
    """One seed with some bytes, words or whole lines changed, lost, doubled or swapped."""
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[place - 1] = rng.randrange(256)
        elif kind == 1:
            data[place:place] = rng.choice(SPICE)
        elif kind == 2:
            del data[place : place + rng.randint(1, 40)]
        elif kind == 3:
            data[place : place + rng.randint(0, 9)] = rng.choice(SPICE)
        elif kind == 4:
            lines = bytes(data).split(b"\r\n")
            rng.shuffle(lines)
            data = bytearray(b"\r\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\r\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            data = bytearray(b"\r\n".join(lines))
        else:
            del data[place:]
    return bytes(data)


def read_everything(message: Request | Response) -> None:
    """Every typed view: a value or a ParseError."""
    for name in (
        "via",
        "from_",
        "to",
        "cseq",
        "call_id",
        "contact",
        "contacts",
        "expires",
        "max_forwards",
        "content_type",
    ):
        try:
            getattr(message, name)
        except ParseError:
            continue
    message.to_bytes()


@pytest.mark.gb("G027")
def test_parser() -> None:
    rng = random.Random(1)
    parsed = 0
    for _ in range(ROUNDS):
        data = mutated(rng)
        try:
            message = parse(data)
        except ParseError:
            continue
        parsed += 1
        read_everything(message)
        parse(message.to_bytes())
    assert parsed > ROUNDS / 10


def serve(core: SipCore, rng: random.Random, now: float) -> None:
    """Answer what came, as a caller with moods would."""
    for event in core.events():
        if not isinstance(event, RequestReceived):
            continue
        status = rng.choice([200, 200, 200, 404, 486])
        transaction = event.transaction
        if event.dialog is None and status == 200 and event.request.method in ("INVITE", "SUBSCRIBE"):
            kind = "invite" if isinstance(transaction, InviteServerTransaction) else "notifier"
            try:
                core.open_dialog(transaction, kind)  # type: ignore[arg-type]
            except RemoteError:
                status = 400
        core.respond(transaction, status, now)


@pytest.mark.gb("G027")
def test_core_stays_answering_and_bounded() -> None:
    """Mutated datagrams with time passing; after each thousand an OPTIONS and a MESSAGE get their answers."""
    rng = random.Random(2)
    counter = Counter()
    limits = CoreLimits(stored_answers=500, open_invites=200, client_transactions=200)
    core = make_core(limits=limits, observer=counter)
    now = 0.0
    for number in range(max(ROUNDS, 100_000)):
        now += rng.random() * 0.2
        if core.next_timer() <= now:
            core.handle_timer(now)
        core.receive(mutated(rng), rng.choice([FLOW, TCP_FLOW]), now)
        serve(core, rng, now)
        core.to_send()
        if number % 1000 == 999:
            core.receive(wire("MESSAGE", call_id=f"alive{number}"), FLOW, now)
            serve(core, random.Random(0), now)
            assert any(data.startswith(b"SIP/2.0 ") for data, _ in core.to_send())
            assert core.counts["stored_answers"] <= 500
            assert core.counts["server_invites"] <= 200
            assert core.counts["client_transactions"] <= 400
    while core.next_timer() < float("inf"):
        core.handle_timer(core.next_timer())
        core.to_send()
        core.events()
    assert (
        core.counts["stored_answers"]
        == core.counts["server_invites"]
        == core.counts["client_transactions"]
        == 0
    )
    assert len(set(counter.malformed_labels)) < 20


def test_answers_to_our_own_requests() -> None:
    """Mutated answers to real requests of ours: the machines end, whatever comes."""
    rng = random.Random(3)
    core = make_core()
    target = Target(f"sip:{CAMERA}@{DOMAIN}", FLOW.host, FLOW.port)
    now = 0.0
    for number in range(max(200, ROUNDS // 10)):
        method = rng.choice(["INVITE", "MESSAGE"])
        fields = [("From", f"<sip:{SERVER}@{DOMAIN}>;tag=u"), ("To", target.uri), ("Call-ID", f"c{number}")]
        transaction = core.request(
            Request(method, target.uri, [*fields, ("CSeq", f"1 {method}")]), target, now
        )
        (data, _), *_ = core.to_send()
        for _ in range(4):
            now += 0.3
            reply = bytearray(answer(data, rng.choice([100, 180, 200, 401, 486])))
            for _ in range(rng.randint(0, 3)):
                reply[rng.randrange(len(reply))] = rng.randrange(256)
            core.receive(bytes(reply), FLOW, now)
        if rng.random() < 0.3:
            core.cancel(transaction, now)
        core.handle_timer(now)
        core.to_send()
        core.events()
    while core.next_timer() < float("inf"):
        core.handle_timer(core.next_timer())
        core.to_send()
    assert core.counts["client_transactions"] == 0


def test_framing_whole_and_byte_by_byte_agree() -> None:
    rng = random.Random(4)
    good = SEEDS[:10]
    for _ in range(max(100, ROUNDS // 40)):
        stream = b"".join(
            rng.choice([b"", b"\r\n\r\n", b"\0\0"]) + rng.choice(good) for _ in range(rng.randint(1, 4))
        )
        whole, single = StreamFramer(), StreamFramer()
        expected = whole.feed(stream)
        found = [message for byte in stream for message in single.feed(bytes([byte]))]
        assert found == expected
        assert (whole.fault, whole.pending) == (single.fault, single.pending) == (None, 0)


@pytest.mark.gb("G027")
def test_framing_of_broken_streams_ends_or_goes_on_but_never_grows() -> None:
    rng = random.Random(5)
    for _ in range(max(300, ROUNDS // 10)):
        framer = StreamFramer(max_body=4096)
        for _ in range(6):
            data = mutated(rng)
            while data:
                cut = rng.randint(1, 400)
                for message in framer.feed(data[:cut]):
                    assert message
                data = data[cut:]
            assert framer.pending <= 16 * 1024 + 4096 + 400


def test_small_parsers() -> None:
    rng = random.Random(6)
    server = DigestServer()
    texts = [DIGEST, '"a" <sip:b@c:5060;x?y>;tag=1', "sip:a@[2001:db8::1]:5060;lr", "Digest realm=r, nonce=n"]
    for _ in range(ROUNDS):
        text = list(rng.choice(texts))
        for _ in range(rng.randint(1, 8)):
            text[rng.randrange(len(text))] = rng.choice('\\"<>;,=:@ \t[]²é新A0')
        value = "".join(text)
        assert isinstance(server.verify(value, "REGISTER", "r", "h", 1.0, Secret("p")), Verdict)
        answer_challenges([value], Credentials("u", "p"), method="REGISTER", uri="sip:a@b")
        for read in (DigestParams.parse, NameAddr.parse, SipUri.parse):
            try:
                str(read(value))
            except ParseError:
                continue


@pytest.mark.parametrize(
    "data",
    [
        b"MESSAGE sip:a@b SIP/2.0\r\n" + b"Via: " + b"," * 16000,
        wire(via="SIP/2.0/UDP a" + ";" * 15000),
        wire(from_="<" * 15000),
        wire(from_='"' + "\\" * 15000),
        wire(to="<sip:a@b>" + ";tag" * 3500),
        wire(extra=(("Authorization", "Digest " + 'a="' * 5000),)),
        wire(extra=(("Authorization", "Digest " + "a" * 15000),)),
        wire(extra=(("X", "a\r\n " * 3000),)),
        wire(body=b"<" * 60000, length=30000),
        wire(body=b"</Notify" * 7000, length=100),
        wire(via="SIP" + " " * 15000 + "x"),
        b"SIP/2.0 200 " + b" " * 60000,
        b"\r\n" * 30000,
    ],
)
def test_no_input_is_slow(data: bytes) -> None:
    """No pattern and no loop is worse than linear for what a datagram can hold."""
    core = make_core()
    began = time.process_time()
    core.receive(data, FLOW, 0.0)
    for event in core.events():
        assert isinstance(event, RequestReceived)
        read_everything(event.request)
        DigestServer().verify(event.request.headers.get("Authorization"), "M", "r", "h", 1.0, Secret("p"))
    StreamFramer().feed(data)
    assert time.process_time() - began < 0.3


@pytest.mark.gb("G027")
async def test_a_living_endpoint_survives_a_flood() -> None:
    """Mutated datagrams through a real socket; then it still answers OPTIONS."""
    rng = random.Random(7)
    server = Endpoint(Identity(SERVER, DOMAIN), host="127.0.0.1", port=0, handler=lambda i: Reply(200))
    await server.start()
    async with UdpPeer() as peer:
        for number in range(min(ROUNDS, 20_000)):
            peer.send(mutated(rng), server.port)
            if number % 32 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        for number in range(50):
            peer.send(
                wire("OPTIONS", via=peer.via(f"z9hG4bK-alive{number}"), call_id=f"alive{number}"), server.port
            )
            await asyncio.sleep(0.02)
            if await heard(peer, "alive"):
                break
        else:
            pytest.fail("no answer to OPTIONS")
    await server.close()


async def heard(peer: UdpPeer, call_id: str) -> bool:
    """Whether an answer to one of our OPTIONS is among what arrived."""
    while True:
        try:
            data = await peer.receive(0.2)
        except TimeoutError:
            return False
        if f"Call-ID: {call_id}".encode() in data:
            return data.startswith(b"SIP/2.0 200")
