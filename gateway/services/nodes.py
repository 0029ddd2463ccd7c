"""Media nodes as child processes: spawned, listened to, watched, restarted; the least loaded one gets the next stream.

A node that dies takes no signalling with it: its streams are reported lost and SIP goes on. Heartbeats run
both ways: we ask for statistics, the node pings its event stream, and a closed standard input (the gateway was
killed) ends the node by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import MediaSettings
from gateway.services.errors import PlayCause, PlayFailed
from media.client import MediaClient
from media.errors import MediaError
from media.specs import (
    RTSP_REALM,
    NodeConfig,
    NodeEvent,
    NodeStats,
    RecordingEvent,
    RtspAccount,
    TalkEvent,
)
from sip.digest import ha1

log = logging.getLogger(__name__)

NODE_COMMAND = (sys.executable, "-m", "media.node")
START_TIMEOUT_S = 40.0
"""Importing codecs and WebRTC takes seconds on a loaded machine."""
STOP_TIMEOUT_S = 9.0
"""A node flushes what waits in its relays for two seconds, then ends its viewers."""
HEARTBEAT_S = 2.0
HEARTBEATS_MISSED = 3
BACKOFF_FIRST_S = 0.5
BACKOFF_LAST_S = 30.0
STABLE_AFTER_S = 60.0
LAG_LIMIT_S = 0.25
LONGEST_DIRECTORY = 80
"""Bytes. A socket's path has 107 at most (sockaddr_un), and its own name takes some."""
CPU_SMOOTHING = 0.4
STREAM_SHARE = 0.004
"""What a stream costs as long as nothing is measured: demuxed, 4 Mbit/s, a share of a core."""
TIE_SHARE = 0.0002
"""Part of a stream's count that decides between nodes that are equally busy."""


class NodeStartFailed(Exception):
    """The process did not become ready: no ready line in time, or it exited."""


@dataclass(slots=True, eq=False)
class NodeHandle:
    """One running node process. A restarted node gets a new handle under the same ``node_id``."""

    node_id: str
    number: int
    client: MediaClient
    viewer_port: int
    pid: int = 0
    started_mono: float = 0.0
    alive: bool = True
    stats: NodeStats | None = None
    placed: int = 0
    """Streams that sessions have put here; ahead of ``stats``, which is a heartbeat old."""
    rtsp_port: int = 0
    """0: it serves no RTSP."""

    cpu_share: float | None = None
    """Share of a core that the process used lately, smoothed over some heartbeats; None until measured."""
    _measured_mono: float = 0.0

    @property
    def load(self) -> tuple[bool, float]:
        """Ordering for placement: a lagging node last, then by processor time, measured and expected."""
        stats = self.stats
        if stats is None:
            return (False, self.placed * STREAM_SHARE)
        counted = self.placed + 0.5 * stats.senders + 0.2 * stats.viewers
        lagging = stats.loop_lag_s > LAG_LIMIT_S
        if self.cpu_share is None:
            return (lagging, counted * STREAM_SHARE)
        coming = max(
            0, self.placed - stats.streams
        )  # placed since the last heartbeat: not in its processor time yet
        return (lagging, self.cpu_share + coming * STREAM_SHARE + counted * TIE_SHARE)

    def take_stats(self, stats: NodeStats, now: float) -> None:
        """A heartbeat's account; two of them say how busy the process is."""
        before = self.stats
        if before is not None and now > self._measured_mono:
            share = max(0.0, stats.cpu_seconds - before.cpu_seconds) / (now - self._measured_mono)
            old = self.cpu_share
            self.cpu_share = share if old is None else old + (share - old) * CPU_SMOOTHING
        self.stats, self._measured_mono = stats, now


@dataclass(slots=True)
class NodePlan:
    """What every node is configured with; each node gets its own slice of the port ranges."""

    settings: MediaSettings
    ticket_secret: str
    media_host: str = "0.0.0.0"
    bind_host: str = "0.0.0.0"
    log_level: str = "INFO"
    log_format: str = "text"
    recording_queue_bytes: int = 64 * 1024 * 1024
    inputs_directory: str = ""
    downloads: int = 4

    def config(self, number: int, control: str, secret: str) -> NodeConfig:
        """Configuration of node ``number`` (0 based). RTP slices start on even ports (RFC 3550 11)."""
        settings = self.settings
        rtp = _slice(settings.rtp_port_min, settings.rtp_port_max, number, settings.node_count, even=True)
        webrtc = _slice(settings.webrtc_port_min, settings.webrtc_port_max, number, settings.node_count)
        shared = settings.shared_rtp_port
        return NodeConfig(
            node_id=f"node-{number}",
            control=control,
            control_secret=secret,
            media_host=self.media_host,
            bind_host=self.bind_host,
            rtp_port_min=rtp[0],
            rtp_port_max=rtp[1],
            shared_rtp_port=None if shared is None else shared + 2 * number,
            viewer_host=settings.viewer_host,
            viewer_port=settings.viewer_port + number if settings.viewer_port else 0,
            webrtc_port=None if settings.webrtc_port is None else settings.webrtc_port + number,
            decode_workers=settings.decode_workers,
            transcoders=settings.transcoders,
            webrtc_port_min=webrtc[0],
            webrtc_port_max=webrtc[1],
            ticket_secret=self.ticket_secret,
            rtsp_port=None if settings.rtsp_port is None else settings.rtsp_port + number,
            rtsp_accounts=rtsp_accounts(settings),
            rtsp_start_timeout_s=settings.invite_timeout_s + 2 * settings.first_picture_timeout_s + 5,
            port_quarantine_s=settings.port_quarantine_s,
            pump=settings.pump,
            recording_queue_bytes=self.recording_queue_bytes,
            inputs_directory=self.inputs_directory,
            downloads=self.downloads,
            log_level=self.log_level,
            log_format=self.log_format,
        )


