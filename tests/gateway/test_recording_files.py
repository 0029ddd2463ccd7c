"""Index, healing, retention, disks without room, evidence and upload, on real files and a real database; time is moved."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from recording_house import recording_of, until
from s3_storage import S3Storage

from config.settings import StorageSettings
from gateway.clock import ManualClock
from gateway.events import Event, EventBus
from gateway.registry import Registry
from gateway.services.recording_disks import DiskState, Space
from gateway.services.recording_events import DiskStateChanged, IndexHealed, RecordingsDeleted
from gateway.services.recording_parts import Recording
from gateway.storage.database import Database
from gateway.storage.recordings import Mark, StoredSegment
from media import segments
from media.readers.segment_disks import MARKER
from media.readers.segmenter import Closed, Opened, Piece, Segmenter
from media.specs import SegmentInfo
from simulator.picture import TestPicture

CAMERA = "41018300001320000001"
OTHER = "41018300001320000002"
DAY = 86_400.0


class Shelf:
    """A gateway's recordings with files that are made here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.subscribe(Event, callback=self.events.append)
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.database = Database(StorageSettings(directory=folder / "data"))
        self.recording: Recording = None  # type: ignore[assignment]
        self.audited: list[tuple[str, ...]] = []
        self.number = 0

    async def open(self, **settings: Any) -> Recording:
        await self.database.open()
        return self.build(**settings)

    def build(self, **settings: Any) -> Recording:
        self.recording = recording_of(
            database=self.database, folder=self.folder, registry=self.registry, bus=self.bus,
            clock=self.clock, heal_files_per_s=100_000, **settings,
        )  # fmt: skip
        self.recording.connect(audit=lambda *entry: self.audited.append(entry))
        return self.recording

    @property
    def now(self) -> float:
        return self.clock.utc().timestamp()

    def disk(self, name: str, **values: Any) -> dict[str, Any]:
        return {
            "disk_id": name,
            "directory": self.folder / name,
            "reserve_bytes": 0,
            "reserve_percent": 0,
            **values,
        }

    def write(
        self, age_s: float, *, disk: str = "recordings", channel_id: str = CAMERA, storage_class: str = "standard",
        part: bool = False, disk_id: str = "main", seconds: float = 2.0,
    ) -> SegmentInfo:  # fmt: skip
        """A real file that began ``age_s`` ago; the index is not told."""
        self.number += 1
        start = self.now - age_s
        segmenter = Segmenter(segment_s=3600, wall_of=lambda mono: start + mono)
        steps = []
        for unit in TestPicture(176, 144, gop=25).encoded_loop(seconds):
            unit.arrival_mono = unit.dts / 90_000 + 1e-9
            steps += segmenter.push(unit)
        steps += segmenter.finish("stopped")
        segment_id = f"{self.number:08x}"
        path = f"{segments.folder(start, channel_id, channel_id)}/{segments.file_name(start, segment_id, part=part)}"
        data = bytearray()
        info: SegmentInfo | None = None
        for step in steps:
            if isinstance(step, Opened):
                info = SegmentInfo(
                    segment_id=segment_id, recording_id="r1", device_id=channel_id, channel_id=channel_id,
                    disk_id=disk_id, path=path, storage_class=storage_class, start=step.segment.start,
                    end=step.segment.start, video_codec="h264", width=176, height=144,
                )  # fmt: skip
                data += step.segment.init + segments.about_box(info)
            elif isinstance(step, Piece):
                data += step.data
            else:
                assert isinstance(step, Closed)
        whole = self.folder / disk / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(data)
        return segments.scan(self.folder / disk, disk_id, path).info

    async def enter(self, age_s: float, **values: Any) -> SegmentInfo:
        info = self.write(age_s, **values)
        await self.recording.store.put_segments([info])
        return info

    def file(self, info: SegmentInfo, disk: str = "recordings") -> Path:
        return self.folder / disk / info.path

    async def known(self) -> set[str]:
        found = await self.recording.store.segments_between(CAMERA, CAMERA, 0, 1e11, limit=10_000)
        found += await self.recording.store.segments_between(OTHER, OTHER, 0, 1e11, limit=10_000)
        return {segment.info.segment_id for segment in found}

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    if shelf.recording is not None:
        await shelf.recording.close()
    await shelf.database.close()


