"""Catalogs of devices: asked for, collected part by part, applied in slices, never wiped by a lie (quirks 14-17, 21, 48)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from config.settings import CatalogSettings
from gateway.answers import Question
from gateway.clock import Clock
from gateway.dispatch import Dispatch
from gateway.errors import DeviceIsOffline, GatewayError, NotFound, QueryRefused, QueryTimedOut
from gateway.events import (
    CatalogCollected,
    CatalogFault,
    CatalogShrank,
    DeviceOffline,
    DeviceOnline,
    EventBus,
)
from gateway.model import Device
from gateway.peers import Peer
from gateway.registry import Registry
from gateway.services.channels import channel_of, merged, status_of, usable_id
from sip.endpoint import Incoming
from sip.manscdp import Body, CatalogItem, CatalogNotify, CatalogQuery, CatalogResponse

logger = logging.getLogger(__name__)

ITEMS_PER_SLICE = 40
"""Items applied before the loop may do something else: about two milliseconds."""
QUERIES_AT_ONCE = 50
LINGER_S = 0.3
"""After SumNum items came: so long more are awaited, for senders whose SumNum counts only some (quirk 15)."""
MISSING_TO_DELETE = 2
SHRUNK_BELOW = 0.8
SPREAD_S = 2.0
STARTS_PER_S = 500
"""After a storm of registrations catalogs are asked at about this rate, so that the registrations go first."""
MIN_INTERVAL_S = 10.0
_STATUS_EVENTS = frozenset({"ON", "OFF", "VLOST", "DEFECT"})


@dataclass(slots=True)
class _Collection:
    """What one query brought so far."""

    parts: int = 0
    sum_num: int = 0
    ids: set[str] = field(default_factory=set)
    nameless: int = 0
    own_sn: bool = True
    empty: bool = False
    reason: str = ""

    @property
    def reached(self) -> bool:
        return self.empty or (self.sum_num > 0 and len(self.ids) >= self.sum_num)

    @property
    def complete(self) -> bool:
        """SumNum distinct Items under our own SN, no more and no less: only then absence says something."""
        if self.empty:
            return self.own_sn
        return self.own_sn and self.sum_num > 0 and len(self.ids) == self.sum_num

    def explain(self) -> str:
        if self.complete:
            return "complete"
        if not self.own_sn:
            return "the answer carries another SN"
        if len(self.ids) > self.sum_num:
            return f"{len(self.ids)} items although SumNum is {self.sum_num}"
        return self.reason or f"{len(self.ids)} of {self.sum_num} items"


class _Slot:
    """One of the places for queries under way. May be given back early; the end of the block does it at the latest."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._held = False

    async def __aenter__(self) -> _Slot:
        await self._slots.acquire()
        self._held = True
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._slots.release()


