"""Commands to devices over HTTP besides PTZ: reboot, record, guard, zoom on a rectangle, home, aim, track, cards."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import Field

from gateway.http.channels import ChannelFinder
from gateway.http.device_queries import Target, WhichTarget, target
from gateway.http.errors import Problem
from gateway.http.routes import Call, Model, route
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from sip.manscdp import DeviceControl, DragZoom, HomePosition, PTZPrecise

Pixels = Annotated[int, Field(ge=0, le=65535)]
Extent = Annotated[int, Field(ge=1, le=65535)]


class Orders(Protocol):
    """The part of gateway.services.commands.DeviceCommands that this resource needs."""

    async def order(
        self, device_id: str, target_id: str, body: DeviceControl, *, who: str, action: str, detail: str = ""
    ) -> str: ...


class CommandDone(Target):
    command: str = Field(description="The element of DeviceControl, e.g. `GuardCmd`.")
    said: str = Field(
        description="What ended the command: the SIP answer, or `Result OK` for commands that have a Response."
    )


class RecordOrder(Model):
    recording: bool = Field(description="Start or stop the recording in the device.")
    stream_number: int | None = Field(
        default=None, ge=0, le=255, description="0 the main stream; told to devices of 2022 only."
    )


class GuardOrder(Model):
    guarded: bool = Field(description="Put on guard, or take off it.")


class ZoomDirection(StrEnum):
    IN = "in"
    OUT = "out"


class Rectangle(Model):
    """A rectangle in a window, in pixels from the window's top left."""

    length: Extent = Field(description="Of the window, horizontally.")
    width: Extent = Field(description="Of the window, vertically.")
    mid_point_x: Pixels
    mid_point_y: Pixels
    length_x: Extent = Field(description="Of the rectangle, horizontally.")
    length_y: Extent = Field(description="Of the rectangle, vertically.")

    def element(self) -> DragZoom:
        """Only the six numbers, whatever a heir has besides."""
        return DragZoom(**{name: getattr(self, name) for name in Rectangle.model_fields})


class ZoomOrder(Rectangle):
    direction: ZoomDirection = ZoomDirection.IN


class HomeOrder(Model):
    enabled: bool
    reset_time_s: int | None = Field(
        default=None, ge=0, le=86400, description="Rest after which the camera returns."
    )
    preset: int | None = Field(default=None, ge=0, le=255, description="Where to.")


class AimOrder(Model):
    """Each may be left out, but not all."""

    pan: float | None = Field(default=None, ge=0, le=360, description="Degrees clockwise seen from above.")
    tilt: float | None = Field(default=None, ge=-30, le=90, description="Degrees, growing downward.")
    zoom: float | None = Field(default=None, gt=1, le=1000, description="Beyond the optical zoom: digital.")


class TrackMode(StrEnum):
    AUTO = "auto"
    MANUAL = "manual"
    STOP = "stop"


class TrackOrder(Model):
    mode: TrackMode
    area: Rectangle | None = Field(
        default=None, description="The target; needed for `manual`, and only there."
    )
    panorama_channel_id: AnyCode | None = Field(
        default=None, description="The panorama channel in whose picture the target is."
    )


class FormatOrder(Model):
    card: int = Field(ge=0, le=255, description="0: all cards. Everything on it is lost.")


