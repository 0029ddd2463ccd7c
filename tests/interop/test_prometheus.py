"""A real Prometheus scrapes the metrics listener, loads our rules, and answers queries about what it got."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from http_house import House, house

ROOT = Path(__file__).parents[2]
RULES = ROOT / "config" / "prometheus" / "gateway_rules.yml"
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def prometheus(folder: Path, target: int) -> AsyncIterator[str]:
    """A Prometheus that scrapes each second; yields the address of its API."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n"
        f"rule_files: ['{RULES}']\n"
        f"scrape_configs: [{{job_name: gateway, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n",
        encoding="utf-8",
    )
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def until(client: aiohttp.ClientSession, url: str, good: Any) -> Any:
    """Ask again until ``good`` accepts the data."""
    last: Any = None
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with client.get(url) as response:
                    last = (await response.json())["data"]
                if good(last):
                    return last
            except (aiohttp.ClientError, ValueError, KeyError):
                pass
            await asyncio.sleep(0.3)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


@pytest.mark.gb("G284")
@pytest.mark.needs("prometheus")
async def test_prometheus_scrapes_us(home: House, tmp_path: Path) -> None:
    home.add_device()
    home.add_channel(civil_code="410183", grassroots_code="104002", point_class=1)
    server = home.http.metrics_server
    await server.start()
    async with prometheus(tmp_path, server.port) as api, aiohttp.ClientSession() as client:
        targets = await until(
            client,
            f"{api}/api/v1/targets",
            lambda data: any(t["health"] == "up" for t in data["activeTargets"]),
        )
        assert targets["activeTargets"][0]["lastError"] == ""
        query = f"{api}/api/v1/query?query="
        data = await until(client, f"{query}gateway_cameras_online", lambda data: data["result"])
        assert data["result"][0]["metric"]["township"] == "410183104"
        assert data["result"][0]["value"][1] == "1"
        data = await until(client, f"{query}gateway:cameras_online:ratio_all", lambda data: data["result"])
        assert data["result"][0]["value"][1] == "1"
        rules = await until(client, f"{api}/api/v1/rules", lambda data: data["groups"])
        assert all(rule.get("lastError", "") == "" for group in rules["groups"] for rule in group["rules"])
    await server.close()
