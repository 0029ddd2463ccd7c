"""The whole gateway with simulated cameras: register, catalog, picture, snapshot, camera control, log-out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest
import pytest_asyncio
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from gateway_process import PASSWORD, free_ports
from live_house import SERVER, until
from port_ranges import kept_ports
from scripted_camera import DOMAIN

from config.settings import Settings
from gateway.app import Gateway
from gateway.outbox import QUERY_TIMEOUT_S
from media.errors import MediaError
from simulator.camera import Camera, DeviceOptions, Faults, Pictures
from simulator.nvr import Recorder
from simulator.picture import Mark, read_mark
from sip import ptz
from sip.manscdp import Edition

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

PICTURES = Pictures(width=320, height=192, bitrate=200_000, gop=25)
STOP = ptz.encode(ptz.STOP)
RTP_PORTS, WEBRTC_PORTS = kept_ports(100), kept_ports(50)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    sip, viewer, http, metrics = free_ports(4)
    folder: Path = tmp_path_factory.mktemp("gateway")
    running = Gateway(
        Settings.model_validate(
            {
                "sip": {
                    "server_id": SERVER,
                    "domain": DOMAIN,
                    "host": "127.0.0.1",
                    "port": sip,
                    "allow_loopback": True,
                },
                "registration": {"domain_password": PASSWORD},
                "catalog": {"subscribe": False},
                "media": {
                    "viewer_host": "127.0.0.1",
                    "viewer_port": viewer,
                    "rtsp_port": None,
                    "rtp_port_min": RTP_PORTS[0],
                    "rtp_port_max": RTP_PORTS[1],
                    "webrtc_port": WEBRTC_PORTS[0],
                    "webrtc_port_min": WEBRTC_PORTS[0],
                    "webrtc_port_max": WEBRTC_PORTS[1],
                    "first_picture_timeout_s": 5.0,
                    "idle_grace_s": 1.0,
                    "port_quarantine_s": 0.2,
                },
                "http": {"host": "127.0.0.1", "port": http},
                "metrics": {"port": metrics},
                "storage": {"directory": str(folder), "flush_interval_s": 0.2},
                "log": {"level": "WARNING"},
            }
        )
    )
    await running.start()
    yield running
    await running.stop()


def camera(gateway: Gateway, number: int, **values: object) -> Camera:
    options = values.pop("options", None) or DeviceOptions(pictures=PICTURES)
    return Camera(
        f"4101830000132000{number:04d}",
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        domain=DOMAIN,
        password=PASSWORD,
        options=options,  # type: ignore[arg-type]
        **values,  # type: ignore[arg-type]
    )


async def registered(gateway: Gateway, device: Camera | Recorder) -> None:
    """Start the device and wait until its catalog is in."""
    await device.start()
    await device.wait_registered(20)
    channel_id = next(code for code, channel in device.channels.items() if channel.has_pictures)
    await until(lambda: gateway.registry.channel(device.device_id, channel_id) is not None)


@pytest.mark.parametrize(
    ("number", "transport", "media", "expected"),
    [(1, "udp", "any", "tcp_passive"), (2, "tcp", "tcp", "tcp_passive"), (3, "udp", "udp", "udp")],
)
async def test_register_catalog_picture(
    gateway: Gateway, number: int, transport: str, media: str, expected: str
) -> None:
    device = camera(gateway, number, transport=transport, media=media)
    await registered(gateway, device)
    try:
        session = await gateway.sessions.play(device.device_id, device.channel_id)
        assert session.info.transport == expected
        assert session.info.video_codec.lower() == "h264"
        channel = gateway.registry.channel(device.device_id, device.channel_id)
        assert channel is not None
        assert channel.media_proof_at is not None
        jpeg = await gateway.sessions.snapshot(device.device_id, device.channel_id)
        assert jpeg[:2] == b"\xff\xd8"
        assert len(device.calls.history) == 1
        await gateway.sessions.stop(session.session_id)
        await until(lambda: not device.calls.running)
    finally:
        await device.stop()


@pytest.mark.quirk(30)
async def test_what_a_udp_camera_taught_is_kept(gateway: Gateway) -> None:
    device = camera(gateway, 4, media="udp")
    await registered(gateway, device)
    try:
        key = (device.device_id, device.channel_id)
        await gateway.sessions.stop((await gateway.sessions.play(*key)).session_id)
        assert gateway.registry.devices[device.device_id].profile.media_transport == "udp"
        before = len([entry for entry in device.received if entry.method == "INVITE"])
        await gateway.sessions.stop((await gateway.sessions.play(*key)).session_id)
        assert len([entry for entry in device.received if entry.method == "INVITE"]) == before + 1
    finally:
        await device.stop()


@pytest.mark.gb("G157", "G167")
async def test_camera_control_returns_with_the_200(gateway: Gateway) -> None:
    device = camera(gateway, 5)
    await registered(gateway, device)
    try:
        key = (device.device_id, device.channel_id)
        began = time.monotonic()
        await gateway.control.ptz(*key, ptz.Move(pan=1, tilt=1, pan_speed=128, tilt_speed=64), "operator")
        await gateway.control.ptz(*key, ptz.STOP, "operator")
        assert (
            time.monotonic() - began < QUERY_TIMEOUT_S
        )  # no Response is waited for: the simulator sends none
        commands = [(channel, command) for channel, command, _ in device.ptz_log]
        assert commands == [
            (device.channel_id, ptz.Move(pan=1, tilt=1, pan_speed=128, tilt_speed=64)),
            (device.channel_id, ptz.STOP),
        ]
        bodies = [entry.raw for entry in device.received if b"PTZCmd" in entry.raw]
        assert b"<PTZCmd>A50F0100000000B5</PTZCmd>" in bodies[-1]
    finally:
        await device.stop()


@pytest.mark.quirk(38, 39, 40)
@pytest.mark.parametrize(
    ("number", "media", "faults"),
    [
        (
            21,
            "udp",
            Faults(lose_rtp=0.02, reorder_rtp=0.02, stream={"no_map", "private_stream", "sets_once"}),
        ),
        (
            22,
            "tcp",
            Faults(stream={"starts_inside", "overwritten", "wrong_map", "stuffed_pack", "clock_jumps"}),
        ),
    ],
)
async def test_a_viewer_of_a_damaged_stream_sees_whole_pictures(
    gateway: Gateway, number: int, media: str, faults: Faults
) -> None:
    large = DeviceOptions(pictures=Pictures(640, 360, 25, bitrate=2_000_000, gop=25))
    device = camera(gateway, number, media=media, faults=faults, options=large)
    await registered(gateway, device)
    try:
        session = await gateway.sessions.play(
            device.device_id, device.channel_id, transport="udp" if media == "udp" else None
        )
        marks = await shown(gateway.sessions.viewer_urls(session, "127.0.0.1")["fmp4"], pictures=75)
        assert all(mark is not None for mark in marks), "a broken picture was shown"
        asked = [entry for entry in device.received if b"IFrameCmd" in entry.raw]
        assert asked, "no key frame was asked for"
        assert (await session.node.client.stream(session.stream_id)).damaged_units > 0  # type: ignore[union-attr]
    finally:
        await device.stop()


async def shown(url: str, pictures: int) -> list[Mark | None]:
    """The marks of so many pictures of a live MP4, as a player decodes them."""

    def read() -> list[Mark | None]:
        with av.open(url, timeout=30) as container:
            marks = []
            for frame in container.decode(video=0):
                marks.append(read_mark(frame.to_ndarray(format="gray8")))
                if len(marks) >= pictures:
                    break
            return marks

    return await asyncio.to_thread(read)


@pytest.mark.gb("G168")
async def test_a_vanished_client_stops_the_camera(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.control, "_hold_s", 0.3)
    device = camera(gateway, 6)
    await registered(gateway, device)
    try:
        await gateway.control.ptz(device.device_id, device.channel_id, ptz.Move(zoom=1, zoom_speed=5), "tab")
        await until(lambda: len(device.ptz_log) == 2)
        assert device.ptz_log[1][1] == ptz.STOP
    finally:
        await device.stop()


@pytest.mark.gb("G170")
@pytest.mark.parametrize(
    ("number", "edition", "element"),
    [(7, Edition.V2016, b"<IFameCmd>Send</IFameCmd>"), (8, Edition.V2022, b"<IFrameCmd>Send</IFrameCmd>")],
)
async def test_key_frame_by_edition(gateway: Gateway, number: int, edition: Edition, element: bytes) -> None:
    device = camera(gateway, number, edition=edition)
    await registered(gateway, device)
    try:
        assert await gateway.control.key_frame(device.device_id, device.channel_id)
        assert [entry for entry in device.received if element in entry.raw]
    finally:
        await device.stop()


@pytest.mark.gb("G231")
async def test_log_out_ends_the_picture(gateway: Gateway) -> None:
    device = camera(gateway, 9)
    await registered(gateway, device)
    session = await gateway.sessions.play(device.device_id, device.channel_id)
    await device.registration.stop(unregister=True)
    try:
        await until(lambda: session.info.end_cause == "device_offline")
        await until(lambda: not device.calls.running)  # it got its BYE all the same
    finally:
        await device.stop(unregister=False)


@pytest.mark.gb("G192")
async def test_sub_stream_of_a_recorder(gateway: Gateway) -> None:
    recorder = Recorder(
        "41018300001180000001",
        2,
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        domain=DOMAIN,
        password=PASSWORD,
        options=DeviceOptions(pictures=PICTURES, edition=Edition.V2022),
    )
    await registered(gateway, recorder)
    try:
        channel_id = next(code for code, channel in recorder.channels.items() if channel.has_pictures)
        main, sub = await asyncio.gather(
            gateway.sessions.play(recorder.device_id, channel_id),
            gateway.sessions.play(recorder.device_id, channel_id, stream_number=1),
        )
        assert main is not sub
        offers = sorted(
            next(line for line in entry.raw.decode().splitlines() if "streamnumber" in line)
            for entry in recorder.received
            if entry.method == "INVITE"
        )
        assert offers == ["a=streamnumber:0", "a=streamnumber:1"]
    finally:
        await recorder.stop()


async def test_a_webrtc_viewer_sees_the_camera(gateway: Gateway) -> None:
    device = camera(gateway, 10)
    await registered(gateway, device)
    browser = RTCPeerConnection()
    try:
        tracks: list[MediaStreamTrack] = []
        browser.on("track", tracks.append)
        browser.addTransceiver("video", direction="recvonly")
        await browser.setLocalDescription(await browser.createOffer())
        viewer_id, answer = await gateway.sessions.whep(
            device.device_id, device.channel_id, browser.localDescription.sdp
        )
        await browser.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(30):
            frame = await tracks[0].recv()
        assert (frame.width, frame.height) == (320, 192)
        session = gateway.sessions.find(device.device_id, device.channel_id)
        assert session is not None
        await until(lambda: session.info.viewers == 1)
        assert await gateway.sessions.close_viewer(viewer_id)
        await until(lambda: session.info.end_cause == "idle")
        await until(lambda: not device.calls.running)
    finally:
        await browser.close()
        await device.stop()


async def test_h265_is_not_for_webrtc_without_h265(gateway: Gateway) -> None:
    """The page then falls back to fMP4; the stream stays for it."""
    device = camera(gateway, 11, codec="h265")
    await registered(gateway, device)
    try:
        offer = (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
            "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n"
            "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=setup:actpass\r\n"
            f"a=fingerprint:sha-256 {':'.join(['AB'] * 32)}\r\na=rtpmap:96 VP8/90000\r\n"
        )
        with pytest.raises(MediaError) as error:
            await gateway.sessions.whep(device.device_id, device.channel_id, offer)
        assert error.value.code == "unsupported"
        session = gateway.sessions.find(device.device_id, device.channel_id)
        assert session is not None
        assert session.streaming
    finally:
        await device.stop()


async def test_loss_and_disorder_do_not_keep_the_picture_away(gateway: Gateway) -> None:
    device = camera(
        gateway, 12, media="udp", faults=Faults(lose_rtp=0.002, reorder_rtp=0.05, repeat_rtp=0.02)
    )
    await registered(gateway, device)
    try:
        assert (await gateway.sessions.play(device.device_id, device.channel_id)).streaming
    finally:
        await device.stop()
