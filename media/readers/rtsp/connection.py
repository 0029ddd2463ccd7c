"""One client's RTSP connection: requests answered in their order, one session at a time, all given back at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, cast

from media.errors import MediaError
from media.readers.rtsp.dialog import Dialog, Refusal, Reply
from media.readers.rtsp.messages import Fault, Interleaved, Request, RequestReader, response
from media.readers.rtsp.states import State

if TYPE_CHECKING:
    from media.readers.rtsp.channel import Channel
    from media.readers.rtsp.server import RtspServer

log = logging.getLogger(__name__)

PIPELINED_LIMIT = 32
"""Requests that wait for their turn; with more, the connection is not read."""
WIRE_BYTES = 512 * 1024
"""As much may wait in the connection's buffer before units are held back."""
IDLE_S = 30.0
"""A connection without a session is closed after this silence."""
STALLED_S = 30.0
"""A player that takes no byte for this long is gone."""
FLUSH_S = 5.0
SERVER = "gb28181-media"


class Connection(asyncio.Protocol):
    """Made by the server's listener. `end` or the loss of the connection releases everything."""

    def __init__(self, server: RtspServer) -> None:
        self.blocked = False
        self.dialog: Dialog | None = None
        """None until the connection stands."""
        self.heard_mono = server.clock()
        self._server = server
        self._host = ""
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader()
        self._waiting: deque[Request | Fault] = deque()
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._busy = False
        self._taken = (-1, self.heard_mono)
        self._written = 0
        self._ending_mono: float | None = None

    # --- the connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._host = _address(transport, "peername")
        self._transport.set_write_buffer_limits(high=WIRE_BYTES)
        if len(self._server.connections) >= self._server.connections_limit:
            log.warning("event=rtsp_full source=%s", self._host)
            self._transport.abort()
            return
        self._server.connections.add(self)
        local = _address(transport, "sockname")
        self.dialog = Dialog(self._server, self, host=self._host, local=local, heard=self._alive)
        task = self._serve(self.dialog)
        self._task = asyncio.get_running_loop().create_task(task, name=f"rtsp {self._host}")

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        if self.dialog is not None:
            self.dialog.release("left")
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._alive()
        for item in self._reader.feed(data):
            if not isinstance(item, Interleaved):  # receiver reports are heard, that is all
                self._waiting.append(item)
        if self._waiting:
            self._something.set()
        if len(self._waiting) > PIPELINED_LIMIT and self._transport is not None:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        if self.dialog is not None and self.dialog.session is not None:
            self.dialog.session.feed.wake()

    def _alive(self) -> None:
        self.heard_mono = self._server.clock()

    def write(self, data: bytes | bytearray) -> None:
        """Packets or a response; never waits. Data must not change afterwards."""
        if self._transport is not None and not self._transport.is_closing():
            self._written += len(data)
            self._transport.write(data)

    def end(self, cause: str) -> None:
        """Close after what is written; the stream or the node has ended, or the client is too silent. Idempotent."""
        if self._ending_mono is None:
            self._ending_mono = self._server.clock()
            if self.dialog is not None:
                self.dialog.release(cause)
            if self._transport is not None:
                self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.end("aborted")
        if self._transport is not None:
            self._transport.abort()

    async def wait(self) -> None:
        """Until the connection's task has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def watches(self, channel: Channel) -> bool:
        """Whether this client has a seat at ``channel``."""
        seat = self.dialog.seat if self.dialog is not None else None
        return seat is not None and seat.channel is channel

    # --- watched by the server -----------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Once a second: reports, time-outs."""
        if self._ending_mono is not None:
            if now - self._ending_mono > FLUSH_S:
                self.abort()
            return
        session = self.dialog.session if self.dialog is not None else None
        silent_s = now - self.heard_mono
        if self.dialog is None or session is None:
            if silent_s > self._server.idle_s and not self._busy:
                self.end("timeout")
            return
        if session.state is State.PLAYING:
            self.dialog.report()
            if session.feed.interleaved_only:
                if self._stalled(now):
                    self.end("stalled")
                    self.abort()
                return
        if silent_s > self._server.session_timeout_s:
            self.end("timeout")

    def _stalled(self, now: float) -> bool:
        """Whether bytes wait and none was taken for long."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        taken = self._written - waiting
        if not waiting or taken != self._taken[0]:
            self._taken = taken, now
        return now - self._taken[1] > STALLED_S

    # --- requests ------------------------------------------------------------------------------------------------

    async def _serve(self, dialog: Dialog) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                while not self._waiting:
                    self._busy = False
                    self._something.clear()
                    await self._something.wait()
                self._busy = True
                item = self._waiting.popleft()
                if self._transport is not None and len(self._waiting) <= PIPELINED_LIMIT // 2:
                    self._transport.resume_reading()
                if isinstance(item, Fault):
                    self.write(response(item.status, None, [("Server", SERVER)]))
                    self.end("bad_request")
                    return
                await self._answer(dialog, item)

    async def _answer(self, dialog: Dialog, request: Request) -> None:
        try:
            reply = await dialog.reply(request)
        except Refusal as refusal:
            reply = Reply(refusal.status, refusal.headers)
        except MediaError as error:
            reply = Reply(error.status)
        log.debug(
            "event=rtsp_request source=%s method=%s status=%d", self._host, request.method, reply.status
        )
        self.write(response(reply.status, request.cseq, [*reply.headers, ("Server", SERVER)], reply.body))
        if reply.then is not None:
            reply.then()


def _address(transport: asyncio.BaseTransport, which: str) -> str:
    found = transport.get_extra_info(which)
    return str(found[0]) if found else ""
