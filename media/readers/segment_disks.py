"""The disks of a media node and the threads that write to them: one per disk, with a bounded queue.

The event loop only hands over bytes; a disk that hangs delays nobody but its own files. Each disk is used only while
the marker file that the gateway put there is seen: when a mount is gone, its empty directory must not be filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from media import segments
from media.readers.segmenter import access_table
from media.specs import DiskSpec

log = logging.getLogger(__name__)

MARKER = ".gb-recordings"
LOOK_S = 2.0
"""So often free space and marker are looked at."""
HUNG_S = 10.0
"""A disk that is busy with one write for this long gets no new files."""
PENALTY_S = 15.0
"""After a failed write a disk gets no new files for this long."""
JOIN_S = 4.0
FIRST_LOOK_S = 1.0
FILE_MODE = 0o640


@dataclass(slots=True, eq=False)
class Target:
    """One file being written. ``failed`` is set by the thread; what is queued for it then is dropped."""

    disk: Disk
    path: str
    on_failed: Callable[[Target, OSError], None]
    on_closed: Callable[[Target, str], None]
    """Called on the loop with the final relative path, when the file is safe on the disk."""
    on_opened: Callable[[Target], None] = lambda target: None
    written: int = 0
    failed: bool = False
    fd: int = -1
    groups: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Open:
    target: Target
    data: bytes


@dataclass(frozen=True, slots=True)
class _Write:
    target: Target
    data: bytes
    group_ticks: int | None
    """Media time of the key frame this begins with; None: it goes on."""


@dataclass(frozen=True, slots=True)
class _Close:
    target: Target


_Job = _Open | _Write | _Close


class Disk:
    """One directory, its thread and its queue. Methods are for the event loop; names with ``_in_thread`` are not."""

    def __init__(self, spec: DiskSpec, *, queue_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.spec = spec
        self.directory = Path(spec.directory)
        self.free_bytes = 0
        self.present = False
        self.fault = ""
        self.open_files = 0
        self.bytes_written = 0
        self.write_errors = 0
        self.queued_bytes = 0
        self._limit = queue_bytes
        self._loop = loop
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Condition()
        self._stopping = False
        self._busy_since: float | None = None
        self._shunned_until = 0.0
        self.looked = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"disk-{spec.disk_id}", daemon=True)
        self._thread.start()

    # --- the loop's side ---------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether new files may begin here."""
        now, busy = time.monotonic(), self._busy_since
        hung = busy is not None and now - busy > HUNG_S
        room = self.free_bytes > self.spec.reserve_bytes
        return self.spec.usable and self.present and room and not hung and now >= self._shunned_until

    @property
    def score(self) -> float:
        """Free space shared by the files that are being written."""
        return (self.free_bytes - self.spec.reserve_bytes) / (1 + self.open_files)

    def shun(self) -> None:
        """A write failed: no new files for a while."""
        self._shunned_until = time.monotonic() + PENALTY_S

    def open(self, target: Target, head: bytes) -> None:
        """Create the file with its head. Failures come back by ``target.on_failed``."""
        self.open_files += 1
        self._put(_Open(target, head), len(head))

    def write(self, target: Target, data: bytes, group_ticks: int | None) -> bool:
        """Append; False when the queue is full and nothing was taken."""
        if self.queued_bytes + len(data) > self._limit:
            return False
        self._put(_Write(target, data, group_ticks), len(data))
        return True

    def close_file(self, target: Target) -> None:
        """Table, fsync, final name; ``target.on_closed`` tells. Always taken."""
        self._put(_Close(target), 0)

    def _put(self, job: _Job, size: int) -> None:
        with self._lock:
            self.queued_bytes += size
            self._jobs.append(job)
            self._lock.notify()

    def stop(self) -> None:
        """Let the thread finish what is queued and end."""
        with self._lock:
            self._stopping = True
            self._lock.notify()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    # --- the thread's side -------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._look_in_thread()
        self.looked.set()
        looked = time.monotonic()
        while True:
            with self._lock:
                if not self._jobs:
                    if self._stopping:
                        return
                    self._lock.wait(LOOK_S)
                job = self._jobs.popleft() if self._jobs else None
            self._busy_since = time.monotonic()
            if job is not None:
                self._do(job)
            if time.monotonic() - looked >= LOOK_S:
                self._look_in_thread()
                looked = time.monotonic()
            self._busy_since = None

    def _do(self, job: _Job) -> None:
        target, size = job.target, 0 if isinstance(job, _Close) else len(job.data)
        try:
            if isinstance(job, _Open):
                self._open_in_thread(job)
            elif isinstance(job, _Write):
                self._write_in_thread(job)
            else:
                self._close_in_thread(target)
        except OSError as error:
            self._failed_in_thread(target, error)
        with self._lock:
            self.queued_bytes -= size

    def _open_in_thread(self, job: _Open) -> None:
        target = job.target
        whole = self.directory / target.path
        if not (self.directory / MARKER).exists():
            self.present = False
            raise OSError(errno.ENODEV, "the disk's marker is gone", str(self.directory))
        whole.parent.mkdir(parents=True, exist_ok=True)
        target.fd = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        fcntl.flock(target.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_all(target.fd, job.data)
        segments.sync_folder(whole.parent)
        target.written = len(job.data)
        self.bytes_written += len(job.data)
        self._tell(target.on_opened, target)

    def _write_in_thread(self, job: _Write) -> None:
        target = job.target
        if target.failed or target.fd < 0:
            return
        _write_all(target.fd, job.data)
        if job.group_ticks is not None:
            target.groups.append((job.group_ticks, target.written))
        target.written += len(job.data)
        self.bytes_written += len(job.data)

    def _close_in_thread(self, target: Target) -> None:
        self.open_files -= 1
        if target.failed or target.fd < 0:
            return
        table = access_table(target.groups)
        _write_all(target.fd, table)
        target.written += len(table)
        self.bytes_written += len(table)
        os.fsync(target.fd)
        final = target.path.removesuffix(segments.PART)
        whole = self.directory / final
        os.rename(self.directory / target.path, whole)
        segments.sync_folder(whole.parent)
        os.close(target.fd)
        target.fd = -1
        self._tell(target.on_closed, target, final)

    def _failed_in_thread(self, target: Target, error: OSError) -> None:
        """Keep what is whole: cut a half-written piece off and leave the rest to the index's healing."""
        self.write_errors += 1
        first, target.failed = not target.failed, True
        if target.fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(target.fd, target.written)
            with contextlib.suppress(OSError):
                os.close(target.fd)
            target.fd = -1
        if first:
            self._tell(target.on_failed, target, error)

    def _look_in_thread(self) -> None:
        try:
            self.present = (self.directory / MARKER).exists()
            state = os.statvfs(self.directory)
            self.free_bytes = state.f_bavail * state.f_frsize
            self.fault = "" if self.present else "missing"
        except OSError as error:
            self.present, self.free_bytes, self.fault = False, 0, error.strerror or type(error).__name__

    def _tell(self, listener: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before its disks
            self._loop.call_soon_threadsafe(listener, *arguments)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Disks:
    """All disks of this node, as the gateway told them. ``place`` finds one for a new file."""

    def __init__(self, *, queue_bytes: int) -> None:
        self._queue_bytes = queue_bytes
        self._disks: dict[str, Disk] = {}
        self._retired: list[Disk] = []
        self._gone_bytes = self._gone_errors = 0

    async def set(self, specs: Iterable[DiskSpec]) -> None:
        """Take over the gateway's list. Files that are open on a disk that left the list are finished there."""
        loop = asyncio.get_running_loop()
        wanted = {spec.disk_id: spec for spec in specs}
        for disk_id, disk in tuple(self._disks.items()):
            spec = wanted.get(disk_id)
            if spec is None or spec.directory != disk.spec.directory:
                self._retired.append(self._disks.pop(disk_id))
            else:
                disk.spec = spec
        for disk_id, spec in wanted.items():
            if disk_id not in self._disks:
                self._disks[disk_id] = Disk(spec, queue_bytes=self._queue_bytes, loop=loop)
        for disk in list(self._disks.values()):
            await asyncio.to_thread(disk.looked.wait, FIRST_LOOK_S)

    def place(self) -> Disk | None:
        """The disk with the most room per open file; None when no disk may take a new file."""
        for disk in [disk for disk in self._retired if not disk.open_files]:
            self._retired.remove(disk)
            self._gone_bytes += disk.bytes_written
            self._gone_errors += disk.write_errors
            disk.stop()
        usable = [disk for disk in self._disks.values() if disk.usable]
        return max(usable, key=lambda disk: disk.score) if usable else None

    @property
    def bytes_written(self) -> int:
        return self._gone_bytes + sum(disk.bytes_written for disk in self._all)

    @property
    def write_errors(self) -> int:
        return self._gone_errors + sum(disk.write_errors for disk in self._all)

    @property
    def queued_bytes(self) -> int:
        return sum(disk.queued_bytes for disk in self._all)

    @property
    def _all(self) -> list[Disk]:
        return [*self._disks.values(), *self._retired]

    async def close(self) -> None:
        """Write what is queued and end the threads; a disk that hangs is left behind after some seconds."""
        disks = self._all
        self._disks.clear()
        self._retired.clear()
        for disk in disks:
            disk.stop()
        deadline = time.monotonic() + JOIN_S
        for disk in disks:
            await asyncio.to_thread(disk.join, max(0.1, deadline - time.monotonic()))
