"""The registrar: every REGISTER is authenticated, renewals and log-outs too; answers come from memory alone.

GB/T 28181-2022 9.1, annex I; RFC 3261 10 and 22. One plain function per message, no await: a known device costs
one digest check, the database follows behind.
"""

from __future__ import annotations

import ipaddress
import logging
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

from config.settings import HeartbeatSettings, RegistrationSettings
from gateway.clock import Clock, beijing_text
from gateway.events import DeviceOnline, DeviceRegistered, EventBus, SecurityEvent
from gateway.model import Device, State
from gateway.networks import address_of
from gateway.registry import Registry, device_kind, flow_key
from gateway.services.limits import FailureLock, TokenBuckets
from gateway.services.liveness import Liveness
from gateway.services.redirect import Redirect, contact_of
from gateway.services.same_id import SameId
from sip.digest import DigestServer, Secret, Verdict
from sip.endpoint import Incoming, Reply
from sip.flow import Flow
from sip.ids import is_code
from sip.message import Request

logger = logging.getLogger(__name__)

OUR_VERSION = "3.0"
VERSION_HEADER = ("X-GB-Ver", OUR_VERSION)
"""In every answer to REGISTER, refusals too (2022 annex I, G047)."""
_KNOWN_VERSIONS = frozenset({"1.0", "1.1", "2.0", "3.0"})
_USER = re.compile(r"sips?:([^@;>\s]+)@", re.IGNORECASE)
_EXPIRES_PARAM = re.compile(r";\s*expires\s*=\s*\"?(\d{1,10})", re.IGNORECASE)
_CONTACT_URI = re.compile(r"<([^>]*)>|(sips?:[^\s;,]+)", re.IGNORECASE)
_PER_DEVICE_RATE = 5.0
_PER_DEVICE_BURST = 20.0
_TOLD_PER_SOURCE_S = 10.0
"""So often one refused address is logged and told."""
_RETRY_AFTER_S = (5, 30)
"""Refused for the rate: come back after a time out of this range, so that not all come back at once (quirk 7)."""


def edition_of(header: str | None) -> str:
    """Version of the peer: absent means 2.0; above ours is treated as ours; an unreadable one as 2.0 (G048)."""
    text = (header or "").strip()
    if text in _KNOWN_VERSIONS:
        return text
    major, _, _ = text.partition(".")
    return OUR_VERSION if major.isdecimal() and major.isascii() and int(major[:4]) >= 3 else "2.0"


def user_of(header: str) -> str:
    """User part of a From or To value, "" when there is none."""
    match = _USER.search(header)
    return match[1] if match is not None else ""


