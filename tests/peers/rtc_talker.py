"""A WebRTC peer as the tests' microphone: sends G.711A packets that a test knows byte by byte, and keeps what it hears."""

from __future__ import annotations

import asyncio
import fractions
import time
from typing import Any

import av
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.rtp import RtpPacket

PACKET = 160


class Voice(MediaStreamTrack):
    """Says ``sound`` (G.711A) 20 ms at a time, then A-law silence until it is stopped."""

    kind = "audio"

    def __init__(self, sound: bytes) -> None:
        super().__init__()
        self.sound = sound
        self._place = 0
        self._start: float | None = None

    async def recv(self) -> Any:
        now = time.monotonic()
        self._start = self._start or now
        await asyncio.sleep(max(0.0, self._start + self._place / 8000 - now))
        piece = self.sound[self._place : self._place + PACKET].ljust(PACKET, b"\xd5")
        packet = av.Packet(piece)
        packet.pts, packet.time_base = self._place, fractions.Fraction(1, 8000)
        self._place += PACKET
        return packet


class Talker:
    """``offer()`` gives the SDP, ``accept(answer)`` connects. ``heard`` is what came back, as G.711A."""

    def __init__(self, sound: bytes, *, listen: bool = False) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.voice = Voice(sound)
        self.heard = bytearray()
        transceiver = self.peer.addTransceiver(self.voice, direction="sendrecv" if listen else "sendonly")
        codecs = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([codec for codec in codecs if codec.mimeType == "audio/PCMA"])
        transceiver.receiver._handle_rtp_packet = self._hear  # type: ignore[assignment]

    async def _hear(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        self.heard += packet.payload

    async def offer(self) -> str:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return str(self.peer.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def close(self) -> None:
        self.voice.stop()
        await self.peer.close()
