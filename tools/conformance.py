"""Prints which of the 289 GB/T 28181 checks have a passing test, from build/conformance.json (written by make test)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

GROUPS = (
    ("SIP transport and core", 1, 30),
    ("Registration, time, version, redirect", 31, 62),
    ("Keep-alive", 63, 70),
    ("XML and character sets", 71, 81),
    ("Catalog query", 82, 104),
    ("Catalog subscription", 105, 122),
    ("Info and status queries", 123, 132),
    ("RecordInfo", 133, 140),
    ("Alarm", 141, 150),
    ("Mobile position", 151, 156),
    ("Device control and PTZ", 157, 178),
    ("Configuration", 179, 187),
    ("SDP", 188, 197),
    ("SSRC and Subject", 198, 206),
    ("Media transport and payload", 207, 227),
    ("Live session control", 228, 237),
    ("Playback and download", 238, 249),
    ("Broadcast and talk", 250, 257),
    ("Cascading", 258, 269),
    ("Identifiers", 270, 275),
    ("Security and operations", 276, 284),
    ("Numbers and load", 285, 289),
)
TOTAL = 289


def passing(results: dict[str, dict[str, object]]) -> set[int]:
    """Numbers of the checks whose tests all passed."""
    return {
        int(check[1:])
        for check, result in results.items()
        if check.startswith("G") and check[1:].isdigit() and 1 <= int(check[1:]) <= TOTAL and result["passed"]
    }


def main() -> int:
    path = ROOT / "build" / "conformance.json"
    if not path.exists():
        sys.stderr.write("build/conformance.json is missing: run 'make test' first\n")
        return 1
    done = passing(json.loads(path.read_text(encoding="utf-8")))
    for name, first, last in GROUPS:
        numbers = range(first, last + 1)
        open_ones = [f"G{number:03}" for number in numbers if number not in done]
        state = f"{len(numbers) - len(open_ones)} of {len(numbers)}"
        sys.stdout.write(
            f"{name:<40} {state:>9}   {'open: ' + ' '.join(open_ones) if open_ones else ''}".rstrip() + "\n"
        )
    sys.stdout.write(f"conformance: {len(done)} of {TOTAL}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
