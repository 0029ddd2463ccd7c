"""Catalogs collected from scripted devices that lose, repeat, miscount and talk unasked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from gateway_core import CAMERA, NVR, Core, RawDevice, ScriptedDevice, core, until

from config.settings import CatalogSettings
from gateway.errors import DeviceIsOffline, NotFound
from gateway.events import (
    CatalogCollected,
    CatalogFault,
    CatalogShrank,
    ChannelAdded,
    ChannelConflict,
    ChannelRemoved,
)
from gateway.model import ChannelKind
from gateway.services.channels import channel_of, fields_of, item_fields
from sip.endpoint import Incoming, Reply
from sip.manscdp import Body, CatalogItem, CatalogNotify, CatalogQuery, CatalogResponse, encode


def settings(**values: Any) -> CatalogSettings:
    values = {
        "query_on_register": False,
        "subscribe": False,
        "first_part_timeout_s": 5.0,
        "gap_timeout_s": 0.15,
        "retries": 1,
        **values,
    }
    return CatalogSettings.model_validate(values)


def item(number: int, **values: Any) -> CatalogItem:
    values.setdefault("status", "ON")
    return CatalogItem(device_id=f"410183000013200{number:05d}", name=f"Camera {number}", **values)


def response(sn: int, items: list[CatalogItem], sum_num: int) -> CatalogResponse:
    return CatalogResponse(sn=sn, device_id=NVR, sum_num=sum_num, items=items)


Parts = Callable[[CatalogQuery, int], list[CatalogResponse]]


class Recorder(ScriptedDevice):
    """Answers catalog queries with what ``parts(query, how many times asked)`` says, one MESSAGE per part."""

    def __init__(self, gateway: Core, parts: Parts, **options: Any) -> None:
        super().__init__(gateway.address, **options)
        self.parts = parts
        self.asked = 0
        self.statuses: list[int] = []
        self.script = self._answer

    def _answer(self, body: Body, incoming: Incoming) -> Reply | None:
        if isinstance(body, CatalogQuery):
            self.asked += 1
            self.endpoint.spawn(self._send_parts(self.parts(body, self.asked)))
        return None

    async def _send_parts(self, parts: list[CatalogResponse]) -> None:
        for part in parts:
            self.statuses.append((await self.send(part)).status)


def whole(items: list[CatalogItem], *, per_part: int = 1) -> Parts:
    def parts(query: CatalogQuery, asked: int) -> list[CatalogResponse]:
        return [
            response(query.sn, items[start : start + per_part], len(items))
            for start in range(0, len(items), per_part)
        ]

    return parts


CODES = [item(n).device_id for n in range(20)]


@pytest.mark.gb("G082")
async def test_the_query_carries_command_sn_and_device() -> None:
    async with core(catalog=settings()) as gateway, Recorder(gateway, whole([item(1)])) as device:
        await device.register()
        await gateway.catalog.refresh(NVR)
        raw = device.requests[-1].body
        assert b"<Query>" in raw
        assert b"<CmdType>Catalog</CmdType>" in raw
        assert f"<DeviceID>{NVR}</DeviceID>".encode() in raw
        assert device.of(CatalogQuery)[0].sn > 0
        assert b"StartTime" not in raw  # optional


@pytest.mark.gb("G083")
@pytest.mark.quirk(14)
async def test_parts_are_collected_until_sumnum_items_came() -> None:
    items = [item(n) for n in range(7)]
    async with core(catalog=settings()) as gateway, Recorder(gateway, whole(items, per_part=2)) as device:
        await device.register()
        outcome = await gateway.catalog.refresh(NVR)
        assert (outcome.complete, outcome.items, outcome.sum_num, outcome.parts) == (True, 7, 7, 4)
        assert device.statuses == [200] * 4  # each part its own 200
        assert set(gateway.registry.channels(NVR)) == set(CODES[:7])
        assert gateway.device().catalog_complete
        assert gateway.device().catalog_at == gateway.clock.utc()


@pytest.mark.quirk(14)
async def test_parts_may_come_in_any_order_and_all_at_once() -> None:
    items = [item(n) for n in range(12)]

    async with core(catalog=settings()) as gateway, ScriptedDevice(gateway.address) as device:
        await device.register()
        task = asyncio.create_task(gateway.catalog.refresh(NVR))
        await until(lambda: device.of(CatalogQuery))
        sn = device.of(CatalogQuery)[0].sn
        parts = [response(sn, [one], 12) for one in reversed(items)]
        await asyncio.gather(*(device.send(part) for part in parts))
        assert (await task).complete


@pytest.mark.gb("G084")
async def test_a_lost_part_makes_a_partial_result_and_a_repeated_query() -> None:
    everything = [item(n) for n in range(6)]

    def parts(query: CatalogQuery, asked: int) -> list[CatalogResponse]:
        all_parts = whole(everything, per_part=2)(query, asked)
        return all_parts if asked == 1 else [all_parts[0], all_parts[2]] if asked == 2 else all_parts

    async with core(catalog=settings()) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        assert (await gateway.catalog.refresh(NVR)).complete
        outcome = await gateway.catalog.refresh(NVR)
        assert device.asked == 3  # the second answer lacked a part, so it was asked again
        assert outcome.complete
        assert len(gateway.registry.channels(NVR)) == 6


@pytest.mark.gb("G084")
@pytest.mark.quirk(16)
async def test_partial_catalogs_never_delete() -> None:
    everything = [item(n) for n in range(6)]

    def parts(query: CatalogQuery, asked: int) -> list[CatalogResponse]:
        return whole(everything, per_part=2)(query, asked)[: 3 if asked == 1 else 1]

    async with core(catalog=settings(retries=0)) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        await gateway.catalog.refresh(NVR)
        for _ in range(3):
            outcome = await gateway.catalog.refresh(NVR)
            assert not outcome.complete
            assert outcome.reason == "2 of 6 items"
        assert len(gateway.registry.channels(NVR)) == 6
        assert not gateway.device().catalog_complete
        assert gateway.events(ChannelRemoved) == []


@pytest.mark.gb("G085")
async def test_repeated_parts_and_items_do_not_count_twice() -> None:
    def parts(query: CatalogQuery, asked: int) -> list[CatalogResponse]:
        first = response(query.sn, [item(1), item(1)], 3)
        return [first, first, response(query.sn, [item(2)], 3), response(query.sn, [item(3)], 3)]

    async with core(catalog=settings()) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        outcome = await gateway.catalog.refresh(NVR)
        assert (outcome.complete, outcome.items) == (True, 3)
        assert len(gateway.events(ChannelAdded)) == 3


@pytest.mark.gb("G086")
async def test_sumnum_0_is_an_empty_catalog() -> None:
    async with (
        core(catalog=settings()) as gateway,
        Recorder(gateway, lambda q, n: [response(q.sn, [], 0)]) as device,
    ):
        await device.register()
        outcome = await gateway.catalog.refresh(NVR)
        assert (outcome.complete, outcome.items, outcome.sum_num) == (True, 0, 0)


@pytest.mark.quirk(16)
async def test_only_two_complete_catalogs_in_a_row_delete() -> None:
    answers = [[0, 1, 2], [0, 1], [0, 1, 2], [0, 1], [0, 1]]

    def parts(query: CatalogQuery, asked: int) -> list[CatalogResponse]:
        return whole([item(n) for n in answers[asked - 1]])(query, asked)

    async with core(catalog=settings()) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        known = []
        for _ in answers:
            assert (await gateway.catalog.refresh(NVR)).complete
            known.append(len(gateway.registry.channels(NVR)))
        assert known == [3, 3, 3, 3, 2]
        assert gateway.events(ChannelRemoved) == [ChannelRemoved(NVR, CODES[2])]
        assert gateway.registry.tombstones(NVR)[CODES[2]].deleted_at is not None
        assert gateway.registry.find_channels(CODES[2]) == []


@pytest.mark.gb("G087")
@pytest.mark.quirk(16)
async def test_an_unsolicited_response_updates_this_item_only() -> None:
    """Minutes after the catalog the device sends a Response with SumNum 1 for one channel."""
    async with (
        core(catalog=settings()) as gateway,
        Recorder(gateway, whole([item(n) for n in range(5)])) as device,
    ):
        await device.register()
        await gateway.catalog.refresh(NVR)
        changed = CatalogItem(device_id=CODES[3], name="New name", status="OFF")
        assert (await device.send(response(99999, [changed], 1))).status == 200
        await until(lambda: gateway.registry.channels(NVR)[CODES[3]].name == "New name")
        assert len(gateway.registry.channels(NVR)) == 5
        assert gateway.registry.channels(NVR)[CODES[3]].reported == "OFF"
        assert gateway.registry.channels(NVR)[CODES[3]].missing_count == 0
        assert gateway.registry.channels(NVR)[CODES[2]].name == "Camera 2"
        assert gateway.dispatch.desk.counts["unasked"] == 1


@pytest.mark.quirk(15)
async def test_a_sumnum_that_counts_too_much_is_settled_by_silence() -> None:
    """It says 3 and sends 2, twice the same: no endless asking, nothing deleted."""
    parts: Parts = lambda query, asked: [response(query.sn, [item(1), item(2)], 3)]  # noqa: E731
    async with core(catalog=settings(retries=5)) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        outcome = await gateway.catalog.refresh(NVR)
        assert (outcome.complete, outcome.reason) == (False, "2 of 3 items")
        assert device.asked == 2
        assert len(gateway.registry.channels(NVR)) == 2


@pytest.mark.quirk(15)
async def test_a_sumnum_that_counts_too_little_loses_nothing() -> None:
    def parts(query: CatalogQuery, asked: int) -> list[CatalogResponse]:
        return [response(query.sn, [item(n)], 1) for n in range(4)]  # SumNum of this message, not of all

    async with core(catalog=settings()) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        for _ in range(3):
            outcome = await gateway.catalog.refresh(NVR)
        assert not outcome.complete
        assert outcome.reason == "4 items although SumNum is 1"
        assert len(gateway.registry.channels(NVR)) == 4


@pytest.mark.quirk(15)
async def test_sumnum_0_with_items_is_not_empty() -> None:
    parts: Parts = lambda query, asked: [response(query.sn, [item(1)], 0)]  # noqa: E731
    async with core(catalog=settings()) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        assert not (await gateway.catalog.refresh(NVR)).complete
        assert len(gateway.registry.channels(NVR)) == 1


@pytest.mark.quirk(15)
async def test_an_sn_that_is_not_echoed() -> None:
    parts: Parts = lambda query, asked: [response(0, [item(n)], 2) for n in range(2)]  # noqa: E731
    async with core(catalog=settings()) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        outcome = await gateway.catalog.refresh(NVR)
        assert not outcome.complete  # it may as well be something unasked: nothing is deleted for it
        assert outcome.items == 2
        assert len(gateway.registry.channels(NVR)) == 2
        assert device.asked == 1


@pytest.mark.quirk(15)
async def test_a_catalog_that_shrank_is_reported() -> None:
    sizes = [10, 5]
    parts: Parts = lambda query, asked: whole([item(n) for n in range(sizes[asked - 1])])(query, asked)  # noqa: E731
    async with core(catalog=settings()) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        await gateway.catalog.refresh(NVR)
        await gateway.catalog.refresh(NVR)
        assert gateway.events(CatalogShrank) == [CatalogShrank(NVR, 10, 5)]
        assert len(gateway.registry.channels(NVR)) == 10


@pytest.mark.quirk(17)
async def test_a_notify_before_the_query_is_finished_makes_no_second_channel() -> None:
    async with core(catalog=settings()) as gateway, ScriptedDevice(gateway.address) as device:
        await device.register()
        task = asyncio.create_task(gateway.catalog.refresh(NVR))
        await until(lambda: device.of(CatalogQuery))
        early = CatalogNotify(
            sn=1, device_id=NVR, sum_num=1, items=[CatalogItem(device_id=CODES[1], event="OFF")]
        )
        await device.send(early)
        await until(lambda: gateway.registry.channels(NVR))
        sn = device.of(CatalogQuery)[0].sn
        await device.send(response(sn, [item(1, status="OFF"), item(2)], 2))
        assert (await task).complete
        channels = gateway.registry.channels(NVR)
        assert list(channels) == CODES[1:3]
        assert channels[CODES[1]].name == "Camera 1"
        assert len(gateway.events(ChannelAdded)) == 2


@pytest.mark.quirk(21)
async def test_a_late_part_still_counts() -> None:
    """The second part comes when the query is closed: its items go in, and are not missing next time."""
    async with (
        core(catalog=settings(retries=0, gap_timeout_s=0.05)) as gateway,
        ScriptedDevice(gateway.address) as device,
    ):
        await device.register()
        task = asyncio.create_task(gateway.catalog.refresh(NVR))
        await until(lambda: device.of(CatalogQuery))
        sn = device.of(CatalogQuery)[0].sn
        await device.send(response(sn, [item(1)], 2))
        assert not (await task).complete
        assert (await device.send(response(sn, [item(2)], 2))).status == 200
        await until(lambda: len(gateway.registry.channels(NVR)) == 2)
        assert gateway.dispatch.desk.counts["late"] == 1


@pytest.mark.quirk(21)
async def test_the_first_part_may_take_its_time() -> None:
    """The gap timer (here 0.05 s) does not run before the first part."""
    async with (
        core(catalog=settings(gap_timeout_s=0.05)) as gateway,
        ScriptedDevice(gateway.address) as device,
    ):
        await device.register()
        task = asyncio.create_task(gateway.catalog.refresh(NVR))
        await until(lambda: device.of(CatalogQuery))
        await asyncio.sleep(0.4)
        await device.send(response(device.of(CatalogQuery)[0].sn, [item(1)], 1))
        assert (await task).complete
        assert len(device.of(CatalogQuery)) == 1


async def test_no_answer_at_all_keeps_what_is_known() -> None:
    async with (
        core(catalog=settings(first_part_timeout_s=0.05)) as gateway,
        ScriptedDevice(gateway.address) as device,
    ):
        await device.register()
        outcome = await gateway.catalog.refresh(NVR)
        assert (outcome.complete, outcome.parts, outcome.reason) == (False, 0, "no answer")
        assert len(device.of(CatalogQuery)) == 2


@pytest.mark.quirk(48)
async def test_404_is_not_an_empty_catalog() -> None:
    async with core(catalog=settings()) as gateway, Recorder(gateway, whole([item(1), item(2)])) as device:
        await device.register()
        await gateway.catalog.refresh(NVR)
        device.script = lambda body, incoming: Reply(404)
        for _ in range(3):
            outcome = await gateway.catalog.refresh(NVR)
            assert (outcome.complete, outcome.reason) == (False, "refused with 404")
        assert len(gateway.registry.channels(NVR)) == 2


async def test_callers_share_one_collection() -> None:
    async with core(catalog=settings()) as gateway, Recorder(gateway, whole([item(1)])) as device:
        await device.register()
        outcomes = await asyncio.gather(*(gateway.catalog.refresh(NVR) for _ in range(5)))
        assert device.asked == 1
        assert len({id(outcome) for outcome in outcomes}) == 1
        assert len(gateway.events(CatalogCollected)) == 1


async def test_a_device_that_goes_offline_ends_its_collection() -> None:
    async with core(catalog=settings()) as gateway, ScriptedDevice(gateway.address) as device:
        with pytest.raises(NotFound):
            await gateway.catalog.refresh(NVR)
        await device.register()
        task = asyncio.create_task(gateway.catalog.refresh(NVR))
        await until(lambda: device.of(CatalogQuery))
        await device.register(expires=0)
        with pytest.raises(DeviceIsOffline):
            await task
        with pytest.raises(DeviceIsOffline):
            await gateway.catalog.refresh(NVR)
        assert gateway.dispatch.desk.open_count == 0


async def test_the_catalog_is_asked_when_a_device_comes_online() -> None:
    async with (
        core(catalog=settings(query_on_register=True)) as gateway,
        Recorder(gateway, whole([item(1)])) as device,
    ):
        await device.register()
        await until(lambda: gateway.events(CatalogCollected))
        await device.register()  # a renewal asks nothing (G041)
        await asyncio.sleep(0.1)
        assert device.asked == 1


@pytest.mark.quirk(2)
async def test_an_item_without_a_code_is_reported_and_the_others_kept() -> None:
    parts: Parts = lambda query, asked: [response(query.sn, [CatalogItem(name="?"), item(1)], 2)]  # noqa: E731
    async with core(catalog=settings(retries=0)) as gateway, Recorder(gateway, parts) as device:
        await device.register()
        await gateway.catalog.refresh(NVR)
        assert list(gateway.registry.channels(NVR)) == [CODES[1]]
        assert gateway.events(CatalogFault)[0].detail == "no usable DeviceID"


@pytest.mark.gb("G093")
async def test_status_words_of_the_field() -> None:
    words = ["ON", "OFF", "ok", "Online", "on", "offline", "VLOST", "DEFECT", "strange"]

    def xml(sn: int) -> bytes:
        items = "".join(
            f"<Item><DeviceID>{CODES[n]}</DeviceID><Name>c</Name><Status>{word}</Status></Item>"
            for n, word in enumerate(words)
        )
        return (
            f"<Response><CmdType>Catalog</CmdType><SN>{sn}</SN><DeviceID>{NVR}</DeviceID><SumNum>{len(words)}</SumNum>"
            f'<DeviceList Num="{len(words)}">{items}</DeviceList></Response>'
        ).encode()

    async with core(catalog=settings()) as gateway, ScriptedDevice(gateway.address) as device:
        await device.register()
        await device.send_bytes(xml(1))
        await until(lambda: len(gateway.registry.channels(NVR)) == len(words))
        reported = [channel.reported for channel in gateway.registry.channels(NVR).values()]
        assert reported == ["ON", "OFF", "ON", "ON", "ON", "OFF", "VLOST", "DEFECT", "OFF"]


@pytest.mark.gb("G094")
async def test_audio_and_alarm_items_are_no_cameras() -> None:
    codes = {
        "41018300001320000001": ChannelKind.CAMERA,
        "41018300001310000001": ChannelKind.CAMERA,
        "41018300001340000001": ChannelKind.ALARM,
        "41018300001350000001": ChannelKind.ALARM,
        "41018300001360000001": ChannelKind.AUDIO_IN,
        "41018300001370000001": ChannelKind.AUDIO_OUT,
    }
    items = [CatalogItem(device_id=code, name="x", status="ON") for code in codes]
    async with core(catalog=settings()) as gateway, Recorder(gateway, whole(items)) as device:
        await device.register()
        await gateway.catalog.refresh(NVR)
        assert {key: channel.kind for key, channel in gateway.registry.channels(NVR).items()} == codes


@pytest.mark.quirk(18)
async def test_one_code_under_two_devices_stays_two_channels() -> None:
    other = "41018300001180000002"
    async with (
        core(catalog=settings()) as gateway,
        Recorder(gateway, whole([CatalogItem(device_id=CAMERA, name="of one", status="ON")])) as one,
        Recorder(
            gateway, whole([CatalogItem(device_id=CAMERA, name="of two", status="ON")]), device_id=other
        ) as two,
    ):
        two.parts = lambda query, asked: [
            CatalogResponse(
                sn=query.sn, device_id=other, sum_num=1, items=[CatalogItem(device_id=CAMERA, name="of two")]
            )
        ]
        await one.register()
        await two.register()
        await gateway.catalog.refresh(NVR)
        await gateway.catalog.refresh(other)
        assert [channel.name for channel in gateway.registry.find_channels(CAMERA)] == ["of one", "of two"]
        assert gateway.events(ChannelConflict) == [ChannelConflict(CAMERA, (NVR, other))]
        assert list(gateway.registry.channel_conflicts()) == [CAMERA]


@pytest.mark.quirk(21)
@pytest.mark.timeout(60)
async def test_ten_thousand_channels_are_read_and_applied_in_slices() -> None:
    """Between two slices everything else gets its turn: heartbeats are answered while the catalog comes in."""
    items = [item(n) for n in range(10_000)]
    parts = [encode(response(1, items[start : start + 500], 10_000)) for start in range(0, 10_000, 500)]
    async with (
        core(catalog=settings(gap_timeout_s=30.0)) as gateway,
        ScriptedDevice(gateway.address, transport="tcp") as device,
        RawDevice(gateway.address, "41018300001180000002") as other,
    ):
        await device.register()
        await other.register()
        task = asyncio.create_task(gateway.catalog.refresh(NVR))
        await until(lambda: device.of(CatalogQuery))
        sn = device.of(CatalogQuery)[0].sn
        between = []
        for part in parts:
            await device.send_bytes(part.replace(b"<SN>1</SN>", b"<SN>%d</SN>" % sn))
            assert (await other.keepalive()).status == 200
            between.append(len(gateway.registry.channels(NVR)))
        assert (await task).complete
        assert len(gateway.registry.channels(NVR)) == 10_000
        assert any(0 < count < 10_000 for count in between)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "gate", "civil_code": "410183", "parental": 0, "secrecy": 0, "point_type": 2},
        {"name": "gate"},
        {"name": "gate", "parent_ids": (NVR, "41018300002160000001"), "longitude": 113.1, "latitude": 34.1},
        {"civil_code": "4101830000", "grassroots_code": "1012010099", "resolution": ("6", "5")},
    ],
    ids=["zeros", "bare", "parents", "corrected"],
)
def test_an_entry_is_kept_once_and_comes_back_whole(fields: dict[str, Any]) -> None:
    """What the channel corrects (a civil code of ten digits) or adds (one made from the code) is not taken for sent."""
    item = CatalogItem(device_id="41018300001310000001", status="ON", **fields)
    channel = channel_of(NVR, item)
    assert fields_of(channel) == item_fields(item)
    assert CatalogItem.model_validate(fields_of(channel)) == item
    assert "name" not in channel.item


async def test_a_query_whose_items_are_all_there_holds_up_no_other() -> None:
    """It still waits for what may come on top of SumNum; the next device is asked meanwhile."""
    other = "41018300001180000002"
    async with (
        core(catalog=settings()) as gateway,
        Recorder(gateway, whole([item(1)])) as first,
        Recorder(gateway, whole([item(2)]), device_id=other) as second,
    ):
        gateway.catalog._linger_s = 60.0
        gateway.catalog._slots = asyncio.Semaphore(1)
        await first.register()
        await second.register()
        tasks = [asyncio.create_task(gateway.catalog.refresh(code)) for code in (NVR, other)]
        await until(lambda: first.asked and second.asked)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
