"""Writes docs/protocol-coverage.md: every MANSCDP command with its file, samples, tests and conformance checks.

``python tools/protocol_coverage.py`` writes the page; with ``--check`` it only tells whether the page is up to date.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "protocol-coverage.md"
SAMPLES = ROOT / "tests" / "data" / "manscdp"
DIRECTIONS = {
    "Query": "server to device, upper to us",
    "Control": "server to device, upper to us",
    "Notify": "device to server, us to upper",
    "Response": "device to server, us to upper",
}
TURNED = {
    ("Notify", "Broadcast"): "server to device, upper to us",
    ("Response", "Alarm"): "server to device, upper to us",
}

HEAD = """# Protocol coverage

What of annex A of GB/T 28181 (MANSCDP) is read and written, command by command. This page is made by
`tools/protocol_coverage.py` from the registry of `sip/manscdp`; a test fails when a command has no row.

Every command has samples in `tests/data/manscdp`, which are read, written back to the same bytes
(`tests/sip/test_manscdp_samples.py`) and valid against the schema of `tests/data/xsd`. The column *tests* names
further test files in which the model appears. *checks* are the conformance checks it serves; whether they hold is
told by `make conformance`.

| Root | CmdType | Edition | Direction | Clause | File | Samples | Tests | Checks |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def names_by_test_file() -> dict[str, set[str]]:
    """The identifiers that each test file uses."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        found[path.relative_to(ROOT / "tests").as_posix()] = names
    return found


def page() -> str:
    """The whole page as text."""
    sys.path.insert(0, str(ROOT))
    from sip.manscdp import REGISTRY

    tests = names_by_test_file()
    rows = []
    for model in sorted(set(REGISTRY.values()), key=lambda model: (model.CMD_TYPE, model.ROOT)):
        key = (model.ROOT, model.CMD_TYPE)
        edition = "2022" if model.EDITION is not None else "2016, 2022"
        samples = len(list(SAMPLES.glob(f"{model.ROOT}-{model.CMD_TYPE}-*.xml")))
        where = ", ".join(name for name, names in tests.items() if model.__name__ in names)
        file = f"sip/manscdp/{model.__module__.rpartition('.')[2]}.py"
        rows.append(
            f"| {model.ROOT} | {model.CMD_TYPE} | {edition} | {TURNED.get(key, DIRECTIONS[model.ROOT])} "
            f"| {model.CLAUSE} | `{file}` | {samples} | {where} | {', '.join(model.CHECKS)} |\n"
        )
    return HEAD + "".join(rows)


def main() -> int:
    text = page()
    if "--check" in sys.argv:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        sys.stdout.write("up to date\n" if same else "docs/protocol-coverage.md is out of date\n")
        return 0 if same else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
