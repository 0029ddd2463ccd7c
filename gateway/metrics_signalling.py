"""Metrics of registration and of secured signalling, read when Prometheus asks: refusals, redirects, conflicts, Note, TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sip.note import NoteVerdict

if TYPE_CHECKING:
    from gateway.services.note_check import NoteCheck
    from gateway.services.registrar import Registrar
    from gateway.services.tls_files import TlsFiles

OUTCOMES = (
    "registered", "renewed", "unregistered", "challenged", "stale", "redirected", "wrong_password", "locked",
    "unknown_device", "bad_code", "own_code", "foreign_source", "same_id", "interval_too_brief", "rate_limited",
    "no_device_id",
)  # fmt: skip
TLS_CAUSES = ("certificate", "protocol", "timeout", "closed")


class SignallingGauges(Collector):
    """All labels are words of ours, so they are bounded."""

    def __init__(
        self,
        registrar: Registrar,
        notes: NoteCheck,
        tls: TlsFiles,
        tls_refusals: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        self._registrar, self._notes, self._tls, self._tls_refusals = registrar, notes, tls, tls_refusals

    def collect(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "gateway_register_answers", "REGISTER requests by what became of them.", labels=("result",)
        )
        for result in OUTCOMES:
            outcomes.add_metric((result,), self._registrar.counts[result])
        yield outcomes
        yield GaugeMetricFamily(
            "gateway_device_conflicts",
            "Device codes that two units use at the same time.",
            value=len(self._registrar.same_id.conflicts),
        )
        notes = CounterMetricFamily(
            "gateway_note_checks",
            "Messages of peers with a Note key by verdict; all but ok and exempt were dropped.",
            labels=("verdict",),
        )
        for verdict in NoteVerdict:
            notes.add_metric((verdict.value,), self._notes.counts[verdict.value])
        yield notes
        yield CounterMetricFamily(
            "gateway_note_signed", "Messages of ours that left with a Note.", value=self._notes.signed
        )
        refusals = CounterMetricFamily(
            "gateway_tls_refusals", "TLS handshakes that failed.", labels=("direction", "cause")
        )
        counted = self._tls_refusals()
        for direction in ("in", "out"):
            for cause in TLS_CAUSES:
                refusals.add_metric((direction, cause), counted.get((direction, cause), 0))
        yield refusals
        ends = GaugeMetricFamily(
            "gateway_tls_certificate_expiry_seconds",
            "Unix time at which our SIP certificate ends.",
            labels=("use",),
        )
        if self._tls.expires_at is not None:
            ends.add_metric(("sip",), self._tls.expires_at.timestamp())
        yield ends
