"""Edits of WebRTC session descriptions that the WebRTC library does not do itself. Pure: text in, text out.

A browser names H.264 by profile-level-id (RFC 6184 8.1), the library knows two of these only; browsers play Main and
High all the same. So one payload type is chosen, given to the library under a name it knows, and named back in
the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KNOWN_PROFILE = "42e01f"
"""Constrained Baseline 3.1, which the library accepts."""

_FMTP = re.compile(r"a=fmtp:(\d+) (.*)")
_RTPMAP = re.compile(r"a=rtpmap:(\d+) ([^/ ]+)/(\d+)", re.IGNORECASE)
_PROFILE = re.compile(r"(profile-level-id=)([0-9a-fA-F]{6})", re.IGNORECASE)
_PAYLOAD_LINE = re.compile(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) ")


class OfferError(ValueError):
    """The offer cannot be met; ``code`` is ``unsupported`` (no usable H.264) or ``bad_request``."""

    def __init__(self, detail: str, code: str = "unsupported") -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class PreparedOffer:
    """The offer for the library, and what the answer must say instead of the library's name."""

    sdp: str
    payload_type: int
    profile_level_id: str
    audio_codecs: frozenset[str]
    """Encoding names of the audio section, upper case; empty without an audio section."""

    def restore(self, answer: str) -> str:
        """Put the browser's own profile-level-id back into the answer."""
        lines = []
        for line in _lines(answer):
            fmtp = _FMTP.match(line)
            if fmtp and int(fmtp[1]) == self.payload_type:
                line = _PROFILE.sub(rf"\g<1>{self.profile_level_id}", line)
            lines.append(line)
        return _text(lines)


def prepare(sdp: str, profile: int) -> PreparedOffer:
    """Keep one H.264 payload type (and its retransmission), the one closest to the stream's ``profile``.

    Candidates named by mDNS are taken out (the browser finds us; looking them up would cost a multicast round), as
    is the end-of-candidates line: the browser's own address is learnt from its checks. Raises OfferError.
    """
    sections = _sections(_lines(sdp))
    video = [section for section in sections[1:] if section[0].startswith("m=video ")]
    if len(video) != 1 or video[0][0].startswith("m=video 0 "):
        raise OfferError("the offer does not ask for exactly one video")
    if not any(line.startswith("a=fingerprint:") for line in sections[0] + video[0]):
        raise OfferError("the offer has no DTLS fingerprint", "bad_request")
    payload_type, offered = _choose(video[0], profile)
    kept = {payload_type} | _retransmissions(video[0], payload_type)
    audio_codecs: set[str] = set()
    lines: list[str] = []
    for section in sections:
        if section is video[0]:
            section = _only(section, kept)
            section = [
                _PROFILE.sub(rf"\g<1>{KNOWN_PROFILE}", line)
                if (fmtp := _FMTP.match(line)) and int(fmtp[1]) == payload_type
                else line
                for line in section
            ]
        elif section[0].startswith("m=audio "):
            audio_codecs |= _audio_codecs(section)
        lines += [line for line in section if not _unwanted(line)]
    return PreparedOffer(_text(lines), payload_type, offered, frozenset(audio_codecs))


def _lines(sdp: str) -> list[str]:
    return [line for line in sdp.replace("\r\n", "\n").split("\n") if line]


def _text(lines: list[str]) -> str:
    return "\r\n".join(lines) + "\r\n"


def _sections(lines: list[str]) -> list[list[str]]:
    """The session part, then one list per media section."""
    sections: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("m="):
            sections.append([])
        sections[-1].append(line)
    return sections


def _unwanted(line: str) -> bool:
    if line.startswith("a=candidate:"):
        fields = line.split()
        return len(fields) < 5 or fields[4].endswith(".local")
    return line.startswith(("a=end-of-candidates", "a=extmap:"))


def _choose(section: list[str], profile: int) -> tuple[int, str]:
    """The best payload type and its profile-level-id as offered."""
    h264 = {
        int(match[1]) for line in section if (match := _RTPMAP.match(line)) and match[2].upper() == "H264"
    }
    candidates = []
    for line in section:
        fmtp = _FMTP.match(line)
        if not fmtp or int(fmtp[1]) not in h264 or "packetization-mode=1" not in fmtp[2]:
            continue
        found = _PROFILE.search(fmtp[2])
        if found:
            candidates.append((_distance(found[2].lower(), profile), int(fmtp[1]), found[2]))
    if not candidates:
        raise OfferError("the browser does not take H.264")
    _, payload_type, offered = min(candidates, key=lambda candidate: candidate[0])
    return payload_type, offered


def _distance(offered: str, profile: int) -> int:
    """Same profile first, then Constrained Baseline, which all browsers decode well beyond its letter."""
    offered_profile = int(offered[:2], 16)
    if offered_profile == profile:
        return 0 if profile != 66 or offered.startswith("42e0") else 1
    return 2 if offered.startswith("42e0") else 3 if offered_profile == 66 else 4


def _retransmissions(section: list[str], payload_type: int) -> set[int]:
    return {
        int(fmtp[1])
        for line in section
        if (fmtp := _FMTP.match(line)) and re.search(rf"\bapt={payload_type}\b", fmtp[2])
    }


def _only(section: list[str], kept: set[int]) -> list[str]:
    """The section with these payload types only."""
    head = section[0].split(" ")
    numbers = [number for number in head[3:] if number.isdigit() and int(number) in kept]
    lines = [" ".join(head[:3] + numbers)]
    for line in section[1:]:
        match = _PAYLOAD_LINE.match(line)
        if match is None or int(match[1]) in kept:
            lines.append(line)
    return lines


def _audio_codecs(section: list[str]) -> set[str]:
    """Encoding names; the static numbers 0 and 8 count without an rtpmap (RFC 3551)."""
    names = {match[2].upper() for line in section if (match := _RTPMAP.match(line))}
    numbers = section[0].split(" ")[3:]
    return names | {name for number, name in (("0", "PCMU"), ("8", "PCMA")) if number in numbers}
