"""What all tests share: skips for missing outside programs, and the record of proven conformance checks."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_demo import one_demo

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
CAPTURES = ROOT.parent / "shared" / "corpus"
if CAPTURES.is_dir():
    os.environ.setdefault("GB_CORPUS", str(CAPTURES))

_outcomes: dict[str, dict[str, set[str]]] = defaultdict(lambda: {"passed": set(), "failed": set()})
_missing: dict[str, int] = defaultdict(int)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        checks = tuple(str(check) for mark in item.iter_markers("gb") for check in mark.args)
        quirks = tuple(f"quirk {number}" for mark in item.iter_markers("quirk") for number in mark.args)
        if checks or quirks:
            item.user_properties.append(("proves", [*checks, *quirks]))  # travels with the report


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for tool in mark.args:
            if not available(tool):
                item.user_properties.append(("misses", tool))
                pytest.skip(f"{tool} is not installed")


def available(tool: str) -> bool:
    """True when the outside program ``tool`` can be run here (sbin included: some Debian tools live there)."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(tool, path=path) is not None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties = dict(report.user_properties)
    if report.outcome == "skipped" and report.when == "setup" and "misses" in properties:
        _missing[str(properties["misses"])] += 1
    checks: list[str] = properties.get("proves", [])  # type: ignore[assignment]
    if not checks or (report.when != "call" and report.outcome == "passed"):
        return
    if report.outcome == "skipped":
        return
    for check in checks:
        _outcomes[check]["passed" if report.outcome == "passed" else "failed"].add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not os.environ.get("GB_CONFORMANCE") or hasattr(session.config, "workerinput"):
        return  # where tests run in several processes, the first one has all reports
    BUILD.mkdir(exist_ok=True)
    result = {
        check: {
            "passed": not tests["failed"] and bool(tests["passed"]),
            "tests": sorted(tests["passed"] | tests["failed"]),
            "failed": sorted(tests["failed"]),
        }
        for check, tests in sorted(_outcomes.items())
    }
    (BUILD / "conformance.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _missing:
        terminalreporter.section("tests left out")
        for tool, count in sorted(_missing.items()):
            terminalreporter.line(
                f"{count} tests need {tool}, which is not installed ('make tools' as root installs it)"
            )


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of captured messages, where there is one (GB_CORPUS names it); tests that want it are skipped without."""
    folder = os.environ.get("GB_CORPUS", "")
    if not folder:
        pytest.skip("GB_CORPUS names no folder of captured messages")
    return Path(folder)


@pytest.fixture
def only_demo() -> Iterator[None]:
    """The test's demo is the only one on the machine while it runs."""
    with one_demo():
        yield
