"""Which address a peer is told for media: by network, then the fixed ones, then the route to it (G197, quirk 12)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from config.settings import MediaSettings, SipSettings
from gateway.services.errors import PlayCause, PlayFailed


class MediaAddress:
    """Chooses our media address for each peer.

    ``local_address`` gives the address under which the kernel's route reaches a host (the SIP endpoint knows).
    """

    def __init__(
        self, *, sip: SipSettings, media: MediaSettings, local_address: Callable[[str], str]
    ) -> None:
        self._networks = sorted(
            sip.advertise_by_network.items(), key=lambda item: item[0].prefixlen, reverse=True
        )
        self._fixed = media.host or sip.advertise_host
        self._allow_loopback = sip.allow_loopback
        self._local_address = local_address

    def for_peer(self, host: str) -> str:
        """Address to write into SDP for the peer at ``host`` (textual IP).

        Raises PlayFailed(no_address) when all that is known is ``0.0.0.0`` or a loopback address the peer cannot reach.
        """
        peer = _address(host)
        chosen = next(
            (str(own) for network, own in self._networks if peer is not None and peer in network), None
        )
        if chosen is None:
            chosen = str(self._fixed) if self._fixed is not None else self._local_address(host)
        own = _address(chosen)
        if own is None or own.is_unspecified:
            raise PlayFailed(PlayCause.NO_ADDRESS, f"no own address is known toward {host}")
        if own.is_loopback and not self._allow_loopback:
            raise PlayFailed(
                PlayCause.NO_ADDRESS, f"toward {host} only the loopback address {chosen} is known"
            )
        return chosen


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
