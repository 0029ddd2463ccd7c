"""Three platforms in a chain on loopback: a SUBSCRIBE for the lowest is only routed by the gateway between (2022 N.2.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cascade_house import PASSWORD, UPPER, CascadeHouse, MemoryJournal, house
from gateway_core import DOMAIN, FAST, SERVER, until

from config.settings import CatalogSettings
from gateway.model import DeviceKind, Share
from gateway.services import cascade_route
from simulator.device import Channel, DeviceOptions
from simulator.nvr import Recorder
from simulator.register import RegisterSettings
from simulator.upper_platform import UpperPlatform
from sip.endpoint import Incoming, NotifierSubscription, Reply
from sip.errors import Rejected
from sip.manscdp import CatalogItem, CatalogNotify, CatalogQuery, Edition
from sip.message import Request, parse

LOWER = "41018301002000000001"
SUBSYSTEM = "41018301032000000001"
ABROAD = "41018302002000000001"
FIRST, SECOND, THIRD = (f"4101830100131000100{number}" for number in (1, 2, 3))
EXPORTED = "41010000001310000077"
LOWER_HOST = "127.0.0.2"
"""The lowest platform lives at another loopback address, so that its address can be told from ours."""
EVENT = "Catalog;id=4711"


class Chain:
    """``upper`` above ``county`` (the gateway) above ``lower``."""

    def __init__(self, county: CascadeHouse, upper: UpperPlatform, lower: Recorder) -> None:
        self.county, self.upper, self.lower = county, upper, lower

    @property
    def below(self) -> NotifierSubscription:
        """The gateway's subscription at the lower platform, as that one sees it."""
        return self.lower.subscriptions["catalog"]

    @property
    def subscribed(self) -> list[CatalogQuery]:
        """Bodies of the SUBSCRIBEs that reached the lower platform."""
        return [
            entry.body
            for entry in self.lower.received
            if entry.method == "SUBSCRIBE" and isinstance(entry.body, CatalogQuery)
        ]

    @property
    def open(self) -> int:
        return self.county.cascade.platforms()[0].subscriptions

    @property
    def dialogs(self) -> int:
        return self.county.core.endpoint.counts["dialogs"]

    async def all_closed(self) -> None:
        """Nothing is left of a route: no dialog at any of the three, no task, no record."""
        await until(lambda: self.open == 0 and not self.below.active)
        routes = self.county.cascade._uppers[UPPER].routes
        await until(lambda: not routes._tasks and not routes._routes)
        assert not self.county.journal
        # a closed subscription still answers a last NOTIFY for some seconds
        await until(lambda: self.dialogs == 0)
        await until(lambda: self.lower.endpoint.counts["dialogs"] == 0)


def lower_platform(county: CascadeHouse, **options: Any) -> Recorder:
    made = Recorder(
        LOWER,
        3,
        server=county.core.address,
        server_id=SERVER,
        domain=DOMAIN,
        password=PASSWORD,
        name="township",
        options=DeviceOptions(
            **{
                "host": LOWER_HOST,
                "timers": FAST,
                "register": RegisterSettings(heartbeat_s=30, retry_s=(0.05, 0.2)),
                **options,
            }
        ),
    )
    made.channels[SUBSYSTEM] = Channel(SUBSYSTEM, "village", parent_ids=(LOWER,))
    made.channels[THIRD].parent_ids = (SUBSYSTEM,)
    return made


@asynccontextmanager
async def chained(
    *,
    below: dict[str, Any] | None = None,
    above: dict[str, Any] | None = None,
    platform: dict[str, Any] | None = None,
    **values: Any,
) -> AsyncIterator[Chain]:
    async with house(**values) as county:
        lower, upper = lower_platform(county, **(below or {})), county.upper(**(above or {}))
        await upper.start()
        await lower.start()
        try:
            await lower.wait_registered()
            await county.core.catalog.refresh(LOWER)
            await county.join(upper, **(platform or {}))
            yield Chain(county, upper, lower)
        finally:
            await county.cascade.close()
            await lower.stop()
            await upper.stop()


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with chained() as made:
        yield made


async def expect(chain: Chain, *events: tuple[str, str]) -> None:
    """These events, and no others, reach the upper."""
    await chain.upper.wait(lambda: len(chain.upper.events()) >= len(events), what=f"for {events}")
    await asyncio.sleep(0.1)
    assert chain.upper.events() == list(events)


