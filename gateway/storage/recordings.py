"""Rows of recordings: the index of segments, rules, gaps and marks. Times are UTC unix seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, case, delete, exists, func, insert, or_, select, update
from sqlalchemy.engine import RowMapping

from gateway.storage.database import Database, aware, upsert_rows
from gateway.storage.schema import recording_gaps, recording_marks, recording_rules, recording_segments
from media.specs import SegmentInfo

LONGEST_SEGMENT_S = 2 * 3600.0
"""No segment is longer (config: segment_s has this bound), so a search by start time can be bounded too."""
_T = recording_segments.c
_INFO = tuple(name for name in SegmentInfo.model_fields if name not in ("start", "end"))


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """One row of the index. ``local``: the file is on its disk; ``remote_key``: its object name in S3, or empty."""

    info: SegmentInfo
    locked: bool = False
    local: bool = True
    remote_key: str = ""


@dataclass(frozen=True, slots=True)
class StoredGap:
    """A channel should have been recorded and was not. ``end`` None: still so."""

    gap_id: int
    device_id: str
    channel_id: str
    start: float
    end: float | None
    cause: str


@dataclass(frozen=True, slots=True)
class Mark:
    """An event or a piece of evidence on the timeline; ``locked`` keeps its segments from retention."""

    mark_id: str
    device_id: str
    channel_id: str
    kind: str
    start: float
    end: float
    label: str
    locked: bool
    who: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredRule:
    scope: str
    key: str
    settings: dict[str, Any]


def segment_row(segment: StoredSegment) -> dict[str, Any]:
    info = segment.info
    row = {name: getattr(info, name) for name in _INFO}
    return row | {
        "start_s": info.start,
        "end_s": info.end,
        "locked": segment.locked,
        "local": segment.local,
        "remote_key": segment.remote_key,
    }


def _segment(row: RowMapping) -> StoredSegment:
    values = {name: row[name] for name in _INFO}
    info = SegmentInfo.model_construct(**values, start=row["start_s"], end=row["end_s"])
    return StoredSegment(info, row["locked"], row["local"], row["remote_key"])


class RecordingStore:
    """Reads and writes everything about recordings. All methods may raise SQLAlchemyError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- the index -------------------------------------------------------------------------------------------

    async def segments_between(
        self, device_id: str, channel_id: str, start: float, end: float, *, limit: int = 5000
    ) -> list[StoredSegment]:
        """Segments that hold something of [start, end), oldest first; open ones too (``info.complete`` False, with
        ``info.end`` as last known: ask the file by `media.segments.scan` for more)."""
        query = (
            select(recording_segments)
            .where(_T.device_id == device_id, _T.channel_id == channel_id)
            .where(_T.start_s < end, _T.start_s > start - LONGEST_SEGMENT_S)
            .where(or_(_T.end_s > start, _T.complete.is_(False)))
            .order_by(_T.start_s)
            .limit(limit)
        )
        return await self._read(query)

    async def segment(self, segment_id: str) -> StoredSegment | None:
        found = await self._read(select(recording_segments).where(_T.segment_id == segment_id))
        return found[0] if found else None

    async def put_segments(self, segments: Sequence[SegmentInfo]) -> None:
        """Insert, or replace what a file says of itself; locks and locations of known rows stay.

        A new row is locked when a locked mark covers part of it.
        """
        if not segments:
            return
        rows = [segment_row(StoredSegment(info)) for info in segments]
        marks = recording_marks.c
        async with self._database.begin() as connection:
            known = await connection.execute(
                select(_T.segment_id, _T.locked, _T.local, _T.remote_key).where(
                    _T.segment_id.in_([row["segment_id"] for row in rows])
                )
            )
            kept = {row["segment_id"]: row for row in known.mappings()}
            for row in rows:
                if (old := kept.get(row["segment_id"])) is not None:
                    row |= {name: old[name] for name in ("locked", "local", "remote_key")}
            await upsert_rows(connection, recording_segments, rows)
            covered = exists().where(
                marks.locked.is_(True), marks.device_id == _T.device_id, marks.channel_id == _T.channel_id,
                marks.start_s < _T.end_s, marks.end_s > _T.start_s,
            )  # fmt: skip
            await connection.execute(
                update(recording_segments)
                .where(_T.segment_id.in_([row["segment_id"] for row in rows]), _T.locked.is_(False), covered)
                .values(locked=True)
            )

    async def set_location(self, segment_id: str, *, local: bool, remote_key: str) -> None:
        await self._change(
            update(recording_segments)
            .where(_T.segment_id == segment_id)
            .values(local=local, remote_key=remote_key)
        )

    async def remove_segments(self, segment_ids: Sequence[str]) -> None:
        await self._change(delete(recording_segments).where(_T.segment_id.in_(segment_ids)))

    async def incomplete(self, *, limit: int = 1000) -> list[StoredSegment]:
        """Rows of files that are being written, or were when something died."""
        return await self._read(select(recording_segments).where(_T.complete.is_(False)).limit(limit))

    async def of_disk(self, disk_id: str, start: float, end: float) -> list[StoredSegment]:
        """Rows of local files of one disk that start in [start, end)."""
        query = select(recording_segments).where(
            _T.disk_id == disk_id, _T.local.is_(True), _T.start_s >= start, _T.start_s < end
        )
        return await self._read(query)

    async def oldest_of_disk(self, disk_id: str) -> float | None:
        """Start of the oldest local file of a disk."""
        mine = select(_T.start_s).where(_T.disk_id == disk_id, _T.local.is_(True))
        return await self._value(mine.order_by(_T.start_s).limit(1))

    async def known_classes(self) -> list[str]:
        async with self._database.connect() as connection:
            rows = await connection.execute(select(_T.storage_class).distinct())
            return [str(value) for value in rows.scalars()]

    async def expired(
        self, storage_class: str, before: float, *, disks: Sequence[str], with_remote: bool, limit: int = 200
    ) -> list[StoredSegment]:
        """Complete, unlocked segments of a class that ended before ``before``, oldest first: those on ``disks``, and
        those only in S3."""
        place = and_(_T.local.is_(True), _T.disk_id.in_(disks))
        query = (
            select(recording_segments)
            .where(_T.storage_class == storage_class, _T.start_s < before, _T.end_s < before)
            .where(_T.complete.is_(True), _T.locked.is_(False))
            .where(or_(place, _T.local.is_(False)) if with_remote else place)
            .order_by(_T.start_s)
            .limit(limit)
        )
        return await self._read(query)

    async def oldest_deletable(self, disk_id: str, *, limit: int) -> list[StoredSegment]:
        """The oldest complete, unlocked files of a disk, expired or not."""
        query = (
            select(recording_segments)
            .where(_T.disk_id == disk_id, _T.local.is_(True), _T.complete.is_(True), _T.locked.is_(False))
            .order_by(_T.start_s)
            .limit(limit)
        )
        return await self._read(query)

    async def to_upload(
        self, classes: Iterable[str], *, disks: Sequence[str], since: float = 0.0, limit: int = 20
    ) -> list[StoredSegment]:
        """Complete segments of these classes on these disks without an object yet, oldest first; those that began
        before ``since`` are not looked at."""
        query = (
            select(recording_segments)
            .where(_T.storage_class.in_(list(classes)), _T.complete.is_(True), _T.local.is_(True))
            .where(_T.remote_key == "", _T.disk_id.in_(disks), _T.start_s >= since)
            .order_by(_T.start_s)
            .limit(limit)
        )
        return await self._read(query)

    async def uploaded_and_local(self, disks: Sequence[str], *, limit: int = 10_000) -> list[StoredSegment]:
        """Files on these disks of which there is an object too, oldest first."""
        query = (
            select(recording_segments)
            .where(_T.disk_id.in_(disks), _T.local.is_(True), _T.remote_key != "", _T.complete.is_(True))
            .order_by(_T.start_s)
            .limit(limit)
        )
        return await self._read(query)

    async def totals(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(storage class, local | remote) to (segments, bytes)."""
        place = case((_T.local.is_(True), "local"), else_="remote")
        query = select(_T.storage_class, place, func.count(), func.coalesce(func.sum(_T.bytes), 0)).group_by(
            _T.storage_class, place
        )
        async with self._database.connect() as connection:
            rows = await connection.execute(query)
            return {(row[0], row[1]): (int(row[2]), int(row[3])) for row in rows}

    async def recorded_seconds(self, start: float, end: float) -> dict[tuple[str, str], float]:
        """Seconds recorded in [start, end) by (device, channel); overlapping segments count twice, live ones to ``end``."""
        low = case((_T.start_s > start, _T.start_s), else_=start)
        stop = case((_T.complete.is_(False), end), (_T.end_s < end, _T.end_s), else_=end)
        query = (
            select(_T.device_id, _T.channel_id, func.sum(stop - low))
            .where(_T.start_s < end, _T.start_s > start - LONGEST_SEGMENT_S)
            .where(or_(_T.end_s > start, _T.complete.is_(False)))
            .group_by(_T.device_id, _T.channel_id)
        )
        async with self._database.connect() as connection:
            return {(row[0], row[1]): float(row[2]) for row in await connection.execute(query)}

    # -- gaps ------------------------------------------------------------------------------------------------

    async def gaps_between(
        self, device_id: str, channel_id: str, start: float, end: float
    ) -> list[StoredGap]:
        gaps = recording_gaps.c
        query = (
            select(recording_gaps)
            .where(gaps.device_id == device_id, gaps.channel_id == channel_id, gaps.start_s < end)
            .where(or_(gaps.end_s.is_(None), gaps.end_s > start))
            .order_by(gaps.start_s)
        )
        return await self._gaps(query)

    async def open_gaps(self) -> list[StoredGap]:
        return await self._gaps(select(recording_gaps).where(recording_gaps.c.end_s.is_(None)))

    async def open_gap(self, device_id: str, channel_id: str, start: float, cause: str) -> int:
        """A channel that should be recorded is not, from now on. Returns the row's number."""
        statement = (
            insert(recording_gaps)
            .values(device_id=device_id, channel_id=channel_id, start_s=start, end_s=None, cause=cause)
            .returning(recording_gaps.c.gap_id)
        )
        async with self._database.begin() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def close_gap(self, gap_id: int, end: float) -> None:
        await self._change(update(recording_gaps).where(recording_gaps.c.gap_id == gap_id).values(end_s=end))

    async def forget_gaps(self, before: float) -> None:
        """Gaps older than everything that is kept."""
        await self._change(delete(recording_gaps).where(recording_gaps.c.end_s < before))

    # -- rules -----------------------------------------------------------------------------------------------

    async def rules(self) -> list[StoredRule]:
        async with self._database.connect() as connection:
            rows = await connection.execute(select(recording_rules))
            return [StoredRule(row["scope"], row["key"], row["settings"]) for row in rows.mappings()]

    async def put_rule(self, rule: StoredRule) -> None:
        row = {"scope": rule.scope, "key": rule.key, "settings": rule.settings}
        async with self._database.begin() as connection:
            await upsert_rows(connection, recording_rules, [row])

    async def remove_rule(self, scope: str, key: str) -> bool:
        rules = recording_rules.c
        return bool(await self._change(delete(recording_rules).where(rules.scope == scope, rules.key == key)))

    # -- marks -----------------------------------------------------------------------------------------------

    async def marks_between(self, device_id: str, channel_id: str, start: float, end: float) -> list[Mark]:
        marks = recording_marks.c
        query = (
            select(recording_marks)
            .where(marks.device_id == device_id, marks.channel_id == channel_id)
            .where(marks.start_s < end, marks.end_s > start)
            .order_by(marks.start_s)
        )
        async with self._database.connect() as connection:
            return [_mark(row) for row in (await connection.execute(query)).mappings()]

    async def mark(self, mark_id: str) -> Mark | None:
        query = select(recording_marks).where(recording_marks.c.mark_id == mark_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
            return _mark(row) if row is not None else None

    async def put_mark(self, mark: Mark) -> int:
        """Insert or replace a mark and lock what it covers, if it locks. Returns how many segments it covers."""
        row = {
            "mark_id": mark.mark_id, "device_id": mark.device_id, "channel_id": mark.channel_id,
            "kind": mark.kind, "start_s": mark.start, "end_s": mark.end, "label": mark.label[:255],
            "locked": mark.locked, "who": mark.who[:128], "created_at": mark.created_at,
        }  # fmt: skip
        async with self._database.begin() as connection:
            await upsert_rows(connection, recording_marks, [row])
            if not mark.locked:
                return 0
            result = await connection.execute(
                update(recording_segments).where(_covered(mark)).values(locked=True)
            )
            return int(result.rowcount)

    async def remove_mark(self, mark: Mark) -> None:
        """Take a mark away; segments that no other locked mark covers are unlocked."""
        marks = recording_marks.c
        other = exists().where(
            marks.mark_id != mark.mark_id, marks.locked.is_(True),
            marks.device_id == _T.device_id, marks.channel_id == _T.channel_id,
            marks.start_s < _T.end_s, marks.end_s > _T.start_s,
        )  # fmt: skip
        async with self._database.begin() as connection:
            await connection.execute(delete(recording_marks).where(marks.mark_id == mark.mark_id))
            if mark.locked:
                await connection.execute(
                    update(recording_segments).where(_covered(mark), ~other).values(locked=False)
                )

    # -- helpers of this class -------------------------------------------------------------------------------

    async def _read(self, query: Select[Any]) -> list[StoredSegment]:
        async with self._database.connect() as connection:
            return [_segment(row) for row in (await connection.execute(query)).mappings()]

    async def _gaps(self, query: Select[Any]) -> list[StoredGap]:
        async with self._database.connect() as connection:
            return [
                StoredGap(
                    *(row["gap_id"], row["device_id"], row["channel_id"]),
                    *(row["start_s"], row["end_s"], row["cause"]),
                )
                for row in (await connection.execute(query)).mappings()
            ]

    async def _value(self, query: Select[Any]) -> float | None:
        async with self._database.connect() as connection:
            value = (await connection.execute(query)).scalar()
            return None if value is None else float(value)

    async def _change(self, statement: Any) -> int:
        async with self._database.begin() as connection:
            return int((await connection.execute(statement)).rowcount)


def _covered(mark: Mark) -> Any:
    """Segments with something of the mark in them; a file being written counts to its present end and beyond."""
    return and_(
        _T.device_id == mark.device_id,
        _T.channel_id == mark.channel_id,
        _T.start_s < mark.end,
        or_(_T.end_s > mark.start, _T.complete.is_(False)),
    )


def _mark(row: RowMapping) -> Mark:
    created = aware(row["created_at"])
    return Mark(
        *(row["mark_id"], row["device_id"], row["channel_id"], row["kind"]),
        *(row["start_s"], row["end_s"], row["label"], row["locked"], row["who"]),
        created_at=created if created is not None else row["created_at"],
    )
