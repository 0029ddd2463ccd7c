"""Positions over HTTP: where things are, their tracks, both as JSON and GeoJSON, and where cameras look."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from pydantic import AwareDatetime, Field

from gateway.http.channels import ChannelFinder
from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.views import AnyCode, Page, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.positions import PositionService
from gateway.services.positions_coordinates import EPSG, TITLES, CoordinateSystem, convert
from gateway.storage.positions import StoredPosition

GEOJSON = "application/geo+json"
MOST_POINTS = 20_000
DEFAULT_TRACK = timedelta(hours=24)


class SystemQuery(Model):
    system: CoordinateSystem = Field(
        default=CoordinateSystem.WGS84,
        description="wgs84 as reported, gcj02 for Chinese web maps, cgcs2000 (needs the extra geo).",
    )


class LatestQuery(SystemQuery, Page):
    device_id: AnyCode | None = None


class TrackQuery(SystemQuery, WhichDevice):
    start: AwareDatetime | None = Field(default=None, description="24 hours before the end when left out.")
    end: AwareDatetime | None = Field(default=None, description="Now when left out.")
    limit: int = Field(default=5000, ge=1, le=MOST_POINTS, description="The newest so many reports.")


class ChannelSystemQuery(SystemQuery, WhichDevice):
    pass


class PositionView(View):
    device_id: str
    channel_id: str
    at: datetime = Field(description="Of the report; ours where the device's clock is wrong.")
    received_at: datetime
    longitude: float
    latitude: float
    speed_kmh: float | None
    direction_deg: float | None = Field(description="Clockwise from north.")
    altitude_m: float | None
    height_m: float | None
    faults: list[str] = Field(
        description="zero, outside_china, out_of_range, clock, direction, speed; empty: nothing is wrong."
    )
    coordinate_system: str


class PositionList(View):
    total: int
    coordinate_system: str
    items: list[PositionView]


class PtzPositionView(View):
    device_id: str
    channel_id: str
    received_at: datetime
    pan: float | None
    tilt: float | None
    zoom: float | None
    horizontal_field_angle: float | None
    vertical_field_angle: float | None
    max_view_distance: float | None


class PositionResource:
    def __init__(self, *, registry: Registry, positions: PositionService) -> None:
        self._finder = ChannelFinder(registry)
        self._positions = positions

    @route(
        "GET",
        "/api/positions",
        summary="The last position of everything that reports one",
        role=Role.VIEWER,
        tag="positions",
        errors=(501,),
    )
    async def latest(self, call: Call, query: LatestQuery) -> PositionList:
        found = self._latest(query.device_id)
        page = found[query.offset : query.offset + query.limit]
        return PositionList(
            total=len(found),
            coordinate_system=TITLES[query.system],
            items=await _views(page, query.system),
        )

    @route(
        "GET",
        "/api/positions/geojson",
        summary="The last positions as GeoJSON",
        role=Role.VIEWER,
        tag="positions",
        produces=GEOJSON,
        errors=(501,),
    )
    async def latest_geojson(self, call: Call, query: LatestQuery) -> web.StreamResponse:
        page = self._latest(query.device_id)[query.offset : query.offset + query.limit]
        return _geojson([_point(view) for view in await _views(page, query.system)], query.system)

    @route(
        "GET",
        "/api/channels/{channel_id}/position",
        summary="The last position of a channel",
        role=Role.VIEWER,
        tag="positions",
        errors=(404, 409, 501),
    )
    async def position(self, call: Call, channel_id: AnyCode, query: ChannelSystemQuery) -> PositionView:
        found = self._positions.latest.get(self._key(channel_id, query.device_id))
        if found is None:
            raise not_found(f"a position of {channel_id}")
        return (await _views([found], query.system))[0]

    @route(
        "GET",
        "/api/channels/{channel_id}/track",
        summary="Where a channel was",
        role=Role.VIEWER,
        tag="positions",
        errors=(404, 409, 501),
    )
    async def track(self, call: Call, channel_id: AnyCode, query: TrackQuery) -> PositionList:
        found = await self._track(channel_id, query)
        return PositionList(
            total=len(found),
            coordinate_system=TITLES[query.system],
            items=await _views(found, query.system),
        )

    @route(
        "GET",
        "/api/channels/{channel_id}/track/geojson",
        summary="The track of a channel as GeoJSON: its line, and each report as a point",
        role=Role.VIEWER,
        tag="positions",
        produces=GEOJSON,
        errors=(404, 409, 501),
    )
    async def track_geojson(self, call: Call, channel_id: AnyCode, query: TrackQuery) -> web.StreamResponse:
        """Reports with faults of their coordinates are points only."""
        views = await _views(await self._track(channel_id, query), query.system)
        features = [_point(view) for view in views]
        line = [view for view in views if not {"zero", "outside_china", "out_of_range"} & set(view.faults)]
        if len(line) > 1:
            features.insert(0, _line(line))
        return _geojson(features, query.system)

    @route(
        "GET",
        "/api/channels/{channel_id}/ptz-position",
        summary="Where a camera looked when it last said so (GB/T 28181-2022)",
        role=Role.VIEWER,
        tag="positions",
        errors=(404, 409),
    )
    async def look(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> PtzPositionView:
        """Known once the device has a PTZPosition subscription."""
        found = self._positions.look(self._key(channel_id, query.device_id))
        if found is None:
            raise not_found(f"a direction of {channel_id}")
        return PtzPositionView.model_validate(found)

    def _latest(self, device_id: str | None) -> list[StoredPosition]:
        found = self._positions.latest
        return [found[key] for key in sorted(found) if device_id is None or key[0] == device_id]

    async def _track(self, channel_id: str, query: TrackQuery) -> list[StoredPosition]:
        end = (query.end or datetime.now(UTC) + timedelta(seconds=1)).astimezone(UTC)
        start = (query.start or end - DEFAULT_TRACK).astimezone(UTC)
        if start >= end:
            raise Problem(
                422, "query.start: must be before the end", cause="invalid_input", field="query.start"
            )
        return await self._positions.track(
            self._key(channel_id, query.device_id), start, end, limit=query.limit
        )

    def _key(self, channel_id: str, device_id: str | None) -> tuple[str, str]:
        """What reports a position need not be in a catalog."""
        if device_id is not None and (device_id, channel_id) in self._positions.latest:
            return device_id, channel_id
        reporting = [key for key in self._positions.latest if key[1] == channel_id]
        return reporting[0] if len(reporting) == 1 else self._finder.key(channel_id, device_id)


async def _views(found: Sequence[StoredPosition], system: CoordinateSystem) -> list[PositionView]:
    """Converted in a thread: PROJ loads its tables at the first use."""
    points = [(position.longitude, position.latitude) for position in found]
    there = points if system is CoordinateSystem.WGS84 else await asyncio.to_thread(convert, points, system)
    return [
        PositionView(
            device_id=position.device_id, channel_id=position.channel_id, at=position.at,
            received_at=position.received_at, longitude=round(east, 8), latitude=round(north, 8),
            speed_kmh=position.speed_kmh, direction_deg=position.direction_deg, altitude_m=position.altitude_m,
            height_m=position.height_m, faults=[fault for fault in position.faults.split(",") if fault],
            coordinate_system=TITLES[system],
        )
        for position, (east, north) in zip(found, there, strict=True)
    ]  # fmt: skip


def _point(view: PositionView) -> dict[str, Any]:
    properties = view.model_dump(mode="json", exclude={"longitude", "latitude"})
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": _coordinates(view)},
        "properties": properties,
    }


def _line(views: Sequence[PositionView]) -> dict[str, Any]:
    first = views[0]
    return {
        "type": "Feature",
        "geometry": {"type": "LineString", "coordinates": [_coordinates(view) for view in views]},
        "properties": {
            "device_id": first.device_id,
            "channel_id": first.channel_id,
            "times": [view.at.isoformat() for view in views],
            "coordinate_system": first.coordinate_system,
        },
    }


def _coordinates(view: PositionView) -> list[float]:
    place = [view.longitude, view.latitude]
    return place if view.altitude_m is None else [*place, view.altitude_m]


def _geojson(features: list[dict[str, Any]], system: CoordinateSystem) -> web.Response:
    """RFC 7946 is WGS-84 only: another system is stated, by its EPSG code where it has one."""
    document: dict[str, Any] = {"type": "FeatureCollection", "coordinate_system": TITLES[system]}
    if system in EPSG and system is not CoordinateSystem.WGS84:
        document["crs"] = {
            "type": "name",
            "properties": {"name": f"urn:ogc:def:crs:EPSG::{EPSG[system]}"},
        }
    document["features"] = features
    return web.Response(text=json.dumps(document, ensure_ascii=False), content_type=GEOJSON)
