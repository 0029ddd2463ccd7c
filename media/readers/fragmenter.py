"""Access units in, fMP4 fragments out: one fragmenter serves all viewers of a channel.

It keeps each picture back until the next one tells its duration: a player then sees no gap when a camera leaves
frames out. A change of codec or size, or audio that starts late, makes a new initialisation segment at a key frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from media import fmp4
from media.readers.aac import AacFrame
from media.readers.fanout import Chunk, Head
from media.readers.muxing import Picture, TrackMuxer


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Init(Head):
    """The initialisation segment, with what a page needs to choose a decoder."""

    mime: str
    video: dict[str, int | str] = field(default_factory=dict)
    audio: dict[str, int | str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fragment(Chunk):
    """One moof and mdat. ``duration``: of a picture, in 90 kHz ticks; 0 for sound."""

    head: Init
    duration: int = 0


class Fragmenter(TrackMuxer):
    """Not thread-safe; each `feed` costs tens of microseconds, and about 0.5 ms per second of G.711 audio."""

    def __init__(self, *, with_audio: bool = True) -> None:
        super().__init__(with_audio=with_audio)
        self._init: Init | None = None
        self._held: Picture | None = None
        self._sequence = 0
        self._picture_out = False
        self._kept_audio: list[Chunk] = []

    @property
    def init(self) -> Init | None:
        return self._init

    def _begin(self, video: fmp4.VideoConfig, audio: fmp4.AudioConfig | None) -> None:
        self._picture_out, self._kept_audio = False, []
        self._init = Init(
            fmp4.init_segment(video, audio),
            mime=fmp4.mime(video, audio),
            video={"codec": video.codec.value, "width": video.info.width, "height": video.info.height},
            audio={"codec": "aac", "rate": audio.sample_rate, "channels": audio.channels} if audio else None,
        )

    def _before(self, dts: int) -> list[Chunk]:
        """Let go of the held picture: its duration is known now."""
        held, self._held = self._held, None
        if held is None or self._init is None:
            return []
        duration = dts - held.dts
        self._sequence += 1
        data = fmp4.fragment(
            *(self._sequence, fmp4.VIDEO_TRACK, held.dts, duration, held.sample),
            key=held.key,
            offset=held.offset,
        )
        kept, self._kept_audio = self._kept_audio, []
        self._picture_out = True
        return [Fragment(self._init, data, held.key, duration), *kept]

    def _write_picture(self, picture: Picture) -> list[Chunk]:
        self._held = picture
        return []

    def _write_sound(self, frames: Sequence[AacFrame]) -> list[Chunk]:
        if self._init is None:
            return []
        out: list[Chunk] = []
        for frame in frames:
            self._sequence += 1
            position = max(0, frame.position)
            data = fmp4.fragment(self._sequence, fmp4.AUDIO_TRACK, position, 1024, frame.data, key=True)
            out.append(Fragment(self._init, data))
        if not self._picture_out:  # what a player is given first is a key frame
            self._kept_audio += out
            return []
        return out
