"""The pure parts of reading an input: decoding order, ADTS and Annex B, the bounded way to the node."""

from __future__ import annotations

import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.sources import elementary
from media.sources.decode_order import MAX_DEPTH, DecodeOrder
from media.sources.read_rtsp import address
from media.sources.reading import CODECS, HEAD, KEY, NodeGone, Outlet
from media.unit import AccessUnit, Codec

STEP = 3600


def stamped(pts: list[int], depth: int | None) -> list[tuple[int, int]]:
    order = DecodeOrder()
    order.expect(depth)
    return [order.stamp(value) for value in pts]


def test_without_reordering_dts_is_pts() -> None:
    pts = [index * STEP for index in range(20)]
    assert stamped(pts, 0) == [(value, value) for value in pts]
    assert stamped(pts, None) == [(value, value) for value in pts]


@pytest.mark.parametrize("depth", [1, 2])
def test_reordered_pictures_get_evenly_spaced_decoding_times(depth: int) -> None:
    group = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8] if depth == 1 else [0, 4, 2, 1, 3, 8, 6, 5, 7]
    result = stamped([number * STEP for number in group], depth)
    assert [pts for pts, _ in result] == [number * STEP for number in group]
    assert [dts for _, dts in result] == [(index - depth) * STEP for index in range(len(group))]


def test_more_reordering_than_announced_is_learned() -> None:
    numbers = [base * 3 + offset for base in range(20) for offset in (3, 1, 2)]
    result = stamped([number * STEP for number in numbers], None)
    assert all(pts >= dts for pts, dts in result)
    assert [pts for pts, _ in result[12:]] == [number * STEP for number in numbers[12:]]


@given(st.lists(st.integers(0, 1 << 33), max_size=60), st.integers(0, 40))
def test_decoding_times_always_grow_and_never_pass_the_presentation(pts: list[int], depth: int) -> None:
    order = DecodeOrder()
    order.expect(depth)
    last = None
    for value in pts:
        jumped = last is not None and abs(value - last[0]) > 5 * 90_000
        shown, dts = order.stamp(value)
        assert dts <= shown
        if last is not None and not jumped:
            assert dts > last[1]
        last = value, dts
    assert order.depth <= MAX_DEPTH


@pytest.mark.parametrize(
    ("config", "wanted"),
    [("1408", (16000, 1)), ("1190", (48000, 2)), ("1588", (8000, 1)), ("2b8a0800", (22050, 1)), ("", None)],
)
def test_audio_specific_config(config: str, wanted: tuple[int, int] | None) -> None:
    assert elementary.aac_config(bytes.fromhex(config)) == wanted


def test_sound_without_a_stamp_follows_the_last() -> None:
    track = elementary.AudioTrack(Codec.AAC, bytes.fromhex("1408"), 0)
    assert track.unit(b"\x21\x00", None) is None
    first, second = track.unit(b"\x21\x00", 900), track.unit(b"\x21\x01", None)
    assert first is not None
    assert second is not None
    assert (first.pts, second.pts) == (900, 900 + 5760)
    assert first.data == bytes.fromhex("fff16040013ffc2100")


def test_credentials_are_escaped_into_the_address() -> None:
    assert (
        address("rtsp://10.1.0.9:554/a?b=1", "admin", "p@s:s/%")
        == "rtsp://admin:p%40s%3As%2F%25@10.1.0.9:554/a?b=1"
    )
    assert address("rtsp://old:one@10.1.0.9/a", "new", "") == "rtsp://new:@10.1.0.9/a"
    assert address("rtsp://[2001:db8::1]:554/a", "u", "p") == "rtsp://u:p@[2001:db8::1]:554/a"
    assert address("rtsp://10.1.0.9/a", "", "") == "rtsp://10.1.0.9/a"


def picture(number: int, *, key: bool) -> AccessUnit:
    return AccessUnit(Codec.H264, number * STEP, number * STEP, key, bytes(200_000))


def test_a_node_that_does_not_take_loses_whole_groups_of_pictures() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outlet = Outlet(ours)
        for number in range(60):
            outlet.unit(picture(number, key=number % 10 == 0))
        assert outlet.dropped > 10
        theirs.setblocking(False)
        got: list[tuple[int, bool]] = []
        buffer = bytearray()
        for number in range(60, 90):  # now it takes
            outlet.unit(picture(number, key=number % 10 == 0))
            while True:
                try:
                    buffer += theirs.recv(1 << 20)
                except BlockingIOError:
                    break
        told = 0
        at = 0
        while len(buffer) - at >= HEAD.size:
            _, codec, flags, size, pts, _, told = HEAD.unpack_from(buffer, at)
            assert CODECS[codec] is Codec.H264
            if len(buffer) - at - HEAD.size < size:
                break
            got.append((pts // STEP, bool(flags & KEY)))
            at += HEAD.size + size
    numbers = [number for number, _ in got]
    assert numbers == sorted(numbers)
    for (before, _), (number, key) in itertools.pairwise(got):
        assert key or number == before + 1, "a picture without its references was sent"
    assert told == outlet.dropped
    assert len(got) + outlet.dropped <= 90
    assert got[-1][0] >= 80, "it never came back"


def test_a_closed_node_ends_the_reading() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(NodeGone):
        Outlet(ours).unit(picture(0, key=True))
