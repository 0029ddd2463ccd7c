"""The recorder beside a running stream, with real files: borders, standby, broken and slow disks, the end of a stream."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import resource
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest

from media import segments
from media.errors import MediaError
from media.readers import segment_disks
from media.readers.recorder import Recordings, Ring
from media.specs import (
    AudioTrack,
    DiskList,
    DiskSpec,
    RecordingEnded,
    RecordingFault,
    RecordingSpec,
    SegmentClosed,
    SegmentInfo,
    SegmentOpened,
)
from media.stream import Stream
from media.unit import AccessUnit
from simulator.picture import TestPicture, tone

CAMERA = "41018300001320000001"
PICTURE = TestPicture(352, 288, gop=25)


class Host:
    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.events: list[Any] = []

    def stream(self, stream_id: str) -> Stream:
        if stream_id not in self.streams:
            raise MediaError("not_found", "no such stream")
        return self.streams[stream_id]

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class House:
    """One stream and its recordings; time of the stream is ours."""

    def __init__(self, tmp_path: Path) -> None:
        self.host = Host()
        self.stream = self.host.streams["gate"] = Stream("gate")
        self.stream.audio = AudioTrack(codec="pcma")  # known when a stream is ready
        self.recordings = Recordings(self.host, queue_bytes=8 * 1024 * 1024)
        self.folder = tmp_path
        self.base_mono = time.monotonic() - 60
        self.sent: list[AccessUnit] = []

    def disk(self, name: str, *, reserve: int = 0, usable: bool = True, marked: bool = True) -> DiskSpec:
        directory = self.folder / name
        directory.mkdir(exist_ok=True)
        if marked:
            (directory / segment_disks.MARKER).write_text("{}")
        return DiskSpec(disk_id=name, directory=str(directory), reserve_bytes=reserve, usable=usable)

    async def disks(self, *specs: DiskSpec) -> None:
        await self.recordings.set_disks(DiskList(disks=specs))

    def open(self, **values: Any) -> RecordingSpec:
        spec = RecordingSpec.model_validate(
            {
                "recording_id": "rec", "stream_id": "gate", "device_id": CAMERA, "channel_id": CAMERA,
                "segment_s": 3600.0, **values,
            }
        )  # fmt: skip
        self.recordings.open(spec)
        return spec

    async def send(self, seconds: float, *, picture: TestPicture = PICTURE, audio: bool = True) -> None:
        """The next seconds of the stream, faster than real; arrival times as if it were not."""
        begin = len(self.sent) and max(unit.dts for unit in self.sent) + 3600
        units = picture.encoded_loop(seconds) + (tone(seconds) if audio else [])
        for unit in sorted(units, key=lambda unit: unit.dts):
            at = begin + unit.dts
            moved = replace(
                unit, dts=at, pts=begin + unit.pts, arrival_mono=self.base_mono + at / 90_000
            )  # fmt: skip
            self.sent.append(moved)
            self.stream.publish(moved)
            await asyncio.sleep(0)

    async def closed(self, count: int = 1) -> list[SegmentInfo]:
        await until(lambda: len(self.host.told(SegmentClosed)) >= count)
        return [event.segment for event in self.host.told(SegmentClosed)]

    def path(self, info: SegmentInfo) -> Path:
        return self.folder / info.disk_id / info.path


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.02)
    return value


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    house.stream.close()
    await house.recordings.close()


def frames_in(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [
            hashlib.sha256(frame.to_ndarray(format="gray").tobytes()).hexdigest()
            for frame in container.decode(video=0)
        ]


async def test_a_stream_becomes_a_file_that_others_can_play(house: House) -> None:
    await house.disks(house.disk("one"))
    house.open()
    await house.send(4)
    await house.recordings.close_one("rec")
    (info,) = await house.closed()
    (opened,) = house.host.told(SegmentOpened)
    assert opened.segment.segment_id == info.segment_id
    assert opened.segment.path == info.path + segments.PART
    assert (info.complete, info.frames, info.cause, info.video_codec, info.audio_codec) == (
        True, 100, "stopped", "h264", "aac",
    )  # fmt: skip
    assert (info.width, info.height, info.bytes) == (352, 288, house.path(info).stat().st_size)
    assert info.path.split("/")[1:3] == [CAMERA, CAMERA]
    assert len(frames_in(house.path(info))) == 100
    scanned = segments.scan(house.folder / "one", "one", info.path)
    assert scanned.info == info.model_copy(update={"cause": ""})
    stats = house.recordings.stats()
    assert (stats.recordings, stats.segments, stats.queue_drops, stats.write_errors) == (0, 1, 0, 0)
    assert stats.bytes == info.bytes


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize(("codec", "tag"), [("h264", "avc1"), ("h265", "hvc1")])
async def test_ffprobe_reads_open_and_finished_files(house: House, codec: str, tag: str) -> None:
    picture = TestPicture(352, 288, codec=codec, gop=25)
    await house.disks(house.disk("one"))
    house.open()
    await house.send(3, picture=picture)
    part = await until(lambda: next(house.folder.rglob("*.part"), None))
    await until(lambda: frames_so_far(house, part) == 50)
    await asyncio.to_thread(_probe, part, tag, 50, tail=True)
    await house.recordings.close_one("rec")
    (info,) = await house.closed()
    await asyncio.to_thread(_probe, house.path(info), tag, 75)


def frames_so_far(house: House, part: Path) -> int:
    try:
        return segments.scan(house.folder / "one", "one", _relative(house, part)).info.frames
    except segments.Unreadable:
        return 0


def _relative(house: House, part: Path) -> str:
    return part.relative_to(house.folder / "one").as_posix()


def _probe(path: Path, tag: str, frames: int, *, tail: bool = False) -> None:
    command = ["ffprobe", "-v", "error", "-count_frames", "-of", "json", "-show_streams", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    video, audio = json.loads(result.stdout)["streams"]
    assert (video["codec_tag_string"], int(video["nb_read_frames"])) == (tag, frames)
    assert audio["codec_name"] == "aac"


async def test_files_follow_the_wall_clock_and_lose_nothing_in_between(house: House) -> None:
    await house.disks(house.disk("one"))
    house.open(segment_s=2.0)
    await house.send(7)
    await house.recordings.close_one("rec")
    infos = await house.closed(4)
    shown = [frame for info in infos for frame in frames_in(house.path(info))]
    assert shown == source_frames(house.sent)
    for before, after in itertools.pairwise(infos):
        assert after.start == pytest.approx(before.end, abs=0.01)
        assert after.start // 2 > before.start // 2


async def test_standby_writes_the_seconds_before_the_event(house: House) -> None:
    await house.disks(house.disk("one"))
    house.open(standby=True, pre_event_s=3.0, kind="event")
    await house.send(10)
    assert not list(house.folder.rglob("*.mp4*"))
    assert house.recordings.stats().writing == 0
    house.recordings.trigger("rec", 1.0)
    await until(lambda: house.recordings.stats().writing == 1)
    await house.send(2)
    await asyncio.sleep(1.1)
    await house.send(2)
    (info,) = await house.closed()
    # three seconds before the trigger, by whole groups, and what came until its end
    assert info.start - house_time(house, 6.0) == pytest.approx(0, abs=1.1)
    assert (info.kind, info.cause) == ("event", "stopped")
    shown = frames_in(house.path(info))
    source = source_frames(house.sent)
    first = source.index(shown[0])
    assert shown == source[first : first + len(shown)]
    assert 125 <= len(shown) <= 250
    assert house.recordings.stats().writing == 0
    # and once more after the rest: nothing of the first event is repeated
    house.recordings.trigger("rec", 30.0)
    await house.send(2)
    await house.recordings.close_one("rec")
    second = (await house.closed(2))[1]
    assert second.start >= info.end - 0.01


def house_time(house: House, at_s: float) -> float:
    return time.time() - (time.monotonic() - house.base_mono) + at_s


def source_frames(units: list[AccessUnit]) -> list[str]:
    decoder = av.CodecContext.create("h264", "r")
    packets = [av.Packet(unit.data) for unit in units if unit.codec.is_video]
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    return [hashlib.sha256(frame.to_ndarray(format="gray").tobytes()).hexdigest() for frame in frames]


def test_what_is_kept_before_an_event_is_bounded() -> None:
    units = TestPicture(352, 288, gop=25).encoded_loop(10)
    ring = Ring(3.0, 1 << 30)
    for unit in units:
        ring.add(unit)
    kept = ring.take(1000)
    assert kept[0].key
    assert 3.0 <= (units[-1].dts - kept[0].dts) / 90_000 + 0.04 <= 4.1
    size = sum(len(unit.data) for unit in kept)
    small = Ring(3.0, size // 2)
    for unit in units:
        small.add(unit)
    assert small.bytes <= size // 2
    assert small.cut
    assert small.take(1)[0].key


async def test_a_full_disk_is_left_for_another_without_a_wait(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real ENOSPC-like refusal of the kernel is in the gateway's tests; here a disk that begins to refuse."""
    one, two = house.disk("one"), house.disk("two", reserve=1)
    await house.disks(one, two.model_copy(update={"usable": False}))
    house.open()
    await house.send(3)
    await until(lambda: segments_of(house, "one"))
    real = segment_disks._write_all

    def refuse(fd: int, data: bytes) -> None:
        if "/two/" in os.readlink(f"/proc/self/fd/{fd}"):
            real(fd, data)
            return
        real(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment_disks, "_write_all", refuse)
    await house.disks(one, two)
    await house.send(2)
    (fault,) = await until(lambda: house.host.told(RecordingFault))
    assert (fault.kind, fault.disk_id) == ("write_failed", "one")
    monkeypatch.setattr(segment_disks, "_write_all", real)
    await house.send(4)
    await house.recordings.close_one("rec")
    await until(lambda: any(info.complete for info in closed(house)))
    given_up = next(info for info in closed(house) if not info.complete)
    assert (given_up.disk_id, given_up.cause) == ("one", "write_failed")
    # what was whole on the first disk stays whole, the half piece was cut off
    mended = segments.mend(house.folder / "one", "one", given_up.path)
    assert mended.torn_bytes == 0
    assert len(frames_in(house.folder / "one" / mended.info.path)) == mended.info.frames >= 50
    whole = next(info for info in closed(house) if info.complete)
    assert whole.disk_id == "two"
    assert house.recordings.stats().write_errors >= 1


