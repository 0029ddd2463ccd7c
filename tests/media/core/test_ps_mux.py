"""Our own program streams, looked at byte by byte and by a program that is not ours."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from media.ps_mux import PsMuxer, crc32_mpeg, pack_header, pes_packets, timestamp_field
from media.ts import pes_timestamp
from media.unit import AccessUnit, Codec


def parts(pack: bytes) -> Iterator[tuple[int, bytes]]:
    """Start codes of one pack with what belongs to each, by the lengths that it states."""
    at = 0
    while at < len(pack):
        assert pack[at : at + 3] == b"\x00\x00\x01"
        code = pack[at + 3]
        end = (
            at + 14 + (pack[at + 13] & 7)
            if code == 0xBA
            else at + 6 + int.from_bytes(pack[at + 4 : at + 6], "big")
        )
        yield code, pack[at:end]
        at = end
    assert at == len(pack)


@pytest.mark.gb("G222")
def test_every_key_frame_has_pack_system_header_and_map_before_the_picture(
    h264_units: list[AccessUnit],
) -> None:
    muxer = PsMuxer(Codec.H264, Codec.PCMA)
    keys = 0
    for unit in h264_units:
        codes = [code for code, _ in parts(muxer.mux(unit))]
        wanted = [0xBA, 0xBB, 0xBC] if unit.key else [0xBA]
        assert codes[: len(wanted)] == wanted
        assert set(codes[len(wanted) :]) == {0xE0}
        keys += unit.key
    assert keys == 2
    sound = AccessUnit(Codec.PCMA, 7200, 7200, False, b"\xd5" * 320)
    assert [code for code, _ in parts(muxer.mux(sound))] == [0xBA, 0xC0]


@pytest.mark.gb("G222")
def test_bytes_of_one_small_key_frame() -> None:
    pack = PsMuxer(Codec.H265, Codec.PCMA).mux(AccessUnit(Codec.H265, 90000, 86400, True, b"picture"))
    pieces = dict(parts(pack))
    assert pieces[0xBA].hex() == "000001ba4400168c0401030d43f8"
    assert pieces[0xBB][:4].hex() == "000001bb"
    assert pieces[0xBB][12:].hex() == "c0c020e0e100"
    assert pieces[0xBC][4:20].hex() == "0012e0ff0000000824e0000090c00000"
    assert pieces[0xBC][-4:] == crc32_mpeg(pieces[0xBC][:-4]).to_bytes(4, "big")
    assert pieces[0xE0].hex() == "000001e0001484c00a310005bf21110005a301" + b"picture".hex()


def test_crc_of_the_well_known_check_string() -> None:
    assert crc32_mpeg(b"123456789") == 0x0376E6E7


@pytest.mark.parametrize("value", [0, 1, 90000, (1 << 33) - 1, (1 << 32) + 12345])
def test_timestamps_of_33_bits_are_read_back(value: int) -> None:
    assert pes_timestamp(timestamp_field(2, value), 0) == value
    assert timestamp_field(2, value)[0] >> 4 == 2


@pytest.mark.gb("G222")
def test_a_picture_of_200_kb_is_split_with_the_pts_in_the_first_piece_only() -> None:
    data = bytes(200_000)
    packets = list(parts(pes_packets(0xE0, data, 3600, 3600)))
    assert len(packets) == 4
    assert [packet[7] for _, packet in packets] == [0x80, 0, 0, 0]
    assert b"".join(packet[9 + packet[8] :] for _, packet in packets) == data
    assert all(len(packet) <= 65_541 for _, packet in packets)


def test_a_codec_without_stream_type_and_a_foreign_unit_are_refused() -> None:
    with pytest.raises(ValueError, match="no stream type"):
        PsMuxer(Codec.UNKNOWN)
    with pytest.raises(ValueError, match="no track"):
        PsMuxer(Codec.H264).mux(AccessUnit(Codec.PCMA, 0, 0, False, b"x"))


def test_sound_alone_has_its_map_once() -> None:
    muxer = PsMuxer(None, Codec.PCMA)
    sound = AccessUnit(Codec.PCMA, 0, 0, False, b"\xd5" * 160)
    assert [code for code, _ in parts(muxer.mux(sound))] == [0xBA, 0xBB, 0xBC, 0xC0]
    assert [code for code, _ in parts(muxer.mux(sound))] == [0xBA, 0xC0]


def test_the_scr_wraps_at_33_bits() -> None:
    assert pack_header(1 << 33) == pack_header(0)


@pytest.mark.parametrize("codec", [Codec.H264, Codec.H265])
def test_pyav_reads_our_stream_back(
    codec: Codec, h264_units: list[AccessUnit], h265_units: list[AccessUnit]
) -> None:
    units = h264_units if codec is Codec.H264 else h265_units
    muxer = PsMuxer(codec)
    data = b"".join(muxer.mux(unit) for unit in units)
    with av.open(io.BytesIO(data), format="mpeg") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == {"h264": "h264", "h265": "hevc"}[codec]
        assert sum(1 for _ in container.decode(stream)) == len(units)


@pytest.mark.needs("ffprobe")
@pytest.mark.gb("G222")
def test_ffprobe_counts_all_pictures(h264_units: list[AccessUnit], tmp_path: Path) -> None:
    muxer = PsMuxer(Codec.H264)
    path = tmp_path / "own.ps"
    path.write_bytes(b"".join(muxer.mux(unit) for unit in h264_units))
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    result = subprocess.run(command, capture_output=True, timeout=60, check=True)
    (stream,) = json.loads(result.stdout)["streams"]
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("h264", 320, 240)
    assert int(stream["nb_read_frames"]) == len(h264_units)
