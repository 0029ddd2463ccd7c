"""Header fields: the ordered list of a message, and the frozen values Via and CSeq.

Names compare without case and compact forms are the same name (RFC 3261 7.3). A parsed list is only split at
the colons; values stay text until somebody asks for more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sip.errors import LocalError, ParseError
from sip.uri import join_host_port, parse_params, parse_port

COMPACT_NAMES: dict[str, str] = {
    "v": "via",
    "f": "from",
    "t": "to",
    "m": "contact",
    "i": "call-id",
    "l": "content-length",
    "c": "content-type",
    "e": "content-encoding",
    "s": "subject",
    "k": "supported",
    "o": "event",
    "u": "allow-events",
    "r": "refer-to",
    "b": "referred-by",
    "x": "session-expires",
    "a": "accept-contact",
    "j": "reject-contact",
    "d": "request-disposition",
    "y": "identity",
    "n": "identity-info",
}

_USUAL_NAMES = (
    "Via From To Contact Call-ID CSeq Max-Forwards Content-Type Content-Length User-Agent Server Expires "
    "Authorization WWW-Authenticate Event Subject Subscription-State Route Record-Route Allow Accept "
    "Date X-GB-Ver Supported Require Retry-After Min-Expires Monitor-User-Identity X-RoutePath"
)
_KEYS: dict[str, str] = {name: name.lower() for name in _USUAL_NAMES.split()}
_KEYS |= {name.lower(): name.lower() for name in _USUAL_NAMES.split()}
_KEYS |= COMPACT_NAMES

TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")


def key_of(name: str) -> str:
    """The one spelling under which a header is found: lower case, compact forms expanded."""
    known = _KEYS.get(name)
    if known is None:
        lower = name.strip().lower()
        known = COMPACT_NAMES.get(lower, lower)
    return known


def checked(value: str) -> str:
    """The value, or LocalError when it would break out of its header line."""
    if "\r" in value or "\n" in value:
        raise LocalError("line break in a header value")
    return value


class Headers:
    """Ordered header fields with repeated names. Built from (name, value) pairs or from wire lines."""

    __slots__ = ("_first", "_items", "_lines", "_more")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: list[tuple[str, str]] | None = list(items)
        self._lines: list[str] = []
        self._first: dict[str, str] | None = None
        self._more: dict[str, list[str]] = {}

    @classmethod
    def of_lines(cls, lines: list[str]) -> Headers | None:
        """From wire lines ``Name: value``; a line without a colon is no header and is left out.

        None when there are folded or blank lines among them, which have to be dealt with first.
        """
        self = cls.__new__(cls)
        self._items = None
        self._lines = lines
        first: dict[str, str] = {}
        more: dict[str, list[str]] = {}
        keys = _KEYS
        for line in lines:
            name, colon, value = line.partition(":")
            key = keys.get(name)
            if key is None:
                if name[:1].isspace() or not (name or colon):
                    return None
                if not (name and colon):
                    continue
                key = key_of(name)
            if key in first:
                more.setdefault(key, [first[key]]).append(value.strip())
            else:
                first[key] = value.strip()
        self._first = first
        self._more = more
        return self

    @property
    def index(self) -> dict[str, str]:
        """Key (see :func:`key_of`) to the first value of that name. To read, not to change."""
        if self._first is None:
            self._reindex()
        return self._first  # type: ignore[return-value]

    def _reindex(self) -> None:
        first: dict[str, str] = {}
        more: dict[str, list[str]] = {}
        for name, value in self.items():
            key = key_of(name)
            if key in first:
                more.setdefault(key, [first[key]]).append(value)
            else:
                first[key] = value
        self._first, self._more = first, more

    def get(self, name: str, default: str = "") -> str:
        """First value of a name, stripped; the default when it is absent."""
        return self.index.get(key_of(name), default)

    def get_all(self, name: str) -> list[str]:
        """All values of a name, one per header line, in order (lists inside a line are not cut)."""
        index = self.index
        key = key_of(name)
        if key in self._more:
            return list(self._more[key])
        return [index[key]] if key in index else []

    @property
    def repeated(self) -> dict[str, list[str]]:
        """Keys that stand on more than one line, with their values. To read, not to change."""
        if self._first is None:
            self._reindex()
        return self._more

    def items(self) -> list[tuple[str, str]]:
        """(name as written, value) in order. The list is the object's own: change it by the methods."""
        if self._items is None:
            self._items = [
                (name.strip(), value.strip())
                for name, colon, value in (line.partition(":") for line in self._lines)
                if colon
            ]
        return self._items

    def add(self, name: str, value: str) -> None:
        """Append one line. Raises LocalError for a value with a line break."""
        self.items().append((name, checked(value)))
        self._first = None

    def set(self, name: str, value: str) -> None:
        """Replace all lines of a name by one, at the place of the first, or append it."""
        key = key_of(name)
        kept: list[tuple[str, str]] = []
        placed = False
        for old_name, old_value in self.items():
            if key_of(old_name) != key:
                kept.append((old_name, old_value))
            elif not placed:
                kept.append((name, checked(value)))
                placed = True
        if not placed:
            kept.append((name, checked(value)))
        self._items, self._first = kept, None

    def set_first(self, name: str, value: str) -> None:
        """Replace only the first line of a name (the top Via), or put a new one in front of all."""
        key = key_of(name)
        items = self.items()
        for place, (old_name, _) in enumerate(items):
            if key_of(old_name) == key:
                items[place] = (old_name, checked(value))
                break
        else:
            items.insert(0, (name, checked(value)))
        self._first = None

    def remove(self, name: str) -> None:
        """Drop all lines of a name; nothing happens when there is none."""
        key = key_of(name)
        self._items = [(n, v) for n, v in self.items() if key_of(n) != key]
        self._first = None

    def copy(self) -> Headers:
        return Headers(self.items())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and key_of(name) in self.index

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items())

    def __len__(self) -> int:
        return len(self.items())

    def __repr__(self) -> str:
        return f"Headers({self.items()!r})"


