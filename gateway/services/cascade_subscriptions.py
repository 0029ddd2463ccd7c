"""Catalog subscriptions of one upper: what changed goes up in damped batches, each upper and scope for itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from config.settings import CascadeSettings
from gateway.clock import Clock
from gateway.services.cascade_changes import BATCH_ENTRIES, ChangeBuffer, batches
from gateway.services.cascade_ids import Key
from gateway.services.cascade_items import ItemWriter
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree, differences
from sip.endpoint import IncomingSubscribe
from sip.errors import RemoteError
from sip.manscdp import CONTENT_TYPE, CatalogItem, CatalogNotify
from sip.message import Response

log = logging.getLogger(__name__)

UDP_ROOM_BYTES = 700
"""Room for Items in one NOTIFY over UDP, so that the datagram stays below 1300 bytes."""
MOST_SUBSCRIPTIONS = 64
"""Per upper."""
DEFAULT_SUBSCRIPTION_S = 600
LONGEST_SUBSCRIPTION_S = 86_400


def granted_s(incoming: IncomingSubscribe) -> int:
    """The lifetime an upper may have: what it asked for, within our limit (9.11.3.2)."""
    asked = incoming.request.expires
    return min(DEFAULT_SUBSCRIPTION_S if asked is None else asked, LONGEST_SUBSCRIPTION_S)


class Notifier(Protocol):
    """What the feed needs of an accepted subscription (sip.endpoint.NotifierSubscription)."""

    async def notify(
        self, body: bytes, content_type: str, *, state: str = "active", reason: str = ""
    ) -> Response: ...


class CatalogFeed:
    """One subscription: its scope, what the upper was told, what waits to be told."""

    def __init__(
        self,
        notifier: Notifier,
        *,
        target: str,
        tree: Tree,
        link: UpperLink,
        items: ItemWriter,
        settings: CascadeSettings,
        clock: Clock,
        on_dead: Callable[[CatalogFeed], None],
    ) -> None:
        self.target = target
        self._notifier, self._link, self._items, self._clock = notifier, link, items, clock
        self._on_dead = on_dead
        self._tree = tree
        self._scope = {entry.exported_id for entry in tree.select(target)}
        self._told: dict[str, str] = {}
        self._buffer = ChangeBuffer(damping_s=settings.flap_damping_s, batch_s=settings.notify_batch_s)
        self._gone: dict[str, Entry] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report what is not ON at once (the upper takes the rest for ON), then changes as they come."""
        self._task = asyncio.create_task(self._run())

    async def drop(self) -> None:
        """Stop without a word: the dialog is dead or ended by the upper."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def status_changed(self, keys: Iterable[Key]) -> None:
        """These channels may have another status."""
        now = self._clock.mono()
        for key in keys:
            entry = self._tree.by_key.get(key)
            if entry is not None and entry.exported_id in self._scope:
                self._buffer.status_changed(entry.exported_id, now)
        self._wake.set()

    def tree_changed(self, old: Tree, new: Tree, touched: frozenset[Key]) -> None:
        """A new build of the catalog: what came, went or changed inside the scope."""
        now = self._clock.mono()
        self._tree = new
        before, self._scope = self._scope, {entry.exported_id for entry in new.select(self.target)}
        for change in differences(old, new, touched):
            code = change.entry.exported_id
            if code in before or code in self._scope:
                self._note(change.event, change.entry, before, now)
        for code in self._scope - before:
            if code in old.entries:
                self._note("ADD", new.entries[code], before, now)
        for code in before - self._scope:
            if code in new.entries:
                self._note("DEL", new.entries[code], before, now)
        self._wake.set()

    def _note(self, event: str, entry: Entry, before: set[str], now: float) -> None:
        code = entry.exported_id
        if event == "UPDATE" and (code not in before or code not in self._scope):
            return
        if event == "DEL":
            self._gone[code] = entry
            self._told.pop(code, None)
        self._buffer.structure_changed(event, code, now)

    # -- the task --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._send(self._first_report(), at_least_one=True)
            while True:
                now = self._clock.mono()
                due = self._buffer.take(now)
                if due:
                    await self._send(self._entries(due))
                    continue
                timer = self._buffer.next_timer(now)
                await self._pause(None if timer is None else max(0.0, timer - now))
        except RemoteError as error:
            log.info(
                "upper subscription ended platform_id=%s cause=%s", self._link.platform.platform_id, error
            )
            self._on_dead(self)

    async def _pause(self, delay_s: float | None) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _first_report(self) -> list[CatalogItem]:
        found = []
        for entry in self._tree.select(self.target):
            status = self._items.status(entry)
            if status != "ON":
                self._told[entry.exported_id] = status
                found.append(self._items.short(entry, status))
        return found

    def _entries(self, due: list[tuple[str, str]]) -> list[CatalogItem]:
        """What is true now for the codes that are due; a status that is what the upper believes is left out."""
        found = []
        for event, code in due:
            if event == "DEL":
                gone = self._gone.pop(code, None)
                if gone is not None:
                    found.append(self._items.short(gone, "DEL"))
                continue
            entry = self._tree.entries.get(code)
            if entry is None:
                continue
            status = self._items.status(entry)
            known = self._told.get(code, "ON")
            if status == "ON":
                self._told.pop(code, None)
            else:
                self._told[code] = status
            if event:
                found.append(self._items.full(entry, event))
            elif status != known:
                found.append(self._items.short(entry, status))
        return found

    async def _send(self, items: list[CatalogItem], *, at_least_one: bool = False) -> None:
        """NOTIFYs one after another. RemoteError: the subscription is dead."""
        for body in notify_bodies(self._link, self.target, items, at_least_one=at_least_one):
            response = await self._notifier.notify(body, CONTENT_TYPE)
            if response.status // 100 != 2:
                raise RemoteError(f"NOTIFY answered {response.status}", status=response.status)


def notify_bodies(
    link: UpperLink, target: str, items: list[CatalogItem], *, at_least_one: bool = False
) -> Iterator[bytes]:
    """The bodies of the NOTIFYs that carry ``items``, cut to what the upper can take; SumNum = Num in each (N.1)."""
    udp = link.target.transport == "udp"
    full_entries = link.platform.page_size_udp if udp else link.platform.page_size_tcp

    def encoded(part: list[CatalogItem], sn: int = 0) -> bytes:
        return link.encode(CatalogNotify(sn=sn, device_id=target, sum_num=len(part), items=part))

    empty = len(encoded([]))
    cuts = list(
        batches(
            ((item.event in ("ADD", "UPDATE"), encoded([item]) if udp else b"") for item in items),
            entries=BATCH_ENTRIES,
            full_entries=max(1, full_entries),
            size=lambda data: len(data) - empty,
            limit_bytes=UDP_ROOM_BYTES if udp else 0,
        )
    )
    if not cuts and at_least_one:
        cuts = [slice(0, 0)]
    for cut in cuts:
        yield encoded(items[cut], link.next_sn())
