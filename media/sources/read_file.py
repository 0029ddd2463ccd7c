"""Plays a media file in real time, again and again, its clock going on over the seam. Runs in an input's process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.logging
from av.bitstream import BitStreamFilterContext

from media.sources import elementary
from media.sources.confined import Outside, confined, open_file
from media.sources.reading import Failure, Outlet
from media.unit import TICKS_PER_SECOND, AccessUnit

FORMATS = "mov,matroska,mpegts,mpeg,flv,avi,h264,hevc"
"""Containers that are read; lists of other files (HLS, concat) are not among them."""
WITHOUT_DTS = frozenset({"matroska,webm", "avi"})
"""Containers that hold no decoding times, or none that can be trusted with reordered pictures."""
SHORTEST_LOOP = TICKS_PER_SECOND // 25
_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


def read(job: dict[str, Any], outlet: Outlet) -> None:
    """``job``: directory, path, loop. Raises Failure."""
    av.logging.set_level(None)
    begin, shift = time.monotonic(), 0
    try:
        path = confined(job["directory"], job["path"])
        while True:
            period = _once(path, outlet, begin, shift)
            if outlet.closing.is_set() or not job["loop"]:
                return
            shift += period
    except Outside as outside:
        raise Failure("not_found", str(outside)) from None


def _once(path: Path, outlet: Outlet, begin: float, shift: int) -> int:
    """Play the file one time from ``shift`` ticks after ``begin`` on; returns its length in ticks."""
    first: int | None = None
    end = 0
    with open_file(path) as file:
        try:
            for unit, duration in _units(file, outlet):
                if first is None:
                    first = unit.dts
                position = unit.dts - first + shift
                wait = begin + position / TICKS_PER_SECOND - time.monotonic()
                if outlet.closing.wait(wait) if wait > 0 else outlet.closing.is_set():
                    return 0
                end = max(end, unit.dts - first + duration)
                unit.pts, unit.dts = unit.pts - first + shift, position
                outlet.unit(unit)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise Failure("unreadable", f"FFmpeg cannot read it ({type(error).__name__})") from None
    if first is None:
        raise Failure("unreadable", "no stream in a codec that is served")
    return max(end, SHORTEST_LOOP)


def _units(file: BinaryIO, outlet: Outlet) -> Iterator[tuple[AccessUnit, int]]:
    """Units in the order of the file with their durations, in ticks."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    with av.open(file, "r", options=options) as container:
        video, audio = elementary.pick(container.streams)
        chosen = [stream for stream in (video, audio) if stream is not None]
        if not chosen:
            return
        outlet.note(audio=audio is not None)
        shape = _Shape(video) if video is not None else None
        sound = elementary.audio_track(audio) if audio is not None else None
        clock = _Steps(without_dts=container.format.name in WITHOUT_DTS)
        try:
            for packet in container.demux(chosen):
                pts, dts = clock.stamps(packet)
                if not packet.size or pts is None:
                    continue
                if shape is not None and packet.stream is video:
                    units = shape.units(packet, pts, dts)
                else:
                    heard = sound.unit(bytes(packet), pts) if sound is not None else None
                    units = [heard] if heard is not None else []
                for unit in units:
                    yield unit, clock.duration(packet, unit.dts)
        except IndexError:  # PyAV at the end of some inputs
            pass


class _Steps:
    """Stamps of packets in ticks, and how long each lasts: the step before, since containers guess the last one."""

    def __init__(self, *, without_dts: bool) -> None:
        self._without_dts = without_dts
        self._last: dict[int, int] = {}
        self._step: dict[int, int] = {}

    def stamps(self, packet: Any) -> tuple[int | None, int | None]:
        """(pts, dts); dts None when it has to be worked out from the pts. Program streams leave some out."""
        base, index = packet.stream.time_base, packet.stream.index
        dts = None if packet.dts is None else elementary.ticks(packet.dts, base)
        pts = dts if packet.pts is None else elementary.ticks(packet.pts, base)
        if pts is None and index in self._last:
            pts = dts = self._last[index] + self._step.get(index, 0)
        return pts, None if self._without_dts and packet.pts is not None else dts

    def duration(self, packet: Any, dts: int) -> int:
        index = packet.stream.index
        if index in self._last:
            self._step[index] = dts - self._last[index]
        elif packet.duration:
            self._step[index] = elementary.ticks(packet.duration, packet.stream.time_base)
        self._last[index] = dts
        return self._step.get(index, 0)


class _Shape:
    """Pictures in Annex B, whatever the container holds them in."""

    def __init__(self, stream: Any) -> None:
        context = stream.codec_context
        extradata = context.extradata or b""
        self._filter: BitStreamFilterContext | None = None
        if extradata[:1] == b"\x01" and context.name in _FILTERS:
            self._filter = BitStreamFilterContext(_FILTERS[context.name], stream)
        self._track = elementary.video_track(stream)

    def units(self, packet: Any, pts: int, dts: int | None) -> list[AccessUnit]:
        packets = [packet] if self._filter is None else self._filter.filter(packet)
        data = b"".join(bytes(part) for part in packets)
        return self._track.units(data, pts, dts, key=packet.is_keyframe) if data else []
