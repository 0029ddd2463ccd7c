"""Rows of orders for device snapshots, of the pictures that came, and of rules for VideoUploadNotify."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, func, select

from gateway.storage.database import Database, aware, upsert_rows
from gateway.storage.schema import device_snapshot_jobs, device_snapshots, video_upload_rules

_J, _P = device_snapshot_jobs.c, device_snapshots.c


@dataclass(slots=True)
class SnapshotJob:
    """One order: ``asked`` pictures, ``interval_s`` apart. ``state``: running | done | partial | failed | timed_out.

    ``reported`` are the SnapShotFileIDs of the device's notice; uploads are taken until ``ends_at``.
    """

    job_id: str
    device_id: str
    channel_id: str
    session_id: str
    asked: int
    interval_s: int
    created_at: datetime
    ends_at: datetime
    state: str = "running"
    detail: str = ""
    who: str = ""
    ended_at: datetime | None = None
    reported: list[str] = field(default_factory=list)


@dataclass(slots=True)
class StoredPicture:
    """One file. ``name`` is ours or the standard's, ``sent_name`` the device's; ``taken_at`` is read from its name."""

    picture_id: str
    job_id: str
    device_id: str
    channel_id: str
    name: str
    sent_name: str
    media_type: str
    size_bytes: int
    received_at: datetime
    taken_at: datetime | None = None
    warning: str = ""


@dataclass(frozen=True, slots=True)
class UploadRule:
    """What VideoUploadNotify of one device sets going. ``action``: off | keep | record."""

    device_id: str
    action: str
    keep_s: int


@dataclass(frozen=True, slots=True)
class PictureFilter:
    """Which pictures; None: all. ``start`` and ``end`` are of the arrival."""

    device_id: str | None = None
    channel_id: str | None = None
    job_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [
            _P[name] == value
            for name in ("device_id", "channel_id", "job_id")
            if (value := getattr(self, name)) is not None
        ]
        if self.start is not None:
            found.append(_P.received_at >= self.start)
        if self.end is not None:
            found.append(_P.received_at < self.end)
        return found


class SnapshotStore:
    """All methods may raise SQLAlchemyError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- orders ----------------------------------------------------------------------------------------------

    async def put_job(self, job: SnapshotJob) -> None:
        async with self._database.begin() as connection:
            await upsert_rows(connection, device_snapshot_jobs, [_row(job)])

    async def job(self, job_id: str) -> SnapshotJob | None:
        found = await self._jobs(select(device_snapshot_jobs).where(_J.job_id == job_id))
        return found[0] if found else None

    async def running(self) -> list[SnapshotJob]:
        """Orders that an earlier life left open."""
        return await self._jobs(select(device_snapshot_jobs).where(_J.state == "running"))

    async def jobs(
        self, device_id: str | None, channel_id: str | None, state: str | None, *, limit: int, offset: int
    ) -> tuple[int, list[SnapshotJob]]:
        """How many there are, and one page, newest first."""
        wanted = {"device_id": device_id, "channel_id": channel_id, "state": state}
        clauses = [_J[name] == value for name, value in wanted.items() if value is not None]
        query = select(device_snapshot_jobs).where(*clauses).order_by(_J.created_at.desc(), _J.job_id)
        total = await self._count(device_snapshot_jobs, clauses)
        return total, await self._jobs(query.limit(limit).offset(offset))

    async def received(self, job_ids: list[str]) -> dict[str, int]:
        """How many pictures of these orders are kept."""
        query = select(_P.job_id, func.count()).where(_P.job_id.in_(job_ids)).group_by(_P.job_id)
        async with self._database.connect() as connection:
            return {str(job_id): int(count) for job_id, count in (await connection.execute(query)).all()}

    async def _jobs(self, query: Any) -> list[SnapshotJob]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        found = []
        for row in rows:
            values = dict(row)
            for name in ("created_at", "ends_at", "ended_at"):
                values[name] = aware(values[name])
            found.append(SnapshotJob(**values))
        return found

    # -- pictures --------------------------------------------------------------------------------------------

    async def put_picture(self, picture: StoredPicture) -> None:
        async with self._database.begin() as connection:
            await upsert_rows(connection, device_snapshots, [_row(picture)])

    async def picture(self, picture_id: str) -> StoredPicture | None:
        found = await self._pictures(select(device_snapshots).where(_P.picture_id == picture_id))
        return found[0] if found else None

    async def pictures(
        self, wanted: PictureFilter, *, limit: int, offset: int
    ) -> tuple[int, list[StoredPicture]]:
        """How many there are, and one page, newest first."""
        clauses = wanted.clauses()
        query = select(device_snapshots).where(*clauses).order_by(_P.received_at.desc(), _P.picture_id)
        total = await self._count(device_snapshots, clauses)
        return total, await self._pictures(query.limit(limit).offset(offset))

    async def remove_picture(self, picture_id: str) -> None:
        async with self._database.begin() as connection:
            await connection.execute(delete(device_snapshots).where(_P.picture_id == picture_id))

    async def remove_before(self, before: datetime, *, limit: int = 500) -> list[StoredPicture]:
        """Forget the oldest pictures, and orders without pictures, of before; returns what was forgotten."""
        query = select(device_snapshots).where(_P.received_at < before).order_by(_P.received_at).limit(limit)
        found = await self._pictures(query)
        async with self._database.begin() as connection:
            ids = [picture.picture_id for picture in found]
            await connection.execute(delete(device_snapshots).where(_P.picture_id.in_(ids)))
            with_pictures = select(_P.job_id)
            await connection.execute(
                delete(device_snapshot_jobs).where(
                    _J.created_at < before, _J.state != "running", _J.job_id.not_in(with_pictures)
                )
            )
        return found

    async def _pictures(self, query: Any) -> list[StoredPicture]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        found = []
        for row in rows:
            values = dict(row)
            values |= {name: aware(values[name]) for name in ("received_at", "taken_at")}
            found.append(StoredPicture(**values))
        return found

    async def _count(self, table: Table, clauses: list[ColumnElement[bool]]) -> int:
        async with self._database.connect() as connection:
            return int(await connection.scalar(select(func.count()).select_from(table).where(*clauses)) or 0)

    # -- rules for VideoUploadNotify -------------------------------------------------------------------------

    async def upload_rules(self) -> list[UploadRule]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(select(video_upload_rules))).mappings().all()
        return [UploadRule(**row) for row in rows]

    async def put_upload_rule(self, rule: UploadRule) -> None:
        async with self._database.begin() as connection:
            await upsert_rows(connection, video_upload_rules, [_row(rule)])

    async def remove_upload_rule(self, device_id: str) -> None:
        async with self._database.begin() as connection:
            await connection.execute(
                delete(video_upload_rules).where(video_upload_rules.c.device_id == device_id)
            )


def _row(record: Any) -> dict[str, Any]:
    return {one.name: getattr(record, one.name) for one in fields(record)}
