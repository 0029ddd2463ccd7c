"""Why a picture cannot be had or a command failed: one exception per task, its cause knows the HTTP and SIP status."""

from __future__ import annotations

from enum import StrEnum

from gateway.errors import GatewayError


class PlayCause(StrEnum):
    """Everything that can keep a picture away; the value is the metric label and the API's error code."""

    NOT_FOUND = "not_found"
    DEVICE_OFFLINE = "device_offline"
    BUSY = "busy"
    REJECTED = "rejected"
    INVITE_TIMEOUT = "invite_timeout"
    SDP_NOT_ACCEPTED = "sdp_not_accepted"
    NO_STREAM = "no_stream"
    NO_PICTURE = "no_picture"
    MEDIA_MISMATCH = "media_mismatch"
    UNSUPPORTED = "unsupported"
    NO_PORT = "no_port"
    NO_SSRC = "no_ssrc"
    NO_ADDRESS = "no_address"
    TRANSCODERS_BUSY = "transcoders_busy"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    STORAGE_TIMEOUT = "storage_timeout"
    CACHE_FULL = "cache_full"
    NODE_DOWN = "node_down"
    CANCELLED = "cancelled"


_HTTP_STATUS: dict[PlayCause, int] = {
    PlayCause.NOT_FOUND: 404,
    PlayCause.DEVICE_OFFLINE: 409,
    PlayCause.BUSY: 409,
    PlayCause.REJECTED: 409,
    PlayCause.INVITE_TIMEOUT: 504,
    PlayCause.SDP_NOT_ACCEPTED: 409,
    PlayCause.NO_STREAM: 504,
    PlayCause.NO_PICTURE: 504,
    PlayCause.MEDIA_MISMATCH: 409,
    PlayCause.UNSUPPORTED: 406,
    PlayCause.NO_PORT: 503,
    PlayCause.NO_SSRC: 503,
    PlayCause.NO_ADDRESS: 503,
    PlayCause.TRANSCODERS_BUSY: 503,
    PlayCause.STORAGE_UNAVAILABLE: 503,
    PlayCause.STORAGE_TIMEOUT: 504,
    PlayCause.CACHE_FULL: 503,
    PlayCause.NODE_DOWN: 503,
    PlayCause.CANCELLED: 503,
}

# Toward an upper platform: GB/T 28181-2022 annex G note 17 gives 488 and 486, the rest follows RFC 3261 21.
_SIP_STATUS: dict[PlayCause, int] = {
    PlayCause.NOT_FOUND: 404,
    PlayCause.DEVICE_OFFLINE: 480,
    PlayCause.BUSY: 486,
    PlayCause.REJECTED: 480,
    PlayCause.INVITE_TIMEOUT: 408,
    PlayCause.SDP_NOT_ACCEPTED: 488,
    PlayCause.NO_STREAM: 504,
    PlayCause.NO_PICTURE: 504,
    PlayCause.MEDIA_MISMATCH: 488,
    PlayCause.UNSUPPORTED: 488,
    PlayCause.NO_PORT: 486,
    PlayCause.NO_SSRC: 486,
    PlayCause.NO_ADDRESS: 500,
    PlayCause.TRANSCODERS_BUSY: 486,
    PlayCause.STORAGE_UNAVAILABLE: 503,
    PlayCause.STORAGE_TIMEOUT: 504,
    PlayCause.CACHE_FULL: 486,
    PlayCause.NODE_DOWN: 503,
    PlayCause.CANCELLED: 487,
}


class PlayFailed(GatewayError):
    """No picture: ``cause`` (a PlayCause) is the label, ``status`` the HTTP status, ``sip_status`` the one for uppers.

    ``device_status`` is the SIP status the device refused with, 0 when it sent none. ``open_streams`` is how
    many streams of this device were open at that moment (for "busy" messages, quirk 34). ``other_way`` says
    that another transport or form of the offer may succeed.
    """

    cause: PlayCause

    def __init__(
        self,
        cause: PlayCause,
        detail: str,
        *,
        device_status: int = 0,
        open_streams: int = 0,
        other_way: bool = False,
    ) -> None:
        super().__init__(f"{cause.value}: {detail}")
        self.cause = cause
        self.status = _HTTP_STATUS[cause]
        self.detail = detail
        self.device_status = device_status
        self.open_streams = open_streams
        self.other_way = other_way

    @property
    def sip_status(self) -> int:
        """SIP status for an upper platform; a device's own refusal is passed on (GB/T 28181-2022 9.2.3)."""
        if (
            self.cause in (PlayCause.REJECTED, PlayCause.BUSY)
            and 400 <= self.device_status <= 699
            and self.device_status not in (401, 407)
        ):
            return self.device_status
        if self.cause is PlayCause.SDP_NOT_ACCEPTED and not self.device_status:
            return 408  # the device never answered; that our offer was to blame is a guess (quirk 43)
        return _SIP_STATUS[self.cause]


class ControlCause(StrEnum):
    """Why a command did not reach its goal."""

    NOT_FOUND = "not_found"
    DEVICE_OFFLINE = "device_offline"
    REJECTED = "rejected"
    NO_ANSWER = "no_answer"
    NOT_MOVABLE = "not_movable"
    TAKEN = "taken"
    NOT_SUPPORTED = "not_supported"


_CONTROL_STATUS: dict[ControlCause, int] = {
    ControlCause.NOT_FOUND: 404,
    ControlCause.DEVICE_OFFLINE: 409,
    ControlCause.REJECTED: 409,
    ControlCause.NO_ANSWER: 504,
    ControlCause.NOT_MOVABLE: 409,
    ControlCause.TAKEN: 409,
    ControlCause.NOT_SUPPORTED: 409,
}


class ControlFailed(GatewayError):
    """A device command failed; ``device_status`` is the SIP status of the device's answer, 0 when none came."""

    cause: ControlCause

    def __init__(
        self, cause: ControlCause, detail: str, *, device_status: int = 0, device_response: str = ""
    ) -> None:
        super().__init__(f"{cause.value}: {detail}")
        self.cause = cause
        self.device_response = device_response
        self.status = _CONTROL_STATUS[cause]
        self.detail = detail
        self.device_status = device_status
