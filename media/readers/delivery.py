"""How chunks travel to a player: as an endless file over HTTP, or as messages over a WebSocket. The same for all formats."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from aiohttp import WSCloseCode, web

from media.readers.fanout import STALLED_S, Fanout, Format, Head, Viewer
from media.stream import StreamEnded

LIVENESS_S = 5.0
"""How often a viewer of a silent stream is looked after."""

Choose = Callable[[Mapping[str, str]], Format]
"""The format for a request's query. MediaError: bad_request."""
Greet = Callable[[Head, Head | None], tuple[str | bytes, ...] | None]
"""The messages in front of a head's chunks for a socket that was sent another head (or none); None: close it."""


class FileOutput:
    """``GET`` of a file that ends with the stream."""

    def __init__(self, fanout: Fanout, kind: str, content_type: str, choose: Choose) -> None:
        self._fanout = fanout
        self._kind = kind
        self._content_type = content_type
        self._choose = choose

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": self._content_type,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        seat = await self._fanout.enter(request, self._kind, self._choose(request.query))
        try:
            await response.prepare(request)
            await self._send(request, response, seat.viewer)
        except TimeoutError:
            seat.viewer.end("stalled")
        except ConnectionError:
            seat.viewer.end("left")
        finally:
            await self._fanout.leave(seat)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, viewer: Viewer) -> None:
        sent: Head | None = None
        with contextlib.suppress(StreamEnded):
            while request.transport is not None and not request.transport.is_closing():
                chunks = await viewer.take(LIVENESS_S)
                if not chunks:
                    continue
                head = chunks[0].head.after(sent)
                if head is None:
                    return  # this file cannot change its tracks: the player comes again
                sent = chunks[0].head
                async with asyncio.timeout(STALLED_S):
                    await response.write(head + b"".join(chunk.data for chunk in chunks))
        if viewer.ended is not None:
            await response.write_eof()


def greet_with_bytes(head: Head, sent: Head | None) -> tuple[str | bytes, ...] | None:
    """A head is one binary message, what follows has to fit it."""
    data = head.after(sent)
    if data is None:
        return None
    return (data,) if data else ()


class SocketOutput:
    """A WebSocket whose messages are the head and the chunks. The player says nothing."""

    def __init__(self, fanout: Fanout, kind: str, choose: Choose, greet: Greet = greet_with_bytes) -> None:
        self._fanout = fanout
        self._kind = kind
        self._choose = choose
        self._greet = greet

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=20.0, compress=False, max_msg_size=4096)
        seat = await self._fanout.enter(request, self._kind, self._choose(request.query))
        sending: asyncio.Task[None] | None = None
        try:
            await socket.prepare(request)
            sending = asyncio.create_task(self._send(socket, seat.viewer))
            async for _ in socket:  # a player has nothing to say; its closing ends the loop
                pass
        finally:
            if sending is not None:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
            await self._fanout.leave(seat)
        return socket

    async def _send(self, socket: web.WebSocketResponse, viewer: Viewer) -> None:
        sent: Head | None = None
        code, reason = WSCloseCode.GOING_AWAY, b"stream ended"
        try:
            while True:
                chunks = await viewer.take()
                greeting = self._greet(chunks[0].head, sent)
                if greeting is None:
                    code, reason = WSCloseCode.SERVICE_RESTART, b"the tracks have changed"
                    break
                sent = chunks[0].head
                async with asyncio.timeout(STALLED_S):
                    for message in greeting:
                        if isinstance(message, str):
                            await socket.send_str(message)
                        else:
                            await socket.send_bytes(message)
                    await socket.send_bytes(b"".join(chunk.data for chunk in chunks))
        except StreamEnded:
            pass
        except TimeoutError:
            viewer.end("stalled")
            code, reason = WSCloseCode.TRY_AGAIN_LATER, b"too slow"
        except ConnectionError:
            return
        with contextlib.suppress(ConnectionError):
            await socket.close(code=code, message=reason)
