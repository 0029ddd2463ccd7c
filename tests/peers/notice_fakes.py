"""The alarm and position parts of the API on a database of a test, without devices behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway_core import DOMAIN

from config.settings import AlarmSettings, CatalogSettings, ControlSettings, PositionSettings
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.registry import Registry
from gateway.services.alarms import AlarmService
from gateway.services.alarms_archive import AlarmArchive
from gateway.services.alarms_reset import AlarmReset
from gateway.services.commands import DeviceCommands
from gateway.services.positions import PositionService
from gateway.services.subscriptions import SubscriptionService
from gateway.services.upgrade import Upgrades
from gateway.storage.alarms import AlarmStore
from gateway.storage.journal import Journal
from gateway.storage.positions import PositionStore


def notice_parts(
    database: Any, registry: Registry, bus: EventBus, folder: Path, clock: Clock
) -> dict[str, Any]:
    """Keyword arguments of gateway.http.assembly.Parts."""
    settings = AlarmSettings()
    archive = AlarmArchive(
        store=AlarmStore(database), settings=settings, directory=folder / "alarms", clock=clock
    )
    nobody: Any = None
    store = PositionStore(database)
    control = ControlSettings()
    commands = DeviceCommands(settings=control, registry=registry, asker=nobody)
    return {
        "commands": commands,
        "upgrades": Upgrades(
            settings=control, orders=commands, bus=bus, journal=Journal(clock=clock), clock=clock
        ),
        "alarms": AlarmService(settings=settings, registry=registry, bus=bus, archive=archive, clock=clock),
        "alarm_reset": AlarmReset(registry=registry, asker=nobody),
        "positions": PositionService(settings=PositionSettings(), store=store, bus=bus, clock=clock),
        "subscriptions": SubscriptionService(
            settings=CatalogSettings(),
            domain=DOMAIN,
            registry=registry,
            bus=bus,
            dispatch=nobody,
            endpoint=nobody,
            catalog=nobody,
            journal=nobody,
            clock=clock,
            wishes=store,
        ),
    }
