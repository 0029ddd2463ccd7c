"""What goes up to an upper platform: filters of alarm subscriptions, editions, one slow upper, positions cut to fit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from gateway_core import until

from gateway.model import ChannelKind
from gateway.services.alarms_upward import MOST_WAITING, AlarmFeed, in_edition, passes
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.positions import PtzPosition
from gateway.services.positions_upward import PositionFeed, PtzPositionFeed
from gateway.storage.positions import StoredPosition
from sip.errors import TransactionTimeout
from sip.manscdp import (
    AlarmNotify,
    AlarmQuery,
    Edition,
    MobilePositionNotify,
    PTZPositionNotify,
    decode,
    encode,
)

OWN = "41018300002000000001"
CAMERAS = [f"4101830000131000{number:04d}" for number in range(60)]
NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def alarm(**values: Any) -> AlarmNotify:
    given = {"alarm_priority": 2, "alarm_method": 5, "alarm_type": 6, "alarm_time": NOW}
    return AlarmNotify(**{**given, **values})


@pytest.mark.gb("G145", "G146")
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, True),
        ({"start_alarm_priority": 0, "end_alarm_priority": 0}, True),
        ({"start_alarm_priority": 1, "end_alarm_priority": 2}, True),
        ({"start_alarm_priority": 3, "end_alarm_priority": 4}, False),
        ({"start_alarm_priority": 1, "end_alarm_priority": 1}, False),
        ({"start_alarm_priority": 2}, True),
        ({"alarm_method": ("0",)}, True),
        ({"alarm_method": ("5",)}, True),
        ({"alarm_method": ("1", "2")}, False),
        ({"alarm_method": ("2", "5")}, True),
        ({"alarm_method": ("25",)}, True),
        ({"alarm_method": ("12",), "alarm_type": ()}, False),
        ({"alarm_method": ("all",)}, True),
        ({"alarm_type": ("6",)}, True),
        ({"alarm_type": ("2", "3")}, False),
        ({"start_alarm_time": NOW - timedelta(hours=1), "end_alarm_time": NOW + timedelta(hours=1)}, True),
        ({"start_alarm_time": NOW + timedelta(seconds=1)}, False),
        ({"end_alarm_time": NOW - timedelta(seconds=1)}, False),
    ],
)
def test_filter_fields_of_a_subscription(asked: dict[str, Any], told: bool) -> None:
    query = decode(encode(AlarmQuery(sn=1, device_id=OWN, **asked))).body
    assert isinstance(query, AlarmQuery)
    assert passes(query, alarm()) is told


def test_an_alarm_that_lacks_a_field_is_not_held_back() -> None:
    query = AlarmQuery(start_alarm_priority=1, end_alarm_priority=1, alarm_method=("2",), alarm_type=("1",))
    assert passes(query, AlarmNotify())


@pytest.mark.gb("G147")
def test_an_upper_of_2016_gets_types_of_2016() -> None:
    assert in_edition(alarm(alarm_type=13), Edition.V2016).alarm_type == 11
    assert in_edition(alarm(alarm_type=13), Edition.V2022).alarm_type == 13
    assert in_edition(alarm(alarm_method=2, alarm_type=5), Edition.V2016).alarm_type == 5
    assert in_edition(alarm(alarm_type=None), Edition.V2016).alarm_type is None


class Upper:
    """The other end of a subscription: keeps what it is told."""

    def __init__(self, edition: Edition = Edition.V2022, transport: str = "udp") -> None:
        self.edition = edition
        self.target = SimpleNamespace(transport=transport)
        self.platform = SimpleNamespace(platform_id="41010000002000000001")
        self.told: list[Any] = []
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.dead: list[Any] = []
        self.status = 200
        self._sn = 0

    def encode(self, body: Any) -> bytes:
        return encode(body, edition=self.edition)

    def next_sn(self) -> int:
        self._sn += 1
        return self._sn

    async def notify(self, body: bytes, content_type: str, *, state: str = "active", reason: str = "") -> Any:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.told.append(decode(body).body)
        self.sizes.append(len(body))
        return SimpleNamespace(status=self.status)


def tree() -> Tree:
    made = Tree(OWN)
    for code in [OWN, *CAMERAS]:
        parents = () if code == OWN else (OWN,)
        entry = Entry(code, ChannelKind.CAMERA, code, (("device", f"real-{code}"),), parents)
        made.entries[code] = entry
        made.by_key["device", f"real-{code}"] = entry
    return made


def feed_of(kind: type[Any], upper: Upper, target: str = OWN, **more: Any) -> Any:
    return kind(upper, target=target, tree=tree(), link=upper, on_dead=upper.dead.append, **more)


async def test_a_subscription_for_one_camera_gets_that_cameras_alarms() -> None:
    upper = Upper()
    feed = feed_of(AlarmFeed, upper, CAMERAS[0], query=AlarmQuery())
    feed.start()
    assert feed.offer(CAMERAS[0], alarm()) is True
    assert feed.offer(CAMERAS[1], alarm()) is False
    await until(lambda: len(upper.told) == 1)
    assert (upper.told[0].device_id, upper.told[0].sn) == (CAMERAS[0], 1)
    await feed.drop()


async def test_an_upper_that_answers_slowly_holds_a_bounded_queue_and_a_dead_one_is_let_go() -> None:
    upper = Upper()
    upper.gate.clear()
    feed = feed_of(AlarmFeed, upper, query=AlarmQuery())
    feed.start()
    for number in range(MOST_WAITING + 50):
        feed.offer(CAMERAS[0], alarm(event_type=number))
        await asyncio.sleep(0)
    assert 45 <= feed.counts["dropped"] <= 50
    upper.failure = TransactionTimeout("no answer")
    upper.gate.set()
    await until(lambda: upper.dead == [feed])
    await feed.drop()


def report(code: str, **values: Any) -> StoredPosition:
    return StoredPosition("device", f"real-{code}", NOW, NOW, 113.8, 34.8, **values)


@pytest.mark.gb("G154")
async def test_lists_of_2022_fit_a_datagram_and_the_flat_form_of_2016_names_its_channel() -> None:
    newer, older, tcp = Upper(), Upper(Edition.V2016), Upper(transport="tcp")
    feeds = [feed_of(PositionFeed, upper, interval_s=0.01) for upper in (newer, older, tcp)]
    for feed in feeds:
        for code in CAMERAS:
            feed.offer(report(code, speed_kmh=50.0, height_m=2.0), "")
            feed.offer(report(code, speed_kmh=60.0, height_m=2.0), "")
        feed.start()
    await until(
        lambda: all(sum(max(1, len(b.items)) for b in upper.told) == 60 for upper in (newer, older, tcp))
    )
    assert len(newer.told) > 1
    assert max(newer.sizes) < 1300
    assert len(tcp.told) == 1
    for body in (*newer.told, *tcp.told):
        assert isinstance(body, MobilePositionNotify)
        assert body.sum_num == len(body.items)
        assert {item.speed for item in body.items} == {60.0}, "the newest of the interval"
    assert [body.device_id for body in older.told] == CAMERAS
    assert all(body.items == [] and body.longitude == 113.8 for body in older.told)
    for feed in feeds:
        await feed.drop()


async def test_places_that_cannot_be_used_stay_here_and_a_device_goes_up_as_its_camera() -> None:
    upper = Upper()
    feed = feed_of(PositionFeed, upper, interval_s=0.01)
    feed.offer(report(CAMERAS[0], faults="zero"), "")
    feed.offer(report(CAMERAS[1], faults="outside_china"), "")
    feed.offer(report("unknown"), f"real-{CAMERAS[2]}")
    feed.offer(report("unknown"), "")
    feed.start()
    await until(lambda: upper.told)
    assert [item.device_id for item in upper.told[0].items] == CAMERAS[1:3]
    await feed.drop()


@pytest.mark.gb("G156")
async def test_directions_of_cameras_go_to_those_who_asked_for_them() -> None:
    upper, other = Upper(), Upper()
    looks, places = (
        feed_of(PtzPositionFeed, upper, interval_s=0.0),
        feed_of(PositionFeed, other, interval_s=0.01),
    )
    for feed in (looks, places):
        feed.start()
        feed.offer(PtzPosition("device", f"real-{CAMERAS[3]}", NOW, 1.5, -2.25, 3.0, None, None, None), "")
        feed.offer(report(CAMERAS[4]), "")
    await until(lambda: upper.told and other.told)
    assert isinstance(upper.told[0], PTZPositionNotify)
    assert (upper.told[0].device_id, upper.told[0].pan, upper.told[0].tilt) == (CAMERAS[3], 1.5, -2.25)
    assert (len(upper.told), len(other.told)) == (1, 1)
    assert isinstance(other.told[0], MobilePositionNotify)
    for feed in (looks, places):
        await feed.drop()
