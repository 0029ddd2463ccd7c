"""A small node with the RTSP server for tests: streams fed from the test picture, and a client that speaks RTSP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from port_ranges import brief_ports

from media import tickets
from media.errors import MediaError
from media.ports import PortPool
from media.pump import Pump, probe_gso
from media.readers.rtsp.messages import Interleaved
from media.readers.rtsp.server import RtspServer
from media.specs import NodeConfig, RtspAccount
from media.stream import Stream
from media.unit import AccessUnit

SECRET = "for tests only"


class RtspHouse:
    """The `RtspHost` of the tests. ``rtsp`` is the server; ``events`` what it told the gateway."""

    def __init__(self, **config: Any) -> None:
        low, high = brief_ports(100)
        values: dict[str, Any] = {
            "node_id": "test", "control": "unix:/nowhere", "control_secret": "unused", "media_host": "127.0.0.1",
            "bind_host": "127.0.0.1", "viewer_host": "127.0.0.1", "rtp_port_min": low, "rtp_port_max": high,
            "rtsp_port": 0, "ticket_secret": SECRET,
        }  # fmt: skip
        self.config = NodeConfig.model_validate({**values, **config})
        self.pump = Pump()
        self.gso = probe_gso()
        self.ports = PortPool(low, high, "127.0.0.1", 0.0)
        self.streams: dict[str, Stream] = {}
        self.opened: list[tuple[str, str]] = []
        self.closed: list[tuple[str, str]] = []
        self.events: list[Any] = []
        self.rtsp = RtspServer(self)
        self._feeding: list[asyncio.Task[None]] = []

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def stream(self, stream_id: str) -> Stream:
        if stream_id not in self.streams:
            raise MediaError("not_found", "no such stream")
        return self.streams[stream_id]

    def viewer_opened(self, stream: Stream, viewer_id: str, kind: str) -> None:
        self.opened.append((viewer_id, kind))

    def viewer_closed(self, stream: Stream, viewer_id: str, cause: str) -> None:
        self.closed.append((viewer_id, cause))

    def open(self, stream_id: str = "gate", **options: Any) -> Stream:
        stream = self.streams[stream_id] = Stream(stream_id, **options)
        return stream

    def address(self, stream_id: str = "gate", lifetime_s: float = 60.0) -> str:
        ticket = tickets.sign(SECRET, stream_id, time.time() + lifetime_s)
        return f"rtsp://127.0.0.1:{self.rtsp.port}/live/{stream_id}?ticket={ticket}"

    def feed(self, stream: Stream, units: list[AccessUnit], span_s: float, turns: int = 1000) -> None:
        """Publish ``units`` again and again in real time; each turn takes ``span_s``. The stream ends after the last."""
        self._feeding.append(asyncio.create_task(self._feed(stream, units, span_s, turns)))

    async def _feed(self, stream: Stream, units: list[AccessUnit], span_s: float, turns: int) -> None:
        started, span = time.monotonic(), round(span_s * 90_000)
        for turn in range(turns):
            for unit in units:
                due = started + turn * span_s + unit.dts / 90_000
                if (delay := due - time.monotonic()) > 0:
                    await asyncio.sleep(delay)
                shift = turn * span
                stream.publish(
                    replace(unit, pts=unit.pts + shift, dts=unit.dts + shift, arrival_mono=time.monotonic())
                )
        stream.close("ended")

    async def stop(self) -> None:
        for task in self._feeding:
            task.cancel()
        await asyncio.gather(*self._feeding, return_exceptions=True)
        await self.rtsp.close()
        for stream in self.streams.values():
            stream.close()
        self.pump.close()
        self.ports.close()


@contextlib.asynccontextmanager
async def rtsp_house(**config: Any) -> AsyncIterator[RtspHouse]:
    house = RtspHouse(**config)
    await house.rtsp.start()
    try:
        yield house
    finally:
        await house.stop()


def account(username: str, password: str, realm: str = "gb28181-gateway") -> RtspAccount:
    import hashlib

    text = f"{username}:{realm}:{password}".encode()
    return RtspAccount(
        username=username, ha1_md5=hashlib.md5(text).hexdigest(), ha1_sha256=hashlib.sha256(text).hexdigest()
    )


@dataclass
class Answer:
    status: int
    headers: dict[str, list[str]]
    body: bytes

    def get(self, name: str) -> str:
        return self.headers.get(name.lower(), [""])[0]


@dataclass
class Client:
    """A bare RTSP client: sends what it is told and takes answers and packets apart."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    session: str = ""
    cseq: int = 0
    packets: list[Interleaved] = field(default_factory=list)

    @classmethod
    async def connect(cls, port: int) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        return cls(reader, writer)

    async def ask(self, method: str, uri: str, *lines: str, body: bytes = b"") -> Answer:
        self.cseq += 1
        head = [f"{method} {uri} RTSP/1.0", f"CSeq: {self.cseq}", *lines]
        if self.session:
            head.append(f"Session: {self.session}")
        if body:
            head.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*head, "", ""]).encode() + body)
        answer = await self.answer()
        assert answer.get("cseq") == str(self.cseq)
        if named := answer.get("session"):
            self.session = named.split(";")[0]
        return answer

    async def answer(self) -> Answer:
        """The next response; packets on the way to it are kept."""
        async with asyncio.timeout(30):
            while (packet := await self._packet()) is not None:
                self.packets.append(packet)
            first = await self.reader.readline()
            assert first.startswith(b"RTSP/1.0 "), first
            headers: dict[str, list[str]] = {}
            while (line := (await self.reader.readline()).decode().strip()) != "":
                name, _, value = line.partition(":")
                headers.setdefault(name.lower(), []).append(value.strip())
            body = await self.reader.readexactly(int(headers.get("content-length", ["0"])[0]))
        return Answer(int(first.split()[1]), headers, body)

    async def _packet(self) -> Interleaved | None:
        first = await self.reader.readexactly(1)
        if first != b"$":
            self.reader.feed_data(b"")  # keep the limit honest
            self.reader._buffer[:0] = first  # type: ignore[attr-defined]
            return None
        channel, high, low = await self.reader.readexactly(3)
        return Interleaved(channel, await self.reader.readexactly(high << 8 | low))

    async def take(self, count: int, channel: int | None = 0) -> list[bytes]:
        """The next ``count`` packets of a channel (None: of any)."""
        found: list[bytes] = []
        async with asyncio.timeout(30):
            while len(found) < count:
                packet = self.packets.pop(0) if self.packets else await self._packet()
                assert packet is not None
                if channel is None or packet.channel == channel:
                    found.append(packet.data)
        return found

    async def play(self, address: str) -> Answer:
        """DESCRIBE, SETUP of each track over this connection, PLAY; the answer to PLAY."""
        described = await self.ask("DESCRIBE", address)
        assert described.status == 200, described
        base = described.get("content-base")
        for number, track in enumerate(tracks(described.body)):
            transport = f"Transport: RTP/AVP/TCP;unicast;interleaved={2 * number}-{2 * number + 1}"
            assert (await self.ask("SETUP", base + track, transport)).status == 200
        return await self.ask("PLAY", base, "Range: npt=0.000-")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def tracks(sdp: bytes) -> list[str]:
    return [
        line[10:] for line in sdp.decode().splitlines() if line.startswith("a=control:") and "*" not in line
    ]
