"""Rows of upper platforms and their shares, and the codes made up for each upper that must survive a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import delete, select

from gateway.model import Platform, Share
from gateway.storage.database import Database, upsert_rows
from gateway.storage.schema import platforms, shares

_COLUMNS = {"platform_id", "name", "enabled", "password"}
_SETTINGS = {item.name for item in fields(Platform)} - _COLUMNS
_RECODED = "recoded"

Key = tuple[str, str]


@dataclass(slots=True)
class StoredPlatform:
    """One upper as it was kept: its record, its shares, its made-up codes by (device, channel)."""

    platform: Platform
    shares: list[Share] = field(default_factory=list)
    recoded: dict[Key, str] = field(default_factory=dict)


class PlatformStore:
    """Reads and writes uppers. Few rows, written when an operator changes something."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[StoredPlatform]:
        """All uppers with their shares."""
        async with self._database.connect() as connection:
            found = [_stored(row._mapping) for row in (await connection.execute(select(platforms))).all()]
            by_id = {stored.platform.platform_id: stored for stored in found}
            for row in (await connection.execute(select(shares))).all():
                share = Share(row.platform_id, row.device_id, row.channel_id, row.exported_id)
                if share.platform_id in by_id:
                    by_id[share.platform_id].shares.append(share)
        return found

    async def put(self, platform: Platform, recoded: Mapping[Key, str]) -> None:
        """Insert or replace one upper."""
        settings: dict[str, Any] = {name: getattr(platform, name) for name in sorted(_SETTINGS)}
        settings["rights"] = sorted(platform.rights)
        settings[_RECODED] = [[*key, code] for key, code in sorted(recoded.items())]
        row = {name: getattr(platform, name) for name in _COLUMNS} | {"settings": settings}
        async with self._database.begin() as connection:
            await upsert_rows(connection, platforms, [row])

    async def remove(self, platform_id: str) -> None:
        """Forget an upper and its shares."""
        async with self._database.begin() as connection:
            await connection.execute(delete(shares).where(shares.c.platform_id == platform_id))
            await connection.execute(delete(platforms).where(platforms.c.platform_id == platform_id))

    async def set_shares(self, platform_id: str, wanted: list[Share]) -> None:
        """Replace the shares of one upper."""
        rows = [
            {
                "platform_id": share.platform_id,
                "device_id": share.device_id,
                "channel_id": share.channel_id,
                "exported_id": share.exported_id,
            }
            for share in wanted
        ]
        async with self._database.begin() as connection:
            await connection.execute(delete(shares).where(shares.c.platform_id == platform_id))
            await upsert_rows(connection, shares, rows)


def _stored(row: Mapping[Any, Any]) -> StoredPlatform:
    """Keys of other versions of this program are left out, so a step back does not stop the start."""
    settings = dict(row["settings"])
    recoded = {
        (str(entry[0]), str(entry[1])): str(entry[2])
        for entry in settings.pop(_RECODED, [])
        if isinstance(entry, list) and len(entry) == 3
    }
    known = {name: value for name, value in settings.items() if name in _SETTINGS}
    if "rights" in known:
        known["rights"] = frozenset(known["rights"])
    return StoredPlatform(Platform(**{name: row[name] for name in _COLUMNS}, **known), recoded=recoded)
