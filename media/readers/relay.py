"""Relays one stream's RTP payload untouched to another platform: UDP, TCP passive, TCP active.

Only SSRC, sequence, timestamp and, where asked, the payload type are rewritten. A relay starts with the packets
since the last key frame, paced, so that the upper platform has a picture at once (field quirk 35).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from media.ports import PortLease, PortPool
from media.pump import Pump, UdpOutput, mark_payload_type, rewrite
from media.runs import Run
from media.specs import SenderInfo, SenderSpec, Transport
from media.tcp import TcpOutput, dial, tune

log = logging.getLogger(__name__)

PACED_BYTES = 32 * 1024
"""Per tick of 5 ms while cached packets or a burst go out: about 52 Mbit/s (GB/T 28181-2022 4.3.6: a limited peak)."""
BURST_BYTES = 64 * 1024
"""What may leave at once: a camera's 100 Mbit/s port fills as much in one tick. A larger burst is paced."""
TCP_BACKLOG_BYTES = 2 * 1024 * 1024


class PacketSource(Protocol):
    """What a relay needs of a stream's source."""

    def cached_runs(self) -> list[Run]: ...

    def add_relay(self, relay: Relay) -> None: ...

    def remove_relay(self, relay: Relay) -> None: ...

    def request_key_frame(self) -> None: ...


