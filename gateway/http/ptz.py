"""Camera control over HTTP: one request per command, checked before it becomes a PTZCmd."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from pydantic import Field

from gateway.http.channels import ChannelFinder
from gateway.http.errors import Problem
from gateway.http.routes import Call, Model, View, route
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from sip import ptz

MAX_TRACK_NAME_BYTES = 32
PRIORITY = {Role.VIEWER: 0, Role.OPERATOR: 100, Role.ADMINISTRATOR: 200}
"""Who may take a moving camera from whom."""


class Controller(Protocol):
    """The part of gateway.services.control.Control that this resource needs."""

    async def ptz(
        self,
        device_id: str,
        channel_id: str,
        command: ptz.PtzCommand,
        who: str,
        *,
        priority: int = 0,
        preset_name: str = "",
        cruise_track_name: str = "",
    ) -> None: ...


class PtzWord(StrEnum):
    MOVE = "move"
    STOP = "stop"
    FOCUS_NEAR = "focus_near"
    FOCUS_FAR = "focus_far"
    IRIS_OPEN = "iris_open"
    IRIS_CLOSE = "iris_close"
    LENS_STOP = "lens_stop"
    PRESET_SET = "preset_set"
    PRESET_CALL = "preset_call"
    PRESET_DELETE = "preset_delete"
    CRUISE_ADD = "cruise_add"
    CRUISE_REMOVE = "cruise_remove"
    CRUISE_DELETE = "cruise_delete"
    CRUISE_SPEED = "cruise_speed"
    CRUISE_STAY = "cruise_stay"
    CRUISE_START = "cruise_start"
    SCAN_START = "scan_start"
    SCAN_LEFT = "scan_left"
    SCAN_RIGHT = "scan_right"
    SCAN_SPEED = "scan_speed"
    SWITCH_ON = "switch_on"
    SWITCH_OFF = "switch_off"


class PtzRequest(Model):
    """`move` holds for five seconds: repeat it while the button is held, and send `stop` when it is let go."""

    command: PtzWord = PtzWord.MOVE
    pan: float = Field(default=0.0, ge=-1, le=1, description="-1 fast left … 1 fast right; `move` only.")
    tilt: float = Field(default=0.0, ge=-1, le=1, description="-1 fast down … 1 fast up; `move` only.")
    zoom: float = Field(default=0.0, ge=-1, le=1, description="-1 fast out … 1 fast in; `move` only.")
    speed: float = Field(default=0.5, ge=0, le=1, description="Of focus and iris.")
    preset: int | None = Field(
        default=None, ge=1, le=255, description="For preset_*, cruise_add and cruise_remove."
    )
    name: str = Field(
        default="",
        max_length=64,
        description="Name of the preset, for preset_set, or of the track, for cruise_*; told to devices of 2022 only.",
    )
    number: int | None = Field(default=None, ge=0, le=255, description="Cruise track, scan group or switch.")
    value: int | None = Field(
        default=None, ge=0, le=4095, description="cruise_speed, cruise_stay (s), scan_speed."
    )


class PtzDone(View):
    """The device took the command (SIP 200)."""

    device_id: str
    channel_id: str
    command: PtzWord


class PtzResource:
    def __init__(self, *, registry: Registry, controller: Controller) -> None:
        self._finder = ChannelFinder(registry)
        self._controller = controller

    @route(
        "POST",
        "/api/channels/{channel_id}/ptz",
        summary="Move the camera",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 504),
    )
    async def move(self, call: Call, channel_id: AnyCode, query: WhichDevice, body: PtzRequest) -> PtzDone:
        key = self._finder.key(channel_id, query.device_id)
        command = command_of(body)
        who = call.who
        priority = PRIORITY[who.role]
        await self._controller.ptz(*key, command, who.name, priority=priority, **_names(command, body.name))
        return PtzDone(device_id=key[0], channel_id=key[1], command=body.command)


def _names(command: ptz.PtzCommand, name: str) -> dict[str, str]:
    """The name of what the command is about. A track's has at most 32 bytes (2022 A.2.3.1.2)."""
    if not isinstance(command, ptz.Cruise):
        return {"preset_name": name}
    if len(name.encode("gb18030", "replace")) > MAX_TRACK_NAME_BYTES:
        text = f"name: a track's name has at most {MAX_TRACK_NAME_BYTES} bytes"
        raise Problem(422, text, cause="invalid_input", field="name")
    return {"cruise_track_name": name}


