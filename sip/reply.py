"""Responses as bytes: the Via that leads back, the headers that must be copied, and answers to broken requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

from sip.errors import reason_phrase
from sip.flow import Flow
from sip.framing import MAX_HEADER_BYTES
from sip.headers import VIA, Headers, checked
from sip.message import Request, split_head
from sip.uri import split_outside

_BLANKS = bytes(range(0x21))
_COPIED = (("From", "from"), ("To", "to"), ("Call-ID", "call-id"), ("CSeq", "cseq"))
_RPORT = re.compile(r";\s*rport(?:\s*=\s*\d*)?(?=\s*;|\s*$)", re.IGNORECASE)
_RECEIVED = re.compile(r";\s*received\s*=[^;]*", re.IGNORECASE)


def answer_via(via: str, flow: Flow) -> tuple[str, Flow] | None:
    """The top Via for the answer, and where the answer goes (RFC 3261 18.2.2, RFC 3581, G021, G022).

    Over TCP and TLS always back on the connection. Over UDP to the source when ``rport`` was asked, or when
    the sent-by host is private and not the source; else to the sent-by port of the source host. None for a
    text that is no Via.
    """
    rest = ""
    if "," in via:
        first, *others = split_outside(via, ",")
        via, rest = first.strip(), "".join("," + other for other in others)
    match = VIA.match(via)
    if match is None:
        return None
    _, _, host, port_text, params = match.groups()
    host, params = host.strip("[]"), params or ""
    lower = params.lower()
    if ";rport;" in params:
        wants_rport = True
        params = params.replace(";rport;", f";rport={flow.port};", 1)
    else:
        wants_rport = "rport" in lower and _RPORT.search(params) is not None
        if wants_rport:
            params = _RPORT.sub(f";rport={flow.port}", params, count=1)
    if wants_rport or host != flow.host:
        if "received" in lower:
            params = _RECEIVED.sub("", params)
        params = f"{params};received={flow.host}"
        via = via[: match.start(5)] + params if match.start(5) >= 0 else via + params
    if flow.transport != "udp" or wants_rport:
        return via + rest, flow
    if host != flow.host and _behind_nat(host):
        return via + rest, flow
    port = int(port_text) if port_text else 5060
    return via + rest, flow if port == flow.port or not 0 < port < 65536 else replace(flow, port=port)


def _behind_nat(host: str) -> bool:
    """Whether a sent-by host can only be reached from inside: private, loopback, or a name without meaning."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return True


def encode_response(
    request: Request,
    status: int,
    *,
    via: str,
    to_tag: str = "",
    reason: str = "",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    content_type: str = "",
    server: str = "",
) -> bytes:
    """One response (RFC 3261 8.2.6): Via, From, To (with our tag unless it has one), Call-ID, CSeq copied."""
    index = request.headers.index
    lines = [f"SIP/2.0 {status} {checked(reason) or reason_phrase(status)}", f"Via: {via}"]
    if "via" in request.headers.repeated:
        lines += [f"Via: {value}" for value in request.headers.get_all("via")[1:]]
    try:
        to = f"{index['to']};tag={to_tag}" if to_tag else index["to"]
        lines += (
            f"From: {index['from']}",
            f"To: {to}",
            f"Call-ID: {index['call-id']}",
            f"CSeq: {index['cseq']}",
        )
    except KeyError:
        # the answer to a request that lacks some of them copies what there is
        lines += [f"{name}: {index[key]}" for name, key in _COPIED if key in index]
    if "record-route" in index and 100 < status < 300:
        lines += [f"Record-Route: {value}" for value in request.headers.get_all("record-route")]
    if server:
        lines.append(f"Server: {server}")
    for name, value in headers:
        lines.append(f"{name}: {checked(value)}")
    if content_type and body:
        lines.append(f"Content-Type: {checked(content_type)}")
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    head = "\r\n".join(lines).encode(request.charset, "replace")
    return head + body if body else head


def request_of_garbage(data: bytes) -> Request | None:
    """As much of a broken request as an answer needs; None when it cannot or must not be answered.

    A response, an ACK, and anything without a Via, or with neither Call-ID nor CSeq, is met with silence.
    """
    text, _, charset = split_head(data.lstrip(_BLANKS)[:MAX_HEADER_BYTES])
    start, *lines = re.split(r"\r\n|\n|\r", text)
    method = start.partition(" ")[0]
    if method.upper().startswith("SIP/") or method == "ACK" or "SIP/" not in start.upper():
        return None
    headers = Headers.of_lines([line for line in lines if line and not line[0].isspace()])
    if headers is None:
        return None
    index = headers.index
    if "via" not in index or not ("call-id" in index or "cseq" in index):
        return None
    request = Request("", "", headers)
    request.method = method[:32]
    request.charset = charset
    return request
