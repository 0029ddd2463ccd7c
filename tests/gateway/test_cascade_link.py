"""The link to an upper over loopback: challenges, lifetimes, heartbeats, restarts, redirects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import pytest

from config.settings import CascadeSettings
from gateway.events import EventBus, PlatformChanged
from gateway.model import Platform, PlatformState
from gateway.services.cascade_link import UpperLink
from simulator.upper_platform import UpperPlatform, UpperRules
from sip.endpoint import Endpoint, Identity, Reply
from sip.timers import Timers

OURS = "41018300002000000001"
UPPER = "41010000002000000001"
QUICK = CascadeSettings(register_retry_s=0.3, register_retry_spread=0.2)


@asynccontextmanager
async def linked(
    upper: UpperPlatform, *, settings: CascadeSettings = QUICK, t1: float = 0.1, **values: object
) -> AsyncIterator[UpperLink]:
    """A gateway endpoint with one link to ``upper``; both are closed at the end."""
    await upper.start()
    bus = EventBus()
    states: list[PlatformState] = []
    bus.subscribe(PlatformChanged, callback=lambda event: states.append(event.status.state))
    identity = Identity(OURS, OURS[:10])
    endpoint = Endpoint(
        identity, host="127.0.0.1", port=0, handler=lambda _: Reply(200), timers=Timers(t1=t1)
    )
    await endpoint.start()
    fields = {
        "transport": upper.transport,
        "password": upper.rules.password or "",
        "heartbeat_interval_s": 60,
    } | values
    platform = Platform(UPPER, "municipal", "4101000000", "127.0.0.1", upper.port, **fields)  # type: ignore[arg-type]
    ups: list[float] = []
    downs: list[str] = []
    link = UpperLink(
        platform,
        identity=identity,
        settings=settings,
        endpoint=endpoint,
        bus=bus,
        random=Random(7),
        on_up=lambda: ups.append(time.monotonic()),
        on_down=downs.append,
    )
    link.ups, link.downs, link.states = ups, downs, states  # type: ignore[attr-defined]
    link.start()
    try:
        yield link
    finally:
        await link.stop(farewell=True)
        await endpoint.close(drain_s=0.1)
        await upper.stop()


def upper(**values: object) -> UpperPlatform:
    values.setdefault("password", "Xm-Demo-0001")
    return UpperPlatform(UPPER, lower_id=OURS, **values)  # type: ignore[arg-type]


async def online(link: UpperLink) -> None:
    async with asyncio.timeout(10):
        while not link.online:
            await asyncio.sleep(0.01)


@pytest.mark.gb("G047")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_it_registers_with_digest_and_says_its_version(transport: str) -> None:
    platform = upper(transport=transport)
    async with linked(platform) as link:
        lower = await platform.wait_registered()
        await online(link)
        assert lower.flow.transport == transport
        assert [request.headers.get("X-GB-Ver") for request in platform.registers] == ["3.0", "3.0"]
        assert len({request.call_id for request in platform.registers}) == 1
        assert [request.cseq.number for request in platform.registers] == [1, 2]
        assert link.status().last_response == "200 OK"
    assert platform.registers[-1].expires == 0
    assert OURS not in platform.lowers


async def test_an_upper_is_heard_while_we_register_and_not_once_it_refused() -> None:
    """Its first request may reach us in one batch with its 200."""
    settings = CascadeSettings(register_retry_s=60)
    async with linked(upper(), settings=settings, password="not-the-right-one") as link:
        assert link.machine.state is PlatformState.REGISTERING
        assert link.heard
        async with asyncio.timeout(10):
            while link.machine.state is PlatformState.REGISTERING:
                await asyncio.sleep(0.01)
        assert not link.heard


@pytest.mark.gb("G055")
@pytest.mark.parametrize(
    ("expires_in", "granted", "expected"), [("header", 1800, 1800), ("contact", 700, 700), ("both", 900, 900)]
)
async def test_the_granted_lifetime_comes_from_the_contact_else_from_the_header(
    expires_in: str, granted: int, expected: int
) -> None:
    platform = upper(rules=UpperRules(granted_s=granted, expires_in=expires_in))
    async with linked(platform) as link:
        await online(link)
        assert link.status().expires_s == expected


@pytest.mark.gb("G054")
async def test_a_short_grant_is_refreshed_in_time_in_the_same_call() -> None:
    platform = upper(rules=UpperRules(granted_s=2))
    async with linked(platform, expires_s=86400) as link:
        await platform.wait(lambda: len(platform.registers) >= 5)
        first, again = platform.registers[1], platform.registers[3]
        assert again.call_id == first.call_id
        assert again.cseq.number > first.cseq.number
        gap = platform.register_times[3] - platform.register_times[1]
        assert 1.0 <= gap <= 2.0
        assert len(link.ups) == 1  # type: ignore[attr-defined]
        assert link.downs == []  # type: ignore[attr-defined]


CHALLENGES: dict[str, Callable[[str, str], list[str]]] = {
    "no qop": lambda realm, nonce: [f'Digest realm="{realm}",nonce="{nonce}"'],
    "auth": lambda realm, nonce: [f'Digest realm="{realm}", nonce="{nonce}", qop="auth", algorithm=MD5'],
    "auth,auth-int": lambda realm, nonce: [f'Digest realm="{realm}",qop="auth,auth-int",nonce="{nonce}"'],
    "unknown parameters": lambda realm, nonce: [
        f'Digest realm="{realm}", nonce="{nonce}", opaque="x=1,y", domain="sip:a", charset=UTF-8, algorithm="MD5"'
    ],
}


@pytest.mark.gb("G056")
@pytest.mark.parametrize("name", CHALLENGES)
async def test_every_form_of_challenge_is_answered(name: str) -> None:
    platform = upper(rules=UpperRules(challenges=CHALLENGES[name]))
    async with linked(platform) as link:
        await online(link)
        assert not platform.refused


@pytest.mark.gb("G057")
async def test_the_strongest_known_challenge_is_chosen() -> None:
    def several(realm: str, nonce: str) -> list[str]:
        return [
            f'Digest realm="{realm}", nonce="{nonce}", algorithm={algorithm}'
            for algorithm in ("SM3", "MD5", "SHA-256")
        ]

    platform = upper(rules=UpperRules(challenges=several, algorithms=("SHA-256",)))
    async with linked(platform) as link:
        await online(link)
        assert "algorithm=SHA-256" in platform.registers[-1].headers.get("Authorization", "")


async def test_user_name_and_password_may_differ_from_the_code() -> None:
    platform = upper()
    async with linked(platform, username="county-gateway") as link:
        await online(link)
        assert 'username="county-gateway"' in platform.registers[-1].headers.get("Authorization", "")
        assert platform.registers[-1].from_.uri.user == OURS


@pytest.mark.gb("G053")
@pytest.mark.quirk(36)
async def test_refusals_are_retried_with_pauses_and_new_call_ids_and_shown() -> None:
    platform = upper()
    platform.faults.refuse_registers = 3
    async with linked(platform) as link:
        await platform.wait(lambda: platform.refused["register"] >= 1)
        await platform.wait(lambda: link.status().state is PlatformState.WAITING)
        assert link.status().last_response == "403 Forbidden"
        assert (link.status().next_try_in_s or 0) > 0
        await online(link)
        tries = platform.register_times[:4]
        assert all(b - a >= 0.29 for a, b in pairwise(tries))
        assert len({request.call_id for request in platform.registers[:4]}) == 4
        assert link.status().last_response == "200 OK"


@pytest.mark.gb("G065")
async def test_unanswered_heartbeats_take_it_offline_and_it_registers_anew() -> None:
    platform = upper()
    async with linked(platform, heartbeat_interval_s=0.2, heartbeat_count=3) as link:
        await platform.wait(lambda: len(platform.heartbeats) >= 2)
        platform.faults.silent_messages = 3
        before = platform.registers[-1].call_id
        await platform.wait(lambda: link.downs)  # type: ignore[attr-defined]
        assert link.downs == ["heartbeats unanswered"]  # type: ignore[attr-defined]
        await online(link)
        assert platform.registers[-1].call_id != before
        beats = len(platform.heartbeats)
        await platform.wait(lambda: len(platform.heartbeats) > beats)


@pytest.mark.gb("G261")
@pytest.mark.quirk(36)
@pytest.mark.parametrize("status", [403, 481, 404])
async def test_an_upper_that_forgot_us_is_noticed_at_the_next_heartbeat(status: int) -> None:
    platform = upper()
    async with linked(platform, heartbeat_interval_s=0.2) as link:
        await platform.wait(lambda: platform.heartbeats)
        if status == 403:
            await platform.restart()
        else:
            platform.faults.message_status = status
        before = platform.registers[-1].call_id
        await platform.wait(lambda: link.downs)  # type: ignore[attr-defined]
        platform.faults.message_status = 200
        assert link.downs[0] == f"heartbeat answered {status}"  # type: ignore[attr-defined]
        await platform.wait_registered()
        await online(link)
        assert platform.registers[-1].call_id != before
        states = link.states  # type: ignore[attr-defined]
        online_at = [index for index, state in enumerate(states) if state is PlatformState.ONLINE]
        assert PlatformState.WAITING in states[online_at[0] : online_at[-1]]


async def test_heartbeats_carry_our_code_and_state() -> None:
    platform = upper()
    healthy = True
    async with linked(platform, heartbeat_interval_s=30) as link:
        link._healthy = lambda: healthy
        await online(link)
        link.report_now()
        await platform.wait(lambda: len(platform.heartbeats) >= 1)
        healthy = False
        link.report_now()
        await platform.wait(lambda: len(platform.heartbeats) >= 2)
        bodies = [body for _, body in platform.heartbeats]
        assert [(body.device_id, body.status) for body in bodies] == [(OURS, "OK"), (OURS, "ERROR")]
        assert bodies[1].sn > bodies[0].sn


async def test_the_date_of_the_upper_is_compared_with_ours() -> None:
    platform = upper(rules=UpperRules(clock_offset_s=120.0))
    async with linked(platform) as link:
        await online(link)
        offset = link.status().clock_offset_s
        assert offset is not None
        assert 115 <= offset <= 125


async def test_a_redirect_leads_to_another_server() -> None:
    real = upper()
    await real.start()
    door = upper(rules=UpperRules(redirect=f"<sip:{UPPER}@127.0.0.1:{real.port}>"))
    try:
        async with linked(door) as link:
            await online(link)
            assert real.lower_id in real.lowers
            assert not door.lowers
            link.report_now()
            await real.wait(lambda: real.heartbeats)
    finally:
        await real.stop()


async def test_a_lost_connection_leads_to_a_new_registration() -> None:
    platform = upper(transport="tcp")
    async with linked(platform) as link:
        await online(link)
        await platform.vanish()
        link.connection_lost()
        assert link.downs == ["connection lost"]  # type: ignore[attr-defined]
        await platform.restart()
        await platform.wait_registered()


@pytest.mark.gb("G262")
async def test_an_upper_that_is_not_there_costs_nothing() -> None:
    platform = upper()
    settings = CascadeSettings(register_retry_s=0.02, register_retry_spread=0.0)
    async with linked(platform, settings=settings, t1=0.01) as link:
        await online(link)
        endpoint = link._endpoint
        assert isinstance(endpoint, Endpoint)
        await platform.vanish()
        link._lost("test")
        async with asyncio.timeout(20):
            tries = 0
            call_id = ""
            while tries < 10:
                await asyncio.sleep(0.02)
                if link._call_id != call_id:
                    call_id, tries = link._call_id, tries + 1
        assert len(asyncio.all_tasks()) < 12
        assert endpoint.counts["client_transactions"] <= 2
        await platform.restart()
        await online(link)
