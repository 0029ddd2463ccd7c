"""The asyncio face of the SIP core: sockets in front, handlers behind, and every task owned here."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sip.core import (
    ALLOW,
    AckMissed,
    Acknowledged,
    CoreLimits,
    DialogEnded,
    FlowLost,
    InviteCancelled,
    RequestReceived,
    ResponseReceived,
    SipCore,
    TransactionFailed,
)
from sip.dialog import Dialog
from sip.digest import Credentials, answer_challenges
from sip.errors import AckMissing, LocalError, Rejected, RemoteError, TransactionTimeout
from sip.flow import Flow, Target
from sip.framing import FrameFault
from sip.headers import Headers, checked
from sip.incoming import (
    Handler,
    Identity,
    Incoming,
    IncomingInvite,
    IncomingSubscribe,
    Reply,
    RequestCallback,
)
from sip.message import Request, Response
from sip.observer import Observer
from sip.session import InviteSession
from sip.subscription import NotifierSubscription, Subscription
from sip.timers import NEVER, Timers
from sip.transaction import ClientTransaction, ServerTransaction, State
from sip.transport import SocketTransport, TransportLimits
from sip.uri import join_host_port, split_host_port

log = logging.getLogger(__name__)
wire_log = logging.getLogger("sip.wire")

ACCEPT = (
    "Application/MANSCDP+xml",
    "application/sdp",
    "Application/MANSRTSP",
    "application/xml",
    "text/xml",
    "application/rtsp",
    "text/plain",
)
EVENTS = ("Catalog", "presence", "Alarm", "MobilePosition", "PTZPosition")

HeaderSequence = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of an endpoint."""

    handlers: int = 1000
    core: CoreLimits = field(default_factory=CoreLimits)
    transport: TransportLimits = field(default_factory=TransportLimits)


