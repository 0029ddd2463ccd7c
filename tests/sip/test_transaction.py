"""The four transaction machines: every row of their tables, and their clocks by moving ``now``."""

from __future__ import annotations

import pytest
from sip_wire import FLOW, TCP_FLOW, wire

from sip.message import Request, Response, parse
from sip.timers import NEVER, Deadlines, ExpiryRing, Timers
from sip.transaction import (
    INVITE_CLIENT,
    INVITE_SERVER,
    NON_INVITE_CLIENT,
    NON_INVITE_SERVER,
    Action,
    ClientTransaction,
    Input,
    InviteServerTransaction,
    State,
    Table,
    input_of,
)

TIMERS = Timers()
HUGE = 10_000.0


def client(method: str, *, reliable: bool = False, timers: Timers = TIMERS) -> ClientTransaction:
    message = parse(wire(method))
    assert isinstance(message, Request)
    return ClientTransaction(message, b"data", FLOW, "z9hG4bK1", timers, 0.0, reliable=reliable)


def server(*, reliable: bool = False) -> InviteServerTransaction:
    message = parse(wire("INVITE"))
    assert isinstance(message, Request)
    flow = TCP_FLOW if reliable else FLOW
    return InviteServerTransaction(message, flow, flow, "via", ("a", "1", "b"), "tag", TIMERS)


def run(transaction: ClientTransaction | InviteServerTransaction, until: float) -> list[tuple[float, Action]]:
    """Let time pass; what the clocks asked for and when."""
    happened = []
    while transaction.next_timer <= until:
        now = transaction.next_timer
        happened += [(now, action) for action in transaction.handle_timer(now)]
    return happened


def resends(happened: list[tuple[float, Action]]) -> list[float]:
    return [when for when, action in happened if action is Action.RESEND]


@pytest.mark.gb("G009")
def test_non_invite_is_resent_until_32_seconds() -> None:
    happened = run(client("MESSAGE"), HUGE)
    assert resends(happened) == [
        0.5,
        1.5,
        3.5,
        7.5,
        11.5,
        15.5,
        19.5,
        23.5,
        27.5,
        31.5,
    ]  # 11 sends with the first
    assert happened[-2:] == [(32.0, Action.TIMED_OUT), (32.0, Action.ENDED)]


@pytest.mark.gb("G010")
def test_invite_is_resent_until_timer_b() -> None:
    happened = run(client("INVITE"), HUGE)
    assert resends(happened) == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]  # 7 sends with the first
    assert happened[-2:] == [(32.0, Action.TIMED_OUT), (32.0, Action.ENDED)]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.gb("G011")
def test_nothing_is_resent_over_a_stream(method: str) -> None:
    happened = run(client(method, reliable=True), HUGE)
    assert happened == [(32.0, Action.TIMED_OUT), (32.0, Action.ENDED)]


@pytest.mark.gb("G010")
def test_a_provisional_answer_stops_the_invite_clocks() -> None:
    transaction = client("INVITE")
    assert transaction.receive(Response(100), 0.2) == (Action.DELIVER,)
    assert transaction.provisional
    assert run(transaction, HUGE) == [(180.2, Action.TIMED_OUT), (180.2, Action.ENDED)]


def test_a_provisional_answer_slows_other_methods_to_t2() -> None:
    transaction = client("MESSAGE")
    transaction.receive(Response(100), 0.2)
    happened = run(transaction, HUGE)
    assert resends(happened)[:3] == [4.2, 8.2, 12.2]
    assert happened[-2][1] is Action.TIMED_OUT


@pytest.mark.parametrize(("reliable", "linger"), [(False, 5.0), (True, 0.0)])
def test_timer_k(reliable: bool, linger: float) -> None:
    transaction = client("MESSAGE", reliable=reliable)
    assert transaction.receive(Response(200), 1.0) == (Action.DELIVER,)
    assert transaction.receive(Response(200), 1.0) == ()
    assert run(transaction, HUGE) == [(1.0 + linger, Action.ENDED)]


def test_timer_d_and_repeated_refusals() -> None:
    transaction = client("INVITE")
    assert transaction.receive(Response(486), 1.0) == (Action.SEND_ACK, Action.DELIVER)
    assert transaction.receive(Response(486), 2.0) == (Action.SEND_ACK,)
    assert transaction.receive(Response(200), 2.0) == ()
    assert run(transaction, HUGE) == [(33.0, Action.ENDED)]


@pytest.mark.gb("G012")
def test_repeated_200_stays_visible_for_64_t1() -> None:
    transaction = client("INVITE")
    transaction.receive(Response(180), 0.5)
    assert transaction.receive(Response(200), 1.0) == (Action.DELIVER,)
    for now in (1.5, 2.5, 4.5):
        assert transaction.receive(Response(200), now) == (Action.DELIVER_AGAIN,)
    assert run(transaction, HUGE) == [(33.0, Action.ENDED)]


def test_transport_errors() -> None:
    for method in ("INVITE", "MESSAGE"):
        transaction = client(method)
        assert transaction.transport_failed(1.0) == (Action.FAILED, Action.ENDED)
        assert transaction.next_timer == NEVER
        assert transaction.transport_failed(2.0) == ()


