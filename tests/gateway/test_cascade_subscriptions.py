"""Catalog subscriptions of uppers over loopback: first report, changes, scopes, damping, ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from cascade_house import NVR, UPPER, CascadeHouse, MemoryJournal, camera, house, shares

from gateway.model import ChannelKind, DeviceKind
from simulator.upper_platform import UpperPlatform
from sip.errors import Rejected
from sip.manscdp import AlarmQuery, CatalogItem, encode

SERVER = "41018300002000000001"
LOWER = "41018301002000000001"
GROUP, ORG = "41018301002150000001", "41018301002160000001"


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


def report(county: CascadeHouse, number: int, status: str, device_id: str = NVR) -> None:
    channel = county.registry.channel(device_id, camera(number))
    assert channel is not None
    county.registry.report(channel, status)


def items(upper: UpperPlatform) -> list[CatalogItem]:
    return [item for notify, _, _ in upper.notifies for item in notify.items]


@pytest.mark.gb("G114")
async def test_the_200_grants_no_more_than_asked_and_the_first_notify_names_what_is_not_on(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(1, 2, 3, 4)
    report(county, 2, "OFF")
    report(county, 3, "VLOST")
    report(county, 4, "DEFECT")
    await county.join(upper)
    subscription = await upper.subscribe_catalog(expires_s=120)
    assert 0 < subscription.expires_s <= 120
    await upper.wait(lambda: len(upper.events()) >= 3)
    assert sorted(upper.events()) == [("DEFECT", camera(4)), ("OFF", camera(2)), ("VLOST", camera(3))]
    state = upper.notifies[0][1].headers.get("Subscription-State")
    assert state.startswith("active;expires=")


@pytest.mark.gb("G114")
async def test_a_notify_is_due_even_when_all_is_well(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1)
    await county.join(upper)
    await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    body = upper.notifies[0][0]
    assert (body.sum_num, body.items, body.device_id) == (0, [], SERVER)


@pytest.mark.gb("G115")
@pytest.mark.parametrize("event", ["Catalog;id=1894", "presence", "catalog;id=abc"])
async def test_the_event_value_is_repeated_exactly(
    county: CascadeHouse, upper: UpperPlatform, event: str
) -> None:
    county.recorder(1)
    await county.join(upper)
    await upper.subscribe_catalog(event=event)
    await upper.wait(lambda: upper.notifies)
    report(county, 1, "OFF")
    await upper.wait(lambda: upper.events())
    assert {request.headers.get("Event") for _, request, _ in upper.notifies} == {event}


@pytest.mark.gb("G119")
@pytest.mark.quirk(20)
async def test_a_device_that_goes_offline_takes_its_channels_along(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    device = county.recorder(1, 2)
    await county.join(upper)
    await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    began = time.monotonic()
    county.registry.mark_offline(device, "heartbeat_lost")
    await upper.wait(lambda: len(upper.events()) >= 3)
    assert time.monotonic() - began < 5.0
    assert set(upper.events()) == {("OFF", NVR), ("OFF", camera(1)), ("OFF", camera(2))}
    county.registry.mark_online(device)
    await upper.wait(lambda: len(upper.events()) >= 6)
    assert set(upper.events()[3:]) == {("ON", NVR), ("ON", camera(1)), ("ON", camera(2))}


@pytest.mark.gb("G116")
@pytest.mark.parametrize(("transport", "most"), [("tcp", 100), ("udp", 100)])
async def test_five_hundred_changes_come_in_batches(county: CascadeHouse, transport: str, most: int) -> None:
    upper = county.upper(transport=transport)
    await upper.start()
    try:
        county.recorder(*range(1, 501))
        await county.join(upper)
        await upper.subscribe_catalog()
        await upper.wait(lambda: upper.notifies)
        for number in range(1, 501):
            report(county, number, "OFF")
        await upper.wait(lambda: len(upper.events()) >= 500)
        told = upper.notifies[1:]
        assert all(body.sum_num == len(body.items) <= most for body, _, _ in told)
        assert set(upper.events()) == {("OFF", camera(number)) for number in range(1, 501)}
        if transport == "tcp":
            assert 5 <= len(told) <= 10  # those that were ready a moment later make a batch of their own
            assert len(told[0][0].items) == 100
        else:
            assert all(len(request.to_bytes()) <= 1300 for _, request, _ in told)
    finally:
        await county.cascade.close()
        await upper.stop()


@pytest.mark.gb("G117")
async def test_a_toggling_device_gives_one_final_event(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1, 2)
    await county.join(upper)
    await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    for turn in range(20):
        report(county, 1, "OFF" if turn % 2 == 0 else "ON")
        await asyncio.sleep(0.02)
    report(county, 1, "OFF")
    report(county, 2, "OFF")
    report(county, 2, "ON")
    await upper.wait(lambda: upper.events())
    await asyncio.sleep(0.8)
    assert upper.events() == [("OFF", camera(1))]


@pytest.mark.gb("G118")
async def test_nothing_is_sent_after_the_end(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1)
    await county.join(upper)
    subscription = await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    assert county.cascade.platforms()[0].subscriptions == 1
    await subscription.close()
    await upper.wait(lambda: county.cascade.platforms()[0].subscriptions == 0)
    report(county, 1, "OFF")
    await asyncio.sleep(0.8)
    assert upper.events() == []


@pytest.mark.gb("G118")
async def test_an_expired_subscription_is_silent(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1)
    await county.join(upper)
    subscription = await upper.subscribe_catalog(expires_s=1)
    if subscription._timer is not None:  # the upper forgets to refresh
        subscription._timer.cancel()
    await upper.wait(lambda: county.cascade.platforms()[0].subscriptions == 0)
    report(county, 1, "OFF")
    await asyncio.sleep(0.8)
    assert upper.events() == []


async def test_a_refresh_keeps_it_alive(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1)
    await county.join(upper)
    await upper.subscribe_catalog(expires_s=1)  # refreshes itself at 0.85 s
    await asyncio.sleep(1.6)
    report(county, 1, "OFF")
    await upper.wait(lambda: upper.events())
    assert county.cascade.platforms()[0].subscriptions == 1


@pytest.mark.gb("G120")
async def test_each_scope_hears_only_of_its_own(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1)
    county.recorder(device_id=LOWER, kind=DeviceKind.PLATFORM)
    registry = county.registry
    county.channel(LOWER, GROUP, kind=ChannelKind.BUSINESS_GROUP, name="key units", civil_code="")
    county.channel(LOWER, ORG, kind=ChannelKind.VIRTUAL_ORGANISATION, parent_ids=(), business_group_id=GROUP)
    county.channel(LOWER, camera(20), parent_ids=(LOWER, ORG), civil_code="41018301", business_group_id=GROUP)
    county.channel(LOWER, camera(21), parent_ids=(LOWER,), civil_code="41018302")
    await county.join(upper)
    everybody = {camera(1), camera(20), camera(21)}
    scopes = {
        SERVER: everybody,
        LOWER: {camera(20), camera(21)},
        "41018301": {camera(20)},
        NVR: {camera(1)},
        GROUP: {camera(20)},
        ORG: {camera(20)},
    }
    for target in scopes:
        await upper.subscribe_catalog(target)
    await upper.wait(lambda: len(upper.notifies) == len(scopes))
    upper.notifies.clear()
    for device_id, number in ((NVR, 1), (LOWER, 20), (LOWER, 21)):
        report(county, number, "OFF", device_id)
    await upper.wait(lambda: len(upper.events()) >= 9)
    await asyncio.sleep(0.5)
    heard: dict[str, set[str]] = {}
    for body, _, _ in upper.notifies:
        heard.setdefault(body.device_id, set()).update(item.device_id for item in body.items)
    assert heard == scopes
    assert registry.channel_count() == 5


async def test_what_is_not_shared_cannot_be_subscribed(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1, 2)
    await county.join(upper, share_all=False)
    await county.cascade.set_shares(UPPER, shares(UPPER, (NVR, camera(1))))
    with pytest.raises(Rejected) as refused:
        await upper.subscribe_catalog(camera(2))
    assert refused.value.status == 404


async def test_other_events_are_refused(county: CascadeHouse, upper: UpperPlatform) -> None:
    county.recorder(1)
    await county.join(upper)
    body = encode(AlarmQuery(sn=1, device_id=SERVER))
    with pytest.raises(Rejected) as refused:
        await upper.endpoint.subscribe(
            upper.target(),
            to=f"sip:{SERVER}@4101830000",
            event="presence",
            expires_s=60,
            body=body,
            content_type="Application/MANSCDP+xml",
            on_notify=upper._notified,
            on_end=lambda reason: None,
        )
    assert refused.value.status == 489


async def test_added_changed_and_removed_channels_are_told_with_all_fields(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(1, 2)
    await county.join(upper, share_all=False)
    await county.cascade.set_shares(UPPER, shares(UPPER, (NVR, camera(1))))
    await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    await county.cascade.set_shares(UPPER, shares(UPPER, (NVR, camera(1)), (NVR, camera(2))))
    await upper.wait(lambda: ("ADD", camera(2)) in upper.events())
    county.channel(NVR, camera(2), name="renamed")
    await upper.wait(lambda: ("UPDATE", camera(2)) in upper.events())
    await county.cascade.set_shares(UPPER, shares(UPPER, (NVR, camera(1))))
    await upper.wait(lambda: ("DEL", camera(2)) in upper.events())
    assert upper.events() == [("ADD", camera(2)), ("UPDATE", camera(2)), ("DEL", camera(2))]
    added, updated, deleted = items(upper)
    assert (added.name, added.parent_ids, added.status) == ("camera 0002", (NVR,), "ON")
    assert updated.name == "renamed"
    assert deleted.name == ""


@pytest.mark.gb("G122")
async def test_after_a_restart_of_the_upper_its_old_dialog_is_dead(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(1)
    await county.join(upper, heartbeat_interval_s=0.2)
    await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    await upper.restart()
    await upper.wait(lambda: len([r for r in upper.registers if "Authorization" in r.headers]) >= 2)
    await upper.wait_registered()
    assert county.cascade.platforms()[0].subscriptions == 0
    upper.notifies.clear()
    unknown = upper.endpoint.counts
    report(county, 1, "OFF")
    await asyncio.sleep(0.8)
    assert upper.notifies == []
    assert upper.endpoint.counts["dialogs"] == unknown["dialogs"] == 0


async def test_a_notify_that_is_refused_ends_the_subscription(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(1)
    await county.join(upper)
    await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    upper.faults.notify_status = 481
    report(county, 1, "OFF")
    await upper.wait(lambda: county.cascade.platforms()[0].subscriptions == 0)
    assert county.core.endpoint.counts["dialogs"] == 0


async def test_an_upper_that_subscribes_again_replaces_its_old_subscription(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(1)
    await county.join(upper)
    for _ in range(3):
        await upper.subscribe_catalog(event="Catalog;id=7")
    await upper.wait(lambda: len(upper.notifies) == 3)
    assert county.cascade.platforms()[0].subscriptions == 1
    report(county, 1, "OFF")
    await upper.wait(lambda: upper.events())
    await asyncio.sleep(0.5)
    assert upper.events() == [("OFF", camera(1))]


async def test_after_a_crash_the_upper_is_told_to_subscribe_anew(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(1)
    await county.join(upper)
    subscription = await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    assert len(county.journal) == 1
    await county.core.endpoint.close(0)  # no word to anybody
    async with house(journal=MemoryJournal(county.journal)) as reborn:
        await upper.wait(lambda: not subscription.active)
        await upper.wait(lambda: not reborn.journal)
    assert upper.ended == ["deactivated"]


async def test_a_gateway_that_stops_says_so_in_a_last_notify(
    county: CascadeHouse, upper: UpperPlatform
) -> None:
    county.recorder(1)
    await county.join(upper)
    subscription = await upper.subscribe_catalog()
    await upper.wait(lambda: upper.notifies)
    await county.cascade.close()
    assert not subscription.active
    assert upper.ended == ["deactivated"]
    assert not county.journal
    assert SERVER not in upper.lowers
