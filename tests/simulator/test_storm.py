"""The storm of light devices: digest, heartbeats, losses, counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from simulator.storm import Storm
from simulator.upper_platform import UpperPlatform, UpperRules

SERVER_ID = "41018300002000000001"
PASSWORD = "demo-Only-1"
QUICK = (0.3, 0.1, 0.1, 0.1)


@pytest.fixture
async def upper() -> AsyncIterator[UpperPlatform]:
    platform = UpperPlatform(SERVER_ID, lower_id="", password=PASSWORD)
    await platform.start()
    yield platform
    await platform.stop()


@asynccontextmanager
async def storm(upper: UpperPlatform, count: int, **changes: Any) -> AsyncIterator[Storm]:
    values = {"password": PASSWORD, "sockets": 3} | changes
    devices = Storm((upper.host, upper.port), SERVER_ID, count, **values)
    devices.start()
    try:
        yield devices
    finally:
        await devices.close()


async def test_registers_beats_and_leaves(upper: UpperPlatform) -> None:
    async with storm(upper, 200) as devices:
        assert await devices.register() == 200
        assert len(upper.lowers) == 200
        assert len({lower.flow.port for lower in upper.lowers.values()}) == 3
        counts = devices.counts
        assert counts.statuses["REGISTER", 401] == counts.statuses["REGISTER", 200] == 200
        assert await devices.beat() == 200
        assert len({beat.device_id for _, beat in upper.heartbeats}) == 200
        assert 0 < counts.percentile_s(0.5) <= counts.percentile_s(0.99)
        assert (counts.lost, counts.unexpected) == (0, counts.unexpected)
        await devices.unregister()
        assert devices.registered == 0
        assert not upper.lowers


async def test_a_wrong_password_registers_nobody(upper: UpperPlatform) -> None:
    async with storm(upper, 10, password="wrong") as devices:
        assert await devices.register() == 0
        assert devices.counts.statuses["REGISTER", 401] == 20
        assert await devices.beat() == 0


async def test_challenges_with_qop(upper: UpperPlatform) -> None:
    upper.rules = UpperRules(
        realm="4101830000",
        password=PASSWORD,
        challenges=lambda realm, nonce: [
            f'Digest realm="{realm}", nonce="{nonce}", qop="auth", opaque="x", algorithm=MD5'
        ],
    )
    async with storm(upper, 5) as devices:
        assert await devices.register() == 5


async def test_losses_are_sent_again(upper: UpperPlatform) -> None:
    async with storm(upper, 20, retry_s=QUICK) as devices:
        await devices.register()
        upper.faults.silent_messages = 10
        assert await devices.beat() >= 10
        assert devices.counts.repeated >= 10


async def test_what_is_never_answered_is_lost() -> None:
    devices = Storm(("127.0.0.1", 9), SERVER_ID, 3, retry_s=QUICK)
    devices.start()
    try:
        assert await devices.register(timeout_s=30) == 0
        assert devices.counts.lost == 3
        assert devices.counts.repeated == 9
    finally:
        await devices.close()


async def test_heartbeats_are_spread_over_the_interval(upper: UpperPlatform) -> None:
    async with storm(upper, 20, heartbeat_s=0.5) as devices:
        await devices.register()
        await devices.run(1.0)
        assert 30 <= devices.counts.statuses["MESSAGE", 200] <= 45
        first = [beat.device_id for _, beat in upper.heartbeats[:20]]
        assert len(set(first)) == 20


async def test_a_server_that_forgets_is_noticed(upper: UpperPlatform) -> None:
    async with storm(upper, 10) as devices:
        await devices.register()
        upper.forget()
        assert await devices.beat() == 0
        assert devices.registered == 0
        assert await devices.register() == 10
        await asyncio.sleep(0)
