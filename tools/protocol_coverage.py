"""Writes docs/protocol-coverage.md: every MANSCDP command with its file, API calls, events, tests and conformance checks.

``python tools/protocol_coverage.py`` writes the page; with ``--check`` it only tells whether the page is up to date.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "protocol-coverage.md"
SAMPLES = ROOT / "tests" / "data" / "manscdp"
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
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
FOLD_ABOVE = 3

HEAD = """# Protocol coverage

What of annex A of GB/T 28181 (MANSCDP) is read and written, command by command. This page is made by
`tools/protocol_coverage.py` from the registry of `sip/manscdp`, the source of the gateway and the marks of the tests; a
test fails when a command has no row.

Every command has samples in `tests/data/manscdp`, which are read, written back to the same bytes
(`tests/sip/test_manscdp_samples.py`) and valid against the schema of `tests/data/xsd`.

- *API call*: the calls of the HTTP API that lead to the message, found by following the source from each route
  (`tools/api_calls.py`); for an answer those of its question. Parameters and answers: [reference/api.md](reference/api.md).
- *Live event*: what `GET /api/events` tells when it comes from a device.
- *Tests*: further test files in which the model appears.
- *Checks*: the conformance checks it serves; those in brackets have no test that is marked with them. Whether they hold
  is told by `make conformance`.

## Messages

| Root | CmdType | Edition | Direction | Clause | File | API call | Live event | Samples | Tests | Checks |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
CONTROLS = """
## Commands of DeviceControl

| Element | Edition | Answered by | API call | Tests | Checks |
| --- | --- | --- | --- | --- | --- |
"""
CHECKS_OF_CONTROLS = {
    "ptz_cmd": "G157, G159-G169, G177, G178",
    "teleboot": "G157",
    "record_cmd": "G158",
    "guard_cmd": "G158",
    "alarm_cmd": "G144, G146, G158",
    "iframe": "G157, G170",
    "drag_zoom_in": "G157, G171",
    "drag_zoom_out": "G157, G171",
    "home_position": "G129, G158",
    "ptz_precise": "G157, G172",
    "device_upgrade": "G158, G173, G174",
    "format_sd_card": "G157",
    "target_track": "G157",
}


@dataclass(slots=True)
class TestFile:
    """What one test file uses: ``names`` are identifiers, ``words`` keywords and attributes besides."""

    name: str
    names: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)


def test_files() -> tuple[list[TestFile], set[str]]:
    """The test files, and all checks that any test is marked with."""
    found, marked = [], set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        one = TestFile(path.relative_to(ROOT / "tests").as_posix())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name):
                one.names.add(node.id)
            elif isinstance(node, ast.keyword) and node.arg:
                one.words.add(node.arg)
            elif isinstance(node, ast.Attribute):
                one.words.add(node.attr)
            elif isinstance(node, ast.Constant) and re.fullmatch(r"G\d{3}", str(node.value)):
                marked.add(str(node.value))
        found.append(one)
    return found, marked


def folded(calls: list[str]) -> str:
    """Calls as text; many that differ in the last word of the path alone are one."""
    groups: dict[str, list[str]] = {}
    for call in calls:
        groups.setdefault(call.rpartition("/")[0], []).append(call)
    texts = []
    for start, group in groups.items():
        texts += [f"{start}/…"] if len(group) > FOLD_ABOVE else group
    return "<br>".join(f"`{text}`" for text in texts)


def page() -> str:
    """The whole page as text."""
    from api_calls import Source, api_calls, events_of

    from sip.manscdp import REGISTRY

    tests, marked = test_files()
    source = Source()
    calls, events = api_calls(source), events_of(source)
    models = sorted(set(REGISTRY.values()), key=lambda model: (model.CMD_TYPE, model.ROOT))
    asked = {model.CMD_TYPE: model.__name__ for model in models if model.ROOT in ("Query", "Control")}
    rows = []
    for model in models:
        key = (model.ROOT, model.CMD_TYPE)
        edition = "2022" if model.EDITION is not None else "2016, 2022"
        samples = len(list(SAMPLES.glob(f"{model.ROOT}-{model.CMD_TYPE}-*.xml")))
        where = ", ".join(one.name for one in tests if model.__name__ in one.names)
        file = f"sip/manscdp/{model.__module__.rpartition('.')[2]}.py"
        question = asked.get(model.CMD_TYPE, model.__name__) if model.ROOT == "Response" else model.__name__
        by = "see below" if question == "DeviceControl" else folded(calls.get(question, []))
        told = ", ".join(f"`{name}`" for name in events.get(model.__name__, ()))
        checks = ", ".join(check if check in marked else f"({check})" for check in model.CHECKS)
        rows.append(
            f"| {model.ROOT} | {model.CMD_TYPE} | {edition} | {TURNED.get(key, DIRECTIONS[model.ROOT])} "
            f"| {model.CLAUSE} | `{file}` | {by} | {told} | {samples} | {where} | {checks} |\n"
        )
    return HEAD + "".join(rows) + CONTROLS + "".join(_control_rows(calls, tests))


def _control_rows(calls: dict[str, list[str]], tests: list[TestFile]) -> list[str]:
    from sip.manscdp.device_control import COMMANDS, ONLY_2022, DeviceControl

    rows = []
    for name, element in COMMANDS.items():
        spelled = f"{element} (2016: IFameCmd)" if name == "iframe" else element
        edition = "2022" if element in ONLY_2022 else "2016, 2022"
        answered = "Response" if DeviceControl.answered(name) else "the SIP 200"
        where = ", ".join(one.name for one in tests if "DeviceControl" in one.names and name in one.words)
        by = folded(calls.get(f"DeviceControl.{name}", []))
        rows.append(f"| {spelled} | {edition} | {answered} | {by} | {where} | {CHECKS_OF_CONTROLS[name]} |\n")
    return rows


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
