"""NAL splitting and parameter sets: against encoders' own words, by hand-made sets, and by damaged bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media import nal
from media.unit import Codec
from simulator.picture import TestPicture


@pytest.mark.parametrize(
    ("data", "units"),
    [
        (b"", []),
        (b"\x00\x00\x00", []),
        (b"\x00\x00\x01\x09\xf0", [b"\x09\xf0"]),
        (b"\x00\x00\x00\x01\x67\x42\x00\x00\x00\x01\x68\xce", [b"\x67\x42", b"\x68\xce"]),
        (b"junk\x00\x00\x01\x65\x88\x00\x00\x00\x00\x00\x01\x41", [b"\x65\x88", b"\x41"]),
        (b"\x00\x00\x01\x00\x00\x01\x41", [b"\x41"]),
        (b"\x00\x00\x01\x65\x00\x00\x03\x01", [b"\x65\x00\x00\x03\x01"]),
    ],
)
def test_split_annexb(data: bytes, units: list[bytes]) -> None:
    assert nal.split_annexb(data) == units


@given(
    st.lists(st.binary(min_size=1, max_size=40).map(lambda body: b"\x65" + body.replace(b"\x00", b"\x01")))
)
def test_split_is_the_inverse_of_join(units: list[bytes]) -> None:
    assert nal.split_annexb(nal.join_annexb(units)) == units


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("size", [(1280, 720), (704, 576), (1920, 1080), (352, 288), (640, 362)])
def test_sps_tells_the_cropped_size(codec: str, size: tuple[int, int]) -> None:
    key = TestPicture(*size, codec=codec).encoded_loop(0.04)[0]
    info = nal.describe(key.codec, key.data)
    assert info is not None
    assert (info.width, info.height) == size
    assert (info.chroma_format, info.bit_depth_luma, info.bit_depth_chroma) == (1, 8, 8)
    assert info.num_reorder_frames == 0


@pytest.mark.parametrize(
    ("profile", "start"), [("baseline", "avc1.42c0"), ("main", "avc1.4d40"), ("high", "avc1.6400")]
)
def test_h264_codec_string_is_the_profile_as_sent(profile: str, start: str) -> None:
    key = TestPicture(640, 480, preset="veryfast", profile=profile).encoded_loop(0.04)[0]
    name = nal.codec_string(key.codec, key.data)
    assert name is not None
    assert name.startswith(start)
    sps = next(unit for unit in nal.split_annexb(key.data) if unit[0] & 0x1F == nal.H264_SPS)
    assert name == "avc1." + sps[1:4].hex()


def test_h265_codec_string() -> None:
    key = TestPicture(1280, 720, codec="h265").encoded_loop(0.04)[0]
    assert nal.codec_string(key.codec, key.data) == "hvc1.1.6.L93.90"


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_b_frames_show_in_the_parameter_sets(codec: str) -> None:
    units = TestPicture(352, 288, codec=codec, preset="veryfast", b_frames=2).encoded_loop(0.8)
    info = nal.describe(units[0].codec, units[0].data)
    assert info is not None
    assert info.num_reorder_frames
    if codec == "h264":
        assert any(nal.has_b_slices(Codec.H264, unit.data) for unit in units)


def test_no_b_slices_where_there_are_none() -> None:
    units = TestPicture(352, 288).encoded_loop(0.4)
    assert not any(nal.has_b_slices(Codec.H264, unit.data) for unit in units)


def sps_from_bits(bits: str) -> bytes:
    size = -(-len(bits) // 8)
    return b"\x67" + int(bits.ljust(size * 8, "0"), 2).to_bytes(size, "big")


def test_sps_of_a_common_camera() -> None:
    """1080p Main, cropped from 1088 lines, VUI without bitstream restriction: reordering stays open."""
    bits = f"{77:08b}{0:08b}{40:08b}" + "1" + "1" + "1" + "1"  # ids and order count type 0
    bits += "010" + "0"  # one reference frame
    bits += f"{120:013b}" + f"{68:013b}" + "1" + "1"  # 120 by 68 map units, frames only
    bits += "1" + "1" + "1" + "1" + "00101"  # cropping: bottom 4 units of 2 lines
    bits += "1" + "0000" + "0" + "0" + "0" + "0" + "1"  # VUI: nothing, no bitstream restriction
    info = nal.parse_sps_h264(sps_from_bits(bits))
    assert (info.profile, info.level, info.codec_string) == (77, 40, "avc1.4d0028")
    assert (info.width, info.height, info.num_reorder_frames) == (1920, 1080, None)


def test_scaling_lists_and_field_coding_are_read_over() -> None:
    """High profile with one explicit scaling list and fields: 720 by 576 in 18 pairs of map unit rows."""
    bits = f"{100:08b}{0:08b}{30:08b}" + "1"
    bits += "010" + "1" + "1" + "0"  # chroma 4:2:0, 8 bit luma and chroma, no bypass
    bits += "1" + "1" + "000010001" + "0" * 7  # list 0 ends at once (delta -8), no others
    bits += "1" + "011"  # pic_order_cnt_type 2
    bits += "010" + "0"
    bits += f"{45:011b}" + f"{18:09b}" + "0" + "0" + "1"  # 45 by 18 map units, fields, no MBAFF
    bits += "0" + "0" + "1"
    info = nal.parse_sps_h264(sps_from_bits(bits))
    assert (info.width, info.height, info.num_reorder_frames) == (720, 576, 0)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_parameter_sets_give_a_value_or_a_nal_error(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(["h264", "h265"]))
    key = TestPicture(352, 288, codec=codec).encoded_loop(0.04)[0]
    wanted = nal.H264_SPS if codec == "h264" else nal.H265_SPS
    parse = nal.parse_sps_h264 if codec == "h264" else nal.parse_sps_h265
    sps = bytearray(
        next(unit for unit in nal.split_annexb(key.data) if nal.nal_type(key.codec, unit) == wanted)
    )
    for _ in range(data.draw(st.integers(1, 6))):
        sps[data.draw(st.integers(1, len(sps) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(sps)))
    try:
        info = parse(bytes(sps[:cut]))
    except nal.NalError:
        return
    assert 0 < info.width <= 16384
    assert 0 < info.height <= 16384


@given(st.binary(max_size=200))
def test_any_bytes_can_be_described(data: bytes) -> None:
    for codec in (Codec.H264, Codec.H265, Codec.AAC):
        nal.describe(codec, data)
        nal.has_b_slices(codec, data)
