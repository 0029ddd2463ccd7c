"""Pictures in a form that the viewer can play: the camera's sub stream where it fits, else transcoded, through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
import pytest_asyncio
from aiohttp import ClientSession
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from gateway_process import PASSWORD, free_ports
from live_house import SERVER, until
from port_ranges import kept_ports
from scripted_camera import DOMAIN

from config.settings import Settings
from gateway.app import Gateway
from gateway.services.errors import PlayCause, PlayFailed
from media.errors import MediaError
from simulator.camera import Camera, DeviceOptions, Pictures

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

MAIN = Pictures(codec="h265", width=320, height=192, bitrate=200_000, gop=25)
SUB = Pictures(codec="h264", width=160, height=96, bitrate=100_000, gop=25)
H264 = frozenset({"h264"})
RTP_PORTS, WEBRTC_PORTS = kept_ports(100), kept_ports(50)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    sip, viewer, http, metrics = free_ports(4)
    folder: Path = tmp_path_factory.mktemp("gateway")
    media = {
        "viewer_host": "127.0.0.1", "viewer_port": viewer, "rtsp_port": None,
        "rtp_port_min": RTP_PORTS[0], "rtp_port_max": RTP_PORTS[1],
        "webrtc_port": WEBRTC_PORTS[0], "webrtc_port_min": WEBRTC_PORTS[0], "webrtc_port_max": WEBRTC_PORTS[1],
        "idle_grace_s": 1.0, "port_quarantine_s": 0.2, "transcoders": 1, "transcode_height": 96,
    }  # fmt: skip
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
                "media": media,
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


async def camera(
    gateway: Gateway, number: int, pictures: Pictures = MAIN, sub_pictures: Pictures | None = None
) -> Camera:
    """A camera that is registered and whose catalog is in."""
    device = Camera(
        f"4101830000132001{number:04d}",
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        domain=DOMAIN,
        password=PASSWORD,
        options=DeviceOptions(pictures=pictures, sub_pictures=sub_pictures),
    )
    await device.start()
    await device.wait_registered(20)
    await until(lambda: gateway.registry.channel(device.device_id, device.channel_id) is not None)
    return device


async def first_picture(gateway: Gateway, url: str) -> tuple[str, int, int]:
    """Codec and size of what an address of fragmented MP4 gives."""
    data = b""
    async with ClientSession() as http, http.get(url) as response:
        assert response.status == 200
        async with asyncio.timeout(30):
            while len(data) < 30_000:
                data += await response.content.readany()
    path = Path(gateway.settings.storage.directory) / "watched.mp4"
    await asyncio.to_thread(path.write_bytes, data)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        return stream.codec_context.name, frame.width, frame.height


def invites(device: Camera) -> int:
    return sum(entry.method == "INVITE" for entry in device.received)


async def test_the_sub_stream_is_taken_where_it_fits(gateway: Gateway) -> None:
    device = await camera(gateway, 1, sub_pictures=SUB)
    try:
        key = (device.device_id, device.channel_id)
        session = await gateway.sessions.fitting(*key, H264)
        assert (session.key[2], session.info.video_codec) == (1, "h264")
        url = gateway.sessions.viewer_urls(session, "127.0.0.1")["fmp4"]
        assert await first_picture(gateway, url) == ("h264", 160, 96)
        both = await gateway.sessions.fitting(*key, frozenset({"h264", "h265"}))
        assert (both.key[2], both.info.video_codec) == (0, "h265")
    finally:
        await device.stop()


async def test_without_a_fitting_sub_stream_it_is_transcoded_for_all(gateway: Gateway) -> None:
    """The camera does not know of sub streams and sends H.265 again: tried once, then remembered."""
    device = await camera(gateway, 2)
    try:
        key = (device.device_id, device.channel_id)
        session = await gateway.sessions.fitting(*key, H264)
        assert session.info.transport == "transcode"
        assert session.info.video_codec == "h264"
        url = gateway.sessions.viewer_urls(session, "127.0.0.1")["fmp4"]
        assert await first_picture(gateway, url) == ("h264", 160, 96)
        asked = invites(device)
        assert asked == 2
        again = await asyncio.gather(*(gateway.sessions.fitting(*key, H264) for _ in range(3)))
        assert {one.session_id for one in again} == {session.session_id}
        assert invites(device) == asked, "the sub stream is not tried again"
        await until(lambda: session.info.end_cause == "idle")
        await until(lambda: not device.calls.running)
        assert gateway.sessions.find(*key) is None
    finally:
        await device.stop()


async def test_one_transcoding_too_many_is_said_and_it_ends_with_its_source(gateway: Gateway) -> None:
    first, second = await camera(gateway, 3), await camera(gateway, 4)
    try:
        session = await gateway.sessions.fitting(first.device_id, first.channel_id, H264)
        with pytest.raises(PlayFailed) as caught:
            await gateway.sessions.fitting(second.device_id, second.channel_id, H264)
        assert (caught.value.cause, caught.value.status) == (PlayCause.TRANSCODERS_BUSY, 503)
        base = gateway.sessions.find(first.device_id, first.channel_id)
        assert base is not None
        await gateway.sessions.stop(base.session_id)
        await until(lambda: session.info.end_cause == "operator")
        async with asyncio.timeout(30):  # the place is free as soon as the first one has let go
            while True:
                try:
                    other = await gateway.sessions.fitting(second.device_id, second.channel_id, H264)
                    break
                except PlayFailed as failure:
                    if failure.cause is not PlayCause.TRANSCODERS_BUSY:
                        raise
                    await asyncio.sleep(0.2)
        assert other.info.transport == "transcode"
        await gateway.sessions.stop(other.session_id)
    finally:
        await first.stop()
        await second.stop()


@pytest.mark.parametrize(
    ("number", "pictures"),
    [(5, MAIN), (6, replace(MAIN, codec="h264", b_frames=2))],
    ids=["h265", "b-frames"],
)
async def test_webrtc_shows_what_it_cannot_carry(gateway: Gateway, number: int, pictures: Pictures) -> None:
    device = await camera(gateway, number, pictures)
    browser = RTCPeerConnection()
    try:
        tracks: list[MediaStreamTrack] = []
        browser.on("track", tracks.append)
        browser.addTransceiver("video", direction="recvonly")
        await browser.setLocalDescription(await browser.createOffer())
        offer, key = browser.localDescription.sdp, (device.device_id, device.channel_id)
        with pytest.raises(MediaError):
            await gateway.sessions.whep(*key, offer)
        async with asyncio.timeout(40):
            while True:
                try:
                    _, answer = await gateway.sessions.whep(*key, offer, accept=H264)
                    break
                except PlayFailed as failure:  # the test before may still hold the only transcoder
                    if failure.cause is not PlayCause.TRANSCODERS_BUSY:
                        raise
                    await asyncio.sleep(0.2)
            await browser.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            frame = await tracks[0].recv()
        assert (frame.width, frame.height) == (160, 96)
    finally:
        await browser.close()
        await device.stop()
