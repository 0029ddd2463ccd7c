"""Subscriptions (RFC 6665) from both sides: one that refreshes itself, and one that is notified in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sip.dialog import Dialog
from sip.errors import RemoteError, TransportFailed
from sip.flow import Flow
from sip.incoming import Incoming, RequestCallback
from sip.message import Request, Response

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

log = logging.getLogger(__name__)

MAX_QUEUED_NOTIFIES = 1000
_FINAL_NOTIFY_S = 5.0


class Subscription:
    """We subscribed. Refreshes itself inside the dialog (same Event id, CSeq+1) until ``close``.

    ``on_notify`` answers each NOTIFY; ``on_end`` is told once why it ended without our will: the reason of the
    peer's ``terminated``, ``gone`` (481), ``refused`` (another status to a refresh), ``expired`` or
    ``transport``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        dialog: Dialog,
        *,
        asked_s: int,
        on_notify: RequestCallback,
        on_end: Callable[[str], None],
        body: bytes = b"",
        content_type: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._endpoint = endpoint
        self.dialog = dialog
        self.on_notify = on_notify
        self.on_end = on_end
        self.asked_s = asked_s
        self.expires_s = 0
        self._body = body
        self._content_type = content_type
        self._headers = tuple(headers)
        self._expires_mono = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    @property
    def event(self) -> str:
        return self.dialog.event

    @property
    def call_id(self) -> str:
        return self.dialog.call_id

    @property
    def active(self) -> bool:
        return not self._over

    def granted(self, response: Response) -> None:
        """A 2xx to SUBSCRIBE: take the granted lifetime and plan the refresh."""
        granted = response.expires
        self.expires_s = self.asked_s if granted is None else min(granted, self.asked_s)
        self._expires_mono = time.monotonic() + self.expires_s
        if granted == 0 and self.asked_s:
            self._ended("expired")
        elif not self._over:
            self._plan(self.expires_s * 0.85)

    def _plan(self, delay_s: float) -> None:
        self._endpoint.never_mind(self._timer)
        self._timer = self._endpoint.later(max(delay_s, 0.5), self._refresh_soon)

    def _refresh_soon(self) -> None:
        self._endpoint.spawn(self._refresh())

    async def _refresh(self) -> None:
        remaining = self._expires_mono - time.monotonic()
        try:
            response = await self._exchange(self.asked_s, self._body)
        except RemoteError:
            if remaining > 10.0 and not self._over:
                self._plan(remaining / 2)
            else:
                self._ended("expired")
            return
        if 200 <= response.status < 300:
            self.granted(response)
        else:
            self._ended("gone" if response.status == 481 else "refused")

    async def _exchange(self, expires_s: int, body: bytes) -> Response:
        headers = [("Event", self.event), ("Expires", str(expires_s)), *self._headers]
        return await self._endpoint.exchange_in_dialog(
            self.dialog, "SUBSCRIBE", body=body, content_type=self._content_type, headers=headers
        )

    async def close(self) -> None:
        """Unsubscribe (Expires 0 inside the dialog). The last NOTIFY is still answered. Idempotent."""
        if self._over:
            return
        self._over = True
        self._endpoint.never_mind(self._timer)
        try:
            await self._exchange(0, self._body)
        except RemoteError as error:
            log.info("event=unsubscribe_unanswered call_id=%s error=%s", self.call_id, error)
        self._endpoint.later(_FINAL_NOTIFY_S, lambda: self._endpoint.core.forget_dialog(self.dialog))

    def notified(self, request: Request) -> None:
        """Look at Subscription-State after the NOTIFY was handed on."""
        state, _, params = request.headers.get("Subscription-State").partition(";")
        if state.strip().lower() != "terminated":
            return
        reason = ""
        for part in params.split(";"):
            name, _, value = part.partition("=")
            if name.strip().lower() == "reason":
                reason = value.strip()
        self._ended(reason or "terminated")

    def _ended(self, reason: str) -> None:
        self._endpoint.never_mind(self._timer)
        self._endpoint.core.forget_dialog(self.dialog)
        if not self._over:
            self._over = True
            self.on_end(reason)

    def flow_lost(self) -> None:
        self._ended("transport")

    def snapshot(self) -> dict[str, Any]:
        """JSON-able: enough to unsubscribe in a later process (``Endpoint.end_orphan``)."""
        return self.dialog.snapshot()


