"""Snapshots: the key frame as a JPEG, by a worker whose crash or hang costs one picture."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession
from PIL import Image

from media.decode import MAX_WAITING, PictureDecoder, key_frame_to_jpeg
from media.errors import MediaError
from media.unit import Codec
from simulator.picture import TestPicture, read_mark, tone


def frame_number(jpeg: bytes) -> int:
    mark = read_mark(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")))
    assert mark is not None
    return mark.frame


@pytest.fixture
async def decoder():  # type: ignore[no-untyped-def]
    decoder = PictureDecoder()
    yield decoder
    await decoder.close()


@pytest.mark.parametrize("codec", ["h264", "h265"])
async def test_a_key_frame_becomes_a_jpeg(decoder: PictureDecoder, codec: str) -> None:
    units = TestPicture(704, 576, codec=codec, gop=10).encoded_loop(1)
    jpeg = await decoder.jpeg(units[10].codec, units[10].data)
    assert Image.open(io.BytesIO(jpeg)).size == (704, 576)
    assert frame_number(jpeg) == 10


async def test_one_worker_serves_all(decoder: PictureDecoder) -> None:
    units = TestPicture(352, 288, gop=5).encoded_loop(1)
    pictures = await asyncio.gather(*(decoder.jpeg(Codec.H264, unit.data) for unit in units[::5]))
    assert [frame_number(picture) for picture in pictures] == [0, 5, 10, 15, 20]
    assert decoder.restarts == 0


async def test_bytes_without_a_picture_cost_nothing_more(decoder: PictureDecoder) -> None:
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    for data in (b"", b"\x00\x00\x01\x65", b"\xff" * 1000, key.data[:40]):
        with pytest.raises(MediaError) as caught:
            await decoder.jpeg(Codec.H264, data)
        assert caught.value.code == "not_ready"
    assert frame_number(await decoder.jpeg(Codec.H264, key.data)) == 0
    assert decoder.restarts == 0


async def test_a_crash_costs_one_picture(decoder: PictureDecoder) -> None:
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    await decoder.jpeg(Codec.H264, key.data)
    assert decoder.pid is not None
    os.kill(decoder.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(decoder.jpeg(Codec.H264, key.data))
    await asyncio.sleep(0.1)
    os.kill(decoder.pid, signal.SIGKILL)
    with pytest.raises(MediaError) as caught:
        await waiting
    assert caught.value.code == "unavailable"
    assert frame_number(await decoder.jpeg(Codec.H264, key.data)) == 0
    assert decoder.restarts == 1


async def test_a_hang_ends_in_time(decoder: PictureDecoder) -> None:
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    await decoder.jpeg(Codec.H264, key.data)
    pid = decoder.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(MediaError) as caught:
        await decoder.jpeg(Codec.H264, key.data, timeout_s=0.2)
    assert caught.value.code == "unavailable"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert frame_number(await decoder.jpeg(Codec.H264, key.data)) == 0


async def test_too_many_at_once_are_turned_away() -> None:
    decoder = PictureDecoder((sys.executable, "-c", "import time; time.sleep(60)"))
    jobs = [asyncio.create_task(decoder.jpeg(Codec.H264, b"x", timeout_s=30)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(MediaError) as caught:
        await decoder.jpeg(Codec.H264, b"x")
    assert caught.value.code == "unavailable"
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await decoder.close()


async def test_the_worker_ends_with_its_input(decoder: PictureDecoder) -> None:
    await decoder.jpeg(Codec.H264, TestPicture(352, 288).encoded_loop(0.04)[0].data)
    process = decoder._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(10):
        assert await process.wait() == 0


async def test_other_codecs_are_unsupported(decoder: PictureDecoder) -> None:
    with pytest.raises(MediaError) as caught:
        await decoder.jpeg(Codec.SVAC, b"")
    assert caught.value.code == "unsupported"


def test_damaged_key_frames_never_break_the_worker_side() -> None:
    key = bytearray(TestPicture(352, 288).encoded_loop(0.04)[0].data)
    random = np.random.default_rng(7)
    for _ in range(30):
        spoiled = bytearray(key)
        for place in random.integers(4, len(key), 20):
            spoiled[place] = int(random.integers(0, 256))
        with contextlib.suppress(ValueError):
            assert key_frame_to_jpeg("h264", bytes(spoiled), 85)[:2] == b"\xff\xd8"


async def test_the_route_serves_the_newest_key_frame(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    for unit in TestPicture(352, 288, gop=10).encoded_loop(1)[:15]:
        stream.publish(unit)
    async with http.post(reader_node.url("/streams/gate/snapshot")) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "image/jpeg"
        assert response.headers["Cache-Control"] == "no-store"
        assert frame_number(await response.read()) == 10


async def test_the_route_waits_for_the_first_picture(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    asyncio.get_running_loop().call_later(0.2, stream.publish, TestPicture(352, 288).encoded_loop(0.04)[0])
    async with http.post(reader_node.url("/streams/gate/snapshot")) as response:
        assert response.status == 200


async def test_the_route_says_why_not(reader_node: Any, http: ClientSession) -> None:
    async with http.post(reader_node.url("/streams/yard/snapshot")) as response:
        assert response.status == 404
    reader_node.config = reader_node.config.model_copy(update={"snapshot_timeout_s": 0.05})
    stream = reader_node.open()
    async with http.post(reader_node.url("/streams/gate/snapshot")) as response:
        assert (response.status, (await response.json())["code"]) == (503, "not_ready")
    for unit in tone(3):
        stream.publish(unit)
    async with http.post(reader_node.url("/streams/gate/snapshot")) as response:
        assert (response.status, (await response.json())["code"]) == (415, "unsupported")
