"""Names and files of uploaded pictures, who may upload what, what a restart and the years leave, and announced video."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.settings import SipSettings, SnapshotSettings, StorageSettings, VideoUploadSettings
from gateway.clock import ManualClock
from gateway.events import Event, EventBus
from gateway.model import Channel, ChannelKind, Device, State
from gateway.networks import OwnAddress
from gateway.peers import Peer, PeerKind
from gateway.registry import Registry
from gateway.services.device_snapshots import DeviceSnapshots, UploadRefused
from gateway.services.device_snapshots_address import NoUploadAddress, UploadAddress
from gateway.services.device_snapshots_events import DeviceSnapshotsEnded, VideoUploadAnnounced
from gateway.services.device_snapshots_files import PictureFiles, UnsafePath, bare_name, read_name, sniff
from gateway.services.errors import ControlCause, ControlFailed, PlayCause, PlayFailed
from gateway.services.video_upload import VideoUploads
from gateway.storage.database import Database
from gateway.storage.snapshots import PictureFilter, SnapshotStore, StoredPicture, UploadRule
from sip.flow import Flow
from sip.manscdp import SnapShotConfig, UploadSnapShotFinishedNotify, VideoUploadNotify

DEVICE = "41018300001320000001"
CHANNEL = "41018300001310000001"
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
NAME = f"{CHANNEL}022026112210000012301"


@pytest.mark.gb("G183")
def test_the_name_of_a_picture() -> None:
    read = read_name(NAME)
    assert read is not None
    assert (read.code, read.number) == (CHANNEL, 1)
    assert read.taken_at == datetime(2026, 11, 22, 2, 0, 0, 123000, tzinfo=UTC), "Beijing time"
    assert len(NAME) == 41


@pytest.mark.gb("G183")
@pytest.mark.parametrize(
    "name",
    [
        "",
        "snap1",
        NAME[:-1],
        NAME + "1",
        CHANNEL + "02" + "20261322100000123" + "01",
        CHANNEL + "02" + "20261122250000123" + "01",
        CHANNEL + "03" + "20261122100000123" + "01",
        NAME[:-2] + "一二",
    ],
)
def test_other_names_are_none(name: str) -> None:
    assert read_name(name) is None


@pytest.mark.parametrize(
    ("sent", "bare"),
    [
        (f"{NAME}.jpg", NAME),
        (f"C:\\pictures\\{NAME}.JPEG", NAME),
        (f"../../{NAME}.png", NAME),
        ("a.tar.gz", "a.tar.gz"),
        ("..", ".."),
    ],
)
def test_folders_and_endings_are_left_out(sent: str, bare: str) -> None:
    assert bare_name(sent) == bare


def test_content_decides_what_a_file_is() -> None:
    assert sniff(JPEG) == "image/jpeg"
    assert sniff(b"\x89PNG\r\n\x1a\n....") == "image/png"
    for other in (b"", b"\xff\xd8", b"GIF89a", b"<svg", b"BM12345"):
        assert sniff(other) is None


@pytest.mark.parametrize("bad", ["..", "a/b", "/etc/passwd", "a" * 65, "", "a\x00b", "a.b"])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, bad: str) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    good = StoredPicture("p", "0a1b", DEVICE, CHANNEL, NAME, "", "image/jpeg", 1, now)
    files = PictureFiles(tmp_path)
    assert files.path(good) == tmp_path / "20261122" / "0a1b" / f"{NAME}.jpg"
    for odd in (replace(good, name=bad), replace(good, job_id=bad)):
        with pytest.raises(UnsafePath):
            files.path(odd)


@pytest.mark.parametrize(
    ("fixed", "bound", "peer", "told"),
    [
        (None, "0.0.0.0", "10.0.0.7", "http://10.0.0.1:8080"),
        (None, "10.0.0.9", "10.0.0.7", "http://10.0.0.9:8080"),
        (None, "127.0.0.1", "127.0.0.1", "http://127.0.0.1:8080"),
        (None, "127.0.0.1", "10.0.0.7", None),
        ("https://up.example/gb/", "127.0.0.1", "10.0.0.7", "https://up.example/gb"),
        (None, "::", "fd00::7", "http://[fd00::1]:8080"),
    ],
)
def test_what_address_a_device_is_told(fixed: str | None, bound: str, peer: str, told: str | None) -> None:
    route = {"10.0.0.7": "10.0.0.1", "127.0.0.1": "127.0.0.1", "fd00::7": "fd00::1"}
    address = UploadAddress(
        settings=SnapshotSettings(upload_url=fixed),
        own=OwnAddress(SipSettings(), route=lambda host: route[host]),
        bound=bound,
        port=lambda: 8080,
    )
    device = Device(DEVICE, flow=Flow("udp", peer, 5060, "10.0.0.1", 5060))
    if told is None:
        with pytest.raises(NoUploadAddress, match=r"snapshots\.upload_url"):
            address.toward(device)
    else:
        assert address.toward(device) == told


class Camera:
    """Takes each SnapShotConfig as an online device of 2022 would, or refuses it."""

    def __init__(self) -> None:
        self.orders: list[SnapShotConfig] = []
        self.failure: ControlFailed | None = None

    def check(self, device_id: str, kind: str) -> Device:
        return Device(device_id, state=State.ONLINE)

    async def write(self, device_id: str, target_id: str, kind: str, value: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.orders.append(value)


class Place:
    """The service on a database of its own."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock, self.folder = clock, folder
        self.bus = EventBus()
        self.seen: list[Event] = []
        self.bus.subscribe(Event, callback=self.seen.append)
        self.registry = Registry(bus=self.bus, clock=clock)
        self.registry.put_device(Device(DEVICE, state=State.ONLINE))
        self.database = Database(StorageSettings(directory=folder))
        self.store = SnapshotStore(self.database)
        self.camera = Camera()
        self.snapshots = DeviceSnapshots(
            settings=SnapshotSettings(finish_timeout_s=30, grace_s=0.05, keep_days=30),
            registry=self.registry,
            configuration=self.camera,
            store=self.store,
            files=PictureFiles(folder / "snapshots"),
            bus=self.bus,
            address=lambda device: "http://192.0.2.1:8080",
            clock=clock,
        )

    async def open(self) -> Place:
        await self.database.open()
        await self.snapshots.start()
        return self

    async def close(self) -> None:
        await self.snapshots.close()
        await self.database.close()

    async def order(self, count: int = 1) -> tuple[Any, str]:
        """A running order, and the ticket of its address."""
        job = await self.snapshots.order(DEVICE, CHANNEL, count=count, interval_s=1, who="li")
        return job, self.camera.orders[-1].upload_url.rpartition("/")[2]

    async def notice(self, session_id: str, *names: str, device: str = DEVICE) -> None:
        body = UploadSnapShotFinishedNotify(sn=1, device_id=CHANNEL, session_id=session_id, file_ids=names)
        peer = Peer(PeerKind.DEVICE, device, device=self.registry.devices.get(device))
        await self.snapshots._noticed(peer, body, None)  # type: ignore[arg-type]

    async def ended(self) -> DeviceSnapshotsEnded:
        for _ in range(500):
            found = [event for event in self.seen if isinstance(event, DeviceSnapshotsEnded)]
            if found:
                return found[-1]
            await asyncio.sleep(0.01)
        raise AssertionError("the order did not end")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    opened = await Place(tmp_path, ManualClock()).open()
    yield opened
    await opened.close()


