"""FFmpeg reads what an upper platform gets: ten seconds of each transport as a PS file, every picture, no error."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import pytest_asyncio
from chain import Chain, camera, chain

from simulator.camera import DeviceOptions
from simulator.sending import Pictures

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.needs("ffprobe", "ffmpeg"),
    pytest.mark.timeout(240),
    pytest.mark.slow,
]

SECONDS = 10
SOUND_SERIAL = 78
H265_SERIAL = 77
RATE = 25


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chain]:
    # pictures alone: FFmpeg takes every 0xC0 stream for MPEG audio, whatever the stream map says (libavformat/mpeg.c)
    pictures = Pictures(width=640, height=360, rate=RATE, sound=False)
    folder = tmp_path_factory.mktemp("ffprobe")
    async with chain(folder, 1, options=DeviceOptions(pictures=pictures)) as running:
        running.cameras += [
            camera(running.gateway, H265_SERIAL, DeviceOptions(pictures=pictures), codec="h265"),
            camera(running.gateway, SOUND_SERIAL, DeviceOptions(pictures=replace(pictures, sound=True))),
        ]
        for device in running.cameras[1:]:
            await device.start()
            await device.wait_registered(20)
            await running.channel_online(device)
        yield running


async def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, list(arguments), capture_output=True, text=True, timeout=120, check=False
    )


async def probed(file: Path) -> dict[str, Any]:
    result = await program(
        "ffprobe", "-v", "error", "-f", "mpeg", "-count_frames", "-show_streams", "-of", "json", str(file)
    )
    assert (result.returncode, result.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(result.stdout)
    return {stream["codec_type"]: stream for stream in answer["streams"]}


def counted(file: Path) -> tuple[int, list[int]]:
    """Pictures decoded by PyAV, and their presentation times in order."""
    times: list[int] = []
    with av.open(str(file), format="mpeg") as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            times.append(frame.pts)
    return len(times), times


@pytest.mark.gb("G222", "G223")
@pytest.mark.parametrize(
    ("codec", "transport"),
    [("h264", "udp"), ("h264", "tcp_passive"), ("h264", "tcp_active"), ("hevc", "udp")],
)
async def test_ffmpeg_decodes_every_picture(house: Chain, codec: str, transport: str, tmp_path: Path) -> None:
    device = house.cameras[0] if codec == "h264" else house.cameras[1]
    file = tmp_path / f"{codec}-{transport}.ps"
    pull = await house.upper.invite(device.channel_id, transport, keep=file)
    await pull.media.wait_frames(SECONDS * RATE, 60)
    await pull.close()
    stats = pull.media.stats
    # what the upper counts in the packets: nothing lost, one SSRC as agreed, one timestamp per frame, pack first
    assert (stats.lost, stats.repeated, stats.strange, stats.decode_errors) == (0, 0, 0, 0)
    assert (stats.timestamp_faults, stats.structure_faults) == (0, 0)
    assert set(stats.ssrcs) == {pull.answer.ssrc} == {pull.ssrc}
    assert stats.first_key_first is True

    # what ffmpeg says about the same bytes
    streams = await probed(file)
    assert streams["video"]["codec_name"] == codec
    assert (streams["video"]["width"], streams["video"]["height"]) == (640, 360)
    assert int(streams["video"]["nb_read_frames"]) >= SECONDS * RATE - 10
    assert set(streams) == {"video"}
    decoding = await program(
        "ffmpeg", "-v", "error", "-xerror", "-f", "mpeg", "-i", str(file), "-f", "null", "-"
    )
    assert (decoding.returncode, decoding.stderr) == (0, "")
    frames, times = await asyncio.to_thread(counted, file)
    assert frames >= SECONDS * RATE - 10
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {90_000 // RATE}


async def test_sound_beside_the_picture_disturbs_no_picture(house: Chain, tmp_path: Path) -> None:
    file = tmp_path / "sound.ps"
    pull = await house.upper.invite(house.cameras[2].channel_id, "udp", keep=file)
    await pull.media.wait_frames(2 * RATE, 60)
    await pull.close()
    assert pull.media.stats.audio_units > RATE
    command = ["ffmpeg", "-v", "error", "-f", "mpeg", "-i", str(file), "-map", "0:v:0", "-f", "framemd5", "-"]
    result = await program(*command)
    assert result.returncode == 0
    assert [line for line in result.stderr.splitlines() if "[mp2 @" not in line] == []
    assert len([line for line in result.stdout.splitlines() if not line.startswith("#")]) >= 2 * RATE - 10
