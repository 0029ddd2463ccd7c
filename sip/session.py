"""A call, from whichever side it was opened: in-dialog requests, its end, and what the journal needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sip.dialog import Dialog
from sip.errors import RemoteError
from sip.flow import Flow
from sip.incoming import RequestCallback
from sip.message import Request, Response
from sip.uri import split_name_addr

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

log = logging.getLogger(__name__)


class InviteSession:
    """A confirmed INVITE dialog.

    ``on_request`` answers INFO and MESSAGE inside it (the endpoint's handler does when it is None).
    ``ended`` gets the cause: local, remote_bye, ack_missing or transport.
    """

    def __init__(
        self, endpoint: Endpoint, dialog: Dialog, flow: Flow, *, local_sdp: bytes, remote_sdp: bytes
    ) -> None:
        self._endpoint = endpoint
        self.dialog = dialog
        self.flow = flow
        self.local_sdp = local_sdp
        self.remote_sdp = remote_sdp
        self.ack_body = b""
        self.accepted: Response | None = None
        """The 200 to our INVITE; None where we were called."""
        self.on_request: RequestCallback | None = None
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.acknowledged: asyncio.Future[None] = loop.create_future()

    @property
    def call_id(self) -> str:
        return self.dialog.call_id

    @property
    def remote_uri(self) -> str:
        """The peer's URI as its From or To said."""
        return split_name_addr(self.dialog.remote)[1]

    async def bye(self, headers: Sequence[tuple[str, str]] = ()) -> bool:
        """End the call. Does nothing when it is over; a peer that knows the call no more is no error.

        False when the peer did not answer: it may not know that the call is over.
        """
        if self.ended.done():
            return True
        self.end("local")
        try:
            await self._endpoint.exchange_in_dialog(self.dialog, "BYE", headers=headers)
        except RemoteError as error:
            log.info("event=bye_unanswered call_id=%s error=%s", self.call_id, error)
            return False
        finally:
            self._endpoint.core.forget_dialog(self.dialog)
        return True

    async def request(
        self,
        method: str,
        *,
        body: bytes = b"",
        content_type: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float | None = None,
    ) -> Response:
        """A request inside the call (INFO, MESSAGE): its final response of any status.

        Raises TransactionTimeout or TransportFailed. After 481 the call is over (RFC 3261 12.2.1.2).
        """
        response = await self._endpoint.exchange_in_dialog(
            self.dialog, method, body=body, content_type=content_type, headers=headers, timeout_s=timeout_s
        )
        if response.status == 481:
            self.end("remote_bye")
            self._endpoint.core.forget_dialog(self.dialog)
        return response

    def keeps_offer(self, request: Request) -> bool:
        """Whether a re-INVITE changes nothing, so that it can be answered with the SDP we have."""
        return not request.body or request.body.strip() == self.remote_sdp.strip()

    def acknowledge(self, body: bytes) -> None:
        """The ACK of our 200 came; that of a later re-INVITE changes nothing."""
        if not self.acknowledged.done():
            self.ack_body = body
            self.acknowledged.set_result(None)

    def end(self, cause: str) -> None:
        """Mark the call as over; the first cause stays."""
        if not self.ended.done():
            self.ended.set_result(cause)
        if not self.acknowledged.done():
            self.acknowledged.set_result(None)

    def snapshot(self) -> dict[str, Any]:
        """JSON-able: enough to end the call in a later process (``Endpoint.end_orphan``)."""
        return self.dialog.snapshot()