def closed(house: House) -> list[SegmentInfo]:
    return [event.segment for event in house.host.told(SegmentClosed)]


def segments_of(house: House, disk: str) -> list[Path]:
    return [path for path in (house.folder / disk).rglob("*.mp4*") if path.stat().st_size > 10_000]


async def test_a_mount_that_is_gone_is_not_written_to(house: House) -> None:
    bare = house.disk("bare", marked=False)
    await house.disks(bare)
    house.open()
    await house.send(3)
    assert {fault.kind for fault in house.host.told(RecordingFault)} == {"no_disk"}
    assert list((house.folder / "bare").iterdir()) == []
    assert house.recordings.stats().queue_drops > 0, "what is not recorded is counted"
    await house.disks(house.disk("bare"))
    await until(lambda: house.recordings._disks.place())
    await house.send(2)
    await house.recordings.close_one("rec")
    (info,) = await house.closed()
    assert info.frames == 50


async def test_the_reserve_of_a_disk_is_left_alone_and_room_decides(house: House) -> None:
    full, roomy = house.disk("full", reserve=1 << 62), house.disk("roomy")
    await house.disks(full, roomy)
    house.open()
    await house.send(2)
    assert [event.segment.disk_id for event in house.host.told(SegmentOpened)] == ["roomy"]


