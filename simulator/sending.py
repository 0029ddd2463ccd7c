"""Real media of a simulated device: a picture and a tone as program stream over RTP, paced by one task per device.

The picture is a loop encoded once per settings and shared by all devices (cheap), or drawn live with a running
clock. One pack per frame is made for all receivers of a channel; only the RTP headers differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from media.rtp import RtpPacketizer
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec
from simulator.faults import Disturber, Faults
from simulator.picture import TestPicture, tone
from simulator.stream_faults import PackSpoiler, WireSpoiler

log = logging.getLogger(__name__)

RTP_PAYLOAD_BYTES = 1400
MAX_TCP_BACKLOG = 1024 * 1024
LOOP_S = 2.0


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a channel shows. ``source`` loop (encoded once, cheap) or live (running clock, some ms per frame)."""

    width: int = 640
    height: int = 360
    rate: int = 25
    codec: str = "h264"
    bitrate: int = 500_000
    gop: int = 50
    label: str = ""
    source: Literal["loop", "live"] = "loop"
    sound: bool = True
    b_frames: int = 0
    """Only of a loop."""

    def test_picture(self) -> TestPicture:
        return TestPicture(
            self.width,
            self.height,
            self.rate,
            self.codec,
            bitrate=self.bitrate,
            gop=self.gop,
            label=self.label,
            preset="veryfast" if self.b_frames else "ultrafast",
            b_frames=self.b_frames,
        )


@dataclass(slots=True)
class SentCounts:
    """Counters of one receiver. ``dropped``: frames the socket did not take."""

    frames: int = 0
    packets: int = 0
    bytes: int = 0
    dropped: int = 0


class Outlet:
    """Where packets go. ``send`` never waits; it returns False when the frame was dropped."""

    spoiler: WireSpoiler | None = None
    """What this device does to its packets on the way."""

    def send(self, packets: list[bytes]) -> bool:
        raise OSError("no outlet")

    def close(self) -> None:
        """Release the socket."""


