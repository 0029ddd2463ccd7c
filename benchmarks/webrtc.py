"""WebRTC viewers per core: players of a 1080p 4 Mbit/s stream are added until the node cannot keep up.

Node on one CPU, camera and players on the other. A player shakes hands like a browser (ICE, DTLS); from then on its
socket is only read and its packets counted, so that 150 of them fit beside the node. One player goes on decrypting.
The baseline is aiortc's own sender passing the same encoded pictures to ten players.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
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

from benchmarks.cameras import RATE, Camera, looped, ticking
from benchmarks.measure import Row, child, pin, rss_bytes
from benchmarks.nodes import SECRET, running_node
from benchmarks.players import RtcPlayer
from benchmarks.viewers import ENOUGH, STREAM, WARM_S, bytes_per_s, pictures, window
from media import mmsg
from media.client import MediaClient, MediaError
from media.specs import ReceiverSpec, WebRtcAnswer, WebRtcOffer
from media.unit import AccessUnit, Codec

STEPS = (10, 50, 100, 150)
AIM = 150
SECONDS = 4.0
LIBRARY_VIEWERS = 10
STRIDE = 2048
PAYLOAD = 1200
"""Bytes of a picture in a packet, about: what is expected to come."""


class Counter:
    """Takes over the sockets of connected players: counts RTP, gives STUN and DTLS to their owners."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._sockets: list[tuple[int, Any]] = []
        self._arena = bytearray(STRIDE * mmsg.SLOTS)
        self._receiver = mmsg.BatchReceiver(self._arena)
        self._task = asyncio.create_task(self._count(), name="counter")

    def take(self, player: RtcPlayer) -> None:
        transport: Any = player.peer.getTransceivers()[0].receiver.transport.transport
        loop: Any = asyncio.get_running_loop()
        for protocol in transport._connection._protocols:
            number = protocol.transport.get_extra_info("socket").fileno()
            loop._remove_reader(number)
            self._sockets.append((number, protocol))
        self.received.append(0)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _drain(self) -> None:
        arena, receive = self._arena, self._receiver.receive
        for place, (number, protocol) in enumerate(self._sockets):
            while lengths := receive(number, STRIDE):
                firsts = arena[: len(lengths) * STRIDE : STRIDE]
                self.received[place] += len(lengths)
                if min(firsts) < 64:  # RFC 7983: below 128 is no RTP
                    self._pass_on(protocol, lengths, firsts)
                if len(lengths) < mmsg.SLOTS:
                    break

    def _pass_on(self, protocol: Any, lengths: list[int], firsts: bytearray) -> None:
        for slot, first in enumerate(firsts):
            if first < 64:
                data = bytes(self._arena[slot * STRIDE : slot * STRIDE + lengths[slot]])
                address = mmsg.address_of(self._receiver.source(slot))
                protocol.datagram_received(data, address)

    async def _count(self) -> None:
        while True:
            self._drain()
            await asyncio.sleep(0.01)


