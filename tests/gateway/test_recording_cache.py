"""The cache of files from object storage: one fetch for all, bounds, what is held, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import S3Settings
from gateway.metrics_recording import read_cache
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.recording_cache import RecordingCache
from gateway.services.recording_disks import Space
from gateway.services.recording_s3 import NotWritten, ObjectMissing, StorageUnavailable
from gateway.storage.recordings import StoredSegment
from media.specs import SegmentInfo

MB = 1024**2


def stored(name: str, size: int = MB) -> StoredSegment:
    info = SegmentInfo(
        segment_id=name, recording_id="r", device_id="d", channel_id="c", disk_id="main", path=f"x/{name}.mp4",
        start=0.0, end=60.0, bytes=size, complete=True,
    )  # fmt: skip
    return StoredSegment(info, local=False, remote_key=f"x/{name}.mp4")


class Shelf:
    """Objects of any size, made when they are asked for; ``gate`` holds them back in the middle."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.sizes: dict[str, int] = {}
        self.error: Exception | None = None

    async def download(self, key: str, path: Path, progress: Callable[[int], None]) -> int:
        self.asked.append(key.removeprefix("x/").removesuffix(".mp4"))
        if self.error is not None:
            raise self.error
        size = self.sizes.get(self.asked[-1], MB)
        path.write_bytes(bytes(size // 2))
        progress(size // 2)
        await self.gate.wait()
        path.write_bytes(bytes(size))
        return size


def cache_of(folder: Path, shelf: Shelf, free: int = 1 << 40, **values: Any) -> RecordingCache:
    settings = S3Settings.model_validate(
        {
            "endpoint": "http://127.0.0.1:1", "bucket": "video", "access_key": "a", "secret_key": "b",
            "cache_bytes": 3 * MB, "cache_reserve_bytes": MB, "fetch_timeout_s": 30, **values,
        }
    )  # fmt: skip
    return RecordingCache(
        settings=settings, directory=folder / "cache", objects=shelf, space=lambda path: Space(1 << 40, free)
    )


def names(cache: RecordingCache) -> set[str]:
    return {path.stem for path in cache.directory.glob("*.mp4")}


async def test_one_fetch_for_all_who_want_a_file(tmp_path: Path) -> None:
    shelf = Shelf()
    cache = cache_of(tmp_path, shelf)
    await cache.start()
    shelf.gate.clear()
    waiting = [asyncio.create_task(cache.fetch(stored("a"))) for _ in range(5)]
    while not shelf.asked:
        await asyncio.sleep(0)
    assert not names(cache), "half a file is no file"
    assert cache.progress([stored("a")]) == "0.5 of 1.0 MB are here"
    shelf.gate.set()
    assert await asyncio.gather(*waiting) == [True] * 5
    assert await cache.fetch(stored("a"))
    assert shelf.asked == ["a"]
    assert names(cache) == {"a"}
    assert (cache.counts["fetched"], cache.counts["joined"], cache.counts["found"]) == (1, 4, 1)


async def test_the_file_unused_for_the_longest_goes_and_a_held_one_never(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, Shelf())
    await cache.start()
    for name in "abc":
        await cache.fetch(stored(name))
    await cache.fetch(stored("a"))  # used again
    cache.hold(["b"])
    await cache.fetch(stored("d"))
    assert names(cache) == {"a", "b", "d"}
    cache.hold(["a", "d", "a"])
    with pytest.raises(PlayFailed, match="in use") as refused:
        await cache.fetch(stored("e"))
    assert (refused.value.cause, refused.value.status) == (PlayCause.CACHE_FULL, 503)
    cache.release(["a"])
    with pytest.raises(PlayFailed):
        await cache.fetch(stored("e"))
    cache.release(["a"])
    assert await cache.fetch(stored("e"))
    assert names(cache) == {"b", "d", "e"}
    with pytest.raises(PlayFailed):
        await cache.fetch(stored("whole", 4 * MB))


async def test_many_at_once_stay_within_the_bound(tmp_path: Path) -> None:
    shelf = Shelf()
    cache = cache_of(tmp_path, shelf, fetches_at_once=16)
    await cache.start()
    shelf.gate.clear()
    tasks = [asyncio.create_task(cache.fetch(stored(f"n{number}"))) for number in range(6)]
    results = asyncio.gather(*tasks, return_exceptions=True)
    while len(shelf.asked) < 3:
        await asyncio.sleep(0)
    shelf.gate.set()
    told = await results
    assert all(answer is True or isinstance(answer, PlayFailed) for answer in told)
    assert told.count(True) >= 3
    assert cache.bytes <= 3 * MB
    assert len(names(cache)) <= 3


async def test_the_disk_keeps_its_reserve(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, Shelf(), free=MB + MB // 2)
    await cache.start()
    with pytest.raises(PlayFailed, match="no room"):
        await cache.fetch(stored("a"))
    assert not list(cache.directory.iterdir())


async def test_a_restart_takes_over_whole_files_and_drops_the_rest(tmp_path: Path) -> None:
    shelf = Shelf()
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "whole.mp4").write_bytes(bytes(MB))
    (folder / "half.part").write_bytes(bytes(MB))
    (folder / "none.mp4").touch()
    (folder / "letter.txt").write_text("not ours")
    cache = cache_of(tmp_path, shelf)
    await cache.start()
    assert sorted(path.name for path in folder.iterdir()) == ["letter.txt", "whole.mp4"]
    assert await cache.fetch(stored("whole"))
    assert shelf.asked == []
    (folder / "whole.mp4").unlink()  # somebody tidied up
    assert await cache.fetch(stored("whole"))
    assert shelf.asked == ["whole"]
    await cache.forget(["whole", "other"])
    assert names(cache) == set()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (StorageUnavailable("nobody there"), PlayCause.STORAGE_UNAVAILABLE),
        (NotWritten("No space left on device"), PlayCause.CACHE_FULL),
    ],
)
async def test_failures_have_a_cause_and_leave_nothing(
    tmp_path: Path, error: Exception, cause: PlayCause
) -> None:
    shelf = Shelf()
    cache = cache_of(tmp_path, shelf)
    await cache.start()
    shelf.error = error
    with pytest.raises(PlayFailed, match=str(error)) as failed:
        await cache.fetch(stored("a"))
    assert failed.value.cause is cause
    shelf.error = ObjectMissing("404")
    assert not await cache.fetch(stored("a"))
    shelf.error, shelf.sizes["a"] = None, MB - 1
    with pytest.raises(PlayFailed, match="recorded were"):
        await cache.fetch(stored("a"))
    assert not list(cache.directory.iterdir())
    assert not cache._coming
    shelf.sizes.clear()
    assert await cache.fetch(stored("a")), "a failure is not remembered"


async def test_whoever_waits_too_long_is_told_and_the_fetch_goes_on(tmp_path: Path) -> None:
    shelf = Shelf()
    cache = cache_of(tmp_path, shelf, fetch_timeout_s=0.2)
    await cache.start()
    shelf.gate.clear()
    with pytest.raises(PlayFailed, match=r"0\.5 of 1\.0 MB are here") as late:
        await cache.fetch(stored("a"))
    assert (late.value.cause, late.value.status, late.value.sip_status) == (
        PlayCause.STORAGE_TIMEOUT,
        504,
        504,
    )
    shelf.gate.set()
    assert await cache.fetch(stored("a"))
    assert shelf.asked == ["a"]
    await cache.close()


async def test_metrics_say_what_the_cache_did(tmp_path: Path) -> None:
    shelf = Shelf()
    cache = cache_of(tmp_path, shelf)
    await cache.start()
    shelf.gate.clear()
    waiting = [asyncio.create_task(cache.fetch(stored("a"))) for _ in range(3)]
    while not shelf.asked:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    shelf.gate.set()
    assert await asyncio.gather(*waiting) == [True, True, True]
    for name in ("a", "b", "c", "d"):  # room for three
        assert await cache.fetch(stored(name))
    shelf.error = ObjectMissing("404")
    assert not await cache.fetch(stored("e"))
    shelf.error = StorageUnavailable("refused")
    with pytest.raises(PlayFailed):
        await cache.fetch(stored("f"))
    read = {
        (sample.name, sample.labels.get("result", "")): sample.value
        for metric in read_cache(cache)
        for sample in metric.samples
    }
    prefix = "gateway_recording_cache"
    fetches = {result: value for (name, result), value in read.items() if name == f"{prefix}_fetches_total"}
    assert fetches == {"fetched": 4, "joined": 2, "found": 1, "missing": 1, "failed": 1}
    files = cache.files
    assert read[f"{prefix}_evicted_files_total", ""] == 4 - files
    assert 1 <= files <= 3
    assert read[f"{prefix}_files", ""] == files
    assert read[f"{prefix}_bytes", ""] == files * MB
    assert read[f"{prefix}_limit_bytes", ""] == 3 * MB
    await cache.close()
