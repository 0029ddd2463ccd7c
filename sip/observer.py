"""What can be watched: a base class whose methods do nothing. Metrics and traces override what they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sip.flow import Flow, Target

Direction = Literal["in", "out"]
Tap = Callable[[Direction, Flow | Target, bytes], None]
"""Who keeps the wire: called with direction, flow (or where it goes) and the message's bytes."""


class Observer:
    """Called synchronously on the hot path, so overriding methods must be short and must not raise.

    Labels come from small fixed sets; methods that are not ours are counted as ``other``.
    """

    def on_received(self, method_or_status: str, flow: Flow) -> None:
        """A message that parsed: its method, or its status as text."""

    def on_sent(self, method_or_status: str, destination: Flow | Target) -> None:
        """A message that leaves for the first time."""

    def retransmitted(self, method: str, direction: Direction = "in") -> None:
        """A repetition: of the peer's (``in``) or of ours (``out``)."""

    def timed_out(self, method: str) -> None:
        """A request of ours got no final answer."""

    def malformed(self, label: str, flow: Flow) -> None:
        """Bytes that are no usable message; ``label`` says in one word why."""

    def dropped(self, label: str) -> None:
        """Work refused or thrown away because a bound was reached."""

    def tls_refused(self, direction: Direction, cause: str) -> None:
        """A TLS handshake failed: of a peer that called (``in``) or that we called (``out``); ``cause`` in one word."""

    def wire(self, direction: Direction, flow: Flow | Target, data: bytes) -> None:
        """Every message as bytes, credentials included. Called only when a subclass overrides it."""
