"""Requests and responses, parsed lazily: one split into header lines, everything else when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sip.errors import ParseError, reason_phrase
from sip.framing import MAX_HEADER_BYTES, datagram_body
from sip.headers import TOKEN, CSeq, Headers, Via, checked
from sip.uri import NameAddr, SipUri, split_outside

METHODS = frozenset(
    (
        "INVITE",
        "ACK",
        "CANCEL",
        "BYE",
        "OPTIONS",
        "MESSAGE",
        "INFO",
        "REGISTER",
        "SUBSCRIBE",
        "NOTIFY",
        "UPDATE",
        "PRACK",
        "REFER",
        "PUBLISH",
    )
)
_MAX_EXPIRES = 0xFFFFFFFF
_T = TypeVar("_T")


class Message:
    """What requests and responses share: headers, body, charset of the header block, and typed views.

    The typed properties raise ParseError when the header is missing or malformed; ``contact``, ``expires`` and
    ``max_forwards`` are None when it is absent.
    """

    __slots__ = ("_memo", "body", "charset", "headers")

    def __init__(self, headers: Headers | Iterable[tuple[str, str]] = (), body: bytes = b"") -> None:
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body
        self.charset = "utf-8"
        self._memo: dict[str, Any] | None = None

    def _view(self, key: str, read: Callable[[str], _T]) -> _T:
        memo = self._memo
        if memo is None:
            memo = self._memo = {}
        text = self.headers.index.get(key)
        if text is None:
            raise ParseError(f"no {key} header", label="missing_header")
        known = memo.get(key)
        if known is not None and known[0] == text:
            return known[1]  # type: ignore[no-any-return]
        value = read(text)
        memo[key] = (text, value)
        return value

    @property
    def via(self) -> Via:
        """The top Via."""
        return self._view("via", lambda text: Via.parse(split_outside(text, ",")[0]))

    @property
    def from_(self) -> NameAddr:
        return self._view("from", NameAddr.parse)

    @property
    def to(self) -> NameAddr:
        return self._view("to", NameAddr.parse)

    @property
    def cseq(self) -> CSeq:
        return self._view("cseq", CSeq.parse)

    @property
    def call_id(self) -> str:
        return self._view("call-id", str)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact; None when absent or ``*``."""
        text = self.headers.index.get("contact")
        if text is None or text == "*":
            return None
        return self._view("contact", lambda value: NameAddr.parse(split_outside(value, ",")[0]))

    @property
    def contacts(self) -> list[NameAddr]:
        """All Contact values, lists cut. ``*`` is left out (see the header itself)."""
        parts = [part for line in self.headers.get_all("contact") for part in split_outside(line, ",")]
        return [NameAddr.parse(part) for part in parts if part.strip() not in ("", "*")]

    @property
    def expires(self) -> int | None:
        """Seconds from the Expires header; None when absent or no number. Huge values become 2**32-1."""
        return _delta_seconds(self.headers.index.get("expires"))

    @property
    def max_forwards(self) -> int | None:
        return _delta_seconds(self.headers.index.get("max-forwards"))

    @property
    def content_type(self) -> str:
        """Media type in lower case without parameters, "" when absent."""
        text = self.headers.index.get("content-type", "")
        return text.partition(";")[0].strip().lower()

    def _encode(self, start_line: str) -> bytes:
        lines = [start_line]
        placed = False
        length = str(len(self.body))
        for name, value in self.headers.items():
            if name.lower() in ("content-length", "l"):
                if placed:
                    continue
                value, placed = length, True
            lines.append(f"{name}: {value}")
        if not placed:
            lines.append(f"Content-Length: {length}")
        return "\r\n".join(lines).encode(self.charset, "replace") + b"\r\n\r\n" + self.body


class Request(Message):
    """``method uri`` with headers and a body. ``uri`` is the Request-URI as text."""

    __slots__ = ("method", "uri")

    def __init__(
        self,
        method: str,
        uri: str,
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        super().__init__(headers, body)
        self.method = method
        self.uri = checked(uri)

    @property
    def request_uri(self) -> SipUri:
        """The Request-URI parsed. Raises ParseError."""
        return SipUri.parse(self.uri)

    def to_bytes(self) -> bytes:
        """The wire form; Content-Length is computed and goes last when the headers have none."""
        return self._encode(f"{self.method} {self.uri} SIP/2.0")

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.uri}>"


