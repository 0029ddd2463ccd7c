"""A media node: the process that receives, demuxes, relays and serves streams. ``python -m media.node``.

It reads its NodeConfig as one line of JSON on standard input, prints ``{"ready": true, "viewer_port": N, "rtsp_port":
M}`` when it listens, and ends when its standard input is closed (the gateway is gone) or on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict

from aiohttp import web
from pydantic import ValidationError

from media import control_api, host_check, logs, talk_api
from media.compiled import PumpMissing
from media.errors import MediaError
from media.event_queue import EventHub
from media.ports import SHARED_RECEIVE_BUFFER, NoPort, PortPool, media_socket
from media.pump import TICK_S, make_pump, probe_gso
from media.readers import download, live, recorder, snapshot, transfer, webrtc
from media.readers.relay import Relay
from media.readers.rtsp.server import RtspServer
from media.sources import inputs
from media.sources.base import Source
from media.sources.gb import GbSource
from media.sources.launch import Launcher
from media.sources.recording import RecordingSource
from media.sources.shared_port import SharedPort
from media.sources.transcode import TranscoderSlots
from media.specs import (
    DecodeStats,
    InputControl,
    InputSpec,
    KeyFrameWanted,
    NodeConfig,
    NodeEvent,
    NodeStats,
    PlaybackEnded,
    PlayPosition,
    ReceiverInfo,
    ReceiverSpec,
    ReceiverUpdate,
    SenderEnded,
    SenderInfo,
    SenderSpec,
    StreamFault,
    StreamIdle,
    StreamLost,
    StreamReady,
    StreamStats,
    TalkStats,
    TranscodeStats,
    Transport,
    ViewerEnded,
    WebRtcStats,
)
from media.stream import Stream

log = logging.getLogger(__name__)

CHECK_S = 0.5
COLLECT_S = 20.0
SHUTDOWN_S = 6.0
DRAIN_S = 2.0
"""Packets that wait in relays get so much time to leave when the node is stopped."""
_COUNTERS = tuple(
    name
    for name, field in StreamStats.model_fields.items()
    if field.annotation is int and name not in ("ssrc",)
)


class _Entry:
    """What the node keeps of one stream."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.viewers: dict[str, str] = {}
        self.unused_since: float | None = None
        self.idle_told = False

    @property
    def users(self) -> int:
        return max(len(self.viewers), len(self.source.stream.readers)) + len(self.source.relays)


