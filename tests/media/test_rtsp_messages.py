"""RTSP without sockets: messages, Transport headers, addresses, session states, digest, RTCP."""

from __future__ import annotations

import hashlib
import struct

import pytest
from rtsp_house import account

from media.readers.rtsp import addresses, rtcp, states
from media.readers.rtsp.digest import NONCE_LIFETIME_S, DigestGate, FailureLimit, Verdict, digest
from media.readers.rtsp.messages import (
    BODY_LIMIT,
    HEAD_LIMIT,
    Fault,
    Interleaved,
    Request,
    RequestReader,
    response,
)
from media.readers.rtsp.states import State
from media.readers.rtsp.transport import choose
from media.rtp import parse_sender_report

DESCRIBE = b"DESCRIBE rtsp://h/live/gate RTSP/1.0\r\nCSeq: 7\r\nAccept: application/sdp\r\n\r\n"


def one(data: bytes) -> object:
    items = RequestReader().feed(data)
    assert len(items) == 1
    return items[0]


# --- messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_messages_in_pieces(size: int) -> None:
    data = (
        b"\r\n" + DESCRIBE + b"$\x01\x00\x05hello" + b"SET_PARAMETER * RTSP/1.0\nCSeq: 8\nContent-Length: 4\n\n\r\n$\r"
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 2\r\n\r\nhi" + DESCRIBE
    )  # fmt: skip
    reader = RequestReader()
    items = [item for at in range(0, len(data), size) for item in reader.feed(data[at : at + size])]
    head = Request("DESCRIBE", "rtsp://h/live/gate", {"cseq": "7", "accept": "application/sdp"})
    body = Request("SET_PARAMETER", "*", {"cseq": "8", "content-length": "4"}, b"\r\n$\r")
    assert items == [head, Interleaved(1, b"hello"), body, head]  # the response is left out, nobody asked
    assert head.cseq == 7


def test_headers_folded_repeated_and_in_any_case() -> None:
    request = one(b"SETUP /a RTSP/1.0\r\ncseq:9\r\nTRANSPORT: a;\r\n\tb\r\nTransport: c\r\n\r\n")
    assert isinstance(request, Request)
    assert request.headers == {"cseq": "9", "transport": "a; b, c"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"DESCRIBE\r\n\r\n", 400),
        (b"DESCRIBE a b c\r\n\r\n", 400),
        (b"OPTIONS * RTSP/1.0\r\nno header\r\n\r\n", 400),
        (b"OPTIONS * RTSP/1.0\r\nContent-Length: -1\r\n\r\n", 400),
        (b"OPTIONS * RTSP/1.0\r\nContent-Length: 9e9\r\n\r\n", 400),
        (b"OPTIONS * RTSP/1.0\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1), 413),
        (b"OPTIONS * RTSP/1.0\r\n" + b"A: b\r\n" * 65 + b"\r\n", 413),
        (b"OPTIONS rtsp://" + b"a" * 5000 + b" RTSP/1.0\r\n\r\n", 414),
        (b"A" * (HEAD_LIMIT + 1), 413),
        (b"OPTIONS * RTSP/1.0\r\nA: " + b"b" * HEAD_LIMIT + b"\r\n\r\n", 413),
    ],
)
def test_what_is_no_request_is_answered_once(data: bytes, status: int) -> None:
    reader = RequestReader()
    items = reader.feed(data)
    assert len(items) == 1
    assert isinstance(items[0], Fault)
    assert items[0].status == status
    assert reader.broken
    assert reader.feed(DESCRIBE) == []


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "99999999999", "٣"])
def test_a_cseq_is_a_number(value: str) -> None:
    assert Request("OPTIONS", "*", {"cseq": value}).cseq is None


def test_a_response() -> None:
    assert response(200, 7, [("Public", "OPTIONS")], b"v=0") == (
        b"RTSP/1.0 200 OK\r\nCSeq: 7\r\nPublic: OPTIONS\r\nContent-Length: 3\r\n\r\nv=0"
    )
    assert response(455, None) == b"RTSP/1.0 455 Method Not Valid in This State\r\n\r\n"


