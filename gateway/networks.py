"""Which of our addresses a peer is told: by its network, then the fixed one, then the kernel's route (quirk 12)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from config.settings import SipSettings
from sip.flow import Flow, Target

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressFault(Exception):
    """The configured addresses would tell peers something they cannot reach; the message is for the operator."""


def address_of(host: str) -> IpAddress | None:
    """The address in a host text, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class OwnAddress:
    """Chooses the address in Via, Contact and From for each peer. ``route`` asks the kernel (endpoint.local_address)."""

    def __init__(self, settings: SipSettings, *, route: Callable[[str], str] | None = None) -> None:
        self._networks = sorted(
            settings.advertise_by_network.items(), key=lambda item: item[0].prefixlen, reverse=True
        )
        self._fixed = str(settings.advertise_host) if settings.advertise_host is not None else None
        self._allow_loopback = settings.allow_loopback
        self._host = settings.host
        self.route = route

    def check(self) -> None:
        """At start: refuse a configuration that announces loopback or 0.0.0.0. Raises AddressFault."""
        told = [("sip.advertise_host", self._fixed)] if self._fixed else []
        told += [(f"sip.advertise_by_network[{network}]", str(own)) for network, own in self._networks]
        for key, text in told:
            own = address_of(text or "")
            if own is not None and own.is_unspecified:
                raise AddressFault(f"{key}: {text} is no address a peer can reach")
            if own is not None and own.is_loopback and not self._allow_loopback:
                raise AddressFault(f"{key}: {text} is a loopback address; set sip.allow_loopback for tests")
        bound = address_of(self._host)
        if bound is not None and bound.is_loopback and not self._allow_loopback:
            raise AddressFault(
                f"sip.host: {self._host} is a loopback address; set sip.allow_loopback for tests"
            )

    def configured(self, peer: Flow | Target) -> str | None:
        """The address configured for this peer, None: the route decides. For ``Endpoint(advertise=...)``."""
        return self._configured(peer.host)

    def toward(self, host: str) -> str:
        """What the peer at ``host`` is told. Raises AddressFault when only loopback is known and it is not one itself."""
        chosen = self._configured(host) or (self.route(host) if self.route is not None else "")
        own, peer = address_of(chosen), address_of(host)
        if own is None or own.is_unspecified:
            raise AddressFault(f"no own address is known toward {host}")
        if own.is_loopback and not self._allow_loopback and not (peer is not None and peer.is_loopback):
            raise AddressFault(f"toward {host} only the loopback address {chosen} is known")
        return chosen

    def _configured(self, host: str) -> str | None:
        if self._networks:
            peer = address_of(host)
            if peer is not None:
                for network, own in self._networks:
                    if peer in network:
                        return str(own)
        return self._fixed