class Registrar:
    """Answers REGISTER. ``counts`` holds outcomes by name, for metrics."""

    def __init__(
        self,
        *,
        settings: RegistrationSettings,
        heartbeat: HeartbeatSettings,
        domain: str,
        registry: Registry,
        liveness: Liveness,
        bus: EventBus,
        clock: Clock | None = None,
        digest: DigestServer | None = None,
        redirect: Redirect | None = None,
    ) -> None:
        self._settings = settings
        self._heartbeat = heartbeat
        self._domain = domain
        self._registry = registry
        self._liveness = liveness
        self._bus = bus
        self._clock = clock or Clock()
        self._digest = digest or DigestServer(lifetime_s=settings.nonce_lifetime_s)
        password = settings.domain_password
        self._domain_secret = Secret(password=password.get_secret_value()) if password is not None else None
        rate = settings.requests_per_second_per_source
        self._sources: TokenBuckets[str] = TokenBuckets(rate=rate, burst=2 * rate)
        self._devices: TokenBuckets[tuple[str, str]] = TokenBuckets(
            rate=_PER_DEVICE_RATE, burst=_PER_DEVICE_BURST
        )
        self._failures: FailureLock[tuple[str, str]] = FailureLock(
            limit=settings.failures_before_forbidden, window_s=settings.failure_window_s
        )
        self.counts: Counter[str] = Counter()
        self._redirect = redirect
        self.same_id = SameId(
            policy=settings.same_id_policy,
            memory_s=settings.same_id_memory_s,
            devices=registry.devices,
            bus=bus,
            clock=self._clock,
        )
        self.audit: Callable[[str, str, str, str, str], None] | None = None
        """Writes who was refused for his address into the audit log: who, action, target, result, detail."""
        self._told: TokenBuckets[str] = TokenBuckets(rate=1 / _TOLD_PER_SOURCE_S, burst=1)
        for rule in settings.open_rules:
            logger.warning("registration without password network=%s reason=%s", rule.network, rule.reason)

    # -- one REGISTER ----------------------------------------------------------------------------------------

    def register(self, incoming: Incoming) -> Reply:
        """Judge one REGISTER and answer it. Publishes what follows from it."""
        request, flow = incoming.request, incoming.flow
        index = request.headers.index
        device_id = user_of(index.get("to", "")) or user_of(index.get("from", ""))
        now = self._clock.mono()
        if not self._sources.take(flow.host, now) or not self._devices.take((device_id, flow.host), now):
            return self._busy(flow, device_id)
        if not device_id:
            return self._refuse(400, "no_device_id", reason="No Device ID")
        if self._foreign(flow):
            return self._refuse_foreign(flow, device_id, "outside of registration.allowed_networks", now)
        device = self._registry.devices.get(device_id)
        redirect = self._redirect
        if redirect is not None and redirect.enabled and not redirect.challenges:
            elsewhere = self._elsewhere(redirect, request, device_id, device, now)
            if elsewhere is not None:
                return elsewhere
        refusal = self._authenticate(request, flow, device_id, device, now)
        if refusal is not None:
            return refusal
        self._sources.give_back(flow.host, 2)
        self._devices.give_back((device_id, flow.host), 2)
        return self._admit(request, flow, device_id, device, now)

    def _foreign(self, flow: Flow) -> bool:
        networks = self._settings.allowed_networks
        if not networks:
            return False
        address = address_of(flow.host)
        return address is None or not any(address in network for network in networks)

    def _refuse_foreign(self, flow: Flow, device_id: str, detail: str, now: float) -> Reply:
        """403 for an address that is on no list; the text tells nothing. Counted each time, told now and then."""
        if self._told.take(flow.host, now):
            logger.warning("registration refused device=%s source=%s cause=%s", device_id[:64], flow, detail)
            self._security("foreign_source", flow, device_id, detail)
            if self.audit is not None:
                self.audit(flow.host, "device.register", device_id[:64], "foreign_source", detail)
        return self._refuse(403, "foreign_source")

    def _elsewhere(
        self, redirect: Redirect, request: Request, device_id: str, device: Device | None, now: float
    ) -> Reply | None:
        """302 to the server that this device belongs to, None when it is served here (9.1.2.3, G050)."""
        if self._requested_expires(request, request.headers.index.get("contact", "")) == 0:
            return None
        target = redirect.target(device_id, now)
        if target is None:
            return None
        self.counts["redirected"] += 1
        logger.info("device redirected device=%s server=%s", device_id[:64], target.server_id)
        if device is not None and redirect.challenges and self._registry.mark_offline(device, "redirected"):
            logger.info("device offline device=%s cause=redirected", device_id)
        expires = ("Expires", str(redirect.expires_s))
        return Reply(302, headers=(("Contact", contact_of(target)), expires, VERSION_HEADER))

    def _busy(self, flow: Flow, device_id: str) -> Reply:
        self.counts["rate_limited"] += 1
        if self.counts["rate_limited"] % 1000 == 1:
            logger.warning("registrations limited source=%s device=%s", flow.host, device_id)
            self._security("rate_limited", flow, device_id)
        retry = ("Retry-After", str(random.randint(*_RETRY_AFTER_S)))
        return Reply(503, headers=(retry, VERSION_HEADER))

    def _refuse(self, status: int, label: str, *, reason: str = "") -> Reply:
        self.counts[label] += 1
        return Reply(status, headers=(VERSION_HEADER,), reason=reason)

    # -- who is it -------------------------------------------------------------------------------------------

    def _authenticate(
        self, request: Request, flow: Flow, device_id: str, device: Device | None, now: float
    ) -> Reply | None:
        """None when the peer proved itself or an open rule admits it, else the refusal."""
        secret = self._registry.secrets.get(device_id)
        if secret is None and self._open(flow):
            return self._admissible(flow, device_id, device)
        if self._failures.locked((flow.host, device_id), now):
            return self._refuse(403, "locked")
        known: Secret | None = secret or self._domain_secret
        authorization = request.headers.index.get("authorization", "")
        verdict = self._digest.verify(
            authorization, "REGISTER", self._domain, flow.host, now, known or _NOBODY, body=request.body
        )
        if verdict is Verdict.OK:
            self._failures.clear((flow.host, device_id))
            return self._admissible(flow, device_id, device)
        if verdict is Verdict.WRONG:
            return self._wrong(flow, device_id, known, now)
        # An invented or old nonce is no failed log-in (quirk 44); neither is a used one.
        stale = verdict in (Verdict.STALE, Verdict.REPLAYED)
        self.counts["stale" if stale else "challenged"] += 1
        return self._challenge(flow, now, stale=stale)

    def _challenge(self, flow: Flow, now: float, *, stale: bool = False) -> Reply:
        challenges = self._digest.challenge(self._domain, flow.host, now, stale=stale)
        return Reply(401, headers=(*(("WWW-Authenticate", value) for value in challenges), VERSION_HEADER))

    def _wrong(self, flow: Flow, device_id: str, known: Secret | None, now: float) -> Reply:
        count = self._failures.fail((flow.host, device_id), now)
        self.counts["wrong_password"] += 1
        unknown = known is None
        self._security("unknown_device" if unknown else "auth_failed", flow, device_id, f"attempt {count}")
        if unknown:
            logger.warning("unknown device refused device=%s source=%s", device_id, flow)
            return self._refuse(403, "unknown_device")
        logger.warning("wrong password device=%s source=%s attempt=%d", device_id, flow, count)
        if count >= self._settings.failures_before_forbidden:
            self._security("auth_locked", flow, device_id, f"{count} attempts")
            return self._refuse(403, "locked")
        return self._challenge(flow, now)

    def _open(self, flow: Flow) -> bool:
        if not self._settings.open_rules:
            return False
        address = address_of(flow.host)
        return address is not None and any(address in rule.network for rule in self._settings.open_rules)

    def _admissible(self, flow: Flow, device_id: str, device: Device | None) -> Reply | None:
        """Proven, but may it come in? New devices by setting and with a proper code, known ones by their networks."""
        if device is None:
            if not is_code(device_id):
                self._security("unknown_device", flow, device_id, "no 20-digit code")
                return self._refuse(403, "bad_code", reason="Not A Device Code")
            if not self._settings.accept_unknown_devices:
                self._security("unknown_device", flow, device_id)
                return self._refuse(403, "unknown_device")
            return None
        if device.local:
            self._security("own_code", flow, device_id, "a code of our own virtual device")
            return self._refuse(403, "own_code")
        if device.profile.allowed_networks:
            address = address_of(flow.host)
            if address is None or not any(
                address in ipaddress.ip_network(network) for network in device.profile.allowed_networks
            ):
                detail = "outside of the device's own networks"
                return self._refuse_foreign(flow, device_id, detail, self._clock.mono())
        return None

    # -- what it wants ---------------------------------------------------------------------------------------

    def _admit(
        self, request: Request, flow: Flow, device_id: str, device: Device | None, now: float
    ) -> Reply:
        contact = request.headers.index.get("contact", "")
        expires = self._requested_expires(request, contact)
        if expires == 0:
            return self._log_out(device, flow, contact, now)
        if expires < self._settings.min_expires_s:
            self.counts["interval_too_brief"] += 1
            minimum = ("Min-Expires", str(self._settings.min_expires_s))
            return Reply(423, headers=(minimum, VERSION_HEADER))
        redirect = self._redirect
        if redirect is not None and redirect.enabled and redirect.challenges:
            elsewhere = self._elsewhere(redirect, request, device_id, device, now)
            if elsewhere is not None:
                return elsewhere
        if device is None:
            device = self._new_device(device_id)
        agent = request.headers.index.get("user-agent", "")[:255]
        if not self.same_id.admit(device, flow, _contact_uri(contact)[:255], agent, now):
            return self._refuse(403, "same_id")
        renewal = device.state is State.ONLINE
        uri = _contact_uri(contact)
        self._bind(device, request, flow, uri, expires, now)
        self.counts["renewed" if renewal else "registered"] += 1
        self._bus.publish(DeviceRegistered(device_id, renewal, expires))
        return Reply(200, headers=self._success(device, uri, flow, expires))

    def _requested_expires(self, request: Request, contact: str) -> int:
        """Seconds wanted: Contact parameter, else header, else the default (RFC 3261 10.3); at most our maximum."""
        match = _EXPIRES_PARAM.search(contact)
        wanted = int(match[1]) if match is not None else request.expires
        if wanted is None:
            wanted = self._settings.default_expires_s
        return min(wanted, self._settings.max_expires_s)

    def _new_device(self, device_id: str) -> Device:
        device = Device(
            device_id=device_id,
            kind=device_kind(int(device_id[10:13])),
            heartbeat_interval_s=self._heartbeat.interval_s,
            heartbeat_count=self._heartbeat.count,
        )
        logger.info("device new device=%s", device_id)
        return self._registry.put_device(device)

    def _bind(self, device: Device, request: Request, flow: Flow, uri: str, expires: int, now: float) -> None:
        """The device is registered over ``flow`` for ``expires`` seconds from now on."""
        index = request.headers.index
        utc = self._clock.utc()
        agent, profile = index.get("user-agent", "")[:255], device.profile
        profile.said_edition = edition_of(index.get("x-gb-ver"))
        edition = profile.edition or profile.said_edition
        if device.edition != edition or device.user_agent != agent:
            self._registry.update_device(device.device_id, edition=edition, user_agent=agent)
        if self._registry.set_flow(device, flow):
            logger.info("device moved device=%s flow=%s", device.device_id, flow)
        device.contact = uri[:255]
        device.registered_at = device.last_seen_at = utc
        device.expires_at = utc + timedelta(seconds=expires)
        device.last_seen_mono = now
        device.expires_mono = now + expires
        device.registration_expired = False
        if self._registry.mark_online(device, "registered"):
            logger.info(
                "device online device=%s flow=%s expires_s=%d edition=%s agent=%s",
                device.device_id, flow, expires, edition, agent,
            )  # fmt: skip
        self._liveness.watch(device)

    def _success(self, device: Device, uri: str, flow: Flow, expires: int) -> tuple[tuple[str, str], ...]:
        uri = uri or f"sip:{device.device_id}@{flow.host}:{flow.port}"
        headers = (("Contact", f"<{uri}>;expires={expires}"), ("Expires", str(expires)), VERSION_HEADER)
        wanted = device.profile.send_date
        if self._settings.send_date if wanted is None else wanted:
            return (*headers, ("Date", beijing_text(self._clock.utc())))
        return headers

    def _log_out(self, device: Device | None, flow: Flow, contact: str, now: float) -> Reply:
        self.counts["unregistered"] += 1
        answer = Reply(200, headers=(("Expires", "0"), VERSION_HEADER))
        if device is None or not self._same_binding(device, flow, contact):
            return answer  # another, newer binding stays (RFC 3261 10.3, quirk 44)
        device.expires_mono = now
        device.expires_at = self._clock.utc()
        if self._registry.mark_offline(device, "unregistered"):
            logger.info("device offline device=%s cause=unregistered", device.device_id)
        elif device.state is State.OFFLINE:
            device.offline_cause = "unregistered"  # no heartbeat brings it back now
        return answer

    def _same_binding(self, device: Device, flow: Flow, contact: str) -> bool:
        if contact.strip() == "*" or not contact or device.flow is None:
            return True
        return flow_key(device.flow) == flow_key(flow) or device.contact == _contact_uri(contact)

    # -- after a restart -------------------------------------------------------------------------------------

    def resume(self) -> tuple[int, int]:
        """Take up the registrations of an earlier life (G059). Returns how many are online and how many are lost.

        A registration over UDP that has not expired is online at once, with a whole heartbeat window to show a
        sign of life. One over TCP has lost its connection with us: offline until it registers again.
        """
        now, utc = self._clock.mono(), self._clock.utc()
        resumed = lost = 0
        for device in list(self._registry.devices.values()):
            left = (device.expires_at - utc).total_seconds() if device.expires_at is not None else 0.0
            device.expires_mono = now + left
            if device.local or device.state is not State.ONLINE:
                continue
            if device.flow is not None and device.flow.reliable:
                if device.flow.connection:  # it was faster than we and registered already
                    continue
                self._registry.set_flow(device, None)
                self._registry.mark_offline(device, "connection_lost")
                lost += 1
            elif device.flow is None or (left <= 0 and not device.registration_expired):
                self._registry.mark_offline(device, "expired")
                device.registration_expired = True
                lost += 1
            else:
                device.last_seen_mono = now
                self._liveness.watch(device)
                self._bus.publish(DeviceOnline(device.device_id, "resumed"))
                resumed += 1
        logger.info("registrations resumed online=%d lost=%d", resumed, lost)
        return resumed, lost

    def _security(self, kind: str, flow: Flow, device_id: str, detail: str = "") -> None:
        self._bus.publish(SecurityEvent(kind, flow.host, detail, device_id[:64]))


class _Nobody(Secret):
    """Stands for a device without any secret, so that it costs and sees the same as a wrong password."""

    __slots__ = ()

    def ha1_of(self, username: str, realm: str, algorithm: str) -> str | None:
        del username, realm, algorithm
        return None


_NOBODY = _Nobody()


def _contact_uri(contact: str) -> str:
    match = _CONTACT_URI.search(contact)
    return (match[1] or match[2] or "") if match is not None else ""
