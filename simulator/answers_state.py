"""What a simulated device tells of itself and what commands change in it: information, status, guard, record, cards."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from simulator.answer_table import answers, carries_out
from sip.ids import TypeKind, kind_of
from sip.manscdp import (
    AlarmStatusItem,
    Body,
    DeviceControl,
    DeviceInfoQuery,
    DeviceInfoResponse,
    DeviceStatusQuery,
    DeviceStatusResponse,
    DeviceUpgrade,
    DeviceUpgradeResultNotify,
    Edition,
    SDCardStatusQuery,
    SDCardStatusResponse,
)

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice


@answers(DeviceInfoQuery)
def device_info(device: SimulatedDevice, query: DeviceInfoQuery) -> list[Body]:
    return [
        DeviceInfoResponse(
            sn=query.sn,
            device_id=query.device_id or device.device_id,
            device_name=device.name,
            manufacturer=device.options.manufacturer,
            model=device.options.model,
            firmware=device.options.firmware,
            channel=sum(channel.has_pictures for channel in device.channels.values()),
        )
    ]


@answers(DeviceStatusQuery)
def device_status(device: SimulatedDevice, query: DeviceStatusQuery) -> list[Body]:
    channel = device.channels.get(query.device_id)
    known = channel is not None or query.device_id in ("", device.device_id)
    online = known and (channel is None or channel.status != "OFF")
    told = query.device_id or device.device_id
    return [
        DeviceStatusResponse(
            sn=query.sn,
            device_id=told,
            result="OK" if known else "ERROR",
            online="ONLINE" if online else "OFFLINE",
            status="OK" if known else "ERROR",
            encode="ON",
            record="ON" if _recording(device, told) else "OFF",
            device_time=datetime.now(UTC),
            alarm_status=_duties(device, told),
        )
    ]


def _recording(device: SimulatedDevice, code: str) -> bool:
    """The device itself counts as recording when any of its channels does."""
    channels = device.condition.channels
    if code == device.device_id:
        return any(channel.recording for channel in channels.values())
    return code in channels and channels[code].recording


def _duties(device: SimulatedDevice, code: str) -> list[AlarmStatusItem]:
    """Alarm inputs and whatever was ever put on or off guard; one that waits for its reset says ALARM."""
    found = []
    for channel_id in dict.fromkeys([*device.channels, *device.condition.channels]):
        guarded = device.condition.of(channel_id).guarded
        is_input = kind_of(channel_id) is TypeKind.ALARM
        if (guarded is None and not is_input) or code not in (device.device_id, channel_id):
            continue
        duty = "ONDUTY" if guarded else "OFFDUTY"
        if channel_id in device.notices.silent:
            duty = "ALARM"
        found.append(AlarmStatusItem(device_id=channel_id, duty_status=duty))
    return found


@answers(SDCardStatusQuery)
def sd_cards(device: SimulatedDevice, query: SDCardStatusQuery) -> list[Body]:
    if device.edition is Edition.V2016:
        return []
    cards = list(device.condition.cards)
    return [SDCardStatusResponse(sn=query.sn, device_id=query.device_id, sum_num=len(cards), cards=cards)]


@carries_out("teleboot")
def reboot(device: SimulatedDevice, body: DeviceControl) -> str:
    """The device comes back under a new registration."""
    device.condition.boots.append(datetime.now(UTC))
    device.registration.again()
    return "OK"


@carries_out("record_cmd")
def record(device: SimulatedDevice, body: DeviceControl) -> str:
    device.condition.of(body.device_id).recording = body.record_cmd == "Record"
    return "OK"


@carries_out("guard_cmd")
def guard(device: SimulatedDevice, body: DeviceControl) -> str:
    device.condition.of(body.device_id).guarded = body.guard_cmd == "SetGuard"
    return "OK"


@carries_out("alarm_cmd")
def reset_alarm(device: SimulatedDevice, body: DeviceControl) -> str:
    return device.notices.control(body)


@carries_out("drag_zoom_in")
@carries_out("drag_zoom_out")
def drag_zoom(device: SimulatedDevice, body: DeviceControl) -> str:
    device.condition.zooms.append(body)
    return "OK"


@carries_out("format_sd_card")
def format_card(device: SimulatedDevice, body: DeviceControl) -> str:
    """0 means all cards. A card says how far it is, and is empty in the end."""
    device.endpoint.spawn(_format(device, body.format_sd_card or 0))
    return "OK"


async def _format(device: SimulatedDevice, number: int) -> None:
    condition = device.condition
    for status, progress in (("formatting", 0), ("formatting", 50), ("ok", None)):
        condition.cards = [
            card.model_copy(
                update={
                    "status": status,
                    "format_progress": progress,
                    "free_space": card.capacity if status == "ok" else 0,
                }
            )
            if number in (0, card.id)
            else card
            for card in condition.cards
        ]
        if progress is not None:
            await asyncio.sleep(condition.format_takes_s / 2)


@carries_out("device_upgrade")
def upgrade(device: SimulatedDevice, body: DeviceControl) -> str:
    """Says OK, then installs, registers anew and tells how it went (9.13)."""
    wanted = body.device_upgrade
    if wanted is None or not wanted.file_url or device.edition is Edition.V2016:
        return "ERROR"
    device.endpoint.spawn(_install(device, body.device_id, wanted))
    return "OK"


async def _install(device: SimulatedDevice, told_id: str, wanted: DeviceUpgrade) -> None:
    condition = device.condition
    failure = condition.upgrade_failure
    await asyncio.sleep(condition.upgrade_takes_s)
    if not failure:
        device.options.firmware = wanted.firmware
        device.registration.again()
        await device.registration.registered.wait()
    await device.send(
        DeviceUpgradeResultNotify(
            sn=device.next_sn(),
            device_id=told_id,
            session_id=wanted.session_id,
            upgrade_result="ERROR" if failure else "OK",
            firmware=device.options.firmware,
            failed_reason=failure,
        )
    )
