"""Recordings over HTTP, ours and those in devices: play them in the browser, move in them, download ours as one file."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol

from aiohttp import web
from pydantic import AwareDatetime, Field, model_validator

from gateway.http.channels import ChannelFinder
from gateway.http.errors import Problem, not_found
from gateway.http.live import MAX_OFFER_BYTES, PLAY_ERRORS
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import add_security_headers
from gateway.http.views import AnyCode, WhichDevice
from gateway.model import SessionState
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.playback import SPEEDS, Playback, Wish
from media.specs import InputControl, PlayPosition

if TYPE_CHECKING:
    from gateway.services.session_record import LiveSession


class Playing(Protocol):
    """The part of gateway.services.playback.Playbacks that browsers need."""

    async def open(self, wish: Wish, owner: str) -> Playback: ...

    async def control(self, playback: Playback, control: InputControl) -> PlayPosition: ...

    def close(self, playback: Playback, cause: str) -> asyncio.Task[None]: ...

    def get(self, session_id: str) -> Playback | None: ...

    async def download(
        self, device_id: str, channel_id: str, start: float, end: float, form: Literal["mp4", "ps"], host: str
    ) -> str: ...


class Outputs(Protocol):
    """The part of gateway.services.sessions.Sessions that shows a session that runs."""

    async def attach_webrtc(self, session: LiveSession, offer_sdp: str) -> tuple[str, str]: ...

    async def close_viewer(self, viewer_id: str) -> bool: ...

    def viewer_urls(self, session: LiveSession, request_host: str = "localhost") -> dict[str, str]: ...


def _check_speed(speed: float) -> float:
    if abs(speed) not in SPEEDS:
        raise ValueError(f"speed is one of {', '.join(f'{value:g}' for value in SPEEDS)}, or the negative")
    return speed


class PlaybackWish(Model):
    """A stretch of one channel's recordings."""

    start: AwareDatetime = Field(description="ISO 8601 with zone.")
    end: AwareDatetime
    speed: float = Field(default=1.0, description="0.25, 0.5, 1, 2, 4 or 8; negative: backward.")
    source: Literal["auto", "own", "device"] = Field(
        default="auto",
        description="own: recorded here; device: recorded in the camera or recorder; auto: here, where that covers "
        "the range, else the device.",
    )
    keep_gaps: bool = Field(
        default=False, description="Let what was not recorded last as long as it lasted; else it is left out."
    )

    @model_validator(mode="after")
    def _sensible(self) -> PlaybackWish:
        if self.end <= self.start:
            raise ValueError("end must lie after start")
        _check_speed(self.speed)
        return self


class PlaybackChange(Model):
    """What is left out stays as it is. ``at`` and ``position_s`` say the same in two ways."""

    paused: bool | None = None
    speed: float | None = Field(
        default=None, description="As in the opening; 8 and backward: key frames only."
    )
    position_s: float | None = Field(default=None, ge=0, description="Seconds from the start of the range.")
    at: AwareDatetime | None = Field(default=None, description="The same as a time of day.")

    @model_validator(mode="after")
    def _sensible(self) -> PlaybackChange:
        if self.speed is not None:
            _check_speed(self.speed)
        if self.at is not None and self.position_s is not None:
            raise ValueError("give at or position_s, not both")
        return self


class DownloadQuery(WhichDevice):
    start: AwareDatetime = Field(
        description="ISO 8601 with zone; the file begins with the key frame at or before it."
    )
    end: AwareDatetime
    format: Literal["mp4", "ps"] = Field(
        default="mp4", description="ps: the raw program stream of GB/T 28181."
    )

    @model_validator(mode="after")
    def _sensible(self) -> DownloadQuery:
        if self.end <= self.start:
            raise ValueError("end must lie after start")
        return self


class PositionView(View):
    """Where a playback stands. Positions count wall-clock, so they jump over what was not recorded."""

    position_s: float = Field(description="Seconds from the start of the range, of the picture sent last.")
    at: datetime = Field(description="The same as a time of day.")
    speed: float
    paused: bool
    ended: bool = Field(description="The end of the range was reached; it can be moved back.")


class PlaybackView(PositionView):
    """A running playback and where to get its picture, in the same ways as a live one."""

    session_id: str
    device_id: str
    channel_id: str
    start: datetime
    end: datetime
    source: Literal["own", "device"]
    video_codec: str
    audio_codec: str
    urls: dict[str, str] = Field(
        description="fmp4, ws, flv, ws_flv, ts, hls, rtsp; each with a ticket that runs out."
    )


