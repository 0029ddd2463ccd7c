"""From FFmpeg's packets to access units as the node wants them: Annex B, ADTS, 90 kHz. Runs in an input's process."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from media import nal
from media.access import VideoAssembler
from media.es import adts_header
from media.sources.decode_order import DecodeOrder
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

VIDEO_CODECS = {"h264": Codec.H264, "hevc": Codec.H265, "mpeg4": Codec.MPEG4}
AUDIO_CODECS = {
    "pcm_alaw": Codec.PCMA,
    "pcm_mulaw": Codec.PCMU,
    "aac": Codec.AAC,
    "adpcm_g722": Codec.G722,
    "g723_1": Codec.G723,
    "g729": Codec.G729,
}
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_AAC_SAMPLES = 1024
_START = b"\x00\x00\x00\x01"


def ticks(stamp: int, time_base: Fraction) -> int:
    """A stamp of FFmpeg as 90 kHz ticks."""
    return round(stamp * time_base * TICKS_PER_SECOND)


def starts_nal(data: bytes) -> bool:
    return data.startswith((b"\x00\x00\x01", _START))


class VideoTrack:
    """Pictures of one video stream. Without decoding times these are worked out (`DecodeOrder`).

    ``extradata`` in Annex B gives the parameter sets of cameras that name them in the SDP only.
    """

    def __init__(self, codec: Codec, extradata: bytes | None) -> None:
        self.codec = codec
        self._assembler = VideoAssembler()
        self._assembler.hint = codec
        self._order = DecodeOrder()
        self._preface = extradata if extradata and starts_nal(extradata) else b""

    def damage(self) -> None:
        """Packets are missing: pictures are marked up to the next key frame."""
        self._assembler.damage()

    def reordered(self, data: bytes) -> int:
        """By how many pictures the order of decoding may differ from that of showing, as ``data`` says; else 0."""
        info = nal.describe(self.codec, self._preface + data)
        return (info.num_reorder_frames or 0) if info is not None else 0

    def units(
        self, data: bytes, pts: int, dts: int | None, *, key: bool = False, damaged: bool = False
    ) -> list[AccessUnit]:
        """The units of one picture's bytes."""
        if self._preface:
            if not nal.parameter_sets(self.codec, nal.split_annexb(data)):
                data = self._preface + data
            self._preface = b""
        found = self._assembler.units(data, pts, pts if dts is None else dts, key_hint=key, damaged=damaged)
        if dts is None:
            for unit in found:
                if unit.key:
                    info = nal.describe(unit.codec, unit.data)
                    self._order.expect(info.num_reorder_frames if info is not None else None)
                unit.pts, unit.dts = self._order.stamp(unit.pts)
        return found


class AudioTrack:
    """Sound of one audio stream; raw AAC gets ADTS headers from the stream's AudioSpecificConfig (ISO/IEC 14496-3)."""

    def __init__(self, codec: Codec, extradata: bytes | None, rate_hz: int) -> None:
        self.codec = codec
        self._config = aac_config(extradata or b"") if codec is Codec.AAC else None
        self._rate_hz = self._config[0] if self._config is not None else rate_hz or 8000
        self._next: int | None = None

    def unit(self, data: bytes, pts: int | None) -> AccessUnit | None:
        """One unit; None for what cannot be placed in time. Frames without a stamp follow the last one."""
        if pts is None:
            pts = self._next
        if pts is None or not data:
            return None
        if self.codec is Codec.AAC:
            samples = _AAC_SAMPLES
            if not (data[0] == 0xFF and data[1:2] and data[1] & 0xF6 == 0xF0):
                rate, channels = self._config or (self._rate_hz, 1)
                data = adts_header(len(data), rate, channels) + data
        else:
            samples = len(data)
        self._next = pts + samples * TICKS_PER_SECOND // self._rate_hz
        return AccessUnit(self.codec, pts, pts, False, data)


def aac_config(extradata: bytes) -> tuple[int, int] | None:
    """(sampling rate in Hz, channels) of an AudioSpecificConfig; None when it is none or names its rate itself."""
    if len(extradata) < 2:
        return None
    index = (extradata[0] & 7) << 1 | extradata[1] >> 7
    channels = extradata[1] >> 3 & 0x0F
    if index >= len(_RATES):
        return None
    return _RATES[index], channels or 2


def pick(streams: Any) -> tuple[Any, Any]:
    """The first video and the first audio stream whose codecs have a place in our streams; None where there is none."""
    video = next((s for s in streams if s.type == "video" and _name(s) in VIDEO_CODECS), None)
    audio = next((s for s in streams if s.type == "audio" and _name(s) in AUDIO_CODECS), None)
    return video, audio


def _name(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else ""


def video_track(stream: Any) -> VideoTrack:
    return VideoTrack(VIDEO_CODECS[_name(stream)], stream.codec_context.extradata)


def audio_track(stream: Any) -> AudioTrack:
    context = stream.codec_context
    return AudioTrack(AUDIO_CODECS[context.name], context.extradata, context.sample_rate)
