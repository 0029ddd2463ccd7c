"""The storm: 10,000 devices register at a real gateway at once. Time until all are online, losses, memory, CPU.

Everything is as in operation: digest, storage, device information and catalog asked of every device, subscriptions
refused by the devices. Only the limit per source address is lifted, because here all devices share one address.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Row, child, cpu_seconds, free_port, rss_bytes
from simulator.storm import Storm

DEVICES = 10_000
AIM_S = 10.0
WAIT_S = 180.0
PASSWORD = "Storm-Bench-0001"
SERVER_ID = "41018300002000000001"


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[int, int, int]]:
    """The real gateway as a child; yields its process id, SIP port and metrics port."""
    sip, http, viewer, metrics = (free_port() for _ in range(4))
    settings = {
        "sip": {"host": "127.0.0.1", "port": sip, "allow_loopback": True},
        "registration": {"domain_password": PASSWORD, "requests_per_second_per_source": 1e6},
        "http": {"host": "127.0.0.1", "port": http},
        "media": {"viewer_host": "127.0.0.1", "viewer_port": viewer, "rtsp_port": None, "webrtc_port": None},
        "metrics": {"port": metrics},
        "storage": {"directory": str(folder / "data")},
        "log": {"level": "WARNING"},
    }
    configuration = folder / "gateway.yaml"
    configuration.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with (folder / "gateway.log").open("wb") as log:
        arguments = [sys.executable, "-m", "gateway", "run", "-c", str(configuration)]
        with child(arguments, stdout=log, stderr=log) as process:
            deadline = time.monotonic() + 60
            while not _ready(http):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the gateway did not start")
                time.sleep(0.1)
            yield process.pid, sip, metrics


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def metric(port: int, name: str) -> float:
    """Sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def until(port: int, name: str, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while await asyncio.to_thread(metric, port, name) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not reach {count} in {WAIT_S:.0f} s")
        await asyncio.sleep(0.5)


async def measure(pid: int, sip: int, metrics: int) -> list[Row]:
    storm = Storm(
        ("127.0.0.1", sip),
        SERVER_ID,
        DEVICES,
        password=PASSWORD,
        sockets=8,
        window=1000,
        retry_s=(1, 1, 2, 4),
    )
    storm.start()
    try:
        await asyncio.sleep(2.0)  # what the start still does is not counted
        memory, cpu, began = rss_bytes(pid), cpu_seconds(pid), time.monotonic()
        rounds = 0
        while await storm.register(timeout_s=WAIT_S, only_missing=rounds > 0) < DEVICES and rounds < 5:
            rounds += 1
        online_s = time.monotonic() - began
        registered, lost, repeated = storm.registered, storm.counts.lost, storm.counts.repeated
        await until(metrics, "gateway_catalogs_total", registered)
        settled_s = time.monotonic() - began
        spent = cpu_seconds(pid) - cpu
        await asyncio.sleep(3.0)
        per_device = (rss_bytes(pid) - memory) / DEVICES
        online = await asyncio.to_thread(metric, metrics, "gateway_devices_online")
        lost_before = storm.counts.lost
        cpu, began = cpu_seconds(pid), time.monotonic()
        beats = await storm.beat(timeout_s=WAIT_S)
        beats_s, beat_cpu = time.monotonic() - began, cpu_seconds(pid) - cpu
        lost_beats = storm.counts.lost - lost_before
    finally:
        await storm.close()
    how = f"{DEVICES} devices on loopback, at most 1000 requests under way, sender on the same machine"
    return [
        Row(
            f"storm: {DEVICES} devices registered", online_s, "s", "", None, f"<= {AIM_S:g} s", online_s <= AIM_S, how
        ),
        Row("storm: devices not online afterwards", DEVICES - online, "devices", "", None, "0", online == DEVICES),
        Row("storm: requests lost for good", lost, "requests", aim="0", met=lost == 0),
        Row("storm: requests sent again", repeated, "requests"),
        Row("storm: all catalogs read", settled_s, "s"),
        Row(
            "storm: CPU per device", spent / DEVICES * 1e6, "us",
            how="CPU per device: REGISTER twice, DeviceInfo, catalog, SUBSCRIBE, storage, log: process CPU of all threads",
        ),
        Row("storm: memory per device", per_device / 1024, "KiB", how="memory: growth of the resident set"),
        Row(
            f"storm: {DEVICES} heartbeats in one go", beats_s, "s", f"CPU {beat_cpu / DEVICES * 1e6:.1f} us each", None,
            "all answered", beats == DEVICES and lost_beats == 0,
        ),
    ]  # fmt: skip


def run() -> list[dict[str, Any]]:
    """One gateway, one storm."""
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder)) as ports:
        return [row.as_dict() for row in asyncio.run(measure(*ports))]


if __name__ == "__main__":
    for line in run():
        print(line)
