"""Fragmented MP4 for browsers, by HTTP and by WebSocket: one fragmenter per channel, a bounded queue per viewer.

``GET /live/{stream_id}.mp4`` is an endless chunked file; ``GET /live/{stream_id}/ws`` sends a text message with the
MIME type, then the initialisation segment and the fragments as binary messages, and starts over with a new text
message when codec or size change. Both want ``?ticket=``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections import deque
from dataclasses import dataclass

from aiohttp import WSCloseCode, web

from media import tickets
from media.errors import MediaError
from media.readers.fragmenter import Fragment, Fragmenter, Init
from media.readers.host import ReaderHost
from media.stream import Reader, Stream, StreamEnded
from media.unit import AccessUnit

log = logging.getLogger(__name__)

QUEUE_BYTES = 4 * 1024 * 1024
"""A viewer that is further behind than this (beyond its start) loses what waits, up to the next key frame."""
CACHE_BYTES = 16 * 1024 * 1024
STALLED_S = 30.0
"""A viewer that takes no byte for this long is closed."""
READY_TIMEOUT_S = 10.0
LIVENESS_S = 5.0


class Viewer:
    """One player's bounded queue of fragments."""

    def __init__(self, backlog: list[Fragment]) -> None:
        self.dropped = 0
        self.ended: str | None = None
        self._queue = deque(backlog)
        self._bytes = sum(len(fragment.data) for fragment in backlog)
        self._limit = QUEUE_BYTES + self._bytes
        self._waiting_for_key = not backlog
        self._something = asyncio.Event()
        if backlog:
            self._something.set()

    def offer(self, fragment: Fragment) -> int:
        """Queue a fragment; how many were dropped for it (or instead of it) is returned."""
        if self._waiting_for_key and not fragment.key:
            self.dropped += 1
            return 1
        self._waiting_for_key = False
        dropped = 0
        if self._bytes + len(fragment.data) > self._limit:
            dropped = len(self._queue)
            self._queue.clear()
            self._bytes = 0
            self._limit = QUEUE_BYTES
            if not fragment.key:
                self._waiting_for_key = True
                dropped += 1
        self.dropped += dropped
        if not self._waiting_for_key:
            self._queue.append(fragment)
            self._bytes += len(fragment.data)
            self._something.set()
        return dropped

    def end(self, cause: str) -> None:
        if self.ended is None:
            self.ended = cause
            self._something.set()

    async def take(self, timeout_s: float | None = None) -> list[Fragment]:
        """All that waits, of one initialisation segment; empty after ``timeout_s``. StreamEnded at the end."""
        if not self._queue:
            if self.ended is not None:
                raise StreamEnded(self.ended)
            self._something.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._something.wait()
            except TimeoutError:
                return []
            if not self._queue:
                raise StreamEnded(self.ended or "closed")
        taken = [self._queue.popleft()]
        while self._queue and self._queue[0].init is taken[0].init:
            taken.append(self._queue.popleft())
        self._bytes -= sum(len(fragment.data) for fragment in taken)
        return taken


