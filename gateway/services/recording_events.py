"""What happens to recordings, as events for metrics, alarms and the page."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.events import Event


@dataclass(frozen=True, slots=True)
class RecordingStarted(Event):
    """A channel is being recorded. ``kind``: continuous | event | manual."""

    device_id: str
    channel_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class RecordingStopped(Event):
    """``cause``: plan | operator | stream_lost | offline | node_lost | … ``wanted``: it should go on (a gap begins)."""

    device_id: str
    channel_id: str
    cause: str
    wanted: bool


@dataclass(frozen=True, slots=True)
class RecordingTrouble(Event):
    """Pictures of a channel could not be written. ``kind``: write_failed | queue_full | no_disk | pre_event_cut."""

    device_id: str
    channel_id: str
    kind: str
    disk_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class DiskStateChanged(Event):
    """``state``: ok | low | full | missing | read_only | failing."""

    disk_id: str
    state: str
    free_bytes: int
    detail: str


@dataclass(frozen=True, slots=True)
class RecordingsDeleted(Event):
    """Files were deleted. ``cause``: expired | disk_full (before their time!) | operator."""

    cause: str
    disk_id: str
    segments: int
    bytes: int


@dataclass(frozen=True, slots=True)
class IndexHealed(Event):
    """The index was brought in line with a disk: files entered or mended, entries without file removed."""

    disk_id: str
    entered: int
    mended: int
    removed: int
    unreadable: int
