"""What an upper platform receives of one channel: RTP over UDP or TCP, checked packet by packet, demuxed and decoded."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from media.ps import PsDemuxer
from media.rfc4571 import Deframer
from media.rtp import RtpPacket, is_rtcp, parse, sequence_delta
from media.unit import AccessUnit, Codec

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
DRAIN_AT_ONCE = 256
_DECODERS = {Codec.H264: "h264", Codec.H265: "hevc"}
_PACK, _SYSTEM, _MAP = b"\x00\x00\x01\xba", b"\x00\x00\x01\xbb", b"\x00\x00\x01\xbc"
_VIDEO = b"\x00\x00\x01\xe0"


@dataclass(slots=True)
class PullStats:
    """Counters of one pull. ``frames`` are decoded pictures, ``units`` coded ones, ``rtp_frames`` RTP timestamps.

    ``lost`` counts missing sequence numbers, ``timestamp_faults`` packs (frames) that share an RTP timestamp with
    another or are spread over several (2022 4.3.6), ``structure_faults`` key frames without pack header, system
    header and map in front of the picture (C.1).
    """

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    reordered: int = 0
    repeated: int = 0
    strange: int = 0
    rtp_frames: int = 0
    timestamp_faults: int = 0
    structure_faults: int = 0
    units: int = 0
    key_units: int = 0
    audio_units: int = 0
    damaged_units: int = 0
    frames: int = 0
    decode_errors: int = 0
    width: int = 0
    height: int = 0
    codec: str = ""
    ssrcs: Counter[int] = field(default_factory=Counter)
    payload_types: Counter[int] = field(default_factory=Counter)
    sources: set[tuple[str, int]] = field(default_factory=set)
    first_packet_mono: float = 0.0
    first_key_first: bool | None = None
    """Whether the first picture received was a key frame."""
    closed_by_peer: bool = False


class MediaPort:
    """One receiving socket of the upper: UDP, TCP listening (passive) or TCP dialling (active), read by its own thread."""

    def __init__(self, transport: str, host: str = "127.0.0.1", *, keep: Path | None = None) -> None:
        if transport not in ("udp", "tcp_passive", "tcp_active"):
            raise ValueError(f"no transport: {transport}")
        self.transport = transport
        self.stats = PullStats()
        self.on_frame: Callable[[av.VideoFrame], None] | None = None
        """Called for each decoded picture, in the receiving thread."""
        self._keep = keep
        self._file: BinaryIO | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._dial: tuple[str, int] | None = None
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.bind((host, 0))
        if transport == "tcp_passive":
            self._socket.listen(4)
        self.host, self.port = self._socket.getsockname()[:2]
        self._reset()

    def _reset(self) -> None:
        self._demuxer = PsDemuxer()
        self._decoder: VideoCodecContext | None = None
        self._sequence: int | None = None
        self._timestamp: int | None = None
        self._group: list[bytes] = []

    def start(self, dial: tuple[str, int] | None = None) -> None:
        """Begin to receive; ``dial`` is the sender's address for tcp_active. Called again: nothing happens."""
        if self._thread is not None:
            return
        self._dial = dial
        if self._keep is not None:
            self._file = self._keep.open("wb")
        self._thread = threading.Thread(target=self._run, name=f"pull {self.port}", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop the thread and release the socket. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)
        self._socket.close()

    async def wait_frames(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait for ``count`` decoded pictures. Raises TimeoutError with what came instead."""
        await self._wait(lambda: self.stats.frames >= count, timeout_s, f"{count} pictures")

    async def wait_packets(self, count: int, timeout_s: float = 10.0) -> None:
        await self._wait(lambda: self.stats.packets >= count, timeout_s, f"{count} packets")

    async def _wait(self, done: object, timeout_s: float, what: str) -> None:
        assert callable(done)  # noqa: S101
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} in {timeout_s} s: {self.stats}")
            await asyncio.sleep(0.02)

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self.transport == "udp":
                self._receive_datagrams()
            else:
                self._receive_stream()
        finally:
            self._close_group()
            if self._file is not None:
                self._file.close()

    def _receive_datagrams(self) -> None:
        self._socket.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not self._stop.is_set():
                if not selector.select(0.1):
                    continue
                for _ in range(DRAIN_AT_ONCE):
                    try:
                        data, source = self._socket.recvfrom(65_535)
                    except BlockingIOError:
                        break
                    self.stats.sources.add((source[0], source[1]))
                    self._packet(data)

    def _receive_stream(self) -> None:
        connection = self._connected()
        if connection is None:
            return
        with connection:
            connection.settimeout(0.1)
            self.stats.sources.add(connection.getpeername()[:2])
            deframer = Deframer()
            while not self._stop.is_set():
                try:
                    count = connection.recv_into(deframer.space())
                except TimeoutError:
                    continue
                except OSError:
                    count = 0
                if count == 0:
                    self.stats.closed_by_peer = True
                    return
                for start, size in deframer.advance(count):
                    self._packet(bytes(deframer.view[start : start + size]))

    def _connected(self) -> socket.socket | None:
        if self.transport == "tcp_active":
            assert self._dial is not None  # noqa: S101
            for _ in range(3):
                with contextlib.suppress(OSError):
                    return socket.create_connection(self._dial, timeout=2.0)
                if self._stop.wait(1.0):
                    break
            return None
        self._socket.settimeout(0.1)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                return self._socket.accept()[0]
        return None

    def _packet(self, data: bytes) -> None:
        if is_rtcp(data):
            return
        packet = parse(data)
        if packet is None:
            self.stats.strange += 1
            return
        stats = self.stats
        if not stats.packets:
            stats.first_packet_mono = time.monotonic()
        stats.packets += 1
        stats.bytes += len(data)
        stats.ssrcs[packet.ssrc] += 1
        stats.payload_types[packet.payload_type] += 1
        if self._in_sequence(packet):
            self._collect(packet)

    def _in_sequence(self, packet: RtpPacket) -> bool:
        if self._sequence is None:
            self._sequence = packet.sequence
            return True
        delta = sequence_delta(packet.sequence, self._sequence)
        if delta == 0:
            self.stats.repeated += 1
            return False
        if delta < 0:
            self.stats.reordered += 1
            self.stats.lost = max(0, self.stats.lost - 1)
            return False
        self.stats.lost += delta - 1
        self._sequence = packet.sequence
        return True

    def _collect(self, packet: RtpPacket) -> None:
        payload = bytes(packet.payload)
        if packet.timestamp != self._timestamp:
            self._close_group()
            self._timestamp = packet.timestamp
            if not payload.startswith(_PACK):
                self.stats.timestamp_faults += 1
        elif payload.startswith(_PACK):
            self.stats.timestamp_faults += 1
        self._group.append(payload)

    def _close_group(self) -> None:
        """One RTP timestamp is complete: check its structure, demux and decode it."""
        if not self._group:
            return
        data, self._group = b"".join(self._group), []
        self.stats.rtp_frames += 1
        if self._file is not None:
            self._file.write(data)
        for unit in self._demuxer.feed(data, self._timestamp, now=time.monotonic()):
            self._unit(unit, data)

    def _unit(self, unit: AccessUnit, pack: bytes) -> None:
        stats = self.stats
        if not unit.codec.is_video:
            stats.audio_units += 1
            return
        stats.units += 1
        stats.damaged_units += unit.damaged
        stats.codec = unit.codec.value
        if stats.first_key_first is None:
            stats.first_key_first = unit.key
        if unit.key:
            stats.key_units += 1
            places = [pack.find(mark) for mark in (_PACK, _SYSTEM, _MAP, _VIDEO)]
            stats.structure_faults += places[0] != 0 or -1 in places or places != sorted(places)
        self._decode(unit)

    def _decode(self, unit: AccessUnit) -> None:
        stats = self.stats
        if self._decoder is None:
            if not unit.key or unit.codec not in _DECODERS:
                return
            self._decoder = av.CodecContext.create(_DECODERS[unit.codec], "r")  # type: ignore[assignment]
        assert self._decoder is not None  # noqa: S101
        try:
            for frame in self._decoder.decode(av.Packet(unit.data)):
                stats.frames += 1
                stats.width, stats.height = frame.width, frame.height
                if self.on_frame is not None:
                    self.on_frame(frame)
        except FFmpegError:
            stats.decode_errors += 1
