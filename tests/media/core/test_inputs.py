"""RTSP cameras and files as inputs of a node: what comes out is what went in, over losses, refusals and crashes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from decoded import picture_hash
from rtsp_camera import RtspCamera

from media.client import MediaClient
from media.es import adts_header
from media.node import Node
from media.sources import launch
from media.specs import FileInput, NodeConfig, RtspInput, StreamLost
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, read_mark, tone

PERIOD = 180_000
PASSWORD = "p@s:s %/w"


def picture(codec: str = "h264", b_frames: int = 0) -> list[AccessUnit]:
    return TestPicture(320, 240, 25, codec, 400_000, 25, b_frames=b_frames).encoded_loop(2.0)


def decoder(codec: Codec) -> av.CodecContext:
    return av.CodecContext.create("h264" if codec is Codec.H264 else "hevc", "r")


def shown(units: list[AccessUnit]) -> list[tuple[int, str]]:
    """Frame number and hash of each picture, in order of presentation."""
    pictures = [unit for unit in units if unit.codec.is_video]
    context = decoder(pictures[0].codec)
    frames = [frame for unit in pictures for frame in context.decode(av.Packet(unit.data))]
    found = []
    for frame in [*frames, *context.decode(None)]:
        mark = read_mark(frame.to_ndarray(format="gray"))
        assert mark is not None
        found.append((mark.frame, picture_hash(frame)))
    return found


class House:
    """A node whose inputs the test opens; units of each stream are kept."""

    def __init__(self, node: Node, client: MediaClient) -> None:
        self.node, self.client = node, client
        self.units: dict[str, list[AccessUnit]] = {}
        self.lost: list[StreamLost] = []
        emit = node.emit

        def note(event: Any) -> None:
            if isinstance(event, StreamLost):
                self.lost.append(event)
            emit(event)

        node.emit = note  # type: ignore[method-assign]

    async def rtsp(self, camera: RtspCamera, stream_id: str = "s", **options: Any) -> list[AccessUnit]:
        values = {"username": camera.username, "password": camera.password, "url": camera.url, **options}
        return await self.open(RtspInput(stream_id=stream_id, **values))

    async def open(self, spec: Any) -> list[AccessUnit]:
        await self.client.open_input(spec)
        units = self.units[spec.stream_id] = []
        self.node.stream(spec.stream_id).attach("test", on_unit=units.append)
        return units

    def children(self) -> list[int]:
        """Processes that read inputs now."""
        prepared = self.node._launcher._process
        if prepared is None:
            return []
        path = Path(f"/proc/{prepared.pid}/task/{prepared.pid}/children")
        return [int(text) for text in path.read_text().split()] if path.exists() else []


@pytest.fixture
async def house(tmp_path: Path, node_settings: Callable[..., NodeConfig]) -> AsyncIterator[House]:
    (tmp_path / "files").mkdir()
    config = node_settings(tmp_path, inputs_directory=str(tmp_path / "files"))
    node = Node(config)
    await node.start()
    client = MediaClient(config.control, config.control_secret)
    await client.start()
    yield House(node, client)
    await client.close()
    await node.close()


async def until(condition: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.02)
    return value


def count(units: list[AccessUnit], *, video: bool = True) -> int:
    return sum(unit.codec.is_video is video for unit in units)


def assert_in_step(units: list[AccessUnit]) -> None:
    """Each second begins with a key frame and a beep: both have one time."""
    silence = tone(1.0)[-1].data
    sound = [unit for unit in units if not unit.codec.is_video]
    pairs = itertools.pairwise(sound)
    beeps = [unit.pts for before, unit in pairs if before.data == silence != unit.data]
    keys = [unit.pts for unit in units if unit.key]
    assert beeps, "no beep was heard"
    assert all(min(abs(beep - key) for key in keys) <= 9000 for beep in beeps)


KINDS = {"h264": ("h264", 0, "tcp"), "h265-b": ("h265", 2, "tcp"), "h264-b-udp": ("h264", 2, "udp"),
         "h265-udp": ("h265", 0, "udp")}  # fmt: skip


async def test_cameras_pictures_come_out_as_they_went_in(house: House) -> None:
    cameras, streams = {}, {}
    for name, (codec, b_frames, transport) in KINDS.items():
        camera = RtspCamera(picture(codec, b_frames), tone(2.0), period=PERIOD, password=PASSWORD)
        await camera.start()
        cameras[name] = camera
        streams[name] = await house.rtsp(camera, name, transport=transport)
    await until(lambda: all(count(units) >= 60 for units in streams.values()))
    for name, camera in cameras.items():
        await camera.stop()
        assert set(camera.transports) == {KINDS[name][2]}
        assert_whole(streams[name], camera.video)


def assert_whole(units: list[AccessUnit], video: list[AccessUnit]) -> None:
    pictures = [unit for unit in units if unit.codec.is_video]
    assert not any(unit.damaged for unit in pictures)
    assert all(unit.pts >= unit.dts for unit in pictures)
    stamps = [unit.dts for unit in pictures]
    assert {late - early for early, late in itertools.pairwise(stamps)} == {3600}
    expected = dict(shown(video))
    seen = shown(units)[:-4]
    assert [number for number, _ in seen] == [index % 50 for index in range(len(seen))]
    assert all(value == expected[number] for number, value in seen)
    sound = [unit for unit in units if not unit.codec.is_video]
    assert {unit.codec for unit in sound} == {Codec.PCMA}
    assert {late.pts - early.pts for early, late in itertools.pairwise(sound)} == {3600}
    assert_in_step(units)


async def test_parameter_sets_of_the_sdp_stand_in_front_of_every_key_frame(house: House) -> None:
    video = picture("h265")
    async with RtspCamera(video, period=PERIOD, in_band_sets=False) as camera:
        units = await house.rtsp(camera)
        await until(lambda: sum(unit.key for unit in units) >= 2)
    keys = [unit for unit in units if unit.key]
    for key in keys:
        assert shown([key])
        assert not key.damaged


async def test_aac_gets_its_adts_headers(house: House) -> None:
    aac = aac_tone()
    async with RtspCamera(picture(), aac, period=PERIOD) as camera:
        units = await house.rtsp(camera)
        await until(lambda: count(units, video=False) >= 16)
    sound = [unit for unit in units if unit.codec is Codec.AAC]
    assert {unit.data for unit in sound} <= {unit.data for unit in aac}
    track = house.node.stream("s").audio
    assert track is not None
    assert (track.clock_rate_hz, track.channels) == (16000, 1)
    assert {late.pts - early.pts for early, late in itertools.pairwise(sound[:15])} <= {
        5759,
        5760,
        5761,
    }


def aac_tone() -> list[AccessUnit]:
    """Two seconds of AAC-LC at 16 kHz with ADTS headers."""
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = 16000, "mono", "fltp"
    context.time_base = Fraction(1, 16000)
    units, packets = [], []
    for index in range(32):
        wave = np.sin(np.arange(1024) * 0.2 + index).astype(np.float32).reshape(1, -1) * 0.2
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, index * 1024
        packets += context.encode(frame)
    for index, packet in enumerate(packets):
        data = bytes(packet)
        units.append(
            AccessUnit(Codec.AAC, index * 5760, index * 5760, False, adts_header(len(data), 16000) + data)
        )
    return units


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [("password", "refused"), ("path", "not_found"), ("closed", "dial_failed"), ("deaf", "dial_failed")],
)
async def test_what_cannot_be_opened_is_told_with_its_cause(
    house: House,
    trouble: str,
    cause: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    async with RtspCamera(picture(), period=PERIOD, password=PASSWORD) as camera:
        options: dict[str, Any] = {"connect_timeout_s": 1.0, "read_timeout_s": 1.0}
        if trouble == "password":
            options["password"] = "wrong-Geheim-1"
        elif trouble == "path":
            camera.refuse_status = (404, "Not Found")
        elif trouble == "closed":
            await camera.stop()
        else:
            camera.deaf = True
        await house.rtsp(camera, **options)
        lost = await until(lambda: house.lost)
        assert (lost[0].cause, len(lost)) == (cause, 1)
    said = caplog.text + "".join(capfd.readouterr())
    assert PASSWORD not in said
    assert "Geheim" not in said
    assert "p%40s" not in said


async def test_a_camera_that_goes_mute_is_lost_and_found_again(house: House) -> None:
    async with RtspCamera(picture(), period=PERIOD) as camera:
        units = await house.rtsp(camera, read_timeout_s=0.8, silence_s=1.5)
        await until(lambda: count(units) >= 5)
        camera.mute = True
        lost = await until(lambda: house.lost)
        assert [event.cause for event in lost] == ["no_rtp"]
        camera.mute = False
        before = len(units)
        await until(lambda: len(units) > before + 10)
        stamps = [unit.dts for unit in units]
        assert stamps == sorted(set(stamps))


async def test_a_dropped_connection_is_made_again_and_the_stream_goes_on(house: House) -> None:
    video = picture()
    async with RtspCamera(video, tone(2.0), period=PERIOD) as camera:
        units = await house.rtsp(camera)
        await until(lambda: count(units) >= 30)
        before = len(units)
        camera.drop()
        await until(lambda: count(units[before:]) >= 45)
    assert house.lost == []
    after = [unit for unit in units[before:] if unit.codec.is_video]
    gaps = [b.dts - a.dts for a, b in itertools.pairwise(units) if a.codec is b.codec]
    assert after
    assert max(gaps) < 20 * 90_000
    video_stamps = [unit.dts for unit in units if unit.codec.is_video]
    assert video_stamps == sorted(set(video_stamps))
    assert_in_step(units[before + 4 :])


async def test_a_crash_of_the_reading_process_costs_a_moment(house: House) -> None:
    async with RtspCamera(picture(), period=PERIOD) as camera:
        one = await house.rtsp(camera, "one")
        two = await house.rtsp(camera, "two")
        await until(lambda: len(one) > 5 and len(two) > 5)
        children = house.children()
        assert len(children) == 2
        os.kill(children[0], signal.SIGSEGV)
        marks = len(one), len(two)
        await until(lambda: len(one) > marks[0] + 10 and len(two) > marks[1] + 10)
        assert children[1] in house.children()
        assert children[0] not in house.children()
        assert house.lost == []


async def test_the_prepared_process_may_die_too(house: House) -> None:
    async with RtspCamera(picture(), period=PERIOD) as camera:
        units = await house.rtsp(camera)
        await until(lambda: len(units) > 5)
        prepared = house.node._launcher._process
        assert prepared is not None
        prepared.kill()
        await until(lambda: prepared.poll() is not None)
        other = await house.rtsp(camera, "other")
        before = len(units)
        await until(lambda: len(other) > 5 and len(units) > before + 5)


async def test_closing_an_input_ends_its_process_even_while_ffmpeg_waits(house: House) -> None:
    async with RtspCamera(picture(), period=PERIOD) as camera:
        units = await house.rtsp(camera, "talks")
        camera_two = RtspCamera(picture(), period=PERIOD)
        await camera_two.start()
        camera_two.deaf = True
        await house.rtsp(camera_two, "hangs", connect_timeout_s=60.0)
        await until(lambda: len(units) > 5 and camera_two.sessions and len(house.children()) == 2)
        await house.client.close_receiver("talks")
        await house.client.close_receiver("hangs")
        await until(lambda: not house.children(), timeout_s=10.0)
        await until(lambda: not camera.sessions and not camera_two.sessions)
        await camera_two.stop()


async def test_lost_packets_mark_the_pictures_up_to_the_next_key_frame(house: House) -> None:
    async with RtspCamera(picture(), period=PERIOD) as camera:
        camera.lost_packets = {40}
        units = await house.rtsp(camera, transport="udp")
        stream = house.node.stream("s")
        await until(lambda: stream.key_units >= 3)
    assert stream.damaged_units > 0
    expected = dict(shown(picture()))
    assert all(expected[number] == value for number, value in shown(units)), "a torn picture was shown"


# --- files -------------------------------------------------------------------------------------------------------


def write_file(path: Path, video: list[AccessUnit], sound: list[AccessUnit], form: str) -> None:
    with av.open(str(path), "w", format=form) as container:
        name = "h264" if video[0].codec is Codec.H264 else "hevc"
        stream = container.add_mux_stream(name, rate=25, width=320, height=240)
        stream.time_base = Fraction(1, 90_000)
        voice = None
        if sound:
            codec = {Codec.PCMA: "pcm_alaw", Codec.AAC: "aac"}[sound[0].codec]
            rate = 8000 if sound[0].codec is Codec.PCMA else 16000
            voice = container.add_stream(codec, rate=rate, layout="mono")
        for unit in sorted([*video, *sound], key=lambda unit: unit.dts):
            data = unit.data[7:] if unit.codec is Codec.AAC else unit.data
            packet = av.Packet(data)
            packet.pts, packet.dts, packet.time_base = unit.pts, unit.dts, Fraction(1, 90_000)
            packet.duration = 3600
            packet.is_keyframe = unit.key or not unit.codec.is_video
            packet.stream = stream if unit.codec.is_video else voice
            container.mux_one(packet)


FILES = {
    "a.mp4": ("mp4", "h264", 2, False),
    "b.mp4": ("mp4", "h265", 0, False),
    "c.mkv": ("matroska", "h264", 2, False),
    "d.ts": ("mpegts", "h265", 2, False),
    "e.flv": ("flv", "h264", 0, True),
    "f.mpg": ("vob", "h264", 0, False),
}


async def test_files_are_played_again_and_again_on_one_clock(house: House) -> None:
    sources, streams = {}, {}
    for name, (form, codec, b_frames, sound) in FILES.items():
        video = TestPicture(320, 240, 25, codec, 400_000, 25, b_frames=b_frames).encoded_loop(1.0)
        path = Path(house.node.config.inputs_directory) / name
        write_file(path, video, tone(1.0) if sound else [], form)
        sources[name] = video
        streams[name] = await house.open(FileInput(stream_id=name.replace(".", "-"), path=name))
    await until(lambda: all(count(units) >= 65 for units in streams.values()))
    for name, units in streams.items():
        pictures = [unit for unit in units if unit.codec.is_video]
        steps = {b.dts - a.dts for a, b in itertools.pairwise(pictures)}
        assert all(3500 <= step <= 3700 for step in steps), (name, steps)
        expected = dict(shown(sources[name]))
        seen = shown(units)[:-4]
        assert [number for number, _ in seen] == [index % 25 for index in range(len(seen))], name
        assert all(value == expected[number] for number, value in seen), name
        assert (count(units, video=False) >= 60) is FILES[name][3], name
        # in real time: the units did not come faster than their clock says
        span = (pictures[-1].dts - pictures[0].dts) / 90_000
        assert pictures[-1].arrival_mono - pictures[0].arrival_mono >= 0.8 * span


async def test_only_files_below_the_directory_are_played(house: House, tmp_path: Path) -> None:
    root = Path(house.node.config.inputs_directory)
    write_file(tmp_path / "outside.mp4", picture(), [], "mp4")
    (root / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (root / "list.m3u8").write_text("#EXTM3U\n#EXTINF:2,\n../outside.mp4\n")
    (root / "text.mp4").write_text("no film at all" * 100)
    os.mkfifo(root / "pipe.mp4")
    wanted = {
        "../outside.mp4": "not_found",
        str(tmp_path / "outside.mp4"): "not_found",
        "link.mp4": "not_found",
        "none.mp4": "not_found",
        "pipe.mp4": "not_found",
        "list.m3u8": "unreadable",
        "text.mp4": "unreadable",
    }
    for index, path in enumerate(wanted):
        await house.client.open_input(FileInput(stream_id=f"s{index}", path=path))
    await until(lambda: len(house.lost) >= len(wanted))
    causes = {event.stream_id: event.cause for event in house.lost}
    assert [causes[f"s{index}"] for index in range(len(wanted))] == list(wanted.values())


async def test_a_file_that_is_not_looped_ends(house: House) -> None:
    path = Path(house.node.config.inputs_directory) / "once.mp4"
    write_file(path, TestPicture(320, 240, 25, "h264", 400_000, 25).encoded_loop(1.0), [], "mp4")
    units = await house.open(FileInput(stream_id="s", path="once.mp4", loop=False))
    lost = await until(lambda: house.lost)
    assert lost[0].cause == "ended"
    assert len(units) == 25


def test_a_launcher_without_jobs_has_no_process() -> None:
    launcher = launch.Launcher()
    assert launcher._process is None
    launcher.close()
