"""Downloads of recordings from devices over the API of a real gateway: files that cover exactly what was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import av
import pytest
import pytest_asyncio
from device_records_house import at, day, quiet_gateway, recorder, seen, until
from playback_house import ApiClient, user

from gateway.app import Gateway
from simulator.records import RecordFaults
from sip.manscdp import Edition

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with quiet_gateway(tmp_path_factory.mktemp("house")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(gateway: Gateway) -> AsyncIterator[ApiClient]:
    async with user(gateway) as client:
        yield client


async def order(api: ApiClient, channel_id: str, start: float, end: float, **values: Any) -> dict[str, Any]:
    body = {"start": at(start).isoformat(), "end": at(end).isoformat(), **values}
    status, answer = await api.call("POST", f"/api/channels/{channel_id}/device-downloads", body)
    assert status == 202, answer
    found: dict[str, Any] = answer
    return found


async def job_of(api: ApiClient, job: dict[str, Any]) -> dict[str, Any]:
    status, answer = await api.call("GET", f"/api/device-downloads/{job['job_id']}")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


async def ended(api: ApiClient, job: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (found := await job_of(api, job))["state"] in ("waiting", "running"):
            await asyncio.sleep(0.1)
    return found


async def fetch(api: ApiClient, job: dict[str, Any]) -> bytes:
    status, data = await api.call("GET", f"/api/device-downloads/{job['job_id']}/file")
    assert status == 200, data
    assert isinstance(data, bytes)
    return data


@pytest.mark.gb("G239", "G240", "G245")
@pytest.mark.parametrize(
    ("edition", "media", "filesize"),
    [(Edition.V2016, "udp", -1), (Edition.V2022, "tcp", "true"), (Edition.V2022, "udp", None)],
    ids=["2016-udp-minus_one", "2022-tcp-told", "2022-udp-missing"],
)
async def test_an_mp4_covers_exactly_the_range(
    gateway: Gateway, api: ApiClient, edition: Edition, media: str, filesize: Any
) -> None:
    async with recorder(gateway, edition=edition, media=media) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        device.answers.records.faults.filesize = filesize
        job = await order(api, channel_id, 1000, 1012, speed=4)
        await until(lambda: device.calls.running)
        offer = device.calls.history[-1].offer
        assert (offer.session.name, offer.media.attribute("downloadspeed")) == ("Download", "4")
        progress = []
        async with asyncio.timeout(60):
            while (found := await job_of(api, job))["state"] in ("waiting", "running"):
                progress.append(found["progress"])
                await asyncio.sleep(0.15)
        assert (found["state"], found["cause"]) == ("done", "media_status")
        assert found["filesize"] is None if filesize != "true" else found["filesize"] > 0
        assert progress == sorted(progress)
        assert any(0 < value < 1 for value in progress)
        data = await fetch(api, job)
        assert b"mp4a" in data  # with its sound
        pictures = seen(data)
        clocks = [picture.clock_s for picture in pictures]
        assert clocks[0] == pytest.approx(1000, abs=0.01)
        assert clocks[-1] == pytest.approx(1012 - 0.04, abs=0.05)
        assert len(pictures) == 300
        # The times of the file are those of the recording, however fast it came.
        assert all(b.shown_s - a.shown_s == pytest.approx(0.04, abs=0.005) for a, b in pairwise(pictures))
        assert found["duration_s"] == pytest.approx(12.0, abs=0.1)
        assert found["pictures"] == 300


async def test_the_raw_program_stream_is_what_the_device_sent(
    gateway: Gateway, api: ApiClient, tmp_path: Any
) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        job = await ended(api, await order(api, channel_id, 1000, 1004, speed=8, format="ps"))
        assert job["state"] == "done", job
        data = await fetch(api, job)
        assert data.startswith(b"\x00\x00\x01\xba")
        path = tmp_path / "clip.ps"
        path.write_bytes(data)
        with av.open(str(path), format="mpeg") as container:
            assert {stream.codec_context.name for stream in container.streams} >= {"h264"}
            count = sum(packet.size > 0 for packet in container.demux(video=0))
        assert count == pytest.approx(100, abs=2)
        call = device.calls.history[-1]
        # Every byte of payload, nothing else.
        assert len(data) == call.counts.bytes - 12 * call.counts.packets


@pytest.mark.quirk(24)
@pytest.mark.parametrize("endless", [True, False], ids=["goes_on", "falls_silent"])
async def test_a_device_that_does_not_say_the_end(gateway: Gateway, api: ApiClient, endless: bool) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        device.answers.records.faults = RecordFaults(endless=endless, media_status="none")
        job = await ended(api, await order(api, channel_id, 1000, 1006, speed=4))
        assert (job["state"], job["cause"]) in [("done", "media_time"), ("done", "silence")]
        clocks = [picture.clock_s for picture in seen(await fetch(api, job))]
        assert (clocks[0], clocks[-1]) == (pytest.approx(1000, abs=0.01), pytest.approx(1005.96, abs=0.05))
        call = device.calls.history[-1]
        await until(lambda: call.ended)
        assert call.ended == "remote_bye"


@pytest.mark.quirk(24)
async def test_one_that_stops_in_the_middle_leaves_a_part(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 1010))}
        device.answers.records.faults = RecordFaults(media_status="none")
        job = await ended(api, await order(api, channel_id, 1000, 1100, speed=8))
        assert (job["state"], job["cause"]) == ("partial", "silence")
        assert job["duration_s"] == pytest.approx(10, abs=0.1)
        assert len(seen(await fetch(api, job))) == 250
        gone = await api.call("DELETE", f"/api/device-downloads/{job['job_id']}")
        assert gone[0] == 204
        assert list(gateway.device_downloads.directory.glob(f"{job['job_id']}*")) == []


async def test_jobs_wait_for_their_turn_are_cancelled_and_survive_their_user(
    gateway: Gateway, api: ApiClient
) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        async with user(gateway) as other:
            first = await order(other, channel_id, 0, 3600, speed=1)
            second = await order(other, channel_id, 100, 104, speed=8)
        await until(lambda: device.calls.running)
        assert (await job_of(api, second))["state"] == "waiting"
        too_early = await api.call("GET", f"/api/device-downloads/{first['job_id']}/file")
        assert (too_early[0], too_early[1]["cause"]) == (409, "not_ready")
        assert len(device.calls.running) == 1
        status, _ = await api.call("DELETE", f"/api/device-downloads/{first['job_id']}")
        assert status == 204
        assert (await ended(api, second))["state"] == "done"
        await until(lambda: not device.calls.running)
        status, found = await api.call("GET", "/api/device-downloads")
        assert (status, first["job_id"] in str(found), second["job_id"] in str(found)) == (200, False, True)


async def test_what_the_device_refuses_is_the_outcome(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {}
        job = await ended(api, await order(api, channel_id, 0, 10))
        assert (job["state"], "404" in job["detail"]) == ("failed", True)


async def test_a_full_disk_takes_no_downloads(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        settings = gateway.device_downloads._settings
        gateway.device_downloads._settings = settings.model_copy(update={"download_reserve_bytes": 10**18})
        try:
            body = {"start": at(0).isoformat(), "end": at(10).isoformat()}
            status, answer = await api.call("POST", f"/api/channels/{channel_id}/device-downloads", body)
            assert (status, answer["cause"]) == (507, "disk_full")
        finally:
            gateway.device_downloads._settings = settings
