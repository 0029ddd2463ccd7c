"""Our catalog subscriptions at devices: made when they come online, made again when they end, polled when refused."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from config.settings import CatalogSettings
from gateway.clock import Clock
from gateway.dispatch import Dispatch
from gateway.errors import GatewayError
from gateway.events import CatalogCollected, DeviceOffline, DeviceOnline, EventBus, SubscriptionChanged
from gateway.model import Device
from gateway.outbox import device_target
from gateway.registry import Registry
from sip.endpoint import Subscription
from sip.errors import LocalError, Rejected, RemoteError
from sip.flow import Flow, Target
from sip.incoming import RequestCallback
from sip.manscdp import CONTENT_TYPE, CatalogQuery

logger = logging.getLogger(__name__)

KIND = "subscription"
FINAL_REASONS = frozenset({"rejected", "noresource", "invariant"})
"""Reasons after which one does not subscribe again (RFC 6665 4.1.3)."""
RETRY_S = (30.0, 60.0, 120.0, 300.0)
"""Waits after a SUBSCRIBE that nobody answered; after the last one the device is polled."""
RESUBSCRIBE_S = 1.0
RESUME_PER_S = 50
SPREAD_S = 2.0


class Subscriber(Protocol):
    """The part of the SIP endpoint that subscribes."""

    async def subscribe(
        self,
        target: Target,
        *,
        to: str,
        event: str,
        expires_s: int,
        body: bytes,
        content_type: str,
        on_notify: RequestCallback,
        on_end: Callable[[str], None],
    ) -> Subscription: ...

    async def end_orphan(self, snapshot: dict[str, Any], *, flow: Flow | None = None) -> None: ...


class Journal(Protocol):
    """What survives a crash (storage)."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None: ...
    def remove(self, kind: str, key: str) -> None: ...
    def load(self, kind: str) -> Awaitable[dict[str, dict[str, Any]]]: ...


class Catalogs(Protocol):
    async def refresh(self, device_id: str) -> CatalogCollected: ...


@dataclass(slots=True, eq=False)
class _Care:
    """One device we look after: its task, and its subscription while it has one."""

    task: asyncio.Task[None] | None = None
    subscription: Subscription | None = None
    ended: asyncio.Event | None = None
    end_reason: str = ""


