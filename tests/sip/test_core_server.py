"""The server side of the core: which requests it answers itself, where answers go, and that nothing runs twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sip_wire import CAMERA, DOMAIN, FLOW, TCP_FLOW, Counter, make_core, only_request, sent, statuses, wire

from sip.core import (
    AckMissed,
    Acknowledged,
    CoreLimits,
    DialogEnded,
    InviteCancelled,
    RequestReceived,
    SipCore,
)
from sip.dialog import Dialog
from sip.flow import Flow
from sip.message import Request, Response, parse
from sip.transaction import InviteServerTransaction

SDP = b"v=0\r\n"


def receive(core: SipCore, data: bytes, *, flow: Flow = FLOW, now: float = 0.0) -> None:
    core.receive(data, flow, now)


def refused(core: SipCore) -> Response:
    """The one answer that the core gave by itself; nothing reached the caller."""
    assert core.events() == []
    (message,) = sent(core)
    assert isinstance(message, Response)
    return message


def run(core: SipCore, until: float) -> None:
    while core.next_timer() <= until:
        core.handle_timer(core.next_timer())


# -- non-INVITE -------------------------------------------------------------------------------------------


@pytest.mark.gb("G008")
def test_a_repeated_request_gets_the_stored_answer_and_is_not_executed_again() -> None:
    counter = Counter()
    core = make_core(observer=counter)
    data = wire(body=b"<Control/>")
    receive(core, data)
    core.respond(only_request(core).transaction, 200, 0.0)
    (first,) = core.to_send()
    for now in (0.5, 1.5, 3.5):
        receive(core, data, now=now)
        assert core.events() == []
        assert core.to_send() == [first]
    assert counter.repeated == [("MESSAGE", "in")] * 3


@pytest.mark.gb("G008")
def test_a_repetition_while_the_work_goes_on_is_swallowed() -> None:
    core = make_core()
    receive(core, wire())
    event = only_request(core)
    receive(core, wire(), now=0.5)
    assert core.events() == []
    assert core.to_send() == []
    core.respond(event.transaction, 200, 1.0)
    core.respond(event.transaction, 500, 1.1)
    assert statuses(core) == [200]


def test_stored_answers_expire() -> None:
    core = make_core()
    receive(core, wire())
    core.respond(only_request(core).transaction, 200, 0.0)
    assert core.counts["stored_answers"] == 1
    core.handle_timer(core.next_timer())
    assert core.counts["stored_answers"] == 0


def test_stored_answers_are_bounded() -> None:
    counter = Counter()
    core = make_core(limits=CoreLimits(stored_answers=100), observer=counter)
    for number in range(300):
        receive(core, wire(call_id=f"c{number}"))
        core.respond(only_request(core).transaction, 200, 0.0)
    assert core.counts["stored_answers"] == 100
    assert counter.dropped_labels == ["stored_answer"] * 200


def test_a_stream_stores_nothing() -> None:
    core = make_core()
    receive(core, wire(), flow=TCP_FLOW)
    core.respond(only_request(core).transaction, 200, 0.0)
    assert core.counts["stored_answers"] == 0


@pytest.mark.quirk(32)
@pytest.mark.parametrize("branch", ["", ";branch=z3hG9bK1", ";branch=1"])
def test_requests_without_the_magic_cookie_are_told_apart_as_in_rfc_2543(branch: str) -> None:
    """``Via: SIP/2.0/UDP 192.0.2.10:5060`` alone, or with a branch that starts ``z3hG9bK``."""
    core = make_core()
    via = f"SIP/2.0/UDP 192.0.2.10:5060;rport{branch}"
    for number in (1, 2):
        receive(core, wire(via=via, cseq=number))
        core.respond(only_request(core).transaction, 200, 0.0)
        assert statuses(core) == [200]
        receive(core, wire(via=via, cseq=number))
        assert core.events() == []
        assert statuses(core) == [200]
    receive(core, wire(via=via, cseq=2, call_id="another"))
    assert only_request(core).request.call_id == "another"


def test_devices_behind_different_nats_may_draw_the_same_branch() -> None:
    core = make_core()
    receive(core, wire())
    first = only_request(core)
    core.respond(first.transaction, 200, 0.0)
    receive(core, wire(), flow=replace(FLOW, host="198.51.100.9"))
    assert only_request(core).flow.host == "198.51.100.9"


@pytest.mark.gb("G017")
def test_the_answer_copies_what_it_must() -> None:
    core = make_core(user_agent="gateway")
    data = wire(
        via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1",
        extra=(("Via", "SIP/2.0/TCP 198.51.100.2;branch=z9hG4bK0"), ("Record-Route", "<sip:p;lr>")),
    )
    receive(core, data)
    core.respond(only_request(core).transaction, 200, 0.0, headers=[("Expires", "60")])
    (answer,) = sent(core)
    assert isinstance(answer, Response)
    assert answer.headers.get_all("Via") == [
        "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1",
        "SIP/2.0/TCP 198.51.100.2;branch=z9hG4bK0",
    ]
    assert answer.headers.get("From") == f"<sip:{CAMERA}@{DOMAIN}>;tag=camera"
    assert answer.to.tag
    assert (answer.call_id, str(answer.cseq), answer.expires) == ("call-1", "1 MESSAGE", 60)
    assert answer.headers.get("Record-Route") == "<sip:p;lr>"
    assert answer.headers.get("Server") == "gateway"
    assert answer.headers.get("Content-Length") == "0"


# -- where answers go -------------------------------------------------------------------------------------

NAT = replace(FLOW, host="203.0.113.5", port=61000)


@pytest.mark.parametrize(
    ("via", "flow", "port", "wanted"),
    [
        # rport: the source, and both parameters are filled
        (
            "192.0.2.10:5060;rport;branch=z9hG4bK1",
            NAT,
            61000,
            ";rport=61000;branch=z9hG4bK1;received=203.0.113.5",
        ),
        ("192.0.2.10:5060;branch=z9hG4bK1;rport", NAT, 61000, ";rport=61000;received=203.0.113.5"),
        ("192.0.2.10:5060;rport=;branch=b", NAT, 61000, ";rport=61000;branch=b;received=203.0.113.5"),
        ("192.0.2.10:5060;RPORT;branch=b", NAT, 61000, ";rport=61000;branch=b;received=203.0.113.5"),
    ],
)
@pytest.mark.gb("G021")
def test_rport(via: str, flow: Flow, port: int, wanted: str) -> None:
    core = make_core()
    receive(core, wire(via=f"SIP/2.0/UDP {via}"), flow=flow)
    core.respond(only_request(core).transaction, 200, 0.0)
    ((data, destination),) = core.to_send()
    assert (destination.host, destination.port) == ("203.0.113.5", port)
    assert parse(data).headers.get("Via").endswith(wanted)


@pytest.mark.parametrize(
    ("sent_by", "port"),
    [
        ("192.168.1.64:5060", 61000),  # private and not the source: behind a NAT (G022)
        ("10.0.0.3:5060", 61000),
        ("0.0.0.0:5060", 61000),
        ("camera.local:5060", 61000),
        ("8.8.8.8:5062", 5062),  # public but another: RFC 3261 18.2.2, the sent-by port of the source host
        ("203.0.113.5:5070", 5070),  # the source itself, listening elsewhere
        ("203.0.113.5", 5060),
        ("203.0.113.5:61000", 61000),
    ],
)
@pytest.mark.gb("G022")
def test_answers_without_rport(sent_by: str, port: int) -> None:
    core = make_core()
    receive(core, wire(via=f"SIP/2.0/UDP {sent_by};branch=z9hG4bK1"), flow=NAT)
    core.respond(only_request(core).transaction, 200, 0.0)
    ((data, destination),) = core.to_send()
    assert (destination.host, destination.port) == ("203.0.113.5", port)
    assert ("received=203.0.113.5" in parse(data).headers.get("Via")) == (
        not sent_by.startswith("203.0.113.5")
    )


@pytest.mark.quirk(47)
def test_false_via_and_contact_over_tcp_do_not_matter() -> None:
    """``Via: SIP/2.0/TCP 192.168.3.99:5060`` on a connection from elsewhere: back on the connection."""
    core = make_core()
    receive(core, wire(via="SIP/2.0/TCP 192.168.3.99:5060;branch=z9hG4bK1"), flow=TCP_FLOW)
    core.respond(only_request(core).transaction, 200, 0.0)
    ((_, destination),) = core.to_send()
    assert destination == TCP_FLOW


# -- what the core refuses --------------------------------------------------------------------------------


@pytest.mark.gb("G025")
def test_unknown_methods_get_405_with_allow() -> None:
    core = make_core()
    receive(core, wire("PUBLISH"))
    answer = refused(core)
    assert answer.status == 405
    for method in ("INVITE", "ACK", "INFO", "CANCEL", "BYE", "OPTIONS", "MESSAGE"):
        assert method in answer.headers.get("Allow").split(", ")


@pytest.mark.gb("G019")
@pytest.mark.parametrize("method", ["MESSAGE", "INVITE", "SUBSCRIBE", "REGISTER"])
def test_max_forwards_0_gets_483(method: str) -> None:
    core = make_core()
    receive(core, wire(method, extra=(("Max-Forwards", "0"),)))
    assert refused(core).status == 483


@pytest.mark.gb("G016")
@pytest.mark.parametrize("method", ["BYE", "INFO", "NOTIFY", "SUBSCRIBE", "INVITE"])
def test_requests_of_unknown_dialogs_get_481(method: str) -> None:
    core = make_core()
    receive(core, wire(method, to=f"<sip:x@{DOMAIN}>;tag=unknown"))
    answer = refused(core)
    assert answer.status == 481
    assert answer.to.tag == "unknown"


@pytest.mark.gb("G016")
@pytest.mark.parametrize("method", ["BYE", "INFO", "NOTIFY"])
def test_in_dialog_methods_without_to_tag_get_481(method: str) -> None:
    core = make_core()
    receive(core, wire(method))
    assert refused(core).status == 481


@pytest.mark.quirk(32)
@pytest.mark.parametrize("method", ["MESSAGE", "REGISTER", "OPTIONS"])
def test_a_foreign_to_tag_does_not_hurt_where_no_dialog_is_needed(method: str) -> None:
    """``To: <sip:…>;tag=…`` on a MESSAGE outside of any dialog."""
    core = make_core()
    receive(core, wire(method, to=f"<sip:x@{DOMAIN}>;tag=foreign"))
    event = only_request(core)
    assert event.dialog is None
    core.respond(event.transaction, 200, 0.0)
    (answer,) = sent(core)
    assert answer.to.tag == "foreign"


@pytest.mark.gb("G112")
def test_stray_notify_in_both_modes() -> None:
    notify = wire("NOTIFY", to="<sip:a@b>;tag=old", extra=(("Event", "Catalog"),))
    strict, tolerant = make_core(), make_core(stray_notify=True)
    receive(strict, notify)
    assert refused(strict).status == 481
    receive(tolerant, notify)
    assert only_request(tolerant).request.method == "NOTIFY"


@pytest.mark.parametrize(
    ("changes", "status", "header"),
    [
        ({"extra": (("Require", "100rel"),)}, 420, ("Unsupported", "100rel")),
        ({"uri": "http://example.org/"}, 416, None),
        ({"uri": "mailto:a@b"}, 416, None),
        ({"uri": "nonsense"}, 400, None),
        ({"extra": (("Content-Encoding", "gzip"),)}, 415, ("Accept-Encoding", "identity")),
        ({"drop": ("From",)}, 400, ("CSeq", "1 MESSAGE")),
        ({"drop": ("To",)}, 400, ("CSeq", "1 MESSAGE")),
        ({"drop": ("Call-ID",)}, 400, ("CSeq", "1 MESSAGE")),
        ({"drop": ("CSeq",)}, 400, ("Call-ID", "call-1")),
        ({"cseq": "1 INVITE"}, 400, None),
        ({"cseq": "x MESSAGE"}, 400, None),
        ({"cseq": "99999999999 MESSAGE"}, 400, None),
        ({"length": 50, "body": b"short"}, 400, None),
        ({"length": "many"}, 400, None),
        ({"extra": (("Call-ID", "second"),)}, 400, None),
        ({"extra": (("To", "<sip:a@b>"),)}, 400, None),
    ],
)
def test_faults_are_answered(changes: dict[str, object], status: int, header: tuple[str, str] | None) -> None:
    core = make_core()
    receive(core, wire(**changes))  # type: ignore[arg-type]
    answer = refused(core)
    assert answer.status == status
    if header is not None:
        assert answer.headers.get(header[0]) == header[1]


@pytest.mark.gb("G005")
def test_two_crafted_datagrams() -> None:
    body = b"<?xml version='1.0'?><Notify><SN>1</SN></Notify>"
    core = make_core()
    receive(core, wire(body=body + b"EXCESS", length=len(body)))
    assert only_request(core).request.body == body
    receive(core, wire(body=body, length=len(body) + 1, call_id="other"))
    assert refused(core).status == 400


@pytest.mark.gb("G027")
@pytest.mark.parametrize(
    ("data", "label"),
    [
        (wire(drop=("Via",)), "missing_header"),
        (wire(drop=("Call-ID", "CSeq")), "missing_header"),
        (wire("ACK", drop=("To",)), "missing_header"),
        (wire("ACK", length=50), "short_body"),
        (wire(via="nonsense"), "via"),
        (b"\xff\xfe" * 50, "start_line"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "start_line"),
        (b"SIP/2.0 200 OK\r\n\r\n", "missing_header"),
        (b"jaK", "start_line"),
    ],
)
def test_what_cannot_be_answered_is_counted_in_silence(data: bytes, label: str) -> None:
    counter = Counter()
    core = make_core(observer=counter)
    receive(core, data)
    assert core.events() == []
    assert core.to_send() == []
    assert counter.malformed_labels == [label]


def test_another_sip_version_is_told() -> None:
    core = make_core()
    receive(core, wire().replace(b"SIP/2.0\r\nVia", b"SIP/7.0\r\nVia"))
    assert refused(core).status == 505


def test_a_huge_header_block_gets_513() -> None:
    core = make_core()
    receive(core, wire(extra=(("X-Note", "n" * 20_000),)).replace(b"Via", b"Via", 1))
    assert refused(core).status == 513


# -- INVITE -----------------------------------------------------------------------------------------------


def invited(
    core: SipCore, *, flow: Flow = FLOW, **changes: object
) -> tuple[RequestReceived, InviteServerTransaction]:
    receive(core, wire("INVITE", body=SDP, content_type="application/sdp", **changes), flow=flow)  # type: ignore[arg-type]
    event = only_request(core)
    assert isinstance(event.transaction, InviteServerTransaction)
    return event, event.transaction


def accepted(core: SipCore, *, now: float = 0.0, flow: Flow = FLOW) -> tuple[Dialog, Response]:
    """An INVITE answered with 200; the dialog and the 200."""
    _, transaction = invited(core, flow=flow)
    sent(core)
    dialog = core.open_dialog(transaction, "invite")
    core.respond(transaction, 200, now, headers=[("Contact", "<sip:us@192.0.2.1>")], body=SDP)
    (answer,) = sent(core)
    assert isinstance(answer, Response)
    return dialog, answer


def in_dialog(answer: Response, method: str, cseq: int, **changes: object) -> bytes:
    return wire(
        method,
        to=answer.headers.get("To"),
        cseq=cseq,
        via=f"SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK-{method}{cseq}",
        **changes,  # type: ignore[arg-type]
    )


def test_100_at_once_and_again_for_a_repetition() -> None:
    core = make_core()
    invited(core)
    (trying,) = sent(core)
    assert isinstance(trying, Response)
    assert (trying.status, trying.to.tag) == (100, "")
    receive(core, wire("INVITE", body=SDP, content_type="application/sdp"), now=0.5)
    assert core.events() == []
    assert statuses(core) == [100]


@pytest.mark.gb("G013")
def test_200_is_repeated_then_bye_when_no_ack_comes() -> None:
    counter = Counter()
    core = make_core(observer=counter)
    dialog, _ = accepted(core)
    repeats = []
    while core.counts["dialogs"]:
        now = core.next_timer()
        core.handle_timer(now)
        repeats += [(now, what) for what in statuses(core)]
    assert repeats[:5] == [(0.5, 200), (1.5, 200), (3.5, 200), (7.5, 200), (11.5, 200)]
    assert repeats[-1] == (32.0, "BYE")
    (event,) = core.events()
    assert isinstance(event, AckMissed)
    assert event.transaction.dialog is dialog


@pytest.mark.gb("G013")
def test_ack_ends_the_repetition_and_brings_its_body() -> None:
    core = make_core()
    dialog, answer = accepted(core)
    receive(core, in_dialog(answer, "ACK", 1, body=b"v=0\r\nack", content_type="application/sdp"), now=0.3)
    (event,) = core.events()
    assert isinstance(event, Acknowledged)
    assert event.request.body == b"v=0\r\nack"
    run(core, 60.0)
    assert core.to_send() == []
    assert core.counts["dialogs"] == 1
    assert core.counts["server_invites"] == 0
    core.forget_dialog(dialog)
    assert core.counts["dialogs"] == 0


def test_an_ack_with_a_wrong_cseq_is_found_by_its_dialog() -> None:
    core = make_core()
    _, answer = accepted(core)
    receive(core, in_dialog(answer, "ACK", 7))
    (event,) = core.events()
    assert isinstance(event, Acknowledged)


def test_an_ack_of_another_host_or_of_nothing_is_dropped() -> None:
    core = make_core()
    _, answer = accepted(core)
    receive(core, in_dialog(answer, "ACK", 1), flow=replace(FLOW, host="198.51.100.1"))
    receive(core, wire("ACK", call_id="unknown"))
    assert core.events() == []
    assert core.to_send() == []


@pytest.mark.gb("G014")
def test_cancel_gives_200_and_487() -> None:
    core = make_core()
    _, transaction = invited(core)
    core.respond(transaction, 180, 0.0)
    ringing = sent(core)[-1]
    receive(core, wire("CANCEL"), now=1.0)
    ok, terminated = sent(core)
    assert isinstance(ok, Response)
    assert isinstance(terminated, Response)
    assert (ok.status, str(ok.cseq)) == (200, "1 CANCEL")
    assert (terminated.status, str(terminated.cseq)) == (487, "1 INVITE")
    assert ok.to.tag == terminated.to.tag == ringing.to.tag
    (event,) = core.events()
    assert isinstance(event, InviteCancelled)
    core.respond(transaction, 200, 1.1)
    assert core.to_send() == []
    receive(core, wire("ACK", to=terminated.headers.get("To")), now=1.2)
    run(core, 100.0)
    assert core.to_send() == []
    assert core.counts["server_invites"] == 0


def test_487_is_repeated_until_its_ack() -> None:
    core = make_core()
    invited(core)
    receive(core, wire("CANCEL"))
    sent(core)
    run(core, 4.0)
    assert statuses(core) == [487, 487, 487]


def test_cancel_with_another_branch_is_matched_all_the_same() -> None:
    core = make_core()
    invited(core)
    sent(core)
    receive(core, wire("CANCEL", via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-other"))
    assert statuses(core) == [200, 487]


def test_cancel_of_nothing_or_from_another_host_gets_481() -> None:
    core = make_core()
    receive(core, wire("CANCEL"))
    assert refused(core).status == 481
    invited(core)
    sent(core)
    receive(core, wire("CANCEL", cseq=1), flow=replace(FLOW, host="198.51.100.1"))
    assert refused(core).status == 481


def test_cancel_after_the_final_answer_changes_nothing() -> None:
    core = make_core()
    accepted(core)
    receive(core, wire("CANCEL"))
    assert statuses(core) == [200]
    assert core.events() == []
    assert core.counts["dialogs"] == 1


def test_a_merged_invite_gets_482() -> None:
    core = make_core()
    invited(core)
    sent(core)
    receive(core, wire("INVITE", via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-second"))
    assert refused(core).status == 482


def test_too_many_invites_get_503_with_retry_after() -> None:
    core = make_core(limits=CoreLimits(open_invites=2))
    for number in range(3):
        receive(core, wire("INVITE", call_id=f"c{number}"))
    assert len(core.events()) == 2
    *_, answer = sent(core)
    assert isinstance(answer, Response)
    assert answer.status == 503
    assert int(answer.headers.get("Retry-After")) > 0


def test_bye_ends_the_dialog_once() -> None:
    core = make_core()
    dialog, answer = accepted(core)
    receive(core, in_dialog(answer, "ACK", 1))
    core.events()
    bye = in_dialog(answer, "BYE", 2)
    receive(core, bye)
    assert statuses(core) == [200]
    (event,) = core.events()
    assert isinstance(event, DialogEnded)
    assert event.dialog is dialog
    receive(core, bye)
    assert statuses(core) == [200]
    receive(core, in_dialog(answer, "BYE", 3))
    assert refused(core).status == 481


def test_bye_instead_of_the_ack_ends_the_repetition() -> None:
    core = make_core()
    _, answer = accepted(core)
    receive(core, in_dialog(answer, "BYE", 2))
    assert statuses(core) == [200]
    run(core, 100.0)
    assert core.to_send() == []
    assert [type(event) for event in core.events()] == [DialogEnded]


def test_cseq_that_runs_backward() -> None:
    core = make_core()
    _, answer = accepted(core)
    receive(core, in_dialog(answer, "ACK", 1))
    receive(core, in_dialog(answer, "INFO", 9))
    core.events()
    receive(core, in_dialog(answer, "INFO", 5))
    assert refused(core).status == 500
    receive(core, in_dialog(answer, "MESSAGE", 6))
    assert only_request(core).dialog is not None


def test_a_dialog_is_known_by_its_tags() -> None:
    core = make_core()
    _, answer = accepted(core)
    receive(core, in_dialog(answer, "INFO", 2, from_=f"<sip:{CAMERA}@{DOMAIN}>;tag=stranger"))
    assert refused(core).status == 481
    receive(core, in_dialog(answer, "INFO", 3))
    assert only_request(core).dialog is not None


@pytest.mark.quirk(41)
def test_a_peer_without_tags_is_known_by_call_id_and_host() -> None:
    core = make_core()
    accepted(core)
    receive(core, wire("BYE", cseq=2), flow=replace(FLOW, host="198.51.100.1"))
    assert refused(core).status == 481
    receive(core, wire("BYE", cseq=2, via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-b"))
    assert statuses(core) == [200]


def test_re_invite_comes_with_its_dialog() -> None:
    core = make_core()
    dialog, answer = accepted(core)
    receive(core, in_dialog(answer, "ACK", 1))
    core.events()
    receive(core, in_dialog(answer, "INVITE", 2, body=SDP, content_type="application/sdp"))
    event = only_request(core)
    assert event.dialog is dialog
    sent(core)
    core.respond(event.transaction, 488, 0.0)
    (refusal,) = sent(core)
    assert refusal.headers.get("To") == answer.headers.get("To")


@pytest.mark.gb("G018")
def test_our_requests_in_the_dialog_go_to_the_flow_with_the_contact_as_uri() -> None:
    core = make_core()
    flow = replace(FLOW, host="203.0.113.5", port=61000)
    receive(
        core,
        wire(
            "INVITE", extra=(("Contact", "<sip:device@192.168.1.64:5060>"), ("Record-Route", "<sip:p1;lr>"))
        ),
        flow=flow,
    )
    event = only_request(core)
    dialog = core.open_dialog(event.transaction, "invite")
    core.respond(event.transaction, 200, 0.0)
    core.to_send()
    numbers = []
    for method in ("INFO", "INFO", "BYE"):
        core.request(dialog.next_request(method, []), dialog.destination, 1.0)
        ((data, destination),) = core.to_send()
        request = parse(data)
        assert isinstance(request, Request)
        assert destination == flow
        assert request.uri == "sip:device@192.168.1.64:5060"
        assert request.headers.get("Route") == "<sip:p1;lr>"
        assert request.to.tag == "camera"
        assert request.from_.tag == dialog.local_tag
        numbers.append(request.cseq.number)
    assert numbers == [1, 2, 3]
