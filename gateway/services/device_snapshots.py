"""Pictures that a device takes and uploads by itself: orders, uploads, the finished notice (GB/T 28181-2022 9.14)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from config.settings import SnapshotSettings
from gateway.clock import Clock
from gateway.dispatch import BodyHandler, RoleName
from gateway.errors import GatewayError
from gateway.events import EventBus, SecurityEvent
from gateway.model import Device
from gateway.peers import Peer
from gateway.registry import Registry
from gateway.services.device_config import Value
from gateway.services.device_snapshots_events import DeviceSnapshotReceived, DeviceSnapshotsEnded
from gateway.services.device_snapshots_files import PictureFiles
from gateway.services.device_snapshots_job import JobState, Running, bound_to, new_picture, verdict
from gateway.services.errors import ControlCause, ControlFailed
from gateway.storage.snapshots import SnapshotJob, SnapshotStore, StoredPicture
from media import tickets
from sip.endpoint import Incoming
from sip.manscdp import Body, SnapShotConfig, UploadSnapShotFinishedNotify

log = logging.getLogger(__name__)

SNAPSHOT = "SnapShotConfig"
RETENTION_S = 600.0
MOST_RUNNING = 1000
UPLOAD_PATH = "/upload/snapshots"


class UploadRefused(GatewayError):
    """An upload is not taken; ``cause`` says why, in words for metrics and for the device's log."""

    def __init__(self, status: int, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.cause = status, cause


class Configures(Protocol):
    """The part of gateway.services.device_config.DeviceConfiguration that is needed."""

    def check(self, device_id: str, kind: str) -> Device: ...

    async def write(self, device_id: str, target_id: str, kind: str, value: Value) -> None: ...


class Desk(Protocol):
    """The part of gateway.dispatch.Dispatch that is needed."""

    def on(self, model: type[Body], role: RoleName = "device") -> Callable[[BodyHandler], BodyHandler]: ...


Stranger = Callable[[str, UploadSnapShotFinishedNotify], Awaitable[bool]]
"""Takes a device's notice of a session that is not ours (an upper's); False when it is nobody's."""


class DeviceSnapshots:
    """Orders pictures and takes them in. ``address`` makes the start of the URL that a device can reach.

    ``counts``: stored, repeated, warned, unknown_session, and the causes of refused uploads.
    """

    def __init__(
        self,
        *,
        settings: SnapshotSettings,
        registry: Registry,
        configuration: Configures,
        store: SnapshotStore,
        files: PictureFiles,
        bus: EventBus,
        address: Callable[[Device], str],
        clock: Clock,
    ) -> None:
        self._settings, self._registry, self._configuration = settings, registry, configuration
        self.store, self.files = store, files
        self._bus, self._address, self._clock = bus, address, clock
        self._secret = secrets.token_urlsafe(32)
        self._running: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stranger: Stranger | None = None
        """Set by gateway/assembly: who takes notices of sessions that are not ours."""
        self.counts: Counter[str] = Counter()

    def connect(self, desk: Desk) -> None:
        desk.on(UploadSnapShotFinishedNotify, "device")(self._noticed)

    async def start(self) -> None:
        """Close what an earlier life left open. Raises OSError, SQLAlchemyError."""
        await self.files.open()
        for job in await self.store.running():
            job.state, job.ended_at = JobState.FAILED, self._clock.utc()
            job.detail = "the gateway was restarted while the device took pictures"
            await self.store.put_job(job)
        self._spawn(self._forget())

    async def close(self) -> None:
        for running in self._running.values():
            if running.timer is not None:
                running.timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- orders ----------------------------------------------------------------------------------------------

    async def order(
        self, device_id: str, target_id: str, *, count: int, interval_s: int, who: str
    ) -> SnapshotJob:
        """Have ``count`` (1-10) pictures taken; returns when the device said OK to it, before the first comes.

        Raises ControlFailed (also taken: an order for this channel is running), NotSupported for a device of 2016,
        NoUploadAddress.
        """
        device = self._configuration.check(device_id, SNAPSHOT)
        self._must_be_free(device_id, target_id)
        base = self._address(device)
        now = self._clock.utc()
        lasts_s = interval_s * (count - 1) + self._settings.finish_timeout_s
        job = SnapshotJob(
            job_id=secrets.token_hex(8),
            device_id=device_id,
            channel_id=target_id,
            session_id=secrets.token_hex(16),
            asked=count,
            interval_s=interval_s,
            created_at=now,
            ends_at=now + timedelta(seconds=lasts_s),
            who=who,
        )
        running = self._running[job.job_id] = Running(job)  # before it is sent: a device may be quick
        try:
            await self.store.put_job(job)
            value = SnapShotConfig(
                snap_num=count,
                interval=interval_s,
                upload_url=self._url(base, job),
                session_id=job.session_id,
            )
            await self._send(running, value)
        except BaseException as error:
            self._running.pop(job.job_id, None)
            await asyncio.shield(self._failed(job, error))
            raise
        if job.state == JobState.RUNNING:
            running.timer = asyncio.get_running_loop().call_later(lasts_s, self._expired, running)
        return job

    async def _send(self, running: Running, value: SnapShotConfig) -> None:
        """Some devices upload without ever sending the Response: pictures are as good as a yes."""
        job = running.job
        try:
            await self._configuration.write(job.device_id, job.channel_id, SNAPSHOT, value)
        except ControlFailed as failure:
            if failure.cause is not ControlCause.NO_ANSWER or not (running.names or running.noticed):
                raise
            log.warning("pictures without a Response device=%s job=%s", job.device_id, job.job_id)

    def _must_be_free(self, device_id: str, target_id: str) -> None:
        if len(self._running) >= MOST_RUNNING:
            raise ControlFailed(ControlCause.TAKEN, "too many orders for pictures are running")
        for running in self._running.values():
            if (running.job.device_id, running.job.channel_id) == (device_id, target_id):
                raise ControlFailed(
                    ControlCause.TAKEN, f"order {running.job.job_id} for this channel is running"
                )

    async def _failed(self, job: SnapshotJob, error: BaseException) -> None:
        job.state, job.ended_at = JobState.FAILED, self._clock.utc()
        job.detail = str(error)[:500] or type(error).__name__
        try:
            await self.store.put_job(job)
        except SQLAlchemyError as fault:
            log.error("order not kept job=%s error=%s", job.job_id, fault)
        self._tell_end(job, 0)

    def received(self, job_id: str) -> int | None:
        """How many pictures of a running order came; None when it is over."""
        running = self._running.get(job_id)
        return len(running.names) if running is not None else None

    @property
    def running(self) -> int:
        """Orders that run now."""
        return len(self._running)

    # -- uploads ---------------------------------------------------------------------------------------------

    def _url(self, base: str, job: SnapshotJob) -> str:
        ends = job.ends_at.timestamp() + self._settings.grace_s
        return f"{base}{UPLOAD_PATH}/{job.job_id}/{tickets.sign(self._secret, bound_to(job), ends)}"

    def admit(self, job_id: str, ticket: str, source: str) -> SnapshotJob:
        """The order that this upload address is for. Raises UploadRefused 403: forged, run out, or over (G186)."""
        running = self._running.get(job_id)
        now = self._clock.utc().timestamp()
        if running is None or not tickets.verify(self._secret, bound_to(running.job), ticket, now):
            raise self.refused(
                source, "", 403, "bad_ticket", "this upload address is not, or no longer, good"
            )
        return running.job

    def check_session(self, job: SnapshotJob, session_id: str | None, source: str) -> None:
        """An upload that names a session must name that of its address. Raises UploadRefused 403 (G186)."""
        if session_id is not None and session_id.strip() != job.session_id:
            text = "the SessionID is not that of this upload address"
            raise self.refused(source, job.device_id, 403, "foreign_session", text)

    def refused(self, source: str, device_id: str, status: int, cause: str, detail: str) -> UploadRefused:
        """Count a refusal; those that look like an attack are told. Returns what to raise."""
        self.counts[cause] += 1
        log.warning("upload refused source=%s device=%s cause=%s", source, device_id, cause)
        if status == 403:
            self._bus.publish(SecurityEvent(f"upload_{cause}", source, detail, device_id))
        return UploadRefused(status, cause, detail)

    async def keep(
        self, job: SnapshotJob, data: bytes, media_type: str, sent_name: str, source: str
    ) -> StoredPicture:
        """Store one picture. The same name again replaces the picture. Raises UploadRefused, OSError, SQLAlchemyError.

        What has come is stored as a whole even when the device closes its connection meanwhile.
        """
        task = asyncio.create_task(self._keep(job, data, media_type, sent_name, source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _keep(
        self, job: SnapshotJob, data: bytes, media_type: str, sent_name: str, source: str
    ) -> StoredPicture:
        running = self._running.get(job.job_id)
        if running is None:
            raise self.refused(source, job.device_id, 403, "bad_ticket", "the order is over")
        async with running.storing:
            before = running.names.get(sent_name) if sent_name else None
            if before is None and len(running.names) >= job.asked:
                text = f"only {job.asked} pictures were asked for"
                raise self.refused(source, job.device_id, 409, "too_many", text)
            picture = new_picture(
                running, len(data), media_type, sent_name, belongs=self._belongs, now=self._clock.utc()
            )
            if before is not None:
                picture.picture_id, picture.name = before.picture_id, before.name
                picture.received_at = before.received_at
                self.counts["repeated"] += 1
            await self.files.write(picture, data)
            await self.store.put_picture(picture)
            running.names[sent_name or picture.name] = picture
        self.counts["stored"] += 1
        if picture.warning:
            self.counts["warned"] += 1
            log.warning("odd picture device=%s job=%s warning=%s", job.device_id, job.job_id, picture.warning)
        self._bus.publish(
            DeviceSnapshotReceived(
                job.device_id, job.channel_id, job.job_id, picture.picture_id, len(running.names),
                job.asked, picture.warning,
            )
        )  # fmt: skip
        if running.noticed and running.all_here:
            await self._end(running)
        return picture

    def _belongs(self, job: SnapshotJob, code: str) -> bool:
        return (
            code in (job.device_id, job.channel_id) or self._registry.channel(job.device_id, code) is not None
        )

    # -- the end ---------------------------------------------------------------------------------------------

    async def _noticed(self, peer: Peer, body: UploadSnapShotFinishedNotify, incoming: Incoming) -> None:
        """The device has finished: compare what it names with what was asked for and what came (G182, G184)."""
        del incoming
        running = next((one for one in self._running.values() if one.job.session_id == body.session_id), None)
        if running is None or running.job.device_id != peer.id:
            if self.stranger is not None and await self.stranger(peer.id, body):
                return
            self.counts["unknown_session"] += 1
            log.warning("notice of an unknown snapshot session device=%s", peer.id)
            return
        running.noticed = True
        running.job.reported = [name[:64] for name in body.file_ids[:100]]
        if running.all_here:
            await self._end(running)
        else:
            if running.timer is not None:
                running.timer.cancel()
            loop = asyncio.get_running_loop()
            running.timer = loop.call_later(self._settings.grace_s, self._expired, running)

    def _expired(self, running: Running) -> None:
        self._spawn(self._end(running))

    async def _end(self, running: Running) -> None:
        job = running.job
        if self._running.pop(job.job_id, None) is None:
            return
        if running.timer is not None:
            running.timer.cancel()
        job.state, job.detail = verdict(running)
        job.ended_at = self._clock.utc()
        try:
            await self.store.put_job(job)
        except SQLAlchemyError as error:
            log.error("order not kept job=%s error=%s", job.job_id, error)
        self._tell_end(job, len(running.names))

    def _tell_end(self, job: SnapshotJob, received: int) -> None:
        log.info(
            "snapshots ended device=%s channel=%s job=%s state=%s asked=%d received=%d reported=%d",
            *(job.device_id, job.channel_id, job.job_id, job.state, job.asked, received, len(job.reported)),
        )
        self._bus.publish(
            DeviceSnapshotsEnded(
                job.device_id, job.channel_id, job.job_id, job.state, job.asked, received, len(job.reported),
                job.detail,
            )
        )  # fmt: skip

    # -- keeping ---------------------------------------------------------------------------------------------

    async def remove(self, picture: StoredPicture) -> None:
        await self.store.remove_picture(picture.picture_id)
        await self.files.remove([picture])

    async def forget(self) -> int:
        """Remove what is older than ``keep_days``; returns how many pictures."""
        before = self._clock.utc() - timedelta(days=self._settings.keep_days)
        removed = 0
        while found := await self.store.remove_before(before):
            await self.files.remove(found)
            removed += len(found)
        return removed

    async def _forget(self) -> None:
        while True:
            try:
                await self.forget()
            except SQLAlchemyError as error:
                log.error("old snapshots not removed error=%s", error)
            await asyncio.sleep(RETENTION_S)

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
