"""Records streams to disk: one recorder per recording, a reader like any other. Files: media/segments.py.

The recorder cuts units into segments on the event loop (media/readers/segmenter.py) and hands bytes to the disks'
threads (media/readers/segment_disks.py). In standby it keeps the last seconds in memory until it is triggered.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from media import segments
from media.errors import MediaError
from media.readers.segment_disks import Disks, Target
from media.readers.segmenter import Closed, Opened, Piece, Segment, Segmenter, Step
from media.specs import (
    DiskList,
    NodeEvent,
    RecordingEnded,
    RecordingFault,
    RecordingSpec,
    RecordingStats,
    RecordingTrigger,
    SegmentClosed,
    SegmentInfo,
    SegmentOpened,
)
from media.stream import Reader, Stream, StreamEnded
from media.unit import AccessUnit

log = logging.getLogger(__name__)

FAULT_EVERY_S = 10.0
CATCH_UP_UNITS = 50
"""Units of the past that are written in one turn of the loop after a trigger."""
CLOSE_WAIT_S = 3.0


class RecorderHost(Protocol):
    """The node's side that recorders see."""

    def stream(self, stream_id: str) -> Stream: ...

    def emit(self, event: NodeEvent) -> None: ...


def wall_of(mono: float) -> float:
    """Unix time of a moment of the monotonic clock (0: now), by the host's present idea of the time."""
    now = time.time()
    return now if mono == 0.0 else now - (time.monotonic() - mono)


class Ring:
    """The last seconds of a stream, by whole groups of pictures, within a bound of bytes."""

    def __init__(self, seconds: float, limit_bytes: int) -> None:
        self.cut = 0
        """Groups that were let go early because of the bound."""
        self._seconds = seconds
        self._limit = limit_bytes
        self._units: deque[AccessUnit] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._units)

    @property
    def bytes(self) -> int:
        return self._bytes

    def add(self, unit: AccessUnit) -> None:
        self._units.append(unit)
        self._bytes += len(unit.data)
        if unit.key and unit.codec.is_video:
            self._trim(unit)
        while self._bytes > self._limit and self._units:
            self.cut += 1
            self._drop_group()

    def _trim(self, newest: AccessUnit) -> None:
        """Leave the group that holds the moment ``seconds`` ago, and what follows."""
        horizon = newest.dts - round(self._seconds * 90_000)
        while (second := self._second_key()) is not None and second <= horizon:
            self._drop_group()

    def _second_key(self) -> int | None:
        keys = (unit.dts for unit in self._units if unit.key and unit.codec.is_video)
        next(keys, None)
        return next(keys, None)

    def _drop_group(self) -> None:
        """Everything up to the second key frame."""
        dropped = 0
        while self._units:
            unit = self._units[0]
            if dropped and unit.key and unit.codec.is_video:
                return
            self._bytes -= len(self._units.popleft().data)
            dropped += 1

    def take(self, count: int) -> list[AccessUnit]:
        """The oldest ``count`` units, taken out."""
        taken = [self._units.popleft() for _ in range(min(count, len(self._units)))]
        self._bytes -= sum(len(unit.data) for unit in taken)
        return taken


