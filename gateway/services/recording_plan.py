"""What is to be recorded when, and for how long it is kept: weekly plans and rules by channel, device, area. Pure.

Plans are in Beijing time. A rule may set any of its fields; the channel's own rule comes first, then its device's, then
the rule of the nearest area (longest prefix of the civil code), then the default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.clock import BEIJING

MINUTES = 24 * 60
DAYS = 7
Kind = Literal["continuous", "event"]
Scope = Literal["channel", "device", "area", "default"]
_LETTERS: dict[str, Kind | None] = {".": None, "c": "continuous", "e": "event"}


class PlanRange(BaseModel):
    """A piece of each week: ``day`` 0 is Monday, minutes from midnight, ``end_minute`` not included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: Annotated[int, Field(ge=0, lt=DAYS)]
    start_minute: Annotated[int, Field(ge=0, lt=MINUTES)] = 0
    end_minute: Annotated[int, Field(gt=0, le=MINUTES)] = MINUTES
    kind: Kind = "continuous"

    @model_validator(mode="after")
    def _ordered(self) -> PlanRange:
        if self.end_minute <= self.start_minute:
            raise ValueError("end_minute must be above start_minute")
        return self


class Plan(BaseModel):
    """When to record. No ranges: never. Where ranges overlap, continuous wins over event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranges: Annotated[tuple[PlanRange, ...], Field(max_length=DAYS * 96)] = ()

    def kind_at(self, moment: datetime) -> Kind | None:
        """What the plan wants at that moment; None: nothing."""
        local = moment.astimezone(BEIJING)
        minute = local.hour * 60 + local.minute
        found: Kind | None = None
        for part in self.ranges:
            if part.day == local.weekday() and part.start_minute <= minute < part.end_minute:
                if part.kind == "continuous":
                    return "continuous"
                found = "event"
        return found

    def wanted_between(self, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """Spans of [start, end) in which the plan wants continuous recording, joined, in order."""
        spans: list[tuple[datetime, datetime]] = []
        day = start.astimezone(BEIJING).replace(hour=0, minute=0, second=0, microsecond=0)
        while day < end:
            for part in sorted(self.ranges, key=lambda part: part.start_minute):
                if part.day != day.weekday() or part.kind != "continuous":
                    continue
                low = max(start, day + timedelta(minutes=part.start_minute))
                high = min(end, day + timedelta(minutes=part.end_minute))
                if low < high and spans and low <= spans[-1][1]:
                    spans[-1] = spans[-1][0], max(spans[-1][1], high)
                elif low < high:
                    spans.append((low, high))
            day += timedelta(days=1)
        return spans


def always(kind: Kind = "continuous") -> Plan:
    """Round the clock."""
    return Plan(ranges=tuple(PlanRange(day=day, kind=kind) for day in range(DAYS)))


def plan_of_grid(grid: list[str]) -> Plan:
    """Seven rows, Monday first, of 24, 48 or 96 letters: ``c`` continuous, ``e`` event, ``.`` nothing. ValueError."""
    if len(grid) != DAYS:
        raise ValueError("the grid has seven rows, Monday first")
    ranges: list[PlanRange] = []
    for day, row in enumerate(grid):
        if len(row) not in (24, 48, 96) or set(row) - set(_LETTERS):
            raise ValueError("a row has 24, 48 or 96 letters of c, e and .")
        width = MINUTES // len(row)
        begin = 0
        for index in range(1, len(row) + 1):
            if index < len(row) and row[index] == row[begin]:
                continue
            kind = _LETTERS[row[begin]]
            if kind is not None:
                ranges.append(
                    PlanRange(day=day, start_minute=begin * width, end_minute=index * width, kind=kind)
                )
            begin = index
    return Plan(ranges=tuple(ranges))


def grid_of(plan: Plan) -> list[str]:
    """The plan by quarters of an hour, as a page draws it. A quarter counts by its first minute."""
    rows = [["."] * 96 for _ in range(DAYS)]
    for part in sorted(plan.ranges, key=lambda part: part.kind, reverse=True):  # continuous is drawn last
        for index in range(96):
            if part.start_minute <= index * 15 < part.end_minute:
                rows[part.day][index] = part.kind[0]
    return ["".join(row) for row in rows]


class RuleSettings(BaseModel):
    """What one rule sets; None leaves it to the next wider rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan | None = None
    storage_class: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    stream: Annotated[int, Field(ge=0, le=9)] | None = None
    """0 main stream, 1 first sub stream."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``key``: device_id/channel_id, device_id, a civil code's first digits, or empty for the default."""

    scope: Scope
    key: str
    settings: RuleSettings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the rules say of one channel."""

    plan: Plan
    storage_class: str
    stream: int


class Rules:
    """All rules, found by channel in a few look-ups."""

    def __init__(self, rules: Iterable[Rule], *, default_class: str) -> None:
        self._by_key = {(rule.scope, rule.key): rule for rule in rules}
        self._default_class = default_class

    @property
    def all(self) -> list[Rule]:
        return [self._by_key[key] for key in sorted(self._by_key)]

    @property
    def planned(self) -> bool:
        """Whether any rule has a plan at all; without one nothing has to be looked at."""
        return any(rule.settings.plan is not None for rule in self._by_key.values())

    def get(self, scope: Scope, key: str) -> Rule | None:
        return self._by_key.get((scope, key))

    def put(self, rule: Rule) -> None:
        self._by_key[rule.scope, rule.key] = rule

    def remove(self, scope: Scope, key: str) -> None:
        self._by_key.pop((scope, key), None)

    def of_channel(self, device_id: str, channel_id: str, civil_code: str) -> Wanted:
        """The first value that a rule sets, from the narrowest to the widest."""
        plan: Plan | None = None
        storage_class: str | None = None
        stream: int | None = None
        for rule in self._chain(device_id, channel_id, civil_code):
            plan = rule.settings.plan if plan is None else plan
            storage_class = rule.settings.storage_class if storage_class is None else storage_class
            stream = rule.settings.stream if stream is None else stream
        return Wanted(plan or Plan(), storage_class or self._default_class, stream or 0)

    def _chain(self, device_id: str, channel_id: str, civil_code: str) -> Iterable[Rule]:
        keys: list[tuple[Scope, str]] = [("channel", f"{device_id}/{channel_id}"), ("device", device_id)]
        keys += [("area", civil_code[:length]) for length in range(len(civil_code), 0, -1)]
        keys.append(("default", ""))
        for key in keys:
            rule = self._by_key.get(key)
            if rule is not None:
                yield rule
