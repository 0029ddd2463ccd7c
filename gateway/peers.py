"""Who sent this? Decided by the flow of a registration, never by what a message claims (G062, G069, quirks 11 and 37)."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gateway.clock import Clock
from gateway.model import Device, Platform
from gateway.registry import Registry
from gateway.services.liveness import Liveness
from sip.endpoint import Incoming
from sip.flow import Flow
from sip.manscdp import Body
from sip.message import Response

logger = logging.getLogger(__name__)

_USER = re.compile(r"sips?:([^@;>\s]+)@", re.IGNORECASE)


class PeerKind(StrEnum):
    """In which role a peer speaks. Two platforms registered with each other are both at once (quirk 37)."""

    DEVICE = "device"
    UPPER = "upper"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer in one role. ``id`` is the 20-digit code; for UNKNOWN what the From claims."""

    kind: PeerKind
    id: str
    device: Device | None = None
    platform: Platform | None = None

    @property
    def authenticated(self) -> bool:
        return self.kind is not PeerKind.UNKNOWN


class Uppers(Protocol):
    """What the cascade tells about upper platforms. Plugged in when it starts."""

    def platform_of(self, flow: Flow, user: str) -> Platform | None:
        """The upper with which we are registered and whose address this flow comes from, else None.

        ``user`` is the user part of From; the address decides, the user only chooses among several uppers there.
        """

    def send(self, platform: Platform, body: Body) -> Awaitable[Response]:
        """Send one body upward as MESSAGE."""


def sender_of(incoming: Incoming) -> str:
    """User part of the From header, "" when there is none."""
    match = _USER.search(incoming.request.headers.index.get("from", ""))
    return match[1] if match is not None else ""


class Peers:
    """Tells devices and upper platforms apart by where a message came from.

    What a device may send from:

    * the flow it registered over;
    * another port of the same host over UDP: a NAT gave it a new one. The flow moves there, and it is logged;
    * another transport or connection from the same host, for one message too long for UDP. The flow stays.

    A message from another host is refused with 403 whatever it claims; the device then registers anew and
    proves itself. (Moving with it on the strength of a heartbeat would let anybody take a camera over.)
    """

    def __init__(self, *, registry: Registry, liveness: Liveness, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self.registry = registry
        self._liveness = liveness
        self.uppers: Uppers | None = None
        self.contested: Callable[[str, Flow], bool] = lambda device_id, flow: False
        """Whether a message under this code comes from a second unit that was refused (gateway.services.same_id)."""
        self.rebindings = 0
        """How often a device turned up on a new port of its host."""

    def identify(self, incoming: Incoming, role: PeerKind | None = None) -> Peer:
        """The peer in ``role``, or in the only role it has (device first). UNKNOWN when nothing proves it."""
        user = sender_of(incoming)
        if role is not PeerKind.UPPER:
            device = self.device_of(incoming.flow, user, self._clock.mono())
            if device is not None:
                return Peer(PeerKind.DEVICE, device.device_id, device=device)
        if role is not PeerKind.DEVICE:
            platform = self.upper_of(incoming.flow, user)
            if platform is not None:
                return Peer(PeerKind.UPPER, platform.platform_id, platform=platform)
        return Peer(PeerKind.UNKNOWN, user)

    def upper_of(self, flow: Flow, user: str) -> Platform | None:
        return self.uppers.platform_of(flow, user) if self.uppers is not None else None

    def device_of(self, flow: Flow, user: str, now: float) -> Device | None:
        """The registered device behind this flow; notes a NAT rebinding. None when nothing proves it."""
        device = self.registry.devices.get(user)
        if device is None:
            return self._by_flow(flow, user, now)
        known = device.flow
        if known is None or known.host != flow.host or not self._liveness.registered(device, now):
            return None
        if known.port != flow.port and self.contested(user, flow):
            return None
        if (
            known.port != flow.port
            or known.transport != flow.transport
            or known.connection != flow.connection
        ):
            self._rebound(device, known, flow)
        return device

    def registered_elsewhere(self, user: str) -> bool:
        """Whether this code is online now over some other flow: somebody uses a foreign name."""
        device = self.registry.devices.get(user)
        return device is not None and device.online

    def _rebound(self, device: Device, known: Flow, flow: Flow) -> None:
        if known.transport != "udp" or flow.transport != "udp":
            return
        self.rebindings += 1
        self.registry.observe(device, "rebound")
        logger.info("device rebound device=%s old=%s new=%s", device.device_id, known, flow)
        self.registry.set_flow(device, flow)

    def _by_flow(self, flow: Flow, user: str, now: float) -> Device | None:
        """Some devices put a channel's code or ours into From (quirk 23): the exact flow decides.

        Behind one socket there may be several devices; then the one that owns the channel named.
        """
        found = [
            device for device in self.registry.devices_on(flow) if self._liveness.registered(device, now)
        ]
        if len(found) == 1:
            return found[0]
        owners = [device for device in found if self.registry.channel(device.device_id, user) is not None]
        return owners[0] if len(owners) == 1 else None
