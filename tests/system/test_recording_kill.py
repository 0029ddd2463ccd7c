"""Recording through the whole gateway: kill -9 of node and gateway, and the index that heals by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chain import Chain, chain
from gateway_process import GatewayProcess
from outside import alive, can_bind, eventually, media_nodes, series
from recorded_files import always, complete, marks_in, probe, recording, rows, unbroken

from media import segments
from simulator.camera import DeviceOptions
from simulator.sending import Pictures

pytestmark = pytest.mark.timeout(300)


def options() -> DeviceOptions:
    return DeviceOptions(pictures=Pictures(320, 192, codec="h264", gop=25, source="live", bitrate=300_000))


@pytest.mark.needs("ffprobe")
async def test_kill_9_of_node_and_gateway_costs_at_most_the_open_group(tmp_path: Path) -> None:
    async with chain(tmp_path, 1, overrides=recording(tmp_path), options=options()) as house:
        (one,) = house.cameras
        disk = tmp_path / "one"
        status, answer = house.gateway.call("PUT", "/api/recordings/rules", always())
        assert status == 200, answer
        await eventually(lambda: len(complete(house.gateway, one.channel_id)) >= 2, 60, "two finished files")
        part = await eventually(lambda: next(iter(disk.rglob("*.part")), None), 20, "an open file")
        await eventually(lambda: whole_frames(disk, part) >= 25, 20, "a group in the open file")
        first = complete(house.gateway, one.channel_id)
        (node,) = media_nodes(house.gateway.process.pid)
        os.kill(node, signal.SIGKILL)
        killed_at = time.time()

        # what is finished plays, and so does the open one up to its last whole group, before anybody mends it
        await asyncio.to_thread(unbroken, tmp_path, first)
        for row in first:
            assert (await asyncio.to_thread(probe, disk / row["path"])) == (row["frames"], ["aac", "h264"])
        left = next((path for path in (part, Path(str(part).removesuffix(".part"))) if path.exists()), None)
        assert left is not None
        assert await asyncio.to_thread(marks_in, left)

        # it is mended and entered, and recording goes on by itself
        mended = await eventually(lambda: recovered(house.gateway), 30, "the mended file")
        assert not part.exists()
        assert mended["path"] + ".part" == part.relative_to(disk).as_posix()
        # nothing but the open group is lost: one second here, and what was on its way
        assert killed_at - mended["end_s"] < 1.0 + 1.0 + 0.7
        assert (await asyncio.to_thread(probe, disk / mended["path"]))[0] == mended["frames"]
        await eventually(
            lambda: complete(house.gateway, one.channel_id)[-1]["start_s"] > killed_at, 60, "new files"
        )

        # now everything at once, with files that the index does not know and entries without file
        before = complete(house.gateway, one.channel_id)
        nodes = media_nodes(house.gateway.process.pid)
        house.gateway.process.kill()
        house.gateway.process.wait()
        down_at = time.time()
        await eventually(lambda: not any(alive(node) for node in nodes), 20, "old media nodes gone")
        stray, gone = before[0], before[1]
        with sqlite3.connect(tmp_path / "data" / "gateway.sqlite3") as database:
            database.execute("DELETE FROM recording_segments WHERE segment_id = ?", (stray["segment_id"],))
        shutil.copy(disk / gone["path"], tmp_path / "kept.mp4")
        (disk / gone["path"]).unlink()
        await eventually(lambda: all(can_bind(port) for port in house.ports), 20)
        await asyncio.sleep(max(0.0, down_at + 3 - time.time()))
        await house.restart()

        def healed() -> bool:
            known = {row["segment_id"]: row for row in rows(house.gateway)}
            files = {path.name for path in disk.rglob("*.mp4")}
            open_rows = [row for row in known.values() if not row["complete"]]
            return (
                stray["segment_id"] in known
                and gone["segment_id"] not in known
                and len(open_rows) <= 1
                and {Path(row["path"]).name for row in known.values() if row["complete"]} == files
            )

        await eventually(healed, 60, "index and disk agree")
        again = {row["segment_id"]: row for row in rows(house.gateway)}[stray["segment_id"]]
        assert {name: again[name] for name in again if name != "cause"} == {
            name: stray[name] for name in stray if name != "cause"
        }
        await eventually(
            lambda: complete(house.gateway, one.channel_id)[-1]["start_s"] > down_at, 60, "recording goes on"
        )
        for row in complete(house.gateway, one.channel_id):
            assert (await asyncio.to_thread(probe, disk / row["path"]))[0] == row["frames"]

        # the timeline says what happened
        gaps = await timeline(house, one.channel_id)
        down = [seconds(gap) for gap in gaps if gap["cause"] == "gateway_down"]
        assert max(down, default=0.0) > 2.0, gaps
        metrics = house.gateway.metrics()
        assert series(metrics, "gateway_recording_healed_total") >= 2
        assert series(metrics, "gateway_recording_active", kind="continuous") == 1


def recovered(gateway: GatewayProcess) -> dict[str, Any] | None:
    return next((row for row in rows(gateway) if row["cause"] == "recovered" and row["complete"]), None)


def whole_frames(disk: Path, part: Path) -> int:
    try:
        return segments.scan(disk, "one", part.relative_to(disk).as_posix()).info.frames
    except (segments.Unreadable, OSError):
        return 0


def seconds(span: dict[str, str]) -> float:
    return (datetime.fromisoformat(span["end"]) - datetime.fromisoformat(span["start"])).total_seconds()


async def timeline(house: Chain, channel_id: str) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    query = f"start={(now - timedelta(minutes=10)):%Y-%m-%dT%H:%M:%SZ}&end={now:%Y-%m-%dT%H:%M:%SZ}"
    status, answer = await asyncio.to_thread(
        house.gateway.call, "GET", f"/api/channels/{channel_id}/recordings?{query}"
    )
    assert status == 200, answer
    gaps: list[dict[str, Any]] = answer["gaps"]
    assert answer["ranges"]
    return gaps
