"""RTSP through the whole gateway: fixed addresses start a camera, accounts and tokens are checked, nodes redirect."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest
import pytest_asyncio
from gateway_process import PASSWORD, free_ports
from live_house import SERVER, until
from port_ranges import kept_ports
from rtsp_house import Client
from scripted_camera import DOMAIN

from config.settings import Settings
from gateway.app import Gateway
from gateway.events import SecurityEvent
from gateway.services.access import Role
from simulator.camera import Camera, DeviceOptions, Pictures

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

PICTURES = Pictures(width=320, height=192, bitrate=200_000, gop=25)
RTP_PORTS, WEBRTC_PORTS = kept_ports(200), kept_ports(50)
USER, WORD = "nvr", "Xm-Rtsp-0001"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("rtsp")
    while True:  # two nodes: neighbouring ports
        sip, http, metrics, viewer, second, rtsp, other = free_ports(7)
        if second == viewer + 1 and other == rtsp + 1:
            break
    settings = {
        "sip": {"server_id": SERVER, "domain": DOMAIN, "host": "127.0.0.1", "port": sip, "allow_loopback": True},
        "registration": {"domain_password": PASSWORD},
        "catalog": {"subscribe": False},
        "media": {
            "nodes": 2, "viewer_host": "127.0.0.1", "viewer_port": viewer, "rtsp_port": rtsp,
            "rtsp_accounts": [{"username": USER, "password": WORD}], "rtp_port_min": RTP_PORTS[0], "rtp_port_max": RTP_PORTS[1],
            "webrtc_port": None,
            "webrtc_port_min": WEBRTC_PORTS[0], "webrtc_port_max": WEBRTC_PORTS[1], "first_picture_timeout_s": 10.0,
            "idle_grace_s": 1.0, "port_quarantine_s": 0.2,
        },
        "http": {"host": "127.0.0.1", "port": http},
        "metrics": {"port": metrics},
        "storage": {"directory": str(folder), "flush_interval_s": 0.2},
        "log": {"level": "WARNING"},
    }  # fmt: skip
    running = Gateway(Settings.model_validate(settings))
    await running.start()
    yield running
    await running.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def camera(gateway: Gateway) -> AsyncIterator[Camera]:
    device = Camera(
        "41018300001320000001",
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        domain=DOMAIN,
        password=PASSWORD,
        options=DeviceOptions(pictures=PICTURES),
    )
    await device.start()
    await device.wait_registered(30)
    await until(lambda: gateway.registry.channel(device.device_id, device.channel_id) is not None)
    yield device
    await device.stop()


def address(
    gateway: Gateway, channel_id: str, *, proof: str = f"{USER}:{WORD}@", query: str = "", node: int = 0
) -> str:
    port = gateway.nodes.handles()[node].rtsp_port
    return f"rtsp://{proof}127.0.0.1:{port}/channels/{channel_id}{query}"


async def probe(url: str, transport: str = "tcp", *more: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        ["ffprobe", "-v", "info", "-hide_banner", "-rtsp_transport", transport, *more, "-show_entries",
         "stream=codec_name,width", "-of", "compact=p=0", url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def first_width(url: str) -> int:
    """The first picture that PyAV decodes."""
    with av.open(url, options={"rtsp_transport": "tcp"}, timeout=(30.0, 30.0)) as container:
        return next(container.decode(video=0)).width


async def idle(gateway: Gateway, camera: Camera) -> None:
    await until(lambda: not gateway.sessions.list() and not camera.calls.running, 40)


@pytest.mark.needs("ffprobe")
async def test_a_fixed_address_starts_the_camera(gateway: Gateway, camera: Camera) -> None:
    """By password; whichever node is asked, the picture comes, from the other one by a redirection."""
    assert not camera.calls.running
    for transport, node in (("tcp", 0), ("udp", 0), ("tcp", 1)):
        result = await probe(address(gateway, camera.channel_id, node=node), transport)
        assert result.returncode == 0, result.stderr
        assert "codec_name=h264|width=320" in result.stdout
    asked = [entry for entry in camera.received if entry.method == "INVITE"]
    assert len(asked) >= 1
    await idle(gateway, camera)  # the viewers have gone: so does the picture


@pytest.mark.needs("ffprobe")
async def test_another_node_redirects(gateway: Gateway, camera: Camera) -> None:
    session = await gateway.sessions.play(camera.device_id, camera.channel_id)
    with gateway.sessions.held(session):
        assert session.node is not None
        stranger = 1 - session.node.number
        result = await probe(address(gateway, camera.channel_id, node=stranger))
        assert "Redirecting to rtsp://127.0.0.1:" in result.stderr
        assert f":{session.node.rtsp_port}/live/{session.stream_id}?ticket=" in result.stderr
        assert "codec_name=h264|width=320" in result.stdout
        url = address(gateway, camera.channel_id, node=stranger)
        assert await asyncio.to_thread(first_width, url) == 320
    await idle(gateway, camera)


async def test_the_session_is_held_for_its_viewer(gateway: Gateway, camera: Camera) -> None:
    """Between DESCRIBE and PLAY nothing flows, and yet the stream stays longer than the grace time."""
    user = await gateway.http.access.add_token("wall", Role.VIEWER, "admin", None)
    client = await Client.connect(gateway.nodes.handles()[0].rtsp_port)
    url = address(gateway, camera.channel_id, proof="", query=f"?token={user[0]}&device={camera.device_id}")
    described = await client.ask("DESCRIBE", url)
    if described.status == 302:
        await client.close()
        port = int(described.get("location").split(":")[2].split("/")[0])
        client = await Client.connect(port)
        described = await client.ask("DESCRIBE", described.get("location"))
    assert described.status == 200
    session = gateway.sessions.find(camera.device_id, camera.channel_id)
    assert session is not None
    await until(lambda: session.info.viewers == 1)
    await asyncio.sleep(1.0 + 3.5)  # grace time and margin
    assert session.streaming
    base = described.get("content-base")
    assert (await client.ask("SETUP", base + "trackID=0", "Transport: RTP/AVP/TCP;unicast")).status == 200
    assert (await client.ask("PLAY", base)).status == 200
    assert len(await client.take(20)) == 20
    metrics = (await gateway.metrics.exposition()).decode()
    assert 'gateway_viewers{kind="rtsp",node="' in metrics
    await client.close()
    await idle(gateway, camera)


async def test_who_may_not(gateway: Gateway, camera: Camera) -> None:
    seen: list[SecurityEvent] = []
    gateway.bus.subscribe(SecurityEvent, callback=seen.append)
    operator, _ = await gateway.http.access.add_token("ops", Role.OPERATOR, "admin", None)
    client = await Client.connect(gateway.nodes.handles()[0].rtsp_port)
    channel = camera.channel_id
    for query, status in (
        ("?token=gbt_unknown", 403),
        (f"?token={operator}", 403),  # too much power for an address
        ("", 401),
    ):
        answer = await client.ask("DESCRIBE", address(gateway, channel, proof="", query=query))
        assert answer.status == status, query
    assert [value.split(" ")[0] for value in answer.headers["www-authenticate"]] == ["Digest", "Digest"]
    assert (await probe(address(gateway, channel, proof=f"{USER}:wrong@"))).returncode != 0
    await until(lambda: {event.kind for event in seen} >= {"token_failed", "rtsp_login"})
    assert not camera.calls.running
    await client.close()


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize(
    ("channel", "query", "text"),
    [
        ("41018300001320009999", "", "404 Not Found"),
        ("41018300001320000001", "?device=41018300001180000009", "404 Not Found"),
    ],
)
async def test_no_such_channel(gateway: Gateway, camera: Camera, channel: str, query: str, text: str) -> None:
    result = await probe(address(gateway, channel, query=query))
    assert text in result.stderr


async def test_the_api_names_the_address(gateway: Gateway, camera: Camera) -> None:
    session = await gateway.sessions.play(camera.device_id, camera.channel_id)
    url = gateway.sessions.viewer_urls(session, "127.0.0.1")["rtsp"]
    assert url.startswith("rtsp://127.0.0.1:")
    result = await probe(url)
    assert "codec_name=h264|width=320" in result.stdout, result.stderr


@pytest.mark.needs("ffprobe")
async def test_who_opened_what_is_written_down(gateway: Gateway, camera: Camera) -> None:
    token, _ = await gateway.http.access.add_token("screen", Role.VIEWER, "admin", None)
    for proof, query in ((f"{USER}:{WORD}@", ""), ("", f"?token={token}")):
        result = await probe(address(gateway, camera.channel_id, proof=proof, query=query))
        assert result.returncode == 0, result.stderr
    await gateway.http.audit._queue.join()
    entries = await gateway.http.audit.entries()
    assert {entry.who for entry in entries if entry.action == "live.rtsp"} >= {f"rtsp:{USER}", "token:screen"}
    written = "".join(entry.detail + entry.who + entry.target for entry in entries)
    assert WORD not in written
    assert token not in written
