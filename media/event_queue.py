"""The node's events on their way to the gateway: bounded queues, the oldest dropped and counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator

from pydantic import BaseModel

log = logging.getLogger(__name__)

QUEUE_LENGTH = 2048


class EventQueue:
    """One listener's events."""

    def __init__(self) -> None:
        self._events: deque[BaseModel] = deque()
        self._ready = asyncio.Event()
        self.dropped = 0
        self.closed = False

    def put(self, event: BaseModel) -> None:
        if len(self._events) >= QUEUE_LENGTH:
            self._events.popleft()
            self.dropped += 1
            if self.dropped % 256 == 1:
                log.warning("event=node_events_dropped count=%d", self.dropped)
        self._events.append(event)
        self._ready.set()

    def close(self) -> None:
        self.closed = True
        self._ready.set()

    async def take(self, timeout_s: float) -> list[BaseModel]:
        """All waiting events; empty after ``timeout_s`` without any, or when closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        if not self.closed:
            self._ready.clear()
        events = list(self._events)
        self._events.clear()
        return events


class EventHub:
    """Spreads events over listeners. What happens before the first one came is kept for it, bounded."""

    def __init__(self) -> None:
        self._listeners: list[EventQueue] = []
        self._early: deque[BaseModel] = deque(maxlen=QUEUE_LENGTH)

    def emit(self, event: BaseModel) -> None:
        if not self._listeners:
            self._early.append(event)
        for listener in self._listeners:
            listener.put(event)

    @contextlib.contextmanager
    def listen(self) -> Iterator[EventQueue]:
        """A queue for as long as the block runs."""
        queue = EventQueue()
        while self._early:
            queue.put(self._early.popleft())
        self._listeners.append(queue)
        try:
            yield queue
        finally:
            self._listeners.remove(queue)

    def close(self) -> None:
        """End all listeners."""
        for listener in self._listeners:
            listener.close()
