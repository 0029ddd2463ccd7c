"""Recordings that are only in object storage: played, moved in, downloaded, sent to an upper; and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
import pytest_asyncio
from decoded import decode, source_hashes
from playback_house import DEVICE, SERVER, ApiClient, recorded_gateway, user
from recorded import EPOCH, Recorded, record
from s3_storage import S3Storage

from gateway.app import Gateway
from gateway.model import Platform
from simulator.picture import read_mark
from simulator.upper_platform import UpperPlatform
from sip.timers import Timers

CHANNEL = "41018300001310000071"
UPPER = "41010000002000000001"
PASSWORD = "Xm-Demo-0001"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def moment(seconds: float) -> str:
    return (datetime.fromtimestamp(EPOCH, UTC) + timedelta(seconds=seconds)).isoformat()


async def upload(gateway: Gateway) -> None:
    """Look through the whole index: these recordings are older than what is looked at every few seconds."""
    uploader = gateway.recording.uploader
    assert uploader is not None
    uploader._looked_at_all = 0.0
    assert await uploader.upload_some()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def storage() -> AsyncIterator[S3Storage]:
    async with S3Storage() as running:
        yield running


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Ten seconds in five files."""
    return record(tmp_path_factory.mktemp("disk"), 10.0, channel_id=CHANNEL, device_id=DEVICE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    tmp_path_factory: pytest.TempPathFactory, recordings: Recorded, storage: S3Storage
) -> AsyncIterator[Gateway]:
    s3 = {
        "endpoint": storage.url, "bucket": "video", "access_key": storage.ACCESS, "secret_key": storage.SECRET,
        "keep_local": False, "cache_reserve_bytes": 0, "fetch_timeout_s": 3.0,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("gateway")
    async with recorded_gateway(folder, recordings.folder, recordings, s3=s3, idle_grace_s=4) as running:
        await upload(running)
        assert len(storage.objects) == 5
        assert not list(recordings.folder.rglob("*.mp4")), "nothing is left here"
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(gateway: Gateway) -> AsyncIterator[ApiClient]:
    async with user(gateway) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_fetched(gateway: Gateway, storage: S3Storage) -> AsyncIterator[None]:
    """Every test begins with an empty cache and leaves nothing held."""
    cache = gateway.recording.cache
    assert cache is not None
    await cache.forget(list(cache._files))
    storage.fetched.clear()
    yield
    storage.slow = False
    async with asyncio.timeout(30):
        while gateway.playbacks.open_now() or cache._holds or cache._fetches:
            await asyncio.sleep(0.05)
    assert not list(cache.directory.glob("*.part"))


async def opened(api: ApiClient, start: float = 0, end: float = 10, **values: Any) -> dict[str, Any]:
    body = {"start": moment(start), "end": moment(end), **values}
    status, answer = await api.call("POST", f"/api/channels/{CHANNEL}/playback", body)
    assert status == 201, answer
    found: dict[str, Any] = answer
    return found


async def ended(api: ApiClient, playback: dict[str, Any]) -> None:
    async with asyncio.timeout(60):
        while True:
            status, answer = await api.call("GET", f"/api/playback/{playback['session_id']}")
            assert status == 200, answer
            if answer["ended"]:
                return
            await asyncio.sleep(0.05)


async def close(api: ApiClient, playback: dict[str, Any]) -> None:
    status, answer = await api.call("DELETE", f"/api/playback/{playback['session_id']}")
    assert status == 204, answer


async def watch(api: ApiClient, url: str) -> bytes:
    """All that comes until the playback is closed."""
    data = bytearray()
    try:
        async with api.session.get(url) as answer:
            assert answer.status == 200
            async for chunk in answer.content.iter_any():
                data += chunk
    except aiohttp.ClientPayloadError:
        pass
    return bytes(data)


async def test_every_picture_is_played_and_each_file_fetched_once(
    api: ApiClient, recordings: Recorded, storage: S3Storage
) -> None:
    first, second = await asyncio.gather(opened(api, speed=2), opened(api, speed=2))
    viewers = [asyncio.create_task(watch(api, one["urls"]["fmp4"])) for one in (first, second)]
    for one in (first, second):
        await ended(api, one)
        await close(api, one)
    for viewer in viewers:
        found = decode(await viewer)
        assert len(found.frames) >= 249, "the last picture's length is never known"
        assert found.frames == list(range(250))[: len(found.frames)]
        assert found.hashes == source_hashes(recordings.pictures)[: len(found.hashes)]
    assert len(storage.fetched) == 5, "two users share what is fetched"
    assert len(set(storage.fetched)) == 5


async def test_only_what_is_played_is_fetched(
    api: ApiClient, storage: S3Storage, recordings: Recorded
) -> None:
    playback = await opened(api)
    await asyncio.sleep(1.0)  # nobody watches: it stands at its first picture
    names = [f"video/{info.path}" for info in recordings.infos]
    assert storage.fetched[:2] == names[:2], "the first file, and the next one ahead"
    assert names[3] not in storage.fetched
    status, moved = await api.call(
        "PATCH", f"/api/playback/{playback['session_id']}", {"position_s": 9, "paused": True}
    )
    assert (status, moved["position_s"]) == (200, pytest.approx(9.0, abs=0.01))
    assert storage.fetched[-1] == names[4]
    assert names[3] not in storage.fetched
    await close(api, playback)


async def test_backward_too(api: ApiClient, storage: S3Storage, recordings: Recorded) -> None:
    playback = await opened(api, speed=-8)
    viewer = asyncio.create_task(watch(api, playback["urls"]["fmp4"]))
    await ended(api, playback)
    await close(api, playback)
    frames = decode(await viewer).frames
    assert frames == sorted(frames, reverse=True)
    assert frames[0] == 225
    assert storage.fetched == [f"video/{info.path}" for info in reversed(recordings.infos)]


@pytest.mark.parametrize("form", ["mp4", "ps"])
async def test_a_download_has_every_picture(api: ApiClient, recordings: Recorded, form: str) -> None:
    status, data = await api.call(
        "GET", f"/api/channels/{CHANNEL}/recordings/download", start=moment(0), end=moment(10), format=form
    )
    assert status == 200, data
    found = decode(data, "mpeg" if form == "ps" else None)
    assert found.frames == list(range(250))
    assert found.hashes == source_hashes(recordings.pictures)


async def test_an_upper_platform_gets_it_and_moves_in_it(gateway: Gateway, recordings: Recorded) -> None:
    platform = UpperPlatform(
        UPPER, lower_id=SERVER, password=PASSWORD, timers=Timers(t1=0.1, t2=0.4, t4=0.4), transport="udp"
    )
    await platform.start()
    numbers: list[int] = []

    def show(frame: av.VideoFrame) -> None:
        mark = read_mark(frame.to_ndarray(format="gray"))
        assert mark is not None
        numbers.append(mark.frame)

    try:
        await gateway.cascade.put_platform(
            Platform(
                UPPER, "municipal", "4101000000", "127.0.0.1", platform.port, password=PASSWORD, share_all=True,
                rights=frozenset({"playback"}),
            )
        )  # fmt: skip
        await platform.wait_registered()
        await platform.wait(lambda: gateway.cascade._uppers[UPPER].link.online)
        begin = datetime.fromtimestamp(EPOCH, UTC)
        pull = await platform.play_back(CHANNEL, begin, begin + timedelta(seconds=4), on_frame=show)
        async with asyncio.timeout(60):
            while len(numbers) < 99:
                await asyncio.sleep(0.05)
        assert numbers == list(range(len(numbers)))
        await pull.close()
    finally:
        await gateway.cascade.remove_platform(UPPER)
        await platform.stop()


async def test_a_storage_that_takes_long_is_told_and_asked_again(api: ApiClient, storage: S3Storage) -> None:
    storage.slow = True
    body = {"start": moment(0), "end": moment(10)}
    opening = asyncio.create_task(api.call("POST", f"/api/channels/{CHANNEL}/playback", body))
    path = f"/api/channels/{CHANNEL}/recordings/download"
    loading = asyncio.create_task(api.call("GET", path, start=moment(0), end=moment(10)))
    for status, answer in (await opening, await loading):
        assert (status, answer["cause"]) == (504, "storage_timeout"), answer
        assert "MB are here" in answer["detail"]
    storage.slow = False
    status, data = await api.call("GET", path, start=moment(0), end=moment(10))
    assert status == 200
    assert decode(data).frames == list(range(250))
    assert len(storage.fetched) == len(set(storage.fetched)), "what had begun went on"


async def test_a_storage_that_refuses_is_named(api: ApiClient, storage: S3Storage) -> None:
    storage.refuse = 1000
    try:
        body = {"start": moment(0), "end": moment(2)}
        span = {"start": moment(0), "end": moment(2)}
        for status, answer in await asyncio.gather(
            api.call("POST", f"/api/channels/{CHANNEL}/playback", body),
            api.call("GET", f"/api/channels/{CHANNEL}/recordings/download", **span),
        ):
            assert (status, answer["cause"]) == (503, "storage_unavailable"), answer
    finally:
        storage.refuse = 0


async def test_a_storage_that_goes_away_ends_the_playback_with_its_cause(
    api: ApiClient, gateway: Gateway, storage: S3Storage, caplog: pytest.LogCaptureFixture
) -> None:
    playback = await opened(api, speed=4)
    async with asyncio.timeout(30):
        while len(storage.fetched) < 2:
            await asyncio.sleep(0.02)
    storage.refuse = 1000
    try:
        data = await asyncio.wait_for(watch(api, playback["urls"]["fmp4"]), 60)
        assert decode(data).frames[:80] == list(range(80)), "what had been fetched was played"
        assert not gateway.playbacks.open_now()
        assert "storage_unavailable" in caplog.text
    finally:
        storage.refuse = 0


async def test_a_file_that_the_storage_lost_is_left_out(
    api: ApiClient, storage: S3Storage, recordings: Recorded
) -> None:
    name = f"video/{recordings.infos[2].path}"
    data = storage.objects.pop(name)
    try:
        playback = await opened(api, speed=4)
        viewer = asyncio.create_task(watch(api, playback["urls"]["fmp4"]))
        await ended(api, playback)
        await close(api, playback)
        frames = decode(await viewer).frames
        wanted = [*range(100), *range(150, 250)]
        assert frames == wanted[: len(frames)]
        assert len(frames) >= 199
    finally:
        storage.objects[name] = data


async def test_what_is_played_is_uploaded_but_stays_until_the_end(
    api: ApiClient, gateway: Gateway, storage: S3Storage, tmp_path: Path, recordings: Recorded
) -> None:
    made = record(recordings.folder, 4.0, at=600, channel_id=CHANNEL, device_id=DEVICE)
    await gateway.recording.store.put_segments(made.infos)
    playback = await opened(api, 600, 604)
    await upload(gateway)
    assert {f"video/{info.path}" for info in made.infos} <= set(storage.objects)
    assert all((recordings.folder / info.path).exists() for info in made.infos)
    await close(api, playback)
    await upload(gateway)
    assert not any((recordings.folder / info.path).exists() for info in made.infos)
    again = await opened(api, 600, 604)
    await close(api, again)
