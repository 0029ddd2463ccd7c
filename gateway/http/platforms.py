"""Upper platforms over HTTP: enter, change, switch off, remove, and see how the link stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, SecretStr

from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, Code
from gateway.model import Platform, PlatformState, PlatformStatus, Share
from gateway.services.access import Role
from sip.ids import domain_of

Host = Annotated[str, Field(pattern=r"^[0-9A-Za-z.:-]{1,253}$", description="Address or name, without port.")]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class Right(StrEnum):
    PLAY = "play"
    PTZ = "ptz"
    PLAYBACK = "playback"
    DOWNLOAD = "download"
    BROADCAST = "broadcast"
    CONFIG = "config"


class Uppers(Protocol):
    """The part of gateway.services.cascade.Cascade that platforms and shares need."""

    def records(self) -> list[Platform]: ...
    def platforms(self) -> list[PlatformStatus]: ...
    def hosts(self, platform_id: str) -> frozenset[str]: ...
    async def put_platform(self, platform: Platform) -> None: ...
    async def remove_platform(self, platform_id: str) -> None: ...
    async def set_shares(self, platform_id: str, wanted: list[Share]) -> None: ...
    def shares(self, platform_id: str) -> list[Share]: ...


class PlatformSettings(Model):
    """Everything about an upper but its code and password. Empty texts mean the default in brackets."""

    name: Name
    domain: str = Field(
        default="",
        pattern=r"^[0-9A-Za-z.-]{0,64}$",
        description="Its SIP domain (first ten digits of its code).",
    )
    host: Host
    port: Port = 5060
    transport: Literal["udp", "tcp", "tls"] = "udp"
    tls_server_name: str = Field(
        default="",
        pattern=r"^[0-9A-Za-z.:-]{0,253}$",
        description="TLS: the name its certificate must hold (host).",
    )
    our_id: Literal[""] | Code = Field(default="", description="The code we use toward it (our server code).")
    username: str = Field(default="", max_length=64, description="Digest user name (our code).")
    expires_s: int = Field(default=86400, ge=60, le=604800)
    heartbeat_interval_s: int = Field(default=60, ge=5, le=600)
    heartbeat_count: int = Field(default=3, ge=2, le=10)
    edition: Literal["2.0", "3.0"] = Field(
        default="3.0", description="2.0 is the 2016 edition, 3.0 that of 2022."
    )
    charset: Literal["GB2312", "GB18030", "UTF-8"] = "GB18030"
    page_size_udp: int = Field(default=1, ge=1, le=8, description="Catalog entries per message over UDP.")
    page_size_tcp: int = Field(default=100, ge=1, le=1000)
    ssrc_policy: Literal["echo", "own"] = "echo"
    media_host: str = Field(default="", pattern=r"^[0-9A-Za-z.:-]{0,253}$")
    share_all: bool = Field(default=False, description="Show it every channel, present and future.")
    max_streams: int = Field(
        default=0, ge=0, le=100_000, description="Parallel streams it may pull; 0: no limit."
    )
    rights: set[Right] = Field(default={Right.PLAY, Right.PTZ})
    alarms: Literal["subscription", "always"] = Field(
        default="subscription",
        description="subscription: alarms go up where it subscribed; always: also by MESSAGE while it did not.",
    )
    enabled: bool = True


class PlatformCreate(PlatformSettings):
    platform_id: Code
    password: SecretStr = Field(default=SecretStr(""), max_length=128)


class PlatformChange(Model):
    """Fields left out stay as they are."""

    name: Name | None = None
    domain: str | None = Field(default=None, pattern=r"^[0-9A-Za-z.-]{0,64}$")
    host: Host | None = None
    port: Port | None = None
    transport: Literal["udp", "tcp", "tls"] | None = None
    tls_server_name: str | None = Field(default=None, pattern=r"^[0-9A-Za-z.:-]{0,253}$")
    our_id: Literal[""] | Code | None = None
    username: str | None = Field(default=None, max_length=64)
    password: SecretStr | None = Field(default=None, max_length=128)
    expires_s: int | None = Field(default=None, ge=60, le=604800)
    heartbeat_interval_s: int | None = Field(default=None, ge=5, le=600)
    heartbeat_count: int | None = Field(default=None, ge=2, le=10)
    edition: Literal["2.0", "3.0"] | None = None
    charset: Literal["GB2312", "GB18030", "UTF-8"] | None = None
    page_size_udp: int | None = Field(default=None, ge=1, le=8)
    page_size_tcp: int | None = Field(default=None, ge=1, le=1000)
    ssrc_policy: Literal["echo", "own"] | None = None
    media_host: str | None = Field(default=None, pattern=r"^[0-9A-Za-z.:-]{0,253}$")
    share_all: bool | None = None
    max_streams: int | None = Field(default=None, ge=0, le=100_000)
    rights: set[Right] | None = None
    enabled: bool | None = None


class StatusView(View):
    state: PlatformState
    since_at: datetime | None
    registered_at: datetime | None
    expires_s: int
    last_response: str = Field(description="Status line of its last answer.")
    missed_heartbeats: int
    clock_offset_s: float | None = Field(description="Its clock minus ours, from the Date of its answers.")
    subscriptions: int
    streams: int
    next_try_in_s: float | None
    server: str = Field(
        description="Where we register now: its address, or that of the server it redirected us to."
    )


class PlatformView(View):
    platform_id: str
    name: str
    domain: str
    host: str
    port: int
    transport: str
    tls_server_name: str
    our_id: str
    username: str
    password_set: bool
    expires_s: int
    heartbeat_interval_s: int
    heartbeat_count: int
    edition: str
    charset: str
    page_size_udp: int
    page_size_tcp: int
    ssrc_policy: str
    media_host: str
    share_all: bool
    max_streams: int
    rights: list[Right]
    enabled: bool
    shares: int = Field(description="Channels picked for it; none are needed with share_all.")
    status: StatusView


class PlatformList(View):
    items: list[PlatformView]


class PlatformResource:
    def __init__(self, *, uppers: Uppers) -> None:
        self._uppers = uppers

    @route("GET", "/api/platforms", summary="List upper platforms", role=Role.VIEWER, tag="platforms")
    async def list(self, call: Call) -> PlatformList:
        return PlatformList(items=[self._view(platform) for platform in self._uppers.records()])

    @route(
        "POST",
        "/api/platforms",
        summary="Enter an upper platform",
        role=Role.OPERATOR,
        status=201,
        tag="platforms",
        errors=(409,),
        audited="platform.create",
    )
    async def create(self, call: Call, body: PlatformCreate) -> PlatformView:
        """We begin to register there at once, unless `enabled` is false."""
        note_audit(call, target=body.platform_id)
        if any(p.platform_id == body.platform_id for p in self._uppers.records()):
            raise Problem(
                409, f"platform {body.platform_id} exists already", cause="exists", field="platform_id"
            )
        values = body.model_dump(exclude={"password"})
        values["domain"] = values["domain"] or domain_of(body.platform_id)
        await self._uppers.put_platform(_platform(values, body.password.get_secret_value()))
        call.headers["Location"] = f"/api/platforms/{body.platform_id}"
        return self._view(self._platform(body.platform_id))

    @route(
        "GET",
        "/api/platforms/{platform_id}",
        summary="Show one upper platform",
        role=Role.VIEWER,
        tag="platforms",
        errors=(404,),
    )
    async def show(self, call: Call, platform_id: AnyCode) -> PlatformView:
        return self._view(self._platform(platform_id))

    @route(
        "PATCH",
        "/api/platforms/{platform_id}",
        summary="Change an upper platform",
        role=Role.OPERATOR,
        tag="platforms",
        errors=(404,),
        audited="platform.change",
    )
    async def change(self, call: Call, platform_id: AnyCode, body: PlatformChange) -> PlatformView:
        """We register anew with the changed settings."""
        note_audit(call, detail="fields: " + " ".join(sorted(body.model_fields_set)))
        known = self._platform(platform_id)
        values = {
            name: value
            for name in body.model_fields_set - {"password"}
            if (value := getattr(body, name)) is not None
        }
        if values.get("domain") == "":
            values["domain"] = domain_of(platform_id)
        if "rights" in values:
            values["rights"] = frozenset(right.value for right in values["rights"])
        if body.password is not None:
            values["password"] = body.password.get_secret_value()
        await self._uppers.put_platform(replace(known, **values))
        return self._view(self._platform(platform_id))

    @route(
        "DELETE",
        "/api/platforms/{platform_id}",
        summary="Log out at an upper platform and forget it",
        role=Role.OPERATOR,
        status=204,
        tag="platforms",
        errors=(404,),
        audited="platform.remove",
    )
    async def remove(self, call: Call, platform_id: AnyCode) -> None:
        self._platform(platform_id)
        await self._uppers.remove_platform(platform_id)

    def _platform(self, platform_id: str) -> Platform:
        for platform in self._uppers.records():
            if platform.platform_id == platform_id:
                return platform
        raise not_found(f"platform {platform_id}")

    def _view(self, platform: Platform) -> PlatformView:
        status = next(
            (s for s in self._uppers.platforms() if s.platform_id == platform.platform_id),
            PlatformStatus(platform.platform_id, PlatformState.DISABLED),
        )
        fields = {
            name: getattr(platform, name)
            for name in PlatformView.model_fields
            if name not in ("password_set", "shares", "status", "rights")
        }
        return PlatformView(
            **fields,
            password_set=bool(platform.password),
            rights=sorted(Right(right) for right in platform.rights),
            shares=len(self._uppers.shares(platform.platform_id)),
            status=StatusView.model_validate(status),
        )


def _platform(values: dict[str, Any], password: str) -> Platform:
    rights = frozenset(right.value for right in values.pop("rights"))
    return Platform(**values, rights=rights, password=password)
