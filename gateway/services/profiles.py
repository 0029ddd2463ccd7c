"""Device profiles: the data of makes and models put under what is learned and ordered, and all of it shown with its origin."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from config.vendors import Match, Vendors
from gateway.events import DeviceAdded, DeviceChanged, EventBus
from gateway.model import Device
from gateway.profile import DEFAULTS, OBSERVED, SETTINGS, Observation, Origin
from gateway.registry import Registry

log = logging.getLogger(__name__)

_MATTERS = frozenset({"manufacturer", "model", "firmware", "user_agent"})


@dataclass(frozen=True, slots=True)
class SettingState:
    """One setting of one device: the value that holds, where it comes from, and what each layer says (None: nothing)."""

    name: str
    value: Any
    origin: Origin
    default: Any
    vendor: Any
    learned: Any
    operator: Any


@dataclass(slots=True)
class ModelSummary:
    """What devices of one model turned out to need. ``learned``: setting -> value as text -> how many devices."""

    manufacturer: str
    model: str
    vendor: str = ""
    devices: int = 0
    learned: dict[str, Counter[str]] = field(default_factory=dict)
    observed: Counter[str] = field(default_factory=Counter)
    """Observation -> how many devices."""


class ProfileService:
    """Keeps each device's vendor layer up to date and answers for the API. All in memory; the registry saves."""

    def __init__(self, *, vendors: Vendors, registry: Registry, bus: EventBus) -> None:
        self.vendors = vendors
        self._registry = registry
        self._bus = bus
        self._unsubscribe: list[Callable[[], None]] = []

    def start(self) -> None:
        """Take up what storage brought back, then follow the devices."""
        for device in self._registry.devices.values():
            self.apply(device)
        self._unsubscribe = [
            self._bus.subscribe(DeviceAdded, callback=self._added),
            self._bus.subscribe(DeviceChanged, callback=self._changed),
        ]

    def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []

    def _added(self, event: DeviceAdded) -> None:
        self._apply_to(event.device_id)

    def _changed(self, event: DeviceChanged) -> None:
        if not event.fields or not _MATTERS.isdisjoint(event.fields):
            self._apply_to(event.device_id)

    def _apply_to(self, device_id: str) -> None:
        device = self._registry.devices.get(device_id)
        if device is not None:
            self.apply(device)

    def match(self, device: Device) -> Match | None:
        """What the data say of this device's make and model."""
        return self.vendors.match(
            manufacturer=device.manufacturer,
            model=device.model,
            firmware=device.firmware,
            user_agent=device.user_agent,
        )

    def apply(self, device: Device) -> None:
        """Put the vendor's layer under the device's profile and let its edition follow."""
        found, profile = self.match(device), device.profile
        profile.layers.vendor = dict(found.settings) if found is not None else {}
        changed = profile.settle()
        if changed:
            log.info(
                "profile of make device=%s vendor=%s changed=%s",
                device.device_id,
                found and found.vendor,
                changed,
            )
        edition = profile.edition or profile.said_edition
        if edition and edition != device.edition:
            self._registry.update_device(device.device_id, edition=edition)

    # -- for operators ---------------------------------------------------------------------------------------

    def settings(self, device: Device) -> list[SettingState]:
        """Every setting of the device, in a fixed order."""
        profile, layers = device.profile, device.profile.layers
        return [
            SettingState(
                name,
                getattr(profile, name),
                profile.origin(name),
                DEFAULTS[name],
                layers.vendor.get(name),
                layers.learned.get(name),
                layers.operator.get(name),
            )
            for name in SETTINGS
        ]

    def order(self, device: Device, values: dict[str, Any]) -> None:
        """An operator's word on some settings; None takes it back. Values must have been checked."""
        device.profile.order(**values)
        self._registry.put_device(device)  # saves, tells, and comes back to apply()

    def forget(self, device: Device, names: Iterable[str] = ()) -> tuple[str, ...]:
        """Drop what was learned of these settings; all of it and the observations without names."""
        gone = device.profile.forget(tuple(names))
        self._registry.put_device(device)
        log.info("learned settings forgotten device=%s names=%s", device.device_id, gone)
        return gone

    def forget_model(self, manufacturer: str, model: str, names: Iterable[str] = ()) -> int:
        """The same for all devices of a model. Returns how many devices had learned something."""
        count, names = 0, tuple(names)
        for device in list(self._registry.devices.values()):
            learned = device.profile.layers.learned or device.profile.observed
            if (device.manufacturer, device.model) == (manufacturer, model) and learned:
                self.forget(device, names)
                count += 1
        return count

    def observations(self, device: Device) -> list[tuple[str, str, int, Observation]]:
        """What the device does differently: name, words, number of the quirk, and how often."""
        return [(name, *OBSERVED[name], seen) for name, seen in sorted(device.profile.observed.items())]

    def models(self) -> list[ModelSummary]:
        """Models of the devices that are known, with what they were found to need."""
        found: dict[tuple[str, str], ModelSummary] = {}
        for device in self._registry.devices.values():
            if device.local or not (device.manufacturer or device.model):
                continue
            key = device.manufacturer, device.model
            summary = found.get(key)
            if summary is None:
                match = self.match(device)
                summary = found[key] = ModelSummary(*key, vendor=match.vendor if match is not None else "")
            summary.devices += 1
            for name, value in device.profile.layers.learned.items():
                summary.learned.setdefault(name, Counter())[str(value)] += 1
            summary.observed.update(device.profile.observed.keys())
        return sorted(found.values(), key=lambda summary: (summary.manufacturer, summary.model))
