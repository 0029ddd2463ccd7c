"""Weekly plans in Beijing time, grids, and which rule counts for a channel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from gateway.clock import BEIJING
from gateway.services.recording_plan import (
    Plan,
    PlanRange,
    Rule,
    Rules,
    RuleSettings,
    always,
    grid_of,
    plan_of_grid,
)

SUNDAY = datetime(2026, 11, 22, tzinfo=BEIJING)
OFFICE = Plan(
    ranges=(
        PlanRange(day=6, start_minute=8 * 60, end_minute=18 * 60),
        PlanRange(day=6, start_minute=0, end_minute=24 * 60, kind="event"),
    )
)


@pytest.mark.parametrize(
    ("hour", "minute", "kind"),
    [(7, 59, "event"), (8, 0, "continuous"), (17, 59, "continuous"), (18, 0, "event"), (23, 59, "event")],
)
def test_a_plan_is_in_beijing_time_and_continuous_wins(hour: int, minute: int, kind: str) -> None:
    moment = SUNDAY.replace(hour=hour, minute=minute)
    assert OFFICE.kind_at(moment) == kind
    assert OFFICE.kind_at(moment.astimezone(UTC)) == kind
    assert OFFICE.kind_at(moment + timedelta(days=1)) is None


def test_spans_of_a_plan_are_joined_over_midnight() -> None:
    spans = always().wanted_between(SUNDAY + timedelta(hours=20), SUNDAY + timedelta(hours=30))
    assert spans == [(SUNDAY + timedelta(hours=20), SUNDAY + timedelta(hours=30))]
    spans = OFFICE.wanted_between(SUNDAY, SUNDAY + timedelta(days=7, hours=9))
    assert spans == [
        (SUNDAY + timedelta(hours=8), SUNDAY + timedelta(hours=18)),
        (SUNDAY + timedelta(days=7, hours=8), SUNDAY + timedelta(days=7, hours=9)),
    ]
    assert always("event").wanted_between(SUNDAY, SUNDAY + timedelta(days=1)) == []


@pytest.mark.parametrize("letters", [24, 48, 96])
def test_a_grid_is_a_plan_and_back(letters: int) -> None:
    quarter = letters // 4
    row = "." * quarter + "c" * quarter + "e" * quarter + "." * (letters - 3 * quarter)
    plan = plan_of_grid([row] * 6 + ["c" * letters])
    assert plan.kind_at(SUNDAY.replace(hour=3)) == "continuous"
    monday = SUNDAY + timedelta(days=1)
    assert [plan.kind_at(monday.replace(hour=hour)) for hour in (3, 6, 12, 18)] == [
        None, "continuous", "event", None,
    ]  # fmt: skip
    assert plan_of_grid(grid_of(plan)) == plan
    assert grid_of(plan)[0] == "." * 24 + "c" * 24 + "e" * 24 + "." * 24


@pytest.mark.parametrize("grid", [["c" * 24] * 6, ["c" * 23] * 7, ["x" * 24] * 7, []])
def test_grids_that_are_none(grid: list[str]) -> None:
    with pytest.raises(ValueError, match="row"):
        plan_of_grid(grid)


@pytest.mark.parametrize("values", [{"day": 7}, {"day": 0, "start_minute": 60, "end_minute": 60}])
def test_ranges_that_are_none(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        PlanRange.model_validate(values)


def test_the_narrowest_rule_that_says_something_counts() -> None:
    rules = Rules(
        [
            Rule("default", "", RuleSettings(plan=always("event"))),
            Rule("area", "4101", RuleSettings(plan=always(), storage_class="key")),
            Rule("area", "410183", RuleSettings(storage_class="picture")),
            Rule("device", "d1", RuleSettings(stream=1)),
            Rule("channel", "d1/c1", RuleSettings(plan=Plan())),
        ],
        default_class="standard",
    )
    one = rules.of_channel("d1", "c1", "41018301")
    assert (one.plan, one.storage_class, one.stream) == (Plan(), "picture", 1)
    two = rules.of_channel("d1", "c2", "41010200")
    assert (two.plan, two.storage_class, two.stream) == (always(), "key", 1)
    three = rules.of_channel("d2", "c2", "")
    assert (three.plan, three.storage_class, three.stream) == (always("event"), "standard", 0)
    rules.remove("channel", "d1/c1")
    assert rules.of_channel("d1", "c1", "41018301").plan == always()