# --- transport, addresses, states ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("RTP/AVP/TCP;unicast;interleaved=2-3", (True, 2, 3)),
        ("RTP/AVP/TCP;interleaved=4", (True, 4, 5)),
        ("RTP/AVP/TCP;unicast", (True, None, None)),
        ("RTP/AVP;unicast;client_port=4588-4589", (False, 4588, 4589)),
        ('RTP/AVP/UDP;unicast;client_port=5000-5001;mode="PLAY"', (False, 5000, 5001)),
        ("RTP/AVP;multicast;ttl=127;port=1-2,RTP/AVP/TCP;unicast;interleaved=0-1", (True, 0, 1)),
        ("RTP/SAVP;unicast;client_port=1-2, RTP/AVP;client_port=9000", (False, 9000, 9001)),
        ("RTP/AVP;multicast", None),
        ("RTP/AVP;unicast", None),
        ("RTP/AVP;unicast;client_port=0-1", None),
        ("RTP/AVP;unicast;client_port=70000-70001", None),
        ("RTP/AVP/TCP;interleaved=255-256", None),
        ('RTP/AVP/TCP;interleaved=0-1;mode="RECORD"', None),
        ("RAW/RAW/UDP;unicast", None),
        ("", None),
    ],
)
def test_the_first_transport_we_can_do(
    header: str, expected: tuple[bool, int | None, int | None] | None
) -> None:
    choice = choose(header)
    assert (None if choice is None else (choice.tcp, choice.first, choice.second)) == expected


def test_the_answer_names_ports_and_ssrc() -> None:
    choice = choose("RTP/AVP;unicast;client_port=4588-4589")
    assert choice is not None
    assert choice.answer(ssrc=0xABC, server_ports=(6000, 6001)) == (
        'RTP/AVP;unicast;client_port=4588-4589;server_port=6000-6001;ssrc=00000ABC;mode="PLAY"'
    )


@pytest.mark.parametrize(
    ("uri", "track"),
    [
        ("rtsp://cam.example:8554/live/gate?ticket=7.ab", None),
        ("rtsp://cam.example:8554/live/gate/trackID=1?ticket=7.ab", 1),
        ("rtsp://cam.example:8554/live/gate?ticket=7.ab/trackID=1", 1),
        ("rtsp://user:secret@cam.example:8554/live/gate/?ticket=7.ab", None),
    ],
)
def test_addresses_of_streams(uri: str, track: int | None) -> None:
    address = addresses.parse(uri)
    assert address is not None
    assert (address.stream_id, address.ticket, address.track) == ("gate", "7.ab", track)
    assert address.base == "rtsp://cam.example:8554/live/gate/"
    assert address.host == "cam.example"
    assert "7.ab" not in repr(address)


def test_addresses_of_channels() -> None:
    address = addresses.parse(
        "rtsp://[::1]/channels/41018300001320000001/trackID=0?device=41018300001180000001&stream=1&token=gbt_x"
    )
    assert address is not None
    assert address.what == ("", "41018300001320000001", "41018300001180000001", 1)
    assert (address.token, address.track, address.host) == ("gbt_x", 0, "::1")
    assert address.base == "rtsp://[::1]/channels/41018300001320000001/"
    assert "gbt_x" not in repr(address)


@pytest.mark.parametrize(
    "uri",
    [
        "*",
        "",
        "rtsp://h",
        "rtsp://h/",
        "rtsp://h/live/",
        "rtsp://h/live/a/b",
        "rtsp://h/live/..%2f",
        "rtsp://h:port/live/a",
        "rtsp://[::1/live/a",
        "http://h/live/a",
        "rtsp://h/channels/a?stream=10",
        "rtsp://h/channels/a?stream=x",
        "rtsp://h/channels/a?device=a/b",
        "rtsp://h/channels/" + "1" * 33,
        "rtsp://h/live/a?" + "&".join(f"a{n}=1" for n in range(20)),
    ],
)
def test_foreign_addresses(uri: str) -> None:
    assert addresses.parse(uri) is None


