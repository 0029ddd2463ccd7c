"""Puts the parts of recording together and starts and stops them in order: disks, index, healing, retention, upload."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from pathlib import Path

from config.settings import RecordingSettings
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.registry import Registry
from gateway.services.nodes import Nodes
from gateway.services.recording import Pictures, RecordingService
from gateway.services.recording_cache import RecordingCache
from gateway.services.recording_coverage import Coverage
from gateway.services.recording_disks import DiskGuard
from gateway.services.recording_healing import Healer
from gateway.services.recording_index import RecordingIndex
from gateway.services.recording_plan import Plan
from gateway.services.recording_retention import Auditor, Retention
from gateway.services.recording_s3 import ObjectStore, Uploader
from gateway.services.recording_timeline import TimelineService
from gateway.services.recording_wishes import Wishes
from gateway.storage.database import Database
from gateway.storage.recordings import RecordingStore

log = logging.getLogger(__name__)


class Recording:
    """Everything about recordings that the gateway has."""

    def __init__(
        self,
        *,
        settings: RecordingSettings,
        storage_directory: Path,
        database: Database,
        registry: Registry,
        bus: EventBus,
        sessions: Pictures,
        nodes: Nodes,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.store = RecordingStore(database)
        self.guard = DiskGuard(
            settings=settings,
            default_directory=storage_directory / "recordings",
            nodes=nodes,
            bus=bus,
            known=self._known,
            clock=clock,
        )
        self.index = RecordingIndex(self.store)
        self.healer = Healer(
            store=self.store,
            index=self.index,
            guard=self.guard,
            bus=bus,
            files_per_s=settings.heal_files_per_s,
        )
        self.objects = ObjectStore(settings.s3) if settings.s3 is not None else None
        self.cache = (
            RecordingCache(
                settings=settings.s3, directory=storage_directory / "s3-cache", objects=self.objects
            )
            if settings.s3 is not None and self.objects is not None
            else None
        )
        self.uploader = (
            Uploader(
                settings=settings.s3,
                classes=lambda: list(settings.classes),
                store=self.store,
                objects=self.objects,
                guard=self.guard,
                in_use=self.cache.in_use if self.cache is not None else lambda segment_id: False,
            )
            if settings.s3 is not None and self.objects is not None
            else None
        )
        self.retention = Retention(
            settings=settings, store=self.store, guard=self.guard, bus=bus, clock=clock, remote=self.objects
        )
        if self.cache is not None:
            self.retention.on_removed = self.cache.forget
        self.wishes = Wishes(
            store=self.store, registry=registry, default_class=settings.default_class, clock=clock
        )
        self.service = RecordingService(
            settings=settings,
            registry=registry,
            bus=bus,
            sessions=sessions,
            nodes=nodes,
            store=self.store,
            index=self.index,
            guard=self.guard,
            healer=self.healer,
            wishes=self.wishes,
            clock=clock,
        )
        self.timeline = TimelineService(
            store=self.store, clock=clock, plan_of=self._plan_of, recording=self._is_recording
        )
        self.coverage = Coverage(store=self.store, wishes=self.wishes, clock=clock)
        self._stack = AsyncExitStack()

    @property
    def directories(self) -> dict[str, Path]:
        """The disks by their id."""
        return {disk_id: disk.directory for disk_id, disk in self.guard.disks.items()}

    def connect(self, *, audit: Auditor) -> None:
        self.retention.audit = audit

    async def start(self) -> None:
        """After the media nodes. Raises OSError when S3 is configured and its client is not installed."""
        push = self._stack.push_async_callback
        push(self.index.close)
        await self.index.start()
        push(self.guard.close)
        await self.guard.start()
        if self.objects is not None and self.uploader is not None:
            push(self.objects.close)
            await self.objects.start()
            if self.cache is not None:
                push(self.cache.close)
                await self.cache.start()
            push(self.uploader.close)
            await self.uploader.start()
        push(self.retention.close)
        await self.retention.start()
        push(self.healer.close)
        await self.healer.start()
        push(self.service.close)
        await self.service.start()
        push(self.coverage.close)
        await self.coverage.start()

    async def close(self) -> None:
        """Finish all files and end all tasks, in reverse order. May be called again."""
        await self._stack.aclose()

    async def _known(self, disk_id: str) -> bool:
        return await self.store.oldest_of_disk(disk_id) is not None

    def _plan_of(self, device_id: str, channel_id: str) -> Plan:
        return self.wishes.of_channel((device_id, channel_id)).plan

    def _is_recording(self, device_id: str, channel_id: str) -> bool:
        one = self.service.state_of((device_id, channel_id))
        return one is not None and one.running is not None
