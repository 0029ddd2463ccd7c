"""Pictures that devices take by themselves, over HTTP: order them, follow the orders, look at and delete pictures."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web
from pydantic import AwareDatetime, Field

from gateway.http.channels import ChannelFinder
from gateway.http.errors import not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, Page, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.device_snapshots import DeviceSnapshots
from gateway.services.device_snapshots_job import JobState
from gateway.storage.snapshots import PictureFilter, SnapshotJob, StoredPicture


class SnapshotOrder(Model):
    count: int = Field(default=1, ge=1, le=10, description="SnapNum")
    interval_s: int = Field(default=1, ge=1, le=3600, description="Between two pictures.")


class JobView(View):
    job_id: str
    device_id: str
    channel_id: str
    state: str = Field(description="running, done, partial (some are missing), failed or timed_out.")
    detail: str = Field(description="Why it is not done.")
    asked: int
    interval_s: int
    received: int = Field(description="Pictures that came.")
    reported: list[str] = Field(
        description="SnapShotFileIDs that the device named; fewer than asked: some failed."
    )
    created_at: datetime
    ends_at: datetime = Field(description="Until then uploads are taken.")
    ended_at: datetime | None
    who: str


class PictureView(View):
    picture_id: str
    job_id: str
    device_id: str
    channel_id: str
    name: str
    sent_name: str = Field(description="The file's name as the device wrote it.")
    media_type: str
    size_bytes: int
    taken_at: datetime | None = Field(description="By the file's name; null where it says nothing.")
    received_at: datetime
    warning: str = Field(description="What was odd about it; empty: nothing.")


class JobDetail(JobView):
    pictures: list[PictureView]


class JobList(View):
    total: int
    items: list[JobView]


class PictureList(View):
    total: int = Field(description="Pictures that match, on all pages.")
    items: list[PictureView]


class JobQuery(Page):
    device_id: AnyCode | None = None
    channel_id: AnyCode | None = None
    state: JobState | None = None


class PictureQuery(Page):
    device_id: AnyCode | None = None
    channel_id: AnyCode | None = None
    job_id: AnyCode | None = None
    start: AwareDatetime | None = Field(default=None, description="Received at or after; with a zone.")
    end: AwareDatetime | None = Field(default=None, description="Received before; with a zone.")


class DeviceSnapshotResource:
    def __init__(self, *, registry: Registry, snapshots: DeviceSnapshots) -> None:
        self._finder = ChannelFinder(registry)
        self._snapshots = snapshots

    @route(
        "POST",
        "/api/channels/{channel_id}/device-snapshots",
        summary="Have a device take pictures and upload them (SnapShotConfig, 2022)",
        role=Role.OPERATOR,
        status=202,
        tag="snapshots",
        errors=(404, 409, 502, 503, 504),
        audited="device.snapshots",
    )
    async def order(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: SnapshotOrder
    ) -> JobView:
        """Answers when the device has said OK. The pictures come later: see the order, or the events
        `device_snapshot_received` and `device_snapshots_ended`. One order at a time for a channel (409 `taken`)."""
        device_id, target = self._finder.key(channel_id, query.device_id)
        note_audit(
            call, target=f"{device_id}/{target}", detail=f"{body.count} pictures, {body.interval_s} s apart"
        )
        job = await self._snapshots.order(
            device_id, target, count=body.count, interval_s=body.interval_s, who=call.who.name
        )
        return _job(job, self._snapshots.received(job.job_id) or 0)

    @route(
        "GET",
        "/api/device-snapshot-jobs",
        summary="List orders for device snapshots, newest first",
        role=Role.VIEWER,
        tag="snapshots",
    )
    async def jobs(self, call: Call, query: JobQuery) -> JobList:
        total, found = await self._snapshots.store.jobs(
            query.device_id,
            query.channel_id,
            query.state.value if query.state is not None else None,
            limit=query.limit,
            offset=query.offset,
        )
        received = await self._snapshots.store.received([job.job_id for job in found])
        return JobList(total=total, items=[_job(job, received.get(job.job_id, 0)) for job in found])

    @route(
        "GET",
        "/api/device-snapshot-jobs/{job_id}",
        summary="Show one order with its pictures",
        role=Role.VIEWER,
        tag="snapshots",
        errors=(404,),
    )
    async def job(self, call: Call, job_id: AnyCode) -> JobDetail:
        job = await self._snapshots.store.job(job_id)
        if job is None:
            raise not_found(f"order {job_id}")
        total, found = await self._snapshots.store.pictures(
            PictureFilter(job_id=job_id), limit=1000, offset=0
        )
        pictures = [PictureView.model_validate(picture) for picture in reversed(found)]
        return JobDetail(**_job(job, total).model_dump(), pictures=pictures)

    @route(
        "GET",
        "/api/device-snapshots",
        summary="List pictures that devices uploaded, newest first",
        role=Role.VIEWER,
        tag="snapshots",
    )
    async def list(self, call: Call, query: PictureQuery) -> PictureList:
        wanted = PictureFilter(
            device_id=query.device_id, channel_id=query.channel_id, job_id=query.job_id,
            start=_utc(query.start), end=_utc(query.end),
        )  # fmt: skip
        total, found = await self._snapshots.store.pictures(wanted, limit=query.limit, offset=query.offset)
        return PictureList(total=total, items=[PictureView.model_validate(picture) for picture in found])

    @route(
        "GET",
        "/api/device-snapshots/{picture_id}/image",
        summary="One picture",
        role=Role.VIEWER,
        tag="snapshots",
        produces="image/jpeg",
        errors=(404,),
    )
    async def image(self, call: Call, picture_id: AnyCode) -> web.StreamResponse:
        """JPEG or PNG, as the device sent it."""
        picture = await self._get(picture_id)
        data = await self._snapshots.files.read(picture)
        if data is None:
            raise not_found(f"the file of picture {picture_id}")
        return web.Response(body=data, content_type=picture.media_type)

    @route(
        "DELETE",
        "/api/device-snapshots/{picture_id}",
        summary="Delete a picture",
        role=Role.OPERATOR,
        status=204,
        tag="snapshots",
        errors=(404,),
        audited="device.snapshot_delete",
    )
    async def remove(self, call: Call, picture_id: AnyCode) -> None:
        picture = await self._get(picture_id)
        note_audit(call, target=picture.channel_id, detail=picture.name)
        await self._snapshots.remove(picture)

    async def _get(self, picture_id: str) -> StoredPicture:
        picture = await self._snapshots.store.picture(picture_id)
        if picture is None:
            raise not_found(f"picture {picture_id}")
        return picture


def _job(job: SnapshotJob, received: int) -> JobView:
    values = {name: getattr(job, name) for name in JobView.model_fields if name != "received"}
    return JobView(**values, received=received)


def _utc(moment: datetime | None) -> datetime | None:
    """The database compares times as UTC."""
    return moment.astimezone(UTC) if moment is not None else None
