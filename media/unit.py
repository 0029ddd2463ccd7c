"""The access unit: one coded picture or audio frame, the currency between sources and readers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TICKS_PER_SECOND = 90_000
"""All pts and dts in this package count 90 kHz ticks (GB/T 28181-2022 C.1, MPEG-2 systems)."""


class Codec(StrEnum):
    """The codecs GB/T 28181-2022 annex C knows, by lower-case name."""

    H264 = "h264"
    H265 = "h265"
    MPEG4 = "mpeg4"
    SVAC = "svac"
    PCMA = "pcma"
    PCMU = "pcmu"
    AAC = "aac"
    G722 = "g722"
    G723 = "g723"
    G729 = "g729"
    SVACA = "svaca"
    UNKNOWN = "unknown"

    @property
    def is_video(self) -> bool:
        return self in _VIDEO


_VIDEO = frozenset({Codec.H264, Codec.H265, Codec.MPEG4, Codec.SVAC})

#: stream_type of a program stream map (GB/T 28181-2022 C.1; ISO/IEC 13818-1 table 2-34).
STREAM_TYPES: dict[int, Codec] = {
    0x0F: Codec.AAC,
    0x10: Codec.MPEG4,
    0x1B: Codec.H264,
    0x24: Codec.H265,
    0x80: Codec.SVAC,
    0x90: Codec.PCMA,
    0x91: Codec.PCMU,
    0x92: Codec.G722,
    0x93: Codec.G723,
    0x99: Codec.G729,
    0x9B: Codec.SVACA,
}

#: Encoding names of rtpmap lines, upper case (GB/T 28181-2022 C.2; devices' spellings included).
ENCODINGS: dict[str, Codec] = {
    "H264": Codec.H264,
    "H265": Codec.H265,
    "HEVC": Codec.H265,
    "MPEG4": Codec.MPEG4,
    "MP4V-ES": Codec.MPEG4,
    "SVAC": Codec.SVAC,
    "PCMA": Codec.PCMA,
    "PCMU": Codec.PCMU,
    "AAC": Codec.AAC,
    "MPEG4-GENERIC": Codec.AAC,
    "G722": Codec.G722,
    "G723": Codec.G723,
    "G729": Codec.G729,
    "SVACA": Codec.SVACA,
}


@dataclass(slots=True)
class AccessUnit:
    """One coded picture or one piece of audio.

    ``pts`` and ``dts`` are 90 kHz ticks on the stream's own clock: they never wrap, and jumps of the sender's
    clock are taken out. Video ``data`` is Annex B with start codes, with the parameter sets in front of each
    key frame; audio is the raw codec bytes (G.711 samples; AAC with ADTS headers). ``damaged`` says that
    bytes are missing or suspect. ``arrival_mono`` is ``time.monotonic()`` of the last packet.
    """

    codec: Codec
    pts: int
    dts: int
    key: bool
    data: bytes
    damaged: bool = False
    arrival_mono: float = 0.0
