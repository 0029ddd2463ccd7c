"""Reads the configuration: the YAML file, then the environment, then validation. An error names its key and line.

Environment variables are ``GB_GATEWAY_<SECTION>__<KEY>``, for example ``GB_GATEWAY_SIP__PORT=5070``; lists and
mappings are given as JSON.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from config.settings import Settings

ENV_PREFIX = "GB_GATEWAY_"
_DELIMITER = "__"


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in the configuration: dotted key, what is wrong, and where it stands."""

    key: str
    message: str
    source: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigurationError(Exception):
    """The configuration cannot be used; ``problems`` lists every fault found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return validated settings. ``path`` None: defaults and environment only.

    Raises ConfigurationError with one Problem per fault.
    """
    environ = os.environ if environ is None else environ
    data: dict[str, Any] = {}
    lines: dict[tuple[str, ...], int] = {}
    source = "environment"
    if path is not None:
        source = str(path)
        data, lines = read_yaml(path)
    from_environment = _read_environment(environ)
    merged = _merge(data, from_environment)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(
            [_problem(item["loc"], item["msg"], source, lines, from_environment) for item in error.errors()]
        ) from None


def _problem(
    location: tuple[int | str, ...],
    message: str,
    source: str,
    lines: Mapping[tuple[str, ...], int],
    from_environment: Mapping[str, Any],
) -> Problem:
    keys = tuple(str(part) for part in location)
    if message.startswith("Value error, "):
        message = message.removeprefix("Value error, ")
    elif message == "Extra inputs are not permitted":
        message = "there is no such setting"
    if _is_in(from_environment, keys):
        variable = ENV_PREFIX + _DELIMITER.join(keys[:2]).upper()
        return Problem(".".join(keys), message, f"environment variable {variable}")
    line = next((lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in lines), None)
    return Problem(".".join(keys), message, source, line)


def _is_in(tree: Mapping[str, Any], keys: Sequence[str]) -> bool:
    node: Any = tree
    for key in keys[:2]:
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return bool(keys)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """A YAML file's mapping without keys that are null, and the line of each key. Raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError([Problem("", error.strerror or str(error), str(path))]) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError([Problem("", f"not UTF-8 at byte {error.start}", str(path))]) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigurationError([Problem("", error.problem or "not YAML", str(path), line)]) from None
    lines: dict[tuple[str, ...], int] = {}
    problems: list[Problem] = []
    if root is not None:
        _collect_lines(root, (), lines, problems, str(path))
    if data is not None and not isinstance(data, dict):
        problems.append(Problem("", "must be a mapping of sections", str(path), 1))
    if problems:
        raise ConfigurationError(problems)
    return {key: value for key, value in (data or {}).items() if value is not None}, lines


def _collect_lines(
    node: yaml.Node,
    at: tuple[str, ...],
    lines: dict[tuple[str, ...], int],
    problems: list[Problem],
    source: str,
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            line = key.start_mark.line + 1
            if here in lines:  # YAML would silently keep the last one
                problems.append(
                    Problem(".".join(here), f"given twice (first in line {lines[here]})", source, line)
                )
            lines[here] = line
            _collect_lines(value, here, lines, problems, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*at, str(index))
            lines[here] = value.start_mark.line + 1
            _collect_lines(value, here, lines, problems, source)


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: (field.annotation, field.default) for name, field in Settings.model_fields.items()
    }
    model = create_model("_FromEnvironment", __base__=BaseSettings, **fields)
    names = {name: value for name, value in environ.items() if name.upper().startswith(ENV_PREFIX)}
    problems = [
        Problem("", "there is no such setting", f"environment variable {name}")
        for name in names
        if name[len(ENV_PREFIX) :].lower().split(_DELIMITER)[0] not in Settings.model_fields
    ]
    if problems:
        raise ConfigurationError(problems)
    reader = EnvSettingsSource(model, env_prefix=ENV_PREFIX, env_nested_delimiter=_DELIMITER)
    reader.env_vars = {name.lower(): value for name, value in names.items()}
    try:
        return reader()
    except SettingsError as error:
        raise ConfigurationError([Problem("", str(error), "environment")]) from None


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
