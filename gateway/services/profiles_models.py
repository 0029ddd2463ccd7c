"""What whole models need: learned where several devices of one model learned the same, or an operator's word; journalled.

Only the way of the media is learned for a model: it costs each device a failed INVITE. A device shows its character set with
its first message, a limit of streams may be owed to other clients of that one device, and the way of talk depends on the
edition that it is set to: these stay with the device.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from pydantic import ValidationError

from config.vendors import ProfileSettings
from gateway.model import Device
from gateway.profile import SETTINGS

log = logging.getLogger(__name__)

JOURNAL_KIND = "model_profile"
LEARNED_FOR_MODELS = ("media_transport", "sdp_form")
AGREEING_DEVICES = 3
"""So many devices of a model must have learned the same value, and none another one."""

ModelKey = tuple[str, str]
"""Manufacturer and model, as devices write them in DeviceInfo."""


class ModelJournal(Protocol):
    """gateway.storage.journal.Journal."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None: ...
    def remove(self, kind: str, key: str) -> None: ...
    async def load(self, kind: str) -> dict[str, dict[str, Any]]: ...


@dataclass(slots=True)
class ModelProfile:
    """What holds for one model. ``agreed``: setting -> how many devices had learned its value when that was last counted."""

    learned: dict[str, Any] = field(default_factory=dict)
    agreed: dict[str, int] = field(default_factory=dict)
    operator: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The layer that is put under the model's devices: an operator's word before what was learned."""
        return self.learned | self.operator

    def to_dict(self) -> dict[str, Any]:
        return {"learned": self.learned, "agreed": self.agreed, "operator": self.operator}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ModelProfile:
        """Inverse of :meth:`to_dict`, without settings that are gone. ValueError (of pydantic) for a damaged record."""
        learned, operator = (_checked(state.get(layer)) for layer in ("learned", "operator"))
        agreed = state.get("agreed")
        counts = agreed if isinstance(agreed, dict) else {}
        return cls(learned, {name: int(counts.get(name, AGREEING_DEVICES)) for name in learned}, operator)


@dataclass(frozen=True, slots=True)
class _Said:
    """What one device has learned, as it was counted."""

    key: ModelKey
    learned: dict[str, Any]


def model_key(device: Device) -> ModelKey | None:
    """The model a device belongs to; None while it has not named one."""
    return (device.manufacturer, device.model) if device.model and not device.local else None


class ModelProfiles:
    """Counts what devices learned, change by change, and keeps what holds for their models.

    A model's learned value stays until a device of it learns another value, or somebody says: forget.
    """

    def __init__(self, journal: ModelJournal) -> None:
        self._journal = journal
        self.models: dict[ModelKey, ModelProfile] = {}
        self._said: dict[str, _Said] = {}
        self._counts: dict[ModelKey, dict[str, Counter[Any]]] = {}

    async def load(self) -> None:
        """Take up what an earlier life kept."""
        for state in (await self._journal.load(JOURNAL_KIND)).values():
            key = (str(state.get("manufacturer", "")), str(state.get("model", "")))
            try:
                self.models[key] = ModelProfile.from_dict(state)
            except (ValidationError, TypeError, ValueError) as error:
                log.warning("model profile not readable manufacturer=%s model=%s error=%s", *key, error)

    def values(self, device: Device) -> dict[str, Any]:
        """What the device's model says."""
        found = self.models.get(model_key(device) or ("", ""))
        return found.values() if found is not None else {}

    def count(self, device: Device) -> set[ModelKey]:
        """Take note of what this device has learned by now. Returns models whose values changed by it."""
        key, before = model_key(device), self._said.get(device.device_id)
        learned = {
            name: value for name, value in device.profile.layers.learned.items() if name in LEARNED_FOR_MODELS
        }
        now = _Said(key, learned) if key is not None and learned else None
        if now == before:
            return set()
        touched = self._take_out(device.device_id)
        if now is not None:
            self._said[device.device_id] = now
            counts = self._counts.setdefault(now.key, {})
            for name, value in learned.items():
                counts.setdefault(name, Counter())[value] += 1
            touched.add(now.key)
        return {key for key in touched if self._agree(key)}

    def leave(self, device_id: str) -> set[ModelKey]:
        """The device is gone. That nobody needs a value any more does not make it wrong: it stays."""
        return {key for key in self._take_out(device_id) if self._agree(key)}

    def order(self, key: ModelKey, values: dict[str, Any]) -> None:
        """An operator's word on a model; None takes it back. Values must have been checked."""
        profile = self.models.setdefault(key, ModelProfile())
        for name, value in values.items():
            if value is None:
                profile.operator.pop(name, None)
            else:
                profile.operator[name] = value
        self._save(key)

    def forget(self, key: ModelKey, names: Iterable[str] = ()) -> tuple[str, ...]:
        """Drop what the model has learned of these settings, of all without names. Returns the names that were dropped."""
        profile, names = self.models.get(key), tuple(names)
        if profile is None:
            return ()
        gone = tuple(name for name in profile.learned if not names or name in names)
        for name in gone:
            del profile.learned[name], profile.agreed[name]
        if gone:
            self._save(key)
        return gone

    def _take_out(self, device_id: str) -> set[ModelKey]:
        said = self._said.pop(device_id, None)
        if said is None:
            return set()
        counts = self._counts[said.key]
        for name, value in said.learned.items():
            counts[name][value] -= 1
            counts[name] += Counter()  # without what is no longer counted
            if not counts[name]:
                del counts[name]
        if not counts:
            del self._counts[said.key]
        return {said.key}

    def _agree(self, key: ModelKey) -> bool:
        """Work out what the model has learned. True when a value came, changed or went."""
        profile = self.models.get(key) or ModelProfile()
        before, counted = dict(profile.learned), dict(profile.agreed)
        for name, values in self._counts.get(key, {}).items():
            (value, devices), *others = values.most_common()
            if not others and devices >= AGREEING_DEVICES:
                profile.learned[name], profile.agreed[name] = value, devices
            elif others or value != profile.learned.get(name):
                profile.learned.pop(name, None)
                profile.agreed.pop(name, None)
        if (before, counted) == (profile.learned, profile.agreed):
            return False
        self.models[key] = profile
        self._save(key)
        if before == profile.learned:
            return False
        log.info("model learned manufacturer=%s model=%s settings=%s", *key, profile.learned)
        return True

    def _save(self, key: ModelKey) -> None:
        profile = self.models[key]
        entry = sha256("\0".join(key).encode()).hexdigest()  # texts of devices have any length
        if profile.learned or profile.operator:
            names = {"manufacturer": key[0], "model": key[1]}
            self._journal.put(JOURNAL_KIND, entry, names | profile.to_dict())
        else:
            del self.models[key]
            self._journal.remove(JOURNAL_KIND, entry)


def _checked(stored: Any) -> dict[str, Any]:
    if not isinstance(stored, dict):
        return {}
    known = {name: value for name, value in stored.items() if name in SETTINGS}
    return ProfileSettings.model_validate(known).said()
