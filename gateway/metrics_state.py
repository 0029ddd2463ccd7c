"""State that is read when Prometheus asks: counts, sessions, media nodes, upper platforms, queues, the host's clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.host_clock import ClockState, read_host_clock
from gateway.model import PlatformState, PlatformStatus, SessionInfo
from gateway.services.census import Census
from media.specs import NodeStats, StreamStats

if TYPE_CHECKING:
    from gateway.services.nodes import NodeHandle

STREAM_COUNTERS = {
    "packets": ("rtp_packets", "RTP packets received from devices."),
    "bytes": ("rtp_bytes", "RTP payload bytes received from devices."),
    "lost": ("rtp_lost_packets", "RTP packets that never came."),
    "reordered": ("rtp_reordered_packets", "RTP packets that came out of order and were put back."),
    "late": ("rtp_late_packets", "RTP packets that came too late to be used."),
    "ssrc_faults": ("rtp_ssrc_faults", "RTP packets with another SSRC than agreed."),
    "foreign_packets": ("rtp_foreign_packets", "RTP packets from a stranger, thrown away."),
    "resyncs": ("stream_resyncs", "Times a demuxer had to find its place again."),
    "damaged_units": ("stream_damaged_units", "Pictures and sounds damaged by loss."),
    "reader_drops": ("reader_dropped_units", "Units that slow viewers did not get."),
    "relay_packets": ("relay_packets", "RTP packets relayed to upper platforms."),
    "kernel_drops": (
        "rtp_kernel_dropped_packets",
        "RTP packets that did not fit into a media socket's receive buffer.",
    ),
    "relay_drops": ("relay_dropped_packets", "RTP packets that a relay could not send."),
}
WEBRTC_COUNTERS = {
    "stray": ("webrtc_stray_datagrams", "Datagrams on the WebRTC port from nobody known."),
    "refused": (
        "webrtc_refused_requests",
        "Binding requests that could not prove that they belong to a viewer.",
    ),
    "dropped": (
        "webrtc_dropped_datagrams",
        "Datagrams of WebRTC viewers that came faster than they were read.",
    ),
    "unsent": ("webrtc_unsent_packets", "Packets for WebRTC viewers that the kernel did not take."),
    "moved": ("webrtc_moved_viewers", "WebRTC viewers that went on from another address."),
    "retransmitted": ("webrtc_retransmitted_packets", "Packets sent again to WebRTC viewers."),
    "repeats": (
        "webrtc_repeated_groups",
        "Groups of pictures sent again to WebRTC viewers that lost the picture.",
    ),
}
DECODE_COUNTERS = {
    "jobs": ("decode_jobs", "Key frames given to decoding workers."),
    "refused": ("decode_refused_jobs", "Pictures refused because too many waited for a worker."),
    "oversized": ("decode_oversized_jobs", "Pictures refused because they would be too large."),
    "crashed": ("decode_crashed_workers", "Decoding workers that crashed, with one picture each."),
    "late": ("decode_late_workers", "Decoding workers ended because a picture took too long."),
}
TRANSCODE_COUNTERS = {
    "refused": ("transcode_refused_requests", "Transcodings refused because all transcoders were in use."),
    "restarts": ("transcode_restarts", "Transcoders started again after a crash."),
    "skipped": ("transcode_skipped_pictures", "Pictures left out because a transcoder was too slow."),
}
PARTS = {"webrtc": WEBRTC_COUNTERS, "decode": DECODE_COUNTERS, "transcode": TRANSCODE_COUNTERS}
"""Counters of a node that are no stream's, by field of NodeStats."""
NODE_COUNTERS = STREAM_COUNTERS | {
    f"{part}_{name}": named for part, counters in PARTS.items() for name, named in counters.items()
}


