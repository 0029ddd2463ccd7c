"""Dialogs with uppers that a crash left behind: calls get BYE, subscriptions a last NOTIFY, so that uppers ask anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Protocol

from sip.errors import LocalError

log = logging.getLogger(__name__)

KIND = "upper"
ATTEMPTS_AT_ONCE = 20


class Journal(Protocol):
    """Small durable store, written in the background (gateway.storage.journal)."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None: ...

    def remove(self, kind: str, key: str) -> None: ...

    def load(self, kind: str) -> Awaitable[dict[str, dict[str, Any]]]: ...


class OrphanEnder(Protocol):
    """The part of the SIP endpoint that ends a dialog it no longer knows."""

    async def end_orphan(self, snapshot: dict[str, Any]) -> object: ...


class Dialog(Protocol):
    """A call or a subscription (sip.session, sip.subscription)."""

    @property
    def call_id(self) -> str: ...

    def snapshot(self) -> dict[str, Any]: ...


class UpperJournal:
    """Keeps what lives at uppers on record and ends, once at start, what an earlier life left (report F.1).

    The terminated NOTIFY says ``deactivated``: the upper shall subscribe anew at once (RFC 6665 4.1.3).
    """

    def __init__(self, *, journal: Journal, endpoint: OrphanEnder) -> None:
        self._journal = journal
        self._endpoint = endpoint
        self._slots = asyncio.Semaphore(ATTEMPTS_AT_ONCE)
        self.orphans_ended = 0

    def put(self, dialog: Dialog) -> None:
        self._journal.put(KIND, dialog.call_id, {"dialog": dialog.snapshot()})

    def remove(self, dialog: Dialog) -> None:
        self._journal.remove(KIND, dialog.call_id)

    async def end_orphans(self) -> None:
        """One attempt for each; an upper that does not answer has forgotten us anyhow."""
        left = await self._journal.load(KIND)
        await asyncio.gather(*(self._end(call_id, state) for call_id, state in left.items()))

    async def _end(self, call_id: str, state: dict[str, Any]) -> None:
        async with self._slots:
            dialog = state.get("dialog")
            if isinstance(dialog, dict):
                try:
                    await self._endpoint.end_orphan(dialog)
                except LocalError as error:
                    log.warning("upper dialog on record unreadable call_id=%s error=%s", call_id, error)
            self._journal.remove(KIND, call_id)
            self.orphans_ended += 1
            log.info("upper dialog of an earlier life ended call_id=%s", call_id)
