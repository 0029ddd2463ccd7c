"""Metrics of device profiles, ghost streams and the kept wire, read when Prometheus asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.profile import OBSERVED, SETTINGS

if TYPE_CHECKING:
    from gateway.registry import Registry
    from gateway.services.session_ghosts import Ghosts
    from gateway.services.wire import WireLog


class ProfileGauges(Collector):
    """Labels are names of settings and observations: fixed lists. ``room_made``: streams ended to make room."""

    def __init__(
        self, registry: Registry, ghosts: Ghosts, wire: WireLog, room_made: Callable[[], int]
    ) -> None:
        self._registry, self._ghosts, self._wire, self._room_made = registry, ghosts, wire, room_made

    def collect(self) -> Iterator[Metric]:
        yield from self._profiles()
        ghosts = self._ghosts
        yield _gauge("ghost_streams", "Calls that a device did not let us end.", len(ghosts.ghosts))
        ended = CounterMetricFamily(
            "gateway_ghost_streams_ended", "Ghost streams that are over.", labels=["outcome"]
        )
        ended.add_metric(("answered",), ghosts.laid)
        ended.add_metric(("given_up",), ghosts.given_up)
        yield ended
        made = CounterMetricFamily("gateway_streams_ended_for_room", "Idle streams ended for another one.")
        made.add_metric((), self._room_made())
        yield made
        counts = self._wire.counts
        yield _gauge("wire_messages", "SIP messages kept for the wire view.", counts.kept + counts.strangers)
        yield _gauge("wire_bytes", "Memory of the wire view, strangers aside.", counts.bytes)
        dropped = CounterMetricFamily(
            "gateway_wire_dropped_messages", "SIP messages no longer kept, for the bounds.", labels=["of"]
        )
        dropped.add_metric(("peers",), counts.dropped)
        dropped.add_metric(("strangers",), counts.stranger_dropped)
        yield dropped

    def _profiles(self) -> Iterator[Metric]:
        learned: Counter[str] = Counter()
        observed: Counter[str] = Counter()
        for device in self._registry.devices.values():
            learned.update(device.profile.layers.learned.keys())
            observed.update(device.profile.observed.keys())
        settings = GaugeMetricFamily(
            "gateway_learned_settings", "Devices for which a setting was learned.", labels=["setting"]
        )
        for name in SETTINGS:
            settings.add_metric((name,), learned[name])
        yield settings
        deviations = GaugeMetricFamily(
            "gateway_deviating_devices",
            "Devices that were seen to do something differently.",
            labels=["what"],
        )
        for name in OBSERVED:
            deviations.add_metric((name,), observed[name])
        yield deviations


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"gateway_{name}", text)
    family.add_metric((), value)
    return family
