"""Questions in several parts, and what becomes of commands: lists with holes, repeated parts, refusals, silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gateway_core import NVR, Core, ScriptedDevice, core

from config.settings import ControlSettings
from gateway.errors import NotSupported
from gateway.services.commands import Collected, DeviceCommands
from gateway.services.errors import ControlCause, ControlFailed
from sip.endpoint import Incoming, Reply
from sip.manscdp import (
    Body,
    DeviceControl,
    DeviceControlResponse,
    DeviceStatusQuery,
    DeviceStatusResponse,
    Edition,
    HomePositionQuery,
    HomePositionResponse,
    PresetItem,
    PresetQuery,
    PresetResponse,
)

QUICK = ControlSettings(answer_timeout_s=0.5, gap_timeout_s=0.2)
Answers = Callable[[Any, int], list[Body]]
"""Takes the question and how often one came before; returns the messages that answer it."""


class Desk:
    """A gateway, a registered device, and the commands between them."""

    def __init__(self, gateway: Core, device: ScriptedDevice) -> None:
        self.gateway, self.device = gateway, device
        self.audited: list[tuple[str, ...]] = []
        self.commands = DeviceCommands(
            settings=QUICK,
            registry=gateway.registry,
            asker=gateway.dispatch,
            audit=lambda *line: self.audited.append(line),
        )

    def answers(self, make: Answers) -> None:
        asked = 0

        def script(body: Body, incoming: Incoming) -> Reply:
            nonlocal asked
            parts = make(body, asked)
            asked += 1

            async def send() -> None:
                for part in parts:
                    await self.device.send(part)

            self.device.endpoint.spawn(send())
            return Reply(200)

        self.device.script = script

    async def presets(self) -> Collected[PresetResponse]:
        return await self.commands.collect(
            NVR, NVR, PresetQuery(), PresetResponse, items="presets", key=lambda preset: preset.preset_id
        )


@asynccontextmanager
async def desk(edition: Edition = Edition.V2022) -> AsyncIterator[Desk]:
    async with core() as gateway, ScriptedDevice(gateway.address, edition=edition) as device:
        await device.register()
        yield Desk(gateway, device)


def part(query: Any, numbers: Any, total: int | None = None) -> PresetResponse:
    items = [PresetItem(preset_id=number, name=f"p{number}") for number in numbers]
    return PresetResponse(sn=query.sn, device_id=NVR, sum_num=total, presets=items)


def numbers(found: Collected[PresetResponse]) -> list[int]:
    return sorted(item.preset_id for item in found.items)


@pytest.mark.gb("G128")
async def test_parts_of_one_sn_are_laid_together_and_repeated_ones_count_once() -> None:
    async with desk() as one:
        one.answers(
            lambda query, _: [
                part(query, range(1, 4), 6), part(query, range(1, 4), 6), part(query, range(4, 7), 6),
            ]
        )  # fmt: skip
        found = await one.presets()
        assert (numbers(found), found.complete, found.sum_num) == ([1, 2, 3, 4, 5, 6], True, 6)
        assert len(one.device.of(PresetQuery)) == 1


async def test_a_device_that_sends_another_subset_each_time_is_asked_again() -> None:
    """Over 200 presets some devices answer with a different part of them each time (also seen: W#1840)."""
    async with desk() as one:
        subsets = [range(1, 121), range(81, 201), range(150, 256)]
        one.answers(lambda query, times: [part(query, subsets[times], 255)])
        found = await one.presets()
        assert (len(found.items), found.complete, found.parts) == (255, True, 3)
        queries = one.device.of(PresetQuery)
        assert len({query.sn for query in queries}) == 3


async def test_a_list_that_stays_incomplete_says_so_and_is_not_asked_for_ever() -> None:
    async with desk() as one:
        one.answers(lambda query, _: [part(query, range(1, 4), 9)])
        found = await one.presets()
        assert (numbers(found), found.complete, found.sum_num) == ([1, 2, 3], False, 9)
        assert len(one.device.of(PresetQuery)) == 2, "asking again brought nothing new"


@pytest.mark.gb("G128")
async def test_without_a_total_the_list_ends_when_no_more_comes() -> None:
    async with desk(Edition.V2016) as one:
        one.answers(lambda query, _: [part(query, range(1, 3)), part(query, range(3, 5))])
        found = await one.presets()
        assert (numbers(found), found.complete, found.sum_num) == ([1, 2, 3, 4], True, None)
        assert len(one.device.of(PresetQuery)) == 1


async def test_an_empty_list_is_an_answer() -> None:
    async with desk() as one:
        one.answers(lambda query, _: [part(query, (), 0)])
        found = await one.presets()
        assert (found.items, found.complete) == ([], True)


@pytest.mark.gb("G131")
async def test_two_lists_at_once_do_not_mix_and_nothing_stays_open() -> None:
    async with desk() as one:
        one.answers(lambda query, _: [part(query, [query.sn % 200 + 1], 1)])
        first, second = await asyncio.gather(one.presets(), one.presets())
        assert {numbers(first)[0], numbers(second)[0]} == {
            query.sn % 200 + 1 for query in one.device.of(PresetQuery)
        }
        assert one.gateway.dispatch.desk.open_count == 0


@pytest.mark.gb("G158")
async def test_a_result_error_and_silence_name_what_was_said_last() -> None:
    async with desk() as one:
        one.answers(lambda body, _: [DeviceControlResponse(sn=body.sn, device_id=NVR, result="ERROR")])
        with pytest.raises(ControlFailed) as caught:
            await one.commands.order(
                NVR, NVR, DeviceControl(guard_cmd="SetGuard"), who="admin", action="device.guard"
            )
        assert caught.value.cause is ControlCause.REJECTED
        assert "last Result ERROR to DeviceControl" in caught.value.device_response
        one.answers(lambda body, _: [])
        with pytest.raises(ControlFailed) as caught:
            await one.commands.order(
                NVR, NVR, DeviceControl(record_cmd="Record"), who="admin", action="device.record"
            )
        assert (caught.value.cause, caught.value.status) == (ControlCause.NO_ANSWER, 504)
        assert caught.value.device_response.startswith("200 OK to RecordCmd; last Result ERROR")
        assert [line[3] for line in one.audited] == ["rejected", "no_answer"]
        assert one.gateway.dispatch.desk.open_count == 0


@pytest.mark.parametrize(
    ("status", "cause"),
    [(405, "not_supported"), (501, "not_supported"), (404, "rejected"), (503, "rejected")],
)
async def test_a_refused_message_tells_whether_the_command_is_unknown(status: int, cause: str) -> None:
    async with desk() as one:
        one.device.script = lambda body, incoming: Reply(status)
        with pytest.raises(ControlFailed) as caught:
            await one.commands.query(NVR, NVR, HomePositionQuery(), HomePositionResponse)
        assert caught.value.cause.value == cause
        assert caught.value.device_status == status


async def test_a_device_without_any_word_ends_in_504() -> None:
    async with core() as gateway, ScriptedDevice(gateway.address) as device:
        await device.register()
        one = Desk(gateway, device)

        async def never(body: Body, incoming: Incoming) -> Reply:
            await asyncio.sleep(3600)
            return Reply(200)

        device.script = never  # type: ignore[assignment]
        with pytest.raises(ControlFailed) as caught:
            await one.commands.query(NVR, NVR, DeviceStatusQuery(), DeviceStatusResponse)
        assert (caught.value.cause, caught.value.status) == (ControlCause.NO_ANSWER, 504)
        assert caught.value.device_response == "no SIP answer yet"


@pytest.mark.gb("G049")
@pytest.mark.parametrize(
    "control",
    [
        DeviceControl(format_sd_card=0),
        DeviceControl(target_track="Auto"),
        DeviceControl(ptz_precise={"pan": 1.0}),  # type: ignore[arg-type]
        DeviceControl(device_upgrade={"firmware": "1"}),  # type: ignore[arg-type]
    ],
    ids=lambda control: control.command,
)
async def test_parts_of_devicecontrol_that_2016_does_not_have_are_not_sent(control: DeviceControl) -> None:
    async with desk(Edition.V2016) as one:
        with pytest.raises(NotSupported, match=f"not supported by this device: {control.command} needs"):
            await one.commands.order(NVR, NVR, control, who="admin", action="test")
        assert one.device.received == []
        assert one.audited[0][3] == "not_supported"


async def test_unknown_and_offline_targets_are_refused_before_anything_is_sent() -> None:
    async with desk() as one:
        for device_id, channel_id in (("41018300001180000099",) * 2, (NVR, "41018300001310000404")):
            with pytest.raises(ControlFailed) as caught:
                await one.commands.query(device_id, channel_id, HomePositionQuery(), HomePositionResponse)
            assert caught.value.cause is ControlCause.NOT_FOUND
        one.gateway.registry.mark_offline(one.gateway.device(), "test")
        with pytest.raises(ControlFailed) as caught:
            await one.commands.query(NVR, NVR, HomePositionQuery(), HomePositionResponse)
        assert caught.value.cause is ControlCause.DEVICE_OFFLINE
        assert one.device.received == []
