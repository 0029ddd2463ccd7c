"""Access units in, fMP4 fragments out: one fragmenter serves all viewers of a channel.

It keeps each picture back until the next one tells its duration: a player then sees no gap when a camera leaves
frames out. A change of codec or size, or audio that starts late, makes a new initialisation segment at a key frame.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from media import fmp4, nal
from media.readers.aac import AacFrame, AudioSource, source_for, source_for_track
from media.specs import AudioTrack
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

LEAP_TICKS, SETBACK_TICKS = 10 * TICKS_PER_SECOND, TICKS_PER_SECOND
"""A picture this much later or earlier than the last one is a cut: the player's clock just goes on."""
DEFAULT_DURATION = TICKS_PER_SECOND // 25
EARLY_AUDIO_UNITS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Init:
    """What a player must be given before fragments that refer to it."""

    mime: str
    data: bytes
    video: dict[str, int | str]
    audio: dict[str, int | str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """One moof and mdat. ``key``: a player can begin here."""

    init: Init
    data: bytes
    key: bool = False


@dataclass(slots=True)
class _Held:
    """A picture that waits for its duration. ``dts`` is on the output clock."""

    dts: int
    offset: int
    key: bool
    data: bytes


class Fragmenter:
    """Not thread-safe; each `feed` costs tens of microseconds, and about 0.5 ms per second of G.711 audio."""

    def __init__(self, *, with_audio: bool = True) -> None:
        self.skipped = 0
        """Pictures left out: damaged, or without a usable key frame in front."""
        self.restarts = 0
        self._with_audio = with_audio
        self._init: Init | None = None
        self._config: fmp4.VideoConfig | None = None
        self._audio: AudioSource | None = None
        self._audio_codec: Codec | None = None
        self._audio_in_init = False
        self._waiting = True
        self._held: _Held | None = None
        self._shift: int | None = None
        self._duration = DEFAULT_DURATION
        self._sequence = 0
        self._picture_out = False
        self._kept_audio: list[Fragment] = []
        self._early_audio: deque[AccessUnit] = deque(maxlen=EARLY_AUDIO_UNITS)

    @property
    def init(self) -> Init | None:
        return self._init

    def expect_audio(self, track: AudioTrack) -> None:
        """Be told the audio format before the first picture, so that the first segment already has the track."""
        source = source_for_track(track) if self._with_audio else None
        if source is not None:
            self._audio, self._audio_codec = source, Codec(track.codec)

    def feed(self, unit: AccessUnit) -> list[Fragment]:
        """Take one unit in stream order; give the fragments that are now complete."""
        return self._video(unit) if unit.codec.is_video else self._sound(unit)

    # --- picture -----------------------------------------------------------------------------------------------

    def _video(self, unit: AccessUnit) -> list[Fragment]:
        if unit.codec not in (Codec.H264, Codec.H265) or unit.damaged or (self._waiting and not unit.key):
            self._waiting = True
            self.skipped += 1
            return []
        units = nal.split_annexb(unit.data)
        config = self._config
        if unit.key:
            config = fmp4.video_config(unit.codec, units) or (
                self._config if self._config is not None and self._config.codec is unit.codec else None
            )
        if config is None or config.codec is not unit.codec:
            self._waiting = True
            self.skipped += 1
            return []
        self._waiting = False
        dts = self._place(unit.dts)
        out = self._release(dts)
        if config != self._config or (self._audio is not None and not self._audio_in_init and unit.key):
            self._begin(config)
        data = fmp4.sample_data(unit.codec, units)
        self._held = _Held(dts, unit.pts - unit.dts, unit.key, data)
        while self._early_audio:
            out += self._sound(self._early_audio.popleft())
        if self._audio is not None and self._audio_in_init:
            out += self._wrap_audio(self._audio.advance(dts))
        return out

    def _place(self, dts: int) -> int:
        """The unit's decoding time on the output clock, which starts at 0, always grows and never leaps."""
        if self._shift is None:
            self._shift = dts
        placed = dts - self._shift
        if self._held is not None:
            step = placed - self._held.dts
            if step > LEAP_TICKS or step < -SETBACK_TICKS:
                placed = self._held.dts + self._duration
                self._shift = dts - placed
            elif step <= 0:
                placed = self._held.dts + 1
        return placed

    def _release(self, next_dts: int) -> list[Fragment]:
        held, self._held = self._held, None
        if held is None or self._init is None:
            return []
        duration = next_dts - held.dts
        self._duration = min(max(duration, 1), TICKS_PER_SECOND)
        self._sequence += 1
        data = fmp4.fragment(
            *(self._sequence, fmp4.VIDEO_TRACK, held.dts, duration, held.data),
            key=held.key,
            offset=held.offset,
        )
        kept, self._kept_audio = self._kept_audio, []
        self._picture_out = True
        return [Fragment(self._init, data, held.key), *kept]

    def _begin(self, config: fmp4.VideoConfig) -> None:
        if self._init is not None:
            self.restarts += 1
        audio = self._audio.config if self._audio is not None else None
        self._config, self._audio_in_init = config, audio is not None
        self._picture_out, self._kept_audio = False, []
        video = {"codec": config.codec.value, "width": config.info.width, "height": config.info.height}
        self._init = Init(
            fmp4.mime(config, audio),
            fmp4.init_segment(config, audio),
            dict(video),
            {"codec": "aac", "rate": audio.sample_rate, "channels": audio.channels} if audio else None,
        )

    # --- sound -------------------------------------------------------------------------------------------------

    def _sound(self, unit: AccessUnit) -> list[Fragment]:
        if not self._with_audio:
            return []
        if self._audio_codec is not unit.codec:
            source = source_for(unit)
            if source is None:
                return []
            self._audio, self._audio_codec, self._audio_in_init = source, unit.codec, False
        if self._shift is None:
            self._early_audio.append(unit)
            return []
        if self._audio is None or not self._audio_in_init:
            return []
        placed = AccessUnit(unit.codec, unit.pts - self._shift, unit.dts - self._shift, False, unit.data)
        return self._wrap_audio(self._audio.feed(placed))

    def _wrap_audio(self, frames: list[AacFrame]) -> list[Fragment]:
        out = []
        for frame in frames:
            if self._init is None:
                break
            self._sequence += 1
            position = max(0, frame.position)
            data = fmp4.fragment(self._sequence, fmp4.AUDIO_TRACK, position, 1024, frame.data, key=True)
            out.append(Fragment(self._init, data))
        if not self._picture_out:  # what a player is given first is a key frame
            self._kept_audio += out
            return []
        return out
