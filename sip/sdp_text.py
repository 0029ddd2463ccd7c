"""SDP as GB/T 28181 uses it: a tolerant line reader, an exact writer, with ``y=`` and ``f=`` (2022 annex G).

Own code, because strict libraries refuse ``y=`` and ``f=``; offers and answers are made and judged in :mod:`sip.sdp`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sip.errors import ParseError, RemoteError
from sip.f_field import MediaFormat, parse_format
from sip.ids import format_ssrc, parse_ssrc

CONTENT_TYPE = "Application/SDP"
MAX_BYTES = 16_384
MAX_MEDIA = 8
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_RTPMAP = re.compile(r"(\d{1,3})\s+([A-Za-z0-9_.+\-]{1,32})(?:/(\d{1,6}))?(?:/(\d{1,2}))?")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}", re.ASCII)


class SdpUnacceptable(RemoteError):
    """The peer's SDP is readable, but cannot be met (annex G note 17): 488."""

    status = 488
    label = "sdp"


@dataclass(frozen=True, slots=True)
class RtpMap:
    """``a=rtpmap``: encoding in upper case, clock in Hz, channels for sound (0: not said)."""

    encoding: str
    clock_rate_hz: int = 90_000
    channels: int = 0

    def __str__(self) -> str:
        return f"{self.encoding}/{self.clock_rate_hz}" + (f"/{self.channels}" if self.channels else "")


@dataclass(slots=True)
class Media:
    """One ``m=`` section. ``attributes`` are the other ``a=`` lines in order (value "" for a flag)."""

    kind: str = "video"
    port: int = 0
    protocol: str = "RTP/AVP"
    payloads: list[int] = field(default_factory=list)
    rtpmaps: dict[int, RtpMap] = field(default_factory=dict)
    fmtp: dict[int, str] = field(default_factory=dict)
    direction: str = ""
    setup: str = ""
    connection: str = ""
    attributes: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""
    """Address of an own ``c=`` line of the section."""

    @property
    def tcp(self) -> bool:
        return self.protocol.upper().startswith("TCP")

    def attribute(self, name: str) -> str | None:
        """Value of the first attribute of that name; None when absent."""
        return next((value for key, value in self.attributes if key.lower() == name), None)

    def lines(self) -> Iterator[str]:
        payloads = " ".join(map(str, self.payloads))
        yield f"m={self.kind} {self.port} {self.protocol} {payloads}".rstrip()
        if self.address:
            yield f"c=IN {_family(self.address)} {self.address}"
        if self.direction:
            yield f"a={self.direction}"
        for number in self.payloads:
            if number in self.rtpmaps:
                yield f"a=rtpmap:{number} {self.rtpmaps[number]}"
            if number in self.fmtp:
                yield f"a=fmtp:{number} {self.fmtp[number]}"
        for name, value in self.attributes:
            yield f"a={name}:{value}" if value else f"a={name}"
        if self.setup:
            yield f"a=setup:{self.setup}"
        if self.connection:
            yield f"a=connection:{self.connection}"


@dataclass(slots=True)
class SessionDescription:
    """A session description. ``address`` is the ``c=`` (else ``o=``) address, empty where none was readable.

    ``time`` is start and stop in UNIX seconds (0, 0 for live). ``ssrc`` None: no ``y=`` line, or an unreadable
    one (then ``ssrc_text`` still holds it). ``other`` keeps lines of letters that are not known.
    """

    origin_user: str = "-"
    address: str = ""
    origin_address: str = ""
    name: str = "Play"
    uri: str = ""
    time: tuple[int, int] = (0, 0)
    media: list[Media] = field(default_factory=list)
    ssrc: int | None = None
    ssrc_text: str = ""
    format: MediaFormat | None = None
    format_text: str = ""
    session_id: str = "0"
    session_version: str = "0"
    attributes: list[tuple[str, str]] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def first(self, kind: str = "video") -> Media | None:
        """The first section of a kind, in any letter case."""
        return next((media for media in self.media if media.kind.lower() == kind), None)

    def to_bytes(self) -> bytes:
        """v, o, s, u, c, t, m, a, y, f: ``y=`` and ``f=`` are the last lines (G189)."""
        family = _family(self.address)
        lines = [
            "v=0",
            f"o={self.origin_user} {self.session_id} {self.session_version} IN {family} "
            f"{self.origin_address or self.address}",
            f"s={self.name}",
        ]
        if self.uri:
            lines.append(f"u={self.uri}")
        lines.append(f"c=IN {family} {self.address}")
        lines.append(f"t={self.time[0]} {self.time[1]}")
        lines.extend(f"a={name}:{value}" if value else f"a={name}" for name, value in self.attributes)
        for media in self.media:
            lines.extend(media.lines())
        if self.ssrc is not None:
            lines.append(f"y={format_ssrc(self.ssrc)}")
        if self.format_text:
            lines.append(f"f={self.format_text}")
        return ("\r\n".join(lines) + "\r\n").encode("utf-8", "replace")


