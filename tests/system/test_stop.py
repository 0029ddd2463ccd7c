"""An orderly end: SIGINT and SIGTERM leave no process, no port, no file and no running stream behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from chain import Viewer, chain
from gateway_process import ROOT
from outside import alive, can_bind, descendants, eventually, udp_ports

pytestmark = pytest.mark.timeout(240)

RTP = (22000, 22099)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_stop_ends_everything_that_runs(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    media = {"rtp_port_min": RTP[0], "rtp_port_max": RTP[1], "transport": "udp", "nodes": 2}
    async with chain(tmp_path / "run", 2, overrides={"media": media}) as house:
        assert list(scratch.iterdir()), "the media nodes' sockets are here"
        watched, pulled = house.cameras
        viewer = await asyncio.to_thread(Viewer, house.gateway, watched.channel_id)
        await viewer.pictures()
        pull = await house.upper.invite(pulled.channel_id)
        await pull.media.wait_frames(5)
        processes = descendants(house.gateway.process.pid)
        assert len(processes) >= 2
        assert udp_ports(*RTP)

        assert await asyncio.to_thread(house.gateway.end, number, 30.0) == 0
        assert not [process for process in processes if alive(process)]
        assert all(can_bind(port) for port in house.ports)
        assert not udp_ports(*RTP)
        assert list(scratch.iterdir()) == []
        for device in house.cameras:
            await device.wait(
                lambda device=device: device.calls.history[0].ended == "remote_bye", 10, "for BYE"
            )
        await asyncio.wait_for(asyncio.shield(pull.session.ended), 10)
        assert pull.session.ended.result() == "remote_bye"
        await house.upper.wait(lambda: not house.upper.lowers, 10, "for the log-out")
        await viewer.wait_end()
        await viewer.close()
        log = house.gateway.log()
        assert "Traceback" not in log
        assert "was never retrieved" not in log
        assert "was destroyed but it is pending" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_stop_during_the_start(number: signal.Signals, tmp_path: Path) -> None:
    """Whatever is half built is taken down again."""
    for wait_s in (0.4, 0.8, 1.2, 1.6):
        process = await asyncio.to_thread(started, tmp_path, wait_s)
        processes = descendants(process.pid)
        process.send_signal(number)
        await asyncio.to_thread(process.wait, 30)
        await eventually(lambda processes=processes: not any(map(alive, processes)), 20)


def started(folder: Path, wait_s: float) -> subprocess.Popen[bytes]:
    """A gateway that has been starting for so long."""
    from gateway_process import free_ports

    sip, http, viewer, metrics = free_ports(4)
    configuration = folder / "starting.yaml"
    configuration.write_text(
        f"sip: {{host: 127.0.0.1, port: {sip}, allow_loopback: true}}\nhttp: {{host: 127.0.0.1, port: {http}}}\n"
        f"media: {{viewer_port: {viewer}}}\nmetrics: {{port: {metrics}}}\nstorage: {{directory: {folder}/data}}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "run", "-c", str(configuration)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(wait_s)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["seconds", "SIGINT"])
async def test_the_demo_leaves_nothing_behind(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    arguments = [sys.executable, "-m", "gateway", "demo", "--port", "0"]
    if ending == "seconds":
        arguments += ["--seconds", "2"]
    monkeypatch.setenv("COLUMNS", "200")
    told = tmp_path.parent / f"demo-{ending}.log"
    with told.open("w") as log:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        seen: set[int] = set()
        try:

            def running() -> bool:
                seen.update(descendants(process.pid))
                return "Ctrl-C" in told.read_text() or process.poll() is not None

            await eventually(running, 90, "the demo's picture")
            if ending != "seconds":
                process.send_signal(signal.Signals[ending])
            code = await asyncio.to_thread(process.wait, 60)
        finally:
            if process.poll() is None:
                process.kill()
    text = told.read_text()
    assert code == 0, text
    assert "frames of 704x576" in text, text
    assert "Traceback" not in text, text
    assert len(seen) >= 2
    await eventually(lambda: not any(alive(child) for child in seen), 10)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("gb-")] == []
