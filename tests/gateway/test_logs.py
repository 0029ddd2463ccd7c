"""Logging: one line per event, JSON fields, no secrets, wire text only when asked for."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from config.settings import LogSettings
from gateway.logs import configure, masked


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    levels = {name: logging.getLogger(name).level for name in ("sip.wire", "aiosqlite", "asyncio", "alembic")}
    yield
    root.handlers[:], root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


def written(message: str, *args: object, **settings: object) -> str:
    stream = io.StringIO()
    configure(LogSettings.model_validate(settings), stream)
    logging.getLogger("gateway.test").info(message, *args)
    return stream.getvalue()


def test_text_is_one_line_with_time_level_and_logger() -> None:
    line = written("device online device=%s flow=%s", "4101", "udp:10.0.0.1:5060")
    assert line.endswith("info gateway.test device online device=4101 flow=udp:10.0.0.1:5060\n")
    assert line[:4].isdigit()
    assert "Z " in line


def test_json_has_the_pairs_as_fields() -> None:
    line = json.loads(written("device online device=%s reason='a b'", "4101", format="json"))
    assert line["event"] == "device online"
    assert (line["device"], line["reason"], line["level"], line["logger"]) == (
        "4101",
        "a b",
        "info",
        "gateway.test",
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_never_come_out(form: str) -> None:
    out = written('x password=%s response="%s" ticket: %s', "hunter2", "60b33b63", "tick", format=form)
    assert not any(secret in out for secret in ("hunter2", "60b33b63", "tick,"))
    assert "***" in out


def test_masking_of_headers() -> None:
    text = masked('Authorization: Digest username="a", response="beef"\nCookie: session=abc\nVia: x')
    assert "beef" not in text
    assert "abc" not in text
    assert "Via: x" in text


def test_wire_text_only_when_asked_for() -> None:
    stream = io.StringIO()
    configure(LogSettings(level="DEBUG"), stream)
    logging.getLogger("sip.wire").debug("REGISTER sip:x")
    assert stream.getvalue() == ""
    configure(LogSettings(level="DEBUG", wire=True), stream)
    logging.getLogger("sip.wire").debug("REGISTER sip:x")
    assert "REGISTER" in stream.getvalue()


def test_tracebacks_are_kept() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    try:
        raise ValueError("bad luck")
    except ValueError:
        logging.getLogger("gateway.test").exception("it failed")
    assert "ValueError: bad luck" in stream.getvalue()