@pytest.mark.gb("G186")
async def test_a_ticket_is_bound_to_order_device_session_and_time(place: Place) -> None:
    snapshots = place.snapshots
    job, ticket = await place.order(2)
    assert snapshots.admit(job.job_id, ticket, "10.0.0.7") is job
    place.registry.put_device(Device("41018300001320000002", state=State.ONLINE))
    other = await snapshots.order("41018300001320000002", CHANNEL, count=1, interval_s=1, who="li")
    for job_id, word in ((other.job_id, ticket), (job.job_id, ticket[:-1] + "!"), ("0" * 16, ticket)):
        with pytest.raises(UploadRefused) as refused:
            snapshots.admit(job_id, word, "10.0.0.7")
        assert (refused.value.status, refused.value.cause) == (403, "bad_ticket")
    snapshots.check_session(job, None, "10.0.0.7")
    snapshots.check_session(job, job.session_id, "10.0.0.7")
    with pytest.raises(UploadRefused) as refused:
        snapshots.check_session(job, other.session_id, "10.0.0.7")
    assert (refused.value.status, refused.value.cause) == (403, "foreign_session")
    place.clock.advance(32)
    with pytest.raises(UploadRefused):
        snapshots.admit(job.job_id, ticket, "10.0.0.7")


@pytest.mark.gb("G184")
@pytest.mark.parametrize(
    ("stored", "named", "state"),
    [
        (3, 3, "done"),
        (3, 2, "partial"),
        (2, 2, "partial"),
        (2, 3, "partial"),
        (0, 0, "failed"),
        (3, 0, "partial"),
    ],
)
async def test_what_the_notice_and_the_files_say_together(
    place: Place, stored: int, named: int, state: str
) -> None:
    job, _ = await place.order(3)
    names = [f"{CHANNEL}0220261122100000123{number:02d}" for number in (1, 2, 3)]
    for name in names[:stored]:
        await place.snapshots.keep(job, JPEG, "image/jpeg", f"{name}.jpg", "10.0.0.7")
    await place.notice(job.session_id, *names[:named])
    end = await place.ended()
    assert (end.state, end.received, end.reported, end.asked) == (state, stored, named, 3)
    kept = await place.store.job(job.job_id)
    assert kept is not None
    assert (kept.state, kept.reported) == (state, names[:named])


