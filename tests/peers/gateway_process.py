"""Starts the real gateway as a process for tests, on free loopback ports, and ends it by its id."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from port_ranges import brief_ports

ROOT = Path(__file__).parents[2]
PASSWORD = "Xm-Demo-0001"
SERVER_ID = "41018300002000000001"
DOMAIN = "4101830000"
START_TIMEOUT_S = 60.0


def free_ports(count: int) -> list[int]:
    """``count`` different ports free for UDP and TCP at this moment, outside the kernel's own range where possible."""
    found: list[int] = []
    candidate = 10000 + (os.getpid() * 37) % 8000
    while len(found) < count:
        candidate += 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                udp.bind(("127.0.0.1", candidate))
                tcp.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            found.append(candidate)
    return found


@dataclass
class GatewayProcess:
    """A running gateway: its ports, its folder, its administrator's password and a small API client."""

    process: subprocess.Popen[str]
    folder: Path
    sip_port: int
    http_port: int
    metrics_port: int
    password: str = ""
    lines: list[str] = field(default_factory=list)
    token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One API request as the administrator; returns status and the decoded answer (bytes when not JSON)."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", headers.pop("content_type", "application/json"))
        if self.token:
            request.add_header("Cookie", self.token)
            request.add_header("Origin", self.url)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, decoded(answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return error.code, decoded(error.headers, error.read())

    def log_in(self) -> None:
        request = urllib.request.Request(
            self.url + "/api/login",
            data=json.dumps({"username": "admin", "password": self.password}).encode(),
            headers={"Content-Type": "application/json", "Origin": self.url},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            self.token = answer.headers["Set-Cookie"].split(";")[0]

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


def decoded(headers: Any, data: bytes) -> Any:
    return json.loads(data) if "json" in (headers.get("Content-Type") or "") and data else data


def wait_for(condition: Any, timeout_s: float = 30.0, every_s: float = 0.1) -> Any:
    """Poll until ``condition()`` is true; returns its value or fails the test."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"not true within {timeout_s} s: {condition}")


def start(
    folder: Path, overrides: dict[str, Any] | None = None, ports: list[int] | None = None
) -> GatewayProcess:
    """Start a gateway in ``folder`` (the same folder again: a restart with its state) and log in."""
    folder.mkdir(parents=True, exist_ok=True)
    sip, http, viewer, metrics = ports or free_ports(4)
    rtp = brief_ports(400)
    settings: dict[str, Any] = {
        "sip": {"host": "127.0.0.1", "port": sip, "allow_loopback": True},
        "registration": {"domain_password": PASSWORD},
        "http": {"host": "127.0.0.1", "port": http},
        "media": {
            "viewer_host": "127.0.0.1",
            "viewer_port": viewer,
            "rtsp_port": None,
            "rtp_port_min": rtp[0],
            "rtp_port_max": rtp[1],
            "webrtc_port": None,
        },
        "metrics": {"port": metrics},
        "storage": {"directory": str(folder / "data"), "flush_interval_s": 0.2},
    }
    for section, values in (overrides or {}).items():
        settings.setdefault(section, {}).update(values)
    configuration = folder / "gateway.yaml"
    configuration.write_text(yaml.safe_dump(settings), encoding="utf-8")
    log = (folder / "gateway.log").open("a", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "run", "-c", str(configuration)],
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    log.close()
    running = GatewayProcess(process, folder, sip, http, metrics)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            running.end(signal.SIGKILL)
            raise AssertionError("the gateway did not start:\n" + running.log()[-4000:])
        with contextlib.suppress(OSError), urllib.request.urlopen(running.url + "/health/ready", timeout=2):
            break
        time.sleep(0.1)
    remembered = folder / "password"
    found = re.search(r"password\s+(\S+)", running.log())
    if found and not remembered.exists():
        remembered.write_text(found.group(1), encoding="ascii")
    running.password = remembered.read_text(encoding="ascii") if remembered.exists() else ""
    if running.password:
        running.log_in()
    return running


@contextlib.contextmanager
def gateway_process(folder: Path, overrides: dict[str, Any] | None = None) -> Iterator[GatewayProcess]:
    """A gateway for one test; it is ended when the block is left."""
    running = start(folder, overrides)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            try:
                running.end()
            except subprocess.TimeoutExpired:
                running.end(signal.SIGKILL)
