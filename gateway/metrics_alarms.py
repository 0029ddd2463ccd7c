"""Metrics of alarms, positions and our subscriptions at devices, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gateway.services.alarms import AlarmService
    from gateway.services.alarms_pictures import AlarmPictures
    from gateway.services.alarms_upward import AlarmsUpward
    from gateway.services.positions import PositionService
    from gateway.services.subscriptions import SubscriptionService

METHODS = (*map(str, range(1, 8)), "other")
FAULTS = ("missing", "zero", "out_of_range", "outside_china", "clock", "direction", "speed")


class AlarmGauges(Collector):
    """All labels come from the standard or from words of ours, so they are bounded."""

    def __init__(
        self,
        alarms: AlarmService,
        pictures: AlarmPictures,
        upward: AlarmsUpward,
        positions: PositionService,
        subscriptions: SubscriptionService,
    ) -> None:
        self._alarms, self._pictures, self._upward = alarms, pictures, upward
        self._positions, self._subscriptions = positions, subscriptions

    def collect(self) -> Iterator[Metric]:
        alarms, positions = self._alarms, self._positions
        archive = alarms.archive
        yield _counts("alarms", "Alarms taken in one by one.", "method", alarms.raised_by_method, METHODS)
        yield _counts(
            "alarms_not_kept",
            "Alarms that were only counted: the same again, beyond the device's rate, or the database too slow.",
            "cause",
            {**alarms.counts, "lost": archive.counts["lost"]},
            ("repeated", "suppressed", "lost"),
        )
        yield _counts(
            "alarm_answers_left_out", "Response/Alarm not sent: too many on their way.", "cause",
            {"busy": alarms.counts["unanswered"]}, ("busy",),
        )  # fmt: skip
        yield _counts(
            "alarm_clock_faults", "Alarms whose time is far from ours.", "", {"": alarms.counts["clock_faults"]}, ("",)
        )  # fmt: skip
        yield _counts(
            "alarm_pictures", "Pictures and recordings at alarm time.", "result", self._pictures.counts,
            ("taken", "failed", "left_out", "recorded", "not_recorded"),
        )  # fmt: skip
        yield _counts(
            "alarms_upward", "Alarms for upper platforms.", "result", self._upward.counts,
            ("offered", "messages", "unanswered", "dropped", "not_shared"),
        )  # fmt: skip
        yield _gauge("alarms_waiting", "Alarms and changes that wait for the database.", archive.waiting)
        yield _counts(
            "positions", "Reports of positions.", "result", positions.counts,
            ("reported", "kept", "thinned", "lost", "ptz"),
        )  # fmt: skip
        yield _counts(
            "position_faults", "Reports of positions with a fault.", "fault",
            {fault: positions.counts[f"fault_{fault}"] for fault in FAULTS}, FAULTS,
        )  # fmt: skip
        yield _gauge("positions_waiting", "Reports that wait for the database.", positions.waiting)
        yield _gauge("position_channels", "Channels with a known position.", len(positions.latest))
        yield _gauge(
            "position_channels_doubtful", "Channels whose last report had faults.", positions.doubtful
        )
        family = GaugeMetricFamily(
            "gateway_device_subscriptions", "Our subscriptions at devices.", labels=("kind", "state")
        )
        for labels, count in sorted(self._subscriptions.active_by_kind().items()):
            family.add_metric(labels, count)
        yield family


def _counts(
    name: str, text: str, label: str, counts: Mapping[str, int], names: tuple[str, ...]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"gateway_{name}", text, labels=(label,) if label else ())
    for key in names:
        family.add_metric((key,) if label else (), counts.get(key, 0))
    return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gateway_{name}", text, value=value)
