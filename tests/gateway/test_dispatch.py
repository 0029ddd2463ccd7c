"""Requests over real sockets: who is served, what is refused, what waits for answers."""

from __future__ import annotations

import asyncio

import pytest
from gateway_core import (
    CAMERA,
    NVR,
    SERVER,
    Core,
    RawDevice,
    ScriptedDevice,
    core,
    keepalive_xml,
    message_text,
    until,
)

from gateway.answers import AnswerDesk
from gateway.errors import DeviceIsOffline, NotSupported, QueryRefused, QueryTimedOut
from gateway.model import Platform
from gateway.peers import Peer, PeerKind
from sip.endpoint import Incoming, Reply
from sip.errors import TransportFailed
from sip.flow import Flow
from sip.manscdp import (
    Body,
    CatalogQuery,
    CatalogResponse,
    DeviceInfoQuery,
    DeviceInfoResponse,
    DeviceStatusQuery,
    DeviceStatusResponse,
    Edition,
    MediaStatusNotify,
    encode,
)
from sip.message import Response


def info(sn: int, name: str = "NVR") -> bytes:
    return encode(DeviceInfoResponse(sn=sn, device_id=NVR, device_name=name, manufacturer="Example"))


@pytest.mark.gb("G030")
async def test_a_message_is_answered_before_its_work_is_done() -> None:
    started, release = asyncio.Event(), asyncio.Event()
    async with core() as gateway, RawDevice(gateway.address) as device:

        @gateway.dispatch.on(MediaStatusNotify)
        async def slow(peer: Peer, body: Body, incoming: Incoming) -> None:
            started.set()
            await release.wait()

        await device.register()
        body = encode(MediaStatusNotify(sn=1, device_id=NVR, notify_type="121"))
        answer = await device.message(body)
        assert (answer.status, answer.body) == (200, b"")
        await asyncio.wait_for(started.wait(), 5)
        assert (await device.keepalive()).status == 200  # others are served meanwhile, this device too
        assert gateway.dispatch.inbox.waiting == 1
        release.set()
        await until(lambda: gateway.dispatch.inbox.counts["done"] == 1)


async def test_messages_of_one_peer_keep_their_order_and_a_failing_one_stops_nothing() -> None:
    seen = []
    async with core() as gateway, RawDevice(gateway.address) as device:

        @gateway.dispatch.on(MediaStatusNotify)
        async def handle(peer: Peer, body: Body, incoming: Incoming) -> None:
            await asyncio.sleep(0.01 if body.sn == 1 else 0)
            if body.sn == 2:
                raise ValueError("bad luck")
            seen.append(body.sn)

        await device.register()
        for sn in (1, 2, 3):
            await device.message(encode(MediaStatusNotify(sn=sn, device_id=NVR, notify_type="121")))
        await until(lambda: len(seen) == 2)
        assert seen == [1, 3]
        assert gateway.dispatch.inbox.counts["failed"] == 1


async def test_a_full_queue_is_told_and_counted() -> None:
    release = asyncio.Event()
    async with core() as gateway, RawDevice(gateway.address) as device:
        gateway.dispatch.inbox._jobs_per_peer = 2

        @gateway.dispatch.on(MediaStatusNotify)
        async def stuck(peer: Peer, body: Body, incoming: Incoming) -> None:
            await release.wait()

        await device.register()
        body = encode(MediaStatusNotify(sn=1, device_id=NVR, notify_type="121"))
        statuses = [(await device.message(body)).status for _ in range(4)]
        assert statuses == [200, 200, 503, 503]
        assert gateway.dispatch.counts["full"] == 2
        release.set()


async def test_a_handlers_body_is_sent_as_a_new_message() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address) as device:

        @gateway.dispatch.on(MediaStatusNotify)
        async def answer(peer: Peer, body: Body, incoming: Incoming) -> Body:
            return DeviceInfoResponse(sn=body.sn, device_id=NVR)

        await device.register()
        assert (await device.send(MediaStatusNotify(sn=77, device_id=NVR, notify_type="121"))).status == 200
        await until(lambda: device.of(DeviceInfoResponse))
        assert device.of(DeviceInfoResponse)[0].sn == 77


@pytest.mark.gb("G025")
async def test_unknown_methods_events_and_body_types() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        unknown = await device.exchange(
            message_text(b"", NVR, port=device.port, method="FLY", content_type="")
        )
        assert unknown.status == 405
        assert "MESSAGE" in unknown.headers.get("Allow")
        event = await device.exchange(
            message_text(
                b"", NVR, port=device.port, method="SUBSCRIBE", content_type="", extra="Event: dialog\r\n"
            )
        )
        assert event.status == 489
        assert event.headers.get("Allow-Events")
        kind = await device.message(b"hello", content_type="image/png")
        assert kind.status == 415
        assert "MANSCDP" in kind.headers.get("Accept")


