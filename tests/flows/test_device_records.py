"""Lists of recordings in devices over the API of a real gateway: odd answers, long ranges, several users, silence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
from device_records_house import DAY, at, day, quiet_gateway, recorder
from playback_house import ApiClient, user

from gateway.app import Gateway
from gateway.model import Channel, Device
from simulator.device import SimulatedDevice
from simulator.records import Record, RecordFaults
from sip.manscdp import Edition

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOUR = 3600.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with quiet_gateway(tmp_path_factory.mktemp("house")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(gateway: Gateway) -> AsyncIterator[ApiClient]:
    async with user(gateway) as client:
        yield client


def path_of(channel_id: str, tail: str = "") -> str:
    return f"/api/channels/{channel_id}/device-recordings{tail}"


async def listed(
    api: ApiClient, channel_id: str, start: float, end: float, *, expect: int = 200, **query: str
) -> dict[str, Any]:
    status, answer = await api.call(
        "GET", path_of(channel_id), start=at(start).isoformat(), end=at(end).isoformat(), **query
    )
    assert status == expect, answer
    found: dict[str, Any] = answer
    return found


def spans(answer: dict[str, Any], what: str = "records") -> list[tuple[str, str]]:
    return [(entry["start"], entry["end"]) for entry in answer[what]]


def stamp(seconds: float) -> str:
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.gb("G133", "G137")
@pytest.mark.quirk(22)
@pytest.mark.parametrize(
    ("form", "edition"),
    [
        ("", Edition.V2022), ("zone", Edition.V2022), ("unpadded", Edition.V2016), ("milliseconds", Edition.V2016),
    ],
)  # fmt: skip
async def test_a_list_is_whole_whatever_order_and_times_it_comes_in(
    gateway: Gateway, api: ApiClient, edition: Edition, form: Any
) -> None:
    async with recorder(gateway, edition=edition) as device:
        channel_id = device.camera_ids[0]
        # One file a quarter of an hour over midnight in Beijing (16:00), and one that overlaps two of them.
        records = day(*((start, start + 900) for start in range(15 * 3600, 18 * 3600, 900)))
        records += [Record(at(16 * HOUR - 60), at(16 * HOUR + 60), "/alarm/1.ps", "alarm", 4711)]
        device.answers.records.records = {channel_id: records}
        device.answers.records.faults = RecordFaults(
            shuffle=True, repeat={0, 2}, sum_num_offset=2, time_form=form
        )
        answer = await listed(api, channel_id, 12 * HOUR, 18 * HOUR)
        starts = [entry["start"] for entry in answer["records"]]
        assert starts == sorted(starts)
        assert len(starts) == 13
        assert answer["repeated"] >= 8
        assert answer["covered_s"] == pytest.approx(3 * HOUR, abs=1)
        assert len(answer["covered"]) == 1
        whole = [(a[:19], b[:19]) for a, b in spans(answer)]
        # Neither the cut at midnight nor the overlap is lost.
        assert (stamp(16 * HOUR - 900)[:19], stamp(16 * HOUR)[:19]) in whole
        assert (stamp(16 * HOUR), "alarm", 4711) in [
            (stamp(16 * HOUR), entry["type"], entry["file_size"]) for entry in answer["records"]
        ]
        assert all(a[1] >= b[0] for a, b in pairwise(whole))


@pytest.mark.gb("G134")
async def test_nothing_recorded_is_an_empty_list(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {}
        answer = await listed(api, channel_id, 0, HOUR)
        assert (answer["records"], answer["complete"], answer["announced"]) == ([], True, 0)
        assert spans(answer, "gaps") == [(stamp(0), stamp(HOUR))]


@pytest.mark.gb("G136")
async def test_fields_of_2022_go_to_no_device_of_2016(gateway: Gateway, api: ApiClient) -> None:
    async with (
        recorder(gateway, edition=Edition.V2016) as old,
        recorder(gateway, edition=Edition.V2022) as new,
    ):
        for device in (old, new):
            device.answers.records.records = {device.camera_ids[0]: day((0, 600))}
        wish = {"stream_number": "1", "alarm_method": "5", "alarm_type": "2"}
        refused = await listed(api, old.camera_ids[0], 0, HOUR, expect=409, **wish)
        assert refused["cause"] == "not_supported"
        assert old.answers.records.queries == []
        await listed(api, old.camera_ids[0], 0, HOUR)
        (query,) = old.answers.records.queries
        assert (query.stream_number, query.alarm_method, query.alarm_type) == (None, "", "")
        await listed(api, new.camera_ids[0], 0, HOUR, **wish)
        (query,) = new.answers.records.queries
        assert (query.stream_number, query.alarm_method, query.alarm_type) == (1, "5", "2")
        assert b"StreamNumber" in raw_query(new)
        assert b"StreamNumber" not in raw_query(old)


def raw_query(device: SimulatedDevice) -> bytes:
    return next(entry.raw for entry in device.received if b"<CmdType>RecordInfo" in entry.raw)


@pytest.mark.gb("G140")
async def test_gaps_of_more_than_a_minute_are_told(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {
            channel_id: day((0, 6 * HOUR), (6 * HOUR + 30, 12 * HOUR), (12 * HOUR + 90, 23 * HOUR))
        }
        answer = await listed(api, channel_id, 0, 24 * HOUR)
        assert spans(answer, "gaps") == [
            (stamp(12 * HOUR), stamp(12 * HOUR + 90)),
            (stamp(23 * HOUR), stamp(24 * HOUR)),
        ]
        assert answer["covered_s"] == 23 * HOUR - 120
        # A day is asked for in four pieces.
        assert len(device.answers.records.queries) == 4


@pytest.mark.quirk(22)
async def test_a_piece_that_stalls_is_asked_for_again_in_halves(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway, page_size=1) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, HOUR), (2 * HOUR, 3 * HOUR))}
        device.answers.records.faults = RecordFaults(lose={1})
        answer = await listed(api, channel_id, 0, 4 * HOUR)
        assert spans(answer) == [(stamp(0), stamp(HOUR)), (stamp(2 * HOUR), stamp(3 * HOUR))]
        assert answer["complete"]
        assert len(device.answers.records.queries) > 1


@pytest.mark.quirk(22)
async def test_partial_results_are_streamed_and_one_query_serves_all_users(
    gateway: Gateway, api: ApiClient
) -> None:
    async with recorder(gateway, page_size=2) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day(*((n * HOUR, (n + 1) * HOUR) for n in range(12)))}
        device.answers.records.faults = RecordFaults(part_delay_s=0.3)
        query = {"start": at(0).isoformat(), "end": at(12 * HOUR).isoformat()}

        async def lines() -> list[dict[str, Any]]:
            url = api.base + path_of(channel_id, "/stream")
            async with api.session.get(url, params=query) as answer:
                assert answer.content_type == "application/x-ndjson"
                return [json.loads(line) async for line in answer.content]

        first, second, third = await asyncio.gather(lines(), lines(), listed(api, channel_id, 0, 12 * HOUR))
        assert len(device.answers.records.queries) == 2  # two pieces of six hours, asked once
        for told in (first, second):
            assert [line["done"] for line in told].count(True) == 1
            assert told[-1]["summary"]["complete"]
            assert sum(bool(line["records"]) for line in told) >= 3
            assert sum(len(line["records"]) for line in told) == 12
        assert len(third["records"]) == 12


async def test_silence_and_refusal_are_told(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.faults = RecordFaults(lose=set(range(100)))
        answer = await listed(api, channel_id, 5 * HOUR, 6 * HOUR, expect=504)
        assert answer["cause"] == "no_answer"
        device.faults.statuses["RecordInfo"] = 405
        answer = await listed(api, channel_id, 6 * HOUR, 7 * HOUR, expect=502)
        assert (answer["cause"], "405" in answer["detail"]) == ("refused", True)
        channel_id = "41018300001310000777"
        gateway.registry.put_device(Device("41018300001180000777", name="off"))
        gateway.registry.put_channel(Channel("41018300001180000777", channel_id, name="off", reported="ON"))
    answer = await listed(api, channel_id, 0, HOUR, expect=409)
    assert answer["cause"] == "device_offline"


async def test_a_senseless_range_is_refused_by_field(api: ApiClient, gateway: Gateway) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        answer = await listed(api, channel_id, HOUR, 0, expect=422)
        assert "end" in answer["detail"]
        far = timedelta(days=400).total_seconds()
        assert "366" in (await listed(api, channel_id, 0, far, expect=422))["detail"]
        assert device.answers.records.queries == []
    assert DAY.tzinfo is not None
