"""The whole gateway as a process: killed without warning, it comes back with its registrations (G059)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from gateway_core import NVR, PASSWORD, RawDevice, message_text
from gateway_process import free_ports

ROOT = Path(__file__).parents[2]
# The gateway without HTTP and media: only what this test is about has to start.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from config.load import load
from gateway.app import Gateway
from gateway.logs import configure

async def main():
    settings = load(Path(sys.argv[1]))
    configure(settings.log)
    gateway = Gateway(settings)
    await gateway.start_signalling()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def configuration(folder: Path, port: int) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "sip": {"host": "127.0.0.1", "port": port, "allow_loopback": True},
                "registration": {"domain_password": PASSWORD},
                "catalog": {"query_on_register": False, "subscribe": False},
                "storage": {"directory": str(folder / "data"), "flush_interval_s": 0.05},
            }
        ),
        encoding="utf-8",
    )
    return path


@contextlib.asynccontextmanager
async def running(folder: Path, port: int) -> AsyncIterator[subprocess.Popen[bytes]]:
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(configuration(folder, port))],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        async with RawDevice(("127.0.0.1", port)) as probe:
            for _ in range(200):
                with contextlib.suppress(TimeoutError, OSError):
                    ping = message_text(b"", port=probe.port, method="OPTIONS", content_type="")
                    if (await probe.exchange(ping, 0.2)).status == 200:
                        break
                assert process.poll() is None, (folder / "gateway.log").read_text()
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.mark.gb("G059")
@pytest.mark.timeout(90)
async def test_registrations_survive_kill_9(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with RawDevice(("127.0.0.1", port)) as device:
        async with running(tmp_path, port) as process:
            assert (await device.register()).status == 200
            assert (await device.keepalive()).status == 200
            await asyncio.sleep(0.5)  # ten flush intervals
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        async with running(tmp_path, port):
            assert (await device.keepalive()).status == 200  # no new REGISTER was needed
        log = (tmp_path / "gateway.log").read_text()
        assert "registrations resumed online=1 lost=0" in log
        assert PASSWORD not in log
        assert f"device online device={NVR}" in log
