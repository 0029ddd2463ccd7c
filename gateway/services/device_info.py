"""Asks a device once for its name, manufacturer, model and firmware when it comes online or was upgraded (2022 A.2.4.4)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from gateway.dispatch import Dispatch
from gateway.errors import GatewayError
from gateway.events import DeviceOnline, EventBus, UpgradeChanged
from gateway.model import Device
from gateway.registry import Registry
from sip.manscdp import DeviceInfoQuery, DeviceInfoResponse

logger = logging.getLogger(__name__)

QUERIES_AT_ONCE = 50
SPREAD_S = 3.0


class DeviceInfoService:
    """Fills the device's record. A name that an operator gave is kept."""

    def __init__(
        self, *, registry: Registry, bus: EventBus, dispatch: Dispatch, spread_s: float = SPREAD_S
    ) -> None:
        self._registry = registry
        self._bus = bus
        self._dispatch = dispatch
        self._spread_s = spread_s
        self._slots = asyncio.Semaphore(QUERIES_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._unsubscribe: Callable[[], object] | None = None

    def start(self) -> None:
        told = (
            self._bus.subscribe(DeviceOnline, callback=self._online),
            self._bus.subscribe(UpgradeChanged, callback=self._upgraded),
        )
        self._unsubscribe = lambda: [unsubscribe() for unsubscribe in told]

    async def close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _online(self, event: DeviceOnline) -> None:
        if event.cause == "registered":
            self._begin(event.device_id, self._spread_s)

    def _upgraded(self, event: UpgradeChanged) -> None:
        """Its firmware is another one now, and most devices were never missed meanwhile."""
        if event.state == "succeeded":
            self._begin(event.device_id, 0.0)

    def _begin(self, device_id: str, spread_s: float) -> None:
        if device_id in self._tasks:
            return
        task = asyncio.create_task(self._ask(device_id, spread_s))
        self._tasks[device_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(device_id, None))

    async def _ask(self, device_id: str, spread_s: float) -> None:
        await asyncio.sleep(random.uniform(0, spread_s))
        device = self._registry.devices.get(device_id)
        if device is None:
            return
        try:
            async with self._slots:
                await self.refresh(device)
        except GatewayError as error:
            logger.info("device info not got device=%s error=%s", device_id, error)

    async def refresh(self, device: Device) -> DeviceInfoResponse | None:
        """Ask now. Raises DeviceIsOffline, QueryRefused, QueryTimedOut; None for an answer of another kind."""
        answer = await self._dispatch.query(device, DeviceInfoQuery(device_id=device.device_id))
        if not isinstance(answer, DeviceInfoResponse):
            return None
        told = {
            "manufacturer": answer.manufacturer,
            "model": answer.model,
            "firmware": answer.firmware,
            "name": "" if device.name else answer.device_name,
        }
        self._registry.update_device(
            device.device_id, **{name: value for name, value in told.items() if value}
        )
        return answer
