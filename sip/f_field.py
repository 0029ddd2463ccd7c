"""The ``f=`` line of an SDP: picture and sound format as codes (2016 annex F, 2022 annex G).

``f=v/codec/resolution/frames/rate type/kbit`` followed without blank by ``a/codec/rate/sampling``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VIDEO_CODECS = {1: "MPEG4", 2: "H264", 3: "SVAC", 4: "3GP", 5: "H265"}
RESOLUTIONS = {1: "QCIF", 2: "CIF", 3: "4CIF", 4: "D1", 5: "720P", 6: "1080P"}
RATE_TYPES = {1: "CBR", 2: "VBR"}
AUDIO_CODECS = {1: "G711", 2: "G7231", 3: "G729", 4: "G7221", 5: "SVAC", 6: "AAC"}
AUDIO_RATES_KBIT: dict[int, float] = dict(
    zip(
        range(1, 31),
        (
            5.3,
            6.3,
            8,
            16,
            24,
            32,
            48,
            64,
            12,
            80,
            96,
            112,
            128,
            160,
            192,
            224,
            256,
            288,
            320,
            10.8,
            12.4,
            14,
            15.6,
            17.2,
            19.6,
            21.2,
            24.4,
            23.05,
            34,
            48.61,
        ),
        strict=True,
    )
)
SAMPLINGS_KHZ: dict[int, float] = dict(
    zip(range(1, 18), (8, 14, 16, 32, 7, 11, 12, 22, 24, 44, 48, 64, 88, 96, 12.8, 25.6, 38.4), strict=True)
)
_ONLY_2022 = {"video": {5}, "audio": {5, 6}, "rate": set(range(9, 31)), "sampling": set(range(5, 18))}
_SIZE = re.compile(r"\d{1,5}[xX×*]\d{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """The codes of an ``f=`` line; None where a field is empty or 0.

    ``resolution`` is a code 1-6 or, in 2022, ``WxH`` as text. ``video_kbit`` 0-100000, ``frame_rate`` 0-99.
    """

    video_codec: int | None = None
    resolution: int | str | None = None
    frame_rate: int | None = None
    rate_type: int | None = None
    video_kbit: int | None = None
    audio_codec: int | None = None
    audio_rate: int | None = None
    sampling: int | None = None

    def to_text(self, *, edition_2022: bool = True) -> str:
        """The value of the line. To 2016 peers the codes that only 2022 knows are left empty."""
        video = self.video_codec if edition_2022 or self.video_codec not in _ONLY_2022["video"] else None
        audio = self.audio_codec if edition_2022 or self.audio_codec not in _ONLY_2022["audio"] else None
        rate = self.audio_rate if edition_2022 or self.audio_rate not in _ONLY_2022["rate"] else None
        sampling = self.sampling if edition_2022 or self.sampling not in _ONLY_2022["sampling"] else None
        resolution = self.resolution if edition_2022 or isinstance(self.resolution, int) else None
        fields = (video, resolution, self.frame_rate, self.rate_type, self.video_kbit)
        sound = (audio, rate, sampling)
        return "v/" + "/".join(map(_shown, fields)) + "a/" + "/".join(map(_shown, sound))

    @property
    def video_name(self) -> str:
        return VIDEO_CODECS.get(self.video_codec or 0, "")

    @property
    def audio_name(self) -> str:
        return AUDIO_CODECS.get(self.audio_codec or 0, "")

    @property
    def audio_kbit(self) -> float | None:
        return AUDIO_RATES_KBIT.get(self.audio_rate or 0)

    @property
    def sampling_khz(self) -> float | None:
        return SAMPLINGS_KHZ.get(self.sampling or 0)


EMPTY = MediaFormat()
G711 = MediaFormat(audio_codec=1, audio_rate=8, sampling=1)


def parse_format(text: str) -> MediaFormat | None:
    """Read an ``f=`` value, also ``v////`` cut short or ``a/…`` alone; None when it is no format at all."""
    text = text.strip()
    start = text.lower().find("a/")
    video_text, audio_text = (text, "") if start < 0 else (text[:start], text[start + 2 :])
    if not video_text.lower().startswith("v") and start < 0:
        return None
    video = (video_text.lower().removeprefix("v").removeprefix("/").split("/") + [""] * 5)[:5]
    audio = (audio_text.split("/") + [""] * 3)[:3]
    return MediaFormat(
        video_codec=_number(video[0]),
        resolution=_resolution(video[1]),
        frame_rate=_number(video[2]),
        rate_type=_number(video[3]),
        video_kbit=_number(video[4]),
        audio_codec=_number(audio[0]),
        audio_rate=_number(audio[1]),
        sampling=_number(audio[2]),
    )


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) or None if text.isascii() and text.isdecimal() and len(text) < 7 else None


def _resolution(text: str) -> int | str | None:
    text = text.strip()
    return re.sub(r"[x×*]", "X", text) if _SIZE.fullmatch(text) else _number(text)


def _shown(value: int | str | None) -> str:
    return "" if value is None else str(value)
