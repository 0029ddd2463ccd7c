"""Questions to devices over HTTP: who made it, how is it, presets, home position, cruise tracks, aim, memory cards.

Each GET asks the device now. A device of the 2016 edition is not asked what only 2022 knows (409 `not_supported`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field

from gateway.http.channels import ChannelFinder
from gateway.http.errors import not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.commands import Collected
from sip.manscdp import (
    Body,
    CruiseTrackListQuery,
    CruiseTrackListResponse,
    CruiseTrackQuery,
    CruiseTrackResponse,
    DeviceInfoQuery,
    DeviceInfoResponse,
    DeviceStatusQuery,
    DeviceStatusResponse,
    HomePositionQuery,
    HomePositionResponse,
    PresetQuery,
    PresetResponse,
    PTZPositionQuery,
    PTZPositionResponse,
    SDCardStatusQuery,
    SDCardStatusResponse,
)

B = TypeVar("B", bound=Body)
TrackNumber = Annotated[int, Field(ge=0, le=255)]


class Asking(Protocol):
    """The part of gateway.services.commands.DeviceCommands that this resource needs."""

    async def query(self, device_id: str, target_id: str, query: Body, answer: type[B]) -> B: ...

    async def collect(
        self, device_id: str, target_id: str, query: Body, answer: type[B], *, items: str, key: Any = None
    ) -> Collected[B]: ...


class WhichTarget(Model):
    """Whom the question is about."""

    channel_id: AnyCode | None = Field(default=None, description="A channel instead of the device itself.")


class Target(View):
    device_id: str
    channel_id: str = Field(description="What was asked about: a channel, or the device itself.")


class DeviceInfoView(Target):
    name: str
    manufacturer: str
    model: str
    firmware: str
    channels: int | None = Field(description="Video inputs, as the device says.")
    extra: list[str] = Field(description="Free text of the manufacturer (ExtraInfo).")


class DutyView(View):
    channel_id: str
    duty: str = Field(description="ONDUTY, OFFDUTY or ALARM.")


class DeviceStatusView(Target):
    online: bool
    ok: bool
    reason: str
    encoding: bool | None
    recording: bool | None
    device_time: datetime | None
    alarms: list[DutyView]
    extra: list[str]


class SDCardView(View):
    card: int
    name: str
    status: str = Field(description="ok, formatting, unformatted, idle or error.")
    format_progress: int | None = Field(description="Percent, while it is being formatted.")
    capacity_mb: int
    free_mb: int


class SDCardList(Target):
    items: list[SDCardView]
    complete: bool


class PresetView(View):
    preset: int
    name: str


class PresetList(Target):
    items: list[PresetView]
    complete: bool = Field(description="All presets came that the device announced.")
    sum_num: int | None = Field(description="How many it announced; the 2016 edition does not say.")


class HomePositionView(Target):
    enabled: bool
    reset_time_s: int | None
    preset: int | None


class CruiseTrackView(View):
    number: int
    name: str


class CruiseTrackList(Target):
    items: list[CruiseTrackView]
    complete: bool


class CruisePointView(View):
    preset: int
    stay_s: int
    speed: int


class CruiseTrackDetail(Target):
    number: int
    name: str
    points: list[CruisePointView]
    complete: bool


class AimView(Target):
    """All None: the device does not know."""

    pan: float | None = Field(description="Degrees, clockwise seen from above.")
    tilt: float | None = Field(description="Degrees, growing downward.")
    zoom: float | None
    horizontal_field_angle: float | None = Field(description="Degrees.")
    vertical_field_angle: float | None
    max_view_distance: float | None = Field(description="Metres.")


class DeviceQueryResource:
    def __init__(self, *, registry: Registry, asking: Asking) -> None:
        self._registry, self._asking = registry, asking
        self._finder = ChannelFinder(registry)

    # -- of a device -----------------------------------------------------------------------------------------

    @route(
        "GET",
        "/api/devices/{device_id}/info",
        summary="Ask a device for its name, maker and firmware",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def info(self, call: Call, device_id: AnyCode, query: WhichTarget) -> DeviceInfoView:
        """DeviceInfo (2022 A.2.4.4)."""
        key = target(self._registry, device_id, query.channel_id)
        told = await self._asking.query(*key, DeviceInfoQuery(), DeviceInfoResponse)
        return DeviceInfoView(
            **_target(key),
            name=told.device_name,
            manufacturer=told.manufacturer,
            model=told.model,
            firmware=told.firmware,
            channels=told.channel,
            extra=list(told.extra_info),
        )

    @route(
        "GET",
        "/api/devices/{device_id}/status",
        summary="Ask a device how it is",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def status(self, call: Call, device_id: AnyCode, query: WhichTarget) -> DeviceStatusView:
        """DeviceStatus (2022 A.2.6.6): does it encode and record, its clock, and which inputs are on guard."""
        key = target(self._registry, device_id, query.channel_id)
        told = await self._asking.query(*key, DeviceStatusQuery(), DeviceStatusResponse)
        return DeviceStatusView(
            **_target(key),
            online=told.online == "ONLINE",
            ok=told.status == "OK",
            reason=told.reason,
            encoding=told.encode == "ON" if told.encode else None,
            recording=told.record == "ON" if told.record else None,
            device_time=told.device_time,
            alarms=[DutyView(channel_id=item.device_id, duty=item.duty_status) for item in told.alarm_status],
            extra=list(told.extra_info),
        )

    @route(
        "GET",
        "/api/devices/{device_id}/sd-cards",
        summary="Ask a device for its memory cards (GB/T 28181-2022)",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def sd_cards(self, call: Call, device_id: AnyCode, query: WhichTarget) -> SDCardList:
        """SDCardStatus (2022 A.2.4.14)."""
        key = target(self._registry, device_id, query.channel_id)
        told = await self._asking.collect(
            *key, SDCardStatusQuery(), SDCardStatusResponse, items="cards", key=lambda card: card.id
        )
        items = [
            SDCardView(
                card=card.id,
                name=card.name,
                status=card.status,
                format_progress=card.format_progress,
                capacity_mb=card.capacity,
                free_mb=card.free_space,
            )
            for card in told.items
        ]
        return SDCardList(**_target(key), items=items, complete=told.complete)

    # -- of a channel ----------------------------------------------------------------------------------------

    @route(
        "GET",
        "/api/channels/{channel_id}/presets",
        summary="Ask a camera for its presets",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def presets(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> PresetList:
        """PresetQuery (2022 A.2.4.8); long lists come in parts, and are asked for again while some are missing."""
        key = self._finder.key(channel_id, query.device_id)
        told = await self._asking.collect(
            *key, PresetQuery(), PresetResponse, items="presets", key=lambda preset: preset.preset_id
        )
        items = [
            PresetView(preset=item.preset_id, name=item.name)
            for item in sorted(told.items, key=lambda item: int(item.preset_id))
        ]
        return PresetList(**_target(key), items=items, complete=told.complete, sum_num=told.sum_num)

    @route(
        "GET",
        "/api/channels/{channel_id}/home-position",
        summary="Ask a camera for its home position (GB/T 28181-2022)",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def home_position(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> HomePositionView:
        """HomePositionQuery (2022 A.2.4.10). A camera without one counts as not enabled."""
        key = self._finder.key(channel_id, query.device_id)
        told = (await self._asking.query(*key, HomePositionQuery(), HomePositionResponse)).home_position
        return HomePositionView(
            **_target(key),
            enabled=told is not None and told.enabled == 1,
            reset_time_s=told.reset_time if told is not None else None,
            preset=told.preset_index if told is not None else None,
        )

    @route(
        "GET",
        "/api/channels/{channel_id}/cruise-tracks",
        summary="Ask a camera for its cruise tracks (GB/T 28181-2022)",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def cruise_tracks(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> CruiseTrackList:
        """CruiseTrackListQuery (2022 A.2.4.11)."""
        key = self._finder.key(channel_id, query.device_id)
        told = await self._asking.collect(
            *key,
            CruiseTrackListQuery(),
            CruiseTrackListResponse,
            items="tracks",
            key=lambda track: track.number,
        )
        items = [CruiseTrackView(number=track.number, name=track.name) for track in told.items]
        return CruiseTrackList(**_target(key), items=items, complete=told.complete)

    @route(
        "GET",
        "/api/channels/{channel_id}/cruise-tracks/{number}",
        summary="Ask a camera for the points of one cruise track (GB/T 28181-2022)",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def cruise_track(
        self, call: Call, channel_id: AnyCode, number: TrackNumber, query: WhichDevice
    ) -> CruiseTrackDetail:
        """CruiseTrackQuery (2022 A.2.4.12); 0 is the first track."""
        key = self._finder.key(channel_id, query.device_id)
        told = await self._asking.collect(
            *key, CruiseTrackQuery(number=number), CruiseTrackResponse, items="points"
        )
        points = [
            CruisePointView(preset=point.preset_index, stay_s=point.stay_time, speed=point.speed)
            for point in told.items
        ]
        return CruiseTrackDetail(
            **_target(key),
            number=told.first.number,
            name=told.first.name,
            points=points,
            complete=told.complete,
        )

    @route(
        "GET",
        "/api/channels/{channel_id}/aim",
        summary="Ask a camera where it looks (GB/T 28181-2022)",
        role=Role.OPERATOR,
        tag="queries",
        errors=(404, 409, 502, 504),
    )
    async def aim(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> AimView:
        """PTZPosition (2022 A.2.4.13), asked now; what a subscription told last is at `ptz-position`."""
        key = self._finder.key(channel_id, query.device_id)
        told = await self._asking.query(*key, PTZPositionQuery(), PTZPositionResponse)
        return AimView(
            **_target(key),
            pan=told.pan,
            tilt=told.tilt,
            zoom=told.zoom,
            horizontal_field_angle=told.horizontal_field_angle,
            vertical_field_angle=told.vertical_field_angle,
            max_view_distance=told.max_view_distance,
        )


def target(registry: Registry, device_id: str, channel_id: str | None) -> tuple[str, str]:
    """The device itself, or one of its channels. Raises Problem 404."""
    if channel_id is not None:
        return ChannelFinder(registry).key(channel_id, device_id)
    if device_id not in registry.devices:
        raise not_found(f"device {device_id}")
    return device_id, device_id


def _target(key: tuple[str, str]) -> dict[str, str]:
    return {"device_id": key[0], "channel_id": key[1]}
