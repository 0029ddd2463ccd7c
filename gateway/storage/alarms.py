"""Rows of alarms: what came, with its XML, what was done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.engine import RowMapping

from gateway.storage.database import Database, aware, upsert_rows
from gateway.storage.schema import alarms

_T = alarms.c
_MOMENTS = ("alarm_at", "received_at", "last_at", "acknowledged_at")


@dataclass(slots=True)
class StoredAlarm:
    """One alarm. ``channel_id`` is the DeviceID it names (the device itself, an alarm input, a camera).

    ``alarm_at`` is the device's own time, ``received_at`` ours; ``repeats`` counts the same alarm coming again,
    ``suppressed`` other alarms of the device that came too fast after this one to be kept. ``raw``: its XML.
    ``camera_id``: the channel whose picture and recording belong to it; ``reset``: "" or what the device answered.
    """

    alarm_id: str
    device_id: str
    channel_id: str
    received_at: datetime
    last_at: datetime
    alarm_at: datetime | None = None
    priority: int | None = None
    method: int | None = None
    alarm_type: int | None = None
    event_type: int | None = None
    description: str = ""
    longitude: float | None = None
    latitude: float | None = None
    extra: list[str] = field(default_factory=list)
    via: str = "message"
    clock_fault: bool = False
    repeats: int = 0
    suppressed: int = 0
    raw: str = ""
    camera_id: str = ""
    snapshot: str = ""
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    note: str = ""
    reset: str = ""


_FIELDS = tuple(f.name for f in fields(StoredAlarm))


@dataclass(frozen=True, slots=True)
class AlarmFilter:
    """Which alarms; None: all."""

    device_id: str | None = None
    channel_id: str | None = None
    method: int | None = None
    alarm_type: int | None = None
    priority_at_most: int | None = None
    acknowledged: bool | None = None
    start: datetime | None = None
    end: datetime | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        names = ("device_id", "channel_id", "method", "alarm_type")
        found: list[ColumnElement[bool]] = [
            _T[name] == value for name in names if (value := getattr(self, name)) is not None
        ]
        if self.priority_at_most is not None:
            found.append(_T.priority <= self.priority_at_most)
        if self.acknowledged is not None:
            known = _T.acknowledged_at.is_not(None)
            found.append(known if self.acknowledged else ~known)
        if self.start is not None:
            found.append(_T.received_at >= self.start)
        if self.end is not None:
            found.append(_T.received_at < self.end)
        return found


class AlarmStore:
    """Reads and writes alarms. All methods may raise SQLAlchemyError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, wanted: Sequence[StoredAlarm]) -> None:
        """Insert, or replace as a whole."""
        rows = [{name: getattr(alarm, name) for name in _FIELDS} for alarm in wanted]
        async with self._database.begin() as connection:
            await upsert_rows(connection, alarms, rows)

    async def get(self, alarm_id: str) -> StoredAlarm | None:
        async with self._database.connect() as connection:
            row = (await connection.execute(select(alarms).where(_T.alarm_id == alarm_id))).mappings().first()
        return _alarm(row) if row is not None else None

    async def find(self, wanted: AlarmFilter, *, limit: int, offset: int) -> tuple[int, list[StoredAlarm]]:
        """How many there are, and one page of them, newest first."""
        clauses = wanted.clauses()
        query = select(alarms).where(*clauses).order_by(_T.received_at.desc(), _T.alarm_id.desc())
        async with self._database.connect() as connection:
            total = await connection.scalar(select(func.count()).select_from(alarms).where(*clauses))
            rows = (await connection.execute(query.limit(limit).offset(offset))).mappings().all()
        return int(total or 0), [_alarm(row) for row in rows]

    async def change(self, alarm_id: str, **values: Any) -> None:
        async with self._database.begin() as connection:
            await connection.execute(update(alarms).where(_T.alarm_id == alarm_id).values(**values))

    async def remove_before(self, before: datetime, *, limit: int = 1000) -> list[str]:
        """Forget the oldest alarms received before; returns their ids (to remove their pictures)."""
        query = select(_T.alarm_id).where(_T.received_at < before).order_by(_T.received_at).limit(limit)
        return await self._remove(query)

    async def remove_beyond(self, most: int, *, limit: int = 1000) -> list[str]:
        """Forget the oldest where more than ``most`` are kept."""
        async with self._database.connect() as connection:
            total = int(await connection.scalar(select(func.count()).select_from(alarms)) or 0)
        if total <= most:
            return []
        return await self._remove(
            select(_T.alarm_id).order_by(_T.received_at).limit(min(limit, total - most))
        )

    async def _remove(self, query: Any) -> list[str]:
        async with self._database.begin() as connection:
            found = [str(value) for value in (await connection.execute(query)).scalars()]
            if found:
                await connection.execute(delete(alarms).where(_T.alarm_id.in_(found)))
        return found


def _alarm(row: RowMapping) -> StoredAlarm:
    values = {name: row[name] for name in _FIELDS}
    for name in _MOMENTS:
        values[name] = aware(values[name])
    return StoredAlarm(**values)
