"""The soak's short form: viewers of all outputs come and go, streams open and close, and nothing is lost or kept."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.players import House
from benchmarks.soak import Plan, soak

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the load is a C program"),
    pytest.mark.timeout(240),
]


def test_counters_agree_and_everything_is_given_back() -> None:
    plan = Plan(
        minutes=10 / 60,
        warm_s=2,
        load=None,
        waves=4,
        wave_s=(3, 4),
        watch_s=(1, 2),
        viewers_per_kind=1,
        sample_s=1,
    )
    report = soak(plan)
    assert report["notes"] == []
    assert report["reasons"] == {}
    assert {name for name, held in report["verdicts"].items() if not held} == set()
    assert set(report["visits"]) == set(House.KINDS)
    assert report["totals"]["sent"] > 10_000
    assert max(sample["viewers"] for sample in report["samples"]) >= len(House.KINDS) // 2
