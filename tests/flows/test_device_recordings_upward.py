"""Uppers search, play and download what is recorded in devices: simulated upper, real gateway, simulated recorder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import pytest_asyncio
from device_records_house import at, clock_of, day, started, until
from playback_house import DEVICE, PASSWORD, SERVER, recorded_gateway
from recorded import EPOCH, Recorded, record

from gateway.app import Gateway
from gateway.model import Platform
from simulator.nvr import Recorder
from simulator.picture import read_mark
from simulator.records import Record, RecordFaults
from simulator.upper_platform import UpperPlatform
from sip import mansrtsp
from sip.errors import ParseError
from sip.timers import Timers

UPPER = "41010000002000000001"
CHANNEL, OTHER = "41018300001310005001", "41018300001310005002"
RIGHTS = frozenset({"play", "playback", "download"})
FAST = Timers(t1=0.1, t2=0.4, t4=0.4)
BEGIN = datetime.fromtimestamp(EPOCH, UTC)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Six seconds of the first channel that we recorded ourselves."""
    return record(tmp_path_factory.mktemp("disk"), 6.0, channel_id=CHANNEL, device_id=DEVICE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, own: Recorded) -> AsyncIterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    short = {"first_answer_timeout_s": 2.0, "gap_timeout_s": 1.0, "drain_s": 0.5}
    async with recorded_gateway(folder, own.folder, own, device_recordings=short) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def device(gateway: Gateway) -> AsyncIterator[Recorder]:
    running = await started(gateway, 5, channels=2)
    assert (running.device_id, running.camera_ids) == (DEVICE, [CHANNEL, OTHER])
    yield running
    await running.stop()


@asynccontextmanager
async def joined(gateway: Gateway, **values: Any) -> AsyncIterator[UpperPlatform]:
    platform = UpperPlatform(UPPER, lower_id=SERVER, password=PASSWORD, timers=FAST)
    await platform.start()
    entry = Platform(
        UPPER, "municipal", "4101000000", "127.0.0.1", platform.port, password=PASSWORD, share_all=True,
        rights=RIGHTS,
    )  # fmt: skip
    await gateway.cascade.put_platform(replace(entry, **values))
    await platform.wait_registered()
    await platform.wait(lambda: gateway.cascade._uppers[UPPER].link.online)
    try:
        yield platform
    finally:
        await gateway.cascade.remove_platform(UPPER)
        await platform.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def upper(gateway: Gateway, device: Recorder) -> AsyncIterator[UpperPlatform]:
    device.answers.records.faults = RecordFaults()
    device.answers.records.records = {CHANNEL: day((0, 7200)), OTHER: day((0, 7200))}
    async with joined(gateway) as platform:
        yield platform


