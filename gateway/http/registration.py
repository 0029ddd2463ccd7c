"""Registration over HTTP: two units with one code, and the keys with which single peers sign their messages (Note)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import Field, SecretStr

from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.note_check import NoteCheck, NoteRule
from gateway.services.note_check import Role as PeerRole
from gateway.services.same_id import SameId, Unit


class UnitView(View):
    address: str
    user_agent: str
    contact: str
    last_seen_at: datetime


class ConflictView(View):
    device_id: str
    first: UnitView
    second: UnitView
    kept: Literal["first", "second", "newest"] = Field(description="Which unit has the code now.")
    since_at: datetime
    turns: int = Field(description="Registrations of both since then.")
    refused: int = Field(description="Of these, refused with 403.")


class ConflictList(View):
    items: list[ConflictView]


class NoteSettings(Model):
    """How messages to and from one peer are signed (GB/T 28181-2016 annex H, 2022 8.3)."""

    secret: SecretStr = Field(
        min_length=1, max_length=256, description="What both sides share: the seed, or the VKEK."
    )
    encoding: Literal["text", "hex", "base64"] = Field(
        default="text", description="How the secret is written."
    )
    algorithm: Literal["MD5", "SHA-1", "SHA-256", "SM3"] = "SM3"
    form: Literal["annex_h", "gb35114"] = Field(
        default="annex_h",
        description="annex_h: From To Call-ID Date seed body; gb35114: the method in front.",
    )
    sign: bool = Field(default=True, description="Our messages to it carry Date and Note.")
    check: Literal["off", "requests", "all"] = Field(
        default="all",
        description="What of its messages must verify; all: its answers too. Others are dropped.",
    )


class NoteView(View):
    """The secret is never told."""

    peer_id: str
    encoding: str
    algorithm: str
    form: str
    sign: bool
    check: str


class RegistrationResource:
    """``upper_known`` says whether there is an upper platform with this code."""

    def __init__(
        self, *, registry: Registry, same_id: SameId, notes: NoteCheck, upper_known: Callable[[str], bool]
    ) -> None:
        self._registry = registry
        self._same_id = same_id
        self._notes = notes
        self._upper_known = upper_known

    @route(
        "GET",
        "/api/device-conflicts",
        summary="Codes that two units use",
        role=Role.VIEWER,
        tag="devices",
    )
    async def conflicts(self, call: Call) -> ConflictList:
        """Found when two units alternate; over by itself when one is gone (events `device_conflict`, `device_conflict_ended`)."""
        return ConflictList(
            items=[
                ConflictView(
                    device_id=conflict.device_id,
                    first=_unit(conflict.first),
                    second=_unit(conflict.second),
                    kept=conflict.kept,
                    since_at=conflict.since_at,
                    turns=conflict.turns,
                    refused=conflict.refused,
                )
                for conflict in self._same_id.current()
            ]
        )

    @route(
        "GET",
        "/api/devices/{device_id}/note",
        summary="Show how a device's messages are signed",
        role=Role.OPERATOR,
        tag="devices",
        errors=(404,),
    )
    async def device_note(self, call: Call, device_id: AnyCode) -> NoteView:
        return self._view("device", device_id)

    @route(
        "PUT",
        "/api/devices/{device_id}/note",
        summary="Sign and check the messages of a device",
        role=Role.ADMINISTRATOR,
        tag="devices",
        errors=(404,),
        audited="device.note",
    )
    async def set_device_note(self, call: Call, device_id: AnyCode, body: NoteSettings) -> NoteView:
        """It holds from the next message on; what does not verify is dropped without an answer and counted."""
        if device_id not in self._registry.devices:
            raise not_found(f"device {device_id}")
        return await self._set(call, "device", device_id, body)

    @route(
        "DELETE",
        "/api/devices/{device_id}/note",
        summary="Stop signing and checking the messages of a device",
        role=Role.ADMINISTRATOR,
        status=204,
        tag="devices",
        errors=(404,),
        audited="device.note_off",
    )
    async def remove_device_note(self, call: Call, device_id: AnyCode) -> None:
        await self._remove("device", device_id)

    @route(
        "GET",
        "/api/platforms/{platform_id}/note",
        summary="Show how an upper's messages are signed",
        role=Role.OPERATOR,
        tag="platforms",
        errors=(404,),
    )
    async def platform_note(self, call: Call, platform_id: AnyCode) -> NoteView:
        return self._view("upper", platform_id)

    @route(
        "PUT",
        "/api/platforms/{platform_id}/note",
        summary="Sign and check the messages of an upper platform",
        role=Role.ADMINISTRATOR,
        tag="platforms",
        errors=(404,),
        audited="platform.note",
    )
    async def set_platform_note(self, call: Call, platform_id: AnyCode, body: NoteSettings) -> NoteView:
        """It holds from the next message on; what does not verify is dropped without an answer and counted."""
        if not self._upper_known(platform_id):
            raise not_found(f"platform {platform_id}")
        return await self._set(call, "upper", platform_id, body)

    @route(
        "DELETE",
        "/api/platforms/{platform_id}/note",
        summary="Stop signing and checking the messages of an upper platform",
        role=Role.ADMINISTRATOR,
        status=204,
        tag="platforms",
        errors=(404,),
        audited="platform.note_off",
    )
    async def remove_platform_note(self, call: Call, platform_id: AnyCode) -> None:
        await self._remove("upper", platform_id)

    def _view(self, role: PeerRole, peer_id: str) -> NoteView:
        rule = self._notes.rule(role, peer_id)
        if rule is None:
            raise not_found(f"a note key of {peer_id}")
        return NoteView.model_validate(rule)

    async def _set(self, call: Call, role: PeerRole, peer_id: str, body: NoteSettings) -> NoteView:
        note_audit(
            call, target=peer_id, detail=f"{body.algorithm} {body.form} sign {body.sign} check {body.check}"
        )
        values = body.model_dump(exclude={"secret"})
        try:
            await self._notes.put(NoteRule(role, peer_id, body.secret.get_secret_value(), **values))
        except ValueError as error:
            raise Problem(422, str(error), cause="invalid_input", field="secret") from None
        return self._view(role, peer_id)

    async def _remove(self, role: PeerRole, peer_id: str) -> None:
        if not await self._notes.remove(role, peer_id):
            raise not_found(f"a note key of {peer_id}")


def _unit(unit: Unit) -> UnitView:
    return UnitView(
        address=str(unit.flow), user_agent=unit.agent, contact=unit.contact, last_seen_at=unit.seen_at
    )
