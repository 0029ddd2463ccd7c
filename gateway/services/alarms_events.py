"""What happens around alarms and positions beside the alarm itself, as events for metrics and the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.events import Event


@dataclass(frozen=True, slots=True)
class AlarmRepeated(Event):
    """The same alarm came again while it was fresh: ``repeats`` times so far. Told at most once a second and alarm."""

    device_id: str
    channel_id: str
    alarm_id: str
    repeats: int


@dataclass(frozen=True, slots=True)
class AlarmFlood(Event):
    """A device sends more alarms than are kept one by one: ``suppressed`` of them in the last ``seconds`` (G149)."""

    device_id: str
    suppressed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AlarmAcknowledged(Event):
    """Somebody has seen to an alarm. ``reset``: "" not asked for, else OK, or why the device did not reset."""

    alarm_id: str
    device_id: str
    channel_id: str
    who: str
    reset: str


@dataclass(frozen=True, slots=True)
class AlarmSnapshot(Event):
    """A picture was taken at alarm time."""

    alarm_id: str
    device_id: str
    channel_id: str


@dataclass(frozen=True, slots=True)
class ClockFault(Event):
    """A device's time is ``offset_s`` away from ours (G150); ``fault`` False: it is right again."""

    device_id: str
    offset_s: float
    fault: bool
    source: str


@dataclass(frozen=True, slots=True)
class PositionReported(Event):
    """Where something is, as reported (WGS-84 degrees). ``faults``: what is wrong with the report."""

    device_id: str
    channel_id: str
    position_at: datetime
    longitude: float
    latitude: float
    speed_kmh: float | None
    direction_deg: float | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PositionFault(Event):
    """Reports of a channel became doubtful (``faults``) or good again (empty): told on a change (G155)."""

    device_id: str
    channel_id: str
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PtzPositionReported(Event):
    """Where a camera looks: degrees, zoom as a factor, distance in metres (2022 A.2.5)."""

    device_id: str
    channel_id: str
    pan: float | None
    tilt: float | None
    zoom: float | None
    horizontal_field_angle: float | None
    vertical_field_angle: float | None
    max_view_distance: float | None
