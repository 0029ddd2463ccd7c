"""Device profiles over HTTP: what a device needs and why, an operator's word on it, and what is known of makes and models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from config.vendors import ProfileSettings
from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode
from gateway.model import Device
from gateway.profile import SETTINGS, Origin
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.profiles import ModelSummary, ProfileService


class ProfileOrder(ProfileSettings):
    """Fields left out stay; null takes the operator's word back."""


class SettingView(View):
    """One setting: the value that holds now, and what each layer says (null: nothing)."""

    name: str
    value: Any
    origin: Origin
    description: str
    default: Any
    vendor: Any
    model: Any
    learned: Any
    operator: Any


class ObservationView(View):
    """Something the device does differently from the standard, counted since it was last forgotten."""

    name: str
    text: str
    quirk: int
    count: int
    last_at: datetime | None
    detail: str


class NoteView(View):
    text: str
    quirk: int | None


class DeviceProfileView(View):
    device_id: str
    manufacturer: str
    model: str
    firmware: str
    user_agent: str
    vendor: str = Field(description="Key of the make in the vendor data; empty: not known.")
    vendor_name: str
    edition: str = Field(description="What is spoken with it.")
    said_edition: str = Field(
        description="What it said itself in its last REGISTER; empty: never registered."
    )
    settings: list[SettingView]
    observed: list[ObservationView]
    notes: list[NoteView] = Field(description="What is known of its make beyond settings.")


class RuleView(View):
    manufacturer: list[str]
    model: list[str]
    firmware: list[str]
    user_agent: list[str]
    settings: dict[str, Any]
    notes: list[NoteView]


class VendorView(View):
    vendor: str
    name: str
    rules: list[RuleView] = Field(description="First the make's own, then its models'.")


class ModelSettingView(View):
    """A setting that holds for a model: where its devices start."""

    name: str
    value: Any
    origin: Literal["learned", "operator"]
    devices: int = Field(description="Devices that had learned the learned value; 0: nothing was learned.")
    learned: Any
    operator: Any


class ModelView(View):
    """What the devices of one model turned out to need, and what holds for all of them."""

    manufacturer: str
    model: str
    vendor: str
    devices: int
    learned: dict[str, dict[str, int]] = Field(description="Setting, value as text, number of devices.")
    observed: dict[str, int] = Field(description="Observation, number of devices.")
    settings: list[ModelSettingView] = Field(description="What holds for every device of the model.")


class ProfileOverview(View):
    vendors: list[VendorView]
    models: list[ModelView]


class ForgetOrder(Model):
    settings: list[str] = Field(
        default=[], max_length=50, description="Names of settings; empty: all, and the observations."
    )


class ModelForget(ForgetOrder):
    manufacturer: str = Field(max_length=128)
    model: str = Field(max_length=128)


class ModelOrder(Model):
    manufacturer: str = Field(max_length=128)
    model: str = Field(min_length=1, max_length=128)
    settings: ProfileOrder


class Forgotten(View):
    devices: int


