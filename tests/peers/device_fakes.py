"""The configuration, snapshot and video upload parts of the API on a database of a test, without devices behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from config.settings import DeviceConfigSettings, SnapshotSettings, VideoUploadSettings
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.registry import Registry
from gateway.services.device_config import DeviceConfiguration
from gateway.services.device_snapshots import DeviceSnapshots
from gateway.services.device_snapshots_files import PictureFiles
from gateway.services.video_upload import VideoUploads
from gateway.storage.snapshots import SnapshotStore


def device_parts(
    database: Any, registry: Registry, bus: EventBus, folder: Path, clock: Clock
) -> dict[str, Any]:
    """Keyword arguments of gateway.http.assembly.Parts."""
    nobody: Any = None
    settings, store = SnapshotSettings(), SnapshotStore(database)
    configuration = DeviceConfiguration(
        settings=DeviceConfigSettings(), registry=registry, asker=nobody, timers=nobody, clock=clock
    )
    return {
        "configuration": configuration,
        "snapshot_settings": settings,
        "snapshots": DeviceSnapshots(
            settings=settings,
            registry=registry,
            configuration=configuration,
            store=store,
            files=PictureFiles(folder / "snapshots"),
            bus=bus,
            address=lambda device: "http://192.0.2.1:8080",
            clock=clock,
        ),
        "video_uploads": VideoUploads(
            settings=VideoUploadSettings(),
            registry=registry,
            store=store,
            player=nobody,
            recorder=nobody,
            bus=bus,
            clock=clock,
        ),
    }