# -- the index ------------------------------------------------------------------------------------------------


async def test_segments_are_found_by_time_and_keep_their_lock(shelf: Shelf) -> None:
    recording = await shelf.open()
    old, new = await shelf.enter(1000), await shelf.enter(500)
    store = recording.store
    between = [s.info for s in await store.segments_between(CAMERA, CAMERA, old.start + 1, new.start + 1)]
    assert between == [old, new]
    assert [s.info for s in await store.segments_between(CAMERA, CAMERA, old.end, new.start)] == []
    assert await store.segments_between(OTHER, CAMERA, 0, 1e11) == []
    mark = Mark(
        "m1", CAMERA, CAMERA, "evidence", old.start, old.start + 1, "x", True, "me", shelf.clock.utc()
    )
    assert await store.put_mark(mark) == 1
    await store.put_segments([old.model_copy(update={"cause": "again"})])
    found = await store.segment(old.segment_id)
    assert found is not None
    assert (found.locked, found.info.cause) == (True, "again")
    # a file that is entered later is covered too, and freed with the mark
    late = old.model_copy(update={"segment_id": "late", "path": "x"})
    await store.put_segments([late])
    assert (await store.segment("late") or StoredSegment(late)).locked
    await store.remove_mark(mark)
    assert not (await store.segment("late") or StoredSegment(late, True)).locked


async def test_the_index_writes_behind_and_keeps_the_newest_word(shelf: Shelf) -> None:
    recording = await shelf.open()
    info = shelf.write(100)
    recording.index.put(info.model_copy(update={"complete": False, "frames": 1}))
    recording.index.put(info)
    assert await recording.index.flush()
    (row,) = await recording.store.segments_between(CAMERA, CAMERA, 0, 1e11)
    assert row.info == info
    assert recording.index.waiting == 0


# -- healing --------------------------------------------------------------------------------------------------


async def test_the_index_heals_from_the_files(shelf: Shelf) -> None:
    recording = await shelf.open()
    await recording.guard.look()
    kept = await shelf.enter(3 * DAY)
    gone = await shelf.enter(2 * DAY)
    shelf.file(gone).unlink()
    stray = shelf.write(DAY)
    torn = shelf.write(50, part=True)
    with shelf.file(torn).open("ab") as file:
        file.write(b"\0\0\1\0moof half a fragment")
    empty = shelf.file(shelf.write(20, part=True))
    empty.write_bytes(empty.read_bytes()[:300])
    healed = await recording.healer.heal_disk("main")
    assert (healed.entered, healed.removed, healed.unreadable) == (2, 1, 1)
    assert await shelf.known() == {kept.segment_id, stray.segment_id, torn.segment_id}
    assert not empty.exists()
    mended = await recording.store.segment(torn.segment_id)
    assert mended is not None
    assert mended.info.complete
    assert not mended.info.path.endswith(".part")
    assert shelf.file(mended.info).stat().st_size == mended.info.bytes
    (event,) = await until(lambda: shelf.told(IndexHealed))
    assert (event.entered, event.removed, event.unreadable) == (2, 1, 1)
    again = await recording.healer.heal_disk("main")
    assert not again.anything


async def test_files_that_a_recorder_holds_are_left_alone(shelf: Shelf) -> None:
    import fcntl

    recording = await shelf.open()
    await recording.guard.look()
    info = shelf.write(5, part=True)
    await recording.store.put_segments([info.model_copy(update={"complete": False})])
    with shelf.file(info).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not (await recording.healer.heal_open()).anything
        assert not (await recording.healer.heal_disk("main")).anything
    assert (await recording.healer.heal_open()).mended == 1


