"""What the SIP core reports: one small record per kind of event."""

from __future__ import annotations

from dataclasses import dataclass

from sip.dialog import Dialog
from sip.errors import RemoteError
from sip.flow import Flow
from sip.message import Request, Response
from sip.transaction import ClientTransaction, InviteServerTransaction, ServerTransaction


@dataclass(slots=True)
class RequestReceived:
    """A new request that needs an answer by ``respond``. ``dialog``: the one it belongs to."""

    request: Request
    flow: Flow
    transaction: ServerTransaction
    dialog: Dialog | None = None


@dataclass(slots=True)
class ResponseReceived:
    """An answer to a request of ours; for a 2xx to INVITE the ACK went out and ``transaction.dialog`` is set."""

    transaction: ClientTransaction
    response: Response
    flow: Flow


@dataclass(slots=True)
class TransactionFailed:
    """No final answer will come: TransactionTimeout or TransportFailed."""

    transaction: ClientTransaction
    error: RemoteError


@dataclass(slots=True)
class InviteCancelled:
    """The peer took its INVITE back; 200 and 487 are sent."""

    transaction: InviteServerTransaction


@dataclass(slots=True)
class Acknowledged:
    """The ACK of our 2xx to an INVITE; its body may be an SDP answer."""

    transaction: InviteServerTransaction
    request: Request


@dataclass(slots=True)
class AckMissed:
    """64*T1 passed without the ACK; BYE was sent."""

    transaction: InviteServerTransaction


@dataclass(slots=True)
class DialogEnded:
    """The peer sent BYE; 200 is sent."""

    dialog: Dialog
    request: Request


@dataclass(slots=True)
class FlowLost:
    """The connection of a dialog closed."""

    dialog: Dialog


Event = (
    RequestReceived
    | ResponseReceived
    | TransactionFailed
    | InviteCancelled
    | Acknowledged
    | AckMissed
    | DialogEnded
    | FlowLost
)
