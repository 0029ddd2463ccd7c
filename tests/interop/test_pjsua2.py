"""PJSUA2, a foreign SIP stack, as a device: registers with digest, sends a heartbeat, is refused with a wrong password."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import PASSWORD, GatewayProcess, gateway_process, wait_for

if importlib.util.find_spec("pjsua2") is None:
    pytest.skip("pjsua2 has no wheel for this Python", allow_module_level=True)

PEER = Path(__file__).parents[1] / "peers" / "pjsua_device.py"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    quiet = {"catalog": {"query_on_register": False, "subscribe": False}}
    with gateway_process(tmp_path_factory.mktemp("pjsua2"), quiet) as running:
        yield running


def device(gateway: GatewayProcess, device_id: str, password: str, transport: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, str(PEER), str(gateway.sip_port), device_id, password, transport],
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    assert lines, result.stdout + result.stderr
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


@pytest.mark.gb("G032")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_registers_with_digest_and_sends_a_heartbeat(gateway: GatewayProcess, transport: str) -> None:
    device_id = "41018300001320000701" if transport == "udp" else "41018300001320000702"
    before = beats(gateway)
    result = device(gateway, device_id, PASSWORD, transport)
    assert result["registration"][0] == 200
    assert result["messages"] == [200]
    assert beats(gateway) == before + 1
    status, known = gateway.call("GET", f"/api/devices/{device_id}")
    assert (status, known["device_id"]) == (200, device_id)


def test_a_wrong_password_is_refused_and_counted(gateway: GatewayProcess) -> None:
    before = failures(gateway)
    result = device(gateway, "41018300001320000703", "not-the-password", "udp")
    assert result["registration"][0] in (401, 403)
    assert result["active"] is False
    assert result["messages"] == []
    assert wait_for(lambda: failures(gateway) > before)


def series(gateway: GatewayProcess, start: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in gateway.metrics().splitlines() if line.startswith(start)
    )


def beats(gateway: GatewayProcess) -> float:
    return series(gateway, 'gateway_sip_requests_received_total{method="MESSAGE"}')


def failures(gateway: GatewayProcess) -> float:
    lines = [
        line for line in gateway.metrics().splitlines() if line.startswith("gateway_registrations_total")
    ]
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if "ok" not in line and "challenge" not in line
    )