async def test_entries_of_a_disk_that_is_not_mounted_are_kept(shelf: Shelf) -> None:
    recording = await shelf.open()
    await recording.guard.look()
    info = await shelf.enter(DAY)
    mount = shelf.folder / "recordings"
    mount.rename(shelf.folder / "unplugged")
    mount.mkdir()
    await recording.guard.look()
    assert recording.guard.disks["main"].state is DiskState.MISSING
    assert not (mount / MARKER).exists(), "the empty mount point is not taken for the disk"
    assert not (await recording.healer.heal_disk("main")).anything
    shelf.clock.advance(400 * DAY)
    assert (await recording.retention.sweep()).segments == 0
    assert await shelf.known() == {info.segment_id}


# -- retention ------------------------------------------------------------------------------------------------


async def test_each_class_is_kept_for_its_days_and_not_longer(shelf: Shelf) -> None:
    recording = await shelf.open(classes={"standard": 60, "key": 90, "picture": 365})
    await recording.guard.look()
    files = {
        name: await shelf.enter(10, storage_class=name) for name in ("standard", "key", "picture", "unknown")
    }
    for days, left in [
        (59.9, {"standard", "key", "picture", "unknown"}),
        (60.1, {"key", "picture", "unknown"}),
        (90.1, {"picture", "unknown"}),
        (364.9, {"picture", "unknown"}),
        (365.1, set()),
    ]:
        shelf.clock.step_wall(days * DAY - (shelf.now - files["standard"].end))
        await recording.retention.sweep()
        assert await shelf.known() == {files[name].segment_id for name in left}, days
        assert {name for name in files if shelf.file(files[name]).exists()} == left
    assert [(event.cause, event.segments) for event in shelf.told(RecordingsDeleted)] == [
        ("expired", 1), ("expired", 1), ("expired", 1), ("expired", 1),
    ]  # fmt: skip
    assert list((shelf.folder / "recordings").glob("2*")) == [], "empty folders go too"


async def test_evidence_outlives_its_class(shelf: Shelf) -> None:
    recording = await shelf.open()
    await recording.guard.look()
    info = await shelf.enter(10)
    mark = Mark(
        "m1", CAMERA, CAMERA, "evidence", info.start, info.end, "case 7", True, "me", shelf.clock.utc()
    )
    await recording.store.put_mark(mark)
    shelf.clock.advance(1000 * DAY)
    assert (await recording.retention.sweep()).segments == 0
    await recording.store.remove_mark(mark)
    assert (await recording.retention.sweep()).segments == 1


# -- disks ----------------------------------------------------------------------------------------------------


class FakeSpace:
    """A disk of 1000 units of 1000 bytes, less what the recordings take."""

    def __init__(self, shelf: Shelf, free_bytes: int) -> None:
        self.shelf = shelf
        self.free_bytes = free_bytes

    def __call__(self, directory: Path) -> Space:
        used = sum(path.stat().st_size for path in directory.rglob("*.mp4"))
        return Space(10_000_000, self.free_bytes - used)


async def test_a_full_disk_stops_and_says_so_when_nothing_has_expired(shelf: Shelf) -> None:
    recording = await shelf.open(disks=[shelf.disk("recordings", disk_id="main", reserve_bytes=500_000)])
    recording.guard.space = FakeSpace(shelf, 500_000)
    await recording.guard.look()
    infos = [await shelf.enter(age) for age in (5000, 4000, 3000)]
    await recording.guard.look()
    disk = recording.guard.disks["main"]
    assert (disk.state, disk.state.writable) == (DiskState.FULL, False)
    await recording.retention.make_room(disk)
    await recording.retention.make_room(disk)
    assert all(shelf.file(info).exists() for info in infos), "what the law wants is not deleted"
    assert [entry[:4] for entry in shelf.audited] == [("gateway", "recording.disk_full", "main", "stopped")]
    states = [event.state for event in await until(lambda: shelf.told(DiskStateChanged))]
    assert states[-1] == "full"


