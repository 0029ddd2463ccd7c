"""The transport stream demuxer: sound, loss, repeated and odd packets."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import pytest

from media.ts import TsDemuxer, looks_like_ts
from media.unit import AccessUnit, Codec


@pytest.fixture(scope="module")
def stream(h264_units: list[AccessUnit]) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mpegts") as container:
        video = container.add_mux_stream("h264", rate=25, width=320, height=240)
        video.time_base = Fraction(1, 90000)
        for unit in h264_units:
            packet = av.Packet(unit.data)
            packet.pts = packet.dts = unit.dts
            packet.stream, packet.is_keyframe, packet.time_base = video, unit.key, video.time_base
            container.mux(packet)
    return sink.getvalue()


def test_pictures_come_out_whole_from_any_cut(stream: bytes, h264_units: list[AccessUnit]) -> None:
    for size in (188, 1000, 1316, len(stream)):
        demuxer, out = TsDemuxer(), []
        for at in range(0, len(stream), size):
            out += demuxer.feed(stream[at : at + size], at, now=at / 1e5)
        assert [unit.key for unit in out] == [unit.key for unit in h264_units[: len(out)]]
        assert len(out) == len(h264_units) - 1  # the last one ends with the next
        assert not any(unit.damaged for unit in out)
        assert [unit.dts for unit in out] == [unit.dts for unit in h264_units[: len(out)]]


@pytest.mark.gb("G219")
def test_a_lost_packet_damages_up_to_the_next_key_frame(stream: bytes, h264_units: list[AccessUnit]) -> None:
    packets = [stream[at : at + 188] for at in range(0, len(stream), 188)]
    third = len(packets) // 4
    demuxer, out = TsDemuxer(), []
    for number, packet in enumerate(packets):
        if number != third:
            out += demuxer.feed(packet, number, now=number / 100)
    damaged = [number for number, unit in enumerate(out) if unit.damaged]
    assert damaged
    assert damaged == list(range(damaged[0], 25))
    assert out[25].key
    demuxer = TsDemuxer()
    demuxer.feed(b"".join(packets[:third]))
    out = demuxer.feed(b"".join(packets[third:]), gap=True)
    assert out[0].damaged


def test_repeated_packets_and_bytes_out_of_step_are_left_out(
    stream: bytes, h264_units: list[AccessUnit]
) -> None:
    packets = [stream[at : at + 188] for at in range(0, len(stream), 188)]
    demuxer = TsDemuxer()
    data = b"".join(packet + (packet if number % 50 == 49 else b"") for number, packet in enumerate(packets))
    out = demuxer.feed(b"garbage" + data)
    assert demuxer.resyncs >= 1
    assert len(out) == len(h264_units) - 1
    assert not any(unit.damaged for unit in out)


def test_sound_beside_the_picture_and_the_look_of_a_payload() -> None:
    def section(pid: int, body: bytes) -> bytes:
        return (bytes((0x47, 0x40 | pid >> 8, pid & 0xFF, 0x10, 0)) + body).ljust(188, b"\xff")

    pat = section(0, bytes.fromhex("00b00d0001c10000") + bytes.fromhex("0001e100") + bytes(4))
    pmt = section(
        0x100,
        bytes.fromhex("02b0120001c10000")
        + bytes.fromhex("e101f000")
        + bytes.fromhex("90e101f000")
        + bytes(4),
    )

    def sound(counter: int) -> bytes:
        pes = bytes.fromhex("000001c000a880800521") + bytes.fromhex("00010001") + b"\xd5" * 160
        head = bytes((0x47, 0x41, 0x01, 0x30 | counter, 184 - len(pes) - 1, 0)).ljust(188 - len(pes), b"\xff")
        return head + pes

    demuxer = TsDemuxer()
    out = demuxer.feed(pat + pmt + sound(0) + sound(1) + sound(2))
    assert [(unit.codec, unit.data) for unit in out] == [(Codec.PCMA, b"\xd5" * 160)] * 2
    assert demuxer.audio_announced
    assert looks_like_ts(pat + pmt)
    assert not looks_like_ts(pat[:-1])
    assert not looks_like_ts(b"")
