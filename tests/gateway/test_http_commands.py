"""Who may ask and command devices over HTTP, and what is refused before it gets near a device."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from http_house import CAMERA, NVR, House, house

from gateway.services.access import Role

BOX = {"length": 9, "width": 9, "mid_point_x": 1, "mid_point_y": 1, "length_x": 1, "length_y": 1}
UPGRADE = {"firmware": "2", "file_url": "http://192.0.2.1/f", "manufacturer": "M"}
ASKING = [
    f"/api/devices/{NVR}/info",
    f"/api/devices/{NVR}/status",
    f"/api/devices/{NVR}/sd-cards",
    f"/api/channels/{CAMERA}/presets",
    f"/api/channels/{CAMERA}/home-position",
    f"/api/channels/{CAMERA}/cruise-tracks",
    f"/api/channels/{CAMERA}/cruise-tracks/0",
    f"/api/channels/{CAMERA}/aim",
]
OPERATORS: list[tuple[str, str, Any]] = [
    *(("GET", path, None) for path in ASKING),
    ("POST", f"/api/devices/{NVR}/reboot", None),
    ("POST", f"/api/channels/{CAMERA}/device-recording", {"recording": True}),
    ("POST", f"/api/channels/{CAMERA}/guard", {"guarded": True}),
    ("POST", f"/api/channels/{CAMERA}/drag-zoom", BOX),
    ("PUT", f"/api/channels/{CAMERA}/home-position", {"enabled": False}),
    ("PUT", f"/api/channels/{CAMERA}/aim", {"pan": 1}),
    ("POST", f"/api/channels/{CAMERA}/target-track", {"mode": "stop"}),
]
ADMINISTRATORS: list[tuple[str, str, Any]] = [
    ("POST", f"/api/devices/{NVR}/sd-cards/format", {"card": 0}),
    ("POST", f"/api/devices/{NVR}/upgrades", UPGRADE),
]


@pytest_asyncio.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    """A device that is known but offline: whoever gets through to it is told so."""
    async with house(tmp_path) as built:
        built.add_device(online=False)
        built.add_channel()
        yield built


async def ask(home: House, role: Role, order: tuple[str, str, Any]) -> tuple[int, str]:
    method, path, body = order
    logged = await home.as_role(role)
    response = await logged.ask(method, path, **({"json": body} if body is not None else {}))
    return response.status, (await response.json(content_type=None))["cause"]


@pytest.mark.parametrize("order", OPERATORS, ids=lambda order: f"{order[0]} {order[1].rpartition('/')[2]}")
async def test_operators_ask_and_command_and_viewers_do_not(home: House, order: tuple[str, str, Any]) -> None:
    assert await ask(home, Role.VIEWER, order) == (403, "role_too_low")
    assert await ask(home, Role.OPERATOR, order) == (409, "device_offline")


@pytest.mark.parametrize("order", ADMINISTRATORS, ids=lambda order: order[1].rpartition("/")[2])
async def test_what_destroys_needs_an_administrator(home: House, order: tuple[str, str, Any]) -> None:
    assert await ask(home, Role.OPERATOR, order) == (403, "role_too_low")
    assert await ask(home, Role.ADMINISTRATOR, order) == (409, "device_offline")


@pytest.mark.parametrize("path", ASKING)
async def test_unknown_devices_and_channels(home: House, path: str) -> None:
    path = path.replace(NVR, "41018300001180000404").replace(CAMERA, "41018300001310000404")
    assert await ask(home, Role.OPERATOR, ("GET", path, None)) == (404, "not_found")
    other = f"/api/devices/{NVR}/status?channel_id=41018300001310000404"
    assert await ask(home, Role.OPERATOR, ("GET", other, None)) == (404, "not_found")


async def test_an_upgrade_that_could_not_be_ordered_is_listed_with_its_end(home: House) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    await admin.json("POST", f"/api/devices/{NVR}/upgrades", 409, json=UPGRADE)
    (job,) = (await admin.json("GET", f"/api/upgrades?device_id={NVR}"))["items"]
    assert (job["state"], job["firmware"]) == ("refused", "2")
    shown = await admin.json("GET", f"/api/upgrades/{job['session_id']}")
    assert shown == job
    await admin.json("GET", "/api/upgrades/0123", 404)
    assert (await admin.json("GET", "/api/upgrades?device_id=41018300001180000404"))["items"] == []
