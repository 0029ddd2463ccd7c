"""Kept SIP messages made readable: a ladder with decoded bodies, credentials masked, and what was answered after how long."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.services.wire import Entry, Line, LineKey
from gateway.services.wire_mask import masked
from sip.errors import ParseError
from sip.manscdp.charset import read_text
from sip.message import Request, Response, parse

MAX_BODY_CHARACTERS = 20_000
_LABEL = re.compile(rb"<\?xml[^>]{0,200}encoding\s*=\s*[\"']([\w-]{1,20})", re.IGNORECASE)
_ROOT = re.compile(r"<([A-Za-z][\w]{0,40})")
_FIELD = {
    name: re.compile(rf"<{name}>\s{{0,20}}([^<]{{1,64}}?)\s{{0,20}}</{name}>", re.IGNORECASE)
    for name in ("CmdType", "SN")
}


@dataclass(slots=True)
class Shown:
    """One message for people. ``answered_ms``: milliseconds to the final response, on requests that got one.

    ``fault`` says why the bytes are no usable message; the text is in ``body`` then.
    """

    at: datetime
    direction: str
    transport: str
    local: str
    remote: str
    start_line: str
    method: str = ""
    status: int | None = None
    cseq: str = ""
    call_id: str = ""
    from_id: str = ""
    to_id: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    size_bytes: int = 0
    body_kind: str = ""
    """manscdp | sdp | mansrtsp | text, "" without a body."""
    charset: str = ""
    """What the body's bytes are; ``label`` what its XML declaration says."""
    label: str = ""
    command: str = ""
    """Root and CmdType, e.g. ``Notify Keepalive``."""
    cmd_type: str = ""
    sn: str = ""
    body: str = ""
    repeated: bool = False
    """The same bytes went the same way before: a retransmission."""
    answered_ms: float | None = None
    fault: str = ""


def shown(entry: Entry, key: LineKey, local: tuple[str, int] | None) -> Shown:
    """Decode one message. Never fails: what cannot be read is shown as text with a ``fault``."""
    at, came_in, raw = entry
    data = masked(raw)
    made = Shown(
        at=datetime.fromtimestamp(at, UTC),
        direction="in" if came_in else "out",
        transport=key[2],
        local=f"{local[0]}:{local[1]}" if local is not None else "",
        remote=f"{key[0]}:{key[1]}",
        start_line=data.lstrip()[:300].split(b"\n")[0].strip().decode("utf-8", "backslashreplace"),
        size_bytes=len(raw),
    )
    try:
        message = parse(data)
    except ParseError as error:
        made.fault = error.label
        made.body = data[:MAX_BODY_CHARACTERS].decode("utf-8", "backslashreplace")
        return made
    _read_head(made, message)
    _read_body(made, message)
    return made


def _read_head(made: Shown, message: Request | Response) -> None:
    index = message.headers.index
    made.headers = list(message.headers)
    made.call_id = index.get("call-id", "")
    made.cseq = index.get("cseq", "")
    made.from_id, made.to_id = _user(index.get("from", "")), _user(index.get("to", ""))
    if isinstance(message, Response):
        made.status = message.status
        made.method = made.cseq.partition(" ")[2].strip().upper()
    else:
        made.method = message.method


def _user(address: str) -> str:
    found = re.search(r"sips?:([^@;>\s]{1,64})@", address, re.IGNORECASE)
    return found[1] if found is not None else ""


def _read_body(made: Shown, message: Request | Response) -> None:
    body = message.body
    if not body.strip(b"\0 \r\n\t"):
        return
    kind = message.content_type
    made.body_kind = "text"
    if kind.endswith("xml") or body.lstrip()[:1] == b"<":
        made.body_kind = "manscdp"
        _read_xml(made, body)
        return
    if kind.endswith("sdp"):
        made.body_kind = "sdp"
    elif "rtsp" in kind:
        made.body_kind = "mansrtsp"
    made.body = body[:MAX_BODY_CHARACTERS].decode("utf-8", "backslashreplace").replace("\0", "␀")


