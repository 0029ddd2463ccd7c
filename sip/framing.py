"""Where a message ends: the body rule for datagrams and the incremental splitter for TCP streams.

Both tolerate what devices really send (quirks 3 and 4): a Content-Length of 0 in front of a body, a length
counted in characters, line feeds alone, NUL and CRLF in front of the start line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sip.errors import ParseError

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_JUNK_BYTES = 64 * 1024

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_CONTENT_LENGTH = re.compile(rb"(?:^|\n)(?:content-length|l)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_BODY_STARTS = (b"<?xml", b"v=0")
_XML_END = re.compile(rb"</(?:Response|Notify|Query|Control)\s*>\s*", re.IGNORECASE)
_START_LINE = re.compile(rb"(?:SIP/2\.0 +[0-9]{3}|[A-Za-z0-9\-.!%*_+`'~]+ [^\r\n]+ SIP/[0-9.]+\r?\n)")
_NEXT_START = re.compile(rb"\n(?=SIP/2\.0 [0-9]{3}|[A-Z]{3,20} sips?:[^\r\n]{1,512} SIP/2\.0\r?\n)")


def parse_content_length(text: str | bytes) -> int:
    """A decimal length. Raises ParseError for anything else, a minus sign included."""
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise ParseError("no Content-Length", label="content_length")
    return int(digits)


def datagram_body(content_length: str | None, rest: bytes) -> bytes:
    """The body inside one datagram (RFC 3261 18.3 and quirk 3).

    ``rest`` is everything behind the blank line. Without a length the rest is the body. Excess bytes are
    dropped, unless the length is 0 and the rest is a document, or the cut would fall into the middle of an
    XML document that is whole in the datagram. Raises ParseError (label short_body) when bytes are missing.
    """
    if content_length is None:
        return rest
    length = parse_content_length(content_length)
    available = len(rest)
    if length == available:
        return rest
    if length > available:
        raise ParseError(f"{available} of {length} body bytes", label="short_body")
    excess = rest[length:]
    if not excess.strip(b"\r\n\t \0"):
        return rest[:length]
    if length == 0:
        return rest if rest.lstrip().startswith(_BODY_STARTS) else b""
    return rest[: length + _missing_tail(rest, length)]


def _missing_tail(data: bytes, length: int) -> int:
    """How many bytes more an XML body needs when its length was counted in characters; 0 when it is whole."""
    body = data[:length]
    if not body.lstrip().startswith(b"<") or body.rstrip(b"\r\n\t \0").endswith(b">"):
        return 0
    end = _XML_END.search(data, max(0, length - 16))
    if end is None or _NEXT_START.search(data, length, end.start()):
        return 0
    return max(0, end.end() - length)


@dataclass(frozen=True, slots=True)
class FrameFault:
    """Why a stream cannot go on: answer ``status`` to ``head`` if that can be parsed, then close."""

    status: int
    label: str
    head: bytes = b""


class _Fault(Exception):
    def __init__(self, status: int, label: str, head: bytes = b"") -> None:
        super().__init__(label)
        self.fault = FrameFault(status, label, head)


class StreamFramer:
    """Cuts one TCP stream into messages. ``feed`` bytes as they come; whole messages come out, as bytes.

    Bounded: a header block above 16 KB or a body above 1 MiB ends the stream (G029) before it is stored.
    ``fault`` is set when the stream is dead; ``junk_bytes`` counts bytes that belong to no message.
    """

    __slots__ = ("_buffer", "_good", "_need", "_scanned", "fault", "junk_bytes", "max_body", "max_header")

    def __init__(self, *, max_header: int = MAX_HEADER_BYTES, max_body: int = MAX_BODY_BYTES) -> None:
        self.max_header = max_header
        self.max_body = max_body
        self.junk_bytes = 0
        self.fault: FrameFault | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._need = 0
        self._good = False

    @property
    def pending(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, give the messages that are now whole. Look at ``fault`` afterwards."""
        if self.fault is not None:
            return []
        self._buffer += data
        messages: list[bytes] = []
        if len(self._buffer) < self._need:
            return messages
        try:
            while (message := self._next()) is not None:
                messages.append(message)
        except _Fault as error:
            self.fault = error.fault
            self._buffer.clear()
        return messages

    def _next(self) -> bytes | None:
        buffer = self._buffer
        self._skip_blank()
        if not buffer:
            return None
        if not self._good or not _START_LINE.match(buffer):
            self._require_start_line()
            if not buffer:
                return None
        end = _HEADER_END.search(buffer, max(0, self._scanned - 4))
        if end is None or end.end() > self.max_header:
            self._scanned = len(buffer)
            if len(buffer) > self.max_header:
                raise _Fault(513, "header_too_large", bytes(buffer[: self.max_header]))
            return None
        length = self._body_length(end.end())
        total = end.end() + length
        if len(buffer) < total:
            self._scanned = max(0, end.start() - 4)
            self._need = total
            return None
        message = bytes(buffer[:total])
        del buffer[:total]
        self._scanned = self._need = 0
        self._good = True
        return message

    def _skip_blank(self) -> None:
        """CRLF pings and NUL bytes between messages are swallowed (G028, quirk 4)."""
        buffer = self._buffer
        skip = 0
        while skip < len(buffer) and buffer[skip] <= 0x20:
            skip += 1
        if skip:
            del buffer[:skip]
            self._scanned = 0

    def _require_start_line(self) -> None:
        """At a message boundary: pass when a start line stands (or may yet come), else skip to one.

        Junk is bytes left over from a wrong Content-Length, so it is forgiven only behind a good message.
        """
        buffer = self._buffer
        line_end = buffer.find(b"\n")
        if line_end < 0:
            if len(buffer) > self.max_header:
                raise _Fault(513, "header_too_large")
            return
        if _START_LINE.match(buffer):
            return
        if not self._good:
            raise _Fault(400, "start_line", bytes(buffer[: self.max_header]))
        found = _NEXT_START.search(buffer)
        skip = found.end() if found else buffer.rfind(b"\n") + 1
        self.junk_bytes += skip
        del buffer[:skip]
        self._scanned = 0
        if self.junk_bytes > MAX_JUNK_BYTES:
            raise _Fault(400, "junk")
        self._skip_blank()

    def _body_length(self, head_end: int) -> int:
        head = bytes(self._buffer[:head_end])
        match = _CONTENT_LENGTH.search(head)
        if match is None:
            if head.startswith(b"SIP/2.0"):
                return self._unannounced_body(head_end)
            raise _Fault(400, "no_content_length", head)
        try:
            length = parse_content_length(match[1])
        except ParseError as error:
            raise _Fault(400, error.label, head) from None
        if length > self.max_body:
            raise _Fault(513, "body_too_large", head)
        if length == 0:
            return self._unannounced_body(head_end)
        if len(self._buffer) >= head_end + length:
            end = head_end + length + 512
            tail = _missing_tail(bytes(self._buffer[head_end:end]), length)
            return length + tail
        return length

    def _unannounced_body(self, head_end: int) -> int:
        """Length of a document that follows although the length says 0 (quirk 3); 0 when none does."""
        buffer = self._buffer
        if buffer.startswith(b"<?xml", head_end):
            end = _XML_END.search(buffer, head_end, head_end + self.max_body)
            return end.end() - head_end if end else 0
        if buffer.startswith(b"v=0", head_end):
            following = _NEXT_START.search(buffer, head_end, head_end + 65536)
            return (following.end() if following else min(len(buffer), head_end + 65536)) - head_end
        return 0
