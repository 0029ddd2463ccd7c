"""What commands changed in a simulated device, so that its answers tell of it: presets, tracks, home, guard, cards."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sip import ptz
from sip.manscdp import CruisePoint, DeviceControl, HomePosition, PTZPositionResponse, SDCard

MOST_POINTS = 256


def _presets() -> dict[int, str]:
    return {1: "gate", 2: "road"}


@dataclass(slots=True)
class Track:
    """One cruise track; speed and stay hold for all its points."""

    name: str = ""
    presets: list[int] = field(default_factory=list)
    speed: int = 5
    stay_s: int = 10

    def points(self) -> list[CruisePoint]:
        speed = min(max(self.speed, 1), 15)
        return [CruisePoint(preset_index=p, stay_time=self.stay_s, speed=speed) for p in self.presets]


@dataclass(slots=True)
class ChannelCondition:
    """One channel, or the device itself where commands name it. ``guarded`` None: never told anything."""

    presets: dict[int, str] = field(default_factory=_presets)
    aims: dict[int, PTZPositionResponse] = field(default_factory=dict)
    """Where the presets look."""
    tracks: dict[int, Track] = field(default_factory=dict)
    home: HomePosition | None = None
    aim: PTZPositionResponse = field(
        default_factory=lambda: PTZPositionResponse(pan=10.0, tilt=5.0, zoom=1.0)
    )
    recording: bool = False
    guarded: bool | None = None
    tracking: str = ""
    """Mode of the last TargetTrack."""

    def preset(self, command: ptz.Preset, name: str) -> None:
        if command.action is ptz.PresetAction.SET:
            self.presets[command.number] = name or f"preset {command.number}"
            self.aims[command.number] = self.aim
        elif command.action is ptz.PresetAction.DELETE:
            self.presets.pop(command.number, None)
            self.aims.pop(command.number, None)
        else:
            self.aim = self.aims.get(command.number, self.aim)

    def cruise(self, command: ptz.Cruise, name: str) -> None:
        track = self.tracks.get(command.track)
        if command.action is ptz.CruiseAction.DELETE_TRACK:
            self.tracks.pop(command.track, None)
            return
        if track is None:
            track = self.tracks[command.track] = Track(f"track {command.track}")
        track.name = name or track.name
        if command.action is ptz.CruiseAction.ADD_POINT and len(track.presets) < MOST_POINTS:
            track.presets.append(command.value)
        elif command.action is ptz.CruiseAction.DELETE_POINT and command.value in track.presets:
            track.presets.remove(command.value)
        elif command.action is ptz.CruiseAction.SPEED:
            track.speed = command.value
        elif command.action is ptz.CruiseAction.STAY:
            track.stay_s = command.value


def _cards() -> list[SDCard]:
    return [SDCard(id=1, name="card 1", status="ok", capacity=65536, free_space=1024)]


@dataclass(slots=True)
class Condition:
    """A whole device. ``results`` says what commands are answered with: ``{"guard_cmd": "ERROR"}``.

    ``upgrade_takes_s`` and ``upgrade_failure`` (01 … 99, "" for success) shape the next firmware upgrade,
    ``format_takes_s`` the next formatting of a card.
    """

    channels: dict[str, ChannelCondition] = field(default_factory=dict)
    cards: list[SDCard] = field(default_factory=_cards)
    results: dict[str, str] = field(default_factory=dict)
    boots: list[datetime] = field(default_factory=list)
    zooms: list[DeviceControl] = field(default_factory=list)
    upgrade_takes_s: float = 0.3
    upgrade_failure: str = ""
    format_takes_s: float = 0.5

    def of(self, channel_id: str) -> ChannelCondition:
        return self.channels.setdefault(channel_id, ChannelCondition())
