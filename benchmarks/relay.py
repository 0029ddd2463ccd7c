"""CPU per relayed packet at 200 streams: the media node beside the same algorithm in C, asyncio and rtpengine.

Every relay is a process of its own on one CPU, generator and verifying sink share the other. The value is the relay's
process CPU clock over the packets that arrived whole. Candidates take turns, and the median of the rounds counts, so
that other work on the machine meets all alike. The node orders packets, watches for key frames, keeps the group of
pictures and counts; the others only pass packets on.

``python -m benchmarks.relay [STREAMS [FAN [udp|tcp [udp|tcp]]]]`` measures one shape and prints everything.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks import native
from benchmarks.measure import Row, child, cpu_seconds, pin
from benchmarks.relay_candidates import Candidate, Shape, available

SECONDS = 3.0
STARTS_PER_S = 100
"""Streams begin one after the other, as cameras do, where they are many."""
WARM_S = 2.2
"""The node demuxes until it has seen two key frames; from then on it only relays."""
LATE_MS = 40.0
"""A generator that was later than this was kept from its CPU: bursts pile up, and the figures say nothing."""
TRIES = 3
QUIET_S = 0.2
"""The sink waits so long for stragglers."""
ROUNDS = 3
AIM_PYTHON, AIM_COMPILED, AIM_RTPENGINE = 1.9, 1.1, 1.5
AIM_P99_MS = 15.0
LOSSLESS = 1e-4
"""Share of packets: below it a run counts as without loss (a loaded machine starves sink or generator at times)."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run: microseconds of CPU per packet out, share of a core, and what the sink saw (packets, milliseconds)."""

    us: float
    cpu: float
    received: int
    lost: int
    wrong: int
    reordered: int
    p50_ms: float
    p99_ms: float
    late_ms: float

    @property
    def loss(self) -> float:
        return self.lost / max(1, self.received + self.lost)


def measure(candidate: Candidate, shape: Shape, seconds: float = SECONDS) -> Result:
    """One relay under one load."""
    executable = native.program("load")
    ramp_s = max(0.0, shape.streams / STARTS_PER_S - 2)
    if executable is None and (shape.fan, shape.inward, shape.outward) != (1, "udp", "udp"):
        raise RuntimeError(native.NO_COMPILER)
    plain = [sys.executable, "-m", "benchmarks.relay_load", str(shape.streams)]
    command = [executable, *shape.arguments] if executable else plain
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        pin(load.pid, 0)
        line = load.stdout.readline()
        ports = [int(port) for port in line.split()] if executable else json.loads(line)
        with candidate(shape, ports) as relay:
            pin(relay.pid, -1)
            if executable:
                text = "".join(f"{host} {port}\n" for host, port in relay.targets)
                text += (
                    "".join(f"{ssrc}\n" for ssrc in relay.ssrcs)
                    + f"go {ramp_s} {WARM_S} {seconds} {QUIET_S}\n"
                )
            else:
                order = {"targets": relay.targets, "ssrcs": relay.ssrcs, "warm": WARM_S, "seconds": seconds}
                text = json.dumps(order) + "\n"
            load.stdin.write(text.encode())
            load.stdin.flush()
            assert load.stdout.readline() == b"begin\n"
            before, started = cpu_seconds(relay.pid), time.monotonic()
            assert load.stdout.readline() == b"end\n"
            spent, elapsed = cpu_seconds(relay.pid) - before, time.monotonic() - started
            seen: dict[str, Any] = json.loads(load.stdout.readline())
    return Result(
        spent / max(seen["received"], 1) * 1e6, spent / elapsed, seen["received"], seen["lost"], seen["wrong"],
        seen.get("reordered", 0), seen.get("p50_ms", 0.0), seen.get("p99_ms", 0.0), seen.get("late_ms", 0.0),
    )  # fmt: skip


