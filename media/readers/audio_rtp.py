"""Audio units into RTP payloads: G.711 and other fixed codecs (RFC 3551), AAC (RFC 3640, mode AAC-hbr). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from media.unit import AccessUnit, Codec

G711_PACKET_BYTES = 480
"""60 ms: some devices send their G.711 in larger pieces than receivers like."""
AAC_PAYLOAD_TYPE = 97
AAC_FRAME_SAMPLES = 1024
_AU_HEADER_BYTES = 4
"""AU-headers-length and one AU-header of 13 + 3 bits."""

_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One audio track as SDP names it. ``fmtp`` is empty where nothing has to be said."""

    encoding: str
    payload_type: int
    clock_rate_hz: int
    channels: int = 1
    fmtp: str = ""

    @property
    def rtpmap(self) -> str:
        suffix = f"/{self.channels}" if self.channels != 1 or self.encoding == "mpeg4-generic" else ""
        return f"{self.payload_type} {self.encoding}/{self.clock_rate_hz}{suffix}"


class Piece(NamedTuple):
    """One packet's payload. ``samples``: its distance from the unit's time stamp on the RTP clock."""

    payload: bytes
    samples: int
    marker: bool


# RFC 3551 table 4. G.722 counts 8000 a second although it has 16000 samples (4.5.2).
_STATIC = {
    Codec.PCMU: AudioFormat("PCMU", 0, 8000),
    Codec.G723: AudioFormat("G723", 4, 8000),
    Codec.PCMA: AudioFormat("PCMA", 8, 8000),
    Codec.G722: AudioFormat("G722", 9, 8000),
    Codec.G729: AudioFormat("G729", 18, 8000),
}


class AdtsFrame(NamedTuple):
    """One raw AAC frame and what its header said of it (ISO/IEC 13818-7 6.2)."""

    object_type: int
    rate_index: int
    channels: int
    data: bytes


def adts_frames(data: bytes) -> list[AdtsFrame]:
    """The frames of an ADTS run; stops at the first byte that is no header."""
    frames = []
    at = 0
    while at + 7 <= len(data) and data[at] == 0xFF and data[at + 1] & 0xF6 == 0xF0:
        header = 7 if data[at + 1] & 1 else 9
        index = data[at + 2] >> 2 & 0x0F
        channels = (data[at + 2] & 1) << 2 | data[at + 3] >> 6
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if length <= header or at + length > len(data) or index >= len(_RATES):
            break
        frames.append(
            AdtsFrame((data[at + 2] >> 6) + 1, index, max(channels, 1), data[at + header : at + length])
        )
        at += length
    return frames


def format_of(unit: AccessUnit) -> AudioFormat | None:
    """How a track of units like this one is announced; None for what RTP has no format for, or unreadable AAC."""
    if unit.codec is not Codec.AAC:
        return _STATIC.get(unit.codec)
    frames = adts_frames(unit.data)
    if not frames:
        return None
    first = frames[0]
    config = first.object_type << 11 | first.rate_index << 7 | first.channels << 3
    return AudioFormat(
        "mpeg4-generic",
        AAC_PAYLOAD_TYPE,
        _RATES[first.rate_index],
        first.channels,
        "streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;"
        f"config={config:04x}",
    )


def packetise(unit: AccessUnit, limit: int) -> list[Piece]:
    """The packets of one audio unit; none for AAC without ADTS headers."""
    if unit.codec is Codec.AAC:
        pieces: list[Piece] = []
        for number, frame in enumerate(adts_frames(unit.data)):
            pieces += _aac(frame.data, number * AAC_FRAME_SAMPLES, limit)
        return pieces
    if unit.codec in (Codec.PCMA, Codec.PCMU):
        size = G711_PACKET_BYTES
        return [
            Piece(unit.data[start : start + size], start, False) for start in range(0, len(unit.data), size)
        ]
    return [Piece(unit.data, 0, False)] if unit.data else []


def _aac(frame: bytes, samples: int, limit: int) -> list[Piece]:
    """One frame a packet, so that each has its own time stamp; a very long one is cut (RFC 3640 3.2.3)."""
    header = (16).to_bytes(2, "big") + (len(frame) << 3).to_bytes(2, "big")
    size = limit - _AU_HEADER_BYTES
    return [
        Piece(header + frame[start : start + size], samples, start + size >= len(frame))
        for start in range(0, len(frame), size)
    ]