class Endpoint:
    """One SIP user agent on one port number, UDP and TCP.

    ``handler`` gets every request that the protocol itself does not answer. ``advertise`` may name the address
    (``host`` or ``host:port``) that a destination sees us under; None from it means: by the route.
    ``events``: the event packages that are not refused with 489 (None: all pass). ``stray_notify``: NOTIFY of
    unknown subscriptions goes to the handler instead of 481 (G112).
    """

    def __init__(
        self,
        identity: Identity,
        *,
        host: str = "0.0.0.0",
        port: int = 5060,
        handler: Handler,
        user_agent: str = "",
        timers: Timers | None = None,
        limits: Limits | None = None,
        observer: Observer | None = None,
        advertise: Callable[[Flow | Target], str | None] | None = None,
        accept: Sequence[str] = ACCEPT,
        events: Sequence[str] | None = EVENTS,
        stray_notify: bool = False,
    ) -> None:
        self.identity = identity
        self.handler = handler
        self.limits = limits or Limits()
        self.observer = observer or Observer()
        self.on_connection_closed: Callable[[Flow], None] | None = None
        self._advertise = advertise
        self._transport = SocketTransport(
            host, port, self, limits=self.limits.transport, observer=self.observer
        )
        self.core = SipCore(
            self._address_of,
            timers=timers,
            limits=self.limits.core,
            observer=self.observer,
            user_agent=user_agent,
            stray_notify=stray_notify,
        )
        self._accept = ", ".join(accept)
        self._accepted = frozenset(kind.lower() for kind in accept) | {""}
        self._accepted_as_sent = frozenset(accept)
        self._events = ", ".join(events) if events is not None else ""
        self._known_events = frozenset(name.lower() for name in events) if events is not None else None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._handler_tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._delayed: set[asyncio.TimerHandle] = set()
        self._cseqs: dict[str, int] = {}
        self._trace = type(self.observer).wire is not Observer.wire
        self._closing = False
        self._pumping = False

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the sockets. Raises OSError when the port is taken."""
        await self._transport.start()
        log.info("event=sip_listening host=%s port=%s", self._transport.host, self.port)

    async def close(self, drain_s: float = 2.0) -> None:
        """Let running handlers and open requests finish for ``drain_s``, then release everything."""
        self._closing = True
        running = [task for task in self._tasks if task is not asyncio.current_task()]
        if running and drain_s > 0:
            await asyncio.wait(running, timeout=drain_s)
        pending = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for handle in [*self._delayed, *([self._timer] if self._timer else [])]:
            handle.cancel()
        self._delayed.clear()
        await self._transport.close()

    @property
    def port(self) -> int:
        """The port number of UDP and TCP (the real one when 0 was asked)."""
        return self._transport.port

    @property
    def counts(self) -> dict[str, int]:
        """What is open right now, for gauges."""
        return {
            **self.core.counts,
            "handlers": len(self._handler_tasks),
            "connections": self._transport.connection_count,
        }

    def local_address(self, host: str) -> str:
        """The address that the peer at ``host`` sees us under, without a port."""
        text = self._address_of(Target(uri="", host=host, port=0))
        return split_host_port(text)[0]

    def _address_of(self, destination: Flow | Target) -> str:
        told = self._advertise(destination) if self._advertise is not None else None
        if told:
            host, port = split_host_port(told)
            return join_host_port(host, port or self.port)
        if isinstance(destination, Flow) and destination.local_host:
            return join_host_port(destination.local_host, self.port)
        return join_host_port(self._transport.routes.local_host(destination.host), self.port)

    # -- what the transport tells (Receiver) --------------------------------------------------------------

    def message_received(self, data: bytes, flow: Flow) -> None:
        if self._trace or wire_log.isEnabledFor(logging.DEBUG):
            self._show("in", flow, data)
        self.core.receive(data, flow, time.monotonic())

    def stream_broken(self, fault: FrameFault, flow: Flow) -> None:
        self.core.refuse_garbage(fault.head, flow, fault.status, fault.label)

    def batch_done(self) -> None:
        self._pump()

    def connection_closed(self, flow: Flow) -> None:
        self.core.connection_closed(flow, time.monotonic())
        self._pump()
        if self.on_connection_closed is not None:
            self.on_connection_closed(flow)

    def send_failed(self, destination: Flow | Target) -> None:
        self.core.transport_failed(destination, time.monotonic())
        self._pump()

    def _show(self, direction: str, flow: Flow | Target, data: bytes) -> None:
        if self._trace:
            self.observer.wire("in" if direction == "in" else "out", flow, data)
        if wire_log.isEnabledFor(logging.DEBUG):
            wire_log.debug("direction=%s flow=%s\n%s", direction, flow, _masked(data))

    # -- the pump: events to handlers, output to sockets, one timer ----------------------------------------

    def _pump(self) -> None:
        if self._pumping:
            return  # a handler that sends is inside the loop below, which will see its output
        self._pumping = True
        core, send = self.core, self._transport.send
        try:
            while events := core.events():
                for event in events:
                    if type(event) is RequestReceived:
                        self._request_received(event)
                    else:
                        self._happened(event)
        finally:
            self._pumping = False
        shown = self._trace or wire_log.isEnabledFor(logging.DEBUG)
        for data, destination in core.to_send():
            if shown:
                self._show("out", destination, data)
            send(data, destination)
        self._arm()

    def _arm(self) -> None:
        when = self.core.next_timer()
        if when >= self._timer_at or (self._closing and when == NEVER):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        delay = max(0.0, when - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._timer_due)

    def _timer_due(self) -> None:
        self._timer, self._timer_at = None, NEVER
        self.core.handle_timer(time.monotonic())
        self._pump()

    def _happened(self, event: object) -> None:
        if isinstance(event, ResponseReceived):
            self._response_received(event)
        elif isinstance(event, TransactionFailed):
            future = event.transaction.context
            if future is not None and not future.done():
                future.set_exception(event.error)
        elif isinstance(event, InviteCancelled):
            incoming = event.transaction.context
            if incoming is not None and incoming._task is not None:
                incoming._task.cancel()
        elif isinstance(event, Acknowledged):
            session = event.transaction.context
            if isinstance(session, InviteSession):
                session.ack_body = event.request.body
                if not session.acknowledged.done():
                    session.acknowledged.set_result(None)
        elif isinstance(event, AckMissed):
            session = event.transaction.context
            if isinstance(session, InviteSession):
                session.end("ack_missing")
        elif isinstance(event, DialogEnded):
            if isinstance(event.dialog.context, InviteSession):
                event.dialog.context.end("remote_bye")
        elif isinstance(event, FlowLost):
            self._flow_lost(event.dialog)

    def _response_received(self, event: ResponseReceived) -> None:
        if event.response.status < 200:
            return
        transaction = event.transaction
        future = transaction.context
        if future is None or future.done():
            return
        if transaction.dialog is not None and transaction.invite:
            # made here and not by the waiting task: a BYE may be the next thing that we read
            session = InviteSession(
                self,
                transaction.dialog,
                event.flow,
                local_sdp=transaction.request.body,
                remote_sdp=event.response.body,
            )
            session.acknowledged.set_result(None)
            transaction.dialog.context = session
        future.set_result((event.response, event.flow))

    def _flow_lost(self, dialog: Dialog) -> None:
        owner = dialog.context
        if isinstance(owner, InviteSession):
            if dialog.remote_cseq is not None and dialog.invite_cseq == dialog.remote_cseq:
                # the peer called us: it may have closed an idle connection; its Contact can be dialled
                target = _target_of_contact(dialog)
                if target is not None:
                    dialog.destination = target
                    return
            self.core.forget_dialog(dialog)
            owner.end("transport")
        elif isinstance(owner, Subscription | NotifierSubscription):
            owner.flow_lost()

    # -- incoming requests ----------------------------------------------------------------------------------

    def _request_received(self, event: RequestReceived) -> None:
        request, flow, transaction = event.request, event.flow, event.transaction
        method = request.method
        if event.dialog is not None and self._in_dialog(event, event.dialog):
            return
        if method == "OPTIONS":
            self._answer(transaction, Reply(200, (("Allow", ALLOW), ("Accept", self._accept))))
            return
        if request.body and not self._body_type_known(request):
            self._answer(transaction, Reply(415, (("Accept", self._accept),)))
            return
        now = time.monotonic()
        incoming: Incoming
        if method == "INVITE":
            invite = IncomingInvite(request, flow, now, _endpoint=self, _transaction=transaction)
            transaction.context = invite  # type: ignore[union-attr]
            incoming = invite
        elif method == "SUBSCRIBE":
            package = request.headers.index.get("event", "").partition(";")[0].strip().lower()
            if self._known_events is not None and package and package not in self._known_events:
                self._answer(transaction, Reply(489, (("Allow-Events", self._events),)))
                return
            incoming = IncomingSubscribe(request, flow, now, _endpoint=self, _transaction=transaction)
        else:
            session = event.dialog.context if event.dialog is not None else None
            incoming = Incoming(request, flow, now, session if isinstance(session, InviteSession) else None)
        self._handle(self.handler, incoming, transaction)

    def _body_type_known(self, request: Request) -> bool:
        sent = request.headers.index.get("content-type", "")
        return sent in self._accepted_as_sent or request.content_type in self._accepted

    def _in_dialog(self, event: RequestReceived, dialog: Dialog) -> bool:
        """Requests that belong to a session or subscription of ours. False: treat it like any other."""
        owner, request, transaction = dialog.context, event.request, event.transaction
        if isinstance(owner, InviteSession):
            if request.method == "INVITE":
                self._answer_reinvite(owner, transaction, request)
                return True
            if request.method in ("INFO", "MESSAGE") and owner.on_request is not None:
                incoming = Incoming(request, event.flow, time.monotonic(), owner)
                self._handle(owner.on_request, incoming, transaction)
                return True
            return False
        if isinstance(owner, Subscription) and request.method == "NOTIFY":
            if not dialog.remote_tag:
                dialog.remote_tag = request.from_.tag
            incoming = Incoming(request, event.flow, time.monotonic())
            self._handle(owner.on_notify, incoming, transaction)
            owner.notified(request)
            return True
        if isinstance(owner, NotifierSubscription) and request.method == "SUBSCRIBE":
            self._refresh_notifier(owner, event)
            return True
        if request.method in ("INVITE", "SUBSCRIBE"):
            self._answer(transaction, Reply(481))
            return True
        return False

    def _handle(
        self,
        handler: Callable[[Incoming], Reply | Awaitable[Reply | None] | None],
        incoming: Incoming,
        transaction: ServerTransaction,
    ) -> None:
        """Call a handler and see to it that the request is answered, whatever the handler does."""
        try:
            result = handler(incoming)
        except RemoteError as error:
            result = Reply(error.status, reason=error.reason)
        except Exception:
            log.exception("event=handler_failed method=%s flow=%s", incoming.request.method, incoming.flow)
            result = Reply(500)
        if isinstance(result, Reply):
            self._answer(transaction, result)
        elif result is None:
            self._check_accepted(incoming, transaction)
        elif len(self._handler_tasks) >= self.limits.handlers or self._closing:
            if inspect.iscoroutine(result):
                result.close()
            self.observer.dropped("handler")
            self._answer(transaction, Reply(503, (("Retry-After", str(random.randint(5, 30))),)))
        else:
            task = self.spawn(self._await_reply(result, incoming, transaction))
            self._handler_tasks.add(task)
            task.add_done_callback(self._handler_tasks.discard)
            if isinstance(incoming, IncomingInvite):
                incoming._task = task

    async def _await_reply(
        self, work: Awaitable[Reply | None], incoming: Incoming, transaction: ServerTransaction
    ) -> None:
        try:
            result = await work
        except RemoteError as error:
            result = Reply(error.status, reason=error.reason)
        except asyncio.CancelledError:
            self._answer(transaction, Reply(503 if self._closing else 487))
            raise
        except Exception:
            log.exception("event=handler_failed method=%s flow=%s", incoming.request.method, incoming.flow)
            result = Reply(500)
        if isinstance(result, Reply):
            self._answer(transaction, result)
        else:
            self._check_accepted(incoming, transaction)

    def _check_accepted(self, incoming: Incoming, transaction: ServerTransaction) -> None:
        """None from a handler is right only when it accepted an INVITE or SUBSCRIBE."""
        if isinstance(incoming, IncomingInvite) and incoming.transaction.state is not State.PROCEEDING:
            return
        if isinstance(incoming, IncomingSubscribe) and transaction.dialog is not None:
            return
        log.error("event=handler_gave_no_reply method=%s", incoming.request.method)
        self._answer(transaction, Reply(500))

    def _answer(self, transaction: ServerTransaction, reply: Reply) -> None:
        self.core.respond(
            transaction,
            reply.status,
            time.monotonic(),
            reason=reply.reason,
            headers=reply.headers,
            body=reply.body,
            content_type=reply.content_type,
        )
        if not self._pumping:
            self._pump()

    # -- INVITE as server -----------------------------------------------------------------------------------

    def progress(self, invite: IncomingInvite, reply: Reply) -> None:
        """See ``IncomingInvite.progress``."""
        self._answer(invite.transaction, reply)

    async def accept_invite(
        self, invite: IncomingInvite, answer: bytes, content_type: str, headers: HeaderSequence
    ) -> InviteSession:
        """See ``IncomingInvite.accept``."""
        transaction = invite.transaction
        if transaction.state is not State.PROCEEDING:
            raise LocalError("the INVITE is answered or cancelled already")
        dialog = self.core.open_dialog(transaction, "invite")
        session = InviteSession(self, dialog, invite.flow, local_sdp=answer, remote_sdp=invite.offer)
        dialog.context = session
        transaction.context = session
        fields = self._with_contact(headers, invite.flow, self.identity)
        self._answer(transaction, Reply(200, (*fields, ("Allow", ALLOW)), answer, content_type))
        try:
            await session.acknowledged
        except asyncio.CancelledError:
            self.spawn(session.bye())
            raise
        if session.ended.done() and session.ended.result() == "ack_missing":
            raise AckMissing(f"no ACK for {session.call_id}")
        return session

    def _answer_reinvite(
        self, session: InviteSession, transaction: ServerTransaction, request: Request
    ) -> None:
        """A re-INVITE that changes nothing is a refresh; any other is refused and the call goes on (14.2)."""
        if not session.answer_offer(request):
            self._answer(transaction, Reply(488))
            return
        transaction.context = session  # type: ignore[union-attr]
        fields = self._with_contact((), session.flow, self.identity)
        self._answer(
            transaction, Reply(200, (*fields, ("Allow", ALLOW)), session.local_sdp, "application/sdp")
        )

    def _with_contact(
        self, headers: HeaderSequence, destination: Flow | Target, sender: Identity
    ) -> list[tuple[str, str]]:
        if any(name.lower() in ("contact", "m") for name, _ in headers):
            return list(headers)
        return [("Contact", self.core.contact(destination, sender.user)), *headers]

    # -- SUBSCRIBE as server --------------------------------------------------------------------------------

    def accept_subscription(
        self, incoming: IncomingSubscribe, expires_s: int, headers: HeaderSequence
    ) -> NotifierSubscription:
        """See ``IncomingSubscribe.accept``."""
        transaction = incoming.transaction
        if transaction.dialog is not None:
            raise LocalError("the SUBSCRIBE is answered already")
        dialog = self.core.open_dialog(transaction, "notifier")
        subscription = NotifierSubscription(self, dialog, incoming.request, incoming.flow)
        dialog.context = subscription
        subscription.max_expires_s = expires_s
        fields = self._with_contact(headers, incoming.flow, self.identity)
        self._answer(transaction, Reply(200, (("Expires", str(expires_s)), *fields)))
        transaction.dialog = dialog
        subscription.extend(expires_s)
        return subscription

    def _refresh_notifier(self, subscription: NotifierSubscription, event: RequestReceived) -> None:
        asked = event.request.expires
        granted = subscription.max_expires_s if asked is None else min(asked, subscription.max_expires_s)
        fields = self._with_contact((), event.flow, self.identity)
        self._answer(event.transaction, Reply(200, (("Expires", str(granted)), *fields)))
        subscription.dialog.destination = subscription.flow = event.flow
        if granted == 0:
            subscription.extend(60)  # bounded wait for the closing NOTIFY
            self.spawn(subscription.finish_unsubscribed())
            return
        if event.request.body:
            subscription.request = event.request
        subscription.extend(granted)
        if subscription.on_refresh is not None:
            subscription.on_refresh(Incoming(event.request, event.flow, time.monotonic()))

    # -- requests of ours -----------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        target: Target,
        *,
        to: str,
        sender: Identity | None = None,
        body: bytes = b"",
        content_type: str = "",
        headers: HeaderSequence = (),
        call_id: str | None = None,
        cseq: int | None = None,
        from_tag: str | None = None,
        credentials: Credentials | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Send a request outside of dialogs and give its final response, of whatever status.

        With credentials one 401 or 407 is answered (two when the first answer was stale). With ``call_id`` and
        no ``cseq`` the number grows from the last one used with that Call-ID. Raises TransactionTimeout,
        TransportFailed.
        """
        request = self._build(
            method, target, to, sender, body, content_type, headers, call_id, cseq, from_tag
        )
        response, _, _ = await self._exchange_authenticated(request, target, credentials, timeout_s)
        return response

    def _build(
        self,
        method: str,
        target: Target,
        to: str,
        sender: Identity | None,
        body: bytes,
        content_type: str,
        headers: HeaderSequence,
        call_id: str | None = None,
        cseq: int | None = None,
        from_tag: str | None = None,
    ) -> Request:
        who = sender or self.identity
        call_id = call_id or secrets.token_hex(16)
        if cseq is None:
            cseq = self._cseqs.get(call_id, 0) + 1
        fields = [
            ("From", f"<{who.uri}>;tag={from_tag or secrets.token_hex(8)}"),
            ("To", to if "<" in to else f"<{to}>"),
            ("Call-ID", call_id),
            ("CSeq", f"{cseq} {method}"),
        ]
        if method in ("REGISTER", "INVITE", "SUBSCRIBE"):
            fields += self._with_contact(headers, target.flow or target, who)
        else:
            fields += headers
        if body and content_type:
            fields.append(("Content-Type", content_type))
        return Request(method, target.uri, Headers((name, checked(value)) for name, value in fields), body)

    def _note_cseq(self, call_id: str, number: int) -> None:
        if call_id not in self._cseqs and len(self._cseqs) >= 20_000:
            self._cseqs.pop(next(iter(self._cseqs)))
        self._cseqs[call_id] = number

    async def _exchange_authenticated(
        self,
        request: Request,
        destination: Flow | Target,
        credentials: Credentials | None,
        timeout_s: float | None,
        dialog: Dialog | None = None,
    ) -> tuple[Response, Flow, ClientTransaction]:
        """One request, and once more with an answer to its challenge."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for attempt in range(3):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            number = request.cseq.number
            self._note_cseq(request.call_id, number)
            response, flow, transaction = await self._exchange(request, destination, left)
            if response.status not in (401, 407) or credentials is None:
                break
            proxy = response.status == 407
            challenges = response.headers.get_all("Proxy-Authenticate" if proxy else "WWW-Authenticate")
            if attempt and not any("stale=true" in value.lower().replace('"', "") for value in challenges):
                break
            answer = answer_challenges(
                challenges, credentials, method=request.method, uri=request.uri, body=request.body
            )
            if answer is None:
                break
            request = Request(request.method, request.uri, request.headers.copy(), request.body)
            request.headers.set("Proxy-Authorization" if proxy else "Authorization", answer)
            request.headers.set("CSeq", f"{number + 1} {request.method}")
            if dialog is not None:
                dialog.local_cseq = number + 1
        return response, flow, transaction

    async def _exchange(
        self, request: Request, destination: Flow | Target, timeout_s: float | None
    ) -> tuple[Response, Flow, ClientTransaction]:
        """One transaction. Being cancelled or out of time gives it up (an INVITE by CANCEL)."""
        self._transport.require_open()
        future: asyncio.Future[tuple[Response, Flow]] = asyncio.get_running_loop().create_future()
        transaction = self.core.request(request, destination, time.monotonic(), context=future)
        self._pump()
        try:
            async with asyncio.timeout(timeout_s):
                response, flow = await future
        except TimeoutError:
            self._give_up(transaction)
            raise TransactionTimeout(
                f"no answer to {request.method}", provisional=transaction.provisional
            ) from None
        except asyncio.CancelledError:
            self._give_up(transaction)
            raise
        return response, flow, transaction

    def _give_up(self, transaction: ClientTransaction) -> None:
        self.core.cancel(transaction, time.monotonic())
        self._pump()

    async def exchange_in_dialog(
        self,
        dialog: Dialog,
        method: str,
        *,
        body: bytes = b"",
        content_type: str = "",
        headers: HeaderSequence = (),
        timeout_s: float | None = None,
    ) -> Response:
        """A request inside a dialog on its flow; its final response. Raises as ``request`` does."""
        fields = [(name, checked(value)) for name, value in headers]
        if method in ("SUBSCRIBE", "NOTIFY"):
            user = _user_of(dialog.local) or self.identity.user
            fields = self._with_contact(fields, dialog.destination, Identity(user, ""))
        if body and content_type:
            fields.append(("Content-Type", content_type))
        request = dialog.next_request(method, fields, body)
        response, _, _ = await self._exchange(request, dialog.destination, timeout_s)
        return response

    async def invite(
        self,
        target: Target,
        *,
        to: str,
        sender: Identity | None = None,
        offer: bytes,
        subject: str = "",
        headers: HeaderSequence = (),
        timeout_s: float,
        credentials: Credentials | None = None,
    ) -> InviteSession:
        """Call somebody. The 200 is acknowledged by the time this returns.

        Raises Rejected for a final answer that is no 2xx, TransactionTimeout (CANCEL is sent), TransportFailed.
        Cancelling the task cancels the INVITE; a 200 that crosses is acknowledged and ended by BYE.
        """
        fields = [*headers, ("Subject", subject)] if subject else list(headers)
        if not any(name.lower() == "allow" for name, _ in headers):
            fields.append(("Allow", ALLOW))
        request = self._build("INVITE", target, to, sender, offer, "application/sdp" if offer else "", fields)
        response, _, transaction = await self._exchange_authenticated(request, target, credentials, timeout_s)
        if not 200 <= response.status < 300 or transaction.dialog is None:
            raise Rejected(response)
        return cast(InviteSession, transaction.dialog.context)

    async def subscribe(
        self,
        target: Target,
        *,
        to: str,
        event: str,
        expires_s: int,
        body: bytes,
        content_type: str,
        on_notify: RequestCallback,
        on_end: Callable[[str], None],
        sender: Identity | None = None,
        headers: HeaderSequence = (),
        credentials: Credentials | None = None,
        timeout_s: float | None = None,
    ) -> Subscription:
        """Subscribe; a NOTIFY is accepted from the moment the request leaves (G110).

        Raises Rejected, TransactionTimeout, TransportFailed.
        """
        fields = [("Event", event), ("Expires", str(expires_s)), *headers]
        request = self._build("SUBSCRIBE", target, to, sender, body, content_type, fields)
        destination = target.flow or target
        dialog = Dialog.of_request_sent("subscriber", request, destination)
        subscription = Subscription(
            self,
            dialog,
            on_notify=on_notify,
            on_end=on_end,
            body=body,
            content_type=content_type,
            headers=headers,
        )
        subscription.asked_s = expires_s
        dialog.context = subscription
        self.core.add_dialog(dialog)
        try:
            response, flow, _ = await self._exchange_authenticated(
                request, target, credentials, timeout_s, dialog
            )
            if not 200 <= response.status < 300:
                raise Rejected(response)
        except BaseException:
            self.core.forget_dialog(dialog)
            raise
        keeps_flow = isinstance(destination, Flow) or destination.transport == "udp"
        dialog.confirm(response, flow if keeps_flow else None)
        subscription.granted(response)
        return subscription

    async def end_orphan(self, snapshot: dict[str, Any], *, flow: Flow | None = None) -> None:
        """End what an earlier process left open: BYE a call, unsubscribe, or close a peer's subscription.

        ``flow`` is the way to the peer now, where the one on record died with its connection. The peer's answer
        does not matter. Raises LocalError for a record that is no snapshot.
        """
        try:
            dialog = Dialog.from_snapshot(snapshot)
        except (KeyError, TypeError, ValueError) as error:
            raise LocalError(f"no dialog snapshot: {error}") from error
        if flow is not None:
            dialog.destination = flow
        dialog.local_cseq += 1000  # requests may have gone out after the snapshot was taken
        method, headers = "BYE", []
        if dialog.kind == "subscriber":
            method, headers = "SUBSCRIBE", [("Event", dialog.event), ("Expires", "0")]
        elif dialog.kind == "notifier":
            method = "NOTIFY"
            headers = [("Event", dialog.event), ("Subscription-State", "terminated;reason=deactivated")]
        try:
            await self.exchange_in_dialog(dialog, method, headers=headers)
        except RemoteError as error:
            log.info("event=orphan_unanswered call_id=%s error=%s", dialog.call_id, error)

    # -- tasks ----------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine that belongs to this endpoint: it is cancelled by ``close``."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("event=task_failed", exc_info=task.exception())

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call something once, unless the endpoint closes before."""

        def due() -> None:
            self._delayed.discard(handle)
            callback()

        handle = asyncio.get_running_loop().call_later(delay_s, due)
        self._delayed.add(handle)


_SECRETS = re.compile(rb'((?:response|cnonce|nonce)\s*=\s*)"?[^",\s]*"?', re.IGNORECASE)


def _masked(data: bytes) -> str:
    """Wire text for the log without what proves a password."""
    return _SECRETS.sub(rb"\1***", data).decode("utf-8", "backslashreplace")


def _user_of(address: str) -> str:
    _, at, _ = address.partition("@")
    if not at:
        return ""
    return address.partition("@")[0].rpartition(":")[2]


def _target_of_contact(dialog: Dialog) -> Target | None:
    from sip.uri import SipUri

    try:
        uri = SipUri.parse(dialog.remote_target)
    except RemoteError:
        return None
    return Target(uri=dialog.remote_target, host=uri.host, port=uri.port or 5060, transport="tcp")


__all__ = [
    "AckMissing",
    "Credentials",
    "Endpoint",
    "Handler",
    "Identity",
    "Incoming",
    "IncomingInvite",
    "IncomingSubscribe",
    "InviteSession",
    "Limits",
    "NotifierSubscription",
    "Observer",
    "Reply",
    "Subscription",
    "Timers",
]