async def test_expired_files_go_first_when_a_disk_runs_full(shelf: Shelf) -> None:
    recording = await shelf.open(disks=[shelf.disk("recordings", disk_id="main", reserve_bytes=500_000)])
    await recording.guard.look()
    old = [await shelf.enter(61 * DAY + age) for age in (0, 10)]
    new = await shelf.enter(100)
    size = sum(info.bytes for info in (*old, new))
    recording.guard.space = FakeSpace(shelf, 500_000 + size)
    await recording.guard.look()
    await recording.retention.make_room(recording.guard.disks["main"])
    assert [shelf.file(info).exists() for info in (*old, new)] == [False, False, True]
    assert shelf.audited == []


async def test_an_operator_may_choose_to_delete_before_the_time(shelf: Shelf) -> None:
    infos = [shelf.write(age) for age in range(10_000, 4_000, -1000)]
    size = infos[0].bytes
    recording = await shelf.open(
        disks=[shelf.disk("recordings", disk_id="main", reserve_bytes=2 * size)], when_full="delete_oldest"
    )
    recording.guard.space = FakeSpace(shelf, sum(info.bytes for info in infos) + size)
    (shelf.folder / "recordings" / MARKER).write_text('{"disk_id": "main"}')
    await recording.store.put_segments(infos)
    mark = Mark(
        "m", CAMERA, CAMERA, "evidence", infos[0].start, infos[0].end, "", True, "me", shelf.clock.utc()
    )
    await recording.store.put_mark(mark)
    await recording.guard.look()
    removed = await recording.retention.make_room(recording.guard.disks["main"])
    left = [shelf.file(info).exists() for info in infos]
    assert left[0], "evidence stays"
    assert removed.segments == left.count(False) > 0
    assert shelf.audited[-1][:4] == ("gateway", "recording.disk_full", "main", "deleted")
    assert {event.cause for event in await until(lambda: shelf.told(RecordingsDeleted))} == {"disk_full"}
    assert recording.retention.deleted["disk_full"].segments == removed.segments


async def test_a_disk_that_turns_read_only_or_vanishes_is_taken_out(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = await shelf.open(disks=[shelf.disk("one"), shelf.disk("two")])
    await recording.guard.look()
    one, two = recording.guard.disks["one"], recording.guard.disks["two"]
    assert (one.state, two.state) == (DiskState.OK, DiskState.OK)
    assert json.loads((shelf.folder / "one" / MARKER).read_text())["disk_id"] == "one"
    real = os.open

    def read_only(path: Any, flags: int, *more: Any, **other: Any) -> int:
        if str(path).startswith(str(shelf.folder / "one")) and flags & os.O_WRONLY:
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *more, **other)

    monkeypatch.setattr(os, "open", read_only)
    await recording.guard.look()
    assert (one.state, two.state) == (DiskState.READ_ONLY, DiskState.OK)
    assert recording.guard.any_writable
    monkeypatch.undo()
    await recording.guard.look()
    assert one.state is DiskState.OK
    (shelf.folder / "two" / MARKER).write_text('{"disk_id": "one"}')
    await recording.guard.look()
    assert two.state is DiskState.MISSING
    assert "belongs to disk 'one'" in two.detail
    states = [(event.disk_id, event.state) for event in shelf.told(DiskStateChanged)]
    assert states[-3:] == [("one", "read_only"), ("one", "ok"), ("two", "missing")]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_really_full_file_system_is_seen(shelf: Shelf) -> None:
    mount = shelf.folder / "small"
    mount.mkdir()
    mounted = await asyncio.to_thread(
        subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        recording = await shelf.open(disks=[shelf.disk("small")])
        await recording.guard.look()
        assert recording.guard.disks["small"].state is DiskState.OK
        with pytest.raises(OSError, match="No space"):
            (mount / "ballast").write_bytes(bytes(1_000_000))
        await recording.guard.look()
        assert recording.guard.disks["small"].state is DiskState.FULL
        (mount / "ballast").unlink()
        await recording.guard.look()
        assert recording.guard.disks["small"].state is DiskState.OK
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(mount)], check=True)


