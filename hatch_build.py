"""Build hook: compiles the packet pump into wheels and editable installs where a compiler is there; goes on without."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PumpHook(BuildHookInterface):  # type: ignore[type-arg]
    """A wheel with the compiled pump is tagged for its platform; without it the wheel is pure Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        pump = _build_pump(Path(self.root))
        try:
            target: Path = pump.build()
        except pump.Missing as error:
            self.app.display_warning(
                f"the compiled packet pump is left out: {error}. The one in pure Python is used."
            )
            return
        if version != "editable":
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"][str(target)] = f"media/compiled/{target.name}"


def _build_pump(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_pump", root / "tools" / "build_pump.py")
    if spec is None or spec.loader is None:
        raise ImportError("tools/build_pump.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
