"""Logging of the whole process: one line per event, key=value text or JSON, to standard error, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from config.settings import LogSettings

_PAIR = re.compile(r"(?:^|\s)([a-z_][a-z0-9_]*)=(\"[^\"]*\"|'[^']*'|\S*)")
_SECRET = re.compile(
    r"(?i)\b(password|passwd|secret|response|cnonce|nonce|token|ticket|ha1|cookie)(\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
)
_HEADER = re.compile(r"(?im)^((?:proxy-)?authorization|cookie|set-cookie)(\s*:\s*).*$")
_SECRET_KEYS = re.compile(r"(?i)password|passwd|secret|authorization|cookie|token|ticket|ha1")
_QUIET = ("aiosqlite", "alembic", "aioice", "aiortc", "libav", "asyncio", "aiohttp.access")
"""Libraries whose INFO and DEBUG lines tell an operator nothing."""


def masked(text: str) -> str:
    """The text without passwords, digests, tokens and cookies."""
    return _SECRET.sub(r"\1\2***", _HEADER.sub(r"\1\2***", text))


def _mask(_logger: object, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in entry.items():
        if key != "event" and _SECRET_KEYS.search(key):
            entry[key] = "***"
        elif isinstance(value, str):
            entry[key] = masked(value)
    return entry


def _split_pairs(_logger: object, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """``device online device=410… flow=udp:…`` becomes fields of its own in JSON."""
    text = str(entry.get("event", ""))
    if "\n" in text:
        return entry
    for key, value in _PAIR.findall(text):
        entry.setdefault(
            key if key not in ("event", "level", "logger", "at") else f"{key}_", value.strip("\"'")
        )
    entry["event"] = _PAIR.sub("", text).strip() or text
    return entry


def _text(_logger: object, _name: str, entry: MutableMapping[str, Any]) -> str:
    """``2026-11-22T02:00:00.000Z info gateway.services.registrar device online device=…``"""
    at, level = entry.pop("at"), entry.pop("level")
    name, event = entry.pop("logger", "-"), entry.pop("event")
    exception = entry.pop("exception", "")
    pairs = "".join(f" {key}={value}" for key, value in entry.items() if not key.startswith("_"))
    return f"{at} {level} {name} {event}{pairs}" + (f"\n{exception}" if exception else "")


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send every logger of the process through one handler. May be called again."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
        structlog.stdlib.PositionalArgumentsFormatter(),
        _mask,
    ]
    tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if settings.format == "json":
        tail += [_split_pairs, structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        tail.append(_text)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=tail))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[settings.level]))
    logging.getLogger("sip.wire").setLevel(logging.DEBUG if settings.wire else logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
