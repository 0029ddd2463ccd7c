"""Every question and command through the real gateway: simulated cameras of both editions over UDP and TCP, ordered by the
HTTP API, and the same again from upper platforms of both editions."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import Chain, camera, chain
from gateway_process import GatewayProcess
from outside import eventually, series
from live_events import listening

from simulator.camera import Camera, DeviceOptions
from simulator.upper_platform import UpperPlatform
from sip import ptz
from sip.manscdp import (
    Body,
    DeviceControl,
    Edition,
    PTZPositionResponse,
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

    async def audited(self, action: str) -> dict[str, Any]:
        """The newest audit line of that action."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            _, answer = self.gateway.call("GET", "/api/audit?limit=100")
            found[:] = [entry for entry in answer["items"] if entry["action"] == action]
            return bool(found)

        await eventually(there, 30, f"audit line {action}")
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
    device.condition.format_takes_s = 3.0
    done = await yard.api("POST", f"{path}/format", {"card": 0})
    assert done["command"] == "FormatSDCard"
    await eventually(lambda: device.condition.cards[0].status == "formatting", 30)
    (card,) = (await yard.api("GET", path))["items"]
    assert card["status"] == "formatting"
    assert card["format_progress"] in (0, 50)
    await eventually(lambda: device.condition.cards[0].status == "ok", 30)
    (card,) = (await yard.api("GET", path))["items"]
    assert (card["status"], card["free_mb"], card["format_progress"]) == ("ok", 65536, None)
    assert (await yard.audited("device.format_card"))["detail"] == "card 0"
