"""``make bench``: runs every benchmark in a process of its own, prints one table, writes build/bench.json.

``python -m benchmarks NAME…`` runs some alone. A benchmark that fails or does not end is a row of the table, and the
others go on.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

ROOT = Path(__file__).parents[1]
MODULES = (
    "sip_core", "registrar", "storm", "big_catalog", "relay", "relay_scale", "relay_fan", "demux", "ingest", "viewers", "webrtc",
    "recording", "first_picture", "glass",
)  # fmt: skip
LIMIT_S = 400.0
Rows = list[dict[str, object]]


def run_one(name: str) -> None:
    """Child side: run one module's ``run()`` and print its rows as JSON on the last line."""
    rows = importlib.import_module(f"benchmarks.{name}").run()
    sys.stdout.write("\n@rows " + json.dumps(rows) + "\n")


def collect(name: str) -> Rows:
    """One module's rows; a single row that is not met when it failed or hung."""
    command = [sys.executable, "-m", "benchmarks", "--one", name]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the group that we made: the benchmark and its children
        process.communicate()
        return failed(name, f"did not end within {LIMIT_S:.0f} s")
    for line in reversed(output.splitlines()):
        if line.startswith("@rows "):
            rows: Rows = json.loads(line.removeprefix("@rows "))
            return [{"group": name, **row} for row in rows]
    sys.stderr.write(output[-2000:] + errors[-4000:])
    return failed(name, (errors.strip().splitlines() or ["no output"])[-1])


def failed(name: str, why: str) -> Rows:
    row = Row(f"{name}: did not run", 0, "failed", aim="to run", met=False, how=why[:300])
    return [{"group": name, **row.as_dict()}]


def number(value: object) -> str:
    if not isinstance(value, int | float):
        return str(value or "")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def show(console: Console, rows: Rows) -> None:
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


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2])
        return
    names = sys.argv[1:] or list(MODULES)
    console = Console(width=150)
    rows: Rows = []
    loads = {}
    for name in names:
        console.print(f"running {name} ... (load average {os.getloadavg()[0]:.2f})", style="dim")
        loads[name] = os.getloadavg()[0]
        rows += collect(name)
    show(console, rows)
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(),
                    "load": os.getloadavg()},
        "load_before": loads,
        "rows": rows,
    }  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    name = "bench.json" if not sys.argv[1:] else "bench-part.json"
    (ROOT / "build" / name).write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
