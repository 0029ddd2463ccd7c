"""Addresses: parse and str are inverses, field shapes of URIs are read, hosts are no identity."""

from __future__ import annotations

import pytest

from sip.errors import ParseError
from sip.uri import NameAddr, SipUri, join_host_port, parse_params, split_host_port, split_outside

CAMERA = "41018300001320000001"


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        (f"sip:{CAMERA}@4101830000", CAMERA, "4101830000", None),
        (f"sip:{CAMERA}@192.0.2.10:5060", CAMERA, "192.0.2.10", 5060),
        (f"sip:{CAMERA}@sip.example.org", CAMERA, "sip.example.org", None),
        (f"SIP:{CAMERA}@4101830000", CAMERA, "4101830000", None),
        ("sips:a@b.example", "a", "b.example", None),
        ("sip:4101830000", "", "4101830000", None),
        ("sip:a@[2001:db8::1]:5061", "a", "2001:db8::1", 5061),
        ("sip:a:secret@b", "a", "b", None),
        ("sip:a%40b@c", "a%40b", "c", None),
        ("sip:a;x=y@c;transport=tcp?h=v", "a;x=y", "c", None),
    ],
)
@pytest.mark.gb("G026")
def test_uri_shapes(text: str, user: str, host: str, port: int | None) -> None:
    uri = SipUri.parse(text)
    assert (uri.user, uri.host, uri.port) == (user, host, port)


@pytest.mark.gb("G026")
def test_one_code_in_three_shapes_is_one_user() -> None:
    shapes = ("4101830000", "192.0.2.10:5060", "platform.example")
    assert {SipUri.parse(f"sip:{CAMERA}@{shape}").user for shape in shapes} == {CAMERA}


@pytest.mark.parametrize(
    "text",
    [
        f"sip:{CAMERA}@4101830000",
        f"sip:{CAMERA}@192.0.2.10:5060;transport=tcp",
        "sip:a@[2001:db8::1]:5061;lr",
        "sip:a@b?Subject=x",
        "tel:+8637112345;phone-context=cn",
    ],
)
def test_uri_round_trip(text: str) -> None:
    assert str(SipUri.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("41018300001320000001", 400),
        ("http://example.org", 416),
        ("sip:", 400),
        ("sip:a@", 400),
        ("sip:a@b:99999", 400),
        ("sip:a@b:port", 400),
        ("sip:a@[2001:db8::1", 400),
        ("sip:a b@c", 400),
        ("sip:a@b c", 400),
    ],
)
def test_bad_uris_say_their_status(text: str, status: int) -> None:
    with pytest.raises(ParseError) as raised:
        SipUri.parse(text)
    assert raised.value.status == status


def test_uri_params() -> None:
    uri = SipUri.parse("sip:a@b;Transport=TCP;lr")
    assert uri.param("transport") == "TCP"
    assert uri.param("lr") == ""
    assert uri.param("maddr") is None


@pytest.mark.parametrize(
    ("text", "display", "user", "tag"),
    [
        (f"<sip:{CAMERA}@4101830000>;tag=1", "", CAMERA, "1"),
        (f"<sip:{CAMERA}@192.0.2.1:5060>", "", CAMERA, ""),
        (f'"North Gate" <sip:{CAMERA}@4101830000>;tag=a;x=y', "North Gate", CAMERA, "a"),
        (f'"a \\"b\\" <c>" <sip:{CAMERA}@d>', 'a "b" <c>', CAMERA, ""),
        (f"Gate <sip:{CAMERA}@4101830000>", "Gate", CAMERA, ""),
        (f"sip:{CAMERA}@4101830000;tag=9", "", CAMERA, "9"),
        (f"  <sip:{CAMERA}@4101830000> ; TAG = 7", "", CAMERA, "7"),
        ("新密 <sip:a@b>;tag=1", "新密", "a", "1"),
    ],
)
def test_name_addr(text: str, display: str, user: str, tag: str) -> None:
    value = NameAddr.parse(text)
    assert (value.display, value.uri.user, value.tag) == (display, user, tag)


@pytest.mark.parametrize("text", ["<sip:a@b>;tag=1", '"x \\"y\\"" <sip:a@b:5060;lr>;tag=1;flag', "<sip:a@b>"])
def test_name_addr_round_trip(text: str) -> None:
    assert str(NameAddr.parse(text)) == text


@pytest.mark.parametrize("text", ["", '"open <sip:a@b>', "<sip:a@b", '"x" sip:a@b', "<>", "<sip:>;tag=1"])
def test_bad_name_addrs(text: str) -> None:
    with pytest.raises(ParseError):
        NameAddr.parse(text)


def test_params_keep_the_first_and_unquote() -> None:
    assert parse_params(';a="x;y";B=2;flag;a=3') == {"a": "x;y", "b": "2", "flag": ""}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("<sip:a,b@c>,d", ["<sip:a,b@c>", "d"]),
        ('"a\\",b",c', ['"a\\",b"', "c"]),
    ],
)
def test_split_outside_of_quotes(text: str, parts: list[str]) -> None:
    assert split_outside(text, ",") == parts


@pytest.mark.parametrize("text", ["192.0.2.1:5060", "[2001:db8::1]:5060", "name.example"])
def test_host_port_round_trip(text: str) -> None:
    assert join_host_port(*split_host_port(text)) == text
