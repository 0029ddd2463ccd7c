"""An orderly end: SIGINT and SIGTERM leave no process, no port, no file and no running stream behind."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain import Viewer, chain
from gateway_process import ROOT, free_ports
from outside import alive, can_bind, descendants, eventually, media_nodes, udp_ports
from port_ranges import kept_ports

from gateway.services.nodes import START_TIMEOUT_S as NODE_PATIENCE_S

pytestmark = pytest.mark.timeout(240)

RTP = kept_ports(100)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for sockets: their paths end at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gb-stop-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_stop_ends_everything_that_runs(
    number: signal.Signals, tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = short_path
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
    """Whatever is half built is taken down again, wherever the start was."""
    for moment in ("sip_listening", "registrations resumed", "node_started", "http listening"):
        log = tmp_path / f"{moment.split()[0]}.log"
        process = started(tmp_path, free_ports(4), log)
        await eventually(lambda log=log, moment=moment: moment in log.read_text(), 60, every_s=0.005)
        processes = descendants(process.pid)
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, 30) == 0
        await eventually(lambda processes=processes: not any(map(alive, processes)), 20)
        assert "Traceback" not in log.read_text(), log.read_text()


async def test_a_start_that_cannot_go_on_can_be_stopped(tmp_path: Path) -> None:
    """The media node finds its port taken and is started again and again; Ctrl-C does not wait for it."""
    ports, log = free_ports(4), tmp_path / "waiting.log"
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", ports[2]))
        holder.listen()
        process = started(tmp_path, ports, log)
        try:
            await eventually(lambda: "node start failed" in log.read_text(), 30)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, NODE_PATIENCE_S / 2) == 0
        finally:
            if process.poll() is None:
                process.kill()
    assert str(ports[2]) in log.read_text()
    assert "Traceback" not in log.read_text()


def started(folder: Path, ports: list[int], log: Path) -> subprocess.Popen[bytes]:
    """A gateway that is just starting."""
    sip, http, viewer, metrics = ports
    configuration = folder / "starting.yaml"
    configuration.write_text(
        f"sip: {{host: 127.0.0.1, port: {sip}, allow_loopback: true}}\nhttp: {{host: 127.0.0.1, port: {http}}}\n"
        f"media: {{viewer_host: 127.0.0.1, viewer_port: {viewer}}}\nmetrics: {{port: {metrics}}}\n"
        f"storage: {{directory: {folder}/data}}\n"
    )
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "gateway", "run", "-c", str(configuration)],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


@pytest.mark.timeout(480)
@pytest.mark.usefixtures("only_demo")
async def test_a_demo_that_is_still_starting_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", "--port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        await eventually(lambda: media_nodes(process.pid) or process.poll() is not None, 60)
        seen = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        text, _ = await asyncio.to_thread(process.communicate, timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 0, text
    assert "Traceback" not in text, text
    await eventually(lambda: not any(map(alive, seen)), 10)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("gb-")] == []


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["seconds", "SIGINT"])
@pytest.mark.timeout(480)
@pytest.mark.usefixtures("only_demo")
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
