"""Writes MPEG-2 program streams as GB/T 28181 wants them: one frame per pack, map before each key frame. Pure.

ISO/IEC 13818-1 2.5.3 (pack, system header), 2.5.4 (program stream map), 2.4.3.6 (PES);
GB/T 28181-2022 C.1 (E0 video, C0 audio, 90 kHz).
"""

from __future__ import annotations

import struct

from media.unit import STREAM_TYPES, AccessUnit, Codec

VIDEO_ID = 0xE0
AUDIO_ID = 0xC0
MAX_PES_PAYLOAD = 65_000
"""Longest elementary piece in one PES packet: its length field has 16 bits, and its header needs up to 13."""

_TYPE_OF = {codec: number for number, codec in STREAM_TYPES.items()}
_CLOCK_MASK = (1 << 33) - 1
_MUX_RATE = 50_000
"""In units of 50 bytes per second: 20 Mbit/s, above what one camera sends."""


def crc32_mpeg(data: bytes) -> int:
    """CRC-32 of ISO/IEC 13818-1 annex A: polynomial 0x04C11DB7, no reflection, no final inversion."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ 0x04C11DB7) & 0xFFFFFFFF if crc & 0x80000000 else crc << 1
    return crc


def pack_header(scr: int) -> bytes:
    """A pack header of 14 bytes; ``scr`` is the 33-bit base in 90 kHz ticks, the extension is 0."""
    scr &= _CLOCK_MASK
    value = (
        (0b01 << 46) | ((scr >> 30) << 43) | (1 << 42) | (((scr >> 15) & 0x7FFF) << 27) | (1 << 26)
        | ((scr & 0x7FFF) << 11) | (1 << 10) | 1
    )  # fmt: skip
    rate = (_MUX_RATE << 2) | 3
    return b"\x00\x00\x01\xba" + value.to_bytes(6, "big") + rate.to_bytes(3, "big") + b"\xf8"


def timestamp_field(prefix: int, value: int) -> bytes:
    """Five bytes of a PTS or DTS (ISO/IEC 13818-1 2.4.3.6); ``prefix`` is 2 (PTS alone), 3 (PTS of two), 1 (DTS)."""
    value &= _CLOCK_MASK
    return bytes(
        (
            (prefix << 4) | ((value >> 29) & 0x0E) | 1,
            (value >> 22) & 0xFF,
            ((value >> 14) & 0xFE) | 1,
            (value >> 7) & 0xFF,
            ((value << 1) & 0xFE) | 1,
        )
    )


def system_header(*, video: bool, audio: bool) -> bytes:
    """The system header that announces E0 and C0 with their buffer bounds."""
    bounds = b""
    if audio:
        bounds += bytes((AUDIO_ID, 0xC0, 0x20))
    if video:
        bounds += bytes((VIDEO_ID, 0xE1, 0x00))
    rate = (1 << 23) | (_MUX_RATE << 1) | 1
    fixed = rate.to_bytes(3, "big") + bytes((int(audio) << 2, 0xE0 | int(video), 0x7F))
    return b"\x00\x00\x01\xbb" + struct.pack("!H", len(fixed) + len(bounds)) + fixed + bounds


def program_stream_map(video: Codec | None, audio: Codec | None) -> bytes:
    """The program stream map with the stream types of annex C and a right CRC."""
    streams = b""
    if video is not None:
        streams += bytes((_TYPE_OF[video], VIDEO_ID, 0, 0))
    if audio is not None:
        streams += bytes((_TYPE_OF[audio], AUDIO_ID, 0, 0))
    body = b"\xe0\xff\x00\x00" + struct.pack("!H", len(streams)) + streams
    head = b"\x00\x00\x01\xbc" + struct.pack("!H", len(body) + 4) + body
    return head + struct.pack("!I", crc32_mpeg(head))


def pes_packets(stream_id: int, data: bytes, pts: int, dts: int) -> bytes:
    """``data`` as one or more PES packets; PTS (and DTS where it differs) only in the first."""
    if pts == dts:
        stamps = timestamp_field(2, pts)
        flags = 0x80
    else:
        stamps = timestamp_field(3, pts) + timestamp_field(1, dts)
        flags = 0xC0
    parts = []
    for start in range(0, len(data), MAX_PES_PAYLOAD):
        piece = data[start : start + MAX_PES_PAYLOAD]
        header = bytes((0x84 if start == 0 else 0x80, flags, len(stamps))) + stamps
        parts.append(struct.pack("!BBBBH", 0, 0, 1, stream_id, len(header) + len(piece)))
        parts.append(header)
        parts.append(piece)
        stamps, flags = b"", 0
    return b"".join(parts)


class PsMuxer:
    """One program stream with at most one video and one audio track.

    ``mux(unit)`` gives the bytes of one pack. Key frames carry system header and map before the first PES, as does
    the first pack of a stream without video. Raises ValueError for a codec that has no stream type or is not of
    this stream.
    """

    def __init__(self, video_codec: Codec | None, audio_codec: Codec | None = None) -> None:
        for codec in (video_codec, audio_codec):
            if codec is not None and codec not in _TYPE_OF:
                raise ValueError(f"no stream type for {codec}")
        self.video_codec = video_codec
        self.audio_codec = audio_codec
        self._preface = system_header(
            video=video_codec is not None, audio=audio_codec is not None
        ) + program_stream_map(video_codec, audio_codec)
        self._started = False

    def mux(self, unit: AccessUnit) -> bytes:
        """One pack holding ``unit`` whole."""
        if unit.codec == self.video_codec:
            preface = self._preface if unit.key else b""
            stream_id = VIDEO_ID
        elif unit.codec == self.audio_codec:
            preface = self._preface if self.video_codec is None and not self._started else b""
            stream_id = AUDIO_ID
        else:
            raise ValueError(f"{unit.codec} is no track of this stream")
        self._started = True
        return pack_header(unit.dts) + preface + pes_packets(stream_id, unit.data, unit.pts, unit.dts)
