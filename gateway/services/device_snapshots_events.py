"""What is told of pictures that devices upload, and of devices that want their pictures to be fetched."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.events import Event


@dataclass(frozen=True, slots=True)
class DeviceSnapshotReceived(Event):
    """A picture came: the ``received``-th of ``asked``. ``warning``: what was odd about it."""

    device_id: str
    channel_id: str
    job_id: str
    picture_id: str
    received: int
    asked: int
    warning: str = ""


@dataclass(frozen=True, slots=True)
class DeviceSnapshotsEnded(Event):
    """An order for pictures is over. ``state``: done | partial | failed | timed_out; ``reported``: IDs in the notice."""

    device_id: str
    channel_id: str
    job_id: str
    state: str
    asked: int
    received: int
    reported: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VideoUploadAnnounced(Event):
    """A device wants its live pictures to be fetched (2022 A.2.5.8).

    ``action``: off | keep | record, or busy where too many are being fetched; empty ``channel_id``: it has no camera.
    """

    device_id: str
    channel_id: str
    announced_at: str
    longitude: float | None
    latitude: float | None
    action: str
    keep_s: int
