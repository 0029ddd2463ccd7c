"""An RTSP camera and a file through the whole gateway: to browsers, to upper platforms, over failures and restarts."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import pytest_asyncio
from aiohttp import ClientSession
from decoded import Decoded, decode, picture_hash
from gateway_process import free_ports
from port_ranges import brief_ports
from rtsp_camera import RtspCamera

from config.settings import Settings
from gateway.app import Gateway
from gateway.model import Platform
from gateway.services.access import Role
from media.ps import PsDemuxer
from media.unit import AccessUnit, Codec
from simulator.camera import Camera, DeviceOptions
from simulator.picture import TestPicture, read_mark, tone
from simulator.register import RegisterSettings
from simulator.upper_platform import Pull, UpperPlatform

SERVER = "41018300002000000001"
DOMAIN = "4101830000"
UPPER = "41010000002000000001"
PASSWORD = "Xm-Demo-0001"
SECRET = "Kamera p@ss:1"
PERIOD = 180_000

pytestmark = pytest.mark.asyncio(loop_scope="module")


def loop_of(codec: str = "h264", b_frames: int = 0) -> list[AccessUnit]:
    return TestPicture(320, 240, 25, codec, 400_000, 25, b_frames=b_frames).encoded_loop(2.0)


class Home:
    """A running gateway with its API, in one folder; ``restart`` gives it another life there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "films").mkdir()
        self.ports = free_ports(4)
        self.rtp = brief_ports(300)
        self.cameras: list[dict[str, Any]] = []
        self.gateway = Gateway(self.settings())
        self._token = ""
        self._http: ClientSession | None = None

    def settings(self) -> Settings:
        sip, viewer, http, metrics = self.ports
        return Settings.model_validate(
            {
                "sip": {"host": "127.0.0.1", "port": sip, "allow_loopback": True, "server_id": SERVER, "domain": DOMAIN},
                "registration": {"domain_password": PASSWORD},
                "media": {
                    "viewer_host": "127.0.0.1", "viewer_port": viewer, "rtsp_port": None, "webrtc_port": None,
                    "rtp_port_min": self.rtp[0], "rtp_port_max": self.rtp[1], "first_picture_timeout_s": 8.0,
                    "no_rtp_timeout_s": 1.5, "idle_grace_s": 0.5, "port_quarantine_s": 0.2,
                },
                "cascade": {"register_retry_s": 0.3, "notify_batch_s": 0.3, "flap_damping_s": 0.2},
                "inputs": {
                    "directory": str(self.folder / "films"), "check_interval_s": 5, "connect_timeout_s": 2.0,
                    "read_timeout_s": 2.0, "cameras": self.cameras,
                },
                "http": {"host": "127.0.0.1", "port": http},
                "metrics": {"host": "127.0.0.1", "port": metrics},
                "storage": {"directory": str(self.folder / "data"), "flush_interval_s": 0.2},
            }
        )  # fmt: skip

    async def start(self) -> None:
        await self.gateway.start()
        assert await self.gateway.nodes.wait_any(40.0)
        if not self._token:
            self._token, _ = await self.gateway.http.access.add_token(
                "test", Role.ADMINISTRATOR, "admin", None
            )
        self._http = ClientSession(headers={"Authorization": f"Bearer {self._token}"})

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.close()
        await self.gateway.stop()

    async def restart(self) -> None:
        await self.stop()
        self.gateway = Gateway(self.settings())
        await self.start()

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        assert self._http is not None
        url = f"http://127.0.0.1:{self.ports[2]}{path}"
        async with self._http.request(method, url, json=body) as answer:
            text = await answer.text()
            assert answer.status == status, f"{answer.status} {text}"
            return await answer.json(content_type=None) if text else None

    async def add(self, camera: RtspCamera, **more: Any) -> str:
        body = {
            "name": "Gate",
            "url": camera.url,
            "username": camera.username,
            "password": camera.password,
            **more,
        }
        view = await self.call("POST", "/api/inputs", body, status=201)
        assert SECRET not in str(view)
        return str(view["channel_id"])

    async def forget_all(self) -> None:
        """What a failed test left behind."""
        for record in self.gateway.inputs.records():
            await self.gateway.inputs.remove(record.channel_id)

    async def watch(self, channel_id: str, seconds: float, *, sound: bool = False) -> Decoded:
        """What a browser gets as fMP4 within so many seconds of media, decoded."""
        live = await self.call("POST", f"/api/channels/{channel_id}/live", {})
        data = bytearray()
        async with ClientSession() as http, http.get(live["fmp4"]) as answer:
            assert answer.status == 200
            wanted = int(seconds * 25) * (2 if sound else 1)
            async with asyncio.timeout(30):
                async for piece in answer.content.iter_any():
                    data += piece
                    if data.count(b"moof") >= wanted:
                        break
        film = await asyncio.to_thread(decode, bytes(data), "mp4")
        del (
            film.frames[-4:],
            film.hashes[-4:],
            film.shown_s[-4:],
        )  # pictures whose references were cut off with the end
        return film

    def status(self, channel_id: str) -> str:
        found = self.gateway.registry.find_channels(channel_id)
        return self.gateway.registry.channel_evidence(found[0]).verdict.value if found else "GONE"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Home]:
    running = Home(tmp_path_factory.mktemp("inputs"))
    await running.start()
    yield running
    await running.stop()


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(home: Home) -> AsyncIterator[None]:
    yield
    await home.forget_all()


