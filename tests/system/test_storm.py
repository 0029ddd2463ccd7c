"""All devices at once, as after a power cut: everybody gets in, late ones at their next try, every heartbeat is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gateway_process import PASSWORD, SERVER_ID, gateway_process
from outside import eventually, series, udp_queue

from simulator.storm import Storm

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

DEVICES = 2000


@pytest.mark.gb("G060")
async def test_a_storm_of_registrations_is_absorbed(tmp_path: Path) -> None:
    """With the usual settings: device information, catalog and subscription are asked of everybody meanwhile."""
    overrides = {"registration": {"requests_per_second_per_source": 1e6}}
    with gateway_process(tmp_path, overrides) as gateway:
        storm = Storm(
            ("127.0.0.1", gateway.sip_port), SERVER_ID, DEVICES, password=PASSWORD, sockets=8, window=DEVICES
        )
        storm.start()
        try:
            # every device starts within the same ten seconds, in fact within the same second
            assert await storm.register() == DEVICES
            assert storm.counts.lost == 0
            assert storm.counts.statuses["REGISTER", 200] == DEVICES
            metrics = await asyncio.to_thread(gateway.metrics)
            assert series(metrics, "gateway_devices_online") == DEVICES
            assert series(metrics, "gateway_registrations_total", result="accepted") == DEVICES

            assert await storm.beat() == DEVICES
            assert await storm.beat() == DEVICES
            assert storm.counts.lost == 0
            await eventually(
                lambda: series(gateway.metrics(), "gateway_catalogs_total", result="complete") == DEVICES, 120
            )
            # the census behind this gauge is a moment old
            await eventually(lambda: series(gateway.metrics(), "gateway_cameras_online") == DEVICES)
            metrics = await asyncio.to_thread(gateway.metrics)
            assert series(metrics, "gateway_devices_online") == DEVICES
            assert series(metrics, "gateway_heartbeat_losses_total") == 0
            assert udp_queue(gateway.sip_port)[1] == 0
            assert "Traceback" not in gateway.log()
        finally:
            await storm.close()


@pytest.mark.gb("G060")
async def test_who_comes_too_fast_is_told_when_and_gets_in_later(tmp_path: Path) -> None:
    """One address may ask 200 times a second: the rest of its devices hear 503 and succeed when they try again."""
    with gateway_process(tmp_path) as gateway:
        storm = Storm(
            ("127.0.0.1", gateway.sip_port), SERVER_ID, DEVICES, password=PASSWORD, sockets=8, window=DEVICES
        )
        storm.start()
        try:
            first = await storm.register()
            assert storm.counts.statuses["REGISTER", 503] == DEVICES - first > 0
            rounds = 0
            while storm.registered < DEVICES and rounds < 30:
                await asyncio.sleep(1.0)
                await storm.register(only_missing=True)
                rounds += 1
            assert storm.registered == DEVICES
            assert storm.counts.lost == 0
            metrics = await asyncio.to_thread(gateway.metrics)
            assert series(metrics, "gateway_devices_online") == DEVICES
            assert series(metrics, "gateway_security_events_total", kind="rate_limited") >= 1
        finally:
            await storm.close()
