"""A WebRTC peer as the tests' player: it asks a node for a stream and reads the numbers of the pictures it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from simulator.picture import read_mark


class Player:
    """A peer that asks for picture and sound and decodes what comes."""

    def __init__(self, http: ClientSession, node: Any, viewer_id: str = "viewer-1") -> None:
        self.http, self.node, self.viewer_id = http, node, viewer_id
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: dict[str, Any] = {}
        self.peer.on("track", lambda track: self.tracks.setdefault(track.kind, track))
        self.answer: dict[str, Any] = {}

    async def offer(self, *, audio: bool = True, edit: Callable[[str], str] = str, **extra: Any) -> int:
        """Ask; the HTTP status. On 201 the connection is being made."""
        self.peer.addTransceiver("video", direction="recvonly")
        if audio:
            self.peer.addTransceiver("audio", direction="recvonly")
        await self.peer.setLocalDescription(await self.peer.createOffer())
        body = {"viewer_id": self.viewer_id, "sdp": edit(self.peer.localDescription.sdp), **extra}
        async with self.http.post(self.node.url("/streams/gate/webrtc"), json=body) as response:
            self.answer = await response.json()
            if response.status == 201:
                await self.peer.setRemoteDescription(RTCSessionDescription(self.answer["sdp"], "answer"))
            return response.status

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
