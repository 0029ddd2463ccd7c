"""CPU of the real registrar and of real heartbeats, from the socket to the storage behind, against Kamailio in the same run.

Run as ``python -m benchmarks.registrar``. The gateway runs with storage, endpoint, dispatch, registrar and liveness
(no media, no HTTP); the load is another process. Values are process CPU time of all threads per transaction; a
REGISTER counts once for its two requests.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import kamailio
from benchmarks.measure import Row, child, cpu_seconds, free_port

PASSWORD = kamailio.PASSWORD
PASSES = 3
COUNTS = {"register": 10_000, "keepalive": 20_000}
AIMS = {"register": 2.0, "keepalive": 3.0}
NAMES = {"register": "REGISTER with digest, both requests", "keepalive": "heartbeat"}
DEVICES = 1000


async def serve(port: int, folder: str) -> None:
    """The gateway's signalling parts, until standard input closes."""
    from config.settings import Settings
    from gateway.app import Gateway

    gateway = Gateway(
        Settings.model_validate(
            {
                "sip": {"host": "127.0.0.1", "port": port, "allow_loopback": True},
                "registration": {"domain_password": PASSWORD, "requests_per_second_per_source": 1e6},
                "catalog": {"query_on_register": False, "subscribe": False},
                "storage": {"directory": folder},
            }
        )
    )
    gateway.device_info.start = lambda: None  # type: ignore[method-assign]  # no queries into the measurement
    await gateway.start_signalling()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await gateway.stop()


@contextmanager
def own() -> Iterator[tuple[int, list[int]]]:
    """The gateway as a child; yields its port and process id."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        arguments = [
            sys.executable,
            "-m",
            "benchmarks.registrar",
            "serve",
            str(port),
            str(Path(folder) / "data"),
        ]
        with child(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield port, [process.pid]


def measure(server: Callable[[], Any]) -> dict[str, dict[str, float]]:
    """Median over the passes of CPU microseconds per transaction, by kind."""
    results: dict[str, dict[str, float]] = {}
    with server() as (port, pids):
        arguments = [
            sys.executable, "-m", "benchmarks.sip_load", "--port", str(port), "--password", PASSWORD,
            "--devices", str(DEVICES),
        ]  # fmt: skip
        with child(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
            _order(load, "register", 2 * DEVICES)  # warm up: everybody is known
            for kind, count in COUNTS.items():
                passes = []
                for _ in range(PASSES):
                    before = sum(map(cpu_seconds, pids))
                    outcome = _order(load, kind, count)
                    spent = sum(map(cpu_seconds, pids)) - before
                    assert outcome["done"] == count, outcome
                    passes.append((spent / count * 1e6, count / outcome["seconds"], outcome["repeats"]))
                results[kind] = {
                    "us": median(us for us, _, _ in passes),
                    "rate": median(rate for _, rate, _ in passes),
                    "repeats": passes[-1][2],
                }
            time.sleep(0.1)
    return results


def _order(load: subprocess.Popen[bytes], kind: str, count: int) -> dict[str, float]:
    assert load.stdin is not None
    assert load.stdout is not None
    load.stdin.write(f"{kind} {count}\n".encode())
    load.stdin.flush()
    outcome: dict[str, float] = json.loads(load.stdout.readline())
    return outcome


def run() -> list[dict[str, Any]]:
    """Two rows: microseconds per REGISTER and per heartbeat, with the ratio to Kamailio where it is installed."""
    ours = measure(own)
    theirs = measure(kamailio.running) if kamailio.installed() else {}
    rows = []
    for kind, aim in AIMS.items():
        us = ours[kind]["us"]
        how = (
            f"{ours[kind]['rate']:.0f} {kind} per second in a closed loop, {DEVICES} devices, storage behind"
        )
        row = Row(f"{NAMES[kind]}, CPU", us, "us", how=how)
        if kind in theirs:
            row.baseline = f"Kamailio {theirs[kind]['us']:.1f} us"
            row.ratio = us / theirs[kind]["us"]
            row.aim = f"<= {aim:g}x"
            row.met = row.ratio <= aim
        rows.append(row.as_dict())
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2]), sys.argv[3]))
    else:
        for line in run():
            print(line)
