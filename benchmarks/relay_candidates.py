"""The relays that the relay benchmark compares, each a process of its own: ours, the C reference, asyncio, rtpengine.

A candidate is a context manager: it takes a :class:`Shape` and the sink's ports and gives a :class:`Running`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import native, rtpengine
from benchmarks.measure import child
from benchmarks.nodes import known, running_node
from benchmarks.relay_load import SSRC_IN
from media.client import MediaClient
from media.specs import NodeConfig, ReceiverSpec, SenderSpec, Transport

SSRC_OUT = 200_000_000
OPENING_AT_ONCE = 16
_REWRITE = struct.Struct("!HII")


@dataclass(frozen=True, slots=True)
class Shape:
    """What is relayed: how many streams, to how many targets each, over what ("udp" or "tcp")."""

    streams: int
    fan: int = 1
    inward: str = "udp"
    outward: str = "udp"

    @property
    def arguments(self) -> list[str]:
        return [str(self.streams), str(self.fan), self.inward, self.outward]

    def __str__(self) -> str:
        count = f"{self.streams}" if self.fan == 1 else f"{self.streams} x {self.fan}"
        return count if self.inward == "udp" else f"{count} {self.inward.upper()} to {self.outward.upper()}"


@dataclass(frozen=True, slots=True)
class Running:
    """A relay at work: whose CPU to watch, where to send, what SSRC each target must see."""

    pid: int
    targets: list[tuple[str, int]]
    ssrcs: list[int]


Candidate = Callable[[Shape, list[int]], AbstractContextManager[Running]]


def out_ssrcs(shape: Shape) -> list[int]:
    return [SSRC_OUT + number for number in range(shape.streams * shape.fan)]


# --- the C reference ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reference(shape: Shape, ports: list[int]) -> Iterator[Running]:
    """The same algorithm in C, without cache, ordering and statistics."""
    executable = native.program("relay")
    assert executable is not None
    with child([executable, *shape.arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ssrcs = out_ssrcs(shape)
        lines = "".join(f"{port} {ssrc}\n" for port, ssrc in zip(ports, ssrcs, strict=True))
        process.stdin.write(lines.encode())
        process.stdin.flush()
        targets = [("127.0.0.1", int(port)) for port in process.stdout.readline().split()]
        yield Running(process.pid, targets, ssrcs)


# --- the media node ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def node(shape: Shape, ports: list[int], *, pump: str) -> Iterator[Running]:
    """Our media node with the named pump, told its streams through its control API."""
    with running_node(**known(pump=pump)) as started:
        targets, found = asyncio.run(_open_all(started.config, shape, ports))
        if found != pump:
            raise RuntimeError(f"asked for the {pump} pump, the node runs the {found} one")
        yield Running(started.pid, targets, out_ssrcs(shape))


async def _open_all(config: NodeConfig, shape: Shape, ports: list[int]) -> tuple[list[tuple[str, int]], str]:
    client = MediaClient(config.control, config.control_secret)
    await client.start()
    turn = asyncio.Semaphore(OPENING_AT_ONCE)

    async def one(number: int) -> tuple[str, int]:
        async with turn:
            return await _open_stream(client, shape, number, ports)

    try:
        targets = await asyncio.gather(*(one(number) for number in range(shape.streams)))
        return list(targets), (await client.stats()).pump
    finally:
        await client.close()


async def _open_stream(client: MediaClient, shape: Shape, number: int, ports: list[int]) -> tuple[str, int]:
    stream_id = f"s{number}"
    inward = Transport.UDP if shape.inward == "udp" else Transport.TCP_PASSIVE
    outward = Transport.UDP if shape.outward == "udp" else Transport.TCP_ACTIVE
    receiver = ReceiverSpec(
        stream_id=stream_id, ssrc=SSRC_IN + number, transport=inward, no_rtp_timeout_s=600
    )
    info = await client.open_receiver(receiver)
    for target in range(shape.fan):
        place = number * shape.fan + target
        sender = SenderSpec(
            sender_id=f"t{place}", stream_id=stream_id, transport=outward, remote_host="127.0.0.1",
            remote_port=ports[place], ssrc=SSRC_OUT + place,
        )  # fmt: skip
        await client.open_sender(sender)
        await client.start_sender(sender.sender_id)
    return "127.0.0.1", info.port


@functools.cache
def has_compiled_pump() -> bool:
    """Whether the node knows another pump and it was built."""
    if "pump" not in NodeConfig.model_fields:
        return False
    try:
        with node(Shape(1), [9], pump="compiled"):
            return True
    except (RuntimeError, ValueError):
        return False


# --- asyncio -----------------------------------------------------------------------------------------------------


class _In(asyncio.DatagramProtocol):
    """The usual relay: one callback per packet, headers rewritten, sent on."""

    def __init__(self, ssrcs: list[int], outs: list[asyncio.DatagramTransport]) -> None:
        self.outs = list(zip(ssrcs, outs, strict=True))
        self.sequence = 0

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        packet = bytearray(data)
        _, stamp, _ = _REWRITE.unpack_from(packet, 2)
        for ssrc, out in self.outs:
            _REWRITE.pack_into(packet, 2, self.sequence & 0xFFFF, stamp, ssrc)
            out.sendto(packet)
        self.sequence += 1


class _StreamIn(asyncio.Protocol):
    """The same behind a TCP connection with RFC 4571 lengths."""

    def __init__(self, ssrc: int, send: Callable[[bytes | bytearray], None], *, framed: bool) -> None:
        self.ssrc = ssrc
        self.send = send
        self.framed = framed
        self.rest = bytearray()
        self.sequence = 0

    def data_received(self, data: bytes) -> None:
        rest = self.rest
        rest += data
        at = 0
        while len(rest) - at >= 2 and len(rest) - at - 2 >= (size := rest[at] << 8 | rest[at + 1]):
            _, stamp, _ = _REWRITE.unpack_from(rest, at + 4)
            _REWRITE.pack_into(rest, at + 4, self.sequence & 0xFFFF, stamp, self.ssrc)
            self.sequence += 1
            if not self.framed:
                self.send(rest[at + 2 : at + 2 + size])
            at += 2 + size
        if self.framed and at:
            self.send(rest[:at])
        del rest[:at]


async def asyncio_relay(shape: Shape) -> None:
    """Child: reads the sinks' ports, prints where to send, relays until its input ends."""
    loop = asyncio.get_running_loop()
    ports = json.loads(sys.stdin.readline())
    ssrcs = out_ssrcs(shape)
    targets = []
    for number in range(shape.streams):
        places = range(number * shape.fan, (number + 1) * shape.fan)
        sends: list[Any] = []
        for place in places:
            address = ("127.0.0.1", ports[place])
            if shape.outward == "udp":
                out, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
                sends.append(out)
            else:
                stream, _ = await loop.create_connection(asyncio.Protocol, *address)
                sends.append(stream)
        if shape.inward == "udp":
            receiver = _In([ssrcs[place] for place in places], sends)
            transport, _ = await loop.create_datagram_endpoint(
                partial(_same, receiver), local_addr=("127.0.0.1", 0)
            )
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            targets.append(sock.getsockname())
        else:
            framed = shape.outward == "tcp"
            send = sends[0].write if framed else sends[0].sendto
            server = await loop.create_server(
                partial(_StreamIn, ssrcs[places[0]], send, framed=framed), "127.0.0.1", 0
            )
            targets.append(server.sockets[0].getsockname())
    print(json.dumps(targets), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)