async def measure_node(units: list[AccessUnit]) -> tuple[list[Row], float]:
    """Rows, and the cost of each of the first ten viewers in % of a core."""
    rows: list[Row] = []
    first = 0.0
    wanted = bytes_per_s(units) / PAYLOAD
    with running_node() as node:
        pin(node.pid, 0)
        client = MediaClient(node.config.control, SECRET)
        await client.start()
        camera = Camera(
            (await client.open_receiver(ReceiverSpec(stream_id=STREAM, idle_grace_s=600))).port,
            1, looped(units), Codec.H264,
        )  # fmt: skip
        counter = Counter()
        players: list[RtcPlayer] = []
        try:
            async with asyncio.timeout(30):
                while not (await client.stream(STREAM)).ready:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(WARM_S)
            idle, _ = await window(node.pid, 2)
            memory, carried, cost = rss_bytes(node.pid), 0, 0.0
            how = ""
            for step in STEPS:
                while len(players) < step:
                    player = RtcPlayer(client, STREAM, f"viewer-{len(players)}")
                    await player.open()
                    players.append(player)
                    if len(players) > 1:
                        counter.take(player)
                await asyncio.sleep(WARM_S)
                before, decrypted = list(counter.received), players[0].received
                busy, elapsed = await window(node.pid, SECONDS)
                rates = [(now - then) / elapsed for now, then in zip(counter.received, before, strict=True)]
                rates.append((players[0].received - decrypted) / elapsed)
                each = 100 * (busy - idle) / step
                first = first or each
                how += (
                    f"{step}: {busy:.0%} of a core, slowest player {min(rates) / wanted:.0%} of the packets; "
                )
                if min(rates) < ENOUGH * wanted:
                    break
                carried, cost = step, each
            grown = (rss_bytes(node.pid) - memory) / max(1, len(players))
            rows.append(
                Row(f"WebRTC, {carried} viewers of 4 Mbit/s", cost, "% of a core per viewer",
                    how=f"{how}memory per viewer {grown / 1024:.0f} KiB")
            )  # fmt: skip
            rows.append(
                Row("WebRTC: viewers per core", carried if carried < AIM else 100 / cost, "viewers", "", None,
                    f">= {AIM}", carried >= AIM,
                    f"{carried} viewers watched at once and got everything; above that by their cost")
            )  # fmt: skip
        except (MediaError, RuntimeError, OSError, TimeoutError) as error:
            rows.append(
                Row(f"WebRTC: failed with {len(players)} viewers", 0, "failed", met=False, how=str(error))
            )
        finally:
            await counter.close()
            await camera.close()
            await client.close()
    return rows, first


# --- the library's own sender --------------------------------------------------------------------------------------


class PassTrack(MediaStreamTrack):
    """Gives encoded pictures to the library's sender, live."""

    kind = "video"

    def __init__(self, units: list[AccessUnit]) -> None:
        super().__init__()
        self._unit = looped(units)
        self._numbers: AsyncIterator[int] = ticking()

    async def recv(self) -> Any:
        unit = self._unit(await anext(self._numbers))
        packet = av.Packet(unit.data)
        packet.pts, packet.time_base = unit.pts, Fraction(1, 3600 * RATE)
        return packet


async def library_sender() -> None:
    """Child: answers offers read line by line, sends with the library alone, until its input ends."""
    units = pictures()
    peers = []
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = peer.addTransceiver(PassTrack(units), "sendonly")
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


class Library:
    """The library's sender in the place of the node's control API."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    async def add_webrtc_viewer(self, stream_id: str, offer: WebRtcOffer) -> WebRtcAnswer:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(offer.sdp).encode() + b"\n")
        stdin.flush()
        line = await asyncio.to_thread(stdout.readline)
        return WebRtcAnswer(viewer_id=offer.viewer_id, sdp=json.loads(line))


async def measure_library() -> float:
    """% of a core per viewer of aiortc's own sender."""
    command = [sys.executable, "-m", "benchmarks.webrtc", "library"]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pin(process.pid, 0)
        process.stdout.readline()
        library: Any = Library(process)
        players = [RtcPlayer(library, STREAM, f"l{number}") for number in range(LIBRARY_VIEWERS)]
        counter = Counter()
        for player in players:
            await player.open()
            counter.take(player)
        await asyncio.sleep(WARM_S)
        busy, _ = await window(process.pid, SECONDS)
        await counter.close()
    return 100 * busy / LIBRARY_VIEWERS


async def measure() -> list[Row]:
    rows, own = await measure_node(pictures())
    library = await measure_library()
    if own:
        rows.append(
            Row(f"WebRTC, {STEPS[0]} viewers of 4 Mbit/s", own, "% of a core per viewer",
                f"aiortc's sender {library:.2f} %", own / library,
                how="ratio: ours over aiortc's own sender passing the same encoded pictures, same run")
        )  # fmt: skip
    return rows


def run() -> list[dict[str, Any]]:
    """The rows of the table; about 60 s."""
    ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    pin(os.getpid(), -1)
    return [row.as_dict() for row in asyncio.run(measure())]


if __name__ == "__main__":
    if sys.argv[1:] == ["library"]:
        ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
        asyncio.run(library_sender())
    else:
        for one in run():
            print(one)
