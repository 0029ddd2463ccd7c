"""``gb-gateway demo``: the gateway with six cameras, a recorder and an upper platform on this machine.

Everything is real: the peers run in a process of their own and speak SIP and RTP over loopback; the set-up goes through
the HTTP API like an operator's. ``--check`` proves without a browser that pictures arrive (see gateway/demo_check.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from config.settings import Settings
from gateway.app import Gateway, StartFailed
from gateway.logs import configure

UPPER_ID = "41010000002000000001"
RECORDER_ID = "41018300001180000001"
READY_TIMEOUT_S = 60.0

CAMERAS: tuple[dict[str, Any], ...] = (
    {"device_id": "41018300001320000001", "name": "东门 H.264 UDP", "media": "udp"},
    {"device_id": "41018300001320000002", "name": "西门 H.264 TCP 被动", "media": "tcp_passive"},
    {"device_id": "41018300001320000003", "name": "学校路 H.264 TCP 主动", "media": "tcp_active"},
    {"device_id": "41018300001320000004", "name": "加油站 H.265", "media": "tcp_passive", "codec": "h265"},
    {"device_id": "41018300001320000005", "name": "桥头 丢包 1%", "media": "udp", "lose": 0.01},
    {
        "device_id": "41018300001320000006",
        "name": "医院 带声音",
        "media": "tcp_passive",
        "sound": True,
        "transport": "tcp",
    },
)
"""Six cameras; ``media`` is the transport that the operator sets in the device's profile."""


class DemoFailed(Exception):
    """The demo cannot go on; the message is for the newcomer."""


def free_ports(wanted: Iterable[int]) -> list[int]:
    """Each wanted port, or the next one that is free for UDP and TCP."""
    taken: set[int] = set()
    for port in wanted:
        candidate = port
        while candidate in taken or not _free(candidate):
            candidate += 1
            if candidate > port + 200:
                raise DemoFailed(f"no free port from {port} on")
        taken.add(candidate)
    return sorted(taken)


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind(("0.0.0.0", port))
            tcp.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


class Api:
    """The HTTP API as an operator uses it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; returns the JSON answer. Raises DemoFailed with the problem's text."""
        headers = {"Origin": self.url}
        async with self.session.request(method, self.url + path, json=body, headers=headers) as answer:
            data = await answer.read()
            if answer.status >= 400:
                raise DemoFailed(f"{method} {path}: {answer.status} {data.decode(errors='replace')[:300]}")
            return json.loads(data) if data and "json" in answer.content_type else data


class Peers:
    """The process with the simulated peers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise DemoFailed("the simulated peers have no pipes")
        self._process = process
        self._orders, self._answers = process.stdin, process.stdout
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, config: dict[str, Any]) -> Peers:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "simulator.demo_peers", cwd=Path(__file__).parents[1],
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        peers = cls(process)
        peers._orders.write(json.dumps(config).encode() + b"\n")
        try:
            await asyncio.wait_for(peers._ready.wait(), READY_TIMEOUT_S)
        except TimeoutError:
            await peers.stop()
            raise DemoFailed("the simulated peers did not start") from None
        return peers

    async def order(self, **order: Any) -> dict[str, Any]:
        """One command and its answer. Raises DemoFailed when the peers are gone."""
        self._number += 1
        future = self._open[self._number] = asyncio.get_running_loop().create_future()
        self._orders.write(json.dumps({"id": self._number, **order}).encode() + b"\n")
        return await asyncio.wait_for(future, READY_TIMEOUT_S)

    async def _read(self) -> None:
        while line := await self._answers.readline():
            answer = json.loads(line)
            if answer.get("ready"):
                self._ready.set()
            future = self._open.pop(answer.get("id", 0), None)
            if future is not None and not future.done():
                future.set_result(answer)
        for future in self._open.values():
            if not future.done():
                future.set_exception(DemoFailed("the simulated peers ended"))

    async def stop(self) -> None:
        self._orders.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10.0)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class Demo:
    """One running demo: gateway, peers, and the API session of its administrator."""

    def __init__(self, gateway: Gateway, peers: Peers, api: Api) -> None:
        self.gateway = gateway
        self.peers = peers
        self.api = api

    async def cameras(self) -> list[dict[str, Any]]:
        """All camera channels the gateway knows."""
        page = await self.api.call("GET", "/api/channels?kind=camera&limit=1000")
        items: list[dict[str, Any]] = page["items"]
        return items

    async def wait_ready(self) -> None:
        """Until all devices are online with their channels and the upper platform has accepted us."""
        expected = len(CAMERAS) + 8
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            online = [channel for channel in await self.cameras() if channel["online"]]
            platforms = (await self.api.call("GET", "/api/platforms"))["items"]
            if len(online) == expected and all(p["status"]["state"] == "online" for p in platforms):
                return
            if time.monotonic() > deadline:
                states = [p["status"]["state"] for p in platforms]
                raise DemoFailed(f"{len(online)} of {expected} cameras online, upper platform {states}")
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def running_demo(http_port: int) -> AsyncIterator[Demo]:
    """Start everything in a temporary folder; stop and remove it at the end. Raises DemoFailed."""
    with tempfile.TemporaryDirectory(prefix="gb-gateway-demo-") as folder:
        sip, upper, http, viewer, metrics, rtsp = _ports(http_port)
        settings = Settings.model_validate(
            {
                "sip": {"host": "127.0.0.1", "port": sip, "allow_loopback": True},
                "http": {"port": http},
                "media": {"viewer_port": viewer, "rtsp_port": rtsp, "webrtc_port": None, "idle_grace_s": 5},
                "cascade": {"register_retry_s": 5},
                "metrics": {"port": metrics},
                "storage": {"directory": folder},
                "log": {"level": "WARNING"},
            }
        )
        configure(settings.log)
        async with contextlib.AsyncExitStack() as stack:
            gateway = Gateway(settings)
            try:
                await gateway.start()
            except StartFailed as error:
                raise DemoFailed(str(error)) from None
            stack.push_async_callback(gateway.stop)
            jar = aiohttp.CookieJar(unsafe=True)  # the console has an address, not a name
            session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
            api = Api(session, f"http://127.0.0.1:{http}")
            await api.call("POST", "/api/login", {"username": "admin", "password": gateway.first_password})
            peers = await Peers.start(await _enter_peers(api, settings, sip, upper))
            stack.push_async_callback(peers.stop)
            demo = Demo(gateway, peers, api)
            await demo.wait_ready()
            yield demo


def _ports(http_port: int) -> tuple[int, int, int, int, int, int]:
    """SIP, the upper's SIP, HTTP, viewers, metrics, RTSP: the usual ones where they are free."""
    sip, upper = free_ports([5060, 5061])
    http, viewer = free_ports([http_port or 18080, (http_port or 18080) + 1])
    metrics, rtsp = free_ports([9281, 8554])
    return sip, upper, http, viewer, metrics, rtsp


