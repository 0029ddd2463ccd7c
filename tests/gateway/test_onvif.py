"""ONVIF devices: found, asked for their streams, taken over as inputs, moved. Against a small camera of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_house import House, house
from onvif_camera import OnvifCamera, Profile

from gateway.clock import Clock
from gateway.events import EventBus
from gateway.model import Channel, Device, State
from gateway.model import Profile as DeviceProfile
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.control import Control
from gateway.services.errors import ControlCause, ControlFailed
from gateway.services.inputs_record import Input, OnvifAccess
from gateway.services.onvif import Onvif, OnvifFailed, OnvifMissing
from gateway.services.onvif_discovery import discover, parse_matches
from sip.ptz import STOP, Auxiliary, Move, Preset, PresetAction

BIG = Profile("big", 1920, 1080, "rtsp://127.0.0.1:8554/big")
SMALL = Profile("small", 640, 360, "rtsp://127.0.0.1:8554/small")
JPEG = Profile("jpeg", 3840, 2160, "rtsp://127.0.0.1:8554/jpeg", "JPEG")
SERVER = "41018300002000000001"


@pytest.fixture
async def camera() -> AsyncIterator[OnvifCamera]:
    async with OnvifCamera([SMALL, JPEG, BIG]) as running:
        yield running


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built
        await built.onvif.close()


def record(camera: OnvifCamera, *, ptz: bool = True) -> Input:
    return Input(
        "41018300001320900001", "41018300001180900001", "rtsp", "Dome", BIG.url, camera.username, camera.password,
        onvif=OnvifAccess("127.0.0.1", camera.port, "big", ptz),
    )  # fmt: skip


async def test_devices_are_found_by_probe(camera: OnvifCamera) -> None:
    where = await camera.answer_discovery()
    found = await discover(1.2, interface="127.0.0.1", group=where)
    assert len(found) == 1  # two probes, one device
    device = found[0]
    assert (device.host, device.port, device.address) == ("127.0.0.1", camera.port, camera.address)
    assert (device.name, device.hardware, device.location) == ("Dome 4", "D4", "gate")


def test_damaged_and_hostile_answers_are_left_out() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'
    for data in (b"", b"<a", bomb, b"\xff" * 100, b"<a/>" * 50_000):
        assert parse_matches(data, "192.0.2.1") == []


@pytest.mark.parametrize("ahead_s", [None, -7200.0])
async def test_a_device_tells_its_pictures_largest_first(camera: OnvifCamera, ahead_s: float | None) -> None:
    camera.ahead_s = ahead_s
    onvif = Onvif(find=lambda *key: None)
    device = await onvif.describe("127.0.0.1", camera.port, camera.username, camera.password)
    assert (device.manufacturer, device.model, device.ptz) == ("Example", "Dome 4", True)
    assert [(p.token, p.width, p.url) for p in device.profiles] == [
        ("big", 1920, BIG.url),
        ("small", 640, SMALL.url),
    ]


async def test_refusals_and_silence_are_told_apart(camera: OnvifCamera) -> None:
    onvif = Onvif(find=lambda *key: None, timeout_s=10.0)
    with pytest.raises(OnvifFailed) as refused:
        await onvif.describe("127.0.0.1", camera.port, camera.username, "wrong-Geheim")
    assert refused.value.cause == "refused"
    assert "Geheim" not in str(refused.value)
    async with OnvifCamera([BIG]) as gone:
        pass
    with pytest.raises(OnvifFailed) as unreachable:
        await onvif.describe("127.0.0.1", gone.port, "admin", "x")
    assert unreachable.value.cause == "unreachable"
    camera.silent = True
    with pytest.raises(OnvifFailed) as silent:
        await Onvif(find=lambda *key: None, timeout_s=0.5).describe("127.0.0.1", camera.port, "admin", "x")
    assert silent.value.cause == "unreachable"


async def test_movements_stops_and_presets(camera: OnvifCamera) -> None:
    moved = record(camera)
    onvif = Onvif(find=lambda *key: moved if key == moved.key else None)
    await onvif.ptz(*moved.key, Move(-1, 1, 1, 128, 255, 15))
    name, asked = camera.done[-1]
    assert (name, asked["ProfileToken"]) == ("ContinuousMove", "big")
    assert float(asked["PanTilt"]["x"]) == pytest.approx(-128 / 255)
    assert (float(asked["PanTilt"]["y"]), float(asked["Zoom"]["x"])) == (1.0, 1.0)
    await onvif.ptz(*moved.key, STOP)
    assert camera.done[-1][0] == "Stop"
    await onvif.ptz(*moved.key, Preset(PresetAction.SET, 7), preset_name="north gate")
    assert "GB7 north gate" in camera.presets.values()
    await onvif.ptz(*moved.key, Preset(PresetAction.CALL, 7))
    assert camera.presets[camera.done[-1][1]["PresetToken"]] == "GB7 north gate"
    await onvif.ptz(*moved.key, Preset(PresetAction.CALL, 2))
    assert camera.done[-1][1]["PresetToken"] == "2"  # the camera's own preset
    await onvif.ptz(*moved.key, Preset(PresetAction.SET, 7), preset_name="gate")
    assert sorted(camera.presets.values()) == ["GB7 gate", "door", "gate"]
    await onvif.ptz(*moved.key, Preset(PresetAction.DELETE, 7))
    assert sorted(camera.presets.values()) == ["door", "gate"]
    with pytest.raises(ControlFailed) as missing:
        await onvif.ptz(*moved.key, Preset(PresetAction.CALL, 9))
    assert missing.value.cause is ControlCause.REJECTED
    with pytest.raises(ControlFailed) as lights:
        await onvif.ptz(*moved.key, Auxiliary(1, True))
    assert lights.value.cause is ControlCause.NOT_SUPPORTED
    assert await onvif.key_frame(*moved.key)
    assert camera.done[-1][0] == "SetSynchronizationPoint"
    assert camera.operations().count("GetServices") == 2  # one connection is kept; the refusal made another
    await onvif.close()


async def test_a_forgotten_movement_is_stopped_by_the_watchdog(camera: OnvifCamera) -> None:
    """The same rules as for any camera: what is not renewed is stopped."""
    moved = record(camera)
    registry = Registry(bus=EventBus(), clock=Clock())
    registry.put_device(Device(moved.device_id, state=State.ONLINE, profile=DeviceProfile(local=True)))
    registry.put_channel(Channel(*moved.key, reported="ON"))
    control = Control(registry=registry, sender=None, hold_s=0.3)  # type: ignore[arg-type]
    control.local = onvif = Onvif(find=lambda *key: moved if key == moved.key else None)
    await control.ptz(*moved.key, Move(1, 0, 0, 100, 0, 0), "somebody")
    async with asyncio.timeout(20):
        while "Stop" not in camera.operations():
            await asyncio.sleep(0.05)
    assert control.watchdog_stops == 1
    moved.onvif = None
    with pytest.raises(ControlFailed) as fixed:
        await control.ptz(*moved.key, Move(1, 0, 0, 100, 0, 0), "somebody")
    assert fixed.value.cause is ControlCause.NOT_SUPPORTED
    assert control.moving(*moved.key) == ""
    await control.close()
    await onvif.close()


async def test_an_onvif_device_is_entered_as_an_input(home: House, camera: OnvifCamera) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    wish = {
        "host": "127.0.0.1",
        "port": camera.port,
        "username": camera.username,
        "password": camera.password,
    }
    probed = await admin.json("POST", "/api/onvif/probe", json=wish)
    assert [profile["token"] for profile in probed["profiles"]] == ["big", "small"]
    body = {
        "username": camera.username,
        "password": camera.password,
        "onvif": {"host": "127.0.0.1", "port": camera.port},
    }
    view = await admin.json("POST", "/api/inputs", 201, json=body)
    assert (view["url"], view["sub_url"]) == (BIG.url, SMALL.url)
    assert (view["name"], view["manufacturer"], view["model"]) == ("Example Dome 4", "Example", "Dome 4")
    assert view["onvif"] == {"host": "127.0.0.1", "port": camera.port, "profile": "big", "ptz": True}
    channel = home.registry.find_channels(view["channel_id"])[0]
    assert channel.ptz_type == 1
    picked = {**body, "onvif": {"host": "127.0.0.1", "port": camera.port, "profile": "small"}}
    other = await admin.json("POST", "/api/inputs", 201, json=picked)
    assert (other["url"], other["sub_url"]) == (SMALL.url, "")
    picked["onvif"]["profile"] = "none"
    await admin.json("POST", "/api/inputs", 409, json=picked)


async def test_without_the_package_the_api_says_how_to_install_it(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Onvif, "installed", staticmethod(lambda: False))
    admin = await home.as_role(Role.ADMINISTRATOR)
    for path, body in (
        ("/api/onvif/discover", {"seconds": 1}),
        ("/api/onvif/probe", {"host": "127.0.0.1"}),
        ("/api/inputs", {"onvif": {"host": "127.0.0.1"}}),
    ):
        problem = await admin.json("POST", path, 501, json=body)
        assert problem["cause"] == "not_installed"
        assert "pip install" in problem["detail"]
    with pytest.raises(OnvifMissing):
        await home.onvif.describe("127.0.0.1", 80, "", "")
