"""Metrics of pictures that devices upload and of video they announce, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gateway.services.device_snapshots import DeviceSnapshots
    from gateway.services.video_upload import VideoUploads

UPLOADS = (
    *("stored", "repeated", "warned", "unknown_session", "bad_ticket", "foreign_session"),
    *("too_many", "too_big", "no_picture", "empty", "bad_form"),
)
ANNOUNCED = ("announced", "pulled", "failed", "busy")


class DeviceGauges(Collector):
    """All labels are words of ours, so they are bounded."""

    def __init__(self, snapshots: DeviceSnapshots, uploads: VideoUploads) -> None:
        self._snapshots, self._uploads = snapshots, uploads

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "gateway_device_snapshots", "Uploads of pictures by devices.", labels=("result",)
        )
        for word in UPLOADS:
            family.add_metric((word,), self._snapshots.counts[word])
        yield family
        yield GaugeMetricFamily(
            "gateway_device_snapshot_orders", "Orders for pictures that run.", value=self._snapshots.running
        )
        family = CounterMetricFamily(
            "gateway_announced_videos", "VideoUploadNotify and what became of it.", labels=("result",)
        )
        for word in ANNOUNCED:
            family.add_metric((word,), self._uploads.counts[word])
        yield family