@dataclass(slots=True)
class Sources:
    """Where the gauges come from; gateway/assembly/gauges.py fills it in. All are quick reads of present state."""

    nodes: Callable[[], Iterable[NodeHandle]] = lambda: ()
    node_restarts: Callable[[], int] = lambda: 0
    platforms: Callable[[], Iterable[PlatformStatus]] = lambda: ()
    sessions: Callable[[], Iterable[SessionInfo]] = lambda: ()
    queues: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    """Entries waiting, by queue."""
    drops: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    """Entries thrown away since the start, by queue."""
    outcomes: Callable[[], Mapping[str, int]] = dict
    """What became of messages from peers, counted since the start."""
    collisions: Callable[[], int] = lambda: 0
    """Channel codes that mean several cameras."""
    inputs: Callable[[], Mapping[tuple[str, bool], int]] = dict
    """RTSP cameras and files by (kind, usable)."""
    input_checks: Callable[[], Mapping[str, int]] = dict
    """Checks of inputs since the start, by outcome."""
    host_clock: Callable[[], ClockState | None] = read_host_clock


Values = dict[str, int]


class MediaTotals:
    """Sums over nodes and townships that never go back, whatever happens to streams and node processes."""

    def __init__(self, township_of: Callable[[str, str], str]) -> None:
        self._township_of = township_of
        self._nodes: dict[str, tuple[int, Values]] = {}
        self._streams: dict[str, Values] = {}
        self._cpu_seen: dict[str, tuple[int, float]] = {}
        self.by_node: dict[str, Values] = defaultdict(lambda: dict.fromkeys(NODE_COUNTERS, 0))
        self.by_township: dict[str, Values] = defaultdict(lambda: {"packets": 0, "lost": 0})
        self.cpu_seconds: dict[str, float] = defaultdict(float)

    def take(self, pid: int, stats: NodeStats, channels: Mapping[str, tuple[str, str]]) -> None:
        """Add what a node counted since it was last asked. Another ``pid`` under the same name counts from zero.

        ``channels``: (device, channel) by stream id, of the sessions that run now.
        """
        node_id = stats.node_id
        known_pid, before = self._nodes.get(node_id, (pid, {}))
        self._nodes[node_id] = (
            pid,
            _advance(self.by_node[node_id], _node_values(stats), before if known_pid == pid else {}),
        )
        known_pid, seen = self._cpu_seen.get(node_id, (pid, 0.0))
        self.cpu_seconds[node_id] += max(0.0, stats.cpu_seconds - (seen if known_pid == pid else 0.0))
        self._cpu_seen[node_id] = pid, stats.cpu_seconds
        for stream in stats.per_stream:
            key = channels.get(stream.stream_id)
            if key is not None:
                values = {"packets": stream.packets, "lost": stream.lost}
                total = self.by_township[self._township_of(*key)]
                self._streams[stream.stream_id] = _advance(
                    total, values, self._streams.get(stream.stream_id, {})
                )

    def forget_streams(self, alive: Iterable[str]) -> None:
        """Drop the notes about streams that ended."""
        for gone in self._streams.keys() - set(alive):
            del self._streams[gone]


def _node_values(stats: NodeStats) -> Values:
    parts: list[StreamStats] = [*stats.per_stream]
    if stats.closed_totals is not None:
        parts.append(stats.closed_totals)
    streams = {name: sum(getattr(part, name) for part in parts) for name in STREAM_COUNTERS}
    return streams | {
        f"{part}_{name}": getattr(getattr(stats, part), name)
        for part, counters in PARTS.items()
        for name in counters
    }


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _advance(total: Values, now: Values, before: Values) -> Values:
    """Add the growth to ``total``; returns the highest values seen. A value that shrank (a late packet is no longer
    lost) takes nothing back: counters only rise."""
    highest = {}
    for name, value in now.items():
        seen = before.get(name, 0)
        total[name] += max(0, value - seen)
        highest[name] = max(value, seen)
    return highest