def test_the_states() -> None:
    table = {
        (state, method): states.step(state, method)
        for state in State
        for method in ("SETUP", "PLAY", "PAUSE", "TEARDOWN")
    }
    wrong = {key for key, after in table.items() if after is None}
    assert wrong == {
        (State.INIT, "PLAY"), (State.INIT, "PAUSE"), (State.INIT, "TEARDOWN"), (State.READY, "PAUSE"),
        (State.PLAYING, "SETUP"),
    }  # fmt: skip
    assert all(states.step(state, "GET_PARAMETER") is state for state in State)


# --- digest ----------------------------------------------------------------------------------------------------

URI = "rtsp://h/channels/41018300001320000001"
CONNECTION = object()


def authorization(
    challenge: str, password: str = "pass word 1", *, nc: int | None = None, user: str = "nvr", **other: str
) -> str:
    """What a client makes of a challenge: with ``nc`` by RFC 2617, without as RFC 2069 clients do."""
    scheme, _, rest = challenge.partition(" ")
    assert scheme == "Digest"
    values = dict(part.split("=", 1) for part in rest.replace('"', "").split(", "))
    algorithm, realm, nonce = values["algorithm"], values["realm"], values["nonce"]
    name = {"MD5": "md5", "SHA-256": "sha256"}[algorithm]

    def h(text: str) -> str:
        return hashlib.new(name, text.encode()).hexdigest()

    ha1, ha2 = h(f"{user}:{realm}:{password}"), h(f"DESCRIBE:{URI}")
    middle = f"{nc:08x}:c:auth:" if nc is not None else ""
    qop = f', qop=auth, nc={nc:08x}, cnonce="c"' if nc is not None else ""
    answer = h(f"{ha1}:{nonce}:{middle}{ha2}")
    values = {"username": user, "realm": realm, "nonce": nonce, "uri": URI, "response": answer, **other}
    listed = ", ".join(f'{key}="{value}"' for key, value in values.items())
    return f"Digest {listed}, algorithm={algorithm}{qop}"


def judged(gate: DigestGate, header: str, *, host: str = "10.0.0.1", now: float = 10.0, connection: object = CONNECTION) -> Verdict:  # fmt: skip  # noqa: E501
    return gate.check(header, method="DESCRIBE", uri=URI, host=host, connection=connection, now=now)[0]


@pytest.fixture
def gate() -> DigestGate:
    return DigestGate([account("nvr", "pass word 1")], "gb28181-gateway")


@pytest.mark.parametrize("algorithm", [0, 1])
@pytest.mark.parametrize("nc", [None, 1])
def test_a_good_password(gate: DigestGate, algorithm: int, nc: int | None) -> None:
    challenge = gate.challenges("10.0.0.1", 10.0)[algorithm]
    assert ("SHA-256" in challenge) == (algorithm == 0)  # MD5 last: FFmpeg and live555 take the last one
    assert judged(gate, authorization(challenge, nc=nc)) is Verdict.OK


@pytest.mark.parametrize("other", [{"password": "wrong"}, {"user": "root"}, {"response": ""}])
def test_a_wrong_proof(gate: DigestGate, other: dict[str, str]) -> None:
    assert judged(gate, authorization(gate.challenges("10.0.0.1", 10.0)[1], **other)) is Verdict.WRONG


@pytest.mark.parametrize(
    "header", ["Basic bnZyOnB3", "Digest", "Digest a", 'Digest username="nvr"', "Digest " + "a=b," * 900]
)
def test_what_is_no_digest(gate: DigestGate, header: str) -> None:  # fmt: skip
    assert judged(gate, header) in (Verdict.MALFORMED, Verdict.STALE)
    assert judged(gate, "") is Verdict.MISSING


def test_foreign_realm_uri_or_algorithm(gate: DigestGate) -> None:
    challenge = gate.challenges("10.0.0.1", 10.0)[1]
    for other in ({"realm": "x"}, {"uri": "rtsp://h/channels/2"}):
        assert judged(gate, authorization(challenge, **other)) is Verdict.MALFORMED
    assert judged(gate, authorization(challenge).replace("=MD5", "=MD5-sess")) is Verdict.MALFORMED


