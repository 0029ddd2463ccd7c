"""Heartbeats, silence, expiry, lost connections: the clock is moved, sockets are real where they matter."""

from __future__ import annotations

import asyncio

import pytest
from gateway_core import (
    CAMERA,
    NVR,
    RawDevice,
    core,
    digest_answer,
    keepalive_xml,
    message_text,
    register_text,
    until,
)

from config.settings import HeartbeatSettings, RegistrationSettings
from gateway.clock import ManualClock
from gateway.events import ChannelStatus, DeviceFault, DeviceMoved, DeviceOffline, DeviceOnline, SecurityEvent
from gateway.model import Channel, ChannelKind, Device, State
from gateway.registry import Registry
from gateway.services.liveness import Liveness, clamp_heartbeat
from sip.endpoint import Incoming
from sip.flow import Flow
from sip.message import Response, parse


async def open_tcp(server: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    reader, writer = await asyncio.open_connection(*server)
    return reader, writer, writer.get_extra_info("sockname")[1]


async def read_answer(reader: asyncio.StreamReader) -> Response:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    answer = parse(head)
    assert isinstance(answer, Response)
    length = int(answer.headers.get("Content-Length", "0"))
    answer.body = await reader.readexactly(length)
    return answer


async def register_tcp(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, device: str
) -> Response:
    writer.write(register_text(device, port=port, transport="TCP"))
    challenge = (await read_answer(reader)).headers.get("WWW-Authenticate")
    answer = digest_answer(challenge, user=device, password="Xm-Demo-0001")
    writer.write(register_text(device, port=port, transport="TCP", cseq=2, authorization=answer))
    return await read_answer(reader)


@pytest.mark.gb("G063")
async def test_a_keepalive_is_answered_without_body_and_moves_last_seen() -> None:
    clock = ManualClock()
    async with core(clock=clock) as gateway, RawDevice(gateway.address) as device:
        await device.register()
        clock.advance(50)
        answer = await device.keepalive()
        assert (answer.status, answer.body) == (200, b"")
        assert gateway.device().last_seen_mono == clock.mono()
        assert gateway.liveness.keepalives == 1


@pytest.mark.gb("G063")
async def test_an_odd_keepalive_takes_the_slow_way_to_the_same_end() -> None:
    """UTF-16-less but unusual: attributes, lower case, a comment, an empty Info."""
    body = (
        b'<?xml version="1.0"?>\n<Notify a="1"><!-- beat --><cmdtype>Keepalive</cmdtype><SN> 43 </SN>'
        b"<DeviceID>" + NVR.encode() + b"</DeviceID><Status>ok</Status><Info/></Notify>\0"
    )
    clock = ManualClock()
    async with core(clock=clock) as gateway, RawDevice(gateway.address) as device:
        await device.register()
        clock.advance(30)
        assert (await device.message(body)).status == 200
        assert gateway.device().last_seen_mono == clock.mono()
        assert gateway.liveness.keepalives == 1


@pytest.mark.gb("G064")
async def test_silence_of_count_intervals_makes_offline() -> None:
    clock = ManualClock()
    async with core(clock=clock) as gateway, RawDevice(gateway.address) as device:
        await device.register()
        clock.advance(179)
        gateway.liveness.sweep(clock.mono())
        assert gateway.device().online
        clock.advance(1)
        gateway.liveness.sweep(clock.mono())
        gateway.liveness.sweep(clock.mono())
        await asyncio.sleep(0)
        assert [event.cause for event in gateway.events(DeviceOffline)] == ["heartbeat_lost"]


@pytest.mark.gb("G064")
async def test_interval_and_count_are_per_device() -> None:
    clock = ManualClock()
    async with (
        core(clock=clock) as gateway,
        RawDevice(gateway.address) as one,
        RawDevice(gateway.address, CAMERA) as two,
    ):
        await one.register()
        await two.register()
        gateway.liveness.set_heartbeat(gateway.device(CAMERA), 20, 2)
        clock.advance(41)
        gateway.liveness.sweep(clock.mono())
        assert gateway.device(NVR).online
        assert not gateway.device(CAMERA).online


@pytest.mark.quirk(9)
@pytest.mark.parametrize(
    ("interval", "count", "expected"),
    [
        (None, None, (60, 3)),
        (0, 0, (60, 3)),
        (-5, -1, (60, 3)),
        (1, 1, (5, 2)),
        (86400, 999, (600, 10)),
        (30, 4, (30, 4)),
    ],
)
def test_absurd_heartbeat_parameters_are_clamped(
    interval: int | None, count: int | None, expected: tuple[int, int]
) -> None:
    assert clamp_heartbeat(interval, count, HeartbeatSettings()) == expected


@pytest.mark.quirk(9)
async def test_traffic_of_any_kind_is_a_sign_of_life() -> None:
    """A catalog part instead of a heartbeat, and pictures."""
    part = (
        b"<Response><CmdType>Catalog</CmdType><SN>9</SN><DeviceID>"
        + NVR.encode()
        + b"</DeviceID><SumNum>1</SumNum>"
        b'<DeviceList Num="1"><Item><DeviceID>'
        + CAMERA.encode()
        + b"</DeviceID></Item></DeviceList></Response>"
    )
    clock = ManualClock()
    async with core(clock=clock) as gateway, RawDevice(gateway.address) as device:
        await device.register()
        clock.advance(170)
        assert (await device.message(part)).status == 200
        clock.advance(170)
        gateway.liveness.sweep(clock.mono())
        assert gateway.device().online
        gateway.registry.media_proof(NVR, CAMERA)
        clock.advance(170)
        gateway.liveness.sweep(clock.mono())
        assert gateway.device().online
        clock.advance(11)
        gateway.liveness.sweep(clock.mono())
        assert not gateway.device().online


@pytest.mark.gb("G066")
async def test_faulty_children_are_defect_until_they_are_not_named() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        gateway.registry.put_channel(Channel(NVR, CAMERA, kind=ChannelKind.CAMERA, reported="ON"))
        channel = gateway.registry.find_channels(CAMERA)[0]
        await device.keepalive(faulty=(CAMERA, "41018300001320000009"))
        assert channel.defect
        assert gateway.registry.channel_evidence(channel).verdict == "DEFECT"
        await device.keepalive(sn=2, faulty=(CAMERA, "41018300001320000009"))
        await device.keepalive(sn=3)
        assert not channel.defect
        assert gateway.registry.channel_online(channel)
        assert [event.status for event in gateway.events(ChannelStatus)] == ["DEFECT", "ON"]


@pytest.mark.gb("G067")
async def test_status_error_is_a_fault_and_not_offline() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        assert (await device.keepalive(status="ERROR")).status == 200
        assert gateway.device().fault
        assert gateway.device().online
        await device.keepalive(sn=2)
        assert not gateway.device().fault
        assert [event.fault for event in gateway.events(DeviceFault)] == [True, False]


@pytest.mark.gb("G069")
@pytest.mark.quirk(11)
async def test_a_new_port_of_the_same_host_moves_the_flow() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device, RawDevice(gateway.address) as rebound:
        await device.register()
        assert (await rebound.keepalive()).status == 200
        flow = gateway.device().flow
        assert flow is not None
        assert (flow.host, flow.port, flow.transport) == ("127.0.0.1", rebound.port, "udp")
        await until(lambda: gateway.events(DeviceMoved))
        assert gateway.peers.rebindings == 1
        # the next request of ours goes where it lives now
        from sip.manscdp import DeviceInfoQuery

        sending = asyncio.create_task(gateway.dispatch.send(gateway.device(), DeviceInfoQuery(device_id=NVR)))
        assert (await rebound.receive()).startswith(b"MESSAGE sip:")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.quirk(11)
async def test_a_heartbeat_from_another_host_moves_nothing() -> None:
    """127.0.0.2 claims to be the device: 403, the flow stays, the alarm is raised."""
    async with (
        core() as gateway,
        RawDevice(gateway.address) as device,
        RawDevice(gateway.address, host="127.0.0.2") as thief,
    ):
        await device.register()
        assert (await thief.keepalive()).status == 403
        flow = gateway.device().flow
        assert flow is not None
        assert flow.port == device.port
        assert gateway.events(SecurityEvent)[-1].kind == "foreign_source"


@pytest.mark.gb("G062")
async def test_a_heartbeat_without_registration_is_refused_and_counted() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        answer = await device.keepalive()
        assert answer.status == 403
        assert gateway.dispatch.counts["unregistered"] == 1
        assert gateway.events(SecurityEvent)[-1].kind == "unregistered"
        assert gateway.registry.devices == {}


@pytest.mark.gb("G062")
async def test_a_heartbeat_after_log_out_is_refused() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        await device.register(expires=0)
        assert (await device.keepalive()).status == 403
        assert not gateway.device().online


async def test_a_device_that_was_silent_inside_its_registration_comes_back() -> None:
    clock = ManualClock()
    async with core(clock=clock) as gateway, RawDevice(gateway.address) as device:
        await device.register()
        clock.advance(200)
        gateway.liveness.sweep(clock.mono())
        assert not gateway.device().online
        assert (await device.keepalive()).status == 200
        assert gateway.device().online
        await asyncio.sleep(0)
        assert [event.cause for event in gateway.events(DeviceOnline)] == ["registered", "heartbeat"]


@pytest.mark.quirk(8)
@pytest.mark.parametrize(("revives", "status"), [(False, 403), (True, 200)])
async def test_a_recorder_that_only_beats_after_expiry(revives: bool, status: int) -> None:
    clock = ManualClock()
    settings = RegistrationSettings(domain_password="Xm-Demo-0001", heartbeat_revives=revives)  # type: ignore[arg-type]
    async with core(clock=clock, registration=settings) as gateway, RawDevice(gateway.address) as device:
        await device.register(expires=60)
        clock.advance(61)
        gateway.liveness.sweep(clock.mono())
        assert gateway.device().registration_expired
        assert (await device.keepalive()).status == status
        assert gateway.device().online is revives
        assert gateway.device().registration_expired
        if revives:
            for _ in range(5):
                clock.advance(60)
                gateway.liveness.sweep(clock.mono())
                assert (await device.keepalive()).status == 200
            assert gateway.device().online
            clock.advance(181)
            gateway.liveness.sweep(clock.mono())
            assert not gateway.device().online


@pytest.mark.gb("G058")
async def test_a_tcp_device_is_offline_when_its_connection_breaks() -> None:
    async with core() as gateway:
        reader, writer, port = await open_tcp(gateway.address)
        assert (await register_tcp(reader, writer, port, NVR)).status == 200
        flow = gateway.device().flow
        assert flow is not None
        assert (flow.transport, flow.port) == ("tcp", port)

        from sip.manscdp import DeviceInfoQuery

        sending = asyncio.create_task(gateway.dispatch.send(gateway.device(), DeviceInfoQuery(device_id=NVR)))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"MESSAGE sip:")  # all requests use that connection
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

        writer.close()
        await until(lambda: not gateway.device().online)
        assert [event.cause for event in gateway.events(DeviceOffline)] == ["connection_lost"]
        assert gateway.device().flow is None
        async with RawDevice(gateway.address) as udp:  # and no heartbeat from the same host revives it
            assert (await udp.keepalive()).status == 403


