"""SIPp, a foreign SIP load generator, registers a thousand devices and sends a heartbeat from each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gateway_process import PASSWORD, free_ports, gateway_process

CALLS = 1000
SCENARIO = Path(__file__).parent / "data" / "sipp_register_message.xml"


@pytest.mark.slow
@pytest.mark.needs("sipp")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_a_thousand_register_and_message_calls(tmp_path: Path, transport: str) -> None:
    devices = tmp_path / "devices.csv"
    rows = [
        f"4101830000132{n:07d};[authentication username=4101830000132{n:07d} password={PASSWORD}]"
        for n in range(CALLS)
    ]
    devices.write_text("SEQUENTIAL\n" + "\n".join(rows) + "\n", encoding="ascii")
    quiet = {
        "catalog": {"query_on_register": False, "subscribe": False},
        "registration": {"requests_per_second_per_source": 100000.0},
    }
    with gateway_process(tmp_path / "gateway", quiet) as gateway:
        port = free_ports(1)[0]
        result = subprocess.run(
            ["sipp", f"127.0.0.1:{gateway.sip_port}", "-sf", str(SCENARIO), "-inf", str(devices), "-i", "127.0.0.1",
             "-p", str(port), "-t", transport, "-m", str(CALLS), "-r", "200", "-l", "100", "-nostdin",
             "-timeout", "90s", "-trace_err", "-error_file", str(tmp_path / "errors.log"), "-trace_stat",
             "-stf", str(tmp_path / "stat.csv"), "-fd", "1"],
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
        )  # fmt: skip
        errors = (tmp_path / "errors.log").read_text() if (tmp_path / "errors.log").exists() else ""
        assert result.returncode == 0, result.stdout[-2000:] + errors[-2000:]
        lines = (tmp_path / "stat.csv").read_text(encoding="latin-1").splitlines()
        last = dict(zip(lines[0].split(";"), lines[-1].split(";"), strict=False))
        assert (last["SuccessfulCall(C)"], last["FailedCall(C)"]) == (str(CALLS), "0")
        status, page = gateway.call("GET", "/api/devices?state=online&limit=1")
        assert status == 200
        if transport == "u1":  # over TCP the devices go offline with the connection when sipp ends
            assert page["total"] == CALLS