# -- object storage -------------------------------------------------------------------------------------------


def s3_settings(storage: S3Storage, **values: Any) -> dict[str, Any]:
    return {
        "endpoint": storage.url, "bucket": "video", "access_key": storage.ACCESS, "secret_key": storage.SECRET,
        "prefix": "county/1", **values,
    }  # fmt: skip


async def test_finished_files_are_uploaded_and_read_back_by_range(shelf: Shelf) -> None:
    async with S3Storage() as storage:
        recording = await shelf.open(s3=s3_settings(storage, classes=["key"], keep_local=False))
        await recording.guard.look()
        assert recording.objects is not None
        assert recording.uploader is not None
        await recording.objects.start()
        try:
            info = await shelf.enter(100, storage_class="key")
            stays = await shelf.enter(50)
            data = shelf.file(info).read_bytes()
            assert await recording.uploader.upload_some()
            assert list(storage.objects) == [f"video/county/1/{info.path}"]
            assert storage.objects[f"video/county/1/{info.path}"] == data
            row = await recording.store.segment(info.segment_id)
            assert row is not None
            assert (row.local, row.remote_key) == (False, f"county/1/{info.path}")
            assert not shelf.file(info).exists()
            assert shelf.file(stays).exists()
            assert await recording.objects.read(row.remote_key, 100, 300) == data[100:300]
            url, _ = await recording.objects.url(row.remote_key)
            assert await storage.get(url, "bytes=5-9") == data[5:10]
            assert (
                await storage.get(url.replace("X-Amz-Signature=", "X-Amz-Signature=0"), "bytes=5-9") is None
            )
            # its time comes: the object goes with the entry
            shelf.clock.advance(91 * DAY)
            await recording.retention.sweep()
            assert storage.objects == {}
            assert await shelf.known() == set()
        finally:
            await recording.objects.close()


async def test_large_files_go_in_parts_and_a_refusal_is_tried_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.services.recording_s3.PART_BYTES", 10_000)
    async with S3Storage() as storage:
        recording = await shelf.open(s3=s3_settings(storage))
        await recording.guard.look()
        assert recording.objects is not None
        assert recording.uploader is not None
        await recording.objects.start()
        try:
            info = await shelf.enter(100)
            storage.refuse = 100
            assert not await recording.uploader.upload_some()
            assert recording.uploader.failures == 1
            row = await recording.store.segment(info.segment_id)
            assert row is not None
            assert row.remote_key == ""
            storage.refuse = 0
            assert await recording.uploader.upload_some()
            assert storage.parts_seen >= 3
            assert storage.objects[f"video/county/1/{info.path}"] == shelf.file(info).read_bytes()
            row = await recording.store.segment(info.segment_id)
            assert row is not None
            assert row.local
        finally:
            await recording.objects.close()


async def test_index_of_many_rows_is_searched_quickly_enough(shelf: Shelf) -> None:
    """A year of one channel among others: the search touches what lies in the range, not the whole table."""
    recording = await shelf.open()
    base = shelf.write(0)
    rows = [
        base.model_copy(
            update={
                "segment_id": f"{channel}-{number}", "channel_id": channel, "device_id": channel,
                "start": number * 300.0, "end": number * 300.0 + 300.0, "path": f"{channel}/{number}",
            }
        )
        for channel in (CAMERA, OTHER) for number in range(3000)
    ]  # fmt: skip
    for begin in range(0, len(rows), 500):
        await recording.store.put_segments(rows[begin : begin + 500])
    async with shelf.database.connect() as connection:
        plan = await connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT * FROM recording_segments WHERE device_id='a' AND channel_id='b' "
            "AND start_s < 5 AND start_s > 1"
        )
        text = " ".join(str(row) for row in plan)
    assert "USING INDEX ix_recording_segments_device_id_channel_id_start_s" in text
    found = await recording.store.segments_between(CAMERA, CAMERA, 600_000, 600_900)
    assert [segment.info.start for segment in found] == [600_000, 600_300, 600_600]
