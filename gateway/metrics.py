"""Prometheus metrics: counters fed by events and the SIP observer, gauges read when Prometheus asks, one listener of its own.

Every label is bounded: methods, causes and townships beyond a limit are counted as ``other``.
"""

from __future__ import annotations

import asyncio
import logging
import platform as host_platform
import random
from collections import defaultdict
from collections.abc import Callable

import prometheus_client
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from gateway import __version__
from gateway.clock import Clock
from gateway.events import (
    CatalogCollected,
    CatalogFault,
    DeviceOffline,
    DeviceOnline,
    DeviceRegistered,
    EventBus,
    FirstPicture,
    MediaFault,
    SecurityEvent,
    SessionEnded,
    SessionFailed,
    SessionStarted,
)
from gateway.metrics_state import MediaTotals, Sources, StateGauges
from gateway.registry import Registry
from gateway.services.census import Census, place_of
from sip.flow import Flow, Target
from sip.observer import Direction, Observer

log = logging.getLogger(__name__)

METHODS = frozenset(
    (
        "REGISTER",
        "MESSAGE",
        "INVITE",
        "ACK",
        "BYE",
        "CANCEL",
        "SUBSCRIBE",
        "NOTIFY",
        "INFO",
        "OPTIONS",
        "UPDATE",
    )
)
STATUSES = frozenset(
    str(status)
    for status in (
        *(
            100,
            180,
            181,
            182,
            183,
            200,
            202,
            300,
            301,
            302,
            305,
            400,
            401,
            403,
            404,
            405,
            406,
            407,
            408,
            413,
            415,
        ),
        *(
            416,
            420,
            421,
            423,
            480,
            481,
            482,
            483,
            484,
            485,
            486,
            487,
            488,
            489,
            491,
            493,
            500,
            501,
            502,
            503,
            504,
        ),
        *(505, 513, 600, 603, 604, 606),
    )
)
MAX_VALUES = 50
"""Distinct values of a label that comes from elsewhere; the rest is ``other``."""
PICTURE_BUCKETS = (0.2, 0.5, 1, 1.5, 2, 3, 5, 8, 12, 20)
AGE_BUCKETS = (5, 15, 30, 60, 90, 120, 180, 240, 300, 600)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LAG_PERIOD_S = 0.5
SAMPLE_PERIOD_S = 10.0
SAMPLED_DEVICES = 200
POLL_PERIOD_S = 3.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Bounded:
    """Lets the first values of a label through and calls the rest ``other``."""

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        value = value or "none"
        if value in self._seen:
            return value
        if len(self._seen) >= self._limit:
            return "other"
        self._seen.add(value)
        return value


