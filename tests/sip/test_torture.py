"""Messages made to break parsers, through the whole core: handed on, refused with the right status, or silence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sip_wire import FLOW, Counter, make_core, sent

from sip.core import RequestReceived
from sip.errors import ParseError
from sip.message import Request, Response, parse

OWN = Path(__file__).parents[1] / "data" / "sip"
RFC_4475 = Path(os.environ.get("GB_CORPUS", "no-corpus")) / "rfc4475"
"""The messages of RFC 4475 as *.dat files below, where somebody has them; the project's own are always there."""

PASSES: int = 0
SILENCE: int = -1

OUTCOMES = {
    "blanks-and-folds": PASSES,
    "odd-method": 405,
    "escaped-user": PASSES,
    "semicolon-user": PASSES,
    "many-vias": PASSES,
    "long-values": PASSES,
    "two-in-one": PASSES,
    "old-style": PASSES,
    "bare-cookie": PASSES,
    "chinese-gb18030": PASSES,
    "zero-hops-options": PASSES,
    "huge-expires": PASSES,
    "short-body": 400,
    "negative-length": 400,
    "two-lengths": 400,
    "huge-cseq": 400,
    "other-method-in-cseq": 400,
    "angle-request-uri": 400,
    "blank-in-request-uri": 400,
    "blanks-in-start-line": 400,
    "blank-behind-version": 400,
    "version-7": 505,
    "foreign-scheme": 416,
    "unknown-extension": 420,
    "few-headers": 400,
    "no-hops-message": 483,
    "broken-via": SILENCE,
    "status-out-of-range": SILENCE,
    "stray-answer": SILENCE,
    "broken-ack": SILENCE,
    "only-blanks": SILENCE,
    "fragment-of-xml": SILENCE,
    "open-quote": PASSES,
}

# RFC 4475 says for each message what an element should do; where it leaves a choice, ours is named
RFC_OUTCOMES = {
    "dblreq": PASSES,
    "esc01": PASSES,
    "esc02": 405,  # its method is RE%47IST%45R, which is not REGISTER
    "escnull": PASSES,
    "intmeth": 405,
    "longreq": PASSES,
    "lwsdisp": PASSES,
    "mpart01": PASSES,
    "noreason": SILENCE,
    "semiuri": PASSES,
    "transports": PASSES,
    "unreason": SILENCE,
    "wsinv": 481,  # it stands inside a dialog that is not ours
    "badaspec": PASSES,
    "badbranch": PASSES,
    "baddate": PASSES,
    "baddn": PASSES,
    "badinv01": PASSES,  # empty parameters of a Via are passed over
    "badvers": 505,
    "bcast": SILENCE,
    "bext01": 420,
    "bigcode": SILENCE,
    "clerr": 400,
    "cparam01": PASSES,
    "cparam02": PASSES,
    "escruri": PASSES,
    "insuf": 400,
    "inv2543": PASSES,
    "invut": PASSES,  # 415 is the endpoint's, which knows what bodies it takes
    "ltgtruri": 400,
    "lwsruri": 400,
    "lwsstart": 400,
    "mcl01": 400,
    "mismatch01": 400,
    "mismatch02": 400,
    "multi01": 400,
    "ncl": 400,
    "novelsc": 416,
    "quotbal": PASSES,  # refused when somebody reads the To
    "regaut01": PASSES,
    "regbadct": PASSES,
    "regescrt": PASSES,
    "scalar02": 400,
    "scalarlg": SILENCE,
    "sdp01": PASSES,
    "test": SILENCE,
    "trws": 400,
    "unkscm": 416,
    "unksm2": PASSES,
    "zeromf": PASSES,
}


def outcome(data: bytes) -> int:
    """Status of the core's own final answer, PASSES when the caller gets an event, SILENCE for neither."""
    counter = Counter()
    core = make_core(observer=counter)
    core.receive(data, FLOW, 0.0)
    events = core.events()
    answers = [m.status for m in sent(core) if isinstance(m, Response) and m.status >= 200]
    if events:
        assert answers == []
        assert len(events) == 1
        assert isinstance(events[0], RequestReceived)
        return PASSES
    if answers:
        assert len(answers) == 1
        return answers[0]
    assert counter.malformed_labels or counter.dropped_labels
    return SILENCE


@pytest.mark.gb("G027")
@pytest.mark.parametrize("name", sorted(path.stem for path in OWN.glob("*.sip")))
def test_own_torture_messages(name: str) -> None:
    assert outcome((OWN / f"{name}.sip").read_bytes()) == OUTCOMES[name]


def test_every_own_message_is_there() -> None:
    assert {path.stem for path in OWN.glob("*.sip")} == set(OUTCOMES)


@pytest.mark.skipif(not RFC_4475.is_dir(), reason="GB_CORPUS names no folder with RFC 4475 messages")
def test_rfc_4475() -> None:
    found = {path.stem: outcome(path.read_bytes()) for path in RFC_4475.glob("*/*.dat")}
    assert found == RFC_OUTCOMES


@pytest.mark.gb("G007")
def test_blanks_and_folds_are_read_right() -> None:
    message = parse((OWN / "blanks-and-folds.sip").read_bytes())
    assert (message.via.host, message.via.port, message.via.branch) == ("192.0.2.10", 5060, "z9hG4bKtort")
    assert (message.from_.display, message.from_.tag) == ("Gate", "t1")
    assert (message.cseq.number, message.cseq.method) == (1, "MESSAGE")
    assert (message.call_id, message.content_type, message.body) == (
        "torture",
        "application/manscdp+xml",
        b"<Notify/>",
    )


def test_escapes_are_kept_as_text() -> None:
    message = parse((OWN / "escaped-user.sip").read_bytes())
    assert message.from_.display == 'a " ; , <b>'
    assert message.from_.uri.user == "%34101%38"
    assert (message.from_.uri.params, message.from_.uri.headers) == (";x=%3B", "?y=%20z")


def test_only_the_first_of_two_messages_counts() -> None:
    message = parse((OWN / "two-in-one.sip").read_bytes())
    assert isinstance(message, Request)
    assert (message.method, message.body) == ("REGISTER", b"")


def test_vias_of_all_kinds_come_back_in_order() -> None:
    core = make_core()
    data = (OWN / "many-vias.sip").read_bytes()
    core.receive(data, FLOW, 0.0)
    (event,) = core.events()
    assert isinstance(event, RequestReceived)
    core.respond(event.transaction, 200, 0.0)
    (answer,) = sent(core)
    vias = parse(data).headers.get_all("Via")
    assert answer.headers.get_all("Via")[1:] == vias[1:]
    assert answer.via.params["rport"] == "5060"


def test_an_open_quote_is_found_when_the_header_is_read() -> None:
    with pytest.raises(ParseError):
        _ = parse((OWN / "open-quote.sip").read_bytes()).from_


def test_chinese_in_gb18030() -> None:
    data = (OWN / "chinese-gb18030.sip").read_bytes()
    message = parse(data)
    assert message.from_.display == "新密市西大街"
    assert message.to_bytes() == data
