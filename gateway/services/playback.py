"""Playing our own recordings: one session per user, at a media node, moved and paused by whoever opened it.

A playback is a session like any other (services/sessions.py): it has viewers and relays, shows up in the list, ends
as idle and with its node. It is never shared, and it does not end with its camera.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from config.settings import PlaybackSettings
from gateway.clock import BEIJING
from gateway.errors import GatewayError
from gateway.model import SessionKind, SessionState
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.playback_library import Found, Library, LibraryFailed
from gateway.services.playback_supply import Supply
from gateway.services.session_opening import retrieve
from gateway.services.session_record import LiveKey, LiveSession
from gateway.services.session_verdict import media_failure
from media.errors import MediaError
from media.specs import DownloadSpec, InputControl, PartWanted, PlayPosition, RecordingInput, StreamReady

log = logging.getLogger(__name__)

Work = Callable[[LiveSession], Coroutine[Any, Any, None]]
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""B.2.7 wants 0.25 to 4; each also backward."""
OPEN_TIMEOUT_S = 15.0


class TooLong(GatewayError):
    """A range longer than one download may be."""

    cause = "too_long"
    status = 422


class SessionHolder(Protocol):
    """What is needed of gateway.services.sessions.Sessions."""

    def admit(self, key: LiveKey, work: Work, *, kind: SessionKind = SessionKind.LIVE) -> LiveSession: ...

    def end(self, session: LiveSession, cause: str) -> asyncio.Task[None]: ...

    def download_url(self, node: NodeHandle, download_id: str, request_host: str) -> str: ...


class StreamBook(Protocol):
    """What is needed of gateway.services.session_opening.Opener: whose stream is whose, and closing at a node."""

    by_stream: dict[str, LiveSession]

    async def close_receiver(self, node: NodeHandle, stream_id: str) -> None: ...


