"""Glass to glass: from the moment a picture is drawn to the moment it is decoded or shown, read from its own clock.

Camera (drawing and encoding live), node and player are processes of one machine with one clock. Players: Chromium
where it is installed, FFmpeg's demuxers and decoder (PyAV) behind the outputs, and an upper platform behind a relay.
The floor is encoder and decoder without anything between.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from benchmarks.cameras import Camera, live
from benchmarks.measure import Row
from benchmarks.nodes import SECRET, RunningNode, known, running_node
from benchmarks.players import ticket
from media.client import MediaClient, MediaError
from media.content import Content
from media.ingest import Ingest
from media.specs import PayloadFormat, ReceiverSpec, SenderSpec, WebRtcOffer
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, read_mark

SIZE = (640, 360)
WARM_S = 3.0
"""A player that begins at the last key frame has to catch up first."""
SECONDS = 8.0
STREAM = "glass"
CHROMIUM = shutil.which("chromium")
BROWSER_ARGUMENTS = [
    "--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-features=WebRtcHideLocalIpsWithMdns",
]  # fmt: skip
PAGE = Path(__file__).with_name("glass.html")
FFMPEG = {"fflags": "nobuffer", "flags": "low_delay", "probesize": "200000", "analyzeduration": "500000"}
Delays = list[float]


def age_ms(frame: av.VideoFrame) -> float | None:
    """How old a decoded picture is; None when its clock cannot be read."""
    mark = read_mark(cast(Any, frame.to_ndarray(format="gray8")).astype(np.uint8))
    if mark is None:
        return None
    return float((round(time.time() * 1000) - mark.time_ms + 2**31) % 2**32 - 2**31)


def decoder() -> av.VideoCodecContext:
    context = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    context.options = {"flags": "low_delay"}
    return context


# --- the camera, a process of its own ----------------------------------------------------------------------------


def camera_process(port: int) -> None:
    async def film() -> None:
        camera = Camera(port, 1, live(TestPicture(*SIZE, bitrate=1_500_000)), Codec.H264)
        while os.getppid() == parent:
            await asyncio.sleep(0.5)
        await camera.close()

    parent = os.getppid()
    asyncio.run(film())


# --- players -------------------------------------------------------------------------------------------------------


def alone() -> Delays:
    """Encoder and decoder without anything between."""
    picture, context = TestPicture(*SIZE, bitrate=1_500_000), decoder()
    delays = []
    for number in range(50):
        unit = picture.frame(number, key=number % 25 == 0)
        for frame in context.decode(av.Packet(unit.data)):
            age = age_ms(frame)
            if age is not None:
                delays.append(age)
        time.sleep(0.01)
    return delays


def by_ffmpeg(url: str, options: dict[str, str]) -> Delays:
    """FFmpeg's demuxer and decoder, one thread, as little buffering as they allow."""
    delays: Delays = []
    end = time.monotonic() + WARM_S + SECONDS
    container = av.open(url, options={**FFMPEG, **options}, timeout=15.0)
    with contextlib.closing(cast(Any, container)) as opened:
        video = opened.streams.video[0]
        video.codec_context.thread_count = 1
        for frame in opened.decode(video):
            age = age_ms(frame)
            if age is not None and time.monotonic() > end - SECONDS:
                delays.append(age)
            if time.monotonic() > end:
                break
    return delays


def by_upper_platform(sock: socket.socket, stop: threading.Event) -> Delays:
    """RTP with a program stream, as an upper platform gets it: ordered, demuxed, decoded."""
    context = decoder()
    delays: Delays = []
    begun = time.monotonic()

    def decode(unit: AccessUnit, first_index: int) -> None:
        if not unit.codec.is_video:
            return
        for frame in context.decode(av.Packet(unit.data)):
            age = age_ms(frame)
            if age is not None and time.monotonic() > begun + WARM_S:
                delays.append(age)

    content = Content(payloads=(PayloadFormat(number=96),), publish=decode)
    ingest = Ingest(ssrc=None, deliver=content.take)
    sock.settimeout(1.0)
    while time.monotonic() < begun + WARM_S + SECONDS and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            packet = bytearray(sock.recv(2048))
            ingest.feed(packet, memoryview(packet), [0], [len(packet)], time.monotonic())
    return delays


async def relayed(client: MediaClient) -> Delays:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        spec = SenderSpec(
            sender_id="upper",
            stream_id=STREAM,
            remote_host="127.0.0.1",
            remote_port=sock.getsockname()[1],
            ssrc=7,
        )
        await client.open_sender(spec)
        await client.start_sender("upper")
        stop = threading.Event()
        try:
            return await asyncio.to_thread(by_upper_platform, sock, stop)
        finally:
            stop.set()
            await client.close_sender("upper")


