"""Inputs over HTTP: RTSP cameras and files entered, changed, checked and removed; ONVIF devices found and taken over."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, SecretStr, model_validator

from gateway.http.errors import Problem
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, Code
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.inputs_record import (
    FILE,
    RTSP,
    Input,
    InputHealth,
    OnvifAccess,
    split_credentials,
)
from gateway.services.onvif import Onvif, OnvifDevice
from gateway.services.onvif_discovery import FoundDevice, discover

Host = Annotated[str, Field(pattern=r"^[0-9A-Za-z.:-]{1,253}$", description="Address or name, without port.")]
Url = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
_RTSP = re.compile(r"rtsps?://[^\s/?#]+[^\s]*\Z")


class InputKind(StrEnum):
    RTSP = RTSP
    FILE = FILE


class InputsPort(Protocol):
    """The part of gateway.services.inputs.Inputs that this resource needs."""

    health: dict[str, InputHealth]

    def records(self) -> list[Input]: ...
    def get(self, channel_id: str) -> Input: ...
    async def add(self, record: Input) -> Input: ...
    async def change(self, record: Input) -> Input: ...
    async def remove(self, channel_id: str) -> None: ...
    async def check_now(self, channel_id: str) -> InputHealth: ...


class OnvifWish(Model):
    """Where a camera's ONVIF device service is; user name and password are those of the input."""

    host: Host
    port: int = Field(default=80, ge=1, le=65535)
    profile: str = Field(
        default="", max_length=128, description="Token of a media profile; empty: the largest picture."
    )


class Place(Model):
    manufacturer: str = Field(default="", max_length=128)
    model: str = Field(default="", max_length=128)
    civil_code: str = Field(
        default="", pattern=r"^(\d{2}){0,4}$", description="Division; empty: where we are."
    )
    address: str = Field(default="", max_length=255)
    block: str = Field(default="", max_length=32)
    longitude: float | None = Field(default=None, ge=-180, le=180)
    latitude: float | None = Field(default=None, ge=-90, le=90)
    point_class: Literal[1, 2, 3, 9] | None = Field(
        default=None, description="1, 2, 3 video point of that class, 9 other."
    )
    grassroots_code: str = Field(default="", pattern=r"^(\d{6})?$")


class InputCreate(Place):
    """An RTSP camera by `url` or by its ONVIF service, or a file below `inputs.directory`.

    Credentials in the URL are taken out of it; the password is never shown again.
    """

    kind: InputKind = InputKind.RTSP
    name: Name | None = Field(default=None, description="Empty: the model, for ONVIF devices.")
    channel_id: Code | None = Field(default=None, description="Empty: a code of type 132 is made.")
    url: Url | None = Field(default=None, description="rtsp://…; of a file its path below the directory.")
    sub_url: str = Field(
        default="", max_length=2048, description="The camera's smaller stream (stream number 1)."
    )
    username: str = Field(default="", max_length=128)
    password: SecretStr = Field(default=SecretStr(""), max_length=255)
    transport: Literal["tcp", "udp"] = "tcp"
    enabled: bool = True
    onvif: OnvifWish | None = None

    @model_validator(mode="after")
    def _whole(self) -> InputCreate:
        if self.url is None and self.onvif is None:
            raise ValueError("url or onvif is needed")
        if self.kind is InputKind.FILE and (self.onvif is not None or self.url is None):
            raise ValueError("a file has a url and no onvif")
        return self


class InputChange(Model):
    """Fields left out stay as they are."""

    name: Name | None = None
    url: Url | None = None
    sub_url: str | None = Field(default=None, max_length=2048)
    username: str | None = Field(default=None, max_length=128)
    password: SecretStr | None = Field(default=None, max_length=255)
    transport: Literal["tcp", "udp"] | None = None
    enabled: bool | None = None
    manufacturer: str | None = Field(default=None, max_length=128)
    model: str | None = Field(default=None, max_length=128)
    civil_code: str | None = Field(default=None, pattern=r"^(\d{2}){0,4}$")
    address: str | None = Field(default=None, max_length=255)
    block: str | None = Field(default=None, max_length=32)
    longitude: float | None = Field(default=None, ge=-180, le=180)
    latitude: float | None = Field(default=None, ge=-90, le=90)
    point_class: Literal[1, 2, 3, 9] | None = None
    grassroots_code: str | None = Field(default=None, pattern=r"^(\d{6})?$")


class OnvifView(View):
    host: str
    port: int
    profile: str
    ptz: bool