def test_nonces_grow_old_and_belong_to_a_host(gate: DigestGate) -> None:
    header = authorization(gate.challenges("10.0.0.1", 10.0)[1])
    assert judged(gate, header, now=10.0 + NONCE_LIFETIME_S + 1) is Verdict.STALE
    assert judged(gate, header, host="10.0.0.2") is Verdict.STALE
    assert judged(gate, header.replace('nonce="10', 'nonce="99')) is Verdict.STALE
    assert judged(DigestGate([account("nvr", "pass word 1")], "gb28181-gateway"), header) is Verdict.STALE
    assert "stale=true" in gate.challenges("10.0.0.1", 10.0, stale=True)[0]


def test_an_answer_is_good_once(gate: DigestGate) -> None:
    challenge = gate.challenges("10.0.0.1", 10.0)[1]
    second = authorization(challenge, nc=2)
    assert judged(gate, authorization(challenge, nc=1)) is Verdict.OK
    assert judged(gate, second, connection=object()) is Verdict.OK
    assert judged(gate, second) is Verdict.STALE
    assert judged(gate, authorization(challenge, nc=1)) is Verdict.STALE


def test_without_a_count_a_nonce_belongs_to_its_connection(gate: DigestGate) -> None:
    header = authorization(gate.challenges("10.0.0.1", 10.0)[1])
    assert judged(gate, header) is Verdict.OK
    assert judged(gate, header) is Verdict.OK
    assert judged(gate, header, connection=object()) is Verdict.STALE


def test_a_wrong_password_does_not_use_a_nonce_up(gate: DigestGate) -> None:
    challenge = gate.challenges("10.0.0.1", 10.0)[1]
    assert judged(gate, authorization(challenge, "wrong", nc=1), connection=object()) is Verdict.WRONG
    assert judged(gate, authorization(challenge, nc=1)) is Verdict.OK


def test_failures_lock_a_host_for_a_while() -> None:
    limit = FailureLimit()
    for count in range(10):
        assert not limit.locked("10.0.0.1", 5.0 + count)
        limit.fail("10.0.0.1", 5.0 + count)
    assert limit.locked("10.0.0.1", 20.0)
    assert not limit.locked("10.0.0.2", 20.0)
    assert not limit.locked("10.0.0.1", 66.0)
    assert digest("MD5", "") == "d41d8cd98f00b204e9800998ecf8427e"


# --- RTCP ------------------------------------------------------------------------------------------------------


def test_a_sender_report_is_a_compound_with_a_name() -> None:
    data = rtcp.sender_report(7, unix_s=1000.5, rtp_timestamp=90, packets=3, octets=99, name="s@h")
    report = parse_sender_report(data)
    assert report is not None
    assert (report.ssrc, report.rtp_timestamp, report.packets, report.octets) == (7, 90, 3, 99)
    assert report.ntp / 2**32 - rtcp.NTP_EPOCH_S == 1000.5
    kinds, at = [], 0
    for packet in (data, rtcp.goodbye(7, "abcd@h")):
        at = 0
        while at < len(packet):
            kinds.append(packet[at + 1])
            at += 4 * (struct.unpack_from("!H", packet, at + 2)[0] + 1)
        assert at == len(packet)
    assert kinds == [200, 202, 201, 202, 203]
    assert rtcp.is_report(data)
    assert not rtcp.is_report(data[28:])


def test_the_clock_follows_drift_and_leaps_but_not_jitter() -> None:
    clock = rtcp.StreamClock()
    assert clock.ticks(5.0) is None
    clock.heard(0, 100.0)
    assert clock.ticks(101.0) == 90_000
    clock.heard(90_000, 101.3)  # late by 300 ms, once
    assert abs((clock.ticks(101.0) or 0) - 90_000) < 900
    for second in range(2, 3000):  # a camera that is slow by 1000 ppm
        clock.heard(90_000 * second, 100.0 + second * 1.001)
    assert abs((clock.ticks(100.0 + 3000 * 1.001) or 0) - 90_000 * 3000) < 9_000
    clock.heard(0, 9_000.0)
    assert clock.ticks(9_000.0) == 0
