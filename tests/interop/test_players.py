"""GStreamer plays RTSP, HTTP-TS, HTTP-FLV and HLS: pictures and sound decoded by a program that shares no code with ours.

It ends by itself after so many pictures, each of which carries its number, and must have nothing to complain about.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from port_ranges import kept_ports
from studio import CONTROL_SECRET, TICKET_SECRET, Stage

from media import tickets
from media.client import MediaClient
from media.specs import NodeConfig
from simulator.picture import TestPicture, read_mark

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SIZE = (352, 288)
PICTURES = 60
"""More than two groups of pictures: a player passes from what was kept for it to what is live."""
_RTP = kept_ports(100)


@dataclass
class House:
    """A media node in a process of its own."""

    client: MediaClient
    viewer_port: int
    rtsp_port: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    config = NodeConfig(
        node_id="players", control=f"unix:{tmp_path_factory.mktemp('node')}/c", control_secret=CONTROL_SECRET,
        media_host="127.0.0.1", bind_host="127.0.0.1", viewer_host="127.0.0.1", viewer_port=0, rtsp_port=0,
        rtp_port_min=_RTP[0], rtp_port_max=_RTP[1], ticket_secret=TICKET_SECRET,
    )  # fmt: skip
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "media.node", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert node.stdin is not None
    assert node.stdout is not None
    node.stdin.write(config.model_dump_json().encode() + b"\n")
    async with asyncio.timeout(60):
        ready = json.loads(await node.stdout.readline())
    client = MediaClient(config.control, CONTROL_SECRET)
    await client.start()
    try:
        yield House(client, ready["viewer_port"], ready["rtsp_port"])
    finally:
        await client.close()
        node.stdin.close()
        async with asyncio.timeout(30):
            await node.wait()


@asynccontextmanager
async def filmed(house: House, codec: str) -> AsyncIterator[tuple[Stage, str]]:
    """A live stream with sound, for one player."""
    stage = Stage(house.client, house.viewer_port, None)
    try:
        yield stage, await stage.film(TestPicture(*SIZE, codec=codec, gop=25, bitrate=300_000))
    finally:
        for camera in stage.cameras:
            await camera.stop()
        for stream_id in stage.streams:
            await house.client.close_receiver(stream_id)


def address(house: House, stage: Stage, way: str, stream_id: str) -> str:
    if way.startswith("rtsp"):
        ticket = tickets.sign(TICKET_SECRET, stream_id, time.time() + 60)
        return f"rtsp://127.0.0.1:{house.rtsp_port}/live/{stream_id}?ticket={ticket}"
    return stage.url("http", stream_id, f".{way}")


async def run(*command: str, timeout_s: float = 90.0) -> tuple[int, str]:
    """Exit status, and what the program wrote."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate()
    except TimeoutError:
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        return -1, out.decode(errors="replace")
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")


# -- GStreamer ----------------------------------------------------------------------------------------------------


def gstreamer(url: str, way: str, kind: str, sink: str) -> list[str]:
    """A pipeline that decodes one kind of media and ends by itself."""
    if way.startswith("rtsp"):
        protocol = "udp" if way == "rtsp_udp" else "tcp"
        source = f"rtspsrc location={url} protocols={protocol} latency=300 ! application/x-rtp,media={kind} ! decodebin"
    else:
        # the older element never begins with an HLS playlist that grows
        source = f"{'uridecodebin3' if way == 'm3u8' else 'uridecodebin'} uri={url} ! {kind}/x-raw"
    return ["gst-launch-1.0", *f"{source} ! {sink}".split()]


def marks_of(raw: bytes) -> list[int]:
    """Numbers of grey pictures that lie one behind the other; -1 for one that cannot be read."""
    size = SIZE[0] * SIZE[1]
    found = []
    for start in range(0, len(raw) - size + 1, size):
        mark = read_mark(np.frombuffer(raw, np.uint8, size, start).reshape(SIZE[1], SIZE[0]))
        found.append(-1 if mark is None else mark.frame)
    return found


@pytest.mark.needs("gst-launch-1.0")
@pytest.mark.parametrize(
    ("codec", "way"),
    [
        ("h264", "rtsp"), ("h264", "rtsp_udp"), ("h264", "ts"), ("h264", "flv"), ("h264", "m3u8"),
        ("h265", "rtsp_udp"), ("h265", "ts"),
    ],
)  # fmt: skip
async def test_gstreamer_shows_every_picture(house: House, tmp_path: Path, codec: str, way: str) -> None:
    # the element drops one of the last pictures where it ends the pipeline: they are not looked at
    target = tmp_path / "grey"
    sink = f"videoconvert ! video/x-raw,format=GRAY8 ! identity eos-after={PICTURES + 5} ! filesink location={target}"
    async with filmed(house, codec) as (stage, stream_id):
        status, told = await run(*gstreamer(address(house, stage, way, stream_id), way, "video", sink))
    assert status == 0, told
    assert "ERROR" not in told
    assert "WARN" not in told, told
    found = marks_of(target.read_bytes())[:PICTURES]
    assert len(found) == PICTURES
    if way == "rtsp_udp":  # a player that gets no processor time loses datagrams itself
        readable = [number for number in found if number >= 0]
        assert len(readable) >= PICTURES // 2
        assert readable == sorted(set(readable))
        return
    assert found == list(range(found[0], found[0] + len(found))), "none is missing and none damaged"


@pytest.mark.needs("gst-launch-1.0")
@pytest.mark.parametrize("way", ["rtsp", "ts", "flv"])
async def test_gstreamer_hears_the_sound(house: House, tmp_path: Path, way: str) -> None:
    target = tmp_path / "sound"
    sink = (
        "audioconvert ! audio/x-raw,format=S16LE,channels=1 ! identity eos-after=15 ! "
        f"filesink location={target}"
    )
    async with filmed(house, "h264") as (stage, stream_id):
        status, told = await run(*gstreamer(address(house, stage, way, stream_id), way, "audio", sink))
    assert status == 0, told
    assert "ERROR" not in told
    samples = np.frombuffer(target.read_bytes(), np.int16)
    assert len(samples) >= 14 * 160
    assert np.abs(samples).max() > 1000, "the beep of the test tone"