class CommandResource:
    def __init__(self, *, registry: Registry, orders: Orders) -> None:
        self._registry, self._orders = registry, orders
        self._finder = ChannelFinder(registry)

    async def _order(
        self, call: Call, key: tuple[str, str], body: DeviceControl, action: str, detail: str = ""
    ) -> CommandDone:
        said = await self._orders.order(*key, body, who=call.who.name, action=action, detail=detail)
        return CommandDone(device_id=key[0], channel_id=key[1], command=body.command, said=said)

    # -- the device ------------------------------------------------------------------------------------------

    @route(
        "POST",
        "/api/devices/{device_id}/reboot",
        summary="Restart a device",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def reboot(self, call: Call, device_id: AnyCode, query: WhichTarget) -> CommandDone:
        """TeleBoot (2022 A.2.3.1.3). Done with the device's 200."""
        key = target(self._registry, device_id, query.channel_id)
        return await self._order(call, key, DeviceControl(teleboot=True), "device.reboot")

    @route(
        "POST",
        "/api/devices/{device_id}/sd-cards/format",
        summary="Format a memory card (GB/T 28181-2022)",
        role=Role.ADMINISTRATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def format_card(
        self, call: Call, device_id: AnyCode, query: WhichTarget, body: FormatOrder
    ) -> CommandDone:
        """FormatSDCard (2022 A.2.3.1.13). Done with the device's 200; `sd-cards` tells how far it is."""
        key = target(self._registry, device_id, query.channel_id)
        control = DeviceControl(format_sd_card=body.card)
        return await self._order(call, key, control, "device.format_card", f"card {body.card}")

    # -- a channel -------------------------------------------------------------------------------------------

    @route(
        "POST",
        "/api/channels/{channel_id}/device-recording",
        summary="Start or stop the recording in the device",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def record(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: RecordOrder
    ) -> CommandDone:
        """RecordCmd (2022 A.2.3.1.4); waits for the device's Response."""
        key = self._finder.key(channel_id, query.device_id)
        word = "Record" if body.recording else "StopRecord"
        control = DeviceControl(record_cmd=word, stream_number=body.stream_number)
        return await self._order(call, key, control, "device.record", word)

    @route(
        "POST",
        "/api/channels/{channel_id}/guard",
        summary="Put an alarm input, camera or device on guard, or take it off",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def guard(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: GuardOrder
    ) -> CommandDone:
        """GuardCmd (2022 A.2.3.1.5); waits for the device's Response. The device's own code guards all of it."""
        key = self._finder.key(channel_id, query.device_id)
        word = "SetGuard" if body.guarded else "ResetGuard"
        return await self._order(call, key, DeviceControl(guard_cmd=word), "device.guard", word)

    @route(
        "POST",
        "/api/channels/{channel_id}/drag-zoom",
        summary="Zoom on a rectangle drawn in the picture",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def drag_zoom(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: ZoomOrder
    ) -> CommandDone:
        """DragZoomIn and DragZoomOut (2022 A.2.3.1.8, A.2.3.1.9). Done with the device's 200."""
        key = self._finder.key(channel_id, query.device_id)
        box = body.element()
        inward = body.direction is ZoomDirection.IN
        control = DeviceControl(drag_zoom_in=box) if inward else DeviceControl(drag_zoom_out=box)
        return await self._order(call, key, control, "device.drag_zoom", body.direction.value)

    @route(
        "PUT",
        "/api/channels/{channel_id}/home-position",
        summary="Set or switch off the home position of a camera",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def set_home(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: HomeOrder
    ) -> CommandDone:
        """HomePosition (2022 A.2.3.1.10); waits for the device's Response."""
        key = self._finder.key(channel_id, query.device_id)
        home = HomePosition(enabled=int(body.enabled), reset_time=body.reset_time_s, preset_index=body.preset)
        detail = f"enabled {body.enabled} preset {body.preset} after {body.reset_time_s} s"
        return await self._order(call, key, DeviceControl(home_position=home), "device.home_position", detail)

    @route(
        "PUT",
        "/api/channels/{channel_id}/aim",
        summary="Turn a camera to angles (GB/T 28181-2022)",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def aim(self, call: Call, channel_id: AnyCode, query: WhichDevice, body: AimOrder) -> CommandDone:
        """PTZPreciseCtrl (2022 A.2.3.1.11). Done with the device's 200."""
        if body.pan is None and body.tilt is None and body.zoom is None:
            raise Problem(422, "pan: pan, tilt or zoom is needed", cause="invalid_input", field="pan")
        key = self._finder.key(channel_id, query.device_id)
        precise = PTZPrecise(pan=body.pan, tilt=body.tilt, zoom=body.zoom)
        detail = f"pan {body.pan} tilt {body.tilt} zoom {body.zoom}"
        return await self._order(call, key, DeviceControl(ptz_precise=precise), "device.aim", detail)

    @route(
        "POST",
        "/api/channels/{channel_id}/target-track",
        summary="Let a camera follow a target (GB/T 28181-2022)",
        role=Role.OPERATOR,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def target_track(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: TrackOrder
    ) -> CommandDone:
        """TargetTrack (2022 A.2.3.1.14) for the dome's channel. Done with the device's 200."""
        if (body.mode is TrackMode.MANUAL) is (body.area is None):
            text = "area: needed for manual" if body.area is None else "area: for manual only"
            raise Problem(422, text, cause="invalid_input", field="area")
        key = self._finder.key(channel_id, query.device_id)
        control = DeviceControl(
            target_track=body.mode.value.title(),
            device_id_2=body.panorama_channel_id or "",
            target_area=body.area.element() if body.area is not None else None,
        )
        return await self._order(call, key, control, "device.target_track", body.mode.value)
