"""CPU per relayed packet: the media node beside an asyncio DatagramProtocol relay and, where installed, rtpengine.

Each relay is a process of its own; generator and verifying sink are another one. The value is the relay's process
CPU clock over the packets that arrived whole, in a window of some seconds. The node also demuxes each stream and keeps
its group of pictures; the others only pass packets on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import rtpengine
from benchmarks.measure import Row, child, cpu_seconds
from benchmarks.relay_load import SSRC_IN
from media.client import MediaClient
from media.specs import NodeConfig, ReceiverSpec, SenderSpec

STREAMS = (50, 200)
SECONDS = 6.0
WARM_S = 3.0
SSRC_OUT = 200_000_000
_REWRITE = struct.Struct("!HII")
Targets = list[tuple[str, int]]


def pin(pid: int, cpu: int) -> None:
    """Relay on one CPU, load on the other, where there are two."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(pid, {cpus[cpu]})


# --- the asyncio baseline ----------------------------------------------------------------------------------------


class _Out(asyncio.DatagramProtocol):
    pass


class _In(asyncio.DatagramProtocol):
    """The usual relay: one callback per packet, headers rewritten, sent on."""

    def __init__(self, ssrc: int, out: asyncio.DatagramTransport) -> None:
        self.ssrc = ssrc
        self.out = out
        self.sequence = 0

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        packet = bytearray(data)
        _, stamp, _ = _REWRITE.unpack_from(packet, 2)
        _REWRITE.pack_into(packet, 2, self.sequence & 0xFFFF, stamp, self.ssrc)
        self.sequence += 1
        self.out.sendto(packet)


async def asyncio_relay() -> None:
    """Child: reads the sinks' ports, prints where to send, relays until its input ends."""
    loop = asyncio.get_running_loop()
    ports = json.loads(sys.stdin.readline())
    targets = []
    for number, port in enumerate(ports):
        out, _ = await loop.create_datagram_endpoint(_Out, remote_addr=("127.0.0.1", port))
        receiver = _In(SSRC_OUT + number, out)
        transport, _ = await loop.create_datagram_endpoint(
            lambda receiver=receiver: receiver, local_addr=("127.0.0.1", 0)
        )
        transport.get_extra_info("socket").setsockopt(1, 8, 4 << 20)
        targets.append(transport.get_extra_info("sockname"))
    print(json.dumps(targets), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)


