"""A browser and a media node in a process of its own, fed by a camera over RTP: what tests that look at screens share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from port_ranges import kept_ports

from media import tickets
from media.client import MediaClient
from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.specs import NodeConfig, ReceiverSpec, WebRtcOffer
from media.unit import Codec
from simulator.picture import TestPicture, read_mark, tone

ROOT = Path(__file__).parents[2]
PLAYER = ROOT / "tests" / "e2e" / "player.html"
LIBRARIES = ROOT / "build" / "players" / "node_modules"
"""hls.js and mpegts.js, which 'make tools' fetches where npm is installed."""
BROWSER_ARGUMENTS = [
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ),
    *("--disable-background-networking", "--disable-component-update"),
    "--autoplay-policy=no-user-gesture-required",
]
SIZE = (352, 288)
RTP_PORTS, WEBRTC_PORTS = kept_ports(200), kept_ports(100)
TICKET_SECRET = "tickets of the browser tests"
CONTROL_SECRET = "control of the browser tests"


class Camera:
    """Sends a live picture and a tone as PS over RTP until it is stopped."""

    def __init__(self, port: int, picture: TestPicture) -> None:
        self._picture = picture
        self._muxer = PsMuxer(picture.codec, Codec.PCMA)
        self._packetizer = RtpPacketizer(1, 96)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        started = time.monotonic()
        sounds = tone(1)
        reorders = self._picture.settings.b_frames > 0
        loop = self._picture.encoded_loop(20) if reorders else []
        for index in range(25 * 60):
            unit = loop[index % len(loop)] if reorders else self._picture.frame(index)
            self._send(self._muxer.mux(unit), unit.dts)
            sound = sounds[index % len(sounds)]
            ticks = index * 3600
            self._send(self._muxer.mux(type(sound)(sound.codec, ticks, ticks, False, sound.data)), ticks)
            await asyncio.sleep(max(0.0, started + (index + 1) / 25 - time.monotonic()))

    def _send(self, data: bytes, ticks: int) -> None:
        for packet in self._packetizer.packets(data, ticks):
            with contextlib.suppress(ConnectionRefusedError):
                self._socket.send(packet)

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._socket.close()


class Stage:
    """The node's process, its client, the cameras and the browser's page."""

    def __init__(self, client: MediaClient, viewer_port: int, page: Any) -> None:
        self.client, self.viewer_port, self.page = client, viewer_port, page
        self.cameras: list[Camera] = []
        self.streams: list[str] = []

    async def film(self, picture: TestPicture) -> str:
        """A new live stream of ``picture``; its id."""
        stream_id = uuid.uuid4().hex
        info = await self.client.open_receiver(ReceiverSpec(stream_id=stream_id))
        self.streams.append(stream_id)
        self.cameras.append(Camera(info.port, picture))
        async with asyncio.timeout(20):
            while not (await self.client.stream(stream_id)).ready:
                await asyncio.sleep(0.05)
        return stream_id

    def url(self, scheme: str, stream_id: str, path: str) -> str:
        ticket = tickets.sign(TICKET_SECRET, stream_id, time.time() + 60)
        return f"{scheme}://127.0.0.1:{self.viewer_port}/live/{stream_id}{path}?ticket={ticket}"

    async def watch(self, way: str, stream_id: str) -> None:
        if way == "whep":

            async def exchange(sdp: str) -> str:
                answer = await self.client.add_webrtc_viewer(
                    stream_id, WebRtcOffer(viewer_id=uuid.uuid4().hex, sdp=sdp)
                )
                return answer.sdp

            await self.page.expose_function("exchange", exchange)
            await self.page.evaluate("playWhep('exchange', true)")
        elif way == "ws":
            await self.page.evaluate("url => playWebSocket(url)", self.url("ws", stream_id, "/ws"))
        elif way == "file":
            await self.page.evaluate("url => playFile(url)", self.url("http", stream_id, ".mp4"))
        elif way == "hls":
            await self._load("hls.js/dist/hls.min.js")
            await self.page.evaluate("url => playHls(url)", self.url("http", stream_id, ".m3u8"))
        else:
            scheme, form, path = {
                "flv": ("http", "flv", ".flv"),
                "ws_flv": ("ws", "flv", "/ws.flv"),
                "ts": ("http", "mpegts", ".ts"),
            }[way]
            await self._load("mpegts.js/dist/mpegts.js")
            await self.page.evaluate(
                "([form, url]) => playMpegts(form, url)", [form, self.url(scheme, stream_id, path)]
            )

    async def _load(self, library: str) -> None:
        await self.page.evaluate("path => load(path)", "/players/" + library)

    async def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = await self.page.evaluate("look()")
        return seen

    async def frames(self, count: int) -> dict[str, Any]:
        """Wait until so many pictures were shown, then look."""
        async with asyncio.timeout(40):
            while (seen := await self.look())["frames"] < count:
                assert not seen["errors"], seen["errors"]
                assert not seen["error"], seen["error"]
                await asyncio.sleep(0.1)
        return seen


@dataclass
class Studio:
    """What all tests of this file share: one node process, one browser, one page to open."""

    client: MediaClient
    viewer_port: int
    browser: Any
    address: str


@contextlib.asynccontextmanager
async def open_studio(folder: Path) -> AsyncIterator[Studio]:
    """A node, a browser and the page, for all tests of a file."""
    playwright = pytest.importorskip("playwright.async_api")
    config = NodeConfig(
        node_id="browser",
        control=f"unix:{folder}/control",
        control_secret=CONTROL_SECRET,
        media_host="127.0.0.1",
        bind_host="127.0.0.1",
        rtp_port_min=RTP_PORTS[0],
        rtp_port_max=RTP_PORTS[1],
        webrtc_port=0,
        webrtc_port_min=WEBRTC_PORTS[0],
        webrtc_port_max=WEBRTC_PORTS[1],
        viewer_host="127.0.0.1",
        viewer_port=0,
        ticket_secret=TICKET_SECRET,
    )
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "media.node", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert node.stdin is not None
    assert node.stdout is not None
    node.stdin.write(config.model_dump_json().encode() + b"\n")
    async with asyncio.timeout(30):
        ready = json.loads(await node.stdout.readline())
    client = MediaClient(config.control, CONTROL_SECRET)
    await client.start()
    app = web.Application()
    app.router.add_get("/", _page)
    if LIBRARIES.is_dir():
        app.router.add_static("/players", LIBRARIES)
    site = TestServer(app)
    await site.start_server()
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER_ARGUMENTS)
        yield Studio(client, ready["viewer_port"], browser, str(site.make_url("/")))
        await browser.close()
    await client.close()
    await site.close()
    node.stdin.close()
    async with asyncio.timeout(20):
        await node.wait()


@contextlib.asynccontextmanager
async def open_stage(studio: Studio) -> AsyncIterator[Stage]:
    """A page of its own for one test, and an end for what it started."""
    page = await studio.browser.new_page()
    await page.goto(studio.address)
    stage = Stage(studio.client, studio.viewer_port, page)
    try:
        yield stage
    finally:
        await page.close()
        for camera in stage.cameras:
            await camera.stop()
        for stream_id in stage.streams:
            await studio.client.close_receiver(stream_id)


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(PLAYER)


def frame_shown(seen: dict[str, Any]) -> int | None:
    strip = np.array(seen["strip"], dtype=np.uint8).reshape(-1, SIZE[0])
    mark = read_mark(strip)
    return mark.frame if mark else None


def delay_s(seen: dict[str, Any]) -> float | None:
    """How old the picture on the screen is."""
    mark = read_mark(np.array(seen["strip"], dtype=np.uint8).reshape(-1, SIZE[0]))
    return ((seen["seenAt"] - mark.time_ms) & 0xFFFFFFFF) / 1000 if mark else None
