"""Every question and command through the real gateway: simulated cameras of both editions over UDP and TCP, ordered by the
HTTP API, and the same again from upper platforms of both editions."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import Chain, camera, chain
from gateway_process import GatewayProcess
from live_events import listening
from outside import eventually, series

from simulator.camera import Camera, DeviceOptions
from simulator.condition import Track
from simulator.upper_platform import UpperPlatform
from sip import ptz
from sip.ids import make_code
from sip.manscdp import (
    Body,
    CruiseTrackListQuery,
    CruiseTrackQuery,
    DeviceControl,
    DeviceControlResponse,
    DeviceInfoQuery,
    DeviceStatusQuery,
    DeviceStatusResponse,
    DeviceUpgrade,
    DeviceUpgradeResultNotify,
    Edition,
    HomePosition,
    HomePositionQuery,
    PresetQuery,
    PTZPositionQuery,
    PTZPositionResponse,
    PTZPrecise,
    SDCardStatusQuery,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
Way = tuple[Edition, str]
WAYS: list[Way] = [(V16, "udp"), (V16, "tcp"), (V22, "udp"), (V22, "tcp")]
NEW = [way for way in WAYS if way[0] is V22]
OLD = [way for way in WAYS if way[0] is V16]
OVERRIDES = {
    "control": {"answer_timeout_s": 2.0, "gap_timeout_s": 0.5},
    "catalog": {"subscribe": False},
    "alarms": {"subscribe": False},
}
OTHER_UPPER = "41010000002000000002"
PASSWORD = "Upper-Platform-Pw-03"
RIGHTS = ["play", "ptz", "config"]


def named(way: Way) -> str:
    return f"{way[0].name}-{way[1]}"


class Yard:
    """A gateway with four cameras (edition by transport) and an upper platform of each edition above."""

    def __init__(self, running: Chain, cameras: dict[Way, Camera], older: UpperPlatform) -> None:
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

    async def audited(self, action: str, device: Camera, result: str = "ok") -> dict[str, Any]:
        """The newest audit line of that action for this device, once it has that result."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            _, answer = self.gateway.call("GET", "/api/audit?limit=200")
            found[:] = [
                entry
                for entry in answer["items"]
                if entry["action"] == action and entry["target"].startswith(device.device_id)
            ]
            return bool(found) and found[0]["result"] == result

        await eventually(there, 30, f"audit line {action} {result}")
        return found[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Yard]:
    folder: Path = tmp_path_factory.mktemp("yard")
    async with chain(folder, 0, overrides=OVERRIDES) as running:
        older = UpperPlatform(
            OTHER_UPPER, lower_id=running.upper.lower_id, password=PASSWORD, edition=V16, charset="GB2312"
        )
        older.rules.version = "2.0"
        await older.start()
        platform = {
            "platform_id": OTHER_UPPER, "name": "older", "host": "127.0.0.1", "port": older.port,
            "password": PASSWORD, "share_all": True, "edition": "2.0", "rights": RIGHTS,
        }  # fmt: skip
        assert running.gateway.call("POST", "/api/platforms", platform)[0] == 201
        upper = {"rights": RIGHTS}
        status, answer = running.gateway.call("PATCH", f"/api/platforms/{running.upper.platform_id}", upper)
        assert status == 200, answer
        cameras = {
            way: camera(
                running.gateway, 60 + number, DeviceOptions(edition=way[0], transport=way[1], media="udp")
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
            for one in cameras.values():  # what the gateway asks by itself is over: what comes is ours

                def known(path: str = f"/api/devices/{one.device_id}") -> bool:
                    return bool(running.gateway.call("GET", path)[1]["manufacturer"])

                await eventually(known, 30, f"DeviceInfo of {one.device_id}")
            yield Yard(running, cameras, older)
        finally:
            await asyncio.gather(
                *(one.stop() for one in cameras.values()), older.stop(), return_exceptions=True
            )


def controls(device: Camera, command: str) -> list[DeviceControl]:
    """The DeviceControls with that command that reached the device."""
    found: list[Body] = device.received_bodies("DeviceControl")
    return [body for body in found if isinstance(body, DeviceControl) and body.command == command]


# -- questions ---------------------------------------------------------------------------------------------------


@pytest.mark.gb("G123", "G125")
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_information_and_status_of_device_and_channel(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    for path, code in (("", device.device_id), (f"?channel_id={device.channel_id}", device.channel_id)):
        info = await yard.api("GET", f"/api/devices/{device.device_id}/info{path}")
        assert (info["channel_id"], info["name"], info["channels"]) == (code, device.name, 1)
        assert (info["manufacturer"], info["model"]) == ("Simulator", "SIM-1")
        status = await yard.api("GET", f"/api/devices/{device.device_id}/status{path}")
        assert (status["channel_id"], status["online"], status["ok"]) == (code, True, True)
        assert status["encoding"] is True
        assert status["device_time"]


@pytest.mark.gb("G128")
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_presets_that_were_set_are_read_back_in_parts(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    path = f"/api/channels/{device.channel_id}"
    await yard.api("POST", f"{path}/ptz", {"command": "preset_set", "preset": 7, "name": "东门"})
    await eventually(lambda: 7 in device.condition.of(device.channel_id).presets, 30)
    many = {number: f"place {number}" for number in range(10, 256)}
    device.condition.of(device.channel_id).presets |= many
    found = await yard.api("GET", f"{path}/presets")
    assert found["complete"] is True
    assert [item["preset"] for item in found["items"]] == [1, 2, 7, *range(10, 256)]
    names = {item["preset"]: item["name"] for item in found["items"]}
    assert names[7] == ("东门" if way[0] is V22 else "preset 7"), "a name is told to devices of 2022 only"
    assert found["sum_num"] == (249 if way[0] is V22 else None)
    for number in many:
        del device.condition.of(device.channel_id).presets[number]
    await yard.api("POST", f"{path}/ptz", {"command": "preset_delete", "preset": 7})
    await eventually(lambda: 7 not in device.condition.of(device.channel_id).presets, 30)
    found = await yard.api("GET", f"{path}/presets")
    assert [item["preset"] for item in found["items"]] == [1, 2]


@pytest.mark.gb("G129")
@pytest.mark.parametrize("way", NEW, ids=named)
async def test_what_was_commanded_is_read_back(yard: Yard, way: Way) -> None:
    """Home position, cruise tracks and aim: set by a command, read by the query of 2022."""
    device = yard.cameras[way]
    path = f"/api/channels/{device.channel_id}"
    assert (await yard.api("GET", f"{path}/home-position"))["enabled"] is False
    done = await yard.api("PUT", f"{path}/home-position", {"enabled": True, "reset_time_s": 300, "preset": 2})
    assert (done["command"], done["said"]) == ("HomePosition", "Result OK")
    home = await yard.api("GET", f"{path}/home-position")
    assert (home["enabled"], home["reset_time_s"], home["preset"]) == (True, 300, 2)

    assert (await yard.api("GET", f"{path}/cruise-tracks"))["items"] == []
    for order in (
        {"command": "cruise_add", "number": 1, "preset": 1, "name": "环湖路"},
        {"command": "cruise_add", "number": 1, "preset": 2},
        {"command": "cruise_speed", "number": 1, "value": 9},
        {"command": "cruise_stay", "number": 1, "value": 20},
        {"command": "cruise_add", "number": 0, "preset": 2, "name": "gate"},
    ):
        await yard.api("POST", f"{path}/ptz", order)
    await eventually(lambda: 0 in device.condition.of(device.channel_id).tracks, 30)
    tracks = await yard.api("GET", f"{path}/cruise-tracks")
    assert tracks["items"] == [{"number": 0, "name": "gate"}, {"number": 1, "name": "环湖路"}]
    track = await yard.api("GET", f"{path}/cruise-tracks/1")
    assert (track["number"], track["name"], track["complete"]) == (1, "环湖路", True)
    assert track["points"] == [
        {"preset": 1, "stay_s": 20, "speed": 9},
        {"preset": 2, "stay_s": 20, "speed": 9},
    ]
    await yard.api("POST", f"{path}/ptz", {"command": "cruise_delete", "number": 1})
    await eventually(lambda: 1 not in device.condition.of(device.channel_id).tracks, 30)
    assert [t["number"] for t in (await yard.api("GET", f"{path}/cruise-tracks"))["items"]] == [0]

    done = await yard.api("PUT", f"{path}/aim", {"pan": 271.25, "tilt": -12.5, "zoom": 4})
    assert done["command"] == "PTZPreciseCtrl"
    assert done["said"].startswith("200"), "no Response is awaited"
    await eventually(lambda: device.condition.of(device.channel_id).aim.pan == 271.25, 30)
    aim = await yard.api("GET", f"{path}/aim")
    assert (aim["pan"], aim["tilt"], aim["zoom"]) == (271.25, -12.5, 4.0)
    await yard.api("PUT", f"{path}/aim", {"pan": 0})
    await eventually(lambda: device.condition.of(device.channel_id).aim.pan == 0, 30)
    aim = await yard.api("GET", f"{path}/aim")
    assert (aim["pan"], aim["tilt"], aim["zoom"]) == (0.0, -12.5, 4.0), "what was not named stays"


@pytest.mark.gb("G129", "G157")
@pytest.mark.parametrize("way", NEW, ids=named)
async def test_a_memory_card_is_formatted(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    path = f"/api/devices/{device.device_id}/sd-cards"
    (card,) = (await yard.api("GET", path))["items"]
    assert (card["status"], card["capacity_mb"], card["free_mb"]) == ("ok", 65536, 1024)
    device.condition.format_takes_s = 1.5
    done = await yard.api("POST", f"{path}/format", {"card": 0})
    assert done["command"] == "FormatSDCard"
    await eventually(lambda: device.condition.cards[0].status == "formatting", 30)
    (card,) = (await yard.api("GET", path))["items"]
    assert card["status"] == "formatting"
    assert card["format_progress"] in (0, 50)
    await eventually(lambda: device.condition.cards[0].status == "ok", 30)
    (card,) = (await yard.api("GET", path))["items"]
    assert (card["status"], card["free_mb"], card["format_progress"]) == ("ok", 65536, None)
    assert (await yard.audited("device.format_card", device))["detail"] == "card 0"


# -- commands ----------------------------------------------------------------------------------------------------


@pytest.mark.gb("G158", "G125")
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_guard_and_recording_wait_for_the_response_and_show_in_the_status(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    path = f"/api/channels/{device.channel_id}"
    status = f"/api/devices/{device.device_id}/status?channel_id={device.channel_id}"
    done = await yard.api("POST", f"{path}/guard", {"guarded": True})
    assert (done["command"], done["said"]) == ("GuardCmd", "Result OK")
    done = await yard.api("POST", f"{path}/device-recording", {"recording": True, "stream_number": 1})
    assert (done["command"], done["said"]) == ("RecordCmd", "Result OK")
    told = await yard.api("GET", status)
    assert told["recording"] is True
    assert told["alarms"] == [{"channel_id": device.channel_id, "duty": "ONDUTY"}]
    assert controls(device, "RecordCmd")[-1].stream_number == (1 if way[0] is V22 else None)
    await yard.api("POST", f"{path}/guard", {"guarded": False})
    await yard.api("POST", f"{path}/device-recording", {"recording": False})
    told = await yard.api("GET", status)
    assert told["recording"] is False
    assert told["alarms"] == [{"channel_id": device.channel_id, "duty": "OFFDUTY"}]
    line = await yard.audited("device.guard", device)
    assert (line["who"], line["result"], line["detail"]) == ("admin", "ok", "ResetGuard")
    assert line["target"] == f"{device.device_id}/{device.channel_id}"


@pytest.mark.gb("G158", "G131")
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_refusals_and_silence_are_told_with_what_the_device_said_last(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    path = f"/api/channels/{device.channel_id}/guard"
    device.condition.results["guard_cmd"] = "ERROR"
    refused = await yard.api("POST", path, {"guarded": True}, status=409)
    assert refused["cause"] == "rejected"
    assert "Result ERROR" in refused["device_response"]
    await yard.audited("device.guard", device, "rejected")
    device.condition.results.clear()

    device.faults.lose_parts = {0}  # it takes the command, and never says how it went
    silent = await yard.api("POST", path, {"guarded": True}, status=504)
    assert silent["cause"] == "no_answer"
    assert silent["device_response"].startswith("200 OK to GuardCmd; last Result ERROR to DeviceControl")
    await yard.audited("device.guard", device, "no_answer")
    counted = yard.gateway.metrics()
    for result in ("rejected", "no_answer"):
        assert series(counted, "gateway_device_commands_total", command="GuardCmd", result=result) >= 1
    device.faults.lose_parts = set()

    device.faults.statuses = {"DeviceInfo": 405, "DeviceStatus": 503}
    unknown = await yard.api("GET", f"/api/devices/{device.device_id}/info", status=409)
    assert unknown["cause"] == "not_supported"
    assert "405" in unknown["device_response"]
    refused = await yard.api("GET", f"/api/devices/{device.device_id}/status", status=409)
    assert (refused["cause"], "503" in refused["detail"]) == ("rejected", True)
    device.faults.statuses = {"DeviceControl": 486}
    stop = f"/api/channels/{device.channel_id}/ptz"
    refused = await yard.api("POST", stop, {"command": "stop"}, status=409)
    assert refused["device_response"].startswith("486")
    refused = await yard.api("POST", f"/api/channels/{device.channel_id}/alarm-reset", {}, status=409)
    assert "486" in refused["device_response"]
    device.faults.statuses = {}
    assert (await yard.api("POST", path, {"guarded": False}))["said"] == "Result OK"


@pytest.mark.gb("G157", "G170", "G171")
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_commands_without_a_response_end_with_the_200(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    path = f"/api/channels/{device.channel_id}"
    box = {
        "length": 1920, "width": 1080, "mid_point_x": 400, "mid_point_y": 300, "length_x": 200, "length_y": 100
    }  # fmt: skip
    for direction in ("in", "out"):
        done = await yard.api("POST", f"{path}/drag-zoom", {"direction": direction, **box})
        assert done["said"].startswith("200")
    zooms = [body.drag_zoom_in or body.drag_zoom_out for body in device.condition.zooms[-2:]]
    assert [zoom.model_dump(exclude={"extras"}) for zoom in zooms if zoom] == [box, box]
    assert device.condition.zooms[-2].drag_zoom_in is not None
    assert device.condition.zooms[-1].drag_zoom_out is not None

    await yard.api("POST", f"{path}/key-frame", status=202)
    await eventually(lambda: controls(device, "IFrameCmd"), 30)
    name = b"<IFameCmd>Send</IFameCmd>" if way[0] is V16 else b"<IFrameCmd>Send</IFrameCmd>"
    assert any(name in entry.raw for entry in device.received)

    boots, registers = len(device.condition.boots), device.registration.registers
    done = await yard.api("POST", f"/api/devices/{device.device_id}/reboot")
    assert (done["command"], done["channel_id"]) == ("TeleBoot", device.device_id)
    assert len(device.condition.boots) == boots + 1
    await device.wait(lambda: device.registration.registers > registers, 30)
    await device.wait_registered(30)


@pytest.mark.gb("G157")
@pytest.mark.parametrize("way", NEW, ids=named)
async def test_a_dome_follows_a_target(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    path = f"/api/channels/{device.channel_id}/target-track"
    area = {
        "length": 1920, "width": 1080, "mid_point_x": 400, "mid_point_y": 300, "length_x": 20, "length_y": 40
    }  # fmt: skip
    panorama = "41018300001310000999"
    await yard.api("POST", path, {"mode": "manual", "area": area, "panorama_channel_id": panorama})
    told = controls(device, "TargetTrack")[-1]
    assert (told.target_track, told.device_id, told.device_id_2) == ("Manual", device.channel_id, panorama)
    assert told.target_area is not None
    assert told.target_area.length_y == 40
    for mode in ("auto", "stop"):
        await yard.api("POST", path, {"mode": mode})
        assert device.condition.of(device.channel_id).tracking == mode.title()
    for body in ({"mode": "manual"}, {"mode": "auto", "area": area}):
        assert (await yard.api("POST", path, body, status=422))["field"] == "area"


ONLY_2022: list[tuple[str, str, Any]] = [
    ("GET", "/api/channels/{channel}/home-position", None),
    ("GET", "/api/channels/{channel}/cruise-tracks", None),
    ("GET", "/api/channels/{channel}/cruise-tracks/0", None),
    ("GET", "/api/channels/{channel}/aim", None),
    ("GET", "/api/devices/{device}/sd-cards", None),
    ("PUT", "/api/channels/{channel}/aim", {"pan": 10}),
    ("POST", "/api/channels/{channel}/target-track", {"mode": "auto"}),
    ("POST", "/api/devices/{device}/sd-cards/format", {"card": 1}),
    ("POST", "/api/devices/{device}/upgrades", {"firmware": "2.0", "file_url": "http://192.0.2.1/fw.bin"}),
]


@pytest.mark.gb("G049")
@pytest.mark.parametrize("way", OLD, ids=named)
@pytest.mark.parametrize(("method", "path", "body"), ONLY_2022)
async def test_what_2016_does_not_know_is_not_sent(
    yard: Yard, way: Way, method: str, path: str, body: Any
) -> None:
    device = yard.cameras[way]
    before = [entry for entry in device.received if entry.method == "MESSAGE"]
    path = path.format(channel=device.channel_id, device=device.device_id)
    refused = await yard.api(method, path, body, status=409)
    assert refused["cause"] == "not_supported"
    assert "not supported by this device" in refused["detail"]
    assert [entry for entry in device.received if entry.method == "MESSAGE"] == before


async def test_an_operator_may_know_better_than_the_device_says(yard: Yard) -> None:
    """A device that says 2016 but is set to 2022 is spoken to as one of 2022."""
    device = yard.cameras[V16, "udp"]
    path = f"/api/devices/{device.device_id}"
    await yard.api("PATCH", path, {"profile": {"edition": "3.0"}})
    try:
        await yard.api("PUT", f"/api/channels/{device.channel_id}/aim", {"pan": 10.5})
        told = controls(device, "PTZPreciseCtrl")[-1].ptz_precise
        assert told is not None
        assert told.pan == 10.5
    finally:
        await yard.api("PATCH", path, {"profile": {"edition": None}})
    await yard.api("PUT", f"/api/channels/{device.channel_id}/aim", {"pan": 10.5}, status=409)


BAD: list[tuple[str, str, Any, str]] = [
    ("PUT", "/api/channels/{channel}/aim", {"pan": 360.01}, "pan"),
    ("PUT", "/api/channels/{channel}/aim", {"pan": -0.01}, "pan"),
    ("PUT", "/api/channels/{channel}/aim", {"tilt": -30.01}, "tilt"),
    ("PUT", "/api/channels/{channel}/aim", {"tilt": 90.01}, "tilt"),
    ("PUT", "/api/channels/{channel}/aim", {"zoom": 1}, "zoom"),
    ("PUT", "/api/channels/{channel}/aim", {}, "pan"),
    ("PUT", "/api/channels/{channel}/home-position", {"enabled": True, "preset": 256}, "preset"),
    ("PUT", "/api/channels/{channel}/home-position", {"enabled": True, "reset_time_s": -1}, "reset_time_s"),
    ("POST", "/api/channels/{channel}/ptz", {"command": "preset_call", "preset": 0}, "preset"),
    ("POST", "/api/channels/{channel}/ptz", {"command": "cruise_add", "number": 256, "preset": 1}, "number"),
    (
        "POST",
        "/api/channels/{channel}/ptz",
        {"command": "cruise_start", "number": 1, "name": "这十七个字的巡航轨迹名称实在太长了"},
        "name",
    ),
    ("POST", "/api/channels/{channel}/drag-zoom", {"length": 1, "width": 1}, "mid_point_x"),
    ("POST", "/api/devices/{device}/sd-cards/format", {"card": -1}, "card"),
    ("GET", "/api/channels/{channel}/cruise-tracks/256", None, "number"),
    ("POST", "/api/devices/{device}/upgrades", {"firmware": "2", "file_url": "file:///etc"}, "file_url"),
    (
        "POST",
        "/api/devices/{device}/upgrades",
        {"firmware": "2", "file_url": "http://192.0.2.1/f", "session_id": "a" * 31},
        "session_id",
    ),
    (
        "POST",
        "/api/devices/{device}/upgrades",
        {"firmware": "2", "file_url": "http://192.0.2.1/f", "session_id": "a" * 31 + "_"},
        "session_id",
    ),
]


@pytest.mark.gb("G172", "G163", "G174")
async def test_values_out_of_range_are_refused_by_field_before_anything_is_sent(yard: Yard) -> None:
    device = yard.cameras[V22, "udp"]
    before = len(controls(device, "DeviceControl")), len(device.received_bodies("DeviceControl"))
    for method, path, body, field in BAD:
        path = path.format(channel=device.channel_id, device=device.device_id)
        refused = await yard.api(method, path, body, status=422)
        assert refused["field"] == field, (path, body, refused)
    assert (len(controls(device, "DeviceControl")), len(device.received_bodies("DeviceControl"))) == before


@pytest.mark.gb("G172")
async def test_the_edges_of_the_ranges_are_sent_and_each_alone(yard: Yard) -> None:
    device = yard.cameras[V22, "udp"]
    for body in ({"pan": 0}, {"pan": 360}, {"tilt": -30}, {"tilt": 90}, {"zoom": 1.01}):
        await yard.api("PUT", f"/api/channels/{device.channel_id}/aim", body)
        told = controls(device, "PTZPreciseCtrl")[-1].ptz_precise
        assert told is not None
        assert told.model_dump(exclude_none=True, exclude={"extras"}) == body


# -- upgrades ----------------------------------------------------------------------------------------------------


@pytest.mark.gb("G173")
@pytest.mark.parametrize("way", NEW, ids=named)
async def test_an_upgrade_is_accepted_registered_anew_and_told(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    path = f"/api/devices/{device.device_id}/upgrades"
    order = {"firmware": f"9.{way[1]}", "file_url": "http://fetch:secret@192.0.2.9/fw/9.bin?key=1"}
    device.condition.upgrade_takes_s = 1.0
    registers = device.registration.registers
    with listening(yard.gateway, "upgrade_changed") as events:
        job = await yard.api("POST", path, order, status=201)
        assert (job["state"], job["file_url"]) == ("accepted", "http://192.0.2.9/fw/9.bin")
        told = controls(device, "DeviceUpgrade")[-1].device_upgrade
        assert told is not None
        assert (told.file_url, told.manufacturer) == (order["file_url"], "Simulator")
        assert told.session_id == job["session_id"]
        assert 32 <= len(job["session_id"]) <= 128
        busy = await yard.api("POST", path, order, status=409)
        assert busy["cause"] == "upgrade_running"

        def over() -> Any:
            return [
                e for _, e in events if e["session_id"] == job["session_id"] and e["state"] == "succeeded"
            ]

        await eventually(over, 60, "the result of the upgrade")
    mine = [e for _, e in events if e["session_id"] == job["session_id"]]
    assert [e["state"] for e in mine][:2] == ["asked", "accepted"]
    assert mine[-1]["registered_again"] is True, "it registers anew between its Response and its result"
    assert device.registration.registers > registers
    done = await yard.api("GET", f"/api/upgrades/{job['session_id']}")
    assert (done["state"], done["firmware_now"], done["reason"]) == ("succeeded", order["firmware"], "")
    await eventually(
        lambda: (
            yard.gateway.call("GET", f"/api/devices/{device.device_id}")[1]["firmware"] == order["firmware"]
        ),
        30,
    )
    assert done["accepted_at"] < done["registered_again_at"] < done["ended_at"]
    listed = await yard.api("GET", f"/api/upgrades?device_id={device.device_id}")
    assert listed["items"][0]["session_id"] == job["session_id"]
    line = await yard.audited("device.upgrade", device)
    assert job["session_id"] in line["detail"]
    assert "secret" not in yard.gateway.log()

    device.condition.upgrade_failure = "02"
    device.condition.upgrade_takes_s = 0.1
    own = {"session_id": f"my-upgrade-{way[1]}-0123456789-0123456789"}
    job = await yard.api("POST", path, order | own, status=201)
    path = f"/api/upgrades/{own['session_id']}"
    await eventually(lambda: yard.gateway.call("GET", path)[1]["state"] == "failed", 30)
    failed = await yard.api("GET", path)
    assert (failed["reason_code"], failed["reason"]) == ("02", "the package is damaged")
    device.condition.upgrade_failure = ""
    again = await yard.api("POST", f"/api/devices/{device.device_id}/upgrades", order | own, status=409)
    assert again["cause"] == "upgrade_running"
    device.condition.results["device_upgrade"] = "ERROR"
    refused = await yard.api("POST", f"/api/devices/{device.device_id}/upgrades", order, status=409)
    assert refused["cause"] == "rejected"
    device.condition.results.clear()
    newest = (await yard.api("GET", f"/api/upgrades?device_id={device.device_id}"))["items"][0]
    assert newest["state"] == "refused"


# -- where the device speaks first -------------------------------------------------------------------------------


@pytest.mark.gb("G066")
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_faulty_children_of_a_heartbeat_are_shown_and_told(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]
    with listening(yard.gateway, "device_fault", "channel_status") as events:
        device.channels[device.channel_id].status = "DEFECT"
        assert await device.registration.beat()
        await eventually(lambda: len([1 for _, e in events if e["device_id"] == device.device_id]) >= 2, 30)
        mine = [(name, e) for name, e in events if e["device_id"] == device.device_id]
        assert mine[0][0] == "device_fault"
        assert mine[0][1]["faulty_children"] == [device.channel_id]
        assert (mine[1][0], mine[1][1]["status"]) == ("channel_status", "DEFECT")
        shown = await yard.chain.device(device)
        assert shown["faulty_children"] == [device.channel_id]
        assert shown["state"] == "online"
        device.channels[device.channel_id].status = "ON"
        assert await device.registration.beat()
        await eventually(lambda: len([1 for _, e in events if e["device_id"] == device.device_id]) >= 4, 30)
    assert (await yard.chain.device(device))["faulty_children"] == []
    assert (await yard.api("GET", f"/api/channels/{device.channel_id}"))["online"] is True


@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_unknown_commands_get_200_and_damaged_bodies_400(yard: Yard, way: Way) -> None:
    device = yard.cameras[way]

    def count(outcome: str) -> float:
        return series(yard.gateway.metrics(), "gateway_messages_total", outcome=outcome)

    unknown, malformed = count("unknown_command"), count("malformed")
    name = f"ParkingNotice{way[0].name}{way[1]}"
    body = f"<Notify><CmdType>{name}</CmdType><SN>1</SN><DeviceID>{device.device_id}</DeviceID></Notify>"
    answer = await device.send_raw(body.encode())
    assert answer is not None
    assert answer.status == 200
    await eventually(lambda: count("unknown_command") == unknown + 1, 30)
    assert f"cmd_type={name}" in yard.gateway.log()
    for damaged, reason in (
        (b"this is no XML", "not_xml"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><Notify><CmdType>&x;</CmdType></Notify>', "dtd"),
    ):
        answer = await device.send_raw(damaged)
        assert answer is not None
        assert answer.status == 400
        assert reason in answer.reason
    await eventually(lambda: count("malformed") == malformed + 2, 30)


# -- from above --------------------------------------------------------------------------------------------------


def exported(way: Way) -> str:
    return make_code("410183", 131, 7700 + WAYS.index(way))


async def shown(yard: Yard, upper: UpperPlatform) -> None:
    """The upper knows the cameras under codes that are not their own."""
    path = f"/api/platforms/{upper.platform_id}"
    await yard.api("PATCH", path, {"share_all": False})
    items = [
        {"device_id": one.device_id, "channel_id": one.channel_id, "exported_id": exported(way)}
        for way, one in yard.cameras.items()
    ]
    await yard.api("PUT", f"{path}/shares", {"items": items})
    for one in yard.cameras.values():
        await yard.chain.channel_online(one)


@pytest.mark.gb("G130", "G127")
@pytest.mark.parametrize("edition", [V16, V22], ids=["upper2016", "upper2022"])
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_questions_of_an_upper_reach_the_device_and_come_back_under_its_codes(
    yard: Yard, way: Way, edition: Edition
) -> None:
    upper, device, code = yard.upper if edition is V22 else yard.older, yard.cameras[way], exported(way)
    await shown(yard, upper)
    channel = device.condition.of(device.channel_id)
    channel.presets = {1: "gate", 2: "road", 9: "桥"}
    channel.home = HomePosition(enabled=1, reset_time=60, preset_index=9)
    channel.tracks = {0: Track("环湖", [1, 2], 7, 30)}
    channel.aim = PTZPositionResponse(pan=33.25, tilt=1.5, zoom=2.0)
    channel.recording, channel.guarded = True, True

    async def ask(query: type[Body], **fields: Any) -> Any:
        body = query(sn=upper.next_sn(), device_id=code, **fields)
        answer = await upper.ask(body, timeout_s=30)
        assert (answer.sn, answer.device_id) == (body.sn, code)
        return answer

    presets = await ask(PresetQuery)
    assert {item.preset_id: item.name for item in presets.presets} == channel.presets
    assert presets.sum_num == (3 if edition is V22 else None), "in the form of the upper's edition"
    status = await ask(DeviceStatusQuery)
    assert (status.online, status.result, status.record) == ("ONLINE", "OK", "ON")
    assert [(item.device_id, item.duty_status) for item in status.alarm_status] == [(code, "ONDUTY")]
    info = await ask(DeviceInfoQuery)
    assert (info.result, info.manufacturer, info.firmware) == ("OK", "Simulator", device.options.firmware)
    new = (
        (HomePositionQuery, {}),
        (CruiseTrackListQuery, {}),
        (CruiseTrackQuery, {"number": 0}),
        (PTZPositionQuery, {}),
        (SDCardStatusQuery, {}),
    )
    answers = {query: await ask(query, **fields) for query, fields in new}
    asked = {entry.body.cmd_type for entry in device.received if entry.body is not None}
    if way[0] is V16:
        assert all(body.extras.get("Result") == "ERROR" for body in answers.values()), "never silence"
        assert not asked & {query.CMD_TYPE for query, _ in new}
    else:
        assert answers[HomePositionQuery].home_position == channel.home
        assert [track.name for track in answers[CruiseTrackListQuery].tracks] == ["环湖"]
        assert [(p.preset_index, p.stay_time, p.speed) for p in answers[CruiseTrackQuery].points] == [
            (1, 30, 7), (2, 30, 7)
        ]  # fmt: skip
        assert (answers[PTZPositionQuery].pan, answers[PTZPositionQuery].zoom) == (33.25, 2.0)
        assert answers[SDCardStatusQuery].cards == device.condition.cards
    channel.recording, channel.guarded = False, False


@pytest.mark.gb("G130")
@pytest.mark.parametrize("way", [(V22, "udp")], ids=named)
async def test_an_upper_gets_an_error_when_the_device_stays_silent(yard: Yard, way: Way) -> None:
    upper, device, code = yard.upper, yard.cameras[way], exported(way)
    await shown(yard, upper)
    device.faults.lose_parts = {0}
    try:
        refused = await upper.ask(PresetQuery(sn=upper.next_sn(), device_id=code), timeout_s=30)
        assert refused.extras.get("Result") == "ERROR"
        status = await upper.ask(DeviceStatusQuery(sn=upper.next_sn(), device_id=code), timeout_s=30)
        assert isinstance(status, DeviceStatusResponse)
        assert (status.online, status.result) == ("ONLINE", "OK"), "our own evidence"
    finally:
        device.faults.lose_parts = set()


@pytest.mark.gb("G260", "G158")
@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_commands_of_an_upper_reach_the_device_and_their_results_come_back(
    yard: Yard, way: Way
) -> None:
    upper, device, code = yard.upper, yard.cameras[way], exported(way)
    await shown(yard, upper)
    channel = device.condition.of(device.channel_id)

    async def order(**fields: Any) -> str:
        body = DeviceControl(sn=upper.next_sn(), device_id=code, **fields)
        answer = await upper.ask(body, timeout_s=30)
        assert isinstance(answer, DeviceControlResponse)
        assert (answer.sn, answer.device_id) == (body.sn, code)
        return answer.result

    home = HomePosition(enabled=1, reset_time=90, preset_index=3)
    assert [
        await order(guard_cmd="SetGuard"),
        await order(record_cmd="Record"),
        await order(home_position=home),
    ] == ["OK", "OK", "OK"]
    assert (channel.guarded, channel.recording, channel.home) == (True, True, home)
    device.condition.results["guard_cmd"] = "ERROR"
    assert await order(guard_cmd="ResetGuard") == "ERROR"
    device.condition.results.clear()
    precise = PTZPrecise(pan=99.5)
    assert (
        await upper.send(DeviceControl(sn=upper.next_sn(), device_id=code, ptz_precise=precise))
    ).status == 200
    add = ptz.encode(ptz.Cruise(ptz.CruiseAction.ADD_POINT, 5, 2))
    named_track = DeviceControl(sn=upper.next_sn(), device_id=code, ptz_cmd=add, cruise_track_name="west")
    assert (await upper.send(named_track)).status == 200
    await device.wait(lambda: 5 in channel.tracks, 30)
    if way[0] is V16:
        assert channel.tracks[5].name == "track 5", "names are told to devices of 2022 only"
        assert channel.aim.pan != 99.5
    else:
        assert channel.tracks[5].name == "west"
        await device.wait(lambda: channel.aim.pan == 99.5, 30)
    channel.guarded = channel.recording = False

    wanted = DeviceUpgrade(
        firmware="11.0", file_url="http://192.0.2.4/f", manufacturer="M", session_id=secrets.token_hex(20)
    )
    device.condition.upgrade_takes_s = 0.1
    accepted = await order(device_upgrade=wanted)
    assert accepted == ("OK" if way[0] is V22 else "ERROR")
    if way[0] is V22:

        def told() -> list[DeviceUpgradeResultNotify]:
            return [b for b, _ in upper.messages if isinstance(b, DeviceUpgradeResultNotify)]

        await upper.wait(lambda: [n for n in told() if n.session_id == wanted.session_id], 60)
        (result,) = [n for n in told() if n.session_id == wanted.session_id]
        assert (result.device_id, result.upgrade_result, result.firmware) == (code, "OK", "11.0")
        job = await yard.api("GET", f"/api/upgrades/{wanted.session_id}")
        assert job["who"].startswith(f"platform:{upper.platform_id}")


# -- speed -------------------------------------------------------------------------------------------------------


@pytest.mark.gb("G177")
async def test_ptz_is_passed_on_while_heartbeats_and_questions_come(yard: Yard) -> None:
    """From before the API call to the arrival at the camera, in this process's clock; half of them within 100 ms."""
    device, busy = yard.cameras[V22, "udp"], [yard.cameras[way] for way in WAYS[:3]]
    going = True

    async def load(one: Camera) -> None:
        while going:
            await one.registration.beat()
            await asyncio.sleep(0.02)

    async def questions() -> None:
        while going:
            await yard.api("GET", f"/api/devices/{busy[0].device_id}/status")

    async def moves() -> list[float]:
        took = []
        for number in range(20):
            device.ptz_log.clear()
            began = time.monotonic()
            order = {"command": "move", "pan": 1 if number % 2 else -1}
            await yard.api("POST", f"/api/channels/{device.channel_id}/ptz", order)
            await device.wait(lambda: device.ptz_log, 30)
            took.append(device.ptz_log[0][2] - began)
        return took

    tasks = [asyncio.create_task(load(one)) for one in busy]
    tasks.append(asyncio.create_task(questions()))
    rounds: list[list[float]] = []
    try:
        for _ in range(4):  # the machine may be busy with something else for a while
            rounds.append(await moves())
            if statistics.median(rounds[-1]) < 0.1:
                break
        await yard.api("POST", f"/api/channels/{device.channel_id}/ptz", {"command": "stop"})
    finally:
        going = False
        await asyncio.gather(*tasks)
    assert statistics.median(rounds[-1]) < 0.1, rounds
