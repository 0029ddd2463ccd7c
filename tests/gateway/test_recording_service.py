"""Plans, orders and events become recorders at nodes, and stay it: time is moved, sessions and nodes are scripted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from recording_house import recording_of, until

from config.settings import StorageSettings
from gateway.clock import BEIJING, ManualClock
from gateway.events import DeviceOnline, EventBus
from gateway.model import Channel, ChannelKind, Device, State
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.recording_plan import Plan, PlanRange, Rule, RuleSettings, always
from gateway.storage.database import Database
from media.errors import MediaError
from media.specs import (
    DiskList,
    RecordingEnded,
    RecordingFault,
    RecordingSpec,
    SegmentClosed,
    SegmentInfo,
    SegmentOpened,
)

A, B = "41018300001320000001", "41018300001320000002"
SUNDAY_8 = datetime(2026, 11, 22, 8, 0, tzinfo=BEIJING)


class Client:
    def __init__(self) -> None:
        self.running: dict[str, RecordingSpec] = {}
        self.opened: list[RecordingSpec] = []
        self.triggers: list[tuple[str, float]] = []
        self.disks: list[DiskList] = []
        self.refuse: MediaError | None = None

    async def set_disks(self, disks: DiskList) -> None:
        self.disks.append(disks)

    async def open_recording(self, spec: RecordingSpec) -> None:
        assert self.disks, "a node must know the disks first"
        if self.refuse is not None:
            raise self.refuse
        self.running[spec.recording_id] = spec
        self.opened.append(spec)

    async def close_recording(self, recording_id: str) -> None:
        self.running.pop(recording_id, None)

    async def trigger_recording(self, recording_id: str, seconds: float) -> None:
        self.triggers.append((recording_id, seconds))

    async def recordings(self) -> list[str]:
        return list(self.running)


class Node:
    def __init__(self, node_id: str) -> None:
        self.node_id, self.alive, self.client, self.stats = node_id, True, Client(), None


class ScriptedNodes:
    """gateway.services.nodes.Nodes with one node that does what the test wants."""

    def __init__(self) -> None:
        self.node: Any = Node("node-0")
        self.on_recording: Any = None
        self.on_lost: list[Any] = []
        self.on_ready: list[Any] = []

    def handles(self) -> list[Any]:
        return [self.node] if self.node.alive else []


class Session:
    def __init__(self, key: tuple[str, str], node: Any, number: int) -> None:
        self.key, self.node, self.stream_id = key, node, f"stream-{number}"
        self.watchers: list[Any] = []


class ScriptedSessions:
    def __init__(self, nodes: ScriptedNodes) -> None:
        self.nodes = nodes
        self.plays: list[tuple[str, str, int]] = []
        self.fail: dict[str, PlayFailed] = {}
        self.sessions: list[Session] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.most = self.now = 0

    async def play(self, device_id: str, channel_id: str, *, stream_number: int = 0) -> Any:
        self.plays.append((device_id, channel_id, stream_number))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.hold.wait()
        finally:
            self.now -= 1
        if channel_id in self.fail:
            raise self.fail[channel_id]
        session = Session((device_id, channel_id), self.nodes.node, len(self.sessions))
        self.sessions.append(session)
        return session


class House:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(utc=SUNDAY_8.astimezone(UTC))
        self.bus = EventBus()
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.nodes = ScriptedNodes()
        self.sessions = ScriptedSessions(self.nodes)
        self.database = Database(StorageSettings(directory=folder / "data"))
        self.number = 0

    async def start(self, **settings: Any) -> None:
        await self.database.open()
        self.recording = recording_of(
            database=self.database, folder=self.folder, registry=self.registry, bus=self.bus, clock=self.clock,
            sessions=self.sessions, nodes=self.nodes,  # type: ignore[arg-type]
            reconcile_s=3600, disk_check_s=3600, retention_s=3600, **settings,
        )  # fmt: skip
        self.service = self.recording.service
        await self.recording.guard.look()
        await self.service.wishes.load()
        await self.service._gaps.start()
        self.nodes.on_recording = self.service._node_event

    def camera(self, channel_id: str, *, online: bool = True, civil_code: str = "41018301") -> None:
        device = Device(channel_id, state=State.ONLINE if online else State.OFFLINE)
        self.registry.put_device(device)
        self.registry.put_channel(
            Channel(channel_id, channel_id, kind=ChannelKind.CAMERA, civil_code=civil_code, reported="ON")
        )

    async def rule(self, plan: Plan | None, scope: Any = "default", key: str = "", **values: Any) -> None:
        await self.service.wishes.put_rule(Rule(scope, key, RuleSettings(plan=plan, **values)))

    async def pass_by(self, seconds: float = 0.0) -> None:
        """Time passes, and what is compared is compared until nothing moves."""
        self.clock.advance(seconds)
        for _ in range(3):
            await self.service.reconcile()
            tasks = [one.task for one in self.service.channels.values() if one.task is not None]
            if tasks and self.sessions.hold.is_set():
                await asyncio.wait(tasks, timeout=10)
            await asyncio.sleep(0)

    @property
    def running(self) -> dict[str, RecordingSpec]:
        """By channel."""
        return {spec.channel_id: spec for spec in self.client.running.values()}

    @property
    def client(self) -> Client:
        return self.nodes.node.client  # type: ignore[no-any-return]

    def file(self, spec: RecordingSpec, *, opened: bool) -> None:
        self.number += 1
        at = self.clock.utc().timestamp()
        info = SegmentInfo(
            segment_id=f"s{self.number}", recording_id=spec.recording_id, device_id=spec.device_id,
            channel_id=spec.channel_id, disk_id="main", path=f"p{self.number}", start=at - (0 if opened else 60),
            end=at, complete=not opened,
        )  # fmt: skip
        event = SegmentOpened if opened else SegmentClosed
        self.nodes.on_recording(self.nodes.node, event(stream_id=spec.stream_id, segment=info))

    async def gaps(self, channel_id: str) -> list[tuple[str, float | None]]:
        found = await self.recording.store.gaps_between(channel_id, channel_id, 0, 1e11)
        return [(gap.cause, gap.end and gap.end - gap.start) for gap in found]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    tasks = [one.task for one in house.service.channels.values() if one.task is not None]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await house.database.close()


async def test_a_plan_starts_and_stops_by_the_clock(house: House) -> None:
    await house.start()
    house.camera(A)
    await house.rule(Plan(ranges=(PlanRange(day=6, start_minute=8 * 60 + 30, end_minute=9 * 60),)))
    await house.pass_by()
    assert house.running == {}
    await house.pass_by(30 * 60)
    assert house.running[A].kind == "continuous"
    assert not house.running[A].standby
    watchers = house.sessions.sessions[0].watchers
    assert len(watchers) == 1, "the session is held, so that it is not ended as idle"
    await house.pass_by(29 * 60)
    assert A in house.running
    await house.pass_by(60)
    assert house.running == {}
    assert house.sessions.sessions[0].watchers == []
    assert await house.gaps(A) == []


async def test_kinds_classes_and_streams_come_from_the_rules(house: House) -> None:
    await house.start()
    house.camera(A)
    house.camera(B, civil_code="41010500")
    await house.rule(always("event"))
    await house.rule(always(), "area", "410183", storage_class="key", stream=1)
    await house.pass_by()
    one, two = house.running[A], house.running[B]
    assert (one.kind, one.storage_class, one.standby, one.pre_event_s) == ("continuous", "key", False, 10.0)
    assert (two.kind, two.storage_class, two.standby) == ("event", "standard", True)
    assert sorted(house.sessions.plays) == [(A, A, 1), (B, B, 0)]
    # another class: a new recorder on the same stream; another stream: a new session
    await house.rule(always(), "area", "410183", storage_class="picture", stream=1)
    await house.pass_by()
    assert house.running[A].storage_class == "picture"
    assert len(house.sessions.plays) == 2
    await house.rule(always(), "area", "410183", storage_class="picture", stream=0)
    await house.pass_by()
    assert house.sessions.plays[2:] == [(A, A, 0)]
    assert len(house.running) == 2


async def test_a_camera_that_fails_is_tried_again_with_longer_waits(house: House) -> None:
    await house.start(retry_first_s=5, retry_last_s=30)
    house.camera(A)
    house.sessions.fail[A] = PlayFailed(PlayCause.BUSY, "busy")
    await house.rule(always())
    times = []
    for _ in range(200):
        before = len(house.sessions.plays)
        await house.pass_by(1)
        if len(house.sessions.plays) > before:
            times.append(house.clock.mono())
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 4 <= waits[0] <= 7
    assert waits[0] < waits[1] < waits[2]
    assert max(waits) <= 37
    assert await house.gaps(A) == [("busy", None)]
    assert house.service.missing() == {"busy": 1}
    del house.sessions.fail[A]
    await house.pass_by(40)
    house.file(house.running[A], opened=True)
    await house.pass_by()
    ((cause, length),) = await house.gaps(A)
    assert cause == "busy"
    assert length is not None
    assert length > 200


async def test_an_offline_camera_is_not_asked_and_begins_when_it_comes(house: House) -> None:
    await house.start()
    house.camera(A, online=False)
    await house.rule(always())
    await house.pass_by(100)
    assert house.sessions.plays == []
    assert await house.gaps(A) == [("offline", None)]
    house.registry.mark_online(house.registry.devices[A])
    house.service._device_online(DeviceOnline(A))
    await house.pass_by()
    assert A in house.running


async def test_a_lost_stream_is_taken_up_again(house: House) -> None:
    await house.start()
    house.camera(A)
    await house.rule(always())
    await house.pass_by()
    first = house.running[A]
    house.file(first, opened=True)
    await house.pass_by(60)
    session = house.sessions.sessions[0]
    house.client.running.clear()
    session.watchers[0].session_ended(session, "no_rtp")
    await house.pass_by(0.1)
    assert house.running == {}
    assert await house.gaps(A) == [("no_rtp", None)]
    await house.pass_by(3)
    assert house.running[A].recording_id != first.recording_id
    assert house.running[A].stream_id != first.stream_id
    house.file(house.running[A], opened=True)
    await house.pass_by()
    ((cause, length),) = await house.gaps(A)
    assert cause == "no_rtp"
    assert length == pytest.approx(3, abs=0.5)


async def test_a_recorder_that_ends_unheard_is_found_by_comparing(house: House) -> None:
    """Lost events must not stop a plan for ever: neither one of ours nor a stranger's goes on unnoticed."""
    await house.start()
    house.camera(A)
    await house.rule(always())
    await house.pass_by()
    house.client.running.clear()
    house.client.running["stranger"] = house.client.opened[0]
    await house.pass_by(20)
    await house.pass_by(20)
    await house.pass_by(5)
    assert "stranger" not in house.client.running
    assert A in house.running
    # and one that says so is taken up at once
    spec = house.running[A]
    house.client.running.clear()
    house.nodes.on_recording(
        house.nodes.node,
        RecordingEnded(stream_id=spec.stream_id, recording_id=spec.recording_id, cause="closed"),
    )
    await house.pass_by(2)
    assert house.running[A].recording_id != spec.recording_id


