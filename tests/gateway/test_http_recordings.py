"""Recordings over HTTP: rules, timeline, orders, events, evidence, deleting; who may what, and what is written down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from http_house import CAMERA, NVR, House, Logged, house

from gateway.services.access import Role
from media.specs import SegmentInfo

START = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)  # the house's clock stands at 02:00


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as found:
        found.add_device()
        found.add_channel()
        await found.recording.guard.look()
        yield found


@pytest.fixture
async def operator(home: House) -> Logged:
    return await home.as_role(Role.OPERATOR)


async def record(home: House, minute: float, minutes: float = 5.0, **values: Any) -> SegmentInfo:
    begin = START.timestamp() + minute * 60
    info = SegmentInfo.model_validate(
        {
            "segment_id": f"s{minute:g}", "recording_id": "r", "device_id": NVR, "channel_id": CAMERA,
            "disk_id": "main", "path": f"20261122/x/{minute:g}.mp4", "start": begin, "end": begin + minutes * 60,
            "bytes": 1000, "frames": 7500, "video_codec": "h265", "complete": True, **values,
        }
    )  # fmt: skip
    await home.recording.store.put_segments([info])
    path = home.recording.guard.path_of("main", info.path)
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return info


def span(minute: float, minutes: float) -> dict[str, str]:
    begin = START + timedelta(minutes=minute)
    return {"start": begin.isoformat(), "end": (begin + timedelta(minutes=minutes)).isoformat()}


async def test_rules_are_set_seen_and_removed(home: House, operator: Logged) -> None:
    grid = ["c" * 48] * 5 + ["e" * 48] * 2
    rule = await operator.json(
        "PUT",
        "/api/recordings/rules",
        json={"scope": "area", "area": "4101", "grid": grid, "storage_class": "key"},
    )
    assert rule["grid"] == ["c" * 96] * 5 + ["e" * 96] * 2
    channel = {"scope": "channel", "device_id": NVR, "channel_id": CAMERA, "stream": 1}
    await operator.json("PUT", "/api/recordings/rules", json=channel)
    shown = await operator.json("GET", "/api/recordings/rules")
    assert [(one["scope"], one["storage_class"], one["stream"]) for one in shown["items"]] == [
        ("area", "key", None), ("channel", None, 1),
    ]  # fmt: skip
    assert shown["classes"] == {"standard": 60, "key": 90, "picture": 365}
    path = f"/api/devices/{NVR}/channels/{CAMERA}/recording-rule"
    counts = await operator.json("GET", path)
    assert (counts["storage_class"], counts["days"], counts["stream"]) == ("key", 90, 1)
    assert counts["grid"][0] == "c" * 96
    await operator.json("DELETE", "/api/recordings/rules", 204, params={"scope": "area", "area": "4101"})
    assert (await operator.json("GET", path))["grid"] == ["." * 96] * 7
    await operator.json("DELETE", "/api/recordings/rules", 404, params={"scope": "area", "area": "4101"})
    # it is kept
    await home.recording.wishes.load()
    assert home.recording.wishes.of_channel((NVR, CAMERA)).stream == 1
    actions = [(entry.action, entry.result) for entry in await home.http.audit.entries()]
    assert ("recording.rule", "ok") in actions


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"scope": "area"}, 422, "body"),
        ({"scope": "default", "area": "4101"}, 422, "body"),
        ({"scope": "default", "grid": ["c" * 24] * 6}, 422, "grid"),
        ({"scope": "default", "grid": ["x" * 24] * 7}, 422, "grid"),
        ({"scope": "default", "grid": ["c" * 24] * 7, "ranges": []}, 422, "grid"),
        ({"scope": "default", "storage_class": "gold"}, 422, "storage_class"),
        ({"scope": "default", "ranges": [{"day": 0, "start_minute": 9, "end_minute": 3}]}, 422, "ranges.0"),
        ({"scope": "device", "device_id": "41018399999999999999"}, 404, None),
        ({"scope": "channel", "device_id": NVR, "channel_id": "41018399999999999999"}, 404, None),
    ],
)
async def test_rules_that_cannot_be_are_refused(
    operator: Logged, body: dict[str, Any], status: int, field: str | None
) -> None:
    answer = await operator.json("PUT", "/api/recordings/rules", status, json=body)
    assert answer.get("field") == field


async def test_the_timeline_of_a_channel(home: House, operator: Logged) -> None:
    await record(home, 0)
    await record(home, 5)
    await record(home, 20)
    gap = await home.recording.store.open_gap(NVR, CAMERA, START.timestamp() + 600, "offline")
    await home.recording.store.close_gap(gap, START.timestamp() + 1200)
    answer = await operator.json("GET", f"/api/channels/{CAMERA}/recordings", params=span(0, 30))
    assert [(one["start"], one["end"], one["segments"]) for one in answer["ranges"]] == [
        ("2026-11-22T01:00:00Z", "2026-11-22T01:10:00Z", 2), ("2026-11-22T01:20:00Z", "2026-11-22T01:25:00Z", 1),
    ]  # fmt: skip
    assert [(one["start"], one["end"], one["cause"]) for one in answer["gaps"]] == [
        ("2026-11-22T01:10:00Z", "2026-11-22T01:20:00Z", "offline"),
        ("2026-11-22T01:25:00Z", "2026-11-22T01:30:00Z", "no_plan"),
    ]
    files = await operator.json("GET", f"/api/channels/{CAMERA}/recordings/segments", params=span(4, 10))
    assert [(one["segment_id"], one["video_codec"]) for one in files["items"]] == [
        ("s0", "h265"),
        ("s5", "h265"),
    ]
    month = await operator.json("GET", f"/api/channels/{CAMERA}/recordings/months/2026-11")
    assert list(month["days"]) == ["2026-11-22"]
    assert month["days"]["2026-11-22"][9] == 15 * 60, "01:00 UTC is 09:00 in Beijing"
    wrong = {"start": span(5, 1)["start"], "end": span(0, 1)["start"]}
    await operator.json("GET", f"/api/channels/{CAMERA}/recordings", 422, params=wrong)
    await operator.json(
        "GET", f"/api/channels/{CAMERA}/recordings", 422, params={"start": "2026-11-22T00:00:00"}
    )
    await operator.json("GET", f"/api/channels/{CAMERA}/recordings/months/2026-13", 422)


async def test_orders_and_events(home: House, operator: Logged) -> None:
    base = f"/api/channels/{CAMERA}/recordings"
    state = await operator.json("POST", f"{base}/start", 202, json={"seconds": 600})
    assert (state["wanted"], state["kind"], state["ordered_until"]) == (
        "manual",
        None,
        "2026-11-22T02:10:00Z",
    )
    assert (await operator.json("GET", f"{base}/state"))["wanted"] == "manual"
    state = await operator.json("POST", f"{base}/stop", 202)
    assert state["wanted"] is None
    await operator.json("POST", f"{base}/stop", 409)
    mark = await operator.json(
        "POST", f"{base}/event", 201, json={"seconds_before": 10, "seconds_after": 20, "label": "door"}
    )
    assert (mark["kind"], mark["start"], mark["end"]) == (
        "event",
        "2026-11-22T01:59:50Z",
        "2026-11-22T02:00:20Z",
    )
    answer = await operator.json("GET", base, params=span(0, 90))
    assert [(one["label"], one["who"]) for one in answer["marks"]] == [("door", "token:test operator")]


async def test_evidence_cannot_be_deleted(home: House, operator: Logged) -> None:
    info = await record(home, 0)
    other = await record(home, 20)
    path = home.recording.guard.path_of("main", info.path)
    assert path is not None
    base = f"/api/channels/{CAMERA}/recordings"
    lock = await operator.json("POST", f"{base}/locks", 201, json={**span(1, 1), "label": "case 12"})
    assert (lock["segments"], lock["locked"]) == (1, True)
    await operator.json("DELETE", f"/api/recordings/segments/{info.segment_id}", 403)
    administrator = await home.as_role(Role.ADMINISTRATOR)
    refused = await administrator.json("DELETE", f"/api/recordings/segments/{info.segment_id}", 409)
    assert refused["cause"] == "locked"
    await administrator.json("DELETE", f"/api/recordings/segments/{other.segment_id}", 204)
    assert await home.recording.store.segment(other.segment_id) is None
    await operator.json("DELETE", f"/api/recordings/marks/{lock['mark_id']}", 204)
    await operator.json("DELETE", f"/api/recordings/marks/{lock['mark_id']}", 404)
    await administrator.json("DELETE", f"/api/recordings/segments/{info.segment_id}", 204)
    assert not path.exists()
    await administrator.json("DELETE", f"/api/recordings/segments/{info.segment_id}", 404)
    entries = [(entry.action, entry.result) for entry in await home.http.audit.entries()]
    for expected in [
        ("recording.lock", "ok"), ("recording.unlock", "ok"), ("recording.delete", "ok"),
        ("recording.delete", "locked"),
    ]:  # fmt: skip
        assert expected in entries


async def test_a_file_that_is_being_written_is_not_deleted_nor_found_in_storage(home: House) -> None:
    administrator = await home.as_role(Role.ADMINISTRATOR)
    info = await record(home, 0, complete=False)
    assert (await administrator.json("DELETE", f"/api/recordings/segments/{info.segment_id}", 409))[
        "cause"
    ] == "open"
    gone = await administrator.json("GET", f"/api/recordings/segments/{info.segment_id}/url", 404)
    assert gone["cause"] == "not_uploaded"


async def test_the_overview_and_who_may_what(home: House) -> None:
    viewer = await home.as_role(Role.VIEWER)
    await record(home, 0)
    overview = await viewer.json("GET", "/api/recordings")
    (disk,) = overview["disks"]
    assert (disk["disk_id"], disk["state"]) == ("main", "ok")
    assert overview["totals"] == [
        {"storage_class": "standard", "place": "local", "segments": 1, "bytes": 1000}
    ]
    base = f"/api/channels/{CAMERA}/recordings"
    for method, path, body in [
        ("POST", f"{base}/start", {}),
        ("POST", f"{base}/stop", None),
        ("POST", f"{base}/event", {}),
        ("POST", f"{base}/locks", {**span(0, 1), "label": "x"}),
        ("PUT", "/api/recordings/rules", {"scope": "default"}),
        ("DELETE", "/api/recordings/segments/s0", None),
    ]:
        await viewer.json(method, path, 403, json=body)
