"""The endpoint on loopback: both transports, handlers, authentication, and peers that lose, repeat and keep silent."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sip_wire import (
    CAMERA,
    DOMAIN,
    SERVER,
    Counter,
    TcpPeer,
    UdpPeer,
    answer,
    eventually,
    wire,
)

from sip.digest import DigestServer, Secret, Verdict
from sip.endpoint import (
    Credentials,
    Endpoint,
    Identity,
    Incoming,
    IncomingInvite,
    Limits,
    Observer,
    Reply,
    Timers,
    masked,
)
from sip.errors import LocalError, RemoteError, TransactionTimeout, TransportFailed
from sip.flow import Flow, Target
from sip.message import Request, parse

XML = b'<?xml version="1.0"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n</Notify>\r\n'
XML_TYPE = "Application/MANSCDP+xml"
FAST = Timers(t1=0.05, t2=0.2, t4=0.1)
Result = Reply | Awaitable[Reply | None] | None


@asynccontextmanager
async def endpoint(
    handler: Callable[[Incoming], Result] | None = None, **options: Any
) -> AsyncIterator[Endpoint]:
    made = Endpoint(
        Identity(SERVER, DOMAIN),
        host="127.0.0.1",
        port=0,
        handler=handler or (lambda incoming: Reply(200)),
        user_agent="gateway",
        **options,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.close(drain_s=0.1)


def to(peer: UdpPeer | Endpoint, transport: Any = "udp", user: str = CAMERA) -> Target:
    return Target(f"sip:{user}@{DOMAIN}", "127.0.0.1", peer.port, transport)


# -- transports -------------------------------------------------------------------------------------------


@pytest.mark.gb("G001", "G020")
async def test_udp_and_tcp_on_one_port_number() -> None:
    async with endpoint() as server, UdpPeer() as peer:
        peer.send(wire("OPTIONS", via=peer.via()), server.port)
        by_udp = await peer.response()
        async with await TcpPeer.connect(server.port) as stream:
            await stream.send(wire("OPTIONS", via="SIP/2.0/TCP 127.0.0.1:1;branch=z9hG4bKt"))
            by_tcp = await stream.response()
        for response in (by_udp, by_tcp):
            assert response.status == 200
            allowed = response.headers.get("Allow").split(", ")
            assert {"INVITE", "ACK", "INFO", "CANCEL", "BYE", "OPTIONS", "MESSAGE"} <= set(allowed)
            assert XML_TYPE in response.headers.get("Accept")


@pytest.mark.gb("G002")
async def test_nothing_is_said_unasked() -> None:
    async with endpoint() as server, UdpPeer() as peer, await TcpPeer.connect(server.port) as stream:
        peer.send(wire(via=peer.via()), server.port)
        await peer.response()
        await stream.send(b"\r\n\r\n")
        assert await peer.silent(0.5)
        with pytest.raises(TimeoutError):
            await stream.receive(0.2)


@pytest.mark.gb("G003")
async def test_the_answer_comes_back_on_the_connection_whatever_its_size() -> None:
    def handler(incoming: Incoming) -> Reply:
        return Reply(200, [("X-Note", incoming.request.headers.get("Note"))])

    async with endpoint(handler) as server, await TcpPeer.connect(server.port) as stream:
        via = "SIP/2.0/TCP 192.168.3.99:5060;branch=z9hG4bK1"
        await stream.send(wire("REGISTER", via=via, extra=(("Note", "n" * 5000),)))
        response = await stream.response()
        assert len(response.headers.get("X-Note")) == 5000


@pytest.mark.gb("G004", "G028")
async def test_many_messages_in_one_write_and_one_byte_by_byte() -> None:
    async with endpoint() as server, await TcpPeer.connect(server.port) as stream:
        messages = [wire(body=XML, call_id=f"c{number}", cseq=number) for number in (1, 2, 3)]
        await stream.send(b"\r\n\r\n".join(messages))
        assert [(await stream.response()).cseq.number for _ in messages] == [1, 2, 3]
        for byte in b"\r\n\r\n\0" + wire(body=XML, call_id="c4", cseq=4):
            await stream.send(bytes([byte]))
        assert (await stream.response()).cseq.number == 4


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (wire(drop=("Content-Length",)), 400),
        (wire(length=2**30), 513),
        (wire(extra=(("X", "x" * 20_000),)), 513),
        (wire(length="x"), 400),
    ],
)
@pytest.mark.gb("G029")
async def test_what_ends_a_connection_is_answered_first(data: bytes, status: int) -> None:
    counter = Counter()
    async with endpoint(observer=counter) as server, await TcpPeer.connect(server.port) as stream:
        await stream.send(data)
        assert (await stream.response()).status == status
        assert await stream.closed()
        assert len(counter.malformed_labels) == 1


async def test_another_protocol_is_closed_in_silence() -> None:
    async with endpoint() as server, await TcpPeer.connect(server.port) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await stream.closed()


@pytest.mark.gb("G024")
async def test_a_udp_message_of_40_kilobytes() -> None:
    seen: list[int] = []

    def handler(incoming: Incoming) -> Reply:
        seen.append(len(incoming.request.body))
        return Reply(200)

    async with endpoint(handler) as server, UdpPeer() as peer:
        peer.send(wire(via=peer.via(), body=b"<?xml?>" + b"x" * 40_000), server.port)
        assert (await peer.response()).status == 200
        assert seen == [40_007]


@pytest.mark.gb("G021")
async def test_rport_on_a_real_socket() -> None:
    async with endpoint() as server, UdpPeer() as peer:
        peer.send(wire(via="SIP/2.0/UDP 127.0.0.1:9;rport;branch=z9hG4bK1"), server.port)
        via = (await peer.response()).via
        assert (via.params["rport"], via.params["received"]) == (str(peer.port), "127.0.0.1")


@pytest.mark.gb("G022")
async def test_a_private_via_without_rport_on_a_real_socket() -> None:
    async with endpoint() as server, UdpPeer() as peer:
        peer.send(wire(via="SIP/2.0/UDP 192.168.1.64:5060;branch=z9hG4bK1"), server.port)
        assert (await peer.response()).via.params["received"] == "127.0.0.1"


@pytest.mark.gb("G008")
async def test_one_ptz_for_three_datagrams() -> None:
    calls: list[bytes] = []

    def handler(incoming: Incoming) -> Reply:
        calls.append(incoming.request.body)
        return Reply(200)

    async with endpoint(handler) as server, UdpPeer() as peer:
        answers = []
        for _ in range(3):
            peer.send(wire(via=peer.via(), body=b"<Control/>"), server.port)
            answers.append(await peer.receive())
        assert len(calls) == 1
        assert len(set(answers)) == 1


@pytest.mark.gb("G023")
async def test_a_large_request_to_a_peer_with_and_without_tcp() -> None:
    body = b"<?xml?>" + b"x" * 3000
    async with endpoint() as sender, endpoint() as both, UdpPeer() as udp_only:
        response = await sender.request("MESSAGE", to(both), to="sip:x@y", body=body, content_type=XML_TYPE)
        assert (response.status, response.via.transport) == (200, "TCP")

        task = asyncio.create_task(
            sender.request("MESSAGE", to(udp_only), to="sip:x@y", body=body, content_type=XML_TYPE)
        )
        request = await udp_only.request()
        assert request.body == body
        udp_only.send(answer(request), sender.port)
        assert (await task).via.transport == "UDP"


async def test_two_endpoints_share_one_connection_for_all_requests() -> None:
    flows: set[Flow] = set()

    def handler(incoming: Incoming) -> Reply:
        flows.add(incoming.flow)
        return Reply(200)

    async with endpoint() as one, endpoint(handler) as other:
        await asyncio.gather(*[one.request("MESSAGE", to(other, "tcp"), to="sip:x@y") for _ in range(20)])
        assert len(flows) == 1
        assert one.counts["connections"] == 1


@pytest.mark.gb("G058")
async def test_requests_on_a_tcp_flow_use_that_connection_and_never_dial() -> None:
    flows: list[Flow] = []
    closed: list[Flow] = []

    def handler(incoming: Incoming) -> Reply:
        flows.append(incoming.flow)
        return Reply(200)

    async with endpoint(handler) as server:
        server.on_connection_closed = closed.append
        async with await TcpPeer.connect(server.port) as stream:
            await stream.send(wire("REGISTER"))
            await stream.response()
            target = Target.of_flow(f"sip:{CAMERA}@{DOMAIN}", flows[0])
            task = asyncio.create_task(server.request("MESSAGE", target, to="sip:x@y", body=b"x" * 2000))
            request = await stream.request()
            await stream.send(answer(request))
            assert (await task).status == 200
            task = asyncio.create_task(server.request("MESSAGE", target, to="sip:x@y"))
            await stream.request()
        with pytest.raises(TransportFailed):
            await task
        assert closed == flows
        with pytest.raises(TransportFailed):
            await server.request("MESSAGE", target, to="sip:x@y")


async def test_a_refused_dial_is_a_transport_failure() -> None:
    async with endpoint() as sender, UdpPeer() as nobody:
        with pytest.raises(TransportFailed):
            await sender.request("MESSAGE", to(nobody, "tcp"), to="sip:x@y")
        assert sender.counts["client_transactions"] == 0


async def test_a_connection_is_dialled_again_after_it_broke() -> None:
    async with endpoint() as sender, endpoint() as server:
        for _ in range(2):
            assert (await sender.request("MESSAGE", to(server, "tcp"), to="sip:x@y")).status == 200
            for connection in list(server._transport.streams.connections.values()):
                connection.abort()
            await eventually(lambda: sender.counts["connections"] == 0)


@pytest.mark.quirk(5)
async def test_a_peer_that_does_not_read_is_closed_and_blocks_nobody() -> None:
    big = "x" * 15_000
    counter = Counter()
    async with endpoint(lambda incoming: Reply(200, [("X-Big", big)]), observer=counter) as server:
        stuck = await TcpPeer.connect(server.port)
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with stuck, await TcpPeer.connect(server.port) as other:
            for number in range(2000):
                stuck.writer.write(wire(call_id=f"s{number}"))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await other.send(wire(call_id="other"))
            assert (await other.response()).status == 200
            await eventually(lambda: server.counts["connections"] == 1)


@pytest.mark.quirk(5)
async def test_half_a_message_does_not_keep_a_connection_for_ever() -> None:
    from sip.transport_shared import TransportLimits

    counter = Counter()
    limits = Limits(transport=TransportLimits(partial_message_s=0.1))
    async with (
        endpoint(limits=limits, observer=counter) as server,
        await TcpPeer.connect(server.port) as stream,
    ):
        await stream.send(wire(length=10)[:100])
        assert await stream.closed()
        assert counter.dropped_labels == ["partial_message"]


async def test_connections_are_bounded() -> None:
    from sip.transport_shared import TransportLimits

    limits = Limits(transport=TransportLimits(connections=2))
    async with endpoint(limits=limits) as server:
        streams = [await TcpPeer.connect(server.port) for _ in range(2)]
        await eventually(lambda: server.counts["connections"] == 2)
        async with await TcpPeer.connect(server.port) as third:
            assert await third.closed()
        for stream in streams:
            stream.writer.close()


def test_the_receive_buffer_is_asked_for() -> None:
    """Quirk 13: at least 4 MiB are asked; the kernel may grant less."""
    from sip.transport_shared import TransportLimits

    assert TransportLimits().udp_receive_buffer >= 4 * 1024 * 1024


async def test_a_taken_port_is_an_error_and_a_closed_one_is_free() -> None:
    async with endpoint() as server:
        assert server.running
        port = server.port
        other = Endpoint(Identity(SERVER, DOMAIN), host="127.0.0.1", port=port, handler=lambda i: Reply())
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            await other.start()
    again = Endpoint(Identity(SERVER, DOMAIN), host="127.0.0.1", port=port, handler=lambda i: Reply())
    assert not again.running
    await again.start()
    await again.close()
    assert not again.running
    with pytest.raises(TransportFailed):
        await again.request("MESSAGE", Target("sip:a@b", "127.0.0.1", 9), to="sip:a@b")


# -- handlers ---------------------------------------------------------------------------------------------


async def raise_remote(incoming: Incoming) -> Reply:
    raise RemoteError("no such channel", status=404)


async def raise_any(incoming: Incoming) -> Reply:
    raise ValueError("a fault of ours")


def raise_at_once(incoming: Incoming) -> Reply:
    raise KeyError("a fault of ours")


async def slow_ok(incoming: Incoming) -> Reply:
    await asyncio.sleep(0.01)
    return Reply(200, [("X", "y")], b"<Response/>", XML_TYPE)


async def nothing(incoming: Incoming) -> None:
    return None


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (raise_remote, 404),
        (raise_any, 500),
        (raise_at_once, 500),
        (slow_ok, 200),
        (nothing, 500),
        (lambda incoming: None, 500),
        (lambda incoming: Reply(200, [("X", "a\r\nInjected: b")]), 500),
        (lambda incoming: Reply(486, reason="Zu viele"), 486),
        (lambda incoming: Reply(200 if incoming.request.from_.uri.user else 400), 400),
    ],
)
async def test_whatever_a_handler_does_there_is_one_answer(
    handler: Callable[[Incoming], Result], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with endpoint(handler) as server, UdpPeer() as peer:
        peer.send(wire(via=peer.via(), from_="<sip:>;tag=1"), server.port)
        assert (await peer.response()).status == status
        assert await peer.silent(0.05)


async def test_a_reply_with_a_body() -> None:
    async with endpoint(slow_ok) as server, UdpPeer() as peer:
        peer.send(wire(via=peer.via()), server.port)
        response = await peer.response()
        assert (response.body, response.content_type) == (b"<Response/>", XML_TYPE.lower())
        assert response.headers.get("X") == "y"


async def test_handlers_are_bounded_and_plain_ones_are_served_all_the_same() -> None:
    release = asyncio.Event()
    counter = Counter()

    async def slow(incoming: Incoming) -> Reply:
        await release.wait()
        return Reply(200)

    def handler(incoming: Incoming) -> Result:
        return Reply(200) if incoming.request.method == "REGISTER" else slow(incoming)

    async with endpoint(handler, limits=Limits(handlers=3), observer=counter) as server, UdpPeer() as peer:
        for number in range(5):
            peer.send(wire(via=peer.via(f"z9hG4bK{number}"), call_id=f"c{number}"), server.port)
        refused = [await peer.response() for _ in range(2)]
        assert [response.status for response in refused] == [503, 503]
        assert all(5 <= int(response.headers.get("Retry-After")) <= 30 for response in refused)
        assert counter.dropped_labels == ["handler", "handler"]
        peer.send(wire("REGISTER", via=peer.via("z9hG4bKr"), call_id="r"), server.port)
        assert (await peer.response()).status == 200
        release.set()
        assert [(await peer.response()).status for _ in range(3)] == [200, 200, 200]
        await eventually(lambda: server.counts["handlers"] == 0)


@pytest.mark.gb("G030")
async def test_an_answer_does_not_wait_for_the_work_of_another_handler() -> None:
    started: list[str] = []

    async def work(incoming: Incoming) -> Reply:
        started.append(incoming.request.call_id)
        await asyncio.sleep(5)
        return Reply(200)

    def handler(incoming: Incoming) -> Result:
        return work(incoming) if incoming.request.call_id == "slow" else Reply(200)

    async with endpoint(handler) as server, UdpPeer() as peer:
        peer.send(wire(via=peer.via("z9hG4bKa"), call_id="slow"), server.port)
        peer.send(wire(via=peer.via("z9hG4bKb"), call_id="quick"), server.port)
        response = await peer.response()
        assert (response.call_id, response.status, response.body) == ("quick", 200, b"")
        assert started == ["slow"]


@pytest.mark.gb("G025")
@pytest.mark.parametrize(
    ("data", "status", "header"),
    [
        (wire("PUBLISH"), 405, "Allow"),
        (wire("SUBSCRIBE", extra=(("Event", "dialog"),)), 489, "Allow-Events"),
        (wire(body=b"{}", content_type="application/json"), 415, "Accept"),
    ],
)
async def test_three_requests_that_are_refused(data: bytes, status: int, header: str) -> None:
    async with endpoint() as server, UdpPeer() as peer:
        peer.send(data.replace(b"192.0.2.10:5060", f"127.0.0.1:{peer.port}".encode()), server.port)
        response = await peer.response()
        assert response.status == status
        assert response.headers.get(header)


@pytest.mark.parametrize(
    "content_type", ["Application/MANSCDP+xml", "application/MANSCDP+XML; charset=gb2312", "text/xml", ""]
)
async def test_body_types_of_the_field_pass(content_type: str) -> None:
    async with endpoint() as server, UdpPeer() as peer:
        peer.send(wire(via=peer.via(), body=XML, content_type=content_type), server.port)
        assert (await peer.response()).status == 200


# -- requests ---------------------------------------------------------------------------------------------


async def test_a_request_as_it_is_on_the_wire() -> None:
    async with endpoint() as sender, UdpPeer() as peer:
        task = asyncio.create_task(
            sender.request(
                "REGISTER",
                to(peer),
                to=f"sip:{CAMERA}@{DOMAIN}",
                sender=Identity(CAMERA, DOMAIN),
                headers=[("Expires", "3600"), ("X-GB-Ver", "3.0")],
                call_id="fixed",
                cseq=7,
                from_tag="mine",
            )
        )
        request = await peer.request()
        peer.send(answer(request), sender.port)
        await task
        assert request.uri == f"sip:{CAMERA}@{DOMAIN}"
        assert request.headers.get("From") == f"<sip:{CAMERA}@{DOMAIN}>;tag=mine"
        assert request.headers.get("To") == f"<sip:{CAMERA}@{DOMAIN}>"
        assert (request.call_id, str(request.cseq), request.expires) == ("fixed", "7 REGISTER", 3600)
        assert request.headers.get("Contact") == f"<sip:{CAMERA}@127.0.0.1:{sender.port}>"
        assert request.headers.get("User-Agent") == "gateway"
        assert request.via.port == sender.port


@pytest.mark.gb("G018")
async def test_one_call_id_and_a_growing_cseq_over_refreshes() -> None:
    server = DigestServer()
    seen: list[tuple[str, int]] = []

    def handler(incoming: Incoming) -> Reply:
        request = incoming.request
        seen.append((request.call_id, request.cseq.number))
        verdict = server.verify(
            request.headers.get("Authorization"),
            "REGISTER",
            DOMAIN,
            incoming.flow.host,
            1.0,
            Secret("secret"),
        )
        if verdict is Verdict.OK:
            return Reply(200, [("Contact", request.headers.get("Contact")), ("Expires", "3600")])
        challenges = server.challenge(DOMAIN, incoming.flow.host, 1.0, algorithms=("SHA-256", "MD5"))
        return Reply(401, [("WWW-Authenticate", value) for value in challenges])

    async with endpoint(handler) as upper, endpoint() as lower:
        for _ in range(3):
            response = await lower.request(
                "REGISTER", to(upper), to="sip:a@b", call_id="one", credentials=Credentials("me", "secret")
            )
            assert response.status == 200
        assert seen == [("one", number) for number in range(1, 7)]


@pytest.mark.parametrize(("password", "stale", "sends"), [("wrong", False, 2), ("wrong", True, 3)])
async def test_a_challenge_is_answered_once_or_twice_when_stale(
    password: str, stale: bool, sends: int
) -> None:
    server = DigestServer()
    count = 0

    def handler(incoming: Incoming) -> Reply:
        nonlocal count
        count += 1
        challenges = server.challenge(DOMAIN, "h", 1.0, stale=stale)
        return Reply(401, [("WWW-Authenticate", value) for value in challenges])

    async with endpoint(handler) as upper, endpoint() as lower:
        response = await lower.request(
            "REGISTER", to(upper), to="sip:a@b", credentials=Credentials("me", password)
        )
        assert response.status == 401
        assert count == sends


@pytest.mark.parametrize("lost", [1, 3])
@pytest.mark.gb("G009")
async def test_a_peer_that_loses_datagrams(lost: int) -> None:
    async with endpoint(timers=FAST) as sender, UdpPeer() as peer:
        task = asyncio.create_task(sender.request("MESSAGE", to(peer), to="sip:x@y"))
        copies = [await peer.receive() for _ in range(lost + 1)]
        assert len(set(copies)) == 1
        for _ in range(3):
            peer.send(answer(copies[-1]), sender.port)
        assert (await task).status == 200


async def test_answers_in_the_wrong_order_find_their_requests() -> None:
    async with endpoint() as sender, UdpPeer() as peer:
        tasks = [
            asyncio.create_task(
                sender.request("MESSAGE", to(peer), to="sip:x@y", headers=[("X", str(number))])
            )
            for number in range(5)
        ]
        requests = [await peer.request() for _ in tasks]
        for request in reversed(requests):
            status = 200 + int(request.headers.get("X"))
            peer.send(answer(request, status), sender.port)
        assert [(await task).status for task in tasks] == [200, 201, 202, 203, 204]


async def test_a_silent_peer_times_out() -> None:
    counter = Counter()
    async with endpoint(timers=Timers(t1=0.01, t2=0.05), observer=counter) as sender, UdpPeer() as peer:
        with pytest.raises(TransactionTimeout) as raised:
            await sender.request("MESSAGE", to(peer), to="sip:x@y")
        assert not raised.value.provisional
        assert counter.timeouts == ["MESSAGE"]


async def test_a_deadline_of_the_caller() -> None:
    async with endpoint() as sender, UdpPeer() as peer:
        began = time.monotonic()
        with pytest.raises(TransactionTimeout):
            await sender.request("MESSAGE", to(peer), to="sip:x@y", timeout_s=0.1)
        assert time.monotonic() - began < 5
        request = await peer.request()
        peer.send(answer(request), sender.port)
        assert await sender_is_quiet(sender)


async def sender_is_quiet(sender: Endpoint) -> bool:
    await asyncio.sleep(0.05)
    return sender.counts["tasks"] == 0


async def test_header_injection_is_refused_before_anything_leaves() -> None:
    async with endpoint() as sender, UdpPeer() as peer:
        with pytest.raises(LocalError):
            await sender.request("MESSAGE", to(peer), to="sip:x@y", headers=[("X", "a\r\nVia: b")])
        with pytest.raises(LocalError):
            await sender.request("MESSAGE", to(peer), to="sip:x@y\r\nX: y")
        assert await peer.silent(0.05)


async def test_names_are_looked_up() -> None:
    async with endpoint() as sender, UdpPeer() as peer:
        target = Target("sip:x@localhost", "localhost", peer.port)
        task = asyncio.create_task(sender.request("MESSAGE", target, to="sip:x@y"))
        request = await peer.request()
        peer.send(answer(request), sender.port)
        assert (await task).status == 200


async def test_a_name_that_does_not_exist_fails() -> None:
    async with endpoint() as sender:
        with pytest.raises(TransportFailed):
            await sender.request("MESSAGE", Target("sip:x@y", "no-such-host.invalid", 5060), to="sip:x@y")


# -- addresses, traces, life ------------------------------------------------------------------------------


@pytest.mark.quirk(12)
async def test_the_address_a_peer_sees() -> None:
    async with endpoint() as plain:
        assert plain.local_address("127.0.0.1") == "127.0.0.1"
    every = Endpoint(Identity(SERVER, DOMAIN), host="0.0.0.0", port=0, handler=lambda i: Reply())
    assert every.local_address("127.0.0.1") == "127.0.0.1"
    assert "0.0.0.0" not in every.local_address("198.51.100.1")


@pytest.mark.quirk(12)
async def test_an_advertised_address_stands_in_via_and_contact() -> None:
    def advertise(destination: Flow | Target) -> str | None:
        return "203.0.113.9:15060" if destination.host == "127.0.0.1" else None

    async with endpoint(advertise=advertise) as sender, UdpPeer() as peer:
        task = asyncio.create_task(sender.request("REGISTER", to(peer), to="sip:x@y"))
        request = await peer.request()
        peer.send(answer(request), sender.port)
        await task
        assert (request.via.host, request.via.port) == ("203.0.113.9", 15060)
        assert request.contact is not None
        assert str(request.contact.uri) == f"sip:{SERVER}@203.0.113.9:15060"
        assert sender.local_address("127.0.0.1") == "203.0.113.9"


async def test_an_observer_sees_the_wire_and_the_counts() -> None:
    class Tape(Observer):
        def __init__(self) -> None:
            self.heads: list[tuple[str, bytes]] = []

        def wire(self, direction: Any, flow: Flow | Target, data: bytes) -> None:
            self.heads.append((direction, data.partition(b" ")[0]))

    tape, counter = Tape(), Counter()
    async with endpoint(observer=tape) as server, endpoint(observer=counter) as other:
        await other.request("MESSAGE", to(server), to="sip:x@y")
        assert tape.heads == [("in", b"MESSAGE"), ("out", b"SIP/2.0")]
        assert (counter.sent, counter.received) == (["MESSAGE"], ["200"])


@pytest.mark.gb("G282")
async def test_the_wire_log_shows_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sip.wire")
    value = 'Digest username="u", realm="r", nonce="n0nce", uri="sip:x", response="0123abcd", cnonce="c0nce"'
    async with endpoint() as server, UdpPeer() as peer:
        peer.send(wire("REGISTER", via=peer.via(), extra=(("Authorization", value),)), server.port)
        await peer.response()
    assert "REGISTER sip:" in caplog.text
    assert 'username="u"' in caplog.text
    for secret in ("0123abcd", "n0nce", "c0nce"):
        assert secret not in caplog.text
    assert masked(b'response=abc,x="response text"') == 'response=***,x="response text"'


async def test_close_answers_running_handlers_and_leaves_nothing() -> None:
    started = asyncio.Event()

    async def forever(incoming: Incoming) -> Reply:
        started.set()
        await asyncio.sleep(3600)
        return Reply(200)

    before = asyncio.all_tasks()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.bind(("127.0.0.1", 0))
        raw.settimeout(5)
        async with endpoint(forever) as server:
            raw.sendto(
                wire(via=f"SIP/2.0/UDP 127.0.0.1:{raw.getsockname()[1]};rport;branch=z9hG4bK1"),
                ("127.0.0.1", server.port),
            )
            await started.wait()
        assert raw.recv(65535).startswith(b"SIP/2.0 503")
    assert asyncio.all_tasks() == before


async def test_a_callback_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    def broken(incoming: Incoming) -> Reply:
        assert isinstance(incoming, IncomingInvite)
        raise RuntimeError

    async with endpoint(broken) as server, UdpPeer() as peer:
        for number in range(3):
            peer.send(wire("INVITE", via=peer.via(f"z9hG4bK{number}"), call_id=f"c{number}"), server.port)
        statuses = [(await peer.response()).status for _ in range(6)]
        assert sorted(statuses) == [100, 100, 100, 500, 500, 500]


async def test_a_long_run_leaves_nothing_behind() -> None:
    async with endpoint(timers=FAST) as one, endpoint(timers=FAST) as other:
        for number in range(50):
            assert (
                await one.request("MESSAGE", to(other), to="sip:x@y", headers=[("N", str(number))])
            ).status == 200
        await eventually(lambda: one.counts["client_transactions"] == 0)
        await eventually(lambda: other.counts["stored_answers"] == 0, 20)


def test_a_request_parses_from_its_own_bytes() -> None:
    message = parse(wire())
    assert isinstance(message, Request)
