"""Recording without cameras: the real index, disks, plans and retention on a database of the test; nodes are faked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from config.settings import MediaSettings, RecordingSettings, StorageSettings
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.registry import Registry
from gateway.services.nodes import NodePlan, Nodes
from gateway.services.recording_parts import Recording
from gateway.services.session_record import LiveSession
from gateway.storage.database import Database


class OfEngine(Database):
    """A database over an engine that somebody else owns."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(StorageSettings())
        self._engine = engine


class NoPictures:
    async def play(self, device_id: str, channel_id: str, *, stream_number: int = 0) -> LiveSession:
        raise NotImplementedError


def recording_of(
    *,
    database: Database,
    folder: Path,
    registry: Registry,
    bus: EventBus,
    clock: Clock,
    sessions: Any = None,
    nodes: Nodes | None = None,
    **settings: Any,
) -> Recording:
    """All parts, none started. Disks without reserve unless said otherwise."""
    settings.setdefault(
        "disks",
        [{"disk_id": "main", "directory": folder / "recordings", "reserve_bytes": 0, "reserve_percent": 0}],
    )
    return Recording(
        settings=RecordingSettings.model_validate(settings),
        storage_directory=folder,
        database=database,
        registry=registry,
        bus=bus,
        sessions=sessions or NoPictures(),
        nodes=nodes or Nodes(NodePlan(MediaSettings(), "tickets")),
        clock=clock,
    )


async def until(condition: Any, timeout_s: float = 30.0) -> Any:
    """Wait until ``condition()`` (plain or awaitable) is true; returns its value."""
    async with asyncio.timeout(timeout_s):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.03)
