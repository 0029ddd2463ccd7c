"""One stream, many bounded readers: the cached start, skipping to key frames, readiness, requests."""

from __future__ import annotations

import asyncio

import pytest

from media.stream import Stream, StreamEnded
from media.unit import AccessUnit, Codec


def picture(number: int, *, key: bool = False, damaged: bool = False, size: int = 10) -> AccessUnit:
    return AccessUnit(Codec.H264, number * 3600, number * 3600, key, bytes((number % 256,)) * size, damaged)


def sound(number: int) -> AccessUnit:
    return AccessUnit(Codec.PCMA, number * 3600, number * 3600, False, b"\xd5" * 320)


def publish(stream: Stream, pattern: str, first: int = 0) -> None:
    """K key frame, p picture, x damaged picture, X damaged key frame, a sound."""
    for number, letter in enumerate(pattern, first):
        if letter == "a":
            stream.publish(sound(number))
        else:
            stream.publish(picture(number, key=letter in "KX", damaged=letter in "xX"))


async def taken(reader: object) -> list[int]:
    """Numbers of the units that wait in a reader's queue."""
    result = []
    while reader.queued:  # type: ignore[attr-defined]
        unit = await reader.next()  # type: ignore[attr-defined]
        result.append(unit.dts // 3600)
    return result


async def test_a_new_reader_starts_with_the_group_of_pictures() -> None:
    stream = Stream("s")
    publish(stream, "KppapKpap")
    reader = stream.attach("test")
    assert await taken(reader) == [5, 6, 7, 8]
    publish(stream, "p", 9)
    assert await taken(reader) == [9]
    assert reader.dropped == 0


async def test_without_a_key_frame_a_reader_waits_and_asks_for_one() -> None:
    asked: list[str] = []
    stream = Stream("s", on_key_frame_wanted=lambda stream: asked.append(stream.stream_id))
    publish(stream, "pap")
    reader = stream.attach("test")
    publish(stream, "papKpa", 3)
    assert await taken(reader) == [6, 7, 8]
    assert reader.dropped == 3
    assert asked == ["s"]


async def test_damage_skips_to_the_next_whole_key_frame_and_sound_goes_on() -> None:
    stream = Stream("s")
    reader = stream.attach("test")
    publish(stream, "KpxpapXpKp")
    assert await taken(reader) == [0, 1, 4, 8, 9]
    assert reader.dropped == 5
    assert stream.damaged_units == 2


async def test_a_late_reader_gets_what_was_whole_and_then_waits() -> None:
    stream = Stream("s")
    publish(stream, "Kppxpp")
    reader = stream.attach("test")
    assert await taken(reader) == [0, 1, 2]
    publish(stream, "pKp", 6)
    assert await taken(reader) == [7, 8]


async def test_overflow_drops_up_to_the_next_key_frame_and_others_do_not_suffer() -> None:
    stream = Stream("s", queue_units=8)
    slow, fast = (
        stream.attach("slow"),
        stream.attach("fast", on_unit=lambda unit: seen.append(unit.dts // 3600)),
    )
    seen: list[int] = []
    publish(stream, "K" + "p" * 90 + "Kpp")
    assert await taken(slow) == [91, 92, 93]
    assert slow.dropped == 91
    assert seen == list(range(94))
    fast.detach()
    slow.detach()
    assert stream.total_drops == 91
    assert stream.readers == []


async def test_sound_alone_loses_its_oldest() -> None:
    stream = Stream("s", queue_units=8)
    for number in range(60):
        stream.publish(sound(number))
    assert stream.ready
    assert stream.video is None
    reader = stream.attach("test")
    for number in range(60, 160):
        stream.publish(sound(number))
    assert (await taken(reader))[-1] == 159
    assert reader.dropped == 36  # the queue of a reader is never shorter than 64


async def test_the_cache_has_a_bound_in_bytes() -> None:
    stream = Stream("s", gop_cache_bytes=100)
    publish(stream, "K" + "p" * 5)
    assert (len(stream.gop()), stream.gop_bytes) == (6, 60)
    publish(stream, "p" * 5, 6)
    assert stream.gop() == []
    assert stream.last_key is not None
    publish(stream, "Kp", 11)
    assert len(stream.gop()) == 2


async def test_ready_with_the_first_whole_key_frame() -> None:
    ready: list[bool] = []
    stream = Stream("s", on_ready=lambda stream: ready.append(stream.ready))
    publish(stream, "pXp")
    assert not stream.ready
    waiting = asyncio.create_task(stream.wait_ready(5))
    await asyncio.sleep(0)
    publish(stream, "KpK", 3)
    await waiting
    assert ready == [True]
    with pytest.raises(TimeoutError):
        await Stream("other").wait_ready(0.01)


async def test_announced_sound_may_come_a_moment_after_the_key_frame() -> None:
    stream = Stream("s")
    stream.audio_announced = True
    publish(stream, "Kpp")
    assert not stream.ready
    publish(stream, "a", 3)
    assert stream.ready
    assert stream.audio is not None
    silent = Stream("silent")
    silent.audio_announced = True
    publish(silent, "K" + "p" * 7)
    assert not silent.ready
    publish(silent, "p", 8)
    assert silent.ready


async def test_requests_for_key_frames_are_rate_limited() -> None:
    asked: list[float] = []
    clock = [0.0]
    stream = Stream("s", on_key_frame_wanted=lambda stream: asked.append(clock[0]), clock=lambda: clock[0])
    for now in (100.0, 100.5, 101.9, 102.0, 103.0, 104.1):
        clock[0] = now
        stream.request_key_frame()
    assert asked == [100.0, 102.0, 104.1]


@pytest.mark.gb("G216")
async def test_a_change_of_codec_restarts_readers_at_a_key_frame() -> None:
    faults: list[tuple[str, str]] = []
    stream = Stream("s", on_fault=lambda kind, detail: faults.append((kind, detail)))
    reader = stream.attach("test")
    publish(stream, "Kpp")
    for number, key in ((3, False), (4, True)):
        stream.publish(AccessUnit(Codec.H265, number * 3600, number * 3600, key, b"x"))
    assert await taken(reader) == [0, 1, 2, 4]
    assert stream.video is not None
    assert stream.video.codec == "h265"
    assert stream.generation == 1
    assert faults == [("codec_changed", "h264 -> h265")]


async def test_the_end_reaches_everybody() -> None:
    stream = Stream("s")
    reader = stream.attach("test")
    waiting = asyncio.create_task(stream.wait_ready(5))
    pending = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    stream.close("gone")
    for task in (waiting, pending):
        with pytest.raises(StreamEnded, match="gone"):
            await task
    with pytest.raises(StreamEnded):
        stream.attach("late")
    publish(stream, "K")
    assert stream.video_units == 0


async def test_the_picture_size_is_read_from_the_parameter_sets(h264_units: list[AccessUnit]) -> None:
    stream = Stream("s")
    for unit in h264_units[:3]:
        stream.publish(unit)
    assert stream.video is not None
    assert (stream.video.width, stream.video.height, stream.video.has_b_frames) == (320, 240, False)


async def test_a_resting_source_is_woken_before_units_are_read() -> None:
    stream = Stream("s")
    publish(stream, "Kp")
    stream.rest()
    woken: list[int] = []

    def wake() -> None:
        if not woken:
            woken.append(1)
            publish(stream, "Kpp", 10)

    stream.on_use = wake
    assert await taken(stream.attach("test")) == [10, 11, 12]
    assert woken == [1]
