"""A SIP peer without a SIP stack: it says exactly the bytes a test wants, over UDP."""

from __future__ import annotations

import asyncio
import socket
import struct

from scripted_camera import picture_units

from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.unit import Codec
from sip.flow import Flow


class RawDevice(asyncio.DatagramProtocol):
    """Received messages wait in order in :meth:`receive`; repetitions of a request are left out unless asked for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, tuple[str, int]]] = asyncio.Queue()
        self._seen: set[str] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self.peer: tuple[str, int] = ("", 0)

    async def __aenter__(self) -> RawDevice:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._queue.put_nowait((data.decode("utf-8", "replace"), address))

    @property
    def port(self) -> int:
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    def flow(self, gateway_port: int) -> Flow:
        return Flow("udp", "127.0.0.1", self.port, "127.0.0.1", gateway_port)

    async def receive(self, method: str, *, again: bool = False, timeout_s: float = 20.0) -> str:
        """The next message that starts with ``method``; others before it are dropped. ``again``: take repetitions."""
        async with asyncio.timeout(timeout_s):
            while True:
                text, self.peer = await self._queue.get()
                if text in self._seen and not again:
                    continue
                self._seen.add(text)
                if text.startswith(method):
                    return text

    def send(self, text: str) -> None:
        assert self._transport is not None
        self._transport.sendto(text.encode(), self.peer)

    def answer(
        self, request: str, status: str, *, tag: str = "", body: str = "", headers: tuple[str, ...] = ()
    ) -> None:
        """Answer ``request`` with e.g. ``200 OK``; ``tag`` goes to To when the request has none there."""
        kept = []
        for line in request.split("\r\n\r\n")[0].split("\r\n")[1:]:
            name = line.partition(":")[0].lower()
            if name in ("via", "from", "call-id", "cseq"):
                kept.append(line)
            elif name == "to":
                kept.append(f"{line};tag={tag}" if tag and ";tag=" not in line else line)
        kind = ["Content-Type: application/sdp"] if body else []
        lines = [
            f"SIP/2.0 {status}",
            *kept,
            *headers,
            *kind,
            f"Content-Length: {len(body.encode())}",
            "",
            body,
        ]
        self.send("\r\n".join(lines))


def header(message: str, name: str) -> str:
    """Value of a header, "" when it is not there."""
    for line in message.split("\r\n\r\n")[0].split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == name.lower():
            return value.strip()
    return ""


async def send_pictures(port: int, ssrc: int) -> None:
    """PS over TCP to the gateway's port, 25 pictures a second."""
    loop = asyncio.get_running_loop()
    packetizer, muxer = RtpPacketizer(ssrc, 96), PsMuxer(Codec.H264)
    with socket.socket() as stream:
        stream.setblocking(False)
        await loop.sock_connect(stream, ("127.0.0.1", port))
        for unit in picture_units():
            for packet in packetizer.packets(muxer.mux(unit), unit.pts):
                await loop.sock_sendall(stream, struct.pack("!H", len(packet)) + packet)
            await asyncio.sleep(0.04)
