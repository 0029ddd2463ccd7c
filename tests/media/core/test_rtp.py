"""RTP and RTCP packets: tables of bytes and fields."""

from __future__ import annotations

import pytest

from media import rtp

HEAD = bytes.fromhex("8060000a00000e100ae860c1")  # PT 96, sequence 10, timestamp 3600, SSRC 183001281


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (HEAD + b"abc", b"abc"),
        (b"\x81" + HEAD[1:] + b"csrc" + b"abc", b"abc"),
        (b"\x90" + HEAD[1:] + bytes.fromhex("bede0001") + b"ext." + b"abc", b"abc"),
        (b"\xa0" + HEAD[1:] + b"abc" + b"\0\0\3", b"abc"),
        (b"\xb1" + HEAD[1:] + b"csrc" + bytes.fromhex("00000000") + b"abc" + b"\1", b"abc"),
        (HEAD, b""),
    ],
)
def test_payload_is_found_behind_csrc_extension_and_padding(data: bytes, payload: bytes) -> None:
    packet = rtp.parse(data)
    assert packet is not None
    assert bytes(packet.payload) == payload
    assert (packet.payload_type, packet.marker, packet.sequence) == (96, False, 10)
    assert (packet.timestamp, packet.ssrc) == (3600, 0x0AE860C1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD[:11],
        b"\x40" + HEAD[1:],  # version 1
        b"\x90" + HEAD[1:] + b"\0\0",  # extension cut
        b"\x90" + HEAD[1:] + b"\0\0\0\xff",  # extension longer than the packet
        b"\xa0" + HEAD[1:] + b"\0",  # padding of zero
        b"\xa0" + HEAD[1:] + b"\xff",  # padding longer than the packet
        b"\x8f" + HEAD[1:] + b"abc",  # 15 CSRCs that are not there
        bytes.fromhex("80c80006") + bytes(24),  # RTCP
    ],
)
def test_what_is_no_rtp_packet_gives_none(data: bytes) -> None:
    assert rtp.parse(data) is None


@pytest.mark.gb("G223")
def test_packetizer_gives_one_timestamp_per_frame_and_a_continuous_sequence_over_the_wrap() -> None:
    packetizer = rtp.RtpPacketizer(ssrc=183000001, payload_type=96, mtu=1000, sequence=0xFFFE)
    packets = packetizer.packets(bytes(2500), 3600) + packetizer.packets(bytes(1000), 7200)
    parsed = [rtp.parse(packet) for packet in packets]
    assert [(p.sequence, p.timestamp, p.marker, len(p.payload)) for p in parsed if p] == [
        (0xFFFE, 3600, False, 1000), (0xFFFF, 3600, False, 1000), (0, 3600, True, 500), (1, 7200, True, 1000),
    ]  # fmt: skip
    assert {p.ssrc for p in parsed if p} == {183000001}
    assert packetizer.packets(b"", 0) == []


def test_sender_report_round_trip_and_receiver_report_bytes() -> None:
    report = rtp.SenderReport(ssrc=7, ntp=0x1122334455667788, rtp_timestamp=90000, packets=10, octets=1000)
    assert rtp.parse_sender_report(rtp.build_sender_report(report)) == report
    block = rtp.ReportBlock(
        7, fraction_lost=25, lost=-1, highest_sequence=65537, jitter=3, last_sr=0x33445566, delay=65536
    )
    assert rtp.build_receiver_report(9, [block]).hex() == (
        "81c90007" "00000009" "00000007" "19ffffff" "00010001" "00000003" "33445566" "00010000"
    )  # fmt: skip
    assert rtp.parse_sender_report(rtp.build_receiver_report(9, [])) is None


@pytest.mark.parametrize(
    ("newer", "older", "delta"), [(1, 0, 1), (0, 0xFFFF, 1), (0xFFFF, 0, -1), (100, 40000, 25636)]
)
def test_sequence_distance_is_taken_the_short_way(newer: int, older: int, delta: int) -> None:
    assert rtp.sequence_delta(newer, older) == delta