class Node:
    """All streams, senders and sites of this process. Build it inside a running event loop."""

    def __init__(self, config: NodeConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.events = EventHub()
        self.streams: dict[str, Stream] = {}
        self.gso = probe_gso()
        self.pump = make_pump(config.pump)
        self.ports = PortPool(
            config.rtp_port_min, config.rtp_port_max, config.bind_host, config.port_quarantine_s
        )
        self.ports.on_ghost = self._ghost
        self.downloads = download.Downloads(config, self.emit)
        self.recordings = recorder.Recordings(self, queue_bytes=config.recording_queue_bytes)
        self.transfers = transfer.Transfers(self)
        self.viewer_port = 0
        self.rtsp = RtspServer(self, clock=clock)
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._relays: dict[str, tuple[str, Relay]] = {}
        self._shared: SharedPort | None = None
        self._launcher = Launcher()
        self._webrtc: webrtc.WebRtcRoutes | None = None
        self._snapshots: snapshot.SnapshotRoutes | None = None
        self._talks: talk_api.TalkRoutes | None = None
        self._runners: list[web.AppRunner] = []
        self._closed_totals: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._lag_s = 0.0
        self.draining = False
        """The node is being stopped: what flows goes on for a moment, nothing new begins."""
        self._transcoders = TranscoderSlots(config.transcoders)
        self._watching: asyncio.Task[None] | None = None

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind the shared port and both sites. OSError when an address is taken."""
        config = self.config
        if config.shared_rtp_port is not None:
            self._shared = SharedPort(
                config.shared_rtp_port, host=config.bind_host, pump=self.pump,
                udp=media_socket(config.bind_host, config.shared_rtp_port, receive_buffer=SHARED_RECEIVE_BUFFER),
                listener=_listener(config.bind_host, config.shared_rtp_port),
            )  # fmt: skip
        host_check.warn(
            config.rtp_port_min, config.rtp_port_max, shared_port=config.shared_rtp_port is not None
        )
        await self._start_control()
        await self._start_viewers()
        await self.rtsp.start()
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        log.info(
            "event=node_started node_id=%s viewer_port=%d pump=%s segmentation=%s batches=%s",
            config.node_id,
            self.viewer_port,
            self.pump.kind,
            self.gso,
            self.pump.batches,
        )

    async def run_until(self, stopped: asyncio.Event) -> None:
        """Wait for ``stopped``. An error of the housekeeping is raised: a node that cannot notice losses must end."""
        stopping = asyncio.ensure_future(stopped.wait())
        watching = self._watching or stopping
        await asyncio.wait({stopping, watching}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if watching.done() and watching is not stopping:
            watching.result()

    async def drain(self) -> None:
        """Take no new streams, and let what waits in relays go out, for :data:`DRAIN_S` seconds at most."""
        self.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_S
        while loop.time() < until:
            waiting = sum(relay.waiting_bytes for _, relay in self._relays.values())
            if not waiting:
                return
            await asyncio.sleep(TICK_S)
        log.warning("event=drain_incomplete node_id=%s waiting_bytes=%d", self.config.node_id, waiting)

    def _admits(self) -> None:
        """MediaError(unavailable) once the node is being stopped."""
        if self.draining:
            raise MediaError("unavailable", "the node is being stopped")

    async def close(self) -> None:
        """End viewers, relays and receivers, then the sites."""
        if self._watching is not None:
            self._watching.cancel()
        await self.recordings.close()
        await self.transfers.close()
        await self.downloads.close()
        self.events.close()
        await self.rtsp.close()
        for runner in self._runners:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_S):
                    await runner.cleanup()
        for sender_id in tuple(self._relays):
            self.close_sender(sender_id)
        for stream_id in tuple(self._entries):
            self.close_receiver(stream_id)
        self._launcher.close()
        if self._shared is not None:
            self._shared.close()
        self.ports.close()
        self.pump.close()

    async def _start_control(self) -> None:
        app = web.Application(
            middlewares=[control_api.problems, control_api.bearer(self.config.control_secret)]
        )
        control_api.add_control_routes(app, self)
        self._webrtc = webrtc.add_control_routes(app, self)
        self._talks = talk_api.add_control_routes(app, self, self._webrtc.ports)
        self._snapshots = snapshot.add_control_routes(app, self)
        recorder.add_control_routes(app, self.recordings)
        download.add_control_routes(app, self.downloads)
        transfer.add_control_routes(app, self.transfers)
        self.rtsp.add_control_routes(app)
        runner = await self._runner(app)
        kind, _, address = self.config.control.partition(":")
        if kind == "unix":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
            before = os.umask(0o177)
            try:
                await web.UnixSite(runner, address).start()
            finally:
                os.umask(before)
        elif kind == "tcp":
            host, _, port = address.rpartition(":")
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        else:
            raise ValueError(f"no control address: {self.config.control!r}")

    async def _start_viewers(self) -> None:
        app = web.Application(middlewares=[control_api.problems])
        app.on_response_prepare.append(_allow_origins)
        app.router.add_get("/healthz", _healthz)
        app.router.add_route("OPTIONS", "/live/{path:.*}", _preflight)
        live.add_viewer_routes(app, self)
        download.add_viewer_routes(app, self.downloads)
        runner = await self._runner(app)
        await web.TCPSite(runner, self.config.viewer_host, self.config.viewer_port).start()
        self.viewer_port = runner.addresses[0][1]

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S / 2)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _watch(self) -> None:
        """Twice a second: losses, idle streams, resting ports; how late the loop runs."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + CHECK_S
            await asyncio.sleep(CHECK_S)
            late = max(0.0, loop.time() - due, self.pump.worst_lag_s)
            self.pump.worst_lag_s = 0.0
            self._lag_s = max(late, self._lag_s * 0.8)
            now = self._clock()
            self.ports.sweep(now)
            for stream_id, entry in tuple(self._entries.items()):
                entry.source.check(now)
                self._check_idle(stream_id, entry, now)

    def _check_idle(self, stream_id: str, entry: _Entry, now: float) -> None:
        if entry.users or not entry.source.stream.ready:
            entry.unused_since, entry.idle_told = None, False
        elif entry.unused_since is None:
            entry.unused_since = now
        elif not entry.idle_told and now - entry.unused_since >= entry.source.idle_grace_s:
            entry.idle_told = True
            self.emit(StreamIdle(stream_id=stream_id))

    # --- receivers ---------------------------------------------------------------------------------------------

    def open_receiver(self, spec: ReceiverSpec) -> ReceiverInfo:
        """Open one receiving stream. MediaError: bad_request (409 for an id in use), no_port, unsupported."""
        self._admits()
        stream_id = spec.stream_id
        if spec.shared_port and self._shared is None:
            raise MediaError("unsupported", "this node has no shared port")
        stream = self._new_stream(stream_id)
        source = GbSource(
            spec, stream, pump=self.pump, ports=self.ports, host=self.config.media_host,
            window_s=self.config.reorder_window_s, cache_bytes=self.config.gop_cache_bytes, shared=self._shared,
            on_lost=lambda cause: self.emit(StreamLost(stream_id=stream_id, cause=cause)),
            on_fault=lambda kind, detail: self.emit(StreamFault(stream_id=stream_id, kind=kind, detail=detail)),
            clock=self._clock,
        )  # fmt: skip
        source.on_played = lambda at: self.emit(PlaybackEnded(stream_id=stream_id, position_s=at))
        try:
            info = source.open()
        except NoPort as error:
            raise MediaError("no_port", str(error)) from error
        self._entries[stream_id] = _Entry(source)
        self.streams[stream_id] = stream
        log.info(
            "event=receiver_opened stream_id=%s transport=%s port=%d", stream_id, spec.transport, info.port
        )
        return info

    def _new_stream(self, stream_id: str) -> Stream:
        if stream_id in self._entries:
            raise MediaError("bad_request", f"stream {stream_id} is open already", 409)
        return Stream(
            stream_id,
            gop_cache_bytes=self.config.gop_cache_bytes,
            queue_units=self.config.reader_queue_units,
            on_ready=self._ready,
            on_key_frame_wanted=lambda _: self.emit(KeyFrameWanted(stream_id=stream_id)),
            on_fault=lambda kind, detail: self.emit(
                StreamFault(stream_id=stream_id, kind=kind, detail=detail)
            ),
            clock=self._clock,
        )

    def update_receiver(self, stream_id: str, update: ReceiverUpdate) -> None:
        """What the SIP answer taught. MediaError: not_found, unsupported for an input."""
        source = self._entry(stream_id).source
        if not isinstance(source, GbSource):
            raise MediaError("unsupported", f"stream {stream_id} is no receiver")
        source.update(update)

    def open_input(self, spec: InputSpec) -> None:
        """Open a stream that is no RTP session of a device. It ends like a receiver (:meth:`close_receiver`).

        MediaError: bad_request (409 for an id in use), unsupported. What fails later is told by StreamLost.
        """
        self._admits()
        stream_id = spec.stream_id
        stream = self._new_stream(stream_id)
        host = inputs.InputHost(
            config=self.config,
            on_lost=lambda cause: self.emit(StreamLost(stream_id=stream_id, cause=cause)),
            clock=self._clock,
            stream_of=self.stream,
            launcher=self._launcher,
            emit=self.emit,
            transcoders=self._transcoders,
        )
        self._entries[stream_id] = _Entry(inputs.make(spec, stream, host))
        self.streams[stream_id] = stream
        log.info("event=input_opened stream_id=%s kind=%s", stream_id, spec.kind)

    async def control_input(self, stream_id: str, control: InputControl) -> PlayPosition:
        """Pause, move or turn a recording. MediaError: not_found, unsupported for a stream that is none."""
        source = self._entry(stream_id).source
        if isinstance(source, GbSource):
            return source.control(control)
        if not isinstance(source, RecordingSource):
            raise MediaError("unsupported", f"stream {stream_id} is no recording")
        return await source.control(control)

    def close_receiver(self, stream_id: str) -> None:
        """End a stream with its viewers and relays. Unknown ids are none of our business."""
        entry = self._entries.pop(stream_id, None)
        if entry is None:
            return
        stats = entry.source.stats(self._clock(), len(entry.viewers))
        for name in _COUNTERS:
            self._closed_totals[name] += getattr(stats, name)
        entry.source.close()
        self.streams.pop(stream_id, None)
        log.info(
            "event=receiver_closed stream_id=%s packets=%d lost=%d", stream_id, stats.packets, stats.lost
        )

    def stream(self, stream_id: str) -> Stream:
        """The open stream of that id. MediaError: not_found."""
        return self._entry(stream_id).source.stream

    def source(self, stream_id: str) -> Source:
        """What makes the stream of that id. MediaError: not_found."""
        return self._entry(stream_id).source

    def _entry(self, stream_id: str) -> _Entry:
        entry = self._entries.get(stream_id)
        if entry is None:
            raise MediaError("not_found", f"no stream {stream_id}")
        return entry

    def _ready(self, stream: Stream) -> None:
        log.info("event=stream_ready stream_id=%s video=%s audio=%s", stream.stream_id,
                 stream.video and stream.video.codec, stream.audio and stream.audio.codec)  # fmt: skip
        self.emit(StreamReady(stream_id=stream.stream_id, video=stream.video, audio=stream.audio))

    def _ghost(self, port: int) -> None:
        log.debug("event=ghost_packets port=%d", port)

    # --- senders -----------------------------------------------------------------------------------------------

    def open_sender(self, spec: SenderSpec) -> SenderInfo:
        """Bind a relay of an open stream. MediaError: bad_request, not_found, no_port."""
        self._admits()
        if spec.sender_id in self._relays:
            raise MediaError("bad_request", f"sender {spec.sender_id} is open already", 409)
        if spec.transport is not Transport.TCP_PASSIVE and (
            spec.remote_host is None or spec.remote_port is None
        ):
            raise MediaError("bad_request", f"{spec.transport} needs remote_host and remote_port")
        if spec.remote_host is not None and not _is_address(spec.remote_host):
            raise MediaError("bad_request", f"remote_host {spec.remote_host!r} is no IP address")
        source = self._entry(spec.stream_id).source
        relay = Relay(
            spec, source=source, pump=self.pump, ports=self.ports, gso=self.gso, host=self.config.media_host,
            pending_limit_bytes=self.config.gop_cache_bytes + 2 * 1024 * 1024,
            on_ended=lambda cause: self._sender_ended(spec, cause), clock=self._clock,
        )  # fmt: skip
        try:
            info = relay.open()
        except NoPort as error:
            raise MediaError("no_port", str(error)) from error
        self._relays[spec.sender_id] = (spec.stream_id, relay)
        return info

    def start_sender(self, sender_id: str) -> None:
        """The ACK came: send. MediaError: not_found, bad_request for an address that cannot be used."""
        if sender_id not in self._relays:
            raise MediaError("not_found", f"no sender {sender_id}")
        try:
            self._relays[sender_id][1].start()
        except OSError as error:
            raise MediaError("bad_request", f"the remote address cannot be used: {error}") from error

    def close_sender(self, sender_id: str) -> None:
        """End a relay. Unknown ids are none of our business."""
        entry = self._relays.pop(sender_id, None)
        if entry is not None:
            entry[1].close()

    def _sender_ended(self, spec: SenderSpec, cause: str) -> None:
        self._relays.pop(spec.sender_id, None)
        self.emit(SenderEnded(stream_id=spec.stream_id, sender_id=spec.sender_id, cause=cause))

    # --- viewers and events ------------------------------------------------------------------------------------

    def emit(self, event: NodeEvent) -> None:
        """Tell the gateway."""
        self.events.emit(event)

    def viewer_opened(self, stream: Stream, viewer_id: str, kind: str) -> None:
        """A viewer was admitted: its stream is in use."""
        entry = self._entries.get(stream.stream_id)
        if entry is not None:
            entry.viewers[viewer_id] = kind

    def viewer_closed(self, stream: Stream, viewer_id: str, cause: str) -> None:
        """The viewer is gone."""
        entry = self._entries.get(stream.stream_id)
        kind = entry.viewers.pop(viewer_id, "") if entry is not None else ""
        self.emit(ViewerEnded(stream_id=stream.stream_id, viewer_id=viewer_id, kind=kind, cause=cause))

    # --- statistics --------------------------------------------------------------------------------------------

    def stream_stats(self, stream_id: str) -> StreamStats:
        """Counters of one stream. MediaError: not_found."""
        entry = self._entry(stream_id)
        return entry.source.stats(self._clock(), len(entry.viewers))

    def stats(self) -> NodeStats:
        """This process in numbers."""
        per_stream = tuple(self.stream_stats(stream_id) for stream_id in self._entries)
        return NodeStats(
            node_id=self.config.node_id, streams=len(self._entries), senders=len(self._relays),
            viewers=sum(len(entry.viewers) for entry in self._entries.values()),
            viewers_by_kind=Counter(kind for entry in self._entries.values() for kind in entry.viewers.values()),
            ports_leased=self.ports.leased, ports_quarantined=self.ports.quarantined, ports_free=self.ports.free,
            cpu_seconds=time.process_time(), rss_bytes=_rss_bytes(), loop_lag_s=self._lag_s, gso=self.gso,
            pump=self.pump.kind, batches=self.pump.batches, lanes=self.pump.lanes,
            kernel_drops=0 if self._shared is None else self._shared.kernel_drops,
            rtsp_port=self.rtsp.port, rtsp_refused=self.rtsp.failures.total,
            recording=self.recordings.stats(),
            webrtc=self._webrtc.stats() if self._webrtc is not None else WebRtcStats(),
            decode=self._snapshots.stats() if self._snapshots is not None else DecodeStats(),
            transcode=TranscodeStats(**asdict(self._transcoders)),
            talk=self._talks.talks.stats() if self._talks is not None else TalkStats(),
            closed_totals=StreamStats.model_validate({"stream_id": "closed", **self._closed_totals}),
            per_stream=per_stream,
        )  # fmt: skip


async def _allow_origins(request: web.Request, response: web.StreamResponse) -> None:
    """Browsers load pictures from here for a page that the gateway served; the ticket is the permission."""
    response.headers["Access-Control-Allow-Origin"] = "*"


async def _preflight(request: web.Request) -> web.Response:
    return web.Response(
        status=204, headers={"Access-Control-Allow-Methods": "GET", "Access-Control-Allow-Headers": "Range"}
    )


async def _healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _listener(host: str, port: int) -> socket.socket:
    listener = media_socket(host, port, socket.SOCK_STREAM)
    listener.listen(64)
    return listener


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _watch_stdin(ended: Callable[[], None]) -> None:
    """Call ``ended`` when standard input is closed: the parent process is gone."""
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended()

    try:
        os.set_blocking(0, False)
        loop.add_reader(0, readable)
    except (OSError, ValueError):  # a plain file as standard input says nothing about a parent
        log.info("event=stdin_not_watched")


async def serve(config: NodeConfig) -> None:
    """Run a node until SIGTERM, SIGINT or the end of standard input."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    node = Node(config)
    try:
        await node.start()
        ready = {"ready": True, "viewer_port": node.viewer_port, "rtsp_port": node.rtsp.port}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        _watch_stdin(stopped.set)
        collecting = asyncio.create_task(_collect_cycles())
        try:
            await node.run_until(stopped)
        finally:
            collecting.cancel()
        log.info("event=node_stopping node_id=%s", config.node_id)
        await node.drain()
    finally:
        await node.close()


async def _collect_cycles() -> None:
    """What ended streams and viewers leave behind goes at a pace of its own: a look at everything takes milliseconds."""
    while True:
        await asyncio.sleep(COLLECT_S)
        gc.collect()


def main() -> int:
    """Entry point; 2 for a configuration that cannot be read, 1 for an address that is taken."""
    try:
        config = NodeConfig.model_validate_json(sys.stdin.buffer.readline())
    except ValidationError as error:
        sys.stderr.write(f"the node's configuration is wrong: {error}\n")
        return 2
    logs.configure(config.node_id, level=config.log_level, form=config.log_format)
    # Per-packet garbage is freed by reference counts. What streams and viewers leave behind are cycles with buffers;
    # left to the collector's own judgement they add up to hundreds of megabytes (benchmarks/soak.py).
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000_000)
    try:
        asyncio.run(serve(config))
    except (OSError, PumpMissing) as error:
        log.error("event=node_failed error=%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
