"""The Note header without sockets: the worked example, every algorithm and verdict, signing of our own messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sip.flow import Flow
from sip.message import Request, Response, parse
from sip.note import (
    BEIJING,
    NoteChecker,
    NoteKey,
    NoteVerdict,
    PeerGuard,
    hashed,
    moment_of,
    secret_of,
    signed,
)

DEVICE, SERVER = "41018300001180000001", "41018300002000000001"
NOW = datetime(2026, 11, 22, 2, 0, 0, tzinfo=UTC)
BODY = (
    '<?xml version="1.0" encoding="GB18030"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n  <SN>1</SN>\r\n'
    f"  <DeviceID>{DEVICE}</DeviceID>\r\n  <Status>OK</Status>\r\n</Notify>\r\n"
).encode()
FLOW = Flow("udp", "10.41.183.61", 5060, "10.41.183.10", 5060)


def keepalive(*headers: str, call_id: str = "ka-0002@10.41.183.61", method: str = "MESSAGE") -> bytes:
    lines = [
        f"{method} sip:{SERVER}@4101830000 SIP/2.0",
        "Via: SIP/2.0/UDP 10.41.183.61:5060;rport;branch=z9hG4bKk3",
        f"From: <sip:{DEVICE}@4101830000>;tag=n1a",
        f"To: <sip:{SERVER}@4101830000>",
        f"Call-ID: {call_id}",
        f"CSeq: 22 {method}",
        "Max-Forwards: 70",
        *headers,
        "Content-Type: Application/MANSCDP+xml",
        f"Content-Length: {len(BODY)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + BODY


def verdict(
    data: bytes, key: NoteKey, *, checker: NoteChecker | None = None, mono: float = 0.0, late_s: float = 0
) -> NoteVerdict:
    return (checker or NoteChecker()).check(parse(data), key, mono, NOW + timedelta(seconds=late_s))


@pytest.mark.gb("G278")
def test_the_worked_examples_verify() -> None:
    """2016 annex H with the seed "seed" and MD5; GB 35114 9.4 with VKEK 00..0f and SM3. From and To with their tags."""
    annex = keepalive(
        "Date: 2026-11-22T10:00:00", 'Note: Digest nonce="jfpFbCOr6FVZPp2oFuHSrA==",algorithm=MD5'
    )
    assert verdict(annex, NoteKey(b"seed", "MD5")) is NoteVerdict.OK
    newer = keepalive(
        "Date: 2026-11-22T10:00:00.000",
        'Note: Digest nonce="jMWDqQy34Fd3s0Sp4tg28lGdeHvsxE3JzPu9D2oAqX8=",algorithm=SM3',
    ).replace(b"CSeq: 22", b"CSeq: 21")
    assert verdict(newer, NoteKey(bytes(range(16)), "SM3", "gb35114")) is NoteVerdict.OK
    assert verdict(annex, NoteKey(b"another", "MD5")) is NoteVerdict.WRONG
    assert verdict(annex, NoteKey(b"seed", "SM3")) is NoteVerdict.ALGORITHM  # nobody may choose a weaker one


def test_sm3_by_its_standard_vector() -> None:
    assert hashed("SM3", b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    with pytest.raises(ValueError, match="algorithm"):
        hashed("CRC", b"")


@pytest.mark.gb("G278")
@pytest.mark.parametrize("form", ["annex_h", "gb35114"])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-1", "SHA-256", "SM3"])
def test_what_is_signed_verifies_and_any_change_does_not(algorithm: Any, form: Any) -> None:
    key = NoteKey(b"between us", algorithm, form)
    data = signed(keepalive(), key, NOW)
    assert verdict(data, key) is NoteVerdict.OK
    for was, becomes in (
        (b"<Status>OK", b"<Status>NO"), (b"tag=n1a", b"tag=n1b"), (b"ka-0002", b"ka-0003"), (b"T10:00:0", b"T10:01:0"),
        (b"To: <sip:4", b"To: <sip:5"),
    ):  # fmt: skip
        assert data.count(was) == 1
        assert verdict(data.replace(was, becomes), key) is NoteVerdict.WRONG
    moved = data.replace(b"rport", b"rport;received=10.0.0.1").replace(
        b"Max-Forwards: 70", b"Max-Forwards: 69"
    )
    assert verdict(moved, key) is NoteVerdict.OK  # hops may change these


@pytest.mark.gb("G278")
@pytest.mark.parametrize(
    ("late_s", "expected"), [(0, "ok"), (599, "ok"), (-599, "ok"), (601, "date"), (-601, "date")]
)
def test_the_window_is_ten_minutes(late_s: float, expected: str) -> None:
    key = NoteKey(b"k", "SHA-256")
    assert verdict(signed(keepalive(), key, NOW), key, late_s=late_s) == expected


def test_what_cannot_be_judged() -> None:
    key = NoteKey(b"k", "MD5")
    date = "Date: 2026-11-22T10:00:00"
    assert verdict(keepalive(date), key) is NoteVerdict.MISSING
    assert verdict(keepalive('Note: Digest nonce="x",algorithm=MD5'), key) is NoteVerdict.MISSING
    assert verdict(keepalive(date, "Note: nonsense"), key) is NoteVerdict.MALFORMED
    assert verdict(keepalive(date, "Note: Digest algorithm=MD5"), key) is NoteVerdict.MALFORMED
    assert (
        verdict(keepalive("Date: yesterday", 'Note: Digest nonce="eA==",algorithm=MD5'), key)
        is NoteVerdict.DATE
    )
    assert verdict(keepalive(method="REGISTER"), key) is NoteVerdict.EXEMPT
    assert signed(keepalive(method="REGISTER"), key, NOW) == keepalive(method="REGISTER")


def test_a_repetition_passes_and_a_recording_does_not() -> None:
    key, checker = NoteKey(b"k", "SM3"), NoteChecker()
    data = signed(keepalive(), key, NOW)
    seen = [verdict(data, key, checker=checker, mono=mono, late_s=mono) for mono in (0, 0.5, 31.5, 60, 500)]
    assert seen == ["ok", "ok", "ok", "replayed", "replayed"]
    again = signed(keepalive(call_id="other"), key, NOW)
    assert verdict(again, key, checker=checker, mono=60, late_s=60) is NoteVerdict.OK


def test_the_memory_of_nonces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sip.note._REMEMBERED", 10)
    key, checker = NoteKey(b"k", "MD5"), NoteChecker()
    for number in range(50):
        verdict(signed(keepalive(call_id=str(number)), key, NOW), key, checker=checker)
    assert len(checker._seen) == len(checker._ring) == 10


def test_answers_are_signed_like_requests() -> None:
    clock = [0.0]
    key = NoteKey(b"k", "SM3", "gb35114")
    one = PeerGuard(key, mono=lambda: clock[0], utc=lambda: NOW)
    other = PeerGuard(key, mono=lambda: clock[0], utc=lambda: NOW)
    answer = Response(200, "OK", [
        ("Via", "SIP/2.0/UDP 10.41.183.61:5060;branch=z9hG4bKk3"), ("From", "<sip:a@b>;tag=1"), ("To", "<sip:c@b>;tag=2"),
        ("Call-ID", "x"), ("CSeq", "5 MESSAGE"), ("Date", "old"), ("Content-Length", "0"),
    ])  # fmt: skip
    data = one.protect(answer.to_bytes(), FLOW)
    parsed = parse(data)
    assert isinstance(parsed, Response)
    assert parsed.headers.get("Date") == "2026-11-22T10:00:00.000"
    assert len(parsed.headers.get_all("Date")) == 1
    assert other.admit(parsed, FLOW)
    assert not other.admit(answer, FLOW)
    trying = parse(answer.to_bytes().replace(b"200 OK", b"100 Trying"))
    assert other.admit(trying, FLOW)


def test_header_values_are_hashed_as_they_stand_on_the_wire() -> None:
    """A display name in GB18030: the bytes, not their meaning in another charset."""
    key = NoteKey(b"k", "MD5")
    data = keepalive().replace(b"From: <", 'From: "东街" <'.encode("gb18030"))
    protected = signed(data, key, NOW)
    assert "东街".encode("gb18030") in protected
    request = parse(protected)
    assert isinstance(request, Request)
    assert NoteChecker().check(request, key, 0.0, NOW) is NoteVerdict.OK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T10:00:00", NOW),
        ("2026-11-22T10:00:00.250", NOW + timedelta(milliseconds=250)),
        ("Sun, 22 Nov 2026 02:00:00 GMT", NOW),
        ("2026-11-22T02:00:00+00:00", NOW),
        ("", None),
        ("22:00", None),
    ],
)
def test_dates_are_read_in_beijing_time_or_as_rfc_3261_has_them(text: str, expected: datetime | None) -> None:
    found = moment_of(text)
    assert found == expected if expected is not None else found is None or found.tzinfo is BEIJING


def test_secrets_come_as_text_hexadecimal_or_base64() -> None:
    assert secret_of("种子", "text") == "种子".encode()
    assert secret_of("00ff", "hex") == b"\x00\xff"
    assert secret_of("AP8=", "base64") == b"\x00\xff"
    for text, encoding in (("0g", "hex"), ("***", "base64")):
        with pytest.raises(ValueError, match=encoding):
            secret_of(text, encoding)