@pytest.mark.gb("G080")
async def test_the_content_type_is_written_exactly_and_read_in_any_case() -> None:
    spellings = [
        "Application/MANSCDP+xml",
        "application/manscdp+xml",
        "APPLICATION/MANSCDP+XML; charset=GB2312",
    ]
    async with core() as gateway, RawDevice(gateway.address) as device:
        taken: list[int] = []

        @gateway.dispatch.on(MediaStatusNotify)
        async def note(peer: Peer, body: Body, incoming: Incoming) -> None:
            taken.append(body.sn)

        await device.register()
        for number, spelling in enumerate(spellings, start=1):
            body = encode(MediaStatusNotify(sn=number, device_id=NVR, notify_type="121"))
            assert (await device.message(body, content_type=spelling)).status == 200
        await until(lambda: taken == [1, 2, 3])
    async with core() as gateway, ScriptedDevice(gateway.address) as device:
        await device.register()
        await gateway.dispatch.send(gateway.registry.devices[NVR], DeviceInfoQuery(sn=1, device_id=NVR))
        await until(lambda: any(request.body for request in device.requests))
        sent = next(request for request in device.requests if request.body)
        assert sent.headers.get("Content-Type") == "Application/MANSCDP+xml"


async def test_methods_nobody_handles_yet() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        answer = await device.exchange(
            message_text(
                b"",
                NVR,
                port=device.port,
                method="SUBSCRIBE",
                content_type="",
                extra="Event: Catalog\r\nExpires: 60\r\n",
            )
        )
        assert answer.status == 405


@pytest.mark.gb("G062")
@pytest.mark.parametrize("method", ["MESSAGE", "SUBSCRIBE"])
async def test_strangers_are_refused(method: str) -> None:
    async with core() as gateway, RawDevice(gateway.address) as stranger:
        body = encode(CatalogQuery(sn=1, device_id=SERVER))
        answer = await stranger.message(body, method=method, extra="Event: Catalog\r\n")
        assert answer.status == 403
        assert gateway.dispatch.counts["unregistered"] == 1


async def test_malformed_bodies_are_told_why() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        answer = await device.message(b"this is no XML at all")
        assert answer.status == 400
        assert "not_xml" in answer.reason
        bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><Notify><CmdType>Keepalive</CmdType><SN>&a;</SN></Notify>'
        assert (await device.message(bomb)).status == 400
        assert gateway.dispatch.counts["malformed"] == 2


@pytest.mark.quirk(2)
async def test_a_catalog_part_is_never_answered_400() -> None:
    """One Item with a stray `<` in its Address, one with a bare &, one good one; then a body cut to pieces."""
    body = (
        f"<Response><CmdType>Catalog</CmdType><SN>5</SN><DeviceID>{NVR}</DeviceID><SumNum>3</SumNum>"
        f'<DeviceList Num="3"><Item><DeviceID>41018300001320000001</DeviceID><Name>Gate</Name><Address>a<\x01>b</Address>'
        "</Item><Item><DeviceID>41018300001320000002</DeviceID><Name>North & South</Name></Item>"
        "<Item><DeviceID>41018300001320000003</DeviceID><Name>Hall</Name></Item></DeviceList></Response>"
    ).encode()
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        assert (await device.message(body)).status == 200
        await until(lambda: len(gateway.registry.channels(NVR)) == 3)
        names = [channel.name for channel in gateway.registry.channels(NVR).values()]
        assert names == ["Gate", "North & South", "Hall"]
        assert gateway.dispatch.counts["body_faults"] >= 1
        assert (await device.message(b"\x00\x01 Catalog \xff\xfe")).status == 200
        assert gateway.dispatch.counts["malformed"] == 1


async def test_unknown_commands_are_answered_200_and_counted() -> None:
    body = f"<Notify><CmdType>Weather</CmdType><SN>1</SN><DeviceID>{NVR}</DeviceID></Notify>".encode()
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        assert (await device.message(body)).status == 200
        assert gateway.dispatch.counts["unknown_command"] == 1
        known = encode(MediaStatusNotify(sn=1, device_id=NVR, notify_type="121"))
        assert (await device.message(known)).status == 200
        assert gateway.dispatch.counts["no_handler"] == 1


