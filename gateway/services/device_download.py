"""Downloads of recordings from devices as jobs: ordered, watched by media time, kept as a file for a while (9.9).

A job goes on when its user leaves. It ends by MediaStatus 121, by media time reaching the end of the range, or when
nothing new comes any more (quirk 24); the file is read back before it counts as done.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import re
import secrets
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal, Protocol

from config.settings import DeviceRecordingSettings
from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.events import DeviceDownloadChanged, EventBus
from gateway.model import SessionKind
from gateway.services.device_download_job import DownloadJob, NoRoom, NotReady, State, TooMany
from gateway.services.device_playback import HistoryOpener
from gateway.services.device_playback_end import HistoryEnds
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.playback import file_name
from gateway.services.session_record import DeviceHistory, LiveSession
from media.errors import MediaError
from media.specs import DownloadSpec, TransferInfo, TransferSpec

log = logging.getLogger(__name__)

LOOK_S = 0.5
OUR_FILE = re.compile(r"[0-9a-f]{16}-\d+(-\d+)?\.(mp4|ps)")
NEAR_S = 2.0
"""A file that lacks no more than this of the range is whole."""
KEPT_JOBS = 500
_KEY_FROM = 2_000_000


class Sessions(HistoryOpener, Protocol):
    def download_url(self, node: NodeHandle, download_id: str, request_host: str) -> str: ...


class DeviceDownloads:
    """All jobs. At most so many run, one per device; others wait for their turn. ``counts`` by state."""

    def __init__(
        self,
        *,
        settings: DeviceRecordingSettings,
        directory: Path,
        sessions: Sessions,
        ends: HistoryEnds,
        nodes: Nodes,
        bus: EventBus,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self.directory = settings.download_directory or directory
        self._sessions = sessions
        self._ends = ends
        self._nodes = nodes
        self._bus = bus
        self._clock = clock
        self._jobs: dict[str, DownloadJob] = {}
        self._slots = asyncio.Semaphore(settings.most_downloads)
        self._turns: dict[str, asyncio.Lock] = {}
        self._numbers = itertools.count(_KEY_FROM)
        self._cleaner: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Files of an earlier life belong to no job any more."""
        await asyncio.to_thread(_emptied, self.directory)
        self._cleaner = asyncio.create_task(self._clean(), name="device-downloads")

    async def close(self) -> None:
        """Cancel what runs."""
        if self._cleaner is not None:
            self._cleaner.cancel()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *([self._cleaner] if self._cleaner else []), return_exceptions=True)

    async def _clean(self) -> None:
        """Delete files whose time is over."""
        while True:
            await asyncio.sleep(min(60.0, self._settings.download_keep_h * 900))
            keep_s = self._settings.download_keep_h * 3600
            for job in list(self._jobs.values()):
                if job.ended and self._clock.mono() - job.ended_mono > keep_s:
                    await self._delete(job)

    async def _delete(self, job: DownloadJob) -> None:
        self._jobs.pop(job.job_id, None)
        await asyncio.to_thread(_removed, self.directory, job.job_id)

    # -- for users -------------------------------------------------------------------------------------------

    def jobs(self, owner: str | None = None) -> list[DownloadJob]:
        """Newest first; those of one user, or all."""
        found = [job for job in self._jobs.values() if owner is None or job.owner == owner]
        return found[::-1]

    def get(self, job_id: str) -> DownloadJob | None:
        return self._jobs.get(job_id)

    @property
    def running(self) -> int:
        return sum(job.state == "running" for job in self._jobs.values())

    @property
    def waiting(self) -> int:
        return sum(job.state == "waiting" for job in self._jobs.values())

    async def order(
        self,
        key: tuple[str, str],
        start: float,
        end: float,
        *,
        owner: str,
        speed: int = 4,
        form: Literal["mp4", "ps"] = "mp4",
    ) -> DownloadJob:
        """Begin a job. Raises TooMany, NoRoom; what the device says comes with the job's state."""
        if self.waiting >= self._settings.most_waiting or len(self._jobs) >= KEPT_JOBS:
            raise TooMany(f"{self.waiting} downloads wait already")
        await self._check_room(0)
        job = DownloadJob(
            secrets.token_hex(8), owner, *key, math.floor(start), max(math.floor(start) + 1, math.ceil(end)),
            speed, form, self._clock.utc(),
        )  # fmt: skip
        self._jobs[job.job_id] = job
        job.task = asyncio.create_task(self._run(job), name=f"download-{job.channel_id}")
        self._tell(job)
        return job

    async def cancel(self, job: DownloadJob) -> None:
        """Stop a job that runs, and delete its file."""
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
        await self._delete(job)

    async def url(self, job: DownloadJob, host: str) -> str:
        """Where the file can be fetched once, with a ticket that runs out. Raises NotReady, MediaError."""
        if job.state not in ("done", "partial"):
            raise NotReady(f"the download is {job.state}")
        node = self._nodes.pick()
        download_id = secrets.token_hex(12)
        await node.client.order_download(
            DownloadSpec(
                download_id=download_id,
                parts=job.parts,
                start=job.parts[0].start,
                end=job.parts[-1].end + 1,
                format="mp4" if job.form == "mp4" else "raw",
                file_name=file_name(job.channel_id, job.start, job.end, job.form),
            )
        )
        return self._sessions.download_url(node, download_id, host)

    async def _check_room(self, wanted: int) -> None:
        """Raises NoRoom."""
        free = await asyncio.to_thread(_free, self.directory)
        if free - wanted < self._settings.download_reserve_bytes:
            raise NoRoom(f"{free // 2**20} MiB are free where downloads are kept")

    # -- one job ---------------------------------------------------------------------------------------------

    async def _run(self, job: DownloadJob) -> None:
        """Its turn, then the transfer; how it ended is the job's state."""
        try:
            turn = self._turns.setdefault(job.device_id, asyncio.Lock())
            async with turn, self._slots:
                await self._transfer(job)
        except asyncio.CancelledError:
            self._end(job, "cancelled", "cancelled")
            raise
        except (GatewayError, MediaError) as failure:
            cause = getattr(failure, "cause", None) or getattr(failure, "code", "failed")
            self._end(job, "failed", str(getattr(cause, "value", cause)), str(failure))

    async def _transfer(self, job: DownloadJob) -> None:
        job.state = "running"
        self._tell(job)
        session = self._open(job)
        try:
            await asyncio.shield(session.opening)
            job.filesize = session.filesize
            await self._check_room(job.filesize or 0)
            if session.node is None:
                raise NotReady("the session has no node")
            try:
                cause = await self._watch(job, session)
            finally:
                with contextlib.suppress(MediaError):
                    self._conclude(
                        job, await asyncio.shield(session.node.client.close_transfer(job.transfer_id))
                    )
                    job.transfer_id = ""
            self._judge(job, cause)
        finally:
            await self._drop_transfer(job, session)
            self._ends.remove(session)
            self._sessions.end(session, "download_over")

    def _open(self, job: DownloadJob) -> LiveSession:
        def prepare(session: LiveSession) -> None:
            session.history = DeviceHistory(job.start, job.end, download_speed=job.speed)
            session.info.kind = SessionKind.DOWNLOAD
            session.on_request = lambda incoming: self._ends.in_dialog(session, incoming)
            session.on_receiver = lambda node: self._open_transfer(job, session, node)
            self._ends.add(session, lambda what: self._said(job, what))

        key = (job.device_id, job.channel_id, -next(self._numbers))
        return self._sessions.open_history(key, prepare)

    async def _open_transfer(self, job: DownloadJob, session: LiveSession, node: NodeHandle) -> None:
        """Before the device sends its first packet: at many times the speed a moment later is seconds too late."""
        await self._drop_transfer(job, session)
        job.tries += 1
        transfer_id = f"{job.job_id}-{job.tries}"
        await node.client.open_transfer(
            TransferSpec(
                transfer_id=transfer_id,
                stream_id=session.stream_id,
                directory=str(self.directory),
                start=job.start,
                length_s=job.length_s,
                format=job.form,
            )
        )
        job.transfer_id, job.node = transfer_id, node

    async def _drop_transfer(self, job: DownloadJob, session: LiveSession) -> None:
        """One of a try that led nowhere."""
        node, transfer_id, job.transfer_id = job.node, job.transfer_id, ""
        if node is not None and transfer_id and node.alive:
            with contextlib.suppress(MediaError):
                await node.client.close_transfer(transfer_id)

    def _said(self, job: DownloadJob, what: str) -> None:
        """The device, or its pictures, say that it is over; the last packets may still come (HistoryEnds drains)."""
        job.said = what

    async def _watch(self, job: DownloadJob, session: LiveSession) -> str:
        """Until it is over; why."""
        loop = asyncio.get_running_loop()
        new_at, last = loop.time(), 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            if session.ending is not None or session.node is None:
                return job.said or session.info.end_cause or "ended"
            info = await session.node.client.transfer(job.transfer_id)
            self.bytes += max(0, info.bytes - job.bytes)
            job.media_s, job.bytes, job.pictures = info.media_s, info.bytes, info.pictures
            if info.fault:
                job.detail = info.fault
                return "write_failed"
            if info.media_s > last:
                new_at, last = loop.time(), info.media_s
            elif loop.time() - new_at > self._settings.download_silence_s:
                return job.said or "silence"
            await self._check_room(0)

    def _conclude(self, job: DownloadJob, info: TransferInfo) -> None:
        """What is in the file, read back."""
        job.parts, job.bytes, job.pictures = info.parts, info.bytes, info.pictures
        job.duration_s = info.duration_s
        job.media_s = max(job.media_s, info.media_s)
        job.detail = job.detail or info.fault

    def _judge(self, job: DownloadJob, cause: str) -> None:
        """Whole, in part, or nothing. A device that says it sent all has sent all there is."""
        whole = cause in ("media_status", "media_time") or job.duration_s >= job.length_s - NEAR_S
        if not job.parts or not job.pictures:
            self._end(job, "failed", cause, job.detail or "no picture came")
        elif job.detail or not whole:
            self._end(job, "partial", cause, job.detail or f"{job.duration_s:.0f} s of {job.length_s} s")
        else:
            self._end(job, "done", cause)

    def _end(self, job: DownloadJob, state: State, cause: str, detail: str = "") -> None:
        job.state, job.cause, job.detail = state, cause, detail or job.detail
        job.ended_mono = self._clock.mono()
        self.counts[state] += 1
        log.info(
            "device download ended job=%s device=%s channel=%s state=%s cause=%s bytes=%d duration_s=%.1f",
            *(job.job_id, job.device_id, job.channel_id, state, cause, job.bytes, job.duration_s),
        )
        job.over.set()
        self._tell(job)

    def _tell(self, job: DownloadJob) -> None:
        self._bus.publish(
            DeviceDownloadChanged(job.job_id, job.device_id, job.channel_id, job.owner, job.state, job.cause)
        )


def _emptied(directory: Path) -> None:
    """Only what bears our names: the directory may be somebody else's too."""
    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():
        if OUR_FILE.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def _removed(directory: Path, job_id: str) -> None:
    for entry in directory.glob(f"{job_id}*"):
        entry.unlink(missing_ok=True)


def _free(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(directory).free
