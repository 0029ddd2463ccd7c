"""Configuration of devices over HTTP: read the types one wants, set one type with a request of its own."""

from __future__ import annotations

from typing import Protocol

from pydantic import Field

from gateway.http.channels import ChannelFinder
from gateway.http.device_config_requests import (
    AlarmReportRequest,
    BasicParamRequest,
    FrameMirrorRequest,
    OSDConfigRequest,
    PictureMaskRequest,
    SnapShotConfigRequest,
    SVACDecodeConfigRequest,
    SVACEncodeConfigRequest,
    VideoAlarmRecordRequest,
    VideoParamAttributeRequest,
    VideoRecordPlanRequest,
)
from gateway.http.errors import Problem
from gateway.http.routes import Call, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.device_config import Reading, Value, told
from sip import manscdp
from sip.manscdp.config_download import ATTRIBUTES

ERRORS = (404, 409, 502, 504)


class Configured(Protocol):
    """The part of gateway.services.device_config.DeviceConfiguration that this resource needs."""

    def types(self, device_id: str) -> tuple[str, ...]: ...

    async def read(self, device_id: str, target_id: str, types: list[str]) -> Reading: ...

    async def write(self, device_id: str, target_id: str, kind: str, value: Value) -> None: ...


class ConfigurationQuery(WhichDevice):
    types: str = Field(
        default="",
        pattern=r"^[A-Za-z,]{0,400}$",
        description="Types separated by commas, e.g. `BasicParam,OSDConfig`; empty: all that the device's edition knows.",
    )


class ConfigurationView(View):
    """What came. A type that is null was not asked for or not answered: see `missing`."""

    device_id: str
    channel_id: str
    asked: list[str]
    missing: list[str] = Field(description="Asked types that the device did not tell.")
    complete: bool = Field(description="All asked types came.")
    responses: int = Field(description="In how many messages the answer came.")
    basic_param: manscdp.BasicParam | None = None
    video_param_opt: manscdp.VideoParamOpt | None = None
    svac_encode: manscdp.SVACEncodeConfig | None = None
    svac_decode: manscdp.SVACDecodeConfig | None = None
    video_params: list[manscdp.VideoParam] | None = None
    record_plan: manscdp.VideoRecordPlan | None = None
    alarm_record: manscdp.VideoAlarmRecord | None = None
    picture_mask: manscdp.PictureMask | None = None
    frame_mirror: int | None = Field(default=None, description="0 none, 1 horizontal, 2 vertical, 3 both")
    alarm_report: manscdp.AlarmReport | None = None
    osd: manscdp.OSDConfig | None = None
    snapshot: manscdp.SnapShotConfig | None = None


class ConfigurationDone(View):
    """The device answered Result OK."""

    device_id: str
    channel_id: str
    type: str