class ProfileResource:
    def __init__(self, *, registry: Registry, profiles: ProfileService) -> None:
        self._registry, self._profiles = registry, profiles

    @route(
        "GET",
        "/api/devices/{device_id}/profile",
        summary="What a device needs, and why",
        role=Role.VIEWER,
        tag="profiles",
        errors=(404,),
    )
    async def show(self, call: Call, device_id: AnyCode) -> DeviceProfileView:
        """Every setting with its origin: default, vendor (data of its make), model, learned or operator."""
        return self._view(self._device(device_id))

    @route(
        "PATCH",
        "/api/devices/{device_id}/profile",
        summary="Set or clear settings of a device's profile",
        role=Role.OPERATOR,
        tag="profiles",
        errors=(404, 409),
        audited="device.profile",
    )
    async def change(self, call: Call, device_id: AnyCode, body: ProfileOrder) -> DeviceProfileView:
        """An operator's value holds over everything else until it is cleared with null. Running streams stay."""
        device = self._device(device_id)
        if device.local:
            raise Problem(409, "this device holds our own inputs and has no profile", cause="local_device")
        values = {name: getattr(body, name) for name in sorted(body.model_fields_set)}
        told = " ".join(f"{name}={value}" for name, value in values.items())
        note_audit(call, target=device_id, detail=told)
        self._profiles.order(device, values)
        return self._view(device)

    @route(
        "POST",
        "/api/devices/{device_id}/profile/forget",
        summary="Forget what was learned about a device",
        role=Role.OPERATOR,
        tag="profiles",
        errors=(404,),
        audited="device.profile.forget",
    )
    async def forget(self, call: Call, device_id: AnyCode, body: ForgetOrder) -> DeviceProfileView:
        """The next play starts from the vendor's data or the defaults, and learns anew."""
        device = self._device(device_id)
        _check(body)
        gone = self._profiles.forget(device, body.settings)
        note_audit(call, target=device_id, detail=" ".join(gone))
        return self._view(device)

    @route(
        "GET",
        "/api/profiles",
        summary="What is known of makes, and what models turned out to need",
        role=Role.VIEWER,
        tag="profiles",
    )
    async def overview(self, call: Call) -> ProfileOverview:
        return ProfileOverview(
            vendors=[
                VendorView(
                    vendor=key,
                    name=vendor.name,
                    rules=[_rule(vendor), *(_rule(rule) for rule in vendor.models)],
                )
                for key, vendor in self._profiles.vendors.vendors.items()
            ],
            models=[_model(summary) for summary in self._profiles.models()],
        )

    @route(
        "PATCH",
        "/api/profiles/models",
        summary="Set or clear settings of all devices of a model",
        role=Role.ADMINISTRATOR,
        tag="profiles",
        audited="profiles.model",
    )
    async def change_model(self, call: Call, body: ModelOrder) -> ModelView:
        """Holds over what the model learned, under what a device learned or was told itself. Running streams stay."""
        values = {name: getattr(body.settings, name) for name in sorted(body.settings.model_fields_set)}
        told = " ".join(f"{name}={value}" for name, value in values.items())
        note_audit(call, target=f"{body.manufacturer} {body.model}"[:128], detail=told)
        return _model(self._profiles.order_model(body.manufacturer, body.model, values))

    @route(
        "POST",
        "/api/profiles/forget",
        summary="Forget what was learned about a model and all its devices",
        role=Role.OPERATOR,
        tag="profiles",
        audited="profiles.forget",
    )
    async def forget_model(self, call: Call, body: ModelForget) -> Forgotten:
        """For a model whose firmware was changed everywhere."""
        _check(body)
        note_audit(call, target=f"{body.manufacturer} {body.model}"[:128])
        return Forgotten(devices=self._profiles.forget_model(body.manufacturer, body.model, body.settings))

    def _device(self, device_id: str) -> Device:
        device = self._registry.devices.get(device_id)
        if device is None:
            raise not_found(f"device {device_id}")
        return device

    def _view(self, device: Device) -> DeviceProfileView:
        match = self._profiles.match(device)
        return DeviceProfileView(
            device_id=device.device_id,
            manufacturer=device.manufacturer,
            model=device.model,
            firmware=device.firmware,
            user_agent=device.user_agent,
            vendor=match.vendor if match is not None else "",
            vendor_name=match.name if match is not None else "",
            edition=device.edition,
            said_edition=device.profile.said_edition,
            settings=[
                SettingView(
                    name=state.name,
                    value=state.value,
                    origin=state.origin,
                    description=ProfileSettings.model_fields[state.name].description or "",
                    default=state.default,
                    vendor=state.vendor,
                    model=state.model,
                    learned=state.learned,
                    operator=state.operator,
                )
                for state in self._profiles.settings(device)
            ],
            observed=[
                ObservationView(
                    name=name,
                    text=text,
                    quirk=quirk,
                    count=seen.count,
                    last_at=seen.last_at,
                    detail=seen.detail,
                )
                for name, text, quirk, seen in self._profiles.observations(device)
            ],
            notes=[NoteView.model_validate(note) for note in match.notes] if match is not None else [],
        )


def _check(body: ForgetOrder) -> None:
    for name in body.settings:
        if name not in SETTINGS:
            raise Problem(422, f"settings: there is no {name}", cause="invalid_input", field="settings")


def _rule(rule: Any) -> RuleView:
    return RuleView(
        **{kind: list(patterns) for kind, patterns in rule.match},
        settings=rule.profile.said(),
        notes=[NoteView.model_validate(note) for note in rule.notes],
    )


def _model(summary: ModelSummary) -> ModelView:
    return ModelView(
        manufacturer=summary.manufacturer,
        model=summary.model,
        vendor=summary.vendor,
        devices=summary.devices,
        learned={name: dict(values) for name, values in summary.learned.items()},
        observed=dict(summary.observed),
        settings=[
            ModelSettingView(
                name=name,
                value=value,
                origin="operator" if name in summary.profile.operator else "learned",
                devices=summary.profile.agreed.get(name, 0),
                learned=summary.profile.learned.get(name),
                operator=summary.profile.operator.get(name),
            )
            for name, value in sorted(summary.profile.values().items())
        ],
    )
