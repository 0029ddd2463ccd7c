"""Rows of inputs. Few, written when an operator changes something."""

from __future__ import annotations

import logging

from sqlalchemy import delete, select

from gateway.services.inputs_record import Input, from_row, to_row
from gateway.storage.database import Database, upsert_rows
from gateway.storage.schema import inputs

logger = logging.getLogger(__name__)


class InputStore:
    """Reads and writes inputs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[Input]:
        """All inputs. A record that cannot be read is skipped and logged, never fatal."""
        found = []
        async with self._database.connect() as connection:
            for row in (await connection.execute(select(inputs))).all():
                try:
                    found.append(from_row(row._mapping))
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    logger.error("stored input unreadable channel=%s error=%s", row.channel_id, error)
        return found

    async def put(self, record: Input) -> None:
        """Insert or replace one input."""
        async with self._database.begin() as connection:
            await upsert_rows(connection, inputs, [to_row(record)])

    async def remove(self, channel_id: str) -> None:
        async with self._database.begin() as connection:
            await connection.execute(delete(inputs).where(inputs.c.channel_id == channel_id))
