"""Takes the recording that a device hands over into a file: MP4 with the times of the recording, or the program stream raw.

The gateway orders a transfer for a stream (``POST /transfers``), asks how far it is, and closes it. The file is written
by a thread of its own with a bounded queue; a disk that cannot keep up breaks the transfer instead of losing pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from aiohttp import web

from media.errors import MediaError
from media.mp4_file import Mp4File, NothingRecorded
from media.readers.segmenter import Closed, Opened, Piece, Segment, Segmenter, Step, access_table
from media.runs import Run
from media.sources.gb import GbSource
from media.specs import ClipPart, TransferInfo, TransferSpec
from media.stream import Reader, Stream
from media.unit import TICKS_PER_SECOND, AccessUnit

log = logging.getLogger(__name__)

FILE_MODE = 0o640
QUEUE_BYTES = 64 * 1024 * 1024
EARLY_UNITS = 500
PACK = b"\x00\x00\x01\xba"
ONE_FILE_S = 10 * 86400.0
"""Longer than any transfer: files end only where the format changes."""


class TransferHost(Protocol):
    """The node's side."""

    def stream(self, stream_id: str) -> Stream: ...

    def source(self, stream_id: str) -> object: ...


@dataclass(slots=True, eq=False)
class _File:
    path: Path
    start: float
    out: BinaryIO | None = None
    written: int = 0
    end: float = 0.0
    groups: list[tuple[int, int]] = field(default_factory=list)


class Transfer:
    """One recording into files. ``close`` ends it and says what is there."""

    def __init__(self, spec: TransferSpec, stream: Stream, source: GbSource) -> None:
        self.spec = spec
        self.fault = ""
        self.pictures = 0
        self.media_s = 0.0
        self.last_mono: float | None = None
        self._source = source
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transfer")
        self._queued = 0
        self._files: list[_File] = []
        self._closed: TransferInfo | None = None
        self._segmenter = Segmenter(segment_s=ONE_FILE_S, wall_of=lambda moment: moment)
        self._stream = stream
        self._early: list[AccessUnit] | None = []
        """What comes before it is known whether there is sound: a file must know that from its first byte."""
        self._by_segment: dict[Segment, _File] = {}
        self._first_dts: int | None = None
        if spec.format == "ps":
            self._open_raw()
        self._reader: Reader = stream.attach("transfer", on_unit=self._unit)

    # --- on the loop -------------------------------------------------------------------------------------------

    def _unit(self, unit: AccessUnit) -> None:
        """Units in the order of the stream; what lies behind the range is left out."""
        if self._first_dts is None:
            if not unit.codec.is_video:
                return
            self._first_dts = unit.dts
        at_s = (unit.dts - self._first_dts) / TICKS_PER_SECOND
        if at_s >= self.spec.length_s - 0.001 or self.fault:
            return
        if unit.codec.is_video:
            self.pictures += 1
            self.media_s = max(self.media_s, at_s)
            self.last_mono = unit.arrival_mono
        if self.spec.format == "mp4":
            # The recording's clock stands in for the wall's: however fast it comes, it lies where it was recorded.
            moment = self.spec.start + at_s
            self._push(AccessUnit(unit.codec, unit.pts, unit.dts, unit.key, unit.data, unit.damaged, moment))

    def _push(self, unit: AccessUnit) -> None:
        if self._early is None:
            self._carry_out(self._segmenter.push(unit))
            return
        self._early.append(unit)
        if self._stream.ready or len(self._early) >= EARLY_UNITS:
            self._begin()

    def _begin(self) -> None:
        early, self._early = self._early or [], None
        if self._stream.audio is not None:
            self._segmenter.expect_audio(self._stream.audio)
        for unit in early:
            self._carry_out(self._segmenter.push(unit))

    def _carry_out(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Opened):
                number = len(self._files)
                file = _File(
                    Path(self.spec.directory) / f"{self.spec.transfer_id}-{number}.mp4", step.segment.start
                )
                self._files.append(file)
                self._by_segment[step.segment] = file
                self._do(len(step.segment.init), self._open_in_thread, file, step.segment.init)
            elif isinstance(step, Piece):
                file = self._by_segment[step.segment]
                file.end = step.end
                self._do(
                    len(step.data),
                    self._write_in_thread,
                    file,
                    step.data,
                    step.at_ticks if step.key else None,
                )
            elif isinstance(step, Closed):
                self._do(0, self._close_in_thread, self._by_segment[step.segment])

    def _open_raw(self) -> None:
        file = _File(Path(self.spec.directory) / f"{self.spec.transfer_id}.ps", self.spec.start)
        self._files.append(file)
        self._do(0, self._open_in_thread, file, b"")
        self._source.taps.append(self._run)

    def _run(self, run: Run) -> None:
        """The payload of packets as they came, from the first pack on, until the range is covered."""
        if self.fault or self.media_s >= self.spec.length_s - 0.001:
            return
        data = b"".join(_payloads(run))
        file = self._files[0]
        if not file.end:
            place = data.find(PACK)
            if place < 0:
                return
            data, file.end = data[place:], self.spec.start
        self._do(len(data), self._write_in_thread, file, data, None)

    def _do(self, size: int, work: Callable[..., None], *arguments: object) -> None:
        if self._queued + size > QUEUE_BYTES:
            self.fault = self.fault or "the disk is too slow"
            return
        self._queued += size
        done = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

        def finished(result: asyncio.Future[None]) -> None:
            self._queued -= size
            error = None if result.cancelled() else result.exception()
            if error is not None and not self.fault:
                self.fault = getattr(error, "strerror", None) or type(error).__name__
                log.warning("event=transfer_failed transfer_id=%s error=%s", self.spec.transfer_id, error)

        done.add_done_callback(finished)

    # --- in the thread -----------------------------------------------------------------------------------------

    @staticmethod
    def _open_in_thread(file: _File, head: bytes) -> None:
        number = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        file.out = os.fdopen(number, "wb", buffering=0)
        file.written = file.out.write(head) if head else 0

    @staticmethod
    def _write_in_thread(file: _File, data: bytes, group_ticks: int | None) -> None:
        if file.out is None:
            return
        if group_ticks is not None:
            file.groups.append((group_ticks, file.written))
        view = memoryview(data)
        while view:
            count = file.out.write(view)
            file.written += count
            view = view[count:]

    def _close_in_thread(self, file: _File) -> None:
        if file.out is None:
            return
        if self.spec.format == "mp4":
            file.written += file.out.write(access_table(file.groups))
        os.fsync(file.out.fileno())
        file.out.close()
        file.out = None

    # --- how far it is -----------------------------------------------------------------------------------------

    def info(self) -> TransferInfo:
        """What there is by now."""
        if self._closed is not None:
            return self._closed
        return TransferInfo(
            transfer_id=self.spec.transfer_id, pictures=self.pictures, media_s=self.media_s,
            bytes=sum(file.written for file in self._files), fault=self.fault,
        )  # fmt: skip

    async def close(self) -> TransferInfo:
        """Write what waits, close the files, and read them once to see that they are whole."""
        if self._closed is not None:
            return self._closed
        self._reader.detach()
        with contextlib.suppress(ValueError):
            self._source.taps.remove(self._run)
        if self.spec.format == "mp4":
            if self._early:
                self._begin()
            self._carry_out(self._segmenter.finish("stopped"))
        else:
            self._do(0, self._close_in_thread, self._files[0])
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, int)  # all that was queued is through
        await asyncio.sleep(0)
        parts = tuple(
            ClipPart(path=str(file.path), start=file.start, end=max(file.end, file.start), bytes=file.written)
            for file in self._files
            if file.written
        )
        duration_s, pictures = self.media_s, self.pictures
        if self.spec.format == "mp4" and parts:
            try:
                whole = await loop.run_in_executor(
                    self._thread, Mp4File, parts, parts[0].start, parts[-1].end + 1
                )
                duration_s, pictures = whole.duration_s, whole.pictures
            except (NothingRecorded, OSError) as error:
                self.fault = self.fault or f"the file cannot be read: {error or type(error).__name__}"
        self._thread.shutdown(wait=False)
        self._closed = self.info().model_copy(
            update={
                "parts": parts, "duration_s": duration_s, "pictures": pictures, "fault": self.fault,
                "bytes": sum(file.written for file in self._files), "closed": True,
            }
        )  # fmt: skip
        return self._closed


