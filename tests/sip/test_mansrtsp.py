"""Playback control bodies: what is emitted, what is understood."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip import mansrtsp
from sip.errors import ParseError, RemoteError
from sip.mansrtsp import PlayAnswer, PlayControl, Range, parse


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (mansrtsp.pause(1), "PAUSE RTSP/1.0\r\nCSeq: 1\r\nPauseTime: now\r\n\r\n"),
        (mansrtsp.resume(2), "PLAY RTSP/1.0\r\nCSeq: 2\r\nRange: npt=now-\r\n\r\n"),
        (mansrtsp.speed(3, 2), "PLAY RTSP/1.0\r\nCSeq: 3\r\nScale: 2.0\r\n\r\n"),
        (mansrtsp.speed(3, 0.25), "PLAY RTSP/1.0\r\nCSeq: 3\r\nScale: 0.25\r\n\r\n"),
        (mansrtsp.seek(4, 100), "PLAY RTSP/1.0\r\nCSeq: 4\r\nRange: npt=100-\r\n\r\n"),
        (
            mansrtsp.reverse(5, 1, 600, 120),
            "PLAY RTSP/1.0\r\nCSeq: 5\r\nScale: -1.0\r\nRange: npt=600-120\r\n\r\n",
        ),
        (mansrtsp.teardown(6), "TEARDOWN RTSP/1.0\r\nCSeq: 6\r\n\r\n"),
    ],
)
def test_bodies(body: PlayControl, text: str) -> None:
    assert body.to_bytes() == text.encode()
    assert parse(text.encode()) == body


@pytest.mark.gb("G242")
@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 2, 4, -1])
def test_scales(scale: float) -> None:
    body = parse(mansrtsp.speed(1, scale).to_bytes())
    assert isinstance(body, PlayControl)
    assert body.scale == scale


@pytest.mark.gb("G242")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("npt=now-", Range()),
        ("npt=0-", Range(0)),
        ("npt = 1.5 - 20", Range(1.5, 20)),
        ("NPT=196-", Range(196)),
        ("smpte=0:10:20-", Range(620)),
        ("smpte-25=01:00:00:12-01:00:10:00", Range(3600, 3610)),
        ("clock=x", None),
    ],
)
def test_ranges(text: str, expected: Range | None) -> None:
    body = parse(f"PLAY RTSP/1.0\r\nCSeq: 1\r\nRange: {text}\r\n\r\n".encode())
    assert isinstance(body, PlayControl)
    assert body.range == expected


@pytest.mark.gb("G244")
def test_start_lines_of_both_editions() -> None:
    data = b"PLAY MANSRTSP/1.0\nCSeq: 5\nScale: 1.0\nRange: npt=196-\n\n"
    assert parse(data) == PlayControl("PLAY", 5, scale=1.0, range=Range(196))
    assert b"MANSRTSP" not in PlayControl("PLAY", 5).to_bytes()
    assert parse(b"play rtsp://x/y RTSP/1.0\r\ncseq:1") == PlayControl("PLAY", 1)


def test_answers() -> None:
    answer = parse(b"RTSP/1.0 200 OK\r\nCSeq: 9\r\nRange: npt=100-\r\nRTP-Info: seq=1;rtptime=2\r\n\r\n")
    assert answer == PlayAnswer(200, "OK", 9, Range(100), None, "seq=1;rtptime=2")
    assert parse(answer.to_bytes()) == answer
    assert parse(b"RTSP/1.0 457\r\nScale: -1\r\n") == PlayAnswer(457, "", 0, None, -1.0)


@pytest.mark.parametrize(
    "data", [b"", b"HELLO", b"DESCRIBE RTSP/1.0\r\n", b"x" * 5000, b"PLAY" + b" " * 4000]
)
def test_other_bodies_are_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        parse(data)


@given(
    data=st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: b"PLAY RTSP/1.0\r\nRange: " + text.encode())
)
def test_any_bytes_are_a_value_or_a_remote_error(data: bytes) -> None:
    try:
        parse(data)
    except RemoteError:
        return


def test_blanks_cost_no_time() -> None:
    start = time.perf_counter()
    parse(b"PLAY RTSP/1.0\r\nRange: npt=" + b" " * 4000 + b"x\r\n")
    assert time.perf_counter() - start < 1
