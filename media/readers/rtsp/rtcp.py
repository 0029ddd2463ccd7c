"""RTCP of the RTSP server: sender reports that tie RTP time to the wall clock, the goodbye (RFC 3550 6). Pure."""

from __future__ import annotations

import struct

from media import rtp
from media.unit import TICKS_PER_SECOND

NTP_EPOCH_S = 2_208_988_800
INTERVAL_S = 5.0
_LEAP_S = 2.0
_SMOOTHING = 64


class StreamClock:
    """When a moment of a stream's 90 kHz clock was on the wall clock.

    One mapping for picture and sound, so that receivers keep them in step. The arrivals' jitter is smoothed, the
    camera's drift followed, a leap taken over.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None

    def heard(self, dts: int, unix_s: float) -> None:
        """A unit with decoding time ``dts`` came at ``unix_s``."""
        offset = unix_s - dts / TICKS_PER_SECOND
        if self._offset_s is None or abs(offset - self._offset_s) > _LEAP_S:
            self._offset_s = offset
        else:
            self._offset_s += (offset - self._offset_s) / _SMOOTHING

    def ticks(self, unix_s: float) -> int | None:
        """Where the stream's clock is at ``unix_s``; None before the first unit."""
        return None if self._offset_s is None else round((unix_s - self._offset_s) * TICKS_PER_SECOND)


def ntp(unix_s: float) -> int:
    """64-bit NTP time."""
    return int((unix_s + NTP_EPOCH_S) * (1 << 32)) & (1 << 64) - 1


def sender_report(
    ssrc: int, *, unix_s: float, rtp_timestamp: int, packets: int, octets: int, name: str
) -> bytes:
    """A compound of sender report and CNAME, which stands for both tracks of a session (6.5.1)."""
    report = rtp.SenderReport(ssrc, ntp(unix_s), rtp_timestamp, packets, octets)
    return rtp.build_sender_report(report) + _description(ssrc, name)


def goodbye(ssrc: int, name: str) -> bytes:
    """An empty receiver report, CNAME and BYE (6.6): the stream is over."""
    return (
        rtp.build_receiver_report(ssrc, [])
        + _description(ssrc, name)
        + struct.pack("!BBHI", 0x81, 203, 1, ssrc)
    )


def _description(ssrc: int, name: str) -> bytes:
    text = name.encode()[:255]
    chunk = struct.pack("!IBB", ssrc, 1, len(text)) + text
    chunk += bytes(4 - len(chunk) % 4)  # at least one zero ends the list of items
    return struct.pack("!BBH", 0x81, 202, len(chunk) // 4) + chunk


def is_report(data: bytes) -> bool:
    """True for what a living receiver sends: a receiver or sender report at the head of a compound."""
    return len(data) >= 8 and data[0] >> 6 == 2 and data[1] in (200, 201)