class SubscriptionService:
    """One task per online device: subscribe, wait for the end, subscribe again or poll (9.11.3, 9.11.4, G113)."""

    def __init__(
        self,
        *,
        settings: CatalogSettings,
        domain: str,
        registry: Registry,
        bus: EventBus,
        dispatch: Dispatch,
        endpoint: Subscriber,
        catalog: Catalogs,
        journal: Journal,
        clock: Clock | None = None,
        spread_s: float = SPREAD_S,
        resubscribe_s: float = RESUBSCRIBE_S,
    ) -> None:
        self._settings = settings
        self._domain = domain
        self._registry = registry
        self._bus = bus
        self._dispatch = dispatch
        self._endpoint = endpoint
        self._catalog = catalog
        self._journal = journal
        self._clock = clock or Clock()
        self._spread_s = spread_s
        self._resubscribe_s = resubscribe_s
        self._cares: dict[str, _Care] = {}
        self._left_behind: dict[str, dict[str, Any]] = {}
        self._unsubscribe: list[Callable[[], None]] = []
        self._event_id = random.randrange(1, 100_000)

    async def start(self) -> None:
        """Listen for devices; what an earlier life left behind is ended when its device is looked after again."""
        for device_id, state in (await self._journal.load(KIND)).items():
            dialog = state.get("dialog")
            if isinstance(dialog, dict):
                self._left_behind[device_id] = dialog
        self._unsubscribe = [
            self._bus.subscribe(DeviceOnline, callback=self._online),
            self._bus.subscribe(DeviceOffline, callback=self._offline),
        ]

    async def close(self) -> None:
        """End the tasks. Subscriptions stay in the journal: the next start takes them up again."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        tasks = [care.task for care in self._cares.values() if care.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def active(self) -> int:
        """How many subscriptions are open."""
        return sum(care.subscription is not None for care in self._cares.values())

    def subscription(self, device_id: str) -> Subscription | None:
        care = self._cares.get(device_id)
        return care.subscription if care is not None else None

    def _online(self, event: DeviceOnline) -> None:
        device = self._registry.devices.get(event.device_id)
        if device is None or device.local or event.device_id in self._cares:
            return
        resumed = event.cause == "resumed"
        spread = max(self._spread_s, len(self._cares) / RESUME_PER_S) if resumed else self._spread_s
        care = self._cares[event.device_id] = _Care()
        care.task = asyncio.create_task(
            self._look_after(device, care, spread), name=f"subscription-{event.device_id}"
        )

    def _offline(self, event: DeviceOffline) -> None:
        """The dialog is of no use any more: let it go without a word to a device that does not listen."""
        care = self._cares.pop(event.device_id, None)
        if care is None:
            return
        if care.task is not None:
            care.task.cancel()
        if care.subscription is not None:
            care.subscription.flow_lost()
            self._journal.remove(KIND, event.device_id)

    # -- one device ------------------------------------------------------------------------------------------

    async def _look_after(self, device: Device, care: _Care, spread_s: float) -> None:
        await asyncio.sleep(random.uniform(0, spread_s))
        await self._end_left_behind(device)
        failures = 0
        while self._settings.subscribe and failures <= len(RETRY_S):
            try:
                await self._subscribe(device, care)
            except Rejected as error:
                self._tell(device, "refused", f"{error.status}")
                break
            except (RemoteError, LocalError) as error:
                logger.info("subscription failed device=%s error=%s", device.device_id, error)
                failures += 1
                if failures > len(RETRY_S):
                    self._tell(device, "refused", "no answer")
                    break
                await asyncio.sleep(RETRY_S[failures - 1] * random.uniform(0.8, 1.2))
                continue
            failures = 0
            if not await self._until_end(device, care):
                break
            await asyncio.sleep(self._resubscribe_s)
        await self._poll(device)

    async def _subscribe(self, device: Device, care: _Care) -> None:
        self._event_id += 1
        care.ended, care.end_reason = asyncio.Event(), ""
        ended = care.ended

        def on_end(reason: str) -> None:
            care.end_reason = reason
            ended.set()

        query = CatalogQuery(sn=self._dispatch.next_sn(device.device_id), device_id=device.device_id)
        care.subscription = await self._endpoint.subscribe(
            device_target(device),
            to=f"sip:{device.device_id}@{self._domain}",
            event=f"Catalog;id={self._event_id}",
            expires_s=self._settings.subscription_expires_s,
            body=self._dispatch.outbox.encode_for(device, query),
            content_type=CONTENT_TYPE,
            on_notify=lambda incoming: self._dispatch.notify(device, incoming),
            on_end=on_end,
        )
        self._registry.update_device(device.device_id, catalog_polled=False)
        self._journal.put(KIND, device.device_id, {"dialog": care.subscription.snapshot()})
        self._tell(device, "active", "")

    async def _until_end(self, device: Device, care: _Care) -> bool:
        """Wait for the end of the subscription; False when it must not be made again."""
        if care.ended is None:
            return False
        await care.ended.wait()
        care.subscription = None
        self._journal.remove(KIND, device.device_id)
        self._tell(device, "ended", care.end_reason)
        return care.end_reason.lower() not in FINAL_REASONS

    async def _poll(self, device: Device) -> None:
        """No subscription: ask for the catalog from time to time (G113)."""
        self._registry.update_device(device.device_id, catalog_polled=True)
        while True:
            await asyncio.sleep(self._settings.poll_interval_s * random.uniform(0.9, 1.1))
            try:
                await self._catalog.refresh(device.device_id)
            except GatewayError as error:
                logger.info("poll of catalog failed device=%s error=%s", device.device_id, error)

    async def _end_left_behind(self, device: Device) -> None:
        """Unsubscribe in the dialog of an earlier life, so that the device does not notify twice."""
        dialog = self._left_behind.pop(device.device_id, None)
        if dialog is None:
            return
        try:
            await self._endpoint.end_orphan(dialog, flow=device.flow)
        except LocalError as error:
            logger.info("old subscription unreadable device=%s error=%s", device.device_id, error)
        self._journal.remove(KIND, device.device_id)

    def _tell(self, device: Device, state: str, reason: str) -> None:
        logger.info("subscription device=%s state=%s reason=%s", device.device_id, state, reason)
        self._bus.publish(SubscriptionChanged(device.device_id, "Catalog", state, reason))
