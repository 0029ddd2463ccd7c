"""Which pump a node takes, what it says about it, and that each piece can be missing."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from media import compiled, mmsg, pump
from media.compiled import PumpMissing
from media.node import Node
from media.pump import make_pump

ROOT = Path(__file__).parents[3]


@pytest.fixture
def build_pump() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_pump_for_tests", ROOT / "tools" / "build_pump.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_auto_falls_back_and_compiled_refuses_where_it_is_not_built(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "reason", "not built (no compiler)")
    with pytest.raises(PumpMissing, match="make pump"):
        make_pump("compiled")
    with caplog.at_level(logging.INFO):
        auto = make_pump("auto")
    assert auto.kind == "python"
    assert any("no compiler" in record.getMessage() for record in caplog.records)
    auto.close()


async def test_a_lane_that_relays_wrong_bytes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "probe", lambda: "its probe relayed wrong bytes")
    with pytest.raises(PumpMissing, match="wrong bytes"):
        make_pump("compiled")
    chosen = make_pump("auto")
    assert chosen.kind == "python"
    chosen.close()


@pytest.mark.skipif(bool(compiled.reason), reason="the pump is not built")
async def test_what_works_is_taken() -> None:
    assert compiled.probe() == ""
    for choice, kind in (("auto", "compiled"), ("compiled", "compiled"), ("python", "python")):
        chosen = make_pump(choice)
        assert chosen.kind == kind
        chosen.close()


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("segmentation", [True, False])
async def test_the_node_says_in_one_line_and_in_its_statistics_what_it_found(
    tmp_path: Path,
    node_settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    batches: bool,
    segmentation: bool,
) -> None:
    monkeypatch.setattr(mmsg, "probe", lambda: batches)
    monkeypatch.setattr("media.node.probe_gso", lambda: segmentation)
    node = Node(node_settings(tmp_path, pump="python"))
    with caplog.at_level(logging.INFO, "media.node"):
        await node.start()
    (line,) = [
        record.getMessage() for record in caplog.records if "event=node_started" in record.getMessage()
    ]
    assert f"pump=python segmentation={segmentation} batches={batches}" in line
    stats = node.stats()
    assert (stats.pump, stats.gso, stats.batches, stats.lanes) == ("python", segmentation, batches, 0)
    await node.close()


async def test_a_node_that_must_have_the_compiled_pump_ends_with_the_reason(
    tmp_path: Path, node_settings: Any
) -> None:
    """As a process: exit status 1 and a line that says what to do."""
    hidden = "import sys; sys.modules['media.compiled._lanes'] = None; from media.node import main; sys.exit(main())"
    config = node_settings(tmp_path, pump="compiled")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", hidden, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )  # fmt: skip
    async with asyncio.timeout(60):
        _, errors = await process.communicate(config.model_dump_json().encode() + b"\n")
    assert process.returncode == 1
    assert b"media.pump is compiled" in errors
    assert b"make pump" in errors


def test_without_compiler_the_build_says_so_and_goes_on(
    build_pump: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(build_pump, "TARGET", tmp_path / "none.so")
    monkeypatch.setattr(build_pump.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["build_pump.py"])
    assert build_pump.main() == 0
    assert "there is no C compiler" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["build_pump.py", "--required"])
    assert build_pump.main() == 1


def test_without_cython_the_build_says_so(
    build_pump: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build_pump, "TARGET", tmp_path / "none.so")
    monkeypatch.setattr(build_pump.shutil, "which", lambda name: "/bin/cc")
    for name in ("Cython.Compiler.Errors", "Cython.Compiler.Main", "Cython"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(build_pump.Missing, match=r"Cython is not installed|no Python\.h"):
        build_pump.build(force=True)


async def test_a_pump_ends_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.reason:
        pytest.skip(compiled.reason)
    before = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert compiled.probe() == ""
        chosen = pump.Pump(compiled_lanes=True)
        chosen.close()
    assert threading.active_count() == before
    del chosen
    assert len(os.listdir("/proc/self/fd")) == descriptors