async def test_options_is_answered_to_anybody() -> None:
    async with core() as gateway, RawDevice(gateway.address) as stranger:
        answer = await stranger.exchange(message_text(b"", NVR, method="OPTIONS", content_type=""))
        assert answer.status == 200


class TestQuery:
    async def test_the_answer_is_a_message_with_the_same_sn(self) -> None:
        async with core() as gateway, ScriptedDevice(gateway.address) as device:

            def script(body: Body, incoming: Incoming) -> Reply:
                asyncio.get_running_loop().create_task(device.send_bytes(info(body.sn, "新密 NVR")))
                return Reply(200)

            device.script = script
            await device.register()
            answer = await gateway.dispatch.query(gateway.device(), DeviceInfoQuery(device_id=NVR))
            assert isinstance(answer, DeviceInfoResponse)
            assert answer.device_name == "新密 NVR"
            request = device.requests[-1]
            assert request.headers.get("Content-Type") == "Application/MANSCDP+xml"
            assert request.from_.uri.user == SERVER
            assert request.to.uri.user == NVR
            assert gateway.dispatch.desk.open_count == 0

    @pytest.mark.quirk(45)
    async def test_the_answer_inside_the_200(self) -> None:
        """The 200 to our MESSAGE carries the Response; no MESSAGE follows."""
        async with core() as gateway, ScriptedDevice(gateway.address) as device:
            device.script = lambda body, incoming: Reply(
                200, body=info(body.sn), content_type="Application/MANSCDP+xml"
            )
            await device.register()
            answer = await gateway.dispatch.query(
                gateway.device(), DeviceInfoQuery(device_id=NVR), timeout_s=2
            )
            assert answer.manufacturer == "Example"  # type: ignore[attr-defined]
            assert gateway.dispatch.counts["body_in_answer"] == 1

    @pytest.mark.quirk(45)
    async def test_rubbish_inside_the_200_does_not_matter(self) -> None:
        async with core() as gateway, ScriptedDevice(gateway.address) as device:
            device.script = lambda body, incoming: Reply(200, body=b"OK", content_type="text/plain")
            await device.register()
            assert (
                await gateway.dispatch.send(gateway.device(), DeviceInfoQuery(sn=1, device_id=NVR))
            ).status == 200

    @pytest.mark.gb("G131")
    async def test_no_answer_ends_the_query_and_a_late_one_is_counted(self) -> None:
        async with core() as gateway, ScriptedDevice(gateway.address) as device:
            await device.register()
            with pytest.raises(QueryTimedOut):
                await gateway.dispatch.query(gateway.device(), DeviceInfoQuery(device_id=NVR), timeout_s=0.05)
            assert gateway.dispatch.desk.open_count == 0
            sn = device.of(DeviceInfoQuery)[0].sn
            assert (await device.send_bytes(info(sn))).status == 200
            assert gateway.dispatch.desk.counts["late"] == 1

    async def test_two_queries_in_parallel_get_their_own_answers(self) -> None:
        async with core() as gateway, ScriptedDevice(gateway.address) as device:
            await device.register()
            tasks = [
                asyncio.create_task(gateway.dispatch.query(gateway.device(), DeviceInfoQuery(device_id=NVR)))
                for _ in range(2)
            ]
            await until(lambda: len(device.of(DeviceInfoQuery)) == 2)
            first, second = (body.sn for body in device.of(DeviceInfoQuery))
            assert first != second
            await device.send_bytes(info(second, "second"))
            await device.send_bytes(info(first, "first"))
            assert [answer.device_name for answer in await asyncio.gather(*tasks)] == ["first", "second"]  # type: ignore[attr-defined]

    async def test_a_refusal_is_an_error_with_its_status(self) -> None:
        async with core() as gateway, ScriptedDevice(gateway.address) as device:
            device.script = lambda body, incoming: Reply(404)
            await device.register()
            with pytest.raises(QueryRefused) as caught:
                await gateway.dispatch.query(gateway.device(), DeviceInfoQuery(device_id=NVR))
            assert caught.value.sip_status == 404
            assert gateway.dispatch.desk.open_count == 0

    async def test_a_silent_device_is_an_error_too(self) -> None:
        async with core() as gateway, RawDevice(gateway.address) as device:
            await device.register()
            with pytest.raises(QueryRefused) as caught:
                await gateway.dispatch.query(gateway.device(), DeviceInfoQuery(device_id=NVR))
            assert caught.value.sip_status == 408
            assert gateway.dispatch.outbox.counts["silent"] == 1

    async def test_nothing_is_sent_to_offline_devices(self) -> None:
        async with core() as gateway:
            device = gateway.provision(NVR, "x")
            with pytest.raises(DeviceIsOffline):
                await gateway.dispatch.query(device, DeviceInfoQuery(device_id=NVR))
            with pytest.raises(TransportFailed):
                await gateway.dispatch.send(device, DeviceInfoQuery(sn=1, device_id=NVR))

    @pytest.mark.gb("G049")
    async def test_commands_of_2022_are_not_sent_to_2016_devices(self) -> None:
        from sip.manscdp.sd_card_status import SDCardStatusQuery

        async with core() as gateway, ScriptedDevice(gateway.address, edition=Edition.V2016) as device:
            await device.register()
            with pytest.raises(NotSupported) as caught:
                await gateway.dispatch.query(gateway.device(), SDCardStatusQuery(device_id=NVR))
            assert caught.value.cause == "not_supported"
            assert device.received == []

    @pytest.mark.quirk(1)
    async def test_the_answer_uses_the_devices_charset(self) -> None:
        async with core() as gateway, ScriptedDevice(gateway.address, edition=Edition.V2016) as device:
            await device.register()
            await gateway.dispatch.send(
                gateway.device(), DeviceInfoResponse(sn=1, device_id=NVR, device_name="新密")
            )
            assert b'encoding="GB2312"' in device.requests[-1].body
            assert "新密".encode("gb18030") in device.requests[-1].body
            await device.send_bytes(
                f"<Response><CmdType>DeviceInfo</CmdType><SN>4</SN><DeviceID>{NVR}</DeviceID>"
                "<DeviceName>新密</DeviceName><Result>OK</Result></Response>".encode()
            )
            await gateway.dispatch.send(
                gateway.device(), DeviceInfoResponse(sn=2, device_id=NVR, device_name="新密")
            )
            assert "新密".encode() in device.requests[-1].body
            gateway.device().profile.order(charset="GB18030")
            await gateway.dispatch.send(
                gateway.device(), DeviceInfoResponse(sn=3, device_id=NVR, device_name="䶮")
            )
            assert "䶮".encode("gb18030") in device.requests[-1].body

    async def test_a_long_body_is_read_in_a_thread(self) -> None:
        items = "".join(
            f"<Item><DeviceID>4101830000132000{n:04d}</DeviceID><Name>Camera {n}</Name><Status>ON</Status></Item>"
            for n in range(900)
        )
        body = (
            f"<Response><CmdType>Catalog</CmdType><SN>5</SN><DeviceID>{NVR}</DeviceID><SumNum>900</SumNum>"
            f'<DeviceList Num="900">{items}</DeviceList></Response>'
        ).encode()
        assert len(body) > 65536 // 2
        async with core() as gateway, ScriptedDevice(gateway.address, transport="tcp") as device:
            await device.register()
            assert (await device.send_bytes(body)).status == 200
            await until(lambda: len(gateway.registry.channels(NVR)) == 900)


