"""What happens, as server-sent events: one bounded queue per reader, and readers are told what they missed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from pydantic import Field

from gateway.events import Event, EventBus, EventQueue, SecurityEvent
from gateway.http.errors import STREAMING, Problem
from gateway.http.routes import Call, Model, route
from gateway.http.server import add_security_headers
from gateway.services.access import Access, Principal, Role

QUEUE_SIZE = 500
PING_S = 15.0
MAX_READERS = 200
FOR_ADMINISTRATORS: tuple[type[Event], ...] = (SecurityEvent,)
"""Events that hold addresses of strangers."""
HIDDEN_FIELDS = frozenset({"password"})


def name_of(kind: type[Event]) -> str:
    """``DeviceOnline`` is told as ``device_online``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def event_types() -> dict[str, type[Event]]:
    return {name_of(kind): kind for kind in Event.__subclasses__()}


def plain(value: Any) -> Any:
    """An event's fields as JSON takes them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in HIDDEN_FIELDS}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class EventQuery(Model):
    types: str = Field(
        default="",
        pattern=r"^[a-z_,]{0,1000}$",
        description="Names to receive, separated by commas, e.g. `device_online,device_offline`; empty: all.",
    )


class EventResource:
    def __init__(self, *, bus: EventBus, access: Access, ping_s: float = PING_S) -> None:
        self._bus = bus
        self._access = access
        self._ping_s = ping_s
        self._queues: set[EventQueue[Event]] = set()
        self.dropped = 0
        """Events that slow readers missed, for metrics."""

    @property
    def readers(self) -> int:
        return len(self._queues)

    def close(self) -> None:
        """End all streams; the server is stopping."""
        for queue in list(self._queues):
            queue.close()

    @route(
        "GET",
        "/api/events",
        summary="Events as they happen (server-sent events)",
        role=Role.VIEWER,
        tag="events",
        produces="text/event-stream",
        errors=(503,),
    )
    async def stream(self, call: Call, query: EventQuery) -> web.StreamResponse:
        """`event:` is the name, `data:` a JSON object with `at` and the event's fields.

        A reader that is too slow gets `event: dropped` with the count of what it missed, and should read
        afresh what it shows. Comments keep the connection open. The stream ends with the log-in.
        """
        wanted = self._wanted(query, call.who)
        if len(self._queues) >= MAX_READERS:
            raise Problem(503, "too many event readers", cause="busy", headers={"Retry-After": "10"})
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        response.headers["X-Accel-Buffering"] = "no"
        add_security_headers(response, call.request.path)
        queue = self._bus.queue(*wanted, size=QUEUE_SIZE)
        self._queues.add(queue)
        call.request[STREAMING] = True
        try:
            await response.prepare(call.request)
            await response.write(b"retry: 3000\n\n")
            async for text in self._lines(queue, call.who):
                await response.write(text)
        except ConnectionResetError:
            pass  # the reader left
        finally:
            queue.close()
            self._queues.discard(queue)
        return response

    def _wanted(self, query: EventQuery, who: Principal) -> list[type[Event]]:
        known = event_types()
        names = [name for name in query.types.split(",") if name] or list(known)
        for name in names:
            if name not in known:
                raise Problem(
                    422, f"query.types: no event {name}", cause="invalid_input", field="query.types"
                )
        kinds = [known[name] for name in names]
        if not who.role.permits(Role.ADMINISTRATOR):
            kinds = [kind for kind in kinds if kind not in FOR_ADMINISTRATORS]
        return kinds

    async def _lines(self, queue: EventQueue[Event], who: Principal) -> AsyncIterator[bytes]:
        """Encoded events, pings in between; the log-in is looked at again as often as a ping is due."""
        told_drops, number = 0, 0
        source = aiter(queue)
        checked = time.monotonic()
        pending: asyncio.Future[Event] | None = None
        try:
            while True:
                if pending is None:
                    pending = asyncio.ensure_future(anext(source))
                done, _ = await asyncio.wait([pending], timeout=self._ping_s)
                if time.monotonic() - checked >= self._ping_s:
                    checked = time.monotonic()
                    if not await self._access.still_good(who):
                        return
                if not done:
                    yield b": ping\n\n"
                    continue
                try:
                    event = pending.result()
                except StopAsyncIteration:
                    return
                finally:
                    pending = None
                if queue.dropped > told_drops:
                    missed = queue.dropped - told_drops
                    self.dropped += missed
                    told_drops = queue.dropped
                    yield _encode("dropped", {"count": missed}, number)
                number += 1
                yield _encode(name_of(type(event)), plain(event), number)
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)


def _encode(name: str, data: dict[str, Any], number: int) -> bytes:
    stamped = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **data}
    return f"event: {name}\nid: {number}\ndata: {json.dumps(stamped, ensure_ascii=False)}\n\n".encode()
