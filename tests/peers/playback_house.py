"""A gateway inside the test's loop with a disk of recordings, and a small client of its API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, CookieJar
from gateway_process import free_ports
from port_ranges import kept_ports
from recorded import Recorded

from config.settings import Settings
from gateway.app import Gateway
from gateway.model import Channel, Device
from gateway.storage.recordings import RecordingStore

SERVER = "41018300002000000001"
DEVICE = "41018300001180000005"
PASSWORD = "Xm-Demo-0001"
_RTP = kept_ports(200)


@asynccontextmanager
async def recorded_gateway(
    folder: Path,
    disk: Path,
    *recordings: Recorded,
    more_channels: tuple[str, ...] = (),
    s3: dict[str, Any] | None = None,
    device_recordings: dict[str, Any] | None = None,
    **playback: Any,
) -> AsyncIterator[Gateway]:
    """A running gateway whose disk ``d1`` is ``disk``; the channels of ``recordings`` belong to an offline recorder."""
    sip, viewer, http, metrics = free_ports(4)
    settings = Settings.model_validate(
        {
            "sip": {
                "host": "127.0.0.1", "port": sip, "allow_loopback": True, "server_id": SERVER, "domain": SERVER[:10],
            },
            "media": {
                "viewer_host": "127.0.0.1", "viewer_port": viewer, "rtp_port_min": _RTP[0], "rtp_port_max": _RTP[1],
                "port_quarantine_s": 0.2, "transport": "udp", "rtsp_port": None,
            },
            "cascade": {"register_retry_s": 0.3, "ack_guard_s": 1.5},
            "playback": {"end_grace_s": 0.6, **playback},
            "device_recordings": device_recordings or {},
            "recording": {"disks": [{"disk_id": "d1", "directory": str(disk), "reserve_bytes": 0}], "segment_s": 2, "s3": s3},
            "registration": {"domain_password": PASSWORD},
            "http": {"host": "127.0.0.1", "port": http},
            "metrics": {"port": metrics},
            "storage": {"directory": str(folder), "flush_interval_s": 0.2},
        }
    )  # fmt: skip
    running = Gateway(settings)
    await running.start()
    try:
        running.registry.put_device(Device(DEVICE, name="recorder"))
        channels = {info.channel_id for made in recordings for info in made.infos}
        for code in [*sorted(channels), *more_channels]:
            running.registry.put_channel(
                Channel(DEVICE, code, name=f"north gate {code[-2:]}", reported="ON", address="Ring Road")
            )
        for made in recordings:
            await RecordingStore(running.database).put_segments(made.infos)
        assert await running.nodes.wait_any(60.0)
        yield running
    finally:
        await running.stop()


class ApiClient:
    """One logged-in user."""

    def __init__(self, session: ClientSession, gateway: Gateway) -> None:
        self.session = session
        self.base = f"http://127.0.0.1:{gateway.settings.http.port}"

    async def log_in(self, username: str, password: str) -> None:
        status, answer = await self.call("POST", "/api/login", {"username": username, "password": password})
        assert status == 200, answer

    async def call(
        self, method: str, path: str, body: Any = None, *, follow: bool = True, **query: str
    ) -> tuple[int, Any]:
        """Status and decoded answer (bytes when it is no JSON; the headers of a redirect that is not followed)."""
        async with self.session.request(
            method,
            self.base + path,
            json=body,
            params=query,
            headers={"Origin": self.base},
            allow_redirects=follow,
        ) as answer:
            if not follow and answer.status == 307:
                return 307, answer.headers
            if "json" in answer.headers.get("Content-Type", ""):
                return answer.status, await answer.json(content_type=None)
            return answer.status, await answer.read()


@asynccontextmanager
async def user(gateway: Gateway, username: str = "admin", password: str = "") -> AsyncIterator[ApiClient]:
    """The administrator, or somebody with a password of his own."""
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        client = ApiClient(session, gateway)
        await client.log_in(username, password or gateway.first_password or "")
        yield client