class FakeUpper:
    """The cascade, as far as peers need it."""

    def __init__(self, platform: Platform, host: str) -> None:
        self.platform, self.host = platform, host
        self.sent: list[Body] = []

    def platform_of(self, flow: Flow, user: str) -> Platform | None:
        return self.platform if flow.host == self.host else None

    async def send(self, platform: Platform, body: Body) -> Response:
        self.sent.append(body)
        return Response(200)


class TestUppers:
    UPPER = "41010000002000000001"

    def gateway_with_upper(self, gateway: Core, host: str) -> FakeUpper:
        upper = FakeUpper(Platform(self.UPPER, "City", "4101000000", host, 5060), host)
        gateway.peers.uppers = upper
        return upper

    async def test_a_query_of_the_upper_is_handled_in_its_role(self) -> None:
        async with core() as gateway, RawDevice(gateway.address, self.UPPER, host="127.0.0.3") as peer:
            upper = self.gateway_with_upper(gateway, "127.0.0.3")

            @gateway.dispatch.on(DeviceStatusQuery, role="upper")
            async def status(asking: Peer, body: Body, incoming: Incoming) -> Body:
                assert asking.kind is PeerKind.UPPER
                return DeviceStatusResponse(
                    sn=body.sn, device_id=body.device_id, result="OK", online="ONLINE"
                )

            assert (await peer.message(encode(DeviceStatusQuery(sn=8, device_id=SERVER)))).status == 200
            await until(lambda: upper.sent)
            assert upper.sent[0].sn == 8

    async def test_an_upper_cannot_beat_as_a_device(self) -> None:
        async with core() as gateway, RawDevice(gateway.address, self.UPPER, host="127.0.0.3") as peer:
            self.gateway_with_upper(gateway, "127.0.0.3")
            assert (await peer.keepalive()).status == 403

    @pytest.mark.quirk(37)
    async def test_two_platforms_registered_with_each_other(self) -> None:
        """One address, one code, both roles: the command decides which one is meant."""
        handled = []
        async with core() as gateway, ScriptedDevice(gateway.address, self.UPPER) as peer:
            self.gateway_with_upper(gateway, "127.0.0.1")
            await peer.register()

            @gateway.dispatch.on(CatalogQuery, role="upper")
            async def query(asking: Peer, body: Body, incoming: Incoming) -> None:
                handled.append(("query", asking.kind))

            @gateway.dispatch.on(CatalogResponse, role="device")
            async def response(asking: Peer, body: Body, incoming: Incoming) -> None:
                handled.append(("response", asking.kind))

            assert (await peer.send(CatalogQuery(sn=1, device_id=SERVER))).status == 200
            assert (await peer.send(CatalogResponse(sn=9, device_id=self.UPPER, sum_num=0))).status == 200
            assert (await peer.send_bytes(keepalive_xml(self.UPPER))).status == 200
            await until(lambda: len(handled) == 2)
            assert sorted(handled) == [("query", PeerKind.UPPER), ("response", PeerKind.DEVICE)]
            assert gateway.liveness.keepalives == 1

    async def test_methods_go_to_the_role_that_handles_them(self) -> None:
        async with core() as gateway, RawDevice(gateway.address, self.UPPER, host="127.0.0.3") as peer:
            self.gateway_with_upper(gateway, "127.0.0.3")
            gateway.dispatch.on_method("INFO", "upper")(lambda asking, incoming: Reply(200))
            gateway.dispatch.on_method("SUBSCRIBE", "upper")(
                lambda asking, incoming: Reply(403, reason=asking.id)
            )
            answer = await peer.message(
                encode(CatalogQuery(sn=1, device_id=SERVER)),
                method="SUBSCRIBE",
                extra="Event: Catalog;id=7\r\n",
            )
            assert (answer.status, answer.reason) == (403, self.UPPER)


