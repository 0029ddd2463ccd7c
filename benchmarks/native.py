"""The benchmarks' small C programs: compiled into build/bench when a compiler is there and they are older than their source."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "c"
BUILT = Path(__file__).parents[1] / "build" / "bench"
NO_COMPILER = "no C compiler here: load and sink are slow Python, the C reference is left out"


@functools.cache
def program(name: str) -> str | None:
    """Path of the compiled ``benchmarks/c/<name>.c``; None without a compiler. RuntimeError: it does not compile."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    source, built = SOURCES / f"{name}.c", BUILT / name
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    if not built.exists() or built.stat().st_mtime < newest:
        BUILT.mkdir(parents=True, exist_ok=True)
        fresh = built.with_suffix(".new")
        arguments = [compiler, "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(fresh), str(source)]
        result = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
        if result.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{result.stderr}")
        fresh.replace(built)
    return str(built)
