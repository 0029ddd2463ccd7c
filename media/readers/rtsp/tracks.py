"""Tracks of a live stream for RTSP: how SDP describes them, and their access units as ready RTP packets. Pure."""

from __future__ import annotations

import base64
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from media import nal
from media.readers import audio_rtp, h264_rtp, h265_rtp
from media.runs import Run
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

VIDEO, AUDIO = 0, 1
"""Track numbers: the same for every viewer of a channel, whatever it sets up."""
VIDEO_PAYLOAD_TYPE = 96
PAYLOAD_LIMIT = 1400
"""Bytes of RTP payload: with RTP, UDP, IP and a VPN's headers below the usual MTU."""
PREFIX_BYTES = 4
"""``$``, channel and length in front of each packet, used over TCP only (RFC 2326 10.12)."""
_HEAD = struct.Struct("!BBHBBHII")


@dataclass(frozen=True, slots=True)
class TrackDescription:
    """One media section. ``fmtp`` is empty where nothing has to be said."""

    number: int
    kind: str
    payload_type: int
    rtpmap: str
    clock_rate_hz: int
    fmtp: str = ""

    def lines(self) -> list[str]:
        """Lines of SDP, control address included."""
        fmtp = [f"a=fmtp:{self.payload_type} {self.fmtp}"] if self.fmtp else []
        return [
            f"m={self.kind} 0 RTP/AVP {self.payload_type}",
            f"a=rtpmap:{self.rtpmap}",
            *fmtp,
            f"a=control:trackID={self.number}",
        ]


def describe_video(codec: Codec, key: AccessUnit | None) -> TrackDescription | None:
    """The video track with the parameter sets of ``key``; None for a codec without an RTP format here."""
    if codec not in (Codec.H264, Codec.H265):
        return None
    units = [] if key is None else list(dict.fromkeys(nal.parameter_sets(codec, nal.split_annexb(key.data))))
    fmtp = _h264_parameters(units) if codec is Codec.H264 else _h265_parameters(units)
    name = "H264" if codec is Codec.H264 else "H265"
    number = VIDEO_PAYLOAD_TYPE
    return TrackDescription(
        VIDEO, "video", number, f"{number} {name}/{TICKS_PER_SECOND}", TICKS_PER_SECOND, fmtp
    )


def _h264_parameters(sets: Sequence[bytes]) -> str:
    """RFC 6184 8.1. profile-level-id is bytes 1 to 3 of the sequence parameter set."""
    first = next((unit for unit in sets if unit[0] & 0x1F == nal.H264_SPS and len(unit) >= 4), None)
    parts = ["packetization-mode=1"]
    if first is not None:
        parts.append(f"profile-level-id={first[1:4].hex().upper()}")
        parts.append(f"sprop-parameter-sets={_listed(sets)}")
    return "; ".join(parts)


def _h265_parameters(sets: Sequence[bytes]) -> str:
    """RFC 7798 7.1."""
    parts = []
    for name, kind in (("vps", nal.H265_VPS), ("sps", nal.H265_SPS), ("pps", nal.H265_PPS)):
        found = [unit for unit in sets if nal.nal_type(Codec.H265, unit) == kind]
        if found:
            parts.append(f"sprop-{name}={_listed(found)}")
    return "; ".join(parts)


def _listed(units: Sequence[bytes]) -> str:
    return ",".join(base64.b64encode(unit).decode() for unit in units)


def describe_audio(form: audio_rtp.AudioFormat) -> TrackDescription:
    return TrackDescription(AUDIO, "audio", form.payload_type, form.rtpmap, form.clock_rate_hz, form.fmtp)


def session_description(tracks: Sequence[TrackDescription], *, host: str, session_id: int) -> bytes:
    """The SDP of a live stream (RFC 2326 appendix C): no end, no address of our own to send to."""
    family = "IP6" if ":" in host else "IP4"
    anywhere = "::" if family == "IP6" else "0.0.0.0"
    lines = [
        "v=0",
        f"o=- {session_id} 1 IN {family} {host}",
        "s=Live",
        f"c=IN {family} {anywhere}",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        "a=recvonly",
    ]
    for track in tracks:
        lines += track.lines()
    return ("\r\n".join(lines) + "\r\n").encode()


