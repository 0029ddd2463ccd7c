"""Fragmented MP4: the initialisation segment and one fragment per sample, for live players.

Pure: bytes in, bytes out. Box layouts after ISO/IEC 14496-12 (8.2 to 8.8), -14 (esds) and -15 (avcC, hvcC).
Written by hand because a live fragment must leave the moment its duration is known, whatever the other track does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from media import nal
from media.unit import Codec

VIDEO_TRACK, AUDIO_TRACK = 1, 2
VIDEO_TIMESCALE = 90_000

SAMPLE_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)

_KEY_FLAGS = 0x02000000
"""sample_depends_on = 2: no other sample is needed (8.8.3.1)."""
_DELTA_FLAGS = 0x01010000
"""sample_depends_on = 1 and sample_is_non_sync_sample."""
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """What a video sample entry is made of; another value of it means another initialisation segment.

    ``sets`` are the parameter sets as NAL units, each once, in stream order.
    """

    codec: Codec
    sets: tuple[bytes, ...]
    info: nal.SpsInfo


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """AAC-LC: sample rate in Hz (one of `SAMPLE_RATES_HZ`) and channels (1 to 7)."""

    sample_rate: int
    channels: int

    @property
    def decoder_config(self) -> bytes:
        """AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1): object type 2, rate index, channels."""
        index = SAMPLE_RATES_HZ.index(self.sample_rate)
        return struct.pack(">H", 2 << 11 | index << 7 | self.channels << 3)


def video_config(codec: Codec, units: list[bytes]) -> VideoConfig | None:
    """The configuration in one key frame's NAL units; None while SPS or PPS are missing or unreadable."""
    sets = tuple(dict.fromkeys(nal.parameter_sets(codec, units)))
    kinds = {nal.nal_type(codec, unit) for unit in sets}
    needed = {nal.H264_SPS, nal.H264_PPS} if codec is Codec.H264 else {nal.H265_SPS, nal.H265_PPS}
    if not needed <= kinds:
        return None
    info = nal.describe(codec, nal.join_annexb(list(sets)))
    return None if info is None else VideoConfig(codec, sets, info)


def mime(video: VideoConfig, audio: AudioConfig | None) -> str:
    """The type for MediaSource.isTypeSupported (RFC 6381)."""
    codecs = video.info.codec_string + (",mp4a.40.2" if audio else "")
    return f'video/mp4; codecs="{codecs}"'


def sample_data(codec: Codec, units: list[bytes]) -> bytes:
    """A sample: each NAL unit behind its 4-byte length. Parameter sets and delimiters are left out: the sample
    entries ``avc1`` and ``hvc1`` keep them in the initialisation segment only.
    """
    out: list[bytes] = []
    left_out = (7, 8, 9) if codec is Codec.H264 else (32, 33, 34, 35)
    h264 = codec is Codec.H264
    for unit in units:
        kind = unit[0] & 0x1F if h264 else unit[0] >> 1 & 0x3F
        if kind not in left_out:
            out += (len(unit).to_bytes(4, "big"), unit)
    return b"".join(out)


_FRAGMENT = struct.Struct(
    ">I4s"  # moof
    "I4sII"  # mfhd: sequence number
    "I4s"  # traf
    "I4sII"  # tfhd: default-base-is-moof, track
    "I4sIQ"  # tfdt, version 1
    "I4sIIiIIIi"  # trun, version 1: one sample with duration, size, flags, composition offset
    "I4s"  # mdat
)
_MDAT_AT = _FRAGMENT.size - 8


def fragment(
    sequence: int, track: int, decode_time: int, duration: int, data: bytes, *, key: bool, offset: int = 0
) -> bytes:
    """One moof and mdat with one sample. Times in the track's own ticks; ``offset`` is pts minus dts."""
    head = _FRAGMENT.pack(
        *(_MDAT_AT, b"moof"),
        *(16, b"mfhd", 0, sequence & 0xFFFFFFFF),
        *(_MDAT_AT - 24, b"traf"),
        *(16, b"tfhd", 0x020000, track),
        *(20, b"tfdt", 0x01000000, decode_time),
        *(36, b"trun", 0x01000F01, 1, _FRAGMENT.size, duration, len(data)),
        *(_KEY_FLAGS if key else _DELTA_FLAGS, offset),
        *(8 + len(data), b"mdat"),
    )
    return head + data


