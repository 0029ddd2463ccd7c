"""Devices over HTTP: enter, list, change, remove, and ask for their catalog."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field, SecretStr

from config.vendors import ProfileSettings
from gateway.credentials import DeviceSecret
from gateway.errors import DeviceIsOffline, GatewayError
from gateway.events import CatalogCollected
from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, Code, DeviceView, Page, device_view
from gateway.model import Device, DeviceKind, Profile, State
from gateway.registry import Registry, device_kind
from gateway.services.access import Role
from gateway.services.census import CHUNK
from gateway.services.provisioning_devices import networks_of
from sip.ids import parse_code

log = logging.getLogger(__name__)


class CatalogAsker(Protocol):
    """The part of the catalog service that asks a device now."""

    def collecting(self, device_id: str) -> bool: ...
    async def refresh(self, device_id: str) -> CatalogCollected: ...


class ProfileChange(ProfileSettings):
    """Fields left out stay; null takes the operator's word back, so that what is learned or known of the make holds."""


_NETWORKS = "Addresses or CIDR networks it may register from; others get 403. Empty: any."
Networks = Annotated[list[str], Field(max_length=64), AfterValidator(lambda value: list(networks_of(value)))]


class DeviceCreate(Model):
    device_id: Code
    name: str = Field(default="", max_length=255)
    password: SecretStr | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Its own digest password; only hashes are kept. Without one the domain password holds.",
    )
    digest_username: str = Field(
        default="", max_length=64, description="When the device logs in under another name than its code."
    )
    allowed_networks: Networks = Field(default_factory=list, description=_NETWORKS)
    profile: ProfileChange = ProfileChange()


class DeviceChange(Model):
    """Fields left out stay as they are."""

    name: str | None = Field(default=None, max_length=255)
    password: SecretStr | None = Field(default=None, min_length=1, max_length=128)
    digest_username: str = Field(default="", max_length=64)
    remove_password: bool = Field(default=False, description="From now on the domain password holds.")
    allowed_networks: Networks | None = Field(default=None, description=_NETWORKS)
    profile: ProfileChange | None = None


class DeviceFilter(Page):
    state: State | None = None
    kind: DeviceKind | None = None
    provisioned: bool | None = None
    q: str = Field(default="", max_length=64, description="Part of the code, name, manufacturer or address.")


class DeviceList(View):
    total: int = Field(description="Devices that match, on all pages.")
    items: list[DeviceView]


class CatalogAsked(View):
    device_id: str
    detail: str


