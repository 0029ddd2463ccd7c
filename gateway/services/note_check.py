"""Signed messages by peer (Note header, GB/T 28181 8.3): which device or upper signs with what, and what is dropped.

Off for every peer until an operator gives it a key. What does not verify is dropped without an answer, counted and told
now and then; sessions go on, because otherwise anybody could end them with a forged message.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from gateway.clock import Clock
from gateway.events import EventBus, SecurityEvent
from gateway.registry import Registry
from gateway.services.limits import TokenBuckets
from sip.flow import Flow, Target
from sip.message import Request, Response
from sip.note import Algorithm, Form, NoteChecker, NoteKey, NoteVerdict, secret_of, signed

logger = logging.getLogger(__name__)

Role = Literal["device", "upper"]
Check = Literal["off", "requests", "all"]
_USER = re.compile(r"sips?:([^@;>\s]+)@", re.IGNORECASE)
_TOLD_PER_PEER_S = 10.0


@dataclass(frozen=True, slots=True)
class NoteRule:
    """How messages to and from one peer are signed and checked. ``secret`` as entered, in ``encoding``."""

    role: Role
    peer_id: str
    secret: str = field(repr=False)
    encoding: Literal["text", "hex", "base64"] = "text"
    algorithm: Algorithm = "SM3"
    form: Form = "annex_h"
    sign: bool = True
    """Our messages to this peer carry Date and Note."""
    check: Check = "all"
    """What of the peer's messages must verify: nothing, its requests, or its answers too."""

    def key(self) -> NoteKey:
        """Raises ValueError when the secret is not in its encoding."""
        return NoteKey(secret_of(self.secret, self.encoding), self.algorithm, self.form)


class Store(Protocol):
    """gateway.storage.notes."""

    async def load(self) -> list[tuple[str, str, str, dict[str, Any]]]: ...
    async def put(self, role: str, peer_id: str, secret: str, settings: dict[str, Any]) -> None: ...
    async def remove(self, role: str, peer_id: str) -> None: ...


class UpperAt(Protocol):
    """Code of the upper that listens at an address; with ``any_port`` also of the only one of that host."""

    def __call__(self, host: str, port: int, *, any_port: bool = False) -> str | None: ...


@dataclass(slots=True)
class _Known:
    rule: NoteRule
    key: NoteKey
    checker: NoteChecker


class NoteCheck:
    """The guard of the SIP endpoint. ``upper_at`` names the upper platform behind an address."""

    def __init__(
        self,
        *,
        store: Store,
        registry: Registry,
        bus: EventBus,
        window_s: float,
        upper_at: UpperAt | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._bus = bus
        self._window_s = window_s
        self.upper_at = upper_at
        self._clock = clock or Clock()
        self._known: dict[tuple[Role, str], _Known] = {}
        self._told: TokenBuckets[str] = TokenBuckets(rate=1 / _TOLD_PER_PEER_S, burst=1)
        self.counts: Counter[str] = Counter()
        """Messages by verdict: ok, exempt, missing, wrong ... For metrics."""
        self.signed = 0

    # -- rules -----------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what operators entered in earlier lives."""
        for role, peer_id, secret, settings in await self._store.load():
            try:
                rule = NoteRule(role, peer_id, secret, **settings)  # type: ignore[arg-type]
                self._enter(rule)
            except (TypeError, ValueError) as error:
                logger.error("stored note key unreadable role=%s peer=%s error=%s", role, peer_id, error)

    def rule(self, role: Role, peer_id: str) -> NoteRule | None:
        known = self._known.get((role, peer_id))
        return known.rule if known is not None else None

    async def put(self, rule: NoteRule) -> None:
        """Enter or replace; it holds from the next message on. Raises ValueError for a secret that is none."""
        rule.key()
        settings = asdict(rule)
        for name in ("role", "peer_id", "secret"):
            del settings[name]
        await self._store.put(rule.role, rule.peer_id, rule.secret, settings)
        self._enter(rule)
        logger.info("note key set role=%s peer=%s algorithm=%s", rule.role, rule.peer_id, rule.algorithm)

    async def remove(self, role: Role, peer_id: str) -> bool:
        """Messages of this peer are neither signed nor checked any more. False when there was no rule."""
        if self._known.pop((role, peer_id), None) is None:
            return False
        await self._store.remove(role, peer_id)
        logger.info("note key removed role=%s peer=%s", role, peer_id)
        return True

    def _enter(self, rule: NoteRule) -> None:
        self._known[rule.role, rule.peer_id] = _Known(rule, rule.key(), NoteChecker(self._window_s))

    # -- the guard -------------------------------------------------------------------------------------------

    def admit(self, message: Request | Response, flow: Flow) -> bool:
        """Whether a message may be read (sip.note.Guard). Costs a lookup while no peer has a key."""
        if not self._known:
            return True
        request = isinstance(message, Request)
        known = self._sender(message, flow) if request else self._at(flow)
        if known is None or known.rule.check == "off" or (not request and known.rule.check == "requests"):
            return True
        verdict = known.checker.check(message, known.key, self._clock.mono(), self._clock.utc())
        self.counts[verdict.value] += 1
        if verdict in (NoteVerdict.OK, NoteVerdict.EXEMPT):
            return True
        self._tell(known.rule, verdict, flow)
        return False

    def protect(self, data: bytes, destination: Flow | Target) -> bytes:
        """Our message as it leaves: signed where the peer has a key and wants it (sip.note.Guard)."""
        if not self._known:
            return data
        known = self._at(destination)
        if known is None or not known.rule.sign:
            return data
        self.signed += 1
        return signed(data, known.key, self._clock.utc())

    def _sender(self, message: Request | Response, flow: Flow) -> _Known | None:
        """By the name it gives itself, so that a foreign address gets no further; else by where it comes from."""
        match = _USER.search(message.headers.get("From"))
        user = match[1] if match is not None else ""
        return self._known.get(("device", user)) or self._known.get(("upper", user)) or self._at(flow)

    def _at(self, where: Flow | Target) -> _Known | None:
        flow = where if isinstance(where, Flow) else where.flow
        devices = self._registry.devices_on(flow) if flow is not None else []
        for device in devices:
            known = self._known.get(("device", device.device_id))
            if known is not None:
                return known
        if self.upper_at is None:
            return None
        # A connection that an upper dialled comes from any port; nobody else's may be taken for it.
        dialled = flow is not None and flow.reliable and not devices
        upper = self.upper_at(where.host, where.port, any_port=dialled)
        return self._known.get(("upper", upper)) if upper is not None else None

    def _tell(self, rule: NoteRule, verdict: NoteVerdict, flow: Flow) -> None:
        if not self._told.take(rule.peer_id, self._clock.mono()):
            return
        logger.warning(
            "message dropped peer=%s role=%s source=%s cause=note_%s",
            *(rule.peer_id, rule.role, flow, verdict.value),
        )
        self._bus.publish(SecurityEvent("note_failed", flow.host, f"note {verdict.value}", rule.peer_id))
