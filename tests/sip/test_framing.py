"""Where messages end: datagrams with wrong lengths, streams in any cut, limits, and what devices do to both."""

from __future__ import annotations

import random

import pytest
from sip_wire import wire

from sip.errors import ParseError
from sip.framing import MAX_BODY_BYTES, MAX_HEADER_BYTES, StreamFramer, datagram_body, parse_content_length
from sip.message import parse

XML = b'<?xml version="1.0"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n</Notify>\r\n'
SDP = b"v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\ns=Play\r\n"


def frame(data: bytes, size: int = 0) -> tuple[list[bytes], StreamFramer]:
    """Messages of a stream fed in pieces of ``size`` bytes (0: at once)."""
    framer = StreamFramer()
    pieces = [data] if not size else [data[i : i + size] for i in range(0, len(data), size)]
    return [message for piece in pieces for message in framer.feed(piece)], framer


# -- datagrams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "rest", "body"),
    [
        (None, b"abc", b"abc"),
        ("3", b"abc", b"abc"),
        ("3", b"abcdef", b"abc"),
        ("3", b"abc\r\n\0 ", b"abc"),
        ("0", b"", b""),
        ("0", b"junk", b""),
        (str(len(XML)), XML + b"<Notify>second</Notify>", XML),
    ],
)
@pytest.mark.gb("G005")
def test_excess_is_ignored(length: str | None, rest: bytes, body: bytes) -> None:
    assert datagram_body(length, rest) == body


@pytest.mark.parametrize(("length", "rest"), [("4", b"abc"), ("1", b""), ("99999999999", b"abc")])
@pytest.mark.gb("G005")
def test_missing_bytes_are_refused(length: str, rest: bytes) -> None:
    with pytest.raises(ParseError) as raised:
        datagram_body(length, rest)
    assert (raised.value.status, raised.value.label) == (400, "short_body")


@pytest.mark.parametrize("body", [XML, SDP])
@pytest.mark.quirk(3)
def test_length_zero_in_front_of_a_document(body: bytes) -> None:
    """Content-Length: 0, and then ``<?xml`` or ``v=0``: the datagram's end is the body's end."""
    assert datagram_body("0", body) == body


@pytest.mark.quirk(3)
def test_length_counted_in_characters() -> None:
    text = '<?xml version="1.0"?>\r\n<Response><Name>新密市实验学校东门口</Name></Response>'
    body = text.encode("gb18030")
    assert datagram_body(str(len(text)), body) == body
    assert datagram_body(str(len(text)), body + b"\r\n") == body + b"\r\n"


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "+3", "9" * 30, "²"])
def test_what_is_no_length(value: str) -> None:
    with pytest.raises(ParseError):
        parse_content_length(value)


# -- streams ----------------------------------------------------------------------------------------------

