"""Snapshots: the key frame as a JPEG, by a worker whose crash or hang costs one picture."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession
from PIL import Image

from media import nal
from media.decode import MAX_WAITING, DecodePool, key_frame_to_jpeg
from media.errors import MediaError
from media.unit import Codec
from simulator.picture import TestPicture, read_mark, tone


def frame_number(jpeg: bytes) -> int:
    mark = read_mark(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")))
    assert mark is not None
    return mark.frame


@pytest.fixture
async def decoder() -> AsyncIterator[DecodePool]:
    decoder = DecodePool(1)
    yield decoder
    await decoder.close()


@pytest.fixture
async def pair() -> AsyncIterator[DecodePool]:
    pool = DecodePool(2)
    yield pool
    await pool.close()


@pytest.mark.parametrize("codec", ["h264", "h265"])
async def test_a_key_frame_becomes_a_jpeg(decoder: DecodePool, codec: str) -> None:
    units = TestPicture(704, 576, codec=codec, gop=10).encoded_loop(1)
    jpeg = await decoder.jpeg(units[10].codec, units[10].data)
    assert Image.open(io.BytesIO(jpeg)).size == (704, 576)
    assert frame_number(jpeg) == 10


async def test_one_worker_serves_all(decoder: DecodePool) -> None:
    units = TestPicture(352, 288, gop=5).encoded_loop(1)
    pictures = await asyncio.gather(*(decoder.jpeg(Codec.H264, unit.data) for unit in units[::5]))
    assert [frame_number(picture) for picture in pictures] == [0, 5, 10, 15, 20]
    assert decoder.counters.crashed == 0


async def test_bytes_without_a_picture_cost_nothing_more(decoder: DecodePool) -> None:
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    for data in (b"", b"\x00\x00\x01\x65", b"\xff" * 1000, key.data[:40]):
        with pytest.raises(MediaError) as caught:
            await decoder.jpeg(Codec.H264, data)
        assert caught.value.code == "not_ready"
    assert frame_number(await decoder.jpeg(Codec.H264, key.data)) == 0
    assert decoder.counters.crashed == 0


async def test_a_crash_costs_one_picture(decoder: DecodePool) -> None:
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    await decoder.jpeg(Codec.H264, key.data)
    (pid,) = decoder.pids
    os.kill(pid, signal.SIGSTOP)
    waiting = asyncio.create_task(decoder.jpeg(Codec.H264, key.data))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(MediaError) as caught:
        await waiting
    assert caught.value.code == "unavailable"
    assert frame_number(await decoder.jpeg(Codec.H264, key.data)) == 0
    assert decoder.counters.crashed == 1


async def test_a_hang_ends_in_time(decoder: DecodePool) -> None:
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    await decoder.jpeg(Codec.H264, key.data)
    (pid,) = decoder.pids
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(MediaError) as caught:
        await decoder.jpeg(Codec.H264, key.data, timeout_s=0.2)
    assert caught.value.code == "unavailable"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert frame_number(await decoder.jpeg(Codec.H264, key.data)) == 0


async def test_too_many_at_once_are_turned_away() -> None:
    decoder = DecodePool(command=(sys.executable, "-c", "import time; time.sleep(60)"))
    jobs = [asyncio.create_task(decoder.jpeg(Codec.H264, b"x", timeout_s=30)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(MediaError) as caught:
        await decoder.jpeg(Codec.H264, b"x")
    assert caught.value.code == "unavailable"
    assert decoder.counters.refused == 1
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await decoder.close()


async def test_a_hang_in_one_worker_leaves_the_other_free(pair: DecodePool) -> None:
    units = TestPicture(352, 288, gop=5).encoded_loop(1)[::5]
    await asyncio.gather(*(pair.jpeg(Codec.H264, unit.data) for unit in units))
    assert len(pair.pids) == 2, "both were needed"
    stopped = pair._all[1].process
    assert stopped is not None
    os.kill(stopped.pid, signal.SIGSTOP)
    jobs = [asyncio.create_task(pair.jpeg(Codec.H264, units[0].data, timeout_s=3)) for _ in range(2)]
    await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    pictures = [await pair.jpeg(Codec.H264, unit.data) for unit in units]
    assert [frame_number(picture) for picture in pictures] == [0, 5, 10, 15, 20]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(result) for result in results} == {bytes, MediaError}
    assert pair.counters.late == 1


async def test_a_killed_worker_costs_one_of_many_pictures(pair: DecodePool) -> None:
    key = TestPicture(1280, 720).encoded_loop(0.04)[0]
    await asyncio.gather(*(pair.jpeg(Codec.H264, key.data) for _ in range(2)))
    jobs = [asyncio.create_task(pair.jpeg(Codec.H264, key.data, timeout_s=30)) for _ in range(8)]
    await asyncio.sleep(0)
    os.kill(pair.pids[0], signal.SIGKILL)
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert sum(isinstance(result, MediaError) for result in results) == 1
    assert sum(isinstance(result, bytes) for result in results) == 7
    assert pair.counters.crashed == 1


async def test_workers_are_replaced_after_their_share() -> None:
    pool = DecodePool(1, jobs_per_worker=3)
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    seen = []
    for _ in range(7):
        await pool.jpeg(Codec.H264, key.data)
        seen += pool.pids
    assert pool.counters.recycled == 2
    assert len(set(seen)) == 3
    await pool.close()


def sps(width: int, height: int) -> bytes:
    """A Baseline SPS (ISO/IEC 14496-10 7.3.2.1.1) that promises pictures of this size."""
    bits = ""

    def ue(value: int) -> str:
        code = bin(value + 1)[2:]
        return "0" * (len(code) - 1) + code

    bits += f"{66:08b}{0b11000000:08b}{62:08b}" + ue(0) + ue(0) + ue(2) + ue(1) + "0"
    bits += ue(width // 16 - 1) + ue(height // 16 - 1) + "1" + "1" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    return b"\0\0\0\1\x67" + bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))


async def test_parameter_sets_that_promise_a_giant_are_refused(decoder: DecodePool) -> None:
    """And when they get past us, the decoder refuses them, within its memory."""
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    rest = [unit for unit in nal.split_annexb(key.data) if unit[0] & 0x1F != 7]
    bomb = sps(16384, 16384) + nal.join_annexb(rest)
    with pytest.raises(MediaError) as caught:
        await decoder.jpeg(Codec.H264, bomb)
    assert caught.value.code == "not_ready"
    assert decoder.counters.oversized == 1
    assert decoder.counters.jobs == 0
    with pytest.raises(ValueError, match=r"\w"):
        key_frame_to_jpeg("h264", bomb, 85)
    status, _ = await decoder._run(struct.pack(">BBI", 1, 85, len(bomb)) + bomb)
    assert status == 1
    assert frame_number(await decoder.jpeg(Codec.H264, key.data)) == 0
    assert decoder.counters.crashed == 0


BURN = """
import media.decode as decode
def burn(*_):
    while True: pass
decode.JOB_CPU_S = 0
decode.key_frame_to_jpeg = burn
decode.main()
"""
HOARD = """
import media.decode as decode
decode.key_frame_to_jpeg = lambda *_: bytes(2 << 30)
decode.main()
"""


@pytest.mark.parametrize(("program", "code"), [(BURN, "unavailable"), (HOARD, "not_ready")])
async def test_time_and_memory_of_a_job_are_limited(program: str, code: str) -> None:
    """The kernel ends a job that computes for ever; one that hoards memory fails by itself."""
    pool = DecodePool(1, command=(sys.executable, "-c", program))
    key = TestPicture(352, 288).encoded_loop(0.04)[0]
    with pytest.raises(MediaError) as caught:
        await pool.jpeg(Codec.H264, key.data, timeout_s=60)
    assert caught.value.code == code
    assert pool.counters.late == 0
    await pool.close()


async def test_the_worker_ends_with_its_input(decoder: DecodePool) -> None:
    await decoder.jpeg(Codec.H264, TestPicture(352, 288).encoded_loop(0.04)[0].data)
    process = decoder._all[0].process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(10):
        assert await process.wait() == 0


async def test_other_codecs_are_unsupported(decoder: DecodePool) -> None:
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
