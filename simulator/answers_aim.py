"""What a simulated camera answers about where it looks: presets, home position, cruise tracks, pan and tilt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.answer_table import answers, carries_out
from sip import ptz
from sip.manscdp import (
    Body,
    CruiseTrackItem,
    CruiseTrackListQuery,
    CruiseTrackListResponse,
    CruiseTrackQuery,
    CruiseTrackResponse,
    DeviceControl,
    Edition,
    HomePosition,
    HomePositionQuery,
    HomePositionResponse,
    PresetItem,
    PresetQuery,
    PresetResponse,
    PTZPositionNotify,
    PTZPositionQuery,
)

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

PRESETS_PER_PART = 100


@answers(PresetQuery)
def presets(device: SimulatedDevice, query: PresetQuery) -> list[Body]:
    """A long list comes in several parts."""
    known = device.condition.of(query.device_id).presets
    items = [PresetItem(preset_id=number, name=name) for number, name in sorted(known.items())]
    parts = [items[at : at + PRESETS_PER_PART] for at in range(0, len(items), PRESETS_PER_PART)] or [[]]
    return [
        PresetResponse(sn=query.sn, device_id=query.device_id, sum_num=len(items), presets=part)
        for part in parts
    ]


@answers(HomePositionQuery)
def home_position(device: SimulatedDevice, query: HomePositionQuery) -> list[Body]:
    if device.edition is Edition.V2016:
        return []
    home = device.condition.of(query.device_id).home or HomePosition(enabled=0)
    return [HomePositionResponse(sn=query.sn, device_id=query.device_id, home_position=home)]


@answers(CruiseTrackListQuery)
def cruise_tracks(device: SimulatedDevice, query: CruiseTrackListQuery) -> list[Body]:
    if device.edition is Edition.V2016:
        return []
    known = sorted(device.condition.of(query.device_id).tracks.items())
    items = [CruiseTrackItem(number=number, name=track.name) for number, track in known]
    return [CruiseTrackListResponse(sn=query.sn, device_id=query.device_id, sum_num=len(items), tracks=items)]


@answers(CruiseTrackQuery)
def cruise_track(device: SimulatedDevice, query: CruiseTrackQuery) -> list[Body]:
    """A track nobody made has no points."""
    if device.edition is Edition.V2016:
        return []
    track = device.condition.of(query.device_id).tracks.get(query.number)
    points = track.points() if track is not None else []
    return [
        CruiseTrackResponse(
            sn=query.sn,
            device_id=query.device_id,
            number=query.number,
            name=track.name if track is not None else "",
            sum_num=len(points),
            points=points,
        )
    ]


@answers(PTZPositionQuery)
def aim(device: SimulatedDevice, query: PTZPositionQuery) -> list[Body]:
    if device.edition is Edition.V2016:
        return []
    look = device.condition.of(query.device_id).aim
    return [look.model_copy(update={"sn": query.sn, "device_id": query.device_id})]


@carries_out("home_position")
def set_home(device: SimulatedDevice, body: DeviceControl) -> str:
    device.condition.of(body.device_id).home = body.home_position
    return "OK"


@carries_out("ptz_precise")
def aim_at(device: SimulatedDevice, body: DeviceControl) -> str:
    """Only what is named moves; a subscriber is told."""
    wanted = body.ptz_precise
    if wanted is None:
        return "ERROR"
    channel = device.condition.of(body.device_id)
    named = {
        name: getattr(wanted, name) for name in ("pan", "tilt", "zoom") if getattr(wanted, name) is not None
    }
    channel.aim = look = channel.aim.model_copy(update=named)
    told = PTZPositionNotify(
        sn=device.next_sn(), device_id=body.device_id, pan=look.pan, tilt=look.tilt, zoom=look.zoom
    )
    device.endpoint.spawn(device.notices.tell("ptzposition", told, "notify"))
    return "OK"


@carries_out("target_track")
def track_target(device: SimulatedDevice, body: DeviceControl) -> str:
    device.condition.of(body.device_id).tracking = body.target_track
    return "OK"


def moved(device: SimulatedDevice, body: DeviceControl, command: ptz.PtzCommand) -> None:
    """A valid PTZCmd: presets and tracks are remembered."""
    channel = device.condition.of(body.device_id)
    if isinstance(command, ptz.Preset):
        channel.preset(command, body.preset_name)
    elif isinstance(command, ptz.Cruise):
        channel.cruise(command, body.cruise_track_name)
