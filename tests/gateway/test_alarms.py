"""Alarms taken in: words of both editions, the same again, floods, clocks, what the database holds, pictures, resets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gateway_core import CAMERA, NVR, Core, ScriptedDevice, core, until

from config.settings import AlarmSettings, StorageSettings
from gateway.clock import ManualClock
from gateway.events import AlarmRaised, EventBus
from gateway.model import Channel, ChannelKind, Device, State
from gateway.registry import Registry
from gateway.services.alarms import MOST_ANSWERS_PER_DEVICE, AlarmService
from gateway.services.alarms_archive import AlarmArchive
from gateway.services.alarms_events import AlarmFlood, AlarmRepeated, ClockFault
from gateway.services.alarms_pictures import MOST_WAITING, AlarmPictures
from gateway.services.alarms_reset import AlarmReset
from gateway.services.alarms_words import EVENTS, METHODS, PRIORITIES, TYPES, V22, describe
from gateway.services.errors import ControlFailed, PlayCause, PlayFailed
from gateway.storage.alarms import AlarmFilter, AlarmStore
from gateway.storage.database import Database
from sip.endpoint import Incoming, Reply
from sip.manscdp import AlarmNotify, AlarmResponse, Body, DeviceControl, DeviceControlResponse

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
ROWS = {2: range(1, 6), 5: range(1, 14), 6: range(1, 3)}
"""AlarmMethod and its AlarmTypes as the standard lists them."""


def notify(**values: Any) -> AlarmNotify:
    given = {
        "sn": 1,
        "device_id": CAMERA,
        "alarm_priority": 1,
        "alarm_method": 5,
        "alarm_type": 2,
        "alarm_time": NOW,
    }
    return AlarmNotify(**{**given, **values})


class Desk:
    """One service with its database."""

    def __init__(self, folder: Path, settings: AlarmSettings) -> None:
        self.clock = ManualClock()
        self.bus = EventBus()
        self.seen: list[Any] = []
        self.bus.subscribe(AlarmRaised, AlarmRepeated, AlarmFlood, ClockFault, callback=self.seen.append)
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.registry.put_device(Device(NVR, state=State.ONLINE))
        self.registry.put_channel(Channel(NVR, CAMERA, kind=ChannelKind.CAMERA, reported="ON"))
        self.database = Database(StorageSettings(directory=folder))
        self.store = AlarmStore(self.database)
        self.archive = AlarmArchive(
            store=self.store, settings=settings, directory=folder / "alarms", clock=self.clock
        )
        self.service = AlarmService(
            settings=settings, registry=self.registry, bus=self.bus, archive=self.archive, clock=self.clock
        )

    async def told(self, kind: type[Any]) -> list[Any]:
        await asyncio.sleep(0)
        return [event for event in self.seen if isinstance(event, kind)]

    def take(self, **values: Any) -> Any:
        return self.service.take(NVR, notify(**values), "<Notify/>", "message")

    async def rows(self) -> list[Any]:
        return (await self.archive.find(AlarmFilter(), limit=1000, offset=0))[1]


@asynccontextmanager
async def desk(folder: Path, **values: Any) -> AsyncIterator[Desk]:
    made = Desk(folder, AlarmSettings(**values))
    await made.database.open()
    try:
        yield made
    finally:
        await made.service.close()
        await made.database.close()


@pytest.mark.gb("G143")
def test_every_row_of_the_standard_has_words_in_both_languages() -> None:
    assert list(METHODS) == list(range(1, 8))
    assert list(PRIORITIES) == [1, 2, 3, 4]
    assert {method: [kind for m, kind in TYPES if m == method] for method in ROWS} == {
        method: list(kinds) for method, kinds in ROWS.items()
    }
    assert sorted({method for method, _ in TYPES}) == sorted(ROWS)
    assert [key for key, words in TYPES.items() if words.edition is V22] == [(5, 13)]
    every = [*METHODS.values(), *PRIORITIES.values(), *TYPES.values(), *EVENTS.values()]
    assert all(words.zh and words.en and words.en.isascii() and not words.zh.isascii() for words in every)
    assert len({words.zh for words in every}) == len(every)


@pytest.mark.gb("G143")
@pytest.mark.parametrize(
    ("numbers", "zh", "en"),
    [
        ((1, 1), "电话报警", "telephone alarm"),
        ((1, 2), "默认为报警设备报警", "alarm device (no type given)"),
        ((1, 2, 1), "视频丢失报警", "video loss"),
        ((1, 5, 1), "人工视频报警", "manual video alarm"),
        ((1, 6, 1), "存储设备磁盘故障报警", "storage disk fault"),
        ((1, 5, 6, 2), "入侵检测报警，离开区域", "intrusion detected, leaves the area"),
        ((1, 5, 13), "图像遮挡报警", "picture blocked"),
        ((1, 4, 99), "报警类型99（标准未定义）", "alarm type 99 (not in the standard)"),
        ((1, 9), "报警方式9（标准未定义）", "alarm method 9 (not in the standard)"),
    ],
)
def test_one_type_number_means_another_thing_by_method(numbers: tuple[int, ...], zh: str, en: str) -> None:
    text = describe(*numbers)
    assert (text.zh, text.en) == (zh, en)
    assert text.priority.en == "priority 1 (highest)"


async def test_an_alarm_is_kept_with_its_xml_and_survives_a_restart(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        alarm = one.take(description="门", event_type=None, longitude=113.8, extra_info=("door 3",))
        raised = (await one.told(AlarmRaised))[0]
        assert (raised.alarm_id, raised.text_en) == (alarm.alarm_id, "motion detected")
        assert alarm.camera_id == CAMERA
    async with desk(tmp_path) as two:
        kept = await two.archive.get(alarm.alarm_id)
        assert kept == alarm
        assert kept.received_at == NOW
        assert (kept.raw, kept.description, kept.extra) == ("<Notify/>", "门", ["door 3"])


async def test_the_same_alarm_again_raises_a_count(tmp_path: Path) -> None:
    async with desk(tmp_path, merge_s=5.0) as one:
        first = one.take()
        assert one.take() is None, "repeated or sent both ways: the same AlarmTime"
        one.clock.advance(4)
        assert one.take(alarm_time=NOW + timedelta(seconds=4)) is None, "goes on"
        assert one.take(alarm_time=NOW + timedelta(seconds=4), alarm_type=3) is not None, "another one"
        one.service.report()
        assert [event.repeats for event in await one.told(AlarmRepeated)] == [2]
        one.clock.advance(6)
        assert one.take(alarm_time=NOW + timedelta(seconds=10)) is not None, "a new one after a pause"
        assert {
            row.alarm_type: row.repeats for row in await one.rows() if row.alarm_id == first.alarm_id
        } == {2: 2}
        assert len(await one.told(AlarmRaised)) == 3


async def test_an_acknowledged_alarm_does_not_swallow_the_next(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        first = one.take()
        one.take()
        done = await one.service.acknowledge(first, who="eve", note="seen", reset="")
        assert (done.acknowledged_by, done.note, done.repeats) == ("eve", "seen", 1)
        assert one.take() is not None
        total, waiting = await one.archive.find(AlarmFilter(acknowledged=False), limit=10, offset=0)
        assert (total, waiting[0].alarm_id != first.alarm_id) == (1, True)


@pytest.mark.gb("G149")
async def test_a_thousand_alarms_in_a_second_are_limited_for_that_device_only_and_counted(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path, per_device_per_s=10, per_device_burst=20) as one:
        for number in range(1000):
            one.take(device_id=f"4101830000134{number:07d}")
            one.clock.advance(0.001)
        other = one.service.take("41018300001180000002", notify(), "", "notify")
        assert other is not None, "another device is not limited"
        one.service.report()
        rows = [row for row in await one.rows() if row.device_id == NVR]
        assert 20 <= len(rows) <= 31
        assert len(rows) + sum(row.suppressed for row in rows) == 1000
        assert one.service.counts["suppressed"] == 1000 - len(rows)
        assert sum(event.suppressed for event in await one.told(AlarmFlood)) == 1000 - len(rows)


@pytest.mark.gb("G150")
async def test_a_clock_fault_is_told_once_and_again_when_it_is_over(tmp_path: Path) -> None:
    async with desk(tmp_path, clock_fault_s=60) as one:
        wrong = one.take(alarm_time=datetime(1970, 1, 1, tzinfo=UTC))
        one.take(alarm_time=datetime(1970, 1, 1, tzinfo=UTC), alarm_type=3)
        one.take(alarm_type=4)
        assert [(event.fault, event.source) for event in await one.told(ClockFault)] == [
            (True, "alarm"),
            (False, "alarm"),
        ]
        assert wrong.clock_fault
        assert one.registry.devices[NVR].clock_offset_s == 0.0


async def test_alarms_are_forgotten_by_age_and_number_with_their_pictures(tmp_path: Path) -> None:
    async with desk(tmp_path, keep_days=30, keep_most=1000) as one:
        old = one.take()
        await one.archive.keep_picture(old.alarm_id, b"\xff\xd8\xff")
        assert await one.archive.picture(old.alarm_id) == b"\xff\xd8\xff"
        one.clock.advance(31 * 86400)
        new = one.take(alarm_type=9, alarm_time=one.clock.utc())
        await one.archive.flush()
        assert await one.archive.forget() == 1
        assert [row.alarm_id for row in await one.rows()] == [new.alarm_id]
        assert await one.archive.picture(old.alarm_id) is None
        assert await one.store.remove_beyond(0) == [new.alarm_id]


async def test_filters_of_the_list(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        for priority, method in ((1, 5), (3, 2), (4, 6)):
            one.take(alarm_priority=priority, alarm_method=method, alarm_type=1)
            one.clock.advance(10)

        async def found(**values: Any) -> list[Any]:
            return [
                (a.priority, a.method)
                for a in (await one.archive.find(AlarmFilter(**values), limit=9, offset=0))[1]
            ]

        assert await found() == [(4, 6), (3, 2), (1, 5)]
        assert await found(method=2) == [(3, 2)]
        assert await found(priority_at_most=3) == [(3, 2), (1, 5)]
        assert await found(start=NOW + timedelta(seconds=5), end=NOW + timedelta(seconds=15)) == [(3, 2)]
        assert await found(device_id="x") == []


class Pictures:
    """Takes pictures when told; ``find`` knows the live ones."""

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.events: list[tuple[tuple[str, str], str]] = []

    def find(self, device_id: str, channel_id: str, stream_number: int = 0) -> object | None:
        return self if channel_id in self.live else None

    async def snapshot(self, device_id: str, channel_id: str) -> bytes:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return b"jpeg"

    async def event(self, key: tuple[str, str], **values: Any) -> object:
        self.events.append((key, values["label"]))
        return None


async def test_pictures_and_recording_at_alarm_time_are_bounded(tmp_path: Path) -> None:
    async with desk(tmp_path, snapshot="live", snapshots_at_once=1, record=True, merge_s=0) as one:
        pictures = Pictures()
        maker = AlarmPictures(
            settings=AlarmSettings(snapshot="live", snapshots_at_once=1, record=True),
            archive=one.archive, pictures=pictures, recorder=pictures, bus=one.bus,
        )  # fmt: skip
        one.service.listeners.append(maker.alarm)
        await maker.start()
        try:
            one.take()
            await until(lambda: maker.counts["recorded"] == 1)
            assert pictures.events[0][0] == (NVR, CAMERA)
            assert "motion detected" in pictures.events[0][1]
            assert maker.counts["taken"] == 0, "nobody watches, so no stream is opened for it"
            pictures.live.add(CAMERA)
            pictured = one.take(alarm_type=3)
            await until(lambda: maker.counts["taken"] == 1)
            assert (await one.archive.get(pictured.alarm_id)).snapshot
            assert len(pictures.events) == 1, "one mark for alarms close together"
            pictures.failure = PlayFailed(PlayCause.BUSY, "full")
            one.take(alarm_type=4)
            await until(lambda: maker.counts["failed"] == 1)
            pictures.gate.clear()
            for _ in range(MOST_WAITING + 10):
                maker.alarm(pictured, notify())
            assert maker.counts["left_out"] >= 9
            pictures.gate.set()
            pictures.failure = None
            await until(lambda: maker.counts["taken"] == 1 + MOST_WAITING + 10 - maker.counts["left_out"])
        finally:
            await maker.close()


@asynccontextmanager
async def signalled(folder: Path) -> AsyncIterator[tuple[Core, AlarmService]]:
    """The service behind a real endpoint."""
    database = Database(StorageSettings(directory=folder))
    await database.open()
    async with core() as gateway:
        settings = AlarmSettings()
        archive = AlarmArchive(
            store=AlarmStore(database), settings=settings, directory=folder / "alarms", clock=gateway.clock
        )
        service = AlarmService(
            settings=settings,
            registry=gateway.registry,
            bus=gateway.bus,
            archive=archive,
            clock=gateway.clock,
        )
        service.connect(gateway.dispatch)
        await service.start()
        try:
            yield gateway, service
        finally:
            await service.close()
            await database.close()


@pytest.mark.gb("G141")
async def test_each_alarm_by_message_is_answered_with_its_own_sn(tmp_path: Path) -> None:
    async with signalled(tmp_path) as (gateway, service), ScriptedDevice(gateway.address) as device:
        await device.register()
        for sn in (7, 7, 9):
            assert (await device.send(notify(sn=sn, alarm_time=gateway.clock.utc()))).status == 200
        await until(lambda: len(device.of(AlarmResponse)) == 3)
        assert sorted(answer.sn for answer in device.of(AlarmResponse)) == [7, 7, 9], (
            "a repeated one is answered too"
        )
        assert {answer.device_id for answer in device.of(AlarmResponse)} == {CAMERA}
        assert service.counts["raised"] == 1


async def test_a_device_that_takes_no_answers_does_not_pile_them_up(tmp_path: Path) -> None:
    def silent(body: Body, incoming: Incoming) -> Any:
        return asyncio.sleep(3600)

    async with (
        signalled(tmp_path) as (gateway, service),
        ScriptedDevice(gateway.address, script=silent) as device,
    ):
        await device.register()
        for sn in range(MOST_ANSWERS_PER_DEVICE + 5):
            assert (await device.send(notify(sn=sn, alarm_type=sn % 13))).status == 200
        await until(lambda: service.counts["unanswered"] == 5)


@pytest.mark.gb("G144", "G158")
@pytest.mark.parametrize(
    ("result", "cause"), [("OK", ""), ("ERROR", "rejected"), ("403", "rejected"), ("silence", "no_answer")]
)
async def test_a_reset_waits_for_the_devices_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str, cause: str
) -> None:
    monkeypatch.setattr("gateway.services.alarms_reset.RESET_TIMEOUT_S", 0.3)
    async with core() as gateway, ScriptedDevice(gateway.address) as device:

        async def answer(body: DeviceControl) -> None:
            await device.send(DeviceControlResponse(sn=body.sn, device_id=body.device_id, result=result))

        def script(body: Body, incoming: Incoming) -> Reply | None:
            if isinstance(body, DeviceControl) and result in ("OK", "ERROR"):
                tasks.append(asyncio.create_task(answer(body)))
            return Reply(403) if result == "403" else None

        tasks: list[asyncio.Task[None]] = []
        device.script = script
        await device.register()
        notes: list[tuple[str, ...]] = []
        reset = AlarmReset(
            registry=gateway.registry, asker=gateway.dispatch, audit=lambda *entry: notes.append(entry)
        )
        if cause:
            with pytest.raises(ControlFailed) as failure:
                await reset.reset(NVR, CAMERA, methods=[1, 2], types=[3], who="eve")
            assert failure.value.cause == cause
        else:
            await reset.reset(NVR, CAMERA, methods=[1, 2], types=[3], who="eve")
        sent = device.of(DeviceControl)[0]
        assert (sent.alarm_cmd, sent.alarm_method, sent.alarm_type) == ("ResetAlarm", ("1", "2"), ("3",))
        assert notes == [("eve", "alarm.reset", f"{NVR}/{CAMERA}", cause or "ok", "methods 1/2 types 3")]
        await asyncio.gather(*tasks)
