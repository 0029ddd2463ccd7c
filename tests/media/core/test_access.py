"""From video bytes to access units: naming the codec, parameter sets, splitting. See also test_ps.py."""

from __future__ import annotations

import pytest

from media.access import VideoAssembler, probe
from media.unit import AccessUnit, Codec

START = b"\x00\x00\x00\x01"


@pytest.mark.parametrize(
    ("nals", "codec", "strong"),
    [
        (["67 42", "68 ce", "65 88"], Codec.H264, True),
        (["27 64", "28 ee", "25 88"], Codec.H264, True),
        (["41 9a"], Codec.H264, False),
        (["09 f0", "06 05", "01 9a"], Codec.H264, False),
        (["40 01", "42 01", "44 01", "26 01"], Codec.H265, True),
        (["28 01"], Codec.H265, True),
        (["02 01"], Codec.H265, False),
        (["46 01", "02 01"], Codec.H265, False),
    ],
)
def test_the_codec_is_told_by_nal_headers(nals: list[str], codec: Codec, strong: bool) -> None:
    evidence = probe(b"".join(START + bytes.fromhex(nal) + b"\x11\x22" for nal in nals))
    assert evidence is not None
    assert (evidence.codec, evidence.strong) == (codec, strong)


@pytest.mark.parametrize(
    "data", [b"", b"no start code", START, START + b"\xff\xff\xff", START + b"\x06\x01\x00"]
)
def test_bytes_that_say_nothing(data: bytes) -> None:
    evidence = probe(data)
    assert evidence is None or not evidence.strong


def test_weak_evidence_needs_three_frames_without_a_map() -> None:
    assembler = VideoAssembler()
    picture = START + b"\x41\x9a\x24\x55"
    assert assembler.units(picture, 0, 0) == []
    assert assembler.units(picture, 3600, 3600) == []
    assert [unit.codec for unit in assembler.units(picture, 7200, 7200)] == [Codec.H264]


def test_the_encoders_pictures_are_named(h264_units: list[AccessUnit], h265_units: list[AccessUnit]) -> None:
    for units in (h264_units, h265_units):
        for unit in units:
            evidence = probe(unit.data)
            assert evidence is not None
            assert evidence.codec is unit.codec


def test_an_intra_picture_with_sps_is_a_key_frame_without_being_idr() -> None:
    sets = START + bytes.fromhex("6742c01ed900a047fec8") + START + bytes.fromhex("68ce3c80")
    assembler = VideoAssembler()
    intra = START + bytes.fromhex("41") + bytes((0b1011_0000, 0x55, 0x66))  # first_mb 0, slice_type 2: I
    (unit,) = assembler.units(sets + intra, 0, 0)
    assert unit.key
    inter = START + bytes.fromhex("41") + bytes((0b1001_1010, 0x55, 0x66))  # slice_type 5: P
    (unit,) = assembler.units(sets + inter, 3600, 3600)
    assert not unit.key


def test_new_parameter_sets_replace_the_old_ones() -> None:
    assembler = VideoAssembler()
    first = START + bytes.fromhex("6742c01ed900a047fec8") + START + bytes.fromhex("68ce3c80")
    second = START + bytes.fromhex("6742c01fd900a047fec8") + START + bytes.fromhex("68ce3c81")
    idr = START + b"\x65\x88\x84\x11"
    for sets in (first, second):
        assembler.units(sets + idr, 0, 0)
        (unit,) = assembler.units(idr, 0, 0)
        assert unit.data == sets + idr


def test_interlaced_pictures_of_two_fields_are_not_split() -> None:
    # SPS of baseline profile, 40x30 macroblocks, frame_mbs_only_flag 0.
    sps = START + bytes.fromhex("674d401e") + bytes((0b1111_0000, 0b0010_1000, 0b1000_0111, 0b1000_1000))
    pps = START + bytes.fromhex("68ce3c80")
    field = START + b"\x65\x88\x84\x11"
    assembler = VideoAssembler()
    assembler.units(sps + pps + field, 0, 0)
    units = assembler.units(sps + pps + field + field, 3600, 3600)
    assert len(units) == (1 if assembler._interlaced else 2)
