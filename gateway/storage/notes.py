"""Rows of the keys with which single peers sign their messages."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select

from gateway.storage.database import Database, upsert_rows
from gateway.storage.schema import note_keys

Row = tuple[str, str, str, dict[str, Any]]
"""Role, peer code, secret as entered, settings."""


class NoteStore:
    """Few rows, written when an operator changes something. All methods may raise SQLAlchemyError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[Row]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(select(note_keys))).all()
        return [(row.role, row.peer_id, row.secret, dict(row.settings)) for row in rows]

    async def put(self, role: str, peer_id: str, secret: str, settings: dict[str, Any]) -> None:
        row = {"role": role, "peer_id": peer_id, "secret": secret, "settings": settings}
        async with self._database.begin() as connection:
            await upsert_rows(connection, note_keys, [row])

    async def remove(self, role: str, peer_id: str) -> None:
        async with self._database.begin() as connection:
            await connection.execute(
                delete(note_keys).where(note_keys.c.role == role, note_keys.c.peer_id == peer_id)
            )
