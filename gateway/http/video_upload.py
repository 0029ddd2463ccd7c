"""What a device's VideoUploadNotify sets going, over HTTP: the rule of one device."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from gateway.http.errors import not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.video_upload import VideoUploads
from gateway.storage.snapshots import UploadRule


class UploadAction(StrEnum):
    OFF = "off"
    KEEP = "keep"
    RECORD = "record"


class UploadRuleRequest(Model):
    action: UploadAction = Field(
        description="off: only the event; keep: fetch the picture; record: also record it."
    )
    keep_s: int = Field(default=60, ge=1, le=86400, description="After the last notice.")


class UploadRuleView(View):
    device_id: str
    action: UploadAction
    keep_s: int
    origin: str = Field(description="operator: the device's own rule; settings: the default.")


class VideoUploadResource:
    def __init__(self, *, registry: Registry, uploads: VideoUploads) -> None:
        self._registry, self._uploads = registry, uploads

    @route(
        "GET",
        "/api/devices/{device_id}/video-upload",
        summary="What a device's VideoUploadNotify sets going",
        role=Role.VIEWER,
        tag="devices",
        errors=(404,),
    )
    async def show(self, call: Call, device_id: AnyCode) -> UploadRuleView:
        return self._view(device_id)

    @route(
        "PUT",
        "/api/devices/{device_id}/video-upload",
        summary="Say what a device's VideoUploadNotify sets going",
        role=Role.OPERATOR,
        tag="devices",
        errors=(404,),
        audited="device.video_upload",
    )
    async def put(self, call: Call, device_id: AnyCode, body: UploadRuleRequest) -> UploadRuleView:
        self._view(device_id)
        note_audit(call, detail=f"{body.action} {body.keep_s} s")
        await self._uploads.put_rule(UploadRule(device_id, body.action.value, body.keep_s))
        return self._view(device_id)

    @route(
        "DELETE",
        "/api/devices/{device_id}/video-upload",
        summary="Leave a device's VideoUploadNotify to the settings",
        role=Role.OPERATOR,
        status=204,
        tag="devices",
        errors=(404,),
        audited="device.video_upload",
    )
    async def remove(self, call: Call, device_id: AnyCode) -> None:
        self._view(device_id)
        await self._uploads.remove_rule(device_id)

    def _view(self, device_id: str) -> UploadRuleView:
        if device_id not in self._registry.devices:
            raise not_found(f"device {device_id}")
        rule = self._uploads.rule(device_id)
        origin = "operator" if self._uploads.own_rule(device_id) else "settings"
        return UploadRuleView(
            device_id=device_id, action=UploadAction(rule.action), keep_s=rule.keep_s, origin=origin
        )