class Relay:
    """One sender. :meth:`open` binds, :meth:`start` begins to send, :meth:`close` gives all back.

    ``on_ended(cause)`` is called at most once, when the relay stops by itself: connection_lost | dial_failed |
    stream_closed.
    """

    def __init__(
        self,
        spec: SenderSpec,
        *,
        source: PacketSource,
        pump: Pump,
        ports: PortPool,
        gso: bool,
        host: str,
        pending_limit_bytes: int = 10 * 1024 * 1024,
        on_ended: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.spec = spec
        self._source = source
        self._pump = pump
        self._ports = ports
        self._gso = gso
        self._host = host
        self._on_ended = on_ended
        self._clock = clock
        self._lease: PortLease | None = None
        self._output: UdpOutput | TcpOutput | None = None
        self._tcp: TcpOutput | None = None
        """The output again, where it is a connection."""
        self._connection: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._closed = False
        self._live = False
        self._pending: deque[Run] = deque()
        self._pending_bytes = 0
        self._pending_limit = pending_limit_bytes
        self._pending_drops = 0
        self._burst_mono = 0.0
        self._burst_bytes = 0
        self._sequence_base = secrets.randbelow(0x8000)
        self._first_index: int | None = None

    def open(self) -> SenderInfo:
        """Bind the port that our answer names. Raises NoPort."""
        now = self._clock()
        transport = self.spec.transport
        if transport is Transport.UDP:
            self._lease = self._ports.lease_udp(now)
        else:
            self._lease = self._ports.lease_tcp(now, listen=transport is Transport.TCP_PASSIVE)
        if transport is Transport.TCP_PASSIVE:
            self._pump.register(self._lease.rtp, self._accept)
        return SenderInfo(sender_id=self.spec.sender_id, host=self._host, port=self._lease.port)

    def start(self) -> None:
        """The upper platform acknowledged: send, or dial first. Idempotent. OSError for an unusable address."""
        if self._started or self._lease is None:
            return
        self._started = True
        if self.spec.transport is Transport.UDP:
            self._lease.rtp.connect((self.spec.remote_host, self.spec.remote_port))
            self._begin(UdpOutput(self._lease.rtp, gso=self._gso))
        elif self.spec.transport is Transport.TCP_ACTIVE:
            self._task = asyncio.get_running_loop().create_task(self._dial())
        elif self._connection is not None:
            self._connected(self._connection)

    def close(self) -> None:
        """Stop sending and release socket, port and task. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._source.remove_relay(self)
        self._pump.forget(self)
        self._pending.clear()
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._pump.unregister(self._connection)
            self._connection.close()
        if self._lease is not None:
            self._pump.unregister(self._lease.rtp)
            self._lease.release(self._clock(), hear_ghosts=False)

    @property
    def sent(self) -> int:
        return 0 if self._output is None else self._output.sent

    @property
    def waiting_bytes(self) -> int:
        """What was taken and is not sent yet: paced packets, and the backlog of a slow TCP peer."""
        return self._pending_bytes + (0 if self._tcp is None else self._tcp.waiting_bytes)

    @property
    def dropped(self) -> int:
        return self._pending_drops + (0 if self._output is None else self._output.dropped)

    def lane_target(self, index: int) -> tuple[int, int, int, int, bool] | None:
        """What compiled code needs to send from packet ``index`` on: socket, SSRC, sequence minus index, payload type
        or -1, segmentation. None while packets wait or where it is no UDP."""
        output = self._output
        if not self._live or self._pending or not isinstance(output, UdpOutput):
            return None
        if self._first_index is None:
            self._first_index = index
        wanted = self.spec.payload_type
        offset = self._sequence_base - self._first_index
        return output.sock.fileno(), self.spec.ssrc, offset, -1 if wanted is None else wanted, output.gso

    def credit(self, sent: int, dropped: int, gso: bool) -> None:
        """Compiled code sent for this relay."""
        output = self._output
        if isinstance(output, UdpOutput):
            output.sent += sent
            output.dropped += dropped
            output.gso = gso

    # --- packets -----------------------------------------------------------------------------------------------

    def forward(self, run: Run, keep: Callable[[], Run]) -> None:
        """One run as it came in. ``keep()`` gives a copy that may be held."""
        if self._output is None:
            return
        if self._live:
            if run.arrival != self._burst_mono:
                self._burst_mono, self._burst_bytes = run.arrival, 0
            self._burst_bytes += len(run.sizes) * run.sizes[0]
            if self._burst_bytes <= BURST_BYTES * self._pump.share or self._tcp is not None:
                self._transmit(run)
                return
            self._live = False
            self._pump.every_tick(self, self._tick)
        if self._pending_bytes > self._pending_limit:
            self._pending_drops += len(run)
            return
        kept = keep()
        self._pending.append(kept)
        self._pending_bytes += sum(kept.sizes)

    def _begin(self, output: UdpOutput | TcpOutput) -> None:
        self._output = output
        self._tcp = output if isinstance(output, TcpOutput) else None
        self._pending.extend(self._source.cached_runs())
        self._pending_bytes = sum(sum(run.sizes) for run in self._pending)
        self._source.add_relay(self)
        if self._pending:
            self._pump.every_tick(self, self._tick)
        else:
            self._live = True
            self._source.request_key_frame()

    def _tick(self, now: float) -> bool:
        """Paced work: the cached packets or a large burst, then the backlog of a slow TCP peer."""
        budget = max(PACED_BYTES * self._pump.share, self._pending_bytes // 64)
        while self._pending and budget > 0:
            if self._tcp is not None and self._tcp.backlog_bytes > TCP_BACKLOG_BYTES // 2:
                break
            run = self._pending.popleft()
            fitting = max(1, budget // run.sizes[0])
            if fitting < len(run):
                self._pending.appendleft(run.part(fitting, len(run)))
                run = run.part(0, fitting)
            size = sum(run.sizes)
            self._pending_bytes -= size
            budget -= size
            self._transmit(run)
        if not self._pending:
            self._live = True
        backlog = self._tcp is not None and self._tcp.flush(now)
        return bool(self._pending) or backlog

    def _transmit(self, run: Run) -> None:
        output = self._output
        if output is None:
            return
        if self._first_index is None:
            self._first_index = run.index
        rewrite(run, self._sequence_base + run.index - self._first_index, run.shift, self.spec.ssrc)
        wanted = self.spec.payload_type
        if wanted is None or wanted == run.payload_type:
            output.send(run)
        else:
            mark_payload_type(run, wanted)
            output.send(run)
            mark_payload_type(run, run.payload_type)
        if self._tcp is not None and self._tcp.backlog_bytes:
            self._pump.every_tick(self, self._tick)

    # --- connections -------------------------------------------------------------------------------------------

    async def _dial(self) -> None:
        host, port = self.spec.remote_host or "", self.spec.remote_port or 0
        local = None if self._lease is None else self._lease.rtp.getsockname()[:2]
        try:
            sock = await dial(host, port, local=local)
        except OSError as error:
            log.info("event=relay_dial_failed sender_id=%s error=%s", self.spec.sender_id, error)
            self._end("dial_failed")
            return
        self._adopt(sock)

    def _accept(self, now: float) -> None:
        """The upper platform connects. One connection at a time; others are closed."""
        if self._lease is None:
            return
        while True:
            try:
                sock, address = self._lease.rtp.accept()
            except OSError:
                return
            expected = self.spec.remote_host
            if self._connection is not None or (expected is not None and address[0] != expected):
                log.info("event=relay_stranger sender_id=%s source=%s:%d", self.spec.sender_id, *address[:2])
                sock.close()
                continue
            tune(sock)
            self._adopt(sock)

    def _adopt(self, sock: socket.socket) -> None:
        self._connection = sock
        self._pump.register(sock, self._drain)
        if self._started:
            self._connected(sock)

    def _connected(self, sock: socket.socket) -> None:
        lost = self._connection_lost
        self._begin(TcpOutput(sock, limit_bytes=TCP_BACKLOG_BYTES, on_lost=lost))

    def _drain(self, now: float) -> None:
        """Nothing but RTCP comes back; it is read away. The end of the connection ends the relay."""
        if self._connection is None:
            return
        try:
            if self._connection.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._connection_lost()

    def _connection_lost(self) -> None:
        if self._connection is not None:
            self._pump.unregister(self._connection)
        asyncio.get_running_loop().call_soon(self._end, "connection_lost")

    def end_with_stream(self) -> None:
        """The stream was closed by its owner."""
        self._end("stream_closed")

    def _end(self, cause: str) -> None:
        if not self._closed:
            self.close()
            self._on_ended(cause)
