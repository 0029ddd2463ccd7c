"""Where requests from outside go: who sent it, may he, what is it, who handles it. The SIP endpoint's one handler.

A MESSAGE is answered 200 as soon as it is read and queued; what it causes runs behind that (G030, quirk 10).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from gateway.answers import AnswerDesk, Question
from gateway.clock import Clock
from gateway.events import EventBus, SecurityEvent
from gateway.inbox import Inbox
from gateway.model import Device
from gateway.origin import USER_HEADER, Origin, acting_for
from gateway.outbox import QUERY_TIMEOUT_S, Outbox, Requester
from gateway.peers import Peer, PeerKind, Peers, sender_of
from gateway.services.limits import TokenBuckets
from gateway.services.liveness import Liveness
from sip.core import ALLOW
from sip.endpoint import Incoming, Reply
from sip.errors import ParseError, RemoteError
from sip.manscdp import CONTENT_TYPE, Body, Decoded, KeepaliveNotify, UnknownBody, decode, keepalive_fields
from sip.message import Response

logger = logging.getLogger(__name__)

RoleName = Literal["device", "upper"]
Answer = Reply | Awaitable[Reply | None] | None
BodyHandler = Callable[[Peer, Any, Incoming], Awaitable[Body | None]]
BodyCheck = Callable[[Peer, Any, Incoming], Reply | None]
MethodHandler = Callable[[Peer, Incoming], Answer]

XML_TYPES = frozenset({"application/manscdp+xml", "application/xml", "text/xml", ""})
"""Types that are read as MANSCDP; "" stands for no Content-Type."""
EVENTS = frozenset({"catalog", "presence", "alarm", "mobileposition", "ptzposition"})
DECODE_IN_THREAD_ABOVE = 48 * 1024
"""Bytes. Reading a longer body would hold the loop for more than a few milliseconds."""
KEEPALIVE_BELOW = 4096
_OK = Reply(200)
_DEVICE_FIRST = frozenset({"Notify", "Response"})
_TOLD_PER_SOURCE_S = 10.0


class RegisterHandler(Protocol):
    def register(self, incoming: Incoming) -> Reply: ...


class Dispatch:
    """Takes requests in (``handle``), sends bodies out (``send``, ``query``).

    ``counts`` by name: keepalive, unregistered, malformed, unknown_command, no_handler, late, unasked, full ...
    """

    def __init__(
        self,
        *,
        endpoint: Requester,
        domain: str,
        peers: Peers,
        registrar: RegisterHandler,
        liveness: Liveness,
        bus: EventBus,
        clock: Clock | None = None,
        own_id: str = "",
    ) -> None:
        self.peers = peers
        self._registrar = registrar
        self._liveness = liveness
        self._bus = bus
        self._clock = clock or Clock()
        self.desk = AnswerDesk()
        self.outbox = Outbox(endpoint=endpoint, domain=domain, desk=self.desk, own_id=own_id)
        self.outbox.on_answered = self._answered
        self.outbox.learner = peers.registry
        self.inbox = Inbox(clock=self._clock)
        self._bodies: dict[type[Body], dict[PeerKind, BodyHandler]] = {}
        self._methods: dict[str, dict[PeerKind, MethodHandler]] = {}
        self._others: dict[PeerKind, BodyHandler] = {}
        self._checks: dict[type[Body], dict[PeerKind, BodyCheck]] = {}
        self._told: TokenBuckets[str] = TokenBuckets(rate=1 / _TOLD_PER_SOURCE_S, burst=1)
        self.counts: Counter[str] = Counter()

    # -- who handles what ------------------------------------------------------------------------------------

    def on(self, model: type[Body], role: RoleName = "device") -> Callable[[BodyHandler], BodyHandler]:
        """Register ``async handler(peer, body, incoming) -> Body | None``; a Body returned is sent to the peer."""

        def register(handler: BodyHandler) -> BodyHandler:
            self._bodies.setdefault(model, {})[PeerKind(role)] = handler
            return handler

        return register

    def on_method(self, method: str, role: RoleName) -> Callable[[MethodHandler], MethodHandler]:
        """Register ``handler(peer, incoming)`` for INVITE, SUBSCRIBE, INFO ...; it returns what an endpoint handler may."""

        def register(handler: MethodHandler) -> MethodHandler:
            self._methods.setdefault(method, {})[PeerKind(role)] = handler
            return handler

        return register

    def on_other(self, role: RoleName) -> Callable[[BodyHandler], BodyHandler]:
        """Register the handler of all bodies from that role that no model's handler takes, unknown commands included."""

        def register(handler: BodyHandler) -> BodyHandler:
            self._others[PeerKind(role)] = handler
            return handler

        return register

    def before(self, model: type[Body], role: RoleName) -> Callable[[BodyCheck], BodyCheck]:
        """Register a check that runs before the 200: a Reply it returns is sent instead and the body is dropped."""

        def register(check: BodyCheck) -> BodyCheck:
            self._checks.setdefault(model, {})[PeerKind(role)] = check
            return check

        return register

    # -- requests from outside -------------------------------------------------------------------------------

    def handle(self, incoming: Incoming) -> Answer:
        """The endpoint's handler."""
        method = incoming.request.method
        if method == "MESSAGE":
            return self._message(incoming)
        if method == "REGISTER":
            return self._registrar.register(incoming)
        if method == "OPTIONS":
            return Reply(200, headers=(("Allow", ALLOW), ("Accept", f"application/sdp, {CONTENT_TYPE}")))
        if method == "NOTIFY":
            return self._stray_notify(incoming)
        return self._other(method, incoming)

    def _other(self, method: str, incoming: Incoming) -> Answer:
        user = sender_of(incoming)
        handlers = self._methods.get(method, {})
        peers = [peer for kind in (PeerKind.UPPER, PeerKind.DEVICE) if (peer := self._peer(incoming, kind))]
        if not peers:
            return self._unregistered(incoming, user)
        if method == "SUBSCRIBE" and not _known_event(incoming):
            self.counts["unknown_event"] += 1
            return Reply(489, headers=(("Allow-Events", "Catalog, Alarm, MobilePosition, presence"),))
        for peer in peers:
            handler = handlers.get(peer.kind)
            if handler is not None:
                if peer.device is not None:
                    self._liveness.seen(peer.device, self._clock.mono())
                return handler(peer, incoming)
        self.counts["no_handler"] += 1
        return Reply(405, headers=(("Allow", ALLOW),))

    def _peer(self, incoming: Incoming, kind: PeerKind) -> Peer | None:
        peer = self.peers.identify(incoming, kind)
        return peer if peer.authenticated else None

    def _message(self, incoming: Incoming) -> Answer:
        body = incoming.request.body
        user = sender_of(incoming)
        now = self._clock.mono()
        device = self.peers.device_of(incoming.flow, user, now)
        if device is not None and len(body) < KEEPALIVE_BELOW:
            keepalive = keepalive_fields(body)
            if keepalive is not None:
                self._liveness.keepalive(device, keepalive, now)
                return _OK
        platform = self.peers.upper_of(incoming.flow, user)
        if device is None and platform is None:
            return self._unregistered(incoming, user)
        candidates: list[Peer] = []
        if device is not None:
            self._liveness.seen(device, now)
            candidates.append(Peer(PeerKind.DEVICE, device.device_id, device=device))
        if platform is not None:
            candidates.append(Peer(PeerKind.UPPER, platform.platform_id, platform=platform))
        return self._read(incoming, candidates)

    def _read(
        self, incoming: Incoming, candidates: list[Peer], root_hint: str | None = None
    ) -> Reply | Awaitable[Reply]:
        """Decode the body, then :meth:`_take` it; a long one is decoded in a thread."""
        request = incoming.request
        if request.content_type not in XML_TYPES:
            self.counts["unsupported_type"] += 1
            return Reply(415, headers=(("Accept", CONTENT_TYPE),))
        if len(request.body) > DECODE_IN_THREAD_ABOVE:
            return self._read_long(incoming, candidates, root_hint)
        try:
            decoded = decode(request.body, root_hint=root_hint)
        except ParseError as error:
            return self._malformed(incoming, error)
        return self._take(incoming, candidates, decoded)

    async def _read_long(self, incoming: Incoming, candidates: list[Peer], root_hint: str | None) -> Reply:
        try:
            decoded = await asyncio.to_thread(decode, incoming.request.body, root_hint=root_hint)
        except ParseError as error:
            return self._malformed(incoming, error)
        return self._take(incoming, candidates, decoded)

    def _malformed(self, incoming: Incoming, error: RemoteError) -> Reply:
        self.counts["malformed"] += 1
        logger.warning("body unreadable source=%s label=%s error=%s", incoming.flow, error.label, error)
        if error.label == "not_xml" and b"Catalog" in incoming.request.body[:400]:
            return _OK  # a refused part makes some recorders stop sending the rest (quirk 2)
        return Reply(400, reason=f"Body Not Readable: {error.label}")

    def _take(self, incoming: Incoming, candidates: list[Peer], decoded: Decoded) -> Reply:
        """Give a body that was read to whoever waits for it or handles it."""
        body = decoded.body
        if decoded.faults:
            self.counts["body_faults"] += len(decoded.faults)
            logger.info("body with faults source=%s faults=%s", incoming.flow, "; ".join(decoded.faults[:3]))
        peer = self._choose(candidates, body)
        if peer is None:
            return self._unregistered(incoming, sender_of(incoming))
        if peer.device is not None:
            self.outbox.learn_charset(peer.device, decoded)
            if sender_of(incoming) != peer.id:
                self.peers.registry.observe(peer.device, "foreign_from", sender_of(incoming))
            if isinstance(body, KeepaliveNotify):
                self._liveness.keepalive(peer.device, body, self._clock.mono())
                return _OK
        if isinstance(body, UnknownBody):
            self.counts["unknown_command"] += 1
            logger.info(
                "unknown command peer=%s root=%s cmd_type=%s", peer.id, body.root[:32], body.cmd_type[:32]
            )
            if peer.kind not in self._others:
                return _OK
        return self._deliver(peer, body, incoming, len(decoded.raw))

    def _choose(self, candidates: list[Peer], body: Body) -> Peer | None:
        """The role this body is meant for, when the sender is two peers at once (quirk 37)."""
        if isinstance(body, KeepaliveNotify):
            return next((peer for peer in candidates if peer.kind is PeerKind.DEVICE), None)
        if len(candidates) == 1:
            return candidates[0]
        handlers = self._bodies.get(type(body), {})
        ordered = candidates if body.root in _DEVICE_FIRST else candidates[::-1]
        return next((peer for peer in ordered if peer.kind in handlers), ordered[0])

    def _deliver(self, peer: Peer, body: Body, incoming: Incoming, size_bytes: int) -> Reply:
        verdict = ""
        if body.root == "Response":
            verdict = self.desk.answer(peer.id, body)
            if verdict in ("matched", "guessed"):
                return _OK
            if verdict == "full":
                return self._full(peer)
            self.counts[verdict] += 1
        check = self._checks.get(type(body), {}).get(peer.kind)
        refusal = check(peer, body, incoming) if check is not None else None
        if refusal is not None:
            return refusal
        handler = self._bodies.get(type(body), {}).get(peer.kind) or self._others.get(peer.kind)
        if handler is None:
            self.counts["no_handler" if not verdict else "unused_answer"] += 1
            return _OK

        async def work() -> None:
            with acting_for(_origin_of(peer, incoming)):
                answer = await handler(peer, body, incoming)
            if answer is not None:
                await self.send_to(peer, answer)

        if not self.inbox.put((peer.kind, peer.id), work, size_bytes):
            return self._full(peer)
        return _OK

    def _full(self, peer: Peer) -> Reply:
        self.counts["full"] += 1
        logger.warning("queue of peer full peer=%s", peer.id)
        return Reply(503, headers=(("Retry-After", "5"),))

    def _unregistered(self, incoming: Incoming, user: str) -> Reply:
        """403: the peer may register (again); some do at once, all do when their heartbeat was refused often enough."""
        self.counts["unregistered"] += 1
        source = incoming.flow.host
        if self._told.take(source, self._clock.mono()):
            kind = "foreign_source" if self.peers.registered_elsewhere(user) else "unregistered"
            self._bus.publish(SecurityEvent(kind, source, incoming.request.method, user[:64]))
            logger.warning(
                "refused unregistered sender=%s source=%s method=%s",
                user[:64], incoming.flow, incoming.request.method,
            )  # fmt: skip
        return Reply(403, reason="Not Registered")

    # -- NOTIFY ----------------------------------------------------------------------------------------------

    def notify(self, device: Device, incoming: Incoming) -> Reply | Awaitable[Reply]:
        """A NOTIFY inside a subscription of ours at ``device``: 200, and its body goes to the model's handler.

        An empty body (the last NOTIFY of a subscription) is just answered.
        """
        self._liveness.seen(device, self._clock.mono())
        if not incoming.request.body.strip():
            return _OK
        peer = Peer(PeerKind.DEVICE, device.device_id, device=device)
        return self._read(incoming, [peer], root_hint="Notify")

    def _stray_notify(self, incoming: Incoming) -> Answer:
        """The endpoint passes NOTIFYs of unknown subscriptions on only in tolerant mode (G112)."""
        user = sender_of(incoming)
        device = self.peers.device_of(incoming.flow, user, self._clock.mono())
        if device is None:
            return self._unregistered(incoming, user)
        self.counts["stray_notify"] += 1
        return self.notify(device, incoming)

    # -- to the peers ----------------------------------------------------------------------------------------

    async def send(self, device: Device, body: Body) -> Response:
        """See :meth:`Outbox.send`."""
        return await self.outbox.send(device, body)

    async def send_to(self, peer: Peer, body: Body) -> None:
        """Send a body to a peer in its role; failures are logged, there is nobody to tell."""
        try:
            if peer.device is not None:
                await self.outbox.send(peer.device, body)
            elif peer.platform is not None and self.peers.uppers is not None:
                await self.peers.uppers.send(peer.platform, body)
        except RemoteError as error:
            logger.warning("answer not delivered peer=%s cmd_type=%s error=%s", peer.id, body.cmd_type, error)

    async def query(self, device: Device, body: Body, *, timeout_s: float = QUERY_TIMEOUT_S) -> Body:
        """See :meth:`Outbox.query`."""
        return await self.outbox.query(device, body, timeout_s=timeout_s)

    async def ask(self, device: Device, body: Body) -> Question:
        """See :meth:`Outbox.ask`: for answers in several parts."""
        return await self.outbox.ask(device, body)

    def said_last(self, device_id: str) -> str:
        """See :meth:`AnswerDesk.said_last`."""
        return self.desk.said_last(device_id)

    def next_sn(self, peer_id: str) -> int:
        """SN of the next query or command to this peer."""
        return self.desk.next_sn(peer_id)

    def _answered(self, device: Device, response: Response) -> None:
        """A final answer came: the device lives. Some put the XML answer right into the 200 (quirk 45)."""
        self._liveness.seen(device, self._clock.mono())
        if not response.body.strip() or response.status >= 300:
            return
        try:
            decoded = decode(response.body)
        except ParseError as error:
            logger.info("body of an answer unreadable device=%s error=%s", device.device_id, error)
            return
        self.counts["body_in_answer"] += 1
        self.peers.registry.observe(device, "body_in_answer", decoded.body.cmd_type)
        self.outbox.learn_charset(device, decoded)
        if decoded.body.root == "Response":
            self.desk.answer(device.device_id, decoded.body)

    async def close(self) -> None:
        """Stop working off messages."""
        await self.inbox.close()


def _origin_of(peer: Peer, incoming: Incoming) -> Origin:
    """Whose wish a message is: an upper's user, where the upper names him (8.3); nobody's else."""
    if peer.platform is None:
        return Origin()
    return Origin(incoming.request.headers.get(USER_HEADER))


def _known_event(incoming: Incoming) -> bool:
    """Catalog and kin, or any token when the body is MANSCDP (peers write what they like, F.2)."""
    event = incoming.request.headers.get("event").partition(";")[0].strip().lower()
    return event in EVENTS or (bool(event) and "manscdp" in incoming.request.content_type)