class Recorder:
    """One recording of one stream. ``close`` ends it; ``finished`` is set when its last file is safe."""

    def __init__(self, spec: RecordingSpec, stream: Stream, disks: Disks, emit: Callable[[NodeEvent], None]):
        self.spec = spec
        self.segments = 0
        self._dropped = 0
        self.finished = asyncio.Event()
        self._stream = stream
        self._disks = disks
        self._emit = emit
        self._segmenter = self._new_segmenter()
        self._files: dict[Segment, tuple[Target, SegmentInfo]] = {}
        self._closing: set[Target] = set()
        self._faults: dict[str, float] = {}
        self._ring = Ring(spec.pre_event_s, spec.pre_event_bytes)
        self._until: float | None = None if spec.standby else float("inf")
        self._catching_up: asyncio.Task[None] | None = None
        self._ended = False
        self._reader: Reader = stream.attach("recorder", on_unit=self._unit)
        self._watching = asyncio.create_task(self._watch(), name=f"recorder {spec.recording_id}")

    def _new_segmenter(self) -> Segmenter:
        segmenter = Segmenter(segment_s=self.spec.segment_s, wall_of=wall_of)
        if self._stream.audio is not None:
            segmenter.expect_audio(self._stream.audio)
        return segmenter

    @property
    def drops(self) -> int:
        """Pictures that could not be written."""
        return self._dropped + self._segmenter.lost

    @property
    def writing(self) -> bool:
        return self._until is not None and not self._ended

    def trigger(self, seconds: float) -> None:
        """Write from the start of what is kept until ``seconds`` from now. A continuous recording goes on anyway."""
        until = time.monotonic() + seconds
        if self._until is not None:
            self._until = max(self._until, until)
            return
        self._until = until
        if self._ring.cut:
            self._fault("pre_event_cut", f"only {self._ring.bytes} bytes fit", "")
            self._ring.cut = 0
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())

    def close(self, cause: str = "stopped") -> None:
        """Write what waits and close the files. Idempotent; wait for ``finished`` to have them safe."""
        if self._ended:
            return
        self._ended = True
        self._reader.detach()
        if self._catching_up is not None:
            self._catching_up.cancel()
        if self._until is not None:
            for unit in self._ring.take(len(self._ring)):
                self._carry_out(self._segmenter.push(unit))
        self._carry_out(self._segmenter.finish(cause))
        self._check_finished()

    async def release(self) -> None:
        """After :meth:`close`: end the task."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        """Hears the end of the stream; ends triggered writing in time."""
        try:
            await self._reader.next()
        except StreamEnded as ended:
            if not self._ended:
                self.close("stream_ended")
                self._emit(
                    RecordingEnded(
                        stream_id=self.spec.stream_id, recording_id=self.spec.recording_id, cause=ended.cause
                    )
                )

    # --- units -------------------------------------------------------------------------------------------------

    def _unit(self, unit: AccessUnit) -> None:
        catching_up = self._catching_up is not None and not self._catching_up.done()
        if self._until is None or catching_up:
            self._ring.add(unit)
            return
        if self.spec.standby and time.monotonic() > self._until and unit.key and unit.codec.is_video:
            self._carry_out(self._segmenter.finish("stopped"))
            self._dropped += self._segmenter.lost
            self._segmenter = self._new_segmenter()  # after a long rest its clocks would be stale
            self._until = None
            self._ring.add(unit)
            return
        self._carry_out(self._segmenter.push(unit))

    async def _catch_up(self) -> None:
        """Write the past in slices, so that nothing else on the loop waits long."""
        while len(self._ring):
            for unit in self._ring.take(CATCH_UP_UNITS):
                self._carry_out(self._segmenter.push(unit))
            await asyncio.sleep(0)

    # --- steps -------------------------------------------------------------------------------------------------

    def _carry_out(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Opened):
                self._open(step.segment)
            elif isinstance(step, Piece):
                self._write(step)
            else:
                self._close(step)

    def _open(self, segment: Segment) -> None:
        disk = self._disks.place()
        if disk is None:
            self._refuse(segment, "no_disk", "no disk has room", "")
            return
        spec = self.spec
        segment_id = secrets.token_hex(8)
        path = f"{segments.folder(segment.start, spec.device_id, spec.channel_id)}/"
        path += segments.file_name(segment.start, segment_id, part=True)
        info = SegmentInfo(
            segment_id=segment_id, recording_id=spec.recording_id, device_id=spec.device_id,
            channel_id=spec.channel_id, disk_id=disk.spec.disk_id, path=path, kind=spec.kind,
            storage_class=spec.storage_class, start=segment.start, end=segment.start,
            video_codec=segment.video.codec.value, audio_codec="aac" if segment.audio else "",
            width=segment.video.info.width, height=segment.video.info.height,
        )  # fmt: skip
        target = Target(
            disk, path,
            on_failed=lambda target, error: self._failed(segment, error),
            on_closed=lambda target, final: self._closed(segment, target, final),
        )  # fmt: skip
        self._files[segment] = target, info
        disk.open(target, segment.init + segments.about_box(info))
        self.segments += 1
        self._emit(SegmentOpened(stream_id=spec.stream_id, segment=info))

    def _write(self, piece: Piece) -> None:
        entry = self._files.get(piece.segment)
        if entry is None:
            self._dropped += piece.pictures
            return
        target, info = entry
        if not target.disk.write(target, piece.data, piece.at_ticks if piece.key else None):
            self._dropped += piece.pictures
            self._too_slow(piece.segment)
            return
        changed = {"end": piece.end, "frames": piece.frames, "bytes": info.bytes + len(piece.data)}
        self._files[piece.segment] = target, info.model_copy(update=changed)

    def _close(self, step: Closed) -> None:
        entry = self._files.get(step.segment)
        if entry is None or entry[0] in self._closing:
            return
        target, info = entry
        self._files[step.segment] = target, info.model_copy(update={"cause": step.cause})
        self._closing.add(target)
        target.disk.close_file(target)

    # --- what disks report, and trouble --------------------------------------------------------------------------

    def _closed(self, segment: Segment, target: Target, final: str) -> None:
        entry = self._files.pop(segment, None)
        if entry is None:
            return
        info = entry[1].model_copy(update={"path": final, "bytes": target.written, "complete": True})
        self._emit(SegmentClosed(stream_id=self.spec.stream_id, segment=info))
        self._closing.discard(target)
        self._check_finished()

    def _failed(self, segment: Segment, error: OSError) -> None:
        entry = self._files.get(segment)
        if entry is None:
            return
        entry[0].disk.shun()
        self._give_up(segment, "write_failed", error.strerror or type(error).__name__)

    def _too_slow(self, segment: Segment) -> None:
        """The queue is full: this file ends with what was taken, another begins at the next key frame."""
        self._segmenter.abandon(segment)
        self._close(Closed(segment, "queue_full"))
        self._fault("queue_full", "the disk is too slow", self._files[segment][1].disk_id)

    def _give_up(self, segment: Segment, kind: str, detail: str) -> None:
        """This file goes no further; the recording goes on in another from the next key frame on."""
        target, info = self._files.pop(segment)
        if target not in self._closing:
            target.disk.close_file(target)
        self._closing.discard(target)
        self._segmenter.abandon(segment)
        self._stream.request_key_frame()
        self._fault(kind, detail, info.disk_id)
        info = info.model_copy(update={"cause": "write_failed"})
        self._emit(SegmentClosed(stream_id=self.spec.stream_id, segment=info))
        self._check_finished()

    def _refuse(self, segment: Segment, kind: str, detail: str, disk_id: str) -> None:
        """No file for this segment: the next key frame tries again."""
        self._segmenter.abandon(segment)
        self._fault(kind, detail, disk_id)

    def _fault(self, kind: str, detail: str, disk_id: str) -> None:
        now = time.monotonic()
        if now - self._faults.get(kind, -FAULT_EVERY_S) < FAULT_EVERY_S:
            return
        self._faults[kind] = now
        log.warning(
            "event=recording_fault recording_id=%s channel_id=%s kind=%s disk_id=%s detail=%s",
            *(self.spec.recording_id, self.spec.channel_id, kind, disk_id, detail),
        )
        self._emit(
            RecordingFault(
                stream_id=self.spec.stream_id, recording_id=self.spec.recording_id, kind=kind,
                disk_id=disk_id, detail=detail,
            )
        )  # fmt: skip

    def _check_finished(self) -> None:
        if self._ended and not self._files:
            self.finished.set()


class Recordings:
    """All recordings of one node and their disks."""

    def __init__(self, host: RecorderHost, *, queue_bytes: int) -> None:
        self._host = host
        self._disks = Disks(queue_bytes=queue_bytes)
        self._recorders: dict[str, Recorder] = {}
        self._segments = self._drops = 0

    async def set_disks(self, disks: DiskList) -> None:
        await self._disks.set(disks.disks)

    def open(self, spec: RecordingSpec) -> None:
        """Begin to record. MediaError: not_found, bad_request (409 for an id in use), not_ready, unsupported."""
        if spec.recording_id in self._recorders:
            raise MediaError("bad_request", f"recording {spec.recording_id} runs already", 409)
        stream = self._host.stream(spec.stream_id)
        if stream.video is not None and stream.video.codec not in ("h264", "h265"):
            raise MediaError("unsupported", f"{stream.video.codec} cannot be recorded")
        try:
            self._recorders[spec.recording_id] = Recorder(spec, stream, self._disks, self._emit)
        except StreamEnded as error:
            raise MediaError("not_found", "the stream has ended") from error

    def trigger(self, recording_id: str, seconds: float) -> None:
        self._get(recording_id).trigger(seconds)

    def ids(self) -> list[str]:
        """The recordings that run."""
        return list(self._recorders)

    async def close_one(self, recording_id: str) -> None:
        """End a recording; returns when its files are safe, or after some seconds."""
        recorder = self._recorders.get(recording_id)
        if recorder is not None:
            recorder.close()
            await self._settle(recorder)

    def stats(self) -> RecordingStats:
        running = self._recorders.values()
        return RecordingStats(
            recordings=len(self._recorders),
            writing=sum(recorder.writing for recorder in running),
            segments=self._segments + sum(recorder.segments for recorder in running),
            bytes=self._disks.bytes_written,
            queued_bytes=self._disks.queued_bytes,
            queue_drops=self._drops + sum(recorder.drops for recorder in running),
            write_errors=self._disks.write_errors,
        )

    async def close(self) -> None:
        """End everything (the node is stopping)."""
        recorders = list(self._recorders.values())
        for recorder in recorders:
            recorder.close()
        await asyncio.gather(*(self._settle(recorder) for recorder in recorders))
        await self._disks.close()

    async def _settle(self, recorder: Recorder) -> None:
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await recorder.finished.wait()
        except TimeoutError:
            log.warning("event=recording_unfinished recording_id=%s", recorder.spec.recording_id)
        await recorder.release()
        self._forget(recorder)

    def _forget(self, recorder: Recorder) -> None:
        if self._recorders.get(recorder.spec.recording_id) is recorder:
            del self._recorders[recorder.spec.recording_id]
            self._segments += recorder.segments
            self._drops += recorder.drops

    def _get(self, recording_id: str) -> Recorder:
        recorder = self._recorders.get(recording_id)
        if recorder is None:
            raise MediaError("not_found", f"no recording {recording_id}")
        return recorder

    def _emit(self, event: NodeEvent) -> None:
        self._host.emit(event)
        if isinstance(event, RecordingEnded):
            recorder = self._recorders.get(event.recording_id)
            if recorder is not None:
                self._forget(recorder)


class _Routes:
    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings

    async def set_disks(self, request: web.Request) -> web.Response:
        await self._recordings.set_disks(DiskList.model_validate_json(await request.read()))
        return web.Response(status=204)

    async def open(self, request: web.Request) -> web.Response:
        self._recordings.open(RecordingSpec.model_validate_json(await request.read()))
        return web.Response(status=204)

    async def ids(self, request: web.Request) -> web.Response:
        return web.json_response(self._recordings.ids())

    async def trigger(self, request: web.Request) -> web.Response:
        trigger = RecordingTrigger.model_validate_json(await request.read())
        self._recordings.trigger(request.match_info["id"], trigger.seconds)
        return web.Response(status=204)

    async def close(self, request: web.Request) -> web.Response:
        await self._recordings.close_one(request.match_info["id"])
        return web.Response(status=204)


def add_control_routes(app: web.Application, recordings: Recordings) -> None:
    """Register ``/disks`` and ``/recordings``."""
    routes = _Routes(recordings)
    app.router.add_put("/disks", routes.set_disks)
    app.router.add_get("/recordings", routes.ids)
    app.router.add_post("/recordings", routes.open)
    app.router.add_post("/recordings/{id}/trigger", routes.trigger)
    app.router.add_delete("/recordings/{id}", routes.close)