async def test_a_picture_that_moved_to_another_node_is_recorded_there(house: House) -> None:
    await house.start()
    house.camera(A)
    await house.rule(always())
    await house.pass_by()
    old = house.sessions.sessions[0]
    house.nodes.node.alive = False
    house.nodes.node = Node("node-1")
    successor = Session((A, A), house.nodes.node, 99)
    old.watchers[0].session_moved(old, successor)
    await house.pass_by()
    assert house.running[A].stream_id == "stream-99"
    assert len(house.sessions.plays) == 1


async def test_starts_are_bounded(house: House) -> None:
    await house.start(starts_at_once=3)
    for number in range(10):
        house.camera(f"410183000013200001{number:02d}")
    house.sessions.hold.clear()
    await house.rule(always())
    await house.pass_by()
    await house.pass_by()
    assert house.sessions.now == 3
    house.sessions.hold.set()
    for _ in range(6):
        await house.pass_by()
    assert len(house.running) == 10
    assert house.sessions.most == 3


async def test_no_disk_is_a_gap_with_that_cause(house: House) -> None:
    await house.start()
    house.camera(A)
    await house.rule(always())
    await house.pass_by()
    spec = house.running[A]
    house.nodes.on_recording(
        house.nodes.node,
        RecordingFault(stream_id=spec.stream_id, recording_id=spec.recording_id, kind="no_disk"),
    )
    await house.pass_by(30)
    assert await house.gaps(A) == [("no_disk", None)]
    house.file(spec, opened=True)
    await house.pass_by()
    ((cause, length),) = await house.gaps(A)
    assert (cause, length) == ("no_disk", pytest.approx(0, abs=31))
    assert length is not None