# --- relays under test -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def asyncio_targets(ports: list[int]) -> Iterator[tuple[int, Targets, list[int]]]:
    with child(
        [sys.executable, "-m", "benchmarks.relay", "asyncio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(ports).encode() + b"\n")
        process.stdin.flush()
        targets = [(host, port) for host, port in json.loads(process.stdout.readline())]
        yield process.pid, targets, [SSRC_OUT + number for number in range(len(ports))]


@contextlib.contextmanager
def node_targets(ports: list[int]) -> Iterator[tuple[int, Targets, list[int]]]:
    with tempfile.TemporaryDirectory() as directory:
        config = NodeConfig(
            node_id="bench", control=f"unix:{directory}/n.sock", control_secret="bench", media_host="127.0.0.1",
            bind_host="127.0.0.1", rtp_port_min=21000, rtp_port_max=23999, viewer_host="127.0.0.1", viewer_port=0,
            ticket_secret="bench", log_level="WARNING",
        )  # fmt: skip
        with child(
            [sys.executable, "-m", "media.node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(config.model_dump_json().encode() + b"\n")
            process.stdin.flush()
            json.loads(process.stdout.readline())
            targets = asyncio.run(_open(config, ports))
            yield process.pid, targets, [SSRC_OUT + number for number in range(len(ports))]


async def _open(config: NodeConfig, ports: list[int]) -> Targets:
    client = MediaClient(config.control, config.control_secret)
    await client.start()
    targets = []
    try:
        for number, port in enumerate(ports):
            stream = f"s{number}"
            info = await client.open_receiver(ReceiverSpec(stream_id=stream, ssrc=SSRC_IN + number))
            sender = SenderSpec(
                sender_id=stream,
                stream_id=stream,
                remote_host="127.0.0.1",
                remote_port=port,
                ssrc=SSRC_OUT + number,
            )
            await client.open_sender(sender)
            await client.start_sender(stream)
            targets.append(("127.0.0.1", info.port))
    finally:
        await client.close()
    return targets


@contextlib.contextmanager
def rtpengine_targets(ports: list[int]) -> Iterator[tuple[int, Targets, list[int]]]:
    executable = rtpengine.program()
    assert executable is not None
    with rtpengine.running(executable) as (pid, control):
        targets = [control.stream(number, port) for number, port in enumerate(ports)]
        yield pid, targets, [SSRC_IN + number for number in range(len(ports))]


RELAYS = {"node": node_targets, "asyncio": asyncio_targets, "rtpengine": rtpengine_targets}


def measure(kind: str, count: int, seconds: float = SECONDS) -> dict[str, float]:
    """One relay under the load of ``count`` streams: microseconds of CPU per packet, packets, losses, errors."""
    with child(
        [sys.executable, "-m", "benchmarks.relay_load", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        pin(load.pid, 0)
        ports = json.loads(load.stdout.readline())
        with RELAYS[kind](ports) as (pid, targets, ssrcs):
            pin(pid, 1)
            order = {"targets": targets, "ssrcs": ssrcs, "warm": WARM_S, "seconds": seconds}
            load.stdin.write(json.dumps(order).encode() + b"\n")
            load.stdin.flush()
            assert load.stdout.readline() == b"begin\n"
            before, started = cpu_seconds(pid), time.monotonic()
            assert load.stdout.readline() == b"end\n"
            spent, elapsed = cpu_seconds(pid) - before, time.monotonic() - started
            result: dict[str, float] = json.loads(load.stdout.readline())
    received = max(result["received"], 1)
    return {**result, "us": spent / received * 1e6, "cpu": spent / elapsed}


def run(streams: tuple[int, ...] = STREAMS, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Rows of the table: the node's cost per packet with its ratio to each baseline of the same run."""
    rows = []
    for count in streams:
        node = measure("node", count, seconds)
        asyncio_result = measure("asyncio", count, seconds)
        how = f"{node['sent']:.0f} packets sent, {node['lost']:.0f} lost, {node['wrong']:.0f} wrong, {node['cpu']:.0%} of a core"
        loss = 1 - asyncio_result["received"] / max(asyncio_result["sent"], 1)
        ratio = asyncio_result["us"] / node["us"]
        rows.append(
            Row(
                f"relay, {count} streams of 4 Mbit/s, CPU per packet", node["us"], "us",
                f"asyncio {asyncio_result['us']:.1f} us, {loss:.0%} lost", ratio, ">= 5x cheaper", ratio >= 5, how,
            ).as_dict()
        )  # fmt: skip
        if rtpengine.program() is not None:
            other = measure("rtpengine", count, seconds)
            ratio = other["us"] / node["us"]
            rows.append(
                Row(
                    f"relay, {count} streams of 4 Mbit/s, CPU per packet", node["us"], "us",
                    f"rtpengine {other['us']:.1f} us, {1 - other['received'] / max(other['sent'], 1):.0%} lost",
                    ratio, "cheaper", ratio > 1, how,
                ).as_dict()
            )  # fmt: skip
    return rows


if __name__ == "__main__":
    if sys.argv[1:] == ["asyncio"]:
        asyncio.run(asyncio_relay())
    else:
        kinds = sys.argv[1:2] or ["node", "asyncio", "rtpengine"]
        for number in (int(argument) for argument in sys.argv[2:] or map(str, STREAMS)):
            for name in kinds:
                print(name, number, measure(name, number))