class Response(Message):
    """``status reason`` with headers and a body."""

    __slots__ = ("reason", "status")

    def __init__(
        self,
        status: int,
        reason: str = "",
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        super().__init__(headers, body)
        self.status = status
        self.reason = checked(reason) or reason_phrase(status)

    def to_bytes(self) -> bytes:
        """The wire form; Content-Length is computed and goes last when the headers have none."""
        return self._encode(f"SIP/2.0 {self.status} {self.reason}")

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>"


def _delta_seconds(text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.partition(";")[0].strip()
    if not digits.isascii() or not digits.isdigit():
        return None
    return _MAX_EXPIRES if len(digits) > 10 else min(int(digits), _MAX_EXPIRES)


_LINE = re.compile(r"\r\n|\n|\r")
_FOLD = re.compile(r"(?:\r\n|\n|\r)[ \t]+")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_RESPONSE_LINE = re.compile(r"SIP/2\.0[ \t]+([0-9]{3})(?:[ \t](.*))?$", re.DOTALL | re.IGNORECASE)
_BLANKS = bytes(range(0x21))


def parse(data: bytes) -> Request | Response:
    """One message out of one datagram or one framed piece of a stream.

    Raises ParseError with a bounded label; status 505 for another SIP version.
    """
    offset = 0 if data[:1] > b" " else len(data) - len(data.lstrip(_BLANKS))
    end = data.find(b"\r\n\r\n", offset)
    if end < 0:
        return _parse_irregular(data, offset)
    text, charset = decode_head(data[offset:end])
    lines = text.split("\n")
    headers = Headers.of_lines(lines[1:])
    if headers is None or text.count("\r") not in (len(lines) - 1, 0):
        return _parse_irregular(data, offset)
    return _message(lines[0].rstrip("\r"), headers, charset, data[end + 4 :])


def _parse_irregular(data: bytes, offset: int) -> Request | Response:
    """Folded lines (RFC 3261 7.3.1), line feeds or carriage returns alone, no blank line at the end."""
    text, body_start, charset = split_head(data, offset)
    lines = _LINE.split(_FOLD.sub(" ", text))
    headers = Headers.of_lines([line.strip() for line in lines[1:] if line.strip()])
    if headers is None:
        raise ParseError("header lines cannot be read", label="header")
    return _message(lines[0], headers, charset, data[body_start:] if body_start else b"")


def _message(start: str, headers: Headers, charset: str, rest: bytes) -> Request | Response:
    message = _response(start) if start[:8].upper() == "SIP/2.0 " else _request(start)
    message.headers = headers
    message.charset = charset
    message.body = datagram_body(headers.index.get("content-length"), rest)
    return message


def split_head(data: bytes, offset: int = 0) -> tuple[str, int, str]:
    """Header block as text, start of the body (0 when no blank line came), and the charset of the block."""
    match = _BLANK_LINE.search(data, offset)
    end, body_start = (match.start(), match.end()) if match else (len(data), 0)
    text, charset = decode_head(data[offset:end])
    return text, body_start, charset


def decode_head(head: bytes) -> tuple[str, str]:
    """A header block as text and its charset. Raises ParseError (513) when it is above 16 KB.

    Bytes that are no UTF-8 are read as GB18030 when that is lossless, else as Latin-1, so that a header can
    be repeated in an answer byte by byte.
    """
    if len(head) > MAX_HEADER_BYTES:
        raise ParseError("header block too large", status=513, label="header_too_large")
    try:
        return head.decode(), "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        text = head.decode("gb18030")
        if text.encode("gb18030") == head:
            return text, "gb18030"
    except UnicodeError:
        pass
    return head.decode("latin-1"), "latin-1"


def _request(line: str) -> Request:
    method, _, rest = line.partition(" ")
    uri, _, version = rest.rpartition(" ")
    if version != "SIP/2.0":
        version = version.upper()
        if version != "SIP/2.0":
            if version.startswith("SIP/"):
                raise ParseError("another SIP version", status=505, label="version")
            raise ParseError("no start line", label="start_line")
    if not uri or " " in uri or "\t" in uri:
        raise ParseError("blank in the Request-URI", label="start_line")
    if method not in METHODS and not TOKEN.fullmatch(method):
        raise ParseError("no method", label="start_line")
    request = Request.__new__(Request)
    request.method = method
    request.uri = uri
    request._memo = None
    return request


def _response(line: str) -> Response:
    match = _RESPONSE_LINE.match(line)
    if match is None or not 100 <= int(match[1]) <= 699:
        raise ParseError("no status line", label="start_line")
    response = Response.__new__(Response)
    response.status = int(match[1])
    response.reason = (match[2] or "").strip()
    response._memo = None
    return response
