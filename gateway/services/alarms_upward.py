"""Alarms to upper platforms: in their subscriptions as far as their filters ask, and by MESSAGE where agreed (9.4.2)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.services.alarms_words import ALL_METHODS, NEAREST_2016, TYPES
from gateway.services.cascade_ids import Key
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_subscriptions import Notifier
from gateway.services.cascade_tree import Tree
from gateway.storage.alarms import StoredAlarm
from sip.errors import RemoteError
from sip.manscdp import CONTENT_TYPE, AlarmNotify, AlarmQuery, Edition

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Alarms that wait for one upper; beyond it the newest are dropped and counted."""


def passes(query: AlarmQuery, alarm: AlarmNotify) -> bool:
    """Whether an alarm is one that a subscription asked for (G145). What the filter leaves out is not filtered."""
    return (
        _priority(query, alarm.alarm_priority)
        and _listed(query.alarm_method, alarm.alarm_method)
        and _listed(query.alarm_type, alarm.alarm_type)
        and _in_time(query, alarm)
    )


def _priority(query: AlarmQuery, priority: int | None) -> bool:
    """0 stands for all; an alarm without priority is never held back."""
    first, last = query.start_alarm_priority or 0, query.end_alarm_priority or 0
    if priority is None:
        return True
    return priority >= first and (last == 0 or priority <= last)


def _listed(wanted: tuple[str, ...], number: int | None) -> bool:
    """``1/2`` as 2022 writes it, ``12`` as one place of 2016 does; 0 or nothing: all (G146)."""
    texts = [text.strip() for text in wanted if text.strip().isdecimal()]
    if len(texts) == 1 and len(texts[0]) > 1 and int(texts[0]) > max(kind for _, kind in TYPES):
        texts = list(texts[0])
    numbers = {int(text) for text in texts}
    return not numbers or ALL_METHODS in numbers or number is None or number in numbers


def _in_time(query: AlarmQuery, alarm: AlarmNotify) -> bool:
    at = alarm.alarm_time
    if at is None:
        return True
    start, end = query.start_alarm_time, query.end_alarm_time
    return (start is None or at >= start) and (end is None or at <= end)


def in_edition(alarm: AlarmNotify, edition: Edition) -> AlarmNotify:
    """The alarm in an upper's words: a type that 2016 does not have becomes the nearest one."""
    known = TYPES.get((alarm.alarm_method or 0, alarm.alarm_type or 0))
    if edition is Edition.V2022 or known is None or known.edition is Edition.V2016:
        return alarm
    nearest = NEAREST_2016.get((alarm.alarm_method or 0, alarm.alarm_type or 0))
    return alarm.model_copy(update={"alarm_type": nearest})


class AlarmFeed:
    """One upper's alarm subscription: what passes its filter goes up in order, each in a NOTIFY of its own."""

    def __init__(
        self,
        notifier: Notifier,
        *,
        target: str,
        query: AlarmQuery,
        tree: Tree,
        link: UpperLink,
        on_dead: Callable[[AlarmFeed], None],
    ) -> None:
        self.target, self._query = target, query
        self._notifier, self._link, self._on_dead = notifier, link, on_dead
        self._scope = frozenset(entry.exported_id for entry in tree.select(target))
        self._queue: asyncio.Queue[AlarmNotify] = asyncio.Queue(MOST_WAITING)
        self._task: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def drop(self) -> None:
        """Stop without a word."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def status_changed(self, keys: Iterable[Key]) -> None:
        """The catalog's business."""

    def tree_changed(self, old: Tree, new: Tree, touched: frozenset[Key]) -> None:
        self._scope = frozenset(entry.exported_id for entry in new.select(self.target))

    def offer(self, exported_id: str, alarm: AlarmNotify) -> bool:
        """Whether the alarm is in the scope and passes the filter; then it is sent."""
        if exported_id not in self._scope or not passes(self._query, alarm):
            return False
        try:
            self._queue.put_nowait(alarm.model_copy(update={"device_id": exported_id}))
        except asyncio.QueueFull:
            self.counts["dropped"] += 1
        return True

    async def _run(self) -> None:
        try:
            while True:
                alarm = in_edition(await self._queue.get(), self._link.edition)
                body = self._link.encode(alarm.model_copy(update={"sn": self._link.next_sn()}))
                response = await self._notifier.notify(body, CONTENT_TYPE)
                if response.status // 100 != 2:
                    raise RemoteError(f"NOTIFY answered {response.status}", status=response.status)
                self.counts["sent"] += 1
        except RemoteError as error:
            log.info(
                "alarm subscription ended platform_id=%s cause=%s", self._link.platform.platform_id, error
            )
            self._on_dead(self)


class Served(Protocol):
    """One upper (gateway.services.cascade_upper.Upper)."""

    @property
    def link(self) -> UpperLink: ...

    @property
    def known_tree(self) -> Tree | None: ...

    async def tree(self) -> Tree: ...

    def feeds_of(self, kind: type[AlarmFeed]) -> list[AlarmFeed]: ...


class AlarmsUpward:
    """Fans alarms out to all uppers. ``counts``: offered (to a subscription), messages, unanswered, dropped, not_shared."""

    def __init__(self, uppers: Callable[[], Iterable[Served]]) -> None:
        self._uppers = uppers
        self._queue: asyncio.Queue[tuple[StoredAlarm, AlarmNotify]] = asyncio.Queue(MOST_WAITING)
        self._senders: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="alarms-upward")

    async def close(self) -> None:
        tasks = [*self._senders, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def alarm(self, alarm: StoredAlarm, body: AlarmNotify) -> None:
        """For AlarmService.listeners."""
        if not any(self._uppers()):
            return
        try:
            self._queue.put_nowait((alarm, body))
        except asyncio.QueueFull:
            self.counts["dropped"] += 1

    async def _run(self) -> None:
        while True:
            alarm, body = await self._queue.get()
            for upper in list(self._uppers()):
                if upper.link.online:
                    await self._tell(upper, alarm, body)

    async def _tell(self, upper: Served, alarm: StoredAlarm, body: AlarmNotify) -> None:
        """In each subscription that wants it; without one by MESSAGE, where the operator agreed so with the upper."""
        feeds = upper.feeds_of(AlarmFeed)
        always = upper.link.platform.alarms == "always"
        if not feeds and not always:
            return
        tree = await upper.tree()
        entry = tree.by_key.get((alarm.device_id, alarm.channel_id))
        if entry is None:  # a device or an alarm input that is not shown there: its camera is
            entry = tree.by_key.get((alarm.device_id, alarm.camera_id))
        if entry is None:
            self.counts["not_shared"] += 1
            return
        told = [feed.offer(entry.exported_id, body) for feed in feeds]
        self.counts["offered"] += sum(told)
        if not feeds and always:
            self._send(upper.link, body.model_copy(update={"device_id": entry.exported_id}))

    def _send(self, link: UpperLink, body: AlarmNotify) -> None:
        if len(self._senders) >= MOST_WAITING:
            self.counts["dropped"] += 1
            return
        task = asyncio.create_task(self._message(link, body))
        self._senders.add(task)
        task.add_done_callback(self._senders.discard)

    async def _message(self, link: UpperLink, body: AlarmNotify) -> None:
        alarm = in_edition(body, link.edition).model_copy(update={"sn": link.next_sn()})
        try:
            response = await link.message(alarm)
        except RemoteError as error:
            self.counts["unanswered"] += 1
            log.info("alarm not taken platform_id=%s cause=%s", link.platform.platform_id, error)
            return
        self.counts["messages" if response.status < 300 else "unanswered"] += 1
