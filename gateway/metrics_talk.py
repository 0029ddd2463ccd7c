"""Metrics of talk and broadcast, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.services.talk_record import TalkCause, TalkState

if TYPE_CHECKING:
    from gateway.services.nodes import NodeHandle
    from gateway.services.talk import Talks


class TalkGauges(Collector):
    """Labels are words of ours, so they are bounded."""

    def __init__(self, talks: Talks, nodes: Callable[[], Sequence[NodeHandle]]) -> None:
        self._talks, self._nodes = talks, nodes

    def collect(self) -> Iterator[Metric]:
        talks = self._talks.under_way()
        yield GaugeMetricFamily("gateway_talks", "Talks and broadcasts under way.", value=len(talks))
        targets = GaugeMetricFamily(
            "gateway_talk_targets", "Loudspeakers of the talks under way.", labels=("state",)
        )
        for state in TalkState:
            count = sum(target.state is state for talk in talks for target in talk.targets)
            targets.add_metric((state.value,), count)
        yield targets
        failures = CounterMetricFamily(
            "gateway_talk_failures", "Loudspeakers that could not be spoken to.", labels=("cause",)
        )
        for cause in TalkCause:
            failures.add_metric((cause.value,), self._talks.news.failures[cause.value])
        yield failures
        invites = CounterMetricFamily(
            "gateway_talk_invites", "INVITEs of devices that came for sound.", labels=("result",)
        )
        for result in ("taken", "unasked", "unreadable"):
            invites.add_metric((result,), self._talks.broadcasts.counts[result])
        yield invites
        yield self._packets()

    def _packets(self) -> Metric:
        """Since the start of each media node."""
        packets = CounterMetricFamily(
            "gateway_talk_packets", "RTP packets of talks.", labels=("node", "direction")
        )
        for node in self._nodes():
            if node.stats is not None:
                talk = node.stats.talk
                for direction in ("sent", "dropped", "received"):
                    packets.add_metric((node.node_id, direction), getattr(talk, direction))
        return packets
