"""MANSRTSP: the playback control bodies carried by INFO (GB/T 28181-2022 annex B)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sip.errors import ParseError

CONTENT_TYPE = "Application/MANSRTSP"
MAX_BYTES = 4096
_REQUEST = re.compile(r"([A-Za-z]{1,16})\s{1,8}(?:\S{1,200}\s{1,8})?(?:MANS)?RTSP/\d\.\d", re.IGNORECASE)
_RESPONSE = re.compile(r"(?:MANS)?RTSP/\d\.\d\s{1,8}(\d{3})(?:\s{1,8}(.*))?", re.IGNORECASE)
_NPT = re.compile(
    r"npt\s*+=\s*+(now|\d{1,9}(?:\.\d{1,6})?)?\s*+-\s*+(now|\d{1,9}(?:\.\d{1,6})?)?", re.IGNORECASE
)
_SMPTE = re.compile(
    r"smpte(?:-\d{1,3})?\s*+=\s*+(\d{1,4}):(\d{1,2}):(\d{1,2})(?::\d{1,3})?\s*+-\s*+(?:(\d{1,4}):(\d{1,2}):(\d{1,2}))?",
    re.IGNORECASE,
)
METHODS = frozenset({"PLAY", "PAUSE", "TEARDOWN"})


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of the recording in seconds from its start; ``start`` None means now, ``end`` None open."""

    start: float | None = None
    end: float | None = None

    def __str__(self) -> str:
        start = "now" if self.start is None else f"{self.start:g}"
        return f"npt={start}-" + ("" if self.end is None else f"{self.end:g}")


@dataclass(frozen=True, slots=True)
class PlayControl:
    """A request: PLAY, PAUSE or TEARDOWN. ``scale`` is the speed, negative for reverse (B.2.8)."""

    method: str
    cseq: int
    scale: float | None = None
    range: Range | None = None

    def to_bytes(self) -> bytes:
        """The body as the 2022 edition writes it (``RTSP/1.0``)."""
        lines = [f"{self.method} RTSP/1.0", f"CSeq: {self.cseq}"]
        if self.method == "PAUSE":
            lines.append("PauseTime: now")
        if self.scale is not None:
            lines.append(_scale_line(self.scale))
        if self.range is not None:
            lines.append(f"Range: {self.range}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


@dataclass(frozen=True, slots=True)
class PlayAnswer:
    """An answer; ``range`` tells the place of the first packet. The CSeq may differ from the request's (G249)."""

    status: int
    reason: str = "OK"
    cseq: int = 0
    range: Range | None = None
    scale: float | None = None
    rtp_info: str = ""

    def to_bytes(self) -> bytes:
        lines = [f"RTSP/1.0 {self.status} {self.reason}", f"CSeq: {self.cseq}"]
        if self.scale is not None:
            lines.append(_scale_line(self.scale))
        if self.range is not None:
            lines.append(f"Range: {self.range}")
        if self.rtp_info:
            lines.append(f"RTP-Info: {self.rtp_info}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def pause(cseq: int) -> PlayControl:
    return PlayControl("PAUSE", cseq)


def resume(cseq: int) -> PlayControl:
    return PlayControl("PLAY", cseq, range=Range())


def speed(cseq: int, scale: float) -> PlayControl:
    return PlayControl("PLAY", cseq, scale=scale)


def seek(cseq: int, start_s: float) -> PlayControl:
    return PlayControl("PLAY", cseq, range=Range(start_s))


def reverse(
    cseq: int, scale: float = -1.0, start_s: float | None = None, end_s: float | None = None
) -> PlayControl:
    """Play backward, from ``start_s`` down to ``end_s``, or from now (2022 B.2.8)."""
    return PlayControl(
        "PLAY", cseq, scale=-abs(scale), range=None if start_s is None else Range(start_s, end_s)
    )


def teardown(cseq: int) -> PlayControl:
    return PlayControl("TEARDOWN", cseq)


def parse(data: bytes) -> PlayControl | PlayAnswer:
    """Read a request or an answer, both spellings of the start line. Raises ParseError for anything else."""
    if len(data) > MAX_BYTES:
        raise ParseError("MANSRTSP body too long", label="too_big")
    lines = [line.strip() for line in data.decode("utf-8", "replace").strip("\0 \r\n\t").splitlines()]
    start = lines[0] if lines else ""
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    cseq = fields.get("cseq", "")
    number = int(cseq) if cseq.isascii() and cseq.isdecimal() and len(cseq) < 12 else 0
    scale = _scale(fields.get("scale"))
    place = _range(fields.get("range"))
    answer = _RESPONSE.fullmatch(start)
    if answer:
        return PlayAnswer(
            int(answer[1]),
            answer[2] or "",
            cseq=number,
            range=place,
            scale=scale,
            rtp_info=fields.get("rtp-info", ""),
        )
    request = _REQUEST.fullmatch(start)
    if request is None or request[1].upper() not in METHODS:
        raise ParseError("no MANSRTSP start line", label="mansrtsp")
    return PlayControl(request[1].upper(), number, scale=scale, range=place)


def _scale_line(scale: float) -> str:
    return f"Scale: {scale:.2f}" if scale * 10 % 1 else f"Scale: {scale:.1f}"


def _scale(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"[+-]?\d{1,3}(\.\d{1,6})?", text, re.ASCII):
        return None
    return float(text)


def _range(text: str | None) -> Range | None:
    if not text:
        return None
    npt = _NPT.match(text)
    if npt:
        return Range(_seconds(npt[1]), _seconds(npt[2]))
    smpte = _SMPTE.match(text)
    if smpte is None:
        return None
    hour, minute, second = (int(part) for part in smpte.groups()[:3])
    start = hour * 3600.0 + minute * 60 + second
    if smpte[4] is None:
        return Range(start)
    return Range(start, int(smpte[4]) * 3600.0 + int(smpte[5]) * 60 + int(smpte[6]))


def _seconds(text: str | None) -> float | None:
    return None if not text or text.lower() == "now" else float(text)