def init_segment(video: VideoConfig, audio: AudioConfig | None) -> bytes:
    """ftyp and moov with a video track and, if given, an audio track."""
    tracks = _video_track(video) + (_audio_track(audio) if audio else b"")
    defaults = b"".join(
        full_box(b"trex", 0, 0, struct.pack(">5I", track, 1, 0, 0, 0))
        for track in ((VIDEO_TRACK, AUDIO_TRACK) if audio else (VIDEO_TRACK,))
    )
    header = full_box(
        b"mvhd",
        0,
        0,
        struct.pack(">4I", 0, 0, 1000, 0) + struct.pack(">IH10x", 0x10000, 0x100) + _MATRIX + bytes(24),
        struct.pack(">I", 3),
    )
    brands = b"iso5" + struct.pack(">I", 512) + b"iso5iso6mp41"
    return box(b"ftyp", brands) + box(b"moov", header, tracks, box(b"mvex", defaults))


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box around ``parts`` (4.2)."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """A box with version and flags in front (4.2)."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _track(
    track: int, size: tuple[int, int], timescale: int, handler: bytes, media_header: bytes, entry: bytes
) -> bytes:
    volume = 0x100 if handler == b"soun" else 0
    header = full_box(
        b"tkhd",
        0,
        3,  # enabled, in movie
        struct.pack(">5I8xHHHH", 0, 0, track, 0, 0, 0, 0, volume, 0),
        _MATRIX,
        struct.pack(">II", size[0] << 16, size[1] << 16),
    )
    undetermined = 0x55C4  # language "und"
    media = box(
        b"mdia",
        full_box(b"mdhd", 0, 0, struct.pack(">4IHH", 0, 0, timescale, 0, undetermined, 0)),
        full_box(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, handler), b"live\x00"),
        box(
            b"minf",
            media_header,
            box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), full_box(b"url ", 0, 1))),
            box(
                b"stbl",
                full_box(b"stsd", 0, 0, struct.pack(">I", 1), entry),
                full_box(b"stts", 0, 0, bytes(4)),
                full_box(b"stsc", 0, 0, bytes(4)),
                full_box(b"stsz", 0, 0, bytes(8)),
                full_box(b"stco", 0, 0, bytes(4)),
            ),
        ),
    )
    return box(b"trak", header, media)


def _video_track(video: VideoConfig) -> bytes:
    width, height = video.info.width, video.info.height
    h264 = video.codec is Codec.H264
    entry = box(
        b"avc1" if h264 else b"hvc1",
        struct.pack(">6xH16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 24, -1),
        box(b"avcC" if h264 else b"hvcC", decoder_record(video)),
    )
    header = full_box(b"vmhd", 0, 1, bytes(8))
    return _track(VIDEO_TRACK, (width, height), VIDEO_TIMESCALE, b"vide", header, entry)


def _audio_track(audio: AudioConfig) -> bytes:
    entry = box(
        b"mp4a",
        struct.pack(">6xH8xHHHHI", 1, audio.channels, 16, 0, 0, audio.sample_rate << 16),
        full_box(b"esds", 0, 0, _elementary_stream(audio)),
    )
    header = full_box(b"smhd", 0, 0, bytes(4))
    return _track(AUDIO_TRACK, (0, 0), audio.sample_rate, b"soun", header, entry)


def decoder_record(video: VideoConfig) -> bytes:
    """The AVC or HEVC decoder configuration record (ISO/IEC 14496-15 5.3.3.1, 8.3.3.1); FLV carries the same."""
    return _avc_config(video) if video.codec is Codec.H264 else _hevc_config(video)


def _avc_config(video: VideoConfig) -> bytes:
    sequence = [unit for unit in video.sets if unit[0] & 0x1F == nal.H264_SPS]
    picture = [unit for unit in video.sets if unit[0] & 0x1F == nal.H264_PPS]
    out = bytes((1, *sequence[0][1:4], 0xFF, 0xE0 | len(sequence[:31])))
    out += b"".join(struct.pack(">H", len(unit)) + unit for unit in sequence[:31])
    out += bytes((len(picture[:255]),))
    out += b"".join(struct.pack(">H", len(unit)) + unit for unit in picture[:255])
    info = video.info
    if info.profile in (100, 110, 122, 144):
        out += bytes((0xFC | info.chroma_format, 0xF8 | info.bit_depth_luma - 8))
        out += bytes((0xF8 | info.bit_depth_chroma - 8, 0))
    return out


def _hevc_config(video: VideoConfig) -> bytes:
    by_kind: dict[int, list[bytes]] = {}
    for unit in video.sets:
        by_kind.setdefault(nal.nal_type(Codec.H265, unit), []).append(unit)
    sequence = nal.unescape(by_kind[nal.H265_SPS][0][2:])
    layers, nested = (sequence[0] >> 1 & 7) + 1, sequence[0] & 1
    info = video.info
    out = b"\x01" + sequence[1:13] + struct.pack(">HB", 0xF000, 0xFC)
    out += bytes(
        (0xFC | info.chroma_format, 0xF8 | info.bit_depth_luma - 8, 0xF8 | info.bit_depth_chroma - 8)
    )
    out += struct.pack(">HBB", 0, layers << 3 | nested << 2 | 3, len(by_kind))
    for kind in sorted(by_kind):
        units = by_kind[kind]
        out += struct.pack(">BH", 0x80 | kind, len(units))
        out += b"".join(struct.pack(">H", len(unit)) + unit for unit in units)
    return out


def _elementary_stream(audio: AudioConfig) -> bytes:
    """ES_Descriptor with DecoderConfigDescriptor (AAC) and SLConfigDescriptor (ISO/IEC 14496-1 7.2.6)."""
    specific = _descriptor(5, audio.decoder_config)
    decoder = _descriptor(4, struct.pack(">BB3xII", 0x40, 0x15, 0, 0) + specific)
    return _descriptor(3, struct.pack(">HB", AUDIO_TRACK, 0) + decoder + _descriptor(6, b"\x02"))


def _descriptor(tag: int, body: bytes) -> bytes:
    return bytes((tag, len(body))) + body
