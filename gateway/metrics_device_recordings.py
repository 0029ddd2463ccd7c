"""Metrics of recordings in devices: lists, playings, orders, ends, downloads; read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.services.device_download import DeviceDownloads
from gateway.services.device_playback import DevicePlaybacks
from gateway.services.device_playback_end import HistoryEnds
from gateway.services.device_records import DeviceRecords

SEARCHES = ("complete", "incomplete", "failed", "shared")
ENDS = ("matched_call", "matched_channel", "matched_device", "unmatched", "other_type", "media_time")
OUTCOMES = ("done", "partial", "failed", "cancelled")


class DeviceRecordingGauges(Collector):
    """State at the moment of asking. Labels are bounded by the words above."""

    def __init__(
        self,
        records: DeviceRecords,
        playbacks: DevicePlaybacks,
        ends: HistoryEnds,
        downloads: DeviceDownloads,
    ) -> None:
        self._records, self._playbacks, self._ends, self._downloads = records, playbacks, ends, downloads

    def collect(self) -> Iterator[Metric]:
        yield _counts("device_record_searches", "Searches for recordings in devices.", "outcome",
                      {name: self._records.counts[name] for name in SEARCHES})  # fmt: skip
        yield CounterMetricFamily(
            "gateway_device_record_parts", "Parts of lists that devices sent.", self._records.counts["parts"]
        )
        yield GaugeMetricFamily(
            "gateway_device_playbacks", "Recordings in devices being played.", len(self._playbacks.open_now())
        )
        yield CounterMetricFamily(
            "gateway_device_playbacks_opened",
            "Recordings in devices that began to play.",
            self._playbacks.opened,
        )
        yield _counts(
            "device_playback_orders", "Orders to devices that play.", "outcome", self._playbacks.orders
        )
        yield _counts("device_recording_ends", "How the end of a device's recording was known.", "way",
                      {name: self._ends.counts[name] for name in ENDS})  # fmt: skip
        downloads = GaugeMetricFamily(
            "gateway_device_downloads", "Downloads from devices.", labels=("state",)
        )
        downloads.add_metric(("running",), self._downloads.running)
        downloads.add_metric(("waiting",), self._downloads.waiting)
        yield downloads
        yield _counts("device_downloads_ended", "Downloads from devices that are over.", "outcome",
                      {name: self._downloads.counts[name] for name in OUTCOMES})  # fmt: skip
        yield CounterMetricFamily(
            "gateway_device_download_bytes", "Bytes of downloads from devices.", self._downloads.bytes
        )


def _counts(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"gateway_{name}", text, labels=(label,))
    for word, count in values.items():
        family.add_metric((word,), count)
    return family