async def test_a_slow_disk_costs_its_own_pictures_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.recordings._disks._queue_bytes = 60_000
    await house.disks(house.disk("one"))
    house.open()
    real, slow = segment_disks._write_all, [True]

    def hang(fd: int, data: bytes) -> None:
        while slow[0]:
            time.sleep(0.01)
        real(fd, data)

    monkeypatch.setattr(segment_disks, "_write_all", hang)
    before = time.monotonic()
    await house.send(6)
    assert time.monotonic() - before < 10, "the loop was never held"
    await until(lambda: house.host.told(RecordingFault))
    assert house.recordings.stats().queued_bytes <= 200_000
    slow[0] = False
    assert house.recordings.stats().queue_drops > 0
    await until(lambda: house.recordings.stats().queued_bytes == 0)
    await house.send(3)
    await house.recordings.close_one("rec")
    whole = [info for info in closed(house) if info.complete]
    assert whole
    assert all(len(frames_in(house.path(info))) == info.frames for info in whole)


async def test_a_stream_that_ends_closes_its_file(house: House) -> None:
    await house.disks(house.disk("one"))
    house.open()
    await house.send(2)
    house.stream.close("connection_lost")
    (info,) = await house.closed()
    assert (info.complete, info.cause, info.frames) == (True, "stream_ended", 50)
    (ended,) = house.host.told(RecordingEnded)
    assert (ended.recording_id, ended.cause) == ("rec", "connection_lost")
    assert house.recordings.stats().recordings == 0


async def test_what_cannot_be_recorded_is_refused(house: House) -> None:
    await house.disks(house.disk("one"))
    with pytest.raises(MediaError, match="no such stream"):
        house.open(stream_id="other")
    house.open()
    with pytest.raises(MediaError, match="runs already"):
        house.open()
    with pytest.raises(MediaError, match="no recording"):
        house.recordings.trigger("unknown", 1)


async def test_a_file_size_limit_of_the_kernel_ends_one_file_only(house: House) -> None:
    """A true refusal by the kernel (EFBIG) in the disk's thread: counted, told, and the recording goes on."""
    await house.disks(house.disk("one"))
    house.open()
    await house.send(2)
    (part,) = await until(lambda: segments_of(house, "one"))
    await until(lambda: house.recordings.stats().queued_bytes == 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (part.stat().st_size + 5000, hard))
    try:
        await house.send(3)
        await until(lambda: house.host.told(RecordingFault))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert house.host.told(RecordingFault)[0].kind == "write_failed"
    given_up = next(info for info in closed(house) if not info.complete)
    mended = segments.mend(house.folder / "one", "one", given_up.path)
    assert len(frames_in(house.folder / "one" / mended.info.path)) == mended.info.frames
