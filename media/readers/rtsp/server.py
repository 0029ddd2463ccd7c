"""The RTSP listener of a media node: connections, the channels they share, admission, what the gateway is asked for."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from pydantic import ValidationError

from media import tickets
from media.errors import MediaError
from media.ports import PortPool
from media.pump import Pump
from media.readers.host import ReaderHost
from media.readers.rtsp.addresses import Address
from media.readers.rtsp.channel import Channel
from media.readers.rtsp.connection import IDLE_S, Connection
from media.readers.rtsp.digest import DigestGate, FailureLimit
from media.specs import StreamWanted, ViewerRefused, WantedAnswer
from media.stream import Stream, StreamEnded

log = logging.getLogger(__name__)

CONNECTIONS_LIMIT = 2000
WANTED_LIMIT = 256
READY_TIMEOUT_S = 10.0
CHECK_S = 1.0
CLOSE_S = 2.0
SESSION_TIMEOUT_S = 60


class RtspHost(ReaderHost, Protocol):
    """The node as the RTSP server sees it."""

    @property
    def pump(self) -> Pump: ...

    @property
    def ports(self) -> PortPool: ...

    @property
    def gso(self) -> bool: ...

    def emit(self, event: StreamWanted | ViewerRefused) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """One admitted viewer: its stream is in use until `RtspServer.leave`."""

    viewer_id: str
    stream: Stream
    channel: Channel


class RtspServer:
    """Serves the streams of one node on ``config.rtsp_port``. Build it inside a running event loop."""

    def __init__(self, host: RtspHost, *, clock: Callable[[], float] = time.monotonic) -> None:
        config = host.config
        self.host = host
        self.clock = clock
        self.port = 0
        self.idle_s = IDLE_S
        self.session_timeout_s: float = SESSION_TIMEOUT_S
        self.connections_limit = CONNECTIONS_LIMIT
        self.gate = DigestGate(config.rtsp_accounts, config.rtsp_realm)
        self.failures = FailureLimit()
        self.connections: set[Connection] = set()
        self.channels: dict[str, Channel] = {}
        self._wanted: dict[str, asyncio.Future[Seat | WantedAnswer]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._told_mono: dict[str, float] = {}

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. A port that another program has is told in the log; the node then runs without RTSP."""
        config = self.host.config
        if config.rtsp_port is None:
            return
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self), config.viewer_host, config.rtsp_port, backlog=128
            )
        except OSError as error:
            log.error("event=rtsp_off host=%s port=%d error=%s", config.viewer_host, config.rtsp_port, error)
            return
        self.port = self._server.sockets[0].getsockname()[1]
        self._watching = loop.create_task(self._watch(), name="rtsp watch")
        log.info("event=rtsp_listening host=%s port=%d", config.viewer_host, self.port)

    async def close(self) -> None:
        """End all viewers and stop listening. Idempotent."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._server is not None:
            self._server.close()
            self._server = None
        for waiting in self._wanted.values():
            waiting.cancel()
        connections = tuple(self.connections)
        for connection in connections:
            connection.end("node_stopping")
        waits = [asyncio.create_task(connection.wait()) for connection in connections]
        if waits:
            await asyncio.wait(waits, timeout=CLOSE_S)
        for connection in connections:
            connection.abort()
        await asyncio.gather(*waits)
        await asyncio.gather(*self._closing)

    async def _watch(self) -> None:
        """Once a second: silent clients, stalled ones, sender reports."""
        while True:
            await asyncio.sleep(CHECK_S)
            now = self.clock()
            for connection in tuple(self.connections):
                connection.check(now)

    # --- admission -----------------------------------------------------------------------------------------------

    async def admit(self, address: Address) -> Seat:
        """A seat at the stream of a ticket's address. MediaError: forbidden, not_found, not_ready, unsupported."""
        secret = self.host.config.ticket_secret
        if not tickets.verify(secret, address.stream_id, address.ticket, time.time()):
            raise MediaError("forbidden", "the ticket is missing, wrong or has expired")
        stream = self.host.stream(address.stream_id)
        await ready(stream)
        return self._seat(stream)

    async def want(self, address: Address, *, user: str, source: str) -> Seat | WantedAnswer:
        """Let the gateway start a channel: a seat here, or its answer. MediaError: not_ready after the time-out."""
        if len(self._wanted) >= WANTED_LIMIT:
            raise MediaError("not_ready", "too many channels are being started")
        request_id = secrets.token_hex(8)
        waiting: asyncio.Future[Seat | WantedAnswer] = asyncio.get_running_loop().create_future()
        self._wanted[request_id] = waiting
        self.host.emit(
            StreamWanted(
                request_id=request_id, channel_id=address.channel_id, device_id=address.device_id,
                stream_number=address.stream_number, user=user, token="" if user else address.token,
                source=source, host=address.host,
            )
        )  # fmt: skip
        try:
            async with asyncio.timeout(self.host.config.rtsp_start_timeout_s):
                return await asyncio.shield(waiting)
        except TimeoutError as error:
            self._give_up(waiting)
            raise MediaError("not_ready", "the picture did not come in time", 504) from error
        except asyncio.CancelledError:
            self._give_up(waiting)
            raise
        finally:
            del self._wanted[request_id]
            waiting.cancel()

    def answer_wanted(self, request_id: str, answer: WantedAnswer) -> None:
        """The gateway's word. The seat is taken at once, so that the stream does not end for want of viewers.

        MediaError: not_found when nobody waits any more, or the stream is not here.
        """
        waiting = self._wanted.get(request_id)
        if waiting is None or waiting.done():
            raise MediaError("not_found", f"no request {request_id}")
        if answer.stream_id is None:
            waiting.set_result(answer)
            return
        try:
            waiting.set_result(self._seat(self.host.stream(answer.stream_id)))
        except MediaError:
            waiting.set_result(WantedAnswer(status=503, reason="the stream has ended"))
            raise

    def _give_up(self, waiting: asyncio.Future[Seat | WantedAnswer]) -> None:
        """The client is gone or had to wait too long: an answer that crossed it is not used."""
        if waiting.done() and not waiting.cancelled() and isinstance(seat := waiting.result(), Seat):
            self.leave(seat, "left")

    def _seat(self, stream: Stream) -> Seat:
        channel = self.channels.get(stream.stream_id)
        if channel is None or channel.stream is not stream:
            try:
                channel = self.channels[stream.stream_id] = Channel(stream, self._channel_ended)
            except StreamEnded as error:
                raise MediaError("not_found", "the stream has ended") from error
        channel.seats += 1
        seat = Seat(f"rtsp-{uuid.uuid4().hex[:16]}", stream, channel)
        self.host.viewer_opened(stream, seat.viewer_id, "rtsp")
        return seat

    def leave(self, seat: Seat, cause: str) -> None:
        """The viewer is gone; the last one stops the channel."""
        channel = seat.channel
        channel.seats -= 1
        self.host.viewer_closed(seat.stream, seat.viewer_id, cause)
        if channel.seats == 0:
            if self.channels.get(seat.stream.stream_id) is channel:
                del self.channels[seat.stream.stream_id]
            task = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _channel_ended(self, channel: Channel, cause: str) -> None:
        if self.channels.get(channel.stream.stream_id) is channel:
            del self.channels[channel.stream.stream_id]
        for connection in tuple(self.connections):
            if connection.watches(channel):
                connection.end(cause)

    def refused(self, kind: str, source: str, user: str = "") -> None:
        """Somebody failed to prove who he is: counted, limited, each kind told at most once a second."""
        now = self.clock()
        self.failures.total += 1
        if (
            kind == "rtsp_login"
        ):  # tickets and tokens cannot be guessed; who shows old ones must not lock others out
            self.failures.fail(source, now)
        if now - self._told_mono.get(kind, now - 1.0) >= 1.0:
            self._told_mono[kind] = now
            self.host.emit(ViewerRefused(kind=kind, source=source, user=user[:64]))

    # --- control -------------------------------------------------------------------------------------------------

    def add_control_routes(self, app: web.Application) -> None:
        """Register ``POST /wanted/{request_id}``."""
        app.router.add_post("/wanted/{request_id}", self._wanted_answered)

    async def _wanted_answered(self, request: web.Request) -> web.Response:
        try:
            answer = WantedAnswer.model_validate_json(await request.read())
        except ValidationError as error:
            raise MediaError("bad_request", str(error)) from error
        self.answer_wanted(request.match_info["request_id"], answer)
        return web.Response(status=204)


async def ready(stream: Stream) -> None:
    """Until the stream has a picture. MediaError(not_ready)."""
    try:
        await stream.wait_ready(READY_TIMEOUT_S)
    except (TimeoutError, StreamEnded) as error:
        raise MediaError("not_ready", "no picture has come yet") from error