def _read_xml(made: Shown, body: bytes) -> None:
    label = _LABEL.search(body, 0, 400)
    made.label = label[1].decode("ascii") if label is not None else ""
    try:
        text = read_text(body)
    except ParseError as error:
        made.fault = error.label
        made.body = body[:MAX_BODY_CHARACTERS].decode("gb18030", "backslashreplace")
        return
    made.body, made.charset = text.text[:MAX_BODY_CHARACTERS], text.charset
    root = _ROOT.search(text.text)
    found = {name: pattern.search(text.text) for name, pattern in _FIELD.items()}
    made.cmd_type = found["CmdType"][1] if found["CmdType"] is not None else ""
    made.sn = found["SN"][1] if found["SN"] is not None else ""
    made.command = f"{root[1] if root is not None else ''} {made.cmd_type}".strip()


LocalOf = Callable[[LineKey], tuple[str, int]]
"""Our own address toward a peer."""


def taken(lines: Iterable[Line], local_of: LocalOf) -> list[tuple[Entry, LineKey, tuple[str, int] | None]]:
    """All messages of these lines in the order of time. Quick; decode the result in a thread."""
    found: list[tuple[Entry, LineKey, tuple[str, int] | None]] = []
    for line in lines:
        local = line.local or local_of(line.key)
        found.extend((entry, line.key, local) for entry in line.messages)
    found.sort(key=lambda one: one[0][0])
    return found


def ladder(entries: Sequence[tuple[Entry, LineKey, tuple[str, int] | None]]) -> list[Shown]:
    """Decode messages and put requests and their answers together."""
    steps = [shown(*one) for one in entries]
    asked: dict[tuple[str, str, str], Shown] = {}
    seen: set[tuple[bool, bytes]] = set()
    for step, (entry, _, _) in zip(steps, entries, strict=True):
        step.repeated = (entry[1], entry[2]) in seen
        seen.add((entry[1], entry[2]))
        if not step.call_id:
            continue
        if step.status is None:
            asked.setdefault((step.call_id, step.cseq, step.direction), step)
        elif step.status >= 200:
            request = asked.get((step.call_id, step.cseq, "in" if step.direction == "out" else "out"))
            if request is not None and request.answered_ms is None:
                request.answered_ms = round((step.at - request.at).total_seconds() * 1000, 3)
    return steps


def chosen(
    steps: Sequence[Shown], *, method: str = "", cmd_type: str = "", call_id: str = "", code: str = ""
) -> list[Shown]:
    """Messages that fit, with the answers to them. ``code``: only those whose From or To names it, or that name none."""
    found: list[Shown] = []
    kept: set[tuple[str, str]] = set()
    for step in steps:
        if method and step.method != method.upper():
            continue
        if call_id and step.call_id != call_id:
            continue
        if code and step.from_id and step.to_id and code not in (step.from_id, step.to_id):
            continue
        if cmd_type:
            if step.cmd_type.casefold() == cmd_type.casefold():
                kept.add((step.call_id, step.cseq))
            elif step.status is None or (step.call_id, step.cseq) not in kept:
                continue
        found.append(step)
    return found


def as_text(steps: Sequence[Shown], peer: str) -> str:
    """The ladder as plain text, for a terminal or a ticket: we on the left, the peer on the right."""
    lines = [f"{'time (UTC)':<13}{'we':>6}{'':^22}{peer}"]
    for step in steps:
        what = step.start_line if step.fault else f"{step.status or ''} {step.method}".strip()
        if step.command:
            what = f"{what} {step.command}"
        head = "<--" if step.direction == "in" else "---"
        tail = "---" if step.direction == "in" else "-->"
        after = f"  answered in {step.answered_ms:g} ms" if step.answered_ms is not None else ""
        again = "  (repeated)" if step.repeated else ""
        fault = f"  unreadable: {step.fault}" if step.fault else ""
        when = f"{step.at:%H:%M:%S.%f}"[:12]
        lines.append(f"{when}    {head} {what} {tail}  {step.cseq}  {step.call_id}{after}{again}{fault}")
    return "\n".join(lines) + "\n"