async def test_an_order_outlives_a_restart_and_ends_in_time(house: House) -> None:
    await house.start()
    house.camera(A)
    await house.service.order((A, A), 3600)
    await house.pass_by()
    assert house.running[A].kind == "manual"
    # another life
    again = recording_of(
        database=house.database, folder=house.folder, registry=house.registry, bus=house.bus, clock=house.clock,
        sessions=house.sessions, nodes=house.nodes,  # type: ignore[arg-type]
        reconcile_s=3600,
    )  # fmt: skip
    await again.wishes.load()
    await again.wishes.refresh()
    assert again.wishes.desired[A, A].kind == "manual"
    await house.pass_by(3601)
    assert house.running == {}
    assert not await house.service.withdraw((A, A))
    await house.service.order((A, A), 3600)
    await house.pass_by()
    assert await house.service.withdraw((A, A))
    await house.pass_by()
    assert house.running == {}


async def test_an_event_triggers_the_standby_and_lasts_as_long_as_asked(house: House) -> None:
    await house.start(pre_event_s=15)
    house.camera(A)
    await house.rule(always("event"))
    await house.pass_by()
    assert house.running[A].pre_event_s == 15
    mark = await house.service.event((A, A), seconds_before=15, seconds_after=20, label="door", who="me")
    await house.pass_by()
    ((recording_id, seconds),) = house.client.triggers
    assert recording_id == house.running[A].recording_id
    assert seconds == pytest.approx(20)
    await house.pass_by(10)
    assert len(house.client.triggers) == 1
    await house.service.event((A, A), seconds_before=0, seconds_after=60, label="", who="me")
    await house.pass_by()
    assert house.client.triggers[1][1] == pytest.approx(60)
    marks = await house.recording.store.marks_between(A, A, mark.start, mark.end)
    assert next((one.label, one.end - one.start) for one in marks) == ("door", pytest.approx(35))


