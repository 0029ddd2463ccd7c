"""Alarms and positions through the real gateway: simulated cameras of both editions over UDP and TCP, an upper platform
above, everything read by the HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import Chain, camera, chain
from gateway_process import GatewayProcess
from live_events import listening
from outside import eventually, series

from simulator.camera import Camera, DeviceOptions
from simulator.upper_platform import UpperPlatform
from sip.manscdp import (
    AlarmNotify,
    AlarmQuery,
    AlarmResponse,
    Edition,
    MobilePositionNotify,
    MobilePositionQuery,
    PTZPositionNotify,
    PTZPositionQuery,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
WAYS = [(V16, "udp"), (V16, "tcp"), (V22, "udp"), (V22, "tcp")]
OVERRIDES = {
    "alarms": {"merge_s": 0.0, "snapshot": "always", "per_device_per_s": 5.0, "per_device_burst": 20},
    "positions": {"subscribe": "all", "interval_s": 1, "least_gap_s": 0.0},
}
OTHER_UPPER = "41010000002000000002"
PASSWORD = "Upper-Platform-Pw-03"
GATE = (113.8141, 34.7992)


class Town:
    """A gateway with four cameras (edition by transport) and an upper platform of 2022 and one of 2016 above."""

    def __init__(
        self, running: Chain, cameras: dict[tuple[Edition, str], Camera], older: UpperPlatform
    ) -> None:
        self.chain, self.cameras, self.older = running, cameras, older

    @property
    def upper(self) -> UpperPlatform:
        return self.chain.upper

    @property
    def gateway(self) -> GatewayProcess:
        return self.chain.gateway

    async def api(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, answer = await asyncio.to_thread(self.gateway.call, method, path, body)
        assert found == status, answer
        return answer

    async def alarms(self, device: Camera, **filters: Any) -> list[dict[str, Any]]:
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        answer = await self.api("GET", f"/api/alarms?device_id={device.device_id}&{query}")
        items: list[dict[str, Any]] = answer["items"]
        return items

    async def subscribed(self, device: Camera, *kinds: str) -> None:
        def there() -> bool:
            return all(kind in device.subscriptions and device.subscriptions[kind].active for kind in kinds)

        await eventually(there, 30, f"subscriptions {kinds} at {device.device_id}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder: Path = tmp_path_factory.mktemp("town")
    async with chain(folder, 0, overrides=OVERRIDES) as running:
        older = UpperPlatform(
            OTHER_UPPER, lower_id=running.upper.lower_id, password=PASSWORD, edition=V16, charset="GB2312"
        )
        older.rules.version = "2.0"
        await older.start()
        platform = {
            "platform_id": OTHER_UPPER, "name": "older", "host": "127.0.0.1", "port": older.port,
            "password": PASSWORD, "share_all": True, "edition": "2.0", "alarms": "always",
        }  # fmt: skip
        assert running.gateway.call("POST", "/api/platforms", platform)[0] == 201
        cameras = {
            way: camera(
                running.gateway, 40 + number, DeviceOptions(edition=way[0], transport=way[1], media="udp")
            )  # type: ignore[arg-type]
            for number, way in enumerate(WAYS)
        }
        try:
            for one in cameras.values():
                await one.start()
            for one in cameras.values():
                await one.wait_registered(30)
                await running.channel_online(one)
            await older.wait_registered(30)
            made = Town(running, cameras, older)
            for one in cameras.values():
                await made.subscribed(one, "alarm", "mobileposition")
            yield made
        finally:
            await asyncio.gather(
                *(one.stop() for one in cameras.values()), older.stop(), return_exceptions=True
            )


@pytest.mark.gb("G141", "G142")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0].name}-{way[1]}")
async def test_alarms_come_by_message_and_by_notify(town: Town, way: tuple[Edition, str]) -> None:
    device = town.cameras[way]
    with listening(town.gateway, "alarm_raised") as events:
        answer = await device.notices.alarm(
            device.channel_id, method=5, alarm_type=6, event_type=1, priority=1, description="东门 & gate",
            longitude=GATE[0], latitude=GATE[1], via="message",
        )  # fmt: skip
        assert answer is not None
        assert answer.status == 200
        sn = device.sn
        await device.wait(
            lambda: [
                b for b in device.received_bodies("Alarm") if isinstance(b, AlarmResponse) and b.sn == sn
            ],
            30,
            "for Response/Alarm",
        )
        told = await device.notices.alarm(device.channel_id, method=5, alarm_type=2, via="notify")
        assert told is not None
        assert told.status == 200
        mine = [e for _, e in events if e["device_id"] == device.device_id]
        await eventually(lambda: len([e for _, e in events if e["device_id"] == device.device_id]) >= 2, 30)
        mine = [e for _, e in events if e["device_id"] == device.device_id]
    assert [(e["via"], e["kind"]) for e in mine] == [("message", 6), ("notify", 2)]
    assert mine[0]["text_zh"] == "入侵检测报警，进入区域"
    assert mine[0]["text_en"] == "intrusion detected, enters the area"
    newest, first = await town.alarms(device)
    assert (newest["via"], first["via"]) == ("notify", "message")
    assert first["description"] == "东门 & gate"
    assert (first["priority"], first["longitude"]) == (1, GATE[0])
    assert first["method_text"]["zh"] == "视频报警"
    detail = await town.api("GET", f"/api/alarms/{first['alarm_id']}")
    assert "<AlarmPriority>1</AlarmPriority>" in detail["raw"]
    assert f"<SN>{sn}</SN>" in detail["raw"]
    answers = [body.sn for body in device.received_bodies("Alarm") if isinstance(body, AlarmResponse)]
    assert answers.count(sn) == 1
    assert detail["recording"]["channel_id"] == device.channel_id
    assert detail["recording"]["start"] < detail["alarm_at"] < detail["recording"]["end"]


@pytest.mark.gb("G144", "G146", "G158")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0].name}-{way[1]}")
async def test_a_device_alarm_is_acknowledged_and_reset(town: Town, way: tuple[Edition, str]) -> None:
    device = town.cameras[way]
    await device.notices.alarm(device.channel_id, method=2, alarm_type=5, via="message")
    assert await device.notices.alarm(device.channel_id, method=2, alarm_type=5, via="message") is None, (
        "silent"
    )
    found = await town.alarms(device, method=2)
    assert found[0]["needs_reset"]
    path = f"/api/alarms/{found[0]['alarm_id']}/acknowledge"
    device.notices.reset_result = "ERROR"
    await town.api("POST", path, {"reset": True}, 409)
    refused = await town.api("GET", f"/api/alarms/{found[0]['alarm_id']}")
    assert (refused["acknowledged_at"], refused["reset"]) == (None, "rejected")
    device.notices.reset_result = "OK"
    done = await town.api("POST", path, {"reset": True, "note": "fan cleaned"})
    assert (done["reset"], done["note"], done["acknowledged_by"], done["needs_reset"]) == (
        *("OK", "fan cleaned", "admin"),
        False,
    )
    command = device.notices.resets[-1]
    assert (command.device_id, command.alarm_method, command.alarm_type) == (
        device.channel_id,
        ("2",),
        ("5",),
    )
    assert device.notices.silent == set()
    order = {"methods": [1, 2]}
    await town.api("POST", f"/api/channels/{device.channel_id}/alarm-reset", order)
    assert device.notices.resets[-1].alarm_method == ("1", "2")
    assert "<AlarmMethod>1/2</AlarmMethod>" in device.received[-1].raw.decode("gb18030")
    log = await town.api("GET", "/api/audit")
    assert {"rejected", "ok"} <= {
        entry["result"] for entry in log["items"] if entry["action"] == "alarm.reset"
    }


@pytest.mark.gb("G150")
async def test_a_wrong_clock_is_told_and_the_alarm_kept(town: Town) -> None:
    device = town.cameras[V16, "tcp"]
    with listening(town.gateway, "clock_fault") as events:
        await device.notices.alarm(device.channel_id, alarm_type=3, at=datetime(1970, 1, 2, tzinfo=UTC))
        await eventually(lambda: events, 30, "a clock fault")
        assert events[0][1]["device_id"] == device.device_id
        assert events[0][1]["fault"] is True
        assert events[0][1]["offset_s"] < -1e9
        await device.notices.alarm(device.channel_id, alarm_type=4)
        await eventually(lambda: len(events) > 1, 30, "the end of the fault")
        assert events[1][1]["fault"] is False
    wrong = (await town.alarms(device, alarm_type=3))[0]
    assert wrong["clock_fault"]
    assert wrong["alarm_at"].startswith("1970-01-02")
    assert wrong["recording"]["at"] == wrong["received_at"], "found by our time"


async def test_a_picture_is_taken_at_alarm_time(town: Town) -> None:
    device = town.cameras[V22, "udp"]
    await device.notices.alarm(device.channel_id, alarm_type=7)
    alarm = (await town.alarms(device, alarm_type=7))[0]

    def pictured() -> bool:
        return bool(town.gateway.call("GET", f"/api/alarms/{alarm['alarm_id']}")[1]["snapshot"])

    await eventually(pictured, 60, "a picture")
    jpeg = await town.api("GET", f"/api/alarms/{alarm['alarm_id']}/snapshot")
    assert jpeg[:3] == b"\xff\xd8\xff"
    await town.api("GET", f"/api/alarms/{'0' * 24}/snapshot", status=404)


@pytest.mark.gb("G149")
async def test_a_flood_is_limited_and_every_alarm_counted(town: Town) -> None:
    device = town.cameras[V22, "tcp"]
    before, metrics = await town.alarms(device), await asyncio.to_thread(town.gateway.metrics)
    count = 400
    answers = await asyncio.gather(
        *(
            device.notices.alarm(
                device.channel_id, alarm_type=1, priority=1 + n % 4, at=_moment(n), via="message"
            )
            for n in range(count)
        )
    )
    taken = sum(answer is not None and answer.status == 200 for answer in answers)
    assert taken == count, "a flood is taken with 200, not answered 503"
    after = await town.alarms(device, limit=1000)
    kept = len(after) - len(before)
    assert kept < count / 2

    def all_counted() -> bool:
        found = town.gateway.call("GET", f"/api/alarms?device_id={device.device_id}&limit=1000")[1]["items"]
        new = found[: len(found) - len(before)]
        return len(new) + sum(alarm["suppressed"] + alarm["repeats"] for alarm in new) == count

    await eventually(all_counted, 30, "the count of all alarms")
    now = await asyncio.to_thread(town.gateway.metrics)
    suppressed = series(now, "gateway_alarms_not_kept_total", cause="suppressed")
    assert suppressed > series(metrics, "gateway_alarms_not_kept_total", cause="suppressed")
    await asyncio.sleep(0)


def _moment(number: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=number % 200)


@pytest.mark.gb("G145", "G147")
async def test_uppers_get_the_alarms_they_asked_for(town: Town) -> None:
    device = town.cameras[V22, "udp"]
    shares = [
        {
            "device_id": device.device_id,
            "channel_id": device.channel_id,
            "exported_id": "41010000001310000777",
        }
    ]
    await town.api("PUT", f"/api/platforms/{town.upper.platform_id}/shares", {"items": shares})
    query = AlarmQuery(
        sn=1,
        device_id=town.upper.lower_id,
        start_alarm_priority=1,
        end_alarm_priority=2,
        alarm_method=("5", "6"),
    )
    subscription = await town.upper.subscribe(query)
    wanted = [(1, 5, 13), (2, 6, 1)]
    for priority, method, alarm_type in [(3, 5, 8), (1, 7, None), *wanted]:
        await device.notices.alarm(
            device.channel_id, priority=priority, method=method, alarm_type=alarm_type, via="message"
        )
    await town.upper.wait(lambda: len(_told(town.upper, AlarmNotify)) >= 2, 30, "for alarms")
    got = _told(town.upper, AlarmNotify)
    assert [(a.alarm_priority, a.alarm_method, a.alarm_type) for a in got] == wanted
    assert {a.device_id for a in got} == {"41010000001310000777"}

    def messages() -> list[AlarmNotify]:
        return [body for body, _ in town.older.messages if isinstance(body, AlarmNotify)]

    blocked = [a for a in messages() if a.device_id == device.channel_id and a.alarm_type == 11]
    await town.older.wait(
        lambda: [a for a in messages() if a.device_id == device.channel_id and a.alarm_method == 6], 30
    )
    blocked = [a for a in messages() if a.device_id == device.channel_id and a.alarm_type == 11]
    assert len(blocked) == 1, "picture blocked, in the words of 2016"
    await subscription.close()
    await device.notices.alarm(device.channel_id, priority=1, method=5, alarm_type=9, via="message")
    await town.older.wait(lambda: [a for a in messages() if a.alarm_type == 9], 30)
    assert len(_told(town.upper, AlarmNotify)) == 2, "nothing after the end of the subscription"


def _told(upper: UpperPlatform, kind: type[Any]) -> list[Any]:
    return [body for body, _, _ in upper.told if isinstance(body, kind)]


@pytest.mark.gb("G151", "G152", "G153")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0].name}-{way[1]}")
async def test_positions_come_in_both_forms(town: Town, way: tuple[Edition, str]) -> None:
    device = town.cameras[way]
    query = device.notices.filters["mobileposition"]
    assert isinstance(query, MobilePositionQuery)
    assert query.interval == 1
    began = datetime.now(UTC) - timedelta(seconds=30)
    for number, via in enumerate(("notify", "message", "notify")):
        place = (GATE[0] + number / 1000, GATE[1])
        answer = await device.notices.position(
            *place,
            speed=36.5,
            direction=90.0,
            at=began + timedelta(seconds=number),
            via=via,  # type: ignore[arg-type]
        )
        assert answer is not None
        assert answer.status == 200
    path = f"/api/channels/{device.device_id}"

    def whole() -> bool:
        answer = town.gateway.call("GET", f"{path}/track?device_id={device.device_id}")
        return answer[0] == 200 and len(answer[1]["items"]) == 3

    await eventually(whole, 30, "the track")
    track = (await town.api("GET", f"{path}/track?device_id={device.device_id}"))["items"]
    assert [round(point["longitude"] - GATE[0], 6) for point in track] == [0.0, 0.001, 0.002]
    assert {point["speed_kmh"] for point in track} == {36.5}
    assert [point["faults"] for point in track] == [[], [], []]
    last = await town.api("GET", f"{path}/position?system=gcj02")
    assert last["coordinate_system"] == "GCJ-02"
    assert 0.003 < last["longitude"] - track[-1]["longitude"] < 0.01
    shape = await town.api("GET", f"{path}/track/geojson")
    assert shape["coordinate_system"] == "WGS-84"
    assert shape["features"][0]["geometry"]["type"] == "LineString"
    assert len(shape["features"]) == 4


@pytest.mark.gb("G155")
async def test_impossible_places_are_flagged_not_dropped(town: Town) -> None:
    device = town.cameras[V22, "udp"]
    with listening(town.gateway, "position_fault") as events:
        began = datetime.now(UTC) - timedelta(seconds=10)
        for number, place in enumerate(((0.0, 0.0), (2.35, 48.85), GATE)):
            at = began + timedelta(seconds=number)
            await device.notices.position(*place, device_id=device.channel_id, at=at)
        await eventually(lambda: len(events) >= 3, 30, "faults told")
    assert [event["faults"] for _, event in events] == [["zero"], ["outside_china"], []]
    track = await town.api("GET", f"/api/channels/{device.channel_id}/track")
    assert [point["faults"] for point in track["items"]] == [["zero"], ["outside_china"], []]
    document = await town.api("GET", f"/api/channels/{device.channel_id}/track/geojson")
    assert [feature["geometry"]["type"] for feature in document["features"]] == ["Point"] * 3
    now = await asyncio.to_thread(town.gateway.metrics)
    assert series(now, "gateway_position_faults_total", fault="zero") >= 1


@pytest.mark.gb("G154")
async def test_positions_go_up_in_the_uppers_form_and_interval(town: Town) -> None:
    device = town.cameras[V16, "udp"]
    newer, older = town.upper, town.older
    ask = [
        upper.subscribe(MobilePositionQuery(sn=2, device_id=upper.lower_id, interval=2))
        for upper in (newer, older)
    ]
    subscriptions = await asyncio.gather(*ask)
    for number in range(12):
        await device.notices.position(GATE[0], GATE[1] + number / 1000)
        await asyncio.sleep(0.1)
    for upper in (newer, older):
        await upper.wait(
            lambda upper=upper: len(_told(upper, MobilePositionNotify)) >= 2, 30, "for positions"
        )
    flat, listed = _told(older, MobilePositionNotify), _told(newer, MobilePositionNotify)
    for upper, got in ((older, flat), (newer, listed)):
        assert len(got) < 6, "gathered for the interval"
        times = [at for body, _, at in upper.told if isinstance(body, MobilePositionNotify)]
        assert times[1] - times[0] > 1.5, "two seconds were asked for"
    assert flat[-1].items == []
    assert flat[-1].latitude == pytest.approx(GATE[1] + 0.011)
    assert flat[-1].device_id == device.channel_id, "the device is not in the catalog, its only camera is"
    assert listed[-1].sum_num == 1
    assert listed[-1].longitude is None
    assert listed[-1].items[0].device_id == device.channel_id
    assert listed[-1].items[0].latitude == pytest.approx(GATE[1] + 0.011)
    await asyncio.gather(*(one.close() for one in subscriptions))


@pytest.mark.gb("G156")
async def test_a_cameras_direction_is_subscribed_and_passed_up(town: Town) -> None:
    device, old = town.cameras[V22, "tcp"], town.cameras[V16, "tcp"]
    path = f"/api/devices/{device.device_id}/subscriptions/PTZPosition"
    refused = await town.api(
        "PUT", f"/api/devices/{old.device_id}/subscriptions/PTZPosition", {"enabled": True}, 409
    )
    assert "2022" in refused["detail"]
    await town.api("PUT", path, {"enabled": True, "channel_id": device.channel_id})
    await town.subscribed(device, "ptzposition")
    query = device.notices.filters["ptzposition"]
    assert query.device_id == device.channel_id
    subscription = await town.upper.subscribe(PTZPositionQuery(sn=3, device_id="41010000001310000777"))
    await subscription.close()
    above = await town.upper.subscribe(PTZPositionQuery(sn=4, device_id=town.upper.lower_id))
    answer = await device.notices.turned(device.channel_id, pan=123.45, tilt=-10.5, zoom=4.0, via="notify")
    assert answer is not None
    assert answer.status == 200

    def known() -> bool:
        return town.gateway.call("GET", f"/api/channels/{device.channel_id}/ptz-position")[0] == 200

    await eventually(known, 30, "the direction")
    look = await town.api("GET", f"/api/channels/{device.channel_id}/ptz-position")
    assert (look["pan"], look["tilt"], look["zoom"]) == (123.45, -10.5, 4.0)
    await town.upper.wait(lambda: _told(town.upper, PTZPositionNotify), 30, "for the direction")
    assert _told(town.upper, PTZPositionNotify)[0].pan == 123.45
    await above.close()
    listed = await town.api("GET", f"/api/devices/{device.device_id}/subscriptions")
    states = {item["kind"]: item["state"] for item in listed["items"]}
    assert states == {
        "Catalog": "active",
        "Alarm": "active",
        "MobilePosition": "active",
        "PTZPosition": "active",
    }
    await town.api("PUT", path, {"enabled": False, "channel_id": device.channel_id})
    await device.wait(lambda: not device.subscriptions["ptzposition"].active, 30, "for the unsubscribe")
