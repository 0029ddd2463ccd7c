"""Log lines of a media node look like the gateway's, as text and as JSON."""

from __future__ import annotations

import io
import json
import logging

import pytest

from config.settings import LogSettings
from gateway import logs as gateway_logs
from media import logs


@pytest.fixture(autouse=True)
def _restored() -> object:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def line(form: str, configure_gateway: bool = False) -> str:
    stream = io.StringIO()
    if configure_gateway:
        gateway_logs.configure(LogSettings(format=form), stream)  # type: ignore[arg-type]
    else:
        logs.configure("node-0", level="INFO", form=form, stream=stream)
    logging.getLogger("media.node").info("event=stream_ready stream_id=%s video=%s", "s1", "h264")
    return stream.getvalue()


def test_text_begins_like_the_gateways() -> None:
    ours, theirs = line("text").split(), line("text", configure_gateway=True).split()
    assert len(ours[0]) == len(theirs[0]) == len("2026-11-22T02:00:00.000000Z")
    assert ours[1:3] == theirs[1:3] == ["info", "media.node"]
    assert ours[3:] == ["stream_ready", "node_id=node-0", "stream_id=s1", "video=h264"]


def test_json_has_the_gateways_keys() -> None:
    ours, theirs = json.loads(line("json")), json.loads(line("json", configure_gateway=True))
    assert {"event", "level", "logger", "at", "stream_id", "video"} <= set(ours) & set(theirs)
    assert (ours["event"], ours["node_id"], ours["stream_id"]) == ("stream_ready", "node-0", "s1")


def test_an_error_keeps_its_trace() -> None:
    stream = io.StringIO()
    logs.configure("node-0", level="INFO", form="json", stream=stream)
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("media.node").exception("event=failed")
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["level"]) == ("failed", "error")
    assert "ValueError: odd" in entry["exception"]
