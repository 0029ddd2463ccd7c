"""The catalog as an upper receives it over loopback: parts, pages, targets, losses, several uppers, shares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cascade_house import NVR, PASSWORD, UPPER, CascadeHouse, MemoryStore, camera, house, shares

from gateway.errors import NotFound
from gateway.model import DeviceKind, Share
from gateway.services.cascade import ShareConflict
from simulator.upper_platform import UpperPlatform
from sip.manscdp import CatalogQuery, Edition

SERVER = "41018300002000000001"
DAY = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
async def county() -> AsyncIterator[CascadeHouse]:
    async with house() as made:
        yield made


@pytest.fixture
async def upper(county: CascadeHouse) -> AsyncIterator[UpperPlatform]:
    platform = county.upper()
    await platform.start()
    yield platform
    await county.cascade.close()
    await platform.stop()


@pytest.mark.gb("G095")
async def test_parts_have_the_true_total_their_own_number_and_the_querys_sn(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(*range(1, 48))
    await county.join(upper, page_size_udp=4)
    query = CatalogQuery(sn=4711, device_id=SERVER)
    collector = await upper.collect()
    total = len(collector.items)
    assert total == 47 + 4  # cameras, recorder, own system, two divisions
    assert {part.sum_num for part in collector.parts} == {total}
    assert {part.device_id for part in collector.parts} == {SERVER}
    assert len({part.sn for part in collector.parts}) == 1
    assert sum(len(part.items) for part in collector.parts) == total
    assert max(len(part.items) for part in collector.parts) == 4
    assert next(iter(collector.items)) == SERVER
    await upper.send(query)
    await upper.wait(lambda: any(body.sn == 4711 for body, _ in upper.messages))


@pytest.mark.gb("G073")
async def test_two_queries_at_once_get_their_own_answers(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(*range(1, 12))
    await county.join(upper)
    all_, part = await asyncio.gather(upper.collect(), upper.collect(NVR))
    assert len(all_.items) == 15
    assert len(part.items) == 12
    assert {answer.device_id for answer in part.parts} == {NVR}
    assert all_.parts[0].sn != part.parts[0].sn


@pytest.mark.gb("G098")
@pytest.mark.quirk(13)
async def test_no_datagram_is_above_1300_bytes(county: CascadeHouse, upper: UpperPlatform) -> None:
    """One Item per message by default; an Item that is too long even so goes by TCP (18.1.1)."""
    device = county.recorder()
    for number in range(1, 30):
        common = {"ptz_type": 1, "point_type": 1, "record_save_days": 90, "management_unit": "县公安局"}
        full = common | {
            "photoelectric_imaging_type": ("1",),
            "capture_position_type": "0020100",
            "resolution": ("6", "5"),
            "stream_numbers": ("0", "1"),
            "download_speed": ("1", "2", "4"),
            "mac": "44-47-CC-01-02-03",
            "function_types": ("01", "03"),
            "contact_info": "0371-60000000",
            "point_name": "人民广场",
        }
        county.channel(
            device.device_id,
            camera(number),
            name="人民广场东南角球机",
            address="新区人民路与建设路交叉口",
            manufacturer="Maker",
            model="Model-2CD3T46",
            block="410183000000",
            longitude=113.391,
            latitude=34.539,
            item=full if number == 7 else common,
        )
    await county.join(upper)
    collector = await upper.collect()
    assert all(len(part.items) == 1 for part in collector.parts)
    ways = {flow.transport for flow in collector.flows}
    assert ways == {"udp", "tcp"}
    for part, size, flow in zip(collector.parts, collector.sizes, collector.flows, strict=True):
        too_long = part.items[0].device_id == camera(7)
        assert flow.transport == ("tcp" if too_long else "udp")
        assert too_long or size <= 1300


@pytest.mark.gb("G096")
async def test_the_next_part_waits_for_the_answer_to_the_one_before(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(*range(1, 6))
    await county.join(upper)
    upper.faults.silent_messages = 1
    query = asyncio.create_task(upper.collect(timeout_s=20.0))
    await asyncio.sleep(0.6)
    assert not upper.messages  # the first part was swallowed: nothing further came meanwhile
    collector = await query
    assert len(collector.items) == 9
    assert next(part.items[0].device_id for part in collector.parts) == SERVER


@pytest.mark.gb("G096")
async def test_an_answer_nobody_takes_is_abandoned(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(*range(1, 6))
    await county.join(upper, heartbeat_interval_s=600)
    answers = county.cascade._uppers[UPPER].answers
    upper.faults.message_status = 500
    await upper.send(CatalogQuery(sn=1, device_id=SERVER))
    await upper.wait(lambda: answers.abandoned == 1)
    upper.faults.message_status = 200
    assert len(await upper.query_catalog()) == 9


@pytest.mark.gb("G097")
async def test_twelve_thousand_entries_go_by_tcp_in_pages(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(*range(1, 12_001))
    await county.join(upper, page_size_tcp=2000)
    collector = await upper.collect(timeout_s=90.0)
    assert len(collector.items) == 12_004
    assert {flow.transport for flow in collector.flows} == {"tcp"}
    assert max(len(part.items) for part in collector.parts) <= 2000 <= 10_000
    assert len(collector.parts) == 7


@pytest.mark.gb("G099", "G100")
async def test_targets_and_unknown_targets(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1, 2)
    county.recorder(3, device_id="41018300001180000002")
    await county.join(upper, share_all=False)
    await county.cascade.set_shares(UPPER, shares(UPPER, (NVR, camera(1))))
    assert [item.device_id for item in await upper.query_catalog(NVR)] == [NVR, camera(1)]
    assert len(await upper.query_catalog("410183")) == 3
    for hidden in (camera(2), camera(3), "41018300001180000002", "4403"):
        collector = await upper.collect(hidden)
        assert collector.sum_num == 0
        assert collector.items == {}
        assert collector.parts[0].device_id == hidden


@pytest.mark.gb("G104")
async def test_a_window_returns_what_was_added_in_it(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder()
    county.channel(NVR, camera(1), added_at=DAY)
    county.channel(NVR, camera(2), added_at=DAY + timedelta(days=3))
    await county.join(upper)
    found = await upper.collect(start_time=DAY + timedelta(days=2), end_time=DAY + timedelta(days=4))
    assert list(found.items) == [camera(2)]
    nothing = await upper.collect(start_time=DAY - timedelta(days=9), end_time=DAY - timedelta(days=8))
    assert nothing.sum_num == 0


@pytest.mark.gb("G258")
async def test_three_uppers_see_us_in_three_ways() -> None:
    async with house() as county:
        county.recorder(1, 2)
        county.channel(NVR, camera(3), name="测试点")
        first = county.upper(UPPER)
        second = county.upper(
            "41010000002000000002",
            lower_id="41018300002000000777",
            password="other-secret",
            transport="tcp",
            edition=Edition.V2016,
            charset="GB2312",
        )
        third = county.upper("41010000002000000003", password="third", charset="UTF-8")
        uppers = [first, second, third]
        for upper in uppers:
            await upper.start()
        try:
            await county.join(first, charset="GB18030", edition="3.0")
            await county.join(second, charset="GB2312", edition="2.0")
            await county.join(third, charset="UTF-8", edition="3.0", username="county", share_all=False)
            await county.cascade.set_shares(third.platform_id, shares(third.platform_id, (NVR, camera(3))))
            catalogs = [await upper.query_catalog() for upper in uppers]
            assert [len(catalog) for catalog in catalogs] == [7, 7, 5]
            assert catalogs[1][0].device_id == "41018300002000000777"
            labels = [upper.messages[-1][1].request.body[:60] for upper in uppers]
            assert b"GB18030" in labels[0]
            assert b"GB2312" in labels[1]
            assert b"UTF-8" in labels[2]
            assert all(
                any(item.name == "测试点" for item in catalog if item.device_id == camera(3))
                for catalog in catalogs
            )
            assert second.lowers["41018300002000000777"].flow.transport == "tcp"
            assert second.messages[-1][1].request.from_.uri.user == "41018300002000000777"
            body = second.messages[-1][1].request.body
            assert b"<Owner>" in body  # only the 2016 edition has it
            assert b"<Owner>" not in first.messages[-1][1].request.body
        finally:
            await county.cascade.close()
            for upper in uppers:
                await upper.stop()


@pytest.mark.gb("G265")
@pytest.mark.quirk(37)
async def test_mutual_registration_does_not_loop(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1)
    county.recorder(device_id=UPPER, kind=DeviceKind.PLATFORM)
    county.channel(UPPER, camera(70), parent_ids=(UPPER,))
    other = county.upper("41010000002000000002")
    await other.start()
    try:
        await county.join(upper)
        await county.join(other)
        assert camera(70) not in {item.device_id for item in await upper.query_catalog()}
        assert camera(70) in {item.device_id for item in await other.query_catalog()}
    finally:
        await county.cascade.close()
        await other.stop()


@pytest.mark.gb("G102")
async def test_one_camera_by_two_platforms_goes_up_once(county: CascadeHouse, upper: UpperPlatform) -> None:
    lowers = ("41018301002000000001", "41018302002000000001")
    for lower in lowers:
        county.recorder(device_id=lower, kind=DeviceKind.PLATFORM)
        county.channel(lower, camera(5), parent_ids=(lower,), reported="ON" if lower == lowers[1] else "OFF")
    await county.join(upper)
    found = [item for item in await upper.query_catalog() if item.device_id == camera(5)]
    assert len(found) == 1
    assert set(found[0].parent_ids) == set(lowers)
    assert found[0].status == "ON"


@pytest.mark.quirk(36)
async def test_an_edit_without_effect_sends_nothing(county: CascadeHouse, upper: UpperPlatform) -> None:
    platform = await county.join(upper, heartbeat_interval_s=600)
    seen = len(upper.registers)
    await county.cascade.put_platform(replace(platform))
    await county.cascade.put_platform(replace(platform, name="new name", max_streams=3))
    await asyncio.sleep(0.3)
    assert len(upper.registers) == seen
    assert upper.messages == []
    assert county.cascade.records()[0].name == "new name"
    await county.cascade.put_platform(replace(platform, username="someone"))
    await upper.wait(lambda: len(upper.registers) >= seen + 3)  # log-out, then a new registration
    await upper.wait_registered()
    assert upper.registers[-1].expires == 86400


async def test_shares_are_checked_and_kept(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1, 2)
    await county.join(upper, share_all=False)
    chosen = "41018300001310000777"
    with pytest.raises(ShareConflict):
        await county.cascade.set_shares(
            UPPER, [Share(UPPER, NVR, camera(1), chosen), Share(UPPER, NVR, camera(2), chosen)]
        )
    with pytest.raises(ShareConflict):
        await county.cascade.set_shares(UPPER, [Share(UPPER, NVR, camera(1), SERVER)])
    with pytest.raises(NotFound):
        await county.cascade.set_shares("41010000002000000009", [])
    await county.cascade.set_shares(
        UPPER, [Share(UPPER, NVR, camera(1), chosen), Share(UPPER, NVR, camera(2), "")]
    )
    assert [share.exported_id for share in county.cascade.shares(UPPER)] == [chosen, camera(2)]
    assert {item.device_id for item in await upper.query_catalog(NVR)} == {NVR, chosen, camera(2)}
    await county.cascade.remove_platform(UPPER)
    assert SERVER not in upper.lowers
    assert county.store.stored == {}


@pytest.mark.quirk(18)
async def test_made_up_codes_survive_a_restart_of_the_gateway() -> None:
    """Before the restart the second recorder came later; after it, both are there from the start."""
    store = MemoryStore()
    early, late = "41018300001180000002", NVR
    seen: list[dict[str, tuple[str, ...]]] = []
    for order in ((early, late), (late, early)):
        async with house(store=store) as county:
            upper = county.upper()
            await upper.start()
            try:
                county.recorder(1, device_id=order[0])
                if seen:
                    county.recorder(1, device_id=order[1])
                await county.join(upper)
                await upper.query_catalog()
                if not seen:
                    county.recorder(1, device_id=order[1])
                items = [item for item in await upper.query_catalog() if "131" in item.device_id[10:13]]
                await upper.wait(lambda: store.stored[UPPER].recoded)
                seen.append({item.device_id: item.parent_ids for item in items})
            finally:
                await county.cascade.close()
                await upper.stop()
    assert seen[0] == seen[1]
    assert seen[0][camera(1)] == (early,)
    assert len(seen[0]) == 2


async def test_uppers_of_the_settings_are_taken_in_once() -> None:
    from config.settings import CascadeSettings

    settings = CascadeSettings.model_validate(
        {"platforms": [{"platform_id": UPPER, "host": "127.0.0.1", "port": 9, "password": PASSWORD}]}
    )
    store = MemoryStore()
    for _ in range(2):
        async with house(settings=settings, store=store) as county:
            assert [platform.domain for platform in county.cascade.records()] == ["4101000000"]
    assert store.writes == ["put"]


@pytest.mark.gb("G261")
async def test_a_connection_that_ends_is_noticed_without_a_heartbeat(county: CascadeHouse) -> None:
    upper = county.upper(transport="tcp")
    await upper.start()
    await county.join(upper, heartbeat_interval_s=600)
    await upper.restart()
    await upper.wait_registered()
    assert len(await upper.query_catalog()) == 3
    await county.cascade.close()
    await upper.stop()


async def test_a_platform_switched_off_is_left_alone(county: CascadeHouse, upper: UpperPlatform) -> None:
    platform = await county.join(upper)
    await county.cascade.put_platform(replace(platform, enabled=False))
    assert SERVER not in upper.lowers
    assert county.cascade.platforms()[0].state == "disabled"
    seen = len(upper.registers)
    await asyncio.sleep(0.5)
    assert len(upper.registers) == seen
    await county.cascade.put_platform(platform)
    await upper.wait_registered()