class CatalogService:
    """Keeps the channels of all devices. One collection per device at a time; callers share it."""

    def __init__(
        self,
        *,
        settings: CatalogSettings,
        registry: Registry,
        bus: EventBus,
        dispatch: Dispatch,
        clock: Clock | None = None,
        linger_s: float = LINGER_S,
        spread_s: float = SPREAD_S,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._bus = bus
        self._dispatch = dispatch
        self._clock = clock or Clock()
        self._linger_s = linger_s
        self._spread_s = spread_s
        self._running: dict[str, asyncio.Task[CatalogCollected]] = {}
        self._asked_mono: dict[str, float] = {}
        self._slots = asyncio.Semaphore(QUERIES_AT_ONCE)
        self._soon = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unsubscribe: list[Callable[[], None]] = []

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._dispatch.on(CatalogResponse)(self._unsolicited)
        self._dispatch.on(CatalogNotify)(self._notified)
        self._unsubscribe = [
            self._bus.subscribe(DeviceOnline, callback=self._online),
            self._bus.subscribe(DeviceOffline, callback=self._offline),
        ]

    async def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        tasks = [*self._tasks, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _online(self, event: DeviceOnline) -> None:
        device = self._registry.devices.get(event.device_id)
        if device is None or not self._settings.query_on_register:
            return
        if event.cause != "registered" and device.catalog_complete:
            return
        asked = self._asked_mono.get(event.device_id)
        if asked is not None and self._clock.mono() - asked < MIN_INTERVAL_S and device.catalog_complete:
            return
        self._spawn(self._refresh_soon(event.device_id))

    async def _refresh_soon(self, device_id: str) -> None:
        self._soon += 1
        try:
            await asyncio.sleep(random.uniform(0, max(self._spread_s, self._soon / STARTS_PER_S)))
        finally:
            self._soon -= 1
        try:
            await self.refresh(device_id)
        except GatewayError as error:
            logger.info("catalog not asked device=%s error=%s", device_id, error)

    def _offline(self, event: DeviceOffline) -> None:
        task = self._running.get(event.device_id)
        if task is not None:
            task.cancel()

    # -- asking ----------------------------------------------------------------------------------------------

    def collecting(self, device_id: str) -> bool:
        return device_id in self._running

    async def refresh(self, device_id: str) -> CatalogCollected:
        """Ask the device for its catalog and wait for the outcome; a collection that runs is shared.

        Raises NotFound, DeviceIsOffline. Every other failure is an outcome that is not complete, with its reason.
        """
        device = self._registry.devices.get(device_id)
        if device is None:
            raise NotFound(f"device {device_id} is not known")
        if not device.online:
            raise DeviceIsOffline(f"device {device_id} is offline")
        task = self._running.get(device_id)
        if task is None:
            task = asyncio.create_task(self._collect(device), name=f"catalog-{device_id}")
            self._running[device_id] = task
            task.add_done_callback(lambda _: self._running.pop(device_id, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not device.online:
                raise DeviceIsOffline(f"device {device_id} went offline") from None
            raise

    async def _collect(self, device: Device) -> CatalogCollected:
        previous: _Collection | None = None
        collection = _Collection(reason="no answer")
        async with _Slot(self._slots) as slot:
            self._asked_mono[device.device_id] = self._clock.mono()
            for _ in range(1 + self._settings.retries):
                collection = await self._attempt(device, slot)
                if collection.complete or not collection.own_sn or collection.reason.startswith("refused"):
                    break
                if previous is not None and previous.ids == collection.ids and collection.ids:
                    break  # it says the same again: its count is wrong, not the way to us
                if len(collection.ids) > collection.sum_num:
                    break
                previous = collection
        return self._conclude(device, collection)

    async def _attempt(self, device: Device, slot: _Slot) -> _Collection:
        """One query: parts are applied as they come, so that even a partial answer is of use.

        The slot is given back as soon as all that was announced is there: the rest is waiting for silence, and
        10,000 devices that each held a slot for it kept the last of them waiting for a minute.
        """
        collection = _Collection()
        try:
            question = await self._dispatch.ask(device, CatalogQuery(device_id=device.device_id))
        except QueryRefused as error:
            # 404 or 405: no catalog there, or no wish to tell; 408 and 503: the way is broken. Never "empty".
            refused = error.sip_status not in (408, 503)
            collection.reason = f"{'refused' if refused else 'failed'} with {error.sip_status}"
            return collection
        with question:
            timeout_s = self._settings.first_part_timeout_s
            while True:
                try:
                    part = await question.next(timeout_s)
                except QueryTimedOut:
                    break
                await self._add_part(device, collection, question, part)
                if collection.reached:
                    slot.release()
                timeout_s = self._linger_s if collection.reached else self._settings.gap_timeout_s
        if not collection.parts:
            collection.reason = "no answer"
        return collection

    async def _add_part(
        self, device: Device, collection: _Collection, question: Question, part: Body
    ) -> None:
        if not isinstance(part, CatalogResponse):
            return
        collection.parts += 1
        collection.own_sn = collection.own_sn and question.guessed == 0
        collection.sum_num = max(collection.sum_num, part.sum_num)
        if part.sum_num == 0 and not part.items and not collection.ids:
            collection.empty = True
            return
        collection.empty = False
        collection.ids.update(item.device_id for item in part.items if item.device_id)
        await self._apply(device, part.items)

    def _conclude(self, device: Device, collection: _Collection) -> CatalogCollected:
        removed = 0
        if collection.complete:
            removed = self._count_missing(device, collection)
        if collection.parts:
            self._registry.update_device(
                device.device_id, catalog_at=self._clock.utc(), catalog_complete=collection.complete
            )
        outcome = CatalogCollected(
            device.device_id,
            collection.parts,
            collection.complete,
            len(collection.ids),
            collection.sum_num,
            collection.explain(),
        )
        logger.info(
            "catalog device=%s complete=%s items=%d sum_num=%d parts=%d removed=%d reason=%r",
            device.device_id, outcome.complete, outcome.items, outcome.sum_num, outcome.parts, removed,
            outcome.reason,
        )  # fmt: skip
        self._bus.publish(outcome)
        return outcome

    def _count_missing(self, device: Device, collection: _Collection) -> int:
        """Delete what two complete catalogs in a row did not name (quirk 16); returns how many."""
        channels = self._registry.channels(device.device_id)
        if channels and len(collection.ids) < SHRUNK_BELOW * len(channels):
            logger.warning(
                "catalog shrank device=%s known=%d named=%d",
                device.device_id, len(channels), len(collection.ids),
            )  # fmt: skip
            self._bus.publish(CatalogShrank(device.device_id, len(channels), len(collection.ids)))
        missing = [channel for key, channel in channels.items() if key not in collection.ids]
        gone = [c for c in missing if self._registry.count_missing(c) >= MISSING_TO_DELETE]
        for channel in gone:
            self._registry.remove_channel(device.device_id, channel.channel_id)
        return len(gone)

    # -- applying --------------------------------------------------------------------------------------------

    async def _apply(self, device: Device, items: Iterable[CatalogItem], *, partial: bool = False) -> None:
        """Insert or update channels, a slice at a time. ``partial``: fields left out keep their value."""
        for count, item in enumerate(items, 1):
            self._apply_item(device, item, partial=partial)
            if count % ITEMS_PER_SLICE == 0:
                await asyncio.sleep(0)

    def _apply_item(self, device: Device, item: CatalogItem, *, partial: bool) -> None:
        if device.device_id not in self._registry.devices:
            return
        if not usable_id(item.device_id):
            self._fault(device, item.device_id, "no usable DeviceID")
            return
        known = self._registry.channel(device.device_id, item.device_id)
        if known is not None and partial:
            try:
                item = merged(known, item)
            except ValidationError as error:
                self._fault(device, item.device_id, f"cannot be merged: {error.error_count()} fields")
                return
        channel = self._registry.put_channel(channel_of(device.device_id, item))
        if known is not None:
            self._registry.report(channel, status_of(item))

    def _fault(self, device: Device, channel_id: str, detail: str) -> None:
        logger.info("catalog fault device=%s channel=%s detail=%s", device.device_id, channel_id[:32], detail)
        self._bus.publish(CatalogFault(device.device_id, channel_id[:32], detail))

    async def _unsolicited(self, peer: Peer, body: CatalogResponse, incoming: Incoming) -> None:
        """A Response nobody asked for, or a late part: these Items are updated, nothing else (quirk 16)."""
        del incoming
        if peer.device is not None:
            await self._apply(peer.device, body.items, partial=True)

    async def _notified(self, peer: Peer, body: CatalogNotify, incoming: Incoming) -> None:
        """Changes by subscription: ON, OFF, VLOST, DEFECT, ADD, DEL, UPDATE (2022 9.11.4)."""
        del incoming
        device = peer.device
        if device is None:
            return
        unknown = False
        for count, item in enumerate(body.items, 1):
            if item.event in _STATUS_EVENTS:
                unknown |= not self._note_status(device, item)
            elif item.event == "DEL":
                self._registry.remove_channel(device.device_id, item.device_id)
            elif item.event in ("ADD", "UPDATE", ""):
                self._apply_item(device, item, partial=item.event != "ADD")
            else:
                self._fault(device, item.device_id, f"unknown event {item.event[:16]}")
            if count % ITEMS_PER_SLICE == 0:
                await asyncio.sleep(0)
        if unknown and not self.collecting(device.device_id):
            self._spawn(self._refresh_soon(device.device_id))

    def _note_status(self, device: Device, item: CatalogItem) -> bool:
        """False when the channel was not known: it is put in with its code alone, and the catalog asked (quirk 17)."""
        channel = self._registry.channel(device.device_id, item.device_id)
        if channel is not None:
            self._registry.report(channel, item.event)
            return True
        if not usable_id(item.device_id):
            self._fault(device, item.device_id, "no usable DeviceID")
            return True
        stub = channel_of(device.device_id, item)
        stub.reported = item.event
        self._registry.put_channel(stub)
        return False
