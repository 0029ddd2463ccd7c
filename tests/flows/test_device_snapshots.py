"""Pictures that devices take and upload, and video they announce: the real gateway, simulated devices, real HTTP uploads."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import pytest
import pytest_asyncio
from chain import Chain, camera, chain
from live_events import listening
from outside import eventually

from simulator.camera import Camera, DeviceOptions
from simulator.picture import TestPicture
from simulator.snapshots import SnapshotFaults
from sip.manscdp import DeviceConfig, Edition, SnapShotConfig, UploadSnapShotFinishedNotify, VideoUploadNotify

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
WAYS = [(V22, "udp"), (V22, "tcp"), (V16, "udp"), (V16, "tcp")]
OVERRIDES = {
    "device_config": {"answer_timeout_s": 5.0},
    "media": {"idle_grace_s": 1},
    "snapshots": {"finish_timeout_s": 3.0, "grace_s": 0.5, "most_bytes": 200_000},
}
Way = tuple[Edition, str]
STANDARD_NAME = re.compile(r"\d{20}02\d{17}\d{2}")


class Gallery:
    """A gateway with one camera for each edition and transport."""

    def __init__(self, running: Chain, cameras: dict[Way, Camera]) -> None:
        self.chain, self.cameras = running, cameras
        self.folder = running.gateway.folder / "data" / "snapshots"

    async def api(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, answer = await asyncio.to_thread(self.chain.gateway.call, method, path, body)
        assert found == status, answer
        return answer

    async def order(self, device: Camera, count: int = 1, interval_s: int = 1, status: int = 202) -> Any:
        path = f"/api/channels/{device.channel_id}/device-snapshots"
        return await self.api("POST", path, {"count": count, "interval_s": interval_s}, status)

    async def job(self, job_id: str) -> Any:
        return await self.api("GET", f"/api/device-snapshot-jobs/{job_id}")

    async def ended(self, job_id: str) -> Any:
        """The order when it is over."""

        def over() -> Any:
            _, job = self.chain.gateway.call("GET", f"/api/device-snapshot-jobs/{job_id}")
            return job if job["state"] != "running" else None

        return await eventually(over, 40, f"the end of order {job_id}")

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gallery(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gallery]:
    folder: Path = tmp_path_factory.mktemp("gallery")
    async with chain(folder, 0, overrides=OVERRIDES) as running:
        cameras = {
            way: camera(
                running.gateway, 80 + number, DeviceOptions(edition=way[0], transport=way[1], media="udp")
            )  # type: ignore[arg-type]
            for number, way in enumerate(WAYS)
        }
        try:
            for one in cameras.values():
                await one.start()
            for one in cameras.values():
                await one.wait_registered(30)
                await running.channel_online(one)
            yield Gallery(running, cameras)
        finally:
            await asyncio.gather(*(one.stop() for one in cameras.values()), return_exceptions=True)


@pytest.fixture
def device(gallery: Gallery, request: pytest.FixtureRequest) -> Iterator[Camera]:
    """The camera of a way, with its habits put back afterwards."""
    found = gallery.cameras[request.param]
    found.snapshots.uploads.clear()
    yield found
    found.snapshots.form, found.snapshots.faults = "multipart", SnapshotFaults()
    found.configuration.result = "OK"


def by_way(*ways: Way) -> Any:
    names = [f"{way[0].name}-{way[1]}" for way in ways]
    return pytest.mark.parametrize("device", ways, ids=names, indirect=True)


newer, older = by_way(*WAYS[:2]), by_way(*WAYS[2:])
one_newer = by_way(WAYS[0])


def decoded_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture, decoded whole."""
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        return frame.width, frame.height


def ordered(device: Camera) -> SnapShotConfig:
    """The last SnapShotConfig that reached the device."""
    body = device.received_bodies("DeviceConfig")[-1]
    assert isinstance(body, DeviceConfig)
    assert body.snapshot is not None
    return body.snapshot


def upload(url: str, data: bytes, method: str = "POST", **headers: str) -> tuple[int, str]:
    """Status and cause of a plain upload."""
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("Content-Type", headers.pop("content_type", "image/jpeg"))
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["cause"]