async def test_an_event_on_a_channel_without_a_plan_is_recorded_while_it_lasts(house: House) -> None:
    await house.start()
    house.camera(A)
    await house.service.event((A, A), seconds_before=5, seconds_after=20, label="", who="me")
    await house.pass_by()
    assert house.running[A].kind == "event"
    await house.pass_by()
    assert len(house.client.triggers) == 1
    await house.pass_by(21)
    assert house.running == {}
    assert house.service.channels == {}


async def test_the_timeline_names_its_gaps(house: House) -> None:
    await house.start()
    house.camera(A)
    # 08:00 to 09:00 planned; offline 08:10 to 08:20, down 08:30 to 08:35, and nobody knows 08:40 to 08:45
    await house.rule(Plan(ranges=(PlanRange(day=6, start_minute=480, end_minute=540),)))
    start = SUNDAY_8.timestamp()

    def at(minute: float) -> float:
        return start + minute * 60

    store = house.recording.store
    for number, (begin, end) in enumerate([(0, 10), (20, 30), (35, 40), (45, 60)]):
        await store.put_segments(
            [
                SegmentInfo(
                    segment_id=f"s{number}", recording_id="r", device_id=A, channel_id=A, disk_id="main",
                    path="p", start=at(begin), end=at(end), complete=True, bytes=1000,
                )
            ]
        )  # fmt: skip
    await store.close_gap(await store.open_gap(A, A, at(10), "offline"), at(20))
    await store.close_gap(await store.open_gap("", "", at(28), "gateway_down"), at(35))
    house.clock.advance(2 * 3600)
    found = await house.recording.timeline.timeline(A, A, at(-30), at(180))
    assert [(round((gap.start - start) / 60), round((gap.end - start) / 60), gap.cause) for gap in found.gaps] == [
        (-30, 0, "no_plan"), (10, 20, "offline"), (30, 35, "gateway_down"), (40, 45, "unknown"), (60, 120, "no_plan"),
    ]  # fmt: skip
    assert [(round((r.start - start) / 60), round((r.end - start) / 60)) for r in found.ranges] == [
        (0, 10), (20, 30), (35, 40), (45, 60),
    ]  # fmt: skip
    month = await house.recording.timeline.month(A, A, 2026, 11)
    assert list(month) == ["2026-11-22"]
    assert month["2026-11-22"][8] == 40 * 60
    assert sum(month["2026-11-22"]) == 40 * 60
    await house.recording.coverage.renew()
    assert house.recording.coverage.ratio["standard"] == pytest.approx(40 / 60, abs=0.01)


async def test_a_long_catalog_is_looked_at_in_slices(house: House) -> None:
    await house.start()
    for number in range(3000):
        device = f"41018300001320{number:06d}"
        house.registry.put_device(Device(device, state=State.OFFLINE))
        house.registry.put_channel(Channel(device, device, kind=ChannelKind.CAMERA))
    await house.rule(always("event"))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    await house.service.wishes.refresh()
    counter.cancel()
    assert turns >= 3000 // 500
    assert len(house.service.wishes.desired) == 3000
    assert await until(lambda: True)