def requests(upper: UpperPlatform, method: str) -> list[Request]:
    found = [parse(data) for data in upper.wire_in if data.startswith(method.encode())]
    return [message for message in found if isinstance(message, Request)]


def change(code: str, event: str) -> CatalogNotify:
    return CatalogNotify(sn=1, device_id=LOWER, sum_num=1, items=[CatalogItem(device_id=code, event=event)])


# -- there and back -------------------------------------------------------------------------------------------


@pytest.mark.gb("G121")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_change_in_the_lowest_tree_arrives_at_the_top_by_the_routed_dialog(transport: str) -> None:
    async with chained(above={"transport": transport}, below={"transport": transport}) as chain:
        upper, lower = chain.upper, chain.lower
        lower.channels[SECOND].status = "VLOST"
        subscription = await upper.subscribe_catalog(to=LOWER, event=EVENT, expires_s=300)

        asked = chain.below.request
        assert LOWER in asked.uri
        assert asked.to.uri.user == LOWER
        assert [query.device_id for query in chain.subscribed] == [LOWER]
        assert chain.below.call_id != subscription.call_id
        assert asked.from_.uri.user == SERVER
        assert int(asked.headers.get("Max-Forwards")) == 69
        assert not chain.county.cascade._uppers[UPPER]._feeds  # nothing of it is served from our own tree

        await expect(chain, ("VLOST", SECOND))
        await lower.set_status(FIRST, "OFF")
        await expect(chain, ("VLOST", SECOND), ("OFF", FIRST))
        told = requests(upper, "NOTIFY")
        assert {request.headers.get("Event") for request in told} == {EVENT}
        assert {request.call_id for request in told} == {subscription.call_id}
        assert all(
            request.headers.get("Subscription-State").startswith("active;expires=") for request in told
        )
        assert {body.device_id for body, _, _ in upper.notifies} == {LOWER}
        channel = chain.county.registry.channel(LOWER, FIRST)
        assert channel is not None
        assert channel.reported == "OFF"  # the platform between learns of it as well


@pytest.mark.gb("G121")
async def test_codes_are_mapped_both_ways_and_what_is_not_shared_stays_below() -> None:
    async with chained(platform={"share_all": False}) as chain:
        await chain.county.cascade.set_shares(UPPER, [Share(UPPER, LOWER, FIRST, EXPORTED)])
        await chain.upper.subscribe_catalog(EXPORTED, to=LOWER)
        await chain.upper.subscribe_catalog(to=LOWER)
        assert [query.device_id for query in chain.subscribed] == [FIRST, LOWER]
        with pytest.raises(Rejected) as refused:
            await chain.upper.subscribe_catalog(FIRST, to=LOWER)
        assert refused.value.status == 404
        await chain.lower.set_status(SECOND, "OFF")
        await chain.lower.set_status(FIRST, "OFF")
        await expect(chain, ("OFF", EXPORTED))
        await chain.lower.notify_catalog(
            [CatalogItem(device_id=FIRST, event="UPDATE", name="gate", parent_ids=(LOWER, SUBSYSTEM))]
        )
        await expect(chain, ("OFF", EXPORTED), ("UPDATE", EXPORTED))
        updated = chain.upper.notifies[-1][0].items[0]
        assert (updated.name, updated.parent_ids) == ("gate", (LOWER,))
        for body, _, _ in chain.upper.notifies:
            assert FIRST not in str(body.items)


@pytest.mark.gb("G121")
async def test_each_side_has_its_own_charset_and_edition() -> None:
    async with chained(
        below={"edition": Edition.V2016, "charset": "GB2312"},
        above={"charset": "UTF-8", "edition": Edition.V2022},
        platform={"charset": "UTF-8"},
    ) as chain:
        chain.lower.channels[FIRST].name = "东门"
        await chain.upper.subscribe_catalog(to=LOWER)
        sent = next(entry.raw for entry in chain.lower.received if entry.method == "SUBSCRIBE")
        assert b'encoding="GB2312"' in sent
        await chain.lower.add_channel(chain.lower.channels[FIRST])
        await expect(chain, ("ADD", FIRST))
        told = requests(chain.upper, "NOTIFY")[-1].body
        assert b'encoding="UTF-8"' in told
        assert "东门".encode() in told
        assert b"GrassrootsCode" in told  # of the 2022 edition; the lower side wrote none
        assert b"<Owner>" not in told