@asynccontextmanager
async def upper_of(home: Home) -> AsyncIterator[UpperPlatform]:
    upper = UpperPlatform(UPPER, lower_id=SERVER, password=PASSWORD)
    await upper.start()
    record = Platform(
        UPPER, "municipal", "4101000000", "127.0.0.1", upper.port, password=PASSWORD, share_all=True
    )
    await home.gateway.cascade.put_platform(record)
    try:
        await upper.wait_registered(20)
        yield upper
    finally:
        await home.gateway.cascade.remove_platform(UPPER)
        await upper.stop()


async def until(condition: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.05)
    return value


def shown(units: list[AccessUnit]) -> dict[int, str]:
    """Hash of each picture of a loop by the number it carries."""
    context = av.CodecContext.create("h264" if units[0].codec is Codec.H264 else "hevc", "r")
    frames = [frame for unit in units for frame in context.decode(av.Packet(unit.data))] + context.decode(
        None
    )
    return {mark_of(frame): picture_hash(frame) for frame in frames}


def mark_of(frame: av.VideoFrame) -> int:
    mark = read_mark(frame.to_ndarray(format="gray"))
    assert mark is not None
    return mark.frame


def assert_same(numbers: list[int], hashes: list[str], expected: dict[int, str], length: int = 50) -> None:
    assert len(numbers) > 20
    first = numbers[0]
    assert numbers == [(first + index) % length for index in range(len(numbers))]
    assert all(expected[number] == value for number, value in zip(numbers, hashes, strict=True))


class Watched:
    """Pictures that an upper decodes, noted in its receiving thread."""

    def __init__(self, pull: Pull) -> None:
        self.numbers: list[int] = []
        self.hashes: list[str] = []
        self._lock = threading.Lock()
        pull.media.on_frame = self._frame

    def _frame(self, frame: av.VideoFrame) -> None:
        with self._lock:
            self.numbers.append(mark_of(frame))
            self.hashes.append(picture_hash(frame))


async def pulled(
    upper: UpperPlatform,
    channel_id: str,
    transport: str,
    expected: dict[int, str],
    tmp_path: Path,
    length: int = 50,
) -> Path:
    """Pull a channel, compare every picture; returns the program stream as it came."""
    kept = tmp_path / f"{transport}-{channel_id}.ps"
    pull = await upper.invite(channel_id, transport, keep=kept)
    watched = Watched(pull)
    await pull.media.wait_frames(30, 30)
    stats = pull.media.stats
    await pull.close()
    assert stats.decode_errors == 0
    assert stats.first_key_first
    assert_same(watched.numbers, watched.hashes, expected, length)
    return kept


# -- an RTSP camera ------------------------------------------------------------------------------------------


async def test_an_rtsp_camera_is_a_channel_for_browsers_and_uppers(home: Home, tmp_path: Path) -> None:
    video = loop_of()
    expected = shown(video)
    async with (
        RtspCamera(video, tone(2.0), period=PERIOD, password=SECRET) as camera,
        upper_of(home) as upper,
    ):
        channel_id = await home.add(camera, civil_code="41018302", longitude=113.39, latitude=34.53)
        assert channel_id[10:13] == "132"
        await until(lambda: home.status(channel_id) == "ON")
        assert camera.requests
        assert "SETUP" not in camera.requests, "the check opened a session"

        film = await home.watch(channel_id, 2.4, sound=True)
        assert film.codecs == ["h264", "aac"]
        assert_same(film.frames, film.hashes, expected)
        assert len(film.sync_s) > 1
        assert all(abs(delta) < 0.1 for delta in film.sync_s[1:]), film.sync_s  # the first beep is cut in

        catalog = await upper.query_catalog()
        item = next(item for item in catalog if item.device_id == channel_id)
        assert (item.name, item.status, item.civil_code) == ("Gate", "ON", "41018302")
        assert (item.longitude, item.latitude, item.ptz_type) == (113.39, 34.53, 3)
        assert SECRET not in str(item)
        assert str(camera.port) not in str(item)
        for transport in ("udp", "tcp_passive", "tcp_active"):
            kept = await pulled(upper, channel_id, transport, expected, tmp_path)
        assert_program_stream(kept, {Codec.H264, Codec.PCMA})

        jpeg = await home.gateway.sessions.snapshot(*key_of(home, channel_id))
        assert jpeg.startswith(b"\xff\xd8")
        await until(lambda: not home.gateway.sessions.list())
        await until(lambda: not camera.sessions)
        await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)
        assert home.status(channel_id) == "GONE"