@pytest.mark.gb("G058")
async def test_the_old_connection_of_a_device_that_reconnected_does_not_matter() -> None:
    async with core() as gateway:
        first = await open_tcp(gateway.address)
        await register_tcp(*first, NVR)
        second = await open_tcp(gateway.address)
        await register_tcp(*second, NVR)
        first[1].close()
        await asyncio.sleep(0.1)
        assert gateway.device().online
        second[1].close()
        await until(lambda: not gateway.device().online)


@pytest.mark.quirk(47)
async def test_false_via_and_contact_over_tcp() -> None:
    """Via and Contact say 192.168.3.99:5060; answers come back on the connection, the flow is the connection."""
    async with core() as gateway:
        reader, writer, port = await open_tcp(gateway.address)
        text = register_text(NVR, port=port, transport="TCP").replace(
            b"127.0.0.1:%d" % port, b"192.168.3.99:5060"
        )
        writer.write(text)
        challenge = (await read_answer(reader)).headers.get("WWW-Authenticate")
        answer = digest_answer(challenge, user=NVR, password="Xm-Demo-0001")
        text = register_text(NVR, port=port, transport="TCP", cseq=2, authorization=answer)
        writer.write(text.replace(b"127.0.0.1:%d" % port, b"192.168.3.99:5060"))
        accepted = await read_answer(reader)
        assert accepted.status == 200
        assert "192.168.3.99" in accepted.headers.get("Contact")  # told back as it was sent
        flow = gateway.device().flow
        assert flow is not None
        assert (flow.host, flow.port) == ("127.0.0.1", port)
        writer.write(message_text(keepalive_xml(), NVR, transport="TCP"))
        assert (await read_answer(reader)).status == 200
        writer.close()


