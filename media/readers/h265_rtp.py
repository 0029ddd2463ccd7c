"""H.265 access units into RTP payloads (RFC 7798, without DON fields: packets leave in decoding order). Pure."""

from __future__ import annotations

from media.nal import H265_AUD, split_annexb
from media.readers.h264_rtp import PAYLOAD_MAX

_AP, _FU = 48, 49
_FU_START, _FU_END = 0x80, 0x40


def packetise(data: bytes, limit: int = PAYLOAD_MAX) -> list[bytes]:
    """The RTP payloads of one Annex B access unit: small NAL units together (AP), large ones cut (FU).

    No payload is longer than ``limit`` bytes.
    """
    payloads: list[bytes] = []
    small: list[bytes] = []
    room = limit - 2
    for unit in split_annexb(data):
        if len(unit) < 2 or unit[0] >> 1 & 0x3F == H265_AUD:
            continue
        if small and len(unit) + 2 > room:
            payloads.append(_together(small))
            small, room = [], limit - 2
        if len(unit) > limit:
            payloads += _cut(unit, limit)
        else:
            small.append(unit)
            room -= len(unit) + 2
    if small:
        payloads.append(_together(small))
    return payloads


def _together(units: list[bytes]) -> bytes:
    """An aggregation packet: its header has the lowest layer and the lowest temporal id of what it holds (4.4.2)."""
    if len(units) == 1:
        return units[0]
    forbidden = max(unit[0] & 0x80 for unit in units)
    layer = min((unit[0] & 1) << 5 | unit[1] >> 3 for unit in units)
    temporal = min(unit[1] & 7 for unit in units)
    parts = [bytes((forbidden | _AP << 1 | layer >> 5, (layer & 0x1F) << 3 | temporal))]
    for unit in units:
        parts += (len(unit).to_bytes(2, "big"), unit)
    return b"".join(parts)


def _cut(unit: bytes, limit: int) -> list[bytes]:
    """Fragments of nearly equal size (4.4.3)."""
    body = len(unit) - 2
    count = -(-body // (limit - 3))
    size = -(-body // count)
    kind = unit[0] >> 1 & 0x3F
    header = bytes((unit[0] & 0x81 | _FU << 1, unit[1]))
    middle = header + bytes((kind,))
    payloads = [middle + unit[start : start + size] for start in range(2, len(unit), size)]
    payloads[0] = header + bytes((kind | _FU_START,)) + payloads[0][3:]
    payloads[-1] = header + bytes((kind | _FU_END,)) + payloads[-1][3:]
    return payloads
