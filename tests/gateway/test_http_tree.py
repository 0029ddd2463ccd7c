"""The channel tree level by level, and the count by township behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from http_house import NVR, OTHER_NVR, House, Logged, house

from gateway.clock import ManualClock
from gateway.events import EventBus
from gateway.model import Channel, ChannelKind, Device, State
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.census import UNASSIGNED, Census, ancestors, place_of

GROUP = "41018300002150000001"
ORGANISATION = "41018300002160000001"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


@pytest.fixture
async def viewer(home: House) -> Logged:
    return await home.as_role(Role.VIEWER)


def camera(number: int) -> str:
    return f"4101830000131{number:07d}"


async def level(viewer: Logged, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await viewer.json("GET", f"/api/tree?{query}"))["nodes"]
    return found


@pytest.mark.quirk(19)
async def test_a_catalog_is_shown_as_it_hangs_together_with_circles_cut(home: House, viewer: Logged) -> None:
    """ParentID of the device itself, of a group, of nobody known, of itself, and two that name each other."""
    home.add_device(name="Depot")
    home.add_channel(GROUP, kind=ChannelKind.BUSINESS_GROUP, name="Roads")
    home.add_channel(
        ORGANISATION, kind=ChannelKind.VIRTUAL_ORGANISATION, parent_ids=(GROUP,), name="Ring road"
    )
    home.add_channel(camera(1), parent_ids=(ORGANISATION,))
    home.add_channel(camera(2), parent_ids=(NVR,))
    home.add_channel(camera(3), parent_ids=(camera(3),))
    home.add_channel(camera(4), parent_ids=(camera(5),))
    home.add_channel(camera(5), parent_ids=(camera(4),))
    (device,) = await level(viewer, "by=device")
    assert (device["label"], device["online_count"], device["total_count"]) == ("Depot", 5, 5)
    top = await level(viewer, f"parent={device['id']}")
    assert [node["channel_id"] for node in top][:1] == [GROUP]
    assert {camera(2), camera(3)} < {node["channel_id"] for node in top}
    shown = {node["channel_id"] for node in top}
    for node in top:
        if not node["leaf"]:
            shown |= {below["channel_id"] for below in await level(viewer, f"parent={node['id']}")}
    assert {camera(4), camera(5), ORGANISATION} < shown
    below = await level(viewer, f"parent=channel:{NVR}/{ORGANISATION}")
    assert [node["channel_id"] for node in below] == [camera(1)]


async def test_divisions_are_counted_upward_and_named(home: House, viewer: Logged) -> None:
    home.add_device()
    home.add_device(OTHER_NVR, online=False)
    home.add_channel(camera(1), civil_code="410183", grassroots_code="104002")
    home.add_channel(camera(2), civil_code="410183", reported="OFF")
    home.add_channel(camera(3), OTHER_NVR, civil_code="410184")
    home.add_channel("41990000001310000009", OTHER_NVR, civil_code="null")
    home.add_channel("410183", kind=ChannelKind.DIVISION, name="Xinmi")
    (province,) = await level(viewer, "by=division")
    assert (province["id"], province["online_count"], province["total_count"]) == ("division:41", 1, 4)
    names = {
        n["id"]: (n["label"], n["online_count"], n["total_count"])
        for n in await level(viewer, "by=division&parent=division:4101")
    }
    assert names["division:410183"] == ("Xinmi", 1, 2)
    assert names["division:410184"] == ("新郑市", 0, 1)
    inside = await level(viewer, "by=division&parent=division:410183")
    assert [node["id"] for node in inside] == ["division:410183104", f"channel:{NVR}/{camera(2)}"]
    assert inside[1]["reason"] == "reported OFF"


async def test_the_tree_is_paged_and_refuses_strange_parents(home: House, viewer: Logged) -> None:
    home.add_device()
    for number in range(5):
        home.add_channel(camera(number))
    page = await viewer.json("GET", f"/api/tree?parent=device:{NVR}&limit=2&offset=4")
    assert page["total"] == 5
    assert [node["channel_id"] for node in page["nodes"]] == [camera(4)]
    await viewer.json("GET", f"/api/tree?parent=device:{OTHER_NVR}", 404)
    await viewer.json("GET", f"/api/tree?parent=channel:{NVR}/{camera(99)}", 404)
    await viewer.json("GET", "/api/tree?parent=division:41", 422)
    await viewer.json("GET", f"/api/tree?by=division&parent=device:{NVR}", 422)
    await viewer.json("GET", "/api/tree?parent=<script>", 422)
    assert await level(viewer, "by=division&parent=division:99") == []


def test_a_township_key_lies_in_its_county() -> None:
    assert place_of("410183", "104002", camera(1)) == "410183104"
    assert ancestors("410183104") == ["410183", "4101", "41"]
    assert place_of("", "", "not-a-code") == UNASSIGNED
    assert ancestors(UNASSIGNED) == []


async def test_a_count_is_shared_and_kept_for_seconds() -> None:
    clock = ManualClock()
    registry = Registry(bus=EventBus(), clock=clock)
    registry.put_device(Device(NVR, state=State.ONLINE))
    census = Census(registry=registry, clock=clock)
    assert (await census.fresh()).cameras.total == 0
    for number in range(5000):
        registry.put_channel(Channel(NVR, camera(number), kind=ChannelKind.CAMERA, reported="ON"))
    assert (await census.fresh()).cameras.total == 0
    clock.advance(4)
    result = await census.fresh()
    assert (result.cameras.online, result.cameras.total) == (5000, 5000)
    assert result.divisions["41"].total == 5000
    await census.close()