def command_of(body: PtzRequest) -> ptz.PtzCommand:
    """The command in the standard's terms. Raises Problem 422 that names a missing field."""
    return _BUILDERS[body.command](body)


def _axis(value: float, top: int) -> tuple[int, int]:
    """Direction and speed; the slowest movement asked for is still one."""
    speed = round(abs(value) * top)
    if value == 0:
        return 0, 0
    return (1 if value > 0 else -1), max(1, speed)


def _move(body: PtzRequest) -> ptz.Move:
    pan, pan_speed = _axis(body.pan, 255)
    tilt, tilt_speed = _axis(body.tilt, 255)
    zoom, zoom_speed = _axis(body.zoom, 15)
    return ptz.Move(pan, tilt, zoom, pan_speed, tilt_speed, zoom_speed)


def _speed(body: PtzRequest) -> int:
    return max(1, round(body.speed * 255))


def _needed(body: PtzRequest, field: str) -> int:
    value = getattr(body, field)
    if not isinstance(value, int):
        raise Problem(422, f"{field}: needed for {body.command.value}", cause="invalid_input", field=field)
    return value


def _preset(action: ptz.PresetAction) -> Callable[[PtzRequest], ptz.PtzCommand]:
    return lambda body: ptz.Preset(action, _needed(body, "preset"))


def _cruise(action: ptz.CruiseAction, value: str = "") -> Callable[[PtzRequest], ptz.PtzCommand]:
    return lambda body: ptz.Cruise(action, _needed(body, "number"), _needed(body, value) if value else 0)


def _scan(action: ptz.ScanAction, value: str = "") -> Callable[[PtzRequest], ptz.PtzCommand]:
    return lambda body: ptz.Scan(action, _needed(body, "number"), _needed(body, value) if value else 0)


_BUILDERS: dict[PtzWord, Callable[[PtzRequest], ptz.PtzCommand]] = {
    PtzWord.MOVE: _move,
    PtzWord.STOP: lambda body: ptz.STOP,
    PtzWord.FOCUS_NEAR: lambda body: ptz.Lens(focus=1, focus_speed=_speed(body)),
    PtzWord.FOCUS_FAR: lambda body: ptz.Lens(focus=-1, focus_speed=_speed(body)),
    PtzWord.IRIS_OPEN: lambda body: ptz.Lens(iris=1, iris_speed=_speed(body)),
    PtzWord.IRIS_CLOSE: lambda body: ptz.Lens(iris=-1, iris_speed=_speed(body)),
    PtzWord.LENS_STOP: lambda body: ptz.LENS_STOP,
    PtzWord.PRESET_SET: _preset(ptz.PresetAction.SET),
    PtzWord.PRESET_CALL: _preset(ptz.PresetAction.CALL),
    PtzWord.PRESET_DELETE: _preset(ptz.PresetAction.DELETE),
    PtzWord.CRUISE_ADD: _cruise(ptz.CruiseAction.ADD_POINT, "preset"),
    PtzWord.CRUISE_REMOVE: _cruise(ptz.CruiseAction.DELETE_POINT, "preset"),
    PtzWord.CRUISE_DELETE: _cruise(ptz.CruiseAction.DELETE_TRACK),
    PtzWord.CRUISE_SPEED: _cruise(ptz.CruiseAction.SPEED, "value"),
    PtzWord.CRUISE_STAY: _cruise(ptz.CruiseAction.STAY, "value"),
    PtzWord.CRUISE_START: _cruise(ptz.CruiseAction.START),
    PtzWord.SCAN_START: _scan(ptz.ScanAction.START),
    PtzWord.SCAN_LEFT: _scan(ptz.ScanAction.LEFT_BORDER),
    PtzWord.SCAN_RIGHT: _scan(ptz.ScanAction.RIGHT_BORDER),
    PtzWord.SCAN_SPEED: _scan(ptz.ScanAction.SPEED, "value"),
    PtzWord.SWITCH_ON: lambda body: ptz.Auxiliary(_needed(body, "number"), True),
    PtzWord.SWITCH_OFF: lambda body: ptz.Auxiliary(_needed(body, "number"), False),
}
