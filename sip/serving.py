"""Requests that come in: what the endpoint answers itself, what goes to handlers, and that each gets an answer."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from sip.dialog import Dialog
from sip.element import ALLOW
from sip.errors import AckMissing, LocalError
from sip.events import RequestReceived
from sip.incoming import Handler, Incoming, IncomingInvite, IncomingSubscribe, Reply
from sip.message import Request
from sip.session import InviteSession
from sip.subscription import NotifierSubscription, Subscription
from sip.transaction import InviteServerTransaction, ServerTransaction, State

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

log = logging.getLogger(__name__)

HeaderSequence = Sequence[tuple[str, str]]


class Serving:
    """The server half of an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        handler: Handler,
        *,
        max_tasks: int,
        accept: Sequence[str],
        events: Sequence[str] | None,
    ) -> None:
        self._endpoint = endpoint
        self._handler = handler
        self._max_tasks = max_tasks
        self._tasks: set[asyncio.Task[None]] = set()
        self._accept = ", ".join(accept)
        self._accepted_as_sent = frozenset(accept)
        self._accepted = frozenset(kind.lower() for kind in accept) | {""}
        self._events = ", ".join(events) if events is not None else ""
        self._known_events = None if events is None else frozenset(name.lower() for name in events)

    @property
    def task_count(self) -> int:
        return len(self._tasks)

    # -- arrival ------------------------------------------------------------------------------------------

    def received(self, event: RequestReceived) -> None:
        """A request that the core let through."""
        request, transaction = event.request, event.transaction
        if event.dialog is not None and self._in_dialog(event, event.dialog):
            return
        if request.method == "OPTIONS":
            self.answer(transaction, Reply(200, (("Allow", ALLOW), ("Accept", self._accept))))
            return
        if request.body and not self._body_type_known(request):
            self.answer(transaction, Reply(415, (("Accept", self._accept),)))
            return
        incoming = self._incoming(event)
        if incoming is not None:
            self._handle(self._handler, incoming, transaction)

    def _incoming(self, event: RequestReceived) -> Incoming | None:
        request, flow, transaction = event.request, event.flow, event.transaction
        now = time.monotonic()
        if isinstance(transaction, InviteServerTransaction):
            invite = IncomingInvite(request, flow, now, _endpoint=self._endpoint, _transaction=transaction)
            transaction.context = invite
            return invite
        if request.method == "SUBSCRIBE":
            package = request.headers.index.get("event", "").partition(";")[0].strip().lower()
            if self._known_events is not None and package and package not in self._known_events:
                self.answer(transaction, Reply(489, (("Allow-Events", self._events),)))
                return None
            return IncomingSubscribe(request, flow, now, _endpoint=self._endpoint, _transaction=transaction)
        if event.dialog is None:
            return Incoming(request, flow, now)
        session = event.dialog.context
        return Incoming(request, flow, now, session if isinstance(session, InviteSession) else None)

    def _body_type_known(self, request: Request) -> bool:
        sent = request.headers.index.get("content-type", "")
        return sent in self._accepted_as_sent or request.content_type in self._accepted

    def _in_dialog(self, event: RequestReceived, dialog: Dialog) -> bool:
        """Requests that belong to a session or subscription of ours. False: treat it like any other."""
        owner, request, transaction = dialog.context, event.request, event.transaction
        if isinstance(owner, InviteSession):
            if isinstance(transaction, InviteServerTransaction):
                self._answer_reinvite(owner, transaction)
                return True
            if request.method in ("INFO", "MESSAGE") and owner.on_request is not None:
                incoming = Incoming(request, event.flow, time.monotonic(), owner)
                self._handle(owner.on_request, incoming, transaction)
                return True
            return False
        if isinstance(owner, Subscription) and request.method == "NOTIFY":
            if not dialog.remote_tag:
                dialog.remote_tag = request.from_.tag  # it came before the 200 (G110)
            self._handle(owner.on_notify, Incoming(request, event.flow, time.monotonic()), transaction)
            owner.notified(request)
            return True
        if isinstance(owner, NotifierSubscription) and request.method == "SUBSCRIBE":
            self._refresh(owner, event)
            return True
        if request.method in ("INVITE", "SUBSCRIBE"):
            self.answer(transaction, Reply(481))
            return True
        return False

    # -- handlers -----------------------------------------------------------------------------------------

    def _handle(
        self,
        handler: Callable[[Incoming], Reply | Awaitable[Reply | None] | None],
        incoming: Incoming,
        transaction: ServerTransaction,
    ) -> None:
        """Call a handler and see to it that the request is answered, whatever the handler does."""
        result = self._endpoint.call_handler(handler, incoming)
        if isinstance(result, Reply):
            self.answer(transaction, result)
        elif result is None:
            self._check_accepted(incoming, transaction)
        elif len(self._tasks) >= self._max_tasks or self._endpoint.closing:
            if inspect.iscoroutine(result):
                result.close()
            self._endpoint.observer.dropped("handler")
            self.answer(transaction, Reply(503, (("Retry-After", str(random.randint(5, 30))),)))
        else:
            task = self._endpoint.spawn(self._finish(result, incoming, transaction))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if isinstance(incoming, IncomingInvite):
                incoming._task = task

    async def _finish(
        self, work: Awaitable[Reply | None], incoming: Incoming, transaction: ServerTransaction
    ) -> None:
        try:
            result = await self._endpoint.await_handler(work, incoming)
        except asyncio.CancelledError:
            self.answer(transaction, Reply(503 if self._endpoint.closing else 487))
            raise
        if isinstance(result, Reply):
            self.answer(transaction, result)
        else:
            self._check_accepted(incoming, transaction)

    def _check_accepted(self, incoming: Incoming, transaction: ServerTransaction) -> None:
        """None from a handler is right only when it accepted an INVITE or SUBSCRIBE."""
        if isinstance(transaction, InviteServerTransaction):
            if transaction.state is not State.PROCEEDING:
                return
        elif isinstance(incoming, IncomingSubscribe) and transaction.dialog is not None:
            return
        log.error("event=handler_gave_no_reply method=%s", incoming.request.method)
        self.answer(transaction, Reply(500))

    def answer(self, transaction: ServerTransaction, reply: Reply) -> None:
        """Send a reply; one that breaks the header grammar becomes 500."""
        endpoint, now = self._endpoint, time.monotonic()
        try:
            endpoint.core.respond(
                transaction,
                reply.status,
                now,
                reason=reply.reason,
                headers=reply.headers,
                body=reply.body,
                content_type=reply.content_type,
            )
        except LocalError:
            log.exception("event=reply_unusable status=%s", reply.status)
            endpoint.core.respond(transaction, 500, now)
        endpoint.flush()

    # -- INVITE -------------------------------------------------------------------------------------------

    async def accept_invite(
        self, invite: IncomingInvite, answer: bytes, content_type: str, headers: HeaderSequence
    ) -> InviteSession:
        """See ``IncomingInvite.accept``."""
        endpoint, transaction = self._endpoint, invite.transaction
        if transaction.state is not State.PROCEEDING:
            raise LocalError("the INVITE is answered or cancelled already")
        dialog = endpoint.core.open_dialog(transaction, "invite")
        session = InviteSession(endpoint, dialog, invite.flow, local_sdp=answer, remote_sdp=invite.offer)
        dialog.context = transaction.context = session
        fields = endpoint.with_contact(headers, invite.flow)
        self.answer(transaction, Reply(200, (*fields, ("Allow", ALLOW)), answer, content_type))
        try:
            await session.acknowledged
        except asyncio.CancelledError:
            endpoint.spawn(session.bye())
            raise
        if session.ended.done() and session.ended.result() == "ack_missing":
            raise AckMissing(f"no ACK for {session.call_id}")
        return session

    def _answer_reinvite(self, session: InviteSession, transaction: InviteServerTransaction) -> None:
        """A re-INVITE that changes nothing is a refresh; any other is refused and the call goes on (14.2)."""
        if not session.keeps_offer(transaction.request):
            self.answer(transaction, Reply(488))
            return
        transaction.context = session
        fields = self._endpoint.with_contact((), session.flow)
        sdp = session.local_sdp
        self.answer(transaction, Reply(200, (*fields, ("Allow", ALLOW)), sdp, "application/sdp"))

    # -- SUBSCRIBE ----------------------------------------------------------------------------------------

    def accept_subscription(
        self, incoming: IncomingSubscribe, expires_s: int, headers: HeaderSequence
    ) -> NotifierSubscription:
        """See ``IncomingSubscribe.accept``."""
        endpoint, transaction = self._endpoint, incoming.transaction
        if transaction.dialog is not None:
            raise LocalError("the SUBSCRIBE is answered already")
        dialog = endpoint.core.open_dialog(transaction, "notifier")
        subscription = NotifierSubscription(endpoint, dialog, incoming.request, incoming.flow)
        dialog.context = subscription
        subscription.max_expires_s = expires_s
        fields = endpoint.with_contact(headers, incoming.flow)
        self.answer(transaction, Reply(200, (("Expires", str(expires_s)), *fields)))
        transaction.dialog = dialog
        subscription.extend(expires_s)
        return subscription

    def _refresh(self, subscription: NotifierSubscription, event: RequestReceived) -> None:
        asked = event.request.expires
        granted = subscription.max_expires_s if asked is None else min(asked, subscription.max_expires_s)
        fields = self._endpoint.with_contact((), event.flow)
        self.answer(event.transaction, Reply(200, (("Expires", str(granted)), *fields)))
        subscription.dialog.destination = subscription.flow = event.flow
        if granted == 0:
            subscription.extend(60)  # bounds the wait for the answer to the closing NOTIFY
            self._endpoint.spawn(subscription.finish_unsubscribed())
            return
        if event.request.body:
            subscription.request = event.request
        subscription.extend(granted)
        if subscription.on_refresh is not None:
            subscription.on_refresh(Incoming(event.request, event.flow, time.monotonic()))