def rtsp_accounts(settings: MediaSettings) -> tuple[RtspAccount, ...]:
    """The accounts as the nodes get them: HA1 values instead of passwords."""
    accounts = []
    for account in settings.rtsp_accounts:
        proof = account.username, RTSP_REALM, account.password.get_secret_value()
        accounts.append(
            RtspAccount(
                username=account.username, ha1_md5=ha1(*proof, "MD5"), ha1_sha256=ha1(*proof, "SHA-256")
            )
        )
    return tuple(accounts)


def socket_directory() -> Path:
    """A new directory of mode 0700: the sockets are ours alone. In /tmp where TMPDIR is too long for them."""
    directory = Path(tempfile.mkdtemp(prefix="gb-media-"))
    if len(bytes(directory)) <= LONGEST_DIRECTORY:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix="gb-media-", dir="/tmp"))


def _slice(first: int, last: int, number: int, count: int, *, even: bool = False) -> tuple[int, int]:
    """Part ``number`` of ``count`` equal parts of the port range first..last (both included)."""
    width = max(2, (last - first + 1) // count)
    low = first + number * width
    if even:
        low += low % 2
    return low, min(last, first + (number + 1) * width - 1)


@dataclass(slots=True)
class Nodes:
    """All media nodes of this gateway.

    ``on_event`` gets every event, ``on_stats`` at each heartbeat the node's own account of its streams; ``on_lost``
    and ``on_ready`` are told to whoever put a callback there. All are short and synchronous.
    """

    plan: NodePlan
    command: Sequence[str] = NODE_COMMAND
    heartbeat_s: float = HEARTBEAT_S
    backoff_first_s: float = BACKOFF_FIRST_S
    on_event: Callable[[NodeHandle, NodeEvent], None] | None = None
    on_recording: Callable[[NodeHandle, RecordingEvent], None] | None = None
    """Gets the events of recordings; all others go to ``on_event``."""
    on_talk: Callable[[NodeHandle, TalkEvent], None] | None = None
    """The same for talks."""
    on_stats: Callable[[NodeHandle, NodeStats], None] | None = None
    on_lost: list[Callable[[NodeHandle, str], None]] = field(default_factory=list)
    on_ready: list[Callable[[NodeHandle], None]] = field(default_factory=list)
    restarts: int = 0
    _handles: dict[int, NodeHandle] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _directory: Path | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start all node processes and wait until each is ready or ``timeout_s`` is over (restarts go on)."""
        directory = socket_directory()
        self._directory = directory
        for number in range(self.plan.settings.node_count):
            self._tasks.append(asyncio.create_task(self._supervise(number, directory), name=f"node-{number}"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self._handles) < self.plan.settings.node_count:
                    self._changed.clear()
                    await self._changed.wait()

    async def close(self) -> None:
        """SIGTERM to every node, SIGKILL to those that do not go. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def pick(self) -> NodeHandle:
        """The least loaded living node. Raises PlayFailed(node_down) when there is none."""
        if not self._handles:
            raise PlayFailed(PlayCause.NODE_DOWN, "no media node is running")
        return min(self._handles.values(), key=lambda handle: handle.load)

    def handles(self) -> list[NodeHandle]:
        """Living nodes in order of their number."""
        return [self._handles[number] for number in sorted(self._handles)]

    def get(self, node_id: str) -> NodeHandle | None:
        return next((handle for handle in self._handles.values() if handle.node_id == node_id), None)

    async def wait_any(self, timeout_s: float) -> bool:
        """True as soon as one node runs; False when none came up in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._handles:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _supervise(self, number: int, directory: Path) -> None:
        """One node for ever: spawn, watch, clean up, wait longer after each quick death."""
        backoff_s = self.backoff_first_s
        while True:
            started = time.monotonic()
            try:
                await self._live_once(number, directory)
            except NodeStartFailed as error:
                log.error("node start failed node_id=node-%d cause=%s", number, error)
            if time.monotonic() - started > STABLE_AFTER_S:
                backoff_s = self.backoff_first_s
            self.restarts += 1
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    async def _live_once(self, number: int, directory: Path) -> None:
        """One life of one node process, from spawning to its end. Raises NodeStartFailed."""
        control = f"unix:{directory}/{number}-{secrets.token_hex(4)}.sock"
        config = self.plan.config(number, control, secrets.token_urlsafe(32))
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=None,
            start_new_session=True,  # a Ctrl-C in the terminal shall reach the gateway alone, so that it can say BYE
        )
        client: MediaClient | None = None
        handle: NodeHandle | None = None
        cause = "stopped"
        try:
            viewer_port, rtsp_port = await _ready(process, config)
            client = MediaClient(control, config.control_secret)
            await client.start()
            handle = NodeHandle(config.node_id, number, client, viewer_port, process.pid, time.monotonic())
            handle.rtsp_port = rtsp_port
            self._handles[number] = handle
            self._changed.set()
            log.info("node ready node_id=%s pid=%d viewer_port=%d", handle.node_id, process.pid, viewer_port)
            for listener in self.on_ready:
                listener(handle)
            cause = await self._watch(handle, process)
        finally:
            if handle is not None:
                self._lost(handle, cause)
            if client is not None:
                await client.close()
            await _stop(process)

    def _lost(self, handle: NodeHandle, cause: str) -> None:
        handle.alive = False
        self._handles.pop(handle.number, None)
        if cause != "stopped":
            log.error("node lost node_id=%s pid=%d cause=%s", handle.node_id, handle.pid, cause)
            for listener in list(self.on_lost):
                listener(handle, cause)

    async def _watch(self, handle: NodeHandle, process: Process) -> str:
        """Returns why the node is no longer usable: exited, silent (no heartbeat) or events_lost."""
        ends: dict[asyncio.Task[object], str] = {
            asyncio.create_task(process.wait()): "exited",
            asyncio.create_task(self._beat(handle)): "silent",
            asyncio.create_task(self._listen(handle)): "events_lost",
        }
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return ends[done.pop()]
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _beat(self, handle: NodeHandle) -> None:
        """Ask for statistics at each heartbeat; returns after several in a row were missed."""
        missed = 0
        while missed < HEARTBEATS_MISSED:
            try:
                async with asyncio.timeout(max(self.heartbeat_s, 1.0) * 2):
                    stats = await handle.client.stats()
            except (MediaError, TimeoutError) as error:
                missed += 1
                log.warning(
                    "node heartbeat missed node_id=%s count=%d cause=%s", handle.node_id, missed, error
                )
            else:
                missed = 0
                handle.take_stats(stats, time.monotonic())
                if self.on_stats is not None:
                    self.on_stats(handle, stats)
            await asyncio.sleep(self.heartbeat_s)

    async def _listen(self, handle: NodeHandle) -> None:
        """Pass on the node's events; returns when the event stream ends or goes silent."""
        try:
            async for event in handle.client.events():
                if isinstance(event, RecordingEvent):
                    if self.on_recording is not None:
                        self.on_recording(handle, event)
                elif isinstance(event, TalkEvent):
                    if self.on_talk is not None:
                        self.on_talk(handle, event)
                elif self.on_event is not None:
                    self.on_event(handle, event)
        except MediaError as error:
            log.warning("node events ended node_id=%s cause=%s", handle.node_id, error)


async def _ready(process: Process, config: NodeConfig) -> tuple[int, int]:
    """Feed the configuration and wait for the ready line; returns the viewers' ports. Raises NodeStartFailed."""
    if process.stdin is None or process.stdout is None:
        raise NodeStartFailed("no pipes to the process")
    process.stdin.write(config.model_dump_json().encode() + b"\n")
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await process.stdin.drain()
            line = await process.stdout.readline()
    except TimeoutError:
        raise NodeStartFailed("no ready line in time") from None
    except (ConnectionError, ValueError) as error:
        raise NodeStartFailed(f"{type(error).__name__}") from error
    if not line:
        raise NodeStartFailed(f"exited with status {await process.wait()}")
    return _viewer_ports(line)


def _viewer_ports(line: bytes) -> tuple[int, int]:
    """The ports in ``{"ready": true, "viewer_port": N, "rtsp_port": M}``, the second 0 where it is missing.

    Raises NodeStartFailed for any other line.
    """
    try:
        ready = json.loads(line)
        if ready["ready"] is True:
            return int(ready["viewer_port"]), int(ready.get("rtsp_port", 0))
    except (ValueError, KeyError, TypeError):
        pass
    raise NodeStartFailed(f"unexpected first line {line[:80]!r}")


async def _stop(process: Process) -> None:
    """Close the child's input, send SIGTERM, and SIGKILL when it does not end in time."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
