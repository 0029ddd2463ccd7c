"""SIP addresses: ``SipUri`` and ``NameAddr`` (a From, To, Contact or Route value), parse and str being inverses.

A user part is compared as text and a host is never an identity (G026): one device writes its domain, its
address or a name behind the ``@`` as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sip.errors import ParseError


def join_host_port(host: str, port: int | None) -> str:
    """``host:port`` with brackets around an IPv6 address; without the port when it is None."""
    text = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return text if port is None else f"{text}:{port}"


def split_host_port(text: str) -> tuple[str, int | None]:
    """Inverse of :func:`join_host_port`. Raises ParseError for a port that is none or an open bracket."""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket:
            raise ParseError("bracket of an IPv6 host is open", label="uri")
        port_text = tail[1:] if tail.startswith(":") else ""
        if tail and not tail.startswith(":"):
            raise ParseError("text after an IPv6 host", label="uri")
    else:
        host, _, port_text = text.partition(":")
    if not port_text:
        return host.strip(), None
    return host.strip(), parse_port(port_text)


def parse_port(text: str) -> int:
    """A port number of 0 to 65535, blanks around it allowed (``host: 5060``)."""
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > 5 or int(digits) > 65535:
        raise ParseError("no port number", label="uri")
    return int(digits)


def parse_params(text: str) -> dict[str, str]:
    """Parameters ``;a=b;c`` as a dictionary: names in lower case, values unquoted, flags with ""."""
    found: dict[str, str] = {}
    for part in split_outside(text, ";"):
        name, _, value = part.partition("=")
        name = name.strip().lower()
        if name and name not in found:
            found[name] = unquote(value.strip())
    return found


def unquote(text: str) -> str:
    """The content of a quoted string (escapes resolved), or the text itself when it is not quoted."""
    if len(text) >= 2 and text[0] == '"' and text[-1] == '"':
        text = text[1:-1]
        if "\\" in text:
            text = "".join(_unescaped(text))
    return text


def _unescaped(text: str) -> Iterator[str]:
    escaped = False
    for char in text:
        if escaped or char != "\\":
            yield char
            escaped = False
        else:
            escaped = True


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a one-character separator that is outside of quotes and angle brackets."""
    if '"' not in text and "<" not in text:
        return text.split(separator)
    parts: list[str] = []
    start = 0
    quoted = escaped = angle = False
    for index, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            if char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char == "<":
            angle = True
        elif char == ">":
            angle = False
        elif char == separator and not angle:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return parts


@dataclass(frozen=True, slots=True)
class SipUri:
    """``scheme:user@host:port;params?headers``. ``user`` is the text as sent (no password), "" when absent.

    ``params`` and ``headers`` are raw text with their leading ``;`` and ``?``.
    """

    user: str
    host: str
    port: int | None = None
    scheme: str = "sip"
    params: str = ""
    headers: str = ""

    @classmethod
    def parse(cls, text: str) -> SipUri:
        """Raises ParseError (status 416 for another scheme than sip, sips and tel)."""
        scheme, colon, rest = text.strip().partition(":")
        scheme = scheme.lower()
        if not colon:
            raise ParseError("URI without a scheme", label="uri")
        if scheme == "tel":
            number, _, params = rest.partition(";")
            return cls(user=number, host="", scheme="tel", params=f";{params}" if params else "")
        if scheme not in ("sip", "sips"):
            if _SCHEME.fullmatch(scheme):
                raise ParseError("URI scheme is not sip", status=416, label="uri_scheme")
            raise ParseError("URI without a scheme", label="uri")
        user, at, host_part = rest.rpartition("@") if "@" in rest else ("", "", rest)
        mark = min((i for i in (host_part.find(";"), host_part.find("?")) if i >= 0), default=-1)
        tail = ""
        if mark >= 0:
            host_part, tail = host_part[:mark], host_part[mark:]
        params, question, headers = tail.partition("?")
        host, port = split_host_port(host_part)
        if not host or any(char in host for char in " <>\"'\t,"):
            raise ParseError("URI without a usable host", label="uri")
        if at and any(char in user for char in ' <>"\t'):
            raise ParseError("blank or bracket in the user part", label="uri")
        return cls(user.partition(":")[0], host, port, scheme, params, question + headers)

    def param(self, name: str) -> str | None:
        """Value of a URI parameter ("" for a flag), None when it is absent."""
        return parse_params(self.params).get(name.lower())

    def __str__(self) -> str:
        if self.scheme == "tel":
            return f"tel:{self.user}{self.params}"
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}:{user}{join_host_port(self.host, self.port)}{self.params}{self.headers}"


_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*")
_PLAIN = re.compile(
    r"<sip:([^@:;?<>\s\"]+)@([^@:;?<>\s\"'\[\],]+)(?::([0-9]{1,5}))?>(?:;tag=([^;,=\s\"]+))?$"
)


@dataclass(frozen=True, slots=True)
class NameAddr:
    """A From, To, Contact, Route value: display name, URI, header parameters (names in lower case)."""

    uri: SipUri
    display: str = ""
    params: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The tag parameter, "" when there is none."""
        return self.params.get("tag", "")

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """One value; a list is cut by :func:`split_outside` first. Raises ParseError."""
        plain = _PLAIN.match(text)
        if plain is not None:
            user, host, port, tag = plain.groups()
            uri_value = SipUri(user, host, parse_port(port) if port else None)
            return cls(uri_value, "", {"tag": tag} if tag else {})
        display, uri, params = split_name_addr(text)
        return cls(SipUri.parse(uri), display, parse_params(params) if params else {})

    def __str__(self) -> str:
        display = ""
        if self.display:
            escaped = self.display.replace("\\", "\\\\").replace('"', '\\"')
            display = f'"{escaped}" '
        params = "".join(f";{name}={value}" if value else f";{name}" for name, value in self.params.items())
        return f"{display}<{self.uri}>{params}"


def split_name_addr(text: str) -> tuple[str, str, str]:
    """Cut a name-addr or addr-spec into display name, URI text and parameter text (with its ``;``).

    Without angle brackets everything behind the first ``;`` belongs to the header (RFC 3261 20).
    """
    text = text.strip()
    display = ""
    if text.startswith('"'):
        end = _closing_quote(text)
        display, text = unquote(text[: end + 1]), text[end + 1 :].lstrip()
        if not text.startswith("<"):
            raise ParseError("no address behind a display name", label="name_addr")
    left = text.find("<")
    if left < 0:
        uri, semicolon, params = text.partition(";")
        return display, uri.strip(), semicolon + params
    right = text.find(">", left)
    if right < 0:
        raise ParseError("angle bracket is open", label="name_addr")
    return display or text[:left].strip(), text[left + 1 : right], text[right + 1 :].strip()


def _closing_quote(text: str) -> int:
    index = 1
    while index < len(text):
        if text[index] == "\\":
            index += 2
        elif text[index] == '"':
            return index
        else:
            index += 1
    raise ParseError("quote is open", label="name_addr")
