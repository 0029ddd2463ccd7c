"""RTSP messages as bytes: requests and interleaved packets out of a byte stream, responses into one (RFC 2326). Pure.

Whatever comes in, the outcome is a message or a `Fault`, in time proportional to the bytes; all sizes are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VERSION = "RTSP/1.0"
HEAD_LIMIT = 16 * 1024
"""Bytes from the request line to the empty line."""
URI_LIMIT = 4096
BODY_LIMIT = 64 * 1024
HEADERS_LIMIT = 64

REASONS: Mapping[int, str] = {
    200: "OK",
    302: "Moved Temporarily",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Time-out",
    409: "Conflict",
    413: "Request Entity Too Large",
    414: "Request-URI Too Large",
    415: "Unsupported Media Type",
    451: "Parameter Not Understood",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    459: "Aggregate Operation Not Allowed",
    461: "Unsupported Transport",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Time-out",
    505: "RTSP Version Not Supported",
    551: "Option not supported",
}
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEAD_END = re.compile(b"\r?\n\r?\n")
_PRINTABLE = re.compile(r"[!-~\u0080-\U0010ffff]+")


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``headers`` have lower-case names; values of a repeated header are joined by commas.

    ``cseq`` is None when it is missing or no number.
    """

    method: str
    uri: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: str = VERSION

    @property
    def cseq(self) -> int | None:
        value = self.headers.get("cseq", "")
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 10 else None


@dataclass(frozen=True, slots=True)
class Interleaved:
    """One packet that came beside the requests on its ``channel`` (10.12)."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Bytes that are no request: what to answer. Nothing can be read after it."""

    status: int
    detail: str


Item = Request | Interleaved | Fault


class RequestReader:
    """Takes bytes as they come. After a `Fault` it is ``broken`` and takes no more."""

    def __init__(self) -> None:
        self.broken = False
        self._buffer = bytearray()
        self._searched = 0
        self._head: tuple[Request, int] | None = None
        """A request that waits for the rest of its body; None as request: a response to be left out."""
        self._leave_out = False

    def feed(self, data: bytes) -> list[Item]:
        """All messages completed by ``data``."""
        if self.broken:
            return []
        self._buffer += data
        items: list[Item] = []
        at = 0
        while at < len(self._buffer):
            used, item = self._take(at)
            if item is not None:
                items.append(item)
            if self.broken:
                self._buffer.clear()
                return items
            if used == 0:
                break
            at += used
        del self._buffer[:at]
        return items

    def _take(self, at: int) -> tuple[int, Item | None]:
        """Bytes used from ``at`` on (0: more are needed) and what they are."""
        buffer = self._buffer
        if self._head is not None:
            return self._body(at)
        if buffer[at] == 0x24:
            return self._packet(at)
        if buffer[at] in b"\r\n":
            return 1, None
        found = _HEAD_END.search(buffer, at + max(0, self._searched - 3), at + HEAD_LIMIT + 4)
        if found is None:
            self._searched = len(buffer) - at
            if self._searched > HEAD_LIMIT:
                return 0, self._broken(413, "the head is too long")
            return 0, None
        self._searched = 0
        text = buffer[at : found.start()].decode("utf-8", "surrogateescape")
        fault = self._read_head(text)
        return (0, self._broken(*fault)) if fault else (found.end() - at, self._bodiless())

    def _packet(self, at: int) -> tuple[int, Item | None]:
        buffer = self._buffer
        if len(buffer) < at + 4:
            return 0, None
        end = at + 4 + (buffer[at + 2] << 8 | buffer[at + 3])
        if len(buffer) < end:
            return 0, None
        return end - at, Interleaved(buffer[at + 1], bytes(buffer[at + 4 : end]))

    def _bodiless(self) -> Request | None:
        """The request whose head was just read, when it has no body."""
        if self._head is None or self._head[1]:
            return None
        request, self._head = self._head[0], None
        return None if self._left_out() else request

    def _body(self, at: int) -> tuple[int, Item | None]:
        if self._head is None or len(self._buffer) - at < self._head[1]:
            return 0, None
        (head, size), self._head = self._head, None
        body = bytes(self._buffer[at : at + size])
        return size, None if self._left_out() else Request(
            head.method, head.uri, head.headers, body, head.version
        )

    def _left_out(self) -> bool:
        left, self._leave_out = self._leave_out, False
        return left

    def _broken(self, status: int, detail: str) -> Fault:
        self.broken = True
        return Fault(status, detail)

    def _read_head(self, text: str) -> tuple[int, str] | None:
        """Set the waiting request; status and detail when the head is none."""
        lines = text.replace("\r\n", "\n").replace("\r", " ").split("\n")
        if len(lines) > HEADERS_LIMIT + 1:
            return 413, "too many headers"
        headers: dict[str, str] = {}
        name = ""
        for line in lines[1:]:
            if line[:1] in (" ", "\t") and name:  # folded (RFC 2068 4.2)
                headers[name] += " " + line.strip()
                continue
            name, colon, value = line.partition(":")
            name = name.strip().lower()
            if not colon or not _TOKEN.fullmatch(name):
                return 400, "a header without a name"
            value = value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            return 400, "no content length"
        if int(length) > BODY_LIMIT:
            return 413, "the body is too long"
        parts = lines[0].split(" ")
        if parts[0].startswith("RTSP/"):  # a response; we ask clients nothing, so nobody waits for it
            self._leave_out = True
            self._head = Request("", "", headers), int(length)
            return None
        if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _PRINTABLE.fullmatch(parts[1]):
            return 400, "no request line"
        if len(parts[1]) > URI_LIMIT:
            return 414, "the address is too long"
        self._head = Request(parts[0], parts[1], headers, b"", parts[2]), int(length)
        return None


def response(
    status: int, cseq: int | None, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> bytes:
    """One response. Line breaks in values (they are ours, or parsed from one line) would be a programming error."""
    lines = [f"{VERSION} {status} {REASONS.get(status, 'Status')}"]
    if cseq is not None:
        lines.append(f"CSeq: {cseq}")
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body
