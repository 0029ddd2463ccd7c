"""Pictures from a camera through the whole gateway to an upper platform: real signalling, real media, both simulated ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import pytest_asyncio
from gateway_process import free_ports
from port_ranges import kept_ports

from config.settings import Settings
from gateway.app import Gateway
from gateway.events import DeviceOffline
from gateway.model import Platform, Share
from simulator.camera import Camera, DeviceOptions, Faults, Pictures
from simulator.nvr import Recorder
from simulator.register import RegisterSettings
from simulator.upper_platform import Pull, UpperPlatform
from sip.errors import Rejected, RemoteError
from sip.ids import format_ssrc
from sip.ptz import Move, encode
from sip.timers import Timers

SERVER = "41018300002000000001"
RTP_PORTS = kept_ports(400)
DOMAIN = "4101830000"
UPPER, UPPER2 = "41010000002000000001", "41010000002000000002"
PASSWORD = "Xm-Demo-0001"
CAMERA = "41018300001320000007"
CHANNEL = "41018300001310000007"
NVR = "41018300001180000003"
DEVICE_HOST = "127.0.0.2"
"""The camera lives at another loopback address, so that its address can be told from ours."""
SMALL = Pictures(width=320, height=192, bitrate=200_000, gop=25)
FAST = Timers(t1=0.1, t2=0.4, t4=0.4)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    sip, viewer, http, metrics = free_ports(4)
    settings = Settings.model_validate(
        {
            "sip": {
                "host": "127.0.0.1",
                "port": sip,
                "allow_loopback": True,
                "server_id": SERVER,
                "domain": DOMAIN,
            },
            "registration": {"domain_password": PASSWORD},
            "media": {
                "transport": "udp",
                "viewer_host": "127.0.0.1",
                "viewer_port": viewer,
                "rtsp_port": None,
                "rtp_port_min": RTP_PORTS[0],
                "rtp_port_max": RTP_PORTS[1],
                "invite_timeout_s": 5.0,
                "first_picture_timeout_s": 4.0,
                "no_rtp_timeout_s": 1.5,
                "idle_grace_s": 0.5,
                "port_quarantine_s": 0.2,
            },
            "cascade": {
                "register_retry_s": 0.3,
                "notify_batch_s": 0.3,
                "flap_damping_s": 0.2,
                "answer_within_s": 2.0,
                "ack_guard_s": 1.5,
            },
            "http": {"host": "127.0.0.1", "port": http},
            "metrics": {"port": metrics},
            "storage": {"directory": str(tmp_path_factory.mktemp("gateway")), "flush_interval_s": 0.2},
        }
    )
    running = Gateway(settings)
    await running.start()
    assert await running.nodes.wait_any(30.0)
    yield running
    await running.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def upper(gateway: Gateway) -> AsyncIterator[UpperPlatform]:
    async with joined(gateway) as platform:
        yield platform


@asynccontextmanager
async def joined(gateway: Gateway, platform_id: str = UPPER, **values: Any) -> AsyncIterator[UpperPlatform]:
    """An upper at which the gateway is registered and to which it shows everything."""
    transport = values.get("transport", "udp")
    platform = UpperPlatform(
        platform_id, lower_id=SERVER, password=PASSWORD, transport=transport, timers=FAST
    )
    await platform.start()
    record = Platform(
        platform_id, "municipal", "4101000000", "127.0.0.1", platform.port, password=PASSWORD, share_all=True
    )
    await gateway.cascade.put_platform(replace(record, **values))
    try:
        await platform.wait_registered()
        await platform.wait(lambda: gateway.cascade.platforms()[-1].state == "online")
        yield platform
    finally:
        await gateway.cascade.remove_platform(platform_id)
        await platform.stop()


def options(**values: Any) -> DeviceOptions:
    register = RegisterSettings(heartbeat_s=30, retry_s=(0.05, 0.2))
    return DeviceOptions(**{"pictures": SMALL, "register": register, "timers": FAST, **values})


@pytest_asyncio.fixture(loop_scope="module")
async def camera(gateway: Gateway) -> AsyncIterator[Camera]:
    device = Camera(
        CAMERA,
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        password=PASSWORD,
        channel_id=CHANNEL,
        options=options(host=DEVICE_HOST),
        faults=Faults(),
    )
    await device.start()
    await device.wait_registered()
    await device.wait(lambda: gateway.registry.channel(CAMERA, CHANNEL), what="for its catalog")
    yield device
    await device.stop()
    await until(lambda: not gateway.registry.devices[CAMERA].online)


async def until(condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def nothing_left(gateway: Gateway) -> None:
    """No session, relay, sender, receiver, dialog or leased SSRC."""
    await until(lambda: not gateway.sessions.list())
    await until(lambda: not gateway.cascade.relay.relays(UPPER) and not gateway.cascade.relay.relays(UPPER2))
    await until(lambda: gateway.ssrc_pool.leased == 0)
    node = gateway.nodes.handles()[0]
    stats = await node.client.stats()
    assert (stats.streams, stats.senders) == (0, 0)
    assert not await gateway.journal.load("upper")


def assert_healthy(pull: Pull) -> None:
    """RTP without gap, one timestamp per frame, every key frame complete, every picture decoded."""
    stats = pull.media.stats
    assert (stats.lost, stats.repeated, stats.strange) == (0, 0, 0), stats
    assert stats.timestamp_faults == 0, stats
    assert stats.structure_faults == 0, stats
    assert stats.damaged_units == 0, stats
    assert stats.decode_errors == 0, stats
    assert stats.first_key_first is True, stats
    assert (stats.width, stats.height) == (320, 192)
    assert len(stats.ssrcs) == 1


@pytest.mark.gb("G195", "G202", "G223", "G222", "G259", "G263")
async def test_a_picture_goes_up_over_udp(
    gateway: Gateway, upper: UpperPlatform, camera: Camera, tmp_path: Path
) -> None:
    file = tmp_path / "pull.ps"
    pull = await upper.invite(CHANNEL, ssrc=100000077, keep=file)
    await pull.media.wait_frames(60)
    assert_healthy(pull)
    assert set(pull.media.stats.ssrcs) == {100000077}
    assert set(pull.media.stats.payload_types) == {96}
    media = pull.answer.first("video")
    assert media is not None
    assert (media.direction, media.payloads, media.port > 0) == ("sendonly", [96], True)
    assert pull.answer.ssrc == 100000077
    assert pull.answer.origin_user == SERVER
    assert pull.answer.format_text.startswith("v/2/")
    assert pull.media.stats.sources == {(pull.answer.address, media.port)}
    statuses = [status for _, status in upper.statuses if status in ("100", "200")]
    invited = [when for when, status in upper.statuses if status == "100"][-1]
    answered = [when for when, status in upper.statuses if status == "200"][-1]
    assert "100" in statuses
    assert invited <= answered
    await pull.close()
    with av.open(str(file), format="mpeg") as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) >= 50
    assert not [data for data in upper.wire_in if DEVICE_HOST.encode() in data]
    assert not [data for data in upper.wire_in if str(camera.port).encode() + b">" in data]
    await nothing_left(gateway)
    assert camera.live_calls == []


@pytest.mark.gb("G202")
@pytest.mark.quirk(28)
@pytest.mark.parametrize(("policy", "with_y"), [("echo", False), ("own", True), ("own", False)])
async def test_an_ssrc_of_our_own_is_never_zero(
    gateway: Gateway, camera: Camera, policy: str, with_y: bool
) -> None:
    async with joined(gateway, ssrc_policy=policy) as upper:
        pull = await upper.invite(CHANNEL, ssrc=100000078, with_y=with_y)
        await pull.media.wait_frames(10)
        assert pull.answer.ssrc not in (None, 0, 100000078)
        assert set(pull.media.stats.ssrcs) == {pull.answer.ssrc}
        assert format_ssrc(pull.answer.ssrc or 0)[1:6] == "18300"
        await pull.close()
    await nothing_left(gateway)


@pytest.mark.gb("G209")
@pytest.mark.parametrize("transport", ["tcp_passive", "tcp_active"])
async def test_media_over_tcp_in_both_directions_of_dialling(
    gateway: Gateway, upper: UpperPlatform, camera: Camera, transport: str
) -> None:
    """The receiver is the server by default (setup:passive); the answer has the opposite setup."""
    pull = await upper.invite(CHANNEL, transport)
    media = pull.answer.first("video")
    assert media is not None
    assert media.protocol == "TCP/RTP/AVP"
    assert media.setup == ("active" if transport == "tcp_passive" else "passive")
    assert media.connection == "new"
    await pull.media.wait_frames(30)
    assert_healthy(pull)
    await pull.close()
    await nothing_left(gateway)


async def test_signalling_over_tcp_carries_it_as_well(gateway: Gateway, camera: Camera) -> None:
    async with joined(gateway, transport="tcp") as upper:
        pull = await upper.invite(CHANNEL)
        await pull.media.wait_frames(10)
        assert upper.lower.flow.transport == "tcp"
        await pull.close()
    await nothing_left(gateway)


async def test_two_uppers_and_one_camera_session(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    async with joined(gateway, UPPER2) as other:
        first = await upper.invite(CHANNEL)
        second = await other.invite(CHANNEL, "tcp_passive")
        await first.media.wait_frames(10)
        await second.media.wait_frames(10)
        assert len(camera.live_calls) == 1
        info = gateway.sessions.list()[0]
        assert sorted(info.uppers) == [UPPER, UPPER2]
        assert {status.platform_id: status.streams for status in gateway.cascade.platforms()} == {
            UPPER: 1,
            UPPER2: 1,
        }
        await first.close()
        before = second.media.stats.frames
        await second.media.wait_frames(before + 20)
        assert_healthy(second)
        assert gateway.sessions.list()[0].uppers == (UPPER2,)
    await nothing_left(gateway)


@pytest.mark.gb("G205")
async def test_the_same_subject_replaces_the_old_link(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    subject = f"{CHANNEL}:0100000042,{UPPER}:0"
    old = await upper.invite(CHANNEL, subject=subject)
    await old.media.wait_frames(5)
    new = await upper.invite(CHANNEL, subject=subject)
    await new.media.wait_frames(10)
    assert await asyncio.wait_for(old.session.ended, 5.0) == "remote_bye"
    assert len(gateway.cascade.relay.relays(UPPER)) == 1
    other = await upper.invite(CHANNEL, subject=f"{CHANNEL}:0100000043,{UPPER}:1")
    await other.media.wait_frames(5)
    assert len(gateway.cascade.relay.relays(UPPER)) == 2
    for pull in (new, other):
        await pull.close()
    await nothing_left(gateway)


@pytest.mark.gb("G269")
async def test_one_stream_more_than_agreed_is_busy(gateway: Gateway, camera: Camera) -> None:
    async with joined(gateway, max_streams=2) as upper:
        pulls = [await upper.invite(CHANNEL), await upper.invite(CHANNEL)]
        with pytest.raises(Rejected) as refused:
            await upper.invite(CHANNEL)
        assert refused.value.status == 486
        await pulls[0].close()
        await until(lambda: len(gateway.cascade.relay.relays(UPPER)) == 1)
        again = await upper.invite(CHANNEL)
        await again.media.wait_frames(5)
    await nothing_left(gateway)


@pytest.mark.gb("G013")
async def test_a_missing_ack_ends_in_bye(gateway: Gateway, upper: UpperPlatform, camera: Camera) -> None:
    upper.faults.withhold_ack = True
    pull = await upper.invite(CHANNEL)
    assert await asyncio.wait_for(pull.session.ended, 20.0) == "remote_bye"
    assert [status for _, status in upper.statuses].count("200") >= 3  # repeated until given up
    upper.faults.withhold_ack = False
    await pull.close()
    await nothing_left(gateway)
    assert gateway.cascade.relay.counts.ended["ack_missing"] >= 1


@pytest.mark.gb("G014")
async def test_cancel_while_the_camera_thinks(gateway: Gateway, upper: UpperPlatform, camera: Camera) -> None:
    camera.faults.answer_delay_s["INVITE"] = 1.0
    call = asyncio.create_task(upper.invite(CHANNEL))
    await camera.wait(lambda: [request for request in camera.received if request.method == "INVITE"])
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await upper.wait(lambda: "487" in [status for _, status in upper.statuses])
    await asyncio.sleep(1.2)
    await until(lambda: camera.live_calls == [])
    await nothing_left(gateway)


@pytest.mark.gb("G263")
@pytest.mark.parametrize(("below", "above"), [(404, 404), (486, 486), (603, 603)])
async def test_the_cameras_refusal_is_passed_on(
    gateway: Gateway, upper: UpperPlatform, camera: Camera, below: int, above: int
) -> None:
    camera.faults.statuses["INVITE"] = below
    with pytest.raises(Rejected) as refused:
        await upper.invite(CHANNEL)
    assert refused.value.status == above
    await nothing_left(gateway)


@pytest.mark.gb("G263")
async def test_a_silent_camera_is_a_timeout_and_the_upper_heard_100_at_once(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    camera.faults.silent.add("INVITE")
    began = asyncio.get_running_loop().time()
    with pytest.raises(Rejected) as refused:
        await upper.invite(CHANNEL)
    assert refused.value.status in (408, 504)
    trying = next(when for when, status in upper.statuses if status == "100")
    assert trying - began < 1.0
    await nothing_left(gateway)


@pytest.mark.quirk(35)
async def test_an_impatient_upper_gets_its_200_before_the_picture(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    """The camera answers but sends nothing: 200 goes up in time, and BYE when no picture comes."""
    camera.faults.no_rtp = True
    pull = await upper.invite(CHANNEL)
    assert 1.5 <= pull.answered_s <= 4.0
    assert await asyncio.wait_for(pull.session.ended, 30.0) == "remote_bye"
    assert pull.media.stats.packets == 0
    await nothing_left(gateway)


async def test_lost_media_end_in_bye_to_the_upper(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    camera.faults.stop_rtp_after_s = 1.0
    pull = await upper.invite(CHANNEL)
    await pull.media.wait_frames(5)
    assert await asyncio.wait_for(pull.session.ended, 10.0) == "remote_bye"
    await nothing_left(gateway)


async def test_a_camera_that_hangs_up_ends_the_upper_branch(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    camera.faults.bye_after_s = 1.0
    pull = await upper.invite(CHANNEL)
    assert await asyncio.wait_for(pull.session.ended, 10.0) == "remote_bye"
    await nothing_left(gateway)


@pytest.mark.gb("G119")
async def test_an_offline_camera_is_told_and_its_branch_ended(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    pull = await upper.invite(CHANNEL)
    await pull.media.wait_frames(5)
    gone: list[float] = []
    gateway.bus.subscribe(
        DeviceOffline, callback=lambda event: gone.append(asyncio.get_running_loop().time())
    )
    await camera.stop()
    assert await asyncio.wait_for(pull.session.ended, 10.0) == "remote_bye"
    await upper.wait(lambda: ("OFF", CHANNEL) in upper.events())
    told = next(when for body, _, when in upper.notifies if any(i.device_id == CHANNEL for i in body.items))
    assert told - gone[0] < 5.0
    await nothing_left(gateway)


@pytest.mark.gb("G261")
async def test_an_upper_that_vanishes_leaves_nothing_flowing(gateway: Gateway, camera: Camera) -> None:
    async with joined(gateway, heartbeat_interval_s=0.3, heartbeat_count=2) as upper:
        pull = await upper.invite(CHANNEL)
        await pull.media.wait_frames(5)
        await upper.restart()
        await until(lambda: not gateway.cascade.relay.relays(UPPER))
        await upper.wait_registered()
        again = await upper.invite(CHANNEL)
        await again.media.wait_frames(5)
    await nothing_left(gateway)


async def test_an_upper_that_closes_its_media_connection_is_hung_up(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    pull = await upper.invite(CHANNEL, "tcp_passive")
    await pull.media.wait_frames(5)
    await pull.media.close()
    assert await asyncio.wait_for(pull.session.ended, 10.0) == "remote_bye"
    await nothing_left(gateway)


@pytest.mark.gb("G068")
async def test_a_killed_media_core_is_told_at_once_and_its_relays_end(
    gateway: Gateway, upper: UpperPlatform, camera: Camera
) -> None:
    """The next regular heartbeat is a minute away."""
    pull = await upper.invite(CHANNEL)
    await pull.media.wait_frames(5)
    beats = len(upper.heartbeats)
    os.kill(gateway.nodes.handles()[0].pid, signal.SIGKILL)
    await upper.wait(lambda: "ERROR" in [body.status for _, body in upper.heartbeats[beats:]], timeout_s=10.0)
    assert await asyncio.wait_for(pull.session.ended, 15.0) == "remote_bye"
    await upper.wait(lambda: upper.heartbeats[-1][1].status == "OK", timeout_s=30.0)
    again = await upper.invite(CHANNEL)
    await again.media.wait_frames(5)
    await again.close()
    await nothing_left(gateway)


@pytest.mark.gb("G260")
async def test_a_mapped_channel_plays_and_moves_under_its_exported_code(
    gateway: Gateway, camera: Camera
) -> None:
    exported = "41010000001310009999"
    async with joined(gateway, share_all=False) as upper:
        await gateway.cascade.set_shares(UPPER, [Share(UPPER, CAMERA, CHANNEL, exported)])
        assert exported in {item.device_id for item in await upper.query_catalog()}
        pull = await upper.invite(exported)
        await pull.media.wait_frames(5)
        await upper.ptz(exported, encode(Move(tilt=1, tilt_speed=50)))
        await camera.wait(lambda: camera.ptz_log)
        assert camera.ptz_log[-1][:2] == (CHANNEL, Move(tilt=1, tilt_speed=50))
        invite = next(request for request in camera.received if request.method == "INVITE")
        assert exported.encode() not in invite.raw
        assert not [data for data in upper.wire_in if CHANNEL.encode() in data]
        with pytest.raises(RemoteError):
            await upper.invite(CHANNEL)
        await pull.close()
    await nothing_left(gateway)


async def test_a_recorder_with_groups_is_shown_and_played_from_above(
    gateway: Gateway, upper: UpperPlatform
) -> None:
    device = Recorder(
        NVR,
        2,
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        password=PASSWORD,
        speaker=True,
        directory=True,
        options=options(),
    )
    await device.start()
    try:
        await device.wait_registered()
        await until(lambda: len(gateway.registry.channels(NVR)) == len(device.channels))
        catalog = {item.device_id: item for item in await upper.query_catalog(NVR)}
        assert set(device.channels) <= set(catalog) | {
            code for code in device.channels if code[10:13] in ("215", "216")
        }
        pulls = await asyncio.gather(*(upper.invite(code) for code in device.camera_ids))
        for pull in pulls:
            await pull.media.wait_frames(10)
            assert_healthy(pull)
        for pull in pulls:
            await pull.close()
    finally:
        await device.stop()
    await nothing_left(gateway)