class Metrics(Observer):
    """All metrics of this process in a registry of their own. Also the SIP endpoint's observer."""

    def __init__(
        self,
        *,
        bus: EventBus,
        registry: Registry,
        census: Census,
        sources: Sources | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._registry = registry
        self._clock = clock or Clock()
        self.census = census
        self.sources = sources or Sources()
        """May be replaced when more parts of the gateway exist."""
        self.collector = CollectorRegistry()
        self.media = MediaTotals(self._township_of)
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: list[Callable[[], None]] = []
        self._bounded: dict[str, Bounded] = defaultdict(Bounded)
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._declare()
        self.collector.register(StateGauges(census=census, media=self.media, sources=lambda: self.sources))
        ProcessCollector(registry=self.collector)

    def _declare(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"gateway_{name}", text, labels, registry=self.collector)

        self.registrations = counter("registrations", "REGISTER requests decided, by result.", "result")
        self.transitions = counter(
            "device_transitions", "Devices that went online or offline.", "state", "cause"
        )
        self.heartbeat_losses = counter(
            "heartbeat_losses", "Devices lost because heartbeats stayed away.", "township"
        )
        self.requests_in = counter("sip_requests_received", "SIP requests received.", "method")
        self.requests_out = counter("sip_requests_sent", "SIP requests sent, repetitions aside.", "method")
        self.responses_in = counter("sip_responses_received", "SIP responses received.", "status")
        self.responses_out = counter("sip_responses_sent", "SIP responses sent, repetitions aside.", "status")
        self._messages_in = _MessageCounts(self.requests_in, self.responses_in)
        self._messages_out = _MessageCounts(self.requests_out, self.responses_out)
        self.retransmissions = counter(
            "sip_retransmissions",
            "Repeated SIP messages: of peers (in) or ours (out).",
            "method",
            "direction",
        )
        self.timeouts = counter(
            "sip_transaction_timeouts", "Our SIP requests without a final answer.", "method"
        )
        self.malformed_messages = counter(
            "sip_malformed_messages", "Bytes that were no SIP message.", "label"
        )
        self.sip_drops = counter("sip_dropped_messages", "SIP work refused at a bound.", "label")
        self.catalog_parts = counter("catalog_parts", "Catalog messages received for our queries.")
        self.catalogs = counter("catalogs", "Catalog queries ended.", "result")
        self.catalog_faults = counter("catalog_faults", "Catalog fields or entries that could not be used.")
        self.sessions_started = counter("sessions_started", "Media sessions opened.", "kind")
        self.sessions_ended = counter("sessions_ended", "Media sessions ended.", "kind", "cause")
        self.play_failures = counter("play_failures", "Wishes to see a channel that failed.", "cause")
        self.media_faults = counter("media_faults", "Streams that were not what was agreed.", "kind")
        self.security_events = counter("security_events", "Refused or suspicious peers and log-ins.", "kind")
        self.http_requests = counter("http_requests", "HTTP requests answered.", "route", "status")
        self.first_picture = Histogram(
            "gateway_first_picture_seconds",
            "From the wish to the first key frame.",
            ("kind",),
            buckets=PICTURE_BUCKETS,
            registry=self.collector,
        )
        self.heartbeat_age = Histogram(
            "gateway_heartbeat_age_seconds",
            "Time since the last sign of life of online devices, sampled.",
            buckets=AGE_BUCKETS,
            registry=self.collector,
        )
        self.loop_lag = Histogram(
            "gateway_event_loop_lag_seconds",
            "How late timers of the signalling process run.",
            buckets=LAG_BUCKETS,
            registry=self.collector,
        )
        build = Gauge("gateway_build_info", "Always 1.", ("version", "python"), registry=self.collector)
        build.labels(__version__, host_platform.python_version()).set(1)
        for result in ("accepted", "renewed", "logged_out", "auth_failed", "auth_locked", "unknown_device"):
            self.registrations.labels(result)
        for kind in ("auth_failed", "auth_locked", "login_failed", "unregistered", "foreign_source"):
            self.security_events.labels(kind)
        for result in ("complete", "partial"):
            self.catalogs.labels(result)

        self.tls_refusals: dict[tuple[str, str], int] = {}
        """Failed handshakes by direction and cause; told by gateway.metrics_signalling."""

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen to events and begin to sample."""
        listen = self._bus.subscribe
        self._unsubscribe = [
            listen(DeviceRegistered, callback=self._registered),
            listen(DeviceOnline, callback=self._online),
            listen(DeviceOffline, callback=self._offline),
            listen(CatalogCollected, callback=self._catalog),
            listen(CatalogFault, callback=lambda event: self.catalog_faults.inc()),
            listen(SessionStarted, callback=self._session_started),
            listen(SessionEnded, callback=self._session_ended),
            listen(SessionFailed, callback=self._session_failed),
            listen(FirstPicture, callback=self._first_picture),
            listen(MediaFault, callback=self._media_fault),
            listen(SecurityEvent, callback=self._security),
        ]
        self._tasks = [
            asyncio.create_task(self._measure_lag(), name="metrics-lag"),
            asyncio.create_task(self._every(SAMPLE_PERIOD_S, self.sample_heartbeats), name="metrics-ages"),
            asyncio.create_task(self._every(POLL_PERIOD_S, self.poll_nodes), name="metrics-nodes"),
        ]

    async def close(self) -> None:
        """End sampling. May be called again."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        await self.census.fresh()
        self.poll_nodes()
        return prometheus_client.generate_latest(self.collector)

    def sample_heartbeats(self) -> None:
        """Look at some of the online devices: how long ago were they last heard of?"""
        online = [device for device in self._registry.devices.values() if device.online]
        now = self._clock.mono()
        for device in random.sample(online, min(SAMPLED_DEVICES, len(online))):
            self.heartbeat_age.observe(max(0.0, now - device.last_seen_mono))

    def poll_nodes(self) -> None:
        """Take over what the media nodes counted since the last time."""
        channels = {info.stream_id: (info.device_id, info.channel_id) for info in self.sources.sessions()}
        for handle in self.sources.nodes():
            if handle.stats is not None:
                self.media.take(handle.pid, handle.stats, channels)
        self.media.forget_streams(channels)

    async def _every(self, period_s: float, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(period_s)
            work()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self.loop_lag.observe(max(0.0, loop.time() - due))

    # -- SIP observer ----------------------------------------------------------------------------------------

    def on_received(self, method_or_status: str, flow: Flow) -> None:
        self._messages_in.count(method_or_status)

    def on_sent(self, method_or_status: str, destination: Flow | Target) -> None:
        self._messages_out.count(method_or_status)

    def retransmitted(self, method: str, direction: Direction = "in") -> None:
        self.retransmissions.labels(_method(method), direction).inc()

    def timed_out(self, method: str) -> None:
        self.timeouts.labels(_method(method)).inc()

    def malformed(self, label: str, flow: Flow) -> None:
        self.malformed_messages.labels(self._bounded["malformed"](label)).inc()

    def dropped(self, label: str) -> None:
        self.sip_drops.labels(self._bounded["sip_drop"](label)).inc()

    def tls_refused(self, direction: Direction, cause: str) -> None:
        self.tls_refusals[direction, cause] = self.tls_refusals.get((direction, cause), 0) + 1

    # -- events ----------------------------------------------------------------------------------------------

    def _township_of(self, device_id: str, channel_id: str) -> str:
        channel = self._registry.channel(device_id, channel_id)
        if channel is None:
            place = place_of("", "", device_id)
        else:
            place = place_of(channel.civil_code, channel.grassroots_code, channel.channel_id)
        return self._bounded_township(place)

    def _bounded_township(self, place: str) -> str:
        known = self._bounded.get("township")
        if known is None:
            known = self._bounded["township"] = Bounded(500)
        return known(place)

    def _registered(self, event: DeviceRegistered) -> None:
        self.registrations.labels("renewed" if event.renewal else "accepted").inc()

    def _online(self, event: DeviceOnline) -> None:
        self.transitions.labels("online", self._bounded["online"](event.cause)).inc()

    def _offline(self, event: DeviceOffline) -> None:
        self.transitions.labels("offline", self._bounded["offline"](event.cause)).inc()
        if event.cause == "unregistered":
            self.registrations.labels("logged_out").inc()
        if event.cause == "heartbeat_lost":
            self.heartbeat_losses.labels(self._township_of(event.device_id, "")).inc()

    def _catalog(self, event: CatalogCollected) -> None:
        self.catalog_parts.inc(event.parts)
        self.catalogs.labels("complete" if event.complete else "partial").inc()

    def _session_started(self, event: SessionStarted) -> None:
        self.sessions_started.labels(event.info.kind.value).inc()

    def _session_ended(self, event: SessionEnded) -> None:
        cause = self._bounded["end"](event.info.end_cause)
        self.sessions_ended.labels(event.info.kind.value, cause).inc()

    def _session_failed(self, event: SessionFailed) -> None:
        self.play_failures.labels(self._bounded["play"](event.cause)).inc()

    def _first_picture(self, event: FirstPicture) -> None:
        self.first_picture.labels(self._bounded["picture"](event.kind)).observe(event.seconds)

    def _media_fault(self, event: MediaFault) -> None:
        self.media_faults.labels(self._bounded["fault"](event.kind)).inc()

    def _security(self, event: SecurityEvent) -> None:
        kind = self._bounded["security"](event.kind)
        self.security_events.labels(kind).inc()
        if kind in ("auth_failed", "auth_locked", "unknown_device"):
            self.registrations.labels(kind).inc()

    def http_answered(self, route: str, status: int) -> None:
        """One HTTP answer; ``route`` is the declared route's name, so it is bounded."""
        self.http_requests.labels(route, str(status)).inc()


def _method(method: str) -> str:
    return method if method in METHODS else "other"


class _MessageCounts:
    """Counts messages by method or status. Looking up a label costs more than the rest of the count, so it is done once."""

    def __init__(self, requests: Counter, responses: Counter) -> None:
        self._requests = requests
        self._responses = responses
        self._steps: dict[str, Callable[[], None]] = {}

    def count(self, method_or_status: str) -> None:
        step = self._steps.get(method_or_status)
        if step is None:
            step = self._learn(method_or_status)
        step()

    def _learn(self, method_or_status: str) -> Callable[[], None]:
        """Remember the step of a label we know; what peers make up is ``other`` and takes no memory."""
        if method_or_status[:1].isdigit():
            known, family = STATUSES, self._responses
        else:
            known, family = METHODS, self._requests
        if method_or_status not in known:
            return family.labels("other").inc
        return self._steps.setdefault(method_or_status, family.labels(method_or_status).inc)


class MetricsServer:
    """Serves ``/metrics`` on its own listener, which is reachable from this host alone unless configured otherwise."""

    def __init__(self, *, metrics: Metrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._host = host
        self._wanted_port = port
        self._runner: web.AppRunner | None = None
        self.port = port

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._scrape)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._wanted_port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])
        log.info("metrics listening host=%s port=%d", self._host, self.port)

    async def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _scrape(self, request: web.Request) -> web.Response:
        body = await self._metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
