"""The client side of the core: requests of ours, their repetition, ACK, CANCEL and the end of unwanted calls."""

from __future__ import annotations

import re

from sip.dialog import Dialog, tag_of
from sip.element import Destination, Element, method_label
from sip.errors import ParseError, TransactionTimeout, TransportFailed
from sip.events import ResponseReceived, TransactionFailed
from sip.flow import Flow, Target, TransportName
from sip.headers import Headers
from sip.message import Request, Response
from sip.timers import ExpiryRing
from sip.transaction import Action, ClientTransaction, State

_MAX_DATAGRAM = 65_507
_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)


class ClientSide:
    """RFC 3261 8.1, 9.1, 13.2, 17.1 and 18.1 for one element."""

    def __init__(self, element: Element) -> None:
        self._element = element
        self._open: dict[tuple[str, str], ClientTransaction] = {}
        self._by_call: dict[tuple[str, str], ClientTransaction] = {}
        self._late: dict[str, ClientTransaction] = {}
        self._late_ring: ExpiryRing[str] = ExpiryRing(element.limits.late_invite_s)
        self._no_stream: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return len(self._open)

    # -- sending ------------------------------------------------------------------------------------------

    def request(
        self, request: Request, destination: Destination, now: float, context: object = None
    ) -> ClientTransaction:
        """See ``SipCore.request``."""
        if len(self._open) >= self._element.limits.client_transactions:
            self._element.observer.dropped("client_transaction")
            raise TransportFailed("too many open requests", label="overload")
        return self.start(request, destination, now, context)

    def start(
        self, request: Request, destination: Destination, now: float, context: object = None
    ) -> ClientTransaction:
        """Send whatever the load is (the BYE of a call that has to end)."""
        element = self._element
        if isinstance(destination, Target) and destination.flow is not None:
            destination = destination.flow
        if "Max-Forwards" not in request.headers:
            request.headers.add("Max-Forwards", "70")
        if element.user_agent and "User-Agent" not in request.headers:
            request.headers.add("User-Agent", element.user_agent)
        branch, data = element.with_via(request, destination)
        moved = False
        if isinstance(destination, Target) and self._too_long(data, destination, now):
            destination, moved = _over(destination, "tcp"), True
            branch, data = element.with_via(request, destination)
        if destination.transport == "udp" and len(data) > _MAX_DATAGRAM:
            raise TransportFailed(f"{len(data)} bytes do not fit into a datagram", label="too_large")
        transaction = ClientTransaction(
            request,
            data,
            destination,
            branch,
            element.timers,
            now,
            reliable=destination.transport != "udp",
        )
        transaction.over_udp_next = moved and len(data) <= _MAX_DATAGRAM
        transaction.context = context
        self._enter(transaction)
        element.send(data, destination, request.method)
        return transaction

    def _too_long(self, data: bytes, destination: Target, now: float) -> bool:
        if len(data) <= self._element.limits.stream_above_bytes or destination.transport != "udp":
            return False
        return self._no_stream.get((destination.host, destination.port), 0.0) <= now

    def _enter(self, transaction: ClientTransaction) -> None:
        request = transaction.request
        index = request.headers.index
        self._open[transaction.branch, request.method] = transaction
        self._by_call[index["call-id"], index["cseq"]] = transaction
        self._element.deadlines.put(transaction)

    def _leave(self, transaction: ClientTransaction) -> None:
        request = transaction.request
        index = request.headers.index
        self._open.pop((transaction.branch, request.method), None)
        by_call = (index["call-id"], index["cseq"])
        if self._by_call.get(by_call) is transaction:
            del self._by_call[by_call]

    # -- giving up ----------------------------------------------------------------------------------------

    def cancel(self, transaction: ClientTransaction, now: float) -> None:
        """See ``SipCore.cancel``."""
        transaction.context = None
        if not transaction.invite:
            return
        transaction.cancel_wanted = True
        if transaction.state is State.PROCEEDING:
            self._send_cancel(transaction, now)
        elif transaction.state is State.CALLING:
            transaction.stop_resending()
            self._element.deadlines.put(transaction)
        elif transaction.state is State.ACCEPTED and transaction.dialog is not None:
            self.end_dialog(transaction.dialog, now)

    def end_dialog(self, dialog: Dialog, now: float) -> None:
        """BYE a call that is open, and forget it."""
        if self._element.dialogs.remove(dialog):
            self.start(dialog.next_request("BYE", []), dialog.destination, now)

    def _send_cancel(self, transaction: ClientTransaction, now: float) -> None:
        if transaction.cancel_sent:
            return
        element = self._element
        transaction.cancel_sent = True
        transaction.expect_end_by(now + element.timers.timeout)
        element.deadlines.put(transaction)
        request = _same_hop(transaction.request, "CANCEL", transaction.request.headers.get("To"))
        data = request.to_bytes()
        destination = transaction.destination
        cancel = ClientTransaction(
            request,
            data,
            destination,
            transaction.branch,
            element.timers,
            now,
            reliable=transaction.reliable,
        )
        self._enter(cancel)
        element.send(data, destination, "CANCEL")

    # -- answers ------------------------------------------------------------------------------------------

    def receive(self, response: Response, flow: Flow, now: float) -> None:
        """A response from the wire. Raises ParseError when it cannot belong to anything."""
        index = response.headers.index
        try:
            via, cseq, call_id = index["via"], index["cseq"], index["call-id"]
        except KeyError:
            raise ParseError("a mandatory header is missing", label="missing_header") from None
        method = cseq.rpartition(" ")[2]
        match = _BRANCH.search(via)
        transaction = self._open.get((match[1], method)) if match else None
        if transaction is None:
            # a peer that loses the branch still knows the Call-ID and CSeq (quirk 32)
            transaction = self._by_call.get((call_id, cseq))
        self._element.observer.on_received(str(response.status), flow)
        if transaction is None:
            self._stray(response, match[1] if match else "", method, flow, now)
            return
        if response.status >= 200 and transaction.response is not None:
            self._element.observer.retransmitted(method_label(method))
        actions = transaction.receive(response, now)
        self.perform(transaction, actions, now, response, flow)
        self._element.deadlines.put(transaction)

    def _stray(self, response: Response, branch: str, method: str, flow: Flow, now: float) -> None:
        """An answer nobody waits for. A 2xx to an INVITE that we gave up opened a session: end it (G236)."""
        late = self._late.get(branch)
        if late is None or method != "INVITE" or not 200 <= response.status < 300:
            self._element.observer.dropped("stray_response")
            return
        self._acknowledge_and_end(late, response, flow, now)

    def perform(
        self,
        transaction: ClientTransaction,
        actions: tuple[Action, ...],
        now: float,
        response: Response | None = None,
        flow: Flow | None = None,
        cause: str = "",
    ) -> None:
        """Carry out what the machine asked for. ``cause``: why a transport failed, in words."""
        element, method = self._element, transaction.request.method
        for action in actions:
            if action is Action.RESEND:
                transaction.sends += 1
                element.out.append((transaction.data, transaction.destination))
                element.observer.retransmitted(method, "out")
            elif action is Action.DELIVER and response is not None and flow is not None:
                self._deliver(transaction, response, flow, now)
            elif action is Action.DELIVER_AGAIN and response is not None and flow is not None:
                self._answered_again(transaction, response, flow, now)
            elif action is Action.SEND_ACK and response is not None:
                if not transaction.ack_data:
                    ack = _same_hop(transaction.request, "ACK", response.headers.get("To"))
                    transaction.ack_data = ack.to_bytes()
                element.send(transaction.ack_data, transaction.destination, "ACK")
            elif action is Action.TIMED_OUT:
                element.observer.timed_out(method)
                self._note_late(transaction, now)
                error = TransactionTimeout(f"no answer to {method}", provisional=transaction.provisional)
                element.events.append(TransactionFailed(transaction, error))
            elif action is Action.FAILED:
                text = f"{method} could not be sent"
                failed = TransportFailed(f"{text}: {cause}" if cause else text)
                element.events.append(TransactionFailed(transaction, failed))
            elif action is Action.ENDED:
                self._leave(transaction)

    def _deliver(self, transaction: ClientTransaction, response: Response, flow: Flow, now: float) -> None:
        if response.status < 200:
            if transaction.cancel_wanted:
                self._send_cancel(transaction, now)
        else:
            transaction.response = response
            if transaction.invite and response.status < 300:
                if transaction.cancel_wanted:
                    self._acknowledge_and_end(transaction, response, flow, now)
                    return
                transaction.dialog = self._dialog_of(transaction, response, flow)
                self._element.dialogs.add(transaction.dialog)
                self._acknowledge(transaction, transaction.dialog)
        self._element.events.append(ResponseReceived(transaction, response, flow))

    def _dialog_of(self, transaction: ClientTransaction, response: Response, flow: Flow) -> Dialog:
        dialog = Dialog.of_request_sent("invite", transaction.request, transaction.destination)
        dialog.confirm(response, flow)
        return dialog

    def _acknowledge(self, transaction: ClientTransaction, dialog: Dialog) -> None:
        """ACK of a 2xx: a message of its own with its own branch, kept for the repetitions of the 2xx."""
        request = dialog.next_request("ACK", [("Max-Forwards", "70")])
        _, transaction.ack_data = self._element.with_via(request, dialog.destination)
        self._element.send(transaction.ack_data, dialog.destination, "ACK")

    def _answered_again(
        self, transaction: ClientTransaction, response: Response, flow: Flow, now: float
    ) -> None:
        """A further 2xx: the same once more gets its ACK again (G012); another tag is a fork, which is ended."""
        first, dialog = transaction.response, transaction.dialog
        if first is None or tag_of(first.headers.get("To")) == tag_of(response.headers.get("To")):
            destination = dialog.destination if dialog is not None else flow
            self._element.out.append((transaction.ack_data, destination))
            self._element.observer.retransmitted("ACK", "out")
            return
        ack = transaction.ack_data
        self._acknowledge_and_end(transaction, response, flow, now)
        transaction.ack_data = ack

    def _acknowledge_and_end(
        self, transaction: ClientTransaction, response: Response, flow: Flow, now: float
    ) -> None:
        """A session that nobody wants: ACK, then BYE (G015)."""
        dialog = self._dialog_of(transaction, response, flow)
        self._acknowledge(transaction, dialog)
        self.start(dialog.next_request("BYE", []), dialog.destination, now)

    def _note_late(self, transaction: ClientTransaction, now: float) -> None:
        if not transaction.invite:
            return
        if len(self._late_ring) >= self._element.limits.late_invites:
            self._late.pop(self._late_ring.pop_oldest(), None)
        self._late[transaction.branch] = transaction
        self._late_ring.add(transaction.branch, now)

    # -- transport trouble and forgetting -----------------------------------------------------------------

    def transport_failed(self, destination: Destination, now: float, cause: str = "") -> None:
        """See ``SipCore.transport_failed``."""
        way = _way(destination)
        for transaction in [t for t in self._open.values() if _way(t.destination) == way]:
            if transaction.over_udp_next and isinstance(transaction.destination, Target):
                self._back_to_udp(transaction, transaction.destination, now)
                continue
            self.perform(transaction, transaction.transport_failed(now), now, cause=cause)
            self._element.deadlines.put(transaction)

    def _back_to_udp(self, transaction: ClientTransaction, destination: Target, now: float) -> None:
        element = self._element
        if len(self._no_stream) >= 10_000:
            self._no_stream.clear()
        self._no_stream[destination.host, destination.port] = now + element.limits.no_stream_memory_s
        self._leave(transaction)
        transaction.over_udp_next = transaction.reliable = False
        transaction.destination = _over(destination, "udp")
        transaction.branch, transaction.data = element.with_via(transaction.request, transaction.destination)
        transaction.start(now)
        self._enter(transaction)
        element.send(transaction.data, transaction.destination, transaction.request.method)

    def next_expiry(self) -> float:
        return self._late_ring.oldest()

    def forget(self, now: float) -> None:
        for branch in self._late_ring.expired(now):
            self._late.pop(branch, None)


def _way(destination: Destination) -> Flow | tuple[str, str, int]:
    """What two destinations share when one failure is the failure of both."""
    if isinstance(destination, Flow):
        return destination
    return destination.transport, destination.host, destination.port


def _over(target: Target, transport: TransportName) -> Target:
    return Target(uri=target.uri, host=target.host, port=target.port, transport=transport)


def _same_hop(invite: Request, method: str, to: str) -> Request:
    """CANCEL, or the ACK of a non-2xx: top Via, Request-URI, From, Call-ID, Route and CSeq number of the INVITE."""
    index = invite.headers.index
    fields = [
        ("Via", index["via"]),
        ("From", index["from"]),
        ("To", to),
        ("Call-ID", index["call-id"]),
        ("CSeq", f"{index['cseq'].partition(' ')[0]} {method}"),
        ("Max-Forwards", "70"),
    ]
    fields += [("Route", route) for route in invite.headers.get_all("Route")]
    return Request(method, invite.uri, Headers(fields))
