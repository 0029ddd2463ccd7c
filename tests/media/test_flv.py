"""FLV: the tags say what the units were, foreign demuxers and our own eyes read the same pictures out of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import pytest
from decoded import Decoded, decode, ffprobe, picture_hash, source_hashes

from media import flv
from media.errors import MediaError
from media.flv import HevcForm
from media.readers import flv as flv_reader
from media.readers.fanout import Chunk
from media.readers.flv import FlvMuxer, choose
from media.specs import AudioTrack
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, tone

PICTURES = {
    "h264": TestPicture(352, 288),
    "h264 b-frames": TestPicture(352, 288, preset="veryfast", b_frames=2),
    "h265": TestPicture(352, 288, codec="h265"),
    "h265 b-frames": TestPicture(352, 288, codec="h265", preset="veryfast", b_frames=2),
}


@dataclass
class Tag:
    kind: int
    time_ms: int
    body: bytes


def tags(data: bytes) -> Iterator[Tag]:
    """Every tag of a file; each previous-tag size is checked."""
    assert data[:3] == b"FLV"
    at = 13
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        time_ms = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        body = data[at + 11 : at + 11 + size]
        (behind,) = struct.unpack_from(">I", data, at + 11 + size)
        assert behind == size + 11
        yield Tag(data[at], time_ms, body)
        at += 15 + size


def interleaved(*lists: list[AccessUnit]) -> list[AccessUnit]:
    return sorted((unit for units in lists for unit in units), key=lambda unit: unit.dts)


def chunks_of(muxer: FlvMuxer, units: list[AccessUnit], audio: str | None = None) -> list[Chunk]:
    if audio is not None:
        muxer.expect_audio(AudioTrack(codec=audio))
    return [chunk for unit in units for chunk in muxer.feed(unit)]


def file_of(chunks: list[Chunk]) -> bytes:
    """As a viewer gets it that stays through changes of the head."""
    out, sent = b"", None
    for chunk in chunks:
        head = chunk.head.after(sent)
        assert head is not None
        sent, out = chunk.head, out + head + chunk.data
    return out


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_comes_out_as_it_went_in_and_the_sound_is_in_step(name: str) -> None:
    units = PICTURES[name].encoded_loop(3)
    data = file_of(chunks_of(FlvMuxer(form=HevcForm.ENHANCED), interleaved(units, tone(3)), "pcma"))
    found = decode(data, "flv")
    assert found.codecs == [units[0].codec.value.replace("h265", "hevc"), "aac"]
    assert found.hashes == source_hashes(units)
    assert found.frames == list(range(75))
    steps = [
        round(after - before, 3) for before, after in zip(found.shown_s, found.shown_s[1:], strict=False)
    ]
    assert set(steps) == {0.04}, "composition offsets put B-frames where they belong"
    assert len(found.sync_s) == 3
    assert max(map(abs, found.sync_s)) < 0.1


def test_legacy_h265_is_codec_id_12_with_the_same_pictures() -> None:
    """No stock FFmpeg reads it: the tags are taken apart here, by what mpegts.js and Chinese players expect."""
    units = PICTURES["h265 b-frames"].encoded_loop(2)
    found = [tag for tag in tags(file_of(chunks_of(FlvMuxer(), units))) if tag.kind == 9]
    assert {tag.body[0] & 0x0F for tag in found} == {12}
    assert found[0].body[:5] == b"\x1c\x00\x00\x00\x00"
    record = found[0].body[5:]
    assert record[0] == 1
    decoder = av.CodecContext.create("hevc", "r")
    decoder.extradata = record
    pictures = found[1:]
    assert [tag.body[0] >> 4 for tag in pictures] == [1 if unit.key else 2 for unit in units]
    first = units[0].dts
    for tag, unit in zip(pictures, units, strict=True):
        assert tag.body[1] == 1
        offset = int.from_bytes(tag.body[2:5], "big", signed=True)
        assert tag.time_ms == (unit.dts - first) // 90
        assert tag.time_ms + offset == (unit.pts - first) // 90
    shown = [frame for tag in pictures for frame in decoder.decode(av.Packet(tag.body[5:]))]
    shown += decoder.decode(None)
    assert [picture_hash(frame) for frame in shown] == source_hashes(units)


@pytest.mark.parametrize(("codec", "name"), [(Codec.PCMA, "pcm_alaw"), (Codec.PCMU, "pcm_mulaw")])
def test_g711_can_stay_what_it_is(codec: Codec, name: str) -> None:
    sound = tone(3, codec)
    muxer = FlvMuxer(keep_g711=True)
    data = file_of(chunks_of(muxer, interleaved(PICTURES["h264"].encoded_loop(3), sound), codec.value))
    found = decode(data, "flv")
    assert found.codecs == ["h264", name]
    assert max(map(abs, found.sync_s)) < 0.1
    samples = b"".join(tag.body[1:] for tag in tags(data) if tag.kind == 8)
    assert samples == b"".join(unit.data for unit in sound)


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize("g711", [False, True])
def test_ffprobe_reads_it(g711: bool, tmp_path: Path) -> None:
    path = tmp_path / "live.flv"
    units = interleaved(PICTURES["h264 b-frames"].encoded_loop(2), tone(2))
    path.write_bytes(file_of(chunks_of(FlvMuxer(keep_g711=g711), units, "pcma")))
    (video, audio), complaints = ffprobe(path)
    assert complaints == ""
    assert (video["codec_name"], video["width"], video["height"]) == ("h264", 352, 288)
    assert int(video["nb_read_frames"]) == 50
    assert (audio["codec_name"], audio["sample_rate"]) == ("pcm_alaw" if g711 else "aac", "8000")


def test_another_size_goes_on_in_the_same_file() -> None:
    small, large = TestPicture(352, 288).encoded_loop(0.4), TestPicture(704, 576).encoded_loop(0.4)
    later = [replace(unit, pts=unit.pts + 36000, dts=unit.dts + 36000) for unit in large]
    found: Decoded = decode(file_of(chunks_of(FlvMuxer(), small + later)), "flv")
    assert found.hashes == source_hashes(small) + source_hashes(large)


def test_another_codec_or_new_sound_ends_the_file() -> None:
    first, then = PICTURES["h264"].encoded_loop(0.4), PICTURES["h265"].encoded_loop(0.4)
    moved = [replace(unit, pts=unit.pts + 36000, dts=unit.dts + 36000) for unit in then]
    heads = list(dict.fromkeys(chunk.head for chunk in chunks_of(FlvMuxer(), first + moved)))
    assert heads[1].after(heads[0]) is None
    late = [unit for unit in tone(2) if unit.pts > 45000]
    units = interleaved(TestPicture(352, 288, gop=10).encoded_loop(2), late)
    heads = list(dict.fromkeys(chunk.head for chunk in chunks_of(FlvMuxer(), units)))
    assert len(heads) == 2
    assert heads[1].after(heads[0]) is None


def test_a_file_ends_before_its_times_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flv_reader, "LONGEST_TICKS", 90_000)
    units = interleaved(TestPicture(352, 288, gop=10).encoded_loop(2), tone(2))
    chunks = chunks_of(FlvMuxer(), units, "pcma")
    heads = list(dict.fromkeys(chunk.head for chunk in chunks))
    assert len(heads) >= 2
    assert heads[1].after(heads[0]) is None
    second = [chunk for chunk in chunks if chunk.head is heads[1]]
    found = decode(file_of(second), "flv")
    assert found.shown_s[0] == 0
    assert found.frames[0] == 30, "the first key frame behind the limit"


@pytest.mark.parametrize("time_ms", [0, 0xFFFFFF, 0x1000000, 0x7FFFFFFF, 0x80000001])
def test_times_have_32_bits(time_ms: int) -> None:
    (tag,) = tags(flv.file_header(audio=False) + flv.tag(9, time_ms, b"x" * 70_000))
    assert (tag.time_ms, len(tag.body)) == (time_ms, 70_000)


def test_damaged_pictures_are_left_out_up_to_the_next_key_frame() -> None:
    units = TestPicture(352, 288, gop=10).encoded_loop(2)
    units[13] = replace(units[13], damaged=True)
    muxer = FlvMuxer()
    assert decode(file_of(chunks_of(muxer, units)), "flv").frames == [*range(13), *range(20, 50)]
    assert muxer.skipped == 7


def test_metadata_names_size_codecs_and_rate() -> None:
    units = interleaved(PICTURES["h265"].encoded_loop(0.4), tone(0.4))
    for form, codec_id in ((HevcForm.LEGACY, 12.0), (HevcForm.ENHANCED, float(0x68766331))):
        first = next(iter(tags(file_of(chunks_of(FlvMuxer(form=form), units, "pcmu")))))
        assert first.kind == 18
        for name, value in (("width", 352.0), ("videocodecid", codec_id), ("audiocodecid", 10.0)):
            text = name.encode()
            at = first.body.index(text) + len(text)
            assert first.body[at] == 0
            assert struct.unpack_from(">d", first.body, at + 1) == (value,)


def test_what_a_query_may_ask_for() -> None:
    names = {
        choose(query).name
        for query in (
            {},
            {"audio": "0"},
            {"audio": "g711"},
            {"hevc": "enhanced"},
            {"hevc": "enhanced", "audio": "0"},
        )
    }
    assert len(names) == 5
    assert choose({}).name == choose({"hevc": "legacy", "audio": "1"}).name == "flv"
    for query in ({"audio": "2"}, {"hevc": "new"}):
        with pytest.raises(MediaError) as caught:
            choose(query)
        assert caught.value.status == 400
