"""Requests that go out: built, sent, authenticated once, waited for, and given up cleanly."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from sip.dialog import Dialog
from sip.digest import Credentials, answer_challenges
from sip.errors import LocalError, ParseError, Rejected, RemoteError, TransactionTimeout
from sip.events import ResponseReceived
from sip.flow import Flow, Target
from sip.headers import Headers
from sip.incoming import Identity, RequestCallback
from sip.message import Request, Response
from sip.session import InviteSession
from sip.subscription import Subscription
from sip.transaction import ClientTransaction
from sip.uri import SipUri, split_name_addr

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

log = logging.getLogger(__name__)

HeaderSequence = Sequence[tuple[str, str]]
_MAX_REMEMBERED_CALLS = 20_000
_WITH_CONTACT = frozenset({"REGISTER", "INVITE", "SUBSCRIBE", "NOTIFY"})


class Calling:
    """The client half of an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._cseqs: dict[str, int] = {}

    def build(
        self,
        method: str,
        target: Target,
        *,
        to: str,
        sender: Identity | None,
        body: bytes = b"",
        content_type: str = "",
        headers: HeaderSequence = (),
        call_id: str | None = None,
        cseq: int | None = None,
        from_tag: str | None = None,
    ) -> Request:
        """A request outside of dialogs. Raises LocalError for a header value with a line break."""
        endpoint = self._endpoint
        who = sender or endpoint.identity
        call_id = call_id or secrets.token_hex(16)
        if cseq is None:
            cseq = self._cseqs.get(call_id, 0) + 1
        fields = Headers()
        fields.add("From", f"<{who.uri}>;tag={from_tag or secrets.token_hex(8)}")
        fields.add("To", to if "<" in to else f"<{to}>")
        fields.add("Call-ID", call_id)
        fields.add("CSeq", f"{cseq} {method}")
        extra = headers
        if method in _WITH_CONTACT:
            extra = endpoint.with_contact(headers, target.flow or target, who.user)
        for name, value in extra:
            fields.add(name, value)
        if body and content_type:
            fields.add("Content-Type", content_type)
        return Request(method, target.uri, fields, body)

    def _note_cseq(self, call_id: str, number: int) -> None:
        if call_id not in self._cseqs and len(self._cseqs) >= _MAX_REMEMBERED_CALLS:
            self._cseqs.pop(next(iter(self._cseqs)))
        self._cseqs[call_id] = number

    # -- transactions -------------------------------------------------------------------------------------

    async def authenticated(
        self,
        request: Request,
        destination: Flow | Target,
        credentials: Credentials | None,
        timeout_s: float | None,
        dialog: Dialog | None = None,
    ) -> tuple[Response, Flow, ClientTransaction]:
        """One request, and again with an answer to its challenge; twice when the first answer was stale."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        attempt = 0
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._note_cseq(request.call_id, request.cseq.number)
            done = await self.exchange(request, destination, left)
            response = done[0]
            if response.status not in (401, 407) or credentials is None or attempt == 2:
                return done
            again = _answered(request, response, credentials, only_stale=attempt > 0)
            if again is None:
                return done
            if dialog is not None:
                dialog.local_cseq = again.cseq.number
            request, attempt = again, attempt + 1

    async def exchange(
        self, request: Request, destination: Flow | Target, timeout_s: float | None
    ) -> tuple[Response, Flow, ClientTransaction]:
        """One transaction. Being cancelled or out of time gives it up (an INVITE by CANCEL)."""
        endpoint = self._endpoint
        endpoint.require_open()
        future: asyncio.Future[tuple[Response, Flow]] = asyncio.get_running_loop().create_future()
        transaction = endpoint.core.request(request, destination, time.monotonic(), context=future)
        endpoint.flush()
        try:
            async with asyncio.timeout(timeout_s):
                response, flow = await future
        except TimeoutError:
            self._give_up(transaction)
            raise TransactionTimeout(
                f"no answer to {request.method}", provisional=transaction.provisional
            ) from None
        except asyncio.CancelledError:
            self._give_up(transaction)
            raise
        return response, flow, transaction

    def _give_up(self, transaction: ClientTransaction) -> None:
        self._endpoint.core.cancel(transaction, time.monotonic())
        self._endpoint.flush()

    def answered(self, event: ResponseReceived) -> None:
        """Wake the waiting coroutine.

        The session of a call is made here and not by that coroutine: a BYE may be the next thing that we read.
        """
        if event.response.status < 200:
            return
        transaction = event.transaction
        future = transaction.context
        if future is None or future.done():
            return
        dialog = transaction.dialog
        if dialog is not None:
            dialog.context = InviteSession(
                self._endpoint,
                dialog,
                event.flow,
                local_sdp=transaction.request.body,
                remote_sdp=event.response.body,
            )
            dialog.context.accepted = event.response
            dialog.context.acknowledged.set_result(None)
        future.set_result((event.response, event.flow))

    async def in_dialog(
        self,
        dialog: Dialog,
        method: str,
        *,
        body: bytes = b"",
        content_type: str = "",
        headers: HeaderSequence = (),
        timeout_s: float | None = None,
    ) -> Response:
        """A request inside a dialog, on its flow; its final response. Raises as ``Endpoint.request`` does."""
        fields = list(headers)
        if method in _WITH_CONTACT:
            user = _user_of(dialog.local) or self._endpoint.identity.user
            fields = self._endpoint.with_contact(fields, dialog.destination, user)
        if body and content_type:
            fields.append(("Content-Type", content_type))
        request = dialog.next_request(method, fields, body)
        response, _, _ = await self.exchange(request, dialog.destination, timeout_s)
        return response

    # -- calls and subscriptions --------------------------------------------------------------------------

    async def invite(
        self,
        request: Request,
        target: Target,
        credentials: Credentials | None,
        timeout_s: float,
    ) -> InviteSession:
        """See ``Endpoint.invite``."""
        response, _, transaction = await self.authenticated(request, target, credentials, timeout_s)
        if not 200 <= response.status < 300 or transaction.dialog is None:
            raise Rejected(response)
        return cast(InviteSession, transaction.dialog.context)

    async def subscribe(
        self,
        request: Request,
        target: Target,
        *,
        headers: HeaderSequence,
        content_type: str,
        on_notify: RequestCallback,
        on_end: Callable[[str], None],
        credentials: Credentials | None,
        timeout_s: float | None,
    ) -> Subscription:
        """See ``Endpoint.subscribe``."""
        core = self._endpoint.core
        dialog = Dialog.of_request_sent("subscriber", request, target.flow or target)
        subscription = Subscription(
            self._endpoint,
            dialog,
            asked_s=request.expires or 0,
            on_notify=on_notify,
            on_end=on_end,
            body=request.body,
            content_type=content_type,
            headers=headers,
        )
        dialog.context = subscription
        core.add_dialog(dialog)
        try:
            response, flow, _ = await self.authenticated(request, target, credentials, timeout_s, dialog)
            if not 200 <= response.status < 300:
                raise Rejected(response)
        except (RemoteError, asyncio.CancelledError):
            core.forget_dialog(dialog)
            raise
        dialog.confirm(response, flow)
        subscription.granted(response)
        return subscription

    async def end_orphan(self, snapshot: dict[str, Any], flow: Flow | None) -> bool:
        """See ``Endpoint.end_orphan``."""
        try:
            dialog = Dialog.from_snapshot(snapshot)
        except (KeyError, TypeError, ValueError) as error:
            raise LocalError(f"no dialog snapshot: {error}") from error
        if flow is not None:
            dialog.destination = flow
        dialog.local_cseq += 1000  # requests may have gone out after the snapshot was taken
        method, headers = "BYE", []
        if dialog.kind == "subscriber":
            method, headers = "SUBSCRIBE", [("Event", dialog.event), ("Expires", "0")]
        elif dialog.kind == "notifier":
            method = "NOTIFY"
            headers = [("Event", dialog.event), ("Subscription-State", "terminated;reason=deactivated")]
        try:
            await self.in_dialog(dialog, method, headers=headers)
        except RemoteError as error:
            log.info("event=orphan_unanswered call_id=%s error=%s", dialog.call_id, error)
            return False
        return True


def _answered(
    request: Request, response: Response, credentials: Credentials, *, only_stale: bool
) -> Request | None:
    """The request once more with an answer to the challenge; None when there is nothing to answer."""
    proxy = response.status == 407
    challenges = response.headers.get_all("Proxy-Authenticate" if proxy else "WWW-Authenticate")
    if only_stale and not any("stale=true" in value.lower().replace('"', "") for value in challenges):
        return None
    answer = answer_challenges(
        challenges, credentials, method=request.method, uri=request.uri, body=request.body
    )
    if answer is None:
        return None
    again = Request(request.method, request.uri, request.headers.copy(), request.body)
    again.headers.set("Proxy-Authorization" if proxy else "Authorization", answer)
    again.headers.set("CSeq", f"{request.cseq.number + 1} {request.method}")
    return again


def _user_of(address: str) -> str:
    try:
        return SipUri.parse(split_name_addr(address)[1]).user
    except ParseError:
        return ""