class InputView(View):
    channel_id: str
    device_id: str = Field(description="The virtual device of our own that holds the inputs.")
    kind: InputKind
    name: str
    url: str
    sub_url: str
    username: str
    password_set: bool
    transport: str
    enabled: bool
    manufacturer: str
    model: str
    civil_code: str
    address: str
    block: str
    longitude: float | None
    latitude: float | None
    point_class: int | None
    grassroots_code: str
    onvif: OnvifView | None
    status: str = Field(description="As in the catalog: ON or OFF.")
    cause: str = Field(
        description="Why it is not there: refused, not_found, dial_failed, no_answer, bad_answer; else empty."
    )
    detail: str
    checked_at: datetime | None
    last_ok_at: datetime | None
    last_failure_at: datetime | None
    failures: int = Field(description="Checks in a row that failed.")


class InputList(View):
    items: list[InputView]


class DiscoverWish(Model):
    seconds: float = Field(default=3.0, ge=1, le=15)
    interface: str = Field(
        default="",
        pattern=r"^(\d{1,3}(\.\d{1,3}){3})?$",
        description="Own IPv4 address of the network to ask on.",
    )


class FoundView(View):
    endpoint: str
    host: str
    port: int
    address: str = Field(description="URL of its device service.")
    name: str
    hardware: str
    location: str


class FoundList(View):
    items: list[FoundView]


class ProbeWish(Model):
    host: Host
    port: int = Field(default=80, ge=1, le=65535)
    username: str = Field(default="", max_length=128)
    password: SecretStr = Field(default=SecretStr(""), max_length=255)


class ProfileView(View):
    token: str
    name: str
    codec: str
    width: int
    height: int
    url: str


class OnvifDeviceView(View):
    manufacturer: str
    model: str
    firmware: str
    ptz: bool
    profiles: list[ProfileView]


class InputResource:
    def __init__(self, *, registry: Registry, inputs: InputsPort, onvif: Onvif) -> None:
        self._registry = registry
        self._inputs = inputs
        self._onvif = onvif

    @route("GET", "/api/inputs", summary="List RTSP cameras and files", role=Role.OPERATOR, tag="inputs")
    async def list(self, call: Call) -> InputList:
        return InputList(items=[self._view(record) for record in self._inputs.records()])

    @route(
        "POST",
        "/api/inputs",
        summary="Enter an RTSP camera, an ONVIF device or a file",
        role=Role.ADMINISTRATOR,
        status=201,
        tag="inputs",
        errors=(409, 501, 502),
        audited="input.create",
    )
    async def create(self, call: Call, body: InputCreate) -> InputView:
        """It becomes a channel at once; its status follows with the first check."""
        record = await self._record(body)
        added = await self._inputs.add(record)
        note_audit(call, target=added.channel_id, detail=f"kind: {added.kind} url: {added.url}")
        call.headers["Location"] = f"/api/inputs/{added.channel_id}"
        return self._view(added)

    @route(
        "GET",
        "/api/inputs/{channel_id}",
        summary="Show one input",
        role=Role.OPERATOR,
        tag="inputs",
        errors=(404,),
    )
    async def show(self, call: Call, channel_id: AnyCode) -> InputView:
        return self._view(self._inputs.get(channel_id))

    @route(
        "PATCH",
        "/api/inputs/{channel_id}",
        summary="Change an input",
        role=Role.ADMINISTRATOR,
        tag="inputs",
        errors=(404,),
        audited="input.change",
    )
    async def change(self, call: Call, channel_id: AnyCode, body: InputChange) -> InputView:
        """A picture that runs is ended when address, credentials or transport change."""
        note_audit(call, detail="fields: " + " ".join(sorted(body.model_fields_set)))
        known = self._inputs.get(channel_id)
        nullable = ("longitude", "latitude", "point_class")
        values: dict[str, Any] = {
            name: value
            for name in body.model_fields_set - {"password"}
            if (value := getattr(body, name)) is not None or name in nullable
        }
        if body.password is not None:
            values["password"] = body.password.get_secret_value()
        if "url" in values:
            values["url"] = _without_credentials(values["url"], known.kind, values)
        if values.get("sub_url"):
            values["sub_url"] = _without_credentials(values["sub_url"], known.kind, {})
        return self._view(await self._inputs.change(replace(known, **values)))

    @route(
        "DELETE",
        "/api/inputs/{channel_id}",
        summary="Forget an input",
        role=Role.ADMINISTRATOR,
        status=204,
        tag="inputs",
        errors=(404,),
        audited="input.remove",
    )
    async def remove(self, call: Call, channel_id: AnyCode) -> None:
        """Its pictures end and its channel leaves the catalog."""
        await self._inputs.remove(channel_id)

    @route(
        "POST",
        "/api/inputs/{channel_id}/check",
        summary="Check now whether the camera is there",
        role=Role.OPERATOR,
        tag="inputs",
        errors=(404,),
        audited="input.check",
    )
    async def check(self, call: Call, channel_id: AnyCode) -> InputView:
        await self._inputs.check_now(channel_id)
        return self._view(self._inputs.get(channel_id))

    @route(
        "POST",
        "/api/onvif/discover",
        summary="Find ONVIF devices on a network of ours",
        role=Role.ADMINISTRATOR,
        tag="inputs",
        errors=(409, 501),
        audited="onvif.discover",
    )
    async def discover(self, call: Call, body: DiscoverWish) -> FoundList:
        """WS-Discovery by multicast; routers do not pass it on."""
        self._onvif.require()
        try:
            found: list[FoundDevice] = await discover(body.seconds, interface=body.interface)
        except OSError as error:
            raise Problem(
                409, f"no discovery on this network: {error.strerror}", cause="no_network"
            ) from error
        return FoundList(items=[FoundView.model_validate(device) for device in found])

    @route(
        "POST",
        "/api/onvif/probe",
        summary="Ask an ONVIF device for its profiles",
        role=Role.ADMINISTRATOR,
        tag="inputs",
        errors=(409, 501, 502),
        audited="onvif.probe",
    )
    async def probe(self, call: Call, body: ProbeWish) -> OnvifDeviceView:
        note_audit(call, target=f"{body.host}:{body.port}")
        device = await self._onvif.describe(
            body.host, body.port, body.username, body.password.get_secret_value()
        )
        return OnvifDeviceView.model_validate(device)

    async def _record(self, body: InputCreate) -> Input:
        """The record of a wish. Raises Problem(422), OnvifMissing, OnvifFailed."""
        values = body.model_dump(exclude={"password", "onvif", "kind", "name", "url", "channel_id"})
        values["password"] = body.password.get_secret_value()
        url, name = body.url or "", body.name or ""
        if body.onvif is not None:
            wish = body.onvif
            device = await self._onvif.describe(wish.host, wish.port, values["username"], values["password"])
            token, main, smaller = _choose(device, wish.profile)
            url = url or main
            values["sub_url"] = values["sub_url"] or smaller
            values["manufacturer"] = values["manufacturer"] or device.manufacturer
            values["model"] = values["model"] or device.model
            name = name or f"{device.manufacturer} {device.model}".strip()
            values["onvif"] = OnvifAccess(wish.host, wish.port, token, device.ptz)
        url = _without_credentials(url, body.kind.value, values)
        if values["sub_url"]:
            values["sub_url"] = _without_credentials(values["sub_url"], body.kind.value, {})
        return Input(
            channel_id=body.channel_id or "",
            device_id="",
            kind=body.kind.value,
            name=name or url,
            url=url,
            **values,
        )

    def _view(self, record: Input) -> InputView:
        health = self._inputs.health.get(record.channel_id, InputHealth())
        channel = self._registry.channel(*record.key)
        own = {item.name: getattr(record, item.name) for item in fields(Input) if item.name != "password"}
        own["onvif"] = OnvifView.model_validate(record.onvif) if record.onvif is not None else None
        return InputView(
            **own,
            password_set=bool(record.password),
            status=self._registry.channel_evidence(channel).verdict.value if channel is not None else "OFF",
            cause=health.cause,
            detail=health.detail,
            checked_at=health.checked_at,
            last_ok_at=health.last_ok_at,
            last_failure_at=health.last_failure_at,
            failures=health.failures,
        )


