"""The SIP element without any input or output: bytes and a time go in, bytes, events and a deadline come out.

Transactions (RFC 3261 17), dialogs (12) and the rules that a user agent has to keep whatever it is used for
(8, 9, 13, 14, 15). What a request means is the business of the caller, who reads ``events()`` and answers by
``respond``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sip.dialog import Dialog, DialogKind
from sip.element import ALLOW, ALLOWED_METHODS, CoreLimits, Destination, Element, HeaderList, Output
from sip.errors import ParseError
from sip.events import (
    AckMissed,
    Acknowledged,
    DialogEnded,
    Event,
    FlowLost,
    InviteCancelled,
    RequestReceived,
    ResponseReceived,
    TransactionFailed,
)
from sip.flow import Flow
from sip.message import Request, parse
from sip.observer import Observer
from sip.timers import Timers
from sip.transaction import ClientTransaction, ServerTransaction
from sip.uac import ClientSide
from sip.uas import ServerSide

if TYPE_CHECKING:
    from sip.note import Guard


class SipCore:
    """One SIP element. Times are seconds of one monotonic clock of the caller's choice.

    ``address_of`` tells the sent-by text ``host:port`` that a peer sees us under. ``stray_notify``: NOTIFY of
    an unknown subscription becomes an event instead of 481 (tolerant mode of G112).
    """

    def __init__(
        self,
        address_of: Callable[[Destination], str],
        *,
        timers: Timers | None = None,
        limits: CoreLimits | None = None,
        observer: Observer | None = None,
        user_agent: str = "",
        stray_notify: bool = False,
    ) -> None:
        self._element = Element(
            address_of, timers or Timers(), limits or CoreLimits(), observer or Observer(), user_agent
        )
        self._client = ClientSide(self._element)
        self._server = ServerSide(self._element, self._client, stray_notify=stray_notify)
        self.guard: Guard | None = None
        """Signs and verifies messages (Note header, sip.note); None: nothing is signed."""

    # -- the five doors -----------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """One datagram, or one message cut out of a stream. Never raises for what the bytes are."""
        if self._server.next_expiry() <= now:
            self._server.forget(now)
        try:
            message = parse(data)
            if self.guard is not None and not self.guard.admit(message, flow):
                self._element.observer.dropped("note")
                return
            if isinstance(message, Request):
                self._server.receive(message, flow, now)
            else:
                self._client.receive(message, flow, now)
        except ParseError as error:
            self._server.refuse_garbage(data, flow, error.status, error.label)

    def to_send(self) -> list[Output]:
        """Messages that have to leave now, in order, with where they go."""
        out, self._element.out = self._element.out, []
        guard = self.guard
        return out if guard is None else [(guard.protect(data, where), where) for data, where in out]

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._element.events = self._element.events, []
        return events

    def next_timer(self) -> float:
        """When ``handle_timer`` wants to be called next; infinity for never."""
        # forgetting is not urgent: let a second's worth come together
        forget = min(self._server.next_expiry(), self._client.next_expiry()) + 1.0
        return min(self._element.deadlines.next(), forget)

    def handle_timer(self, now: float) -> None:
        """Repeat, give up and forget what is due."""
        for transaction in self._element.deadlines.due(now):
            actions = transaction.handle_timer(now)
            if isinstance(transaction, ClientTransaction):
                self._client.perform(transaction, actions, now)
            else:
                self._server.perform(transaction, actions, now)
            self._element.deadlines.put(transaction)
        self._server.forget(now)
        self._client.forget(now)

    # -- requests and answers -----------------------------------------------------------------------------

    def request(
        self, request: Request, destination: Destination, now: float, *, context: object = None
    ) -> ClientTransaction:
        """Send a request: Via, Max-Forwards and User-Agent are added, a large one moves from UDP to TCP.

        ``context`` stands in the events of the transaction. Raises TransportFailed (label overload) when too
        many are open.
        """
        return self._client.request(request, destination, now, context)

    def cancel(self, transaction: ClientTransaction, now: float) -> None:
        """Give a request up. For an INVITE, CANCEL goes out once a provisional answer came (RFC 3261 9.1), and
        a 2xx that crosses it is acknowledged and ended by BYE."""
        self._client.cancel(transaction, now)

    def respond(
        self,
        transaction: ServerTransaction,
        status: int,
        now: float,
        *,
        reason: str = "",
        headers: HeaderList = (),
        body: bytes = b"",
        content_type: str = "",
    ) -> None:
        """Answer a request. After a final answer further ones are ignored.

        Raises LocalError for a header value with a line break.
        """
        self._server.respond(
            transaction,
            status,
            now,
            reason=reason,
            headers=headers,
            body=body,
            content_type=content_type,
        )

    def refuse_garbage(self, data: bytes, flow: Flow, status: int, label: str) -> None:
        """Count bytes that are no usable message, and answer them when an answer can be addressed."""
        self._server.refuse_garbage(data, flow, status, label)

    # -- dialogs ------------------------------------------------------------------------------------------

    def open_dialog(self, transaction: ServerTransaction, kind: DialogKind) -> Dialog:
        """The dialog that our 2xx will open; call it before ``respond``. Its local tag is the answer's To tag."""
        return self._server.open_dialog(transaction, kind)

    def add_dialog(self, dialog: Dialog) -> None:
        """Recognise requests of this dialog from now on."""
        self._element.dialogs.add(dialog)

    def forget_dialog(self, dialog: Dialog) -> None:
        """Requests of this dialog get 481 from now on. Harmless when it is forgotten already."""
        self._server.forget_dialog(dialog)

    def contact(self, destination: Destination, user: str) -> str:
        """The Contact value under which ``destination`` reaches us."""
        suffix = "" if destination.transport == "udp" else f";transport={destination.transport}"
        return f"<sip:{user}@{self._element.address_of(destination)}{suffix}>"

    # -- transport trouble and figures --------------------------------------------------------------------

    def transport_failed(self, destination: Destination, now: float, cause: str = "") -> None:
        """Nothing can be sent there (``cause`` in words). A request that was moved to TCP for its length goes by UDP instead."""
        self._client.transport_failed(destination, now, cause)

    def connection_closed(self, flow: Flow, now: float) -> None:
        """A connection ended: its open requests fail, its dialogs are told."""
        self._client.transport_failed(flow, now)
        self._element.events.extend(FlowLost(dialog) for dialog in self._element.dialogs.on_flow(flow))

    @property
    def counts(self) -> dict[str, int]:
        """How much is remembered: for gauges and for leak tests."""
        return {
            **self._server.counts,
            "client_transactions": len(self._client),
            "dialogs": len(self._element.dialogs),
        }


__all__ = [
    "ALLOW",
    "ALLOWED_METHODS",
    "AckMissed",
    "Acknowledged",
    "CoreLimits",
    "DialogEnded",
    "Event",
    "FlowLost",
    "InviteCancelled",
    "RequestReceived",
    "ResponseReceived",
    "SipCore",
    "TransactionFailed",
]
