"""Builds the compiled packet pump where a C compiler and Cython are at hand; says what is missing where not.

``python tools/build_pump.py`` leaves ``media/compiled/_lanes.<platform>.so`` in the tree. It always ends with 0, unless
``--required`` is given: the pump in pure Python needs nothing of this.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "media" / "compiled" / "_lanes.pyx"
C_FILE = ROOT / "build" / "pump" / "_lanes.c"
SUFFIX: str = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
TARGET = SOURCE.with_name("_lanes" + SUFFIX)


class Missing(Exception):
    """What the build needs and does not find."""


def build(*, force: bool = False) -> Path:
    """The built module. Raises Missing; an up-to-date module is left as it is."""
    if not force and TARGET.exists() and TARGET.stat().st_mtime >= SOURCE.stat().st_mtime:
        return TARGET
    if not sys.platform.startswith("linux"):
        raise Missing("it uses system calls of Linux")
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    compiler[0] = next((name for name in (compiler[0], "cc", "gcc", "clang") if shutil.which(name)), "")
    if not compiler[0]:
        raise Missing("there is no C compiler")
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").exists():
        raise Missing(f"there is no Python.h in {include}")
    _translate()
    unfinished = TARGET.with_suffix(".tmp")
    command = [
        *compiler, "-O2", "-fno-strict-aliasing", "-fPIC", "-shared", "-Wall", "-Wno-unused-function", f"-I{include}",
        str(C_FILE), "-o", str(unfinished),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Missing(f"the compiler refused:\n{done.stderr}")
    unfinished.replace(TARGET)
    return TARGET


def _translate() -> None:
    """Cython to C."""
    try:
        from Cython.Compiler.Errors import CompileError
        from Cython.Compiler.Main import CompilationOptions, compile_single
    except ImportError:
        raise Missing("Cython is not installed") from None
    C_FILE.parent.mkdir(parents=True, exist_ok=True)
    options = CompilationOptions(output_file=str(C_FILE), language_level=3)
    try:
        result = compile_single(str(SOURCE), options, full_module_name="media.compiled._lanes")
    except CompileError as error:
        raise Missing(f"Cython refused the source: {error}") from error
    if result.num_errors:
        raise Missing("Cython refused the source")


def main() -> int:
    try:
        target = build(force="--force" in sys.argv)
    except Missing as error:
        sys.stderr.write(
            f"the compiled packet pump is not built: {error}. The pump in pure Python is used.\n"
        )
        return 1 if "--required" in sys.argv else 0
    sys.stderr.write(f"the compiled packet pump: {target.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