class Channel:
    """One stream's fragmenter and its viewers; it runs only while there are any."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.viewers: set[Viewer] = set()
        self._cache: list[Fragment] = []
        self._cache_bytes = 0
        self._fragmenter = Fragmenter()
        self._reader: Reader = stream.attach("fmp4")
        if stream.audio is not None:
            self._fragmenter.expect_audio(stream.audio)
        self._task = asyncio.create_task(self._pump(), name=f"fmp4 {stream.stream_id}")

    def add(self) -> Viewer:
        viewer = Viewer(self._cache)
        self.viewers.add(viewer)
        return viewer

    async def close(self, cause: str) -> None:
        """Detach from the stream and end all viewers. Idempotent."""
        self._reader.detach()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._end(cause)

    def _end(self, cause: str) -> None:
        for viewer in self.viewers:
            viewer.end(cause)

    async def _pump(self) -> None:
        try:
            while True:
                self._publish(await self._reader.next())
        except StreamEnded as ended:
            self._end(ended.cause)
        finally:
            self._end("closed")

    def _publish(self, unit: AccessUnit) -> None:
        for fragment in self._fragmenter.feed(unit):
            self._remember(fragment)
            for viewer in self.viewers:
                self.stream.reader_drops += viewer.offer(fragment)

    def _remember(self, fragment: Fragment) -> None:
        if fragment.key:
            self._cache, self._cache_bytes = [fragment], len(fragment.data)
        elif self._cache:
            self._cache.append(fragment)
            self._cache_bytes += len(fragment.data)
            if self._cache_bytes > CACHE_BYTES:
                self._cache, self._cache_bytes = [], 0


@dataclass(frozen=True, slots=True)
class _Seat:
    viewer_id: str
    stream: Stream
    channel: Channel
    viewer: Viewer


class LiveRoutes:
    """The public handlers of one node."""

    def __init__(self, host: ReaderHost) -> None:
        self._host = host
        self._channels: dict[str, Channel] = {}

    async def _enter(self, request: web.Request, kind: str) -> _Seat:
        """Admit one viewer (ticket, stream, readiness). MediaError when it may or can not watch."""
        stream = await self._admit(request)
        channel = self._channels.get(stream.stream_id)
        if channel is None or channel.stream is not stream:
            try:
                channel = self._channels[stream.stream_id] = Channel(stream)
            except StreamEnded as error:
                raise MediaError("not_found", "the stream has ended") from error
        seat = _Seat(f"{kind}-{uuid.uuid4().hex[:16]}", stream, channel, channel.add())
        self._host.viewer_opened(stream, seat.viewer_id, kind)
        return seat

    async def _leave(self, seat: _Seat) -> None:
        """Take one viewer out; the last one stops the channel."""
        channel, stream = seat.channel, seat.stream
        channel.viewers.discard(seat.viewer)
        self._host.viewer_closed(stream, seat.viewer_id, seat.viewer.ended or "left")
        if not channel.viewers:
            if self._channels.get(stream.stream_id) is channel:
                del self._channels[stream.stream_id]
            await channel.close("left")

    async def _admit(self, request: web.Request) -> Stream:
        stream_id = request.match_info["stream_id"]
        ticket = request.query.get("ticket", "")
        if not tickets.verify(self._host.config.ticket_secret, stream_id, ticket, time.time()):
            raise MediaError("forbidden", "the ticket is missing, wrong or has expired")
        stream = self._host.stream(stream_id)
        try:
            await stream.wait_ready(READY_TIMEOUT_S)
        except (TimeoutError, StreamEnded) as error:
            raise MediaError("not_ready", "no picture has come yet") from error
        if stream.video is None or stream.video.codec not in ("h264", "h265"):
            raise MediaError("unsupported", "the stream has no picture that fits into MP4")
        return stream

    async def http(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "video/mp4", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        seat = await self._enter(request, "fmp4")
        try:
            await response.prepare(request)
            await self._send_file(request, response, seat.viewer)
        except TimeoutError:
            seat.viewer.end("stalled")
        except ConnectionError:
            seat.viewer.end("left")
        finally:
            await self._leave(seat)
        return response

    async def _send_file(self, request: web.Request, response: web.StreamResponse, viewer: Viewer) -> None:
        sent: Init | None = None
        with contextlib.suppress(StreamEnded):
            while request.transport is not None and not request.transport.is_closing():
                fragments = await viewer.take(LIVENESS_S)
                if not fragments:
                    continue
                head = b""
                if sent is None:
                    sent, head = fragments[0].init, fragments[0].init.data
                elif fragments[0].init is not sent:
                    return  # a file cannot change its tracks: the player comes again
                async with asyncio.timeout(STALLED_S):
                    await response.write(head + b"".join(fragment.data for fragment in fragments))
        if viewer.ended is not None:
            await response.write_eof()

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=20.0, compress=False, max_msg_size=4096)
        seat = await self._enter(request, "ws")
        sending: asyncio.Task[None] | None = None
        try:
            await socket.prepare(request)
            sending = asyncio.create_task(self._send_messages(socket, seat.viewer))
            async for _ in socket:  # a player has nothing to say; its closing ends the loop
                pass
        finally:
            if sending is not None:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
            await self._leave(seat)
        return socket

    async def _send_messages(self, socket: web.WebSocketResponse, viewer: Viewer) -> None:
        sent: Init | None = None
        code, reason = WSCloseCode.GOING_AWAY, b"stream ended"
        try:
            while True:
                fragments = await viewer.take()
                async with asyncio.timeout(STALLED_S):
                    init = fragments[0].init
                    if init is not sent:
                        sent = init
                        about = {"mime": init.mime, "video": init.video, "audio": init.audio}
                        await socket.send_str(json.dumps(about))
                        await socket.send_bytes(init.data)
                    await socket.send_bytes(b"".join(fragment.data for fragment in fragments))
        except StreamEnded:
            pass
        except TimeoutError:
            viewer.end("stalled")
            code, reason = WSCloseCode.TRY_AGAIN_LATER, b"too slow"
        except ConnectionError:
            return
        with contextlib.suppress(ConnectionError):
            await socket.close(code=code, message=reason)

    async def close(self, _: web.Application) -> None:
        """End all viewers (the node is stopping)."""
        for channel in list(self._channels.values()):
            await channel.close("node_stopping")


def add_viewer_routes(app: web.Application, node: ReaderHost) -> None:
    """Register ``/live/{stream_id}.mp4`` and ``/live/{stream_id}/ws``."""
    routes = LiveRoutes(node)
    app.router.add_get("/live/{stream_id:[0-9A-Za-z_-]{1,64}}.mp4", routes.http)
    app.router.add_get("/live/{stream_id:[0-9A-Za-z_-]{1,64}}/ws", routes.websocket)
    app.on_shutdown.append(routes.close)
