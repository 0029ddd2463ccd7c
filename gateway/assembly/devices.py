"""What is asked of devices and told by them in messages: catalog, subscriptions, commands, alarms, positions."""

from __future__ import annotations

from contextlib import AsyncExitStack

from config.settings import Settings
from gateway.assembly.signalling import Signalling
from gateway.assembly.state import State
from gateway.services.alarms import AlarmService
from gateway.services.alarms_archive import AlarmArchive
from gateway.services.alarms_reset import AlarmReset
from gateway.services.catalog import CatalogService
from gateway.services.commands import DeviceCommands
from gateway.services.device_info import DeviceInfoService
from gateway.services.positions import PositionService
from gateway.services.subscriptions import SubscriptionService
from gateway.services.upgrade import Upgrades
from gateway.storage.alarms import AlarmStore
from gateway.storage.positions import PositionStore


class Devices:
    """Everything about devices that needs no media."""

    def __init__(self, settings: Settings, state: State, signalling: Signalling) -> None:
        dispatch = signalling.dispatch
        self.catalog = CatalogService(
            settings=settings.catalog,
            registry=state.registry,
            bus=state.bus,
            dispatch=dispatch,
            clock=state.clock,
        )
        self.device_info = DeviceInfoService(registry=state.registry, bus=state.bus, dispatch=dispatch)
        self.subscriptions = SubscriptionService(
            settings=settings.catalog,
            domain=settings.sip.domain,
            registry=state.registry,
            bus=state.bus,
            dispatch=dispatch,
            endpoint=signalling.endpoint,
            catalog=self.catalog,
            journal=state.journal,
            clock=state.clock,
            alarms=settings.alarms,
            positions=settings.positions,
            wishes=PositionStore(state.database),
        )
        self.commands = DeviceCommands(settings=settings.control, registry=state.registry, asker=dispatch)
        self.upgrades = Upgrades(
            settings=settings.control,
            orders=self.commands,
            bus=state.bus,
            journal=state.journal,
            clock=state.clock,
        )
        self.upgrades.connect(dispatch)
        self._build_alarms(settings, state, signalling)

    def _build_alarms(self, settings: Settings, state: State, signalling: Signalling) -> None:
        self.alarms = AlarmService(
            settings=settings.alarms,
            registry=state.registry,
            bus=state.bus,
            archive=AlarmArchive(
                store=AlarmStore(state.database),
                settings=settings.alarms,
                directory=settings.storage.directory / "alarms",
                clock=state.clock,
            ),
            clock=state.clock,
        )
        self.alarms.connect(signalling.dispatch)
        self.alarm_reset = AlarmReset(registry=state.registry, asker=signalling.dispatch)
        self.positions = PositionService(
            settings=settings.positions,
            store=PositionStore(state.database),
            bus=state.bus,
            clock=state.clock,
        )
        self.positions.connect(signalling.dispatch)

    async def listen(self, stack: AsyncExitStack) -> None:
        """Alarms and positions can be taken in before the first device is heard."""
        stack.push_async_callback(self.alarms.close)
        await self.alarms.start()
        stack.push_async_callback(self.positions.close)
        await self.positions.start()

    async def start(self, stack: AsyncExitStack) -> None:
        """Ask devices as they come."""
        self.catalog.start()
        stack.push_async_callback(self.catalog.close)
        self.device_info.start()
        stack.push_async_callback(self.device_info.close)
        stack.push_async_callback(self.upgrades.close)
        await self.upgrades.start()
        await self.subscriptions.start()
        stack.push_async_callback(self.subscriptions.close)
