"""Lower platforms through the HTTP API: simulated platforms of both editions over UDP and TCP below a real gateway, an upper
platform above it; their trees, pictures, controls, alarms, changes and colliding codes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import UPPER, Chain, Viewer, chain
from gateway_process import PASSWORD, SERVER_ID
from outside import eventually, series

from simulator.device import DeviceOptions
from simulator.lower_platform import LowerPlatform
from sip.ids import make_code
from sip.manscdp import Edition
from sip.ptz import Move, encode

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
WAYS = [(V16, "udp"), (V16, "tcp"), (V22, "udp"), (V22, "tcp")]
NAMES = {way: f"{way[0].name}-{way[1]}" for way in WAYS}
WAIT_S = 60.0


class County:
    """One gateway, four lower platforms (edition by transport), one upper platform that sees all."""

    def __init__(self, running: Chain) -> None:
        self.chain = running
        self.platforms: dict[tuple[Edition, str], LowerPlatform] = {}

    async def api(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, answer = await asyncio.to_thread(self.chain.gateway.call, method, path, body)
        assert found == status, (path, answer)
        return answer

    async def reach(self, path: str, condition: Callable[[Any], Any], what: str = "") -> Any:
        """The answer of a GET once it satisfies ``condition``."""

        def look() -> Any:
            status, answer = self.chain.gateway.call("GET", path)
            return answer if status == 200 and condition(answer) else None

        return await eventually(look, WAIT_S, what or path)

    async def below(self, platform: LowerPlatform, node: str = "") -> set[str]:
        """Codes that hang directly under a node of a platform's tree; "" for its top."""
        parent = f"channel:{platform.device_id}/{node}" if node else f"device:{platform.device_id}"
        level = await self.api("GET", f"/api/tree?parent={parent}")
        return {node["channel_id"] for node in level["nodes"]}

    async def add(self, platform: LowerPlatform) -> LowerPlatform:
        await platform.start()
        await platform.wait_registered(WAIT_S)
        await self.reach(
            f"/api/devices/{platform.device_id}",
            lambda device: device["catalog_complete"] and device["channels"] == len(platform.channels),
        )
        return platform

    def platform(self, serial: int, way: tuple[Edition, str] = (V22, "udp"), **values: Any) -> LowerPlatform:
        return LowerPlatform(
            make_code("410183", 200, serial),
            2,
            1,
            server=("127.0.0.1", self.chain.gateway.sip_port),
            server_id=SERVER_ID,
            password=PASSWORD,
            options=DeviceOptions(edition=way[0], transport=way[1], media="udp"),  # type: ignore[arg-type]
            **values,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def county(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[County]:
    folder: Path = tmp_path_factory.mktemp("county")
    overrides = {"alarms": {"merge_s": 0.0, "per_device_per_s": 5.0, "per_device_burst": 20}}
    async with chain(folder, 0, overrides=overrides) as running:
        made = County(running)
        made.platforms = {way: made.platform(21 + number, way) for number, way in enumerate(WAYS)}
        try:
            await asyncio.gather(*(made.add(platform) for platform in made.platforms.values()))
            for platform in made.platforms.values():
                await platform.wait(lambda p=platform: "catalog" in p.subscriptions, WAIT_S)  # type: ignore[misc]
            yield made
        finally:
            await asyncio.gather(
                *(platform.stop() for platform in made.platforms.values()), return_exceptions=True
            )


ways = pytest.mark.parametrize("way", WAYS, ids=NAMES.values())


@ways
@pytest.mark.gb("G266")
async def test_a_platform_keeps_its_tree(county: County, way: tuple[Edition, str]) -> None:
    platform = county.platforms[way]
    plan, top = platform.layout, await county.below(platform)
    assert {plan.county, plan.group, plan.below} <= top
    assert plan.orphan in await county.below(platform, plan.county), "an entry without known parents is kept"
    assert not top & {*plan.towns, *plan.organisations, plan.inner, *plan.cameras, *plan.deep}
    assert set(plan.circle) & top, "a circle is cut open somewhere"
    assert set(plan.towns) <= await county.below(platform, plan.county)
    assert set(plan.organisations) <= await county.below(platform, plan.group)
    assert plan.inner in await county.below(platform, plan.organisations[0])
    assert set(plan.deep) == await county.below(platform, plan.below), "the third level"
    for node in (plan.inner, plan.organisations[1], plan.towns[0]):
        assert plan.shared in await county.below(platform, node), f"shared camera under {node}"


@ways
@pytest.mark.gb("G266")
async def test_the_tree_goes_up_as_it_is(county: County, way: tuple[Edition, str]) -> None:
    platform = county.platforms[way]
    plan, upper = platform.layout, county.chain.upper

    async def items() -> dict[str, Any]:
        return {item.device_id: item for item in await upper.query_catalog(platform.device_id)}

    async with asyncio.timeout(WAIT_S):
        while not {*plan.cameras, *plan.deep, plan.inner, plan.below} <= (found := await items()).keys():
            await asyncio.sleep(0.5)
    assert set(found[plan.shared].parent_ids) == {platform.device_id, plan.inner, plan.organisations[1]}
    assert found[plan.deep[0]].parent_ids == (plan.below,)
    assert found[plan.below].parent_ids == (platform.device_id,)
    assert found[plan.inner].business_group_id == plan.group


@ways
@pytest.mark.gb("G266")
async def test_its_channels_play_for_browsers_and_for_the_upper(
    county: County, way: tuple[Edition, str]
) -> None:
    platform = county.platforms[way]
    code = platform.layout.deep[0]
    viewer = await asyncio.to_thread(Viewer, county.chain.gateway, code)
    try:
        await viewer.pictures(2, WAIT_S)
        async with asyncio.timeout(WAIT_S):
            while code not in {
                item.device_id for item in await county.chain.upper.query_catalog(platform.device_id)
            }:
                await asyncio.sleep(0.5)
        pull = await county.chain.upper.invite(code)
        try:
            await eventually(lambda: pull.media.stats.frames > 5, WAIT_S, "pictures at the upper")
            assert pull.session.accepted is not None
            assert pull.session.accepted.headers.get("X-RoutePath") == f"{SERVER_ID}-{platform.device_id}"
            assert len(platform.live_calls) == 1, "one stream for both"
        finally:
            await pull.close()
    finally:
        await viewer.close()


@ways
@pytest.mark.gb("G266", "G268")
async def test_it_is_asked_and_moved_with_the_channels_code(county: County, way: tuple[Edition, str]) -> None:
    platform = county.platforms[way]
    code = platform.layout.deep[0]
    presets = await county.api("GET", f"/api/channels/{code}/presets")
    assert presets["items"], presets
    assert platform.received_bodies("PresetQuery")[-1].device_id == code
    await county.api("POST", f"/api/channels/{code}/ptz", {"command": "move", "pan": 0.5})
    await platform.wait(lambda: any(entry[0] == code for entry in platform.ptz_log), WAIT_S, "PTZ of a user")
    assert f"{SERVER_ID}-admin" in platform.users, "our own user is named with our code in front"
    await county.api("POST", f"/api/channels/{code}/ptz", {"command": "stop"})
    before = len(platform.ptz_log)
    who = "41000000002000000009-officer.li"
    answer = await county.chain.upper.ptz(
        code, encode(Move(tilt=1, tilt_speed=80)), headers=[("Monitor-User-Identity", f"{UPPER}-{who}")]
    )
    assert answer.status == 200
    await platform.wait(lambda: len(platform.ptz_log) > before, WAIT_S, "PTZ of the upper")
    assert f"{SERVER_ID}-{UPPER}-{who}" in platform.users, "the upper's user goes down with our code in front"
    entries = await county.reach(
        "/api/audit?limit=200", lambda page: who in str(page), "the whole value is audited"
    )
    assert f"{SERVER_ID}-{UPPER}-{who}" in str(entries)


@ways
@pytest.mark.gb("G266")
async def test_its_channels_raise_alarms(county: County, way: tuple[Edition, str]) -> None:
    platform = county.platforms[way]
    code = platform.layout.cameras[1]
    response = await platform.alarm(code, method=5, alarm_type=2)
    assert response is not None
    assert response.status == 200
    found = await county.reach(f"/api/alarms?channel_id={code}", lambda page: page["items"])
    assert found["items"][0]["device_id"] == platform.device_id


@ways
@pytest.mark.gb("G108", "G266")
async def test_its_events_keep_the_tree_right(county: County, way: tuple[Edition, str]) -> None:
    platform = county.platforms[way]
    plan, code = platform.layout, platform.layout.cameras[1]
    query = f"?device_id={platform.device_id}"
    path = f"/api/channels/{code}{query}"
    await platform.set_status(code, "OFF")
    await county.reach(path, lambda channel: not channel["online"], "OFF")
    await platform.set_status(code, "ON")
    await county.reach(path, lambda channel: channel["online"], "ON")
    await platform.move_camera(code, plan.below)
    await county.reach(path, lambda channel: channel["parent_ids"] == [plan.below], "UPDATE")
    assert code in await county.below(platform, plan.below)
    gone = platform.channels[plan.orphan]
    await platform.remove_channel(plan.orphan)
    await eventually(
        lambda: county.chain.gateway.call("GET", f"/api/channels/{plan.orphan}{query}")[0] == 404,
        WAIT_S,
        "DEL",
    )
    assert plan.orphan not in await county.below(platform, plan.county)
    await platform.add_channel(gone)
    await county.reach(f"/api/channels/{plan.orphan}{query}", lambda channel: channel["online"], "ADD")


@pytest.mark.gb("G274")
async def test_a_camera_in_several_directories_or_by_several_ways_counts_once(county: County) -> None:
    """Cameras of the four platforms hang in two or three nodes each; a fifth platform tells of a camera of the first."""
    first = county.platforms[WAYS[0]]
    fifth = county.platform(31)
    twin = first.layout.cameras[0]
    known = first.channels[twin]
    fifth.channels[twin] = type(known)(twin, known.name, "OFF", (fifth.device_id,), dict(known.extra))
    cameras = {code for platform in (*county.platforms.values(), fifth) for code in platform.camera_ids}

    def counted() -> float:
        return series(county.chain.gateway.metrics(), "gateway_cameras")

    try:
        await county.add(fifth)
        await eventually(
            lambda: counted() == len(cameras), WAIT_S, f"{len(cameras)} cameras counted once each"
        )
        conflicts = await county.api("GET", "/api/channel-conflicts")
        (found,) = [conflict for conflict in conflicts["items"] if conflict["channel_id"] == twin]
        assert not found["collision"]
        assert [len(camera["ways"]) for camera in found["cameras"]] == [2]
        channel = await county.api("GET", f"/api/channels/{twin}")
        assert channel["online"], "the way that works is taken without asking which"
        assert channel["device_id"] == first.device_id
    finally:
        await fifth.stop()


@pytest.mark.gb("G275")
@pytest.mark.quirk(18)
async def test_colliding_codes_are_reported_and_mapped_and_stay_so(county: County) -> None:
    """A platform uses the code of another's camera for one of its own; after a restart each is found as before."""
    first = county.platforms[WAYS[2]]
    code = first.layout.cameras[0]
    other = county.platform(32, colliding=[code])
    await county.add(other)
    try:
        conflicts = await county.api("GET", "/api/channel-conflicts?collisions_only=true")
        (found,) = [conflict for conflict in conflicts["items"] if conflict["channel_id"] == code]
        assert found["collision"]
        mapped = {camera["ways"][0]["device_id"]: camera["mapped_id"] for camera in found["cameras"]}
        assert mapped[first.device_id] == "", "who came first keeps the code"
        new = mapped[other.device_id]
        assert new[:14] == code[:14]
        assert new != code
        problem = await county.api("GET", f"/api/channels/{code}", status=409)
        assert new in problem["detail"], "who asks for the doubtful code is told the other one"
        assert (await county.api("GET", f"/api/channels/{new}"))["device_id"] == other.device_id

        async def shown() -> set[str]:
            items = {item.device_id: item.name for item in await county.chain.upper.query_catalog()}
            return {items.get(code, ""), items.get(new, "")}

        names = {first.channels[code].name, other.channels[code].name}
        async with asyncio.timeout(WAIT_S):
            while await shown() != names:
                await asyncio.sleep(0.5)
        pull = await county.chain.upper.invite(new)
        await pull.close()
        assert [call.channel_id for call in other.calls.history] == [code]
        await asyncio.to_thread(county.chain.gateway.end)
        await county.chain.restart()
        await county.reach(f"/api/channels/{new}", lambda channel: channel["device_id"] == other.device_id)
        assert (await county.api("GET", f"/api/channels/{code}?device_id={first.device_id}"))[
            "mapped_id"
        ] == ""
        await eventually(
            lambda: (
                county.chain.gateway.call("GET", f"/api/devices/{other.device_id}")[1]["state"] == "online"
            ),
            WAIT_S,
        )
    finally:
        await other.stop()


@pytest.mark.gb("G266")
@pytest.mark.quirk(20)
async def test_a_platform_that_goes_takes_its_channels_off_line(county: County) -> None:
    platform = county.platform(33)
    await county.add(platform)
    path = f"/api/channels/{platform.layout.deep[0]}"
    await county.reach(path, lambda channel: channel["online"])
    await platform.stop()
    channel = await county.reach(path, lambda channel: not channel["online"])
    assert channel["evidence"]["reported"] == "ON", "what it said last stays visible beside what is true"
