"""Finished files to S3-compatible storage: uploaded in the background, read back by range or by a signed address.

Needs the extra ``s3`` (aiobotocore). The client lives in a thread with a loop of its own: it hashes what it sends, and
neither that nor reading files may hold up signalling.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from config.settings import S3Settings
from gateway.services.recording_disks import DiskGuard
from gateway.storage.recordings import LONGEST_SEGMENT_S, RecordingStore, StoredSegment

log = logging.getLogger(__name__)

PART_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
LOOK_S = 5.0
LOOK_AT_ALL_S = 3600.0
"""So often the whole index is looked through; in between only what is young."""
LOOK_BACK_S = 600.0
BACKOFF_S = 30.0
URL_LIFETIME_S = 900
T = TypeVar("T")


class StorageUnavailable(OSError):
    """The object storage refused or could not be reached."""


class ObjectMissing(StorageUnavailable):
    """There is no such object (any more)."""


class NotWritten(Exception):
    """What came from the storage cannot be written here."""


class ObjectStore:
    """One bucket. Coroutines may be awaited on any loop; all raise StorageUnavailable."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="recording-s3", daemon=True)
        self._stack = contextlib.AsyncExitStack()
        self._client: Any = None

    async def start(self) -> None:
        """Make the client; nothing is asked of the server yet. StorageUnavailable without aiobotocore."""
        try:
            import aiobotocore.session
        except ImportError as error:
            raise StorageUnavailable(
                "recording.s3 needs the extra: pip install gb28181-gateway[s3]"
            ) from error
        self._thread.start()
        await self._call(self._open(aiobotocore.session.get_session()))

    async def close(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(StorageUnavailable):
                await self._call(self._stack.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join, 5.0)
        if not self._thread.is_alive():
            self._loop.close()

    def key_of(self, segment: StoredSegment) -> str:
        """The object's name: the file's path behind the prefix."""
        prefix = self._settings.prefix.strip("/")
        return f"{prefix}/{segment.info.path}" if prefix else segment.info.path

    async def upload(self, path: Path, key: str) -> None:
        await self._call(self._upload(path, key))

    async def remove(self, key: str) -> None:
        """An object that is gone already is fine."""
        await self._call(self._client.delete_object(Bucket=self._settings.bucket, Key=key))

    async def read(self, key: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of an object."""
        return await self._call(self._read(key, start, end))

    async def download(self, key: str, path: Path, progress: Callable[[int], None]) -> int:
        """Write an object to ``path``; its size in bytes. ``progress`` is told the bytes so far, in another thread.

        Raises ObjectMissing, StorageUnavailable, NotWritten.
        """
        return await self._call(self._download(key, path, progress))

    async def url(self, key: str, lifetime_s: int = URL_LIFETIME_S) -> tuple[str, int]:
        """An address that anybody can GET (with Range), and for how many seconds."""
        params = {"Bucket": self._settings.bucket, "Key": key}
        call = self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=lifetime_s)
        return str(await self._call(call)), lifetime_s

    async def _call(self, work: Coroutine[Any, Any, T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise ObjectMissing(f"{type(error).__name__}: {error}") from error
            raise StorageUnavailable(f"{type(error).__name__}: {error}") from error
        except (BotoCoreError, TimeoutError, OSError) as error:
            raise StorageUnavailable(f"{type(error).__name__}: {error}") from error

    async def _open(self, session: Any) -> None:
        from aiobotocore.config import AioConfig

        settings = self._settings
        config = AioConfig(
            signature_version="s3v4", connect_timeout=5, read_timeout=30, retries={"max_attempts": 2},
            s3={"addressing_style": "path"}, request_checksum_calculation="when_required",
        )  # fmt: skip
        self._client = await self._stack.enter_async_context(
            session.create_client(
                "s3", endpoint_url=settings.endpoint, region_name=settings.region, config=config,
                aws_access_key_id=settings.access_key.get_secret_value(),
                aws_secret_access_key=settings.secret_key.get_secret_value(),
            )
        )  # fmt: skip

    async def _upload(self, path: Path, key: str) -> None:
        """In one piece, or in parts of 8 MiB that become an object only when all are there."""
        where = {"Bucket": self._settings.bucket, "Key": key}
        with path.open("rb") as file:
            data = file.read(PART_BYTES)
            if len(data) < PART_BYTES:
                await self._client.put_object(**where, Body=data, ContentType="video/mp4")
                return
            begun = await self._client.create_multipart_upload(**where, ContentType="video/mp4")
            where["UploadId"] = begun["UploadId"]
            try:
                parts: list[dict[str, Any]] = []
                while data:
                    number = len(parts) + 1
                    done = await self._client.upload_part(**where, PartNumber=number, Body=data)
                    parts.append({"PartNumber": number, "ETag": done["ETag"]})
                    data = file.read(PART_BYTES)
                await self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
            except BaseException:
                await self._client.abort_multipart_upload(**where)
                raise

    async def _read(self, key: str, start: int, end: int) -> bytes:
        answer = await self._client.get_object(
            Bucket=self._settings.bucket, Key=key, Range=f"bytes={start}-{end - 1}"
        )
        async with answer["Body"] as body:
            return bytes(await body.read())

    async def _download(self, key: str, path: Path, progress: Callable[[int], None]) -> int:
        answer = await self._client.get_object(Bucket=self._settings.bucket, Key=key)
        size = 0
        async with answer["Body"] as body, contextlib.AsyncExitStack() as stack:
            try:
                file = stack.enter_context(path.open("wb"))
            except OSError as error:
                raise NotWritten(str(error)) from error
            while data := await body.read(CHUNK_BYTES):
                try:
                    file.write(data)
                except OSError as error:
                    raise NotWritten(str(error)) from error
                size += len(data)
                progress(size)
        return size


class Uploader:
    """Uploads what is finished, oldest first; drops the local file afterwards if so set and nobody plays it."""

    def __init__(
        self,
        *,
        settings: S3Settings,
        classes: Callable[[], list[str]],
        store: RecordingStore,
        objects: ObjectStore,
        guard: DiskGuard,
        in_use: Callable[[str], bool] = lambda segment_id: False,
    ) -> None:
        self.uploaded = 0
        self.uploaded_bytes = 0
        self.failures = 0
        self._settings = settings
        self._classes = classes
        self._store = store
        self._objects = objects
        self._guard = guard
        self._in_use = in_use
        self._to_drop: dict[str, StoredSegment] = {}
        """Uploaded, and still here because somebody plays them."""
        self._since = self._looked_at_all = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="recording-upload")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            pause_s = LOOK_S
            try:
                if not await self.upload_some():
                    pause_s = BACKOFF_S
            except SQLAlchemyError as error:
                log.error("files to upload not looked for cause=%s", error)
            await asyncio.sleep(pause_s)

    async def upload_some(self) -> bool:
        """Upload all that waits, some at a time. False when the storage failed."""
        classes = self._settings.classes or self._classes()
        started = time.time()
        since = self._since
        if started - self._looked_at_all >= LOOK_AT_ALL_S:
            self._looked_at_all, since = started, 0.0
            await self._find_to_drop()
        await self._drop_unused()
        while found := await self._store.to_upload(
            classes,
            disks=[d.disk_id for d in self._guard.disks.values()],
            since=since,
            limit=self._settings.uploads_at_once,
        ):
            results = await asyncio.gather(*(self._upload(segment) for segment in found))
            if not all(results):
                return False
        self._since = started - LONGEST_SEGMENT_S - LOOK_BACK_S
        return True

    async def _upload(self, segment: StoredSegment) -> bool:
        info = segment.info
        path, key = self._guard.path_of(info.disk_id, info.path), self._objects.key_of(segment)
        if path is None:
            return False
        try:
            await self._objects.upload(path, key)
        except OSError as error:
            self.failures += 1
            log.error("recording not uploaded segment_id=%s cause=%s", info.segment_id, error)
            return False
        self.uploaded += 1
        self.uploaded_bytes += info.bytes
        await self._store.set_location(info.segment_id, local=True, remote_key=key)
        if not self._settings.keep_local:
            await self._drop(dataclasses.replace(segment, remote_key=key))
        return True

    async def _drop(self, segment: StoredSegment) -> None:
        """Take an uploaded file from its disk; one that is played goes later.

        First the file, then the entry: whoever holds it after this look finds it gone and fetches it.
        """
        info = segment.info
        path = self._guard.path_of(info.disk_id, info.path)
        if self._in_use(info.segment_id):
            self._to_drop[info.segment_id] = segment
            return
        self._to_drop.pop(info.segment_id, None)
        if path is not None:
            try:
                await asyncio.to_thread(path.unlink, True)
            except OSError as error:
                log.error("uploaded recording not deleted segment_id=%s cause=%s", info.segment_id, error)
                return
            await self._store.set_location(info.segment_id, local=False, remote_key=segment.remote_key)

    async def _drop_unused(self) -> None:
        for segment in tuple(self._to_drop.values()):
            await self._drop(segment)

    async def _find_to_drop(self) -> None:
        """What a stop, or another setting before, left on the disks."""
        if not self._settings.keep_local:
            for segment in await self._store.uploaded_and_local(list(self._guard.disks)):
                self._to_drop[segment.info.segment_id] = segment
