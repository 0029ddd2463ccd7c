"""Uppers search, play and download our recordings: real gateway, real media node, files as the recorder writes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
import pytest_asyncio
from playback_house import DEVICE, SERVER, recorded_gateway
from recorded import EPOCH, Recorded, joined, record

from gateway.app import Gateway
from gateway.model import Channel, Platform
from gateway.storage.recordings import RecordingStore
from simulator.picture import read_mark
from simulator.upper_platform import Pull, UpperPlatform
from sip import mansrtsp
from sip.errors import Rejected
from sip.manscdp import MediaStatusNotify, RecordInfoResponse
from sip.timers import Timers

UPPER, UPPER2 = "41010000002000000001", "41010000002000000002"
PASSWORD = "Xm-Demo-0001"
CHANNEL, HEVC, BARE = "41018300001310000051", "41018300001310000052", "41018300001310000053"
BULK = "41018300001310000054"
RIGHTS = frozenset({"play", "playback", "download"})
FAST = Timers(t1=0.1, t2=0.4, t4=0.4)
BEGIN = datetime.fromtimestamp(EPOCH, UTC)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    """20 s of H.264 with a gap of 60 s behind the first 6 s, and 6 s of H.265."""
    folder = tmp_path_factory.mktemp("disk")
    names: dict[str, Any] = {"device_id": DEVICE}
    return {
        CHANNEL: joined(
            record(folder, 6.0, channel_id=CHANNEL, **names),
            record(folder, 2.0, at=66.0, channel_id=CHANNEL, **names),
        ),
        HEVC: record(folder, 6.0, codec="h265", channel_id=HEVC, **names),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    tmp_path_factory: pytest.TempPathFactory, recordings: dict[str, Recorded]
) -> AsyncIterator[Gateway]:
    async with recorded_gateway(
        tmp_path_factory.mktemp("gateway"),
        recordings[CHANNEL].folder,
        *recordings.values(),
        more_channels=(BARE,),
    ) as running:
        yield running


@asynccontextmanager
async def joined_upper(
    gateway: Gateway, platform_id: str = UPPER, **values: Any
) -> AsyncIterator[UpperPlatform]:
    transport = values.get("transport", "udp")
    platform = UpperPlatform(
        platform_id, lower_id=SERVER, password=PASSWORD, timers=FAST, transport=transport
    )
    await platform.start()
    record = Platform(
        platform_id, "municipal", "4101000000", "127.0.0.1", platform.port, password=PASSWORD, share_all=True,
        rights=RIGHTS,
    )  # fmt: skip
    await gateway.cascade.put_platform(replace(record, **values))
    await platform.wait_registered()
    await platform.wait(lambda: gateway.cascade._uppers[platform_id].link.online)
    try:
        yield platform
    finally:
        await gateway.cascade.remove_platform(platform_id)
        await platform.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def upper(gateway: Gateway) -> AsyncIterator[UpperPlatform]:
    async with joined_upper(gateway) as platform:
        yield platform


class Screen:
    """Numbers of the pictures that an upper decoded, in the order they came."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def show(self, frame: av.VideoFrame) -> None:
        mark = read_mark(frame.to_ndarray(format="gray").astype(np.uint8, copy=False))
        assert mark is not None
        self.numbers.append(mark.frame)

    @property
    def jumps(self) -> list[tuple[int, int]]:
        return [(a, b) for a, b in pairwise(self.numbers) if b != a + 1]


