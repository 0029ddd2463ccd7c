"""Positions taken in: both editions' forms, doubtful reports, tracks in the database, coordinate systems."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gateway_core import CAMERA, NVR, ScriptedDevice, core, until

from config.settings import PositionSettings, StorageSettings
from gateway.clock import ManualClock
from gateway.events import EventBus
from gateway.services.alarms_events import PositionFault, PositionReported
from gateway.services.positions import PositionService
from gateway.services.positions_coordinates import (
    ConversionMissing,
    CoordinateSystem,
    convert,
    coordinate_fault,
    from_gcj02,
    to_gcj02,
)
from gateway.storage.database import Database
from gateway.storage.positions import PositionStore, SubscriptionWish
from sip.manscdp import Edition, MobilePositionNotify, decode

SAMPLES = Path(__file__).parents[1] / "data" / "manscdp"
GATE = (113.8141, 34.7992)


@asynccontextmanager
async def house(folder: Path, **values: Any) -> AsyncIterator[SimpleNamespace]:
    clock, bus, seen = ManualClock(), EventBus(), []  # type: ignore[var-annotated]
    bus.subscribe(PositionReported, PositionFault, callback=seen.append)
    database = Database(StorageSettings(directory=folder))
    await database.open()
    settings = PositionSettings(**{"least_gap_s": 0.0, **values})
    service = PositionService(settings=settings, store=PositionStore(database), bus=bus, clock=clock)
    await service.start()
    try:
        yield SimpleNamespace(clock=clock, service=service, seen=seen, store=PositionStore(database))
    finally:
        await service.close()
        await database.close()


def flat(clock: ManualClock, place: tuple[float, float] = GATE, **values: Any) -> MobilePositionNotify:
    return MobilePositionNotify(sn=1, time=clock.utc(), longitude=place[0], latitude=place[1], **values)


@pytest.mark.gb("G152")
async def test_the_samples_of_both_editions_are_read(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        found = [
            one.service.take(NVR, decode(path.read_bytes(), root_hint="Notify").body, "notify")
            for path in sorted(SAMPLES.glob("Notify-MobilePosition-*.xml"))
        ]
        assert len(found) >= 2
        assert all(places for places in found)
        assert all(position.device_id == NVR for places in found for position in places)


@pytest.mark.gb("G152")
async def test_a_flat_report_without_deviceid_is_the_senders(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        one.service.take(NVR, flat(one.clock, speed=12.5, direction=359.0), "notify")
        one.service.take(NVR, flat(one.clock, device_id=CAMERA), "notify")
        assert sorted(one.service.latest) == [(NVR, NVR), (NVR, CAMERA)]
        assert one.service.latest[NVR, NVR].speed_kmh == 12.5
        await asyncio.sleep(0)
        assert [event.channel_id for event in one.seen] == [NVR, CAMERA]


@pytest.mark.gb("G155")
@pytest.mark.parametrize(
    ("place", "fault"),
    [
        (GATE, ""), ((87.6, 43.8), ""), ((112.3, 3.9), ""), ((121.6, 25.0), ""), ((0.0, 0.0), "zero"),
        ((0.0, 34.0), "outside_china"), ((34.79, 113.81), "out_of_range"), ((139.7, 35.7), "outside_china"),
        ((181.0, 10.0), "out_of_range"), ((None, 34.0), "missing"),
    ],
)  # fmt: skip
def test_what_can_be_in_china(place: tuple[Any, Any], fault: str) -> None:
    assert coordinate_fault(*place) == fault


@pytest.mark.gb("G155")
async def test_faults_are_told_on_a_change_and_the_reports_kept(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        for place in ((0.0, 0.0), (0.0, 0.0), GATE):
            one.clock.advance(1)
            one.service.take(NVR, flat(one.clock, place), "notify")
        one.clock.advance(1)
        one.service.take(NVR, flat(one.clock, speed=9000.0, direction=400.0), "notify")
        late = flat(one.clock).model_copy(update={"time": one.clock.utc() - timedelta(days=9000)})
        one.clock.advance(1)
        one.service.take(NVR, late, "notify")
        one.service.take(NVR, MobilePositionNotify(sn=1, time=one.clock.utc()), "notify")
        await asyncio.sleep(0)
        told = [event.faults for event in one.seen if isinstance(event, PositionFault)]
        assert told == [("zero",), (), ("direction", "speed"), ("clock",), ("missing",)]
        track = await one.service.track(
            (NVR, NVR), one.clock.utc() - timedelta(hours=1), one.clock.utc() + timedelta(1), limit=99
        )
        assert [point.faults for point in track] == ["zero", "zero", "", "direction,speed", "clock"]
        assert one.service.counts["fault_zero"] == 2
        assert one.service.doubtful == 1


async def test_tracks_survive_a_restart_and_are_bounded(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        for number in range(20):
            one.service.take(NVR, flat(one.clock, (113.0 + number / 100, 34.0)), "notify")
            one.clock.advance(10)
    async with house(tmp_path, keep_days=1) as two:
        two.clock.advance(200)
        assert two.service.latest[NVR, NVR].longitude == pytest.approx(113.19)
        begin = two.clock.utc() - timedelta(hours=1)
        track = await two.service.track((NVR, NVR), begin, two.clock.utc() + timedelta(1), limit=5)
        assert [round(point.longitude, 2) for point in track] == [113.15, 113.16, 113.17, 113.18, 113.19]
        assert await two.store.remove_beyond(15) == 5
        two.clock.advance(2 * 86400)
        assert await two.service.forget() == 15


async def test_reports_closer_than_the_gap_are_told_but_not_kept(tmp_path: Path) -> None:
    async with house(tmp_path, least_gap_s=5.0) as one:
        for _ in range(10):
            one.service.take(NVR, flat(one.clock), "notify")
            one.clock.advance(1)
        await asyncio.sleep(0)
        assert len([event for event in one.seen if isinstance(event, PositionReported)]) == 10
        await one.service.flush()
        assert (one.service.counts["kept"], one.service.counts["thinned"]) == (2, 8)


async def test_an_older_report_that_comes_late_is_not_the_latest(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        one.service.take(NVR, flat(one.clock), "notify")
        late = flat(one.clock, (113.0, 34.0)).model_copy(
            update={"time": one.clock.utc() - timedelta(seconds=60)}
        )
        one.service.take(NVR, late, "message")
        assert one.service.latest[NVR, NVR].longitude == GATE[0]


@pytest.mark.gb("G153")
async def test_a_plain_message_is_taken_without_a_subscription(tmp_path: Path) -> None:
    async with (
        house(tmp_path) as one,
        core(clock=one.clock) as gateway,
        ScriptedDevice(gateway.address, edition=Edition.V2016) as device,
    ):
        one.service.connect(gateway.dispatch)
        await device.register()
        assert (await device.send(flat(one.clock))).status == 200
        await until(lambda: (NVR, NVR) in one.service.latest)
        assert one.service.latest[NVR, NVR].via == "message"


async def test_wishes_are_kept(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        wish = SubscriptionWish(NVR, "MobilePosition", CAMERA, True, 3)
        await one.store.put_wish(wish)
        await one.store.put_wish(SubscriptionWish(NVR, "Alarm", NVR, False))
        await one.store.remove_wish(NVR, "Alarm", NVR)
        assert await one.store.wishes() == [wish]


def test_gcj02_shifts_as_published_and_back() -> None:
    east, north = to_gcj02(116.404, 39.915)
    assert (east, north) == pytest.approx((116.41024449916938, 39.91640428150164), abs=1e-9)
    for place in (GATE, (116.404, 39.915), (87.6, 43.8), (110.3, 20.0), (126.6, 45.8)):
        shifted = to_gcj02(*place)
        metres = math.hypot(
            (shifted[0] - place[0]) * 111_000 * math.cos(math.radians(place[1])),
            (shifted[1] - place[1]) * 111_000,
        )
        assert 100 < metres < 1000
        assert from_gcj02(*shifted) == pytest.approx(place, abs=1e-9)
    assert to_gcj02(2.35, 48.85) == (2.35, 48.85)


def test_cgcs2000_is_left_to_proj() -> None:
    pytest.importorskip("pyproj")
    (east, north), _ = convert([GATE, (87.6, 43.8)], CoordinateSystem.CGCS2000)
    assert (east, north) == pytest.approx(GATE, abs=2e-5), "both systems agree to about a metre"
    assert convert([], CoordinateSystem.CGCS2000) == []


def test_without_the_library_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyproj", None)
    with pytest.raises(ConversionMissing, match=r"\[geo\]"):
        convert([GATE], CoordinateSystem.CGCS2000)
