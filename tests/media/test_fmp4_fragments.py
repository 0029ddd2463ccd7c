"""The fragmenter and its boxes: what goes in comes out of foreign demuxers, picture by picture."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from media.readers import aac
from media.readers.aac import AacSource, adts_frames, silent_frame
from media.readers.fragmenter import Fragment, Fragmenter
from media.specs import AudioTrack
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, read_mark, tone

G711 = AudioTrack(codec="pcma")
PICTURES = {
    "h264": TestPicture(352, 288),
    "h264 high": TestPicture(352, 288, preset="veryfast", profile="high"),
    "h264 b-frames": TestPicture(352, 288, preset="veryfast", b_frames=2),
    "h265": TestPicture(352, 288, codec="h265"),
    "h265 b-frames": TestPicture(352, 288, codec="h265", preset="veryfast", b_frames=2),
}


def fragments_of(units: list[AccessUnit], audio: AudioTrack | None = None) -> list[Fragment]:
    fragmenter = Fragmenter(with_audio=audio is not None)
    if audio is not None:
        fragmenter.expect_audio(audio)
    return [fragment for unit in units for fragment in fragmenter.feed(unit)]


def file_of(fragments: list[Fragment]) -> bytes:
    return fragments[0].head.data + b"".join(fragment.data for fragment in fragments)


def hashes(frames: list[av.VideoFrame]) -> list[str]:
    return [hashlib.sha256(frame.to_ndarray(format="gray").tobytes()).hexdigest() for frame in frames]


def decode_units(units: list[AccessUnit]) -> list[av.VideoFrame]:
    decoder = av.CodecContext.create("h264" if units[0].codec is Codec.H264 else "hevc", "r")
    return [frame for unit in units for frame in decoder.decode(av.Packet(unit.data))] + decoder.decode(None)


def interleaved(*lists: list[AccessUnit]) -> list[AccessUnit]:
    return sorted((unit for units in lists for unit in units), key=lambda unit: unit.dts)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_comes_out_as_it_went_in(name: str) -> None:
    units = PICTURES[name].encoded_loop(2)
    fragments = fragments_of(units)
    with av.open(io.BytesIO(file_of(fragments))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [unit.key for unit in units[:-1]]
        first = units[0].dts
        assert [packet.dts for packet in packets] == [unit.dts - first for unit in units[:-1]]
        assert [packet.pts for packet in packets] == [unit.pts - first for unit in units[:-1]]
    with av.open(io.BytesIO(file_of(fragments))) as container:
        shown = list(container.decode(video=0))
    # The last picture is still waiting for its duration.
    assert hashes(shown) == hashes(decode_units(units[:-1]))
    assert len(shown) == 49


def test_sound_is_there_and_whole() -> None:
    fragments = fragments_of(interleaved(PICTURES["h264"].encoded_loop(2), tone(2)), G711)
    with av.open(io.BytesIO(file_of(fragments))) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("aac", 8000, 1)
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    assert [frame.pts for frame in frames] == [index * 1024 for index in range(len(frames))]
    assert 1.5 < len(samples) / 8000 <= 2.0
    beep, quiet = samples[400:1400], samples[3000:7500]
    assert np.sqrt((beep**2).mean()) > 20 * np.sqrt((quiet**2).mean())
    spectrum = np.abs(np.fft.rfft(samples[400:1400]))
    assert abs(np.argmax(spectrum) * 8000 / 1000 - 1000) < 20


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize(("name", "tag"), [("h264", "avc1"), ("h265", "hvc1")])
def test_ffprobe_reads_it(name: str, tag: str, tmp_path: Path) -> None:
    path = tmp_path / "live.mp4"
    path.write_bytes(file_of(fragments_of(interleaved(PICTURES[name].encoded_loop(2), tone(2)), G711)))
    command = ["ffprobe", "-v", "warning", "-count_frames", "-of", "json", "-show_streams", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    video, audio = json.loads(result.stdout)["streams"]
    assert (video["codec_tag_string"], video["width"], video["height"]) == (tag, 352, 288)
    assert (int(video["nb_read_frames"]), video["avg_frame_rate"]) == (49, "25/1")
    assert (audio["codec_name"], audio["profile"], audio["sample_rate"]) == ("aac", "LC", "8000")


def test_mime_and_description() -> None:
    fragments = fragments_of(interleaved(PICTURES["h264"].encoded_loop(0.4), tone(0.4)), G711)
    init = fragments[0].head
    assert init.mime == 'video/mp4; codecs="avc1.42c014,mp4a.40.2"'
    assert init.video == {"codec": "h264", "width": 352, "height": 288}
    assert init.audio == {"codec": "aac", "rate": 8000, "channels": 1}
    assert fragments[0].key


def test_parameter_sets_live_in_the_first_segment_only() -> None:
    fragments = fragments_of(PICTURES["h265"].encoded_loop(0.2))
    assert b"hvc1" in fragments[0].head.data
    body = fragments[0].data[112:]
    kinds = []
    while body:
        (size,) = struct.unpack_from(">I", body)
        kinds.append(body[4] >> 1 & 0x3F)
        body = body[4 + size :]
    assert not {32, 33, 34, 35} & set(kinds)


def test_damaged_pictures_are_left_out_up_to_the_next_key_frame() -> None:
    units = TestPicture(352, 288, gop=10).encoded_loop(2)
    units[13] = replace(units[13], damaged=True)
    fragmenter = Fragmenter()
    fragments = [fragment for unit in units for fragment in fragmenter.feed(unit)]
    assert fragmenter.skipped == 7
    with av.open(io.BytesIO(file_of(fragments))) as container:
        marks = [read_mark(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    assert [mark.frame for mark in marks if mark] == [*range(13), *range(20, 49)]


def test_a_picture_lasts_until_the_next_one_comes() -> None:
    """A player must not see a gap where the camera left frames out."""
    units = PICTURES["h264"].encoded_loop(1)
    del units[5:9]
    fragments = fragments_of(units)
    durations = [struct.unpack_from(">I", fragment.data, 104 - 16)[0] for fragment in fragments]
    assert durations[4] == 5 * 3600
    assert durations[3] == 3600


@pytest.mark.parametrize("leap", [3600 * 25 * 60, -3600 * 25 * 60])
def test_a_leap_of_the_clock_is_closed_up(leap: int) -> None:
    units = PICTURES["h264"].encoded_loop(1)
    moved = [replace(unit, pts=unit.pts + leap, dts=unit.dts + leap) for unit in units]
    fragments = fragments_of(units + moved)
    times = [struct.unpack_from(">Q", fragment.data, 60)[0] for fragment in fragments]
    assert times == [index * 3600 for index in range(len(times))]


def test_a_stuttering_clock_never_stands_still() -> None:
    units = PICTURES["h264"].encoded_loop(0.4)
    units[3] = replace(units[3], dts=units[2].dts, pts=units[2].pts)
    times = [struct.unpack_from(">Q", fragment.data, 60)[0] for fragment in fragments_of(units)]
    assert times == sorted(set(times))


def test_another_size_makes_another_beginning() -> None:
    small, large = TestPicture(352, 288).encoded_loop(0.4), TestPicture(704, 576).encoded_loop(0.4)
    later = [replace(unit, pts=unit.pts + 36000, dts=unit.dts + 36000) for unit in large]
    fragments = fragments_of(small + later)
    inits = list(dict.fromkeys(fragment.head for fragment in fragments))
    assert [init.video["width"] for init in inits] == [352, 704]
    second = [fragment for fragment in fragments if fragment.head is inits[1]]
    assert second[0].key
    with av.open(io.BytesIO(file_of(second))) as container:
        assert len(list(container.decode(video=0))) == 9


def test_another_codec_makes_another_beginning() -> None:
    first, then = (
        TestPicture(352, 288).encoded_loop(0.4),
        TestPicture(352, 288, codec="h265").encoded_loop(0.4),
    )
    fragments = fragments_of(
        first + [replace(unit, pts=unit.pts + 36000, dts=unit.dts + 36000) for unit in then]
    )
    assert [init.mime[:29] for init in dict.fromkeys(fragment.head for fragment in fragments)] == [
        'video/mp4; codecs="avc1.42c01',
        'video/mp4; codecs="hvc1.1.6.L',
    ]


def test_sound_that_starts_late_joins_at_a_key_frame() -> None:
    pictures = TestPicture(352, 288, gop=10).encoded_loop(2)
    late = [unit for unit in tone(2) if unit.pts > 45000]
    fragmenter = Fragmenter()
    fragments = [fragment for unit in interleaved(pictures, late) for fragment in fragmenter.feed(unit)]
    inits = list(dict.fromkeys(fragment.head for fragment in fragments))
    assert [init.audio is not None for init in inits] == [False, True]
    second = [fragment for fragment in fragments if fragment.head is inits[1]]
    assert second[0].key
    with av.open(io.BytesIO(file_of(second))) as container:
        assert len(list(container.decode(audio=0))) > 4


@pytest.mark.parametrize("silent_from_s", [0.0, 1.0])
def test_missing_sound_becomes_silence_so_that_the_picture_goes_on(silent_from_s: float) -> None:
    pictures = TestPicture(352, 288).encoded_loop(4)
    sound = [unit for unit in tone(4) if unit.pts < silent_from_s * 90_000]
    fragments = fragments_of(interleaved(pictures, sound), G711)
    assert len({fragment.head for fragment in fragments}) == 1
    with av.open(io.BytesIO(file_of(fragments))) as container:
        end = max(frame.pts + frame.samples for frame in container.decode(audio=0))
    assert end / 8000 > 3.0


def adts(config_index: int, channels: int, frame: bytes) -> bytes:
    length = len(frame) + 7
    return (
        bytes(
            [
                0xFF,
                0xF1,
                1 << 6 | config_index << 2 | channels >> 2,
                (channels & 3) << 6 | length >> 11,
                length >> 3 & 0xFF,
                (length & 7) << 5 | 0x1F,
                0xFC,
            ]
        )
        + frame
    )


def aac_units(rate: int, seconds: float) -> list[AccessUnit]:
    encoder = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "fltp"
    wave = np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32) / 2
    units = []
    for start in range(0, len(wave) - 1024, 1024):
        frame = av.AudioFrame.from_ndarray(
            wave[start : start + 1024].reshape(1, -1), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = rate, start
        for packet in encoder.encode(frame):
            data = adts({48000: 3, 16000: 8}[rate], 1, bytes(packet))
            ticks = max(0, packet.pts or 0) * 90_000 // rate
            units.append(AccessUnit(Codec.AAC, ticks, ticks, False, data))
    return units


@pytest.mark.parametrize("rate", [16000, 48000])
def test_aac_passes(rate: int) -> None:
    sound = aac_units(rate, 2)
    track = AudioTrack(codec="aac", clock_rate_hz=rate)
    fragments = fragments_of(interleaved(PICTURES["h264"].encoded_loop(2), sound), track)
    with av.open(io.BytesIO(file_of(fragments))) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].sample_rate == rate
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames[4:]])
    assert 0.3 < np.sqrt((samples**2).mean()) < 0.4


def test_silent_aac_fills_a_gap() -> None:
    units = aac_units(16000, 3)
    source = AacSource(adts_frames(units[0].data)[0][0])
    before = [frame for unit in units[:5] for frame in source.feed(unit)]
    after = source.feed(units[20])
    silence = silent_frame(source.config)
    assert [frame.data for frame in after[:-1]] == [silence] * (len(after) - 1)
    positions = [frame.position for frame in before + after]
    assert positions == [positions[0] + 1024 * index for index in range(len(positions))]


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xf1\x50\x80\x00\x1f\xfc", b"\xff\xf1" + b"\xff" * 40])
def test_no_adts_is_no_frame(data: bytes) -> None:
    assert adts_frames(data) == []


def test_g711_tables_are_the_standard_ones() -> None:
    for codec, name in ((Codec.PCMA, "pcm_alaw"), (Codec.PCMU, "pcm_mulaw")):
        decoder = av.CodecContext.create(name, "r")
        decoder.sample_rate, decoder.layout = 8000, "mono"
        (frame,) = decoder.decode(av.Packet(bytes(range(256))))
        assert np.array_equal(
            np.round(aac._TABLES[codec] * 32768).astype(int), frame.to_ndarray()[0].astype(int)
        )