@pytest.mark.gb("G121")
async def test_no_address_or_password_of_the_lowest_goes_up(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER)
    await chain.lower.notify_catalog(
        [
            CatalogItem(
                device_id=FIRST,
                event="UPDATE",
                ip_address=LOWER_HOST,
                port=5060,
                password="Camera-Pw-04",
                extras={"Secret": "x"},
            )
        ]
    )
    await expect(chain, ("UPDATE", FIRST))
    whole = b"\n".join(chain.upper.wire_in)
    assert LOWER_HOST.encode() not in whole
    assert f":{chain.lower.port}".encode() not in whole
    assert b"Camera-Pw-04" not in whole
    assert b"Secret" not in whole
    assert chain.upper.notifies[-1][0].items[0].name  # what the UPDATE left out is as it was


@pytest.mark.gb("G121")
async def test_a_system_further_down_is_routed_to_the_next_hop(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=SUBSYSTEM)
    asked = chain.below.request
    assert SUBSYSTEM in asked.uri
    assert asked.to.uri.user == SUBSYSTEM
    assert [query.device_id for query in chain.subscribed] == [SUBSYSTEM]
    await chain.lower.set_status(THIRD, "DEFECT")
    await expect(chain, ("DEFECT", THIRD))


async def test_channels_that_come_and_go(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER)
    added = "41018301001310001009"
    await chain.lower.add_channel(Channel(added, "new bridge", parent_ids=(SUBSYSTEM,)))
    await expect(chain, ("ADD", added))
    item = chain.upper.notifies[-1][0].items[0]
    assert (item.name, item.parent_ids, item.status) == ("new bridge", (SUBSYSTEM,), "ON")
    # the platform between knows it as gone before the owner's NOTIFY is passed on
    chain.county.registry.remove_channel(LOWER, added)
    await until(lambda: added not in chain.county.cascade._uppers[UPPER]._tree.entries)  # type: ignore[union-attr]
    await chain.lower.remove_channel(added)
    await expect(chain, ("ADD", added), ("DEL", added))


async def test_one_large_notify_is_cut_to_what_the_upper_can_take() -> None:
    async with chained(below={"transport": "tcp"}) as chain:
        await chain.upper.subscribe_catalog(to=LOWER)
        await chain.upper.wait(lambda: chain.upper.notifies)
        await chain.lower.notify_catalog([CatalogItem(device_id=FIRST, event="OFF")] * 60)
        await chain.upper.wait(lambda: len(chain.upper.events()) == 60)
        told = requests(chain.upper, "NOTIFY")
        assert len(told) > 4
        assert all(len(request.to_bytes()) <= 1300 for request in told)
        assert all(body.sum_num == len(body.items) for body, _, _ in chain.upper.notifies)


