"""A stream made of another stream of this node: the same pictures as H.264 without B-frames, the same sound.

A process of its own decodes and encodes (media/transcode.py); there are only so many of them. The process may crash:
it is started again, and the picture goes on at the source's next key frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from media.errors import MediaError
from media.sources.units import UnitSource
from media.specs import InputSpec, TranscodeInput
from media.stream import Reader, Stream, StreamEnded
from media.transcode import FRAME, H264, H265, KEY, MAX_FRAME_BYTES, WANT_KEY, Order
from media.unit import AccessUnit, Codec

if TYPE_CHECKING:
    from media.sources.inputs import InputHost

log = logging.getLogger(__name__)

BEHIND_UNITS = 100
"""More than this waiting (about 2 s with sound): the process is too slow, pictures are left out up to a key frame."""
RESTARTS = 5
RESTART_PAUSE_S = 0.5
HANG_S = 6.0
CALM_S = 60.0
"""After so long without a crash the earlier ones are forgotten."""

_KINDS = {Codec.H264: H264, Codec.H265: H265}
_COMMAND = (sys.executable, "-m", "media.transcode")


@dataclass(slots=True)
class TranscoderSlots:
    """How many transcoders this node may run."""

    limit: int
    used: int = 0
    refused: int = 0
    restarts: int = 0
    skipped: int = 0
    """Pictures left out because a transcoder was too slow."""

    def take(self) -> None:
        """MediaError(transcoders_busy) when all are in use."""
        if self.used >= self.limit:
            self.refused += 1
            raise MediaError("transcoders_busy", f"all {self.limit} transcoders of this node are in use")
        self.used += 1

    def give_back(self) -> None:
        self.used -= 1


class TranscodeSource(UnitSource):
    """Publishes what the process makes of ``source``. The slot has been taken; it is given back by `close`."""

    def __init__(
        self,
        spec: TranscodeInput,
        stream: Stream,
        host: InputHost,
        source: Stream,
        command: tuple[str, ...] = _COMMAND,
    ) -> None:
        super().__init__(
            stream,
            idle_grace_s=spec.idle_grace_s,
            silence_s=spec.silence_s,
            cache_bytes=host.config.gop_cache_bytes,
            on_lost=host.on_lost,
            clock=host.clock,
        )
        self._slots = host.transcoders
        self._order = Order(spec.max_width, spec.max_height, spec.bit_rate)
        self._source = source
        self._command = command
        self._want_key = False
        self._fed_mono: float | None = None
        """When the first picture went in after the last one came out."""
        self._closed = False
        self._last_picture_pts = self._last_sound_pts = -1
        self.process: asyncio.subprocess.Process | None = None
        stream.on_key_frame_request(self._key_frame_wanted)
        if source.audio is not None:
            stream.audio_announced = True
        self._task = asyncio.create_task(self._run(), name=f"transcode {stream.stream_id}")

    def _key_frame_wanted(self) -> None:
        """Ours to make: the camera need not be asked."""
        self._want_key = True

    def close(self) -> None:
        """End the process. Idempotent."""
        if not self._closed:
            self._closed = True
            self._task.cancel()
            self._end_process()
            self._slots.give_back()
        super().close()

    async def _run(self) -> None:
        """Keep a process running until the source ends."""
        restarts, started = 0, self._clock()
        try:
            while True:
                try:
                    await self._work()
                except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                    log.warning(
                        "event=transcoder_lost stream_id=%s error=%s", self.stream.stream_id, error or "ended"
                    )
                self._slots.restarts += 1
                restarts = 1 if self._clock() - started > CALM_S else restarts + 1
                started = self._clock()
                if restarts > RESTARTS:
                    self.lose("transcoder_failed")
                    return
                await asyncio.sleep(RESTART_PAUSE_S)
        except StreamEnded as ended:
            self.lose(f"source_{ended.cause}")

    async def _work(self) -> None:
        """One process' life. Raises what ended it: StreamEnded, or OSError, IncompleteReadError, ValueError."""
        reader = self._source.attach("transcode")
        process: asyncio.subprocess.Process | None = None
        try:
            process = self.process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            if process.stdin is None or process.stdout is None:
                raise BrokenPipeError("the transcoder has no pipes")
            await _both(self._feed(reader, process.stdin), self._publish(process.stdout))
        finally:
            reader.detach()
            self._end_process()
            if process is not None:
                await process.wait()

    def check(self, now: float) -> None:
        """A process that takes pictures and gives none is as good as crashed."""
        super().check(now)
        fed = self._fed_mono
        if fed is not None and now - fed > HANG_S:
            self._fed_mono = None
            log.warning("event=transcoder_hangs stream_id=%s", self.stream.stream_id)
            self._end_process()

    def _end_process(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _feed(self, reader: Reader, pipe: asyncio.StreamWriter) -> None:
        pipe.write(replace(self._order, after_pts=self._last_picture_pts).frame())
        skipping = False
        while True:
            unit = await reader.next()
            if not unit.codec.is_video:
                if unit.pts > self._last_sound_pts:  # a new process is given what is cached once more
                    self._last_sound_pts = unit.pts
                    self.publish(unit)
                continue
            if skipping and not unit.key:
                self._slots.skipped += 1
                continue
            skipping = reader.queued > BEHIND_UNITS
            kind = _KINDS.get(unit.codec)
            if skipping or kind is None:
                self._slots.skipped += 1
                continue
            flags = (KEY if unit.key else 0) | (WANT_KEY if self._want_key else 0)
            self._want_key = False
            self._fed_mono = self._fed_mono or self._clock()
            pipe.write(FRAME.pack(kind, flags, unit.pts, unit.dts, len(unit.data)) + unit.data)
            await pipe.drain()

    async def _publish(self, pipe: asyncio.StreamReader) -> None:
        while True:
            _, flags, pts, dts, length = FRAME.unpack(await pipe.readexactly(FRAME.size))
            if length > MAX_FRAME_BYTES:
                raise ValueError("the transcoder's picture is too long")
            data = await pipe.readexactly(length)
            self._fed_mono = None
            self._last_picture_pts = pts
            self.publish(
                AccessUnit(Codec.H264, pts, dts, bool(flags & KEY), data, arrival_mono=self._clock())
            )


async def _both(*works: Coroutine[Any, Any, None]) -> None:
    """Run until one of them raises; the others are cancelled, and waited for."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def make(spec: InputSpec, stream: Stream, host: InputHost) -> UnitSource:
    """MediaError: not_found for a source that is not open here, unsupported for itself, transcoders_busy."""
    if not isinstance(spec, TranscodeInput):
        raise MediaError("bad_request", "no transcoding")
    source = host.stream_of(spec.source_stream_id)
    if source.video is not None and Codec(source.video.codec) not in _KINDS:
        raise MediaError("unsupported", f"no decoder for {source.video.codec}")
    host.transcoders.take()
    return TranscodeSource(spec, stream, host, source)
