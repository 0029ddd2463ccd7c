"""Whether the gateway lives and is ready (open to load balancers), and what it is (for the console)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from aiohttp import web
from pydantic import Field

from gateway import __version__
from gateway.http.routes import Call, View, route
from gateway.http.server import add_security_headers
from gateway.model import PlatformState, PlatformStatus
from gateway.networks import AddressFault
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.census import Census

if TYPE_CHECKING:
    from gateway.services.nodes import NodeHandle

Check = Callable[[], bool]


class Liveness(View):
    status: str


class Readiness(View):
    ready: bool
    parts: dict[str, bool] = Field(description="Each part that must work: sip, storage, media.")


class CountView(View):
    online: int
    total: int


class Counts(View):
    devices: CountView
    cameras: CountView
    sessions: int
    platforms: CountView


class NodeView(View):
    node_id: str
    alive: bool
    viewer_port: int
    rtsp_port: int = Field(default=0, description="0: no RTSP here.")
    streams: int
    senders: int
    viewers: int
    ports_free: int
    loop_lag_s: float
    pump: str


class SystemView(View):
    version: str
    server_id: str
    domain: str
    sip: list[str] = Field(description="Where devices reach us, as transport:address:port.")
    started_at: datetime
    uptime_s: float
    counts: Counts
    nodes: list[NodeView]


class SystemInfo(Protocol):
    """What the gateway knows of itself."""

    @property
    def server_id(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def nodes(self) -> Callable[[], Iterable[NodeHandle]]: ...
    def sip_addresses(self, seen_from: str) -> list[str]: ...
    def session_count(self) -> int: ...
    def platform_counts(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """SystemInfo out of the gateway's parts."""

    server_id: str
    domain: str
    own_address: Callable[[str], str]
    """What a peer at this host is told as our address; raises AddressFault when none is known."""
    sip_port: Callable[[], int]
    nodes: Callable[[], Iterable[NodeHandle]]
    sessions: Callable[[], Sized]
    platforms: Callable[[], Iterable[PlatformStatus]]

    def sip_addresses(self, seen_from: str) -> list[str]:
        """Where a camera in the caller's network reaches us."""
        try:
            host = self.own_address(seen_from or "192.0.2.1")
        except AddressFault:
            return []
        shown = f"[{host}]" if ":" in host else host
        return [f"{transport}:{shown}:{self.sip_port()}" for transport in ("udp", "tcp")]

    def session_count(self) -> int:
        return len(self.sessions())

    def platform_counts(self) -> tuple[int, int]:
        enabled = [s for s in self.platforms() if s.state is not PlatformState.DISABLED]
        return sum(s.state is PlatformState.ONLINE for s in enabled), len(enabled)


class HealthResource:
    """``checks`` are looked at on each question; all of them must hold for the gateway to be ready."""

    def __init__(
        self, *, registry: Registry, census: Census, system: SystemInfo, checks: dict[str, Check]
    ) -> None:
        self._registry = registry
        self._census = census
        self._system = system
        self._checks = checks
        self._started_at = datetime.now(UTC)
        self._started_mono = time.monotonic()

    @route("GET", "/health/live", summary="The process answers", role=None, tag="system")
    async def live(self, call: Call) -> Liveness:
        return Liveness(status="live")

    @route("GET", "/health/ready", summary="The gateway can serve", role=None, tag="system", errors=(503,))
    async def ready(self, call: Call) -> web.StreamResponse:
        """200 when every part works, else 503; the same body in both cases."""
        parts = {name: check() for name, check in self._checks.items()}
        view = Readiness(ready=all(parts.values()), parts=parts)
        response = web.Response(
            status=200 if view.ready else 503,
            body=view.model_dump_json().encode(),
            content_type="application/json",
        )
        add_security_headers(response, call.request.path)
        return response

    @route("GET", "/api/system", summary="Version, addresses, counts, nodes", role=Role.VIEWER, tag="system")
    async def system(self, call: Call) -> SystemView:
        census = await self._census.fresh()
        devices = self._registry.devices.values()
        online, total = self._system.platform_counts()
        return SystemView(
            version=__version__,
            server_id=self._system.server_id,
            domain=self._system.domain,
            sip=self._system.sip_addresses(call.source),
            started_at=self._started_at,
            uptime_s=round(time.monotonic() - self._started_mono, 1),
            counts=Counts(
                devices=CountView(online=sum(device.online for device in devices), total=len(devices)),
                cameras=CountView(online=census.cameras.online, total=census.cameras.total),
                sessions=self._system.session_count(),
                platforms=CountView(online=online, total=total),
            ),
            nodes=[_node_view(handle) for handle in self._system.nodes()],
        )


def _node_view(handle: NodeHandle) -> NodeView:
    stats = handle.stats
    return NodeView(
        node_id=handle.node_id,
        alive=handle.alive,
        viewer_port=handle.viewer_port,
        rtsp_port=handle.rtsp_port,
        streams=stats.streams if stats else 0,
        senders=stats.senders if stats else 0,
        viewers=stats.viewers if stats else 0,
        ports_free=stats.ports_free if stats else 0,
        loop_lag_s=stats.loop_lag_s if stats else 0.0,
        pump=stats.pump if stats else "",
    )
