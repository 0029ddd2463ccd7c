"""MPEG transport stream of one program: PAT, PMT, PES of one picture and one AAC track, PCR. Pure: units in, bytes out.

ISO/IEC 13818-1 2.4. Written by hand for the same reason as fMP4: a picture must leave at once, whatever the sound does.
"""

from __future__ import annotations

import struct

from media.unit import Codec

PACKET = 188
PMT_PID, VIDEO_PID, AUDIO_PID = 0x1000, 0x100, 0x101

_BODY = PACKET - 4
_STREAM_TYPES = {Codec.H264: 0x1B, Codec.H265: 0x24}
_AAC_ADTS = 0x0F
_VIDEO_ID, _AUDIO_ID = 0xE0, 0xC0
_CLOCK_MASK = (1 << 33) - 1
_DELIMITERS = {Codec.H264: b"\x00\x00\x00\x01\x09\xf0", Codec.H265: b"\x00\x00\x00\x01\x46\x01\x50"}
"""Access unit delimiters that allow every kind of slice (H.222.0 2.14.1 and 2.17.1 ask for one per picture)."""


def crc32(data: bytes) -> int:
    """The CRC of program tables (annex A): polynomial 0x04C11DB7, most significant bit first, no final inversion."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value << 8 & 0xFFFFFFFF ^ _CRC[value >> 24 ^ byte]
    return value


def _crc_table() -> list[int]:
    table = []
    for index in range(256):
        value = index << 24
        for _ in range(8):
            value = value << 1 & 0xFFFFFFFF ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


class _Pid:
    """The packets of one PID with their running continuity counter."""

    def __init__(self, pid: int) -> None:
        self._heads = [bytes((0x47, pid >> 8, pid & 0xFF, 0x10 | count)) for count in range(16)]
        self._start = 0x40 | pid >> 8
        self._pid = pid
        self._count = 0

    def packets(self, body: bytes, adaptation: bytes = b"") -> bytes:
        """``body`` in packets, the first marked as a start; ``adaptation`` is the first one's field without its length."""
        out: list[bytes] = []
        first = _BODY - (len(adaptation) + 1 if adaptation else 0)
        out.append(self._odd(body[:first], adaptation, start=True))
        at, heads, count = first, self._heads, self._count
        whole = max(0, len(body) - at) // _BODY
        for _ in range(whole):
            out += (heads[count], body[at : at + _BODY])
            count = count + 1 & 15
            at += _BODY
        self._count = count
        if at < len(body):
            out.append(self._odd(body[at:], b"", start=False))
        return b"".join(out)

    def _odd(self, body: bytes, adaptation: bytes, *, start: bool) -> bytes:
        """One packet with an adaptation field where there is one or the body does not fill it."""
        count, self._count = self._count, self._count + 1 & 15
        spare = _BODY - len(body)
        if spare:
            if adaptation or spare > 1:
                adaptation = adaptation or b"\x00"
                adaptation += b"\xff" * (spare - 1 - len(adaptation))
            field = bytes((spare - 1,)) + adaptation
        else:
            field = b""
        second = self._start if start else self._start & 0x1F
        return bytes((0x47, second, self._pid & 0xFF, (0x30 if spare else 0x10) | count)) + field + body


class TsMuxer:
    """Packets of one program. Times are 90 kHz ticks and wrap at 33 bits; PCR runs ``lead`` ticks ahead of decoding."""

    def __init__(self, *, lead: int) -> None:
        self._lead = lead
        self._codec = Codec.H264
        self._pat, self._pmt = _Pid(0), _Pid(PMT_PID)
        self._video, self._audio = _Pid(VIDEO_PID), _Pid(AUDIO_PID)
        self._version = -1
        self._map = b""

    def begin(self, codec: Codec, *, audio: bool) -> None:
        """Which tracks there are from now on (H264 or H265; AAC beside it)."""
        self._codec = codec
        self._version = self._version + 1 & 31
        streams = struct.pack(">BHH", _STREAM_TYPES[codec], 0xE000 | VIDEO_PID, 0xF000)
        if audio:
            streams += struct.pack(">BHH", _AAC_ADTS, 0xE000 | AUDIO_PID, 0xF000)
        self._map = _section(2, 1, self._version, struct.pack(">HH", 0xE000 | VIDEO_PID, 0xF000) + streams)

    def tables(self) -> bytes:
        """PAT and PMT, one packet each (2.4.4)."""
        program = _section(0, 1, 0, struct.pack(">HH", 1, 0xE000 | PMT_PID))
        return self._pat.packets(_padded(program)) + self._pmt.packets(_padded(self._map))

    def picture(self, dts: int, pts: int, data: bytes, *, key: bool) -> bytes:
        """One access unit in Annex B, with the program clock reference in front."""
        if not _begins_with_delimiter(self._codec, data):
            data = _DELIMITERS[self._codec] + data
        clock = dts & _CLOCK_MASK
        adaptation = struct.pack(
            ">BIBB", 0x50 if key else 0x10, clock >> 1, (clock & 1) << 7 | 0x7E, 0
        )  # random_access_indicator, PCR_flag; the extension counts no further than the base
        return self._video.packets(_pes(_VIDEO_ID, pts + self._lead, dts + self._lead, data), adaptation)

    def sound(self, pts: int, data: bytes) -> bytes:
        """Whole ADTS frames that begin at ``pts``."""
        when = pts + self._lead
        return self._audio.packets(_pes(_AUDIO_ID, when, when, data), b"\x40")


def _section(table: int, identifier: int, version: int, body: bytes) -> bytes:
    """One section that is the whole table (2.4.4.3, 2.4.4.8)."""
    data = struct.pack(">BHHBBB", table, 0xB000 | len(body) + 9, identifier, 0xC1 | version << 1, 0, 0)
    data += body
    return data + struct.pack(">I", crc32(data))


def _padded(section: bytes) -> bytes:
    """A section as the body of one packet: a pointer in front, stuffing behind."""
    return (b"\x00" + section).ljust(_BODY, b"\xff")


def _pes(stream_id: int, pts: int, dts: int, data: bytes) -> bytes:
    """A PES packet (2.4.3.6). Its length is said where 16 bits can hold it, so that a reader need not wait for the next."""
    stamps = _stamp(0x30, pts) + _stamp(0x10, dts) if pts != dts else _stamp(0x20, pts)
    size = 3 + len(stamps) + len(data)
    return (
        struct.pack(
            ">3sBHBBB",
            b"\x00\x00\x01", stream_id, size if size <= 0xFFFF else 0,
            0x84, 0xC0 if pts != dts else 0x80, len(stamps),
        )
        + stamps
        + data
    )  # fmt: skip


def _stamp(marker: int, ticks: int) -> bytes:
    ticks &= _CLOCK_MASK
    return struct.pack(
        ">BHH", marker | ticks >> 29 & 0x0E | 1, ticks >> 14 & 0xFFFE | 1, ticks << 1 & 0xFFFE | 1
    )


def _begins_with_delimiter(codec: Codec, data: bytes) -> bool:
    at = data.find(b"\x00\x00\x01", 0, 8) + 3
    if at < 3 or at >= len(data):
        return False
    return data[at] & 0x1F == 9 if codec is Codec.H264 else data[at] >> 1 & 0x3F == 35
