"""Header lists: names without case, compact forms, order, repetition; Via and CSeq values."""

from __future__ import annotations

import pytest

from sip.errors import LocalError, ParseError
from sip.headers import CSeq, Headers, Via


def test_names_are_found_in_any_spelling() -> None:
    headers = Headers([("CALL-ID", "1"), ("f", "<sip:a@b>"), ("content-LENGTH", "5")])
    assert headers.get("Call-ID") == headers.get("i") == "1"
    assert headers.get("From") == "<sip:a@b>"
    assert "l" in headers
    assert "To" not in headers
    assert headers.get("To", "none") == "none"


@pytest.mark.parametrize(
    ("compact", "name"),
    [
        ("v", "Via"),
        ("f", "From"),
        ("t", "To"),
        ("m", "Contact"),
        ("i", "Call-ID"),
        ("l", "Content-Length"),
        ("c", "Content-Type"),
        ("s", "Subject"),
        ("k", "Supported"),
        ("e", "Content-Encoding"),
        ("o", "Event"),
    ],
)
@pytest.mark.gb("G006")
def test_compact_names(compact: str, name: str) -> None:
    assert Headers.of_lines([f"{compact}: x"]).get(name) == "x"


def test_repeated_headers_keep_their_order() -> None:
    headers = Headers.of_lines(["Via: 1", "From: f", "v: 2", "VIA:3"])
    assert headers.get("Via") == "1"
    assert headers.get_all("Via") == ["1", "2", "3"]
    assert headers.repeated == {"via": ["1", "2", "3"]}
    assert [name for name, _ in headers] == ["Via", "From", "v", "VIA"]
    assert headers.get_all("To") == []


def test_set_add_remove() -> None:
    headers = Headers([("Via", "1"), ("X", "a"), ("Via", "2"), ("Y", "b")])
    headers.set("via", "3")
    assert headers.items() == [("via", "3"), ("X", "a"), ("Y", "b")]
    headers.add("Via", "4")
    headers.set_first("Via", "0")
    assert headers.get_all("Via") == ["0", "4"]
    headers.remove("VIA")
    assert "Via" not in headers
    headers.set_first("Via", "9")
    assert headers.items()[0] == ("Via", "9")
    headers.set("New", "n")
    assert headers.items()[-1] == ("New", "n")
    assert len(headers) == 4


def test_a_copy_is_independent() -> None:
    headers = Headers([("A", "1")])
    other = headers.copy()
    other.set("A", "2")
    assert headers.get("A") == "1"


@pytest.mark.parametrize("value", ["a\r\nInjected: b", "a\nb", "a\r"])
def test_line_breaks_never_get_into_a_header(value: str) -> None:
    headers = Headers()
    with pytest.raises(LocalError):
        headers.add("X", value)
    with pytest.raises(LocalError):
        headers.set("X", value)


@pytest.mark.parametrize(
    ("text", "transport", "host", "port", "branch"),
    [
        ("SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK1", "UDP", "192.0.2.1", 5060, "z9hG4bK1"),
        ("SIP/2.0/TCP name.example;branch=b", "TCP", "name.example", None, "b"),
        ("SIP / 2.0 / UDP first.example: 4000;ttl=16 ;branch = x", "UDP", "first.example", 4000, "x"),
        ("sip/2.0/udp [2001:db8::9]:5070;branch=b;Received=192.0.2.4", "UDP", "2001:db8::9", 5070, "b"),
        ("SIP/2.0/TLS 192.0.2.1", "TLS", "192.0.2.1", None, ""),
    ],
)
@pytest.mark.gb("G007")
def test_via(text: str, transport: str, host: str, port: int | None, branch: str) -> None:
    via = Via.parse(text)
    assert (via.transport, via.host, via.port, via.branch) == (transport, host, port, branch)


def test_via_round_trip() -> None:
    text = "SIP/2.0/UDP [2001:db8::9]:5070;rport;branch=z9hG4bK1"
    assert str(Via.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "UDP 192.0.2.1", "SIP/2.0/UDP", "SIP/2.0/UDP a:b", "SIP/2.0/UDP a:99999"]
)
def test_bad_vias(text: str) -> None:
    with pytest.raises(ParseError):
        Via.parse(text)


def test_cseq() -> None:
    assert CSeq.parse(" 20   MESSAGE ") == CSeq(20, "MESSAGE")
    assert str(CSeq(7, "BYE")) == "7 BYE"
    assert CSeq.parse("4294967295 INVITE").number == 2**32 - 1


@pytest.mark.parametrize(
    "text", ["", "MESSAGE", "1", "-1 BYE", "x BYE", "4294967296 BYE", "9" * 5000 + " BYE", "² BYE"]
)
def test_bad_cseqs(text: str) -> None:
    with pytest.raises(ParseError):
        CSeq.parse(text)