def _without_credentials(url: str, kind: str, values: dict[str, Any]) -> str:
    """The URL alone; credentials in it go into ``values``, where none are given. Raises Problem(422)."""
    if kind == FILE:
        if "\x00" in url or url.startswith("/") or ".." in url.split("/"):
            raise Problem(422, "url: a path below inputs.directory", cause="invalid_input", field="url")
        return url
    if _RTSP.fullmatch(url) is None:
        raise Problem(
            422, "url: begins with rtsp:// or rtsps:// and has no blanks", cause="invalid_input", field="url"
        )
    try:
        bare, username, password = split_credentials(url)
    except ValueError:
        raise Problem(422, "url: cannot be read", cause="invalid_input", field="url") from None
    if username and not values.get("username"):
        values["username"], values["password"] = username, password
    return bare


def _choose(device: OnvifDevice, wanted: str) -> tuple[str, str, str]:
    """(profile token, its URL, the URL of a smaller picture). Raises Problem(409)."""
    chosen = next((p for p in device.profiles if p.token == wanted), None) if wanted else None
    if wanted and chosen is None:
        raise Problem(409, f"the device has no profile {wanted}", cause="no_profile", field="onvif.profile")
    if chosen is None and not device.profiles:
        raise Problem(409, "the device offers no H.264 or H.265 profile", cause="no_profile")
    chosen = chosen or device.profiles[0]
    smaller = [
        p
        for p in device.profiles
        if p.width * p.height < chosen.width * chosen.height and p.url != chosen.url
    ]
    return chosen.token, chosen.url, smaller[-1].url if smaller else ""
