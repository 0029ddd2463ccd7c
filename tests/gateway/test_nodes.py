"""Media nodes as processes: their configuration, placement, failed starts, deaths and ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from gateway_process import free_ports

from config.settings import MediaSettings
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle, NodePlan, Nodes, socket_directory
from media.specs import NodeStats

ROOT = Path(__file__).parents[2]


def plan(**media: object) -> NodePlan:
    settings = MediaSettings.model_validate({"viewer_host": "127.0.0.1", **media})
    return NodePlan(settings, "secret", bind_host="127.0.0.1", log_level="ERROR")


def test_nodes_share_the_port_ranges() -> None:
    parts = plan(nodes=3, rtp_port_min=20001, rtp_port_max=20300, viewer_port=8081, shared_rtp_port=30000)
    configs = [parts.config(number, f"unix:/run/{number}", "s") for number in range(3)]
    assert [(c.rtp_port_min, c.rtp_port_max) for c in configs] == [
        (20002, 20100),
        (20102, 20200),
        (20202, 20300),
    ]
    assert [c.viewer_port for c in configs] == [8081, 8082, 8083]
    assert [c.shared_rtp_port for c in configs] == [30000, 30002, 30004]
    assert len({c.node_id for c in configs}) == 3
    webrtc = [set(range(c.webrtc_port_min, c.webrtc_port_max + 1)) for c in configs]
    assert not webrtc[0] & webrtc[1]


def test_the_least_loaded_node_is_picked() -> None:
    nodes = Nodes(plan(nodes=3))
    with pytest.raises(PlayFailed) as failure:
        nodes.pick()
    assert failure.value.cause is PlayCause.NODE_DOWN
    first, second, third = (NodeHandle(f"node-{n}", n, None, 8081 + n) for n in range(3))  # type: ignore[arg-type]
    nodes._handles = {0: first, 1: second, 2: third}
    first.placed, second.placed, third.placed = 4, 3, 9
    assert nodes.pick() is second
    second.stats = NodeStats(node_id="node-1", senders=6)
    assert nodes.pick() is first
    first.stats = NodeStats(node_id="node-0", loop_lag_s=0.8)
    second.stats = NodeStats(node_id="node-1", loop_lag_s=0.9)
    assert nodes.pick() is third


def account(seconds: float, streams: int = 0, **more: float) -> NodeStats:
    return NodeStats.model_validate({"node_id": "n", "cpu_seconds": seconds, "streams": streams, **more})


def handles(count: int) -> tuple[Nodes, list[NodeHandle]]:
    nodes = Nodes(plan(nodes=count))
    found = [NodeHandle(f"node-{n}", n, None, 8081 + n) for n in range(count)]  # type: ignore[arg-type]
    nodes._handles = dict(enumerate(found))
    return nodes, found


def test_streams_go_where_processor_time_is_left_not_where_streams_are_few() -> None:
    """Three demuxed 4K streams can cost more than forty that are only relayed."""
    nodes, (heavy, light) = handles(2)
    heavy.placed, light.placed = 3, 40
    for beat in range(6):
        heavy.take_stats(account(beat * 1.6, 3), beat * 2.0)
        light.take_stats(account(beat * 0.4, 40), beat * 2.0)
    assert heavy.cpu_share == pytest.approx(0.8)
    assert light.cpu_share == pytest.approx(0.2)
    assert nodes.pick() is light


def test_streams_placed_since_the_last_heartbeat_count_before_they_cost() -> None:
    """Many plays within one heartbeat are spread, though no processor time shows them yet."""
    nodes, (first, second) = handles(2)
    for handle, share in ((first, 0.30), (second, 0.20)):
        for beat in range(3):
            handle.take_stats(account(beat * 2 * share, 0), beat * 2.0)
    for _ in range(200):
        nodes.pick().placed += 1
    assert second.placed > first.placed > 60
    assert first.load[1] == pytest.approx(second.load[1], abs=0.01)


def test_equally_busy_nodes_share_by_their_counts() -> None:
    nodes, found = handles(3)
    for handle in found:
        for beat in range(3):
            handle.take_stats(account(beat * 0.02, handle.placed), beat * 2.0)
    for _ in range(30):
        nodes.pick().placed += 1
    assert [handle.placed for handle in found] == [10, 10, 10]


def test_one_busy_moment_weighs_less_than_a_busy_minute_and_lag_more_than_all() -> None:
    nodes, (first, second) = handles(2)
    for beat in range(10):
        first.take_stats(account(beat * 0.6), beat * 2.0)
        second.take_stats(account(beat * 0.4), beat * 2.0)
    second.take_stats(account(9 * 0.4 + 0.7), 20.0)  # 35 % for one heartbeat
    first.take_stats(account(10 * 0.6), 20.0)
    assert nodes.pick() is second
    second.take_stats(account(9 * 0.4 + 0.8, loop_lag_s=0.9), 22.0)
    assert nodes.pick() is first


def test_a_node_that_began_anew_has_no_negative_load() -> None:
    _, (only,) = handles(1)
    only.take_stats(account(50.0), 0.0)
    only.take_stats(account(0.1), 2.0)
    assert only.cpu_share == 0.0


@pytest.mark.parametrize(
    ("cores", "ports", "count"), [(1, 4000, 1), (2, 4000, 1), (8, 4000, 7), (8, 300, 3), (200, 40000, 64)]
)
def test_auto_is_one_node_for_each_core_but_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, ports: int, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    parts = plan(nodes="auto", rtp_port_min=20000, rtp_port_max=19999 + ports)
    assert parts.settings.node_count == count
    assert parts.config(count - 1, "unix:/run/x", "s").rtp_port_max <= 19999 + ports


def test_the_pump_setting_reaches_the_nodes() -> None:
    assert plan(pump="compiled").config(0, "unix:/run/x", "s").pump == "compiled"
    assert plan().config(0, "unix:/run/x", "s").pump == "auto"


@pytest.mark.parametrize(
    "code", ["raise SystemExit(3)", "print('hello', flush=True); import time; time.sleep(60)"]
)
async def test_a_node_that_does_not_start_is_tried_again(code: str) -> None:
    nodes = Nodes(plan(), command=(sys.executable, "-c", code), backoff_first_s=0.05)
    await nodes.start(timeout_s=0.2)
    async with asyncio.timeout(30):
        while nodes.restarts < 3:
            await asyncio.sleep(0.02)
    assert nodes.handles() == []
    assert not await nodes.wait_any(0.01)
    await nodes.close()


async def test_life_and_death_of_a_node() -> None:
    """Ready with a private control socket; killed, it comes back as a new process; stopped, it is gone."""
    lost: list[str] = []
    nodes = Nodes(plan(viewer_port=free_ports(1)[0]), heartbeat_s=0.2, backoff_first_s=0.05)
    nodes.on_lost.append(lambda handle, cause: lost.append(cause))
    await nodes.start()
    first = nodes.pick()
    assert nodes.get("node-0") is first
    directory = nodes._directory
    assert directory is not None
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    async with asyncio.timeout(10):
        while first.stats is None:
            await asyncio.sleep(0.05)
    assert first.stats.node_id == "node-0"

    os.kill(first.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while not nodes.handles() or nodes.pick() is first:
            await asyncio.sleep(0.05)
    second = nodes.pick()
    assert not first.alive
    assert second.pid != first.pid
    assert lost in (["exited"], ["events_lost"])
    assert nodes.restarts == 1

    await nodes.close()
    await nodes.close()
    assert not Path(f"/proc/{second.pid}").exists()
    assert not directory.exists()
    assert len(lost) == 1  # stopping is no loss


async def test_a_node_that_hangs_is_replaced() -> None:
    lost: list[str] = []
    nodes = Nodes(plan(viewer_port=free_ports(1)[0]), heartbeat_s=0.1, backoff_first_s=0.05)
    nodes.on_lost.append(lambda handle, cause: lost.append(cause))
    await nodes.start()
    first = nodes.pick()
    os.kill(first.pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        while not lost:
            await asyncio.sleep(0.05)
    assert lost == ["silent"]
    os.kill(first.pid, signal.SIGCONT)  # it then obeys the SIGTERM that waits for it
    async with asyncio.timeout(60):
        while not nodes.handles():
            await asyncio.sleep(0.05)
    await nodes.close()


GATEWAY = """
import asyncio, sys
from config.settings import MediaSettings
from gateway.services.nodes import NodePlan, Nodes

async def main():
    settings = MediaSettings(viewer_host="127.0.0.1", viewer_port=int(sys.argv[1]))
    nodes = Nodes(NodePlan(settings, "secret", bind_host="127.0.0.1", log_level="ERROR"))
    await nodes.start()
    print(nodes.pick().pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_gateway_takes_its_nodes_with_it() -> None:
    """kill -9 leaves no time for anything: the node sees its standard input close."""
    parent = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, str(free_ports(1)[0])], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    line = await asyncio.to_thread(parent.stdout.readline)
    pid = int(line)
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
            await asyncio.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_a_long_temporary_directory_leaves_room_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    directory = socket_directory()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "63-0123456789abcdef.sock"))
        assert list(long.iterdir()) == []
        assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(directory)
