"""Metrics of recordings: what runs and what does not, files, disks, coverage; read when Prometheus asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.services.recording_disks import DiskState

if TYPE_CHECKING:
    from gateway.services.nodes import NodeHandle
    from gateway.services.recording_cache import RecordingCache
    from gateway.services.recording_parts import Recording

COUNTERS = {
    "segments": ("segments_opened", "Recorded files begun."),
    "bytes": ("written_bytes", "Bytes written to disks."),
    "queue_drops": ("dropped_pictures", "Pictures that could not be written."),
    "write_errors": ("write_errors", "Writes that a disk refused."),
}


class NodeCounts:
    """Counts of the nodes added up, also over nodes that were restarted."""

    def __init__(self) -> None:
        self.totals: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTERS, 0))
        self._seen: dict[str, tuple[int, dict[str, int]]] = {}

    def take(self, node_id: str, pid: int, values: dict[str, int]) -> None:
        known_pid, before = self._seen.get(node_id, (pid, {}))
        for name, value in values.items():
            earlier = before.get(name, 0) if known_pid == pid else 0
            self.totals[node_id][name] += max(0, value - earlier)
        self._seen[node_id] = pid, values


class RecordingGauges(Collector):
    """State at the moment of asking. Labels are bounded by nodes, disks, classes and the words of causes."""

    def __init__(self, recording: Recording, nodes: Callable[[], Iterable[NodeHandle]]) -> None:
        self._recording = recording
        self._nodes = nodes
        self._counts = NodeCounts()

    def collect(self) -> Iterator[Metric]:
        yield from self._read_channels()
        yield from self._read_nodes()
        yield from self._read_disks()
        yield from self._read_files()

    def _read_channels(self) -> Iterator[Metric]:
        service = self._recording.service
        active = _gauge("active", "Channels being recorded; event: standing by.", "kind")
        counts = service.active()
        for kind in ("continuous", "event", "manual"):
            active.add_metric((kind,), counts[kind])
        yield active
        missing = _gauge("missing", "Channels that should be recorded and are not.", "cause")
        for cause, count in sorted(service.missing().items()):
            missing.add_metric((cause,), count)
        yield missing
        failures = _counter("start_failures", "Cameras that did not start for a recording.", "cause")
        for cause, count in sorted(service.failures.items()):
            failures.add_metric((cause,), count)
        yield failures
        coverage = _gauge(
            "coverage_ratio", "Recorded part of what was planned in the last 24 hours.", "storage_class"
        )
        for name, ratio in self._recording.coverage.ratio.items():
            coverage.add_metric((name,), ratio)
        yield coverage

    def _read_nodes(self) -> Iterator[Metric]:
        queued = _gauge("queued_bytes", "Bytes that wait for disks.", "node")
        for handle in self._nodes():
            if handle.stats is not None:
                stats = handle.stats.recording
                self._counts.take(
                    handle.node_id, handle.pid, {name: getattr(stats, name) for name in COUNTERS}
                )
                queued.add_metric((handle.node_id,), stats.queued_bytes)
        yield queued
        for name, (metric, text) in COUNTERS.items():
            family = _counter(metric, text, "node")
            for node_id, values in self._counts.totals.items():
                family.add_metric((node_id,), values[name])
            yield family

    def _read_disks(self) -> Iterator[Metric]:
        state = _gauge("disk_state", "1 for the state the disk is in.", "disk", "state")
        free = _gauge("disk_free_bytes", "Free bytes.", "disk")
        size = _gauge("disk_size_bytes", "Size.", "disk")
        reserve = _gauge("disk_reserve_bytes", "Bytes that are to stay free.", "disk")
        for disk in self._recording.guard.disks.values():
            for one in DiskState:
                state.add_metric((disk.disk_id, one.value), disk.state is one)
            free.add_metric((disk.disk_id,), disk.free_bytes)
            size.add_metric((disk.disk_id,), disk.total_bytes)
            reserve.add_metric((disk.disk_id,), disk.reserve_bytes)
        yield from (state, free, size, reserve)

    def _read_files(self) -> Iterator[Metric]:
        recording = self._recording
        files = _gauge("files", "Recorded files kept, counted every half hour.", "storage_class", "place")
        size = _gauge("file_bytes", "Bytes of recorded files kept.", "storage_class", "place")
        for labels, (count, total) in recording.coverage.totals.items():
            files.add_metric(labels, count)
            size.add_metric(labels, total)
        yield from (files, size)
        deleted = _counter(
            "deleted_files", "Files deleted: expired, disk_full (before their time), operator.", "cause"
        )
        for cause in ("expired", "disk_full", "operator"):
            deleted.add_metric((cause,), recording.retention.deleted[cause].segments)
        yield deleted
        healed = _counter("healed", "Entries of the index put right after a crash.", "what")
        counts = recording.healer.counts
        for what in ("entered", "mended", "removed", "unreadable"):
            healed.add_metric((what,), getattr(counts, what))
        yield healed
        index = _gauge("index_waiting", "Entries that wait to be written to the index.")
        index.add_metric((), recording.index.waiting)
        yield index
        if recording.uploader is not None:
            uploads = _counter("uploads", "Files uploaded to the object storage.", "result")
            uploads.add_metric(("ok",), recording.uploader.uploaded)
            uploads.add_metric(("failed",), recording.uploader.failures)
            yield uploads
        if recording.cache is not None:
            yield from read_cache(recording.cache)


def read_cache(cache: RecordingCache) -> Iterator[Metric]:
    """Of the cache for files that are in the object storage only."""
    fetches = _counter(
        "cache_fetches",
        "Files wanted from the object storage: fetched, joined (another's fetch was waited for), found (it was here),"
        " missing (no such object), failed.",
        "result",
    )
    for result in ("fetched", "joined", "found", "missing", "failed"):
        fetches.add_metric((result,), cache.counts[result])
    yield fetches
    evicted = _counter("cache_evicted_files", "Files dropped from the cache to make room.")
    evicted.add_metric((), cache.counts["evicted"])
    yield evicted
    for name, text, value in (
        ("cache_files", "Files in the cache.", cache.files),
        ("cache_bytes", "Bytes in the cache.", cache.bytes),
        ("cache_limit_bytes", "Most bytes that may be in the cache.", cache.limit_bytes),
    ):
        gauge = _gauge(name, text)
        gauge.add_metric((), value)
        yield gauge


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gateway_recording_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"gateway_recording_{name}", text, labels=labels)