class PlaybackResource:
    def __init__(self, *, registry: Registry, playing: Playing, outputs: Outputs) -> None:
        self._finder = ChannelFinder(registry)
        self._playing = playing
        self._outputs = outputs

    @route(
        "POST",
        "/api/channels/{channel_id}/playback",
        summary="Play a channel's recordings",
        role=Role.VIEWER,
        status=201,
        tag="playback",
        errors=PLAY_ERRORS,
        audited="playback.open",
    )
    async def open(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: PlaybackWish
    ) -> PlaybackView:
        """Opens a playback of one's own: two users of one clip do not disturb each other. It waits at its first
        picture for the first viewer, and ends when nobody has watched it for a while.
        """
        key = self._finder.key(channel_id, query.device_id)
        call.audit_detail = f"{body.start.isoformat()} {body.end.isoformat()}"
        wish = Wish(
            *key,
            body.start.timestamp(),
            body.end.timestamp(),
            speed=body.speed,
            keep_gaps=body.keep_gaps,
            source=body.source,
        )
        playback = await self._playing.open(wish, call.who.name)
        return await self._view(playback, InputControl(), call.host)

    @route(
        "GET",
        "/api/playback/{session_id}",
        summary="Show a playback and where it stands",
        role=Role.VIEWER,
        tag="playback",
        errors=(404, 503),
    )
    async def show(self, call: Call, session_id: AnyCode) -> PlaybackView:
        """With fresh addresses."""
        return await self._view(self._own(call, session_id), InputControl(), call.host)

    @route(
        "PATCH",
        "/api/playback/{session_id}",
        summary="Pause, move, or play at another speed",
        role=Role.VIEWER,
        tag="playback",
        errors=(404, 409, 422, 503, 504),
    )
    async def change(self, call: Call, session_id: AnyCode, body: PlaybackChange) -> PositionView:
        """Returns when it is done; a move answers with the place of the key frame it begins with.

        A recording in a device: 409 `rejected` when it refuses, 409 `not_supported` for backward with a device of 2016,
        504 `no_answer` when it stays silent.
        """
        playback = self._own(call, session_id)
        place = body.position_s
        if body.at is not None:
            place = max(0.0, body.at.timestamp() - playback.start)
        control = InputControl(paused=body.paused, speed=body.speed, position_s=place)
        return _position(playback, await self._playing.control(playback, control))

    @route(
        "DELETE",
        "/api/playback/{session_id}",
        summary="End a playback",
        role=Role.VIEWER,
        status=204,
        tag="playback",
        errors=(404,),
    )
    async def close(self, call: Call, session_id: AnyCode) -> None:
        await asyncio.shield(self._playing.close(self._own(call, session_id), "user_left"))

    @route(
        "POST",
        "/api/playback/{session_id}/whep",
        summary="Watch a playback by WebRTC (WHEP)",
        role=Role.VIEWER,
        status=201,
        tag="playback",
        consumes="application/sdp",
        produces="application/sdp",
        errors=PLAY_ERRORS,
        max_body_bytes=MAX_OFFER_BYTES,
    )
    async def whep(self, call: Call, session_id: AnyCode, body: str) -> web.StreamResponse:
        """406 `unsupported`: this picture does not go by WebRTC; use one of the addresses."""
        if not body.startswith("v=0"):
            raise Problem(400, "the body is no SDP offer", cause="not_sdp", field="body")
        playback = self._own(call, session_id)
        viewer_id, answer = await self._outputs.attach_webrtc(playback.session, body)
        return web.Response(
            status=201,
            text=answer,
            content_type="application/sdp",
            headers={"Location": f"/api/playback/{session_id}/whep/{viewer_id}", "ETag": f'"{viewer_id}"'},
        )

    @route(
        "DELETE",
        "/api/playback/{session_id}/whep/{viewer_id}",
        summary="Stop watching a playback by WebRTC",
        role=Role.VIEWER,
        status=204,
        tag="playback",
        errors=(404,),
    )
    async def leave(self, call: Call, session_id: AnyCode, viewer_id: AnyCode) -> None:
        if not await self._outputs.close_viewer(viewer_id):
            raise not_found(f"viewer {viewer_id}")

    @route(
        "GET",
        "/api/channels/{channel_id}/recordings/download",
        summary="Download a channel's recordings as one file",
        role=Role.VIEWER,
        status=307,
        tag="playback",
        errors=(404, 409, 422, 503, 504),
        audited="playback.download",
    )
    async def download(self, call: Call, channel_id: AnyCode, query: DownloadQuery) -> web.StreamResponse:
        """Redirects to the media node that sends the file, with a ticket that runs out. 503 `busy`: too many at once.

        Files that are only in the object storage are fetched first: 504 `storage_timeout` says how far that is.
        """
        key = self._finder.key(channel_id, query.device_id)
        call.audit_detail = f"{query.start.isoformat()} {query.end.isoformat()} {query.format}"
        url = await self._playing.download(
            *key, query.start.timestamp(), query.end.timestamp(), query.format, call.host
        )
        response = web.Response(status=307)
        response.headers["Location"] = url
        add_security_headers(response, call.request.path)
        return response

    def _own(self, call: Call, session_id: str) -> Playback:
        """The caller's own playback; somebody else's does not exist for him."""
        playback = self._playing.get(session_id)
        if (
            playback is None
            or playback.owner != call.who.name
            or playback.session.info.state is not SessionState.STREAMING
        ):
            raise not_found(f"playback {session_id}")
        return playback

    async def _view(self, playback: Playback, control: InputControl, host: str) -> PlaybackView:
        position = _position(playback, await self._playing.control(playback, control))
        info = playback.session.info
        return PlaybackView(
            **position.model_dump(),
            session_id=info.session_id,
            device_id=info.device_id,
            channel_id=info.channel_id,
            start=datetime.fromtimestamp(playback.start, UTC),
            end=datetime.fromtimestamp(playback.end, UTC),
            source="own" if playback.session.history is None else "device",
            video_codec=info.video_codec,
            audio_codec=info.audio_codec,
            urls=self._outputs.viewer_urls(playback.session, host),
        )


def _position(playback: Playback, position: PlayPosition) -> PositionView:
    return PositionView(
        position_s=round(position.position_s, 3),
        at=datetime.fromtimestamp(playback.start + position.position_s, UTC),
        speed=position.speed,
        paused=position.paused,
        ended=position.ended,
    )
