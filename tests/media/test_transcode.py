"""Transcoding: what browsers cannot play becomes H.264, by a process that may crash, hang or be one too many."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import av
import pytest

from media import nal
from media.errors import MediaError
from media.sources import transcode
from media.sources.inputs import InputHost
from media.sources.launch import Launcher
from media.sources.transcode import TranscoderSlots, TranscodeSource
from media.specs import NodeConfig, TranscodeInput
from media.stream import Stream, StreamEnded
from media.transcode import H264, H265, KEY, Order, Transcoder, fitted
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, read_mark, tone

SIZE = (352, 288)


def numbers(units: list[AccessUnit]) -> list[int]:
    """The frame numbers that the decoded pictures carry."""
    decoder = av.CodecContext.create("h264", "r")
    frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit.data))] + decoder.decode(
        None
    )
    marks = [read_mark(frame.to_ndarray(format="gray")) for frame in frames]
    return [mark.frame for mark in marks if mark is not None]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (1280, 720)),
        ((2560, 1920), (960, 720)),
        ((352, 288), (352, 288)),
        ((1080, 1920), (404, 720)),
        ((3, 1), (2, 2)),
    ],
)
def test_pictures_keep_their_shape_and_are_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted(*size, Order()) == expected


@pytest.mark.parametrize(
    "picture",
    [
        TestPicture(640, 360, codec="h265"),
        TestPicture(640, 360, preset="veryfast", b_frames=2),
    ],
    ids=["h265", "b-frames"],
)
def test_each_picture_comes_out_as_baseline_h264_with_its_time(picture: TestPicture) -> None:
    transcoder = Transcoder(Order(max_width=480, max_height=480))
    kind = {Codec.H264: H264, Codec.H265: H265}[picture.codec]
    source = picture.encoded_loop(2)
    out = [made for unit in source for made in transcoder.take(kind, 0, unit.pts, unit.data)]
    units = [AccessUnit(Codec.H264, pts, pts, bool(flags & KEY), data) for flags, pts, data in out]
    assert [unit.pts for unit in units] == sorted(unit.pts for unit in source)[: len(units)]
    assert len(units) >= len(source) - 3
    info = nal.describe(Codec.H264, units[0].data)
    assert info is not None
    assert (info.profile, info.width, info.height) == (66, 480, 270)
    assert units[0].key
    assert not any(nal.has_b_slices(Codec.H264, unit.data) for unit in units)
    found = numbers(units)
    assert found == list(range(len(units)))


def test_garbage_in_gives_nothing_and_the_next_key_frame_a_picture() -> None:
    transcoder = Transcoder(Order())
    key = TestPicture(*SIZE, codec="h265").encoded_loop(0.04)[0]
    assert transcoder.take(H265, 0, 0, b"\0\0\0\1\x40\1" + b"\xff" * 200) == []
    assert transcoder.take(H265, 0, 1, os.urandom(500)) == []
    assert len(transcoder.take(H265, 0, 3600, key.data)) == 1


class Desk:
    """A source stream that is fed live, and what a node lends to the transcoders of it."""

    def __init__(self, config: NodeConfig, limit: int = 2) -> None:
        self.source = Stream("camera")
        self.lost: list[str] = []
        self.slots = TranscoderSlots(limit)
        self.made: list[TranscodeSource] = []
        self.host = InputHost(
            config=config, on_lost=self.lost.append, clock=time.monotonic, stream_of=lambda _: self.source,
            launcher=Launcher(), transcoders=self.slots,
        )  # fmt: skip
        self.feeding: asyncio.Task[None] | None = None

    def open(self, stream_id: str = "small", **options: Any) -> TranscodeSource:
        spec = TranscodeInput(stream_id=stream_id, source_stream_id="camera", **options)
        made = transcode.make(spec, Stream(stream_id), self.host)
        assert isinstance(made, TranscodeSource)
        self.made.append(made)
        return made

    def feed(self, picture: TestPicture) -> None:
        self.feeding = asyncio.create_task(self._feed(picture))

    async def _feed(self, picture: TestPicture) -> None:
        pictures, sounds = picture.encoded_loop(2), tone(2)
        for index in range(25 * 120):
            for unit in (pictures[index % len(pictures)], sounds[index % len(sounds)]):
                shift = index // len(pictures) * 2 * 90_000
                self.source.publish(replace(unit, pts=unit.pts + shift, dts=unit.dts + shift))
            await asyncio.sleep(0.04)

    async def close(self) -> None:
        if self.feeding is not None:
            self.feeding.cancel()
        for made in self.made:
            made.close()
        await asyncio.wait([made._task for made in self.made])
        self.host.launcher.close()


@pytest.fixture
async def desk(node_config: NodeConfig) -> Any:
    desk = Desk(node_config)
    yield desk
    await desk.close()


async def until(condition: Callable[[], Any], timeout_s: float = 40) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


def collected(stream: Stream) -> list[AccessUnit]:
    units: list[AccessUnit] = []
    stream.attach("test", on_unit=units.append)
    return units


def pictures(units: list[AccessUnit]) -> list[AccessUnit]:
    return [unit for unit in units if unit.codec.is_video]


async def test_a_stream_of_another_stream(desk: Desk) -> None:
    desk.feed(TestPicture(*SIZE, codec="h265"))
    await desk.source.wait_ready(20)
    made = desk.open(max_height=144)
    units = collected(made.stream)
    await until(lambda: len(pictures(units)) > 20)
    assert made.stream.video is not None
    assert (made.stream.video.codec, made.stream.video.height) == ("h264", 144)
    assert made.stream.audio is not None
    assert made.stream.audio.codec == "pcma"
    found = numbers(pictures(units))
    assert all(after == (before + 1) % 50 for before, after in pairwise(found))
    sound = [unit for unit in units if not unit.codec.is_video]
    assert abs(sound[-1].pts - pictures(units)[-1].pts) < 90_000, "one clock for both"
    assert [reader.kind for reader in desk.source.readers] == ["transcode"]
    process = made.process
    assert process is not None
    made.close()
    await until(lambda: process.returncode is not None)
    assert desk.source.readers == []
    assert desk.slots.used == 0


async def test_one_too_many_is_refused(desk: Desk) -> None:
    desk.open("a")
    second = desk.open("b")
    with pytest.raises(MediaError) as caught:
        desk.open("c")
    assert (caught.value.code, caught.value.status) == ("transcoders_busy", 503)
    assert desk.slots.refused == 1
    second.close()
    second.close()
    assert desk.slots.used == 1
    desk.open("c")


async def test_a_crash_costs_a_restart(desk: Desk) -> None:
    desk.feed(TestPicture(*SIZE, codec="h265", gop=25))
    await desk.source.wait_ready(20)
    made = desk.open()
    units = collected(made.stream)
    await until(lambda: len(pictures(units)) > 5)
    assert made.process is not None
    os.kill(made.process.pid, signal.SIGKILL)
    before = len(units)
    await until(lambda: len(pictures(units[before:])) > 20)
    assert desk.slots.restarts == 1
    assert desk.lost == []
    for kind in (True, False):
        times = [unit.pts for unit in units if unit.codec.is_video is kind]
        assert all(after > before for before, after in pairwise(times)), "nothing comes twice"
    found = numbers(pictures(units))
    assert len(found) == len(pictures(units))
    assert sum((after - before) % 50 != 1 for before, after in pairwise(found)) <= 1, "one gap at most"


async def test_a_hang_costs_a_restart(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "HANG_S", 0.5)
    desk.feed(TestPicture(*SIZE, codec="h265", gop=25))
    await desk.source.wait_ready(20)
    made = desk.open()
    units = collected(made.stream)
    await until(lambda: len(pictures(units)) > 5)
    assert made.process is not None
    stopped = made.process
    os.kill(stopped.pid, signal.SIGSTOP)
    before = len(units)
    async with asyncio.timeout(40):
        while made.process is stopped:
            made.check(time.monotonic())
            await asyncio.sleep(0.05)
    await until(lambda: len(pictures(units[before:])) > 10)
    assert desk.slots.restarts == 1


async def test_what_cannot_run_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "RESTART_PAUSE_S", 0.01)
    monkeypatch.setattr(transcode, "_COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    spec = TranscodeInput(stream_id="small", source_stream_id="camera")
    desk.slots.take()
    made = TranscodeSource(
        spec, Stream("small"), desk.host, desk.source, (sys.executable, "-c", "raise SystemExit(1)")
    )
    desk.made.append(made)
    await until(lambda: desk.lost)
    assert desk.lost == ["transcoder_failed"]
    assert desk.slots.restarts == transcode.RESTARTS + 1


async def test_the_end_of_the_source_is_told(desk: Desk) -> None:
    desk.feed(TestPicture(*SIZE, codec="h265"))
    await desk.source.wait_ready(20)
    made = desk.open()
    units = collected(made.stream)
    await until(lambda: pictures(units))
    desk.source.close("no_rtp")
    await until(lambda: desk.lost)
    assert desk.lost == ["source_no_rtp"]
    with pytest.raises(StreamEnded):
        desk.source.attach("late")


async def test_a_key_frame_is_made_when_one_is_asked_for(desk: Desk) -> None:
    desk.feed(TestPicture(*SIZE, codec="h265", gop=50))
    await desk.source.wait_ready(20)
    made = desk.open()
    units = collected(made.stream)
    await until(lambda: len(pictures(units)) > 15)
    keys = [index for index, unit in enumerate(pictures(units)) if unit.key]
    asked = len(pictures(units))
    made.stream._key_frame_asked_mono = None
    made.stream.request_key_frame()
    await until(lambda: len(pictures(units)) > asked + 15)
    new = [index for index, unit in enumerate(pictures(units)) if unit.key and index >= asked]
    assert new
    assert new[0] < asked + 15
    assert new[0] not in [keys[-1] + 50]
