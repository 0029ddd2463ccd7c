"""Edits of WebRTC session descriptions that the WebRTC library does not do itself. Pure: text in, text out.

A browser names H.264 by profile-level-id (RFC 6184 8.1), the library knows two of these only; browsers play Main and
High all the same. H.265 (RFC 7798 7.1) it does not know at all. So one payload type is chosen, given to the library
under a name it knows, and named back in the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from media.unit import Codec

KNOWN_PROFILE = "42e01f"
"""Constrained Baseline 3.1, which the library accepts."""

_FMTP = re.compile(r"a=fmtp:(\d+) (.*)")
_RTPMAP = re.compile(r"a=rtpmap:(\d+) ([^/ ]+)/(\d+)", re.IGNORECASE)
_PROFILE = re.compile(r"(profile-level-id=)([0-9a-fA-F]{6})", re.IGNORECASE)
_PROFILE_ID = re.compile(r"\bprofile-id=(\d+)")
_PAYLOAD_LINE = re.compile(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) ")


class OfferError(ValueError):
    """The offer cannot be met; ``code`` is ``unsupported`` (not the codec that is wanted) or ``bad_request``."""

    def __init__(self, detail: str, code: str = "unsupported") -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class PreparedOffer:
    """The offer for the library, and what the answer must say instead of the library's name."""

    sdp: str
    payload_type: int
    encoding: str
    parameters: str
    """What the browser said of the chosen payload type; may be empty for H.265."""
    audio_codecs: frozenset[str]
    """Encoding names of the audio section, upper case; empty without an audio section."""

    def restore(self, answer: str) -> str:
        """Put the browser's own name and parameters back into the answer."""
        lines = []
        for line in _lines(answer):
            fmtp, rtpmap = _FMTP.match(line), _RTPMAP.match(line)
            if fmtp and int(fmtp[1]) == self.payload_type:
                if not self.parameters:
                    continue
                line = f"a=fmtp:{self.payload_type} {self.parameters}"
            elif rtpmap and int(rtpmap[1]) == self.payload_type:
                line = f"a=rtpmap:{self.payload_type} {self.encoding}/90000"
            lines.append(line)
        return _text(lines)


def prepare(sdp: str, profile: int | None, codec: Codec = Codec.H264) -> PreparedOffer:
    """Keep one payload type of ``codec`` (and its retransmission), the one closest to the stream's ``profile``.

    Candidates named by mDNS are taken out (the browser finds us; looking them up would cost a multicast round), as
    is the end-of-candidates line: the browser's own address is learnt from its checks. Raises OfferError.
    """
    sections = _sections(_lines(sdp))
    video = [section for section in sections[1:] if section[0].startswith("m=video ")]
    if len(video) != 1 or video[0][0].startswith("m=video 0 "):
        raise OfferError("the offer does not ask for exactly one video")
    if not any(line.startswith("a=fingerprint:") for line in sections[0] + video[0]):
        raise OfferError("the offer has no DTLS fingerprint", "bad_request")
    choose = _choose_h265 if codec is Codec.H265 else _choose_h264
    payload_type, parameters = choose(video[0], profile)
    kept = {payload_type} | _retransmissions(video[0], payload_type)
    audio_codecs: set[str] = set()
    lines: list[str] = []
    for section in sections:
        if section is video[0]:
            section = _renamed(_only(section, kept), payload_type)
        elif section[0].startswith("m=audio "):
            audio_codecs |= _audio_codecs(section)
        lines += [line for line in section if not _unwanted(line)]
    return PreparedOffer(_text(lines), payload_type, codec.value.upper(), parameters, frozenset(audio_codecs))


def check_microphone(sdp: str) -> None:
    """Raises OfferError unless the offer has exactly one sound section, G.711A in it, and a fingerprint."""
    sections = _sections(_lines(sdp))
    sounds = [section for section in sections[1:] if section[0].startswith("m=audio ")]
    if len(sounds) != 1 or len(sections) != 2 or sounds[0][0].startswith("m=audio 0 "):
        raise OfferError("the offer does not bring exactly one sound", "bad_request")
    if not any(line.startswith("a=fingerprint:") for line in sections[0] + sounds[0]):
        raise OfferError("the offer has no DTLS fingerprint", "bad_request")
    if "PCMA" not in _audio_codecs(sounds[0]):
        raise OfferError("the browser does not offer G.711A (PCMA)")


def without_names(sdp: str) -> str:
    """The offer without candidates named by mDNS, and without header extensions."""
    return _text([line for line in _lines(sdp) if not _unwanted(line)])


def _renamed(section: list[str], payload_type: int) -> list[str]:
    """The section with the chosen payload type under the library's name for H.264."""
    known = (
        f"a=rtpmap:{payload_type} H264/90000",
        f"a=fmtp:{payload_type} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={KNOWN_PROFILE}",
    )
    lines: list[str] = []
    for line in section:
        rtpmap, fmtp = _RTPMAP.match(line), _FMTP.match(line)
        if rtpmap and int(rtpmap[1]) == payload_type:
            lines += known
        elif not (fmtp and int(fmtp[1]) == payload_type):
            lines.append(line)
    return lines


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


def _choose_h264(section: list[str], profile: int | None) -> tuple[int, str]:
    """The best payload type and its parameters as offered (RFC 6184 8.1)."""
    h264 = _types(section, "H264")
    candidates = []
    for line in section:
        fmtp = _FMTP.match(line)
        if not fmtp or int(fmtp[1]) not in h264 or "packetization-mode=1" not in fmtp[2]:
            continue
        found = _PROFILE.search(fmtp[2])
        if found:
            candidates.append((_distance(found[2].lower(), profile or 66), int(fmtp[1]), fmtp[2]))
    if not candidates:
        raise OfferError("the browser does not take H.264")
    _, payload_type, parameters = min(candidates, key=lambda candidate: candidate[0])
    return payload_type, parameters


def _choose_h265(section: list[str], profile: int | None) -> tuple[int, str]:
    """The payload type of the stream's profile and its parameters (RFC 7798 7.1: no profile-id means Main)."""
    offered = dict.fromkeys(_types(section, "H265"), "")
    for line in section:
        fmtp = _FMTP.match(line)
        if fmtp and int(fmtp[1]) in offered:
            offered[int(fmtp[1])] = fmtp[2]
    for payload_type, parameters in offered.items():
        found = _PROFILE_ID.search(parameters)
        if profile is None or int(found[1] if found else "1") == profile:
            return payload_type, parameters
    raise OfferError("the browser does not take H.265 of this profile")


def _types(section: list[str], encoding: str) -> list[int]:
    """Payload types of an encoding in the order of preference."""
    matches = (_RTPMAP.match(line) for line in section)
    mapped = {int(match[1]) for match in matches if match and match[2].upper() == encoding}
    return [int(number) for number in section[0].split(" ")[3:] if number.isdigit() and int(number) in mapped]


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
