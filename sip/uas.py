"""The server side of the core: which requests are answered here, which are handed on, and how answers leave."""

from __future__ import annotations

import random
import secrets

from sip.dialog import Dialog, DialogKind, Key, tag_of
from sip.element import ALLOW, ALLOWED_METHODS, Element, HeaderList, Output, invite_key, method_label
from sip.errors import ParseError
from sip.events import AckMissed, Acknowledged, DialogEnded, InviteCancelled, RequestReceived
from sip.flow import Flow
from sip.headers import CSeq
from sip.message import Request
from sip.reply import answer_via, encode_response, request_of_garbage
from sip.timers import ExpiryRing
from sip.transaction import Action, InviteServerTransaction, RequestTransaction, ServerTransaction, State
from sip.uac import ClientSide
from sip.uri import SipUri

_DIALOG_ONLY = frozenset({"BYE", "INFO", "NOTIFY", "UPDATE", "PRACK"})
_SINGLE = frozenset({"from", "to", "call-id", "cseq", "content-length", "max-forwards"})

AnswerKey = tuple[str, str, str, str]
"""Top Via, CSeq and Call-ID as sent, and the source host: what every repetition of a request shares.

It serves RFC 3261 17.2.3 (the branch is in the Via) and RFC 2543 peers without the magic cookie (quirks 32, 50)
alike, and keeps devices apart that draw the same branch behind different NATs."""