def _same(protocol: _In) -> _In:
    return protocol


@contextlib.contextmanager
def plain_asyncio(shape: Shape, ports: list[int]) -> Iterator[Running]:
    """DatagramProtocol, or Protocol where the input is TCP (one target only)."""
    command = [sys.executable, "-m", "benchmarks.relay_candidates", *shape.arguments]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(ports).encode() + b"\n")
        process.stdin.flush()
        targets = [(host, port) for host, port in json.loads(process.stdout.readline())]
        yield Running(process.pid, targets, out_ssrcs(shape))


# --- rtpengine ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def with_rtpengine(shape: Shape, ports: list[int]) -> Iterator[Running]:
    """Debian's rtpengine in user space: one to one, and it keeps the SSRC."""
    executable = rtpengine.program()
    assert executable is not None
    with rtpengine.running(executable) as (pid, control):
        targets = [control.stream(number, port) for number, port in enumerate(ports)]
        yield Running(pid, targets, [SSRC_IN + number for number in range(shape.streams)])


def available(shape: Shape) -> dict[str, Candidate]:
    """The candidates that are installed here and can do ``shape``, the reference first."""
    found: dict[str, Candidate] = {}
    if native.program("relay") is not None:
        found["C"] = reference
    found["python"] = partial(node, pump="python")
    if has_compiled_pump():
        found["compiled"] = partial(node, pump="compiled")
    found["asyncio"] = plain_asyncio
    if rtpengine.program() is not None and shape.fan == 1 and shape.inward == shape.outward == "udp":
        found["rtpengine"] = with_rtpengine
    return found


if __name__ == "__main__":
    asyncio.run(asyncio_relay(Shape(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])))