async def by_aiortc(client: MediaClient) -> Delays:
    """aiortc as the player: its jitter buffer holds a picture back until the next one begins."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    tracks: asyncio.Queue[Any] = asyncio.Queue(4)
    peer.on("track", tracks.put_nowait)
    peer.addTransceiver("video", direction="recvonly")
    delays: Delays = []
    try:
        async with asyncio.timeout(30):
            await peer.setLocalDescription(await peer.createOffer())
            offer = WebRtcOffer(viewer_id="aiortc", sdp=str(peer.localDescription.sdp))
            answer = await client.add_webrtc_viewer(STREAM, offer)
            await peer.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
            track = await tracks.get()
            await track.recv()
            begun = time.monotonic()
            while (now := time.monotonic()) < begun + WARM_S + SECONDS:
                age = age_ms(await track.recv())
                if age is not None and now > begun + WARM_S:
                    delays.append(age)
    except (TimeoutError, MediaStreamError):
        print("aiortc: the pictures ended early")
    finally:
        await client.close_viewer("aiortc")
        await peer.close()
    return delays


async def in_chromium(node: RunningNode, client: MediaClient) -> dict[str, Delays]:
    """WebRTC and fragments in a real browser; empty where there is none."""
    if CHROMIUM is None:
        return {}
    try:
        from playwright.async_api import Error, async_playwright
    except ImportError:
        return {}
    found: dict[str, Delays] = {}
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_ARGUMENTS)
            try:
                url = f"ws://127.0.0.1:{node.viewer_port}/live/{STREAM}/ws?ticket={ticket(STREAM)}"
                found["WebRTC, Chromium"] = await shown(browser, client, "whep()")
                found["fMP4 by WebSocket, Chromium"] = await shown(browser, client, f"fragments({url!r})")
            finally:
                await browser.close()
    except Error as error:
        found["notice"] = []
        print(f"Chromium: {error}")
    return found


async def shown(browser: Any, client: MediaClient, script: str) -> Delays:
    page = await browser.new_page()

    async def exchange(sdp: str) -> str:
        return (await client.add_webrtc_viewer(STREAM, WebRtcOffer(viewer_id="glass", sdp=sdp))).sdp

    await page.expose_function("exchange", exchange)
    await page.goto(PAGE.as_uri())
    await page.evaluate(script)
    await asyncio.sleep(WARM_S)
    await page.evaluate("take()")
    await asyncio.sleep(SECONDS)
    delays: Delays = await page.evaluate("take()")
    await page.close()
    return delays


# --- all of them -----------------------------------------------------------------------------------------------------


def row(name: str, delays: Delays, floor: float) -> dict[str, Any]:
    if len(delays) < 20:
        return Row(
            f"glass to glass: {name}", 0, "left out", how=f"{name}: {len(delays)} pictures seen"
        ).as_dict()
    ordered = sorted(delays)
    p50, p95 = statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
    baseline = f"encoder and decoder alone {floor:.0f} ms"
    return Row(
        f"glass to glass: {name}, p50", p50, "ms", baseline, None, "", None,
        f"{name}: {len(delays)} pictures, p50 {p50:.0f} ms, p95 {p95:.0f} ms, worst {ordered[-1]:.0f} ms",
    ).as_dict() | {"p95": p95}  # fmt: skip


async def measure(node: RunningNode, film: Callable[[int], Any]) -> list[dict[str, Any]]:
    client = MediaClient(node.config.control, SECRET)
    await client.start()
    floor = statistics.median(await asyncio.to_thread(alone))
    camera = film((await client.open_receiver(ReceiverSpec(stream_id=STREAM, idle_grace_s=600))).port)
    try:
        async with asyncio.timeout(30):
            while not (await client.stream(STREAM)).ready:
                await asyncio.sleep(0.1)
        http, query = f"http://127.0.0.1:{node.viewer_port}/live/{STREAM}", f"?ticket={ticket(STREAM)}"
        ways = {
            "fMP4 over HTTP, FFmpeg": (f"{http}.mp4{query}", {}),
            "FLV over HTTP, FFmpeg": (f"{http}.flv{query}", {}),
            "TS over HTTP, FFmpeg": (f"{http}.ts{query}", {}),
            "RTSP over TCP, FFmpeg": (
                f"rtsp://127.0.0.1:{node.ready.get('rtsp_port', 0)}/live/{STREAM}{query}", {"rtsp_transport": "tcp"},
            ),
        }  # fmt: skip
        found: dict[str, Delays] = {"relay to an upper platform": await relayed(client)}
        for name, (url, options) in ways.items():
            try:
                found[name] = await asyncio.to_thread(by_ffmpeg, url, options)
            except (av.FFmpegError, OSError) as error:
                print(f"{name}: {error}")
                found[name] = []
        with contextlib.suppress(MediaError):
            found["WebRTC, aiortc"] = await by_aiortc(client)
            found |= await in_chromium(node, client)
    finally:
        camera.terminate()
        camera.join(5)
        await client.close()
    rows = [row(name, delays, floor) for name, delays in found.items() if name != "notice"]
    if not any("Chromium" in name for name in found):
        rows.append(Row("glass to glass: no Chromium here for WebRTC", 0, "left out").as_dict())
    return rows


def film(port: int) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=camera_process, args=(port,), daemon=True)
    process.start()
    return process


def run() -> list[dict[str, Any]]:
    """One row per way a picture goes; about 90 s."""
    with running_node(**known(rtsp_port=0)) as node:
        return asyncio.run(measure(node, film))


if __name__ == "__main__":
    for one in run():
        print(one)
