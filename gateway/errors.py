"""Why something a user or a peer asked for was not possible. Each class knows its metric label and HTTP status."""

from __future__ import annotations


class GatewayError(Exception):
    """Base. ``cause`` is a bounded label, ``status`` the HTTP status of the answer."""

    cause = "failed"
    status = 500
    device_response = ""
    """What the device said last, for errors about a device: its SIP answer, and the last Result it gave."""


class NotFound(GatewayError):
    """No such device, channel or platform."""

    cause = "not_found"
    status = 404


class DeviceIsOffline(GatewayError):
    """The device is not registered now, so nothing can be sent to it."""

    cause = "device_offline"
    status = 409


class NotSupported(GatewayError):
    """The peer's edition does not know the command (G049), or it said so."""

    cause = "not_supported"
    status = 409


class QueryTimedOut(GatewayError):
    """The device took the question (200) but sent no answer in time (G131)."""

    cause = "no_answer"
    status = 504


class QueryRefused(GatewayError):
    """The device refused the MESSAGE itself; ``sip_status`` is its answer, 408 when there was none."""

    cause = "refused"
    status = 502

    def __init__(self, message: str, sip_status: int) -> None:
        super().__init__(message)
        self.sip_status = sip_status


class DeviceSilent(QueryRefused):
    """The device did not even answer the MESSAGE."""

    cause = "no_answer"
    status = 504

    def __init__(self, message: str) -> None:
        super().__init__(message, 408)
