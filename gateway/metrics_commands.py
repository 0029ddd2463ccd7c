"""Metrics of commands, questions and firmware upgrades, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gateway.services.commands import DeviceCommands
    from gateway.services.upgrade import Upgrades


class CommandGauges(Collector):
    """Commands are elements of the standard and results words of ours, so the labels are bounded."""

    def __init__(self, commands: DeviceCommands, upgrades: Upgrades) -> None:
        self._commands, self._upgrades = commands, upgrades

    def collect(self) -> Iterator[Metric]:
        sent = CounterMetricFamily(
            "gateway_device_commands",
            "Questions and commands to devices from the API, by how they ended.",
            labels=("command", "result"),
        )
        for (command, result), count in sorted(self._commands.counts.items()):
            sent.add_metric((command, result), count)
        yield sent
        running = sum(job.state.open for job in self._upgrades.jobs())
        yield GaugeMetricFamily(
            "gateway_upgrades_open", "Firmware upgrades that are not over.", value=running
        )
        over = CounterMetricFamily(
            "gateway_upgrades", "Firmware upgrades by what became of them.", labels=("state",)
        )
        for state in ("accepted", "refused", "unanswered", "succeeded", "failed", "expired"):
            over.add_metric((state,), self._upgrades.counts[state])
        yield over