class UdpOutlet(Outlet):
    """A bound and connected UDP socket."""

    def __init__(self, local_host: str, remote: tuple[str, int] | None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
        self.socket.bind((local_host, 0))
        self.remote = remote

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def send(self, packets: list[bytes]) -> bool:
        if self.remote is None:
            return False
        send_to, remote = self.socket.sendto, self.remote
        try:
            for packet in packets:
                send_to(packet, remote)
        except OSError:  # buffer full, or ICMP told that nobody listens
            return False
        if self.spoiler is not None:
            self.spoiler.disturb(packets, remote)
        return True

    def close(self) -> None:
        self.socket.close()
        if self.spoiler is not None:
            self.spoiler.close()


class TcpOutlet(Outlet):
    """A TCP connection with RFC 4571 lengths, dialled by us or accepted from the receiver."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None
        self.server: asyncio.Server | None = None
        self.connected = asyncio.Event()
        self._reader_task: asyncio.Task[None] | None = None

    async def dial(self, host: str, port: int, *, tries: int = 3) -> bool:
        """Connect, at least three tries a second apart (2022 annex D)."""
        for attempt in range(tries):
            try:
                reader, self.writer = await asyncio.open_connection(host, port)
            except OSError as error:
                log.info(
                    "event=media_dial_failed host=%s port=%s try=%s error=%s", host, port, attempt, error
                )
                await asyncio.sleep(1.0)
                continue
            self._connected(reader)
            return True
        return False

    async def listen(self, host: str) -> int:
        """Accept one connection later; the port."""

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self.writer is not None:
                writer.close()
                return
            self.writer = writer
            self._connected(reader)

        self.server = await asyncio.start_server(accepted, host, 0)
        return int(self.server.sockets[0].getsockname()[1])

    def _connected(self, reader: asyncio.StreamReader) -> None:
        self._reader_task = asyncio.get_running_loop().create_task(self._drain(reader))
        self.connected.set()

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        """Read and forget what the receiver sends (RTCP)."""
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                pass

    def send(self, packets: list[bytes]) -> bool:
        writer = self.writer
        if (
            writer is None
            or writer.is_closing()
            or writer.transport.get_write_buffer_size() > MAX_TCP_BACKLOG
        ):
            return False
        if self.spoiler is not None:
            writer.write(self.spoiler.frame(packets))
        else:
            writer.write(b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets))
        return True

    def cut(self) -> None:
        """Break the connection without a word."""
        if self.writer is not None:
            self.writer.transport.abort()

    def close(self) -> None:
        if self._reader_task is not None:
            self._reader_task.cancel()
        if self.server is not None:
            self.server.close()
        if self.writer is not None:
            self.writer.close()


@dataclass(slots=True, eq=False)
class Receiver:
    """One call's share of a feed."""

    outlet: Outlet
    packetizer: RtpPacketizer
    disturber: Disturber
    faults: Faults
    started_mono: float = field(default_factory=time.monotonic)
    counts: SentCounts = field(default_factory=SentCounts)
    paused: bool = False
    waiting_for_key: bool = True

    def send(self, pack: bytes, timestamp: int) -> None:
        faults = self.faults
        if faults.no_rtp or self.paused:
            return
        age_s = time.monotonic() - self.started_mono
        if faults.stop_rtp_after_s is not None and age_s > faults.stop_rtp_after_s:
            return
        if (
            faults.cut_tcp_after_s is not None
            and age_s > faults.cut_tcp_after_s
            and isinstance(self.outlet, TcpOutlet)
        ):
            self.outlet.cut()
            return
        packets = self.packetizer.packets(pack, timestamp)
        if self.outlet.spoiler is not None:
            packets = self.outlet.spoiler.packets(packets)
        if self.disturber.active:
            packets = list(self.disturber.disturb(packets))
        counts = self.counts
        if self.outlet.send(packets):
            counts.frames += 1
            counts.packets += len(packets)
            counts.bytes += sum(map(len, packets))
        else:
            counts.dropped += 1


class Feed:
    """One channel's pictures and sound: numbers the frames, muxes each once, hands it to all receivers."""

    def __init__(self, pictures: Pictures, faults: Collection[str] = ()) -> None:
        self.pictures = pictures
        self.receivers: set[Receiver] = set()
        self.key_requests = 0
        self._picture = pictures.test_picture()
        self._loop: list[AccessUnit] = []
        self._tone = tone(1.0) if pictures.sound else []
        self._spoiler = PackSpoiler(self._picture.codec, Codec.PCMA if pictures.sound else None, faults)
        self._frame = 0
        self._position = 0
        self._audio = 0
        self._key_wanted = False
        self._begins_with_sound = "audio_first" in faults

    @property
    def frames(self) -> int:
        """Pictures made so far."""
        return self._frame

    async def prepare(self) -> None:
        """Encode the loop, off the event loop; free when another feed with equal settings did it."""
        if self.pictures.source == "loop" and not self._loop:
            self._loop = await asyncio.to_thread(self._picture.encoded_loop, LOOP_S)

    def request_key(self) -> None:
        """The next frame is a key frame."""
        self.key_requests += 1
        self._key_wanted = True

    async def step(self) -> None:
        """Send the next frame and the sound that belongs to its time."""
        pts = self._frame * TICKS_PER_SECOND // self.pictures.rate
        unit = await self._next_unit()
        unit.pts = unit.dts = pts
        self._send(unit, pts)
        self._frame += 1
        due = self._frame * TICKS_PER_SECOND // self.pictures.rate
        while self._tone and self._audio * 3600 < due:
            sound = self._tone[self._audio % len(self._tone)]
            # Half a frame beside the picture, so that no two packs share a timestamp (2022 4.3.6).
            sound.pts = sound.dts = self._audio * 3600 + 1800
            self._send(sound, sound.pts)
            self._audio += 1

    async def _next_unit(self) -> AccessUnit:
        key, self._key_wanted = self._key_wanted, False
        if self.pictures.source == "live":
            return await asyncio.to_thread(
                self._picture.frame, self._frame, key=key or self._frame % self.pictures.gop == 0
            )
        if key:
            self._position = 0
        unit = self._loop[self._position]
        self._position = (self._position + 1) % len(self._loop)
        return unit

    def _send(self, unit: AccessUnit, timestamp: int) -> None:
        """One unit to all receivers; each begins with a key frame."""
        packs = self._spoiler.packs(unit, timestamp)
        for receiver in self.receivers:
            if receiver.waiting_for_key:
                if not unit.key and not (self._begins_with_sound and not unit.codec.is_video):
                    continue
                receiver.waiting_for_key = False
            for pack, stamp in packs:
                receiver.send(pack, stamp)


class Pacer:
    """The one task of a device that steps its feeds at their frame rate while anybody watches."""

    def __init__(self, rate: int) -> None:
        self._interval_s = 1.0 / rate
        self._feeds: set[Feed] = set()
        self._task: asyncio.Task[None] | None = None
        self.late_ticks = 0

    def attach(self, feed: Feed, receiver: Receiver) -> None:
        feed.receivers.add(receiver)
        feed.request_key()
        self._feeds.add(feed)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def detach(self, feed: Feed, receiver: Receiver) -> None:
        feed.receivers.discard(receiver)
        if not feed.receivers:
            self._feeds.discard(feed)

    async def close(self) -> None:
        self._feeds.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        due = time.monotonic()
        while self._feeds:
            for feed in list(self._feeds):
                await feed.step()
            due += self._interval_s
            wait_s = due - time.monotonic()
            if wait_s < -1.0:  # the machine was busy: go on from now instead of sending a burst
                self.late_ticks += 1
                due = time.monotonic()
            await asyncio.sleep(max(0.0, wait_s))
