"""FLV for viewers: ``GET /live/{stream_id}.flv`` and, as messages, ``/live/{stream_id}/ws.flv``.

``hevc=enhanced`` writes H.265 as enhanced RTMP does, for FFmpeg and new players; without it Chinese players and
mpegts.js are served. ``audio=g711`` leaves G.711 as it is (mpegts.js refuses that), ``audio=0`` leaves the sound out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from media import flv, fmp4
from media.errors import MediaError
from media.flv import HevcForm
from media.fmp4 import AudioConfig
from media.readers.aac import G711_RATE_HZ, AacFrame, AudioSource
from media.readers.fanout import Chunk, Format, Head
from media.readers.muxing import OutputClock, Picture, TrackMuxer
from media.specs import AudioTrack
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

TICKS_PER_MS = TICKS_PER_SECOND // 1000
LONGEST_TICKS = ((1 << 31) - 3_600_000) * TICKS_PER_MS
"""Some players read times as signed 32-bit milliseconds: after 24 days the file ends, and the player comes again."""

_G711 = (Codec.PCMA, Codec.PCMU)


class G711Pass:
    """G.711 as the camera sent it, one tag per unit. Positions count samples at 8 kHz."""

    def __init__(self) -> None:
        self.config = AudioConfig(G711_RATE_HZ, 1)

    def feed(self, unit: AccessUnit) -> list[AacFrame]:
        position = unit.pts * G711_RATE_HZ // TICKS_PER_SECOND
        return [AacFrame(position, unit.data)] if position >= 0 else []

    def advance(self, ticks: int) -> list[AacFrame]:
        return []


class FlvMuxer(TrackMuxer):
    """One tag per picture and sound."""

    def __init__(
        self, *, with_audio: bool = True, form: HevcForm = HevcForm.LEGACY, keep_g711: bool = False
    ) -> None:
        super().__init__(with_audio=with_audio)
        self._form = form
        self._keep_g711 = keep_g711
        self._head = Head(b"")
        self._epoch = 0
        self._sound_codec = Codec.AAC
        self._sound_rate_hz = G711_RATE_HZ

    def _video(self, unit: AccessUnit) -> list[Chunk]:
        if unit.key and not unit.damaged and (self._clock.last or 0) > LONGEST_TICKS:
            self._begin_anew()
        return super()._video(unit)

    def _begin_anew(self) -> None:
        """Times start at 0 again; nothing of before may be sent together with what comes."""
        self._epoch += 1
        self._clock = OutputClock()
        self._config = self._audio = self._audio_codec = None
        self._audio_begun = False

    def _source_for(self, unit: AccessUnit) -> AudioSource | None:
        return G711Pass() if self._keep_g711 and unit.codec in _G711 else super()._source_for(unit)

    def _source_for_track(self, track: AudioTrack) -> AudioSource | None:
        return G711Pass() if self._keep_g711 and track.codec in _G711 else super()._source_for_track(track)

    def _begin(self, video: fmp4.VideoConfig, audio: AudioConfig | None) -> None:
        time_ms = (self._clock.last or 0) // TICKS_PER_MS
        codec = self._audio_codec if self._keep_g711 and self._audio_codec in _G711 else Codec.AAC
        self._sound_codec = codec or Codec.AAC
        change = flv.metadata(time_ms, video, (self._sound_codec, audio) if audio else None, self._form)
        change += flv.video_header(time_ms, video, self._form)
        tracks = f"{self._epoch} {video.codec}"
        if audio is not None:
            self._sound_rate_hz = audio.sample_rate
            change += flv.audio_header(time_ms, self._sound_codec, audio)
            tracks += f" {self._sound_codec} {audio.sample_rate} {audio.channels}"
        self._head = Head(flv.file_header(audio=audio is not None) + change, tracks, change)

    def _write_picture(self, picture: Picture) -> list[Chunk]:
        sample = picture.sample
        if len(sample) > flv.LONGEST_DATA:
            self._skip()
            return []
        time_ms = picture.dts // TICKS_PER_MS
        offset_ms = (picture.dts + picture.offset) // TICKS_PER_MS - time_ms
        data = flv.picture(time_ms, offset_ms, sample, picture.codec, self._form, key=picture.key)
        return [Chunk(self._head, data, picture.key)]

    def _write_sound(self, frames: Sequence[AacFrame]) -> list[Chunk]:
        return [
            Chunk(
                self._head,
                flv.sound(
                    max(0, frame.position) * 1000 // self._sound_rate_hz, self._sound_codec, frame.data
                ),
            )
            for frame in frames
        ]


def choose(query: Mapping[str, str]) -> Format:
    """FLV for this query. MediaError: bad_request."""
    hevc, audio = query.get("hevc", "legacy"), query.get("audio", "1")
    if hevc not in tuple(HevcForm):
        raise MediaError("bad_request", f"hevc={hevc[:20]!r}: legacy or enhanced")
    if audio not in ("0", "1", "g711"):
        raise MediaError("bad_request", f"audio={audio[:20]!r}: 0, 1 or g711")
    form = HevcForm(hevc)
    name = (
        "flv"
        + {"0": "-silent", "1": "", "g711": "-g711"}[audio]
        + ("" if form is HevcForm.LEGACY else "-hvc1")
    )
    return Format(name, lambda: FlvMuxer(with_audio=audio != "0", form=form, keep_g711=audio == "g711"))
