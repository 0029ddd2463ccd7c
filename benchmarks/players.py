"""Players of the benchmarks: they watch by every output of a node, count what comes and decode nothing.

All have ``open()``, ``received`` (bytes; WebRTC and RTSP over UDP: packets) and ``close()``. OSError or RuntimeError
when they may not watch.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import time
from typing import Any, Protocol
from urllib.parse import urljoin

from aiohttp import ClientError, ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from benchmarks.nodes import SECRET, RunningNode
from media import tickets
from media.client import MediaClient, MediaError
from media.specs import WebRtcOffer

OPEN_S = 20.0
HTTP_KINDS = {"fmp4": ".mp4", "flv": ".flv", "ts": ".ts"}
SOCKET_KINDS = {"ws": "/ws", "ws_flv": "/ws.flv"}


class Player(Protocol):
    """One viewer."""

    received: int

    async def open(self) -> None: ...

    async def close(self) -> None: ...


def ticket(stream_id: str) -> str:
    return tickets.sign(SECRET, stream_id, time.time() + 7200)


class HttpPlayer(asyncio.Protocol):
    """Asks for an endless file; with ``upgrade`` for a WebSocket, whose frames are counted as they are."""

    def __init__(self, port: int, path: str, stream_id: str, *, upgrade: bool = False) -> None:
        self.received = 0
        self._port = port
        key = base64.b64encode(os.urandom(16)).decode()
        asked = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        extra = asked if upgrade else ""
        self._request = (
            f"GET {path}?ticket={ticket(stream_id)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{extra}\r\n"
        )
        self._wanted = b"HTTP/1.1 101" if upgrade else b"HTTP/1.1 200"
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._transport.write(self._request.encode())
        async with asyncio.timeout(OPEN_S):
            head = await self._answered
        if not head.startswith(self._wanted):
            raise RuntimeError(f"{self._request.split()[1]}: {head[:80]!r}")

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if not self._answered.done():
            self._answered.set_result(data)
        self.received += len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_result(b"connection lost")


class HlsPlayer:
    """Opens a session and fetches every part and segment that the media playlist names, like a player without seeking."""

    def __init__(self, port: int, stream_id: str) -> None:
        self.received = 0
        self._url = f"http://127.0.0.1:{port}/live/{stream_id}.m3u8?ticket={ticket(stream_id)}"
        self._session: ClientSession | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._session = ClientSession()
        async with asyncio.timeout(OPEN_S):
            master = await self._get(self._url)
        names = [line for line in master.decode().splitlines() if line and not line.startswith("#")]
        self._task = asyncio.create_task(self._follow(urljoin(self._url, names[0])))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str) -> bytes:
        assert self._session is not None
        async with self._session.get(url) as response:
            if response.status != 200:
                raise RuntimeError(f"{url}: {response.status}")
            return await response.read()

    async def _follow(self, url: str) -> None:
        seen: set[str] = set()
        try:
            while True:
                text = (await self._get(url)).decode()
                names = re.findall(r'#EXT-X-PART:.*?URI="([^"]+)"', text)
                for name in names:
                    if name not in seen:
                        seen.add(name)
                        self.received += len(await self._get(urljoin(url, name)))
                await asyncio.sleep(0.2)
        except (ClientError, RuntimeError):
            return


class RtspPlayer(asyncio.Protocol):
    """DESCRIBE, SETUP of each track, PLAY; packets inside the connection, or by UDP to ports of its own."""

    def __init__(self, port: int, stream_id: str, *, udp: bool = False) -> None:
        self.received = 0
        self.sockets: list[socket.socket] = []
        self._port = port
        self._url = f"rtsp://127.0.0.1:{port}/live/{stream_id}?ticket={ticket(stream_id)}"
        self._udp = udp
        self._text = b""
        self._playing = False
        self._session = ""
        self._count = 0
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        async with asyncio.timeout(OPEN_S):
            described = await self._ask("DESCRIBE", self._url)
            head, _, sdp = described.partition(b"\r\n\r\n")
            found = re.search(rb"Content-Base: *(\S+)", head, re.IGNORECASE)
            base = found[1].decode() if found else self._url
            tracks = re.findall(r"a=control:(trackID=\d+)", sdp.decode())
            for number, track in enumerate(tracks):
                answer = await self._ask("SETUP", base + track, f"Transport: {self._transport_line(number)}")
                self._session = (re.search(rb"Session: *([^;\r\n]+)", answer) or [b"", b""])[1].decode()
            self._playing = True
            await self._ask("PLAY", base)

    def _transport_line(self, number: int) -> str:
        if not self._udp:
            return f"RTP/AVP/TCP;unicast;interleaved={2 * number}-{2 * number + 1}"
        pair = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for sock in pair:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        ports = bind_pair(pair)
        self.sockets += pair
        return f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]}"

    async def _ask(self, method: str, url: str, *lines: str) -> bytes:
        assert self._transport is not None
        self._count += 1
        self._answer = asyncio.get_running_loop().create_future()
        session = [f"Session: {self._session}"] if self._session else []
        request = "\r\n".join([f"{method} {url} RTSP/1.0", f"CSeq: {self._count}", *lines, *session, "", ""])
        self._transport.write(request.encode())
        answer = await self._answer
        if not answer.startswith(b"RTSP/1.0 200"):
            raise RuntimeError(f"{method}: {answer[:120]!r}")
        return answer

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._answer is None or self._answer.done():
            return
        self._text += data
        head, end, body = self._text.partition(b"\r\n\r\n")
        if not end:
            return
        length = re.search(rb"Content-Length: *(\d+)", head, re.IGNORECASE)
        if length is None or len(body) >= int(length[1]):
            self._answer.set_result(self._text)
            self._text = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(b"connection lost")

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        for sock in self.sockets:
            sock.close()


def bind_pair(pair: list[socket.socket]) -> tuple[int, int]:
    """An even port and the next one."""
    for _ in range(200):
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] & ~1
        probe.close()
        try:
            pair[0].bind(("127.0.0.1", port))
        except OSError:
            continue
        try:
            pair[1].bind(("127.0.0.1", port + 1))
        except OSError:
            pair[0].close()
            pair[0] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            pair[0].setblocking(False)
            continue
        return port, port + 1
    raise OSError("no pair of free ports")


class RtcPlayer:
    """WebRTC by the node's control API; packets are counted when they were decrypted, and decoded by nobody."""

    def __init__(self, client: MediaClient, stream_id: str, viewer_id: str) -> None:
        self.received = 0
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._client = client
        self._stream_id = stream_id
        self._viewer_id = viewer_id

    async def open(self) -> None:
        receiver: Any = self.peer.addTransceiver("video", direction="recvonly").receiver

        async def count(packet: Any, arrival_time_ms: int) -> None:
            self.received += 1

        receiver._handle_rtp_packet = count
        await self.peer.setLocalDescription(await self.peer.createOffer())
        offer = WebRtcOffer(viewer_id=self._viewer_id, sdp=str(self.peer.localDescription.sdp))
        answer = await self._client.add_webrtc_viewer(self._stream_id, offer)
        await self.peer.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
        async with asyncio.timeout(OPEN_S):
            while not self.received:
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        with contextlib.suppress(MediaError):
            await self._client.close_viewer(self._viewer_id)
        await self.peer.close()


class House:
    """Makes players of any kind for one node."""

    KINDS = ("fmp4", "ws", "flv", "ws_flv", "ts", "hls", "rtsp", "rtsp_udp", "webrtc")

    def __init__(self, node: RunningNode, client: MediaClient) -> None:
        self._node = node
        self._client = client
        self._count = 0

    @property
    def rtsp_port(self) -> int:
        return int(self._node.ready.get("rtsp_port") or 0)

    def player(self, kind: str, stream_id: str) -> Player:
        """A player that is not opened yet."""
        port = self._node.viewer_port
        self._count += 1
        if kind in HTTP_KINDS:
            return HttpPlayer(port, f"/live/{stream_id}{HTTP_KINDS[kind]}", stream_id)
        if kind in SOCKET_KINDS:
            return HttpPlayer(port, f"/live/{stream_id}{SOCKET_KINDS[kind]}", stream_id, upgrade=True)
        if kind == "hls":
            return HlsPlayer(port, stream_id)
        if kind in ("rtsp", "rtsp_udp"):
            return RtspPlayer(self.rtsp_port, stream_id, udp=kind == "rtsp_udp")
        if kind == "webrtc":
            return RtcPlayer(self._client, stream_id, f"rtc{self._count}")
        raise ValueError(kind)
