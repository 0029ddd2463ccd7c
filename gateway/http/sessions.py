"""Media sessions over HTTP: what runs now, how well it arrives, and the way to stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from gateway.http.errors import not_found
from gateway.http.routes import Call, View, route
from gateway.http.views import AnyCode, SessionView
from gateway.model import SessionInfo
from gateway.registry import Registry
from gateway.services.access import Role
from media.specs import AudioTrack, StreamStats, VideoTrack
from sip.ids import format_ssrc

if TYPE_CHECKING:
    from gateway.services.session_record import LiveSession


class SessionsPort(Protocol):
    """The part of gateway.services.sessions.Sessions that this resource needs."""

    def list(self) -> list[SessionInfo]: ...
    def get(self, session_id: str) -> LiveSession | None: ...
    async def stop(self, session_id: str, cause: str = "operator") -> None: ...


class StatsView(View):
    """Counters since the stream was opened; clients derive rates from two answers."""

    video: VideoTrack | None
    audio: AudioTrack | None
    source: str | None
    packets: int
    bytes: int
    lost: int
    reordered: int
    late: int
    ssrc_faults: int
    foreign_packets: int
    damaged_units: int
    video_units: int = Field(description="Pictures received.")
    audio_units: int
    key_units: int
    viewers: int
    senders: int
    reader_drops: int
    last_packet_age_s: float | None
    media_mismatch: str | None


class SessionDetail(SessionView):
    stats: StatsView | None = Field(description="null while it is being opened.")


class SessionList(View):
    items: list[SessionView]


class SessionResource:
    def __init__(self, *, registry: Registry, sessions: SessionsPort) -> None:
        self._registry = registry
        self._sessions = sessions

    @route("GET", "/api/sessions", summary="List media sessions", role=Role.VIEWER, tag="sessions")
    async def list(self, call: Call) -> SessionList:
        return SessionList(items=[SessionView(**self._fields(info)) for info in self._sessions.list()])

    @route(
        "GET",
        "/api/sessions/{session_id}",
        summary="Show one session with what its media node counts",
        role=Role.VIEWER,
        tag="sessions",
        errors=(404, 503),
    )
    async def show(self, call: Call, session_id: AnyCode) -> SessionDetail:
        session = self._sessions.get(session_id)
        if session is None:
            raise not_found(f"session {session_id}")
        stats: StreamStats | None = None
        if session.streaming and session.node is not None and session.node.alive:
            stats = await session.node.client.stream(session.stream_id)
        view = StatsView.model_validate(stats) if stats is not None else None
        return SessionDetail(**self._fields(session.info), stats=view)

    @route(
        "DELETE",
        "/api/sessions/{session_id}",
        summary="Stop a session for all its viewers",
        role=Role.OPERATOR,
        status=204,
        tag="sessions",
        errors=(404,),
        audited="session.stop",
    )
    async def stop(self, call: Call, session_id: AnyCode) -> None:
        await self._sessions.stop(session_id, "operator")

    def _fields(self, info: SessionInfo) -> dict[str, object]:
        channel = self._registry.channel(info.device_id, info.channel_id)
        fields = {
            name: getattr(info, name)
            for name in SessionView.model_fields
            if name not in ("ssrc", "uppers", "channel_name")
        }
        fields["ssrc"] = format_ssrc(info.ssrc) if info.ssrc is not None else None
        fields["uppers"] = list(info.uppers)
        fields["channel_name"] = channel.name if channel is not None else ""
        return fields