async def test_a_subscribe_that_names_us_is_served_from_our_own_tree(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(LOWER)
    await chain.upper.wait(lambda: chain.upper.notifies)
    assert chain.subscribed == []
    assert len(chain.county.cascade._uppers[UPPER]._feeds) == 1
    await chain.lower.notify_catalog([])  # nobody is subscribed there
    channel = chain.county.registry.channel(LOWER, FIRST)
    assert channel is not None
    chain.county.registry.report(channel, "OFF")
    await expect(chain, ("OFF", FIRST))


async def test_our_own_subscription_beside_a_routed_one() -> None:
    async with chained(
        with_services=True, catalog=CatalogSettings(query_on_register=False, subscribe=True)
    ) as chain:
        await until(lambda: chain.county.core.subscriptions.active == 1)
        own = chain.below
        await chain.upper.subscribe_catalog(to=LOWER)
        await until(lambda: chain.below is not own)
        await chain.lower.set_status(FIRST, "OFF")
        await expect(chain, ("OFF", FIRST))
        await own.notify(chain.lower.encoded(change(SECOND, "OFF")))
        channel = chain.county.registry.channel(LOWER, SECOND)
        assert channel is not None
        await until(lambda: channel.reported == "OFF")
        await expect(chain, ("OFF", FIRST))


# -- lifetime -------------------------------------------------------------------------------------------------


@pytest.mark.gb("G121")
async def test_the_upper_gets_no_more_time_than_the_owner_gave() -> None:
    async with chained(below={"longest_subscription_s": 100}) as chain:
        subscription = await chain.upper.subscribe_catalog(to=LOWER, expires_s=300)
        assert subscription.expires_s == 100
        short = await chain.upper.subscribe_catalog(to=SUBSYSTEM, expires_s=60)
        assert short.expires_s == 60


@pytest.mark.gb("G121")
async def test_a_cancel_goes_down(chain: Chain) -> None:
    subscription = await chain.upper.subscribe_catalog(to=LOWER)
    await chain.upper.wait(lambda: chain.upper.notifies)
    assert chain.open == 1
    assert len(chain.county.journal) == 2
    await subscription.close()
    await chain.all_closed()
    states = [request.headers.get("Subscription-State") for request in requests(chain.upper, "NOTIFY")]
    assert states[-1] == "terminated;reason=timeout"


@pytest.mark.gb("G121")
async def test_both_dialogs_are_refreshed_and_end_when_the_upper_forgets_to(chain: Chain) -> None:
    subscription = await chain.upper.subscribe_catalog(to=LOWER, expires_s=1)  # refreshes itself at 0.85 s
    first = chain.below.expires_at_mono
    await asyncio.sleep(1.7)
    assert chain.below.expires_at_mono > first + 0.5
    await chain.lower.set_status(FIRST, "OFF")
    await expect(chain, ("OFF", FIRST))
    if subscription._timer is not None:
        subscription._timer.cancel()
    await chain.all_closed()
    chain.upper.notifies.clear()
    await chain.lower.set_status(FIRST, "ON")
    await asyncio.sleep(0.3)
    assert chain.upper.notifies == []


@pytest.mark.gb("G121")
async def test_an_upper_that_restarts_leaves_nothing_open_below() -> None:
    async with chained(platform={"heartbeat_interval_s": 0.2}) as chain:
        await chain.upper.subscribe_catalog(to=LOWER)
        await chain.upper.wait(lambda: chain.upper.notifies)
        await chain.upper.restart()
        await chain.upper.wait_registered()
        await chain.all_closed()
        assert requests(chain.upper, "NOTIFY")[1:] == []
        await chain.upper.wait(lambda: chain.county.cascade.platforms()[0].state == "online")
        await chain.upper.subscribe_catalog(to=LOWER)
        await chain.lower.set_status(FIRST, "OFF")
        await chain.upper.wait(lambda: ("OFF", FIRST) in chain.upper.events())


async def test_an_upper_that_asks_again_replaces_its_route(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER, event=EVENT)
    old = chain.below
    await chain.upper.subscribe_catalog(to=LOWER, event=EVENT)
    await until(lambda: not old.active)
    assert chain.open == 1
    await chain.lower.set_status(FIRST, "OFF")
    await expect(chain, ("OFF", FIRST))


async def test_a_gateway_that_stops_takes_leave_on_both_sides(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER)
    await chain.upper.wait(lambda: chain.upper.notifies)
    await chain.county.cascade.close()
    assert chain.upper.ended == ["deactivated"]
    await until(lambda: not chain.below.active)
    assert not chain.county.journal


async def test_after_a_crash_both_sides_are_ended(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER)
    await chain.upper.wait(lambda: chain.upper.notifies)
    await chain.county.core.endpoint.close(0)  # no word to anybody
    async with house(journal=MemoryJournal(chain.county.journal)) as reborn:
        await chain.upper.wait(lambda: chain.upper.ended == ["deactivated"])
        await until(lambda: not chain.below.active and not reborn.journal)


# -- ends from below ------------------------------------------------------------------------------------------


@pytest.mark.gb("G121")
async def test_an_owner_that_goes_offline_ends_it_upward(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER)
    await chain.upper.wait(lambda: chain.upper.notifies)
    await chain.lower.vanish()
    device = chain.county.core.device(LOWER)
    assert device.kind is DeviceKind.PLATFORM
    chain.county.registry.mark_offline(device, "heartbeat_lost")
    await chain.upper.wait(lambda: chain.upper.ended == ["probation"])
    await until(lambda: chain.open == 0 and chain.dialogs == 0)
    with pytest.raises(Rejected) as refused:
        await chain.upper.subscribe_catalog(to=LOWER)
    assert refused.value.status == 480


@pytest.mark.gb("G121")
@pytest.mark.parametrize(("reason", "told"), [("noresource", "noresource"), ("deactivated", "deactivated")])
async def test_an_owner_that_ends_it_is_heard_above(chain: Chain, reason: str, told: str) -> None:
    await chain.upper.subscribe_catalog(to=LOWER)
    await chain.upper.wait(lambda: chain.upper.notifies)
    last = chain.lower.encoded(change(FIRST, "OFF"))
    await chain.below.notify(last, state="terminated", reason=reason)
    await chain.upper.wait(lambda: chain.upper.ended == [told])
    assert chain.upper.events() == [("OFF", FIRST)]
    await chain.all_closed()


@pytest.mark.gb("G121")
async def test_an_owner_that_forgot_it_is_found_out_by_the_refresh(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER, expires_s=2)
    await chain.upper.wait(lambda: chain.upper.notifies)
    chain.below.finish("forgotten")
    await chain.upper.wait(lambda: chain.upper.ended == ["deactivated"])
    await chain.all_closed()


@pytest.mark.gb("G121")
@pytest.mark.parametrize(
    ("status", "told"), [(404, 404), (480, 480), (489, 489), (403, 403), (503, 503), (401, 480), (481, 480)]
)
async def test_a_refusal_is_passed_up(chain: Chain, status: int, told: int) -> None:
    chain.lower.faults.statuses["SUBSCRIBE"] = status
    with pytest.raises(Rejected) as refused:
        await chain.upper.subscribe_catalog(to=LOWER)
    assert refused.value.status == told
    assert (chain.open, chain.dialogs) == (0, 0)
    assert requests(chain.upper, "NOTIFY") == []


async def test_an_owner_that_does_not_answer(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade_route, "ANSWER_WAIT_S", 0.3)
    chain.lower.faults.silent.add("SUBSCRIBE")
    with pytest.raises(Rejected) as refused:
        await chain.upper.subscribe_catalog(to=LOWER)
    assert refused.value.status == 408
    assert (chain.open, chain.dialogs) == (0, 0)


async def test_an_upper_that_refuses_the_notify_ends_it_below(chain: Chain) -> None:
    await chain.upper.subscribe_catalog(to=LOWER)
    await chain.upper.wait(lambda: chain.upper.notifies)
    chain.upper.faults.notify_status = 481
    await chain.lower.set_status(FIRST, "OFF")
    await chain.all_closed()


# -- rights and limits ----------------------------------------------------------------------------------------


@pytest.mark.gb("G121")
async def test_a_system_of_which_nothing_is_shared_does_not_exist(chain: Chain) -> None:
    with pytest.raises(Rejected) as refused:
        await chain.upper.subscribe_catalog(to=ABROAD)
    assert refused.value.status == 404
    async with chained(platform={"share_all": False}) as closed:
        with pytest.raises(Rejected) as refused:
            await closed.upper.subscribe_catalog(to=LOWER)
        assert refused.value.status == 404
        assert closed.subscribed == []


async def test_the_last_share_that_is_taken_back_ends_it() -> None:
    async with chained(platform={"share_all": False}) as chain:
        await chain.county.cascade.set_shares(UPPER, [Share(UPPER, LOWER, FIRST, "")])
        await chain.upper.subscribe_catalog(to=LOWER)
        await chain.upper.wait(lambda: chain.upper.notifies)
        await chain.county.cascade.set_shares(UPPER, [])
        await chain.upper.wait(lambda: chain.upper.ended == ["noresource"])
        await chain.all_closed()


async def test_an_upper_has_no_more_routes_than_allowed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade_route, "MOST_ROUTES", 2)
    await chain.upper.subscribe_catalog(to=LOWER)
    await chain.upper.subscribe_catalog(to=SUBSYSTEM)
    with pytest.raises(Rejected) as refused:
        await chain.upper.subscribe_catalog(FIRST, to=LOWER)
    assert refused.value.status == 503
    assert refused.value.response.headers.get("Retry-After")
    assert chain.open == 2


async def test_an_owner_cannot_fill_the_memory_of_the_platform_between(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade_route, "MOST_WAITING", 2)
    answers = asyncio.Event()

    async def slow(incoming: Incoming) -> Reply:
        await answers.wait()
        return Reply(200)

    monkeypatch.setattr(chain.upper, "_notified", slow)
    await chain.upper.subscribe_catalog(to=LOWER)  # one NOTIFY is on its way up at once
    await until(lambda: requests(chain.upper, "NOTIFY"))
    told = [await chain.lower.set_status(FIRST, status) for status in ("OFF", "ON", "VLOST")]
    assert [answer.status for answer in told if answer is not None] == [200, 200, 503]
    answers.set()
    await until(lambda: len(requests(chain.upper, "NOTIFY")) == 3)
    answer = await chain.lower.set_status(FIRST, "VLOST")
    assert answer is not None
    assert answer.status == 200