class TestAnswerDesk:
    @pytest.mark.gb("G078")
    def test_sn_is_positive_and_unique_while_open_and_wraps(self) -> None:
        desk = AnswerDesk()
        held = desk.ask(NVR, "Catalog", 1)
        desk._serial[NVR] = 99_999_998
        seen = [desk.next_sn(NVR) for _ in range(4)]
        assert seen == [99_999_999, 2, 3, 4]  # 1 is open
        held.close()
        assert all(desk.next_sn(NVR) > 0 for _ in range(1_000_000))

    def test_answers_of_other_peers_are_not_taken(self) -> None:
        desk = AnswerDesk()
        with desk.ask(NVR, "DeviceInfo", 5):
            assert desk.answer(CAMERA, DeviceInfoResponse(sn=5, device_id=CAMERA)) == "unasked"
            assert desk.answer(NVR, DeviceInfoResponse(sn=5, device_id=NVR)) == "matched"

    @pytest.mark.quirk(15)
    def test_an_answer_with_another_sn_goes_to_the_only_open_question(self) -> None:
        desk = AnswerDesk()
        with desk.ask(NVR, "DeviceInfo", 5) as question:
            assert desk.answer(NVR, DeviceInfoResponse(sn=0, device_id=NVR)) == "guessed"
            assert question.guessed == 1
        with desk.ask(NVR, "DeviceInfo", 6), desk.ask(NVR, "DeviceInfo", 7):
            assert desk.answer(NVR, DeviceInfoResponse(sn=0, device_id=NVR)) == "unasked"

    def test_a_full_question_says_so(self) -> None:
        desk = AnswerDesk()
        with desk.ask(NVR, "Catalog", 5, size=1):
            assert desk.answer(NVR, CatalogResponse(sn=5, device_id=NVR)) == "matched"
            assert desk.answer(NVR, CatalogResponse(sn=5, device_id=NVR)) == "full"

    def test_what_is_remembered_is_bounded(self) -> None:
        desk = AnswerDesk()
        for sn in range(1, 30_000):
            desk.ask(NVR, "Catalog", sn).close()
        assert len(desk._ended) <= 20_000
        assert desk.open_count == 0