def median(results: list[Result]) -> Result:
    """The run whose cost is the middle one, with the worst loss and errors of all runs.

    A starved relay batches more and looks cheaper: runs that lost packets count only when all did.
    """
    everything = results
    results = [result for result in results if result.loss <= LOSSLESS] or results
    middle = sorted(results, key=lambda result: result.us)[len(results) // 2]
    return Result(
        statistics.median(result.us for result in results), middle.cpu, middle.received,
        max(result.lost for result in everything), max(result.wrong for result in everything),
        max(result.reordered for result in everything), statistics.median(result.p50_ms for result in results),
        statistics.median(result.p99_ms for result in results), max(result.late_ms for result in results),
    )  # fmt: skip


def take_turns(
    candidates: dict[str, Candidate], shape: Shape, rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, list[Result]]:
    """Every candidate once per round, in turn."""
    results: dict[str, list[Result]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            results[name].append(undisturbed(candidate, shape, seconds))
    return results


def undisturbed(candidate: Candidate, shape: Shape, seconds: float) -> Result:
    """One run; once more, up to twice, when other work kept the generator from sending in time."""
    best = measure(candidate, shape, seconds)
    for _ in range(TRIES - 1):
        if best.late_ms <= LATE_MS:
            break
        again = measure(candidate, shape, seconds)
        best = min(best, again, key=lambda result: result.late_ms)
    return best


def ratio(results: dict[str, list[Result]], name: str, other: str) -> float | None:
    """The median of the ratios within the rounds: what loads the machine during one round loads both."""
    if name not in results or other not in results:
        return None
    pairs = list(zip(results[name], results[other], strict=True))
    clean = [(one, base) for one, base in pairs if max(one.loss, base.loss) <= LOSSLESS]
    return statistics.median(one.us / base.us for one, base in clean or pairs)


def rows_of(shape: Shape, results: dict[str, list[Result]], *, aims: bool = False) -> list[Row]:
    """One row per candidate, its ratio to the C reference (or to our pump without one)."""
    base = "C" if "C" in results else "python"
    rows = []
    for name, runs in results.items():
        result = median(runs)
        to_base = None if name == base else ratio(results, name, base)
        aim = {"python": AIM_PYTHON, "compiled": AIM_COMPILED}.get(name) if aims and base == "C" else None
        label = {"python": "node, Python pump", "compiled": "node, compiled pump", "C": "C reference"}.get(
            name, name
        )
        rows.append(
            Row(
                f"relay {shape}: {label}", result.us, "us of CPU per packet",
                f"{base} {median(results[base]).us:.2f} us" if to_base else "", to_base,
                f"<= {aim} x C" if aim else "", None if aim is None or to_base is None else to_base <= aim,
                f"{shape}, {name}: {result.received} packets out, {result.lost} lost, {result.wrong} wrong, "
                f"{result.reordered} reordered (worst run); delay p50 {result.p50_ms:.1f} p99 {result.p99_ms:.1f} ms; "
                f"{result.cpu:.0%} of a core; generator at most {result.late_ms:.0f} ms late",
            )
        )  # fmt: skip
    return rows


def verdicts(shape: Shape, results: dict[str, list[Result]]) -> list[Row]:
    """Loss and delay of our pumps, and their cost against rtpengine."""
    rows = []
    for name in ("python", "compiled"):
        if name not in results:
            continue
        result = median(results[name])
        rows.append(
            Row(f"relay {shape}: added delay p99, {name} pump", result.p99_ms, "ms", aim=f"< {AIM_P99_MS:.0f} ms",
                met=result.p99_ms < AIM_P99_MS)
        )  # fmt: skip
        cheaper = ratio(results, "rtpengine", name)
        if cheaper is not None:
            rows.append(
                Row(f"relay {shape}: rtpengine over the {name} pump", cheaper, "x", ratio=cheaper,
                    aim=f">= {AIM_RTPENGINE}: cheaper by a third", met=cheaper >= AIM_RTPENGINE)
            )  # fmt: skip
    return rows


def missing(candidates: dict[str, Candidate]) -> list[Row]:
    """What could not be compared here, as rows, so that nobody takes silence for success."""
    notices = {
        "C": native.NO_COMPILER, "compiled": "the compiled pump is not built here", "rtpengine": "rtpengine is not installed",
    }  # fmt: skip
    return [Row(f"relay: {text}", 0, "left out") for name, text in notices.items() if name not in candidates]


def run() -> list[dict[str, Any]]:
    """The row of the aims: 200 streams one to one."""
    shape = Shape(200)
    candidates = available(shape)
    results = take_turns(candidates, shape)
    rows = rows_of(shape, results, aims=True) + verdicts(shape, results) + missing(candidates)
    return [row.as_dict() for row in rows]


def main() -> None:
    words = sys.argv[1:]
    shape = Shape(int(words[0]) if words else 200, int(words[1]) if words[1:] else 1, *words[2:4])
    wanted = words[4].split(",") if words[4:] else None
    for name, candidate in available(shape).items():
        if wanted is None or name in wanted:
            result = measure(candidate, shape)
            print(f"{name:10} {result} load {os.getloadavg()[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
