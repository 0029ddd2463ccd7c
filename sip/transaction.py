"""The transaction machines of RFC 3261 17 (with RFC 6026) as tables. Pure: time is an argument.

A machine takes an input (a message class or a timer), looks (state, input) up in its table, and gives back the
actions that its owner has to carry out. An input that is missing in the table changes nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, ClassVar, Literal, NamedTuple

from sip.flow import Flow, Target
from sip.message import Request, Response
from sip.timers import NEVER, Timers

Destination = Flow | Target


class State(Enum):
    CALLING = auto()
    TRYING = auto()
    PROCEEDING = auto()
    ACCEPTED = auto()
    COMPLETED = auto()
    CONFIRMED = auto()
    TERMINATED = auto()


class Input(Enum):
    """What can happen to a transaction. The names of timers are those of RFC 3261 table 4."""

    PROVISIONAL = auto()
    SUCCESS = auto()
    FAILURE = auto()
    RESEND_TIMER = auto()  # A, E, G and the repetition of a 2xx
    DEADLINE = auto()  # B, F, H and the wait for the ACK of a 2xx
    LINGER_OVER = auto()  # D, K, I, L, M
    TRANSPORT_ERROR = auto()
    REPEATED_REQUEST = auto()
    ACK = auto()


class Action(Enum):
    RESEND = auto()
    DELIVER = auto()
    DELIVER_AGAIN = auto()  # a further 2xx to an INVITE
    SEND_ACK = auto()
    TIMED_OUT = auto()
    FAILED = auto()
    ACKNOWLEDGED = auto()
    ACK_MISSED = auto()
    ENDED = auto()


class Step(NamedTuple):
    state: State
    actions: tuple[Action, ...] = ()


_S, _I, _A = State, Input, Action
Table = dict[tuple[State, Input], Step]

INVITE_CLIENT: Table = {
    # RFC 3261 17.1.1.2, figure 5, with the Accepted state of RFC 6026 7.2
    (_S.CALLING, _I.RESEND_TIMER): Step(_S.CALLING, (_A.RESEND,)),
    (_S.CALLING, _I.PROVISIONAL): Step(_S.PROCEEDING, (_A.DELIVER,)),
    (_S.CALLING, _I.SUCCESS): Step(_S.ACCEPTED, (_A.DELIVER,)),
    (_S.CALLING, _I.FAILURE): Step(_S.COMPLETED, (_A.SEND_ACK, _A.DELIVER)),
    (_S.CALLING, _I.DEADLINE): Step(_S.TERMINATED, (_A.TIMED_OUT, _A.ENDED)),
    (_S.CALLING, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.FAILED, _A.ENDED)),
    (_S.PROCEEDING, _I.PROVISIONAL): Step(_S.PROCEEDING, (_A.DELIVER,)),
    (_S.PROCEEDING, _I.SUCCESS): Step(_S.ACCEPTED, (_A.DELIVER,)),
    (_S.PROCEEDING, _I.FAILURE): Step(_S.COMPLETED, (_A.SEND_ACK, _A.DELIVER)),
    (_S.PROCEEDING, _I.DEADLINE): Step(_S.TERMINATED, (_A.TIMED_OUT, _A.ENDED)),
    (_S.PROCEEDING, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.FAILED, _A.ENDED)),
    (_S.COMPLETED, _I.FAILURE): Step(_S.COMPLETED, (_A.SEND_ACK,)),
    (_S.COMPLETED, _I.LINGER_OVER): Step(_S.TERMINATED, (_A.ENDED,)),
    (_S.COMPLETED, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.ENDED,)),
    (_S.ACCEPTED, _I.SUCCESS): Step(_S.ACCEPTED, (_A.DELIVER_AGAIN,)),
    (_S.ACCEPTED, _I.LINGER_OVER): Step(_S.TERMINATED, (_A.ENDED,)),
    (_S.ACCEPTED, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.ENDED,)),
}

NON_INVITE_CLIENT: Table = {
    # RFC 3261 17.1.2.2, figure 6
    (_S.TRYING, _I.RESEND_TIMER): Step(_S.TRYING, (_A.RESEND,)),
    (_S.TRYING, _I.PROVISIONAL): Step(_S.PROCEEDING, (_A.DELIVER,)),
    (_S.TRYING, _I.SUCCESS): Step(_S.COMPLETED, (_A.DELIVER,)),
    (_S.TRYING, _I.FAILURE): Step(_S.COMPLETED, (_A.DELIVER,)),
    (_S.TRYING, _I.DEADLINE): Step(_S.TERMINATED, (_A.TIMED_OUT, _A.ENDED)),
    (_S.TRYING, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.FAILED, _A.ENDED)),
    (_S.PROCEEDING, _I.RESEND_TIMER): Step(_S.PROCEEDING, (_A.RESEND,)),
    (_S.PROCEEDING, _I.PROVISIONAL): Step(_S.PROCEEDING, (_A.DELIVER,)),
    (_S.PROCEEDING, _I.SUCCESS): Step(_S.COMPLETED, (_A.DELIVER,)),
    (_S.PROCEEDING, _I.FAILURE): Step(_S.COMPLETED, (_A.DELIVER,)),
    (_S.PROCEEDING, _I.DEADLINE): Step(_S.TERMINATED, (_A.TIMED_OUT, _A.ENDED)),
    (_S.PROCEEDING, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.FAILED, _A.ENDED)),
    (_S.COMPLETED, _I.LINGER_OVER): Step(_S.TERMINATED, (_A.ENDED,)),
    (_S.COMPLETED, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.ENDED,)),
}

INVITE_SERVER: Table = {
    # RFC 3261 17.2.1, figure 7, with the Accepted state of RFC 6026 7.1; the repetition of the 2xx
    # (RFC 3261 13.3.1.4) is kept in the same machine, since it ends with the same ACK.
    (_S.PROCEEDING, _I.REPEATED_REQUEST): Step(_S.PROCEEDING, (_A.RESEND,)),
    (_S.PROCEEDING, _I.PROVISIONAL): Step(_S.PROCEEDING, (_A.RESEND,)),
    (_S.PROCEEDING, _I.SUCCESS): Step(_S.ACCEPTED, (_A.RESEND,)),
    (_S.PROCEEDING, _I.FAILURE): Step(_S.COMPLETED, (_A.RESEND,)),
    (_S.COMPLETED, _I.REPEATED_REQUEST): Step(_S.COMPLETED, (_A.RESEND,)),
    (_S.COMPLETED, _I.RESEND_TIMER): Step(_S.COMPLETED, (_A.RESEND,)),
    (_S.COMPLETED, _I.ACK): Step(_S.CONFIRMED),
    (_S.COMPLETED, _I.DEADLINE): Step(_S.TERMINATED, (_A.ENDED,)),
    (_S.COMPLETED, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.ENDED,)),
    (_S.CONFIRMED, _I.LINGER_OVER): Step(_S.TERMINATED, (_A.ENDED,)),
    (_S.ACCEPTED, _I.REPEATED_REQUEST): Step(_S.ACCEPTED, (_A.RESEND,)),
    (_S.ACCEPTED, _I.RESEND_TIMER): Step(_S.ACCEPTED, (_A.RESEND,)),
    (_S.ACCEPTED, _I.ACK): Step(_S.CONFIRMED, (_A.ACKNOWLEDGED,)),
    (_S.ACCEPTED, _I.DEADLINE): Step(_S.TERMINATED, (_A.ACK_MISSED, _A.ENDED)),
    (_S.ACCEPTED, _I.TRANSPORT_ERROR): Step(_S.TERMINATED, (_A.ACK_MISSED, _A.ENDED)),
}

NON_INVITE_SERVER: Table = {
    # RFC 3261 17.2.2, figure 8. SipCore keeps this machine as one dictionary entry (None while Trying, the
    # stored answer when Completed) and one expiry ring for timer J; the table is what its tests compare with.
    (_S.TRYING, _I.REPEATED_REQUEST): Step(_S.TRYING),
    (_S.TRYING, _I.SUCCESS): Step(_S.COMPLETED, (_A.RESEND,)),
    (_S.TRYING, _I.FAILURE): Step(_S.COMPLETED, (_A.RESEND,)),
    (_S.COMPLETED, _I.REPEATED_REQUEST): Step(_S.COMPLETED, (_A.RESEND,)),
    (_S.COMPLETED, _I.LINGER_OVER): Step(_S.TERMINATED, (_A.ENDED,)),
}


def input_of(status: int) -> Input:
    """The input that a response status is."""
    if status < 200:
        return Input.PROVISIONAL
    return Input.SUCCESS if status < 300 else Input.FAILURE


class Transaction:
    """State, clocks and the table of one machine. ``next_timer`` is absolute, NEVER when none runs."""

    __slots__ = (
        "_deadline",
        "_interval",
        "_linger",
        "_resend_at",
        "_timers",
        "next_timer",
        "queued",
        "state",
    )

    table: ClassVar[Table] = {}
    capped = True
    """Whether the resend interval stops growing at T2."""

    def __init__(self, state: State, timers: Timers) -> None:
        self.state = state
        self.queued = NEVER
        self._timers = timers
        self._interval = timers.t1
        self._resend_at = self._deadline = self._linger = self.next_timer = NEVER

    def _step(self, happened: Input, now: float) -> tuple[Action, ...]:
        step = self.table.get((self.state, happened))
        if step is None:
            return ()
        if step.state is not self.state:
            self.state = step.state
            self._entered(now)
        self.next_timer = min(self._resend_at, self._deadline, self._linger)
        return step.actions

    def _entered(self, now: float) -> None:
        """Set the clocks of the state just entered."""

    def _stop_clocks(self) -> None:
        self._resend_at = self._deadline = self._linger = NEVER

    def handle_timer(self, now: float) -> tuple[Action, ...]:
        """Run the clocks that are due at ``now``; several steps when time jumped."""
        actions: tuple[Action, ...] = ()
        if self._linger <= now:
            self._linger = NEVER
            return self._step(Input.LINGER_OVER, now)
        if self._deadline <= now:
            self._deadline = NEVER
            return self._step(Input.DEADLINE, now)
        if self._resend_at <= now:
            self._interval = self._timers.next_interval(self._interval, capped=self.capped)
            # from the planned instant, so that a late loop does not stretch the schedule; but never a burst
            planned = self._resend_at + self._interval
            self._resend_at = planned if planned > now else now + self._interval
            actions = self._step(Input.RESEND_TIMER, now)
        self.next_timer = min(self._resend_at, self._deadline, self._linger)
        return actions

    def transport_failed(self, now: float) -> tuple[Action, ...]:
        return self._step(Input.TRANSPORT_ERROR, now)


class ClientTransaction(Transaction):
    """A request of ours. ``context`` belongs to the caller; ``provisional``: a 1xx came."""

    __slots__ = (
        "ack_data",
        "branch",
        "cancel_sent",
        "cancel_wanted",
        "context",
        "data",
        "destination",
        "dialog",
        "invite",
        "over_udp_next",
        "provisional",
        "reliable",
        "request",
        "response",
        "sends",
    )

    def __init__(
        self,
        request: Request,
        data: bytes,
        destination: Destination,
        branch: str,
        timers: Timers,
        now: float,
        *,
        reliable: bool,
    ) -> None:
        self.invite = request.method == "INVITE"
        super().__init__(State.CALLING if self.invite else State.TRYING, timers)
        self.request = request
        self.data = data
        self.destination = destination
        self.branch = branch
        self.reliable = reliable
        self.context: Any = None
        self.dialog: Any = None
        self.response: Response | None = None
        self.ack_data = b""
        self.provisional = False
        self.cancel_wanted = False
        self.cancel_sent = False
        self.over_udp_next = False
        self.sends = 1
        self.start(now)

    @property
    def table(self) -> Table:  # type: ignore[override]
        return INVITE_CLIENT if self.invite else NON_INVITE_CLIENT

    @property
    def capped(self) -> bool:  # type: ignore[override]
        return not self.invite

    def start(self, now: float) -> None:
        """(Re)start the clocks: timers A/E (UDP only) and B/F."""
        self._interval = self._timers.t1
        self._resend_at = NEVER if self.reliable else now + self._interval
        self._deadline = now + self._timers.timeout
        self.next_timer = min(self._resend_at, self._deadline)

    def receive(self, response: Response, now: float) -> tuple[Action, ...]:
        """A response that belongs to this transaction."""
        happened = input_of(response.status)
        if happened is Input.PROVISIONAL:
            self.provisional = True
        return self._step(happened, now)

    def stop_resending(self) -> None:
        """No more repetitions (RFC 3261 leaves it to us when the caller lost interest)."""
        self._resend_at = NEVER
        self.next_timer = min(self._deadline, self._linger)

    def expect_end_by(self, when: float) -> None:
        """Give up at ``when`` at the latest (after CANCEL: 64*T1, RFC 3261 9.1)."""
        self._deadline = when
        self.next_timer = min(self._resend_at, self._deadline, self._linger)

    def _entered(self, now: float) -> None:
        timers = self._timers
        if self.state is State.PROCEEDING:
            if self.invite:
                self._stop_clocks()
                self._deadline = now + timers.ringing
            elif not self.reliable:
                # RFC 3261 17.1.2.2: in Proceeding timer E runs at T2
                self._interval = timers.t2
                self._resend_at = now + timers.t2
            return
        self._stop_clocks()
        if self.state is State.COMPLETED:
            if self.invite:
                self._linger = now + (0.0 if self.reliable else timers.linger_invite)
            else:
                self._linger = now + (0.0 if self.reliable else timers.t4)
        elif self.state is State.ACCEPTED:
            self._linger = now + timers.timeout


class InviteServerTransaction(Transaction):
    """An INVITE that came to us. The owner puts the last response into ``data``."""

    __slots__ = (
        "charset",
        "context",
        "data",
        "dialog",
        "flow",
        "key",
        "reply_to",
        "request",
        "to_tag",
        "via",
    )

    table: ClassVar[Table] = INVITE_SERVER

    def __init__(
        self,
        request: Request,
        flow: Flow,
        reply_to: Flow,
        via: str,
        key: tuple[str, str, str],
        to_tag: str,
        timers: Timers,
    ) -> None:
        super().__init__(State.PROCEEDING, timers)
        self.request = request
        self.flow = flow
        self.reply_to = reply_to
        self.via = via
        self.key = key
        self.to_tag = to_tag
        self.data = b""
        self.context: Any = None
        self.dialog: Any = None

    def send(self, status: int, data: bytes, now: float) -> tuple[Action, ...]:
        """Our response; empty when a final one went before (then nothing may be sent)."""
        actions = self._step(input_of(status), now)
        if actions:
            self.data = data
        return actions

    def receive(self, method: Literal["INVITE", "ACK"], now: float) -> tuple[Action, ...]:
        """A repeated INVITE or the ACK."""
        return self._step(Input.ACK if method == "ACK" else Input.REPEATED_REQUEST, now)

    def _entered(self, now: float) -> None:
        timers, reliable = self._timers, self.flow.reliable
        self._stop_clocks()
        self._interval = timers.t1
        if self.state is State.COMPLETED:
            self._resend_at = NEVER if reliable else now + timers.t1
            self._deadline = now + timers.timeout
        elif self.state is State.ACCEPTED:
            # RFC 3261 13.3.1.4: the 2xx is repeated end to end, whatever the transport
            self._resend_at = now + timers.t1
            self._deadline = now + timers.timeout
        elif self.state is State.CONFIRMED:
            self._linger = now + (0.0 if reliable else timers.timeout)


class RequestTransaction:
    """A non-INVITE request that waits for our answer. Afterwards only the stored answer remains (SipCore)."""

    __slots__ = ("dialog", "flow", "key", "reply_to", "request", "to_tag", "via")

    def __init__(
        self, request: Request, flow: Flow, reply_to: Flow, via: str, key: tuple[str, str, str, str]
    ) -> None:
        self.request = request
        self.flow = flow
        self.reply_to = reply_to
        self.via = via
        self.key = key
        self.to_tag = ""
        self.dialog: Any = None


ServerTransaction = RequestTransaction | InviteServerTransaction
