"""``make bench``: runs every benchmark in a process of its own, prints one table, writes build/bench.json."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
MODULES = ("sip_core", "registrar", "storm", "relay", "demux", "viewers", "first_picture")


def run_one(name: str) -> None:
    """Child side: run one module's ``run()`` and print its rows as JSON on the last line."""
    rows = importlib.import_module(f"benchmarks.{name}").run()
    sys.stdout.write("\n@rows " + json.dumps(rows) + "\n")


def collect(name: str) -> list[dict[str, object]]:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--one", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    for line in reversed(result.stdout.splitlines()):
        if line.startswith("@rows "):
            rows: list[dict[str, object]] = json.loads(line.removeprefix("@rows "))
            return [{"group": name, **row} for row in rows]
    sys.stderr.write(result.stdout[-2000:] + result.stderr[-4000:])
    raise SystemExit(f"benchmark {name} failed")


def number(value: object) -> str:
    if not isinstance(value, int | float):
        return str(value or "")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2])
        return
    names = sys.argv[1:] or list(MODULES)
    console = Console(width=150)
    rows: list[dict[str, object]] = []
    for name in names:
        console.print(f"running {name} ...", style="dim")
        rows += collect(name)
    table = Table(title="measured on this machine, in this run")
    for heading in ("what", "value", "unit", "baseline", "ratio", "aim", "met"):
        table.add_column(heading, justify="right" if heading in ("value", "ratio") else "left")
    for row in rows:
        met = {True: "yes", False: "NO", None: ""}[row.get("met")]  # type: ignore[index]
        table.add_row(
            str(row["name"]), number(row["value"]), str(row["unit"]), str(row.get("baseline") or ""),
            number(row.get("ratio")), str(row.get("aim") or ""), met,
        )  # fmt: skip
    console.print(table)
    for text in dict.fromkeys(f"{row['group']}: {row['how']}" for row in rows if row.get("how")):
        console.print(text, style="dim")
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(),
                    "load": os.getloadavg()},
        "rows": rows,
    }  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