async def _enter_peers(api: Api, settings: Settings, sip: int, upper: int) -> dict[str, Any]:
    """Enter every device with a password of its own and the upper platform; returns the peers' configuration."""
    devices = []
    recorder = {
        "device_id": RECORDER_ID,
        "name": "社区录像机",
        "media": "tcp_passive",
        "channels": 8,
        "edition": "2016",
    }
    for entry in (*CAMERAS, recorder):
        peer = {key: value for key, value in entry.items() if key != "media"} | {
            "password": secrets.token_urlsafe(9)
        }
        profile = {"media_transport": entry["media"]}
        known = {key: peer[key] for key in ("device_id", "name", "password")}
        await api.call("POST", "/api/devices", known | {"profile": profile})
        devices.append(peer)
    password = secrets.token_urlsafe(9)
    platform = {
        "platform_id": UPPER_ID,
        "name": "市级平台（模拟）",
        "host": "127.0.0.1",
        "port": upper,
        "password": password,
    }
    await api.call("POST", "/api/platforms", platform | {"share_all": True})
    return {
        "server_host": "127.0.0.1", "server_port": sip, "server_id": settings.sip.server_id, "devices": devices,
        "upper_id": UPPER_ID, "upper_port": upper, "upper_password": password,
    }  # fmt: skip


async def run_demo(*, check: bool, http_port: int, seconds: float, console: Console) -> int:
    """Runs for ``seconds`` (0: until it is cancelled). Returns the exit code: 0 when all went well."""
    from gateway.demo_check import check_demo

    console.print("starting the gateway, six cameras, a recorder and an upper platform ...", style="dim")
    try:
        async with running_demo(http_port) as demo:
            if check:
                return await check_demo(demo, console)
            first = (await demo.cameras())[0]["channel_id"]
            pulled = await demo.peers.order(pull=first, transport="udp", seconds=3, keep=True)
            _tell(demo, pulled, first, console)
            try:
                await asyncio.wait_for(asyncio.Event().wait(), seconds or None)
            except TimeoutError:
                pass
            finally:
                console.print("stopping ...", style="dim")
    except DemoFailed as error:
        console.print(f"[red]the demo failed:[/red] {error}", highlight=False)
        return 1
    return 0


def _tell(demo: Demo, pulled: dict[str, Any], channel: str, console: Console) -> None:
    """What is there, and what to look at."""
    settings = demo.gateway.settings
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("console / 控制台", f"[bold]http://127.0.0.1:{settings.http.port}/[/bold]")
    table.add_row("user / 用户", "admin")
    table.add_row("password / 口令", f"[bold]{demo.gateway.first_password}[/bold]")
    table.add_row("metrics / 指标", f"http://127.0.0.1:{settings.metrics.port}/metrics")
    table.add_row("API", f"http://127.0.0.1:{settings.http.port}/api/docs")
    table.add_row(
        "SIP",
        f"127.0.0.1:{settings.sip.port} UDP+TCP, {settings.sip.server_id}, domain {settings.sip.domain}",
    )
    console.print(table, highlight=False)
    if "error" in pulled:
        console.print(f"[red]upper platform: {pulled['error']}[/red]", highlight=False)
    else:
        console.print(
            f"upper platform {UPPER_ID} pulls {channel}: {pulled['frames']} frames of {pulled['width']}x{pulled['height']} "
            f"decoded in 3 s, {pulled['decode_errors']} errors",
            highlight=False,
        )
    console.print(
        "look at: click four cameras of the tree into the four pictures (WebRTC; the H.265 one needs a browser that can);\n"
        "watch the clock run; hold the PTZ arrows; open platforms and sessions. Ctrl-C stops everything.",
        highlight=False,
    )
