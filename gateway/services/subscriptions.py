"""Our subscriptions at devices (catalog, alarms, positions): made when they come online, made again when they end,
polled when refused."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from config.settings import AlarmSettings, CatalogSettings, PositionSettings
from gateway.clock import Clock
from gateway.dispatch import Dispatch
from gateway.errors import GatewayError, NotFound, NotSupported
from gateway.events import CatalogCollected, DeviceOffline, DeviceOnline, EventBus, SubscriptionChanged
from gateway.model import Device
from gateway.outbox import device_target
from gateway.registry import Registry
from gateway.services.subscription_kinds import (
    ALARM,
    CATALOG,
    KINDS,
    MOBILE_POSITION,
    PTZ_POSITION,
    knows,
    moves,
)
from gateway.storage.positions import SubscriptionWish
from sip.endpoint import Subscription
from sip.errors import LocalError, Rejected, RemoteError
from sip.flow import Flow, Target
from sip.incoming import RequestCallback
from sip.manscdp import CONTENT_TYPE

logger = logging.getLogger(__name__)

KIND = "subscription"
FINAL_REASONS = frozenset({"rejected", "noresource", "invariant"})
"""Reasons after which one does not subscribe again (RFC 6665 4.1.3)."""
RETRY_S = (30.0, 60.0, 120.0, 300.0)
"""Waits after a SUBSCRIBE that nobody answered; after the last one the device is polled."""
RESUBSCRIBE_S = 1.0
RESUME_PER_S = 50
SPREAD_S = 2.0
ALARM_POLL_S = 300.0
PTZ_POLL_S = 30.0


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

    async def end_orphan(self, snapshot: dict[str, Any], *, flow: Flow | None = None) -> object: ...


class Journal(Protocol):
    """What survives a crash (storage)."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None: ...
    def remove(self, kind: str, key: str) -> None: ...
    def load(self, kind: str) -> Awaitable[dict[str, dict[str, Any]]]: ...


class Catalogs(Protocol):
    async def refresh(self, device_id: str) -> CatalogCollected: ...


