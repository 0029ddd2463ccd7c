"""The disks for recordings: which are there, how full they are, which may take new files. Told to all media nodes.

Every disk carries a marker file. A directory without marker, of which the index knows files, is a mount that is gone:
it is not written to, so that a missing disk never fills the one below its mount point.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from config.settings import DiskSettings, RecordingSettings
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.recording_events import DiskStateChanged
from media.errors import MediaError
from media.readers.segment_disks import MARKER
from media.specs import DiskList, DiskSpec

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 8.0
LOW_FACTOR = 1.5
"""Below this multiple of the reserve a disk is called low: expired files are looked for at once."""


class DiskState(StrEnum):
    OK = "ok"
    LOW = "low"
    FULL = "full"
    MISSING = "missing"
    READ_ONLY = "read_only"
    FAILING = "failing"

    @property
    def writable(self) -> bool:
        return self in (DiskState.OK, DiskState.LOW)


class Space(NamedTuple):
    total_bytes: int
    free_bytes: int


@dataclass(slots=True, eq=False)
class DiskStatus:
    """One disk as it was seen last. ``reserve_bytes``: what is to stay free."""

    settings: DiskSettings
    directory: Path
    state: DiskState = DiskState.FAILING
    detail: str = "not looked at yet"
    total_bytes: int = 0
    free_bytes: int = 0
    reserve_bytes: int = 0
    probing: threading.Event | None = field(default=None, repr=False)

    @property
    def disk_id(self) -> str:
        return self.settings.disk_id


def space_of(directory: Path) -> Space:
    """Bytes of the file system, all and those an ordinary user may take. OSError."""
    state = os.statvfs(directory)
    return Space(state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize)


class DiskGuard:
    """Looks at all disks every ``disk_check_s``. ``known`` says whether the index has files of a disk."""

    def __init__(
        self,
        *,
        settings: RecordingSettings,
        default_directory: Path,
        nodes: Nodes,
        bus: EventBus,
        known: Callable[[str], Awaitable[bool]],
        clock: Clock,
        space: Callable[[Path], Space] = space_of,
    ) -> None:
        disks = settings.disks or [DiskSettings(disk_id="main", directory=default_directory)]
        self.disks = {d.disk_id: DiskStatus(d, d.directory.absolute()) for d in disks}
        self.on_low: Callable[[DiskStatus], None] | None = None
        """Called at each look at a disk that is low or full."""
        self._settings = settings
        self._nodes = nodes
        self._bus = bus
        self._known = known
        self._clock = clock
        self.space = space
        self._told: dict[NodeHandle, DiskList] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.look()
        self._nodes.on_ready.append(self._node_ready)
        self._task = asyncio.create_task(self._run(), name="recording-disks")

    async def close(self) -> None:
        if self._task is not None:
            self._nodes.on_ready.remove(self._node_ready)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def path_of(self, disk_id: str, path: str) -> Path | None:
        """Where a segment's file is; None for a disk that is not configured any more."""
        disk = self.disks.get(disk_id)
        return disk.directory / path if disk is not None else None

    def look_soon(self) -> None:
        """Something went wrong with a disk: look at all of them now."""
        self._wake.set()

    @property
    def any_writable(self) -> bool:
        return any(disk.state.writable for disk in self.disks.values())

    async def look(self) -> None:
        """Look at every disk once and tell the nodes what has changed."""
        await asyncio.gather(*(self._look_at(disk) for disk in self.disks.values()))
        await self._tell(self._nodes.handles())

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._settings.disk_check_s)
            await self.look()

    def _node_ready(self, node: NodeHandle) -> None:
        self._wake.set()

    async def _look_at(self, disk: DiskStatus) -> None:
        known = await self._known(disk.disk_id)
        if disk.probing is not None and not disk.probing.is_set():
            self._changed(disk, DiskState.FAILING, "the disk does not answer")
            return
        done = disk.probing = threading.Event()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                state, detail, space = await asyncio.to_thread(self._probe_in_thread, disk, known, done)
        except TimeoutError:
            self._changed(disk, DiskState.FAILING, "the disk does not answer")
            return
        if space is not None:
            disk.total_bytes, disk.free_bytes = space
            share = int(space.total_bytes * disk.settings.reserve_percent / 100)
            disk.reserve_bytes = max(disk.settings.reserve_bytes, share)
            if state is DiskState.OK and space.free_bytes <= disk.reserve_bytes:
                state, detail = DiskState.FULL, "only the reserve is left"
            elif state is DiskState.OK and space.free_bytes <= disk.reserve_bytes * LOW_FACTOR:
                state, detail = DiskState.LOW, "the reserve is near"
        self._changed(disk, state, detail)
        if state in (DiskState.LOW, DiskState.FULL) and self.on_low is not None:
            self.on_low(disk)

    def _probe_in_thread(
        self, disk: DiskStatus, known: bool, done: threading.Event
    ) -> tuple[DiskState, str, Space | None]:
        """Marker, space, and a small file written, synced and removed."""
        try:
            try:
                fault = _mark(disk, known)
                if fault:
                    return DiskState.MISSING, fault, None
                space = self.space(disk.directory)
            except FileNotFoundError as error:
                return DiskState.MISSING, error.strerror or "missing", None
            except PermissionError as error:
                return DiskState.READ_ONLY, error.strerror or "no right to write", None
            except OSError as error:
                return _state_of(error), error.strerror or type(error).__name__, None
            try:
                _write_probe(disk.directory)
            except OSError as error:
                state = _state_of(error)
                full = space.free_bytes <= 0 or error.errno == 28
                return DiskState.FULL if full else state, error.strerror or type(error).__name__, space
            return DiskState.OK, "", space
        finally:
            done.set()

    def _changed(self, disk: DiskStatus, state: DiskState, detail: str) -> None:
        before, disk.state, disk.detail = disk.state, state, detail
        if before is state:
            return
        level = logging.INFO if state is DiskState.OK else logging.ERROR
        log.log(
            level, "recording disk disk_id=%s state=%s free_bytes=%d detail=%s",
            *(disk.disk_id, state.value, disk.free_bytes, detail),
        )  # fmt: skip
        self._bus.publish(DiskStateChanged(disk.disk_id, state.value, disk.free_bytes, detail))

    async def _tell(self, nodes: Iterable[NodeHandle]) -> None:
        """Each node hears the list when it is new to it."""
        disks = DiskList(
            disks=tuple(
                DiskSpec(
                    disk_id=disk.disk_id, directory=str(disk.directory), reserve_bytes=disk.reserve_bytes,
                    usable=disk.state.writable,
                )
                for disk in self.disks.values()
            )
        )  # fmt: skip
        nodes = list(nodes)
        for node in nodes:
            if self._told.get(node) == disks:
                continue
            try:
                await node.client.set_disks(disks)
            except MediaError as error:
                log.warning("node not told of disks node_id=%s cause=%s", node.node_id, error)
            else:
                self._told[node] = disks
        self._told = {node: told for node, told in self._told.items() if node in nodes}

    async def tell(self, node: NodeHandle) -> None:
        """Make sure that this node knows the disks, before it is asked to record."""
        if node not in self._told:
            await self._tell([*self._told, node])


def _mark(disk: DiskStatus, known: bool) -> str:
    """Make sure of the marker. A non-empty answer says why the directory is not our disk."""
    marker = disk.directory / MARKER
    if marker.exists():
        try:
            owner = json.loads(marker.read_text(encoding="utf-8"))["disk_id"]
        except (ValueError, KeyError, TypeError):
            owner = disk.disk_id  # a torn marker is still a marker
        return "" if owner == disk.disk_id else f"the directory belongs to disk {owner!r}"
    if known:
        return "the marker file is gone: is the disk mounted?"
    disk.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    marker.write_text(json.dumps({"disk_id": disk.disk_id}) + "\n", encoding="utf-8")
    return ""


def _write_probe(directory: Path) -> None:
    probe = directory / f"{MARKER}.probe"
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.write(handle, b"probe" * 20)
        os.fsync(handle)
    finally:
        os.close(handle)
        os.unlink(probe)


def _state_of(error: OSError) -> DiskState:
    if error.errno in (30, 13, 1):  # EROFS, EACCES, EPERM
        return DiskState.READ_ONLY
    if error.errno in (2, 20):  # ENOENT, ENOTDIR
        return DiskState.MISSING
    return DiskState.FAILING
