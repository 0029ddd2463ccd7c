"""H.264 payloads: what another implementation puts together again is what was cut."""

from __future__ import annotations

import pytest
from aiortc.codecs.h264 import H264PayloadDescriptor
from hypothesis import given
from hypothesis import strategies as st

from media.nal import join_annexb, split_annexb
from media.readers.h264_rtp import PAYLOAD_MAX, packetise
from simulator.picture import TestPicture


def put_together(payloads: list[bytes]) -> bytes:
    return b"".join(H264PayloadDescriptor.parse(payload)[1] for payload in payloads)


@pytest.mark.parametrize("bitrate", [300_000, 6_000_000])
def test_pictures_survive(bitrate: int) -> None:
    for unit in TestPicture(704, 576, bitrate=bitrate).encoded_loop(0.4):
        payloads = packetise(unit.data)
        assert max(map(len, payloads)) <= PAYLOAD_MAX
        assert split_annexb(put_together(payloads)) == split_annexb(unit.data)


def test_parameter_sets_travel_together() -> None:
    payloads = packetise(
        join_annexb([b"\x67" + bytes(range(1, 12)), b"\x68\xce\x3c\x80", b"\x65" + b"\x11" * 5000])
    )
    assert payloads[0][0] & 0x1F == 24
    assert [payload[0] & 0x1F for payload in payloads[1:]] == [28] * (len(payloads) - 1)
    assert payloads[1][1] & 0x80
    assert payloads[-1][1] & 0x40
    assert max(map(len, payloads[1:])) - min(map(len, payloads[1:])) < 10


def test_delimiters_are_left_out_and_one_small_unit_goes_alone() -> None:
    assert packetise(join_annexb([b"\x09\xf0", b"\x41\x9a\x01"])) == [b"\x41\x9a\x01"]
    assert packetise(b"") == []


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=12))
def test_units_of_any_size(sizes: list[int]) -> None:
    units = [b"\x41" + b"\x55" * size for size in sizes]
    payloads = packetise(join_annexb(units))
    assert max(map(len, payloads)) <= PAYLOAD_MAX
    assert split_annexb(put_together(payloads)) == units
