"""Elementary payloads carried by RTP itself: H.264 (RFC 6184), H.265 (RFC 7798), AAC (RFC 3640), G.711. Pure.

GB/T 28181-2022 C.2. Each depacketizer takes the payloads of one RTP timestamp and gives access units.
"""

from __future__ import annotations

from collections.abc import Sequence

from media.access import VideoAssembler
from media.timeline import Timeline
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

Payloads = Sequence[bytes | memoryview]
_START = b"\x00\x00\x00\x01"


class VideoDepacketizer:
    """NAL units out of single, aggregation and fragmentation packets; one access unit per RTP timestamp.

    A gap drops the fragment in progress and marks the picture damaged.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.timeline = Timeline()
        self.video = VideoAssembler()
        self.video.hint = codec
        self.audio_announced = False
        self.resyncs = 0
        self._nals: list[bytes] = []
        self._fragment: list[bytes] = []
        self._damaged = False

    def feed(
        self, payloads: Payloads, rtp_timestamp: int, *, gap: bool, end: bool, now: float
    ) -> list[AccessUnit]:
        """``gap``: packets are missing before these payloads; ``end``: the timestamp ends with them."""
        if gap:
            self.resyncs += 1
            self._fragment = []
            self._damaged = self._damaged or bool(self._nals)
            self.video.damage()
        take = self._take_h264 if self.codec is Codec.H264 else self._take_h265
        for payload in payloads:
            data = bytes(payload)
            if len(data) > 2:
                take(data)
        if not end:
            return []
        nals, self._nals = self._nals, []
        damaged, self._damaged = self._damaged or bool(self._fragment), False
        self._fragment = []
        if not nals:
            return []
        pts, dts = self.timeline.map(None, None, rtp_timestamp, now, video=True)
        return self.video.units(_START + _START.join(nals), pts, dts, damaged=damaged, now=now)

    def _take_h264(self, data: bytes) -> None:
        kind = data[0] & 0x1F
        if 1 <= kind <= 23:
            self._nals.append(data)
        elif kind == 24:  # STAP-A
            self._aggregate(data, 1)
        elif kind == 28:  # FU-A
            header = bytes((data[0] & 0xE0 | data[1] & 0x1F,))
            self._piece(data[1], header, data[2:])

    def _take_h265(self, data: bytes) -> None:
        kind = data[0] >> 1 & 0x3F
        if kind < 48:
            self._nals.append(data)
        elif kind == 48:  # AP
            self._aggregate(data, 2)
        elif kind == 49:  # FU
            header = bytes((data[0] & 0x81 | (data[2] & 0x3F) << 1, data[1]))
            self._piece(data[2], header, data[3:])

    def _aggregate(self, data: bytes, at: int) -> None:
        while at + 2 <= len(data):
            size = data[at] << 8 | data[at + 1]
            at += 2
            if size == 0 or at + size > len(data):
                self._damaged = True
                return
            self._nals.append(data[at : at + size])
            at += size

    def _piece(self, flags: int, header: bytes, data: bytes) -> None:
        if flags & 0x80:
            self._fragment = [header]
        elif not self._fragment:
            self._damaged = True  # its start is lost
            return
        self._fragment.append(data)
        if flags & 0x40:
            self._nals.append(b"".join(self._fragment))
            self._fragment = []


class AudioDepacketizer:
    """G.711 and other sample or frame codecs: each packet's payload is a unit. AAC gets its ADTS header (RFC 3640).

    For AAC-hbr (sizeLength 13, indexLength 3) an AAC-LC mono stream of the negotiated clock rate is assumed.
    """

    def __init__(self, codec: Codec, clock_rate_hz: int) -> None:
        self.codec = codec
        self.clock_rate_hz = clock_rate_hz
        self.timeline = Timeline()
        self.audio_announced = True
        self.resyncs = 0

    def feed(
        self, payloads: Payloads, rtp_timestamp: int, *, gap: bool, end: bool, now: float
    ) -> list[AccessUnit]:
        data = b"".join(bytes(payload) for payload in payloads)
        if self.codec is Codec.AAC:
            data = b"".join(self._adts(bytes(payload)) for payload in payloads)
        if not data:
            return []
        # Wider than 32 bits after scaling: the timeline sees a 33-bit clock of 90 kHz.
        ticks = rtp_timestamp * TICKS_PER_SECOND // self.clock_rate_hz & (1 << 33) - 1
        pts, dts = self.timeline.map(ticks, None, rtp_timestamp, now, video=False)
        return [AccessUnit(self.codec, pts, dts, False, data, gap, now)]

    def _adts(self, payload: bytes) -> bytes:
        """The access units of one AAC-hbr packet, each with an ADTS header."""
        if len(payload) < 4:
            return b""
        bits = payload[0] << 8 | payload[1]
        at = 2 + (bits + 7) // 8
        result = b""
        for header in range(2, min(at, len(payload) - 1), 2):
            size = (payload[header] << 8 | payload[header + 1]) >> 3
            if size == 0 or at + size > len(payload):
                break
            result += adts_header(size, self.clock_rate_hz) + payload[at : at + size]
            at += size
        return result


_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


def adts_header(size: int, rate_hz: int, channels: int = 1) -> bytes:
    """Seven bytes in front of an AAC-LC frame of ``size`` bytes (ISO/IEC 13818-7 6.2)."""
    rate = _RATES.index(rate_hz) if rate_hz in _RATES else _RATES.index(8000)
    whole = size + 7
    return bytes(
        (0xFF, 0xF1, 0x40 | rate << 2 | channels >> 2, (channels & 3) << 6 | whole >> 11, whole >> 3 & 0xFF,
         (whole & 7) << 5 | 0x1F, 0xFC)
    )  # fmt: skip