class Clocks:
    """The recording's clock in the pictures that an upper decoded."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def show(self, frame: av.VideoFrame) -> None:
        mark = read_mark(frame.to_ndarray(format="gray").astype(np.uint8, copy=False))
        assert mark is not None
        self.seen.append(clock_of(mark.time_ms))


@pytest.mark.gb("G135")
async def test_the_place_of_a_search_is_chosen_by_to_and_indistinct_query(
    upper: UpperPlatform, device: Recorder
) -> None:
    device.answers.records.records = {
        CHANNEL: [
            Record(BEGIN, BEGIN.replace(minute=30)),
            Record(BEGIN.replace(hour=3), BEGIN.replace(hour=4)),
        ]
    }
    until_moment = BEGIN.replace(hour=5)
    centre = [
        item
        for part in await upper.query_records(CHANNEL, BEGIN, until_moment, indistinct_query=0)
        for item in part.items
    ]
    assert len(centre) == 3  # our files of two seconds
    assert device.answers.records.queries == []
    at_device = [
        item
        for part in await upper.query_records(CHANNEL, BEGIN, until_moment, indistinct_query=0, to=CHANNEL)
        for item in part.items
    ]
    assert [(item.start_time, item.record_location) for item in at_device] == [
        (BEGIN, ""), (BEGIN.replace(hour=3), ""),
    ]  # fmt: skip
    parts = await upper.query_records(CHANNEL, BEGIN, until_moment, indistinct_query=1)
    both = [item for part in parts for item in part.items]
    assert {part.sum_num for part in parts} == {5}
    assert [item.record_location for item in both].count(SERVER) == 3
    assert [item.record_location for item in both].count(CHANNEL) == 2
    starts = [item.start_time for item in both if item.start_time]
    assert starts == sorted(starts)
    assert DEVICE not in str(both)


async def test_a_channel_that_we_never_recorded_is_looked_for_in_the_device(upper: UpperPlatform) -> None:
    (part,) = await upper.query_records(OTHER, at(0), at(7200))
    assert [(item.start_time, item.end_time) for item in part.items] == [(at(0), at(7200))]


@pytest.mark.gb("G246", "G247")
@pytest.mark.parametrize("transport", ["udp", "tcp_passive"])
async def test_orders_go_down_answers_and_the_end_come_up(
    gateway: Gateway, upper: UpperPlatform, device: Recorder, transport: str
) -> None:
    clocks = Clocks()
    pull = await upper.play_back(OTHER, at(600), at(660), transport, on_frame=clocks.show)
    await until(lambda: len(clocks.seen) > 10)
    assert clocks.seen[0] == pytest.approx(600, abs=2)
    call = device.calls.history[-1]
    assert call.player is not None
    device.answers.records.faults.other_cseq = True
    fast = await pull.control(mansrtsp.speed(4, 4.0))
    assert (fast.scale, fast.cseq) == (4.0, 7)  # the device's own answer, its CSeq included
    device.answers.records.faults.other_cseq = False
    paused = await pull.control(mansrtsp.pause(5))
    assert (paused.status, call.player.paused) == (200, True)
    sought = await pull.control(mansrtsp.seek(6, 50.0))
    assert sought.range is not None
    assert sought.range.start == pytest.approx(50, abs=0.5)
    device.answers.records.faults.no_info = 405
    with pytest.raises(ParseError) as refused:
        await pull.control(mansrtsp.speed(7, 2.0))
    assert refused.value.status == 405
    device.answers.records.faults.no_info = 0
    assert [order.cseq for order in call.info_log] == [4, 5, 6, 7]
    assert upper.told_ends == []
    await until(lambda: pull.session.ended.done())
    assert pull.session.ended.result() == "remote_bye"
    assert upper.told_ends == [pull.session.call_id]
    await until(lambda: clocks.seen[-1] > 658.5)
    await until(lambda: call.ended)
    await pull.media.close()
    await until(lambda: not gateway.sessions.list())


@pytest.mark.gb("G248")
async def test_two_playbacks_of_one_channel_have_sessions_of_their_own(
    gateway: Gateway, upper: UpperPlatform, device: Recorder
) -> None:
    pulls = [await upper.play_back(OTHER, at(600), at(1200)) for _ in range(2)]
    one, two = device.calls.history[-2:]
    assert one.ssrc != two.ssrc
    assert all(f"{call.ssrc:010d}".startswith("1") for call in (one, two))
    await pulls[0].control(mansrtsp.seek(1, 300))
    assert one.player is not None
    assert two.player is not None
    assert one.player.position_s > 290 > two.player.position_s
    for pull in pulls:
        await pull.close()
    await until(lambda: one.ended and two.ended)
    await until(lambda: not gateway.sessions.list())


async def test_what_we_recorded_ourselves_is_played_by_us(
    gateway: Gateway, upper: UpperPlatform, device: Recorder
) -> None:
    calls = len(device.calls.history)
    pull = await upper.play_back(CHANNEL, BEGIN, BEGIN.replace(second=5))
    assert len(device.calls.history) == calls
    await pull.close()
    pull = await upper.play_back(CHANNEL, at(0), at(10))
    assert len(device.calls.history) == calls + 1
    await pull.close()
    await until(lambda: not gateway.sessions.list())


@pytest.mark.gb("G239")
@pytest.mark.parametrize("filesize", ["true", -1, None])
async def test_a_download_is_passed_on_with_the_devices_file_size(
    gateway: Gateway, upper: UpperPlatform, device: Recorder, filesize: Any
) -> None:
    device.answers.records.faults.filesize = filesize
    clocks = Clocks()
    pull = await upper.play_back(
        OTHER, at(600), at(608), name="Download", download_speed=4, on_frame=clocks.show
    )
    call = device.calls.history[-1]
    assert call.offer.session.name == "Download"
    assert call.offer.media.attribute("downloadspeed") == "4"
    media = pull.answer.first("video")
    assert media is not None
    said = media.attribute("filesize")
    assert (said is not None and int(said) > 0) if filesize == "true" else said is None
    await until(lambda: pull.ended_sending)
    await until(lambda: pull.session.ended.done())
    await until(lambda: clocks.seen[-1] > 607.7)
    assert max(b - a for a, b in zip(clocks.seen, clocks.seen[1:], strict=False)) < 0.1
    await pull.media.close()
    await asyncio.sleep(0)
    await until(lambda: not gateway.sessions.list())
