"""Subscriptions at devices over HTTP: what is subscribed, and an operator's word on it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from gateway.http.errors import not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.subscriptions import SubscriptionService, SubscriptionState
from gateway.storage.positions import SubscriptionWish


class SubscriptionKind(StrEnum):
    ALARM = "Alarm"
    MOBILE_POSITION = "MobilePosition"
    PTZ_POSITION = "PTZPosition"


class SubscriptionView(View):
    kind: str
    target_id: str = Field(description="The device, or the channel it is for.")
    state: str = Field(
        description="waiting, active, refused, polled (asked from time to time instead) or ended."
    )
    reason: str = Field(description="Status of a refusal, or why it ended.")
    since_at: datetime | None
    expires_s: int | None
    interval_s: int | None
    origin: str = Field(description="settings, operator, or upper: an upper platform needs it.")


class SubscriptionList(View):
    items: list[SubscriptionView]


class SubscriptionOrder(Model):
    enabled: bool = Field(description="false: never, whatever the settings and uppers want.")
    channel_id: AnyCode | None = Field(default=None, description="For one channel instead of the device.")
    interval_s: int | None = Field(default=None, ge=1, le=3600, description="MobilePosition only.")


class TargetQuery(Model):
    channel_id: AnyCode | None = None


class SubscriptionResource:
    def __init__(self, *, registry: Registry, subscriptions: SubscriptionService) -> None:
        self._registry, self._subscriptions = registry, subscriptions

    @route(
        "GET",
        "/api/devices/{device_id}/subscriptions",
        summary="What is subscribed at a device",
        role=Role.VIEWER,
        tag="devices",
        errors=(404,),
    )
    async def list(self, call: Call, device_id: AnyCode) -> SubscriptionList:
        """Empty while the device is offline."""
        self._check(device_id)
        return SubscriptionList(items=[_view(state) for state in self._subscriptions.states(device_id)])

    @route(
        "PUT",
        "/api/devices/{device_id}/subscriptions/{kind}",
        summary="Subscribe at a device, or never do",
        role=Role.OPERATOR,
        tag="devices",
        errors=(404, 409),
        audited="device.subscription",
    )
    async def put(
        self, call: Call, device_id: AnyCode, kind: SubscriptionKind, body: SubscriptionOrder
    ) -> SubscriptionList:
        """Kept over restarts; takes effect at once. PTZPosition needs a device of the 2022 edition."""
        self._check(device_id)
        target = body.channel_id or device_id
        note_audit(call, target=f"{device_id}/{target}", detail=f"{kind} {body.enabled}")
        await self._subscriptions.set_wish(
            SubscriptionWish(device_id, kind.value, target, body.enabled, body.interval_s)
        )
        return SubscriptionList(items=[_view(state) for state in self._subscriptions.states(device_id)])

    @route(
        "DELETE",
        "/api/devices/{device_id}/subscriptions/{kind}",
        summary="Leave a subscription to the settings again",
        role=Role.OPERATOR,
        status=204,
        tag="devices",
        errors=(404,),
        audited="device.subscription",
    )
    async def remove(
        self, call: Call, device_id: AnyCode, kind: SubscriptionKind, query: TargetQuery
    ) -> None:
        self._check(device_id)
        await self._subscriptions.remove_wish(device_id, kind.value, query.channel_id or device_id)

    def _check(self, device_id: str) -> None:
        if device_id not in self._registry.devices:
            raise not_found(f"device {device_id}")


def _view(state: SubscriptionState) -> SubscriptionView:
    return SubscriptionView.model_validate(state)
