"""One camera by several ways, one code for several cameras: who is who, which code is mapped, and that it stays so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.events import EventBus
from gateway.model import Channel, ChannelKind, Device, DeviceKind, State
from gateway.registry import Registry
from gateway.services.census import Census
from gateway.services.lower_platforms import JOURNAL_KIND, LowerPlatforms, best_way, ways_of

ONE, TWO, CAMERA = "41018300002000000002", "41018300002000000003", "41018300001320000001"
CODE = "41018300001310000001"


class MemoryJournal(dict[tuple[str, str], dict[str, Any]]):
    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        self[kind, key] = state

    def remove(self, kind: str, key: str) -> None:
        self.pop((kind, key), None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        return {key: state for (its, key), state in self.items() if its == kind}


class County:
    def __init__(self, journal: MemoryJournal | None = None) -> None:
        self.registry = Registry(bus=EventBus())
        self.journal = journal if journal is not None else MemoryJournal()
        self.service = LowerPlatforms(registry=self.registry, bus=self.registry.bus, journal=self.journal)
        for device_id, kind in ((ONE, "platform"), (TWO, "platform"), (CAMERA, "camera")):
            self.registry.put_device(Device(device_id, kind=DeviceKind(kind), state=State.ONLINE))

    async def add(self, device_id: str, code: str = CODE, name: str = "gate", **values: Any) -> Channel:
        fields = {"kind": ChannelKind.CAMERA, "reported": "ON", "name": name, **values}
        channel = self.registry.put_channel(Channel(device_id, code, **fields))
        await self.settle()
        return channel

    async def settle(self) -> None:
        """Until what was published is heard."""
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.mark.gb("G275")
@pytest.mark.quirk(18)
async def test_the_second_camera_of_a_code_gets_another_that_depends_on_itself_alone() -> None:
    codes = set()
    for _ in range(2):
        county = County()
        await county.service.start()
        first, second = await county.add(ONE), await county.add(TWO, name="bridge")
        assert first.mapped_id == ""
        assert second.mapped_id[:14] == CODE[:14]
        assert county.registry.by_mapped == {second.mapped_id: second.key}
        assert county.service.collisions == 1
        codes.add(second.mapped_id)
    assert len(codes) == 1


@pytest.mark.gb("G275")
async def test_a_restart_keeps_every_mapping_whatever_is_loaded_first() -> None:
    before = County()
    await before.service.start()
    await before.add(ONE)
    mapped = (await before.add(TWO, name="bridge")).mapped_id
    after = County(before.journal)
    second = Channel(TWO, CODE, name="bridge", kind=ChannelKind.CAMERA)
    first = Channel(ONE, CODE, name="gate", kind=ChannelKind.CAMERA)
    after.registry.load_channel(second)
    after.registry.load_channel(first)
    await after.service.start()
    assert (first.mapped_id, second.mapped_id) == ("", mapped)


@pytest.mark.gb("G275")
async def test_a_platforms_camera_and_a_device_of_ours_with_one_code_are_told_apart() -> None:
    county = County()
    await county.service.start()
    await county.add(CAMERA)
    other = await county.add(ONE, name="bridge")
    assert other.mapped_id
    (conflict,) = county.service.conflicts(collisions_only=True)
    assert conflict.collision
    assert [ways[0].device_id for ways in conflict.cameras] == [CAMERA, ONE]


async def test_two_devices_of_ours_never_share_a_camera() -> None:
    county = County()
    await county.service.start()
    county.registry.put_device(Device("41018300001320000002", kind=DeviceKind.CAMERA))
    await county.add(CAMERA)
    assert (await county.add("41018300001320000002")).mapped_id


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({"name": "gate "}, True),
        ({"name": "bridge"}, False),
        ({"name": "bridge", "longitude": 113.0001, "latitude": 34.0001}, True),
        ({"name": "gate", "longitude": 113.5, "latitude": 34.0}, False),
    ],
    ids=["name", "other-name", "place", "other-place"],
)
@pytest.mark.gb("G274")
async def test_a_camera_by_two_ways_is_one(values: dict[str, Any], same: bool) -> None:
    county = County()
    await county.service.start()
    place = {"longitude": 113.0, "latitude": 34.0} if "longitude" in values else {}
    await county.add(ONE, **place)
    second = await county.add(TWO, **values)
    assert (second.mapped_id == "") is same
    census = Census(registry=county.registry)
    counted = await census.fresh()
    assert counted.cameras.total == (1 if same else 2)


@pytest.mark.gb("G274")
async def test_a_camera_by_two_ways_is_on_while_one_of_them_is_and_played_over_that_one() -> None:
    county = County()
    first, second = await county.add(ONE), await county.add(TWO)
    county.registry.mark_offline(county.registry.devices[ONE], "test")
    assert ways_of(county.registry, second) == [first, second]
    assert best_way(county.registry, [first, second]) is second
    assert (await Census(registry=county.registry).fresh()).cameras.online == 1


async def test_a_removed_platform_takes_its_codes_along() -> None:
    county = County()
    await county.service.start()
    await county.add(ONE)
    mapped = (await county.add(TWO, name="bridge")).mapped_id
    assert (JOURNAL_KIND, f"{TWO}/{CODE}") in county.journal
    county.registry.remove_device(TWO)
    await county.settle()
    assert mapped not in county.registry.by_mapped
    assert not county.journal
    assert county.service.collisions == 0


async def test_a_channel_that_comes_back_has_its_mapped_code_again() -> None:
    county = County()
    await county.service.start()
    await county.add(ONE)
    mapped = (await county.add(TWO, name="bridge")).mapped_id
    county.registry.remove_channel(TWO, CODE)
    await county.settle()
    assert mapped not in county.registry.by_mapped
    assert (await county.add(TWO, name="bridge")).mapped_id == mapped
    assert county.registry.by_mapped[mapped] == (TWO, CODE)


async def test_a_code_in_use_is_never_given_as_a_mapped_one() -> None:
    free = County()
    await free.service.start()
    await free.add(ONE)
    wished = (await free.add(TWO, name="bridge")).mapped_id
    county = County()
    await county.service.start()
    await county.add(CAMERA, code=wished, name="taken")
    await county.add(ONE)
    assert (await county.add(TWO, name="bridge")).mapped_id not in ("", wished)
