"""``gb-gateway demo --check``: what a newcomer runs first says itself whether the installation is sound."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_process import ROOT

from gateway.demo import CAMERAS


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.usefixtures("only_demo")
def test_the_demo_proves_itself(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", "--check", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200", "TMPDIR": str(tmp_path)},
    )
    try:
        text, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0, text
    assert "the installation is sound" in text
    assert "FAILED" not in text
    assert "Traceback" not in text
    for camera in CAMERAS:
        assert str(camera["name"]) in text
    for way in (
        "→ fMP4",
        "WebRTC",
        "snapshot",
        "upper, udp",
        "upper, tcp_passive",
        "upper, tcp_active",
        "catalog",
    ):
        assert way in text, way
    decoded = [int(count) for count in re.findall(r"(\d+) frames", text)]
    assert len(decoded) == 12
    assert min(decoded) >= 25
    assert "h265" in text.lower()
