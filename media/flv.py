"""FLV: file header, metadata, and tags of H.264, H.265, AAC and G.711. Pure: values in, bytes out.

Layouts after Adobe's Video File Format Specification 10.1 (annex E). H.265 goes in one of two ways: as codec id 12,
which is no standard but what Chinese players take, or as enhanced RTMP writes it (FourCC ``hvc1``).
"""

from __future__ import annotations

import struct
from enum import StrEnum

from media import fmp4
from media.unit import Codec

LONGEST_DATA = 0xFFFFFF - 64
"""A tag's size is 24 bits; what is longer cannot be sent."""

_AUDIO, _VIDEO, _SCRIPT = 8, 9, 18
_KEY, _INTER = 1, 2
_AVC, _HEVC = 7, 12
_HEADER, _NALUS = 0, 1
_ENHANCED = 0x80
_FOURCC = b"hvc1"
_AAC, _PCMA, _PCMU = 10, 7, 8


class HevcForm(StrEnum):
    """How H.265 is written. H.264 is the same in both."""

    LEGACY = "legacy"
    ENHANCED = "enhanced"


def file_header(*, audio: bool) -> bytes:
    """The first 13 bytes: signature, which tracks there are, and the size of no previous tag (E.2)."""
    return struct.pack(">3sBBII", b"FLV", 1, 0x05 if audio else 0x01, 9, 0)


def tag(kind: int, time_ms: int, body: bytes) -> bytes:
    """One tag and its size behind it (E.4.1). Times wrap at 32 bits."""
    size = len(body)
    head = struct.pack(
        ">BBHHBB3x",
        kind,
        size >> 16,
        size & 0xFFFF,
        time_ms >> 8 & 0xFFFF,
        time_ms & 0xFF,
        time_ms >> 24 & 0xFF,
    )
    return head + body + struct.pack(">I", size + 11)


def metadata(
    time_ms: int, video: fmp4.VideoConfig, audio: tuple[Codec, fmp4.AudioConfig] | None, form: HevcForm
) -> bytes:
    """The onMetaData tag (E.5): size, codecs, sample rate."""
    codec_id: int = _AVC
    if video.codec is Codec.H265:
        codec_id = _HEVC if form is HevcForm.LEGACY else int.from_bytes(_FOURCC, "big")
    values: dict[str, float | bool] = {
        "width": video.info.width,
        "height": video.info.height,
        "videocodecid": codec_id,
    }
    if audio is not None:
        codec, config = audio
        values |= {
            "audiocodecid": _audio_id(codec),
            "audiosamplerate": config.sample_rate,
            "audiosamplesize": 16,
            "stereo": config.channels == 2,
        }
    body = b"\x02" + _name("onMetaData") + b"\x08" + struct.pack(">I", len(values))
    for name, value in values.items():
        body += _name(name) + (
            struct.pack(">BB", 1, value) if isinstance(value, bool) else struct.pack(">Bd", 0, value)
        )
    return tag(_SCRIPT, time_ms, body + b"\x00\x00\x09")


def _name(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode("ascii")


def video_header(time_ms: int, video: fmp4.VideoConfig, form: HevcForm) -> bytes:
    """The tag with the decoder configuration record, in front of the first picture."""
    record = fmp4.decoder_record(video)
    if video.codec is Codec.H265 and form is HevcForm.ENHANCED:
        return tag(_VIDEO, time_ms, bytes((_ENHANCED | _KEY << 4 | _HEADER,)) + _FOURCC + record)
    codec_id = _AVC if video.codec is Codec.H264 else _HEVC
    return tag(_VIDEO, time_ms, bytes((_KEY << 4 | codec_id, _HEADER, 0, 0, 0)) + record)


def picture(time_ms: int, offset_ms: int, sample: bytes, codec: Codec, form: HevcForm, *, key: bool) -> bytes:
    """One picture: NAL units behind 4-byte lengths. ``time_ms`` is when it is decoded, ``offset_ms`` after which shown."""
    kind = _KEY if key else _INTER
    offset = (offset_ms & 0xFFFFFF).to_bytes(3, "big")
    if codec is Codec.H265 and form is HevcForm.ENHANCED:
        return tag(_VIDEO, time_ms, bytes((_ENHANCED | kind << 4 | _NALUS,)) + _FOURCC + offset + sample)
    codec_id = _AVC if codec is Codec.H264 else _HEVC
    return tag(_VIDEO, time_ms, bytes((kind << 4 | codec_id, _NALUS)) + offset + sample)


def audio_header(time_ms: int, codec: Codec, audio: fmp4.AudioConfig) -> bytes:
    """The tag with AAC's AudioSpecificConfig; nothing for G.711."""
    if codec is not Codec.AAC:
        return b""
    return tag(_AUDIO, time_ms, bytes((_aac_flags, _HEADER)) + audio.decoder_config)


def sound(time_ms: int, codec: Codec, data: bytes) -> bytes:
    """One raw AAC frame, or G.711 samples (8 kHz, mono)."""
    if codec is Codec.AAC:
        return tag(_AUDIO, time_ms, bytes((_aac_flags, _NALUS)) + data)
    return tag(_AUDIO, time_ms, bytes((_audio_id(codec) << 4 | 0x02,)) + data)


_aac_flags = _AAC << 4 | 0x0F
"""AAC always says 44 kHz, 16 bits, stereo; the truth is in its configuration (E.4.2.1)."""


def _audio_id(codec: Codec) -> int:
    return {Codec.AAC: _AAC, Codec.PCMA: _PCMA, Codec.PCMU: _PCMU}[codec]
