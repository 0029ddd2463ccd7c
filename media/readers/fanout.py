"""One muxer per channel and format, shared by all its viewers: what the outputs over HTTP have in common.

A format is a small class (`Muxer`): access units in, chunks out, each chunk with the head that a player must be given
first. `Fanout` keeps one `Channel` per stream and format while somebody watches: the muxer's task, what came since
the last key frame for those who join, and the viewers' bounded queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from aiohttp import web

from media import tickets
from media.errors import MediaError
from media.readers.host import ReaderHost
from media.specs import AudioTrack
from media.stream import Reader, Stream, StreamEnded
from media.unit import AccessUnit

QUEUE_BYTES = 4 * 1024 * 1024
"""A viewer that is further behind than this (beyond its start) loses what waits, up to the next key frame."""
CACHE_BYTES = 16 * 1024 * 1024
STALLED_S = 30.0
"""A viewer that takes no byte for this long is closed."""
READY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What a player must be given before the chunks that refer to it. Told apart by identity.

    ``change``: what a player that follows another head of the same ``tracks`` is sent instead; None when it has to
    begin anew.
    """

    data: bytes
    tracks: str = ""
    change: bytes | None = None

    def after(self, sent: Head | None) -> bytes | None:
        """What goes in front of this head's chunks to a player that has ``sent``; None: it must begin anew."""
        if sent is self:
            return b""
        if sent is None:
            return self.data
        return self.change if sent.tracks == self.tracks else None


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some bytes of the format, whole pictures or sounds. ``key``: a player can begin here."""

    head: Head
    data: bytes
    key: bool = False


class Muxer(Protocol):
    """Makes one format of one stream. Not thread-safe; called in the order of the stream."""

    def expect_audio(self, track: AudioTrack) -> None:
        """Be told the sound's format before the first unit."""
        ...

    def feed(self, unit: AccessUnit) -> Sequence[Chunk]:
        """Take one unit; give the chunks that are now complete."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """A format as a viewer asked for it. Viewers of one stream with an equal ``name`` share a muxer."""

    name: str
    make: Callable[[], Muxer]


class Sink(Protocol):
    """Who gets the chunks of a channel: a viewer's queue, or a playlist."""

    def offer(self, chunk: Chunk) -> int:
        """Take a chunk; how many chunks were dropped for it (or instead of it) is returned."""
        ...

    def end(self, cause: str) -> None: ...


S = TypeVar("S", bound=Sink)


class Viewer:
    """One player's bounded queue of chunks."""

    def __init__(self, backlog: Sequence[Chunk]) -> None:
        self.dropped = 0
        self.ended: str | None = None
        self._queue = deque(backlog)
        self._bytes = sum(len(chunk.data) for chunk in backlog)
        self._limit = QUEUE_BYTES + self._bytes
        self._waiting_for_key = not backlog
        self._something = asyncio.Event()
        if backlog:
            self._something.set()

    def offer(self, chunk: Chunk) -> int:
        if self._waiting_for_key and not chunk.key:
            self.dropped += 1
            return 1
        self._waiting_for_key = False
        dropped = 0
        if self._bytes + len(chunk.data) > self._limit:
            dropped = len(self._queue)
            self._queue.clear()
            self._bytes = 0
            self._limit = QUEUE_BYTES
            if not chunk.key:
                self._waiting_for_key = True
                dropped += 1
        self.dropped += dropped
        if not self._waiting_for_key:
            self._queue.append(chunk)
            self._bytes += len(chunk.data)
            self._something.set()
        return dropped

    def end(self, cause: str) -> None:
        if self.ended is None:
            self.ended = cause
            self._something.set()

    async def take(self, timeout_s: float | None = None) -> list[Chunk]:
        """All that waits, of one head; empty after ``timeout_s``. StreamEnded at the end."""
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
        while self._queue and self._queue[0].head is taken[0].head:
            taken.append(self._queue.popleft())
        self._bytes -= sum(len(chunk.data) for chunk in taken)
        return taken


