"""The rules of the house as tests: where packages come from, what they may import and say, where broad handlers live."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "sip", "media", "config", "simulator")
BROAD_HANDLERS = {"sip/endpoint.py", "gateway/http/errors.py", "gateway/http/server.py"}


def sources(*packages: str) -> Iterator[Path]:
    for package in packages or PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_short_names_resolve_inside_this_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def test_tests_have_no_package_files() -> None:
    """With a tests/sip/__init__.py alone, ``import sip`` would find the tests."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_catch_all_handlers_live_in_two_places() -> None:
    """What undoes a step and raises again is no catch-all."""
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and catches_all(node):
                last = node.body[-1]
                if not (isinstance(last, ast.Raise) and last.exc is None):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found <= BROAD_HANDLERS


def catches_all(node: ast.ExceptHandler) -> bool:
    names = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(
        name is None or (isinstance(name, ast.Name) and name.id in ("Exception", "BaseException"))
        for name in names
    )


def test_the_pure_core_takes_time_as_an_argument() -> None:
    pure = ["transaction.py", "dialog.py", "core.py", "timers.py", "message.py", "framing.py"]
    clocks = re.compile(r"\btime\.(time|monotonic|perf_counter)\(|datetime\.now\(|\basyncio\b")
    guilty = [name for name in pure if clocks.search((ROOT / "sip" / name).read_text(encoding="utf-8"))]
    assert guilty == []


def test_no_vendor_branches() -> None:
    """A vendor that deviates gets a row of data, never an if."""
    guilty = [
        str(path.relative_to(ROOT))
        for path in sources()
        if re.search(r"if .*(vendor|manufacturer)\s*==", path.read_text(encoding="utf-8"))
    ]
    assert guilty == []


def test_no_name_without_meaning() -> None:
    vague = re.compile(r"(manager|helper|util|utils|common|impl|processor)")
    assert [str(path.relative_to(ROOT)) for path in sources() if vague.search(path.stem.lower())] == []


def test_sql_is_never_glued() -> None:
    glued = re.compile(r"""(execute|text)\(\s*f["']""")
    assert [
        str(p.relative_to(ROOT)) for p in sources("gateway") if glued.search(p.read_text(encoding="utf-8"))
    ] == []


def test_there_is_no_default_password() -> None:
    from config.settings import Settings

    assert Settings().registration.domain_password is None


def test_the_makefile_has_the_promised_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "check", "run", "bench", "conformance", "fuzz"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
