"""The test picture says of itself which frame it is and when it was drawn, also after coding at low rates."""

from __future__ import annotations

import time
from typing import Any

import av
import numpy as np
import pytest

from media.unit import AccessUnit, Codec
from simulator.picture import AUDIO_RATE_HZ, LOOP_EPOCH, TestPicture, read_mark, read_strip, tone


def decode(units: list[AccessUnit], pixel_format: str = "gray") -> list[np.ndarray[Any, Any]]:
    decoder = av.CodecContext.create("h264" if units[0].codec is Codec.H264 else "hevc", "r")
    frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit.data))] + decoder.decode(
        None
    )
    return [frame.to_ndarray(format=pixel_format) for frame in frames]


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize(
    ("size", "bitrate"), [((1280, 720), 500_000), ((704, 576), 300_000), ((352, 288), 150_000)]
)
def test_each_frame_is_marked(codec: str, size: tuple[int, int], bitrate: int) -> None:
    units = TestPicture(*size, codec=codec, bitrate=bitrate).encoded_loop(1)
    marks = [read_mark(picture) for picture in decode(units)]
    assert [mark.frame for mark in marks if mark] == list(range(25))
    start = round(LOOP_EPOCH * 1000)
    assert [mark.time_ms for mark in marks if mark] == [
        (start + 40 * index) & 0xFFFFFFFF for index in range(25)
    ]


def test_colour_pictures_and_other_sizes_are_read_too() -> None:
    unit = TestPicture(1280, 720).encoded_loop(0.04)
    picture = decode(unit, "rgb24")[0]
    assert read_strip(picture) == round(LOOP_EPOCH * 1000) & 0xFFFFFFFF


def test_what_is_no_test_picture_has_no_mark() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (288, 352), dtype=np.uint8)
    assert read_mark(noise) is None
    with pytest.raises(ValueError, match="not readable"):
        read_strip(noise)


def test_loops_are_the_same_bytes_and_not_the_same_records() -> None:
    one, two = TestPicture(352, 288).encoded_loop(0.4), TestPicture(352, 288).encoded_loop(0.4)
    assert one == two
    assert one[0] is not two[0]
    assert one[0].data is two[0].data
    assert TestPicture(352, 288, label="Gate").encoded_loop(0.4)[0].data != one[0].data


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_key_frames_come_by_interval_and_on_demand(codec: str) -> None:
    picture = TestPicture(352, 288, codec=codec, gop=10)
    units = [picture.frame(index, key=index == 13) for index in range(26)]
    assert [index for index, unit in enumerate(units) if unit.key] == [0, 10, 13, 23]
    assert [unit.pts for unit in units] == [index * 3600 for index in range(26)]
    assert all(unit.pts == unit.dts for unit in units)


def test_a_live_frame_carries_the_time_of_day() -> None:
    picture = TestPicture(352, 288)
    before = round(time.time() * 1000)
    shown = read_strip(decode([picture.frame(0)])[0])
    assert (shown - before) & 0xFFFFFFFF <= 5000


def test_b_frames_come_in_decoding_order_and_only_in_loops() -> None:
    picture = TestPicture(352, 288, preset="veryfast", b_frames=2)
    units = picture.encoded_loop(1)
    assert [unit.dts for unit in units] == sorted(unit.dts for unit in units)
    assert any(unit.pts != unit.dts for unit in units[1:])
    assert sorted(unit.pts for unit in units) == [index * 3600 for index in range(25)]
    with pytest.raises(RuntimeError):
        picture.frame(0)


def test_the_bit_rate_is_what_was_asked_for() -> None:
    units = TestPicture(704, 576, bitrate=1_000_000).encoded_loop(4)
    assert 0.8e6 < sum(len(unit.data) for unit in units) * 8 / 4 < 1.3e6


@pytest.mark.parametrize(("codec", "name"), [(Codec.PCMA, "pcm_alaw"), (Codec.PCMU, "pcm_mulaw")])
def test_the_tone_beeps_at_1_kilohertz(codec: Codec, name: str) -> None:
    units = tone(2, codec)
    assert len(units) == 50
    assert {len(unit.data) for unit in units} == {320}
    assert [unit.pts for unit in units] == [index * 3600 for index in range(50)]
    assert not any(unit.key for unit in units)
    decoder = av.CodecContext.create(name, "r")
    decoder.sample_rate, decoder.layout = AUDIO_RATE_HZ, "mono"
    samples = np.concatenate(
        [frame.to_ndarray()[0] for unit in units for frame in decoder.decode(av.Packet(unit.data))]
    )
    beep = samples[:1600].astype(float)
    assert abs(np.argmax(np.abs(np.fft.rfft(beep))) * AUDIO_RATE_HZ / 1600 - 1000) < 6
    ideal = np.sin(2 * np.pi * 1000 * np.arange(1600) / AUDIO_RATE_HZ) * 8000
    assert np.abs(beep - ideal).max() < 300
    assert np.abs(samples[1700:7900]).max() <= 8