@dataclass(slots=True, eq=False)
class Playback:
    """One user's playing. ``start`` and ``end`` in unix seconds; ``bytes``: estimate of what is in the range."""

    session: LiveSession
    owner: str
    start: float
    end: float
    bytes: int

    @property
    def session_id(self) -> str:
        return self.session.session_id


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be played, and how. ``delivery``: so many times faster without changing the times (download)."""

    device_id: str
    channel_id: str
    start: float
    end: float
    speed: float = 1.0
    delivery: float = 1.0
    kind: SessionKind = SessionKind.PLAYBACK
    reverse_groups: bool = False
    keep_gaps: bool = False
    source: Literal["auto", "own", "device"] = "auto"
    """Which recordings: ours, those in the device, or ours where they cover the range."""


class Playbacks:
    """All playings of this gateway, those of uppers included."""

    def __init__(
        self,
        *,
        settings: PlaybackSettings,
        sessions: SessionHolder,
        streams: StreamBook,
        nodes: Nodes,
        library: Library,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._streams = streams
        self._nodes = nodes
        self.library = library
        self._playbacks: dict[str, Playback] = {}
        self._supplies: dict[str, Supply] = {}
        """By session id, as long as its files are read."""
        self._downloads: dict[str, tuple[NodeHandle, Supply]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    def get(self, session_id: str) -> Playback | None:
        self._forget_ended()
        return self._playbacks.get(session_id)

    def of(self, session: LiveSession) -> Playback | None:
        return self._playbacks.get(session.session_id)

    def open_now(self, owner: str | None = None) -> list[Playback]:
        """Those of one owner, or all."""
        self._forget_ended()
        return [found for found in self._playbacks.values() if owner is None or found.owner == owner]

    def _forget_ended(self) -> None:
        over = [
            key for key, found in self._playbacks.items() if found.session.info.state is SessionState.ENDED
        ]
        for key in over:
            del self._playbacks[key]

    async def open(self, wish: Wish, owner: str) -> Playback:
        """Begin to play; returns when the first picture is there. It waits there for its first viewer or relay.

        Raises PlayFailed: not_found (nothing recorded in the range), busy (too many), node_down, no_picture,
        storage_unavailable, storage_timeout, cache_full.
        """
        try:
            found = await self.library.find(wish.device_id, wish.channel_id, wish.start, wish.end)
        except LibraryFailed as error:
            raise PlayFailed(PlayCause.NODE_DOWN, str(error)) from error
        if not found.parts:
            raise PlayFailed(PlayCause.NOT_FOUND, f"nothing of {wish.channel_id} is recorded in this range")
        self._check_room(owner)
        spec = RecordingInput(
            stream_id=secrets.token_hex(8),
            parts=found.parts,
            start=wish.start,
            end=wish.end,
            speed=wish.speed,
            delivery=wish.delivery,
            reverse_groups=wish.reverse_groups,
            keep_gaps=wish.keep_gaps,
            idle_grace_s=self._settings.idle_grace_s,
        )
        # The number stands in for the stream number: no two playings have one key.
        key = (wish.device_id, wish.channel_id, -next(self._numbers))
        session = self._sessions.admit(key, lambda session: self._open(session, spec, found), kind=wish.kind)
        session.idle_grace_s = self._settings.idle_grace_s
        playback = Playback(session, owner, wish.start, wish.end, found.bytes)
        self._playbacks[session.session_id] = playback
        try:
            await asyncio.shield(session.opening)
        except asyncio.CancelledError:
            self._sessions.end(session, "cancelled")
            raise
        return playback

    async def control(self, playback: Playback, control: InputControl) -> PlayPosition:
        """Pause, move, turn. A file that a move needs is fetched before.

        Raises PlayFailed(node_down, storage_unavailable, storage_timeout, cache_full), MediaError.
        """
        session = playback.session
        supply = self._supplies.get(session.session_id)
        if supply is not None:
            if control.speed:
                supply.backward = control.speed < 0
            if control.position_s is not None:
                await supply.bring(playback.start + control.position_s)
        if session.node is None or not session.node.alive:
            raise PlayFailed(PlayCause.NODE_DOWN, "the media node of this playback is gone")
        return await session.node.client.control_input(session.stream_id, control)

    def close(self, playback: Playback, cause: str) -> asyncio.Task[None]:
        """End it for all who watch."""
        return self._sessions.end(playback.session, cause)

    async def download(
        self, device_id: str, channel_id: str, start: float, end: float, form: Literal["mp4", "ps"], host: str
    ) -> str:
        """Order one file of what is recorded in the range; its address for a browser that reaches us as ``host``.

        Files in the object storage are fetched before, all of them: the size is told in front.
        Raises PlayFailed(not_found, node_down, storage_unavailable, storage_timeout, cache_full), TooLong,
        LibraryFailed, MediaError (busy, ...).
        """
        longest = self._settings.longest_download_s
        if end - start > longest:
            raise TooLong(f"a download covers at most {longest} seconds")
        found = await self.library.find(device_id, channel_id, start, end)
        if not found.parts:
            raise PlayFailed(PlayCause.NOT_FOUND, f"nothing of {channel_id} is recorded in this range")
        supply = await self._supply_download(found)
        download_id = secrets.token_hex(12)
        try:
            node = self._nodes.pick()
            if supply is not None:
                self._downloads[download_id] = node, supply
            await node.client.order_download(
                DownloadSpec(
                    download_id=download_id,
                    parts=found.parts if supply is None else supply.parts,
                    start=start,
                    end=end,
                    format=form,
                    file_name=file_name(channel_id, start, end, form),
                )
            )
        except BaseException:
            self._downloads.pop(download_id, None)
            if supply is not None:
                supply.release()
            raise
        return self._sessions.download_url(node, download_id, host)

    async def _supply_download(self, found: Found) -> Supply | None:
        """All files of a download, fetched and held; None where all are on disks that nothing takes them from."""
        if self.library.cache is None:
            return None
        supply = Supply(self.library, self.library.cache, found)
        try:
            await supply.look()
            await supply.bring_all()
        except BaseException:
            supply.release()
            raise
        return supply

    def download_ended(self, download_id: str) -> None:
        """A media node is through with the files."""
        _, supply = self._downloads.pop(download_id, (None, None))
        if supply is not None:
            supply.release()

    def node_lost(self, node: NodeHandle, cause: str) -> None:
        """Its downloads are over."""
        for download_id in [key for key, (owner, _) in self._downloads.items() if owner is node]:
            self.download_ended(download_id)

    def part_wanted(self, session: LiveSession, event: PartWanted) -> None:
        """A playing begins to read a file."""
        supply = self._supplies.get(session.session_id)
        if supply is not None:
            supply.wanted(event.path)

    def _check_room(self, owner: str) -> None:
        settings = self._settings
        own = len(self.open_now(owner))
        if own >= settings.most_per_user:
            raise PlayFailed(PlayCause.BUSY, f"{own} playbacks of {owner} are open", open_streams=own)
        if len(self._playbacks) >= settings.most:
            raise PlayFailed(PlayCause.BUSY, f"{len(self._playbacks)} playbacks are open")

    async def _open(self, session: LiveSession, spec: RecordingInput, found: Found) -> None:
        async with AsyncExitStack() as undo:
            if self.library.cache is not None:
                spec = await self._supply(session, spec, found, undo)
            node = self._nodes.pick()
            node.placed += 1
            undo.callback(_unplace, node)
            picture: asyncio.Future[StreamReady] = asyncio.get_running_loop().create_future()
            undo.callback(retrieve, picture)
            info = session.info
            session.node, session.picture = node, picture
            info.stream_id, info.node_id, info.transport = spec.stream_id, node.node_id, "recording"
            self._streams.by_stream[spec.stream_id] = session
            undo.callback(self._streams.by_stream.pop, spec.stream_id, None)
            try:
                await node.client.open_input(spec)
            except MediaError as error:
                raise media_failure(error) from error
            undo.push_async_callback(self._streams.close_receiver, node, spec.stream_id)
            ready = await _first_picture(picture)
            info.video_codec = ready.video.codec if ready.video is not None else ""
            info.audio_codec = ready.audio.codec if ready.audio is not None else ""
            session.undo = undo.pop_all()

    async def _supply(
        self, session: LiveSession, spec: RecordingInput, found: Found, undo: AsyncExitStack
    ) -> RecordingInput:
        """Fetch the file that is played first; the others come while it plays."""
        assert self.library.cache is not None  # noqa: S101
        supply = Supply(
            self.library, self.library.cache, found,
            on_failure=lambda failure: self._supply_failed(session, failure),
        )  # fmt: skip
        undo.push_async_callback(supply.close)
        await supply.look()
        supply.backward = spec.speed < 0
        await supply.bring(spec.end if supply.backward else spec.start)
        self._supplies[session.session_id] = supply
        undo.callback(self._supplies.pop, session.session_id, None)
        return spec.model_copy(update={"parts": supply.parts})

    def _supply_failed(self, session: LiveSession, failure: PlayFailed) -> None:
        """The next file cannot be had: the playing ends, it does not pretend that nothing was recorded."""
        log.error("playback ends session_id=%s cause=%s", session.session_id, failure)
        task = self._sessions.end(session, failure.cause.value)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def file_name(channel_id: str, start: float, end: float, form: str) -> str:
    """Channel and range in Beijing time."""
    begin, until = (
        datetime.fromtimestamp(moment, BEIJING).strftime("%Y%m%dT%H%M%S") for moment in (start, end)
    )
    return f"{channel_id}_{begin}-{until}.{form}"


async def _first_picture(picture: asyncio.Future[StreamReady]) -> StreamReady:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return await picture
    except TimeoutError:
        raise PlayFailed(PlayCause.NO_PICTURE, "the recording gave no picture in time") from None
    except PlayFailed as failure:
        if failure.cause is PlayCause.NO_STREAM:
            raise PlayFailed(PlayCause.NOT_FOUND, "the recorded files cannot be read") from failure
        raise


def _unplace(node: NodeHandle) -> None:
    node.placed -= 1
