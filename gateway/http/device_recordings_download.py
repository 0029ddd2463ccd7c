"""Downloads of recordings from devices over HTTP: jobs that go on when their user leaves, and the file they make."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from aiohttp import web
from pydantic import AwareDatetime, Field, model_validator

from gateway.http.channels import ChannelFinder
from gateway.http.errors import not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import add_security_headers
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.device_download import DeviceDownloads
from gateway.services.device_download_job import DownloadJob

LONGEST_S = 86400


class DeviceDownloadOrder(Model):
    """What to fetch from the device."""

    start: AwareDatetime = Field(description="ISO 8601 with zone.")
    end: AwareDatetime
    speed: int = Field(
        default=4, ge=1, le=16, description="downloadspeed: so many times faster than it was recorded."
    )
    format: Literal["mp4", "ps"] = Field(
        default="mp4", description="ps: the device's program stream as it is."
    )

    @model_validator(mode="after")
    def _sensible(self) -> DeviceDownloadOrder:
        if self.end <= self.start:
            raise ValueError("end must lie after start")
        if (self.end - self.start).total_seconds() > LONGEST_S:
            raise ValueError("a download covers at most one day")
        return self


class DeviceDownloadView(View):
    """A job and how far it is."""

    job_id: str
    owner: str
    device_id: str
    channel_id: str
    start: datetime
    end: datetime
    speed: int
    format: Literal["mp4", "ps"]
    created: datetime
    state: Literal["waiting", "running", "done", "partial", "failed", "cancelled"] = Field(
        description="partial: there is a file, but the device did not send all of the range."
    )
    cause: str = Field(description="How it ended.")
    detail: str
    progress: float = Field(description="0 to 1, by the time of the recording.")
    media_s: float = Field(description="Seconds of the recording that came.")
    bytes: int
    filesize: int | None = Field(description="What the device announced; null: nothing sensible.")
    duration_s: float = Field(description="Of the file, once it is there.")
    pictures: int


class DeviceDownloadList(Model):
    downloads: list[DeviceDownloadView]


class DeviceDownloadResource:
    def __init__(self, *, registry: Registry, downloads: DeviceDownloads) -> None:
        self._finder = ChannelFinder(registry)
        self._downloads = downloads

    @route(
        "POST",
        "/api/channels/{channel_id}/device-downloads",
        summary="Download a recording from a device",
        role=Role.VIEWER,
        status=202,
        tag="device recordings",
        errors=(404, 422, 503, 507),
        audited="device_download.order",
    )
    async def order(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: DeviceDownloadOrder
    ) -> DeviceDownloadView:
        """Begins a job; one runs per device, others wait. It goes on without its user. 503 `busy`: enough wait already;
        507 `disk_full`."""
        key = self._finder.key(channel_id, query.device_id)
        call.audit_detail = f"{body.start.isoformat()} {body.end.isoformat()} {body.format}"
        job = await self._downloads.order(
            key,
            body.start.timestamp(),
            body.end.timestamp(),
            owner=call.who.name,
            speed=body.speed,
            form=body.format,
        )
        return _view(job)

    @route(
        "GET",
        "/api/device-downloads",
        summary="List downloads from devices",
        role=Role.VIEWER,
        tag="device recordings",
    )
    async def list(self, call: Call) -> DeviceDownloadList:
        """One's own, newest first; an administrator sees all."""
        owner = None if call.who.role is Role.ADMINISTRATOR else call.who.name
        return DeviceDownloadList(downloads=[_view(job) for job in self._downloads.jobs(owner)])

    @route(
        "GET",
        "/api/device-downloads/{job_id}",
        summary="Show a download from a device",
        role=Role.VIEWER,
        tag="device recordings",
        errors=(404,),
    )
    async def show(self, call: Call, job_id: AnyCode) -> DeviceDownloadView:
        return _view(self._job(call, job_id))

    @route(
        "DELETE",
        "/api/device-downloads/{job_id}",
        summary="Cancel a download from a device, or delete its file",
        role=Role.VIEWER,
        status=204,
        tag="device recordings",
        errors=(404,),
        audited="device_download.delete",
    )
    async def delete(self, call: Call, job_id: AnyCode) -> None:
        await self._downloads.cancel(self._job(call, job_id))

    @route(
        "GET",
        "/api/device-downloads/{job_id}/file",
        summary="Fetch the file of a download from a device",
        role=Role.VIEWER,
        status=307,
        tag="device recordings",
        errors=(404, 409, 503),
        audited="device_download.fetch",
    )
    async def file(self, call: Call, job_id: AnyCode) -> web.StreamResponse:
        """Redirects to the media node that sends it, with a ticket that runs out. 409 `not_ready`: not there yet."""
        url = await self._downloads.url(self._job(call, job_id), call.host)
        response = web.Response(status=307)
        response.headers["Location"] = url
        add_security_headers(response, call.request.path)
        return response

    def _job(self, call: Call, job_id: str) -> DownloadJob:
        """Somebody else's job does not exist, except for an administrator."""
        job = self._downloads.get(job_id)
        if job is None or (job.owner != call.who.name and call.who.role is not Role.ADMINISTRATOR):
            raise not_found(f"download {job_id}")
        return job


def _view(job: DownloadJob) -> DeviceDownloadView:
    return DeviceDownloadView(
        job_id=job.job_id,
        owner=job.owner,
        device_id=job.device_id,
        channel_id=job.channel_id,
        start=datetime.fromtimestamp(job.start, UTC),
        end=datetime.fromtimestamp(job.end, UTC),
        speed=job.speed,
        format=job.form,
        created=job.created,
        state=job.state,
        cause=job.cause,
        detail=job.detail,
        progress=job.progress,
        media_s=round(job.media_s, 2),
        bytes=job.bytes,
        filesize=job.filesize,
        duration_s=round(job.duration_s, 3),
        pictures=job.pictures,
    )
