"""Waves of the soak: streams that open together, are relayed for a while with every byte checked, and close again.

Each wave is one process of benchmarks/c/load.c. When it has ended, its counters are compared with the node's:
generator = node in, node in = node out + drops, node out = sink.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from benchmarks import native
from benchmarks.relay_candidates import SSRC_OUT, Shape
from benchmarks.relay_load import SSRC_IN
from media.client import MediaClient, MediaError
from media.specs import ReceiverSpec, SenderSpec, StreamStats, Transport

QUIET_S = 2.0
"""The sink stays so long after the last packet: a starved machine must not cut a wave short."""


@dataclass(slots=True)
class Totals:
    """Packets over all waves that have ended. ``wrong`` counts bytes, order or headers that were not as they must be."""

    waves: int = 0
    streams: int = 0
    sent: int = 0
    node_in: int = 0
    node_lost: int = 0
    node_out: int = 0
    node_drops: int = 0
    received: int = 0
    wrong: int = 0
    disagreeing: int = 0

    def as_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @property
    def agree(self) -> bool:
        """What was sent came in, what came in went out or was counted as dropped, what went out arrived."""
        arrived = self.sent == self.node_in + self.node_lost
        return arrived and self.node_in == self.node_out + self.node_drops and self.node_out == self.received


class Waves:
    """Runs waves against one node; ``totals`` grows as they end, ``notes`` tells where counters differ."""

    def __init__(self, client: MediaClient) -> None:
        self.totals = Totals()
        self.notes: list[str] = []
        self.running = 0
        self._client = client
        self._count = 0

    async def run(self, shape: Shape, seconds: float) -> None:
        """One wave from opening to closing. RuntimeError when the load program fails."""
        executable = native.program("load")
        if executable is None:
            raise RuntimeError(native.NO_COMPILER)
        self._count += 1
        name = f"w{self._count}"
        process = await asyncio.create_subprocess_exec(
            executable,
            *shape.arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self.running += 1
        try:
            ports = [int(port) for port in (await process.stdout.readline()).split()]
            targets = [await self._open(name, shape, number, ports) for number in range(shape.streams)]
            text = "".join(f"127.0.0.1 {port}\n" for port in targets)
            text += "".join(f"{SSRC_OUT + number}\n" for number in range(shape.streams * shape.fan))
            process.stdin.write((text + f"go 0 0 {seconds} {QUIET_S}\n").encode())
            await process.stdin.drain()
            lines = (await process.stdout.read()).decode().splitlines()
            if not lines or not lines[-1].startswith("{"):
                raise RuntimeError(f"the load program ended with {await process.wait()}")
            await self._compare(name, shape, json.loads(lines[-1]))
        finally:
            self.running -= 1
            if process.returncode is None:
                process.kill()
            await process.wait()
            with contextlib.suppress(MediaError):
                for number in range(shape.streams):
                    await self._client.close_receiver(f"{name}-{number}")

    async def _open(self, name: str, shape: Shape, number: int, ports: list[int]) -> int:
        stream_id = f"{name}-{number}"
        inward = Transport.UDP if shape.inward == "udp" else Transport.TCP_PASSIVE
        outward = Transport.UDP if shape.outward == "udp" else Transport.TCP_ACTIVE
        spec = ReceiverSpec(stream_id=stream_id, ssrc=SSRC_IN + number, transport=inward, idle_grace_s=600)
        info = await self._client.open_receiver(spec)
        for target in range(shape.fan):
            place = number * shape.fan + target
            sender = SenderSpec(
                sender_id=f"{stream_id}-{target}", stream_id=stream_id, transport=outward, remote_host="127.0.0.1",
                remote_port=ports[place], ssrc=SSRC_OUT + place,
            )  # fmt: skip
            await self._client.open_sender(sender)
            await self._client.start_sender(sender.sender_id)
        return info.port

    async def _compare(self, name: str, shape: Shape, seen: dict[str, Any]) -> None:
        """Add one wave to the totals. A stream to several targets counts once per target."""
        stats: list[StreamStats] = [
            await self._client.stream(f"{name}-{number}") for number in range(shape.streams)
        ]
        fan = shape.fan
        wave = Totals(
            waves=1, streams=shape.streams, sent=seen["all"]["sent"] * fan,
            node_in=sum(one.packets for one in stats) * fan, node_lost=sum(one.lost for one in stats) * fan,
            node_out=sum(one.relay_packets for one in stats), node_drops=sum(one.relay_drops for one in stats),
            received=seen["all"]["received"], wrong=seen["wrong"],
        )  # fmt: skip
        if not wave.agree:
            wave.disagreeing = 1
            self.notes.append(f"{name} {shape}: {wave.as_dict()}")
        for field in dataclasses.fields(Totals):
            setattr(self.totals, field.name, getattr(self.totals, field.name) + getattr(wave, field.name))
