"""One device's end of a talk: sound as raw G.711A or in a program stream, by UDP or TCP, out of the port of our SDP.

Some devices play nothing that comes from another port than the one named (and some send their own sound back to the
same port), so one socket does both. GB/T 28181-2022 C.2.4 (packets), annex D (TCP).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable

from media import rtp
from media.ports import PortLease, PortPool
from media.ps import PsDemuxer
from media.ps_mux import PsMuxer
from media.pump import Pump
from media.rfc4571 import Deframer, frame
from media.specs import TalkLegInfo, TalkLegSpec, TalkLegTarget, Transport
from media.talk_frames import Frame, samples_of, ticks_of
from media.tcp import TcpOutput, dial, tune
from media.unit import AccessUnit, Codec

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 12.0
"""A device that shall dial us gets so long."""
BACKLOG_BYTES = 64 * 1024
"""Four seconds of sound wait for a slow connection at most; then packets are left out."""
_READS = 64
_PS_PAYLOAD = 96

Hearing = Callable[[bytes, int], None]
"""Sound of the device: G.711A, timestamp in samples."""


class TalkLeg:
    """:meth:`open` binds, :meth:`start` begins to send, :meth:`close` gives all back.

    ``on_up`` is called once, when sound can leave; ``on_ended(cause)`` at most once, when the leg stops by itself:
    connection_lost | dial_failed | no_connection. ``on_heard`` gets what the device sends.
    """

    def __init__(
        self,
        spec: TalkLegSpec,
        *,
        pump: Pump,
        ports: PortPool,
        host: str,
        on_up: Callable[[], None],
        on_ended: Callable[[str], None],
        on_heard: Hearing | None,
        clock: Callable[[], float],
    ) -> None:
        self.spec = spec
        self.sent = 0
        self.dropped = 0
        self.received = 0
        self._pump, self._ports, self._host, self._clock = pump, ports, host, clock
        self._on_up, self._on_ended, self._on_heard = on_up, on_ended, on_heard
        self._lease: PortLease | None = None
        self._target: TalkLegTarget | None = None
        self._remote: tuple[str, int] | None = None
        self._connection: socket.socket | None = None
        self._output: TcpOutput | None = None
        self._deframer = Deframer()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._up = False
        self._sequence = secrets.randbelow(0x8000)
        self._stamp_base = secrets.randbelow(0x80000000)
        self._first_stamp: int | None = None
        self._muxer = PsMuxer(None, Codec.PCMA)
        self._demuxer = PsDemuxer()
        self._heard_sequence: int | None = None

    # -- life --------------------------------------------------------------------------------------------------

    def open(self) -> TalkLegInfo:
        """Bind the port that our SDP names. Raises NoPort."""
        now, transport = self._clock(), self.spec.transport
        if transport is Transport.UDP:
            self._lease = self._ports.lease_udp(now)
            self._pump.register(self._lease.rtp, self._drain_udp)
        else:
            passive = transport is Transport.TCP_PASSIVE
            self._lease = self._ports.lease_tcp(now, listen=passive)
            if passive:
                self._pump.register(self._lease.rtp, self._accept)
        return TalkLegInfo(leg_id=self.spec.leg_id, host=self._host, port=self._lease.port)

    def start(self, target: TalkLegTarget) -> None:
        """Both sides agreed: send, dial, or wait for the device to dial. Idempotent."""
        if self._target is not None or self._closed:
            return
        self._target = target
        if self.spec.transport is Transport.UDP:
            self._remote = (target.remote_host or "", target.remote_port or 0)
            self._is_up()
        elif self.spec.transport is Transport.TCP_ACTIVE:
            self._task = asyncio.get_running_loop().create_task(self._dial(target))
        elif self._connection is not None:
            self._connected(self._connection)
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(CONNECT_TIMEOUT_S, self._end, "no_connection")

    def close(self) -> None:
        """Stop and release socket, port, task and timer. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._pump.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._pump.unregister(self._connection)
            self._connection.close()
        if self._lease is not None:
            self._pump.unregister(self._lease.rtp)
            self._lease.release(self._clock())

    def _is_up(self) -> None:
        if not self._up:
            self._up = True
            self._on_up()

    def _end(self, cause: str) -> None:
        if not self._closed:
            self.close()
            self._on_ended(cause)

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, sound: Frame) -> None:
        """One packet of sound, under this leg's own SSRC, sequence and clock; nothing before the leg is up."""
        target = self._target
        if target is None or not self._up or self._closed:
            return
        if self._first_stamp is None:
            self._first_stamp = sound.stamp
        samples = sound.stamp - self._first_stamp
        if target.program_stream:
            pts = ticks_of(samples)
            unit = AccessUnit(Codec.PCMA, pts, pts, key=False, data=sound.payload)
            payload, stamp, number = self._muxer.mux(unit), self._stamp_base + pts, _PS_PAYLOAD
        else:
            payload, stamp, number = sound.payload, self._stamp_base + samples, 8
        packet = rtp.build(
            number if target.payload_type is None else target.payload_type,
            self._sequence,
            stamp,
            self.spec.ssrc if target.ssrc is None else target.ssrc,
            payload,
            marker=sound.first or target.program_stream,
        )
        self._sequence += 1
        self._transmit(packet)

    def _transmit(self, packet: bytes) -> None:
        if self._output is not None:
            if self._output.backlog_bytes > BACKLOG_BYTES:
                self.dropped += 1
                return
            self._output.write(frame(packet))
            if self._output.backlog_bytes:
                self._pump.every_tick(self, self._output.flush)
        elif self._lease is not None and self._remote is not None:
            try:
                self._lease.rtp.sendto(packet, self._remote)
            except OSError:  # full, or nobody listens there (yet): lost, as on any network
                self.dropped += 1
                return
        self.sent += 1

    # -- hearing -----------------------------------------------------------------------------------------------

    def _drain_udp(self, now: float) -> None:
        for _ in range(_READS):
            if self._lease is None or self._closed:
                return
            try:
                data, source = self._lease.rtp.recvfrom(4096)
            except OSError:
                return
            if self._known(source[:2]):
                self._hear(data, now)

    def _known(self, source: tuple[str, int]) -> bool:
        """Only the device's own sound; from behind NAT it comes from, and is answered to, another address."""
        target = self._target
        if target is None or self._remote is None:
            return False
        if source[0] == self._remote[0]:
            return True
        if target.peer_host is not None and source[0] == target.peer_host:
            self._remote = source
            return True
        return False

    def _hear(self, data: bytes, now: float) -> None:
        if self._on_heard is None:
            return
        packet = rtp.parse(data)
        if packet is None or not packet.payload:
            return
        last = self._heard_sequence
        if last is not None and rtp.sequence_delta(packet.sequence, last) <= 0:
            if rtp.sequence_delta(packet.sequence, last) > -1000:
                return  # repeated, or too late
            last = None
        self._heard_sequence = packet.sequence
        self.received += 1
        payload = bytes(packet.payload)
        if packet.payload_type == 8:
            self._on_heard(payload, packet.timestamp)
        elif packet.payload_type >= 96:
            gap = last is not None and packet.sequence != (last + 1) & 0xFFFF
            for unit in self._demuxer.feed(payload, packet.timestamp, gap=gap, end=packet.marker, now=now):
                if unit.codec is Codec.PCMA:
                    self._on_heard(unit.data, samples_of(unit.pts))

    # -- connections -------------------------------------------------------------------------------------------

    async def _dial(self, target: TalkLegTarget) -> None:
        local = None if self._lease is None else self._lease.rtp.getsockname()[:2]
        try:
            sock = await dial(target.remote_host or "", target.remote_port or 0, local=local)
        except OSError as error:
            log.info("event=talk_dial_failed leg_id=%s error=%s", self.spec.leg_id, error)
            self._end("dial_failed")
            return
        self._adopt(sock)

    def _accept(self, now: float) -> None:
        """The device dials us: one connection, others are closed."""
        while self._lease is not None and not self._closed:
            try:
                sock, address = self._lease.rtp.accept()
            except OSError:
                return
            expected = self.spec.remote_host
            if self._connection is not None or (expected is not None and address[0] != expected):
                log.info("event=talk_stranger leg_id=%s source=%s:%d", self.spec.leg_id, *address[:2])
                sock.close()
                continue
            tune(sock)
            self._adopt(sock)

    def _adopt(self, sock: socket.socket) -> None:
        self._connection = sock
        self._pump.register(sock, self._drain_tcp)
        if self._target is not None:
            self._connected(sock)

    def _connected(self, sock: socket.socket) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._output = TcpOutput(sock, limit_bytes=BACKLOG_BYTES, on_lost=self._connection_lost)
        self._is_up()

    def _drain_tcp(self, now: float) -> None:
        sock, deframer = self._connection, self._deframer
        if sock is None:
            return
        try:
            count = sock.recv_into(deframer.space())
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._connection_lost()
            return
        for start, size in deframer.advance(count):
            self._hear(bytes(deframer.view[start : start + size]), now)

    def _connection_lost(self) -> None:
        if self._connection is not None:
            self._pump.unregister(self._connection)
        asyncio.get_running_loop().call_soon(self._end, "connection_lost")
