"""Messages: lazily parsed views, exact bytes back, tolerance of line ends, folding and charsets."""

from __future__ import annotations

import pytest
from sip_wire import wire

from sip.errors import LocalError, ParseError
from sip.headers import CSeq
from sip.message import Request, Response, parse

REGISTER = (
    b"REGISTER sip:41018300002000000001@4101830000 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK77\r\n"
    b"From: <sip:41018300001180000001@4101830000>;tag=8\r\n"
    b"To: <sip:41018300001180000001@4101830000>\r\n"
    b"Call-ID: 1-2-3\r\n"
    b"CSeq: 2 REGISTER\r\n"
    b"Contact: <sip:41018300001180000001@192.0.2.10:5060>;expires=600\r\n"
    b"Max-Forwards: 70\r\n"
    b"Expires: 3600\r\n"
    b"X-GB-Ver: 3.0\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def request(data: bytes) -> Request:
    message = parse(data)
    assert isinstance(message, Request)
    return message


def test_fields_of_a_request() -> None:
    message = request(REGISTER)
    assert message.method == "REGISTER"
    assert message.uri == "sip:41018300002000000001@4101830000"
    assert message.request_uri.user == "41018300002000000001"
    assert message.via.branch == "z9hG4bK77"
    assert message.from_.uri.user == message.to.uri.user == "41018300001180000001"
    assert message.from_.tag == "8"
    assert message.to.tag == ""
    assert message.cseq == CSeq(2, "REGISTER")
    assert message.call_id == "1-2-3"
    assert message.contact is not None
    assert message.contact.params["expires"] == "600"
    assert message.expires == 3600
    assert message.max_forwards == 70
    assert message.content_type == ""
    assert message.headers.get("x-gb-ver") == "3.0"


def test_same_bytes_back() -> None:
    assert request(REGISTER).to_bytes() == REGISTER


def test_fields_of_a_response() -> None:
    data = (
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\n"
        b"CSeq: 1 MESSAGE\r\nContent-Type: Application/MANSCDP+xml; charset=gb2312\r\nContent-Length: 2\r\n\r\nab"
    )
    message = parse(data)
    assert isinstance(message, Response)
    assert (message.status, message.reason, message.body) == (200, "OK", b"ab")
    assert message.content_type == "application/manscdp+xml"
    assert message.to_bytes() == data


@pytest.mark.parametrize("line", ["SIP/2.0 200", "SIP/2.0 200 ", "SIP/2.0  200 OK", "sip/2.0 200 \u597d"])
def test_status_lines_of_the_field(line: str) -> None:
    message = parse(f"{line}\r\nVia: x\r\n\r\n".encode())
    assert isinstance(message, Response)
    assert message.status == 200


def test_views_follow_a_changed_header() -> None:
    message = request(REGISTER)
    assert message.cseq.number == 2
    message.headers.set("CSeq", "3 REGISTER")
    assert message.cseq.number == 3


def test_content_length_is_computed() -> None:
    message = Request("MESSAGE", "sip:a@b", [("Content-Length", "999"), ("l", "1"), ("To", "x")], b"abc")
    assert message.to_bytes() == b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 3\r\nTo: x\r\n\r\nabc"
    assert Response(200).to_bytes() == b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.gb("G006")
def test_compact_register_reads_like_the_long_one() -> None:
    compact = REGISTER
    for name, short in ((b"Via", b"v"), (b"From", b"f"), (b"\r\nTo", b"\r\nt"), (b"Call-ID", b"i")):
        compact = compact.replace(name, short)
    compact = compact.replace(b"Contact:", b"m:").replace(b"Content-Length", b"l")
    one, other = request(REGISTER), request(compact)
    assert (one.via, one.from_, one.to, one.call_id) == (other.via, other.from_, other.to, other.call_id)
    assert one.contact == other.contact


@pytest.mark.gb("G007")
def test_case_blanks_and_folding() -> None:
    message = request(
        b"MESSAGE sip:a@b SIP/2.0\r\n"
        b"VIA : SIP/2.0/UDP\r\n 192.0.2.10:5060;rport\r\n\t;branch=z9hG4bK1\r\n"
        b"fROM:<sip:a@b>;tag=1\r\nTo:   <sip:a@b>\r\nCall-ID:x\r\nCSeq:  1   MESSAGE\r\n"
        b"content-length:   3\r\n\r\nabc"
    )
    assert message.via.host == "192.0.2.10"
    assert message.via.branch == "z9hG4bK1"
    assert message.cseq == CSeq(1, "MESSAGE")
    assert message.body == b"abc"


@pytest.mark.quirk(4)
def test_blank_bytes_in_front_of_the_start_line_are_skipped() -> None:
    assert request(b"\r\n\r\n\0\0" + REGISTER).to_bytes() == REGISTER


@pytest.mark.quirk(4)
def test_a_body_may_hold_blank_lines() -> None:
    body = b"PLAY RTSP/1.0\r\nCSeq: 1\r\n\r\nScale: 1.0\r\n\r\n"
    assert request(wire("INFO", body=body, content_type="Application/MANSRTSP")).body == body


@pytest.mark.parametrize("separator", [b"\n", b"\r"])
def test_other_line_ends(separator: bytes) -> None:
    data = REGISTER.replace(b"\r\n", separator)
    message = request(data) if separator == b"\n" else request(data.rstrip(b"\r") + b"\r\n\r\n")
    assert message.cseq == CSeq(2, "REGISTER")


def test_a_message_may_end_with_its_headers() -> None:
    assert request(REGISTER.rstrip(b"\r\n")).call_id == "1-2-3"


@pytest.mark.parametrize("charset", ["utf-8", "gb18030"])
def test_chinese_headers_come_back_byte_by_byte(charset: str) -> None:
    data = (
        REGISTER.decode()
        .replace("<sip:41018300001180000001", '"新密" <sip:41018300001180000001')
        .encode(charset)
    )
    message = request(data)
    assert message.from_.display == "新密"
    assert message.to_bytes() == data


def test_bytes_of_no_charset_come_back_too() -> None:
    data = REGISTER.replace(b"Call-ID: 1-2-3", b"Call-ID: \xff\xfe\x80")
    assert request(data).to_bytes() == data


@pytest.mark.parametrize(
    ("data", "status", "label"),
    [
        (b"", 400, "start_line"),
        (b"\r\n", 400, "start_line"),
        (b"\0" * 40, 400, "start_line"),
        (b"hello\r\n\r\n", 400, "start_line"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "start_line"),
        (b"MESSAGE sip:a@b SIP/3.0\r\n\r\n", 505, "version"),
        (b"MESSAGE  sip:a@b SIP/2.0\r\n\r\n", 400, "start_line"),
        (b"MESSAGE sip:a b SIP/2.0\r\n\r\n", 400, "start_line"),
        (b"MESSAGE SIP/2.0\r\n\r\n", 400, "start_line"),
        (b"ME@SSAGE sip:a@b SIP/2.0\r\n\r\n", 400, "start_line"),
        (b"SIP/2.0 4294967301 better not\r\n\r\n", 400, "start_line"),
        (b"SIP/2.0 099 no\r\n\r\n", 400, "start_line"),
        (b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: x\r\n\r\n", 400, "content_length"),
        (b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: -5\r\n\r\nabcde", 400, "content_length"),
        (b"MESSAGE sip:a@b SIP/2.0\r\nX: " + b"y" * 17000 + b"\r\n\r\n", 513, "header_too_large"),
    ],
)
@pytest.mark.gb("G027")
def test_what_is_no_message(data: bytes, status: int, label: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse(data)
    assert (raised.value.status, raised.value.label) == (status, label)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3600", 3600),
        (" 60 ", 60),
        ("0", 0),
        ("9" * 6000, 2**32 - 1),
        ("-1", None),
        ("soon", None),
        ("", None),
    ],
)
def test_expires(value: str, seconds: int | None) -> None:
    assert Request("REGISTER", "sip:a@b", [("Expires", value)]).expires == seconds


def test_contacts() -> None:
    message = Request(
        "REGISTER", "sip:a@b", [("Contact", '"a, b" <sip:a@b>;q=1, <sip:c@d>'), ("m", "sip:e@f;expires=5")]
    )
    assert [contact.uri.user for contact in message.contacts] == ["a", "c", "e"]
    star = Request("REGISTER", "sip:a@b", [("Contact", "*")])
    assert star.contact is None
    assert star.contacts == []
    assert Request("REGISTER", "sip:a@b").contact is None


def test_missing_headers_are_parse_errors() -> None:
    message = Request("MESSAGE", "sip:a@b")
    for read in ("via", "from_", "to", "cseq", "call_id"):
        with pytest.raises(ParseError, match="header"):
            getattr(message, read)


@pytest.mark.quirk(50)
@pytest.mark.parametrize("value", ["", "<sip:>;tag=1", "<sip:@>;tag=1"])
def test_an_empty_from_address_is_a_parse_error_and_nothing_worse(value: str) -> None:
    message = request(wire(from_=value))
    with pytest.raises(ParseError):
        _ = message.from_


def test_our_own_start_lines_take_no_line_break() -> None:
    with pytest.raises(LocalError):
        Request("MESSAGE", "sip:a@b\r\nX: y")
    with pytest.raises(LocalError):
        Response(200, "OK\r\nX: y")