GOOD = [
    wire("OPTIONS"),
    wire("MESSAGE", body=XML),
    wire("REGISTER", extra=(("X-Note", "n" * 500),)),
    wire("INFO", body=b"PAUSE RTSP/1.0\r\nCSeq: 1\r\n\r\n\r\n", content_type="Application/MANSRTSP"),
    wire("INVITE", body=SDP, content_type="application/sdp"),
    b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.gb("G004")
def test_three_messages_in_one_segment() -> None:
    messages, framer = frame(b"".join(GOOD))
    assert messages == GOOD
    assert framer.fault is None
    assert framer.pending == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
@pytest.mark.gb("G004")
def test_one_message_in_many_segments(size: int) -> None:
    messages, framer = frame(b"".join(GOOD), size)
    assert messages == GOOD
    assert framer.fault is None


@pytest.mark.gb("G004")
def test_random_cuts_change_nothing() -> None:
    rng = random.Random(28181)
    for _ in range(200):
        chosen = [rng.choice(GOOD) for _ in range(5)]
        stream = b"".join(rng.choice([b"", b"\r\n\r\n", b"\0"]) + message for message in chosen)
        framer = StreamFramer()
        found: list[bytes] = []
        while stream:
            cut = rng.randint(1, 300)
            found += framer.feed(stream[:cut])
            stream = stream[cut:]
        assert found == chosen


@pytest.mark.parametrize("ping", [b"\r\n", b"\r\n\r\n", b"\0", b"\r\n\r\n\0\0\r\n"])
@pytest.mark.gb("G028")
@pytest.mark.quirk(4)
def test_pings_are_swallowed(ping: bytes) -> None:
    messages, framer = frame(ping + GOOD[0] + ping + GOOD[1] + ping)
    assert messages == GOOD[:2]
    assert framer.pending == 0


@pytest.mark.parametrize("name", ["l", "CONTENT-LENGTH", "Content-Length "])
def test_length_in_other_spellings(name: str) -> None:
    message = GOOD[1].replace(b"Content-Length", name.encode())
    assert frame(message + GOOD[0])[0] == [message, GOOD[0]]


def test_line_feeds_alone() -> None:
    head, _, body = GOOD[1].partition(b"\r\n\r\n")
    message = head.replace(b"\r\n", b"\n") + b"\n\n" + body
    assert frame(message + GOOD[0])[0] == [message, GOOD[0]]


@pytest.mark.gb("G004")
def test_a_request_without_length_ends_the_stream() -> None:
    message = wire("MESSAGE", drop=("Content-Length",))
    messages, framer = frame(GOOD[0] + message + GOOD[0])
    assert messages == [GOOD[0]]
    assert framer.fault is not None
    assert (framer.fault.status, framer.fault.label) == (400, "no_content_length")
    assert framer.fault.head == message
    assert framer.feed(GOOD[0]) == []


@pytest.mark.quirk(50)
def test_a_response_without_length_has_no_body() -> None:
    message = GOOD[5].replace(b"Content-Length: 0\r\n", b"")
    assert frame(message + GOOD[0])[0] == [message, GOOD[0]]


@pytest.mark.parametrize(
    ("data", "status", "label"),
    [
        (wire(extra=(("X", "y" * MAX_HEADER_BYTES),)), 513, "header_too_large"),
        (b"MESSAGE sip:a@b SIP/2.0\r\n" + b"X: y\r\n" * 4000, 513, "header_too_large"),
        (b"MESSAGE " + b"x" * (MAX_HEADER_BYTES + 1), 513, "header_too_large"),
        (wire(length=MAX_BODY_BYTES + 1), 513, "body_too_large"),
        (wire(length=2**40), 513, "body_too_large"),
        (wire(length="9" * 40), 400, "content_length"),
        (wire(length=-1), 400, "content_length"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "start_line"),
        (b"\x16\x03\x01\x02\x00 tls\r\n\r\n", 400, "start_line"),
    ],
)
@pytest.mark.gb("G029")
def test_what_ends_a_stream(data: bytes, status: int, label: str) -> None:
    messages, framer = frame(data)
    assert messages == []
    assert framer.fault is not None
    assert (framer.fault.status, framer.fault.label) == (status, label)
    assert framer.pending == 0


def test_the_largest_body_passes() -> None:
    body = b"<?xml?>" + b"x" * (MAX_BODY_BYTES - 16) + b"</Query>\n"
    message = wire(body=body[:MAX_BODY_BYTES])
    assert frame(message, 65536)[0] == [message]


@pytest.mark.parametrize("tail", [b"", b"\r\n"])
@pytest.mark.quirk(3)
def test_stream_with_length_zero_in_front_of_xml(tail: bytes) -> None:
    message = wire(body=XML.rstrip() + tail, length=0)
    messages, framer = frame(message + GOOD[0] + GOOD[2])
    assert [parse(m).body.strip() for m in messages] == [XML.strip(), b"", b""]
    assert framer.fault is None


@pytest.mark.quirk(3)
def test_stream_with_length_zero_in_front_of_sdp() -> None:
    message = wire("INVITE", body=SDP, length=0, content_type="application/sdp")
    messages, _ = frame(message + GOOD[0])
    assert parse(messages[0]).body == SDP
    assert messages[1] == GOOD[0]


@pytest.mark.quirk(3)
def test_stream_with_a_length_counted_in_characters() -> None:
    text = '<?xml version="1.0"?>\r\n<Notify><Name>新密市青屏街</Name></Notify>\r\n'
    body = text.encode("gb18030")
    messages, framer = frame(wire(body=body, length=len(text)) + GOOD[0])
    assert parse(messages[0]).body == body
    assert messages[1] == GOOD[0]
    assert framer.fault is None


@pytest.mark.quirk(3)
def test_a_late_body_behind_length_zero_is_skipped_and_the_stream_goes_on() -> None:
    framer = StreamFramer()
    assert len(framer.feed(wire(length=0))) == 1
    assert framer.feed(XML) == []
    assert framer.feed(GOOD[0]) == [GOOD[0]]
    assert framer.junk_bytes == len(XML.rstrip()) + len(XML) - len(XML.rstrip())


def test_endless_junk_ends_the_stream() -> None:
    framer = StreamFramer()
    framer.feed(GOOD[0])
    for _ in range(2000):
        framer.feed(b"this is no SIP at all, just lines of text\r\n")
    assert framer.fault is not None
    assert framer.fault.label == "junk"


def test_a_huge_length_allocates_nothing() -> None:
    framer = StreamFramer()
    framer.feed(wire(length=MAX_BODY_BYTES) + b"x" * 10)
    assert framer.pending < 1000
