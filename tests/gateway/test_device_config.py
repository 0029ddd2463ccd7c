"""Configuration of devices against scripted ones: answers in parts, our own timers, and what is never sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_core import CAMERA, Core, ScriptedDevice, core

from config.settings import DeviceConfigSettings
from gateway.clock import ManualClock
from gateway.errors import NotSupported
from gateway.events import DeviceOffline
from gateway.model import DeviceKind
from gateway.services.device_config import DeviceConfiguration, told
from gateway.services.errors import ControlCause, ControlFailed
from sip.endpoint import Incoming, Reply
from sip.manscdp import (
    BasicParam,
    Body,
    ConfigDownloadQuery,
    ConfigDownloadResponse,
    DeviceConfig,
    DeviceConfigResponse,
    Edition,
    EncodeSurveillanceParam,
    KeepaliveNotify,
    OSDConfig,
    SnapShotConfig,
    SVACEncodeConfig,
    VideoParam,
)
from sip.manscdp.base import foreign_fields

QUICK = DeviceConfigSettings(answer_timeout_s=5.0, gap_timeout_s=0.2)
CHANNEL = "41018300001310000001"


def service(gateway: Core, settings: DeviceConfigSettings = QUICK) -> DeviceConfiguration:
    return DeviceConfiguration(
        settings=settings,
        registry=gateway.registry,
        asker=gateway.dispatch,
        timers=gateway.liveness,
        clock=gateway.clock,
    )


def answers(device: ScriptedDevice, *parts: dict[str, Any]) -> None:
    """Answer each ConfigDownload with these Responses, each DeviceConfig with OK."""

    def script(body: Body, incoming: Incoming) -> Reply:
        async def send() -> None:
            for part in parts:
                answer = ConfigDownloadResponse(sn=body.sn, device_id=body.device_id, **part)
                await device.send(answer)
            if isinstance(body, DeviceConfig):
                await device.send(DeviceConfigResponse(sn=body.sn, device_id=body.device_id))

        if isinstance(body, ConfigDownloadQuery | DeviceConfig):
            device.endpoint.spawn(send())
        return Reply(200)

    device.script = script


@pytest.mark.gb("G132")
async def test_parts_are_laid_together_until_all_types_came() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address, CAMERA) as device:
        await device.register()
        answers(
            device,
            {"frame_mirror": 0},
            {"basic_param": BasicParam(name="Gate")},
            {"video_params": [VideoParam(stream_number=0)]},
        )
        types = ("BasicParam", "VideoParamAttribute", "FrameMirror")
        reading = await service(gateway).read(CAMERA, CAMERA, types)
        assert (reading.complete, reading.responses) == (True, 3)
        assert reading.values["FrameMirror"] == 0, "a zero is an answer"
        (query,) = device.of(ConfigDownloadQuery)
        assert query.config_types == types


async def test_an_answer_that_stops_is_told_as_it_is() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address, CAMERA) as device:
        await device.register()
        answers(device, {"osd": OSDConfig(length=1280)})
        reading = await service(gateway).read(CAMERA, CAMERA, ("OSDConfig", "AlarmReport"))
        assert (reading.complete, reading.missing) == (False, ("AlarmReport",))
        answers(device, {"result": "ERROR"})
        with pytest.raises(ControlFailed) as refused:
            await service(gateway).read(CAMERA, CAMERA, ("OSDConfig", "AlarmReport"))
        assert refused.value.cause is ControlCause.REJECTED


async def test_silence_ends_with_what_the_device_said_last() -> None:
    clock = ManualClock()
    async with core(clock=clock) as gateway, ScriptedDevice(gateway.address, CAMERA) as device:
        await device.register()
        quick = DeviceConfigSettings(answer_timeout_s=0.2)
        with pytest.raises(ControlFailed) as silent:
            await service(gateway, quick).read(CAMERA, CAMERA, ("BasicParam",))
        assert silent.value.cause is ControlCause.NO_ANSWER
        assert silent.value.status == 504
        assert "200 OK" in silent.value.device_response
        assert gateway.dispatch.desk.open_count == 0, "its SN is free again"


@pytest.mark.gb("G180")
async def test_our_timers_follow_a_changed_heartbeat() -> None:
    """60 s x 3 became 30 s x 5: judged after 150 s, not after 180."""
    clock = ManualClock()
    async with core(clock=clock) as gateway, ScriptedDevice(gateway.address, CAMERA) as device:
        await device.register()
        answers(device)
        basic = BasicParam(heartbeat_interval=30, heartbeat_count=5)
        await service(gateway).write(CAMERA, CAMERA, "BasicParam", basic)
        await device.send(KeepaliveNotify(sn=1, device_id=CAMERA))
        clock.advance(149)
        gateway.liveness.sweep(clock.mono())
        assert gateway.device(CAMERA).online
        clock.advance(1)
        gateway.liveness.sweep(clock.mono())
        await asyncio.sleep(0)
        assert [event.cause for event in gateway.events(DeviceOffline)] == ["heartbeat_lost"]
        assert (gateway.device(CAMERA).heartbeat_interval_s, gateway.device(CAMERA).heartbeat_count) == (
            30,
            5,
        )


@pytest.mark.gb("G180")
async def test_a_longer_heartbeat_is_waited_for_and_a_refused_one_changes_nothing() -> None:
    clock = ManualClock()
    async with core(clock=clock) as gateway, ScriptedDevice(gateway.address, CAMERA) as device:
        await device.register()

        def refuses(body: Body, incoming: Incoming) -> Reply:
            answer = DeviceConfigResponse(sn=body.sn, device_id=body.device_id, result="ERROR")
            device.endpoint.spawn(device.send(answer))
            return Reply(200)

        device.script = refuses
        with pytest.raises(ControlFailed):
            await service(gateway).write(CAMERA, CAMERA, "BasicParam", BasicParam(heartbeat_interval=300))
        assert gateway.device(CAMERA).heartbeat_interval_s == 60
        answers(device)
        await service(gateway).write(CAMERA, CAMERA, "BasicParam", BasicParam(heartbeat_interval=300))
        await device.send(KeepaliveNotify(sn=1, device_id=CAMERA))
        clock.advance(899)
        gateway.liveness.sweep(clock.mono())
        assert gateway.device(CAMERA).online
        clock.advance(2)
        gateway.liveness.sweep(clock.mono())
        assert not gateway.device(CAMERA).online


async def test_the_heartbeat_of_a_recorders_channel_is_not_ours() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address, CAMERA) as device:
        await device.register()
        gateway.device(CAMERA).kind = DeviceKind.RECORDER
        answers(device)
        await service(gateway).write(CAMERA, CHANNEL, "BasicParam", BasicParam(heartbeat_interval=300))
        assert gateway.device(CAMERA).heartbeat_interval_s == 60


@pytest.mark.gb("G049")
async def test_nothing_leaves_for_a_device_that_would_not_know_it() -> None:
    async with (
        core() as gateway,
        ScriptedDevice(gateway.address, CAMERA, edition=Edition.V2016) as device,
    ):
        await device.register()
        configuration = service(gateway)
        flags = SVACEncodeConfig(surveillance=EncodeSurveillanceParam(ai_flag=0))
        for kind, value in (("FrameMirror", 1), ("SVACEncodeConfig", flags), ("VideoParamOpt", 1)):
            with pytest.raises(NotSupported):
                await configuration.write(CAMERA, CAMERA, kind, value)
        with pytest.raises(NotSupported):
            await configuration.read(CAMERA, CAMERA, ("BasicParam", "OSDConfig"))
        with pytest.raises(NotSupported):
            await configuration.pass_on(CAMERA, DeviceConfig(device_id=CAMERA, frame_mirror=0))
        assert device.of(ConfigDownloadQuery) + device.of(DeviceConfig) == []


def test_foreign_elements_are_found_at_any_depth() -> None:
    both = SVACEncodeConfig(surveillance=EncodeSurveillanceParam(time_flag=1, event_flag=0, osd_flag=1))
    assert foreign_fields(both, Edition.V2022) == ["EventFlag"]
    assert foreign_fields(both, Edition.V2016) == ["OSDFlag"]
    assert foreign_fields(BasicParam(name="x"), Edition.V2022) == []


def test_the_audit_log_gets_no_upload_address() -> None:
    text = told("SnapShotConfig", SnapShotConfig(upload_url="http://192.0.2.1/ticket", session_id="s" * 32))
    assert "ticket" not in text
    assert "ssss" not in text
    assert "'snap_num': 1" in text
