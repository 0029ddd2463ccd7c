"""A small node for the readers' tests: streams fed from the test picture, the readers' routes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from aioice import ice
from port_ranges import kept_ports
from rtc_player import Player

from media import tickets
from media.errors import MediaError
from media.pump import Pump
from media.readers import live, snapshot, webrtc
from media.specs import NodeConfig
from media.stream import Stream
from media.unit import AccessUnit
from simulator.picture import TestPicture, tone

SECRET = "for tests only"
LOOP_S = 2.0
WEBRTC_PORTS = kept_ports(200)


@dataclass
class Seen:
    opened: list[tuple[str, str]]
    closed: list[tuple[str, str]]


class ReaderNode:
    """The `ReaderHost` of the tests: what `media.node.Node` shows to readers, and nothing else."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.pump = Pump()
        self.streams: dict[str, Stream] = {}
        self.seen = Seen([], [])
        self.sessions: list[ClientSession] = []
        self.base = ""
        self.webrtc: webrtc.WebRtcRoutes
        self.feeding: set[asyncio.Task[None]] = set()

    def stream(self, stream_id: str) -> Stream:
        if stream_id not in self.streams:
            raise MediaError("not_found", "no such stream")
        return self.streams[stream_id]

    def viewer_opened(self, stream: Stream, viewer_id: str, kind: str) -> None:
        self.seen.opened.append((viewer_id, kind))

    def viewer_closed(self, stream: Stream, viewer_id: str, cause: str) -> None:
        self.seen.closed.append((viewer_id, cause))

    def open(self, stream_id: str = "gate", **options: int) -> Stream:
        stream = self.streams[stream_id] = Stream(stream_id, **options)
        return stream

    def ticket(self, stream_id: str = "gate", lifetime_s: float = 60) -> str:
        return tickets.sign(SECRET, stream_id, time.time() + lifetime_s)

    def url(self, path: str) -> str:
        return self.base + path

    def feed(
        self, stream: Stream, picture: TestPicture | None = None, *, audio: bool = True, speed: float = 1.0
    ) -> asyncio.Task[None]:
        """Publish a loop of test picture and tone in real time (times ``speed``) until the test ends."""
        task = asyncio.create_task(self._feed(stream, looped(picture, audio=audio), speed))
        self.feeding.add(task)
        return task

    async def _feed(self, stream: Stream, units: list[AccessUnit], speed: float) -> None:
        started = time.monotonic()
        span = round(LOOP_S * 90_000)
        turn = 0
        while not stream.closed:
            for unit in units:
                due = started + (turn * LOOP_S + unit.dts / 90_000) / speed
                if (delay := due - time.monotonic()) > 0:
                    await asyncio.sleep(delay)
                shift = turn * span
                stream.publish(
                    replace(unit, pts=unit.pts + shift, dts=unit.dts + shift, arrival_mono=time.monotonic())
                )
            turn += 1


def looped(picture: TestPicture | None = None, *, audio: bool = True) -> list[AccessUnit]:
    """Two seconds of picture and sound in decoding order."""
    picture = picture or TestPicture(352, 288)
    units = picture.encoded_loop(LOOP_S)
    if audio:
        units += tone(LOOP_S)
    return sorted(units, key=lambda unit: unit.dts)


@web.middleware
async def problems(request: web.Request, handler: Callable[..., object]) -> web.StreamResponse:
    try:
        return await handler(request)  # type: ignore[misc,no-any-return]
    except MediaError as error:
        return web.json_response({"status": error.status, "code": error.code}, status=error.status)


@pytest.fixture
def node_config() -> NodeConfig:
    return NodeConfig(
        node_id="test",
        control="unix:/nowhere",
        control_secret="unused",
        media_host="127.0.0.1",
        bind_host="127.0.0.1",
        webrtc_port=0,
        webrtc_port_min=WEBRTC_PORTS[0],
        webrtc_port_max=WEBRTC_PORTS[1],
        ticket_secret=SECRET,
    )


@pytest.fixture
async def reader_node(node_config: NodeConfig) -> AsyncIterator[ReaderNode]:
    node = ReaderNode(node_config)
    app = web.Application(middlewares=[problems])
    live.add_viewer_routes(app, node)
    node.webrtc = webrtc.add_control_routes(app, node)
    snapshot.add_control_routes(app, node)
    server = TestServer(app)
    await server.start_server()
    node.base = str(server.make_url("")).rstrip("/")
    try:
        yield node
    finally:
        for task in node.feeding:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for stream in node.streams.values():
            stream.close()
        await server.close()
        node.pump.close()


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


@pytest.fixture
async def player(
    reader_node: ReaderNode, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Player]:
    # The playing side, too, must use loopback only; our own side does not ask this function for it.
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    player = Player(http, reader_node)
    yield player
    await player.peer.close()
