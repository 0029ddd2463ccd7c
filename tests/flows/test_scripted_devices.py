"""The scripts of docs/howto/scripted-devices.md, taken from the document and played by the command against a running gateway."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway_process import PASSWORD, ROOT, GatewayProcess, gateway_process, wait_for

DOCUMENT = ROOT / "docs" / "howto" / "scripted-devices.md"
WAIT_S = 60.0
PREFIX = "41018300001"


def scripts() -> dict[str, str]:
    """The YAML blocks of the document by the name in their first line."""
    found = {}
    for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL):
        name = re.match(r"# (\S+)\.yaml\n", block)
        assert name is not None, block[:60]
        found[name[1]] = block
    return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    overrides = {"catalog": {"gap_timeout_s": 2, "retries": 0}, "media": {"idle_grace_s": 2}}
    with gateway_process(tmp_path_factory.mktemp("scripts"), overrides) as running:
        yield running


class Played:
    """One running command and what it printed."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process, self.output = process, output

    @property
    def log(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def ends(self) -> int:
        """Exit code of a script that ends by itself."""
        return self.process.wait(WAIT_S)

    def stops(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WAIT_S)


@contextmanager
def played(gateway: GatewayProcess, name: str, folder: Path, text: str = "") -> Iterator[Played]:
    path, output = folder / f"{name}.yaml", folder / f"{name}.log"
    path.write_text(text or scripts()[name], encoding="utf-8")
    command = [
        sys.executable, "-m", "gateway", "simulate", "camera", "--server", f"127.0.0.1:{gateway.sip_port}",
        "--edition", "2022", "--script", str(path),
    ]  # fmt: skip
    environment = {**os.environ, "GB_SIMULATE_PASSWORD": PASSWORD, "COLUMNS": "300"}
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, text=True, env=environment)
    try:
        yield Played(process, output)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def answer(gateway: GatewayProcess, path: str, method: str = "GET", body: Any = None) -> Any:
    status, found = gateway.call(method, path, body)
    return found if status == 200 else None


def online(gateway: GatewayProcess, device_id: str) -> Any:
    found = answer(gateway, f"/api/devices/{device_id}")
    return found if found is not None and found["state"] == "online" else None


def test_the_document_shows_five_scripts() -> None:
    assert list(scripts()) == ["alarms", "lying-catalog", "moving", "odd-answers", "broken-stream"]


def test_a_camera_that_raises_alarms_gets_each_of_them_confirmed(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    with played(gateway, "alarms", tmp_path) as script:
        assert script.ends() == 0, script.log
    found = answer(gateway, "/api/alarms?device_id=41018300001320000021")["items"]
    assert {alarm["alarm_type"] for alarm in found} == {2, 6}
    assert "somebody crossed the line" in str(found)


def test_a_lying_catalog_loses_no_channel(gateway: GatewayProcess, tmp_path: Path) -> None:
    device_id = "41018300001180000022"
    with played(gateway, "lying-catalog", tmp_path) as script:
        path = f"/api/channels?device_id={device_id}"
        wait_for(lambda: "step 1 catalog" in script.log, WAIT_S)
        wait_for(lambda: (found := answer(gateway, path)) and found["total"] == 3, WAIT_S)
        wait_for(lambda: (device := online(gateway, device_id)) and device["catalog_at"], WAIT_S)
        assert answer(gateway, f"/api/devices/{device_id}")["catalog_complete"] is False
        wait_for(lambda: all(c["online"] for c in answer(gateway, path)["items"]), WAIT_S)
        assert script.stops() == 0, script.log


def test_a_camera_that_moves_is_followed(gateway: GatewayProcess, tmp_path: Path) -> None:
    device_id = "41018300001320000023"
    addresses: set[str] = set()
    with played(gateway, "moving", tmp_path) as script:
        while script.process.poll() is None:
            device = online(gateway, device_id)
            if device is not None:
                addresses.add(device["address"])
        assert script.ends() == 0, script.log
        assert "moved to port" in script.log
    assert len(addresses) >= 2, addresses


def test_odd_answers_are_read_as_far_as_they_can_be(gateway: GatewayProcess, tmp_path: Path) -> None:
    device_id, channel_id = "41018300001320000024", "41018300001310000024"
    with played(gateway, "odd-answers", tmp_path) as script:
        wait_for(lambda: answer(gateway, f"/api/channels/{channel_id}"), WAIT_S)
        device = wait_for(
            lambda: (d := online(gateway, device_id)) and d["manufacturer"] == "Odd & Old" and d, WAIT_S
        )
        assert (device["model"], device["firmware"]) == ("M1", "0.9")
        status, problem = gateway.call("GET", f"/api/channels/{channel_id}/presets")
        assert status == 504, problem
        assert "200" in str(problem), "the device's last response is told"
        status, problem = gateway.call("GET", f"/api/channels/{channel_id}/cruise-tracks")
        assert status >= 400, problem
        assert "488" in str(problem)
        assert gateway.call("POST", f"/api/channels/{channel_id}/ptz", {"command": "move", "pan": 0.5})[
            0
        ] in (
            200,
            204,
        )
        wait_for(lambda: "it was moved" in script.log, WAIT_S)
        assert script.stops() == 0, script.log


def test_a_broken_stream_is_played_as_far_as_it_goes(gateway: GatewayProcess, tmp_path: Path) -> None:
    channel_id = "41018300001310000025"
    with played(gateway, "broken-stream", tmp_path) as script:
        wait_for(lambda: (c := answer(gateway, f"/api/channels/{channel_id}")) and c["online"], WAIT_S)
        status, problem = gateway.call("POST", f"/api/channels/{channel_id}/live", {})
        assert status >= 400, problem
        assert "busy" in str(problem).lower()
        wait_for(lambda: answer(gateway, f"/api/channels/{channel_id}/live", "POST", {}), WAIT_S, 1.0)
        wait_for(lambda: "the camera hung up" in script.log, WAIT_S)
        assert script.stops() == 0, script.log


def test_a_script_whose_expectation_fails_says_so(gateway: GatewayProcess, tmp_path: Path) -> None:
    text = "device: {device_id: 41018300001320000026}\nsteps:\n  - expect: {event: INVITE, within_s: 1}\n"
    with played(gateway, "fails", tmp_path, text) as script:
        assert script.ends() == 1
        assert "INVITE did not come within 1 s" in script.log


def test_a_script_with_mistakes_is_refused_with_line_and_field(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    text = "device:\n  edition: 2022\n  colour: red\nsteps:\n  - at_s: 1\n    alarm: {method: 9}\n"
    with played(gateway, "wrong", tmp_path, text) as script:
        assert script.ends() == 2
        assert "line 3: device.colour" in script.log
        assert "line 6: steps.0.alarm.method" in script.log
