"""The demo's peers in one process: cameras, a recorder and an upper platform, told what to do over standard input.

``python -m simulator.demo_peers`` reads one JSON line with :class:`PeersConfig`, then commands, one JSON line each:
``{"id": 1, "pull": "<channel>", "transport": "udp", "seconds": 3, "keep": false}``. Each command is answered by one
line with its id. The process ends when standard input closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from simulator.camera import Camera, DeviceOptions, Faults, Pictures
from simulator.device import SimulatedDevice
from simulator.nvr import Recorder
from simulator.upper_platform import Pull, UpperPlatform
from sip.errors import SipError
from sip.manscdp import Edition


class PeerDevice(BaseModel):
    """One camera, or a recorder when ``channels`` is above 0."""

    model_config = ConfigDict(extra="forbid")

    device_id: str
    name: str
    password: str
    transport: Literal["udp", "tcp"] = "udp"
    codec: Literal["h264", "h265"] = "h264"
    edition: Literal["2016", "2022"] = "2022"
    sound: bool = False
    lose: float = 0.0
    channels: int = 0


class PeersConfig(BaseModel):
    """Where the gateway is, who registers there, and where the upper platform listens."""

    model_config = ConfigDict(extra="forbid")

    server_host: str
    server_port: int
    server_id: str
    devices: list[PeerDevice]
    upper_id: str
    upper_port: int
    upper_password: str


class Peers:
    """All peers of one demo."""

    def __init__(self, config: PeersConfig) -> None:
        self.config = config
        self.devices: list[SimulatedDevice] = [self._device(entry) for entry in config.devices]
        self.upper = UpperPlatform(
            config.upper_id,
            lower_id=config.server_id,
            password=config.upper_password,
            host=config.server_host,
            port=config.upper_port,
        )
        self.kept: list[Pull] = []

    def _device(self, entry: PeerDevice) -> SimulatedDevice:
        server = (self.config.server_host, self.config.server_port)
        edition = Edition.V2016 if entry.edition == "2016" else Edition.V2022
        pictures = Pictures(codec=entry.codec, sound=entry.sound, width=704, height=576, bitrate=800_000)
        options = DeviceOptions(pictures=pictures, host=self.config.server_host)
        faults = Faults(lose_rtp=entry.lose)
        if entry.channels:
            return Recorder(
                entry.device_id, entry.channels, server=server, server_id=self.config.server_id, password=entry.password,
                name=entry.name, directory=True, transport=entry.transport, edition=edition, options=options, faults=faults,
                names=[f"{entry.name}{number:02d}" for number in range(1, entry.channels + 1)],
            )  # fmt: skip
        return Camera(
            entry.device_id, server=server, server_id=self.config.server_id, password=entry.password, name=entry.name,
            transport=entry.transport, codec=entry.codec, edition=edition, picture="live", speaker=entry.sound,
            options=options, faults=faults,
        )  # fmt: skip

    async def start(self) -> None:
        await self.upper.start()
        for device in self.devices:
            await device.start()

    async def stop(self) -> None:
        await asyncio.gather(*(pull.close() for pull in self.kept), return_exceptions=True)
        await asyncio.gather(*(device.stop() for device in self.devices), return_exceptions=True)
        await self.upper.stop()

    async def command(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; errors are answers too."""
        try:
            if "pull" in order:
                return await self._pull(order)
            if "catalog" in order:
                items = await self.upper.query_catalog()
                return {"items": len(items), "ids": [item.device_id for item in items]}
            return {"error": "unknown command"}
        except (SipError, TimeoutError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def _pull(self, order: dict[str, Any]) -> dict[str, Any]:
        """Play one channel for some seconds and say what arrived and decoded."""
        pull = await self.upper.invite(order["pull"], order.get("transport", "udp"))
        if order.get("keep"):
            self.kept.append(pull)
        try:
            await asyncio.sleep(float(order.get("seconds", 3.0)))
        finally:
            if not order.get("keep"):
                await pull.close()
        stats = pull.media.stats
        return {
            "frames": stats.frames, "decode_errors": stats.decode_errors, "lost": stats.lost, "packets": stats.packets,
            "width": stats.width, "height": stats.height, "codec": stats.codec, "audio": stats.audio_units,
        }  # fmt: skip


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    sys.stdout.flush()


async def serve() -> None:
    """Read the configuration, start, obey until standard input closes, stop."""
    reader = await standard_input()
    peers = Peers(PeersConfig.model_validate_json(await reader.readline()))
    running: set[asyncio.Task[None]] = set()

    async def obey(order: dict[str, Any]) -> None:
        say({"id": order.get("id"), **await peers.command(order)})

    try:
        await peers.start()
        say({"ready": True})
        while line := await reader.readline():
            task = asyncio.create_task(obey(json.loads(line)))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await peers.stop()


if __name__ == "__main__":
    asyncio.run(serve())
