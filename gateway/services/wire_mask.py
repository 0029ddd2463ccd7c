"""Takes the proofs of passwords out of SIP bytes without changing a length, so that captures stay consistent (G282)."""

from __future__ import annotations

import re

_HEADER = re.compile(
    rb"^(?:(?:proxy-)?authorization|(?:www|proxy)-authenticate|(?:proxy-)?authentication-info|note)[ \t]*:"
    rb"[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*",
    re.IGNORECASE | re.MULTILINE,
)
_PROOF = re.compile(
    rb"(\b(?:response|cnonce|nonce|nextnonce|rspauth|opaque|digest)[ \t]*=[ \t]*)(\"[^\"\r\n]*\"|[^\",;\s]+)",
    re.IGNORECASE,
)
_BASIC = re.compile(rb"(:[ \t]*(?:basic|bearer)[ \t]+)([^\s,]+)", re.IGNORECASE)
_ELEMENT = re.compile(
    rb"(<([\w:]{0,40}(?:password|passwd|pwd|secret|token)\w{0,40})\b[^<>]{0,200}>)([^<]*)(?=</\2)",
    re.IGNORECASE,
)
_URL = re.compile(rb"(\b[a-z][a-z0-9+]{0,15}://[^\s/:@<>\"]{0,128}:)([^\s/@<>\"]{1,256})(?=@)", re.IGNORECASE)


def masked(data: bytes) -> bytes:
    """The same number of bytes, with stars for digest values, for passwords in XML bodies and in URLs."""
    head, blank, body = data.partition(b"\r\n\r\n")
    head = _HEADER.sub(_header, head)
    if body:
        body = _ELEMENT.sub(lambda found: found[1] + b"*" * len(found[3]), body)
        body = _URL.sub(_second, body)
    return head + blank + body


def _header(found: re.Match[bytes]) -> bytes:
    return _BASIC.sub(_second, _PROOF.sub(_quoted, found[0]))


def _second(found: re.Match[bytes]) -> bytes:
    return found[1] + b"*" * len(found[2])


def _quoted(found: re.Match[bytes]) -> bytes:
    value = found[2]
    if value.startswith(b'"'):
        return found[1] + b'"' + b"*" * (len(value) - 2) + b'"'
    return _second(found)
