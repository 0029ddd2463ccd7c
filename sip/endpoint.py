"""The asyncio face of the SIP core: sockets in front, handlers behind, and every task owned here."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sip.calling import Calling
from sip.core import SipCore
from sip.dialog import Dialog
from sip.digest import Credentials
from sip.element import ALLOW, CoreLimits
from sip.errors import ParseError, RemoteError
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
from sip.flow import Flow, Target
from sip.framing import FrameFault
from sip.incoming import (
    Handler,
    Identity,
    Incoming,
    IncomingInvite,
    IncomingSubscribe,
    Reply,
    RequestCallback,
)
from sip.message import Response
from sip.note import Guard
from sip.observer import Direction, Observer, Tap
from sip.serving import Serving
from sip.session import InviteSession
from sip.subscription import NotifierSubscription, Subscription
from sip.timers import NEVER, Timers
from sip.tls import Tls
from sip.transport import SocketTransport
from sip.transport_shared import TransportLimits
from sip.uri import SipUri, join_host_port, split_host_port

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
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of an endpoint. ``handlers``: handler tasks at one time, beyond which 503 is answered."""

    handlers: int = 1000
    core: CoreLimits = field(default_factory=CoreLimits)
    transport: TransportLimits = field(default_factory=TransportLimits)


class Endpoint:
    """One SIP user agent on one port number, UDP and TCP, and optionally on another by TLS.

    ``handler`` gets every request that the protocol itself does not answer. ``advertise`` may name the address
    (``host`` or ``host:port``) that a destination sees us under; None from it means: by the route.
    ``accept``: body types that are not refused with 415. ``events``: event packages that are not refused with
    489 (None: all pass). ``stray_notify``: NOTIFY of unknown subscriptions goes to the handler instead of 481
    (tolerant mode of G112). ``tls``: a further port for TLS, and how to call peers by it. ``guard``: signs and
    verifies messages (Note header).
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
        tls: Tls | None = None,
        guard: Guard | None = None,
    ) -> None:
        limits = limits or Limits()
        self.identity = identity
        self.observer = observer or Observer()
        self.on_connection_closed: Callable[[Flow], None] | None = None
        self.tap: Tap | None = None
        """Gets every message as bytes, credentials included. On the hot path: it must be short and must not raise."""
        self.closing = False
        self._advertise = advertise
        self._transport = SocketTransport(
            host, port, self, limits=limits.transport, observer=self.observer, tls=tls
        )
        self.core = SipCore(
            self._address_of,
            timers=timers,
            limits=limits.core,
            observer=self.observer,
            user_agent=user_agent,
            stray_notify=stray_notify,
        )
        self.core.guard = guard
        self._serving = Serving(self, handler, max_tasks=limits.handlers, accept=accept, events=events)
        self._calling = Calling(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._delayed: set[asyncio.TimerHandle] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._trace = type(self.observer).wire is not Observer.wire
        self._flushing = False

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the sockets. Raises OSError when the port is taken."""
        await self._transport.start()
        log.info("event=sip_listening host=%s port=%s", self._transport.host, self.port)

    async def close(self, drain_s: float = 2.0) -> None:
        """Let running handlers and open requests finish for ``drain_s``, then release everything."""
        self.closing = True
        running = self._others()
        if running and drain_s > 0:
            await asyncio.wait(running, timeout=drain_s)
        while pending := self._others():  # a cancelled task may leave a last one (the BYE of its call)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            await asyncio.sleep(0)  # lets that last one send what it has to send
        for handle in [*self._delayed, *([self._timer] if self._timer else [])]:
            handle.cancel()
        self._delayed.clear()
        await self._transport.close()

    def _others(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._tasks if task is not asyncio.current_task()]

    @property
    def running(self) -> bool:
        """Whether the sockets are open."""
        return self._transport.is_open and not self.closing

    def require_open(self) -> None:
        """Raises TransportFailed before ``start`` and after ``close``."""
        self._transport.require_open()

    @property
    def port(self) -> int:
        """The port number of UDP and TCP (the real one when 0 was asked)."""
        return self._transport.port

    @property
    def tls_port(self) -> int:
        """The port number of TLS, 0 when there is none."""
        return self._transport.tls_port

    @property
    def counts(self) -> dict[str, int]:
        """What is open right now: for gauges and leak tests."""
        return {
            **self.core.counts,
            "handlers": self._serving.task_count,
            "tasks": len(self._tasks),
            "connections": self._transport.connection_count,
        }

    # -- addresses ----------------------------------------------------------------------------------------

    def local_address(self, host: str) -> str:
        """The address that the peer at ``host`` sees us under, without a port: for SDP."""
        return split_host_port(self._address_of(Target(uri="", host=host, port=0)))[0]

    def _address_of(self, destination: Flow | Target) -> str:
        told = self._advertise(destination) if self._advertise is not None else None
        own = (self.tls_port or self.port) if destination.transport == "tls" else self.port
        if told:
            host, port = split_host_port(told)
            return join_host_port(host, port or own)
        if isinstance(destination, Flow) and destination.local_host:
            return join_host_port(destination.local_host, own)
        return join_host_port(self._transport.routes.local_host(destination.host), own)

    def with_contact(
        self, headers: HeaderSequence, destination: Flow | Target, user: str = ""
    ) -> list[tuple[str, str]]:
        """The headers with our Contact in front, unless they have one."""
        if any(name.lower() in ("contact", "m") for name, _ in headers):
            return list(headers)
        return [("Contact", self.core.contact(destination, user or self.identity.user)), *headers]

    # -- what the transport tells (Receiver) --------------------------------------------------------------

    def message_received(self, data: bytes, flow: Flow) -> None:
        if self.tap is not None:
            self.tap("in", flow, data)
        if self._trace or wire_log.isEnabledFor(logging.DEBUG):
            self._show("in", flow, data)
        self.core.receive(data, flow, time.monotonic())

    def stream_broken(self, fault: FrameFault, flow: Flow) -> None:
        if self.tap is not None:
            self.tap("in", flow, fault.head)
        self.core.refuse_garbage(fault.head, flow, fault.status, fault.label)

    def batch_done(self) -> None:
        self.flush()

    def connection_closed(self, flow: Flow) -> None:
        self.core.connection_closed(flow, time.monotonic())
        self.flush()
        if self.on_connection_closed is not None:
            self.on_connection_closed(flow)

    def send_failed(self, destination: Flow | Target, cause: str = "") -> None:
        self.core.transport_failed(destination, time.monotonic(), cause)
        self.flush()

    def _show(self, direction: Direction, flow: Flow | Target, data: bytes) -> None:
        if self._trace:
            self.observer.wire(direction, flow, data)
        if wire_log.isEnabledFor(logging.DEBUG):
            wire_log.debug("direction=%s flow=%s\n%s", direction, flow, masked(data))

    # -- events to handlers, output to sockets, one timer -------------------------------------------------

    def flush(self) -> None:
        """Carry the core's events and output out. Called after everything that touched the core."""
        if self._flushing:
            return  # a handler that sends is inside the loop below, which will see its output
        self._flushing = True
        core, send = self.core, self._transport.send
        try:
            while events := core.events():
                for event in events:
                    self._dispatch(event)
        finally:
            self._flushing = False
        shown, tap = self._trace or wire_log.isEnabledFor(logging.DEBUG), self.tap
        for data, destination in core.to_send():
            if tap is not None:
                tap("out", destination, data)
            if shown:
                self._show("out", destination, data)
            send(data, destination)
        when = core.next_timer()
        if when < self._timer_at:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        delay_s = max(0.0, when - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._timer_due)

    def _timer_due(self) -> None:
        self._timer, self._timer_at = None, NEVER
        self.core.handle_timer(time.monotonic())
        self.flush()

    def _dispatch(self, event: Event) -> None:
        try:
            if type(event) is RequestReceived:
                self._serving.received(event)
            else:
                self._happened(event)
        except Exception:
            # a callback of the caller failed: the other events of this batch must still be heard
            log.exception("event=dispatch_failed kind=%s", type(event).__name__)

    def _happened(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self._calling.answered(event)
        elif isinstance(event, TransactionFailed):
            future = event.transaction.context
            if future is not None and not future.done():
                future.set_exception(event.error)
        elif isinstance(event, InviteCancelled):
            incoming = event.transaction.context
            if isinstance(incoming, IncomingInvite) and incoming._task is not None:
                incoming._task.cancel()
        elif isinstance(event, Acknowledged):
            session = event.transaction.context
            if isinstance(session, InviteSession):
                session.acknowledge(event.request.body)
        elif isinstance(event, AckMissed):
            session = event.transaction.context
            if isinstance(session, InviteSession):
                session.end("ack_missing")
        elif isinstance(event, DialogEnded):
            if isinstance(event.dialog.context, InviteSession):
                event.dialog.context.end("remote_bye")
        elif isinstance(event, FlowLost):
            self._flow_lost(event.dialog)

    def _flow_lost(self, dialog: Dialog) -> None:
        owner = dialog.context
        if isinstance(owner, InviteSession):
            target = None if dialog.ours else _target_of_contact(dialog)
            if target is not None:
                # the peer called us and may only have closed an idle connection: its Contact can be dialled
                dialog.destination = target
                return
            self.core.forget_dialog(dialog)
            owner.end("transport")
        elif isinstance(owner, Subscription | NotifierSubscription):
            owner.flow_lost()

    # -- handlers: the one place where any exception of theirs becomes 500 ------------------------------

    def call_handler(self, handler: Handler, incoming: Incoming) -> Reply | Awaitable[Reply | None] | None:
        """The handler's result; a RemoteError becomes its status, any other exception 500."""
        try:
            return handler(incoming)
        except RemoteError as error:
            return Reply(error.status, reason=error.reason)
        except Exception:
            log.exception("event=handler_failed method=%s flow=%s", incoming.request.method, incoming.flow)
            return Reply(500)

    async def await_handler(self, work: Awaitable[Reply | None], incoming: Incoming) -> Reply | None:
        """The same for the rest of an asynchronous handler."""
        try:
            return await work
        except RemoteError as error:
            return Reply(error.status, reason=error.reason)
        except Exception:
            log.exception("event=handler_failed method=%s flow=%s", incoming.request.method, incoming.flow)
            return Reply(500)

    # -- incoming, for IncomingInvite and IncomingSubscribe -----------------------------------------------

    def progress(self, invite: IncomingInvite, reply: Reply) -> None:
        """See ``IncomingInvite.progress``."""
        self._serving.answer(invite.transaction, reply)

    async def accept_invite(
        self, invite: IncomingInvite, answer: bytes, content_type: str, headers: HeaderSequence
    ) -> InviteSession:
        """See ``IncomingInvite.accept``."""
        return await self._serving.accept_invite(invite, answer, content_type, headers)

    def accept_subscription(
        self, incoming: IncomingSubscribe, expires_s: int, headers: HeaderSequence
    ) -> NotifierSubscription:
        """See ``IncomingSubscribe.accept``."""
        return self._serving.accept_subscription(incoming, expires_s, headers)

    # -- requests of ours ---------------------------------------------------------------------------------

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
        TransportFailed, LocalError (a line break in a header).
        """
        request = self._calling.build(
            method,
            target,
            to=to,
            sender=sender,
            body=body,
            content_type=content_type,
            headers=headers,
            call_id=call_id,
            cseq=cseq,
            from_tag=from_tag,
        )
        response, _, _ = await self._calling.authenticated(request, target, credentials, timeout_s)
        return response

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
        """A request inside a dialog, on its flow; its final response. For sessions and subscriptions."""
        return await self._calling.in_dialog(
            dialog, method, body=body, content_type=content_type, headers=headers, timeout_s=timeout_s
        )

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
        content_type = "application/sdp" if offer else ""
        request = self._calling.build(
            "INVITE", target, to=to, sender=sender, body=offer, content_type=content_type, headers=fields
        )
        return await self._calling.invite(request, target, credentials, timeout_s)

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
        request = self._calling.build(
            "SUBSCRIBE", target, to=to, sender=sender, body=body, content_type=content_type, headers=fields
        )
        return await self._calling.subscribe(
            request,
            target,
            headers=headers,
            content_type=content_type,
            on_notify=on_notify,
            on_end=on_end,
            credentials=credentials,
            timeout_s=timeout_s,
        )

    async def end_orphan(self, snapshot: dict[str, Any], *, flow: Flow | None = None) -> bool:
        """End what an earlier process left open: BYE a call, unsubscribe, or close a peer's subscription.

        ``flow``: where the peer is reached now, when it is not the flow of the snapshot. What the peer answers does
        not matter; False when it answers nothing. Raises LocalError for a record that is no snapshot.
        """
        return await self._calling.end_orphan(snapshot, flow)

    # -- tasks --------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run a coroutine that belongs to this endpoint: ``close`` waits for it, then cancels it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("event=task_failed", exc_info=task.exception())

    def later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call something once, unless the endpoint closes before or ``never_mind`` takes it back."""

        def due() -> None:
            self._delayed.discard(handle)
            callback()

        handle = asyncio.get_running_loop().call_later(delay_s, due)
        self._delayed.add(handle)
        return handle

    def never_mind(self, handle: asyncio.TimerHandle | None) -> None:
        """Take a ``later`` back; harmless when it is over."""
        if handle is not None:
            handle.cancel()
            self._delayed.discard(handle)


_SECRETS = re.compile(rb'\b((?:response|cnonce|nonce)\s*=\s*)"?[^",\s]*"?', re.IGNORECASE)


def masked(data: bytes) -> str:
    """Wire text for the log without what proves a password (G282)."""
    return _SECRETS.sub(rb"\1***", data).decode("utf-8", "backslashreplace")


def _target_of_contact(dialog: Dialog) -> Target | None:
    try:
        uri = SipUri.parse(dialog.remote_target)
    except ParseError:
        return None
    secure = uri.scheme == "sips" or (uri.param("transport") or "").lower() == "tls"
    port = uri.port or (5061 if secure else 5060)
    return Target(uri=dialog.remote_target, host=uri.host, port=port, transport="tls" if secure else "tcp")


__all__ = [
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