class NotifierSubscription:
    """The peer subscribed. ``notify`` sends one NOTIFY after the other; nothing is sent after the end (G118).

    ``on_end`` is told once: expired, unsubscribed, gone (481 to a NOTIFY), timeout, transport or local.
    ``on_refresh`` is called after a refresh was answered; what it returns is ignored.
    """

    def __init__(self, endpoint: Endpoint, dialog: Dialog, request: Request, flow: Flow) -> None:
        self._endpoint = endpoint
        self.dialog = dialog
        self.request = request
        self.flow = flow
        self.max_expires_s = 0
        self.expires_at_mono = 0.0
        self.on_end: Callable[[str], None] | None = None
        self.on_refresh: Callable[[Incoming], None] | None = None
        self._lock = asyncio.Lock()
        self._queued = 0
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._closing_cause = ""

    @property
    def event(self) -> str:
        """The Event value as the peer wrote it, repeated in each NOTIFY (G115)."""
        return self.dialog.event

    @property
    def call_id(self) -> str:
        return self.dialog.call_id

    @property
    def active(self) -> bool:
        return not self._over

    def extend(self, expires_s: int) -> None:
        """Set the lifetime from now on."""
        self.expires_at_mono = time.monotonic() + expires_s
        self._endpoint.never_mind(self._timer)
        self._timer = self._endpoint.later(expires_s, lambda: self.finish("expired"))

    async def notify(
        self,
        body: bytes,
        content_type: str = "Application/MANSCDP+xml",
        *,
        state: str = "active",
        reason: str = "",
    ) -> Response:
        """Send one NOTIFY and wait for its answer. ``state`` terminated ends the subscription.

        Raises TransactionTimeout, TransportFailed (label ``ended`` when it is over, ``notify_queue`` when too
        many wait).
        """
        if self._queued >= MAX_QUEUED_NOTIFIES:
            raise TransportFailed("too many NOTIFY are waiting", label="notify_queue")
        self._queued += 1
        try:
            async with self._lock:
                if self._over:
                    raise TransportFailed("the subscription is over", label="ended")
                if state == "terminated":
                    self._closing_cause = self._closing_cause or "local"
                    self._stop()
                return await self._send(body, content_type, state, reason)
        finally:
            self._queued -= 1

    async def _send(self, body: bytes, content_type: str, state: str, reason: str) -> Response:
        if state == "terminated":
            value = f"terminated;reason={reason or 'timeout'}"
        else:
            value = f"{state};expires={max(0, round(self.expires_at_mono - time.monotonic()))}"
        headers = [("Event", self.event), ("Subscription-State", value)]
        try:
            response = await self._endpoint.exchange_in_dialog(
                self.dialog, "NOTIFY", body=body, content_type=content_type, headers=headers
            )
        except RemoteError as error:
            self.finish("timeout" if error.status == 408 else "transport")
            raise
        if state == "terminated":
            self.finish("local")
        elif response.status in (404, 405, 410, 416, 480, 481, 489, 501, 604):
            self.finish("gone")  # RFC 6665 4.2.2
        return response

    def finish(self, cause: str) -> None:
        """The end, from whatever side; nothing is sent any more. ``on_end`` hears the first cause only."""
        self._stop()
        self._endpoint.core.forget_dialog(self.dialog)
        callback, self.on_end = self.on_end, None
        if callback is not None:
            callback(self._closing_cause or cause)

    def _stop(self) -> None:
        self._over = True
        self._endpoint.never_mind(self._timer)

    async def finish_unsubscribed(self) -> None:
        """Expires 0 came: the closing NOTIFY that RFC 6665 4.2.1.4 asks for, then the end."""
        if self._over:
            return
        self._closing_cause = "unsubscribed"
        try:
            await self.notify(b"", state="terminated", reason="timeout")
        except RemoteError as error:
            log.info("event=last_notify_unanswered call_id=%s error=%s", self.call_id, error)

    def flow_lost(self) -> None:
        self.finish("transport")

    def snapshot(self) -> dict[str, Any]:
        """JSON-able: enough to end it in a later process (``Endpoint.end_orphan``)."""
        return self.dialog.snapshot()
