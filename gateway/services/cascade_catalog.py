"""Answers to an upper's catalog queries: cut into parts, each sent after the 200 of the one before (2022 annex M)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

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
        self.spawn(query, lambda: self._answer(query, tree))

    def spawn(self, query: Body, answer: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """The same for an answer of another kind."""
        if len(self._tasks) >= AT_ONCE + MOST_WAITING:
            self.refused += 1
            log.warning(
                "query dropped platform_id=%s cmd_type=%s sn=%d",
                *(self._link.platform.platform_id, query.cmd_type, query.sn),
            )
            return
        task = asyncio.create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drop(self) -> None:
        """The upper is gone: stop in the middle."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, query: CatalogQuery, tree: Tree) -> None:
        entries = added_within(tree.select(query.device_id), query.start_time, query.end_time)
        parts = await self.send_list(len(entries), lambda start, end: self._part(query, entries, start, end))
        log.info(
            "catalog answered platform_id=%s sn=%d target=%s entries=%d parts=%d",
            self._link.platform.platform_id,
            query.sn,
            query.device_id,
            len(entries),
            parts,
        )

    def _part(self, query: CatalogQuery, entries: Sequence[Entry], start: int, end: int) -> CatalogResponse:
        items = [self._items.full(entry) for entry in entries[start:end]]
        return CatalogResponse(sn=query.sn, device_id=query.device_id, sum_num=len(entries), items=items)

    async def send_list(self, total: int, part: Callable[[int, int], Body]) -> int:
        """Send ``total`` entries in parts (``part(first, end)``), in turn with other answers; parts the upper took."""
        async with self._slots:
            return await self._send_all(total, part)

    async def _send_all(self, total: int, part_of: Callable[[int, int], Body]) -> int:
        target, size, pause_s = self._way(total)
        starts = range(0, total, size) if total else (0,)
        for done, start in enumerate(starts):
            if not await self._send(part_of(start, start + size), target):
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
                    "answer part unanswered platform_id=%s sn=%d attempt=%d cause=%s",
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
        log.warning("answer abandoned platform_id=%s sn=%d", self._link.platform.platform_id, part.sn)
        return False
