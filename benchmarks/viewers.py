"""CPU and memory per viewer of a 1080p 4 Mbit/s stream: fMP4, FLV and TS over HTTP, fMP4 by WebSocket, RTSP over TCP and UDP.

The node is a process of its own on one CPU; camera and players are this one. The value is what the node's CPU clock
gains per viewer over the same node without viewers, and counts only when every player got at least 95 % of the stream.
The floor is a program that does nothing but write the same amount to as many connections (asyncio).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.cameras import Camera, looped
from benchmarks.measure import Row, child, cpu_seconds, pin, rss_bytes
from benchmarks.nodes import SECRET, known, running_node
from benchmarks.players import House, HttpPlayer, Player, RtspPlayer
from media.client import MediaClient, MediaError
from media.specs import ReceiverSpec
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture

VIEWERS = 100
SECONDS = 5.0
WARM_S = 2.5
LOOP_S = 4.0
STREAM = "bench"
KINDS = {
    "fmp4": "fMP4 over HTTP", "ws": "fMP4 by WebSocket", "flv": "FLV over HTTP", "ts": "TS over HTTP",
    "rtsp": "RTSP over TCP", "rtsp_udp": "RTSP over UDP",
}  # fmt: skip
ENOUGH = 0.95


def pictures() -> list[AccessUnit]:
    return TestPicture(1920, 1080, bitrate=4_000_000).encoded_loop(LOOP_S)


def bytes_per_s(units: list[AccessUnit]) -> float:
    return sum(len(unit.data) for unit in units) / LOOP_S


async def window(pid: int, seconds: float = SECONDS) -> tuple[float, float]:
    """CPU share of one core that process ``pid`` used, and the time it was watched."""
    cpu, started = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - started
    return (cpu_seconds(pid) - cpu) / elapsed, elapsed


def drain(players: list[Player]) -> None:
    """Read away what came by UDP."""
    for player in players:
        for sock in player.sockets if isinstance(player, RtspPlayer) else ():
            with contextlib.suppress(BlockingIOError):
                while True:
                    player.received += len(sock.recv(2048)) - 12


async def draining(players: list[Player]) -> None:
    while True:
        drain(players)
        await asyncio.sleep(0.02)


async def watched(pid: int, players: list[Player], wanted_bytes_s: float) -> tuple[float, float]:
    """CPU share with all players, and the smallest share of the stream that one of them got."""
    for player in players:
        await player.open()
    reading = asyncio.create_task(draining(players))
    try:
        await asyncio.sleep(WARM_S)
        drain(players)
        before = [player.received for player in players]
        busy, elapsed = await window(pid)
        drain(players)
        shares = [
            (player.received - start) / elapsed / wanted_bytes_s
            for player, start in zip(players, before, strict=True)
        ]
        return busy, min(shares)
    finally:
        reading.cancel()


async def kind_row(house: House, kind: str, pid: int, wanted: float, idle: float, floor: float) -> Row:
    """One kind of output with all its viewers."""
    players = [house.player(kind, STREAM) for _ in range(VIEWERS)]
    memory = rss_bytes(pid)
    try:
        busy, share = await watched(pid, players, wanted)
        grown = rss_bytes(pid) - memory
    finally:
        for player in players:
            await player.close()
    each = 100 * max(busy - idle, 1e-6) / VIEWERS
    if share < ENOUGH:
        return Row(f"{KINDS[kind]}, {VIEWERS} viewers of 4 Mbit/s", each, "% of a core per viewer", met=False,
                   aim="every player gets the whole stream", how=f"{kind}: one player got only {share:.0%}")  # fmt: skip
    return Row(
        f"{KINDS[kind]}, {VIEWERS} viewers of 4 Mbit/s", each, "% of a core per viewer",
        f"asyncio alone {floor:.3f} %", each / floor,
        how=f"{kind}: {100 / each:.0f} viewers per core; memory per viewer {grown / VIEWERS / 1024:.0f} KiB; "
        f"node without viewers {idle:.1%} of a core; every player got the whole stream",
    )  # fmt: skip


# --- the floor -----------------------------------------------------------------------------------------------------


async def plain_server(size: int) -> None:
    """Child: writes ``size`` bytes 25 times a second to everybody who asks."""
    writers: list[asyncio.StreamWriter] = []

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writers.append(writer)

    server = await asyncio.start_server(joined, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    data = bytes(size)
    started, number = time.monotonic(), 0
    while True:
        number += 1
        await asyncio.sleep(max(0.0, started + number / 25 - time.monotonic()))
        for writer in writers:
            writer.write(data)


async def plain_floor(units: list[AccessUnit]) -> float:
    """% of a core per viewer of the plain server."""
    size = round(bytes_per_s(units) / 25)
    command = [sys.executable, "-m", "benchmarks.viewers", str(size)]
    with child(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        pin(process.pid, 0)
        players: list[Player] = [HttpPlayer(port, "/", STREAM) for _ in range(VIEWERS)]
        busy, _ = await watched(process.pid, players, bytes_per_s(units))
        for player in players:
            await player.close()
    return 100 * busy / VIEWERS


async def measure(units: list[AccessUnit]) -> list[Row]:
    floor = await plain_floor(units)
    with running_node(**known(rtsp_port=0)) as node:
        pin(node.pid, 0)
        client = MediaClient(node.config.control, SECRET)
        await client.start()
        info = await client.open_receiver(ReceiverSpec(stream_id=STREAM, idle_grace_s=600))
        camera = Camera(info.port, 1, looped(units), Codec.H264)
        try:
            async with asyncio.timeout(30):
                while not (await client.stream(STREAM)).ready:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(WARM_S)
            idle, _ = await window(node.pid)
            house = House(node, client)
            rows = []
            for kind in KINDS:
                if "rtsp" in kind and not house.rtsp_port:
                    continue
                try:
                    rows.append(await kind_row(house, kind, node.pid, bytes_per_s(units), idle, floor))
                except (OSError, RuntimeError, MediaError, TimeoutError) as error:
                    rows.append(Row(f"{KINDS[kind]}: failed", 0, "failed", met=False, how=f"{kind}: {error}"))
                await asyncio.sleep(1)
        finally:
            await camera.close()
            await client.close()
    return rows


def run() -> list[dict[str, Any]]:
    """The rows of the table; about 80 s."""
    pin(os.getpid(), -1)
    return [row.as_dict() for row in asyncio.run(measure(pictures()))]


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(plain_server(int(sys.argv[1])))
    else:
        for one in run():
            print(one)