class WishStore(Protocol):
    """What operators asked for (gateway.storage.positions)."""

    async def wishes(self) -> list[SubscriptionWish]: ...
    async def put_wish(self, wish: SubscriptionWish) -> None: ...
    async def remove_wish(self, device_id: str, kind: str, target_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class CareKey:
    """Which subscription: at ``device_id``, of one kind, for the device or one of its channels."""

    device_id: str
    kind: str
    target_id: str

    @property
    def journal(self) -> str:
        return self.device_id if self.kind == CATALOG else f"{self.device_id}/{self.kind}/{self.target_id}"


@dataclass(slots=True, eq=False)
class _Care:
    """One subscription we look after: its task, and its dialog while it has one."""

    key: CareKey
    interval_s: int | None = None
    task: asyncio.Task[None] | None = None
    subscription: Subscription | None = None
    ended: asyncio.Event | None = None
    end_reason: str = ""
    asking: bool = False
    """A SUBSCRIBE is on its way: it is not given up, so that no dialog is left at the device."""
    unwanted: bool = False
    state: str = "waiting"
    reason: str = ""
    since_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """One subscription for the API. ``state``: waiting | active | polled | ended; ``origin``: settings | operator | upper."""

    kind: str
    target_id: str
    state: str
    reason: str
    since_at: datetime | None
    expires_s: int | None
    interval_s: int | None
    origin: str


@dataclass(slots=True)
class _Held:
    """Uppers' need of a subscription below: intervals by holder."""

    intervals: dict[object, int | None] = field(default_factory=dict)

    @property
    def interval_s(self) -> int | None:
        known = [value for value in self.intervals.values() if value is not None]
        return min(known, default=None)


class SubscriptionService:
    """One task per online device and kind: subscribe, wait for the end, subscribe again or poll (9.11, G113)."""

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
        alarms: AlarmSettings | None = None,
        positions: PositionSettings | None = None,
        wishes: WishStore | None = None,
        spread_s: float = SPREAD_S,
        resubscribe_s: float = RESUBSCRIBE_S,
    ) -> None:
        self._settings, self._alarms, self._positions = settings, alarms, positions
        self._domain = domain
        self._registry = registry
        self._bus = bus
        self._dispatch = dispatch
        self._endpoint = endpoint
        self._catalog = catalog
        self._journal = journal
        self._clock = clock or Clock()
        self._wish_store = wishes
        self._spread_s = spread_s
        self._resubscribe_s = resubscribe_s
        self._cares: dict[str, dict[CareKey, _Care]] = {}
        self._wishes: dict[CareKey, SubscriptionWish] = {}
        self._held: dict[CareKey, _Held] = {}
        self._left_behind: dict[str, dict[str, Any]] = {}
        self._unsubscribe: list[Callable[[], None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._event_id = random.randrange(1, 100_000)
        self._next_start = 0.0
        self.alarm_poll_s, self.ptz_poll_s = ALARM_POLL_S, PTZ_POLL_S

    async def start(self) -> None:
        """Listen for devices; what an earlier life left behind is ended when its device is looked after again."""
        for key, state in (await self._journal.load(KIND)).items():
            dialog = state.get("dialog")
            if isinstance(dialog, dict):
                self._left_behind[key] = dialog
        if self._wish_store is not None:
            for wish in await self._wish_store.wishes():
                if wish.kind in KINDS:
                    self._wishes[CareKey(wish.device_id, wish.kind, wish.target_id)] = wish
        self._unsubscribe = [
            self._bus.subscribe(DeviceOnline, callback=self._online),
            self._bus.subscribe(DeviceOffline, callback=self._offline),
            self._bus.subscribe(CatalogCollected, callback=lambda event: self._reconcile(event.device_id)),
        ]

    async def close(self) -> None:
        """End the tasks. Subscriptions stay in the journal: the next start takes them up again."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        tasks = [
            care.task for cares in self._cares.values() for care in cares.values() if care.task is not None
        ]
        tasks += self._ending
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what others ask -------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many subscriptions are open."""
        return sum(care.subscription is not None for cares in self._cares.values() for care in cares.values())

    def active_by_kind(self) -> dict[tuple[str, str], int]:
        """How many there are by (kind, state)."""
        found: dict[tuple[str, str], int] = {}
        for cares in self._cares.values():
            for care in cares.values():
                found[care.key.kind, care.state] = found.get((care.key.kind, care.state), 0) + 1
        return found

    def subscription(self, device_id: str, kind: str = CATALOG, target_id: str = "") -> Subscription | None:
        care = self._cares.get(device_id, {}).get(CareKey(device_id, kind, target_id or device_id))
        return care.subscription if care is not None else None

    def states(self, device_id: str) -> list[SubscriptionState]:
        """What is subscribed, tried or polled at a device now; nothing while it is offline."""
        return [
            SubscriptionState(
                key.kind, key.target_id, care.state, care.reason, care.since_at,
                care.subscription.expires_s if care.subscription is not None else None,
                care.interval_s,
                "operator" if key in self._wishes else "upper" if key in self._held else "settings",
            )
            for key, care in self._cares.get(device_id, {}).items()
        ]  # fmt: skip

    async def set_wish(self, wish: SubscriptionWish) -> None:
        """An operator's word, kept over restarts. Raises NotFound, NotSupported (the device's edition, G049)."""
        device = self._registry.devices.get(wish.device_id)
        if device is None:
            raise NotFound(f"device {wish.device_id}")
        if wish.enabled and not knows(device, wish.kind):
            raise NotSupported(
                f"{wish.kind} needs GB/T 28181-2022; {device.device_id} speaks {device.edition}"
            )
        self._wishes[CareKey(wish.device_id, wish.kind, wish.target_id)] = wish
        if self._wish_store is not None:
            await self._wish_store.put_wish(wish)
        self._reconcile(wish.device_id)

    async def remove_wish(self, device_id: str, kind: str, target_id: str) -> None:
        """The settings decide again."""
        self._wishes.pop(CareKey(device_id, kind, target_id), None)
        if self._wish_store is not None:
            await self._wish_store.remove_wish(device_id, kind, target_id)
        self._reconcile(device_id)

    def hold(
        self, holder: object, device_id: str, kind: str, target_id: str, interval_s: int | None = None
    ) -> None:
        """An upper needs this subscription until :meth:`release`; an operator's "no" counts more."""
        self._held.setdefault(CareKey(device_id, kind, target_id), _Held()).intervals[holder] = interval_s
        self._reconcile(device_id)

    def release(self, holder: object) -> None:
        """The holder needs nothing any more."""
        for key, held in list(self._held.items()):
            if holder in held.intervals:
                del held.intervals[holder]
                if not held.intervals:
                    del self._held[key]
                self._reconcile(key.device_id)

    # -- which subscriptions ---------------------------------------------------------------------------------

    def _wanted(self, device: Device) -> dict[CareKey, int | None]:
        """The subscriptions a device should have, each with its interval."""
        device_id = device.device_id
        found: dict[CareKey, int | None] = {CareKey(device_id, CATALOG, device_id): None}
        if self._alarms is not None and self._alarms.subscribe:
            found[CareKey(device_id, ALARM, device_id)] = None
        positions = self._positions
        default_s = positions.interval_s if positions is not None else None
        if positions is not None and (
            positions.subscribe == "all"
            or (positions.subscribe == "mobile" and moves(self._registry, device))
        ):
            found[CareKey(device_id, MOBILE_POSITION, device_id)] = default_s
        for key, held in self._held.items():
            if key.device_id == device_id and (key not in found or key.kind == MOBILE_POSITION):
                found[key] = min(filter(None, (found.get(key), held.interval_s)), default=default_s)
        for key, wish in self._wishes.items():
            if key.device_id == device_id:
                found.pop(key, None)
                if wish.enabled:
                    found[key] = (wish.interval_s or default_s) if key.kind == MOBILE_POSITION else None
        return {key: interval for key, interval in found.items() if knows(device, key.kind)}

    def _online(self, event: DeviceOnline) -> None:
        device = self._registry.devices.get(event.device_id)
        if device is None or device.local or event.device_id in self._cares:
            return
        resumed = event.cause == "resumed"
        spread = max(self._spread_s, len(self._cares) / RESUME_PER_S) if resumed else self._spread_s
        self._cares[event.device_id] = {}
        self._reconcile(event.device_id, spread)

    def _reconcile(self, device_id: str, spread_s: float = 0.0) -> None:
        """Begin what is wanted and not there, end what is there and not wanted (any more in this form)."""
        cares = self._cares.get(device_id)
        device = self._registry.devices.get(device_id)
        if cares is None or device is None:
            return
        wanted = self._wanted(device)
        for key, care in list(cares.items()):
            if key not in wanted or wanted[key] != care.interval_s:
                del cares[key]
                self._journal.remove(KIND, key.journal)
                self._end(care)
        for key, interval_s in wanted.items():
            if key not in cares:
                care = cares[key] = _Care(key, interval_s, since_at=self._clock.utc())
                care.task = asyncio.create_task(
                    self._look_after(device, care, spread_s), name=f"subscription-{key.kind}-{device_id}"
                )

    def _end(self, care: _Care) -> None:
        """Not wanted any more: unsubscribe in the dialog, also in one that is just being made."""
        care.unwanted = True
        if care.task is not None and care.asking:
            self._ending.add(care.task)
            care.task.add_done_callback(self._ending.discard)
        elif care.task is not None and care.task is not asyncio.current_task():
            care.task.cancel()
        subscription, care.subscription = care.subscription, None
        if subscription is not None:
            self._spawn(subscription.close())

    def _offline(self, event: DeviceOffline) -> None:
        """The dialogs are of no use any more: let them go without a word to a device that does not listen."""
        for care in self._cares.pop(event.device_id, {}).values():
            if care.task is not None:
                care.task.cancel()
            if care.subscription is not None:
                care.subscription.flow_lost()
                self._journal.remove(KIND, care.key.journal)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # -- one subscription ------------------------------------------------------------------------------------

    async def _look_after(self, device: Device, care: _Care, spread_s: float) -> None:
        await asyncio.sleep(random.uniform(0, spread_s) + self._turn_s(care))
        await self._end_left_behind(device, care)
        failures = 0
        while self._may_subscribe(care) and failures <= len(RETRY_S) and not care.unwanted:
            try:
                await self._subscribe(device, care)
                if care.unwanted:
                    self._end(care)
                    return
            except Rejected as error:
                self._tell(care, "refused", f"{error.status}")
                break
            except (RemoteError, LocalError) as error:
                logger.info(
                    "subscription failed device=%s kind=%s error=%s", device.device_id, care.key.kind, error
                )
                failures += 1
                if care.unwanted:
                    return
                if failures > len(RETRY_S):
                    self._tell(care, "refused", "no answer")
                    break
                await asyncio.sleep(RETRY_S[failures - 1] * random.uniform(0.8, 1.2))
                continue
            failures = 0
            if not await self._until_end(care):
                break
            await asyncio.sleep(self._resubscribe_s)
        if not care.unwanted:
            await self._poll(device, care)

    def _turn_s(self, care: _Care) -> float:
        """Seconds until it is this one's turn: when thousands come at once, registrations and catalogs go first."""
        if care.key.kind == CATALOG:
            return 0.0
        now = asyncio.get_running_loop().time()
        self._next_start = max(now, self._next_start) + 1 / RESUME_PER_S
        return self._next_start - now

    def _may_subscribe(self, care: _Care) -> bool:
        return care.key.kind != CATALOG or self._settings.subscribe

    def _expires_s(self, kind: str) -> int:
        if kind == ALARM and self._alarms is not None:
            return self._alarms.subscription_expires_s
        if kind in (MOBILE_POSITION, PTZ_POSITION) and self._positions is not None:
            return self._positions.subscription_expires_s
        return self._settings.subscription_expires_s

    async def _subscribe(self, device: Device, care: _Care) -> None:
        self._event_id += 1
        care.ended, care.end_reason = asyncio.Event(), ""
        ended, key, kind = care.ended, care.key, KINDS[care.key.kind]

        def on_end(reason: str) -> None:
            care.end_reason = reason
            ended.set()

        query = kind.query(self._dispatch.next_sn(device.device_id), key.target_id, care.interval_s)
        care.asking = True
        try:
            care.subscription = await self._endpoint.subscribe(
                device_target(device),
                to=f"sip:{device.device_id}@{self._domain}",
                event=kind.event(self._event_id),
                expires_s=self._expires_s(key.kind),
                body=self._dispatch.outbox.encode_for(device, query),
                content_type=CONTENT_TYPE,
                on_notify=lambda incoming: self._dispatch.notify(device, incoming),
                on_end=on_end,
            )
        finally:
            care.asking = False
        if key.kind == CATALOG:
            self._registry.update_device(device.device_id, catalog_polled=False)
        if not care.unwanted:
            self._journal.put(KIND, key.journal, {"dialog": care.subscription.snapshot()})
            self._tell(care, "active", "")

    async def _until_end(self, care: _Care) -> bool:
        """Wait for the end of the subscription; False when it must not be made again."""
        if care.ended is None:
            return False
        await care.ended.wait()
        care.subscription = None
        self._journal.remove(KIND, care.key.journal)
        self._tell(care, "ended", care.end_reason)
        return care.end_reason.lower() not in FINAL_REASONS

    async def _end_left_behind(self, device: Device, care: _Care) -> None:
        """Unsubscribe in the dialog of an earlier life, so that the device does not notify twice."""
        dialog = self._left_behind.pop(care.key.journal, None)
        if dialog is None:
            return
        try:
            await self._endpoint.end_orphan(dialog, flow=device.flow)
        except LocalError as error:
            logger.info("old subscription unreadable device=%s error=%s", device.device_id, error)
        self._journal.remove(KIND, care.key.journal)

    # -- instead of a subscription ---------------------------------------------------------------------------

    async def _poll(self, device: Device, care: _Care) -> None:
        """No subscription: ask from time to time (G113). What is answered takes the way of what is notified."""
        if care.key.kind == CATALOG:
            self._registry.update_device(device.device_id, catalog_polled=True)
        care.state = "polled"
        while True:
            await asyncio.sleep(self._poll_interval_s(care) * random.uniform(0.9, 1.1))
            try:
                await self._ask(device, care)
            except (GatewayError, RemoteError) as error:
                logger.info("poll failed device=%s kind=%s error=%s", device.device_id, care.key.kind, error)

    def _poll_interval_s(self, care: _Care) -> float:
        if care.key.kind == CATALOG:
            return self._settings.poll_interval_s
        if care.key.kind == ALARM:
            return self.alarm_poll_s
        if care.key.kind == PTZ_POSITION:
            return self.ptz_poll_s
        return self._positions.poll_interval_s if self._positions is not None else ALARM_POLL_S

    async def _ask(self, device: Device, care: _Care) -> None:
        """One question by MESSAGE: 2016 knows Alarm and MobilePosition as plain queries too."""
        kind, target = care.key.kind, care.key.target_id
        if kind == CATALOG:
            await self._catalog.refresh(device.device_id)
            return
        body = KINDS[kind].query(self._dispatch.next_sn(device.device_id), target, care.interval_s)
        response = await self._dispatch.send(device, body)
        if response.status >= 300:
            care.reason = f"{response.status}"

    def _tell(self, care: _Care, state: str, reason: str) -> None:
        care.state, care.reason, care.since_at = state, reason, self._clock.utc()
        device_id, kind = care.key.device_id, care.key.kind
        logger.info("subscription device=%s kind=%s state=%s reason=%s", device_id, kind, state, reason)
        self._bus.publish(SubscriptionChanged(device_id, kind, state, reason))