def upload_in_chunks(url: str, data: bytes) -> int:
    """Status of an upload whose length is not told."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    chunks = (data[start : start + 10_000] for start in range(0, len(data), 10_000))
    try:
        connection.request(
            "POST", parts.path, body=chunks, headers={"Transfer-Encoding": "chunked"}, encode_chunked=True
        )
        return connection.getresponse().status
    except ConnectionError:
        return 413  # it was closed while we still wrote
    finally:
        connection.close()


async def sent(url: str, data: bytes, method: str = "POST", **headers: str) -> tuple[int, str]:
    return await asyncio.to_thread(lambda: upload(url, data, method, **headers))


@pytest.mark.gb("G182", "G183")
@newer
@pytest.mark.parametrize("form", ["multipart", "raw"])
async def test_a_device_takes_uploads_and_reports_its_pictures(
    gallery: Gallery, device: Camera, form: Any
) -> None:
    device.snapshots.form = form
    with listening(gallery.chain.gateway, "device_snapshot_received", "device_snapshots_ended") as events:
        job = await gallery.order(device, 2)
        assert (job["state"], job["asked"], job["who"]) == ("running", 2, "admin")
        done = await gallery.ended(job["job_id"])
        await eventually(lambda: [name for name, _ in events if name == "device_snapshots_ended"], 30)
    assert (done["state"], done["detail"], done["received"]) == ("done", "", 2)
    order = ordered(device)
    assert (order.snap_num, order.interval) == (2, 1)
    assert re.fullmatch(r"[0-9A-Za-z-]{32,128}", order.session_id)
    assert order.upload_url.startswith(f"http://127.0.0.1:{gallery.chain.gateway.http_port}/")
    assert order.session_id not in order.upload_url
    assert [one.status for one in device.snapshots.uploads] == [200, 200]
    names = [picture["name"] for picture in done["pictures"]]
    assert all(STANDARD_NAME.fullmatch(name) for name in names)
    assert names == done["reported"]
    assert [name[-2:] for name in names] == ["01", "02"]
    first = done["pictures"][0]
    assert (first["warning"], first["media_type"]) == ("", "image/jpeg")
    stamp = first["taken_at"].replace("-", "").replace(":", "").replace("T", "")
    assert stamp[12:14] == names[0][34:36], "seconds of the name, minutes and hours by the zone"
    picture = await gallery.api("GET", f"/api/device-snapshots/{first['picture_id']}/image")
    assert decoded_size(picture) == (640, 360)
    assert len(picture) == first["size_bytes"] == device.snapshots.uploads[0].size_bytes
    told = [data for name, data in events if name == "device_snapshot_received"]
    assert [(one["received"], one["asked"]) for one in told] == [(1, 2), (2, 2)]
    (end,) = [data for name, data in events if name == "device_snapshots_ended"]
    assert (end["state"], end["reported"], end["channel_id"]) == ("done", 2, device.channel_id)


@pytest.mark.gb("G183", "G184")
@one_newer
async def test_missing_pictures_are_a_partial_failure_and_odd_names_a_warning(
    gallery: Gallery, device: Camera
) -> None:
    stranger = "41018300001310009999" + "02" + "20261122100000000" + "03"
    device.snapshots.faults = SnapshotFaults(lose={2}, names=["../../../etc/cron.d/x.jpg", "", stranger])
    job = await gallery.order(device, 3)
    done = await gallery.ended(job["job_id"])
    assert (done["state"], done["asked"], done["received"], len(done["reported"])) == ("partial", 3, 2, 2)
    assert "3 asked for, 2 named by the device, 2 received" in done["detail"]
    first, last = done["pictures"]
    assert (first["name"], last["name"]) == ("picture-01", "picture-02")
    assert "9.14.1" in first["warning"]
    assert "another device" in last["warning"]
    assert (first["taken_at"], last["taken_at"]) == (None, None)
    for path in gallery.files():
        assert path.resolve().is_relative_to(gallery.folder.resolve())
    assert not [path for path in gallery.chain.gateway.folder.rglob("x*") if path.is_file()]


@pytest.mark.gb("G186")
@newer
async def test_a_foreign_session_is_refused_and_its_notice_is_nobodys(
    gallery: Gallery, device: Camera
) -> None:
    device.snapshots.form = "raw" if device.options.transport == "tcp" else "multipart"
    device.snapshots.faults = SnapshotFaults(session_id="f" * 32)
    with listening(gallery.chain.gateway, "security_event") as events:
        job = await gallery.order(device)
        await eventually(lambda: device.snapshots.uploads, 30, "an upload")
        assert device.snapshots.uploads[0].status == 403
        problem = await gallery.order(device, status=409)
        assert problem["cause"] == "taken"
        done = await gallery.ended(job["job_id"])
    assert (done["state"], done["received"], done["reported"]) == ("timed_out", 0, [])
    assert [event["kind"] for _, event in events] == ["upload_foreign_session"]


@pytest.mark.gb("G186")
@one_newer
async def test_the_address_is_good_for_its_order_alone(gallery: Gallery, device: Camera) -> None:
    device.snapshots.begin = lambda target, order: None  # type: ignore[method-assign]
    picture = await asyncio.to_thread(TestPicture(width=320, height=240).jpeg)
    png = b"\x89PNG\r\n\x1a\n" + bytes(50)
    try:
        job = await gallery.order(device, 3)
        order = ordered(device)
        url, wrong = order.upload_url, order.upload_url[:-1] + ("A" if order.upload_url[-1] != "A" else "B")
        other = url.replace(job["job_id"], "0" * 16)
        name = f"{device.channel_id}02{'20261122100000123'}01"
        assert await sent(wrong, picture) == (403, "bad_ticket")
        assert await sent(other, picture) == (403, "bad_ticket")
        assert await sent(url, picture, SessionID="a" * 32) == (403, "foreign_session")
        assert await sent(f"{url}?SessionID={'a' * 32}", picture) == (403, "foreign_session")
        assert await sent(url, b"GIF89a" + bytes(100)) == (415, "no_picture")
        assert await sent(url, b"") == (400, "empty")
        assert await sent(url, picture + bytes(300_000)) == (413, "too_big")
        assert await asyncio.to_thread(upload_in_chunks, url, picture + bytes(300_000)) == 413
        assert await sent(url, b"--x\r\nbroken", content_type="multipart/form-data; boundary=y") == (
            *(400,),
            "bad_form",
        )
        assert (await gallery.job(job["job_id"]))["received"] == 0, "nothing of it was kept"
        assert await sent(f"{url}/{name}.jpg", picture, "PUT") == (200, "")
        assert await sent(f"{url}/{name}.jpg", picture, "PUT") == (200, ""), "sent again: the same picture"
        assert await sent(url, png, SessionID=order.session_id) == (200, "")
        assert await sent(url, picture) == (200, "")
        assert await sent(url, picture) == (409, "too_many")
        await device.send(
            UploadSnapShotFinishedNotify(
                sn=device.next_sn(), device_id=device.channel_id, session_id=order.session_id,
                file_ids=(name, "x", "y"),
            )
        )  # fmt: skip
        done = await gallery.ended(job["job_id"])
        assert (done["state"], done["received"]) == ("done", 3)
        kept = [(one["name"], one["media_type"]) for one in done["pictures"]]
        assert kept == [(name, "image/jpeg"), ("picture-02", "image/png"), ("picture-03", "image/jpeg")]
        assert "far from ours" in done["pictures"][0]["warning"]
        assert await sent(url, picture) == (403, "bad_ticket"), "the order is over"
    finally:
        del device.snapshots.begin  # type: ignore[method-assign]


@one_newer
async def test_files_that_are_too_long_or_no_pictures_are_not_kept(gallery: Gallery, device: Camera) -> None:
    for faults, status in (
        (SnapshotFaults(pad_bytes=400_000), 413),
        (SnapshotFaults(data=b"<html>" + bytes(100)), 415),
    ):
        device.snapshots.uploads.clear()
        device.snapshots.faults = faults
        job = await gallery.order(device)
        done = await gallery.ended(job["job_id"])
        assert device.snapshots.uploads[0].status == status
        assert (done["state"], done["received"], done["pictures"]) == ("failed", 0, [])


@pytest.mark.gb("G049")
@older
async def test_a_device_of_2016_is_not_asked(gallery: Gallery, device: Camera) -> None:
    before = len(device.received_bodies("DeviceConfig"))
    problem = await gallery.order(device, status=409)
    assert problem["cause"] == "not_supported"
    assert len(device.received_bodies("DeviceConfig")) == before
    assert (await gallery.api("GET", f"/api/device-snapshot-jobs?device_id={device.device_id}"))["total"] == 0


@one_newer
async def test_a_refusal_and_bad_numbers_are_told(gallery: Gallery, device: Camera) -> None:
    before = len(device.received_bodies("DeviceConfig"))
    assert (await gallery.order(device, 11, status=422))["field"] == "count"
    assert (await gallery.order(device, 2, 0, status=422))["field"] == "interval_s"
    assert len(device.received_bodies("DeviceConfig")) == before
    device.configuration.result = "ERROR"
    assert (await gallery.order(device, status=409))["cause"] == "rejected"
    jobs = (await gallery.api("GET", "/api/device-snapshot-jobs?limit=1"))["items"]
    assert jobs[0]["state"] == "failed"
    assert "Result ERROR" in jobs[0]["detail"]


@one_newer
async def test_the_gallery_is_listed_filtered_and_emptied(gallery: Gallery, device: Camera) -> None:
    job = await gallery.order(device, 1)
    done = await gallery.ended(job["job_id"])
    picture = done["pictures"][0]
    for query in (
        f"channel_id={device.channel_id}",
        f"job_id={job['job_id']}",
        f"start={picture['received_at'].replace('+00:00', 'Z')}",
    ):
        found = await gallery.api("GET", f"/api/device-snapshots?{query}")
        assert picture["picture_id"] in [one["picture_id"] for one in found["items"]], query
    later = await gallery.api("GET", "/api/device-snapshots?start=2099-01-01T00:00:00Z")
    assert later["total"] == 0
    files = len(gallery.files())
    await gallery.api("DELETE", f"/api/device-snapshots/{picture['picture_id']}", status=204)
    await gallery.api("GET", f"/api/device-snapshots/{picture['picture_id']}/image", status=404)
    assert len(gallery.files()) == files - 1
    assert (await gallery.job(job["job_id"]))["received"] == 0
    log = (await gallery.api("GET", "/api/audit?limit=20"))["items"]
    assert {"device.snapshots", "device.snapshot_delete"} <= {entry["action"] for entry in log}


async def test_an_upper_has_pictures_sent_to_itself_and_hears_the_end(gallery: Gallery) -> None:
    device, upper = gallery.cameras[V22, "tcp"], gallery.chain.upper
    await upper.wait_registered(30)
    await gallery.api("PATCH", f"/api/platforms/{upper.platform_id}", {"rights": ["play", "ptz", "config"]})

    def heard() -> list[UploadSnapShotFinishedNotify]:
        return [body for body, _ in upper.messages if isinstance(body, UploadSnapShotFinishedNotify)]

    session = "upper-session-" + "0" * 24
    nowhere = SnapShotConfig(snap_num=1, interval=1, upload_url="http://127.0.0.1:9/none", session_id=session)
    answer = await upper.ask(
        DeviceConfig(sn=upper.next_sn(), device_id=device.channel_id, snapshot=nowhere), timeout_s=30
    )
    assert getattr(answer, "result", "") == "OK"
    assert ordered(device).upload_url == "http://127.0.0.1:9/none", "untouched"
    (notice,) = await eventually(heard, 30, "the notice at the upper")
    assert (notice.session_id, notice.device_id) == (session, device.channel_id)


@pytest.mark.gb("G187")
@by_way(*WAYS)
async def test_announced_video_is_fetched_as_the_rule_says(gallery: Gallery, device: Camera) -> None:
    path = f"/api/devices/{device.device_id}/video-upload"
    assert (await gallery.api("GET", path))["origin"] == "settings"

    async def announce() -> None:
        body = VideoUploadNotify(
            sn=device.next_sn(), device_id=device.channel_id, longitude=113.8, latitude=34.8
        )
        answer = await device.send(body)
        assert answer is not None
        assert answer.status == 200

    async def live() -> list[Any]:
        return [one for one in await gallery.chain.sessions() if one["device_id"] == device.device_id]

    with listening(gallery.chain.gateway, "video_upload_announced", "session_started") as events:
        await announce()
        await eventually(lambda: events, 30, "the event")
        assert (events[0][1]["action"], events[0][1]["longitude"]) == ("off", 113.8)
        assert await live() == []
        await gallery.api("PUT", path, {"action": "keep", "keep_s": 1})
        await announce()
        await eventually(lambda: any(name == "session_started" for name, _ in events), 60, "the stream")
        assert len(device.live_calls) == 1
        assert [one[1]["action"] for one in events if one[0] == "video_upload_announced"] == ["off", "keep"]
    assert (await gallery.api("GET", path))["origin"] == "operator"
    await eventually(lambda: not device.live_calls, 60, "the end of the stream")
    await gallery.api("DELETE", path, status=204)
    assert (await gallery.api("GET", path))["action"] == "off"


async def test_announced_video_is_recorded(gallery: Gallery) -> None:
    device = gallery.cameras[V22, "udp"]
    await gallery.api(
        "PUT", f"/api/devices/{device.device_id}/video-upload", {"action": "record", "keep_s": 4}
    )
    await device.send(VideoUploadNotify(sn=device.next_sn(), device_id=device.device_id))

    def recorded() -> Any:
        return [
            path for path in (gallery.chain.gateway.folder / "data").rglob("*.mp4") if path.stat().st_size
        ]

    await eventually(recorded, 60, "a recording")
    await gallery.api("DELETE", f"/api/devices/{device.device_id}/video-upload", status=204)
