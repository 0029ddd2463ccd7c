"""CPU and memory per stream of receiving with demux: live streams of 4 Mbit/s into a node that nobody watches.

The baseline is PyAV behind a socket with a thread per stream, with the least probing it allows. Both get the same
packets from the C generator; both must find every picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import av

from benchmarks import native
from benchmarks.cameras import RATE
from benchmarks.measure import Row, child, cpu_seconds, pin, rss_bytes
from benchmarks.nodes import SECRET, running_node
from benchmarks.relay_load import SSRC_IN
from media.client import MediaClient
from media.specs import ReceiverSpec

STREAMS = 100
PYAV_STREAMS = 40
WARM_S = 2.0
SECONDS = 5.0


@contextlib.contextmanager
def generating(targets: list[int], seconds: float = SECONDS) -> Iterator[subprocess.Popen[bytes]]:
    """The generator alone, one stream per port; prints ``begin`` and ``end``."""
    executable = native.program("load")
    assert executable is not None
    with child(
        [executable, str(len(targets)), "0", "udp", "udp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        pin(load.pid, 0)
        load.stdout.readline()
        text = "".join(f"127.0.0.1 {port}\n" for port in targets) + f"go 0 {WARM_S} {seconds} 0.1\n"
        load.stdin.write(text.encode())
        load.stdin.flush()
        yield load


def window(load: subprocess.Popen[bytes], pid: int) -> tuple[float, float]:
    """CPU seconds of ``pid`` between the generator's marks, and the time between them."""
    assert load.stdout is not None
    assert load.stdout.readline() == b"begin\n"
    before, started = cpu_seconds(pid), time.monotonic()
    assert load.stdout.readline() == b"end\n"
    return cpu_seconds(pid) - before, time.monotonic() - started


async def open_receivers(client: MediaClient, count: int) -> list[int]:
    turn = asyncio.Semaphore(16)

    async def one(number: int) -> int:
        async with turn:
            spec = ReceiverSpec(stream_id=f"s{number}", ssrc=SSRC_IN + number, idle_grace_s=600)
            return (await client.open_receiver(spec)).port

    return list(await asyncio.gather(*(one(number) for number in range(count))))


async def ours() -> tuple[float, float, float]:
    """CPU share per stream (% of a core), pictures found per stream and second, KiB per stream."""
    with running_node() as node:
        pin(node.pid, -1)
        client = MediaClient(node.config.control, SECRET)
        await client.start()
        ports = await open_receivers(client, STREAMS)
        memory = rss_bytes(node.pid)
        with generating(ports) as load:
            spent, elapsed = await asyncio.to_thread(window, load, node.pid)
            grown = rss_bytes(node.pid) - memory
            await asyncio.to_thread(load.wait, 20)
        await asyncio.sleep(0.3)
        stats = (await client.stats()).per_stream
        await client.close()
    units = sum(one.video_units for one in stats) / STREAMS / (WARM_S + elapsed)
    return 100 * spent / elapsed / STREAMS, units, grown / STREAMS / 1024


class Payloads:
    """A socket as a file of RTP payloads, which is what PyAV can read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, size: int) -> bytes:
        return self._sock.recv(2048)[12:]


def pyav_process(count: int) -> None:
    """Child: a thread per stream; prints the ports, then the number of pictures when its input ends."""
    sockets = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        sockets.append(sock)
    found = [0] * count

    def demux(number: int) -> None:
        file: Any = Payloads(sockets[number])
        container: Any = av.open(file, format="mpeg", options={"probesize": "32", "analyzeduration": "0"})
        for packet in container.demux():
            found[number] += packet.size > 0

    for number in range(count):
        threading.Thread(target=demux, args=(number,), daemon=True).start()
    print(*(sock.getsockname()[1] for sock in sockets), flush=True)
    sys.stdin.readline()
    print(sum(found), flush=True)
    os._exit(0)  # the threads wait in their sockets


def theirs() -> tuple[float, float]:
    """CPU share per stream (% of a core) and pictures per stream and second of PyAV."""
    command = [sys.executable, "-m", "benchmarks.ingest", str(PYAV_STREAMS)]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pin(process.pid, -1)
        ports = [int(port) for port in process.stdout.readline().split()]
        with generating(ports) as load:
            spent, elapsed = window(load, process.pid)
            load.wait(20)
        process.stdin.write(b"\n")
        process.stdin.flush()
        units = int(process.stdout.readline()) / PYAV_STREAMS / (WARM_S + elapsed)
    return 100 * spent / elapsed / PYAV_STREAMS, units


def run() -> list[dict[str, Any]]:
    """Two rows; about 30 s. A notice without a C compiler."""
    if native.program("load") is None:
        return [Row(f"ingest: {native.NO_COMPILER}", 0, "left out").as_dict()]
    own, units, memory = asyncio.run(ours())
    base, base_units = theirs()
    return [
        Row(
            f"ingest with demux, {STREAMS} live streams of 4 Mbit/s", own, "% of a core per stream",
            f"PyAV, a thread per stream {base:.3f} %", own / base, "every picture found", units >= 0.98 * RATE,
            f"{units:.1f} pictures/s and stream of {RATE} sent; PyAV with {PYAV_STREAMS} streams found {base_units:.1f}",
        ).as_dict(),
        Row("ingest: memory per stream", memory, "KiB", how="growth of the resident set with its group of pictures").as_dict(),
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:]:
        pyav_process(int(sys.argv[1]))
    else:
        for one in run():
            print(one)