class DeviceConfigResource:
    """`channel_id` may be the code of the device itself, which is what most devices expect for BasicParam."""

    def __init__(self, *, registry: Registry, configuration: Configured) -> None:
        self._finder = ChannelFinder(registry)
        self._configuration = configuration

    @route(
        "GET",
        "/api/channels/{channel_id}/configuration",
        summary="Read the configuration of a channel or a device (ConfigDownload)",
        role=Role.OPERATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration_read",
    )
    async def read(self, call: Call, channel_id: AnyCode, query: ConfigurationQuery) -> ConfigurationView:
        """The device may answer in several messages; when they stop before all types came, `missing` names the rest.

        A type that the device's edition does not know is refused with 409 `not_supported` and nothing is sent.
        """
        device_id, target = self._finder.key(channel_id, query.device_id)
        wanted = [name for name in query.types.split(",") if name]
        for name in wanted:
            if name not in ATTRIBUTES:
                raise Problem(422, f"query.types: no type {name}", cause="invalid_input", field="query.types")
        types = wanted or list(self._configuration.types(device_id))
        note_audit(call, detail=f"{device_id}: {'/'.join(types)}")
        reading = await self._configuration.read(device_id, target, types)
        found = {ATTRIBUTES[name]: value for name, value in reading.values.items()}
        return ConfigurationView.model_validate(
            found
            | {
                "device_id": device_id,
                "channel_id": target,
                "asked": list(reading.asked),
                "missing": list(reading.missing),
                "complete": reading.complete,
                "responses": reading.responses,
            }
        )

    async def _set(
        self, call: Call, channel_id: str, query: WhichDevice, kind: str, value: Value
    ) -> ConfigurationDone:
        device_id, target = self._finder.key(channel_id, query.device_id)
        note_audit(call, detail=f"{device_id}: {told(kind, value)}")
        await self._configuration.write(device_id, target, kind, value)
        return ConfigurationDone(device_id=device_id, channel_id=target, type=kind)

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/BasicParam",
        summary="Set name, registration lifetime and heartbeat",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def basic_param(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: BasicParamRequest
    ) -> ConfigurationDone:
        """Waits for the device's Result. The gateway expects the new heartbeat from then on."""
        return await self._set(call, channel_id, query, "BasicParam", body.filled(manscdp.BasicParam))

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/VideoParamAttribute",
        summary="Set the picture format of streams (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def video_params(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: VideoParamAttributeRequest
    ) -> ConfigurationDone:
        value = [one.element() for one in body.video_params]
        return await self._set(call, channel_id, query, "VideoParamAttribute", value)

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/VideoRecordPlan",
        summary="Set when the device records by itself (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def record_plan(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: VideoRecordPlanRequest
    ) -> ConfigurationDone:
        return await self._set(call, channel_id, query, "VideoRecordPlan", body.element())

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/VideoAlarmRecord",
        summary="Set the device's recording on alarm (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def alarm_record(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: VideoAlarmRecordRequest
    ) -> ConfigurationDone:
        value = body.filled(manscdp.VideoAlarmRecord)
        return await self._set(call, channel_id, query, "VideoAlarmRecord", value)

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/PictureMask",
        summary="Cover parts of the picture (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def picture_mask(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: PictureMaskRequest
    ) -> ConfigurationDone:
        return await self._set(call, channel_id, query, "PictureMask", body.element())

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/FrameMirror",
        summary="Mirror the picture (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def frame_mirror(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: FrameMirrorRequest
    ) -> ConfigurationDone:
        return await self._set(call, channel_id, query, "FrameMirror", body.frame_mirror)

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/AlarmReport",
        summary="Set which detections report alarms (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def alarm_report(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: AlarmReportRequest
    ) -> ConfigurationDone:
        return await self._set(call, channel_id, query, "AlarmReport", body.filled(manscdp.AlarmReport))

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/OSDConfig",
        summary="Set texts and clock over the picture (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def osd(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: OSDConfigRequest
    ) -> ConfigurationDone:
        return await self._set(call, channel_id, query, "OSDConfig", body.element())

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/SnapShotConfig",
        summary="Have pictures taken and sent to a server that is not this gateway (2022)",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def snapshot(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: SnapShotConfigRequest
    ) -> ConfigurationDone:
        return await self._set(call, channel_id, query, "SnapShotConfig", body.filled(manscdp.SnapShotConfig))

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/SVACEncodeConfig",
        summary="Set an SVAC encoder",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def svac_encode(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: SVACEncodeConfigRequest
    ) -> ConfigurationDone:
        """A flag that the device's edition does not know is refused with 409 `not_supported`."""
        return await self._set(call, channel_id, query, "SVACEncodeConfig", body.element())

    @route(
        "PUT",
        "/api/channels/{channel_id}/configuration/SVACDecodeConfig",
        summary="Set an SVAC decoder",
        role=Role.ADMINISTRATOR,
        tag="configuration",
        errors=ERRORS,
        audited="device.configuration",
    )
    async def svac_decode(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: SVACDecodeConfigRequest
    ) -> ConfigurationDone:
        """A flag that the device's edition does not know is refused with 409 `not_supported`."""
        value = body.filled(manscdp.SVACDecodeConfig)
        return await self._set(call, channel_id, query, "SVACDecodeConfig", value)
