"""One live stream for all its RTSP viewers: packets are made once per access unit, the last group of pictures is kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from media.readers import audio_rtp
from media.readers.rtsp.rtcp import StreamClock
from media.readers.rtsp.tracks import (
    AUDIO,
    VIDEO,
    PackedUnit,
    TrackDescription,
    TrackPackets,
    describe_audio,
    describe_video,
)
from media.stream import Stream, StreamEnded
from media.unit import AccessUnit, Codec

log = logging.getLogger(__name__)

CACHE_BYTES = 16 * 1024 * 1024
"""A longer group of pictures is not kept: new viewers then wait for the next key frame."""


class Taker(Protocol):
    """A viewer that plays."""

    def offer(self, packed: PackedUnit) -> None: ...


class Channel:
    """Runs while there are viewers. ``on_ended(channel, cause)`` is called once when the stream or its codec ends."""

    def __init__(self, stream: Stream, on_ended: Callable[[Channel, str], None]) -> None:
        self.stream = stream
        self.tracks: dict[int, TrackPackets] = {}
        self.clock = StreamClock()
        self.last_ticks = 0
        """pts of the newest unit."""
        self.units = 0
        """Access units packetised since the start, however many viewers there were."""
        self.seats = 0
        """Connections that hold on to this channel; the server closes it at the last one's leave."""
        self._takers: set[Taker] = set()
        self._cache: list[PackedUnit] = []
        self._cache_bytes = 0
        self._on_ended = on_ended
        self._ended = False
        self._add_known_tracks()
        self._reader = stream.attach("rtsp", on_unit=self._take)
        self._task = asyncio.create_task(self._until_end(), name=f"rtsp {stream.stream_id}")

    def _add_known_tracks(self) -> None:
        video, audio = self.stream.video, self.stream.audio
        if video is not None:
            self._add_video(Codec(video.codec))
        if audio is not None:
            sample = next((unit for unit in reversed(self.stream.gop()) if unit.codec == audio.codec), None)
            self._add_audio(sample or AccessUnit(Codec(audio.codec), 0, 0, False, b""))

    def _add_video(self, codec: Codec) -> TrackPackets | None:
        description = describe_video(codec, None)
        if description is not None:
            self.tracks[VIDEO] = TrackPackets(VIDEO, codec, description)
        return self.tracks.get(VIDEO)

    def _add_audio(self, unit: AccessUnit) -> TrackPackets | None:
        form = audio_rtp.format_of(unit)
        if form is not None:
            self.tracks[AUDIO] = TrackPackets(AUDIO, unit.codec, describe_audio(form))
        return self.tracks.get(AUDIO)

    def describe(self) -> list[TrackDescription]:
        """The tracks as they are now, the picture with its current parameter sets."""
        found = []
        for number in sorted(self.tracks):
            track = self.tracks[number]
            description: TrackDescription | None = track.description
            if number == VIDEO:
                description = describe_video(track.codec, self.stream.last_key)
            if description is not None:
                found.append(description)
        return found

    def join(self, taker: Taker) -> None:
        """``taker`` gets every unit from now on; what it missed is in :meth:`backlog`."""
        self._takers.add(taker)

    def leave(self, taker: Taker) -> None:
        self._takers.discard(taker)

    def backlog(self) -> list[PackedUnit]:
        """The units since the last key frame, oldest first; empty when there is none."""
        return list(self._cache)

    async def close(self) -> None:
        """Detach from the stream. Idempotent."""
        self._ended = True
        self._reader.detach()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    # --- units ---------------------------------------------------------------------------------------------------

    def _take(self, unit: AccessUnit) -> None:
        """One unit, inside the stream's publishing."""
        if self._ended:
            return
        track = self.tracks.get(VIDEO if unit.codec.is_video else AUDIO)
        if track is None:
            track = self._add_video(unit.codec) if unit.codec.is_video else self._add_audio(unit)
        if track is None:
            return
        if track.codec is not unit.codec:
            if unit.codec.is_video:  # what was described is no longer true: players have to ask again
                asyncio.get_running_loop().call_soon(self._end, "codec_changed")
                self._ended = True
            return
        packed = track.pack(unit)
        if packed is None:
            return
        self.units += 1
        self.last_ticks = unit.pts
        now = time.time()
        self.clock.heard(unit.dts, now - (time.monotonic() - unit.arrival_mono) if unit.arrival_mono else now)
        self._remember(packed)
        for taker in tuple(self._takers):
            taker.offer(packed)

    def _remember(self, packed: PackedUnit) -> None:
        if packed.track == VIDEO and packed.key:
            self._cache, self._cache_bytes = [packed], len(packed.data)
        elif self._cache:
            self._cache.append(packed)
            self._cache_bytes += len(packed.data)
            if self._cache_bytes > CACHE_BYTES:
                self._cache, self._cache_bytes = [], 0

    async def _until_end(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await self._reader.next()  # nothing is queued here: units come through the callback
            except StreamEnded as ended:
                self._end(ended.cause)

    def _end(self, cause: str) -> None:
        self._ended = True
        self._on_ended(self, cause)
