"""The service of inputs on fakes: codes, storage, checks and what follows from them, the API. Cameras are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_house import House, house
from input_fakes import MemoryInputs, ToldChecker, fake_inputs
from rtsp_camera import RtspCamera
from sqlalchemy import update

from config.settings import InputCamera, StorageSettings
from gateway.clock import ManualClock
from gateway.errors import NotFound
from gateway.events import ChannelStatus, Event, EventBus
from gateway.model import Channel, Device, State
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.errors import PlayFailed
from gateway.services.inputs import InputConflict
from gateway.services.inputs_probe import Verdict, check
from gateway.services.inputs_provisioning import enter_inputs
from gateway.services.inputs_record import Input, OnvifAccess, free_code, from_row, split_credentials, to_row
from gateway.storage.database import Database
from gateway.storage.inputs import InputStore
from gateway.storage.schema import inputs as inputs_table
from simulator.picture import TestPicture

SERVER = "41018300002000000001"
DOWN = Verdict(False, "dial_failed", "nothing there")


def rtsp(name: str = "Gate", url: str = "rtsp://10.1.0.9/1", **more: Any) -> Input:
    return Input("", "", "rtsp", name, url, **more)


@pytest.fixture
def registry() -> Registry:
    return Registry(bus=EventBus(), clock=ManualClock())


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.02)
    return value


# -- records and codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("rtsp://10.1.0.9:554/a?b=c@d", ("rtsp://10.1.0.9:554/a?b=c@d", "", "")),
        ("rtsp://admin:p%40ss%3A1@10.1.0.9/a", ("rtsp://10.1.0.9/a", "admin", "p@ss:1")),
        ("rtsp://admin@10.1.0.9/a", ("rtsp://10.1.0.9/a", "admin", "")),
        ("rtsps://u:p@[2001:db8::1]:322/a", ("rtsps://[2001:db8::1]:322/a", "u", "p")),
    ],
)
def test_credentials_leave_the_url(url: str, wanted: tuple[str, str, str]) -> None:
    assert split_credentials(url) == wanted


def test_a_row_gives_the_record_back_and_survives_other_versions() -> None:
    record = rtsp(password="p", longitude=113.4, onvif=OnvifAccess("10.1.0.9", 80, "big", True))
    record.channel_id, record.device_id = "41018300001320900001", "41018300001180900001"
    row = to_row(record)
    assert from_row(row) == record
    row["settings"]["later"] = 1
    row["settings"]["onvif"]["later"] = 1
    assert from_row(row) == record
    assert "password='p'" not in repr(record)


def test_codes_collide_with_nothing_that_is_or_was(registry: Registry) -> None:
    registry.put_device(Device("41018300001180000001"))
    registry.put_channel(Channel("41018300001180000001", "41018300001320900001"))
    registry.put_channel(Channel("41018300001180000001", "41018300001320900002"))
    registry.remove_channel("41018300001180000001", "41018300001320900002")
    assert free_code(registry, SERVER, 132) == "41018300001320900003"
    assert free_code(registry, SERVER, 118) == "41018300001180900001"
    registry.put_channel(Channel("41018300001180000001", "41018300001320999998"))
    assert free_code(registry, SERVER, 132) == "41018300001320000001"


async def test_records_are_stored_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    database = Database(StorageSettings(directory=tmp_path))
    await database.open()
    try:
        store = InputStore(database)
        record = rtsp(password="Geheim", civil_code="41018302")
        record.channel_id, record.device_id = "41018300001320900001", "41018300001180900001"
        await store.put(record)
        record.name = "Other"
        await store.put(record)
        assert await store.load() == [record]
        async with database.begin() as connection:
            await connection.execute(update(inputs_table).values(settings=[1]))
        assert await store.load() == []
        await store.remove(record.channel_id)
    finally:
        await database.close()


# -- the service ---------------------------------------------------------------------------------------------


async def test_an_input_is_a_channel_of_a_device_of_ours(registry: Registry) -> None:
    inputs = fake_inputs(registry, SERVER, clock=registry.clock)
    record = await inputs.add(rtsp(civil_code="41018302", longitude=113.4, latitude=34.5, point_class=2))
    device = registry.devices[record.device_id]
    assert (device.local, device.online, device.device_id[10:13]) == (True, True, "118")
    channel = registry.channel(*record.key)
    assert channel is not None
    assert (channel.name, channel.civil_code, channel.point_class, channel.ptz_type) == (
        "Gate",
        "41018302",
        2,
        3,
    )
    assert channel.parent_ids == (device.device_id,)
    assert registry.channel_evidence(channel).verdict == "OFF"  # nobody has looked yet
    second = await inputs.add(rtsp("Yard"))
    assert second.device_id == record.device_id
    assert second.channel_id != record.channel_id
    with pytest.raises(InputConflict):
        await inputs.add(Input(record.channel_id, "", "rtsp", "x", "rtsp://10.1.0.9/2"))
    with pytest.raises(InputConflict):
        await inputs.add(Input(SERVER, "", "rtsp", "x", "rtsp://10.1.0.9/2"))
    await inputs.remove(record.channel_id)
    assert registry.channel(*record.key) is None
    with pytest.raises(NotFound):
        inputs.get(record.channel_id)
    third = await inputs.add(rtsp("Third"))
    assert third.channel_id not in (record.channel_id, second.channel_id)


async def test_the_next_life_knows_them_again(registry: Registry) -> None:
    store = MemoryInputs()
    first = fake_inputs(registry, SERVER, store=store)
    kept, gone = await first.add(rtsp()), await first.add(rtsp("Gone"))
    del store.rows[gone.channel_id]  # the row was removed, the channel's last word was not saved
    later = Registry(bus=EventBus())
    for device in registry.devices.values():
        later.load(device, None)
    for channel in registry.all_channels():
        later.load_channel(channel)
    again = fake_inputs(later, SERVER, store=store)
    await again.load()
    assert [record.key for record in again.records()] == [kept.key]
    assert later.channel(*kept.key) is not None
    assert later.channel(*gone.key) is None
    fresh = await again.add(rtsp("New"))
    assert fresh.device_id == kept.device_id


async def test_an_empty_house_keeps_its_device_code(registry: Registry) -> None:
    store = MemoryInputs()
    inputs = fake_inputs(registry, SERVER, store=store)
    record = await inputs.add(rtsp())
    await inputs.remove(record.channel_id)
    again = fake_inputs(registry, SERVER, store=store)
    await again.load()
    assert (await again.add(rtsp())).device_id == record.device_id


class Looked:
    """Inputs that run, with a checker that is told; status events are kept."""

    def __init__(self, **settings: Any) -> None:
        self.registry = Registry(bus=EventBus())
        self.events: list[Event] = []
        self.registry.bus.subscribe(ChannelStatus, callback=self.events.append)
        self.checker = ToldChecker()
        self.inputs = fake_inputs(self.registry, SERVER, checker=self.checker, **settings)

    async def __aenter__(self) -> Looked:
        await self.inputs.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.inputs.close()

    def status(self, record: Input) -> str:
        channel = self.registry.channel(*record.key)
        assert channel is not None
        return self.registry.channel_evidence(channel).verdict.value


async def test_checks_decide_the_status_and_failures_are_looked_at_again() -> None:
    async with Looked(check_interval_s=3600) as looked:
        looked.checker.verdicts["rtsp://10.1.0.9/2"] = DOWN
        good, bad = (
            await looked.inputs.add(rtsp()),
            await looked.inputs.add(rtsp("Yard", "rtsp://10.1.0.9/2")),
        )
        await until(
            lambda: looked.status(good) == "ON" and looked.inputs.health[bad.channel_id].failures == 1
        )
        assert looked.status(bad) == "OFF"
        now = looked.inputs._clock.mono()
        assert looked.inputs.health[good.channel_id].due_mono - now > 3000
        assert looked.inputs.health[bad.channel_id].due_mono - now < 20
        looked.checker.verdicts.clear()
        health = await looked.inputs.check_now(bad.channel_id)
        assert (health.ok, health.cause, health.failures) == (True, "", 0)
        assert looked.status(bad) == "ON"
        assert looked.inputs.checks["ok"] >= 2
        assert looked.inputs.checks["dial_failed"] == 1
        assert dict(looked.inputs.online) == {("rtsp", True): 2}


async def test_few_are_asked_at_once_and_a_slow_one_does_not_hold_up_the_change() -> None:
    running = most = 0
    gate = asyncio.Event()

    async with Looked(checks_at_once=3) as looked:

        async def slow(record: Input) -> Verdict:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            return Verdict(False, "no_answer", "slow")

        looked.inputs._checker = slow
        records = [
            await looked.inputs.add(rtsp(f"c{number}", f"rtsp://10.1.0.9/{number}")) for number in range(8)
        ]
        await until(lambda: running == 3)
        await asyncio.sleep(0.7)
        assert most == 3
        changed = await looked.inputs.change(rtsp_like(records[0], url="rtsp://10.1.0.9/new"))
        gate.set()
        await until(lambda: all(looked.inputs.health[r.channel_id].failures for r in records[1:]))
        assert most == 3
        assert looked.inputs.get(changed.channel_id).url == "rtsp://10.1.0.9/new"


def rtsp_like(record: Input, **values: Any) -> Input:
    return replace(record, **values)


async def test_a_switched_off_input_is_neither_asked_nor_played() -> None:
    async with Looked(check_interval_s=5) as looked:
        record = await looked.inputs.add(rtsp())
        await until(lambda: looked.status(record) == "ON")
        off = await looked.inputs.change(rtsp_like(record, enabled=False))
        assert looked.status(off) == "OFF"
        asked = len(looked.checker.asked)
        looked.inputs.health[off.channel_id].due_mono = 0.0
        await asyncio.sleep(1.2)
        assert len(looked.checker.asked) == asked

        class Session:
            key = (*off.key, 0)

        with pytest.raises(PlayFailed) as refused:
            await looked.inputs.open(Session())  # type: ignore[arg-type]
        assert refused.value.cause == "device_offline"


def test_only_cameras_with_a_smaller_stream_have_a_second_one(registry: Registry) -> None:
    inputs = fake_inputs(registry, SERVER)

    async def run() -> None:
        one = await inputs.add(rtsp())
        two = await inputs.add(rtsp(sub_url="rtsp://10.1.0.9/small"))
        assert [inputs.stream_number(*one.key, number) for number in (0, 1, 2)] == [0, 0, 0]
        assert [inputs.stream_number(*two.key, number) for number in (0, 1, 2)] == [0, 1, 0]
        spec = inputs._spec(two, "s", 1)
        assert getattr(spec, "url", "") == "rtsp://10.1.0.9/small"

    asyncio.run(run())


async def test_configured_inputs_are_entered_once_and_mistakes_do_not_stop_the_start(
    registry: Registry,
) -> None:
    inputs = fake_inputs(registry, SERVER)
    registry.put_device(Device("41018300001320000005", state=State.ONLINE))
    entries = [
        InputCamera(name="A", url="rtsp://u:p@10.1.0.9/1"),
        InputCamera(name="B", url="file:gate.mp4", channel_id="41018300001320000009"),
        InputCamera(name="taken", url="rtsp://10.1.0.9/3", channel_id="41018300001320000005"),
    ]
    entered = await enter_inputs(inputs, entries)
    assert len(entered) == 2
    assert await enter_inputs(inputs, entries) == []
    found = {record.name: record for record in inputs.records()}
    assert (found["A"].url, found["A"].username, found["A"].password) == ("rtsp://10.1.0.9/1", "u", "p")
    assert (found["B"].kind, found["B"].url, found["B"].channel_id) == (
        "file",
        "gate.mp4",
        "41018300001320000009",
    )


# -- the check itself ----------------------------------------------------------------------------------------


@pytest.fixture
async def camera() -> AsyncIterator[RtspCamera]:
    video = TestPicture(160, 96, 25, "h264", 100_000, 25).encoded_loop(0.2)
    async with RtspCamera(video, period=18_000, password="p@ss word") as running:
        yield running


async def verdict_of(camera: RtspCamera, **values: Any) -> Verdict:
    record = rtsp(url=camera.url, **{"username": "admin", "password": camera.password, **values})
    return await check(record, directory="", timeout_s=1.5)


async def test_describe_tells_what_is_wrong_with_a_camera(camera: RtspCamera) -> None:
    assert await verdict_of(camera) == Verdict(True)
    assert camera.requests == ["DESCRIBE", "DESCRIBE"]
    wrong = await verdict_of(camera, password="Geheim")
    assert (wrong.ok, wrong.cause) == (False, "refused")
    assert "Geheim" not in wrong.detail
    assert (await verdict_of(camera, username="")).cause == "refused"
    camera.refuse_status = (404, "Not Found")
    assert (await verdict_of(camera)).cause == "not_found"
    camera.deaf = True
    assert (await verdict_of(camera)).cause == "no_answer"
    await camera.stop()
    assert (await verdict_of(camera)).cause == "dial_failed"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"RTSP/1.0 abc\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: x\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"x" * 200_000,
        b"",
        bytes(range(256)) * 4,
    ],
)
async def test_whatever_answers_is_judged_in_bounded_time(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    verdict = await check(rtsp(url=f"rtsp://127.0.0.1:{port}/a"), directory="", timeout_s=5)
    assert (verdict.ok, verdict.cause) in ((False, "bad_answer"), (False, "dial_failed"))
    server.close()
    await server.wait_closed()


async def test_files_are_only_looked_for_below_the_directory(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"x")
    (tmp_path / "outside.mp4").write_bytes(b"x")
    (tmp_path / "films" / "link.mp4").symlink_to(tmp_path / "outside.mp4")

    async def cause(path: str, directory: str = str(tmp_path / "films")) -> str:
        return (await check(Input("", "", "file", "f", path), directory=directory, timeout_s=1)).cause

    assert await cause("a.mp4") == ""
    for path in ("../outside.mp4", "link.mp4", "none.mp4", str(tmp_path / "outside.mp4"), "."):
        assert await cause(path) == "not_found"
    assert await cause("a.mp4", "") == "not_found"
    assert await cause("a.mp4", str(tmp_path / "nowhere")) == "not_found"


# -- the API -------------------------------------------------------------------------------------------------


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


async def test_the_api_enters_changes_and_forgets_and_never_shows_a_password(home: House) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    body = {
        "name": "Gate",
        "url": "rtsp://root:Geheim-1@10.1.0.9/1",
        "civil_code": "41018302",
        "transport": "udp",
    }
    created = await admin.ask("POST", "/api/inputs", json=body)
    text = await created.text()
    assert created.status == 201
    assert "Geheim" not in text
    view = await created.json()
    assert created.headers["Location"] == f"/api/inputs/{view['channel_id']}"
    assert (view["url"], view["username"], view["password_set"]) == ("rtsp://10.1.0.9/1", "root", True)
    path = f"/api/inputs/{view['channel_id']}"
    changed = await admin.json(
        "PATCH", path, json={"name": "Yard", "longitude": 113.4, "password": "Geheim-2"}
    )
    assert (changed["name"], changed["longitude"], changed["civil_code"]) == ("Yard", 113.4, "41018302")
    assert home.inputs.get(view["channel_id"]).password == "Geheim-2"
    cleared = await admin.json("PATCH", path, json={"longitude": None})
    assert cleared["longitude"] is None
    assert (await admin.json("POST", path + "/check"))["status"] == "ON"
    listed = await admin.json("GET", "/api/inputs")
    assert [item["name"] for item in listed["items"]] == ["Yard"]
    assert "Geheim" not in str(listed)
    channel = await admin.json("GET", f"/api/channels/{view['channel_id']}")
    assert channel["online"] is True
    await admin.json("DELETE", path, 204)
    await admin.json("GET", path, 404)
    await admin.json("DELETE", path, 404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x"}, "body"),
        ({"name": "x", "url": "http://10.1.0.9/1"}, "url"),
        ({"name": "x", "url": "rtsp://"}, "url"),
        ({"name": "x", "url": "rtsp://a b/1"}, "url"),
        ({"name": "x", "url": "rtsp://a/1\r\nX: y"}, "url"),
        ({"name": "x", "url": "rtsp://[::1/1"}, "url"),
        ({"name": "x", "kind": "file", "url": "/etc/passwd"}, "url"),
        ({"name": "x", "kind": "file", "url": "a/../../b"}, "url"),
        ({"name": "x", "url": "rtsp://a/1", "sub_url": "ftp://b"}, "url"),
        ({"name": "x", "url": "rtsp://a/1", "transport": "quic"}, "transport"),
        ({"name": "x", "url": "rtsp://a/1", "channel_id": "1"}, "channel_id"),
        ({"name": "x", "url": "rtsp://a/1", "civil_code": "410"}, "civil_code"),
        ({"name": "x", "url": "rtsp://a/1", "latitude": 91}, "latitude"),
    ],
)
async def test_bad_input_is_named_by_its_field(home: House, body: dict[str, Any], field: str) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    problem = await admin.json("POST", "/api/inputs", 422, json=body)
    assert problem["field"] == field
    assert home.inputs.records() == []


async def test_only_administrators_enter_inputs(home: House) -> None:
    body = {"name": "Gate", "url": "rtsp://10.1.0.9/1"}
    for role, reading in ((Role.VIEWER, 403), (Role.OPERATOR, 200)):
        logged = await home.as_role(role)
        await logged.json("POST", "/api/inputs", 403, json=body)
        await logged.json("POST", "/api/onvif/discover", 403, json={})
        await logged.json("GET", "/api/inputs", reading)
