"""The whole chain on loopback: simulated cameras, the real gateway process, an upper platform above it, viewers of fMP4."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import subprocess
import threading
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway_process import PASSWORD, SERVER_ID, GatewayProcess, free_ports, start
from outside import eventually

from simulator.camera import Camera, DeviceOptions, Faults
from simulator.upper_platform import UpperPlatform
from sip.ids import make_code

UPPER = "41010000002000000001"
UPPER_PASSWORD = "Upper-Platform-Pw-03"
QUICK: dict[str, Any] = {
    "media": {"idle_grace_s": 5, "port_quarantine_s": 0.5, "ssrc_rest_s": 1},
    "cascade": {"register_retry_s": 2},
}
"""Settings that shorten waits."""


def camera(gateway: GatewayProcess, serial: int, options: DeviceOptions | None = None, **more: Any) -> Camera:
    """A camera of the test domain; it is not started."""
    return Camera(
        make_code("410183", 132, serial),
        server=("127.0.0.1", gateway.sip_port),
        server_id=SERVER_ID,
        password=PASSWORD,
        options=options,
        **more,
    )


class Viewer:
    """Somebody who watches a channel's fragmented MP4 and counts what arrives."""

    def __init__(self, gateway: GatewayProcess, channel_id: str) -> None:
        status, self.live = gateway.call("POST", f"/api/channels/{channel_id}/live", {})
        assert status == 200, self.live
        self.bytes = 0
        self.fragments = 0
        self.ended = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(self.live["fmp4"], timeout=20) as answer,
        ):
            while not self._stop and (data := answer.read1(65536)):
                self.bytes += len(data)
                self.fragments += data.count(b"moof")
        self.ended.set()

    async def pictures(self, count: int = 3, timeout_s: float = 20.0) -> None:
        """Wait for so many more fragments."""
        wanted = self.fragments + count
        await eventually(lambda: self.fragments >= wanted, timeout_s, "fragments at the viewer")

    async def close(self) -> None:
        self._stop = True
        await asyncio.to_thread(self._thread.join, 10)

    async def wait_end(self) -> None:
        """Wait until the other side closes."""
        await eventually(self.ended.is_set, 20, "the end of the viewer's stream")


@dataclass
class Chain:
    """What runs. ``gateway`` is another process after :meth:`restart`, in the same folder on the same ports."""

    gateway: GatewayProcess
    upper: UpperPlatform
    ports: list[int]
    overrides: dict[str, Any]
    cameras: list[Camera] = field(default_factory=list)

    async def channel_online(self, device: Camera) -> None:
        path = f"/api/channels/{device.channel_id}"

        def online() -> bool:
            status, answer = self.gateway.call("GET", path)
            return status == 200 and bool(answer["online"])

        await eventually(online, 30, f"{device.channel_id} online")

    async def sessions(self) -> list[dict[str, Any]]:
        _, answer = await asyncio.to_thread(self.gateway.call, "GET", "/api/sessions")
        items: list[dict[str, Any]] = answer["items"]
        return items

    async def device(self, device: Camera) -> dict[str, Any]:
        status, answer = await asyncio.to_thread(self.gateway.call, "GET", f"/api/devices/{device.device_id}")
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    async def restart(self) -> None:
        """A new life in the same folder, on the same ports."""
        folder = self.gateway.folder
        self.gateway = await asyncio.to_thread(start, folder, self.overrides, self.ports)


@asynccontextmanager
async def chain(
    folder: Path,
    count: int = 1,
    *,
    overrides: dict[str, Any] | None = None,
    options: DeviceOptions | None = None,
    faults: Faults | None = None,
    **device: Any,
) -> AsyncIterator[Chain]:
    """Gateway, ``count`` cameras that are online with their channels, and an upper that is shown all of them."""
    settings = {name: dict(values) for name, values in QUICK.items()}
    for section, values in (overrides or {}).items():
        settings.setdefault(section, {}).update(values)
    sip, http_port, metrics, viewers, _ = free_ports(5)  # a second node's viewers come in one port further
    ports = [sip, http_port, viewers, metrics]
    gateway = await asyncio.to_thread(start, folder, settings, ports)
    upper = UpperPlatform(UPPER, lower_id=SERVER_ID, password=UPPER_PASSWORD)
    running = Chain(gateway, upper, ports, settings)
    await upper.start()
    try:
        platform = {"platform_id": UPPER, "name": "upper", "host": "127.0.0.1", "port": upper.port}
        platform |= {"password": UPPER_PASSWORD, "share_all": True}
        status, answer = gateway.call("POST", "/api/platforms", platform)
        assert status == 201, answer
        for number in range(count):
            own = replace(options, register=replace(options.register)) if options is not None else None
            running.cameras.append(camera(gateway, number + 1, own, faults=faults, **device))
        for one in running.cameras:
            await one.start()
        for one in running.cameras:
            await one.wait_registered(20)
            await running.channel_online(one)
        await upper.wait_registered(30)
        yield running
    finally:
        if running.gateway.process.poll() is not None:  # nobody is left to take leave of
            await asyncio.gather(
                upper.vanish(), *(one.vanish() for one in running.cameras), return_exceptions=True
            )
        else:
            await asyncio.gather(
                upper.stop(), *(one.stop() for one in running.cameras), return_exceptions=True
            )
            try:
                await asyncio.to_thread(running.gateway.end)
            except subprocess.TimeoutExpired:
                running.gateway.process.kill()
