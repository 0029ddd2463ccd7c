"""H.264 access units into RTP payloads (RFC 6184, packetization mode 1). Pure."""

from __future__ import annotations

from media.nal import H264_AUD, split_annexb

PAYLOAD_MAX = 1200
"""Bytes of RTP payload: with SRTP, RTP and UDP headers it stays below any usual MTU."""

_STAP_A, _FU_A = 24, 28
_FU_START, _FU_END = 0x80, 0x40


def packetise(data: bytes, limit: int = PAYLOAD_MAX) -> list[bytes]:
    """The RTP payloads of one Annex B access unit: small NAL units together (STAP-A), large ones cut (FU-A).

    No payload is longer than ``limit`` bytes.
    """
    payloads: list[bytes] = []
    small: list[bytes] = []
    room = limit - 1
    for unit in split_annexb(data):
        if unit[0] & 0x1F == H264_AUD:
            continue
        if small and len(unit) + 2 > room:
            payloads.append(_together(small))
            small, room = [], limit - 1
        if len(unit) > limit:
            payloads += _cut(unit, limit)
        else:
            small.append(unit)
            room -= len(unit) + 2
    if small:
        payloads.append(_together(small))
    return payloads


def _together(units: list[bytes]) -> bytes:
    if len(units) == 1:
        return units[0]
    forbidden = max(unit[0] & 0x80 for unit in units)
    importance = max(unit[0] & 0x60 for unit in units)
    parts = [bytes((forbidden | importance | _STAP_A,))]
    for unit in units:
        parts += (len(unit).to_bytes(2, "big"), unit)
    return b"".join(parts)


def _cut(unit: bytes, limit: int) -> list[bytes]:
    """FU-A fragments of nearly equal size: the last packet of a large unit is no dwarf."""
    body = len(unit) - 1
    count = -(-body // (limit - 2))
    size = -(-body // count)
    indicator, kind = unit[0] & 0xE0 | _FU_A, unit[0] & 0x1F
    starts = range(1, len(unit), size)
    middle = bytes((indicator, kind))
    payloads = [middle + unit[start : start + size] for start in starts]
    payloads[0] = bytes((indicator, kind | _FU_START)) + payloads[0][2:]
    payloads[-1] = bytes((indicator, kind | _FU_END)) + payloads[-1][2:]
    return payloads
