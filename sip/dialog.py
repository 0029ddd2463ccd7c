"""Dialogs (RFC 3261 12, RFC 6665 4.4): what must be kept to send and to recognise requests inside one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sip.errors import ParseError
from sip.flow import Flow, Target
from sip.headers import Headers
from sip.message import Request, Response
from sip.uri import split_name_addr, split_outside

DialogKind = Literal["invite", "subscriber", "notifier"]
Key = tuple[str, str]
"""Call-ID and local tag: what names a dialog at our side. The remote tag is compared afterwards."""


def split_tag(value: str) -> tuple[str, str]:
    """A From or To value without its tag, and the tag ("" when there is none)."""
    close = value.rfind(">")
    tail = value[close + 1 :]
    if "tag" not in tail.lower():
        return value, ""
    kept, tag = [], ""
    head = value[: close + 1]
    parts = tail.split(";")
    for part in parts[1:]:
        name, _, text = part.partition("=")
        if name.strip().lower() == "tag" and not tag:
            tag = text.strip()
        else:
            kept.append(part)
    return head + ";".join([parts[0].rstrip(), *kept]), tag


def tag_of(value: str) -> str:
    """The tag of a From or To value, "" when there is none."""
    tail = value[value.rfind(">") + 1 :]
    if "=" not in tail:
        return ""
    return split_tag(value)[1]


@dataclass(slots=True)
class Dialog:
    """One dialog. ``local`` and ``remote`` are From/To values without tags; ``remote_target`` is a URI text.

    ``remote_tag`` is "" while no answer came, and stays so for peers that send none (quirk 41). Requests go to
    ``destination`` (the learned flow), whatever the Contact says (quirk 32).
    """

    kind: DialogKind
    call_id: str
    local_tag: str
    remote_tag: str
    local: str
    remote: str
    remote_target: str
    destination: Flow | Target
    local_cseq: int = 0
    remote_cseq: int | None = None
    route_set: tuple[str, ...] = ()
    event: str = ""
    invite_cseq: int = 0
    ours: bool = True
    """Whether we sent the request that opened it."""
    context: Any = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> Key:
        return (self.call_id, self.local_tag)

    @property
    def flow(self) -> Flow | None:
        return self.destination if isinstance(self.destination, Flow) else self.destination.flow

    @classmethod
    def of_request_sent(cls, kind: DialogKind, request: Request, destination: Flow | Target) -> Dialog:
        """The half of a dialog that we know when our INVITE or SUBSCRIBE leaves."""
        local, local_tag = split_tag(request.headers.get("From"))
        remote, remote_tag = split_tag(request.headers.get("To"))
        return cls(
            kind=kind,
            call_id=request.call_id,
            local_tag=local_tag,
            remote_tag=remote_tag,
            local=local,
            remote=remote,
            remote_target=request.uri,
            destination=destination,
            local_cseq=request.cseq.number,
            event=request.headers.get("Event"),
            invite_cseq=request.cseq.number,
        )

    @classmethod
    def of_request_received(cls, kind: DialogKind, request: Request, flow: Flow, local_tag: str) -> Dialog:
        """The dialog that our 2xx to an INVITE or SUBSCRIBE opens (RFC 3261 12.1.1)."""
        local, _ = split_tag(request.headers.get("To"))
        remote, remote_tag = split_tag(request.headers.get("From"))
        return cls(
            kind=kind,
            call_id=request.call_id,
            local_tag=local_tag,
            remote_tag=remote_tag,
            local=local,
            remote=remote,
            remote_target=contact_uri(request) or request.uri,
            destination=flow,
            remote_cseq=request.cseq.number,
            ours=False,
            route_set=tuple(record_route(request)),
            event=request.headers.get("Event"),
            invite_cseq=request.cseq.number,
        )

    def confirm(self, response: Response, flow: Flow) -> None:
        """Take tag, target, routes and flow out of a 2xx to our request (RFC 3261 12.1.2).

        Where we dialled, the destination stays: a connection that closed can be dialled again.
        """
        self.remote_tag = tag_of(response.headers.get("To")) or self.remote_tag
        self.remote_target = contact_uri(response) or self.remote_target
        self.route_set = tuple(reversed(record_route(response)))
        if isinstance(self.destination, Flow) or self.destination.transport == "udp":
            self.destination = flow

    def next_request(self, method: str, headers: list[tuple[str, str]], body: bytes = b"") -> Request:
        """A request inside the dialog: CSeq grows, except for ACK, which repeats that of the INVITE.

        Via and Contact are left to the core.
        """
        if method == "ACK":
            number = self.invite_cseq
        else:
            self.local_cseq += 1
            number = self.local_cseq
        remote_tag = f";tag={self.remote_tag}" if self.remote_tag else ""
        fields = [
            ("From", f"{self.local};tag={self.local_tag}"),
            ("To", f"{self.remote}{remote_tag}"),
            ("Call-ID", self.call_id),
            ("CSeq", f"{number} {method}"),
        ]
        fields += [("Route", route) for route in self.route_set]
        return Request(method, self.remote_target, Headers(fields + headers), body)

    def accepts(self, request: Request) -> bool:
        """Whether the From tag is the peer's. A peer that never told a tag may send any (quirk 41)."""
        return not self.remote_tag or tag_of(request.headers.get("From")) in (self.remote_tag, "")

    def take_cseq(self, number: int, method: str) -> bool:
        """Note the peer's CSeq. False when it runs backward for a request whose order matters."""
        if self.remote_cseq is not None and number < self.remote_cseq:
            # NOTIFY, MESSAGE and BYE are taken all the same: UDP reorders, and a lost event costs more
            return method in ("NOTIFY", "MESSAGE", "BYE", "OPTIONS")
        self.remote_cseq = number
        return True

    def snapshot(self) -> dict[str, Any]:
        """JSON-able values from which :meth:`from_snapshot` makes a dialog in a later process."""
        destination = self.destination
        flow = self.flow
        return {
            "kind": self.kind,
            "call_id": self.call_id,
            "local_tag": self.local_tag,
            "remote_tag": self.remote_tag,
            "local": self.local,
            "remote": self.remote,
            "remote_target": self.remote_target,
            "local_cseq": self.local_cseq,
            "remote_cseq": self.remote_cseq,
            "route_set": list(self.route_set),
            "event": self.event,
            "flow": flow.to_dict() if flow else None,
            "host": destination.host,
            "port": destination.port,
            "transport": destination.transport,
        }

    @classmethod
    def from_snapshot(cls, value: dict[str, Any]) -> Dialog:
        """Raises KeyError, TypeError or ValueError for a record that is none.

        A UDP flow is used again; of a TCP flow only the peer's address is left, to dial.
        """
        kind = value["kind"]
        if kind not in ("invite", "subscriber", "notifier"):
            raise ValueError(f"no dialog kind: {kind!r}")
        flow = Flow.from_dict(value["flow"]) if value.get("flow") else None
        destination: Flow | Target
        if flow is not None and not flow.reliable:
            destination = flow
        else:
            destination = Target(
                uri=str(value["remote_target"]),
                host=str(value["host"]),
                port=int(value["port"]),
                transport=value["transport"],
            )
        remote_cseq = value.get("remote_cseq")
        return cls(
            kind=kind,
            call_id=str(value["call_id"]),
            local_tag=str(value["local_tag"]),
            remote_tag=str(value["remote_tag"]),
            local=str(value["local"]),
            remote=str(value["remote"]),
            remote_target=str(value["remote_target"]),
            destination=destination,
            local_cseq=int(value["local_cseq"]),
            remote_cseq=None if remote_cseq is None else int(remote_cseq),
            route_set=tuple(str(route) for route in value.get("route_set", ())),
            event=str(value.get("event", "")),
        )


def contact_uri(message: Request | Response) -> str:
    """The URI of the first Contact as text; "" when there is none or it cannot be read."""
    text = message.headers.get("Contact")
    if not text or text == "*":
        return ""
    try:
        uri = split_name_addr(split_outside(text, ",")[0])[1]
    except ParseError:
        return ""
    return uri if uri and not any(char in uri for char in ' \t<>"') else ""


def record_route(message: Request | Response) -> list[str]:
    """The Record-Route values, one per hop, in the order of the message."""
    lines = message.headers.get_all("Record-Route")
    return [part.strip() for line in lines for part in split_outside(line, ",") if part.strip()]