class StateGauges(Collector):
    """State read at the moment Prometheus asks."""

    def __init__(self, *, census: Census, media: MediaTotals, sources: Callable[[], Sources]) -> None:
        self._census = census
        self._media = media
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        yield from self._read_census()
        yield from self._read_sessions()
        yield from self._read_nodes()
        yield from self._read_media()
        yield from self._read_platforms()
        yield from self._read_inputs()
        yield from self._read_queues()
        yield from self._read_collisions()
        yield from self._read_clock()

    def _read_census(self) -> Iterator[Metric]:
        result = self._census.last
        total = _gauge("devices", "Devices known.", "township", "kind")
        online = _gauge("devices_online", "Devices registered and heard of in time.", "township", "kind")
        for labels, tally in result.device_townships.items():
            total.add_metric(labels, tally.total)
            online.add_metric(labels, tally.online)
        yield total
        yield online
        total = _gauge("cameras", "Camera channels in the catalogs.", "township", "class")
        online = _gauge("cameras_online", "Camera channels counted as usable.", "township", "class")
        for labels, tally in result.townships.items():
            total.add_metric(labels, tally.total)
            online.add_metric(labels, tally.online)
        yield total
        yield online

    def _read_sessions(self) -> Iterator[Metric]:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for info in self._sources().sessions():
            counts[info.kind.value, info.state.value] += 1
        family = _gauge("sessions", "Media sessions now.", "kind", "state")
        for labels, count in sorted(counts.items()):
            family.add_metric(labels, count)
        yield family

    def _read_nodes(self) -> Iterator[Metric]:
        rows: tuple[tuple[str, str, Callable[[NodeStats], float]], ...] = (
            ("node_streams", "Streams received by a media node.", lambda s: s.streams),
            ("node_senders", "Relays to upper platforms on a media node.", lambda s: s.senders),
            ("node_viewers", "Viewers served by a media node.", lambda s: s.viewers),
            (
                "node_rtsp_refused",
                "RTSP clients refused for their proof since its start.",
                lambda s: s.rtsp_refused,
            ),
            ("node_ports_leased", "RTP ports in use.", lambda s: s.ports_leased),
            ("node_ports_quarantined", "RTP ports resting.", lambda s: s.ports_quarantined),
            ("node_ports_free", "RTP ports that can be leased.", lambda s: s.ports_free),
            ("node_resident_memory_bytes", "Memory of a media node.", lambda s: s.rss_bytes),
            ("node_transcoders", "Transcoders in use.", lambda s: s.transcode.used),
            ("node_loop_lag_seconds", "How late timers of a media node run.", lambda s: s.loop_lag_s),
        )
        handles = list(self._sources().nodes())
        up = _gauge("node_up", "1 while the media node answers.", "node")
        for handle in handles:
            up.add_metric((handle.node_id,), float(handle.alive))
        yield up
        for name, text, read in rows:
            family = _gauge(name, text, "node")
            for handle in handles:
                if handle.stats is not None:
                    family.add_metric((handle.node_id,), read(handle.stats))
            yield family
        watching = _gauge("viewers", "Viewers served by a media node, by output.", "node", "kind")
        for handle in handles:
            for kind, count in sorted(handle.stats.viewers_by_kind.items() if handle.stats else ()):
                watching.add_metric((handle.node_id, kind), count)
        yield watching
        pump = _gauge(
            "media_pump_info", "How a node moves packets.", "node", "pump", "segmentation", "batches"
        )
        lanes = _gauge("node_lanes", "Streams in the hands of a node's compiled pump.", "node")
        for handle in handles:
            if handle.stats is not None:
                how = (handle.stats.pump, _flag(handle.stats.gso), _flag(handle.stats.batches))
                pump.add_metric((handle.node_id, *how), 1.0)
                lanes.add_metric((handle.node_id,), handle.stats.lanes)
        yield pump
        yield lanes
        restarts = _counter("node_restarts", "Media node processes started again.")
        restarts.add_metric((), self._sources().node_restarts())
        yield restarts

    def _read_media(self) -> Iterator[Metric]:
        media = self._media
        for name, (metric, text) in NODE_COUNTERS.items():
            family = _counter(metric, text, "node")
            for node, values in media.by_node.items():
                family.add_metric((node,), values[name])
            yield family
        cpu = _counter("node_cpu_seconds", "Processor time of a media node.", "node")
        for node, seconds in media.cpu_seconds.items():
            cpu.add_metric((node,), seconds)
        yield cpu
        packets = _counter(
            "township_rtp_packets", "RTP packets received, by township of the camera.", "township"
        )
        lost = _counter(
            "township_rtp_lost_packets", "RTP packets lost, by township of the camera.", "township"
        )
        for township, values in media.by_township.items():
            packets.add_metric((township,), values["packets"])
            lost.add_metric((township,), values["lost"])
        yield packets
        yield lost

    def _read_platforms(self) -> Iterator[Metric]:
        rows: tuple[tuple[str, str, Callable[[PlatformStatus], float | None]], ...] = (
            (
                "platform_online",
                "1 while registered at the upper platform.",
                lambda s: s.state is PlatformState.ONLINE,
            ),
            (
                "platform_enabled",
                "0 when an operator switched it off.",
                lambda s: s.state is not PlatformState.DISABLED,
            ),
            (
                "platform_missed_heartbeats",
                "Heartbeats it did not answer in a row.",
                lambda s: s.missed_heartbeats,
            ),
            ("platform_clock_offset_seconds", "Its clock minus ours.", lambda s: s.clock_offset_s),
            ("platform_subscriptions", "Subscriptions it holds at us.", lambda s: s.subscriptions),
            ("platform_streams", "Streams it pulls.", lambda s: s.streams),
        )
        statuses = list(self._sources().platforms())
        for name, text, read in rows:
            family = _gauge(name, text, "platform")
            for status in statuses:
                value = read(status)
                if value is not None:
                    family.add_metric((status.platform_id,), float(value))
            yield family

    def _read_inputs(self) -> Iterator[Metric]:
        inputs = _gauge(
            "inputs", "RTSP cameras and files entered, by whether they are there.", "kind", "state"
        )
        for (kind, usable), count in self._sources().inputs().items():
            inputs.add_metric((kind, "on" if usable else "off"), count)
        yield inputs
        checks = _counter("input_checks", "Checks of RTSP cameras and files, by outcome.", "outcome")
        for outcome, count in self._sources().input_checks().items():
            checks.add_metric((outcome,), count)
        yield checks

    def _read_queues(self) -> Iterator[Metric]:
        depth = _gauge("queue_entries", "Entries waiting in a queue.", "queue")
        for name, read in self._sources().queues.items():
            depth.add_metric((name,), read())
        yield depth
        drops = _counter("queue_drops", "Entries a full queue threw away.", "queue")
        for name, read in self._sources().drops.items():
            drops.add_metric((name,), read())
        yield drops
        outcomes = _counter("messages", "Messages of peers, by what became of them.", "outcome")
        for name, count in self._sources().outcomes().items():
            outcomes.add_metric((name,), count)
        yield outcomes

    def _read_collisions(self) -> Iterator[Metric]:
        collisions = _gauge("channel_collisions", "Channel codes that mean several cameras.")
        collisions.add_metric((), self._sources().collisions())
        yield collisions

    def _read_clock(self) -> Iterator[Metric]:
        state = self._sources().host_clock()
        if state is None:
            return
        for name, text, value in (
            (
                "clock_synchronized",
                "1 while the kernel calls its clock synchronised (NTP).",
                state.synchronized,
            ),
            ("clock_offset_seconds", "Offset of our clock that is still to be corrected.", state.offset_s),
            ("clock_max_error_seconds", "Greatest error of our clock; grows without NTP.", state.max_error_s),
        ):
            family = _gauge(name, text)
            family.add_metric((), float(value))
            yield family


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gateway_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"gateway_{name}", text, labels=labels)