def _family(address: str) -> str:
    return "IP6" if ":" in address else "IP4"


def parse(data: bytes) -> SessionDescription:
    """Read an SDP of the field: any order, blanks after ``=``, LF alone, NUL bytes, repeated or missing lines.

    Raises ParseError (label sdp) when it is too long or holds no SDP line at all.
    """
    if len(data) > MAX_BYTES:
        raise ParseError("SDP too long", label="sdp")
    session = SessionDescription(name="", origin_user="")
    media: Media | None = None
    lines = 0
    for line in re.split(r"[\r\n]+", _decoded(data)):
        # A value ends at the first NUL: an old stack pads its addresses with them (quirk 42).
        letter, separator, value = line.strip().partition("=")
        if not separator or len(letter.strip("\0 ")) != 1:
            continue
        lines += 1
        letter, value = letter.strip("\0 ").lower(), value.split("\0", 1)[0].strip()
        if letter == "m":
            if len(session.media) < MAX_MEDIA:
                media = _media(value)
                session.media.append(media)
        elif letter == "a":
            _attribute(session, media, value)
        elif letter == "c":
            _connection(session, media, value)
        else:
            _session_line(session, letter, value)
    if not lines:
        raise ParseError("no SDP", label="sdp")
    session.address = session.address or session.origin_address
    return session


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("gb18030", "replace")


def _session_line(session: SessionDescription, letter: str, value: str) -> None:
    if letter == "o":
        parts = value.split()
        session.origin_user = parts[0] if parts else ""
        if len(parts) >= 3:
            session.session_id, session.session_version = parts[1], parts[2]
        session.origin_address = _address(parts[5]) if len(parts) > 5 else ""
    elif letter == "s":
        session.name = value
    elif letter == "u":
        session.uri = value
    elif letter == "t":
        session.time = _times(value)
    elif letter == "y":
        if not session.ssrc_text:
            session.ssrc_text, session.ssrc = value, parse_ssrc(value)
    elif letter == "f":
        session.format_text, session.format = value, parse_format(value)
    elif letter != "v" and len(session.other) < 50:
        session.other.append(f"{letter}={value}")


def _connection(session: SessionDescription, media: Media | None, value: str) -> None:
    parts = value.split()
    address = _address(parts[2]) if len(parts) > 2 else ""
    if media is not None:
        media.address = address
        session.address = session.address or address
    elif address:
        session.address = address


def _address(text: str) -> str:
    """An address without a port or TTL that does not belong there; empty when it is none."""
    text = text.split("/", 1)[0]
    if text.count(":") == 1:
        text = text.partition(":")[0]
    if ":" in text:
        return text if re.fullmatch(r"[0-9A-Fa-f:.]{2,45}", text) else ""
    match = _IPV4.fullmatch(text)
    if match is not None:
        return text if all(int(part) < 256 for part in text.split(".")) else ""
    return (
        text if re.fullmatch(r"[A-Za-z0-9.\-]{1,253}", text) and not text.replace(".", "").isdecimal() else ""
    )


def _times(value: str) -> tuple[int, int]:
    numbers = [
        int(part) if part.isascii() and part.isdecimal() and len(part) < 12 else 0 for part in value.split()
    ]
    return (numbers[0], numbers[1]) if len(numbers) >= 2 else (numbers[0] if numbers else 0, 0)


def _media(value: str) -> Media:
    parts = value.split()
    port = parts[1].partition("/")[0] if len(parts) > 1 else ""
    payloads = [int(part) for part in parts[3:50] if part.isascii() and part.isdecimal() and len(part) < 4]
    return Media(
        kind=parts[0].lower() if parts else "",
        port=int(port) if port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65536 else 0,
        protocol=parts[2] if len(parts) > 2 else "",
        payloads=[number for number in payloads if number < 128],
    )


def _attribute(session: SessionDescription, media: Media | None, value: str) -> None:
    name, _, text = value.partition(":")
    name, text = name.strip().lower(), text.strip()
    if media is None:
        if len(session.attributes) < 50:
            session.attributes.append((name, text))
    elif name in DIRECTIONS:
        media.direction = name
    elif name == "setup":
        media.setup = text.lower()
    elif name == "connection":
        media.connection = text.lower()
    elif name == "rtpmap":
        match = _RTPMAP.match(text)
        if match and int(match[1]) < 128:
            clock = int(match[3]) if match[3] else 90_000
            media.rtpmaps[int(match[1])] = RtpMap(match[2].upper(), clock, int(match[4] or 0))
    elif name == "fmtp":
        number, _, parameters = text.partition(" ")
        if number.isascii() and number.isdecimal() and len(number) < 4:
            media.fmtp[int(number)] = parameters.strip()
    elif len(media.attributes) < 50:
        media.attributes.append((name, text))
