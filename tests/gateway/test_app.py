"""Starting and failing to start: one clear error, nothing left open."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from gateway.app import Gateway, StartFailed


def settings(folder: Path, port: int, **sip: Any) -> Settings:
    return Settings.model_validate(
        {
            "sip": {"host": "127.0.0.1", "port": port, "allow_loopback": True, **sip},
            "storage": {"directory": str(folder / "data")},
        }
    )


@pytest.fixture
def taken() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as blocker:
        blocker.bind(("127.0.0.1", 0))
        yield blocker.getsockname()[1]


async def test_a_port_in_use_is_told_and_everything_is_closed_again(tmp_path: Path, taken: int) -> None:
    before = asyncio.all_tasks()
    gateway = Gateway(settings(tmp_path, taken))
    with pytest.raises(StartFailed, match="ddress already in use"):
        await gateway.start()
    assert gateway.database._engine is None
    assert asyncio.all_tasks() == before
    await gateway.stop()


async def test_an_address_that_nobody_can_reach_stops_the_start(tmp_path: Path) -> None:
    gateway = Gateway(settings(tmp_path, 5060, allow_loopback=False))
    with pytest.raises(StartFailed, match="loopback"):
        await gateway.start()
    assert not (tmp_path / "data").exists()


async def test_a_broken_database_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gateway.sqlite3").write_bytes(b"no database" * 500)
    with pytest.raises(StartFailed, match="database"):
        await Gateway(settings(tmp_path, 5060)).start()