VIA = re.compile(
    r"\s*SIP\s*/\s*([0-9.]+)\s*/\s*([A-Za-z][A-Za-z0-9\-]*)\s+"
    r"(\[[^\]\s]*\]|[^\s:;,\[\]]+)\s*(?::\s*(\d{1,5}))?\s*(;.*)?$",
    re.IGNORECASE | re.DOTALL,
)
"""Groups: version, transport, host, port, parameters with their leading semicolon."""


@dataclass(frozen=True, slots=True)
class Via:
    """One hop (RFC 3261 20.42): transport in upper case, sent-by host and port, parameters."""

    transport: str
    host: str
    port: int | None = None
    params: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Via:
        match = VIA.match(text)
        if match is None:
            raise ParseError("no Via value", label="via")
        port = parse_port(match[4]) if match[4] else None
        return cls(match[2].upper(), match[3].strip("[]"), port, parse_params(match[5]) if match[5] else {})

    @property
    def branch(self) -> str:
        return self.params.get("branch", "")

    def __str__(self) -> str:
        params = "".join(f";{name}={value}" if value else f";{name}" for name, value in self.params.items())
        return f"SIP/2.0/{self.transport} {join_host_port(self.host, self.port)}{params}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """Number (0 to 2**32-1) and method (RFC 3261 20.16)."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> CSeq:
        number, _, method = text.strip().partition(" ")
        method = method.strip()
        if not number.isascii() or not number.isdigit() or len(number) > 10 or not method:
            raise ParseError("no CSeq value", label="cseq")
        if int(number) > 0xFFFFFFFF:
            raise ParseError("CSeq above 2**32-1", label="cseq")
        return cls(int(number), method)

    def __str__(self) -> str:
        return f"{self.number} {self.method}"
