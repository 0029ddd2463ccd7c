"""A WebRTC peer as the tests' player: it asks a node for a stream and reads the numbers of the pictures it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtp import RtcpSrPacket, RtpPacket

from simulator.picture import read_mark


class Player:
    """A peer that asks for picture and sound and decodes what comes."""

    def __init__(self, http: ClientSession, node: Any, viewer_id: str = "viewer-1") -> None:
        self.http, self.node, self.viewer_id = http, node, viewer_id
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: dict[str, Any] = {}
        self.peer.on("track", lambda track: self.tracks.setdefault(track.kind, track))
        self.answer: dict[str, Any] = {}
        self._packets: dict[str, list[RtpPacket]] = {}
        self._reports: dict[str, list[RtcpSrPacket]] = {}

    async def offer(
        self,
        *,
        audio: bool = True,
        edit: Callable[[str], str] = str,
        through: Callable[[str], str] | None = None,
        **extra: Any,
    ) -> int:
        """Ask; the HTTP status. On 201 the connection is being made, ``through`` a path that edits the answer."""
        for kind in ("video", "audio") if audio else ("video",):
            receiver = self.peer.addTransceiver(kind, direction="recvonly").receiver
            self._watch(kind, receiver)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        body = {"viewer_id": self.viewer_id, "sdp": edit(self.peer.localDescription.sdp), **extra}
        async with self.http.post(self.node.url("/streams/gate/webrtc"), json=body) as response:
            self.answer = await response.json()
            if response.status == 201:
                sdp = self.answer["sdp"]
                answer = RTCSessionDescription(through(sdp) if through else sdp, "answer")
                await self.peer.setRemoteDescription(answer)
            return response.status

    def watch_packets(self) -> list[RtpPacket]:
        """The list that the picture's packets will be added to; before `offer`."""
        return self._packets.setdefault("video", [])

    def watch_all(self, packets: dict[str, list[RtpPacket]], reports: dict[str, list[RtcpSrPacket]]) -> None:
        """Lists for packets and sender reports by kind of medium; before `offer`."""
        self._packets, self._reports = packets, reports

    def _watch(self, kind: str, receiver: Any) -> None:
        handle, hear = receiver._handle_rtp_packet, receiver._handle_rtcp_packet
        packets, reports = self._packets.get(kind), self._reports.get(kind)

        async def on_packet(packet: RtpPacket, arrival_time_ms: int) -> None:
            if packets is not None and packet.payload:
                packets.append(packet)
            await handle(packet, arrival_time_ms=arrival_time_ms)

        async def on_report(packet: Any) -> None:
            if reports is not None and isinstance(packet, RtcpSrPacket):
                reports.append(packet)
            await hear(packet)

        receiver._handle_rtp_packet, receiver._handle_rtcp_packet = on_packet, on_report

    async def send_pli(self) -> None:
        """Say that the picture is lost (RFC 4585 6.3.1)."""
        line = next(line for line in self.answer["sdp"].splitlines() if line.startswith("a=ssrc:"))
        await self.peer.getReceivers()[0]._send_rtcp_pli(int(line.split(":")[1].split(" ")[0]))

    async def frames(self, count: int) -> list[int]:
        """The numbers of the next pictures."""
        found: list[int] = []
        async with asyncio.timeout(30):
            while len(found) < count:
                frame = await self.tracks["video"].recv()
                mark = read_mark(frame.to_ndarray(format="gray"))
                if mark is not None:
                    found.append(mark.frame)
        return found