class ServerSide:
    """RFC 3261 8.2, 9.2, 12.2.2, 13.3, 15.1.2 and 17.2 for one element."""

    def __init__(self, element: Element, client: ClientSide, *, stray_notify: bool) -> None:
        self._element = element
        self._client = client
        self._stray_notify = stray_notify
        # all but INVITE: None while the caller works, then the stored answer. Timer J is one ring for all,
        # counted from the arrival: a client that repeats at all has given up 64*T1 after its first try.
        self._answers: dict[AnswerKey, Output | None] = {}
        self._ring: ExpiryRing[AnswerKey] = ExpiryRing(element.timers.timeout + element.timers.t4)
        self._invites: dict[tuple[str, str, str], InviteServerTransaction] = {}
        self._unacknowledged: dict[Key, InviteServerTransaction] = {}

    @property
    def counts(self) -> dict[str, int]:
        return {"stored_answers": len(self._answers), "server_invites": len(self._invites)}

    # -- arrival ------------------------------------------------------------------------------------------

    def refuse_garbage(self, data: bytes, flow: Flow, status: int, label: str) -> None:
        """See ``SipCore.refuse_garbage``."""
        self._element.observer.malformed(label, flow)
        request = request_of_garbage(data)
        if request is None:
            return
        back = answer_via(request.headers.index["via"], flow)
        if back is not None:
            self._answer_statelessly(request, back, status)

    def receive(self, request: Request, flow: Flow, now: float) -> None:
        """A request from the wire. Raises ParseError when it is malformed."""
        index = request.headers.index
        try:
            via, cseq, call_id, to = index["via"], index["cseq"], index["call-id"], index["to"]
            index["from"]
        except KeyError:
            raise ParseError("a mandatory header is missing", label="missing_header") from None
        method = request.method
        observer = self._element.observer
        key = (via, cseq, call_id, flow.host)
        if key in self._answers:
            observer.retransmitted(method_label(method))
            stored = self._answers[key]
            if stored is not None:
                self._element.out.append(stored)
            return
        _check_headers(request, cseq)
        back = answer_via(via, flow)
        if back is None:
            raise ParseError("no Via value", label="via")
        observer.on_received(method if method in ALLOWED_METHODS else "other", flow)
        if method == "ACK":
            self._receive_ack(request, flow, now)
        elif method == "INVITE":
            self._receive_invite(request, flow, back, now)
        else:
            transaction = RequestTransaction(request, flow, back[1], back[0], key)
            if flow.transport == "udp":
                self._remember(key, now)
            self._receive_other(transaction, tag_of(to) if to[-1:] != ">" else "", now)

    def _remember(self, key: AnswerKey, now: float) -> None:
        if len(self._ring) >= self._element.limits.stored_answers:
            self._answers.pop(self._ring.pop_oldest(), None)
            self._element.observer.dropped("stored_answer")
        self._answers[key] = None
        self._ring.add(key, now)

    def _receive_other(self, transaction: RequestTransaction, to_tag: str, now: float) -> None:
        request, flow, method = transaction.request, transaction.flow, transaction.request.method
        if not to_tag:
            transaction.to_tag = _tag()
        fault = _fault(request)
        if fault is not None:
            self.respond(transaction, fault[0], now, headers=fault[1])
            return
        if method == "CANCEL":
            self._receive_cancel(transaction, now)
            return
        if to_tag or method in _DIALOG_ONLY:
            dialog = self._element.dialogs.find(request, flow, to_tag)
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
        self._element.events.append(RequestReceived(request, flow, transaction, transaction.dialog))

    def _needs_dialog(self, method: str, to_tag: str) -> bool:
        """481 rules of RFC 3261 12.2.2. MESSAGE, REGISTER and OPTIONS with a foreign To tag pass (quirk 32)."""
        if method == "NOTIFY":
            return not self._stray_notify
        return method in _DIALOG_ONLY or (method == "SUBSCRIBE" and bool(to_tag))

    def _receive_bye(self, transaction: RequestTransaction, dialog: Dialog, now: float) -> None:
        self.respond(transaction, 200, now)
        pending = self._unacknowledged.get(dialog.key)
        if pending is not None:
            self.perform(pending, pending.receive("ACK", now), now)
            self._element.deadlines.put(pending)
        self.forget_dialog(dialog)
        self._element.events.append(DialogEnded(dialog, transaction.request))

    def _receive_cancel(self, transaction: RequestTransaction, now: float) -> None:
        invite = self._invites.get(invite_key(transaction.request))
        if invite is None or invite.flow.host != transaction.flow.host:
            self.respond(transaction, 481, now)
            return
        transaction.to_tag = invite.to_tag
        self.respond(transaction, 200, now)
        if invite.state is State.PROCEEDING:
            self.respond(invite, 487, now)
            self._element.events.append(InviteCancelled(invite))

    def _receive_invite(self, request: Request, flow: Flow, back: tuple[str, Flow], now: float) -> None:
        element, key = self._element, invite_key(request)
        known = self._invites.get(key)
        if known is not None:
            if known.flow.host == flow.host and _same_via(known.request, request):
                element.observer.retransmitted("INVITE")
                self.perform(known, known.receive("INVITE", now), now)
                return
            self._answer_statelessly(request, back, 482)  # merged request, RFC 3261 8.2.2.2
            return
        if len(self._invites) >= element.limits.open_invites:
            element.observer.dropped("invite")
            self._answer_statelessly(request, back, 503, (("Retry-After", str(random.randint(5, 20))),))
            return
        to_tag = tag_of(request.headers.index["to"])
        transaction = InviteServerTransaction(
            request, flow, back[1], back[0], key, to_tag or secrets.token_hex(8), element.timers
        )
        self._invites[key] = transaction
        fault = _fault(request)
        if fault is None and to_tag:
            dialog = element.dialogs.find(request, flow, to_tag)
            if dialog is None:
                fault = 481, ()
            elif not dialog.take_cseq(request.cseq.number, "INVITE"):
                fault = 500, ()
            transaction.dialog = dialog
        if fault is not None:
            self.respond(transaction, fault[0], now, headers=fault[1])
            return
        self.respond(transaction, 100, now)
        element.events.append(RequestReceived(request, flow, transaction, transaction.dialog))

    def _receive_ack(self, request: Request, flow: Flow, now: float) -> None:
        """An ACK that fits nothing is dropped: it is never answered (RFC 3261 17)."""
        transaction = self._invites.get(invite_key(request))
        if transaction is None:
            index = request.headers.index
            transaction = self._unacknowledged.get((index["call-id"], tag_of(index["to"])))
        if transaction is None or transaction.flow.host != flow.host:
            return
        self.perform(transaction, transaction.receive("ACK", now), now, request=request)
        self._element.deadlines.put(transaction)

    # -- answers ------------------------------------------------------------------------------------------

    def _answer_statelessly(
        self, request: Request, back: tuple[str, Flow], status: int, headers: HeaderList = ()
    ) -> None:
        to_tag = "" if tag_of(request.headers.get("To")) else _tag()
        data = encode_response(
            request, status, via=back[0], to_tag=to_tag, headers=headers, server=self._element.user_agent
        )
        self._element.send(data, back[1], str(status))

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
        """See ``SipCore.respond``."""
        to_tag = transaction.to_tag
        invite = isinstance(transaction, InviteServerTransaction)
        if (invite or transaction.dialog is not None) and (
            status == 100 or tag_of(transaction.request.headers.index["to"])
        ):
            to_tag = ""
        data = encode_response(
            transaction.request,
            status,
            via=transaction.via,
            to_tag=to_tag,
            reason=reason,
            headers=headers,
            body=body,
            content_type=content_type,
            server=self._element.user_agent,
        )
        if isinstance(transaction, InviteServerTransaction):
            actions = transaction.send(status, data, now)
            self.perform(transaction, actions, now, first=True)
            self._element.deadlines.put(transaction)
            return
        output = (data, transaction.reply_to)
        if transaction.key in self._answers:
            if self._answers[transaction.key] is not None:
                return
            if status >= 200:
                self._answers[transaction.key] = output
        self._element.out.append(output)
        self._element.observer.on_sent(str(status), transaction.reply_to)

    def perform(
        self,
        transaction: InviteServerTransaction,
        actions: tuple[Action, ...],
        now: float,
        *,
        request: Request | None = None,
        first: bool = False,
    ) -> None:
        """Carry out what the INVITE machine asked for."""
        element = self._element
        for action in actions:
            if action is Action.RESEND and transaction.data:
                element.out.append((transaction.data, transaction.reply_to))
                if first:
                    element.observer.on_sent(transaction.data[8:11].decode("ascii"), transaction.reply_to)
                else:
                    element.observer.retransmitted("INVITE", "out")
            elif action is Action.ACKNOWLEDGED and transaction.dialog is not None:
                self._unacknowledged.pop(transaction.dialog.key, None)
                if request is not None:
                    element.events.append(Acknowledged(transaction, request))
            elif action is Action.ACK_MISSED and transaction.dialog is not None:
                self._unacknowledged.pop(transaction.dialog.key, None)
                self._client.end_dialog(transaction.dialog, now)
                element.events.append(AckMissed(transaction))
            elif action is Action.ENDED:
                self._invites.pop(transaction.key, None)

    # -- dialogs ------------------------------------------------------------------------------------------

    def open_dialog(self, transaction: ServerTransaction, kind: DialogKind) -> Dialog:
        """See ``SipCore.open_dialog``."""
        if isinstance(transaction, RequestTransaction):
            transaction.to_tag = secrets.token_hex(8)
        dialog = Dialog.of_request_received(kind, transaction.request, transaction.flow, transaction.to_tag)
        self._element.dialogs.add(dialog)
        if isinstance(transaction, InviteServerTransaction):
            transaction.dialog = dialog
            self._unacknowledged[dialog.key] = transaction
        return dialog

    def forget_dialog(self, dialog: Dialog) -> None:
        if self._element.dialogs.remove(dialog):
            self._unacknowledged.pop(dialog.key, None)

    def next_expiry(self) -> float:
        return self._ring.oldest()

    def forget(self, now: float) -> None:
        for key in self._ring.expired(now):
            self._answers.pop(key, None)


def _tag() -> str:
    """A To tag for an answer that opens no dialog: unique, need not be secret."""
    return f"{random.getrandbits(48):012x}"


def _same_via(one: Request, other: Request) -> bool:
    return one.headers.index["via"] == other.headers.index["via"]


def _check_headers(request: Request, cseq: str) -> None:
    number, _, method = cseq.partition(" ")
    if method != request.method and CSeq.parse(cseq).method != request.method:
        raise ParseError("CSeq of another method", label="cseq")
    if not number.isdigit() or len(number) > 9:
        CSeq.parse(cseq)
    repeated = request.headers.repeated
    if repeated and not _SINGLE.isdisjoint(repeated):
        raise ParseError("a header stands twice", label="repeated_header")


def _fault(request: Request) -> tuple[int, HeaderList] | None:
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
    # what ends or asks about something is served at the last hop all the same
    if index.get("max-forwards") == "0" and method not in ("OPTIONS", "BYE", "CANCEL"):
        return 483, ()
    if "require" in index and method != "CANCEL":
        return 420, (("Unsupported", ", ".join(request.headers.get_all("require"))),)
    if "content-encoding" in index and index["content-encoding"].lower() not in ("", "identity"):
        return 415, (("Accept-Encoding", "identity"),)
    return None
