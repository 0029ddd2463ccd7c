"""What fMP4, FLV and MPEG-TS have in common: which units are used, on which clock, and the sound beside the picture.

The clock starts at 0, always grows and never leaps, whatever the camera's does. A change of codec or size, or sound
that starts late, begins the format anew at a key frame. G.711 becomes AAC, missing sound becomes silence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from media import fmp4, nal
from media.readers.aac import AacFrame, AudioSource, source_for, source_for_track
from media.readers.fanout import Chunk
from media.specs import AudioTrack
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

LEAP_TICKS, SETBACK_TICKS = 10 * TICKS_PER_SECOND, TICKS_PER_SECOND
"""A picture this much later or earlier than the last one is a cut: the player's clock just goes on."""
DEFAULT_DURATION = TICKS_PER_SECOND // 25
EARLY_AUDIO_UNITS = 64


class OutputClock:
    """Decoding times of pictures on a clock that starts at 0, always grows and never leaps. 90 kHz ticks."""

    def __init__(self) -> None:
        self.shift: int | None = None
        """What is taken off the stream's times; None before the first picture."""
        self.last: int | None = None
        self._step = DEFAULT_DURATION

    def place(self, dts: int) -> int:
        """The next picture's decoding time."""
        if self.shift is None:
            self.shift = dts
        placed = dts - self.shift
        if self.last is not None:
            step = placed - self.last
            if step > LEAP_TICKS or step < -SETBACK_TICKS:
                placed = self.last + self._step
                self.shift = dts - placed
            elif step <= 0:
                placed = self.last + 1
            self._step = min(max(placed - self.last, 1), TICKS_PER_SECOND)
        self.last = placed
        return placed


@dataclass(slots=True)
class Picture:
    """One coded picture on the output clock. ``offset`` is pts minus dts in ticks."""

    dts: int
    offset: int
    key: bool
    codec: Codec
    data: bytes
    """Annex B, as the stream had it."""

    @property
    def sample(self) -> bytes:
        """NAL units behind 4-byte lengths, without parameter sets and delimiters."""
        return fmp4.sample_data(self.codec, nal.split_annexb(self.data))


class TrackMuxer:
    """Base of the formats. Not thread-safe; a subclass writes heads, pictures and sounds."""

    def __init__(self, *, with_audio: bool = True) -> None:
        self.skipped = 0
        """Pictures left out: damaged, or without a usable key frame in front."""
        self.restarts = 0
        self._with_audio = with_audio
        self._clock = OutputClock()
        self._config: fmp4.VideoConfig | None = None
        self._audio: AudioSource | None = None
        self._audio_codec: Codec | None = None
        self._audio_begun = False
        """The sound is in the head that was begun last."""
        self._waiting = True
        self._early_audio: deque[AccessUnit] = deque(maxlen=EARLY_AUDIO_UNITS)

    # --- what a format writes ----------------------------------------------------------------------------------

    def _begin(self, video: fmp4.VideoConfig, audio: fmp4.AudioConfig | None) -> None:
        """Chunks from now on have a new head."""
        raise NotImplementedError

    def _before(self, dts: int) -> list[Chunk]:
        """A picture at ``dts`` is about to come, perhaps with a new head."""
        return []

    def _write_picture(self, picture: Picture) -> list[Chunk]:
        raise NotImplementedError

    def _write_sound(self, frames: Sequence[AacFrame]) -> list[Chunk]:
        raise NotImplementedError

    def _source_for(self, unit: AccessUnit) -> AudioSource | None:
        return source_for(unit)

    def _source_for_track(self, track: AudioTrack) -> AudioSource | None:
        return source_for_track(track)

    # --- what all do -------------------------------------------------------------------------------------------

    def expect_audio(self, track: AudioTrack) -> None:
        """Be told the audio format before the first picture, so that the first head already has the track."""
        source = self._source_for_track(track) if self._with_audio else None
        if source is not None:
            self._audio, self._audio_codec = source, Codec(track.codec)

    def feed(self, unit: AccessUnit) -> list[Chunk]:
        """Take one unit in stream order; give the chunks that are now complete."""
        return self._video(unit) if unit.codec.is_video else self._sound(unit)

    def _video(self, unit: AccessUnit) -> list[Chunk]:
        if unit.codec not in (Codec.H264, Codec.H265) or unit.damaged or (self._waiting and not unit.key):
            return self._skip()
        config = self._config
        if unit.key:
            config = fmp4.video_config(unit.codec, nal.split_annexb(unit.data)) or config
        if config is None or config.codec is not unit.codec:
            return self._skip()
        self._waiting = False
        dts = self._clock.place(unit.dts)
        out = self._before(dts)
        if config != self._config or (self._audio is not None and not self._audio_begun and unit.key):
            self.restarts += self._config is not None
            self._config, self._audio_begun = config, self._audio is not None
            self._begin(config, self._audio.config if self._audio is not None else None)
        out += self._write_picture(Picture(dts, unit.pts - unit.dts, unit.key, unit.codec, unit.data))
        while self._early_audio:
            out += self._sound(self._early_audio.popleft())
        if self._audio is not None and self._audio_begun:
            out += self._write_sound(self._audio.advance(dts))
        return out

    def _skip(self) -> list[Chunk]:
        self._waiting = True
        self.skipped += 1
        return []

    def _sound(self, unit: AccessUnit) -> list[Chunk]:
        if not self._with_audio:
            return []
        if self._audio_codec is not unit.codec:
            source = self._source_for(unit)
            if source is None:
                return []
            self._audio, self._audio_codec, self._audio_begun = source, unit.codec, False
        shift = self._clock.shift
        if shift is None:
            self._early_audio.append(unit)
            return []
        if self._audio is None or not self._audio_begun:
            return []
        placed = AccessUnit(unit.codec, unit.pts - shift, unit.dts - shift, False, unit.data)
        return self._write_sound(self._audio.feed(placed))
