"""Answers to an upper's catalog queries: cut into parts, each sent after the 200 of the one before (2022 annex M)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from gateway.services.cascade_items import ItemWriter
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree, added_within
from sip.errors import RemoteError
from sip.flow import Target
from sip.manscdp import Body, CatalogQuery, CatalogResponse

log = logging.getLogger(__name__)

MOST_RECORDS = 10_000
"""Per message; an answer with more in all goes by TCP (annex M)."""
TRIES = 3
UDP_PAUSE_S = 0.01
"""At most a hundred parts a second toward one upper: its socket buffer is finite (quirk 21)."""
AT_ONCE = 2
MOST_WAITING = 16


class CatalogAnswers:
    """Sends answers to one upper; a few at a time, the rest in a short queue."""

    def __init__(self, link: UpperLink, items: ItemWriter) -> None:
        self._link, self._items = link, items
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused = 0
        """Queries not answered because too many were open."""
        self.abandoned = 0
        """Answers given up because the upper did not take a part."""

    def start(self, query: CatalogQuery, tree: Tree) -> None:
        """Answer in the background. A query more than the queue holds is dropped and counted."""
        if len(self._tasks) >= AT_ONCE + MOST_WAITING:
            self.refused += 1
            log.warning(
                "catalog query dropped platform_id=%s sn=%d", self._link.platform.platform_id, query.sn
            )
            return
        task = asyncio.create_task(self._answer(query, tree))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drop(self) -> None:
        """The upper is gone: stop in the middle."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, query: CatalogQuery, tree: Tree) -> None:
        entries = added_within(tree.select(query.device_id), query.start_time, query.end_time)
        async with self._slots:
            parts = await self._send_all(query, entries)
        log.info(
            "catalog answered platform_id=%s sn=%d target=%s entries=%d parts=%d",
            self._link.platform.platform_id,
            query.sn,
            query.device_id,
            len(entries),
            parts,
        )

    async def _send_all(self, query: CatalogQuery, entries: Sequence[Entry]) -> int:
        """Returns how many parts the upper took."""
        target, size, pause_s = self._way(len(entries))
        total = len(entries)
        starts = range(0, total, size) if total else (0,)
        for done, start in enumerate(starts):
            items = [self._items.full(entry) for entry in entries[start : start + size]]
            part = CatalogResponse(sn=query.sn, device_id=query.device_id, sum_num=total, items=items)
            if not await self._send(part, target):
                self.abandoned += 1
                return done
            if pause_s and start + size < total:
                await asyncio.sleep(pause_s)
        return len(starts)

    def _way(self, total: int) -> tuple[Target, int, float]:
        """Where to, Items per part, pause between parts. UDP pages stay below 1300 bytes unless configured (18.1.1)."""
        platform, target = self._link.platform, self._link.target
        if target.transport == "udp" and total > MOST_RECORDS:
            target = replace(target, transport="tcp", flow=None)
        if target.transport == "udp":
            return target, min(max(1, platform.page_size_udp), MOST_RECORDS), UDP_PAUSE_S
        return target, min(max(1, platform.page_size_tcp), MOST_RECORDS), 0.0

    async def _send(self, part: Body, target: Target) -> bool:
        """True when the upper answered 2xx; a lost or failed try is repeated, a refusal is not."""
        for attempt in range(TRIES):
            try:
                response = await self._link.message(part, target=target)
            except RemoteError as error:
                log.info(
                    "catalog part unanswered platform_id=%s sn=%d attempt=%d cause=%s",
                    self._link.platform.platform_id,
                    part.sn,
                    attempt + 1,
                    error,
                )
                continue
            if response.status // 100 == 2:
                return True
            if response.status < 500:
                break
        log.warning("catalog answer abandoned platform_id=%s sn=%d", self._link.platform.platform_id, part.sn)
        return False