def test_a_late_loop_makes_no_burst() -> None:
    transaction = client("MESSAGE")
    assert transaction.handle_timer(20.0) == (Action.RESEND,)
    assert transaction.handle_timer(20.0) == ()
    assert transaction.next_timer > 20.0


@pytest.mark.gb("G013")
def test_200_is_repeated_until_the_ack() -> None:
    transaction = server()
    assert transaction.send(100, b"100", 0.0) == (Action.RESEND,)
    assert transaction.send(200, b"200", 1.0) == (Action.RESEND,)
    assert transaction.data == b"200"
    happened = run(transaction, 9.0)
    assert resends(happened) == [1.5, 2.5, 4.5, 8.5]
    assert transaction.receive("ACK", 9.0) == (Action.ACKNOWLEDGED,)
    assert transaction.receive("INVITE", 9.1) == ()
    assert run(transaction, HUGE) == [(41.0, Action.ENDED)]


@pytest.mark.gb("G013")
def test_200_without_ack_is_given_up_after_64_t1() -> None:
    transaction = server()
    transaction.send(200, b"200", 0.0)
    happened = run(transaction, HUGE)
    assert resends(happened) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert happened[-2:] == [(32.0, Action.ACK_MISSED), (32.0, Action.ENDED)]


def test_a_refusal_is_repeated_until_the_ack() -> None:
    transaction = server()
    transaction.send(486, b"486", 0.0)
    assert resends(run(transaction, 4.0)) == [0.5, 1.5, 3.5]
    assert transaction.receive("INVITE", 4.0) == (Action.RESEND,)
    assert transaction.receive("ACK", 4.1) == ()
    assert transaction.state is State.CONFIRMED
    assert run(transaction, HUGE) == [(36.1, Action.ENDED)]


def test_a_refusal_over_a_stream_is_not_repeated() -> None:
    transaction = server(reliable=True)
    transaction.send(486, b"486", 0.0)
    assert run(transaction, HUGE) == [(32.0, Action.ENDED)]


def test_only_one_final_answer_leaves() -> None:
    transaction = server()
    assert transaction.send(486, b"486", 0.0)
    assert transaction.send(200, b"200", 0.1) == ()
    assert transaction.send(180, b"180", 0.1) == ()
    assert transaction.data == b"486"


def test_a_repeated_invite_gets_the_last_provisional_answer() -> None:
    transaction = server()
    transaction.send(100, b"100", 0.0)
    transaction.send(180, b"180", 0.1)
    assert transaction.receive("INVITE", 0.5) == (Action.RESEND,)
    assert transaction.data == b"180"


@pytest.mark.parametrize("table", [INVITE_CLIENT, NON_INVITE_CLIENT, INVITE_SERVER, NON_INVITE_SERVER])
def test_tables_are_closed(table: Table) -> None:
    """Every state that is entered can be left, nothing leaves Terminated, and the end is told exactly there."""
    entered = {step.state for step in table.values()}
    left = {state for state, _ in table}
    assert entered - {State.TERMINATED} <= left
    assert State.TERMINATED not in left
    for (state, _), step in table.items():
        assert (Action.ENDED in step.actions) == (step.state is State.TERMINATED)
        assert state is not State.TERMINATED


@pytest.mark.parametrize("status", [100, 180, 199])
def test_input_of_provisional(status: int) -> None:
    assert input_of(status) is Input.PROVISIONAL


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, Input.SUCCESS), (299, Input.SUCCESS), (300, Input.FAILURE), (699, Input.FAILURE)],
)
def test_input_of_final(status: int, expected: Input) -> None:
    assert input_of(status) is expected


# -- deadlines and rings ----------------------------------------------------------------------------------


class Item:
    def __init__(self, when: float) -> None:
        self.next_timer = when
        self.queued = NEVER


def test_deadlines_follow_moved_items() -> None:
    queue: Deadlines[Item] = Deadlines()
    first, second = Item(5.0), Item(3.0)
    queue.put(first)
    queue.put(second)
    assert queue.next() == 3.0
    second.next_timer = 9.0
    queue.put(second)
    queue.put(second)
    assert queue.next() == 5.0
    assert queue.due(6.0) == [first]
    assert queue.due(6.0) == []
    first.next_timer = NEVER
    queue.put(first)
    assert queue.due(9.0) == [second]
    assert queue.next() == NEVER


def test_an_item_that_comes_back_to_the_same_instant_is_not_lost() -> None:
    queue: Deadlines[Item] = Deadlines()
    item = Item(5.0)
    queue.put(item)
    item.next_timer = 7.0
    queue.put(item)
    item.next_timer = 5.0
    queue.put(item)
    assert queue.due(5.0) == [item]
    assert queue.due(10.0) == []


def test_expiry_ring() -> None:
    ring: ExpiryRing[str] = ExpiryRing(10.0)
    assert ring.oldest() == NEVER
    ring.add("a", 0.0)
    ring.add("b", 1.0)
    assert ring.oldest() == 10.0
    assert ring.expired(10.5) == ["a"]
    assert len(ring) == 1
    assert ring.pop_oldest() == "b"
