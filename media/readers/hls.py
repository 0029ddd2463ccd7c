"""HLS with low latency: playlists, parts and segments cut from the fragments that fMP4 viewers get.

``GET /live/{stream_id}.m3u8?ticket=`` opens a session and names ``{stream_id}/hls/{key}/live.m3u8``: the key in the path
is the permission from then on, as long as the player keeps asking. A session is one viewer; it ends when nobody has
asked for a while. ``audio=0`` leaves the sound out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from media import hls
from media.errors import MediaError
from media.hls import LivePlaylist
from media.readers import fmp4
from media.readers.fanout import READY_TIMEOUT_S, STALLED_S, Channel, Chunk, Fanout
from media.readers.fragmenter import Fragment, Init
from media.stream import Stream
from media.unit import TICKS_PER_SECOND

SESSION_IDLE_S, IDLE_TARGETS = 15.0, 2.5
"""A player that has asked for nothing this long, and for so many target durations, is gone."""
SWEEP_S = 1.0
MAX_SESSIONS = 1000
WRITE_BYTES = 256 * 1024
PLAYLIST_TYPE = "application/vnd.apple.mpegurl"

_NAME = re.compile(r"(init|seg|part)([0-9]{1,12})\.(?:mp4|m4s)")


class Rendition:
    """A channel's playlist, fed with its fragments, and those who wait for it to grow."""

    def __init__(self, backlog: Sequence[Chunk]) -> None:
        self.playlist = LivePlaylist()
        self.head: Init | None = None
        self.ended: str | None = None
        self._changed = asyncio.Event()
        for chunk in backlog:
            self.offer(chunk)

    def offer(self, chunk: Chunk) -> int:
        if not isinstance(chunk, Fragment):
            raise TypeError("HLS is made of fragments")
        news = self.head is None
        if chunk.head is not self.head:
            self.head = chunk.head
            self.playlist.begin(chunk.head.data)
        news |= self.playlist.add(chunk.data, chunk.duration, key=chunk.key, now_unix=time.time())
        if news:
            self._wake()
        return 0

    def end(self, cause: str) -> None:
        if self.ended is None:
            self.ended = cause
            self.playlist.end(time.time())
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Until ``ready()``. MediaError: not_ready after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while not ready():
                    await self._changed.wait()
        except TimeoutError as error:
            raise MediaError("not_ready", "the playlist does not grow") from error


@dataclass(slots=True, eq=False)
class _Session:
    """One player: it may fetch what its rendition has while it keeps asking."""

    key: str
    stream: Stream
    channel: Channel
    rendition: Rendition
    viewer_id: str
    used_mono: float
    asking: int = 0
    counted: bool = True


