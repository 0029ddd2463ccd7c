"""Pictures and sounds for the media tests: encoded once per session, or made byte by byte; a node of one's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from port_ranges import brief_ports

from media import compiled, key_watch
from media import node as node_module
from media.client import MediaClient
from media.node import Node
from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.specs import NodeConfig, NodeEvent
from media.unit import AccessUnit, Codec

SECRET = "control secret of the tests"
SSRC = 183000001


def encode(
    encoder: str, codec: Codec, *, seconds: float = 2.0, gop: int = 25, options: dict[str, str]
) -> list[AccessUnit]:
    """A noisy moving picture of 320x240 at 25 per second, with parameter sets in front of each key frame."""
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 320, 240, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.gop_size, context.max_b_frames, context.options = gop, 0, options
    noise = np.random.default_rng(7).integers(0, 255, (360, 640), dtype=np.uint8)
    units: list[AccessUnit] = []
    packets = []
    for number in range(int(seconds * 25)):
        picture = np.ascontiguousarray(noise[:, number * 3 : number * 3 + 320])
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    for packet in packets:
        assert packet.pts is not None
        assert packet.dts is not None
        units.append(
            AccessUnit(codec, packet.pts * 3600, packet.dts * 3600, packet.is_keyframe, bytes(packet))
        )
    return units


@pytest.fixture(scope="session")
def h264_units() -> list[AccessUnit]:
    return encode(
        "libx264",
        Codec.H264,
        options={
            "preset": "ultrafast",
            "tune": "zerolatency",
            "b": "600k",
            "x264-params": "sliced-threads=0:threads=1",
        },
    )


@pytest.fixture(scope="session")
def h265_units() -> list[AccessUnit]:
    return encode(
        "libx265",
        Codec.H265,
        options={
            "preset": "ultrafast",
            "tune": "zerolatency",
            "x265-params": "log-level=none:repeat-headers=1:pools=1",
        },
    )


@dataclass
class Sender:
    """A camera's media side: packs units, cuts packets, counts what it sent."""

    units: list[AccessUnit]
    ssrc: int = SSRC
    payload_type: int = 96
    audio: bool = False
    muxer: PsMuxer = field(init=False)
    packetizer: RtpPacketizer = field(init=False)

    def __post_init__(self) -> None:
        self.muxer = PsMuxer(self.units[0].codec, Codec.PCMA if self.audio else None)
        self.packetizer = RtpPacketizer(self.ssrc, self.payload_type)

    def frames(self) -> Iterator[list[bytes]]:
        """The packets of each unit, one list per frame; video of 40 ms each, sound of 40 ms beside it."""
        for unit in self.units:
            yield self.packetizer.packets(self.muxer.mux(unit), unit.dts)
            if self.audio:
                sound = AccessUnit(Codec.PCMA, unit.dts, unit.dts, False, bytes((0xD5,)) * 320)
                yield self.packetizer.packets(self.muxer.mux(sound), unit.dts + 1)

    def packets(self) -> list[bytes]:
        return [packet for frame in self.frames() for packet in frame]


@dataclass
class RunningNode:
    """A node inside the test's loop with a client on its real control API."""

    node: Node
    client: MediaClient
    seen: list[NodeEvent] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        async def collect() -> None:
            async for event in self.client.events():
                self.seen.append(event)

        self._task = asyncio.create_task(collect())

    async def event(self, kind: str, timeout_s: float = 10.0) -> NodeEvent:
        async with asyncio.timeout(timeout_s):
            while True:
                for event in self.seen:
                    if event.type == kind:
                        return event
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.client.close()
        await self.node.close()


def node_config(directory: Path, **options: object) -> NodeConfig:
    low, high = brief_ports(200)
    values: dict[str, object] = {
        "node_id": "node-1", "control": f"unix:{directory}/control.sock", "control_secret": SECRET,
        "media_host": "127.0.0.1", "bind_host": "127.0.0.1", "rtp_port_min": low, "rtp_port_max": high,
        "viewer_host": "127.0.0.1", "viewer_port": 0, "ticket_secret": "tickets", "port_quarantine_s": 0.5,
    }  # fmt: skip
    return NodeConfig.model_validate({**values, **options})


@pytest.fixture
def pump(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pump of the running node: python unless a test asks for both.

    The compiled one takes sessions over as soon as it may, so that short tests see it at work.
    """
    kind = str(getattr(request, "param", "python"))
    if kind == "compiled":
        if compiled.reason:
            pytest.skip(f"the compiled pump cannot be used: {compiled.reason}")
        monkeypatch.setattr(key_watch, "_AGREED_UNITS", 3)
        monkeypatch.setattr(key_watch, "_AGREED_KEYS", 1)
        monkeypatch.setattr(node_module, "CHECK_S", 0.02)
    return kind


@pytest.fixture
async def running_node(tmp_path: Path, pump: str) -> AsyncIterator[RunningNode]:
    config = node_config(tmp_path, pump=pump)
    node = Node(config)
    await node.start()
    client = MediaClient(config.control, SECRET)
    await client.start()
    running = RunningNode(node, client)
    await running.listen()
    yield running
    await running.stop()


@pytest.fixture
def udp_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def sender_of() -> type[Sender]:
    return Sender


@pytest.fixture
def node_settings() -> Callable[..., NodeConfig]:
    return node_config
