"""Two families of errors: we misused the protocol (LocalError), or the peer broke it (RemoteError).

A RemoteError knows the SIP status that answers it, the reason phrase and a metric label out of a small fixed
set, so nobody between the fact and the answer has to guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sip.message import Response

REASON_PHRASES: dict[int, str] = {
    100: "Trying",
    180: "Ringing",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    423: "Interval Too Brief",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    603: "Decline",
}
"""Status code to default reason phrase (RFC 3261 21, RFC 6665 for 489)."""


def reason_phrase(status: int) -> str:
    """The phrase of a status code; the phrase of its class (x00) when the code is not one of ours."""
    return REASON_PHRASES.get(status) or REASON_PHRASES.get(status // 100 * 100, "Unknown")


class SipError(Exception):
    """Root of both families."""


class LocalError(SipError):
    """We asked for something that the protocol does not allow; a fault in the calling code."""


class RemoteError(SipError):
    """The peer, or the way to it, broke the exchange.

    ``status`` is the SIP status that tells it to the peer (or to an upper platform), ``label`` a bounded word
    for metrics. The text is for logs and never holds credentials.
    """

    status: int = 400
    label: str = "remote"

    def __init__(
        self, text: str = "", *, status: int | None = None, reason: str = "", label: str | None = None
    ) -> None:
        if status is not None:
            self.status = status
        if label is not None:
            self.label = label
        self.reason = reason or reason_phrase(self.status)
        super().__init__(text or f"{self.status} {self.reason}")


class ParseError(RemoteError):
    """Bytes that are no message, header or body as its grammar says."""

    label = "malformed"


class TransactionTimeout(RemoteError):
    """No final answer in time. ``provisional``: a 1xx came, so the peer is alive (quirk 43)."""

    status = 408
    label = "timeout"

    def __init__(self, text: str = "", *, provisional: bool = False) -> None:
        super().__init__(text)
        self.provisional = provisional


class TransportFailed(RemoteError):
    """The message could not be sent, or its connection closed before an answer came."""

    status = 503
    label = "transport"


class Rejected(RemoteError):
    """The peer answered with a final status that is no success; ``response`` is that answer."""

    label = "rejected"

    def __init__(self, response: Response) -> None:
        super().__init__(
            f"rejected with {response.status} {response.reason}",
            status=response.status,
            reason=response.reason,
        )
        self.response = response


class AckMissing(RemoteError):
    """Our 200 to an INVITE was never acknowledged within 64*T1; BYE was sent (RFC 3261 13.3.1.4)."""

    status = 408
    label = "ack_missing"