class DeviceResource:
    """``realm`` is the digest realm in which passwords are hashed."""

    def __init__(self, *, registry: Registry, catalog: CatalogAsker, realm: str) -> None:
        self._registry = registry
        self._catalog = catalog
        self._realm = realm
        self._asking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait no longer for catalogs that were asked for."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    @route("GET", "/api/devices", summary="List devices", role=Role.VIEWER, tag="devices")
    async def list(self, call: Call, query: DeviceFilter) -> DeviceList:
        """In the order of their codes."""
        wanted = _matcher(query)
        found = sorted((d for d in self._registry.devices.values() if wanted(d)), key=lambda d: d.device_id)
        page, looked_at = [], 0
        for device in found[query.offset : query.offset + query.limit]:
            page.append(self._view(device))
            looked_at += len(self._registry.channels(device.device_id)) + 20
            if looked_at > CHUNK:  # counting many channels must not hold up SIP
                looked_at = 0
                await asyncio.sleep(0)
        return DeviceList(total=len(found), items=page)

    @route(
        "POST",
        "/api/devices",
        summary="Enter a device before it registers",
        role=Role.OPERATOR,
        status=201,
        tag="devices",
        errors=(409,),
        audited="device.create",
    )
    async def create(self, call: Call, body: DeviceCreate) -> DeviceView:
        note_audit(call, target=body.device_id)
        if body.device_id in self._registry.devices:
            raise Problem(409, f"device {body.device_id} exists already", cause="exists", field="device_id")
        code = parse_code(body.device_id)
        device = Device(
            device_id=body.device_id,
            name=body.name,
            kind=device_kind(code.type if code is not None else None),
            provisioned=True,
            profile=_ordered(Profile(), body.profile),
        )
        device.profile.allowed_networks = tuple(body.allowed_networks)
        secret = self._secret(body.device_id, body.password, body.digest_username)
        self._registry.put_device(device, secret=secret)
        call.headers["Location"] = f"/api/devices/{body.device_id}"
        return self._view(device)

    @route(
        "GET",
        "/api/devices/{device_id}",
        summary="Show one device",
        role=Role.VIEWER,
        tag="devices",
        errors=(404,),
    )
    async def show(self, call: Call, device_id: AnyCode) -> DeviceView:
        return self._view(self._device(device_id))

    @route(
        "PATCH",
        "/api/devices/{device_id}",
        summary="Change a device",
        role=Role.OPERATOR,
        tag="devices",
        errors=(404,),
        audited="device.change",
    )
    async def change(self, call: Call, device_id: AnyCode, body: DeviceChange) -> DeviceView:
        """Name, password and profile. A new password holds from the next registration."""
        note_audit(call, detail="fields: " + " ".join(sorted(body.model_fields_set)))
        device = self._device(device_id)
        if body.password is not None and body.remove_password:
            raise Problem(422, "set or remove, not both", cause="invalid_input", field="remove_password")
        values: dict[str, Any] = {"provisioned": True}
        if body.name is not None:
            values["name"] = body.name
        if body.profile is not None:
            _ordered(device.profile, body.profile)
        if body.allowed_networks is not None:
            device.profile.allowed_networks = tuple(body.allowed_networks)
        self._registry.update_device(device_id, **values)
        if body.profile is not None or body.allowed_networks is not None:
            self._registry.put_device(device)
        if body.password is not None:
            self._registry.set_secret(device_id, self._secret(device_id, body.password, body.digest_username))
        elif body.remove_password:
            self._registry.set_secret(device_id, None)
        return self._view(device)

    @route(
        "DELETE",
        "/api/devices/{device_id}",
        summary="Forget a device and its channels",
        role=Role.OPERATOR,
        status=204,
        tag="devices",
        errors=(404, 409),
        audited="device.remove",
    )
    async def remove(self, call: Call, device_id: AnyCode) -> None:
        """It may register again unless its password is refused."""
        device = self._registry.devices.get(device_id)
        if device is not None and device.local:
            raise Problem(409, "this device holds our own inputs: remove these instead", cause="local_device")
        if not self._registry.remove_device(device_id):
            raise not_found(f"device {device_id}")

    @route(
        "POST",
        "/api/devices/{device_id}/catalog",
        summary="Ask the device for its catalog now",
        role=Role.OPERATOR,
        status=202,
        tag="devices",
        errors=(404, 409),
        audited="device.catalog",
    )
    async def catalog(self, call: Call, device_id: AnyCode) -> CatalogAsked:
        """Returns at once; the event `catalog_collected` tells the outcome."""
        device = self._device(device_id)
        if not device.online:
            raise DeviceIsOffline(f"device {device_id} is offline")
        if self._catalog.collecting(device_id):
            return CatalogAsked(device_id=device_id, detail="being collected already")
        task = asyncio.create_task(self._ask(device_id), name=f"http-catalog-{device_id}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return CatalogAsked(device_id=device_id, detail="asked")

    async def _ask(self, device_id: str) -> None:
        try:
            await self._catalog.refresh(device_id)
        except GatewayError as error:
            log.info("catalog not collected device_id=%s cause=%s", device_id, error.cause)

    def _device(self, device_id: str) -> Device:
        device = self._registry.devices.get(device_id)
        if device is None:
            raise not_found(f"device {device_id}")
        return device

    def _view(self, device: Device) -> DeviceView:
        channels = self._registry.channels(device.device_id)
        online = sum(map(self._registry.channel_online, channels.values())) if device.online else 0
        return device_view(
            device,
            password_set=device.device_id in self._registry.secrets,
            channels=len(channels),
            channels_online=online,
        )

    def _secret(self, device_id: str, password: SecretStr | None, username: str) -> DeviceSecret | None:
        if password is None:
            return None
        return DeviceSecret.of_password(device_id, self._realm, password.get_secret_value(), username)


def _ordered(profile: Profile, change: ProfileChange) -> Profile:
    """The profile after an operator's word on the fields that were sent."""
    profile.order(**{name: getattr(change, name) for name in change.model_fields_set})
    return profile


def _matcher(query: DeviceFilter) -> Callable[[Device], bool]:
    text = query.q.casefold()

    def matches(device: Device) -> bool:
        if query.state is not None and device.state is not query.state:
            return False
        if query.kind is not None and device.kind is not query.kind:
            return False
        if query.provisioned is not None and device.provisioned is not query.provisioned:
            return False
        if not text:
            return True
        host = device.flow.host if device.flow is not None else ""
        return any(
            text in part.casefold() for part in (device.device_id, device.name, device.manufacturer, host)
        )

    return matches
