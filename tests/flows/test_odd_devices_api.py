"""Oddities of devices through the real gateway's API: alarms with missing or foreign fields, queries refused with an error,
answers inside the 200, and what of it stands in the device's profile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import Chain, camera, chain
from outside import eventually

from simulator.camera import Camera, DeviceOptions, Faults
from sip.manscdp import CONTENT_TYPE, Edition

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
WAYS = [(V16, "udp"), (V22, "tcp")]


class Town:
    def __init__(self, running: Chain, cameras: dict[tuple[Edition, str], Camera]) -> None:
        self.chain, self.cameras = running, cameras

    async def api(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, answer = await asyncio.to_thread(self.chain.gateway.call, method, path, body)
        assert found == status, answer
        return answer

    async def seen(self, device: Camera) -> dict[str, int]:
        answer = await self.api("GET", f"/api/devices/{device.device_id}/profile")
        return {one["name"]: one["count"] for one in answer["observed"]}

    async def alarms(self, device: Camera) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.api("GET", f"/api/alarms?device_id={device.device_id}"))[
            "items"
        ]
        return items


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder: Path = tmp_path_factory.mktemp("odd")
    async with chain(folder, 0, overrides={"alarms": {"merge_s": 0.0}}) as running:
        cameras = {
            way: camera(
                running.gateway,
                200 + number,
                DeviceOptions(edition=way[0], transport=way[1]),  # type: ignore[arg-type]
                faults=Faults(),
            )
            for number, way in enumerate(WAYS)
        }
        try:
            for one in cameras.values():
                await one.start()
            for one in cameras.values():
                await one.wait_registered(30)
                await running.channel_online(one)
            yield Town(running, cameras)
        finally:
            await asyncio.gather(*(one.stop() for one in cameras.values()), return_exceptions=True)


@pytest.mark.quirk(25)
@pytest.mark.parametrize("way", WAYS, ids=["V2016-udp", "V2022-tcp"])
async def test_alarms_with_odd_fields_are_kept_whole(town: Town, way: tuple[Edition, str]) -> None:
    """A type with a method that has none, an empty description, fields of nobody's: mapped where known, dropped nowhere."""
    device = town.cameras[way]
    body = (
        "<Notify><CmdType>Alarm</CmdType><SN>{sn}</SN><DeviceID>{code}</DeviceID><AlarmPriority>1</AlarmPriority>"
        "<AlarmMethod>{method}</AlarmMethod><AlarmTime>2026-11-22T10:00:0{sn}</AlarmTime>{rest}</Notify>"
    )
    odd = [
        (2, "<AlarmDescription></AlarmDescription><Info><AlarmType>4</AlarmType></Info>"),
        (1, "<AlarmType>77</AlarmType><Make><Zone>3</Zone></Make>"),
        (9, "<Info><AlarmType>red</AlarmType></Info>"),
    ]
    for number, (method, rest) in enumerate(odd, 1):
        text = body.format(sn=number, code=device.channel_id, method=method, rest=rest)
        response = await device.send_raw(text.encode())
        assert response is not None
        assert response.status == 200

    async with asyncio.timeout(30):
        while len(found := await town.alarms(device)) < len(odd):
            await asyncio.sleep(0.1)
    details = [await town.api("GET", f"/api/alarms/{one['alarm_id']}") for one in found]
    by_method = {one["method"]: one for one in details}
    assert by_method[2]["alarm_type"] == 4
    assert by_method[1]["alarm_type"] == 77
    raws = " ".join(one["raw"] for one in details)
    for piece in (
        "<Zone>3</Zone>",
        "<AlarmType>77</AlarmType>",
        "<AlarmType>red</AlarmType>",
        "<AlarmMethod>9</AlarmMethod>",
    ):
        assert piece in raws


@pytest.mark.quirk(48)
@pytest.mark.parametrize("way", WAYS, ids=["V2016-udp", "V2022-tcp"])
async def test_a_refused_catalog_query_is_no_empty_catalog(town: Town, way: tuple[Edition, str]) -> None:
    """The channels stay, and the profile says that the query was refused, and with what."""
    device = town.cameras[way]
    device.faults.statuses["Catalog"] = 404
    try:
        async with asyncio.timeout(30):
            while "query_refused" not in await town.seen(device):
                # a collection that still runs is shared: then no question is asked
                await town.api("POST", f"/api/devices/{device.device_id}/catalog", {}, 202)
                await asyncio.sleep(0.5)
    finally:
        del device.faults.statuses["Catalog"]
    profile = await town.api("GET", f"/api/devices/{device.device_id}/profile")
    (refused,) = [one for one in profile["observed"] if one["name"] == "query_refused"]
    assert (refused["detail"], refused["quirk"]) == ("Catalog: 404", 48)
    assert (await town.api("GET", f"/api/channels/{device.channel_id}"))["online"] is True


@pytest.mark.quirk(45)
@pytest.mark.parametrize("way", WAYS, ids=["V2016-udp", "V2022-tcp"])
async def test_an_answer_inside_the_200_is_noted(town: Town, way: tuple[Edition, str]) -> None:
    device = town.cameras[way]
    device.faults.answer_in_200 = True
    try:
        await town.api("POST", f"/api/devices/{device.device_id}/catalog", {}, 202)
        async with asyncio.timeout(30):
            while "body_in_answer" not in await town.seen(device):
                await asyncio.sleep(0.1)
    finally:
        device.faults.answer_in_200 = False
    assert (await town.api("GET", f"/api/channels/{device.channel_id}"))["online"] is True


@pytest.mark.quirk(23)
async def test_a_channels_code_in_from_is_its_devices(town: Town) -> None:
    device = town.cameras[V16, "udp"]
    response = await device.endpoint.request(
        "MESSAGE",
        device.target,
        to=device.server_uri,
        sender=type(device.identity)(device.channel_id, device.domain),
        body=f"<Notify><CmdType>Odd</CmdType><SN>1</SN><DeviceID>{device.channel_id}</DeviceID></Notify>".encode(),
        content_type=CONTENT_TYPE,
    )
    assert response.status == 200
    assert (await town.seen(device))["foreign_from"] >= 1


@pytest.mark.quirk(41)
async def test_a_200_without_sdp_plays_and_is_noted(town: Town) -> None:
    """It dials us (TCP passive), so nothing is missing."""
    device = town.cameras[V22, "tcp"]
    device.faults.sdp = {"no_body"}
    try:
        await town.api("POST", f"/api/channels/{device.channel_id}/live?transport=tcp_passive", {})
    finally:
        device.faults.sdp = set()
    assert (await town.seen(device))["no_sdp"] == 1
    await eventually(lambda: device.calls.running, 20, "a call")
