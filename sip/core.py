"""The SIP element without any input or output: bytes and a time go in, bytes, events and a deadline come out.

Layers of RFC 3261 in one object: transactions (17), dialogs (12), and the rules a user agent has to keep
whatever it is used for (8, 9, 13, 14, 15). What a request means is the business of the caller, who reads
``events()`` and answers by ``respond``.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sip.dialog import Dialog, DialogKind, Key, tag_of
from sip.errors import ParseError, RemoteError, TransactionTimeout, TransportFailed
from sip.flow import Flow, Target
from sip.headers import CSeq, Headers
from sip.message import Request, Response, parse
from sip.observer import Observer
from sip.reply import answer_via, encode_response, request_of_garbage
from sip.timers import NEVER, Deadlines, ExpiryRing, Timers
from sip.transaction import (
    Action,
    ClientTransaction,
    InviteServerTransaction,
    RequestTransaction,
    ServerTransaction,
    State,
)
from sip.uri import SipUri

MAGIC_COOKIE = "z9hG4bK"
ALLOWED_METHODS = (
    "INVITE",
    "ACK",
    "INFO",
    "CANCEL",
    "BYE",
    "OPTIONS",
    "MESSAGE",
    "REGISTER",
    "SUBSCRIBE",
    "NOTIFY",
)
ALLOW = ", ".join(ALLOWED_METHODS)
_DIALOG_ONLY = frozenset({"BYE", "INFO", "NOTIFY", "UPDATE", "PRACK"})
_SINGLE = ("from", "to", "call-id", "cseq", "content-length", "max-forwards")
_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)

Destination = Flow | Target
Output = tuple[bytes, Destination]
HeaderList = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CoreLimits:
    """Bounds of what one core remembers."""

    stored_answers: int = 100_000
    open_invites: int = 5_000
    client_transactions: int = 50_000
    late_invites: int = 4_000
    late_invite_s: float = 180.0
    stream_above_bytes: int = 1300
    """A request longer than this goes by TCP where no flow binds it (RFC 3261 18.1.1)."""
    no_stream_memory_s: float = 300.0
    """How long a peer that refused TCP is spared another try."""


@dataclass(slots=True)
class RequestReceived:
    """A new request that needs an answer by ``respond``. ``dialog``: the one it belongs to."""

    request: Request
    flow: Flow
    transaction: ServerTransaction
    dialog: Dialog | None = None


@dataclass(slots=True)
class ResponseReceived:
    """An answer to a request of ours; for a 2xx to INVITE the ACK went out and ``transaction.dialog`` is set."""

    transaction: ClientTransaction
    response: Response
    flow: Flow


@dataclass(slots=True)
class TransactionFailed:
    """No final answer will come: TransactionTimeout or TransportFailed."""

    transaction: ClientTransaction
    error: RemoteError


@dataclass(slots=True)
class InviteCancelled:
    """The peer took its INVITE back; 200 and 487 are sent."""

    transaction: InviteServerTransaction


@dataclass(slots=True)
class Acknowledged:
    """The ACK of our 2xx to an INVITE; its body may be an SDP answer."""

    transaction: InviteServerTransaction
    request: Request


@dataclass(slots=True)
class AckMissed:
    """64*T1 passed without the ACK; BYE was sent."""

    transaction: InviteServerTransaction


@dataclass(slots=True)
class DialogEnded:
    """The peer sent BYE; 200 is sent."""

    dialog: Dialog
    request: Request


@dataclass(slots=True)
class FlowLost:
    """The connection of a dialog closed."""

    dialog: Dialog


Event = (
    RequestReceived
    | ResponseReceived
    | TransactionFailed
    | InviteCancelled
    | Acknowledged
    | AckMissed
    | DialogEnded
    | FlowLost
)


class SipCore:
    """One SIP element.

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
        self.timers = timers or Timers()
        self.limits = limits or CoreLimits()
        self.observer = observer or Observer()
        self.user_agent = user_agent
        self.stray_notify = stray_notify
        self._address_of = address_of
        self._out: list[Output] = []
        self._events: list[Event] = []
        # server side, all but INVITE: key -> None while the caller works, then the stored answer
        self._answers: dict[tuple[str, str, str, str], Output | None] = {}
        self._answers_ring: ExpiryRing[tuple[str, str, str, str]] = ExpiryRing(
            self.timers.timeout + self.timers.t4
        )
        self._invites: dict[tuple[str, str, str], InviteServerTransaction] = {}
        self._unacknowledged: dict[Key, InviteServerTransaction] = {}
        self._clients: dict[tuple[str, str], ClientTransaction] = {}
        self._clients_by_call: dict[tuple[str, str], ClientTransaction] = {}
        self._deadlines: Deadlines[ClientTransaction | InviteServerTransaction] = Deadlines()
        self._dialogs: dict[Key, Dialog] = {}
        self._calls: dict[str, list[Dialog]] = {}
        self._late: dict[str, ClientTransaction] = {}
        self._late_ring: ExpiryRing[str] = ExpiryRing(self.limits.late_invite_s)
        self._no_stream: dict[tuple[str, int], float] = {}

    # -- the five doors -----------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """One datagram, or one message cut out of a stream. Never raises for what the bytes are."""
        if self._answers_ring.oldest() <= now:
            self._forget(now)
        try:
            message = parse(data)
            if isinstance(message, Request):
                self._receive_request(message, flow, now)
            else:
                self._receive_response(message, flow, now)
        except ParseError as error:
            self.refuse_garbage(data, flow, error.status, error.label)

    def to_send(self) -> list[Output]:
        """Messages that have to leave now, in order, with where they go."""
        out, self._out = self._out, []
        return out

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def next_timer(self) -> float:
        """When ``handle_timer`` wants to be called next (same clock as ``now``); infinity for never."""
        # expiry of stored answers is not urgent: let a second's worth come together
        return min(self._deadlines.next(), self._answers_ring.oldest() + 1.0, self._late_ring.oldest() + 1.0)

    def handle_timer(self, now: float) -> None:
        """Repeat, give up and forget what is due."""
        for transaction in self._deadlines.due(now):
            actions = transaction.handle_timer(now)
            if isinstance(transaction, ClientTransaction):
                self._perform_client(transaction, actions, now)
            else:
                self._perform_server(transaction, actions, now)
            self._deadlines.put(transaction)
        self._forget(now)

    # -- figures and addresses ----------------------------------------------------------------------------

    @property
    def counts(self) -> dict[str, int]:
        """How much is remembered: for gauges and for leak tests."""
        return {
            "stored_answers": len(self._answers),
            "server_invites": len(self._invites),
            "client_transactions": len(self._clients),
            "dialogs": len(self._dialogs),
        }

    def contact(self, destination: Destination, user: str) -> str:
        """The Contact value under which ``destination`` reaches us."""
        suffix = "" if destination.transport == "udp" else f";transport={destination.transport}"
        return f"<sip:{user}@{self._address_of(destination)}{suffix}>"

    # -- server side --------------------------------------------------------------------------------------

    def refuse_garbage(self, data: bytes, flow: Flow, status: int, label: str) -> None:
        """Count bytes that are no usable message, and answer them when an answer can be addressed."""
        self.observer.malformed(label, flow)
        request = request_of_garbage(data)
        if request is None:
            return
        back = answer_via(request.headers.index["via"], flow)
        if back is None:
            return
        to_tag = "" if tag_of(request.headers.index["to"]) else _tag()
        answer = encode_response(request, status, via=back[0], to_tag=to_tag, server=self.user_agent)
        self._send(answer, back[1], str(status))

    def _receive_request(self, request: Request, flow: Flow, now: float) -> None:
        index = request.headers.index
        try:
            via, cseq, call_id, to = index["via"], index["cseq"], index["call-id"], index["to"]
            index["from"]
        except KeyError:
            raise ParseError("a mandatory header is missing", label="missing_header") from None
        method = request.method
        key = (via, cseq, call_id, flow.host)
        if key in self._answers:
            self.observer.retransmitted(method if method in ALLOWED_METHODS else "other")
            stored = self._answers[key]
            if stored is not None:
                self._out.append(stored)
            return
        self._check_headers(request, cseq)
        back = answer_via(via, flow)
        if back is None:
            raise ParseError("no Via value", label="via")
        self.observer.on_received(method if method in ALLOWED_METHODS else "other", flow)
        if method == "ACK":
            self._receive_ack(request, flow, now)
        elif method == "INVITE":
            self._receive_invite(request, flow, back, now)
        else:
            transaction = RequestTransaction(request, flow, back[1], back[0], key)
            if flow.transport == "udp":
                self._remember(key, now)
            self._route_request(transaction, tag_of(to) if to[-1:] != ">" else "", now)

    def _remember(self, key: tuple[str, str, str, str], now: float) -> None:
        if len(self._answers_ring) >= self.limits.stored_answers:
            self._answers.pop(self._answers_ring.pop_oldest(), None)
            self.observer.dropped("stored_answer")
        self._answers[key] = None
        self._answers_ring.add(key, now)

    def _check_headers(self, request: Request, cseq: str) -> None:
        number, _, method = cseq.partition(" ")
        if method != request.method and CSeq.parse(cseq).method != request.method:
            raise ParseError("CSeq of another method", label="cseq")
        if not number.isdigit() or len(number) > 9:
            CSeq.parse(cseq)
        for key in _SINGLE:
            if request.headers.repeated(key):
                raise ParseError(f"{key} stands twice", label="repeated_header")

    def _faults(self, request: Request) -> tuple[int, HeaderList] | None:
        """Status and headers for what RFC 3261 8.2 makes us refuse, in its order; None when all is well."""
        method, index = request.method, request.headers.index
        if method not in ALLOWED_METHODS:
            return 405, (("Allow", ALLOW),)
        if not request.uri.startswith("sip:"):
            try:
                if SipUri.parse(request.uri).scheme not in ("sip", "sips"):
                    return 416, ()
            except ParseError as error:
                return error.status, ()
        if index.get("max-forwards") == "0" and method not in ("OPTIONS", "BYE", "CANCEL"):
            return 483, ()
        if "require" in index and method != "CANCEL":
            return 420, (("Unsupported", ", ".join(request.headers.get_all("require"))),)
        if "content-encoding" in index and index["content-encoding"].lower() not in ("", "identity"):
            return 415, (("Accept-Encoding", "identity"),)
        return None

    def _route_request(self, transaction: RequestTransaction, to_tag: str, now: float) -> None:
        request, flow = transaction.request, transaction.flow
        if not to_tag:
            transaction.to_tag = _tag()
        fault = self._faults(request)
        if fault is not None:
            self.respond(transaction, fault[0], now, headers=fault[1])
            return
        method = request.method
        if method == "CANCEL":
            self._receive_cancel(transaction, now)
            return
        dialog = None
        if to_tag or method in _DIALOG_ONLY:
            dialog = self._find_dialog(request, flow, to_tag)
            if dialog is None and self._needs_dialog(method, to_tag):
                self.respond(transaction, 481, now)
                return
            if dialog is not None and not dialog.take_cseq(request.cseq.number, method):
                self.respond(transaction, 500, now)
                return
        transaction.dialog = dialog
        if dialog is not None and method == "BYE":
            self._receive_bye(transaction, dialog, now)
            return
        self._events.append(RequestReceived(request, flow, transaction, dialog))

    def _needs_dialog(self, method: str, to_tag: str) -> bool:
        """481 rules of RFC 3261 12.2.2. MESSAGE, REGISTER and OPTIONS with a foreign To tag pass (quirk 32)."""
        if method == "NOTIFY":
            return not self.stray_notify
        return method in _DIALOG_ONLY or (method == "SUBSCRIBE" and bool(to_tag))

    def _find_dialog(self, request: Request, flow: Flow, to_tag: str) -> Dialog | None:
        call_id = request.headers.index["call-id"]
        if to_tag:
            dialog = self._dialogs.get((call_id, to_tag))
            return dialog if dialog is not None and dialog.accepts(request) else None
        # peers without tags (quirk 41): the only dialog of that Call-ID, and only from its own host
        found = self._calls.get(call_id, ())
        if len(found) == 1 and found[0].destination.host == flow.host and found[0].accepts(request):
            return found[0]
        return None

    def _receive_bye(self, transaction: RequestTransaction, dialog: Dialog, now: float) -> None:
        self.respond(transaction, 200, now)
        pending = self._unacknowledged.get(dialog.key)
        if pending is not None:
            self._perform_server(pending, pending.receive("ACK", now), now, request=None)
            self._deadlines.put(pending)
        self.forget_dialog(dialog)
        self._events.append(DialogEnded(dialog, transaction.request))

    def _receive_cancel(self, transaction: RequestTransaction, now: float) -> None:
        request = transaction.request
        invite = self._invites.get(_invite_key(request))
        if invite is None or invite.flow.host != transaction.flow.host:
            self.respond(transaction, 481, now)
            return
        transaction.to_tag = invite.to_tag
        self.respond(transaction, 200, now)
        if invite.state is State.PROCEEDING:
            self.respond(invite, 487, now)
            self._events.append(InviteCancelled(invite))

    def _receive_invite(self, request: Request, flow: Flow, back: tuple[str, Flow], now: float) -> None:
        key = _invite_key(request)
        known = self._invites.get(key)
        if known is not None:
            if known.flow.host == flow.host and _same_branch(known.request, request):
                self.observer.retransmitted("INVITE")
                self._perform_server(known, known.receive("INVITE", now), now)
                return
            self._answer_statelessly(request, back, 482)  # merged request, RFC 3261 8.2.2.2
            return
        if len(self._invites) >= self.limits.open_invites:
            self.observer.dropped("invite")
            self._answer_statelessly(request, back, 503, (("Retry-After", str(random.randint(5, 20))),))
            return
        to_tag = tag_of(request.headers.index["to"])
        transaction = InviteServerTransaction(
            request, flow, back[1], back[0], key, to_tag or _tag(), self.timers
        )
        self._invites[key] = transaction
        fault = self._faults(request)
        dialog = None
        if fault is None and to_tag:
            dialog = self._find_dialog(request, flow, to_tag)
            if dialog is None:
                fault = 481, ()
            elif not dialog.take_cseq(request.cseq.number, "INVITE"):
                fault = 500, ()
        if fault is not None:
            self.respond(transaction, fault[0], now, headers=fault[1])
            return
        transaction.dialog = dialog
        self.respond(transaction, 100, now)
        self._events.append(RequestReceived(request, flow, transaction, dialog))

    def _receive_ack(self, request: Request, flow: Flow, now: float) -> None:
        transaction = self._invites.get(_invite_key(request))
        if transaction is None:
            to_tag = tag_of(request.headers.index["to"])
            transaction = self._unacknowledged.get((request.headers.index["call-id"], to_tag))
        if transaction is None or transaction.flow.host != flow.host:
            return
        actions = transaction.receive("ACK", now)
        self._perform_server(transaction, actions, now, request=request)
        self._deadlines.put(transaction)

    def _answer_statelessly(
        self, request: Request, back: tuple[str, Flow], status: int, headers: HeaderList = ()
    ) -> None:
        to_tag = "" if tag_of(request.headers.index["to"]) else _tag()
        data = encode_response(
            request, status, via=back[0], to_tag=to_tag, headers=headers, server=self.user_agent
        )
        self._send(data, back[1], str(status))

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
        request = transaction.request
        to_tag = transaction.to_tag
        if transaction.dialog is not None and tag_of(request.headers.index["to"]):
            to_tag = ""
        elif isinstance(transaction, InviteServerTransaction):
            to_tag = "" if status == 100 or tag_of(request.headers.index["to"]) else to_tag
        data = encode_response(
            request,
            status,
            via=transaction.via,
            to_tag=to_tag,
            reason=reason,
            headers=headers,
            body=body,
            content_type=content_type,
            server=self.user_agent,
        )
        if isinstance(transaction, InviteServerTransaction):
            actions = transaction.send(status, data, now)
            self._perform_server(transaction, actions, now, first=True)
            self._deadlines.put(transaction)
            return
        output = (data, transaction.reply_to)
        if transaction.key in self._answers:
            if self._answers[transaction.key] is not None:
                return
            if status >= 200:
                self._answers[transaction.key] = output
        self._out.append(output)
        self.observer.on_sent(str(status), transaction.reply_to)

    def open_dialog(self, transaction: ServerTransaction, kind: DialogKind) -> Dialog:
        """The dialog that our 2xx will open; call it before ``respond``. Its local tag is the answer's To tag."""
        local_tag = transaction.to_tag = secrets.token_hex(8)
        dialog = Dialog.of_request_received(kind, transaction.request, transaction.flow, local_tag)
        self.add_dialog(dialog)
        if isinstance(transaction, InviteServerTransaction):
            transaction.dialog = dialog
            self._unacknowledged[dialog.key] = transaction
        return dialog

    def add_dialog(self, dialog: Dialog) -> None:
        """Recognise requests of this dialog from now on."""
        self._dialogs[dialog.key] = dialog
        self._calls.setdefault(dialog.call_id, []).append(dialog)

    def forget_dialog(self, dialog: Dialog) -> None:
        """Requests of this dialog get 481 from now on. Harmless when it is forgotten already."""
        if self._dialogs.get(dialog.key) is not dialog:
            return
        del self._dialogs[dialog.key]
        self._unacknowledged.pop(dialog.key, None)
        others = [other for other in self._calls.get(dialog.call_id, ()) if other is not dialog]
        if others:
            self._calls[dialog.call_id] = others
        else:
            self._calls.pop(dialog.call_id, None)

    def _perform_server(
        self,
        transaction: InviteServerTransaction,
        actions: tuple[Action, ...],
        now: float,
        *,
        request: Request | None = None,
        first: bool = False,
    ) -> None:
        for action in actions:
            if action is Action.RESEND and transaction.data:
                self._out.append((transaction.data, transaction.reply_to))
                if first:
                    self.observer.on_sent(_status_of(transaction.data), transaction.reply_to)
                else:
                    self.observer.retransmitted("INVITE", "out")
            elif action is Action.ACKNOWLEDGED and transaction.dialog is not None:
                self._unacknowledged.pop(transaction.dialog.key, None)
                if request is not None:
                    self._events.append(Acknowledged(transaction, request))
            elif action is Action.ACK_MISSED and transaction.dialog is not None:
                dialog: Dialog = transaction.dialog
                if self._dialogs.get(dialog.key) is dialog:
                    self.request(dialog.next_request("BYE", []), dialog.destination, now)
                    self.forget_dialog(dialog)
                self._events.append(AckMissed(transaction))
            elif action is Action.ENDED:
                self._invites.pop(transaction.key, None)

    # -- client side --------------------------------------------------------------------------------------

    def request(
        self, request: Request, destination: Destination, now: float, *, context: object = None
    ) -> ClientTransaction:
        """Send a request: Via, Max-Forwards and User-Agent are added, a large one moves from UDP to TCP.

        Raises TransportFailed (label overload) when too many are open.
        """
        if len(self._clients) >= self.limits.client_transactions:
            self.observer.dropped("client_transaction")
            raise TransportFailed("too many open requests", label="overload")
        if isinstance(destination, Target) and destination.flow is not None:
            destination = destination.flow
        if "Max-Forwards" not in request.headers:
            request.headers.add("Max-Forwards", "70")
        if self.user_agent and "User-Agent" not in request.headers:
            request.headers.add("User-Agent", self.user_agent)
        branch, data = self._with_via(request, destination)
        moved = False
        if isinstance(destination, Target) and self._too_long(data, destination):
            destination = _over(destination, "tcp")
            branch, data = self._with_via(request, destination)
            moved = True
        transaction = ClientTransaction(
            request, data, destination, branch, self.timers, now, reliable=destination.transport != "udp"
        )
        transaction.over_udp_next = moved
        transaction.context = context
        self._enter(transaction)
        self._send(data, destination, request.method)
        return transaction

    def _enter(self, transaction: ClientTransaction) -> None:
        request = transaction.request
        self._clients[transaction.branch, request.method] = transaction
        index = request.headers.index
        self._clients_by_call[index["call-id"], index["cseq"]] = transaction
        self._deadlines.put(transaction)

    def _leave(self, transaction: ClientTransaction) -> None:
        request = transaction.request
        self._clients.pop((transaction.branch, request.method), None)
        index = request.headers.index
        by_call = (index["call-id"], index["cseq"])
        if self._clients_by_call.get(by_call) is transaction:
            del self._clients_by_call[by_call]

    def _too_long(self, data: bytes, destination: Target) -> bool:
        if len(data) <= self.limits.stream_above_bytes:
            return False
        return destination.transport == "udp" and (destination.host, destination.port) not in self._no_stream

    def _with_via(self, request: Request, destination: Destination) -> tuple[str, bytes]:
        branch = MAGIC_COOKIE + secrets.token_hex(10)
        sent_by = self._address_of(destination)
        via = f"SIP/2.0/{destination.transport.upper()} {sent_by};rport;branch={branch}"
        request.headers.remove("Via")
        request.headers.set_first("Via", via)
        return branch, request.to_bytes()

    def _send(self, data: bytes, destination: Destination, label: str) -> None:
        self._out.append((data, destination))
        self.observer.on_sent(label, destination)

    def cancel(self, transaction: ClientTransaction, now: float) -> None:
        """Give an INVITE up. CANCEL goes out once a provisional answer came (RFC 3261 9.1); a 2xx that crosses
        it is acknowledged and ended by BYE. For other methods the answer is simply no longer waited for."""
        transaction.context = None
        if not transaction.invite:
            return
        transaction.cancel_wanted = True
        if transaction.state is State.PROCEEDING:
            self._send_cancel(transaction, now)
        elif transaction.state is State.CALLING:
            transaction.stop_resending()
            self._deadlines.put(transaction)
        elif transaction.state is State.ACCEPTED and transaction.dialog is not None:
            self._end_dialog(transaction.dialog, now)

    def _end_dialog(self, dialog: Dialog, now: float) -> None:
        self.request(dialog.next_request("BYE", []), dialog.destination, now)
        self.forget_dialog(dialog)

    def _send_cancel(self, transaction: ClientTransaction, now: float) -> None:
        if transaction.cancel_sent:
            return
        transaction.cancel_sent = True
        transaction.expect_end_by(now + self.timers.timeout)
        self._deadlines.put(transaction)
        request = _same_hop(transaction.request, "CANCEL", transaction.request.headers.get("To"))
        if self.user_agent:
            request.headers.add("User-Agent", self.user_agent)
        data = request.to_bytes()
        destination = transaction.destination
        cancel = ClientTransaction(
            request, data, destination, transaction.branch, self.timers, now, reliable=transaction.reliable
        )
        self._enter(cancel)
        self._send(data, destination, "CANCEL")

    def _receive_response(self, response: Response, flow: Flow, now: float) -> None:
        index = response.headers.index
        try:
            via, cseq, call_id = index["via"], index["cseq"], index["call-id"]
        except KeyError:
            raise ParseError("a mandatory header is missing", label="missing_header") from None
        method = cseq.rpartition(" ")[2]
        match = _BRANCH.search(via)
        transaction = self._clients.get((match[1], method)) if match else None
        if transaction is None:
            # a peer that loses the branch still knows the Call-ID and CSeq (quirk 32)
            transaction = self._clients_by_call.get((call_id, cseq))
        self.observer.on_received(str(response.status), flow)
        if transaction is None:
            self._stray_response(response, match[1] if match else "", method, flow, now)
            return
        if response.status >= 200 and transaction.response is not None:
            self.observer.retransmitted(method if method in ALLOWED_METHODS else "other")
        actions = transaction.receive(response, now)
        self._perform_client(transaction, actions, now, response, flow)
        self._deadlines.put(transaction)

    def _stray_response(self, response: Response, branch: str, method: str, flow: Flow, now: float) -> None:
        """An answer nobody waits for. A 2xx to an INVITE that we gave up still opened a session: end it (G236)."""
        late = self._late.get(branch)
        if late is None or method != "INVITE" or not 200 <= response.status < 300:
            self.observer.dropped("stray_response")
            return
        self._acknowledge_and_end(late, response, flow, now)

    def _perform_client(
        self,
        transaction: ClientTransaction,
        actions: tuple[Action, ...],
        now: float,
        response: Response | None = None,
        flow: Flow | None = None,
    ) -> None:
        method = transaction.request.method
        for action in actions:
            if action is Action.RESEND:
                transaction.sends += 1
                self._out.append((transaction.data, transaction.destination))
                self.observer.retransmitted(method, "out")
            elif action is Action.DELIVER and response is not None and flow is not None:
                self._deliver(transaction, response, flow, now)
            elif action is Action.DELIVER_AGAIN and response is not None and flow is not None:
                self._answered_again(transaction, response, flow, now)
            elif action is Action.SEND_ACK and response is not None:
                if not transaction.ack_data:
                    ack = _same_hop(transaction.request, "ACK", response.headers.get("To"))
                    transaction.ack_data = ack.to_bytes()
                self._send(transaction.ack_data, transaction.destination, "ACK")
            elif action is Action.TIMED_OUT:
                self.observer.timed_out(method)
                self._note_late(transaction, now)
                error = TransactionTimeout(f"no answer to {method}", provisional=transaction.provisional)
                self._events.append(TransactionFailed(transaction, error))
            elif action is Action.FAILED:
                failed = TransportFailed(f"{method} could not be sent")
                self._events.append(TransactionFailed(transaction, failed))
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
                dialog = Dialog.of_request_sent("invite", transaction.request, transaction.destination)
                dialog.confirm(response, _learned(transaction.destination, flow))
                transaction.dialog = dialog
                self.add_dialog(dialog)
                self._acknowledge(transaction, dialog)
        self._events.append(ResponseReceived(transaction, response, flow))

    def _acknowledge(self, transaction: ClientTransaction, dialog: Dialog) -> None:
        """ACK of a 2xx: a message of its own with its own branch, kept for the repetitions of the 2xx."""
        request = dialog.next_request("ACK", [("Max-Forwards", "70")])
        _, transaction.ack_data = self._with_via(request, dialog.destination)
        self._send(transaction.ack_data, dialog.destination, "ACK")

    def _answered_again(
        self, transaction: ClientTransaction, response: Response, flow: Flow, now: float
    ) -> None:
        """A further 2xx: the same once more gets its ACK again (G012); another tag is a fork, which is ended."""
        first = transaction.response
        if first is None or tag_of(first.headers.get("To")) == tag_of(response.headers.get("To")):
            dialog = transaction.dialog
            destination = dialog.destination if dialog is not None else flow
            self._out.append((transaction.ack_data, destination))
            self.observer.retransmitted("ACK", "out")
            return
        self._acknowledge_and_end(transaction, response, flow, now, keep_ack=True)

    def _acknowledge_and_end(
        self,
        transaction: ClientTransaction,
        response: Response,
        flow: Flow,
        now: float,
        *,
        keep_ack: bool = False,
    ) -> None:
        """A session that nobody wants: ACK, then BYE (G015)."""
        dialog = Dialog.of_request_sent("invite", transaction.request, transaction.destination)
        dialog.confirm(response, _learned(transaction.destination, flow))
        ack = transaction.ack_data
        self._acknowledge(transaction, dialog)
        if keep_ack:
            transaction.ack_data = ack
        self.request(dialog.next_request("BYE", []), dialog.destination, now)

    def _note_late(self, transaction: ClientTransaction, now: float) -> None:
        if not transaction.invite:
            return
        if len(self._late_ring) >= self.limits.late_invites:
            self._late.pop(self._late_ring.pop_oldest(), None)
        self._late[transaction.branch] = transaction
        self._late_ring.add(transaction.branch, now)

    # -- transport trouble --------------------------------------------------------------------------------

    def transport_failed(self, destination: Destination, now: float) -> None:
        """Nothing can be sent there. A request that was moved to TCP for its length goes by UDP instead."""
        for transaction in [t for t in self._clients.values() if t.destination == destination]:
            if transaction.over_udp_next and isinstance(destination, Target):
                self._back_to_udp(transaction, destination, now)
                continue
            self._perform_client(transaction, transaction.transport_failed(now), now)
            self._deadlines.put(transaction)

    def _back_to_udp(self, transaction: ClientTransaction, destination: Target, now: float) -> None:
        if len(self._no_stream) >= 10_000:
            self._no_stream.clear()
        self._no_stream[destination.host, destination.port] = now + self.limits.no_stream_memory_s
        self._leave(transaction)
        transaction.over_udp_next = False
        transaction.destination = _over(destination, "udp")
        transaction.reliable = False
        transaction.branch, transaction.data = self._with_via(transaction.request, transaction.destination)
        transaction.start(now)
        self._enter(transaction)
        self._send(transaction.data, transaction.destination, transaction.request.method)

    def connection_closed(self, flow: Flow, now: float) -> None:
        """A connection ended: its open requests fail, its dialogs are told."""
        self.transport_failed(flow, now)
        for dialog in [d for d in self._dialogs.values() if d.destination == flow]:
            self._events.append(FlowLost(dialog))

    def _forget(self, now: float) -> None:
        for key in self._answers_ring.expired(now):
            self._answers.pop(key, None)
        for branch in self._late_ring.expired(now):
            self._late.pop(branch, None)
        if self._no_stream:
            self._no_stream = {peer: until for peer, until in self._no_stream.items() if until > now}


def _tag() -> str:
    """A To tag for an answer that opens no dialog: unique, need not be secret."""
    return f"{random.getrandbits(48):012x}"


def _invite_key(request: Request) -> tuple[str, str, str]:
    """What an INVITE, its ACK and its CANCEL share whatever their branch is (RFC 3261 17.2.3, RFC 2543)."""
    index = request.headers.index
    return index["call-id"], index["cseq"].partition(" ")[0], tag_of(index["from"])


def _same_branch(one: Request, other: Request) -> bool:
    return one.headers.index["via"] == other.headers.index["via"]


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


def _over(target: Target, transport: str) -> Target:
    return Target(uri=target.uri, host=target.host, port=target.port, transport=transport)  # type: ignore[arg-type]


def _learned(destination: Destination, flow: Flow) -> Flow | None:
    """The flow that a dialog keeps to; None where we dialled and can dial again."""
    return None if isinstance(destination, Target) and destination.transport != "udp" else flow


def _status_of(data: bytes) -> str:
    return data[8:11].decode("ascii", "replace")


__all__ = [
    "ALLOW",
    "ALLOWED_METHODS",
    "NEVER",
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
