"""What should be recorded at this moment: weekly plans and what operators ordered, worked out once a minute in slices.

Orders of operators are kept in the database like rules (scope ``manual``), so that they outlive a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.clock import Clock
from gateway.model import ChannelKind
from gateway.registry import Registry
from gateway.services.recording_channel import Desired, Key
from gateway.services.recording_plan import Rule, Rules, RuleSettings, Scope, Wanted
from gateway.storage.recordings import RecordingStore, StoredRule

SLICE = 500
MANUAL, STATE = "manual", "state"
_SCOPES: tuple[Scope, ...] = ("channel", "device", "area", "default")


class Wishes:
    """``desired`` is what should run; ``refresh`` renews it when the minute, a rule or the registry has changed."""

    def __init__(
        self, *, store: RecordingStore, registry: Registry, default_class: str, clock: Clock
    ) -> None:
        self.rules = Rules((), default_class=default_class)
        self.desired: dict[Key, Desired] = {}
        self.dirty = True
        self._store = store
        self._registry = registry
        self._default_class = default_class
        self._clock = clock
        self._manual: dict[Key, float] = {}
        """Unix time until which an operator wants a channel recorded."""
        self._minute = -1

    async def load(self) -> None:
        """Rules and orders from the database. Rules that cannot be read are left out."""
        rules: list[Rule] = []
        for row in await self._store.rules():
            if row.scope == MANUAL:
                device_id, _, channel_id = row.key.partition("/")
                self._manual[device_id, channel_id] = float(row.settings.get("until", 0.0))
            elif row.scope in _SCOPES:
                scope = next(scope for scope in _SCOPES if scope == row.scope)
                rules.append(Rule(scope, row.key, RuleSettings.model_validate(row.settings)))
        self.rules = Rules(rules, default_class=self._default_class)
        self.dirty = True

    async def put_rule(self, rule: Rule) -> None:
        settings = rule.settings.model_dump(mode="json", exclude_none=True)
        await self._store.put_rule(StoredRule(rule.scope, rule.key, settings))
        self.rules.put(rule)
        self.dirty = True

    async def remove_rule(self, scope: Scope, key: str) -> bool:
        found = await self._store.remove_rule(scope, key)
        self.rules.remove(scope, key)
        self.dirty = True
        return found

    async def order(self, key: Key, until: float) -> None:
        """An operator wants this channel recorded until then (unix time)."""
        await self._store.put_rule(StoredRule(MANUAL, "/".join(key), {"until": until}))
        self._manual[key] = until
        self.dirty = True

    async def withdraw(self, key: Key) -> bool:
        """The operator's order ends. False when there was none."""
        found = self._manual.pop(key, None) is not None
        await self._store.remove_rule(MANUAL, "/".join(key))
        self.dirty = True
        return found

    def ordered_until(self, key: Key) -> float | None:
        return self._manual.get(key)

    async def refresh(self) -> None:
        """Work out anew what should run, if anything has changed. Long catalogs are looked at in slices."""
        minute = int(self._clock.utc().timestamp() // 60)
        if not self.dirty and minute == self._minute:
            return
        self.dirty, self._minute = False, minute
        await self._end_orders()
        desired: dict[Key, Desired] = {}
        if self.rules.planned:
            for number, key in enumerate(list(self.cameras()), 1):
                if (wish := self._planned(key)) is not None:
                    desired[key] = wish
                if number % SLICE == 0:
                    await asyncio.sleep(0)
        for key in self._manual:
            desired[key] = self.of_kind(key, "manual")
        self.desired = desired

    def of_kind(self, key: Key, kind: str) -> Desired:
        """A wish with the class and the stream that the rules give this channel."""
        wanted = self.of_channel(key)
        return Desired(kind, wanted.storage_class, wanted.stream)

    def _planned(self, key: Key) -> Desired | None:
        wanted = self.of_channel(key)
        kind = wanted.plan.kind_at(self._clock.utc())
        return None if kind is None else Desired(kind, wanted.storage_class, wanted.stream)

    def of_channel(self, key: Key) -> Wanted:
        """What the rules say of a channel, at any time."""
        channel = self._registry.channel(*key)
        area = channel.civil_code if channel is not None else ""
        return self.rules.of_channel(*key, area or key[1][:8])

    async def _end_orders(self) -> None:
        now = self._clock.utc().timestamp()
        for key in [key for key, until in self._manual.items() if until <= now]:
            await self.withdraw(key)
        self.dirty = False

    def cameras(self) -> Iterable[Key]:
        """All cameras of all catalogs."""
        for channel in self._registry.all_channels():
            if channel.kind is ChannelKind.CAMERA:
                yield channel.key
