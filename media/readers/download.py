"""Downloads of recordings at a node: one MP4 file, or the raw program stream, sent as fast as the client takes it.

The gateway orders a download (``POST /downloads``) and sends the browser to ``GET /download/{id}?ticket=``. Files are
planned and read in a thread of each download; a slow client holds its own thread and nothing else. A file that went
away meanwhile breaks the connection, so that nobody takes half a file for a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aiohttp import web

from media import tickets
from media.clip import Clip
from media.errors import MediaError
from media.mp4_file import BLOCK_BYTES, Mp4File, NothingRecorded
from media.ps_mux import PsMuxer
from media.specs import DownloadEnded, DownloadInfo, DownloadSpec, NodeConfig
from media.unit import AccessUnit, Codec

log = logging.getLogger(__name__)

KEPT_S = 300.0
"""An order that nobody fetches is forgotten after this time."""
STALLED_S = 60.0
"""A client that takes no byte for this long is given up."""
TYPES = {"mp4": "video/mp4", "ps": "video/mp2p", "raw": "video/mp2p"}


@dataclass(slots=True, eq=False)
class _Order:
    spec: DownloadSpec
    file: Mp4File | None
    """None: a program stream, made while it is sent."""
    thread: ThreadPoolExecutor
    until_mono: float
    sending: int = 0


class Downloads:
    """All downloads of one node; at most ``config.downloads`` at the same time, those not fetched yet included."""

    def __init__(
        self, config: NodeConfig, emit: Callable[[DownloadEnded], None] = lambda event: None
    ) -> None:
        self._config = config
        self._emit = emit
        self._orders: dict[str, _Order] = {}
        self._planning = 0
        self.bytes = 0

    async def order(self, spec: DownloadSpec) -> DownloadInfo:
        """Plan a download. MediaError: busy (too many), not_found (nothing recorded), bad_request (id in use)."""
        self._sweep()
        if spec.download_id in self._orders:
            raise MediaError("bad_request", f"download {spec.download_id} is there already", 409)
        if len(self._orders) + self._planning >= self._config.downloads:
            raise MediaError("busy", f"{self._config.downloads} downloads are under way at this node", 503)
        self._planning += 1
        thread = ThreadPoolExecutor(1, thread_name_prefix="download")
        try:
            file = await asyncio.get_running_loop().run_in_executor(thread, _planned, spec)
        except BaseException as error:
            thread.shutdown(wait=False)
            if isinstance(error, NothingRecorded):
                raise MediaError("not_found", "nothing is recorded in this range") from error
            if isinstance(error, OSError):
                raise MediaError("unavailable", f"the recordings cannot be read: {error}") from error
            raise
        finally:
            self._planning -= 1
        self._orders[spec.download_id] = _Order(spec, file, thread, time.monotonic() + KEPT_S)
        return DownloadInfo(download_id=spec.download_id, size=None if file is None else file.size)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """GET of a browser. The order is used up when it was sent once to its end."""
        download_id = request.match_info["download_id"]
        if not tickets.verify(
            self._config.ticket_secret, download_id, request.query.get("ticket", ""), time.time()
        ):
            raise MediaError("forbidden", "the ticket is missing, wrong or has expired")
        self._sweep()
        order = self._orders.get(download_id)
        if order is None or order.sending:
            raise MediaError("not_found", "this download is over, or under way already")
        response = web.StreamResponse(headers=_headers(order))
        if order.file is not None:
            response.content_length = order.file.size
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        order.sending += 1
        try:
            sent = await self._copy(order, response)
            await response.write_eof()
        except (OSError, TimeoutError) as error:  # ConnectionError: the client left
            log.info("event=download_broken download_id=%s error=%s", download_id, error or "stalled")
            if request.transport is not None:
                request.transport.abort()
        else:
            log.info("event=download_sent download_id=%s bytes=%d", download_id, sent)
        finally:
            order.sending -= 1
            self._forget(download_id)
        return response

    async def _copy(self, order: _Order, response: web.StreamResponse) -> int:
        loop, sent = asyncio.get_running_loop(), 0
        blocks = _blocks(order)
        while (block := await loop.run_in_executor(order.thread, next, blocks, None)) is not None:
            async with asyncio.timeout(STALLED_S):
                await response.write(block)
            sent += len(block)
            self.bytes += len(block)
        return sent

    def _sweep(self) -> None:
        now = time.monotonic()
        for download_id, order in tuple(self._orders.items()):
            if not order.sending and now > order.until_mono:
                self._forget(download_id)

    def _forget(self, download_id: str) -> None:
        order = self._orders.pop(download_id, None)
        if order is not None:
            order.thread.shutdown(wait=False, cancel_futures=True)
            self._emit(DownloadEnded(download_id=download_id))

    async def close(self) -> None:
        """Forget all orders; what is being sent ends with its connection."""
        for download_id in tuple(self._orders):
            self._forget(download_id)


def _planned(spec: DownloadSpec) -> Mp4File | None:
    """In the thread."""
    if spec.format == "mp4":
        return Mp4File(spec.parts, spec.start, spec.end)
    if spec.format == "raw":
        if not spec.parts or not os.path.getsize(spec.parts[0].path):
            raise NothingRecorded
        return None
    clip = Clip(spec.parts, spec.start, spec.end)
    with contextlib.closing(clip):
        if next(clip.forward(spec.start), None) is None:
            raise NothingRecorded
    return None


def _blocks(order: _Order) -> Iterator[bytes]:
    """In the thread: the whole answer."""
    if order.file is not None:
        yield order.file.head
        yield from order.file.blocks()
        return
    spec = order.spec
    if spec.format == "raw":
        with open(spec.parts[0].path, "rb") as raw:
            while block := raw.read(BLOCK_BYTES):
                yield block
        return
    clip = Clip(spec.parts, spec.start, spec.end)
    with contextlib.closing(clip):
        yield from _program_stream(clip, spec.start)


def _program_stream(clip: Clip, start: float) -> Iterator[bytes]:
    """Blocks of about 256 KB; the map of each key frame names the picture's codec and AAC."""
    muxer: PsMuxer | None = None
    block = bytearray()
    for found in clip.forward(start):
        unit: AccessUnit = found.unit
        if muxer is None or (unit.codec.is_video and muxer.video_codec is not unit.codec):
            muxer = PsMuxer(unit.codec, Codec.AAC)
        block += muxer.mux(unit)
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _headers(order: _Order) -> dict[str, str]:
    return {
        "Content-Type": TYPES[order.spec.format],
        "Content-Disposition": f'attachment; filename="{order.spec.file_name}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }


def add_control_routes(app: web.Application, downloads: Downloads) -> None:
    """Register ``POST /downloads``."""

    async def order(request: web.Request) -> web.Response:
        spec = DownloadSpec.model_validate_json(await request.read())
        return web.json_response(text=(await downloads.order(spec)).model_dump_json(), status=201)

    app.router.add_post("/downloads", order)


def add_viewer_routes(app: web.Application, downloads: Downloads) -> None:
    """Register ``GET /download/{download_id}``."""
    app.router.add_get("/download/{download_id:[0-9A-Za-z_-]{1,64}}", downloads.send)
