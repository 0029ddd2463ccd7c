"""Recordings for browsers: opened, moved and downloaded over the API of a real gateway, read by PyAV and ffprobe."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from decoded import decode, source_hashes
from playback_house import DEVICE, SERVER, ApiClient, recorded_gateway, user
from playback_house import PASSWORD as DEVICE_PASSWORD
from recorded import EPOCH, Recorded, joined, record

from gateway.app import Gateway
from simulator.camera import Camera, DeviceOptions, Pictures

CHANNEL, BARE = "41018300001310000061", "41018300001310000062"
PASSWORD = "watcher of clips 7"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def moment(seconds: float) -> str:
    return (datetime.fromtimestamp(EPOCH, UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("disk")
    values: dict[str, Any] = {"channel_id": CHANNEL, "device_id": DEVICE}
    return joined(record(folder, 6.0, **values), record(folder, 2.0, at=66.0, **values))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, recordings: Recorded) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    async with recorded_gateway(
        folder, recordings.folder, recordings, more_channels=(BARE,), most_per_user=3, most_downloads=2,
        longest_download_s=3600, idle_grace_s=4,
    ) as running:  # fmt: skip
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(gateway: Gateway) -> AsyncIterator[ApiClient]:
    async with user(gateway) as client:
        yield client


async def opened(api: ApiClient, start: float = 0, end: float = 6, **values: Any) -> dict[str, Any]:
    body = {"start": moment(start), "end": moment(end), **values}
    status, answer = await api.call("POST", f"/api/channels/{CHANNEL}/playback", body)
    assert status == 201, answer
    found: dict[str, Any] = answer
    return found


async def change(api: ApiClient, playback: dict[str, Any], **values: Any) -> dict[str, Any]:
    status, answer = await api.call("PATCH", f"/api/playback/{playback['session_id']}", values)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


async def state(api: ApiClient, playback: dict[str, Any]) -> dict[str, Any]:
    status, answer = await api.call("GET", f"/api/playback/{playback['session_id']}")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


async def ended(api: ApiClient, playback: dict[str, Any]) -> None:
    async with asyncio.timeout(40):
        while not (await state(api, playback))["ended"]:
            await asyncio.sleep(0.05)


async def close(api: ApiClient, playback: dict[str, Any]) -> None:
    status, answer = await api.call("DELETE", f"/api/playback/{playback['session_id']}")
    assert status == 204, answer


class Viewer:
    """Reads an endless file until the playback is closed."""

    def __init__(self, api: ApiClient, url: str) -> None:
        self.data = bytearray()
        self._task = asyncio.create_task(self._read(api, url))

    async def _read(self, api: ApiClient, url: str) -> None:
        try:
            async with api.session.get(url) as answer:
                assert answer.status == 200
                async for chunk in answer.content.iter_any():
                    self.data += chunk
        except aiohttp.ClientPayloadError:
            pass  # the playback was closed in the middle of the endless file

    async def whole(self) -> bytes:
        await asyncio.wait_for(self._task, 20)
        return bytes(self.data)


async def test_a_browser_gets_every_picture_from_the_first_on(
    gateway: Gateway, api: ApiClient, recordings: Recorded
) -> None:
    playback = await opened(api, 0, 2)
    assert (playback["video_codec"], playback["audio_codec"]) == ("h264", "aac")
    assert set(playback["urls"]) >= {"fmp4", "ws", "flv", "ts", "hls"}
    await asyncio.sleep(1.0)  # it waits for us
    viewer = Viewer(api, playback["urls"]["fmp4"])
    await ended(api, playback)
    listed = [s for s in (await api.call("GET", "/api/sessions"))[1]["items"] if s["kind"] == "playback"]
    assert [entry["channel_id"] for entry in listed] == [CHANNEL]
    await close(api, playback)
    found = decode(await viewer.whole())
    assert found.frames == list(range(50))[: len(found.frames)]
    assert len(found.frames) >= 49, "the last picture's length is never known"
    assert found.hashes == source_hashes(recordings.pictures[:50])[: len(found.hashes)]
    assert found.sound_s > 1.5
    assert max(abs(value) for value in found.sync_s) < 0.1
    status, _ = await api.call("GET", f"/api/playback/{playback['session_id']}")
    assert status == 404
    assert not gateway.playbacks.open_now()


async def test_pause_move_and_speed(api: ApiClient) -> None:
    playback = await opened(api, 0, 70)
    viewer = Viewer(api, playback["urls"]["fmp4"])
    paused = await change(api, playback, paused=True)
    assert paused["paused"]
    moved = await change(api, playback, position_s=4.4)
    assert moved["position_s"] == pytest.approx(4.0, abs=0.01)
    moved = await change(api, playback, at=moment(30))
    assert moved["position_s"] == pytest.approx(66.0, abs=0.01), "the next that was recorded"
    assert moved["at"].startswith("2026-11-22T02:01:06")
    fast = await change(api, playback, speed=4, paused=False, position_s=0)
    assert (fast["speed"], fast["paused"]) == (4, False)
    await ended(api, playback)
    assert (await state(api, playback))["position_s"] == pytest.approx(67.96, abs=0.02)
    await close(api, playback)
    frames = decode(await viewer.whole()).frames
    wanted = [*range(150), *range(50)][: 200 if frames[-1] == 49 else 199]
    assert frames[-len(wanted) :] == wanted, "after the last move the whole clip, over its gap"


async def test_backward_comes_to_its_start(api: ApiClient) -> None:
    playback = await opened(api, 0, 6, speed=-8)
    viewer = Viewer(api, playback["urls"]["fmp4"])
    await ended(api, playback)
    assert (await state(api, playback))["position_s"] == 0
    await close(api, playback)
    frames = decode(await viewer.whole()).frames
    assert frames == sorted(frames, reverse=True)
    assert frames[0] == 125


async def test_two_users_do_not_see_or_disturb_each_other(gateway: Gateway, api: ApiClient) -> None:
    status, answer = await api.call(
        "POST", "/api/users", {"username": "watcher", "password": PASSWORD, "role": "viewer"}
    )
    assert status in (200, 201), answer
    async with user(gateway, "watcher", PASSWORD) as other:
        mine, theirs = await opened(api), await opened(other)
        status, _ = await api.call("GET", f"/api/playback/{theirs['session_id']}")
        assert status == 404, "somebody else's playback does not exist"
        status, _ = await other.call("PATCH", f"/api/playback/{mine['session_id']}", {"paused": True})
        assert status == 404
        await change(other, theirs, position_s=5.0, paused=True)
        assert (await state(api, mine))["position_s"] < 3
        assert (await state(other, theirs))["position_s"] == pytest.approx(5.0, abs=0.01)
        await close(api, mine)
        await close(other, theirs)


async def test_limits_and_wrong_wishes(api: ApiClient) -> None:
    path = f"/api/channels/{CHANNEL}/playback"
    for body, status in (
        ({"start": moment(5), "end": moment(5)}, 422),
        ({"start": moment(0), "end": moment(5), "speed": 3}, 422),
        ({"start": "2026-11-22T02:00:00", "end": moment(5)}, 422),
        ({"start": moment(20), "end": moment(30)}, 404),
    ):
        assert (await api.call("POST", path, body))[0] == status, body
    wish = {"start": moment(0), "end": moment(5)}
    assert (await api.call("POST", f"/api/channels/{BARE}/playback", wish))[0] == 404
    running = [await opened(api) for _ in range(3)]
    status, answer = await api.call("POST", path, wish)
    assert (status, answer["cause"]) == (409, "busy")
    status, _ = await api.call("PATCH", f"/api/playback/{running[0]['session_id']}", {"speed": 0})
    assert status == 422
    for playback in running:
        await close(api, playback)


async def test_a_playback_that_nobody_watches_ends_by_itself(gateway: Gateway, api: ApiClient) -> None:
    await opened(api)
    async with asyncio.timeout(40):
        while gateway.playbacks.open_now():
            await asyncio.sleep(0.1)


# -- downloads --------------------------------------------------------------------------------------------------


async def test_a_download_is_one_file_with_a_name(
    api: ApiClient, recordings: Recorded, tmp_path: Path
) -> None:
    path = f"/api/channels/{CHANNEL}/recordings/download"
    async with api.session.get(api.base + path, params={"start": moment(0), "end": moment(70)}) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "video/mp4"
        name = f"{CHANNEL}_20261122T100000-20261122T100110.mp4"
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        data = await answer.read()
        assert int(answer.headers["Content-Length"]) == len(data)
    found = decode(data)
    assert found.frames == [*range(150), *range(50)]
    assert found.hashes[:150] == source_hashes(recordings.pictures[:150])


@pytest.mark.needs("ffprobe")
async def test_ffprobe_agrees_with_the_range(api: ApiClient, tmp_path: Path) -> None:
    status, data = await api.call(
        "GET", f"/api/channels/{CHANNEL}/recordings/download", start=moment(1.5), end=moment(4.5)
    )
    assert status == 200
    target = tmp_path / "clip.mp4"
    target.write_bytes(data)
    command = ["ffprobe", "-v", "warning", "-of", "json", "-show_format", "-count_frames", "-show_streams"]
    result = subprocess.run([*command, str(target)], capture_output=True, text=True, timeout=60, check=True)
    told = json.loads(result.stdout)
    assert 3.0 <= float(told["format"]["duration"]) <= 4.1, "the range and at most one group of pictures"
    video = next(stream for stream in told["streams"] if stream["codec_type"] == "video")
    assert int(video["nb_read_frames"]) == 88


async def test_the_raw_program_stream(api: ApiClient, recordings: Recorded) -> None:
    status, data = await api.call(
        "GET", f"/api/channels/{CHANNEL}/recordings/download", start=moment(0), end=moment(6), format="ps"
    )
    assert status == 200
    assert data.startswith(b"\x00\x00\x01\xba")
    found = decode(data, "mpeg")
    assert found.frames == list(range(150))
    assert found.sound_s > 5


async def test_refused_downloads(gateway: Gateway, api: ApiClient) -> None:
    path = f"/api/channels/{CHANNEL}/recordings/download"
    assert (await api.call("GET", path, start=moment(20), end=moment(30)))[0] == 404
    assert (await api.call("GET", path, start=moment(0), end=moment(9000)))[0] == 422
    assert (await api.call("GET", path, start=moment(0), end=moment(6), format="avi"))[0] == 422
    orders = [await api.call("GET", path, follow=False, start=moment(0), end=moment(6)) for _ in range(2)]
    assert [status for status, _ in orders] == [307, 307]
    status, answer = await api.call("GET", path, start=moment(0), end=moment(6))
    assert (status, answer["cause"]) == (503, "busy")
    for _, headers in orders:
        location = headers["Location"]
        async with api.session.get(location.partition("?")[0]) as bare:
            assert bare.status == 403, "no ticket, no file"
        async with api.session.get(location) as answer_:
            assert answer_.status == 200
            await answer_.read()
        async with api.session.get(location) as again:
            assert again.status == 404, "an order is good for one file"
    assert (await api.call("GET", path, start=moment(0), end=moment(6)))[0] == 200


async def test_what_users_do_is_in_the_audit_log(gateway: Gateway, api: ApiClient) -> None:
    await close(api, await opened(api))
    await api.call("GET", f"/api/channels/{CHANNEL}/recordings/download", start=moment(0), end=moment(2))
    async with asyncio.timeout(20):
        while True:
            _, answer = await api.call("GET", "/api/audit")
            actions = {entry["action"] for entry in answer["items"]}
            if {"playback.open", "playback.download"} <= actions:
                break
            await asyncio.sleep(0.1)


async def test_nobody_plays_without_logging_in(gateway: Gateway, api: ApiClient) -> None:
    async with aiohttp.ClientSession() as stranger:
        url = f"{api.base}/api/channels/{CHANNEL}"
        body = {"start": moment(0), "end": moment(5)}
        async with stranger.post(f"{url}/playback", json=body) as answer:
            assert answer.status == 401
        async with stranger.get(f"{url}/recordings/download", params=body) as answer:
            assert answer.status == 401


async def test_what_a_camera_sends_is_recorded_and_played(gateway: Gateway, api: ApiClient) -> None:
    """The whole way: a simulated camera, the recorder, its index, a download and a playback of the same seconds."""
    device = Camera(
        "41018300001320000066",
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        password=DEVICE_PASSWORD,
        options=DeviceOptions(pictures=Pictures(width=352, height=288, bitrate=300_000, gop=25)),
    )
    await device.start()
    try:
        await device.wait_registered()
        await device.wait(lambda: gateway.registry.channel(device.device_id, device.channel_id), 30)
        path = f"/api/channels/{device.channel_id}"
        began = datetime.now(UTC)
        status, answer = await api.call("POST", f"{path}/recordings/start", {"seconds": 600})
        assert status < 300, answer
        async with asyncio.timeout(60):
            while True:
                found = await gateway.playbacks.library.files(
                    device.device_id, device.channel_id, began.timestamp() - 5, began.timestamp() + 600
                )
                if sum(info.complete for info in found) >= 3:
                    break
                await asyncio.sleep(0.2)
        status, answer = await api.call("POST", f"{path}/recordings/stop", {})
        assert status < 300, answer
    finally:
        await device.stop()
    whole = [info for info in found if info.complete]
    times = {
        "start": datetime.fromtimestamp(whole[0].start, UTC).isoformat(),
        "end": datetime.fromtimestamp(whole[-1].end, UTC).isoformat(),
    }
    status, data = await api.call("GET", f"{path}/recordings/download", **times)
    assert status == 200, data
    downloaded = decode(data)
    assert len(downloaded.frames) == pytest.approx(sum(info.frames for info in whole), abs=1)
    steps = {(later - number) % 50 for number, later in pairwise(downloaded.frames)}
    assert steps == {1}, "the camera repeats 50 pictures; none is missing, within files and between them"
    status, playback = await api.call("POST", f"{path}/playback", {**times, "speed": 4})
    assert status == 201, playback
    viewer = Viewer(api, playback["urls"]["fmp4"])
    await ended(api, playback)
    await close(api, playback)
    shown = decode(await viewer.whole())
    assert shown.hashes == downloaded.hashes[: len(shown.hashes)]
    assert len(shown.hashes) >= len(downloaded.hashes) - 1
