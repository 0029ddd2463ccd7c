"""FFmpeg and PyAV watch by RTSP: every decoded picture equals the source's, the sound is there and in step."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import subprocess
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
import pytest
from rtsp_house import RtspHouse, rtsp_house

from media.es import adts_header
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec
from simulator.picture import TestPicture, read_mark

RATE = 25
LOOP = 20
LOOP_S = LOOP / RATE
WANTED = 30
"""Pictures to see: more than one group, so that a player passes from the cached pictures to live ones."""


def pictures(codec: str = "h264", b_frames: int = 0) -> list[AccessUnit]:
    """One group of pictures; with B-frames the first dts are moved so that the clock begins at 0."""
    units = TestPicture(320, 192, codec=codec, gop=LOOP, bitrate=400_000, b_frames=b_frames).encoded_loop(
        LOOP_S
    )
    first = min(unit.dts for unit in units)
    return [replace(unit, pts=unit.pts - first, dts=unit.dts - first) for unit in units]


def md5(picture: Any) -> str:
    return hashlib.md5(np.ascontiguousarray(picture).tobytes()).hexdigest()


def source_hashes(units: list[AccessUnit]) -> list[str]:
    """The pictures of one loop as decoded on the spot, in the order in which they are shown."""
    decoder = av.CodecContext.create("hevc" if units[0].codec is Codec.H265 else "h264", "r")
    frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit.data))]
    frames += decoder.decode(None)
    return [md5(frame.to_ndarray(format="yuv420p")) for frame in frames]


def assert_in_order(seen: list[str], source: list[str]) -> None:
    """``seen`` is a part of the repeated source that begins with its key frame and leaves nothing out."""
    assert len(seen) >= WANTED
    expected = list(itertools.islice(itertools.cycle(source), len(seen)))
    assert seen == expected


async def ffmpeg(url: str, transport: str) -> list[str]:
    """MD5 of each picture that FFmpeg decodes."""
    result = await asyncio.to_thread(
        subprocess.run,
        ["ffmpeg", "-v", "error", "-rtsp_transport", transport, "-i", url, "-map", "0:v", "-frames:v", str(WANTED),
         "-vsync", "passthrough", "-pix_fmt", "yuv420p", "-f", "framemd5", "-"],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return [line.split(",")[-1].strip() for line in result.stdout.splitlines() if not line.startswith("#")]


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(("codec", "b_frames"), [("h264", 0), ("h264", 2), ("h265", 0)])
async def test_ffmpeg_sees_every_picture(codec: str, b_frames: int, transport: str) -> None:
    units = pictures(codec, b_frames)
    if b_frames:
        assert any(unit.pts != unit.dts for unit in units)
    async with rtsp_house() as house:
        stream = house.open()
        house.feed(stream, units, LOOP_S)
        await stream.wait_ready(20)
        assert_in_order(await ffmpeg(house.address(), transport), source_hashes(units))
        assert stream.total_drops == 0
        await left(house)
        assert house.ports.leased == 0


async def left(house: RtspHouse, viewers: int = 1) -> None:
    async with asyncio.timeout(20):
        while len(house.closed) < viewers:
            await asyncio.sleep(0.02)
    assert {kind for _, kind in house.opened} == {"rtsp"}
    assert house.rtsp.channels == {}


# --- sound -----------------------------------------------------------------------------------------------------


def pcma(seconds: float = LOOP_S) -> list[AccessUnit]:
    """Sound of 40 ms units, each filled with its own number."""
    step = TICKS_PER_SECOND // RATE
    return [
        AccessUnit(Codec.PCMA, number * step, number * step, False, bytes((number,)) * 320)
        for number in range(int(seconds * RATE))
    ]


def aac(rate_hz: int = 16000) -> list[AccessUnit]:
    """One loop of a tone in AAC, one or two frames a unit, with the frames' true times."""
    encoder: Any = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = rate_hz, "stereo", "fltp", 48_000
    samples = np.sin(np.arange(rate_hz, dtype=np.float32) * 2 * np.pi * 440 / rate_hz) * 0.5
    frames: list[bytes] = []
    for start in range(0, int(rate_hz * LOOP_S) - 1023, 1024):
        frame = av.AudioFrame.from_ndarray(
            np.stack([samples[start : start + 1024]] * 2), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts = rate_hz, start
        frames += [bytes(packet) for packet in encoder.encode(frame)]
    units = []
    for start in range(0, len(frames), 2):
        data = b"".join(adts_header(len(f), rate_hz, 2) + f for f in frames[start : start + 2])
        ticks = start * 1024 * TICKS_PER_SECOND // rate_hz
        units.append(AccessUnit(Codec.AAC, ticks, ticks, False, data))
    return units


@dataclass
class Watched:
    """What PyAV got: per picture (time, number in the loop), per piece of sound (time, bytes)."""

    pictures: list[tuple[float, int]]
    sound: list[tuple[float, bytes]]
    codecs: list[str]
    rate_hz: int


def watch(url: str, transport: str) -> Watched:
    with av.open(url, options={"rtsp_transport": transport}, timeout=(30.0, 30.0)) as container:
        codecs = [stream.codec_context.name for stream in container.streams]
        watched = Watched([], [], codecs, container.streams.audio[0].rate)
        for packet in container.demux():
            if packet.pts is None:
                continue
            at = float(packet.pts * packet.time_base)
            if packet.stream.type == "audio":
                watched.sound.append((at, bytes(packet)))
                continue
            for frame in packet.decode():
                mark = read_mark(frame.to_ndarray(format="gray"))
                assert mark is not None
                watched.pictures.append((frame.time, mark.frame))
            if len(watched.pictures) >= WANTED:
                return watched
    raise AssertionError("the stream ended")


def drift(pairs: list[tuple[float, float]]) -> float:
    """Mean of (time at the player - time at the source), both modulo the loop."""
    return float(np.mean([(at - true + LOOP_S / 2) % LOOP_S - LOOP_S / 2 for at, true in pairs]))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_g711_is_there_and_in_step(transport: str) -> None:
    async with rtsp_house() as house:
        stream = house.open()
        house.feed(stream, sorted(pictures() + pcma(), key=lambda unit: unit.dts), LOOP_S)
        await stream.wait_ready(20)
        watched = await asyncio.to_thread(watch, house.address(), transport)
        assert watched.codecs == ["h264", "pcm_alaw"]
        numbers = [data[0] for _, data in watched.sound]
        assert len(numbers) >= WANTED - 5
        assert all((later - earlier) % LOOP == 1 for earlier, later in itertools.pairwise(numbers))
        sight = drift([(at, number / RATE) for at, number in watched.pictures])
        sound = drift([(at, data[0] / RATE) for at, data in watched.sound])
        assert abs(sight - sound) < 0.1
        await left(house)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_aac_is_there_and_in_step(transport: str) -> None:
    sound = aac()
    frames = {data[7:]: None for data in (bytes(unit.data) for unit in sound)}
    assert frames
    async with rtsp_house() as house:
        stream = house.open()
        house.feed(stream, sorted(pictures() + sound, key=lambda unit: unit.dts), LOOP_S)
        await stream.wait_ready(20)
        watched = await asyncio.to_thread(watch, house.address(), transport)
        assert watched.codecs == ["h264", "aac"]
        assert watched.rate_hz == 16000
        true = {}
        for unit in sound:
            at, start = 0, unit.pts / TICKS_PER_SECOND
            while at < len(unit.data):
                size = (unit.data[at + 3] & 3) << 11 | unit.data[at + 4] << 3 | unit.data[at + 5] >> 5
                true[unit.data[at + 7 : at + size]] = start
                at, start = at + size, start + 1024 / 16000
        assert len(watched.sound) > 10
        assert {data for _, data in watched.sound} <= set(true)
        loud = [(at, true[data]) for at, data in watched.sound if list(true).count(data) == 1]
        sight = drift([(at, number / RATE) for at, number in watched.pictures])
        assert abs(sight - drift(loud)) < 0.1
        await left(house)


@pytest.mark.needs("ffmpeg")
async def test_ffmpeg_and_pyav_share_one_packetiser() -> None:
    units = pictures()
    async with rtsp_house() as house:
        stream = house.open()
        house.feed(stream, units, LOOP_S)
        await stream.wait_ready(20)
        results = await asyncio.gather(
            ffmpeg(house.address(), "tcp"), ffmpeg(house.address(), "udp"), shared(house, 2)
        )
        for seen in results[:2]:
            assert_in_order(seen, source_hashes(units))
        await left(house, 2)


async def shared(house: RtspHouse, viewers: int) -> None:
    """While all watch there is one channel, and it has packetised each unit once."""
    async with asyncio.timeout(30):
        while len(house.opened) < viewers:
            await asyncio.sleep(0.02)
    (channel,) = house.rtsp.channels.values()
    before, published = channel.units, channel.stream.video_units
    await asyncio.sleep(0.3)
    assert channel.units - before == channel.stream.video_units - published > 0
    assert channel.seats == viewers
