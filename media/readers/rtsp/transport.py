"""The Transport header (RFC 2326 12.39): what a client can take, and which of it we do. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PAIR = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
CHOICES_LIMIT = 16
"""Alternatives read in one header."""


@dataclass(frozen=True, slots=True)
class TransportChoice:
    """One way to carry a track. ``first`` and ``second``: channels when ``tcp``, else the client's UDP ports.

    ``first`` is None when the client leaves the channels to us.
    """

    tcp: bool
    first: int | None
    second: int | None
    profile: str

    def answer(self, *, ssrc: int, server_ports: tuple[int, int] | None = None) -> str:
        """The header of our response."""
        parts = [self.profile, "unicast"]
        if self.tcp:
            parts.append(f"interleaved={self.first}-{self.second}")
        else:
            parts.append(f"client_port={self.first}-{self.second}")
            if server_ports is not None:
                parts.append(f"server_port={server_ports[0]}-{server_ports[1]}")
        return ";".join([*parts, f"ssrc={ssrc:08X}", 'mode="PLAY"'])


def choose(header: str) -> TransportChoice | None:
    """The first alternative that we can do; None when there is none.

    Only unicast to where the request came from: a ``destination`` would let one host aim a stream at another.
    """
    for text in header.split(",")[:CHOICES_LIMIT]:
        choice = _read(text)
        if choice is not None:
            return choice
    return None


def _read(text: str) -> TransportChoice | None:
    profile, *parameters = (part.strip() for part in text.split(";"))
    if profile.upper() not in ("RTP/AVP", "RTP/AVP/UDP", "RTP/AVP/TCP"):
        return None
    values: dict[str, str] = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        values.setdefault(name.strip().lower(), value.strip())
    if "multicast" in values or "record" in values.get("mode", "").lower():
        return None
    if profile.upper() == "RTP/AVP/TCP":
        pair = _pair(values.get("interleaved"), 255)
        if pair is None and values.get("interleaved"):
            return None
        first, second = pair or (None, None)
        return TransportChoice(True, first, second, profile)
    pair = _pair(values.get("client_port"), 65535)
    if pair is None or not pair[0]:
        return None
    return TransportChoice(False, *pair, profile)


def _pair(text: str | None, most: int) -> tuple[int, int] | None:
    """``a-b`` or ``a`` (then b = a + 1)."""
    match = _PAIR.fullmatch(text or "")
    if match is None:
        return None
    first = int(match[1])
    second = int(match[2]) if match[2] else first + 1
    return (first, second) if first <= most and second <= most and first != second else None
