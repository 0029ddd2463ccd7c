"""MPEG-TS for viewers: ``GET /live/{stream_id}.ts``. H.264, H.265 and AAC; ``audio=0`` leaves the sound out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from media import fmp4
from media.es import adts_header
from media.readers.aac import AacFrame
from media.readers.fanout import Chunk, Format, Head
from media.readers.fmp4 import wants_audio
from media.readers.muxing import Picture, TrackMuxer
from media.ts_mux import TsMuxer
from media.unit import TICKS_PER_SECOND

LEAD_TICKS = TICKS_PER_SECOND * 2 // 5
"""How far decoding times are ahead of the clock in the stream: sound may be that late and still be in time."""
TABLES_TICKS = TICKS_PER_SECOND // 2
"""PAT and PMT are repeated this often, and in front of each key frame."""


class TransportMuxer(TrackMuxer):
    """One PES packet per picture and sound. Parameter sets stay in the stream: a new size needs no new head."""

    def __init__(self, *, with_audio: bool = True) -> None:
        super().__init__(with_audio=with_audio)
        self._ts = TsMuxer(lead=LEAD_TICKS)
        self._head = Head(b"")
        self._config_audio = fmp4.AudioConfig(8000, 1)
        self._tables_at = 0

    def _begin(self, video: fmp4.VideoConfig, audio: fmp4.AudioConfig | None) -> None:
        tracks = str(video.codec)
        if audio is not None:
            self._config_audio = audio
            tracks += f" {audio.sample_rate} {audio.channels}"
        if tracks != self._head.tracks:
            self._ts.begin(video.codec, audio=audio is not None)
            self._head = Head(b"", tracks)

    def _write_picture(self, picture: Picture) -> list[Chunk]:
        data = b""
        if picture.key or picture.dts - self._tables_at >= TABLES_TICKS:
            self._tables_at = picture.dts
            data = self._ts.tables()
        data += self._ts.picture(picture.dts, picture.dts + picture.offset, picture.data, key=picture.key)
        return [Chunk(self._head, data, picture.key)]

    def _write_sound(self, frames: Sequence[AacFrame]) -> list[Chunk]:
        config = self._config_audio
        out = []
        for frame in frames:
            pts = max(0, frame.position) * TICKS_PER_SECOND // config.sample_rate
            adts = adts_header(len(frame.data), config.sample_rate, config.channels) + frame.data
            out.append(Chunk(self._head, self._ts.sound(pts, adts)))
        return out


def choose(query: Mapping[str, str]) -> Format:
    """The transport stream for this query. MediaError: bad_request."""
    if wants_audio(query):
        return Format("ts", TransportMuxer)
    return Format("ts-silent", lambda: TransportMuxer(with_audio=False))