async def test_a_picture_behind_its_notice_still_counts(place: Place) -> None:
    job, _ = await place.order(1)
    place.snapshots._settings.grace_s = 5.0
    await place.notice(job.session_id, NAME)
    assert place.snapshots.received(job.job_id) == 0, "it is waited for"
    await place.snapshots.keep(job, JPEG, "image/jpeg", NAME, "10.0.0.7")
    assert (await place.ended()).state == "done"


async def test_a_notice_of_another_device_ends_nothing(place: Place) -> None:
    job, _ = await place.order(1)
    await place.notice(job.session_id, NAME, device="41018300001320000009")
    await place.notice("x" * 32, NAME)
    assert place.snapshots.counts["unknown_session"] == 2
    assert place.snapshots.received(job.job_id) == 0


async def test_a_refused_order_leaves_a_line_and_no_running_order(place: Place) -> None:
    place.camera.failure = ControlFailed(ControlCause.REJECTED, "Result ERROR")
    with pytest.raises(ControlFailed):
        await place.order()
    (job,) = (await place.store.jobs(DEVICE, None, "failed", limit=10, offset=0))[1]
    assert "Result ERROR" in job.detail
    place.camera.failure = None
    await place.order()


async def test_pictures_without_a_response_are_as_good_as_a_yes(place: Place) -> None:
    silent = ControlFailed(ControlCause.NO_ANSWER, "no Response")

    async def uploads_first(device_id: str, target_id: str, kind: str, value: Any) -> None:
        (running,) = place.snapshots._running.values()
        await place.snapshots.keep(running.job, JPEG, "image/jpeg", NAME, "10.0.0.7")
        raise silent

    place.camera.write = uploads_first  # type: ignore[method-assign]
    job = await place.snapshots.order(DEVICE, CHANNEL, count=2, interval_s=1, who="li")
    assert (job.state, place.snapshots.received(job.job_id)) == ("running", 1)


async def test_a_picture_is_stored_whole_when_the_device_hangs_up(place: Place) -> None:
    job, _ = await place.order(1)
    upload = asyncio.create_task(place.snapshots.keep(job, JPEG, "image/jpeg", NAME, "10.0.0.7"))
    await asyncio.sleep(0)
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    await place.notice(job.session_id, NAME)
    assert (await place.ended()).state == "done"
    _, kept = await place.store.pictures(PictureFilter(job_id=job.job_id), limit=10, offset=0)
    assert await place.snapshots.files.read(kept[0]) == JPEG


async def test_a_restart_closes_open_orders(place: Place) -> None:
    job, _ = await place.order(2)
    again = await Place(place.folder, place.clock).open()
    kept = await again.store.job(job.job_id)
    assert kept is not None
    assert (kept.state, "restarted" in kept.detail) == ("failed", True)
    await again.close()


