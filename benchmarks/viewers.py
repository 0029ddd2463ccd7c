"""CPU per viewer of a 1080p 4 Mbit/s stream: fragmented MP4 over HTTP, and WebRTC beside the library's own sender.

The node is a process of its own; camera and players are this one. The value is what the node's CPU clock gains per
viewer over the same node without viewers, and counts only when the players got at least 95 % of the stream.
Run as ``python -m benchmarks.viewers`` or call :func:`run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import av
from aioice import ice
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)

from benchmarks.measure import Row, child, cpu_seconds
from media import tickets
from media.client import MediaClient
from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.specs import NodeConfig, ReceiverSpec, WebRtcOffer
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture

FMP4_VIEWERS = 100
WEBRTC_VIEWERS = 10
SECONDS = 6.0
WARM_S = 2.5
PICTURE = TestPicture(1920, 1080, bitrate=4_000_000)
LOOP_S = 4.0
STREAM_ID = "bench"


def pin(pid: int, cpu: int) -> None:
    """Node on one CPU, camera and players on the other, where there are two."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(pid, {cpus[cpu]})


async def paced(units: list[AccessUnit]) -> AsyncIterator[tuple[AccessUnit, int]]:
    """The loop of pictures for ever, in real time, with a running clock in 90 kHz ticks."""
    started = time.monotonic()
    index = 0
    while True:
        unit = units[index % len(units)]
        yield unit, index * 3600
        index += 1
        await asyncio.sleep(max(0.0, started + index / 25 - time.monotonic()))


async def camera(port: int, units: list[AccessUnit]) -> None:
    """PS over RTP/UDP to the node."""
    muxer, packetizer = PsMuxer(Codec.H264, None), RtpPacketizer(1, 96)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", port))
        async for unit, ticks in paced(units):
            for packet in packetizer.packets(
                muxer.mux(AccessUnit(unit.codec, ticks, ticks, unit.key, unit.data)), ticks
            ):
                with contextlib.suppress(ConnectionRefusedError):
                    out.send(packet)


class HttpPlayer(asyncio.Protocol):
    """Asks for the file and counts its bytes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


class RtcPlayer:
    """A WebRTC player that counts packets and decodes nothing."""

    def __init__(self) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.packets = 0

    async def offer(self) -> str:
        receiver: Any = self.peer.addTransceiver("video", direction="recvonly").receiver

        async def count(packet: Any, arrival_time_ms: int) -> None:
            self.packets += 1

        receiver._handle_rtp_packet = count
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return str(self.peer.localDescription.sdp)

    async def connect(self, answer: str) -> None:
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))


async def window(pid: int, seconds: float = SECONDS) -> tuple[float, float]:
    """CPU share of one core that process ``pid`` used, and the time it was watched."""
    cpu, started = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - started
    return (cpu_seconds(pid) - cpu) / elapsed, elapsed


def expected_bytes_s(units: list[AccessUnit]) -> float:
    return sum(len(unit.data) for unit in units) / LOOP_S


# --- the node ----------------------------------------------------------------------------------------------------


async def measure_node(units: list[AccessUnit], directory: str) -> list[Row]:
    config = NodeConfig(
        node_id="bench", control=f"unix:{directory}/control", control_secret="bench", media_host="127.0.0.1",
        bind_host="127.0.0.1", rtp_port_min=33000, rtp_port_max=33099, webrtc_port_min=33100, webrtc_port_max=33999,
        viewer_host="127.0.0.1", viewer_port=0, ticket_secret="bench", log_level="WARNING",
    )  # fmt: skip
    with child([sys.executable, "-m", "media.node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        node.stdin.write(config.model_dump_json().encode() + b"\n")
        node.stdin.flush()
        port = json.loads(node.stdout.readline())["viewer_port"]
        pin(node.pid, 0)
        client = MediaClient(config.control, "bench")
        await client.start()
        info = await client.open_receiver(ReceiverSpec(stream_id=STREAM_ID, idle_grace_s=600))
        filming = asyncio.create_task(camera(info.port, units))
        while not (await client.stream(STREAM_ID)).ready:
            await asyncio.sleep(0.05)
        await asyncio.sleep(WARM_S)
        idle, _ = await window(node.pid)
        rows = [
            await fmp4_row(node.pid, port, units, idle),
            await webrtc_row(node.pid, client, units, idle),
        ]
        filming.cancel()
        await client.close()
    return rows


async def fmp4_row(pid: int, port: int, units: list[AccessUnit], idle: float) -> Row:
    ticket = tickets.sign("bench", STREAM_ID, time.time() + 600)
    request = f"GET /live/{STREAM_ID}.mp4?ticket={ticket} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    connections = [
        await loop.create_connection(lambda: HttpPlayer(request), "127.0.0.1", port)
        for _ in range(FMP4_VIEWERS)
    ]
    players = [player for _, player in connections]
    await asyncio.sleep(WARM_S)
    before = [player.received for player in players]
    busy, elapsed = await window(pid)
    shares = [
        (player.received - start) / elapsed / expected_bytes_s(units)
        for player, start in zip(players, before, strict=True)
    ]
    for transport, _ in connections:
        transport.close()
    await asyncio.sleep(1)
    if min(shares) < 0.95:
        raise RuntimeError(f"a player got only {min(shares):.0%} of the stream")
    return Row(
        f"fMP4 over HTTP, {FMP4_VIEWERS} viewers of 4 Mbit/s",
        100 * (busy - idle) / FMP4_VIEWERS,
        "% of a core per viewer",
        how="gain of the node's CPU clock over the same node without viewers; every player got the whole stream",
    )


async def webrtc_players(count: int, answer: Any) -> list[RtcPlayer]:
    players = []
    for index in range(count):
        player = RtcPlayer()
        await player.connect(await answer(index, await player.offer()))
        players.append(player)
    return players


async def webrtc_window(pid: int, players: list[RtcPlayer]) -> tuple[float, float]:
    """The process' CPU share and the fewest packets a player got per second."""
    await asyncio.sleep(WARM_S)
    before = [player.packets for player in players]
    busy, elapsed = await window(pid)
    rates = [(player.packets - start) / elapsed for player, start in zip(players, before, strict=True)]
    for player in players:
        await player.peer.close()
    return busy, min(rates)


