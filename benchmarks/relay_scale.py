"""CPU per relayed packet at 1, 50 and 500 streams one to one, and the number of streams where loss begins."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.measure import Row
from benchmarks.relay import (
    LOSSLESS,
    SECONDS,
    Result,
    median,
    missing,
    rows_of,
    take_turns,
    undisturbed,
    verdicts,
)
from benchmarks.relay_candidates import Candidate, Shape, available

MANY = 500
STEPS = (400, 300, 250, 200, 150, 100)


def first_loss(candidate: Candidate, seen: Result) -> Row | None:
    """Where a relay lost packets at the largest load: the largest smaller load that it carries."""
    if seen.loss <= LOSSLESS:
        return None
    for streams in STEPS:
        result = undisturbed(candidate, Shape(streams), SECONDS)
        if result.loss <= LOSSLESS:
            return Row("", streams, "streams without loss")
    return Row("", 0, "streams without loss")


def run() -> list[dict[str, Any]]:
    """Three rounds at 50 streams, one at 1 and 500 each; about two and a half minutes."""
    rows: list[Row] = []
    candidates = available(Shape(MANY))
    rows += rows_of(Shape(1), take_turns(candidates, Shape(1), rounds=1))
    rows += rows_of(Shape(50), take_turns(candidates, Shape(50), rounds=3, seconds=2))
    results = take_turns(candidates, Shape(MANY), rounds=1)
    rows += rows_of(Shape(MANY), results)
    rows += [row for row in verdicts(Shape(MANY), results) if "delay" in row.name]
    for name in ("python", "compiled"):
        if name not in results:
            continue
        seen = median(results[name])
        carried = first_loss(candidates[name], seen)
        rows.append(
            Row(
                f"relay: streams without loss, {name} pump", MANY if carried is None else carried.value,
                "streams on one core", f"at {MANY}: {seen.loss:.2%} lost", None, f">= {MANY}", carried is None,
                f"load average {os.getloadavg()[0]:.2f} after the runs",
            )
        )  # fmt: skip
    return [row.as_dict() for row in rows + missing(candidates)]
