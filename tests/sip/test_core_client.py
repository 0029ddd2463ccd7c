"""The client side of the core: requests, ACK, CANCEL and crossing answers, large requests, lost connections."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sip_wire import CAMERA, DOMAIN, FLOW, SERVER, TCP_FLOW, Counter, answer, make_core, statuses

from sip.core import CoreLimits, FlowLost, ResponseReceived, SipCore, TransactionFailed
from sip.dialog import Dialog
from sip.errors import TransactionTimeout, TransportFailed
from sip.flow import Flow, Target
from sip.message import Request, parse
from sip.transaction import ClientTransaction

TARGET = Target(f"sip:{CAMERA}@{DOMAIN}", FLOW.host, FLOW.port)
SDP = b"v=0\r\n"


def make_request(
    method: str = "MESSAGE", *, number: int = 1, call_id: str = "ours-1", body: bytes = b""
) -> Request:
    return Request(
        method,
        TARGET.uri,
        [
            ("From", f"<sip:{SERVER}@{DOMAIN}>;tag=us"),
            ("To", f"<sip:{CAMERA}@{DOMAIN}>"),
            ("Call-ID", call_id),
            ("CSeq", f"{number} {method}"),
            *([("Contact", "<sip:us@192.0.2.1:5060>")] if method == "INVITE" else []),
        ],
        body,
    )


def start(
    core: SipCore, method: str = "MESSAGE", destination: Flow | Target = TARGET, **changes: object
) -> tuple[ClientTransaction, bytes]:
    """Send a request; its transaction and its bytes."""
    transaction = core.request(make_request(method, **changes), destination, 0.0)  # type: ignore[arg-type]
    ((data, _),) = core.to_send()
    return transaction, data


def run(core: SipCore, until: float) -> None:
    while core.next_timer() <= until:
        core.handle_timer(core.next_timer())


def request_of(data: bytes) -> Request:
    message = parse(data)
    assert isinstance(message, Request)
    return message


@pytest.mark.gb("G017", "G019")
def test_a_thousand_requests_have_a_thousand_branches() -> None:
    core = make_core(user_agent="gateway")
    branches = set()
    for number in range(1000):
        _, data = start(core, call_id=f"c{number}")
        request = request_of(data)
        assert request.via.branch.startswith("z9hG4bK")
        assert request.headers.get("Max-Forwards") == "70"
        assert request.headers.get("User-Agent") == "gateway"
        assert "rport" in request.via.params
        branches.add(request.via.branch)
    assert len(branches) == 1000


@pytest.mark.gb("G019")
def test_max_forwards_of_a_relayed_request_is_kept() -> None:
    core = make_core()
    request = make_request()
    request.headers.add("Max-Forwards", "41")
    core.request(request, TARGET, 0.0)
    ((data, _),) = core.to_send()
    assert request_of(data).max_forwards == 41


@pytest.mark.gb("G009")
def test_eleven_sends_and_a_timeout() -> None:
    counter = Counter()
    core = make_core(observer=counter)
    transaction, data = start(core)
    sends = [data]
    while core.counts["client_transactions"]:
        core.handle_timer(core.next_timer())
        sends += [out for out, _ in core.to_send()]
    assert len(sends) == 11
    assert set(sends) == {data}
    (event,) = core.events()
    assert isinstance(event, TransactionFailed)
    assert isinstance(event.error, TransactionTimeout)
    assert event.transaction is transaction
    assert not event.error.provisional
    assert counter.timeouts == ["MESSAGE"]


@pytest.mark.gb("G010")
@pytest.mark.quirk(43)
def test_seven_sends_of_an_invite_and_the_note_whether_a_100_came() -> None:
    core = make_core()
    start(core, "INVITE")
    run(core, 100.0)
    assert len(core.to_send()) == 6
    (event,) = core.events()
    assert isinstance(event, TransactionFailed)
    assert isinstance(event.error, TransactionTimeout)
    assert not event.error.provisional

    transaction, data = start(core, "INVITE")
    core.receive(answer(data, 100, to_tag=""), FLOW, 101.0)
    core.cancel(transaction, 115.0)
    run(core, 400.0)
    failed = [
        event
        for event in core.events()
        if isinstance(event, TransactionFailed) and event.transaction is transaction
    ]
    assert isinstance(failed[0].error, TransactionTimeout)
    assert failed[0].error.provisional


@pytest.mark.gb("G011")
def test_one_send_over_tcp() -> None:
    core = make_core()
    start(core, destination=TCP_FLOW)
    run(core, 100.0)
    assert core.to_send() == []
    (event,) = core.events()
    assert isinstance(event, TransactionFailed)


def test_the_answer_ends_the_repetition() -> None:
    counter = Counter()
    core = make_core(observer=counter)
    transaction, data = start(core)
    core.receive(answer(data), FLOW, 0.1)
    (event,) = core.events()
    assert isinstance(event, ResponseReceived)
    assert event.transaction is transaction
    core.receive(answer(data), FLOW, 0.2)
    assert core.events() == []
    assert counter.repeated == [("MESSAGE", "in")]
    run(core, 100.0)
    assert core.to_send() == []
    assert core.counts["client_transactions"] == 0


@pytest.mark.quirk(32)
def test_an_answer_without_a_branch_is_matched_by_call_id_and_cseq() -> None:
    """``Via: SIP/2.0/UDP 192.0.2.1:5060`` in the answer: the branch got lost at the peer."""
    core = make_core()
    transaction, data = start(core)
    branch = transaction.branch.encode()
    core.receive(answer(data).replace(b";branch=" + branch, b""), FLOW, 0.1)
    (event,) = core.events()
    assert isinstance(event, ResponseReceived)


@pytest.mark.quirk(50)
def test_answers_as_the_field_sends_them() -> None:
    """401 without To tag and Content-Length; ``101 Dialog Establishement``."""
    core = make_core()
    _, data = start(core)
    core.receive(answer(data, 401, to_tag="", drop=("Content-Length",)), FLOW, 0.1)
    (event,) = core.events()
    assert isinstance(event, ResponseReceived)
    assert event.response.status == 401
    _, data = start(core, "INVITE", call_id="other")
    core.receive(answer(data, 101).replace(b"101 Unknown", b"101 Dialog Establishement"), FLOW, 0.2)
    (event,) = core.events()
    assert isinstance(event, ResponseReceived)
    assert event.response.status == 101


@pytest.mark.parametrize("foreign", [b"other-call", b"ours-1"])
def test_stray_answers_are_counted(foreign: bytes) -> None:
    counter = Counter()
    core = make_core(observer=counter)
    _, data = start(core)
    stray = (
        answer(data)
        .replace(b"z9hG4bK", b"z9hG4bKx")
        .replace(b"ours-1", foreign)
        .replace(b"1 MESSAGE", b"2 MESSAGE")
    )
    core.receive(stray, FLOW, 0.1)
    assert core.events() == []
    assert counter.dropped_labels == ["stray_response"]


def test_open_requests_are_bounded() -> None:
    core = make_core(limits=CoreLimits(client_transactions=3))
    for number in range(3):
        start(core, call_id=f"c{number}")
    with pytest.raises(TransportFailed) as raised:
        start(core, call_id="one too many")
    assert raised.value.label == "overload"


# -- INVITE -----------------------------------------------------------------------------------------------


def called(
    core: SipCore, *, flow: Flow = FLOW, **answer_options: object
) -> tuple[ClientTransaction, Dialog, bytes, bytes]:
    """An INVITE answered with 200: transaction, dialog, the INVITE and our ACK."""
    transaction, data = start(core, "INVITE", body=SDP)
    options = {"body": SDP, "extra": (("Contact", "<sip:dev@192.168.1.64:5060>"),), **answer_options}
    core.receive(answer(data, 200, **options), flow, 0.1)  # type: ignore[arg-type]
    (event,) = core.events()
    assert isinstance(event, ResponseReceived)
    ((ack, destination),) = core.to_send()
    assert destination == flow
    assert isinstance(transaction.dialog, Dialog)
    return transaction, transaction.dialog, data, ack


def test_a_200_is_acknowledged_at_once() -> None:
    core = make_core()
    transaction, dialog, data, ack_data = called(core)
    invite, ack = request_of(data), request_of(ack_data)
    assert ack.method == "ACK"
    assert ack.cseq.number == invite.cseq.number
    assert ack.via.branch != invite.via.branch
    assert ack.uri == "sip:dev@192.168.1.64:5060"
    assert ack.to.tag == dialog.remote_tag == "peer"
    assert core.counts["dialogs"] == 1
    assert transaction.dialog is dialog


@pytest.mark.gb("G012")
def test_each_repeated_200_gets_its_ack_again() -> None:
    core = make_core()
    _, _, data, ack = called(core)
    for now in (0.6, 1.6, 3.6, 7.6):
        core.receive(answer(data, 200, body=SDP), FLOW, now)
        assert core.to_send() == [(ack, FLOW)]
    assert core.events() == []


def test_in_dialog_requests_go_to_the_learned_flow() -> None:
    core = make_core()
    nat = replace(FLOW, host="203.0.113.5", port=61000)
    _, dialog, _, _ = called(core, flow=nat)
    core.request(dialog.next_request("BYE", []), dialog.destination, 1.0)
    ((data, destination),) = core.to_send()
    assert destination == nat
    assert request_of(data).uri == "sip:dev@192.168.1.64:5060"
    assert request_of(data).cseq.number == 2


@pytest.mark.quirk(41)
def test_a_200_without_to_tag_and_without_body_opens_a_dialog() -> None:
    """``SIP/2.0 200 OK`` with ``To: <sip:…>`` and ``Content-Length: 0``."""
    core = make_core()
    _, dialog, _, ack = called(core, to_tag="", body=b"")
    assert dialog.remote_tag == ""
    assert ";tag" not in request_of(ack).headers.get("To")
    bye = dialog.next_request("BYE", [])
    assert bye.headers.get("To") == f"<sip:{CAMERA}@{DOMAIN}>"


def test_record_route_becomes_the_route_in_reverse() -> None:
    core = make_core()
    routes = (("Record-Route", "<sip:p2;lr>, <sip:p1;lr>"), ("Contact", "<sip:dev@192.0.2.10>"))
    _, _, _, ack = called(core, extra=routes)
    assert request_of(ack).headers.get_all("Route") == ["<sip:p1;lr>", "<sip:p2;lr>"]


def test_a_fork_is_acknowledged_and_ended() -> None:
    core = make_core()
    _, dialog, data, ack = called(core)
    core.receive(answer(data, 200, to_tag="fork"), FLOW, 0.2)
    forked_ack, bye = (request_of(out) for out, _ in core.to_send())
    assert (forked_ack.method, forked_ack.to.tag) == ("ACK", "fork")
    assert (bye.method, bye.to.tag) == ("BYE", "fork")
    core.receive(answer(data, 200), FLOW, 0.3)
    assert core.to_send() == [(ack, FLOW)]
    assert dialog.remote_tag == "peer"


@pytest.mark.gb("G017")
def test_a_refusal_is_acknowledged_with_the_branch_of_the_invite() -> None:
    core = make_core()
    _, data = start(core, "INVITE")
    core.receive(answer(data, 486), FLOW, 0.1)
    ((ack_data, _),) = core.to_send()
    invite, ack = request_of(data), request_of(ack_data)
    assert (ack.method, ack.via, ack.uri, ack.to.tag) == ("ACK", invite.via, invite.uri, "peer")
    core.receive(answer(data, 486), FLOW, 0.6)
    assert core.to_send() == [(ack_data, TARGET)]


@pytest.mark.gb("G017")
def test_cancel_repeats_the_branch_and_waits_for_a_provisional_answer() -> None:
    core = make_core()
    transaction, data = start(core, "INVITE")
    core.cancel(transaction, 0.3)
    run(core, 5.0)
    assert core.to_send() == []
    core.receive(answer(data, 100, to_tag=""), FLOW, 5.0)
    ((cancel_data, _),) = core.to_send()
    invite, cancel = request_of(data), request_of(cancel_data)
    assert (cancel.method, cancel.via, cancel.uri) == ("CANCEL", invite.via, invite.uri)
    assert (cancel.cseq.number, cancel.headers.get("To")) == (1, invite.headers.get("To"))
    core.receive(answer(cancel_data, 200), FLOW, 5.1)
    core.receive(answer(data, 487), FLOW, 5.2)
    assert statuses(core) == ["ACK"]
    run(core, 100.0)
    assert core.counts == {"stored_answers": 0, "server_invites": 0, "client_transactions": 0, "dialogs": 0}


def test_cancel_without_any_answer_ends_with_timer_b() -> None:
    core = make_core()
    transaction, _ = start(core, "INVITE")
    core.cancel(transaction, 1.0)
    run(core, 100.0)
    assert core.counts["client_transactions"] == 0


def test_cancel_that_nobody_honours_ends_after_64_t1() -> None:
    core = make_core()
    transaction, data = start(core, "INVITE")
    core.receive(answer(data, 180), FLOW, 0.1)
    core.cancel(transaction, 10.0)
    run(core, 41.0)
    assert transaction.next_timer == 42.0
    run(core, 100.0)
    assert core.counts["client_transactions"] == 0


@pytest.mark.gb("G015")
@pytest.mark.parametrize("provisional", [True, False])
def test_a_200_that_crosses_cancel_is_acknowledged_and_ended(provisional: bool) -> None:
    core = make_core()
    transaction, data = start(core, "INVITE")
    if provisional:
        core.receive(answer(data, 180), FLOW, 0.1)
    core.cancel(transaction, 0.2)
    core.to_send()
    core.events()
    core.receive(answer(data, 200, extra=(("Contact", "<sip:dev@192.0.2.10>"),)), FLOW, 0.3)
    ack, bye = (request_of(out) for out, _ in core.to_send())
    assert (ack.method, bye.method) == ("ACK", "BYE")
    assert (ack.cseq.number, bye.cseq.number) == (1, 2)
    assert core.events() == []
    assert core.counts["dialogs"] == 0
    core.receive(answer(data, 200), FLOW, 0.8)
    assert statuses(core) == ["ACK"]


@pytest.mark.gb("G015")
def test_cancel_after_the_200_ends_the_call() -> None:
    core = make_core()
    transaction, _, _, _ = called(core)
    core.cancel(transaction, 0.2)
    assert statuses(core) == ["BYE"]
    assert core.counts["dialogs"] == 0
    core.cancel(transaction, 0.3)
    assert core.to_send() == []


@pytest.mark.gb("G236")
def test_a_200_after_our_timeout_is_acknowledged_and_ended() -> None:
    core = make_core()
    _, data = start(core, "INVITE")
    run(core, 39.0)
    core.to_send()
    core.events()
    core.receive(answer(data, 200), FLOW, 40.0)
    assert statuses(core) == ["ACK", "BYE"]
    assert core.events() == []
    run(core, 400.0)
    core.to_send()
    core.receive(answer(data, 200), FLOW, 401.0)
    assert core.to_send() == []


# -- UDP to TCP, lost ways --------------------------------------------------------------------------------

LARGE = b"x" * 3000


@pytest.mark.gb("G023")
def test_a_large_request_goes_by_tcp() -> None:
    core = make_core()
    transaction = core.request(make_request(body=LARGE), TARGET, 0.0)
    ((data, destination),) = core.to_send()
    assert isinstance(destination, Target)
    assert (destination.transport, destination.host, destination.port) == ("tcp", TARGET.host, TARGET.port)
    assert request_of(data).via.transport == "TCP"
    assert transaction.reliable


@pytest.mark.gb("G023")
def test_a_refused_tcp_falls_back_to_udp_and_is_remembered() -> None:
    core = make_core()
    transaction = core.request(make_request(body=LARGE), TARGET, 0.0, context="mine")
    ((_, destination),) = core.to_send()
    core.transport_failed(destination, 3.0)
    ((data, way),) = core.to_send()
    assert isinstance(way, Target)
    assert way.transport == "udp"
    assert request_of(data).via.transport == "UDP"
    assert core.events() == []
    core.receive(answer(data), FLOW, 3.1)
    (event,) = core.events()
    assert isinstance(event, ResponseReceived)
    assert event.transaction is transaction
    assert event.transaction.context == "mine"
    core.request(make_request(body=LARGE, number=2), TARGET, 4.0)
    ((_, way),) = core.to_send()
    assert way.transport == "udp"
    core.request(make_request(body=LARGE, number=3), TARGET, 1000.0)
    ((_, way),) = core.to_send()
    assert way.transport == "tcp"


@pytest.mark.gb("G023")
def test_small_requests_and_learned_flows_stay_where_they_are() -> None:
    core = make_core()
    core.request(make_request(body=b"x" * 500), TARGET, 0.0)
    core.request(make_request(body=LARGE, number=2), FLOW, 0.0)
    core.request(make_request(body=LARGE, number=3), Target.of_flow("sip:a@b", FLOW), 0.0)
    assert [way.transport for _, way in core.to_send()] == ["udp", "udp", "udp"]


def test_a_lost_connection_fails_its_requests_and_no_others() -> None:
    core = make_core()
    lost, _ = start(core, destination=TCP_FLOW)
    start(core, destination=replace(TCP_FLOW, connection=8), call_id="other")
    core.connection_closed(TCP_FLOW, 1.0)
    (event,) = core.events()
    assert isinstance(event, TransactionFailed)
    assert event.transaction is lost
    assert isinstance(event.error, TransportFailed)
    assert core.counts["client_transactions"] == 1


def test_one_failed_dial_fails_all_that_waited_for_it() -> None:
    core = make_core()
    for number, uri in enumerate(("sip:a@x", "sip:b@x")):
        target = Target(uri, "192.0.2.10", 5060, "tcp")
        core.request(make_request(call_id=f"c{number}"), target, 0.0)
    core.transport_failed(Target("sip:a@x", "192.0.2.10", 5060, "tcp"), 1.0)
    assert len(core.events()) == 2


def test_dialogs_on_a_lost_connection_are_told() -> None:
    core = make_core()
    _, data = start(core, "INVITE", destination=TCP_FLOW)
    core.receive(answer(data, 200), TCP_FLOW, 0.1)
    core.events()
    core.connection_closed(TCP_FLOW, 1.0)
    (event,) = core.events()
    assert isinstance(event, FlowLost)


def test_a_dialog_over_a_dialled_connection_keeps_its_address() -> None:
    core = make_core()
    target = Target("sip:a@x", "192.0.2.10", 5060, "tcp")
    transaction, data = start(core, "INVITE", destination=target)
    core.receive(answer(data, 200), TCP_FLOW, 0.1)
    assert transaction.dialog.destination == target
    core.connection_closed(TCP_FLOW, 1.0)
    assert not [event for event in core.events() if isinstance(event, FlowLost)]


def test_what_fits_into_no_datagram_is_refused_at_once_where_only_udp_is_left() -> None:
    core = make_core()
    with pytest.raises(TransportFailed) as raised:
        core.request(make_request(body=b"x" * 66_000), FLOW, 0.0)
    assert raised.value.label == "too_large"
    core.request(make_request(body=b"x" * 66_000), TARGET, 0.0)
    ((_, way),) = core.to_send()
    assert way.transport == "tcp"
    core.transport_failed(way, 1.0)
    assert core.to_send() == []
    (event,) = core.events()
    assert isinstance(event, TransactionFailed)