async def webrtc_row(pid: int, client: MediaClient, units: list[AccessUnit], idle: float) -> Row:
    async def answer(index: int, sdp: str) -> str:
        return (
            await client.add_webrtc_viewer(STREAM_ID, WebRtcOffer(viewer_id=f"viewer-{index}", sdp=sdp))
        ).sdp

    players = await webrtc_players(WEBRTC_VIEWERS, answer)
    busy, rate = await webrtc_window(pid, players)
    if rate < 0.95 * expected_bytes_s(units) / 1200:
        raise RuntimeError(f"a player got only {rate:.0f} packets/s")
    own = 100 * (busy - idle) / WEBRTC_VIEWERS
    library = await measure_library()
    return Row(
        f"WebRTC, {WEBRTC_VIEWERS} viewers of 4 Mbit/s",
        own,
        "% of a core per viewer",
        baseline=f"aiortc's sender {library:.2f} %",
        ratio=own / library,
        how="ratio: ours over aiortc's own sender passing the same encoded pictures, same run",
    )


# --- the library's own sender --------------------------------------------------------------------------------------


class PassTrack(MediaStreamTrack):
    """Gives encoded pictures to the library's sender, live."""

    kind = "video"

    def __init__(self, pictures: AsyncIterator[tuple[AccessUnit, int]]) -> None:
        super().__init__()
        self._pictures = pictures

    async def recv(self) -> Any:
        unit, ticks = await anext(self._pictures)
        packet = av.Packet(unit.data)
        packet.pts, packet.time_base = ticks, Fraction(1, 90_000)
        return packet


async def library_sender() -> None:
    """Child: answers offers read line by line, sends with the library alone, until its input ends."""
    units = PICTURE.encoded_loop(LOOP_S)
    peers = []
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = peer.addTransceiver(PassTrack(paced(units)), "sendonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences(
            [one for one in codecs if one.mimeType in ("video/H264", "video/rtx")]
        )
        await peer.setRemoteDescription(RTCSessionDescription(json.loads(line), "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        peers.append(peer)
        print(json.dumps(peer.localDescription.sdp), flush=True)
    for peer in peers:
        await peer.close()


async def measure_library() -> float:
    command = [sys.executable, "-m", "benchmarks.viewers", "library"]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        pin(process.pid, 0)
        stdout.readline()
        idle, _ = await window(process.pid, 2)

        async def answer(index: int, sdp: str) -> str:
            stdin.write(json.dumps(sdp).encode() + b"\n")
            stdin.flush()
            return str(json.loads(await asyncio.to_thread(stdout.readline)))

        busy, _ = await webrtc_window(process.pid, await webrtc_players(WEBRTC_VIEWERS, answer))
    return 100 * (busy - idle) / WEBRTC_VIEWERS


def run() -> list[dict[str, Any]]:
    """The rows of the table; about 40 s."""
    ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    pin(os.getpid(), -1)
    units = PICTURE.encoded_loop(LOOP_S)
    with tempfile.TemporaryDirectory() as directory:
        return [row.as_dict() for row in asyncio.run(measure_node(units, directory))]


if __name__ == "__main__":
    if sys.argv[1:] == ["library"]:
        ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
        asyncio.run(library_sender())
    else:
        for row in run():
            print(row)
