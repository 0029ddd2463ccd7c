"""RTP and RTCP packets as bytes: parse, build, cut into packets (RFC 3550). Pure."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from typing import NamedTuple

HEADER = struct.Struct("!BBHII")
"""First twelve bytes: V/P/X/CC, M/PT, sequence, timestamp, SSRC."""
HEADER_SIZE = 12
MAX_PACKET = 10 * 1024
"""Longest RTP packet believed; GB/T 28181 senders stay near 1400, some TCP senders use up to 9 KiB."""

_RR = struct.Struct("!BBHI")
_REPORT = struct.Struct("!IIIIII")
_SR = struct.Struct("!BBHIIIIII")


class RtpPacket(NamedTuple):
    """One parsed packet. ``payload`` has no header extension, CSRC or padding any more."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes | memoryview


class SenderReport(NamedTuple):
    """What an RTCP sender report says (RFC 3550 6.4.1). ``ntp`` is the 64-bit NTP time."""

    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int


class ReportBlock(NamedTuple):
    """One reception report block (RFC 3550 6.4.1): fraction of 256, lost since the start, jitter in ticks."""

    ssrc: int
    fraction_lost: int
    lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay: int


def is_rtcp(data: bytes | bytearray | memoryview) -> bool:
    """True for packet types 192-223, which RTP with marker never uses in practice (RFC 5761 4)."""
    return len(data) >= 8 and data[0] >> 6 == 2 and 192 <= data[1] <= 223


def payload_bounds(data: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """Start and end of the payload inside a packet, or None when this is no RTP version 2 packet."""
    size = len(data)
    if size < HEADER_SIZE:
        return None
    first = data[0]
    if first == 0x80:
        return HEADER_SIZE, size
    if first >> 6 != 2:
        return None
    start = HEADER_SIZE + 4 * (first & 0x0F)
    if first & 0x10:
        if start + 4 > size:
            return None
        start += 4 + 4 * ((data[start + 2] << 8) | data[start + 3])
    end = size
    if first & 0x20:
        padding = data[-1]
        if padding == 0 or start + padding > size:
            return None
        end -= padding
    return (start, end) if start <= end else None


def parse(data: bytes | bytearray | memoryview) -> RtpPacket | None:
    """Parse one packet; None for RTCP, other versions and lengths that contradict themselves."""
    if is_rtcp(data):
        return None
    bounds = payload_bounds(data)
    if bounds is None:
        return None
    _, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    payload = data[bounds[0] : bounds[1]]
    if isinstance(payload, bytearray):
        payload = bytes(payload)
    return RtpPacket(second & 0x7F, second >= 0x80, sequence, timestamp, ssrc, payload)


def build(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, *, marker: bool = False
) -> bytes:
    """One RTP packet without extension; numbers are cut to their field's width."""
    second = (0x80 if marker else 0) | (payload_type & 0x7F)
    return HEADER.pack(0x80, second, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc) + payload


def sequence_delta(newer: int, older: int) -> int:
    """Signed distance of two 16-bit sequence numbers, -32768 to 32767 (RFC 1982 arithmetic)."""
    return ((newer - older + 0x8000) & 0xFFFF) - 0x8000


class RtpPacketizer:
    """Cuts one frame's bytes into RTP packets of one timestamp, marker on the last (GB/T 28181-2022 4.3.6, C.1).

    ``mtu`` is the largest payload in bytes. The sequence starts at random and runs on over calls.
    """

    def __init__(self, ssrc: int, payload_type: int, mtu: int = 1400, sequence: int | None = None) -> None:
        self.ssrc = ssrc
        self.payload_type = payload_type
        self.mtu = mtu
        self.sequence = secrets.randbelow(0x8000) if sequence is None else sequence

    def packets(self, payload: bytes, timestamp: int) -> list[bytes]:
        """All packets of one frame; none for an empty payload. ``timestamp`` counts 90 kHz ticks."""
        mtu, size, sequence = self.mtu, len(payload), self.sequence
        pack, second, ssrc = HEADER.pack, self.payload_type & 0x7F, self.ssrc
        timestamp &= 0xFFFFFFFF
        result = []
        for start in range(0, size, mtu):
            last = 0x80 if start + mtu >= size else 0
            result.append(pack(0x80, second | last, sequence, timestamp, ssrc) + payload[start : start + mtu])
            sequence = (sequence + 1) & 0xFFFF
        self.sequence = sequence
        return result


def parse_sender_report(data: bytes | bytearray | memoryview) -> SenderReport | None:
    """The sender report at the head of an RTCP compound, or None (RFC 3550 6.4.1)."""
    if len(data) < _SR.size or data[0] >> 6 != 2 or data[1] != 200:
        return None
    _, _, _, ssrc, ntp_high, ntp_low, rtp_timestamp, packets, octets = _SR.unpack_from(data)
    return SenderReport(ssrc, (ntp_high << 32) | ntp_low, rtp_timestamp, packets, octets)


def build_sender_report(report: SenderReport) -> bytes:
    """A sender report without report blocks."""
    return _SR.pack(
        0x80, 200, 6, report.ssrc, report.ntp >> 32, report.ntp & 0xFFFFFFFF,
        report.rtp_timestamp, report.packets & 0xFFFFFFFF, report.octets & 0xFFFFFFFF,
    )  # fmt: skip


def build_receiver_report(ssrc: int, blocks: Sequence[ReportBlock]) -> bytes:
    """A receiver report of up to 31 blocks (RFC 3550 6.4.2)."""
    result = _RR.pack(0x80 | len(blocks), 201, 1 + 6 * len(blocks), ssrc)
    for block in blocks:
        result += _REPORT.pack(
            block.ssrc,
            (block.fraction_lost << 24) | (min(max(block.lost, -0x800000), 0x7FFFFF) & 0xFFFFFF),
            block.highest_sequence, block.jitter, block.last_sr, block.delay,
        )  # fmt: skip
    return result