@dataclass(slots=True)
class HlsOutput:
    """All sessions of one node."""

    fanout: Fanout
    clock: Callable[[], float] = time.monotonic
    _sessions: dict[str, _Session] = field(default_factory=dict)
    _renditions: dict[tuple[str, str], tuple[Channel, Rendition]] = field(default_factory=dict)
    _sweeping: asyncio.Task[None] | None = None

    # --- requests ----------------------------------------------------------------------------------------------

    async def master(self, request: web.Request) -> web.StreamResponse:
        """Open a session; the multivariant playlist that names it."""
        chosen = fmp4.choose(request.query)
        stream = await self.fanout.admit(request.match_info["stream_id"], request.query)
        if len(self._sessions) >= MAX_SESSIONS:
            raise MediaError("unavailable", f"{MAX_SESSIONS} players are watching by HLS")
        channel, rendition = self._rendition(stream, chosen.name, request.query)
        session = _Session(
            *(secrets.token_urlsafe(16), stream, channel, rendition),
            *(self.fanout.count_in(stream, "hls"), self.clock()),
        )
        self._sessions[session.key] = session
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep(), name="hls sessions")
        with _asking(session, self.clock):
            await rendition.wait(
                lambda: rendition.head is not None or rendition.ended is not None, READY_TIMEOUT_S
            )
        head = rendition.head
        if head is None:
            raise MediaError("not_ready", "the stream has ended")
        text = hls.master(
            f"{stream.stream_id}/hls/{session.key}/live.m3u8",
            head.mime.partition('"')[2].rstrip('"'),
            *(int(head.video["width"]), int(head.video["height"])),
            bit_rate(stream),
        )
        return _answer(text)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """What a session may fetch: the media playlist, initialisation segments, segments and parts."""
        session = self._sessions.get(request.match_info["key"])
        if session is None or session.stream.stream_id != request.match_info["stream_id"]:
            raise MediaError("not_found", "this session is over: ask for the playlist with a new ticket")
        name = request.match_info["name"]
        with _asking(session, self.clock):
            if name == "live.m3u8":
                return _answer(await self._text(session.rendition, request.query))
            return await self._send(request, session, await self._bytes(session.rendition, name))

    async def _text(self, rendition: Rendition, query: Mapping[str, str]) -> str:
        """The media playlist, as soon as it has what the player waits for (6.2.5.2)."""
        playlist = rendition.playlist
        number, part = _number(query, "_HLS_msn"), _number(query, "_HLS_part")
        if number is None:
            if part is not None:
                raise MediaError("bad_request", "_HLS_part without _HLS_msn")
            await rendition.wait(
                lambda: playlist.playable or playlist.ended, hls.LONGEST_TARGET_S + READY_TIMEOUT_S
            )
        else:
            wanted = number
            if wanted > playlist.next_number + 1:
                raise MediaError("bad_request", "_HLS_msn is too far ahead")
            await rendition.wait(
                lambda: playlist.ended or playlist.covers(wanted, part), 3 * playlist.target_s
            )
        return playlist.text()

    async def _bytes(self, rendition: Rendition, name: str) -> bytes:
        matched = _NAME.fullmatch(name)
        if matched is None:
            raise MediaError("not_found", "no such file")
        kind, number = matched[1], int(matched[2])
        playlist = rendition.playlist
        if kind == "part" and number == playlist.next_part:  # named in advance: it is about to come
            await rendition.wait(
                lambda: playlist.ended or playlist.part(number) is not None, 3 * playlist.target_s
            )
        find = {"init": playlist.init, "seg": playlist.segment, "part": playlist.part}
        found = find[kind](number)
        if found is None:
            raise MediaError("not_found", "not made yet, or gone again")
        return found

    async def _send(self, request: web.Request, session: _Session, data: bytes) -> web.StreamResponse:
        """A file in pieces, so that a player that takes nothing is noticed."""
        response = web.StreamResponse(headers={"Content-Type": "video/mp4", "Cache-Control": "no-store"})
        response.content_length = len(data)
        await response.prepare(request)
        try:
            for at in range(0, len(data), WRITE_BYTES):
                async with asyncio.timeout(STALLED_S):
                    await response.write(data[at : at + WRITE_BYTES])
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            await self._close(session, "stalled")
        return response

    # --- sessions ----------------------------------------------------------------------------------------------

    def _rendition(self, stream: Stream, name: str, query: Mapping[str, str]) -> tuple[Channel, Rendition]:
        known = self._renditions.get((stream.stream_id, name))
        if known is not None and known[0].stream is stream and known[1].ended is None:
            return known
        made = self.fanout.join(stream, fmp4.choose(query), Rendition)
        self._renditions[stream.stream_id, name] = made
        return made

    async def _sweep(self) -> None:
        """Ends sessions that nobody uses, and takes those of ended streams out of the count."""
        while self._sessions:
            await asyncio.sleep(SWEEP_S)
            now = self.clock()
            for session in list(self._sessions.values()):
                idle_s = max(SESSION_IDLE_S, IDLE_TARGETS * session.rendition.playlist.target_s)
                if session.rendition.ended is not None:
                    await self._leave(session, session.rendition.ended)
                if not session.asking and now - session.used_mono > idle_s:
                    await self._close(session, "left")

    async def _close(self, session: _Session, cause: str) -> None:
        self._sessions.pop(session.key, None)
        await self._leave(session, cause)

    async def _leave(self, session: _Session, cause: str) -> None:
        """Take the session's viewer out of the count; the last one stops the playlist."""
        if not session.counted:
            return
        session.counted = False
        self.fanout.count_out(session.stream, session.viewer_id, cause)
        if any(other.counted and other.channel is session.channel for other in self._sessions.values()):
            return
        if self._renditions.get(session.channel.key) == (session.channel, session.rendition):
            del self._renditions[session.channel.key]
        session.rendition.end(cause)  # whoever still waits for a part is answered
        await self.fanout.part(session.channel, session.rendition)

    async def close(self) -> None:
        """End all sessions (the node is stopping)."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        for session in list(self._sessions.values()):
            await self._close(session, "node_stopping")


@contextlib.contextmanager
def _asking(session: _Session, clock: Callable[[], float]) -> Iterator[None]:
    """While a request is being answered its session is in use."""
    session.asking += 1
    try:
        yield
    finally:
        session.asking -= 1
        session.used_mono = clock()


def bit_rate(stream: Stream) -> int:
    """About what the stream needs at its peak, in bit/s, from the cached group of pictures."""
    units = stream.gop()
    ticks = max((unit.dts for unit in units), default=0) - min((unit.dts for unit in units), default=0)
    if ticks < TICKS_PER_SECOND // 2:
        return 4_000_000
    return max(100_000, round(sum(len(unit.data) for unit in units) * 8 * TICKS_PER_SECOND / ticks * 1.25))


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise MediaError("bad_request", f"{name} is no number")
    return int(text)


def _answer(text: str) -> web.Response:
    return web.Response(text=text, content_type=PLAYLIST_TYPE, headers={"Cache-Control": "no-store"})
