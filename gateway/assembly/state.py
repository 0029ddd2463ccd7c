"""What is known and kept: the registry in memory, its rows in the database, and what only watches them."""

from __future__ import annotations

from contextlib import AsyncExitStack

from config.settings import Settings
from config.vendors import load_vendors
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.metrics import Metrics
from gateway.registry import Registry
from gateway.runtime import Runtime
from gateway.services.census import Census
from gateway.services.lower_platforms import LowerPlatforms
from gateway.services.profiles import ProfileService
from gateway.services.wire import WireLog
from gateway.storage.database import Database
from gateway.storage.devices import load_registry
from gateway.storage.journal import Journal
from gateway.storage.writer import Writer


class State:
    """Built first: every other part is given something of it."""

    def __init__(self, settings: Settings) -> None:
        self.clock = Clock()
        self.bus = EventBus()
        self.runtime = Runtime(self.bus)
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.database = Database(settings.storage)
        self.journal = Journal(clock=self.clock)
        self.writer = Writer(
            database=self.database,
            registry=self.registry,
            journal=self.journal,
            interval_s=settings.storage.flush_interval_s,
            clock=self.clock,
        )
        self.lower_platforms = LowerPlatforms(registry=self.registry, bus=self.bus, journal=self.journal)
        self.census = Census(registry=self.registry, clock=self.clock)
        self.metrics = Metrics(bus=self.bus, registry=self.registry, census=self.census, clock=self.clock)
        self.profiles = ProfileService(
            vendors=load_vendors(settings.profiles.vendors_file),
            registry=self.registry,
            bus=self.bus,
            journal=self.journal,
        )
        self.wire = WireLog(settings=settings.wire, devices=self.registry.devices, bus=self.bus)

    async def load(self, stack: AsyncExitStack) -> None:
        """Take up what an earlier life knew. Raises StorageFailed."""
        await self.database.open()
        stack.push_async_callback(self.database.close)
        async with self.database.connect() as connection:
            await load_registry(connection, self.registry)
            await self.journal.read(connection)

    async def start(self, stack: AsyncExitStack) -> None:
        """Follow changes from now on, and write them down."""
        await self.lower_platforms.start()
        stack.callback(self.lower_platforms.close)
        await self.profiles.load()
        self.profiles.start()
        stack.callback(self.profiles.close)
        self.wire.start()
        stack.callback(self.wire.close)
        await self.writer.start()
        stack.push_async_callback(self.writer.close)

    def quieten(self, stack: AsyncExitStack) -> None:
        """Keep the collector away from what was loaded."""
        self.runtime.start()
        stack.callback(self.runtime.close)
