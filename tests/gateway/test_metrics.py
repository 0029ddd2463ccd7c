"""Metrics: what is counted, that labels are bounded, that totals never fall, and that promtool accepts all of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml
from http_house import CAMERA, NVR, OTHER_NVR, House, house

from gateway.events import (
    CatalogCollected,
    DeviceOffline,
    DeviceOnline,
    DeviceRegistered,
    FirstPicture,
    SecurityEvent,
    SessionEnded,
    SessionFailed,
    SessionStarted,
)
from gateway.host_clock import ClockState, read_host_clock
from gateway.metrics import Bounded
from gateway.metrics_state import MediaTotals, Sources
from gateway.model import Platform
from media.specs import DecodeStats, NodeStats, StreamStats, TranscodeStats, WebRtcStats
from sip.flow import Flow

ROOT = Path(__file__).parents[2]
RULES = ROOT / "config" / "prometheus" / "gateway_rules.yml"
RULE_TESTS = ROOT / "config" / "prometheus" / "gateway_rules_test.yml"
DASHBOARD = ROOT / "config" / "grafana" / "gateway.json"
FLOW = Flow("udp", "192.0.2.7", 5060, "192.0.2.1", 5060)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


async def values(home: House) -> dict[str, float]:
    """Samples by their text up to the value."""
    text = (await home.metrics.exposition()).decode()
    rows = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


async def busy(home: House) -> None:
    """Something of everything."""
    home.add_device()
    home.add_device(OTHER_NVR, online=False)
    home.add_channel(civil_code="410183", grassroots_code="104002", point_class=1)
    await home.uppers.put_platform(Platform(NVR, "City", "4101", "192.0.2.50", 5060))
    session = await home.sessions.play(NVR, CAMERA)
    home.sessions.node.stats = NodeStats(
        node_id="node-0",
        cpu_seconds=2.5,
        per_stream=(StreamStats(stream_id="s1", packets=100, lost=3, ssrc_faults=1),),
    )
    for event in (
        DeviceRegistered(NVR, False, 3600),
        DeviceRegistered(NVR, True, 3600),
        DeviceOnline(NVR),
        DeviceOffline(OTHER_NVR, "heartbeat_lost"),
        DeviceOffline(OTHER_NVR, "unregistered"),
        CatalogCollected(NVR, 7, True),
        CatalogCollected(NVR, 2, False),
        SessionStarted(session.info),
        FirstPicture("live", 0.4),
        SessionFailed(NVR, CAMERA, "busy", "486"),
        SecurityEvent("auth_failed", "198.51.100.1"),
    ):
        home.bus.publish(event)
    session.info.end_cause = "idle"
    home.bus.publish(SessionEnded(session.info))
    metrics = home.metrics
    metrics.on_received("REGISTER", FLOW)
    metrics.on_received("200", FLOW)
    metrics.on_sent("401", FLOW)
    metrics.retransmitted("MESSAGE", "in")
    metrics.timed_out("INVITE")
    metrics.malformed("not_sip", FLOW)
    metrics.dropped("inbox_full")
    metrics.sample_heartbeats()


@pytest.mark.gb("G284")
async def test_what_happens_is_counted(home: House) -> None:
    await busy(home)
    found = await values(home)
    expected = {
        'gateway_registrations_total{result="accepted"}': 1,
        'gateway_registrations_total{result="renewed"}': 1,
        'gateway_registrations_total{result="logged_out"}': 1,
        'gateway_registrations_total{result="auth_failed"}': 1,
        'gateway_heartbeat_losses_total{township="410183"}': 1,
        'gateway_device_transitions_total{cause="registered",state="online"}': 1,
        'gateway_sip_requests_received_total{method="REGISTER"}': 1,
        'gateway_sip_responses_received_total{status="200"}': 1,
        'gateway_sip_responses_sent_total{status="401"}': 1,
        'gateway_sip_retransmissions_total{direction="in",method="MESSAGE"}': 1,
        'gateway_sip_transaction_timeouts_total{method="INVITE"}': 1,
        'gateway_sip_malformed_messages_total{label="not_sip"}': 1,
        "gateway_catalog_parts_total": 9,
        'gateway_catalogs_total{result="partial"}': 1,
        'gateway_sessions_started_total{kind="live"}': 1,
        'gateway_sessions_ended_total{cause="idle",kind="live"}': 1,
        'gateway_play_failures_total{cause="busy"}': 1,
        'gateway_first_picture_seconds_bucket{kind="live",le="0.5"}': 1,
        "gateway_heartbeat_age_seconds_count": 1,
        'gateway_rtp_packets_total{node="node-0"}': 100,
        'gateway_rtp_lost_packets_total{node="node-0"}': 3,
        'gateway_rtp_ssrc_faults_total{node="node-0"}': 1,
        'gateway_township_rtp_lost_packets_total{township="410183104"}': 3,
        'gateway_devices{kind="recorder",township="410183"}': 2,
        'gateway_devices_online{kind="recorder",township="410183"}': 1,
        'gateway_cameras{class="1",township="410183104"}': 1,
        'gateway_cameras_online{class="1",township="410183104"}': 1,
        'gateway_sessions{kind="live",state="streaming"}': 1,
        f'gateway_platform_online{{platform="{NVR}"}}': 1,
        'gateway_node_up{node="node-0"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.gb("G046")
async def test_the_uppers_clock_is_exported(home: House) -> None:
    """The upper of the house is 90 s ahead."""
    await busy(home)
    assert (await values(home))[f'gateway_platform_clock_offset_seconds{{platform="{NVR}"}}'] == 90


@pytest.mark.gb("G045")
async def test_our_own_clock_is_exported(home: House) -> None:
    home.metrics.sources = Sources(host_clock=lambda: ClockState(False, -1.5, 16.0))
    found = await values(home)
    assert found["gateway_clock_synchronized"] == 0
    assert found["gateway_clock_offset_seconds"] == -1.5
    assert found["gateway_clock_max_error_seconds"] == 16
    home.metrics.sources = Sources(host_clock=lambda: None)
    assert "gateway_clock_synchronized" not in await values(home)


def test_the_kernel_is_asked_for_its_clock() -> None:
    state = read_host_clock()
    assert state is None or state.max_error_s >= 0


async def test_strangers_cannot_make_new_series(home: House) -> None:
    for number in range(500):
        home.metrics.on_received(f"FAKE{number}", FLOW)
        home.metrics.on_received(str(100 + number), FLOW)
        home.metrics.malformed(f"label{number}", FLOW)
    found = await values(home)
    assert sum("malformed" in name for name in found) == 51
    assert sum("requests_received" in name for name in found) == 1
    assert sum("responses_received" in name for name in found) < 60
    assert found['gateway_sip_requests_received_total{method="other"}'] == 500


def test_a_bounded_label_keeps_its_first_values() -> None:
    bounded = Bounded(2)
    assert [bounded(value) for value in ("a", "b", "c", "a", "")] == ["a", "b", "other", "a", "other"]


def test_totals_rise_over_closed_streams_and_restarted_nodes() -> None:
    totals = MediaTotals(lambda device, channel: "410183")
    channels = {"s1": ("d", "c")}

    def stats(packets: int, lost: int, closed: int = 0) -> NodeStats:
        streams = (StreamStats(stream_id="s1", packets=packets, lost=lost),) if packets else ()
        return NodeStats(
            node_id="n", per_stream=streams, closed_totals=StreamStats(stream_id="closed", packets=closed)
        )

    seen = []
    for pid, report in (
        (1, stats(100, 5)),
        (1, stats(150, 4)),  # a late packet is no longer lost
        (1, stats(0, 0, closed=160)),
        (2, stats(7, 1)),  # another process under the same name
        (2, stats(9, 1)),
    ):
        totals.take(pid, report, channels)
        seen.append((totals.by_node["n"]["packets"], totals.by_node["n"]["lost"]))
    assert seen == [(100, 5), (150, 5), (160, 5), (167, 6), (169, 6)]
    assert totals.by_township["410183"]["lost"] == 5
    totals.forget_streams([])
    assert totals._streams == {}


def test_counters_of_a_nodes_parts_are_told() -> None:
    totals = MediaTotals(lambda device, channel: "410183")
    first = NodeStats(
        node_id="n",
        webrtc=WebRtcStats(stray=4, retransmitted=7, repeats=1),
        decode=DecodeStats(refused=2),
        transcode=TranscodeStats(restarts=3),
    )
    for pid, report in ((1, first), (1, first), (2, NodeStats(node_id="n", webrtc=WebRtcStats(stray=2)))):
        totals.take(pid, report, {})
    values = totals.by_node["n"]
    assert (values["webrtc_stray"], values["webrtc_retransmitted"], values["webrtc_repeats"]) == (6, 7, 1)
    assert (values["decode_refused"], values["transcode_restarts"]) == (2, 3)


async def test_metrics_have_a_listener_of_their_own(home: House) -> None:
    server = home.http.metrics_server
    await server.start()
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{server.port}/metrics") as response,
        ):
            assert response.status == 200
            assert "gateway_build_info{" in await response.text()
    finally:
        await server.close()
    stranger = await home.anonymous()
    assert (await stranger.ask("GET", "/metrics")).status == 404


def promtool(*arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, timeout=60, check=False)


@pytest.mark.needs("promtool")
async def test_promtool_finds_nothing_to_say_about_the_metrics(home: House) -> None:
    await busy(home)
    result = promtool("check", "metrics", text=await home.metrics.exposition())
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_alert_rules() -> None:
    result = promtool("check", "rules", str(RULES))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.gb("G045", "G046")
@pytest.mark.needs("promtool")
def test_the_alerts_fire_when_they_should() -> None:
    """Among them: our clock and an upper's clock more than a second off, and a brute force on passwords (G277)."""
    result = promtool("test", "rules", str(RULE_TESTS))
    assert result.returncode == 0, result.stdout + result.stderr


async def test_rules_and_dashboard_speak_of_metrics_that_exist(home: House) -> None:
    await busy(home)
    text = (await home.metrics.exposition()).decode()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    known |= {f"{name}_{suffix}" for name in set(known) for suffix in ("bucket", "count", "sum")}
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 25
    used = {name for expression in expressions for name in re.findall(r"\bgateway_[a-z_]+", expression)}
    assert used <= known
