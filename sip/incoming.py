"""What a handler is given and what it gives back: incoming requests and ``Reply``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sip.errors import LocalError
from sip.flow import Flow
from sip.message import Request

if TYPE_CHECKING:
    import asyncio

    from sip.endpoint import Endpoint
    from sip.session import InviteSession
    from sip.subscription import NotifierSubscription
    from sip.transaction import InviteServerTransaction, RequestTransaction


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are towards a peer: user (a 20-digit code) and domain (its first ten digits, as a rule)."""

    user: str
    domain: str

    @property
    def uri(self) -> str:
        return f"sip:{self.user}@{self.domain}"


@dataclass(slots=True)
class Reply:
    """A final answer. ``reason`` "" takes the usual phrase of the status."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    content_type: str = ""
    reason: str = ""


@dataclass(slots=True, eq=False)
class Incoming:
    """A request, the flow it came on, and ``time.monotonic()`` of its arrival.

    ``session`` is the InviteSession in whose dialog it came, None outside of one.
    """

    request: Request
    flow: Flow
    received_mono: float
    session: InviteSession | None = None


@dataclass(slots=True, eq=False)
class IncomingInvite(Incoming):
    """An INVITE that waits for an answer; 100 is sent. When the peer cancels, the handler's task is cancelled
    and 487 sent. To refuse, return a Reply from the handler."""

    _endpoint: Any = field(default=None, repr=False)
    _transaction: Any = field(default=None, repr=False)
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def offer(self) -> bytes:
        """The SDP offer; empty when the answer will come in the ACK (third-party call control)."""
        return self.request.body

    def progress(
        self,
        status: int = 180,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
    ) -> None:
        """Send a provisional answer (101 to 199)."""
        if not 100 < status < 200:
            raise LocalError(f"{status} is no provisional status")
        endpoint: Endpoint = self._endpoint
        endpoint.progress(self, Reply(status, headers, body, content_type))

    async def accept(
        self,
        answer: bytes,
        *,
        content_type: str = "application/sdp",
        headers: Sequence[tuple[str, str]] = (),
    ) -> InviteSession:
        """Send 200 with our SDP and wait for the ACK.

        Raises AckMissing (after BYE was sent) when none comes in 64*T1, LocalError when the INVITE is over
        already. The ACK's body is ``session.ack_body``.
        """
        endpoint: Endpoint = self._endpoint
        return await endpoint.accept_invite(self, answer, content_type, headers)

    @property
    def transaction(self) -> InviteServerTransaction:
        return self._transaction  # type: ignore[no-any-return]


@dataclass(slots=True, eq=False)
class IncomingSubscribe(Incoming):
    """A SUBSCRIBE that would open a subscription. To refuse, return a Reply from the handler."""

    _endpoint: Any = field(default=None, repr=False)
    _transaction: Any = field(default=None, repr=False)

    @property
    def event(self) -> str:
        """The Event header exactly as received, its id included."""
        return self.request.headers.get("Event")

    def accept(self, expires_s: int, headers: Sequence[tuple[str, str]] = ()) -> NotifierSubscription:
        """Send 200 with ``Expires`` and open the subscription. The caller owes a first NOTIFY at once."""
        endpoint: Endpoint = self._endpoint
        return endpoint.accept_subscription(self, expires_s, headers)

    @property
    def transaction(self) -> RequestTransaction:
        return self._transaction  # type: ignore[no-any-return]


Handler = Callable[[Incoming], Reply | Awaitable[Reply | None] | None]
"""A plain function that returns a Reply is answered at once, without a task. None: the handler accepted an
INVITE or SUBSCRIBE itself."""

RequestCallback = Callable[[Incoming], Reply | Awaitable[Reply]]
