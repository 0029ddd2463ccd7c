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
from gateway.services.playback_library import Library, LibraryFailed
from gateway.services.session_opening import retrieve
from gateway.services.session_record import LiveKey, LiveSession
from gateway.services.session_verdict import media_failure
from media.errors import MediaError
from media.specs import DownloadSpec, InputControl, PlayPosition, RecordingInput, StreamReady

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

        Raises PlayFailed: not_found (nothing recorded in the range), busy (too many), node_down, no_picture.
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
        session = self._sessions.admit(key, lambda session: self._open(session, spec), kind=wish.kind)
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
        """Pause, move, turn. Raises PlayFailed(node_down), MediaError."""
        session = playback.session
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

        Raises PlayFailed(not_found, node_down), TooLong, LibraryFailed, MediaError (busy, ...).
        """
        longest = self._settings.longest_download_s
        if end - start > longest:
            raise TooLong(f"a download covers at most {longest} seconds")
        found = await self.library.find(device_id, channel_id, start, end)
        if not found.parts:
            raise PlayFailed(PlayCause.NOT_FOUND, f"nothing of {channel_id} is recorded in this range")
        node = self._nodes.pick()
        download_id = secrets.token_hex(12)
        await node.client.order_download(
            DownloadSpec(
                download_id=download_id,
                parts=found.parts,
                start=start,
                end=end,
                format=form,
                file_name=file_name(channel_id, start, end, form),
            )
        )
        return self._sessions.download_url(node, download_id, host)

    def _check_room(self, owner: str) -> None:
        settings = self._settings
        own = len(self.open_now(owner))
        if own >= settings.most_per_user:
            raise PlayFailed(PlayCause.BUSY, f"{own} playbacks of {owner} are open", open_streams=own)
        if len(self._playbacks) >= settings.most:
            raise PlayFailed(PlayCause.BUSY, f"{len(self._playbacks)} playbacks are open")

    async def _open(self, session: LiveSession, spec: RecordingInput) -> None:
        async with AsyncExitStack() as undo:
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
