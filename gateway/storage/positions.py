"""Rows of positions: the tracks of what moves, and which subscriptions operators asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.engine import RowMapping

from gateway.storage.database import Database, aware, upsert_rows
from gateway.storage.schema import positions, subscription_wishes

_T, _W = positions.c, subscription_wishes.c


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """One report: WGS-84 degrees, km/h, degrees clockwise from north, metres. ``faults`` joined by commas."""

    device_id: str
    channel_id: str
    at: datetime
    received_at: datetime
    longitude: float
    latitude: float
    speed_kmh: float | None = None
    direction_deg: float | None = None
    altitude_m: float | None = None
    height_m: float | None = None
    faults: str = ""
    via: str = "notify"


_FIELDS = tuple(StoredPosition.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class SubscriptionWish:
    """An operator's word on one subscription. ``target_id``: the device or one of its channels."""

    device_id: str
    kind: str
    target_id: str
    enabled: bool
    interval_s: int | None = None


class PositionStore:
    """Reads and writes tracks and wishes. All methods may raise SQLAlchemyError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, wanted: Sequence[StoredPosition]) -> None:
        """Insert; a second report of the same moment replaces the first."""
        async with self._database.begin() as connection:
            await upsert_rows(connection, positions, [asdict(one) for one in wanted])

    async def track(
        self, device_id: str, channel_id: str, start: datetime, end: datetime, *, limit: int
    ) -> list[StoredPosition]:
        """The newest ``limit`` reports of [start, end), oldest first."""
        query = (
            select(positions)
            .where(_T.device_id == device_id, _T.channel_id == channel_id, _T.at >= start, _T.at < end)
            .order_by(_T.at.desc())
            .limit(limit)
        )
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_position(row) for row in reversed(rows)]

    async def newest(self, *, limit: int) -> list[StoredPosition]:
        """The last report of each channel."""
        last = (
            select(_T.device_id, _T.channel_id, func.max(_T.at).label("at"))
            .group_by(_T.device_id, _T.channel_id)
            .subquery()
        )
        query = (
            select(positions)
            .join(
                last,
                (last.c.device_id == _T.device_id)
                & (last.c.channel_id == _T.channel_id)
                & (last.c.at == _T.at),
            )
            .limit(limit)
        )
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_position(row) for row in rows]

    async def remove_before(self, before: datetime) -> int:
        async with self._database.begin() as connection:
            return int((await connection.execute(delete(positions).where(_T.received_at < before))).rowcount)

    async def remove_beyond(self, most: int) -> int:
        """Forget the oldest where more than ``most`` are kept."""
        async with self._database.begin() as connection:
            oldest = await connection.scalar(
                select(_T.received_at).order_by(_T.received_at.desc()).offset(most).limit(1)
            )
            if oldest is None:
                return 0
            return int((await connection.execute(delete(positions).where(_T.received_at <= oldest))).rowcount)

    # -- wishes ----------------------------------------------------------------------------------------------

    async def wishes(self) -> list[SubscriptionWish]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(select(subscription_wishes))).mappings().all()
        return [
            SubscriptionWish(
                row["device_id"], row["kind"], row["target_id"], row["enabled"], row["interval_s"]
            )
            for row in rows
        ]

    async def put_wish(self, wish: SubscriptionWish) -> None:
        async with self._database.begin() as connection:
            await upsert_rows(connection, subscription_wishes, [asdict(wish)])

    async def remove_wish(self, device_id: str, kind: str, target_id: str) -> None:
        async with self._database.begin() as connection:
            await connection.execute(
                delete(subscription_wishes).where(
                    _W.device_id == device_id, _W.kind == kind, _W.target_id == target_id
                )
            )


def _position(row: RowMapping) -> StoredPosition:
    values = {name: row[name] for name in _FIELDS}
    for name in ("at", "received_at"):
        values[name] = aware(values[name])
    return StoredPosition(**values)
