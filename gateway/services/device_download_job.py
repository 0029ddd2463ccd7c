"""A download of a device's recording as a record, and why one may be refused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from gateway.errors import GatewayError
from gateway.services.nodes import NodeHandle
from media.specs import ClipPart

State = Literal["waiting", "running", "done", "partial", "failed", "cancelled"]


class TooMany(GatewayError):
    """Enough downloads wait already."""

    cause = "busy"
    status = 503
    retry_after_s = 30


class NoRoom(GatewayError):
    """The disk has no room for downloads."""

    cause = "disk_full"
    status = 507


class NotReady(GatewayError):
    """The file is not there yet, or not any more."""

    cause = "not_ready"
    status = 409


@dataclass(slots=True, eq=False)
class DownloadJob:
    """One download. Times in unix seconds; ``progress`` 0 to 1, of the range's media time."""

    job_id: str
    owner: str
    device_id: str
    channel_id: str
    start: int
    end: int
    speed: int
    form: Literal["mp4", "ps"]
    created: datetime
    state: State = "waiting"
    cause: str = ""
    """How it ended: media_status | media_time | silence | device_bye | disk_full | cancelled, or a failure's cause."""
    detail: str = ""
    media_s: float = 0.0
    bytes: int = 0
    filesize: int | None = None
    pictures: int = 0
    duration_s: float = 0.0
    parts: tuple[ClipPart, ...] = ()
    ended_mono: float = 0.0
    expires: datetime | None = None
    task: asyncio.Task[None] | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    said: str = ""
    tries: int = 0
    transfer_id: str = ""
    node: NodeHandle | None = None

    @property
    def length_s(self) -> int:
        return self.end - self.start

    @property
    def progress(self) -> float:
        """By media time; before any is known by the size that was announced (G239, G240)."""
        if self.state == "done":
            return 1.0
        by_time = self.media_s / self.length_s
        by_size = self.bytes / self.filesize if self.filesize else 0.0
        return round(min(0.999, by_time or by_size), 4)

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")