def _payloads(run: Run) -> list[bytes]:
    """Payload of each packet: behind the fixed header, its CSRC list and its extension (RFC 3550 5.1, 5.3.1)."""
    found = []
    view = run.view
    for start, size in zip(run.starts, run.sizes, strict=False):
        first = view[start]
        begin, end = start + 12 + 4 * (first & 0x0F), start + size
        if first & 0x10:
            begin += 4 + 4 * int.from_bytes(view[begin + 2 : begin + 4], "big")
        if first & 0x20:
            end -= view[end - 1]
        found.append(bytes(view[begin:end]))
    return found


class Transfers:
    """All transfers of one node. One that is over stays until it is forgotten."""

    def __init__(self, host: TransferHost) -> None:
        self._host = host
        self._transfers: dict[str, Transfer] = {}

    def open(self, spec: TransferSpec) -> None:
        """MediaError: bad_request (409 for an id in use, or no receiver), not_found."""
        if spec.transfer_id in self._transfers:
            raise MediaError("bad_request", f"transfer {spec.transfer_id} is there already", 409)
        source = self._host.source(spec.stream_id)
        if not isinstance(source, GbSource):
            raise MediaError("unsupported", f"stream {spec.stream_id} is no receiver")
        self._transfers[spec.transfer_id] = Transfer(spec, source.stream, source)

    def info(self, transfer_id: str) -> TransferInfo:
        return self._get(transfer_id).info()

    async def close_one(self, transfer_id: str) -> TransferInfo:
        transfer = self._get(transfer_id)
        info = await transfer.close()
        self._transfers.pop(transfer_id, None)
        return info

    async def close(self) -> None:
        """The node is stopping."""
        for transfer_id in tuple(self._transfers):
            await self.close_one(transfer_id)

    def _get(self, transfer_id: str) -> Transfer:
        found = self._transfers.get(transfer_id)
        if found is None:
            raise MediaError("not_found", f"no transfer {transfer_id}")
        return found


def add_control_routes(app: web.Application, transfers: Transfers) -> None:
    """Register ``/transfers``."""

    async def order(request: web.Request) -> web.Response:
        transfers.open(TransferSpec.model_validate_json(await request.read()))
        return web.Response(status=204)

    async def info(request: web.Request) -> web.Response:
        return web.json_response(text=transfers.info(request.match_info["id"]).model_dump_json())

    async def close(request: web.Request) -> web.Response:
        closed = await transfers.close_one(request.match_info["id"])
        return web.json_response(text=closed.model_dump_json())

    app.router.add_post("/transfers", order)
    app.router.add_get("/transfers/{id}", info)
    app.router.add_delete("/transfers/{id}", close)
