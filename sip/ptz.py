"""The eight-byte PTZCmd: pan, tilt, zoom, focus, iris, presets, cruises, scans, auxiliary switches (2022 A.3).

``encode`` makes the 16 hex digits of a command, ``decode`` is its inverse and refuses what A.3.1 refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from sip.errors import LocalError, ParseError


@dataclass(frozen=True, slots=True)
class Move:
    """Pan (-1 left, 1 right), tilt (-1 down, 1 up), zoom (-1 out, 1 in), combined at will; 0 stops that axis.

    Speeds: pan and tilt 0-255, zoom 0-15 (A.3.2). All zero is :data:`STOP`.
    """

    pan: int = 0
    tilt: int = 0
    zoom: int = 0
    pan_speed: int = 0
    tilt_speed: int = 0
    zoom_speed: int = 0


@dataclass(frozen=True, slots=True)
class Lens:
    """Focus (-1 far, 1 near) and iris (-1 close, 1 open), speeds 0-255 (A.3.3). Zero stops."""

    focus: int = 0
    iris: int = 0
    focus_speed: int = 0
    iris_speed: int = 0


class PresetAction(StrEnum):
    SET = "set"
    CALL = "call"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Preset:
    """Preset 1-255; 0 is reserved (A.3.4)."""

    action: PresetAction
    number: int


class CruiseAction(StrEnum):
    ADD_POINT = "add_point"
    DELETE_POINT = "delete_point"
    DELETE_TRACK = "delete_track"
    SPEED = "speed"
    STAY = "stay"
    START = "start"


@dataclass(frozen=True, slots=True)
class Cruise:
    """Track 0-255. ``value``: preset 1-255 for points, 0-4095 for speed, seconds 0-4095 for stay (A.3.5)."""

    action: CruiseAction
    track: int
    value: int = 0


class ScanAction(StrEnum):
    START = "start"
    LEFT_BORDER = "left_border"
    RIGHT_BORDER = "right_border"
    SPEED = "speed"


@dataclass(frozen=True, slots=True)
class Scan:
    """Scan group 0-255; ``value`` is the speed 0-4095 of the SPEED action (A.3.6)."""

    action: ScanAction
    group: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """Switch 0-255 on or off; 1 is the wiper (A.3.7)."""

    number: int
    on: bool


PtzCommand: TypeAlias = Move | Lens | Preset | Cruise | Scan | Auxiliary
STOP = Move()
"""Stops pan, tilt, zoom, cruise and scan (G167)."""
LENS_STOP = Lens()

_PRESETS = {PresetAction.SET: 0x81, PresetAction.CALL: 0x82, PresetAction.DELETE: 0x83}
_CRUISES = {
    CruiseAction.ADD_POINT: 0x84,
    CruiseAction.DELETE_POINT: 0x85,
    CruiseAction.DELETE_TRACK: 0x85,
    CruiseAction.SPEED: 0x86,
    CruiseAction.STAY: 0x87,
    CruiseAction.START: 0x88,
}
_BORDERS = {ScanAction.START: 0, ScanAction.LEFT_BORDER: 1, ScanAction.RIGHT_BORDER: 2}
_PRESET_ACTIONS = {code: action for action, code in _PRESETS.items()}
_BORDER_ACTIONS = {code: action for action, code in _BORDERS.items()}
_CRUISE_ACTIONS = {
    0x84: CruiseAction.ADD_POINT,
    0x85: CruiseAction.DELETE_POINT,
    0x86: CruiseAction.SPEED,
    0x87: CruiseAction.STAY,
    0x88: CruiseAction.START,
}


def encode(command: PtzCommand, *, address: int = 1) -> str:
    """The command as 16 upper-case hex digits. Raises LocalError for a number out of its range."""
    _within("address", address, 0, 4095)
    code, data1, data2, high = _bytes_of(command)
    head = (0xA5, 0x0F, address & 0xFF, code, data1, data2, high << 4 | address >> 8)
    return bytes((*head, sum(head) & 0xFF)).hex().upper()


def is_stop(command: PtzCommand) -> bool:
    """True for a command that only ends movements (a Move or Lens without direction)."""
    if isinstance(command, Move):
        return not (command.pan or command.tilt or command.zoom)
    return isinstance(command, Lens) and not (command.focus or command.iris)


def decode(text: str) -> PtzCommand:
    """Read 16 hex digits. Raises ParseError (label ptz) for a wrong length, first byte, check or checksum.

    The address is ignored: the DeviceID already says who is meant (A.3.1).
    """
    text = text.strip().replace(" ", "")
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise ParseError("PTZCmd is no hex", label="ptz") from None
    if len(data) != 8 or data[0] != 0xA5:
        raise ParseError("PTZCmd needs 8 bytes and begins with A5", label="ptz")
    check = ((data[0] >> 4) + (data[0] & 15) + (data[1] >> 4)) & 15
    if data[1] & 15 != check or sum(data[:7]) & 0xFF != data[7]:
        raise ParseError("PTZCmd checksum is wrong", label="ptz")
    return _command(data[3], data[4], data[5], data[6] >> 4)


def _bytes_of(command: PtzCommand) -> tuple[int, int, int, int]:
    """Bytes 4, 5, 6 and the high nibble of byte 7."""
    if isinstance(command, Move):
        return _move_bytes(command)
    if isinstance(command, Lens):
        for name, value, limit in (("focus", command.focus_speed, 255), ("iris", command.iris_speed, 255)):
            _within(f"{name} speed", value, 0, limit)
        code = 0x40 | _pair(command.focus, near=0x02, far=0x01) | _pair(command.iris, near=0x04, far=0x08)
        return code, command.focus_speed, command.iris_speed, 0
    if isinstance(command, Preset):
        _within("preset", command.number, 1, 255)
        return _PRESETS[command.action], 0, command.number, 0
    if isinstance(command, Cruise):
        return _cruise_bytes(command)
    if isinstance(command, Scan):
        _within("scan group", command.group, 0, 255)
        if command.action is ScanAction.SPEED:
            _within("scan speed", command.value, 0, 4095)
            return 0x8A, command.group, command.value & 0xFF, command.value >> 8
        return 0x89, command.group, _BORDERS[command.action], 0
    _within("switch", command.number, 0, 255)
    return (0x8C if command.on else 0x8D), command.number, 0, 0


def _move_bytes(command: Move) -> tuple[int, int, int, int]:
    _within("pan speed", command.pan_speed, 0, 255)
    _within("tilt speed", command.tilt_speed, 0, 255)
    _within("zoom speed", command.zoom_speed, 0, 15)
    code = (
        _pair(command.pan, near=0x01, far=0x02)
        | _pair(command.tilt, near=0x08, far=0x04)
        | _pair(command.zoom, near=0x10, far=0x20)
    )
    zoom_speed = max(command.zoom_speed, 1) if command.zoom else command.zoom_speed
    return code, command.pan_speed, command.tilt_speed, zoom_speed  # devices do not zoom at speed 0


def _cruise_bytes(command: Cruise) -> tuple[int, int, int, int]:
    code = _CRUISES[command.action]
    _within("track", command.track, 0, 255)
    if command.action in (CruiseAction.ADD_POINT, CruiseAction.DELETE_POINT):
        _within("preset", command.value, 1, 255)
        return code, command.track, command.value, 0
    if command.action in (CruiseAction.SPEED, CruiseAction.STAY):
        _within(command.action.value, command.value, 0, 4095)
        return code, command.track, command.value & 0xFF, command.value >> 8
    return code, command.track, 0, 0


def _command(code: int, data1: int, data2: int, high: int) -> PtzCommand:
    if code < 0x40:
        pan, tilt, zoom = _axis(code, 0x01, 0x02), _axis(code, 0x08, 0x04), _axis(code, 0x10, 0x20)
        return Move(pan, tilt, zoom, data1, data2, high)
    if 0x40 <= code < 0x50:
        return Lens(_axis(code, 0x02, 0x01), _axis(code, 0x04, 0x08), data1, data2)
    if code in _PRESET_ACTIONS and data2:
        return Preset(_PRESET_ACTIONS[code], data2)
    if code in _CRUISE_ACTIONS:
        return _cruise(_CRUISE_ACTIONS[code], data1, data2, high)
    if code == 0x89 and data2 in _BORDER_ACTIONS:
        return Scan(_BORDER_ACTIONS[data2], data1)
    if code == 0x8A:
        return Scan(ScanAction.SPEED, data1, high << 8 | data2)
    if code in (0x8C, 0x8D):
        return Auxiliary(data1, on=code == 0x8C)
    raise ParseError(f"PTZCmd {code:02X} is no command", label="ptz")


def _cruise(action: CruiseAction, track: int, data2: int, high: int) -> Cruise:
    if action is CruiseAction.DELETE_POINT and not data2:
        return Cruise(CruiseAction.DELETE_TRACK, track)
    if action in (CruiseAction.SPEED, CruiseAction.STAY):
        return Cruise(action, track, high << 8 | data2)
    if action is CruiseAction.ADD_POINT and not data2:
        raise ParseError("preset 0 is reserved", label="ptz")
    return Cruise(action, track, 0 if action is CruiseAction.START else data2)


def _axis(code: int, positive: int, negative: int) -> int:
    """Direction of one axis; both bits together contradict each other (A.3.2) and are refused."""
    if code & positive and code & negative:
        raise ParseError("PTZCmd names opposite directions", label="ptz")
    return 1 if code & positive else -1 if code & negative else 0


def _pair(direction: int, *, near: int, far: int) -> int:
    _within("direction", direction, -1, 1)
    return near if direction > 0 else far if direction < 0 else 0


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LocalError(f"{name} {value} is not within {low} and {high}")