async def test_a_long_message_over_tcp_from_a_udp_device_is_its_own() -> None:
    """RFC 3261 18.1.1: above 1300 bytes devices switch to TCP for one message; the flow stays."""
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        reader, writer, _ = await open_tcp(gateway.address)
        writer.write(message_text(keepalive_xml(), NVR, transport="TCP"))
        assert (await read_answer(reader)).status == 200
        flow = gateway.device().flow
        assert flow is not None
        assert (flow.transport, flow.port) == ("udp", device.port)
        writer.close()


@pytest.mark.quirk(23)
async def test_a_foreign_from_is_recognised_by_its_flow() -> None:
    """From names a channel, or us: the flow says who it is."""
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        body = keepalive_xml(CAMERA)
        assert (await device.message(body, device_id=CAMERA)).status == 200
        assert (await device.message(body, device_id="41018300002000000001")).status == 200
        assert gateway.liveness.keepalives == 2


class TestDeadlines:
    """The heap alone, without sockets."""

    def make(self, count: int = 1) -> tuple[ManualClock, Registry, Liveness]:
        from gateway.events import EventBus

        clock = ManualClock()
        registry = Registry(bus=EventBus(), clock=clock)
        liveness = Liveness(settings=HeartbeatSettings(), registry=registry, clock=clock)
        for number in range(count):
            device = Device(
                f"4101830000132{number:07d}", flow=Flow("udp", "10.0.0.1", 5060, "10.0.0.2", 5060)
            )
            device.state = State.ONLINE
            device.last_seen_mono, device.expires_mono = clock.mono(), clock.mono() + 86400
            registry.put_device(device)
            liveness.watch(device)
        return clock, registry, liveness

    def test_renewals_do_not_grow_the_heap(self) -> None:
        clock, registry, liveness = self.make()
        (device,) = registry.devices.values()
        for _ in range(1000):
            clock.advance(30)
            device.last_seen_mono = clock.mono()
            device.expires_mono = clock.mono() + 86400
            liveness.watch(device)
            liveness.sweep(clock.mono())
        assert device.online
        assert len(liveness._heap) <= 3

    def test_a_heartbeat_touches_no_deadline(self) -> None:
        clock, registry, liveness = self.make(2000)
        before = list(liveness._heap)
        for device in registry.devices.values():
            liveness.seen(device, clock.mono())
        assert liveness._heap == before
        assert registry.take_changes().devices == set(registry.devices)  # from put_device
        for device in registry.devices.values():
            liveness.seen(device, clock.mono())
        assert not registry.changes  # nothing to write for a heartbeat (quirk 10)

    def test_a_pause_of_the_process_is_not_blamed_on_devices(self) -> None:
        clock, registry, liveness = self.make(10)
        liveness.tick(clock.mono())
        clock.advance(400)  # suspended
        liveness.tick(clock.mono())
        assert all(device.online for device in registry.devices.values())
        for device in list(registry.devices.values())[:5]:
            liveness.seen(device, clock.mono())
        for _ in range(70):
            clock.advance(1)
            liveness.tick(clock.mono())
        assert sum(device.online for device in registry.devices.values()) == 5

    def test_a_lifetime_made_shorter_is_kept(self) -> None:
        clock, registry, liveness = self.make()
        (device,) = registry.devices.values()
        clock.advance(10)
        device.expires_mono = clock.mono() + 20
        liveness.watch(device)
        clock.advance(21)
        liveness.sweep(clock.mono())
        assert device.offline_cause == "expired"

    def test_removed_devices_are_forgotten(self) -> None:
        clock, registry, liveness = self.make()
        (device_id,) = registry.devices
        registry.remove_device(device_id)
        clock.advance(10_000)
        liveness.sweep(clock.mono())
        assert liveness._heap == []


async def test_the_task_ticks_and_ends() -> None:
    async with core() as gateway:
        await gateway.liveness.start()
        await asyncio.sleep(0.01)
        await gateway.liveness.close()
        await gateway.liveness.close()


async def test_a_burst_of_heartbeats_from_two_thousand_devices() -> None:
    """Quirk 10: no work per heartbeat but memory; all are answered."""
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        flow = gateway.device().flow
        assert flow is not None
        for number in range(2000):
            other = Device(f"4101830000132{number:07d}", state=State.ONLINE, flow=flow, expires_mono=9e9)
            gateway.registry.put_device(other)
        for number in range(2000):
            data = message_text(keepalive_xml(f"4101830000132{number:07d}"), f"4101830000132{number:07d}")
            request = parse(data)
            reply = gateway.dispatch.handle(Incoming(request, flow, 0.0))  # type: ignore[arg-type]
            assert reply is not None
            assert reply.status == 200  # type: ignore[union-attr]
        assert gateway.liveness.keepalives == 2000
