"""Calls on loopback: both sides of INVITE, ACK, CANCEL and BYE, crossing messages, and what a restart leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sip_wire import CAMERA, DOMAIN, SERVER, TcpPeer, UdpPeer, answer, eventually, wire

from sip.digest import Credentials, DigestServer, Secret, Verdict
from sip.endpoint import Endpoint, Identity, Incoming, IncomingInvite, InviteSession, Reply, Timers
from sip.errors import AckMissing, LocalError, Rejected, TransactionTimeout, TransportFailed
from sip.flow import Target
from sip.message import Request

OFFER = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=Play\r\n"
ANSWER = b"v=0\r\no=- 0 0 IN IP4 127.0.0.2\r\ns=Play\r\n"
SDP = "application/sdp"
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
        handler=handler or (lambda i: Reply(200)),
        **options,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.close(drain_s=0.1)


def to(peer: UdpPeer | Endpoint, transport: Any = "udp") -> Target:
    return Target(f"sip:{CAMERA}@{DOMAIN}", "127.0.0.1", peer.port, transport)


def invite(
    caller: Endpoint, target: Target, timeout_s: float = 10.0, **options: Any
) -> asyncio.Task[InviteSession]:
    return asyncio.create_task(
        caller.invite(target, to=f"sip:{CAMERA}@{DOMAIN}", offer=OFFER, timeout_s=timeout_s, **options)
    )


class Callee:
    """A handler that accepts every INVITE and keeps what it saw."""

    def __init__(self) -> None:
        self.sessions: list[InviteSession] = []
        self.incoming: list[Incoming] = []
        self.failed: list[BaseException] = []

    async def __call__(self, incoming: Incoming) -> Reply | None:
        self.incoming.append(incoming)
        if not isinstance(incoming, IncomingInvite):
            return Reply(200)
        incoming.progress(180)
        try:
            self.sessions.append(await incoming.accept(ANSWER, headers=[("X-Answer", "1")]))
        except (AckMissing, asyncio.CancelledError) as error:
            self.failed.append(error)
            raise
        return None


# -- two endpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_call_from_invite_to_bye(transport: Any) -> None:
    callee = Callee()
    async with endpoint() as caller, endpoint(callee) as other:
        session = await invite(caller, to(other, transport), subject=f"{CAMERA}:0100000001,{SERVER}:0")
        await eventually(lambda: callee.sessions)
        remote = callee.sessions[0]
        request = callee.incoming[0].request
        assert request.headers.get("Subject") == f"{CAMERA}:0100000001,{SERVER}:0"
        assert request.content_type == SDP
        assert "BYE" in request.headers.get("Allow")
        assert (session.local_sdp, session.remote_sdp) == (OFFER, ANSWER)
        assert (remote.local_sdp, remote.remote_sdp) == (ANSWER, OFFER)
        assert session.call_id == remote.call_id
        assert session.remote_uri == f"sip:{CAMERA}@{DOMAIN}"
        assert remote.remote_uri == f"sip:{SERVER}@{DOMAIN}"
        assert session.flow.port == other.port if transport == "udp" else True
        await session.bye()
        await session.bye()
        assert session.ended.result() == "local"
        assert await asyncio.wait_for(remote.ended, 10) == "remote_bye"
        await remote.bye()
        assert caller.counts["dialogs"] == other.counts["dialogs"] == 0


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_the_called_side_may_hang_up(transport: Any) -> None:
    callee = Callee()
    async with endpoint() as caller, endpoint(callee) as other:
        session = await invite(caller, to(other, transport))
        await eventually(lambda: callee.sessions)
        await callee.sessions[0].bye([("X-Reason", "done")])
        assert await asyncio.wait_for(session.ended, 10) == "remote_bye"


async def test_requests_inside_the_call_in_both_directions() -> None:
    callee = Callee()
    seen: list[tuple[str, bytes, InviteSession | None]] = []

    def on_request(incoming: Incoming) -> Reply:
        seen.append((incoming.request.method, incoming.request.body, incoming.session))
        return Reply(200, body=b"RTSP/1.0 200 OK\r\n", content_type="Application/MANSRTSP")

    async with endpoint() as caller, endpoint(callee) as other:
        session = await invite(caller, to(other))
        await eventually(lambda: callee.sessions)
        remote = callee.sessions[0]
        remote.on_request = on_request
        response = await session.request(
            "INFO", body=b"PAUSE RTSP/1.0\r\n\r\n", content_type="Application/MANSRTSP"
        )
        assert (response.status, response.body) == (200, b"RTSP/1.0 200 OK\r\n")
        assert seen == [("INFO", b"PAUSE RTSP/1.0\r\n\r\n", remote)]
        session.on_request = on_request
        assert (await remote.request("MESSAGE", body=b"<Notify/>", content_type="text/xml")).status == 200
        assert seen[-1] == ("MESSAGE", b"<Notify/>", session)


async def test_without_a_callback_in_dialog_requests_go_to_the_handler_with_their_session() -> None:
    callee = Callee()
    async with endpoint() as caller, endpoint(callee) as other:
        session = await invite(caller, to(other))
        await eventually(lambda: callee.sessions)
        assert (await session.request("MESSAGE", body=b"<Notify/>", content_type="text/xml")).status == 200
        assert callee.incoming[-1].session is callee.sessions[0]
        await session.bye()


async def test_a_refused_call() -> None:
    async def busy(incoming: Incoming) -> Reply:
        return Reply(486)

    async with endpoint() as caller, endpoint(busy) as other:
        with pytest.raises(Rejected) as raised:
            await invite(caller, to(other))
        assert raised.value.status == raised.value.response.status == 486
        assert raised.value.reason == "Busy Here"
        assert caller.counts["dialogs"] == 0


async def test_a_call_that_has_to_authenticate() -> None:
    digest = DigestServer()
    callee = Callee()

    def handler(incoming: Incoming) -> Result:
        request = incoming.request
        value = request.headers.get("Proxy-Authorization")
        if request.method == "INVITE" and (
            digest.verify(value, "INVITE", DOMAIN, "h", 1.0, Secret("secret")) is not Verdict.OK
        ):
            return Reply(407, [("Proxy-Authenticate", digest.challenge(DOMAIN, "h", 1.0)[0])])
        return callee(incoming)

    async with endpoint() as caller, endpoint(handler) as other:
        session = await invite(caller, to(other), credentials=Credentials("me", "secret"))
        assert session.dialog.invite_cseq == 2
        await session.bye()


@pytest.mark.gb("G020", "G229")
async def test_an_invite_without_sdp_is_answered_with_an_offer_and_the_ack_brings_the_answer() -> None:
    callee = Callee()
    async with endpoint(callee) as server, UdpPeer() as upper:
        upper.send(
            wire("INVITE", via=upper.via(), extra=(("Contact", f"<sip:u@127.0.0.1:{upper.port}>"),)),
            server.port,
        )
        ok = await upper.final()
        assert (ok.status, ok.body) == (200, ANSWER)
        assert ok.contact is not None
        assert {"INVITE", "ACK", "INFO", "CANCEL", "BYE"} <= set(ok.headers.get("Allow").split(", "))
        assert ok.headers.get("X-Answer") == "1"
        upper.send(
            wire("ACK", via=upper.via("z9hG4bKa"), to=ok.headers.get("To"), body=OFFER, content_type=SDP),
            server.port,
        )
        await eventually(lambda: callee.sessions)
        assert callee.sessions[0].ack_body == OFFER
        assert callee.sessions[0].remote_sdp == b""


# -- we call a scripted peer ------------------------------------------------------------------------------


@pytest.mark.gb("G012")
async def test_four_repeated_200s_get_four_more_acks() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer))
        request = await peer.request()
        ok = answer(request, 200, body=ANSWER, extra=(("Contact", "<sip:dev@192.168.1.64>"),))
        for _ in range(5):
            peer.send(ok, caller.port)
        acks = [await peer.request() for _ in range(5)]
        assert {ack.method for ack in acks} == {"ACK"}
        assert {ack.cseq.number for ack in acks} == {request.cseq.number}
        assert {ack.uri for ack in acks} == {"sip:dev@192.168.1.64"}
        assert (await task).remote_sdp == ANSWER


async def test_timeout_without_any_answer_sends_no_cancel() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer), timeout_s=0.2)
        await peer.request()
        with pytest.raises(TransactionTimeout) as raised:
            await task
        assert not raised.value.provisional
        assert await peer.silent(0.2)


@pytest.mark.quirk(43)
async def test_timeout_after_100_is_told_and_cancelled() -> None:
    """``100 Trying`` and then nothing: the offer was not accepted, in silence."""
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer), timeout_s=0.3)
        request = await peer.request()
        peer.send(answer(request, 100, to_tag=""), caller.port)
        with pytest.raises(TransactionTimeout) as raised:
            await task
        assert raised.value.provisional
        cancel = await peer.request()
        assert (cancel.method, cancel.via.branch) == ("CANCEL", request.via.branch)
        peer.send(answer(cancel), caller.port)
        peer.send(answer(request, 487), caller.port)
        assert (await peer.request()).method == "ACK"


@pytest.mark.gb("G014")
async def test_cancelling_the_task_cancels_the_invite() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer))
        request = await peer.request()
        peer.send(answer(request, 180), caller.port)
        await asyncio.sleep(0.05)
        task.cancel()
        cancel = await peer.request()
        assert cancel.method == "CANCEL"
        peer.send(answer(cancel), caller.port)
        peer.send(answer(request, 487), caller.port)
        assert (await peer.request()).method == "ACK"
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.gb("G015")
async def test_a_200_right_after_cancel_leaves_no_call() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer), timeout_s=0.2)
        request = await peer.request()
        peer.send(answer(request, 180), caller.port)
        with pytest.raises(TransactionTimeout):
            await task
        assert (await peer.request()).method == "CANCEL"
        peer.send(answer(request, 200, body=ANSWER), caller.port)
        ack, bye = await peer.request(), await peer.request()
        assert (ack.method, bye.method) == ("ACK", "BYE")
        assert caller.counts["dialogs"] == 0


@pytest.mark.gb("G015")
async def test_cancelled_in_the_moment_of_the_200() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer))
        request = await peer.request()
        peer.send(answer(request, 200, body=ANSWER), caller.port)
        while caller.counts["dialogs"] == 0:
            caller._transport.udp.readable()
        task.cancel()
        assert [(await peer.request()).method for _ in range(2)] == ["ACK", "BYE"]
        with pytest.raises(asyncio.CancelledError):
            await task
        assert caller.counts["dialogs"] == 0


@pytest.mark.gb("G236")
async def test_a_200_long_after_our_timeout() -> None:
    async with endpoint(timers=Timers(t1=0.01)) as caller, UdpPeer() as peer:
        task = invite(caller, to(peer))
        request = await peer.request()
        with pytest.raises(TransactionTimeout):
            await task
        while not await peer.silent(0.1):
            pass
        peer.send(answer(request, 200, body=ANSWER), caller.port)
        assert [(await peer.request()).method for _ in range(2)] == ["ACK", "BYE"]


@pytest.mark.quirk(41)
async def test_a_call_with_a_peer_that_tells_no_tag_and_no_sdp() -> None:
    """``SIP/2.0 200 OK``, ``To: <sip:…>`` without tag, no body; then its BYE with a tag out of nowhere."""
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer))
        request = await peer.request()
        peer.send(answer(request, 200, to_tag=""), caller.port)
        session = await task
        assert (session.remote_sdp, session.dialog.remote_tag) == (b"", "")
        await peer.request()
        bye = wire(
            "BYE",
            via=peer.via("z9hG4bKbye"),
            from_=f"<sip:{CAMERA}@{DOMAIN}>;tag=now",
            to=request.headers.get("From"),
            call_id=request.call_id,
        )
        peer.send(bye, caller.port)
        assert (await peer.response()).status == 200
        assert session.ended.result() == "remote_bye"


async def test_bye_right_behind_the_200_is_not_lost() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        task = invite(caller, to(peer))
        request = await peer.request()
        peer.send(answer(request, 200, body=ANSWER), caller.port)
        bye = wire(
            "BYE",
            via=peer.via("z9hG4bKbye"),
            from_=f"{request.headers.get('To')};tag=peer",
            to=request.headers.get("From"),
            call_id=request.call_id,
        )
        peer.send(bye, caller.port)
        session = await task
        assert await asyncio.wait_for(session.ended, 10) == "remote_bye"


async def called_scripted(caller: Endpoint, peer: UdpPeer) -> tuple[InviteSession, Request]:
    task = invite(caller, to(peer))
    request = await peer.request()
    peer.send(answer(request, 200, body=ANSWER, extra=(("Contact", "<sip:dev@192.168.1.64>"),)), caller.port)
    session = await task
    await peer.request()
    return session, request


@pytest.mark.parametrize("status", [481, 500, None])
async def test_bye_does_not_care_what_the_peer_says(status: int | None) -> None:
    async with endpoint(timers=FAST) as caller, UdpPeer() as peer:
        session, _ = await called_scripted(caller, peer)
        task = asyncio.create_task(session.bye())
        bye = await peer.request()
        assert (bye.method, bye.uri) == ("BYE", "sip:dev@192.168.1.64")
        if status is not None:
            peer.send(answer(bye, status), caller.port)
        await task
        assert session.ended.result() == "local"
        assert caller.counts["dialogs"] == 0


async def test_481_inside_the_call_ends_it() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        session, _ = await called_scripted(caller, peer)
        task = asyncio.create_task(session.request("INFO", body=b"x", content_type="Application/MANSRTSP"))
        peer.send(answer(await peer.request(), 481), caller.port)
        assert (await task).status == 481
        assert session.ended.result() == "remote_bye"
        await session.bye()
        assert await peer.silent(0.1)


async def test_bye_of_both_sides_at_once() -> None:
    async with endpoint() as caller, UdpPeer() as peer:
        session, request = await called_scripted(caller, peer)
        task = asyncio.create_task(session.bye())
        ours = await peer.request()
        theirs = wire(
            "BYE",
            via=peer.via("z9hG4bKbye"),
            from_=f"{request.headers.get('To')};tag=peer",
            to=request.headers.get("From"),
            call_id=request.call_id,
        )
        peer.send(theirs, caller.port)
        assert (await peer.response()).status == 200
        peer.send(answer(ours, 481), caller.port)
        await task
        assert session.ended.result() == "local"


async def test_the_connection_of_a_call_breaks() -> None:
    flows: list[Any] = []

    def handler(incoming: Incoming) -> Reply:
        flows.append(incoming.flow)
        return Reply(200)

    async with endpoint(handler) as server, await TcpPeer.connect(server.port) as device:
        await device.send(wire("REGISTER"))
        await device.response()
        task = invite(server, Target.of_flow(f"sip:{CAMERA}@{DOMAIN}", flows[0]))
        request = await device.request()
        await device.send(answer(request, 200, body=ANSWER))
        session = await task
        device.writer.close()
        assert await asyncio.wait_for(session.ended, 10) == "transport"
        assert server.counts["dialogs"] == 0
        with pytest.raises(TransportFailed):
            await session.request("INFO")


# -- a scripted peer calls us -----------------------------------------------------------------------------


@pytest.mark.gb("G013")
async def test_an_upper_that_withholds_the_ack_gets_repeats_and_then_bye() -> None:
    callee = Callee()
    async with endpoint(callee, timers=Timers(t1=0.02, t2=0.1)) as server, UdpPeer() as upper:
        upper.send(wire("INVITE", via=upper.via(), body=OFFER, content_type=SDP), server.port)
        oks = 0
        while True:
            message = await upper.message()
            if isinstance(message, Request):
                break
            oks += message.status == 200
        assert oks > 5
        assert message.method == "BYE"
        upper.send(answer(message), server.port)
        await eventually(lambda: callee.failed)
        assert isinstance(callee.failed[0], AckMissing)
        assert server.counts["dialogs"] == 0


@pytest.mark.gb("G014")
async def test_an_upper_that_cancels_stops_the_handler() -> None:
    stopped: list[bool] = []

    async def slow(incoming: Incoming) -> Reply:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopped.append(True)
            raise
        return Reply(500)

    async with endpoint(slow) as server, UdpPeer() as upper:
        upper.send(wire("INVITE", via=upper.via(), body=OFFER, content_type=SDP), server.port)
        assert (await upper.response()).status == 100
        upper.send(wire("CANCEL", via=upper.via()), server.port)
        answers = [await upper.response() for _ in range(2)]
        assert [(a.status, a.cseq.method) for a in answers] == [(200, "CANCEL"), (487, "INVITE")]
        await eventually(lambda: stopped)
        upper.send(wire("ACK", via=upper.via(), to=answers[1].headers.get("To")), server.port)
        assert await upper.silent(0.2)


async def test_an_invite_is_accepted_once() -> None:
    errors: list[Exception] = []

    async def handler(incoming: Incoming) -> Reply | None:
        assert isinstance(incoming, IncomingInvite)
        await incoming.accept(ANSWER)
        try:
            await incoming.accept(ANSWER)
        except LocalError as error:
            errors.append(error)
        with pytest.raises(LocalError):
            incoming.progress(200)
        return None

    async with endpoint() as caller, endpoint(handler) as other:
        session = await invite(caller, to(other))
        await eventually(lambda: errors)
        await session.bye()


async def test_close_ends_a_call_that_waits_for_its_ack() -> None:
    callee = Callee()
    async with UdpPeer() as upper:
        async with endpoint(callee) as server:
            upper.send(wire("INVITE", via=upper.via(), body=OFFER, content_type=SDP), server.port)
            assert (await upper.final()).status == 200
        methods = []
        while not methods:
            message = await upper.message()
            methods += [message.method] if isinstance(message, Request) else []
        assert methods == ["BYE"]


@pytest.mark.parametrize(
    ("body", "status"), [(OFFER, 200), (b"", 200), (OFFER + b"m=video 9 RTP/AVP 96\r\n", 488)]
)
async def test_re_invite(body: bytes, status: int) -> None:
    callee = Callee()
    async with endpoint(callee) as server, UdpPeer() as upper:
        upper.send(wire("INVITE", via=upper.via(), body=OFFER, content_type=SDP), server.port)
        ok = await upper.final()
        upper.send(wire("ACK", via=upper.via("z9hG4bKa"), to=ok.headers.get("To")), server.port)
        await eventually(lambda: callee.sessions)
        again = wire(
            "INVITE", via=upper.via("z9hG4bKr"), to=ok.headers.get("To"), cseq=2, body=body, content_type=SDP
        )
        upper.send(again, server.port)
        response = await upper.final()
        assert response.status == status
        assert response.body == (ANSWER if status == 200 else b"")
        upper.send(
            wire(
                "ACK",
                via=upper.via("z9hG4bKr2" if status == 200 else "z9hG4bKr"),
                to=ok.headers.get("To"),
                cseq=2,
            ),
            server.port,
        )
        assert not callee.sessions[0].ended.done()
        upper.send(wire("BYE", via=upper.via("z9hG4bKb"), to=ok.headers.get("To"), cseq=3), server.port)
        assert (await upper.final()).status == 200
        assert callee.sessions[0].ended.result() == "remote_bye"


async def test_an_upper_over_tcp_that_closes_its_idle_connection_keeps_its_call() -> None:
    callee = Callee()
    async with endpoint(callee) as server:
        heard: asyncio.Queue[TcpPeer] = asyncio.Queue()
        listener = await asyncio.start_server(lambda r, w: heard.put_nowait(TcpPeer(r, w)), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with await TcpPeer.connect(server.port) as upper:
            contact = (("Contact", f"<sip:u@127.0.0.1:{port};transport=tcp>"),)
            await upper.send(wire("INVITE", body=OFFER, content_type=SDP, extra=contact))
            await upper.response()
            while (ok := await upper.response()).status < 200:
                pass
            await upper.send(wire("ACK", to=ok.headers.get("To")))
            await eventually(lambda: callee.sessions)
        await eventually(lambda: server.counts["connections"] == 0)
        task = asyncio.create_task(callee.sessions[0].bye())
        async with await heard.get() as again:
            bye = await again.request()
            assert bye.method == "BYE"
            await again.send(answer(bye))
            await task
        listener.close()


# -- after a restart --------------------------------------------------------------------------------------


@pytest.mark.quirk(33)
async def test_a_later_process_ends_the_call_of_an_earlier_one() -> None:
    async with UdpPeer() as peer:
        async with endpoint() as first:
            session, request = await called_scripted(first, peer)
            snapshot = json.loads(json.dumps(session.snapshot()))
        async with endpoint() as second:
            task = asyncio.create_task(second.end_orphan(snapshot))
            bye = await peer.request()
            assert (bye.method, bye.call_id, bye.uri) == ("BYE", request.call_id, "sip:dev@192.168.1.64")
            assert bye.from_.tag == request.from_.tag
            assert bye.to.tag == "peer"
            assert bye.cseq.number > request.cseq.number
            peer.send(answer(bye, 481), second.port)
            await task


async def test_an_orphan_is_ended_where_the_device_is_now() -> None:
    flows: list[Any] = []

    def handler(incoming: Incoming) -> Reply:
        flows.append(incoming.flow)
        return Reply(200)

    async with endpoint(handler) as server, UdpPeer() as peer, UdpPeer() as moved:
        session, _ = await called_scripted(server, peer)
        moved.send(wire("REGISTER", via=moved.via()), server.port)
        await moved.response()
        task = asyncio.create_task(server.end_orphan(session.snapshot(), flow=flows[0]))
        bye = await moved.request()
        moved.send(answer(bye), server.port)
        await task


async def test_a_record_that_is_no_snapshot() -> None:
    async with endpoint() as server:
        with pytest.raises(LocalError):
            await server.end_orphan({"call_id": "x"})