class Channel:
    """One stream's muxer of one format, and who gets its chunks. It runs only while there is somebody."""

    def __init__(self, stream: Stream, chosen: Format) -> None:
        self.stream = stream
        self.key = (stream.stream_id, chosen.name)
        self.sinks: set[Sink] = set()
        self.ended: str | None = None
        self._cache: list[Chunk] = []
        self._cache_bytes = 0
        self._muxer = chosen.make()
        self._reader: Reader = stream.attach(chosen.name)
        if stream.audio is not None:
            self._muxer.expect_audio(stream.audio)
        self._task = asyncio.create_task(self._pump(), name=f"{chosen.name} {stream.stream_id}")

    def add(self, make: Callable[[Sequence[Chunk]], S]) -> S:
        """A new sink, made with the chunks since the last key frame."""
        sink = make(self._cache)
        self.sinks.add(sink)
        return sink

    async def close(self, cause: str) -> None:
        """Detach from the stream and end all sinks. Idempotent."""
        self._reader.detach()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._end(cause)

    def _end(self, cause: str) -> None:
        self.ended = self.ended or cause
        for sink in self.sinks:
            sink.end(self.ended)

    async def _pump(self) -> None:
        try:
            while True:
                self._publish(await self._reader.next())
        except StreamEnded as ended:
            self._end(ended.cause)
        finally:
            self._end("closed")

    def _publish(self, unit: AccessUnit) -> None:
        for chunk in self._muxer.feed(unit):
            self._remember(chunk)
            for sink in self.sinks:
                self.stream.reader_drops += sink.offer(chunk)

    def _remember(self, chunk: Chunk) -> None:
        if chunk.key:
            self._cache, self._cache_bytes = [chunk], len(chunk.data)
        elif self._cache:
            self._cache.append(chunk)
            self._cache_bytes += len(chunk.data)
            if self._cache_bytes > CACHE_BYTES:
                self._cache, self._cache_bytes = [], 0


@dataclass(frozen=True, slots=True)
class Seat:
    """One viewer's place at a channel."""

    viewer_id: str
    channel: Channel
    viewer: Viewer


class Fanout:
    """All channels of one node. Whoever joins must leave."""

    def __init__(self, host: ReaderHost) -> None:
        self._host = host
        self._channels: dict[tuple[str, str], Channel] = {}

    async def admit(self, stream_id: str, query: Mapping[str, str]) -> Stream:
        """The stream that a ticket opens, once it has a picture.

        MediaError: forbidden, not_found, not_ready, unsupported (no H.264 or H.265 picture).
        """
        if not tickets.verify(
            self._host.config.ticket_secret, stream_id, query.get("ticket", ""), time.time()
        ):
            raise MediaError("forbidden", "the ticket is missing, wrong or has expired")
        stream = self._host.stream(stream_id)
        try:
            await stream.wait_ready(READY_TIMEOUT_S)
        except (TimeoutError, StreamEnded) as error:
            raise MediaError("not_ready", "no picture has come yet") from error
        if stream.video is None or stream.video.codec not in ("h264", "h265"):
            raise MediaError("unsupported", "the stream has no picture that these outputs can carry")
        return stream

    def join(self, stream: Stream, chosen: Format, make: Callable[[Sequence[Chunk]], S]) -> tuple[Channel, S]:
        """A new sink at the stream's channel of that format, which is opened for the first one. MediaError: not_found."""
        channel = self._channels.get((stream.stream_id, chosen.name))
        if channel is None or channel.stream is not stream or channel.ended is not None:
            try:
                channel = Channel(stream, chosen)
            except StreamEnded as error:
                raise MediaError("not_found", "the stream has ended") from error
            self._channels[channel.key] = channel
        return channel, channel.add(make)

    async def part(self, channel: Channel, sink: Sink) -> None:
        """Take a sink out; the last one stops the channel."""
        channel.sinks.discard(sink)
        if not channel.sinks:
            if self._channels.get(channel.key) is channel:
                del self._channels[channel.key]
            await channel.close("left")

    async def enter(self, request: web.Request, kind: str, chosen: Format) -> Seat:
        """Admit one viewer and count it as ``kind``. MediaError when it may or can not watch."""
        stream = await self.admit(request.match_info["stream_id"], request.query)
        channel, viewer = self.join(stream, chosen, Viewer)
        return Seat(self.count_in(stream, kind), channel, viewer)

    async def leave(self, seat: Seat) -> None:
        """Take one viewer out of the count and of its channel."""
        self._host.viewer_closed(seat.channel.stream, seat.viewer_id, seat.viewer.ended or "left")
        await self.part(seat.channel, seat.viewer)

    def count_in(self, stream: Stream, kind: str) -> str:
        """The stream has one more viewer, whose new id is returned; `count_out` must follow."""
        viewer_id = f"{kind}-{uuid.uuid4().hex[:16]}"
        self._host.viewer_opened(stream, viewer_id, kind)
        return viewer_id

    def count_out(self, stream: Stream, viewer_id: str, cause: str) -> None:
        self._host.viewer_closed(stream, viewer_id, cause)

    async def close(self) -> None:
        """End all viewers (the node is stopping)."""
        for channel in list(self._channels.values()):
            await channel.close("node_stopping")
