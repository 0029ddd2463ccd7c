"""Tickets for viewers: a signed, expiring leave to watch one stream.

A ticket is ``<expires_unix>.<HMAC-SHA-256 in URL-safe Base64>``. It is made by the gateway, which knows who may
watch what, and checked by the media node, which does not; both share a secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

_LONGEST = 80


def _signature(secret: str, stream_id: str, expires_unix: int) -> str:
    message = f"view\n{stream_id}\n{expires_unix}".encode()
    digest = hmac.new(secret.encode(), message, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def sign(secret: str, stream_id: str, expires_unix: float) -> str:
    """A ticket for ``stream_id``, good until ``expires_unix`` (whole seconds, rounded down)."""
    expires = int(expires_unix)
    return f"{expires}.{_signature(secret, stream_id, expires)}"


def verify(secret: str, stream_id: str, ticket: str, now_unix: float) -> bool:
    """True when the ticket was signed for this stream and has not expired. Compares in constant time."""
    if len(ticket) > _LONGEST or not ticket.isascii():
        return False
    expires_text, dot, signature = ticket.partition(".")
    if not dot or not expires_text.isdigit():
        return False
    expires = int(expires_text)
    # The canonical spelling is compared too: "007" must not pass for "7".
    good = hmac.compare_digest(signature, _signature(secret, stream_id, expires))
    return good and expires_text == str(expires) and now_unix < expires