def key_of(home: Home, channel_id: str) -> tuple[str, str]:
    return home.gateway.registry.find_channels(channel_id)[0].key


def assert_program_stream(path: Path, codecs: set[Codec]) -> None:
    """Our own demuxer finds the tracks that the map announces, whole, in step."""
    data = path.read_bytes()
    assert data.count(b"\x00\x00\x01\xbc") >= 1
    demuxer = PsDemuxer()
    packs = re.split(b"(?=\x00\x00\x01\xba)", data)
    units = [
        unit
        for number, pack in enumerate(packs)
        for unit in demuxer.feed(pack, number * 3600, now=number / 50)
    ]
    assert {unit.codec for unit in units} == codecs
    assert not any(unit.damaged for unit in units[:-2])


async def test_h265_with_b_frames_reaches_an_upper_whole(home: Home, tmp_path: Path) -> None:
    video = loop_of("h265", 2)
    async with RtspCamera(video, period=PERIOD) as camera, upper_of(home) as upper:
        channel_id = await home.add(camera, transport="udp")
        await until(lambda: home.status(channel_id) == "ON")
        kept = await pulled(upper, channel_id, "tcp_passive", shown(video), tmp_path)
        with av.open(str(kept), format="mpeg") as container:
            assert container.streams.video[0].codec_context.name == "hevc"
            stamps = [(p.pts, p.dts) for p in container.demux(video=0) if p.size and p.pts is not None]
        assert all(pts >= dts for pts, dts in stamps if dts is not None)
        assert any(pts > dts for pts, dts in stamps if dts is not None)
        await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)


async def test_viewers_share_one_session_that_ends_when_they_are_gone(home: Home) -> None:
    async with RtspCamera(loop_of(), period=PERIOD) as camera:
        channel_id = await home.add(camera)
        await asyncio.gather(*(home.watch(channel_id, 0.4) for _ in range(3)))
        assert camera.requests.count("PLAY") == 1
        await until(lambda: not home.gateway.sessions.list())
        await until(lambda: not camera.sessions)
        await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)


async def test_a_camera_that_falls_is_off_and_plays_again_when_it_is_back(home: Home) -> None:
    async with RtspCamera(loop_of(), period=PERIOD, password=SECRET) as camera, upper_of(home) as upper:
        channel_id = await home.add(camera)
        await until(lambda: home.status(channel_id) == "ON")
        await upper.subscribe_catalog()
        pull = await upper.invite(channel_id)
        await pull.media.wait_frames(10)
        await camera.stop()
        assert await asyncio.wait_for(pull.session.ended, 30.0) == "remote_bye"
        await until(lambda: home.status(channel_id) == "OFF")
        view = await home.call("GET", f"/api/inputs/{channel_id}")
        assert (view["status"], view["cause"]) == ("OFF", "dial_failed")
        problem = await home.call("POST", f"/api/channels/{channel_id}/live", {}, status=409)
        assert problem["cause"] == "device_offline"
        assert "password" not in problem["detail"]
        await until(lambda: ("OFF", channel_id) in upper.events())
        await pull.close()
        await camera.start()
        await until(lambda: home.status(channel_id) == "ON")
        await until(lambda: ("ON", channel_id) in upper.events())
        film = await home.watch(channel_id, 1.0)
        assert_same(film.frames, film.hashes, shown(camera.video))
        await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)


async def test_a_wrong_password_is_told_as_such_and_never_repeated(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with RtspCamera(loop_of(), period=PERIOD, password=SECRET) as camera:
        channel_id = await home.add(
            camera, url=camera.url.replace("//", "//admin:Falsch%201@"), username="", password=""
        )
        view = await home.call("POST", f"/api/inputs/{channel_id}/check")
        assert (view["status"], view["cause"], view["username"], view["password_set"]) == (
            "OFF",
            "refused",
            "admin",
            True,
        )
        assert view["url"] == camera.url
        problem = await home.call("POST", f"/api/channels/{channel_id}/live", {}, status=409)
        assert problem["cause"] == "rejected"
        await home.call("PATCH", f"/api/inputs/{channel_id}", {"password": SECRET})
        film = await home.watch(channel_id, 0.6)
        assert film.frames
        assert home.status(channel_id) == "ON"
        await home.call("PATCH", f"/api/inputs/{channel_id}", {"enabled": False})
        assert home.status(channel_id) == "OFF"
        await home.call("POST", f"/api/channels/{channel_id}/live", {}, status=409)
        await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)
    audit = str(await home.call("GET", "/api/audit?limit=100"))
    for secret in ("Falsch", SECRET):
        assert secret not in caplog.text
        assert secret not in audit


