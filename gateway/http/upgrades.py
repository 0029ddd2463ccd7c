"""Firmware upgrades over HTTP: ordered, listed, shown. They run on for minutes after the call."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Protocol

from pydantic import Field

from gateway.http.device_queries import WhichTarget, target
from gateway.http.errors import Problem
from gateway.http.routes import Call, Model, View, route
from gateway.http.views import AnyCode
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.upgrade import Upgrade, UpgradeState

SessionId = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{32,128}$")]
AnySession = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,128}$")]


class UpgradeJobs(Protocol):
    """The part of gateway.services.upgrade.Upgrades that this resource needs."""

    async def begin(
        self,
        device_id: str,
        target_id: str,
        *,
        firmware: str,
        file_url: str,
        manufacturer: str,
        who: str,
        session_id: str = "",
    ) -> Upgrade: ...

    def jobs(self, device_id: str = "") -> list[Upgrade]: ...

    def job(self, session_id: str) -> Upgrade: ...


class UpgradeOrder(Model):
    firmware: str = Field(min_length=1, max_length=128, description="Version to install.")
    file_url: str = Field(
        pattern=r"^(https?|ftps?|sftp)://[^\s/]+/\S*$",
        max_length=512,
        description="Where the device fetches the package.",
    )
    manufacturer: str | None = Field(
        default=None, min_length=1, max_length=64, description="Empty: what the device is known to be."
    )
    session_id: SessionId | None = Field(default=None, description="Empty: a fresh one.")


class UpgradeView(View):
    session_id: str
    device_id: str
    channel_id: str
    state: UpgradeState
    firmware: str
    manufacturer: str
    file_url: str = Field(description="Without user and password.")
    who: str
    asked_at: datetime
    accepted_at: datetime | None
    registered_again_at: datetime | None = Field(description="The device came back since it accepted.")
    ended_at: datetime | None
    reason_code: str = Field(
        description="01 download timeout, 02 package damaged, 03 system error, 99 other; empty unless it failed."
    )
    reason: str
    firmware_now: str = Field(description="What the device said it runs after it.")


class UpgradeList(View):
    items: list[UpgradeView]


class UpgradeFilter(Model):
    device_id: AnyCode | None = None


class UpgradeResource:
    def __init__(self, *, registry: Registry, upgrades: UpgradeJobs) -> None:
        self._registry, self._upgrades = registry, upgrades

    @route(
        "POST",
        "/api/devices/{device_id}/upgrades",
        summary="Upgrade a device's firmware (GB/T 28181-2022)",
        role=Role.ADMINISTRATOR,
        status=201,
        tag="control",
        errors=(404, 409, 502, 504),
    )
    async def upgrade(
        self, call: Call, device_id: AnyCode, query: WhichTarget, body: UpgradeOrder
    ) -> UpgradeView:
        """DeviceUpgrade (2022 9.13). Answers when the device accepted; the event `upgrade_changed` tells how it went."""
        key = target(self._registry, device_id, query.channel_id)
        known = self._registry.devices[device_id].manufacturer
        if not (body.manufacturer or known):
            text = "manufacturer: needed, because the device never told it"
            raise Problem(422, text, cause="invalid_input", field="manufacturer")
        job = await self._upgrades.begin(
            *key,
            firmware=body.firmware,
            file_url=body.file_url,
            manufacturer=body.manufacturer or known,
            who=call.who.name,
            session_id=body.session_id or "",
        )
        call.headers["Location"] = f"/api/upgrades/{job.session_id}"
        return UpgradeView.model_validate(job)

    @route("GET", "/api/upgrades", summary="List firmware upgrades", role=Role.VIEWER, tag="control")
    async def upgrades(self, call: Call, query: UpgradeFilter) -> UpgradeList:
        """Newest first."""
        jobs = self._upgrades.jobs(query.device_id or "")
        return UpgradeList(items=[UpgradeView.model_validate(job) for job in jobs])

    @route(
        "GET",
        "/api/upgrades/{session_id}",
        summary="Show one firmware upgrade",
        role=Role.VIEWER,
        tag="control",
        errors=(404,),
    )
    async def show_upgrade(self, call: Call, session_id: AnySession) -> UpgradeView:
        return UpgradeView.model_validate(self._upgrades.job(session_id))