async def test_old_pictures_and_their_orders_are_forgotten(place: Place) -> None:
    job, _ = await place.order(1)
    old = await place.snapshots.keep(job, JPEG, "image/jpeg", NAME, "10.0.0.7")
    await place.notice(job.session_id, NAME)
    place.clock.advance(20 * 86400)
    newer, _ = await place.order(1)
    await place.snapshots.keep(newer, JPEG, "image/jpeg", "", "10.0.0.7")
    await place.notice(newer.session_id, "x")
    assert await place.snapshots.forget() == 0
    place.clock.advance(11 * 86400)
    assert await place.snapshots.forget() == 1
    assert await place.store.job(job.job_id) is None
    total, left = await place.store.pictures(PictureFilter(channel_id=CHANNEL), limit=10, offset=0)
    assert (total, left[0].job_id) == (1, newer.job_id)
    assert not place.snapshots.files.path(old).parent.parent.exists(), "the folder of that day is gone"
    assert await place.snapshots.files.read(left[0]) == JPEG


# -- announced video -----------------------------------------------------------------------------------------


class Player:
    """Plays at once; ``holding`` are the sessions that are held now."""

    def __init__(self) -> None:
        self.played: list[tuple[str, str]] = []
        self.holding = 0
        self.failure: PlayFailed | None = None

    async def play(self, device_id: str, channel_id: str) -> Any:
        self.played.append((device_id, channel_id))
        if self.failure is not None:
            raise self.failure
        return object()

    def held(self, session: Any) -> AbstractContextManager[None]:
        @contextmanager
        def hold() -> Iterator[None]:
            self.holding += 1
            try:
                yield
            finally:
                self.holding -= 1

        return hold()


class Recorder:
    def __init__(self) -> None:
        self.marks: list[tuple[tuple[str, str], float]] = []

    async def event(self, key: tuple[str, str], *, seconds_after: float, **rest: Any) -> None:
        self.marks.append((key, seconds_after))


def uploads_of(place: Place, **settings: Any) -> tuple[VideoUploads, Player, Recorder]:
    player, recorder = Player(), Recorder()
    made = VideoUploads(
        settings=VideoUploadSettings(**settings),
        registry=place.registry,
        store=place.store,
        player=player,
        recorder=recorder,
        bus=place.bus,
        clock=place.clock,
    )
    return made, player, recorder


async def announce(place: Place, uploads: VideoUploads, code: str = DEVICE) -> VideoUploadAnnounced:
    peer = Peer(PeerKind.DEVICE, DEVICE, device=place.registry.devices[DEVICE])
    await uploads._announced(peer, VideoUploadNotify(sn=1, device_id=code), None)  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    return [event for event in place.seen if isinstance(event, VideoUploadAnnounced)][-1]


def add_camera(place: Place, code: str) -> None:
    place.registry.put_channel(Channel(DEVICE, code, kind=ChannelKind.CAMERA))


@pytest.mark.gb("G187")
async def test_the_rule_decides_and_outlives_a_restart(place: Place) -> None:
    add_camera(place, CHANNEL)
    uploads, player, recorder = uploads_of(place)
    assert (await announce(place, uploads)).action == "off"
    assert player.played == []
    await uploads.put_rule(UploadRule(DEVICE, "record", 40))
    event = await announce(place, uploads)
    assert (event.action, event.channel_id, event.keep_s) == ("record", CHANNEL, 40), "its only camera"
    assert player.played == [(DEVICE, CHANNEL)]
    assert recorder.marks == [((DEVICE, CHANNEL), 40)]
    await announce(place, uploads, CHANNEL)
    assert (len(player.played), player.holding) == (1, 1), "the same picture is kept longer"
    await uploads.close()
    assert player.holding == 0
    again, _, _ = uploads_of(place)
    await again.start()
    assert again.rule(DEVICE) == UploadRule(DEVICE, "record", 40)
    await again.remove_rule(DEVICE)
    assert again.rule(DEVICE).action == "off"


@pytest.mark.gb("G187")
async def test_several_cameras_and_too_many_pulls(place: Place) -> None:
    second = "41018300001310000002"
    add_camera(place, CHANNEL)
    add_camera(place, second)
    uploads, player, _ = uploads_of(place, action="keep", most_pulls=1)
    event = await announce(place, uploads)
    assert (event.action, event.channel_id) == ("off", ""), "which of the two is not said"
    assert (await announce(place, uploads, second)).action == "keep"
    assert (await announce(place, uploads, CHANNEL)).action == "busy"
    assert player.played == [(DEVICE, second)]
    await uploads.close()
    player.failure = PlayFailed(PlayCause.BUSY, "486")
    assert (await announce(place, uploads, CHANNEL)).action == "keep"
    assert uploads.counts["failed"] == 1
    assert timedelta(seconds=event.keep_s) == timedelta(0)
