"""A running gateway in this process with its HTTP API, for tests that speak to simulated cameras."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from gateway_process import PASSWORD, free_ports
from live_house import SERVER, until
from port_ranges import kept_ports
from scripted_camera import DOMAIN

from config.settings import Settings
from gateway.app import Gateway
from gateway.services.access import Role
from simulator.audio import AudioOptions
from simulator.camera import Camera, DeviceOptions, Pictures
from sip.manscdp import Edition

PICTURES = Pictures(width=320, height=192, bitrate=200_000, gop=25)
RTP_PORTS, WEBRTC_PORTS = kept_ports(200), kept_ports(60)


def noise(count: int, seed: int = 1) -> bytes:
    """G.711A that no encoder would make of anything else."""
    return random.Random(seed).randbytes(count)


class TalkHouse:
    """The gateway, a client of its API per role, and the cameras that were added."""

    def __init__(self, gateway: Gateway, http: ClientSession, tokens: dict[Role, str]) -> None:
        self.gateway, self.http, self.tokens = gateway, http, tokens
        self.serial = 0

    async def call(
        self, method: str, path: str, body: Any = None, *, role: Role = Role.OPERATOR, kind: str = ""
    ) -> tuple[int, Any]:
        """One request; the status, and the decoded answer."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}"}
        options: dict[str, Any] = {"json": body} if body is not None and not kind else {}
        if kind:
            options, headers["Content-Type"] = {"data": body}, kind
        url = f"http://127.0.0.1:{self.gateway.http.server.port}{path}"
        async with self.http.request(method, url, headers=headers, **options) as answer:
            if "json" in answer.content_type:
                return answer.status, await answer.json(content_type=None)
            return answer.status, (await answer.text(), answer.headers)

    async def camera(
        self,
        *,
        edition: Edition = Edition.V2022,
        speaker: bool = True,
        transport: str = "udp",
        audio: AudioOptions | None = None,
        **more: Any,
    ) -> Camera:
        """A camera that is online with its catalog."""
        self.serial += 1
        options = DeviceOptions(pictures=PICTURES, edition=edition, audio=audio or AudioOptions())
        device = Camera(
            f"4101830000132000{self.serial:04d}",
            server=("127.0.0.1", self.gateway.endpoint.port),
            server_id=SERVER,
            domain=DOMAIN,
            password=PASSWORD,
            options=options,
            speaker=speaker,
            transport=transport,
            **more,
        )
        await device.start()
        await device.wait_registered(30)
        registry = self.gateway.registry
        await until(lambda: len(registry.channels(device.device_id)) == len(device.channels))
        return device

    async def begin(self, *devices: Camera, role: Role = Role.OPERATOR, **more: Any) -> dict[str, Any]:
        """A talk with pushed sound to these cameras."""
        targets = [{"channel_id": device.channel_id, "device_id": device.device_id} for device in devices]
        status, answer = await self.call("POST", "/api/talks", {"targets": targets, **more}, role=role)
        assert status == 201, answer
        return dict(answer)

    async def push(self, talk_id: str, sound: bytes, *, end: int = 0, form: str = "g711a") -> Any:
        path = f"/api/talks/{talk_id}/audio?format={form}&end={end}"
        status, answer = await self.call("POST", path, sound, kind="application/octet-stream")
        assert status == 200, answer
        return answer

    async def states(self, talk_id: str) -> list[dict[str, Any]]:
        status, answer = await self.call("GET", f"/api/talks/{talk_id}")
        assert status == 200, answer
        return list(answer["targets"])

    async def reach(self, talk_id: str, state: str, place: int = 0) -> dict[str, Any]:
        """Wait for the state of a target."""
        async with asyncio.timeout(40):
            while (found := (await self.states(talk_id))[place])["state"] != state:
                assert found["state"] in ("ringing", "talking"), found
                await asyncio.sleep(0.05)
        return found

    async def stop(self, talk_id: str, role: Role = Role.OPERATOR) -> None:
        status, answer = await self.call("DELETE", f"/api/talks/{talk_id}", role=role)
        assert status == 204, answer

    async def assert_nothing_left(self) -> None:
        """No talk, leg, port, SSRC or dialog of a talk is left."""
        gateway = self.gateway
        await until(lambda: not gateway.talks.under_way())
        await until(lambda: not gateway.talks._branches)
        await until(lambda: gateway.ssrc_pool.leased == 0)
        await until(lambda: gateway.endpoint.counts["dialogs"] == 0)
        for node in gateway.nodes.handles():
            async with asyncio.timeout(20):
                while True:
                    stats = await node.client.stats()
                    if not (stats.talk.talks or stats.talk.legs or stats.ports_leased):
                        break
                    await asyncio.sleep(0.05)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    sip, viewer, http, metrics = free_ports(4)
    made: dict[str, Any] = {
        "sip": {"server_id": SERVER, "domain": DOMAIN, "host": "127.0.0.1", "port": sip, "allow_loopback": True},
        "registration": {"domain_password": PASSWORD},
        "catalog": {"subscribe": False},
        "media": {
            "viewer_host": "127.0.0.1",
            "viewer_port": viewer,
            "rtsp_port": None,
            "rtp_port_min": RTP_PORTS[0],
            "rtp_port_max": RTP_PORTS[1],
            "webrtc_port": WEBRTC_PORTS[0],
            "webrtc_port_min": WEBRTC_PORTS[0],
            "webrtc_port_max": WEBRTC_PORTS[1],
            "idle_grace_s": 1.0,
            "port_quarantine_s": 0.2,
            "ssrc_rest_s": 1.0,
        },
        "talk": {"invite_wait_s": 2.0},
        "http": {"host": "127.0.0.1", "port": http},
        "metrics": {"port": metrics},
        "storage": {"directory": str(folder), "flush_interval_s": 0.2},
        "log": {"level": "WARNING"},
    }  # fmt: skip
    for section, values in more.items():
        made.setdefault(section, {}).update(values)
    return made


@asynccontextmanager
async def talk_house(folder: Path, **more: Any) -> AsyncIterator[TalkHouse]:
    """A gateway for a module of tests."""
    gateway = Gateway(Settings.model_validate(settings(folder, **more)))
    await gateway.start()
    access = gateway.http.access
    tokens = {role: (await access.add_token(f"test {role}", role, f"user-{role}", None))[0] for role in Role}
    try:
        async with ClientSession() as http:
            yield TalkHouse(gateway, http, tokens)
    finally:
        await gateway.stop()
