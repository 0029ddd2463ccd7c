"""The node's log lines: the same text or JSON as the gateway's own, so that both read as one log."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_QUIET = ("aioice", "aiortc", "libav", "asyncio", "aiohttp.access")
"""Libraries whose INFO and DEBUG lines tell an operator nothing."""


class NodeFormatter(logging.Formatter):
    """``2026-11-22T02:00:00.000000Z info media.node stream_ready node_id=node-0 stream_id=…``, or a JSON object."""

    def __init__(self, node_id: str, *, as_json: bool) -> None:
        super().__init__()
        self._node_id = node_id
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        at = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z")
        )
        level = record.levelname.lower()
        message = record.getMessage()
        first, _, rest = message.partition(" ")
        event = first.removeprefix("event=")
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if not self._as_json:
            line = " ".join(
                part for part in (at, level, record.name, event, f"node_id={self._node_id}", rest) if part
            )
            return f"{line}\n{trace}" if trace else line
        fields = dict(pair.split("=", 1) for pair in rest.split() if "=" in pair and not pair.startswith("="))
        entry: dict[str, str] = {
            **fields,
            "event": message if not fields and rest else event,
            "level": level,
            "logger": record.name,
            "at": at,
            "node_id": self._node_id,
        }
        if trace:
            entry["exception"] = trace
        return json.dumps(entry, ensure_ascii=False)


def configure(node_id: str, *, level: str, form: str, stream: TextIO | None = None) -> None:
    """Send every logger of this process through one handler. ``form`` is text or json."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(NodeFormatter(node_id, as_json=form == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
