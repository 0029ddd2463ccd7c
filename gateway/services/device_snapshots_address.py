"""Which address of our HTTP server a device is told for its uploads: the one that is set, else that of the route to it."""

from __future__ import annotations

from collections.abc import Callable

from config.settings import SnapshotSettings
from gateway.errors import GatewayError
from gateway.model import Device
from gateway.networks import AddressFault, OwnAddress, address_of


class NoUploadAddress(GatewayError):
    """No address is known under which the device could reach our HTTP server; the message says what to set."""

    cause = "no_address"
    status = 503


class UploadAddress:
    """Makes the start of upload URLs. ``bound`` is the address the HTTP server listens on, ``port`` its port."""

    def __init__(
        self, *, settings: SnapshotSettings, own: OwnAddress, bound: str, port: Callable[[], int]
    ) -> None:
        self._fixed = settings.upload_url.rstrip("/") if settings.upload_url is not None else None
        self._own, self._bound, self._port = own, bound, port

    def toward(self, device: Device) -> str:
        """``http://host:port`` without a path (but for a path in the setting). Raises NoUploadAddress."""
        if self._fixed is not None:
            return self._fixed
        peer = device.flow.host if device.flow is not None else ""
        listening = address_of(self._bound)
        if listening is None or listening.is_unspecified:
            try:
                host = self._own.toward(peer)
            except AddressFault as error:
                raise NoUploadAddress(f"{error}; set snapshots.upload_url") from error
        else:
            host = self._bound
            far = address_of(peer)
            if listening.is_loopback and not (far is not None and far.is_loopback):
                raise NoUploadAddress(
                    f"http.host is {self._bound}, which {peer or 'the device'} cannot reach; set snapshots.upload_url"
                )
        return f"http://[{host}]:{self._port()}" if ":" in host else f"http://{host}:{self._port()}"