async def until(condition: Callable[[], Any], timeout_s: float = 40.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def play(
    upper: UpperPlatform, screen: Screen, start: float, end: float, channel_id: str = CHANNEL, **values: Any
) -> Pull:
    times = (BEGIN + timedelta(seconds=start), BEGIN + timedelta(seconds=end))
    return await upper.play_back(channel_id, *times, on_frame=screen.show, **values)


async def nothing_left(gateway: Gateway) -> None:
    await until(lambda: not gateway.sessions.list() and not gateway.playbacks.open_now())
    await until(lambda: not gateway.cascade.relay.relays(UPPER))
    await until(lambda: gateway.endpoint.counts["dialogs"] == 0)
    for node in gateway.nodes.handles():
        async with asyncio.timeout(10):
            while (await node.client.stats()).streams:
                await asyncio.sleep(0.05)


# -- search -----------------------------------------------------------------------------------------------------


@pytest.mark.gb("G139")
async def test_what_is_recorded_is_told_in_parts_and_beijing_time(upper: UpperPlatform) -> None:
    parts = await upper.query_records(CHANNEL, BEGIN, BEGIN + timedelta(seconds=120), type="time")
    items = [item for part in parts for item in part.items]
    assert len(parts) == 4, "one record per message over UDP, as set for this upper"
    assert {part.sum_num for part in parts} == {4}
    assert [(item.start_time - BEGIN).total_seconds() for item in items if item.start_time] == [0, 2, 4, 66]
    assert {item.device_id for item in items} == {CHANNEL}
    assert {item.type for item in items} == {"time"}
    assert {item.address for item in items} == {"Ring Road"}
    assert all(item.file_size and item.file_size > 10_000 for item in items)
    assert all("/d1" not in item.file_path and item.file_path for item in items)
    raw = next(i.request.body for body, i in upper.messages if isinstance(body, RecordInfoResponse))
    assert b"<StartTime>2026-11-22T10:00:00</StartTime>" in raw


@pytest.mark.gb("G138")
async def test_1500_records_come_in_pages_of_the_uppers_size(
    gateway: Gateway, recordings: dict[str, Recorded]
) -> None:
    first = recordings[HEVC].infos[0]
    many = [
        first.model_copy(
            update={
                "segment_id": f"bulk-{number}", "channel_id": BULK, "path": f"gone/{number}.mp4",
                "start": EPOCH + 300 * number, "end": EPOCH + 300 * number + 300,
            }
        )
        for number in range(1500)
    ]  # fmt: skip
    gateway.registry.put_channel(Channel(DEVICE, BULK, name="south gate", reported="ON"))
    await RecordingStore(gateway.database).put_segments(many)
    async with joined_upper(gateway, UPPER2, transport="tcp", page_size_tcp=200) as other:
        parts = await other.query_records(BULK, BEGIN, BEGIN + timedelta(days=30), timeout_s=60)
    assert [len(part.items) for part in parts] == [200] * 7 + [100]
    assert {part.sum_num for part in parts} == {1500}
    starts = [item.start_time for part in parts for item in part.items if item.start_time]
    assert starts == sorted(starts)
    assert len(set(starts)) == 1500


async def test_the_filters_of_a_search_are_obeyed(upper: UpperPlatform) -> None:
    async def found(start: float = 0, end: float = 120, **filters: Any) -> int:
        parts = await upper.query_records(
            CHANNEL, BEGIN + timedelta(seconds=start), BEGIN + timedelta(seconds=end), **filters
        )
        return sum(len(part.items) for part in parts)

    assert await found(start=2.5, end=5) == 2
    assert await found(start=10, end=60) == 0, "SumNum 0 without a list"
    assert await found(type="all") == 4
    assert await found(type="alarm") == 0
    assert await found(address="Ring") == 4
    assert await found(address="Harbour") == 0
    assert await found(secrecy=1) == 0


async def test_merged_searches_name_the_place(upper: UpperPlatform) -> None:
    parts = await upper.query_records(CHANNEL, BEGIN, BEGIN + timedelta(seconds=1), indistinct_query=1)
    assert [item.record_location for part in parts for item in part.items] == [SERVER]
    assert [item.record_location for part in await upper.query_records(CHANNEL, BEGIN, BEGIN + timedelta(seconds=1))
            for item in part.items] == [""]  # fmt: skip


async def test_a_channel_that_is_not_recorded_here_is_refused(upper: UpperPlatform) -> None:
    await upper.query_records(BARE, BEGIN, BEGIN + timedelta(seconds=120))
    assert b"<Result>ERROR</Result>" in upper.messages[-1][1].request.body


async def test_a_2016_upper_gets_no_fields_of_2022(gateway: Gateway) -> None:
    async with joined_upper(gateway, UPPER2, edition="2.0") as old:
        old.rules.version = "2.0"
        await old.query_records(CHANNEL, BEGIN, BEGIN + timedelta(seconds=1), indistinct_query=1)
        assert b"StreamNumber" not in old.messages[-1][1].request.body


# -- playback ---------------------------------------------------------------------------------------------------


@pytest.mark.gb("G222", "G223")
@pytest.mark.parametrize(
    ("transport", "channel_id"),
    [("udp", CHANNEL), ("udp", HEVC), ("tcp_passive", HEVC), ("tcp_active", CHANNEL)],
)
async def test_an_upper_sees_exactly_what_was_recorded(
    gateway: Gateway, upper: UpperPlatform, transport: str, channel_id: str
) -> None:
    screen = Screen()
    pull = await play(upper, screen, 0, 2, channel_id, transport=transport)
    assert pull.answer.name == "Playback"
    assert pull.answer.time == (int(EPOCH), int(EPOCH) + 2)
    assert pull.answer.ssrc == pull.ssrc
    assert pull.answer.format_text.startswith("v/5/" if channel_id == HEVC else "v/2/")
    await until(lambda: pull.ended_sending)
    status = next(body for body, _ in upper.messages if isinstance(body, MediaStatusNotify))
    assert status.device_id == channel_id
    await pull.close()
    assert screen.numbers == list(range(50))[: len(screen.numbers)]
    stats = pull.media.stats
    assert set(stats.ssrcs) == {pull.ssrc}
    assert stats.units >= 49, "the demuxer may hold the last picture"
    assert len(screen.numbers) >= 40, "and the decoder some more"
    assert (stats.lost, stats.damaged_units, stats.structure_faults, stats.timestamp_faults) == (0, 0, 0, 0)
    assert stats.audio_units >= 12
    await nothing_left(gateway)


@pytest.mark.gb("G242")
@pytest.mark.parametrize("transport", ["udp", "tcp_passive"])
async def test_pause_speed_seek_and_teardown_by_info(
    gateway: Gateway, upper: UpperPlatform, transport: str
) -> None:
    screen = Screen()
    pull = await play(upper, screen, 0, 6, transport=transport)
    await until(lambda: len(screen.numbers) > 5)
    paused = await pull.control(mansrtsp.pause(1))
    assert paused.cseq == 1
    await asyncio.sleep(0.5)
    held = len(screen.numbers)
    await asyncio.sleep(0.5)
    assert len(screen.numbers) == held < 100
    await pull.control(mansrtsp.resume(2))
    await until(lambda: len(screen.numbers) > held + 5)
    assert screen.jumps == [], "nothing was lost by the pause"
    sought = await pull.control(mansrtsp.seek(3, 4.3))
    assert sought.range is not None
    assert sought.range.start == pytest.approx(4.0, abs=0.01)
    await until(lambda: 110 in screen.numbers)
    assert [b for _, b in screen.jumps] == [100]
    fast = await pull.control(mansrtsp.speed(4, 4.0))
    assert fast.scale == 4.0
    await pull.control(mansrtsp.seek(5, 0.0))
    await until(lambda: pull.ended_sending)
    assert screen.numbers[-140:] == list(range(screen.numbers[-140], screen.numbers[-140] + 140))
    await pull.control(mansrtsp.teardown(6))
    await until(lambda: pull.session.ended.done())
    assert pull.session.ended.result() == "remote_bye", "BYE from us when the upper forgets its own"
    await pull.media.close()
    await nothing_left(gateway)


@pytest.mark.gb("G242")
@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
async def test_every_scale_is_served_without_losing_a_picture(upper: UpperPlatform, scale: float) -> None:
    screen = Screen()
    pull = await play(upper, screen, 0, 2)
    answer = await pull.control(mansrtsp.speed(1, scale))
    assert answer.scale == pytest.approx(scale, abs=0.05)
    sounds = pull.media.stats.audio_units
    await until(lambda: len(screen.numbers) > 15)
    assert screen.jumps == []
    assert pull.media.stats.audio_units <= sounds + 1
    await pull.close()


@pytest.mark.gb("G243")
async def test_reverse_sends_groups_back_to_front(upper: UpperPlatform) -> None:
    screen = Screen()
    pull = await play(upper, screen, 0, 6)
    await until(lambda: screen.numbers)
    answer = await pull.control(mansrtsp.reverse(1, -4.0, 5.0, 2.0))
    assert answer.scale == -4.0
    await until(lambda: pull.ended_sending and len(screen.numbers) >= screen.numbers.index(100) + 74)
    back = screen.numbers[screen.numbers.index(100) :]
    assert back[:74] == [*range(100, 125), *range(75, 100), *range(50, 74)]
    other = await pull.control(mansrtsp.reverse(2, -3.0))
    assert other.scale == -1.0, "what is not served is answered with -1 (B.2.8)"
    await pull.close()


@pytest.mark.gb("G244")
async def test_the_start_line_of_2016_is_taken(upper: UpperPlatform) -> None:
    pull = await play(upper, Screen(), 0, 6)
    body = b"PAUSE MANSRTSP/1.0\r\nCSeq: 7\r\nPauseTime: now\r\n\r\n"
    response = await pull.session.request("INFO", body=body, content_type="application/mansrtsp")
    assert response.status == 200
    assert response.body.startswith(b"RTSP/1.0 200 OK\r\nCSeq: 7\r\n")
    for wrong in (b"", b"DESCRIBE RTSP/1.0\r\n\r\n", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"):
        refused = await pull.session.request("INFO", body=wrong, content_type="Application/MANSRTSP")
        assert refused.status == 400
    await pull.close()


async def test_a_gap_is_played_over(upper: UpperPlatform) -> None:
    screen = Screen()
    pull = await play(upper, screen, 5, 68)
    await until(lambda: pull.ended_sending)
    await pull.close()
    assert screen.jumps == [(149, 0)]
    assert pull.media.stats.units >= 73


async def test_the_end_is_told_once_in_the_dialog_then_bye_comes(
    gateway: Gateway, upper: UpperPlatform
) -> None:
    screen = Screen()
    pull = await play(upper, screen, 5, 6)
    await until(lambda: pull.session.ended.done())
    assert pull.session.ended.result() == "remote_bye"
    assert upper.told_ends == [pull.session.call_id]
    assert gateway.cascade.relay.counts.ended["played_to_end"] >= 1
    await pull.media.close()
    await nothing_left(gateway)


async def test_a_seek_after_the_end_plays_on(upper: UpperPlatform) -> None:
    screen = Screen()
    pull = await play(upper, screen, 5, 6)
    await until(lambda: pull.ended_sending)
    await pull.control(mansrtsp.seek(1, 0.0))
    await until(lambda: len(upper.told_ends) == 2)
    assert pull.media.stats.units >= 48
    await pull.close()


@pytest.mark.gb("G248")
async def test_two_uppers_move_independently_in_one_clip(gateway: Gateway, upper: UpperPlatform) -> None:
    async with joined_upper(gateway, UPPER2) as other:
        one, two = Screen(), Screen()
        first, second = await play(upper, one, 0, 2), await play(other, two, 0, 2)
        assert len(gateway.playbacks.open_now()) == 2
        await first.control(mansrtsp.pause(1))
        held = len(one.numbers)
        await until(lambda: second.ended_sending)
        assert two.numbers == list(range(50))[: len(two.numbers)]
        assert len(two.numbers) >= 40
        assert len(one.numbers) <= held + 3 < 50
        await first.close()
        await second.close()


async def test_our_own_ssrc_of_history_begins_with_1(gateway: Gateway) -> None:
    async with joined_upper(gateway, UPPER2, ssrc_policy="own") as other:
        pull = await play(other, Screen(), 0, 2)
        assert pull.answer.ssrc is not None
        assert pull.answer.ssrc // 1_000_000_000 == 1
        await until(lambda: pull.media.stats.ssrcs)
        assert set(pull.media.stats.ssrcs) == {pull.answer.ssrc}
        await pull.close()


# -- download ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp_passive"])
async def test_a_download_comes_faster_with_the_times_of_the_recording(
    gateway: Gateway, upper: UpperPlatform, transport: str, recordings: dict[str, Recorded]
) -> None:
    screen = Screen()
    loop = asyncio.get_running_loop()
    began = loop.time()
    pull = await play(upper, screen, 0, 6, transport=transport, name="Download", download_speed=4)
    assert pull.answer.name == "Download"
    media = pull.answer.first("video")
    assert media is not None
    size = int(media.attribute("filesize") or 0)
    whole = sum(info.bytes for info in recordings[CHANNEL].infos[:3])
    assert size == pytest.approx(whole, rel=0.05)
    await until(lambda: pull.ended_sending)
    assert loop.time() - began > 6 / 4 * 0.8
    await pull.close()
    assert screen.numbers == list(range(150))[: len(screen.numbers)]
    stats = pull.media.stats
    assert stats.units >= 149
    assert len(screen.numbers) >= 140
    assert stats.audio_units >= 40
    assert (stats.lost, stats.damaged_units) == (0, 0)
    assert stats.rtp_frames >= 190, "pictures and sounds have times of their own"
    await nothing_left(gateway)


# -- refusals ---------------------------------------------------------------------------------------------------


async def test_nothing_recorded_is_404(gateway: Gateway, upper: UpperPlatform) -> None:
    for channel_id, start in ((CHANNEL, 20.0), (BARE, 0.0)):
        with pytest.raises(Rejected) as refused:
            await play(upper, Screen(), start, start + 10, channel_id)
        assert refused.value.status == 404
    await nothing_left(gateway)


async def test_a_senseless_time_is_488(upper: UpperPlatform) -> None:
    with pytest.raises(Rejected) as refused:
        await play(upper, Screen(), 5, 5)
    assert refused.value.status == 488


@pytest.mark.gb("G264")
@pytest.mark.parametrize(
    ("rights", "refused"), [({"play", "download"}, "Playback"), ({"playback"}, "Download")]
)
async def test_rights_are_for_each_of_them(gateway: Gateway, rights: set[str], refused: str) -> None:
    async with joined_upper(gateway, UPPER2, rights=frozenset(rights)) as other:
        with pytest.raises(Rejected) as error:
            await play(other, Screen(), 0, 2, name=refused)
        assert error.value.status == 403
        allowed = await play(
            other, Screen(), 0, 2, name={"Playback": "Download", "Download": "Playback"}[refused]
        )
        await allowed.close()


async def test_without_any_right_to_history_searches_are_refused(gateway: Gateway) -> None:
    async with joined_upper(gateway, UPPER2, rights=frozenset({"play"})) as other:
        await other.query_records(CHANNEL, BEGIN, BEGIN + timedelta(seconds=120))
        assert b"<Result>ERROR</Result>" in other.messages[-1][1].request.body


async def test_the_limit_of_an_upper_counts_playbacks_too(gateway: Gateway) -> None:
    async with joined_upper(gateway, UPPER2, max_streams=1) as other:
        first = await play(other, Screen(), 0, 6)
        with pytest.raises(Rejected) as refused:
            await play(other, Screen(), 0, 6)
        assert refused.value.status == 486
        await first.close()


async def test_what_uppers_do_is_in_the_audit_log(gateway: Gateway, upper: UpperPlatform) -> None:
    noted: list[tuple[str, ...]] = []
    before = gateway.upper_playback.audit
    gateway.upper_playback.audit = gateway.upper_records.audit = lambda *entry: noted.append(entry)
    try:
        await upper.query_records(CHANNEL, BEGIN, BEGIN + timedelta(seconds=1))
        await (await play(upper, Screen(), 0, 2)).close()
    finally:
        gateway.upper_playback.audit = gateway.upper_records.audit = before
    assert noted[0][:4] == (f"platform:{UPPER}", "upper.records", CHANNEL, "ok")
    assert noted[1][:4] == (f"platform:{UPPER}", "upper.playback", CHANNEL, "ok")