class PackedUnit:
    """One access unit as RTP packets, made once for all viewers of a channel; nobody writes into ``data``.

    Each packet stands behind its interleaved prefix (channels 0 for video and 2 for audio, what clients ask for), so
    that a viewer over TCP gets the whole in one write, and one over UDP the packets alone by :meth:`run`.
    ``start`` is the unit's pts in 90 kHz ticks.
    """

    __slots__ = (
        "_run",
        "arrival_mono",
        "data",
        "key",
        "sequence",
        "sizes",
        "stamps",
        "start",
        "starts",
        "track",
    )

    def __init__(self, track: int, unit: AccessUnit, sequence: int) -> None:
        self.track = track
        self.key = unit.key
        self.start = unit.pts
        self.arrival_mono = unit.arrival_mono
        self.sequence = sequence
        self.data = bytearray()
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.stamps: list[int] = []
        self._run: Run | None = None

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def payload_bytes(self) -> int:
        return len(self.data) - len(self.sizes) * (PREFIX_BYTES + 12)

    def run(self, data: bytearray | None = None) -> Run:
        """The packets without prefixes, side by side for a UDP output; ``data`` is a copy with other numbers.

        Without ``data`` it is made once for all viewers.
        """
        if data is None and self._run is not None:
            return self._run
        view = memoryview(self.data if data is None else data)
        buffer = bytearray().join([view[at : at + n] for at, n in zip(self.starts, self.sizes, strict=True)])
        starts = [0, *accumulate(self.sizes)][:-1]
        run = Run(
            buffer, memoryview(buffer), starts, self.sizes, self.stamps,
            index=self.sequence, payload_type=0, arrival=self.arrival_mono,
        )  # fmt: skip
        if data is None:
            self._run = run
        return run

    def renumbered(self, sequence: int, channel: int | None) -> bytearray:
        """A copy with sequence numbers from ``sequence`` on and, unless None, another interleaved channel."""
        data = bytearray(self.data)
        for start in self.starts:
            data[start + 2] = sequence >> 8 & 0xFF
            data[start + 3] = sequence & 0xFF
            if channel is not None:
                data[start - PREFIX_BYTES + 1] = channel
            sequence += 1
        return data


class TrackPackets:
    """One track of a channel: units in, packets out, one SSRC, sequence and clock for all viewers."""

    def __init__(self, number: int, codec: Codec, description: TrackDescription) -> None:
        self.number = number
        self.codec = codec
        self.description = description
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbelow(0x8000)
        """Number of the next packet."""
        self.origin = secrets.randbits(31) | 1
        """RTP timestamp of the stream's tick 0 (never 0 itself: clients take 0 for "not told")."""

    def stamp(self, ticks: int) -> int:
        """The RTP timestamp of a moment on the stream's 90 kHz clock."""
        return self.origin + ticks * self.description.clock_rate_hz // TICKS_PER_SECOND & 0xFFFFFFFF

    def pack(self, unit: AccessUnit) -> PackedUnit | None:
        """The unit's packets; None when it has none."""
        packed = PackedUnit(self.number, unit, self.sequence)
        if unit.codec.is_video:
            cut = h264_rtp.packetise if self.codec is Codec.H264 else h265_rtp.packetise
            payloads = cut(unit.data, PAYLOAD_LIMIT)
            self._fill(packed, payloads, [self.stamp(unit.pts)] * len(payloads), len(payloads) - 1)
        else:
            pieces = audio_rtp.packetise(unit, PAYLOAD_LIMIT)
            stamp = self.stamp(unit.pts)
            self._fill(
                packed,
                [piece.payload for piece in pieces],
                [stamp + piece.samples & 0xFFFFFFFF for piece in pieces],
                *[number for number, piece in enumerate(pieces) if piece.marker],
            )
        return packed if packed.sizes else None

    def _fill(self, packed: PackedUnit, payloads: list[bytes], stamps: list[int], *marked: int) -> None:
        head, ssrc, kind = _HEAD.pack, self.ssrc, self.description.payload_type
        channel, sequence, at = 2 * self.number, self.sequence, PREFIX_BYTES
        parts: list[bytes] = []
        for number, (payload, stamp) in enumerate(zip(payloads, stamps, strict=True)):
            size = len(payload) + 12
            second = kind | 0x80 if number in marked else kind
            parts.append(head(0x24, channel, size, 0x80, second, sequence, stamp, ssrc))
            parts.append(payload)
            packed.starts.append(at)
            packed.sizes.append(size)
            sequence = sequence + 1 & 0xFFFF
            at += size + PREFIX_BYTES
        packed.data = bytearray().join(parts)
        packed.stamps = stamps
        self.sequence = sequence
