"""Puts the figures of build/bench.json and build/soak.json into docs/reference/benchmarks.md, between its marks.

``python -m benchmarks.table`` after ``make bench`` or ``make soak``: nobody copies figures by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
TITLES = {
    "sip_core": "SIP", "registrar": "SIP", "storm": "SIP",
    "relay": "Relay, 200 streams of 4 Mbit/s one to one", "relay_scale": "Relay, from 1 to 500 streams",
    "relay_fan": "Relay, 1 to 10, and RTP inside TCP", "demux": "Receiving", "ingest": "Receiving",
    "viewers": "Viewers", "webrtc": "Viewers", "recording": "Recording", "first_picture": "Delay", "glass": "Delay",
}  # fmt: skip


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: dict[str, Any]) -> list[str]:
    met = {True: " ✓", False: " **NO**", None: ""}[row.get("met")]
    ratio = row.get("ratio")
    value = row["unit"] if row["unit"] in ("left out", "failed") else f"{number(row['value'])} {row['unit']}"
    return [
        str(row["name"]), value, str(row.get("baseline") or ""), "" if ratio is None else number(ratio),
        f"{row.get('aim') or ''}{met}".strip(),
    ]  # fmt: skip


def bench(report: dict[str, Any]) -> str:
    """All rows, by title, and what each measured in detail."""
    machine = report["machine"]
    load = report.get("load_before", {})
    lines = [
        f"Run of {report['at']}: {machine['cpus']} virtual cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"loopback only; load average before the modules {min(load.values(), default=0):.1f} to "
        f"{max(load.values(), default=0):.1f}."
    ]
    if report.get("note"):
        lines[0] += f" {report['note']}"
    title = ""
    notes: list[str] = []
    for row in report["rows"]:
        if TITLES.get(row["group"], row["group"]) != title:
            lines += notes and ["", *(f"- {note}" for note in dict.fromkeys(notes))]
            notes = []
            title = TITLES.get(row["group"], row["group"])
            lines += [
                "",
                f"### {title}",
                "",
                "| what | value | baseline | ratio | aim |",
                "|---|---|---|---|---|",
            ]
        lines.append("| " + " | ".join(cells(row)) + " |")
        if row.get("how"):
            notes.append(str(row["how"]).strip("; "))
    lines += ["", *(f"- {note}" for note in dict.fromkeys(notes))]
    return "\n".join(lines)


def soak(report: dict[str, Any]) -> str:
    totals, flat, plan, cpu = report["totals"], report["flat"], report["plan"], report["cpu"]
    visits = ", ".join(f"{kind} {count}" for kind, count in sorted(report["visits"].items()))
    lines = [
        f"Run of {report['at']}: {plan['minutes']:.0f} minutes after {plan['warm_s']:.0f} s of warm-up, pump "
        f"`{report['pump']}`, the node at {cpu['mean']:.0%} of a core on average, {cpu['waves at a time']} waves of streams "
        f"at a time; load average of the machine at the end {report['machine']['load'][0]:.1f}.",
        "",
        f"- {totals['streams']:,} streams opened and closed. Packets: generator {totals['sent']:,}, node in "
        f"{totals['node_in']:,} (lost {totals['node_lost']:,}), node out {totals['node_out']:,}, dropped "
        f"{totals['node_drops']:,}, sink {totals['received']:,}, wrong {totals['wrong']:,}.",
        f"- Viewers come and gone: {visits}; failed: {sum(report['failures'].values())}.",
        "",
        "| | mean | least | most | change over the run | over its second half |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in flat.items():
        scale = 2**20 if name == "rss" else 1
        label = "memory, MiB" if name == "rss" else name
        values = " | ".join(number(one[key] / scale) for key in ("mean", "least", "most"))
        lines.append(
            f"| {label} | {values} | {one['change']:+.1%} | {one.get('late_change', one['change']):+.1%} |"
        )
    lines += ["", *(f"- {name}: {'✓' if held else '**NO**'}" for name, held in report["verdicts"].items())]
    return "\n".join(lines)


def put(text: str, mark: str, inner: str) -> str:
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE.name} has no place for {mark}")
    return pattern.sub(lambda _: f"{begin}\n{inner}\n{end}", text)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for mark, render in (("bench", bench), ("soak", soak)):
        path = ROOT / "build" / f"{mark}.json"
        if path.exists() and (not sys.argv[1:] or mark in sys.argv[1:]):
            text = put(text, mark, render(json.loads(path.read_text(encoding="utf-8"))))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
