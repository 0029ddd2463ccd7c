"""Device profiles: what is known of makes and models put under what is learned and ordered, and all shown with its origin."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from config.vendors import Match, Vendors
from gateway.events import DeviceAdded, DeviceChanged, DeviceRemoved, EventBus
from gateway.model import Device
from gateway.profile import DEFAULTS, OBSERVED, SETTINGS, Observation, Origin
from gateway.registry import Registry
from gateway.services.profiles_models import ModelJournal, ModelKey, ModelProfile, ModelProfiles, model_key

log = logging.getLogger(__name__)

_MATTERS = frozenset({"manufacturer", "model", "firmware", "user_agent", "learned"})
"""Fields of a device, and the word of Registry.learn for what was learned."""


@dataclass(frozen=True, slots=True)
class SettingState:
    """One setting of one device: the value that holds, where it comes from, and what each layer says (None: nothing)."""

    name: str
    value: Any
    origin: Origin
    default: Any
    vendor: Any
    model: Any
    learned: Any
    operator: Any


@dataclass(slots=True)
class ModelSummary:
    """What devices of one model turned out to need, and what holds for all of them.

    ``learned``: setting -> value as text -> how many devices.
    """

    manufacturer: str
    model: str
    vendor: str = ""
    devices: int = 0
    learned: dict[str, Counter[str]] = field(default_factory=dict)
    observed: Counter[str] = field(default_factory=Counter)
    """Observation -> how many devices."""
    profile: ModelProfile = field(default_factory=ModelProfile)


class ProfileService:
    """Keeps the layers of make and model under each device up to date and answers for the API. All in memory; the
    registry and the journal save."""

    def __init__(self, *, vendors: Vendors, registry: Registry, bus: EventBus, journal: ModelJournal) -> None:
        self.vendors = vendors
        self._models = ModelProfiles(journal)
        self._registry = registry
        self._bus = bus
        self._unsubscribe: list[Callable[[], None]] = []

    async def load(self) -> None:
        """Take up what was kept of models, before :meth:`start`."""
        await self._models.load()

    def start(self) -> None:
        """Take up what storage brought back, then follow the devices."""
        for device in self._registry.devices.values():
            self._models.count(device)
        for device in self._registry.devices.values():
            self.apply(device)
        self._unsubscribe = [
            self._bus.subscribe(DeviceAdded, callback=self._added),
            self._bus.subscribe(DeviceChanged, callback=self._changed),
            self._bus.subscribe(
                DeviceRemoved, callback=lambda event: self._spread(self._models.leave(event.device_id))
            ),
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
            changed = self._models.count(device)
            self.apply(device)
            self._spread(changed)

    def _spread(self, changed: set[ModelKey]) -> None:
        """What a model says has changed: all its devices follow. A scan of the registry, but such changes are rare."""
        if changed:
            for device in list(self._registry.devices.values()):
                if model_key(device) in changed:
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
        """Put the layers of make and model under the device's profile and let its edition follow."""
        found, profile = self.match(device), device.profile
        profile.layers.vendor = dict(found.settings) if found is not None else {}
        profile.layers.model = self._models.values(device)
        changed = profile.settle()
        if changed:
            log.info(
                "profile of make and model device=%s vendor=%s changed=%s",
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
                layers.model.get(name),
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
        self._apply_to(device.device_id)  # now: its model must not count it when the event comes
        log.info("learned settings forgotten device=%s names=%s", device.device_id, gone)
        return gone

    def forget_model(self, manufacturer: str, model: str, names: Iterable[str] = ()) -> int:
        """The same for all devices of a model and what they made of it. Returns how many devices had learned something."""
        count, names = 0, tuple(names)
        for device in list(self._registry.devices.values()):
            learned = device.profile.layers.learned or device.profile.observed
            if (device.manufacturer, device.model) == (manufacturer, model) and learned:
                self.forget(device, names)
                count += 1
        if gone := self._models.forget((manufacturer, model), names):
            log.info(
                "learned settings forgotten manufacturer=%s model=%s names=%s", manufacturer, model, gone
            )
            self._spread({(manufacturer, model)})
        return count

    def order_model(self, manufacturer: str, model: str, values: dict[str, Any]) -> ModelSummary:
        """An operator's word on a model, whether devices of it are known yet or not. Returns what holds now."""
        key = manufacturer, model
        self._models.order(key, values)
        self._spread({key})
        known = (summary for summary in self.models() if (summary.manufacturer, summary.model) == key)
        return next(known, ModelSummary(*key))

    def observations(self, device: Device) -> list[tuple[str, str, int, Observation]]:
        """What the device does differently: name, words, number of the quirk, and how often."""
        return [(name, *OBSERVED[name], seen) for name, seen in sorted(device.profile.observed.items())]

    def models(self) -> list[ModelSummary]:
        """Models of the devices that are known, with what they were found to need, and others that something holds for."""
        found: dict[ModelKey, ModelSummary] = {}
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
        for key, profile in self._models.models.items():
            found.setdefault(key, ModelSummary(*key)).profile = profile
        return sorted(found.values(), key=lambda summary: (summary.manufacturer, summary.model))
