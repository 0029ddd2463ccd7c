"""CPU per packet out where one stream goes to ten targets, and where RTP travels inside TCP connections (RFC 4571)."""

from __future__ import annotations

from typing import Any

from benchmarks import native
from benchmarks.measure import Row
from benchmarks.relay import missing, rows_of, take_turns
from benchmarks.relay_candidates import Shape, available

SHAPES = (
    Shape(20, 10),
    Shape(50, 1, "tcp", "udp"),
    Shape(50, 1, "tcp", "tcp"),
    Shape(200, 1, "tcp", "udp"),
    Shape(200, 1, "tcp", "tcp"),
)


def run() -> list[dict[str, Any]]:
    """Two rounds of short runs per shape; nothing without a C compiler."""
    if native.program("load") is None:
        return [Row(f"relay: {native.NO_COMPILER}", 0, "left out").as_dict()]
    rows: list[Row] = []
    for shape in SHAPES:
        candidates = available(shape)
        rows += rows_of(shape, take_turns(candidates, shape, rounds=2, seconds=2))
    rows += [row for row in missing(candidates) if "rtpengine" not in row.name]
    return [row.as_dict() for row in rows]
