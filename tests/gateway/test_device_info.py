"""What a device tells about itself when it comes online, and the interpreter settings around large catalogs."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest
from gateway_core import NVR, ScriptedDevice, core, until

from gateway.events import CatalogCollected, DeviceRegistered, EventBus
from gateway.runtime import Runtime
from gateway.services.device_info import DeviceInfoService
from sip.endpoint import Incoming, Reply
from sip.manscdp import Body, DeviceInfoQuery


def answering(device: ScriptedDevice) -> None:
    """Result last, MaxCamera of 2011 and an element nobody knows, as cameras write it."""

    def script(body: Body, incoming: Incoming) -> Reply:
        text = (
            f"<Response><CmdType>DeviceInfo</CmdType><SN>{body.sn}</SN><DeviceID>{NVR}</DeviceID>"
            "<DeviceName>Recorder</DeviceName><Manufacturer>Example</Manufacturer><Model>R-16</Model>"
            "<Firmware>V1.2</Firmware><MaxCamera>16</MaxCamera><Colour>grey</Colour><Result>OK</Result></Response>"
        )
        device.endpoint.spawn(device.send_bytes(text.encode()))
        return Reply(200)

    device.script = script


@pytest.mark.gb("G123")
async def test_a_new_device_is_asked_once() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address) as device:
        service = DeviceInfoService(
            registry=gateway.registry, bus=gateway.bus, dispatch=gateway.dispatch, spread_s=0
        )
        service.start()
        answering(device)
        await device.register()
        await until(lambda: gateway.device().manufacturer)
        known = gateway.device()
        assert (known.name, known.manufacturer, known.model, known.firmware) == (
            "Recorder",
            "Example",
            "R-16",
            "V1.2",
        )
        await device.register()
        await until(lambda: len(gateway.events(DeviceRegistered)) == 2)
        await asyncio.sleep(0.05)
        assert len(device.of(DeviceInfoQuery)) == 1
        await service.close()


async def test_a_name_given_by_an_operator_is_kept() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address) as device:
        service = DeviceInfoService(registry=gateway.registry, bus=gateway.bus, dispatch=gateway.dispatch)
        answering(device)
        await device.register()
        gateway.registry.update_device(NVR, name="Town hall")
        await service.refresh(gateway.device())
        assert gateway.device().name == "Town hall"
        assert gateway.device().model == "R-16"


async def test_a_device_that_does_not_tell_is_left_as_it_is() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address) as device:
        service = DeviceInfoService(
            registry=gateway.registry, bus=gateway.bus, dispatch=gateway.dispatch, spread_s=0
        )
        service.start()
        device.script = lambda body, incoming: Reply(404)
        await device.register()
        await until(lambda: device.of(DeviceInfoQuery))
        await until(lambda: not service._tasks)
        assert gateway.device().manufacturer == ""
        await service.close()


async def test_the_collector_is_spared_the_registry_and_put_back_as_it_was() -> None:
    before = (sys.getswitchinterval(), gc.get_threshold(), gc.get_freeze_count())
    bus = EventBus()
    runtime = Runtime(bus)
    runtime.start()
    try:
        frozen = gc.get_freeze_count()
        kept = [{"number": number, "more": [number]} for number in range(5000)]
        bus.publish(CatalogCollected(NVR, 1, True, 999))
        await asyncio.sleep(0)
        assert gc.get_freeze_count() <= frozen  # too little to bother
        bus.publish(CatalogCollected(NVR, 1, True, 1))
        await asyncio.sleep(0)
        assert gc.get_freeze_count() > frozen + len(kept)
    finally:
        runtime.close()
        runtime.close()
    assert (sys.getswitchinterval(), gc.get_threshold()) == before[:2]
