"""Recording of a real camera through the whole gateway: events with the seconds before, orders, sound in step, H.265."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from chain import chain
from outside import eventually, series
from recorded_files import always, marks_in, probe, recording, rows, unbroken

from simulator.camera import DeviceOptions
from simulator.sending import Pictures

pytestmark = pytest.mark.timeout(240)
RATE = 25


def beeps_in(path: Path) -> list[float]:
    """Media times at which a beep begins (the camera beeps once a second)."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    first = float(frames[0].pts * frames[0].time_base)
    loud = np.abs(samples) > 0.08
    begins = [at for at in np.flatnonzero(loud) if at >= 2000 and not loud[at - 2000 : at].any()]
    return [first + at / 8000 for at in begins]


def sound_in_step(path: Path) -> int:
    """The camera beeps with each picture whose number is a multiple of its rate: how many beeps agree (all must)."""
    numbers = [number for number, _ in marks_in(path)]
    beeps = beeps_in(path)
    for at in beeps:
        off = (numbers[0] + at * RATE) % RATE
        assert min(off, RATE - off) / RATE <= 0.1, f"{at} s: {off} pictures beside the beep"
    return len(beeps)


async def test_an_event_is_recorded_from_before_it_happened(tmp_path: Path) -> None:
    overrides = recording(tmp_path)
    overrides["recording"] |= {"segment_s": 300, "pre_event_s": 3}
    pictures = Pictures(320, 192, codec="h265", gop=25, source="live", bitrate=300_000)
    async with chain(tmp_path, 1, overrides=overrides, options=DeviceOptions(pictures=pictures)) as house:
        (camera,) = house.cameras
        base = f"/api/channels/{camera.channel_id}/recordings"

        def call(method: str, path: str, body: Any = None) -> Any:
            status, answer = house.gateway.call(method, path, body)
            assert status < 300, answer
            return answer

        def finished(kind: str) -> dict[str, Any] | None:
            found = [row for row in rows(house.gateway) if row["kind"] == kind and row["complete"]]
            return found[-1] if found else None

        call("PUT", "/api/recordings/rules", always("e"))
        await eventually(lambda: call("GET", f"{base}/state")["kind"] == "event", 40, "standby")
        await asyncio.sleep(4)
        assert rows(house.gateway) == []
        happened = time.time()
        call("POST", f"{base}/event", {"seconds_before": 3, "seconds_after": 3, "label": "gate opened"})
        row = await eventually(lambda: finished("event"), 40, "the event's file")
        assert happened - row["start_s"] >= 2.5, "it begins before the event"
        assert happened - row["start_s"] <= 8
        assert row["end_s"] - happened >= 2.5
        path = tmp_path / "one" / row["path"]
        await asyncio.to_thread(unbroken, tmp_path, [row])
        assert (await asyncio.to_thread(probe, path)) == (row["frames"], ["aac", "hevc"])
        assert await asyncio.to_thread(sound_in_step, path) >= 4

        # an order goes over the plan, and the plan goes on afterwards
        call("POST", f"{base}/start", {"seconds": 3600})
        await eventually(lambda: call("GET", f"{base}/state")["kind"] == "manual", 40, "manual")
        await eventually(lambda: any(row["kind"] == "manual" for row in rows(house.gateway)), 20)
        await asyncio.sleep(4)
        call("POST", f"{base}/stop")
        manual = await eventually(lambda: finished("manual"), 40, "the ordered file")
        await eventually(lambda: call("GET", f"{base}/state")["kind"] == "event", 40, "standby again")
        await asyncio.to_thread(unbroken, tmp_path, [manual])
        assert await asyncio.to_thread(sound_in_step, tmp_path / "one" / manual["path"]) >= 2
        # all of it over one call to the camera
        assert len(camera.calls.history) == 1
        metrics = house.gateway.metrics()
        assert series(metrics, "gateway_recording_dropped_pictures_total") == 0
        assert series(metrics, "gateway_recording_written_bytes_total") > 0
        assert series(metrics, "gateway_recording_disk_state", disk="one", state="ok") == 1


async def test_a_disk_that_goes_away_is_left_for_the_other(tmp_path: Path) -> None:
    overrides = recording(tmp_path)
    disk = overrides["recording"]["disks"][0]
    overrides["recording"]["disks"] = [disk, {**disk, "disk_id": "two", "directory": str(tmp_path / "two")}]
    pictures = Pictures(320, 192, gop=25, bitrate=300_000)
    async with chain(tmp_path, 1, overrides=overrides, options=DeviceOptions(pictures=pictures)) as house:
        status, _ = house.gateway.call("PUT", "/api/recordings/rules", always())
        assert status == 200
        first = await eventually(lambda: next(iter(rows(house.gateway)), None), 40, "the first file")
        gone, left = first["disk_id"], {"one": "two", "two": "one"}[first["disk_id"]]
        # the mount is gone: an empty directory stands in its place
        (tmp_path / gone).rename(tmp_path / "unplugged")
        (tmp_path / gone).mkdir()
        vanished = time.time()

        def moved() -> list[dict[str, Any]]:
            return [
                r
                for r in rows(house.gateway)
                if r["disk_id"] == left and r["complete"] and r["start_s"] > vanished
            ]

        await eventually(moved, 60, "files on the other disk")
        assert list((tmp_path / gone).iterdir()) == [], "nothing is written where the disk was"
        assert (
            series(house.gateway.metrics(), "gateway_recording_disk_state", disk=gone, state="missing") == 1
        )
        for row in moved():
            assert (await asyncio.to_thread(probe, tmp_path / left / row["path"]))[0] == row["frames"]