async def test_an_input_without_onvif_cannot_be_moved(home: Home) -> None:
    async with RtspCamera(loop_of(), period=PERIOD) as camera:
        channel_id = await home.add(camera)
        problem = await home.call("POST", f"/api/channels/{channel_id}/ptz", {"pan": 1}, status=409)
        assert problem["cause"] == "not_supported"
        assert "cannot be moved" in problem["detail"]
        await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)


# -- files ---------------------------------------------------------------------------------------------------


async def test_a_file_is_a_channel_that_never_ends(home: Home, tmp_path: Path) -> None:
    video = TestPicture(320, 240, 25, "h264", 400_000, 25, b_frames=2).encoded_loop(1.0)
    path = home.folder / "films" / "gate.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream("h264", rate=25, width=320, height=240)
        for unit in video:
            packet = av.Packet(unit.data)
            packet.pts, packet.dts, packet.duration = unit.pts, unit.dts, 3600
            packet.time_base = Fraction(1, 90_000)
            packet.is_keyframe, packet.stream = unit.key, stream
            container.mux_one(packet)
    await home.call(
        "POST", "/api/inputs", {"kind": "file", "name": "x", "url": "../data/gateway.sqlite3"}, status=422
    )
    view = await home.call(
        "POST", "/api/inputs", {"kind": "file", "name": "Film", "url": "gate.mp4"}, status=201
    )
    channel_id = view["channel_id"]
    await until(lambda: home.status(channel_id) == "ON")
    film = await home.watch(channel_id, 2.6)
    assert_same(film.frames, film.hashes, shown(video), 25)
    assert len(film.frames) > 50, "it was not looped"
    steps = [b - a for a, b in zip(film.shown_s, film.shown_s[1:], strict=False)]
    assert all(0.03 < step < 0.05 for step in steps), steps
    async with upper_of(home) as upper:
        await pulled(upper, channel_id, "udp", shown(video), tmp_path, 25)
    await until(lambda: not home.gateway.sessions.list())
    path.unlink()
    view = await home.call("POST", f"/api/inputs/{channel_id}/check")
    assert (view["status"], view["cause"]) == ("OFF", "not_found")
    await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)


# -- what lasts ----------------------------------------------------------------------------------------------


async def test_inputs_survive_a_restart_and_configured_ones_are_entered_once(home: Home) -> None:
    async with RtspCamera(loop_of(), period=PERIOD, password=SECRET) as camera:
        channel_id = await home.add(camera, name="Kept")
        await until(lambda: home.status(channel_id) == "ON")
        device_id = key_of(home, channel_id)[0]
        home.cameras = [
            {
                "name": "Configured",
                "url": f"rtsp://admin:secret@127.0.0.1:{camera.port}/other",
                "civil_code": "410183",
            }
        ]
        for _ in range(2):
            await home.restart()
            records = home.gateway.inputs.records()
            assert [record.name for record in records] == ["Kept", "Configured"]
        assert key_of(home, channel_id) == (device_id, channel_id)
        assert home.gateway.registry.devices[device_id].online
        configured = records[1]
        assert (configured.url, configured.username) == (f"rtsp://127.0.0.1:{camera.port}/other", "admin")
        await until(lambda: home.status(channel_id) == "ON")
        film = await home.watch(channel_id, 0.6)
        assert film.frames
        await until(lambda: home.gateway.inputs.checks["ok"])
        async with ClientSession() as http, http.get(f"http://127.0.0.1:{home.ports[3]}/metrics") as answer:
            metrics = await answer.text()
        assert 'gateway_inputs{kind="rtsp",state="on"} 1.0' in metrics
        assert 'gateway_input_checks_total{outcome="ok"}' in metrics
        for record in records:
            await home.call("DELETE", f"/api/inputs/{record.channel_id}", status=204)


async def test_nobody_registers_as_the_device_that_holds_the_inputs(home: Home) -> None:
    async with RtspCamera(loop_of(), period=PERIOD) as rtsp:
        channel_id = await home.add(rtsp)
        device_id = key_of(home, channel_id)[0]
        await home.call("DELETE", f"/api/devices/{device_id}", status=409)
        thief = Camera(
            device_id,
            server=("127.0.0.1", home.gateway.endpoint.port),
            server_id=SERVER,
            password=PASSWORD,
            options=DeviceOptions(register=RegisterSettings(retry_s=(0.1, 0.2))),
        )
        await thief.start()
        await until(lambda: home.gateway.registrar.counts["own_code"] > 0)
        assert home.gateway.registry.devices[device_id].flow is None
        await thief.vanish()
        await home.call("DELETE", f"/api/inputs/{channel_id}", status=204)
