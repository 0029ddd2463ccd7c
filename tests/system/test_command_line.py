"""The commands as a user types them: version, check-config, run, simulate."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chain import UPPER, UPPER_PASSWORD
from gateway_process import (
    DOMAIN,
    PASSWORD,
    ROOT,
    SERVER_ID,
    GatewayProcess,
    free_ports,
    gateway_process,
    wait_for,
)

from gateway import __version__

pytestmark = pytest.mark.timeout(180)

CAMERA = "41018300001320000801"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_version() -> None:
    result = command("version")
    assert (result.returncode, result.stdout) == (0, f"gb-gateway {__version__}\n")


def test_no_command_shows_all_commands() -> None:
    text = command().stdout + command("--help").stdout
    for name in ("run", "demo", "check-config", "users", "simulate", "version"):
        assert re.search(rf"\b{name}\b", text), name


def test_the_reference_configuration_is_good() -> None:
    result = command("check-config", "-c", str(ROOT / "config" / "gateway.yaml"))
    assert result.returncode == 0, result.stderr
    assert "configuration is good" in result.stdout


def test_each_fault_of_a_configuration_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("sip:\n  port: 70000\n  prot: 5060\nheartbeat:\n  count: 1\n", encoding="utf-8")
    for name in ("check-config", "run"):
        result = command(name, "-c", str(path))
        assert result.returncode == 78
        assert "Traceback" not in result.stderr
        for line, key in ((2, "sip.port"), (3, "sip.prot"), (5, "heartbeat.count")):
            assert f"{path}:{line}: {key}: " in result.stderr, result.stderr


def test_faults_in_other_places_are_told_too(tmp_path: Path) -> None:
    result = command("check-config", GB_GATEWAY_SIP__PORT="many")
    assert result.returncode == 78
    assert "GB_GATEWAY_SIP__PORT" in result.stderr
    result = command("check-config", "-c", str(tmp_path / "missing.yaml"))
    assert result.returncode == 78
    assert "missing.yaml" in result.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text("sip: [", encoding="utf-8")
    result = command("check-config", "-c", str(broken))
    assert result.returncode == 78
    assert "broken.yaml:" in result.stderr


def test_faults_in_vendor_data_are_told_with_file_and_line(tmp_path: Path) -> None:
    vendors = tmp_path / "vendors.yaml"
    vendors.write_text("vendors:\n  a:\n    name: A\n    match: {}\n    colour: red\n", encoding="utf-8")
    result = command("check-config", GB_GATEWAY_PROFILES__VENDORS_FILE=str(vendors))
    assert result.returncode == 78
    assert f"{vendors}:5: vendors.a.colour: there is no such key" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("which", ["sip", "http", "metrics"])
def test_a_taken_port_is_one_clear_line(which: str, tmp_path: Path) -> None:
    sip, http, viewer, metrics = free_ports(4)
    taken = {"sip": sip, "http": http, "metrics": metrics}[which]
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"sip: {{host: 127.0.0.1, port: {sip}, allow_loopback: true}}\nhttp: {{host: 127.0.0.1, port: {http}}}\n"
        f"media: {{viewer_port: {viewer}}}\nmetrics: {{port: {metrics}}}\nlog: {{level: ERROR}}\n"
        f"storage: {{directory: {tmp_path}/data}}\n"
    )
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", taken))
        holder.listen()
        result = command("run", "-c", str(path))
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert "cannot start" in lines[0]
    assert str(taken) in lines[0]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(
        tmp_path_factory.mktemp("commands"), {"cascade": {"register_retry_s": 1}}
    ) as running:
        yield running


@contextmanager
def simulated(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``gb-gateway simulate ...`` for the time of the block; its end by Ctrl-C must be an orderly one."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "gateway", "simulate", *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200"},
        )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_simulated_camera_and_platform_find_the_gateway(gateway: GatewayProcess, tmp_path: Path) -> None:
    """The camera registers and shows a picture; the platform pulls it through the gateway and decodes it."""
    server = ("--server", f"127.0.0.1:{gateway.sip_port}", "--server-id", SERVER_ID, "--domain", DOMAIN)
    (port,) = free_ports(1)
    camera_log, platform_log = tmp_path / "camera.log", tmp_path / "platform.log"
    with simulated(
        camera_log, "camera", *server, "--device-id", CAMERA, "--password", PASSWORD, "--name", "north gate"
    ):
        online = wait_for(lambda: cameras(gateway))
        assert (online[0]["name"], online[0]["online"]) == ("north gate", True)
        status, picture = gateway.call("GET", f"/api/channels/{online[0]['channel_id']}/snapshot")
        assert (status, picture[:2]) == (200, b"\xff\xd8")
        with simulated(
            platform_log, "platform", "--listen", f"127.0.0.1:{port}", "--platform-id", UPPER,
            "--lower-id", SERVER_ID, "--password", UPPER_PASSWORD, "--pull",
        ):  # fmt: skip
            platform = {"platform_id": UPPER, "name": "city", "host": "127.0.0.1", "port": port}
            platform |= {"password": UPPER_PASSWORD, "share_all": True}
            status, answer = gateway.call("POST", "/api/platforms", platform)
            assert status == 201, answer
            decoded = wait_for(
                lambda: [
                    int(n) for n in re.findall(r": (\d+) frames decoded, 0 errors", platform_log.read_text())
                ],
                60,
            )
            assert decoded[0] > 25
            assert "1 cameras online" in platform_log.read_text()
    # it took its leave
    wait_for(lambda: gateway.call("GET", f"/api/devices/{CAMERA}")[1]["state"] == "offline")
    assert gateway.call("GET", f"/api/devices/{CAMERA}")[1]["offline_cause"] == "unregistered"


def cameras(gateway: GatewayProcess) -> list[dict[str, object]]:
    _, answer = gateway.call("GET", "/api/channels?kind=camera")
    return [channel for channel in answer["items"] if channel["online"]]


def test_a_simulated_recorder_brings_its_tree(gateway: GatewayProcess, tmp_path: Path) -> None:
    recorder = "41018300001180000009"
    with simulated(
        tmp_path / "nvr.log", "nvr", "--server", f"127.0.0.1:{gateway.sip_port}", "--server-id", SERVER_ID,
        "--device-id", recorder, "--password", PASSWORD, "--channels", "5", "--transport", "tcp",
    ):  # fmt: skip
        wait_for(lambda: sum(channel["device_id"] == recorder for channel in cameras(gateway)) == 5)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("--server", "nowhere:port"), "address:port"),
        (("--server", "127.0.0.1", "--edition", "2011"), "2016 or 2022"),
    ],
)
def test_wrong_options_are_explained(arguments: tuple[str, ...], wrong: str) -> None:
    result = command("simulate", "camera", *arguments)
    assert result.returncode == 2
    assert wrong in result.stderr
    assert "Traceback" not in result.stderr
