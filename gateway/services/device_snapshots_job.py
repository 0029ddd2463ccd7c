"""An order for pictures while it runs: what came, what the device said, and how it ended (GB/T 28181-2022 9.14)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gateway.services.device_snapshots_files import bare_name, read_name
from gateway.storage.snapshots import SnapshotJob, StoredPicture

CLOCK_FAULT_S = 300.0


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


@dataclass(slots=True)
class Running:
    """An order that is being carried out. ``names``: the picture of each name that came."""

    job: SnapshotJob
    names: dict[str, StoredPicture] = field(default_factory=dict)
    storing: asyncio.Lock = field(default_factory=asyncio.Lock)
    noticed: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def all_here(self) -> bool:
        """Everything that the notice names came; more will not come."""
        return len(self.names) >= min(len(self.job.reported), self.job.asked)


def bound_to(job: SnapshotJob) -> str:
    """What the ticket is signed for: this order, this device, this session (G186)."""
    return f"snapshots/{job.job_id}/{job.device_id}/{job.session_id}"


def new_picture(
    running: Running,
    size_bytes: int,
    media_type: str,
    sent_name: str,
    *,
    belongs: Callable[[SnapshotJob, str], bool],
    now: datetime,
) -> StoredPicture:
    """By the standard's name where that fits the device, else under a name of ours with a warning (G183)."""
    job = running.job
    bare = bare_name(sent_name)
    read = read_name(bare)
    warning = ""
    if read is None:
        warning = f"the name is not that of 9.14.1: {bare[:60]!r}" if bare else "it came without a name"
    elif not belongs(job, read.code):
        warning, read = f"the name is that of another device: {read.code}", None
    elif abs((read.taken_at - now).total_seconds()) > CLOCK_FAULT_S:
        warning = "the time in its name is far from ours"
    return StoredPicture(
        picture_id=secrets.token_hex(8),
        job_id=job.job_id,
        device_id=job.device_id,
        channel_id=job.channel_id,
        name=bare if read is not None else f"picture-{len(running.names) + 1:02d}",
        sent_name="".join(c for c in sent_name if c.isprintable())[:255],
        media_type=media_type,
        size_bytes=size_bytes,
        received_at=now,
        taken_at=read.taken_at if read is not None else None,
        warning=warning,
    )


def verdict(running: Running) -> tuple[JobState, str]:
    """State and reason of an order that is over (G184)."""
    job, received = running.job, len(running.names)
    if running.noticed:
        named = len(job.reported)
        if received >= job.asked and named >= job.asked:
            return JobState.DONE, ""
        text = f"{job.asked} asked for, {named} named by the device, {received} received"
        return (JobState.PARTIAL if received or named else JobState.FAILED), text
    if received >= job.asked:
        return JobState.DONE, "the device did not say that it had finished"
    if received:
        return JobState.PARTIAL, f"{received} of {job.asked} came in time; no UploadSnapShotFinished"
    return JobState.TIMED_OUT, "no picture and no UploadSnapShotFinished came in time"
