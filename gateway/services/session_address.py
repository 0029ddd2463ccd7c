"""Which address a peer is told for media (G197, quirk 12): the one set for media, else the same as for SIP."""

from __future__ import annotations

from config.settings import MediaSettings
from gateway.networks import AddressFault, OwnAddress
from gateway.services.errors import PlayCause, PlayFailed


class MediaAddress:
    """Chooses our media address for each peer; ``own`` knows networks, the fixed address and the route."""

    def __init__(self, *, own: OwnAddress, media: MediaSettings) -> None:
        self._own = own
        self._fixed = str(media.host) if media.host is not None else None

    def for_peer(self, host: str) -> str:
        """Address to write into SDP for the peer at ``host`` (textual IP).

        Raises PlayFailed(no_address) when all that is known is one the peer cannot reach.
        """
        if self._fixed is not None:
            return self._fixed
        try:
            return self._own.toward(host)
        except AddressFault as error:
            raise PlayFailed(PlayCause.NO_ADDRESS, str(error)) from error
