"""Channel codes that several devices or platforms use: one camera by several ways, or several cameras under one code."""

from __future__ import annotations

from typing import Protocol

from pydantic import Field

from gateway.http.routes import Call, View, route
from gateway.http.views import Page
from gateway.model import Channel
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.lower_platforms import Conflict


class Conflicts(Protocol):
    """The part of gateway.services.lower_platforms.LowerPlatforms that lists."""

    def conflicts(self, *, collisions_only: bool = False) -> list[Conflict]: ...


class ConflictQuery(Page):
    collisions_only: bool = Field(
        default=False, description="Leave out cameras that are merely known by several ways."
    )


class WayView(View):
    device_id: str
    device_name: str
    name: str
    online: bool


class CameraView(View):
    mapped_id: str = Field(description="The code under which it is found here; empty: it keeps its own.")
    ways: list[WayView] = Field(description="More than one: the same camera, known by several ways.")


class ConflictView(View):
    channel_id: str
    collision: bool = Field(description="Several cameras have this code; they are mapped, never merged.")
    cameras: list[CameraView]


class ConflictList(View):
    total: int
    items: list[ConflictView]


class ConflictResource:
    def __init__(self, *, registry: Registry, conflicts: Conflicts) -> None:
        self._registry = registry
        self._conflicts = conflicts

    @route(
        "GET",
        "/api/channel-conflicts",
        summary="Channel codes that are used more than once",
        role=Role.VIEWER,
        tag="channels",
    )
    async def list(self, call: Call, query: ConflictQuery) -> ConflictList:
        """A collision is solved where the codes are given; until then each camera is found by its mapped code."""
        found = self._conflicts.conflicts(collisions_only=query.collisions_only)
        page = found[query.offset : query.offset + query.limit]
        return ConflictList(total=len(found), items=[self._view(conflict) for conflict in page])

    def _view(self, conflict: Conflict) -> ConflictView:
        cameras = [
            CameraView(
                mapped_id=next((c.mapped_id for c in ways if c.mapped_id), ""),
                ways=[self._way(channel) for channel in ways],
            )
            for ways in conflict.cameras
        ]
        return ConflictView(channel_id=conflict.channel_id, collision=conflict.collision, cameras=cameras)

    def _way(self, channel: Channel) -> WayView:
        device = self._registry.devices[channel.device_id]
        return WayView(
            device_id=channel.device_id,
            device_name=device.name,
            name=channel.name,
            online=self._registry.channel_online(channel),
        )
