"""One GB/T 28181 media session coming in: PS over RTP by UDP, TCP passive or TCP active, into a Stream.

Owns the session's sockets, knows its sender (the source is latched on the first valid packet, strangers are dropped
and counted), and hands runs of packets to the packet cache, the relays and the demuxer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence

from media import rtp
from media.content import Content
from media.errors import MediaError
from media.host_check import kernel_drops
from media.ingest import Ingest
from media.key_watch import KeyWatch
from media.mmsg import SLOTS, BatchReceiver, address_of
from media.packet_cache import PacketCache
from media.ports import PortLease, PortPool
from media.pump import ARENA_BYTES, MAX_STRIDE, Pump
from media.readers.relay import Relay
from media.reports import ReceptionReports
from media.rfc4571 import Framing, frame
from media.runs import Run
from media.sources.history import HistoryClock
from media.sources.shared_port import SharedPort
from media.sources.steady import Steady
from media.sources.tcp_input import Address, TcpInput
from media.specs import (
    InputControl,
    PlayPosition,
    ReceiverInfo,
    ReceiverSpec,
    ReceiverUpdate,
    StreamStats,
    Transport,
)
from media.stream import Stream
from media.tcp import dial, tune
from media.unit import AccessUnit

log = logging.getLogger(__name__)

PLAYED_SILENCE_S = 2.0
PLAYED_NEAR_S = 2.0
"""So near its end a recording counts as played when nothing comes any more."""
RELATCH_S = 2.0
"""After this silence of the latched source a stranger with the same SSRC takes its place (NAT rebinding)."""
_DRAIN_LIMIT = ARENA_BYTES - 64 * 1024
_DRAIN_ROUNDS = 8
"""Batches of 64 packets that one socket may take from a tick: 200 Mbit/s."""
_SHORTER_BATCHES = 32
_MIN_STRIDE = 64
_MAX_WAITING = 4
_FIRST_PACKET_S = 10.0
"""A connection without a valid packet for this long is closed."""


class GbSource:
    """One receiver. :meth:`open` binds; :meth:`update` tells what the answer said; :meth:`close` releases all.

    ``on_lost(cause)`` fires once per loss: no_rtp | connection_lost | dial_failed. ``on_fault(kind, detail)`` fires at
    most once per kind.
    """

    def __init__(
        self,
        spec: ReceiverSpec,
        stream: Stream,
        *,
        pump: Pump,
        ports: PortPool,
        host: str,
        window_s: float,
        cache_bytes: int,
        shared: SharedPort | None = None,
        on_lost: Callable[[str], None],
        on_fault: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.stream = stream
        self.remote_host = spec.remote_host
        self.remote_port: int | None = None
        self.paused = False
        self.relays: list[Relay] = []
        self.relayed_before = 0
        self.relay_drops_before = 0
        self.source: Address | None = None
        """Where the session's packets come from, once known."""
        self.foreign = 0
        self._pump = pump
        self._ports = ports
        self._host = host
        self._shared = shared if spec.shared_port else None
        self._on_lost = on_lost
        self._on_fault = on_fault
        self._clock = clock
        self._told: set[str] = set()
        self._lease: PortLease | None = None
        self._connections: list[TcpInput] = []
        self._dialling: asyncio.Task[None] | None = None
        self._lost_told = False
        self._alive_mono = clock()
        history = spec.history
        self.history = HistoryClock(history.length_s, keep_times=history.keep_times) if history else None
        self.on_played: Callable[[float], None] = lambda position_s: None
        """Told once when a recording has been played to its end, as far as can be seen from the media."""
        self._played = False
        self._jumps = 0
        self.taps: list[Callable[[Run], None]] = []
        """Get each run of packets as it came, in order."""
        self._reports = ReceptionReports()
        self._reporter: Address | None = None
        self.ingest = Ingest(
            ssrc=spec.ssrc, deliver=self._deliver, on_fault=self.report_fault, on_rtcp=self._rtcp_in_media,
            window_s=window_s, payloads=spec.payloads, strict=spec.strict_ssrc,
        )  # fmt: skip
        self._held = self.ingest.reorder.held
        self.content = Content(payloads=spec.payloads, publish=self._publish, on_fault=self.report_fault)
        self.cache = PacketCache(cache_bytes)
        self.resting = False
        """Nobody watches: packets are cached and relayed, but not demuxed."""
        self._watch = KeyWatch()
        self._steady = Steady(
            pump=pump, ingest=self.ingest, watch=self._watch, cache=self.cache, odd=self._take_single,
            drain=self._drain_udp, clock=clock,
        )  # fmt: skip
        self._unwatched = (0, 0, 0)
        self._unwatched_from = (0, 0, 0)
        stream.on_use = self._wake
        self._receiver: BatchReceiver | None = None
        self._number = -1
        self._chosen: TcpInput | None = None
        """The connection that carries the session."""
        self._source_names = bytearray()
        """The latched source's raw address, once per slot of a batch."""
        self._stride = 1412
        self._shorter = 0
        self._longest_seen = 0

    # --- life --------------------------------------------------------------------------------------------------

    @property
    def idle_grace_s(self) -> float:
        return self.spec.idle_grace_s

    def open(self) -> ReceiverInfo:
        """Bind the port that the offer names. Raises NoPort."""
        now = self._clock()
        transport = self.spec.transport
        if self._shared is not None and transport is not Transport.TCP_ACTIVE:
            self._shared.add(self)
            port = self._shared.port
        elif transport is Transport.UDP:
            self._lease = self._ports.lease_udp(now)
            self._receiver, self._number = (
                self._pump.receiver(self._lease.rtp.family),
                self._lease.rtp.fileno(),
            )
            self._pump.register(self._lease.rtp, self._drain_udp)
            if self._lease.rtcp is not None:
                self._pump.register(self._lease.rtcp, self._drain_rtcp)
            port = self._lease.port
        else:
            self._lease = self._ports.lease_tcp(now, listen=transport is Transport.TCP_PASSIVE)
            if transport is Transport.TCP_PASSIVE:
                self._pump.register(self._lease.rtp, self._accept)
            port = self._lease.port
        return ReceiverInfo(stream_id=self.spec.stream_id, host=self._host, port=port, ssrc=self.spec.ssrc)

    def update(self, update: ReceiverUpdate) -> None:
        """What the answer taught. Early packets are kept; the socket stays open (field quirk 27)."""
        self._steady.leave()
        self._alive_mono = self._clock()
        if update.ssrc is not None:
            self.ingest.expect(update.ssrc)
        if update.payloads is not None:
            self.content.renegotiate(update.payloads)
        if update.remote_host is not None:
            self.remote_host = update.remote_host
        if update.remote_port is not None:
            self.remote_port = update.remote_port
        if update.paused is not None:
            self.paused = update.paused
        ready = self.remote_host is not None and self.remote_port is not None
        if self.spec.transport is Transport.TCP_ACTIVE and ready and self._dialling is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    def close(self) -> None:
        """Release sockets, port and tasks; relays end with cause stream_closed."""
        self._steady.leave()
        for relay in tuple(self.relays):
            relay.end_with_stream()
        if self._dialling is not None:
            self._dialling.cancel()
        for connection in tuple(self._connections):
            connection.close()
        self._connections.clear()
        self._pump.forget(self)
        if self._shared is not None:
            self._shared.remove(self)
        if self._lease is not None:
            self._pump.unregister(self._lease.rtp)
            if self._lease.rtcp is not None:
                self._pump.unregister(self._lease.rtcp)
            self._lease.release(self._clock())
            self._lease = None
        self.cache.clear()
        self.stream.close()

    def check(self, now: float) -> None:
        """Housekeeping, about twice a second: loss of media, receiver reports, silent connections."""
        self._steady.settle()
        last = self.ingest.last_packet_mono
        if last is not None and last > self._alive_mono:
            self._alive_mono = last
            self._lost_told = False
        self._check_played(now)
        if not self.paused and not self._played and now - self._alive_mono > self.spec.no_rtp_timeout_s:
            self._lose("no_rtp")
        for connection in tuple(self._connections):
            if connection is not self._chosen and now - connection.opened_mono > max(
                _FIRST_PACKET_S, self.spec.no_rtp_timeout_s
            ):
                connection.close()
                self._connections.remove(connection)
        if self.resting and (self._steady.overflown or not self.cache.keeping) and self._watch.doubt():
            self._wake()
        self._rest_if_unwatched()
        if self.resting and self._lease is not None and self._source_names:
            name = bytes(self._source_names[: len(self._source_names) // SLOTS])
            self._steady.enter(self._lease.rtp, name, self._stride, self.relays)
        if self._reports.due(now):
            self._send_report(now)

    # --- a recording that a device plays -----------------------------------------------------------------------

    def control(self, control: InputControl) -> PlayPosition:
        """The device obeyed such an order. MediaError(unsupported) for live pictures."""
        history = self.history
        if history is None:
            raise MediaError("unsupported", f"stream {self.spec.stream_id} is no recording")
        if control.paused is not None:
            self.paused = control.paused
        if control != InputControl():
            self._played, self._alive_mono = False, self._clock()
            history.order(
                self._clock(),
                speed=control.speed,
                position_s=control.position_s,
                resumed=control.paused is False,
            )
        return PlayPosition(
            stream_id=self.spec.stream_id, position_s=history.position_s, speed=history.speed,
            paused=self.paused, ended=self._played,
        )  # fmt: skip

    def _on_its_clock(self, history: HistoryClock, unit: AccessUnit) -> bool:
        jumps, self._jumps = self._jumps, self.content.jumps
        return history.take(unit, jumped=jumps != self._jumps) is not None

    def _check_played(self, now: float) -> None:
        """Not every device says that it has sent all (field quirk 24): it goes on, or falls silent near the end."""
        history = self.history
        if history is None or self._played or self.paused:
            return
        silent = now - self._alive_mono > PLAYED_SILENCE_S
        if history.speed < 0:
            over = silent and history.position_s < PLAYED_NEAR_S
        else:
            over = history.overrun or (silent and history.position_s > history.length_s - PLAYED_NEAR_S)
        if over:
            self._played = True
            self.on_played(history.position_s)

    def _lose(self, cause: str) -> None:
        if not self._lost_told:
            self._lost_told = True
            self._on_lost(cause)

    def report_fault(self, kind: str, detail: str) -> None:
        """Tell each kind of fault once."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("event=media_fault stream_id=%s kind=%s %s", self.spec.stream_id, kind, detail)
            self._on_fault(kind, detail)

    # --- packets -----------------------------------------------------------------------------------------------

    def _deliver(self, run: Run) -> None:
        """One run, in order: keep, relay, demux."""
        keys = self._watch.take(run)
        for relay in self.relays:  # none leaves the list in here: relays end by the loop
            relay.forward(run, run.own)
        if keys:
            self.cache.reopen()
        if self.cache.keeping:
            self.cache.add(run.own())  # once for the cache and all relays that hold it
        for tap in self.taps:
            tap(run)
        if not self.resting:
            self.content.take(run)
        elif keys:
            self.cache.cut(keys[-1])

    def _rest_if_unwatched(self) -> None:
        """With relays alone there is nobody to demux for; the packets since the last key frame are kept anyway."""
        if self.resting or self.stream.readers or not self.relays or not self.stream.ready:
            return
        if self.history is not None:
            return  # its place in the recording is told by its pictures
        if self._watch.trusted and self.cache.has_key and self.content.mismatch is None:
            self.resting = True
            self.stream.rest()
            self._unwatched_from = (
                self._watch.video_frames,
                self._watch.audio_frames,
                self._watch.key_frames,
            )

    def _wake(self) -> None:
        """Somebody wants pictures: demux what is cached, and go on with the packets to come."""
        if not self.resting:
            return
        self._steady.leave()
        self._unwatched = self._frames_unwatched()
        self.resting = False
        self.content.restart()
        for run in self.cache.runs():
            self.content.take(run)

    def _frames_unwatched(self) -> tuple[int, int, int]:
        """Video frames, audio frames and key frames that went by without being demuxed."""
        if not self.resting:
            return self._unwatched
        now = (self._watch.video_frames, self._watch.audio_frames, self._watch.key_frames)
        video, audio, keys = (
            before + there - here
            for before, there, here in zip(self._unwatched, now, self._unwatched_from, strict=True)
        )
        return video, audio, keys

    def _publish(self, unit: AccessUnit, first_index: int) -> None:
        if unit.codec.is_video:
            self._watch.compare(unit.key, first_index, unit.damaged)
        if unit.key and not unit.damaged:
            self.cache.cut(first_index)
        if self.content.audio_announced:
            self.stream.audio_announced = True
        if self.history is not None and not self._on_its_clock(self.history, unit):
            return
        self.stream.publish(unit)

    def feed(
        self,
        buffer: bytearray,
        view: memoryview,
        starts: Sequence[int],
        sizes: list[int],
        now: float,
        stride: int = 0,
    ) -> None:
        """Packets of this session from any transport."""
        self.ingest.feed(buffer, view, starts, sizes, now, stride)
        if self._held:
            self._pump.every_tick(self, self.ingest.tick)

    def cached_runs(self) -> list[Run]:
        """What a new relay begins with: from the last key frame on, also when that is still coming in."""
        self._steady.leave()
        begun, _ = self._watch.standing
        return self.cache.runs() or (self.cache.since(begun) if begun >= 0 else [])

    def add_relay(self, relay: Relay) -> None:
        self._steady.leave()
        self.relays.append(relay)

    def remove_relay(self, relay: Relay) -> None:
        self._steady.leave()
        if relay in self.relays:
            self.relays.remove(relay)
            self.relayed_before += relay.sent
            self.relay_drops_before += relay.dropped

    def request_key_frame(self) -> None:
        self.stream.request_key_frame()

    # --- UDP ---------------------------------------------------------------------------------------------------

    def _drain_udp(self, now: float) -> None:
        """Read what is there, many packets at a time where the system can."""
        if self._lease is None:
            return
        receiver, number = self._receiver, self._number
        if receiver is None:
            self._drain_singly(self._lease.rtp, now)
            return
        for _ in range(_DRAIN_ROUNDS):
            stride = self._stride
            lengths = receiver.receive(number, stride)
            count = len(lengths)
            if not count:
                return
            known = receiver.names.startswith(self._source_names[: count * receiver.name_size] or b"?")
            longest = max(lengths)
            if known and longest <= stride and min(lengths) >= rtp.HEADER_SIZE:
                starts = range(0, count * stride, stride)
                self.feed(self._pump.arena, self._pump.view, starts, lengths, now, stride)
            else:
                self._sort_out(receiver, stride, lengths, now)
            if longest == stride:
                self._shorter = 0
            else:
                self._learn_stride(longest)
            if count < SLOTS or self._lease is None:
                return

    def _sort_out(self, receiver: BatchReceiver, stride: int, lengths: list[int], now: float) -> None:
        """A batch with a stranger, a very short packet or one longer than the slots: packet by packet."""
        packets = [
            (receiver.whole(slot, stride, length), receiver.source(slot))
            for slot, length in enumerate(lengths)
        ]
        self._take_single(packets, now)

    def _take_single(self, packets: list[tuple[bytes, bytes]], now: float) -> None:
        """Packets with their raw source addresses, one by one."""
        for packet, name in packets:
            address = address_of(name)
            if self._source_names.startswith(name) and len(packet) >= rtp.HEADER_SIZE:
                self._feed_one(packet, now)
            elif self._from_elsewhere(packet, address, now):
                self._source_names = bytearray(name) * SLOTS

    def _feed_one(self, packet: bytes, now: float) -> None:
        buffer = bytearray(packet)
        self.feed(buffer, memoryview(buffer), [0], [len(packet)], now)

    def _learn_stride(self, longest: int) -> None:
        """Slots as long as the usual packet put packets side by side, ready to be sent on with one call."""
        if longest > self._stride:
            self._stride, self._shorter = min(longest, MAX_STRIDE), 0
            return
        self._longest_seen = longest if self._shorter == 0 else max(self._longest_seen, longest)
        self._shorter += 1
        if self._shorter >= _SHORTER_BATCHES:
            self._stride, self._shorter = max(self._longest_seen, _MIN_STRIDE), 0

    def _drain_singly(self, sock: socket.socket, now: float) -> None:
        """One system call per packet, where there is no other way."""
        view = self._pump.view
        position = 0
        starts: list[int] = []
        sizes: list[int] = []
        while position < _DRAIN_LIMIT:
            try:
                size, address = sock.recvfrom_into(view[position:])
            except OSError:
                break
            if address[:2] == self.source and size >= rtp.HEADER_SIZE:
                starts.append(position)
                sizes.append(size)
                position += size
                continue
            if starts:
                self.feed(self._pump.arena, view, starts, sizes, now)
                starts, sizes = [], []
            self._from_elsewhere(bytes(view[position : position + size]), address[:2], now)
            position = 0
        if starts:
            even = sizes[0] if sizes[:-1].count(sizes[0]) == len(sizes) - 1 else 0
            self.feed(self._pump.arena, view, starts, sizes, now, even)

    def _from_elsewhere(self, packet: bytes, address: Address, now: float) -> bool:
        """A packet that is not from the latched source: the first one, a stranger, or the sender behind a new NAT port."""
        if not self.accepts(packet, address, now):
            return False
        if self.source != address:
            log.info("event=media_source stream_id=%s source=%s:%d", self.spec.stream_id, *address)
        self.source = address
        self._feed_one(packet, now)
        return True

    def accepts(self, packet: bytes, address: Address, now: float) -> bool:
        """Whether ``address`` may be this session's source from now on; counts it as foreign otherwise."""
        if len(packet) < rtp.HEADER_SIZE or rtp.is_rtcp(packet) or not self.ingest.is_valid(packet):
            self.ingest.invalid += 1
            return False
        expected_host = self.remote_host is None or address[0] == self.remote_host
        if self.source is None or address == self.source:
            if expected_host:
                return True
        elif expected_host and self._may_replace(packet, now):
            return True
        self.foreign += 1
        self.report_fault("foreign_source", f"source={address[0]}:{address[1]}")
        return False

    def _may_replace(self, packet: bytes, now: float) -> bool:
        ssrc = int.from_bytes(packet[8:12], "big")
        ingest = self.ingest
        if ssrc == ingest.wanted and ingest.ssrc != ingest.wanted:
            return True  # the promised SSRC beats whoever came first
        last = ingest.last_packet_mono
        silence = now - last if last is not None else RELATCH_S
        return silence >= (RELATCH_S if ssrc in (ingest.ssrc, ingest.wanted) else 2 * RELATCH_S)

    # --- TCP ---------------------------------------------------------------------------------------------------

    def _accept(self, now: float) -> None:
        if self._lease is None:
            return
        while True:
            try:
                sock, address = self._lease.rtp.accept()
            except OSError:
                return
            self.adopt(sock, address[:2], now)

    def adopt(self, sock: socket.socket, address: Address, now: float, data: bytes = b"") -> None:
        """A connection that may carry this session; ``data`` was read from it already."""
        expected_host = self.remote_host is None or address[0] == self.remote_host
        if not expected_host or len(self._connections) >= _MAX_WAITING:
            self.foreign += 1
            self.report_fault("foreign_source", f"source={address[0]}:{address[1]} transport=tcp")
            sock.close()
            return
        tune(sock)
        connection = TcpInput(
            sock, address, self._pump, now, packets=self._tcp_packets, ended=self._tcp_ended
        )
        self._connections.append(connection)
        if data:
            connection.take(data, now)

    def _tcp_packets(self, connection: TcpInput, spans: list[tuple[int, int]], now: float) -> None:
        """Whole packets of one connection. The first connection with a valid packet is the session's."""
        buffer, view = connection.deframer.buffer, connection.deframer.view
        if connection is not self._chosen:
            start, size = spans[0]
            packet = bytes(view[start : start + size])
            current = self._chosen
            if current is not None and not self._may_replace(packet, now):
                self.foreign += len(spans)
                self.report_fault(
                    "foreign_source", f"source={connection.address[0]}:{connection.address[1]} transport=tcp"
                )
                return
            if not self.ingest.is_valid(packet) and not rtp.is_rtcp(packet):
                self.ingest.invalid += 1
                return
            self._chosen = connection
            self.source = connection.address
            if current is not None:
                current.close()
                self._connections.remove(current)
            log.info("event=media_connection stream_id=%s source=%s:%d framing=%s", self.spec.stream_id,
                     *connection.address, connection.deframer.framing.name.lower())  # fmt: skip
        starts = [start for start, size in spans if size >= rtp.HEADER_SIZE]
        sizes = [size for _, size in spans if size >= rtp.HEADER_SIZE]
        if starts:
            count, stride = len(starts), starts[1] - starts[0] if len(starts) > 1 else 0
            even = count > 1 and starts == list(range(starts[0], starts[0] + count * stride, stride))
            self.feed(buffer, view, starts, sizes, now, stride if even else 0)

    def _tcp_ended(self, connection: TcpInput) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        if connection is self._chosen or self.spec.transport is Transport.TCP_ACTIVE:
            self._chosen = None
            now = self._clock()
            self.ingest.flush(now)
            self.content.flush(now)
            self._lose("connection_lost")

    async def _dial(self) -> None:
        host, port = self.remote_host or "", self.remote_port or 0
        local = None if self._lease is None else self._lease.rtp.getsockname()[:2]
        try:
            sock = await dial(host, port, local=local)
        except OSError as error:
            log.info("event=media_dial_failed stream_id=%s error=%s", self.spec.stream_id, error)
            self._lose("dial_failed")
            return
        now = self._clock()
        self._alive_mono = now
        self.adopt(sock, (host, port), now)

    # --- RTCP --------------------------------------------------------------------------------------------------

    def _drain_rtcp(self, now: float) -> None:
        """RTCP on the odd port. Only the media's host is heard; the rest is read away."""
        if self._lease is None or self._lease.rtcp is None:
            return
        for _ in range(32):
            try:
                data, address = self._lease.rtcp.recvfrom(2048)
            except OSError:
                return
            if self.source is not None and address[0] == self.source[0]:
                self._take_report(data, address[:2], now)

    def _rtcp_in_media(self, data: bytes, now: float) -> None:
        """RTCP between RTP packets: on TCP by design, on UDP by some senders."""
        self._take_report(data, None if self._chosen is not None else self.source, now)

    def _take_report(self, data: bytes, address: Address | None, now: float) -> None:
        report = rtp.parse_sender_report(data)
        if report is not None:
            self._reporter = address
            self._reports.heard(report, now)

    def _send_report(self, now: float) -> None:
        data = self._reports.build(self.ingest, now)
        with contextlib.suppress(OSError):
            if self._chosen is not None:
                prefix = b"$\x01" if self._chosen.deframer.framing is Framing.INTERLEAVED else b""
                self._chosen.sock.send(prefix + frame(data))
            elif self._lease is not None and self._lease.rtcp is not None and self._reporter is not None:
                self._lease.rtcp.sendto(data, self._reporter)

    # --- statistics --------------------------------------------------------------------------------------------

    def stats(self, now: float, viewers: int) -> StreamStats:
        """Counters since the opening."""
        self._steady.settle()
        ingest, stream = self.ingest, self.stream
        last = ingest.last_packet_mono
        video, audio, keys = self._frames_unwatched()
        resyncs = self.content.resyncs + sum(connection.deframer.resyncs for connection in self._connections)
        return StreamStats(
            stream_id=self.spec.stream_id, ready=stream.ready, video=stream.video, audio=stream.audio,
            ssrc=ingest.ssrc, source=None if self.source is None else f"{self.source[0]}:{self.source[1]}",
            packets=ingest.packets, bytes=ingest.bytes, lost=ingest.lost, reordered=ingest.reorder.reordered,
            late=ingest.reorder.late, ssrc_faults=ingest.ssrc_faults,
            foreign_packets=self.foreign + ingest.foreign + ingest.invalid, resyncs=resyncs,
            damaged_units=stream.damaged_units, video_units=stream.video_units + video,
            audio_units=stream.audio_units + audio,
            key_units=stream.key_units + keys, viewers=viewers, senders=len(self.relays), reader_drops=stream.total_drops,
            relay_packets=self.relayed_before + sum(relay.sent for relay in self.relays),
            relay_drops=self.relay_drops_before + sum(relay.dropped for relay in self.relays),
            kernel_drops=0 if self._lease is None or self._number < 0 else kernel_drops(self._lease.rtp),
            last_packet_age_s=None if last is None else max(0.0, now - last), media_mismatch=self.content.mismatch,
            position_s=None if self.history is None else self.history.position_s,
        )  # fmt: skip
