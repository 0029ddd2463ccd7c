"""H.265 and audio payloads: what our own depacketizer, written for cameras, puts together is what was cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.es import AudioDepacketizer, VideoDepacketizer, adts_header
from media.nal import H265_AUD, join_annexb, split_annexb
from media.readers import audio_rtp
from media.readers.h265_rtp import packetise
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture


def nals(payloads: list[bytes]) -> list[bytes]:
    """What arrives, by NAL unit."""
    reader = VideoDepacketizer(Codec.H265)
    for payload in payloads:
        reader.feed([payload], 0, gap=False, end=False, now=0.0)
    assert not reader._damaged
    return reader._nals


@pytest.mark.parametrize("limit", [200, 1400])
def test_h265_pictures_survive(limit: int) -> None:
    for unit in TestPicture(352, 288, codec="h265", bitrate=1_000_000).encoded_loop(0.4):
        payloads = packetise(unit.data, limit)
        assert max(map(len, payloads)) <= limit
        expected = [nal for nal in split_annexb(unit.data) if nal[0] >> 1 & 0x3F != H265_AUD]
        assert nals(payloads) == expected


def test_h265_parameter_sets_travel_together() -> None:
    sets = [b"\x40\x01" + b"v" * 20, b"\x42\x03" + b"s" * 30, b"\x44\x02" + b"p" * 5]
    delimiter, picture = b"\x46\x01\x50", b"\x26\x01" + b"i" * 3000
    payloads = packetise(join_annexb([delimiter, *sets, picture]), 1400)
    assert payloads[0][:2] == bytes((48 << 1, 1))  # lowest temporal id of the three
    assert [payload[0] >> 1 for payload in payloads[1:]] == [49] * (len(payloads) - 1)
    assert [payload[2] & 0xC0 for payload in payloads[1:]] == [0x80, 0, 0x40]
    assert {payload[2] & 0x3F for payload in payloads[1:]} == {19}
    assert nals(payloads) == [*sets, picture]


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=12), st.integers(64, 1500))
def test_h265_units_of_any_size(sizes: list[int], limit: int) -> None:
    units = [b"\x02\x01" + b"\x55" * size for size in sizes]
    payloads = packetise(join_annexb(units), limit)
    assert max(map(len, payloads)) <= limit
    assert nals(payloads) == units


def adts(*frames: bytes, rate_hz: int = 16000, channels: int = 2) -> bytes:
    return b"".join(adts_header(len(frame), rate_hz, channels) + frame for frame in frames)


def test_aac_frames_go_one_by_one_with_their_own_time() -> None:
    frames = [b"a" * 100, b"b" * 200, b"c" * 3000]
    unit = AccessUnit(Codec.AAC, 0, 0, False, adts(*frames))
    form = audio_rtp.format_of(unit)
    assert form is not None
    assert form.rtpmap == "97 mpeg4-generic/16000/2"
    assert form.fmtp.endswith("config=1410")
    pieces = audio_rtp.packetise(unit, 1400)
    assert [piece.samples for piece in pieces] == [0, 1024, 2048, 2048, 2048]
    assert [piece.marker for piece in pieces] == [True, True, False, False, True]
    reader = AudioDepacketizer(Codec.AAC, 16000)
    assert [reader._adts(piece.payload)[7:] for piece in pieces[:2]] == frames[:2]
    assert b"".join(piece.payload[4:] for piece in pieces[2:]) == frames[2]
    assert {piece.payload[:4] for piece in pieces[2:]} == {b"\x00\x10" + (3000 << 3).to_bytes(2, "big")}


def test_g711_is_cut_and_others_pass() -> None:
    unit = AccessUnit(Codec.PCMU, 0, 0, False, bytes(1000))
    assert [(len(p.payload), p.samples) for p in audio_rtp.packetise(unit, 1400)] == [
        (480, 0),
        (480, 480),
        (40, 960),
    ]
    form = audio_rtp.format_of(unit)
    assert form is not None
    assert form.rtpmap == "0 PCMU/8000"
    g729 = AccessUnit(Codec.G729, 0, 0, False, bytes(20))
    assert audio_rtp.packetise(g729, 1400) == [(bytes(20), 0, False)]


@pytest.mark.parametrize(
    "data", [b"", b"no header", b"\xff\xf1", adts(b"x" * 50)[:20], b"\xff\xf1\x3c" + bytes(40)]
)
def test_aac_without_whole_frames(data: bytes) -> None:
    unit = AccessUnit(Codec.AAC, 0, 0, False, data)
    assert audio_rtp.packetise(unit, 1400) == []
    assert audio_rtp.format_of(unit) is None


def test_codecs_without_an_rtp_format() -> None:
    assert audio_rtp.format_of(AccessUnit(Codec.SVACA, 0, 0, False, b"x")) is None
