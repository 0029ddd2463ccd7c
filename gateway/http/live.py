"""Live pictures over HTTP: WHEP for WebRTC, addresses of all other outputs, snapshots, key frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from aiohttp import web
from pydantic import Field

from gateway.http.channels import ChannelFinder
from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, View, route
from gateway.http.server import add_security_headers
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role

if TYPE_CHECKING:
    from gateway.services.session_record import LiveSession

MAX_OFFER_BYTES = 64 * 1024
PLAY_ERRORS = (404, 406, 409, 503, 504)


class Pictures(Protocol):
    """The part of gateway.services.sessions.Sessions that viewers need."""

    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> LiveSession: ...

    async def fitting(
        self,
        device_id: str,
        channel_id: str,
        accept: frozenset[str],
        *,
        stream_number: int = 0,
        transport: str | None = None,
    ) -> LiveSession: ...

    async def whep(
        self,
        device_id: str,
        channel_id: str,
        offer_sdp: str,
        *,
        stream_number: int = 0,
        accept: frozenset[str] | None = None,
    ) -> tuple[str, str]: ...

    async def close_viewer(self, viewer_id: str) -> bool: ...

    def viewer_urls(self, session: LiveSession, request_host: str = "localhost") -> dict[str, str]: ...

    async def snapshot(self, device_id: str, channel_id: str) -> bytes: ...


class KeyFrames(Protocol):
    async def key_frame(self, device_id: str, channel_id: str, who: str = "") -> bool: ...


class WatchQuery(WhichDevice):
    stream: int = Field(default=0, ge=0, le=9, description="0 main stream, 1 first sub stream ...")
    accept: str | None = Field(
        default=None,
        pattern=r"^(h264|h265)(,(h264|h265))?$",
        description="Video codecs that the viewer can play, such as `h264`. Another picture is then taken from the camera's "
        "sub stream if that fits, else transcoded; left out: the picture as it is.",
    )

    @property
    def codecs(self) -> frozenset[str] | None:
        return None if self.accept is None else frozenset(self.accept.split(","))


class OutputQuery(WatchQuery):
    audio: Literal["0", "1", "g711"] = Field(
        default="1",
        description="0 leaves the sound out; g711 leaves G.711 as it is in FLV (otherwise it becomes AAC).",
    )
    hevc: Literal["legacy", "enhanced"] = Field(
        default="legacy",
        description="How FLV carries H.265: codec id 12 (mpegts.js, Chinese players) or enhanced (FFmpeg, OBS).",
    )


class FixedQuery(OutputQuery):
    token: str | None = Field(
        default=None,
        description="An API token of the role viewer, for players that cannot send headers. Others are refused here.",
    )


class PlayQuery(OutputQuery):
    transport: Literal["udp", "tcp_passive", "tcp_active"] | None = Field(
        default=None, description="How the device shall send; ignored when the channel is live already."
    )


class LiveView(View):
    """A running picture and where to get it. The addresses carry tickets that run out."""

    session_id: str
    device_id: str
    channel_id: str
    stream_id: str
    transport: str
    video_codec: str
    audio_codec: str
    first_picture_s: float | None
    fmp4: str = Field(description="Fragmented MP4 over HTTP.")
    ws: str = Field(
        description="Fragmented MP4 over WebSocket: a JSON text with `mime`, then binary fragments."
    )
    flv: str = Field(description="FLV over HTTP.")
    ws_flv: str = Field(description="FLV over WebSocket.")
    ts: str = Field(description="MPEG-TS over HTTP.")
    hls: str = Field(description="HLS, with parts for players that know low latency.")
    rtsp: str = Field(default="", description="RTSP over TCP or UDP; empty where it is off.")


FORMS = {"mp4": "fmp4", "flv": "flv", "ts": "ts", "m3u8": "hls"}
"""Outputs by the ending of their fixed address."""
FLV = frozenset(("flv", "ws_flv"))
SILENCED = frozenset((*FORMS.values(), "ws", "ws_flv"))
"""Outputs whose addresses know ``audio=0``."""


def with_options(urls: dict[str, str], query: OutputQuery) -> dict[str, str]:
    """The addresses with what the caller wants to be different, where the output knows it."""

    def options(output: str) -> str:
        text = "&hevc=enhanced" if query.hevc == "enhanced" and output in FLV else ""
        if query.audio == "0" and output in SILENCED:
            return text + "&audio=0"
        return text + "&audio=g711" if query.audio == "g711" and output in FLV else text

    return {output: url + options(output) for output, url in urls.items()}


class KeyFrameAsked(View):
    asked: bool = Field(
        description="False: left out (one was asked for just now) or not taken by the device."
    )


class LiveResource:
    def __init__(self, *, registry: Registry, pictures: Pictures, key_frames: KeyFrames) -> None:
        self._finder = ChannelFinder(registry)
        self._pictures = pictures
        self._key_frames = key_frames

    @route(
        "POST",
        "/api/channels/{channel_id}/whep",
        summary="Watch by WebRTC (WHEP)",
        role=Role.VIEWER,
        status=201,
        tag="live",
        consumes="application/sdp",
        produces="application/sdp",
        errors=PLAY_ERRORS,
        max_body_bytes=MAX_OFFER_BYTES,
        audited="live.whep",
    )
    async def whep(self, call: Call, channel_id: AnyCode, query: WatchQuery, body: str) -> web.StreamResponse:
        """Offer in, answer out; all candidates are in the answer. DELETE the Location to stop watching.

        406 `unsupported`: this picture (H.265, or H.264 with B-frames) does not go by WebRTC; ask for `live`, or with
        `accept=h264`. 503 `transcoders_busy`: it could only be transcoded, and as many are as the node may.
        """
        if not body.startswith("v=0"):
            raise Problem(400, "the body is no SDP offer", cause="not_sdp", field="body")
        key = self._finder.key(channel_id, query.device_id)
        codecs = query.codecs
        if codecs is None:
            viewer_id, answer = await self._pictures.whep(*key, body, stream_number=query.stream)
        else:
            viewer_id, answer = await self._pictures.whep(
                *key, body, stream_number=query.stream, accept=codecs
            )
        return web.Response(
            status=201,
            text=answer,
            content_type="application/sdp",
            headers={"Location": f"/api/channels/{channel_id}/whep/{viewer_id}", "ETag": f'"{viewer_id}"'},
        )

    async def _session(
        self, key: tuple[str, str], query: WatchQuery, transport: str | None = None
    ) -> LiveSession:
        codecs = query.codecs
        if codecs is None:
            return await self._pictures.play(*key, stream_number=query.stream, transport=transport)
        return await self._pictures.fitting(*key, codecs, stream_number=query.stream, transport=transport)

    @route(
        "DELETE",
        "/api/channels/{channel_id}/whep/{viewer_id}",
        summary="Stop watching by WebRTC",
        role=Role.VIEWER,
        status=204,
        tag="live",
        errors=(404,),
    )
    async def leave(self, call: Call, channel_id: AnyCode, viewer_id: AnyCode) -> None:
        if not await self._pictures.close_viewer(viewer_id):
            raise not_found(f"viewer {viewer_id}")

    @route(
        "POST",
        "/api/channels/{channel_id}/live",
        summary="Start watching; the addresses of all outputs",
        role=Role.VIEWER,
        tag="live",
        errors=PLAY_ERRORS,
        audited="live.play",
    )
    async def live(self, call: Call, channel_id: AnyCode, query: PlayQuery) -> LiveView:
        """Opens the stream if nobody watches it yet; returns when the first picture is there."""
        key = self._finder.key(channel_id, query.device_id)
        session = await self._session(key, query, query.transport)
        info = session.info
        return LiveView(
            session_id=info.session_id,
            device_id=info.device_id,
            channel_id=info.channel_id,
            stream_id=info.stream_id,
            transport=info.transport,
            video_codec=info.video_codec,
            audio_codec=info.audio_codec,
            first_picture_s=info.first_picture_s,
            **with_options(self._pictures.viewer_urls(session, call.host), query),
        )

    @route(
        "GET",
        "/api/channels/{channel_id}/live.{form:mp4|flv|ts|m3u8}",
        summary="Fixed address of a channel's live picture",
        role=Role.VIEWER,
        status=307,
        tag="live",
        errors=PLAY_ERRORS,
        audited="live.play",
        token_in_query=True,
    )
    async def fixed(
        self, call: Call, channel_id: AnyCode, form: Literal["mp4", "flv", "ts", "m3u8"], query: FixedQuery
    ) -> web.StreamResponse:
        """Starts the camera when needed and redirects to the media node, with a fresh ticket."""
        key = self._finder.key(channel_id, query.device_id)
        session = await self._session(key, query)
        urls = with_options(self._pictures.viewer_urls(session, call.host), query)
        response = web.Response(status=307)
        response.headers["Location"] = urls[FORMS[form]]
        add_security_headers(response, call.request.path)
        return response

    @route(
        "GET",
        "/api/channels/{channel_id}/snapshot",
        summary="A JPEG of what the channel shows now",
        role=Role.VIEWER,
        tag="live",
        produces="image/jpeg",
        errors=PLAY_ERRORS,
        audited="live.snapshot",
    )
    async def snapshot(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> web.StreamResponse:
        key = self._finder.key(channel_id, query.device_id)
        jpeg = await self._pictures.snapshot(*key)
        return web.Response(body=jpeg, content_type="image/jpeg")

    @route(
        "POST",
        "/api/channels/{channel_id}/key-frame",
        summary="Ask the camera for a key frame",
        role=Role.OPERATOR,
        status=202,
        tag="control",
        errors=(404, 409),
    )
    async def key_frame(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> KeyFrameAsked:
        key = self._finder.key(channel_id, query.device_id)
        return KeyFrameAsked(asked=await self._key_frames.key_frame(*key, who=call.who.name))
