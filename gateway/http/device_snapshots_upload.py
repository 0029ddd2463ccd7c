"""Where devices upload their pictures: no log-in, a one-time address instead; multipart forms and plain bodies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Protocol

from aiohttp import BodyPartReader, MultipartReader, hdrs, web
from pydantic import BaseModel, ConfigDict

from config.settings import SnapshotSettings
from gateway.http.errors import Problem
from gateway.http.routes import Call, View, route
from gateway.http.views import AnyCode
from gateway.services.device_snapshots import UPLOAD_PATH, UploadRefused
from gateway.services.device_snapshots_files import MAGIC_BYTES, sniff
from gateway.storage.snapshots import SnapshotJob, StoredPicture

MOST_FIELDS = 20
MOST_FIELD_BYTES = 4096
FORM_BYTES = 64 * 1024
"""What a form may be longer than the picture in it."""
SESSION_NAMES = frozenset({"sessionid", "session_id", "session-id", "x-session-id"})


class Taker(Protocol):
    """The part of gateway.services.device_snapshots.DeviceSnapshots that is needed."""

    def admit(self, job_id: str, ticket: str, source: str) -> SnapshotJob: ...

    def check_session(self, job: SnapshotJob, session_id: str | None, source: str) -> None: ...

    def refused(self, source: str, device_id: str, status: int, cause: str, detail: str) -> UploadRefused: ...

    async def keep(
        self, job: SnapshotJob, data: bytes, media_type: str, sent_name: str, source: str
    ) -> StoredPicture: ...


class UploadQuery(BaseModel):
    """Devices add parameters of their own; a SessionID among them must be right."""

    model_config = ConfigDict(extra="allow")


class UploadDone(View):
    stored: int


@dataclass(slots=True)
class _Sent:
    """What one request brought: sessions it named, and pictures with the names that the device gave them."""

    sessions: list[str] = field(default_factory=list)
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    size_bytes: int = 0


class SnapshotUploadResource:
    """Never holds more than ``most_bytes`` of one request, nor more than ``uploads_at_once`` requests."""

    def __init__(self, *, settings: SnapshotSettings, taker: Taker) -> None:
        self._settings, self._taker = settings, taker
        self._open = 0

    @route(
        "POST",
        UPLOAD_PATH + "/{job_id}/{ticket}",
        summary="Upload a picture (devices)",
        role=None,
        tag="snapshots",
        errors=(400, 403, 408, 409, 413, 415, 503),
    )
    async def post(self, call: Call, job_id: AnyCode, ticket: str, query: UploadQuery) -> UploadDone:
        """Only with the address that SnapShotConfig told the device. JPEG and PNG, known by their content."""
        return await self._take(call, job_id, ticket, query, "")

    @route(
        "PUT",
        UPLOAD_PATH + "/{job_id}/{ticket}",
        summary="Upload a picture (devices)",
        role=None,
        tag="snapshots",
        errors=(400, 403, 408, 409, 413, 415, 503),
    )
    async def put(self, call: Call, job_id: AnyCode, ticket: str, query: UploadQuery) -> UploadDone:
        return await self._take(call, job_id, ticket, query, "")

    @route(
        "PUT",
        UPLOAD_PATH + "/{job_id}/{ticket}/{name}",
        summary="Upload a picture under a name (devices)",
        role=None,
        tag="snapshots",
        errors=(400, 403, 408, 409, 413, 415, 503),
    )
    async def put_named(
        self, call: Call, job_id: AnyCode, ticket: str, name: str, query: UploadQuery
    ) -> UploadDone:
        return await self._take(call, job_id, ticket, query, name)

    @route(
        "POST",
        UPLOAD_PATH + "/{job_id}/{ticket}/{name}",
        summary="Upload a picture under a name (devices)",
        role=None,
        tag="snapshots",
        errors=(400, 403, 408, 409, 413, 415, 503),
    )
    async def post_named(
        self, call: Call, job_id: AnyCode, ticket: str, name: str, query: UploadQuery
    ) -> UploadDone:
        return await self._take(call, job_id, ticket, query, name)

    async def _take(self, call: Call, job_id: str, ticket: str, query: UploadQuery, name: str) -> UploadDone:
        job = self._taker.admit(job_id, ticket, call.source)
        if self._open >= self._settings.uploads_at_once:
            raise Problem(503, "too many uploads", cause="busy", headers={"Retry-After": "2"})
        self._open += 1
        try:
            async with asyncio.timeout(self._settings.upload_timeout_s):
                sent = await self._read(call.request, job, call.source, name)
        except TimeoutError as error:
            raise Problem(408, "the upload took too long", cause="timeout") from error
        finally:
            self._open -= 1
        for named in [*sent.sessions, *_sessions_of(call.request, query)]:
            self._taker.check_session(job, named, call.source)
        if not sent.pictures:
            raise self._taker.refused(call.source, job.device_id, 400, "empty", "no picture in the upload")
        kinds = [(sent_name, data, sniff(data)) for sent_name, data in sent.pictures]
        for _, _, kind in kinds:
            if kind is None:
                raise self._not_a_picture(job, call.source)
        for sent_name, data, kind in kinds:
            await self._taker.keep(job, data, str(kind), sent_name, call.source)
        return UploadDone(stored=len(kinds))

    def _not_a_picture(self, job: SnapshotJob, source: str) -> UploadRefused:
        return self._taker.refused(source, job.device_id, 415, "no_picture", "only JPEG and PNG are taken")

    def _too_big(self, job: SnapshotJob, source: str) -> UploadRefused:
        text = f"one upload may have {self._settings.most_bytes} bytes"
        return self._taker.refused(source, job.device_id, 413, "too_big", text)

    async def _read(self, request: web.Request, job: SnapshotJob, source: str, name: str) -> _Sent:
        form = request.content_type.startswith("multipart/")
        most = self._settings.most_bytes + (FORM_BYTES if form else 0)
        if request.content_length is not None and request.content_length > most:
            raise self._too_big(job, source)
        sent = _Sent()
        if not form:
            data = await self._picture(request.content.iter_any(), sent, job, source)
            sent.pictures.append((name or _name_in(request.headers.get(hdrs.CONTENT_DISPOSITION, "")), data))
            if not data:
                sent.pictures.clear()
            return sent
        try:
            await self._read_form(await request.multipart(), sent, job, source, name)
        except ValueError as error:
            raise self._taker.refused(source, job.device_id, 400, "bad_form", "the form is broken") from error
        return sent

    async def _read_form(
        self, reader: MultipartReader, sent: _Sent, job: SnapshotJob, source: str, name: str
    ) -> None:
        for _ in range(MOST_FIELDS):
            part = await reader.next()
            if part is None:
                return
            if not isinstance(part, BodyPartReader):
                raise ValueError("nested form")
            if part.filename is None and not _is_picture(part):
                text = await _text(part)
                if (part.name or "").lower() in SESSION_NAMES:
                    sent.sessions.append(text)
                continue
            data = await self._picture(_chunks(part), sent, job, source)
            if data:
                sent.pictures.append((part.filename or name, data))
        raise ValueError("too many fields")

    async def _picture(
        self, chunks: AsyncIterator[bytes], sent: _Sent, job: SnapshotJob, source: str
    ) -> bytes:
        """One picture, refused as soon as it is known to be too long or to be none."""
        data = bytearray()
        looked = False
        async for chunk in chunks:
            data += chunk
            sent.size_bytes += len(chunk)
            if sent.size_bytes > self._settings.most_bytes:
                raise self._too_big(job, source)
            if not looked and len(data) >= MAGIC_BYTES:
                looked = True
                if sniff(bytes(data[:MAGIC_BYTES])) is None:
                    raise self._not_a_picture(job, source)
        return bytes(data)


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk():
        yield chunk


async def _text(part: BodyPartReader) -> str:
    data = bytearray()
    async for chunk in _chunks(part):
        data += chunk
        if len(data) > MOST_FIELD_BYTES:
            raise ValueError("a field is too long")
    return data.decode("utf-8", "replace")


def _is_picture(part: BodyPartReader) -> bool:
    kind = part.headers.get(hdrs.CONTENT_TYPE, "").lower()
    return kind.startswith(("image/", "application/octet-stream"))


def _name_in(disposition: str) -> str:
    """The file name of a Content-Disposition header."""
    if not disposition:
        return ""
    message = Message()
    message["Content-Disposition"] = disposition[:500]
    return message.get_filename() or ""


def _sessions_of(request: web.Request, query: UploadQuery) -> list[str]:
    """Sessions that headers or the address name."""
    found = [value for name, value in request.headers.items() if name.lower() in SESSION_NAMES]
    extra = query.model_extra or {}
    return found + [str(value) for name, value in extra.items() if name.lower() in SESSION_NAMES]
