"""What both sides of a SIP element share: its output, events, dialogs, deadlines and bounds."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sip.dialog import Dialog, Key, tag_of
from sip.events import Event
from sip.flow import Flow, Target
from sip.message import Request
from sip.observer import Observer
from sip.timers import Deadlines, Timers
from sip.transaction import ClientTransaction, InviteServerTransaction

MAGIC_COOKIE = "z9hG4bK"
ALLOWED_METHODS = (
    "INVITE",
    "ACK",
    "INFO",
    "CANCEL",
    "BYE",
    "OPTIONS",
    "MESSAGE",
    "REGISTER",
    "SUBSCRIBE",
    "NOTIFY",
)
ALLOW = ", ".join(ALLOWED_METHODS)

Destination = Flow | Target
Output = tuple[bytes, Destination]
HeaderList = Iterable[tuple[str, str]]


def method_label(method: str) -> str:
    """A method as a metric label: one of ours, or ``other``."""
    return method if method in ALLOWED_METHODS else "other"


@dataclass(frozen=True, slots=True)
class CoreLimits:
    """Bounds of what one core remembers."""

    stored_answers: int = 100_000
    open_invites: int = 5_000
    client_transactions: int = 50_000
    late_invites: int = 4_000
    late_invite_s: float = 180.0
    stream_above_bytes: int = 1300
    """A request longer than this goes by TCP where no flow binds it (RFC 3261 18.1.1)."""
    no_stream_memory_s: float = 300.0
    """How long a peer that refused TCP is spared another try."""


class Dialogs:
    """The open dialogs, found by Call-ID and local tag, or by Call-ID alone for peers without tags."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Dialog] = {}
        self._by_call: dict[str, list[Dialog]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, dialog: object) -> bool:
        return isinstance(dialog, Dialog) and self._by_key.get(dialog.key) is dialog

    def add(self, dialog: Dialog) -> None:
        self._by_key[dialog.key] = dialog
        self._by_call.setdefault(dialog.call_id, []).append(dialog)

    def remove(self, dialog: Dialog) -> bool:
        """False when it was not there."""
        if dialog not in self:
            return False
        del self._by_key[dialog.key]
        others = [other for other in self._by_call[dialog.call_id] if other is not dialog]
        if others:
            self._by_call[dialog.call_id] = others
        else:
            del self._by_call[dialog.call_id]
        return True

    def find(self, request: Request, flow: Flow, to_tag: str) -> Dialog | None:
        """The dialog of a request. Without a To tag (quirk 41): the only one of that Call-ID, from its host."""
        call_id = request.headers.index["call-id"]
        if to_tag:
            dialog = self._by_key.get((call_id, to_tag))
            return dialog if dialog is not None and dialog.accepts(request) else None
        found = self._by_call.get(call_id, ())
        if len(found) == 1 and found[0].destination.host == flow.host and found[0].accepts(request):
            return found[0]
        return None

    def on_flow(self, flow: Flow) -> list[Dialog]:
        """Dialogs whose requests go over this very flow."""
        return [dialog for dialog in self._by_key.values() if dialog.destination == flow]


class Element:
    """State of one SIP element. ``address_of`` gives the sent-by text ``host:port`` towards a destination."""

    def __init__(
        self,
        address_of: Callable[[Destination], str],
        timers: Timers,
        limits: CoreLimits,
        observer: Observer,
        user_agent: str,
    ) -> None:
        self.address_of = address_of
        self.timers = timers
        self.limits = limits
        self.observer = observer
        self.user_agent = user_agent
        self.out: list[Output] = []
        self.events: list[Event] = []
        self.dialogs = Dialogs()
        self.deadlines: Deadlines[ClientTransaction | InviteServerTransaction] = Deadlines()

    def send(self, data: bytes, destination: Destination, label: str) -> None:
        """Put a message out for the first time; ``label`` is its method or status."""
        self.out.append((data, destination))
        self.observer.on_sent(label, destination)

    def with_via(self, request: Request, destination: Destination) -> tuple[str, bytes]:
        """Give a request a Via of its own for this destination: its branch and the bytes."""
        branch = MAGIC_COOKIE + secrets.token_hex(10)
        sent_by = self.address_of(destination)
        request.headers.remove("Via")
        request.headers.set_first(
            "Via", f"SIP/2.0/{destination.transport.upper()} {sent_by};rport;branch={branch}"
        )
        return branch, request.to_bytes()


def invite_key(request: Request) -> tuple[str, str, str]:
    """What an INVITE, its ACK and its CANCEL share whatever their branch is (RFC 3261 17.2.3, RFC 2543)."""
    index = request.headers.index
    return index["call-id"], index["cseq"].partition(" ")[0], tag_of(index["from"])
