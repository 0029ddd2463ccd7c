"""The packet pump: drains all media sockets on a 5 ms tick while there is traffic, sleeps in epoll when there is none.

One pump per process, driven from inside its event loop, never with a callback per packet. Measured on two cores,
batching on a tick and sending equal packets with one UDP_SEGMENT call costs less than half of what one event per
packet does (docs/decisions).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from media import compiled, mmsg
from media.runs import Run

if TYPE_CHECKING:
    from media.compiled._lanes import Lane

log = logging.getLogger(__name__)

TICK_S = 0.005
LONGEST_TICK_S = 0.008
"""A busy pump looks less often: larger batches cost less for each packet."""
LONGEST_SHARE = 100
"""Paced output catches up with at most half a second of lateness at once."""
IDLE_TICKS = 12
"""Empty ticks before the pump goes back to sleep: 60 ms, longer than one picture at 25 per second."""
ARENA_BYTES = 1024 * 1024
MAX_STRIDE = ARENA_BYTES // mmsg.SLOTS
SOL_UDP = 17
UDP_SEGMENT = 103
GSO_MAX_BYTES = 64_000
GSO_MAX_SEGMENTS = 64

_REWRITE = struct.Struct("!HII")
"""Sequence, timestamp and SSRC at byte 2 of an RTP header."""
_SEGMENT = struct.Struct("=H")


class Pump:
    """Owns one epoll set. ``register`` a socket with its drain callback; ``every_tick`` for paced work.

    A drain callback gets ``now`` (monotonic seconds) and reads its socket until it is empty or a fair share is
    taken; it is called again on the next tick when data is left. With ``compiled_lanes`` steady sessions may be handed
    to compiled code (:meth:`open_lane`); PumpMissing where that is not built.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop | None = None, *, compiled_lanes: bool = False
    ) -> None:
        self.arena = bytearray(ARENA_BYTES)
        self.view = memoryview(self.arena)
        self._receivers: dict[int, mmsg.BatchReceiver] = {}
        self.batches = mmsg.probe()
        """Whether sockets can be read many packets at a time."""
        self.ticks = 0
        self.lag_s = 0.0
        """How late the latest tick was; the worst of the last second is in :attr:`worst_lag_s`."""
        self.worst_lag_s = 0.0
        self.share = 1
        """How many times 5 ms have passed since the tick before: paced work may send so many times its share."""
        self._loop = loop or asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._drains: dict[int, Callable[[float], None]] = {}
        self._paced: dict[int, Callable[[float], bool]] = {}
        self._empty = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._began = 0.0
        self._closed = False
        self._sweep = compiled.sweep() if compiled_lanes else None
        self._left: dict[Lane, Callable[[Lane, float], None]] = {}
        self._thread: threading.Thread | None = None
        self._loop.add_reader(self._epoll.fileno(), self._wake)

    @property
    def kind(self) -> str:
        """``compiled`` or ``python``."""
        return "python" if self._sweep is None else "compiled"

    @property
    def lanes(self) -> int:
        """Sessions in the hands of compiled code now."""
        return len(self._left)

    def open_lane(
        self, sock: socket.socket, name: bytes, left: Callable[[Lane, float], None], **terms: Any
    ) -> Lane | None:
        """Let compiled code serve a registered socket from now on (terms: ``Sweep.open``); None in pure Python.

        ``left(lane, now)`` is called when something odd came; until then the socket's drain callback is not.
        """
        if self._sweep is None:
            return None
        number = sock.fileno()
        self._epoll.unregister(number)
        try:
            lane = self._sweep.open(number, name, **terms)
        except BaseException:
            self._epoll.register(number, select.EPOLLIN)
            raise
        self._left[lane] = left
        if self._thread is None:
            self._thread = threading.Thread(target=self._sweep.run, args=(TICK_S,), name="lanes", daemon=True)
            self._thread.start()
            self._loop.add_reader(self._sweep.bell, self._lanes_left)
        return lane

    def close_lane(self, lane: Lane) -> None:
        """Serve the socket by its drain callback again. Idempotent; before the socket is closed."""
        lane.close()
        if self._left.pop(lane, None) is not None and lane.number in self._drains:
            self._epoll.register(lane.number, select.EPOLLIN)

    def _lanes_left(self) -> None:
        """Compiled code met something odd: tell the owners."""
        if self._sweep is None:
            return
        now = time.monotonic()
        for lane in self._sweep.left():
            left = self._left.get(lane)
            if left is not None:
                self.close_lane(lane)
                left(lane, now)

    def receiver(self, family: int) -> mmsg.BatchReceiver | None:
        """The batch reader into the arena for sockets of ``family``; None where the system has none."""
        if not self.batches:
            return None
        receiver = self._receivers.get(family)
        if receiver is None:
            receiver = self._receivers[family] = mmsg.BatchReceiver(self.arena, socket.AddressFamily(family))
        return receiver

    def register(self, sock: socket.socket, drain: Callable[[float], None]) -> None:
        """Call ``drain`` on ticks when ``sock`` is readable. Keep a reference to the socket until unregistered."""
        self._drains[sock.fileno()] = drain
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def unregister(self, sock: socket.socket) -> None:
        """Forget a socket, before it is closed. Idempotent."""
        number = sock.fileno()
        if self._drains.pop(number, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(number)

    def every_tick(self, owner: object, work: Callable[[float], bool]) -> None:
        """Call ``work`` on each tick until it returns False; a second request of the same owner replaces the first."""
        self._paced[id(owner)] = work
        if self._timer is None:
            self._wake()

    def forget(self, owner: object) -> None:
        self._paced.pop(id(owner), None)

    def close(self) -> None:
        """Stop ticking. Sockets stay their owners'."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for lane in tuple(self._left):
            self.close_lane(lane)
        if self._sweep is not None and self._thread is not None:
            self._loop.remove_reader(self._sweep.bell)
            self._sweep.stop()
            self._thread.join()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _wake(self) -> None:
        """Traffic after a silence: change from epoll in the loop to ticks."""
        if self._closed or self._timer is not None:
            return
        self._loop.remove_reader(self._epoll.fileno())
        self._empty = 0
        self._began = self._loop.time()
        self._due = self._began + TICK_S
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        self.ticks += 1
        # A pump that is late must send what has come meanwhile; else all waits behind it, is copied, and it gets later.
        self.share = max(1, min(int((now - self._began) / TICK_S), LONGEST_SHARE))
        self._began = now
        self.lag_s = max(0.0, now - self._due)
        self.worst_lag_s = max(self.worst_lag_s, self.lag_s)
        busy = True
        try:
            busy = self._work(now)
        finally:  # an error in one session must not stop the others' packets
            self._next(busy)

    def _work(self, now: float) -> bool:
        """Serve what is readable, then what is paced. True when something was readable."""
        drains = self._drains
        ready = self._epoll.poll(0)
        for number, _ in ready:
            drain = drains.get(number)
            if drain is not None:
                drain(now)
        if self._paced:
            for owner, work in tuple(self._paced.items()):
                if not work(now):
                    self._paced.pop(owner, None)
        return bool(ready)

    def _next(self, busy: bool) -> None:
        """Tick again, or sleep in epoll after some empty ticks."""
        if self._closed:
            return
        self._empty = 0 if busy or self._paced else self._empty + 1
        if self._empty >= IDLE_TICKS:
            self._timer = None
            self._loop.add_reader(self._epoll.fileno(), self._wake)
            return
        now = time.monotonic()
        period = min(TICK_S + now - self._began, LONGEST_TICK_S)
        self._due = max(self._due + period, now + 0.001)
        self._timer = self._loop.call_at(self._due, self._tick)


def make_pump(choice: str) -> Pump:
    """The pump that the setting asks for: ``python``, ``compiled`` (PumpMissing where it does not work), or ``auto``."""
    if choice == "python":
        return Pump()
    trouble = compiled.probe()
    if trouble and choice == "compiled":
        raise compiled.PumpMissing(
            f"media.pump is compiled, but the compiled pump cannot be used: {trouble}; build it with 'make pump', "
            "or set media.pump to auto or python"
        )
    if trouble:
        log.info("event=pump_python reason=%s", trouble)
    return Pump(compiled_lanes=not trouble)


def probe_gso() -> bool:
    """Whether the kernel cuts one large UDP send into packets (Linux 4.18 and later), tried on loopback."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        try:
            sink.bind(("127.0.0.1", 0))
            sink.settimeout(0.5)
            source.connect(sink.getsockname())
            source.sendmsg([b"ab"], [(SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(1))])
            return len(sink.recv(16)) == 1
        except OSError:
            return False


_HIGH = bytes(number >> 8 & 0xFF for number in range(0x10000 + 0x1000))
_LOW = bytes(number & 0xFF for number in range(0x10000 + 0x1000))


_SEQUENCES = np.arange(0x10000 + 0x1000, dtype=np.uint32).astype(">u2")
_arena_columns: dict[int, tuple[bytearray, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
_MAX_STRIDES = 256


def _columns(buffer: bytearray, stride: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Sequence numbers and SSRCs of an arena's slots as columns: half the price of strided bytes. None for other buffers."""
    known = _arena_columns.get(stride)
    if known is None or known[0] is not buffer:
        if len(buffer) != ARENA_BYTES:
            return None
        if len(_arena_columns) >= _MAX_STRIDES:
            _arena_columns.clear()
        known = _arena_columns[stride] = (
            buffer,
            np.ndarray((mmsg.SLOTS,), ">u2", buffer, 2, (stride,)),
            np.ndarray((mmsg.SLOTS,), ">u4", buffer, 8, (stride,)),
        )
    return known[1], known[2]


@functools.lru_cache(maxsize=4096)
def _number(ssrc: int) -> np.ndarray[Any, Any]:
    return np.array(ssrc, dtype=">u4")


@functools.lru_cache(maxsize=4096)
def _rows(ssrc: int) -> tuple[bytes, ...]:
    """The four bytes of an SSRC, each as often as a run may have packets."""
    return tuple(bytes((byte,)) * 0x1000 for byte in ssrc.to_bytes(4, "big"))


def rewrite(run: Run, sequence: int, shift: int, ssrc: int) -> None:
    """Write sequence numbers from ``sequence`` on, timestamps plus ``shift`` and ``ssrc`` into a run's headers."""
    stride, count = run.stride, len(run.sizes)
    if not stride or count < 4 or count > 0x1000:
        pack, buffer = _REWRITE.pack_into, run.buffer
        for start, stamp in zip(run.starts, run.stamps, strict=True):
            pack(buffer, start + 2, sequence & 0xFFFF, (stamp + shift) & 0xFFFFFFFF, ssrc)
            sequence += 1
        return
    # One strided assignment per header byte costs a tenth of one struct call per packet.
    buffer, first = run.buffer, run.starts[0]
    end = first + stride * (count - 1) + 12
    sequence &= 0xFFFF
    columns = None if first or shift or count > mmsg.SLOTS else _columns(buffer, stride)
    if columns is not None:
        columns[0][:count] = _SEQUENCES[sequence : sequence + count]
        columns[1][:count] = _number(ssrc)
        return
    buffer[first + 2 : end : stride] = _HIGH[sequence : sequence + count]
    buffer[first + 3 : end : stride] = _LOW[sequence : sequence + count]
    place = first + 8
    for row in _rows(ssrc):
        buffer[place:end:stride] = row[:count]
        place += 1
    if shift:
        stamps = b"".join([(stamp + shift & 0xFFFFFFFF).to_bytes(4, "big") for stamp in run.stamps])
        for place in range(4):
            buffer[first + 4 + place : end : stride] = stamps[place::4]


def mark_payload_type(run: Run, payload_type: int) -> None:
    """Write ``payload_type`` into a run's headers, markers kept."""
    buffer = run.buffer
    for start in run.starts:
        buffer[start + 1] = buffer[start + 1] & 0x80 | payload_type


class UdpOutput:
    """Sends runs of packets through one connected UDP socket, equal packets in one call where the kernel can.

    ``sent`` and ``dropped`` count packets; a full socket buffer drops, it never waits.
    """

    _MAX_REFUSALS = 3

    def __init__(self, sock: socket.socket, *, gso: bool) -> None:
        self.sock = sock
        self.gso = gso
        self.sent = 0
        self.dropped = 0
        self._refusals = 0
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}

    def send(self, run: Run) -> None:
        """Send all packets of ``run`` as they stand."""
        view, starts, sizes = run.view, run.starts, run.sizes
        if not self.gso:
            self._send_plain(view, starts, sizes)
            return
        count = len(sizes)
        if count > 1 and run.is_one_group(
            GSO_MAX_SEGMENTS, GSO_MAX_BYTES
        ):  # the usual case, without a generator
            begin = starts[0]
            piece = view[begin : begin + (count - 1) * sizes[0] + sizes[-1]]
            try:
                self.sock.sendmsg((piece,), self._ancillary.get(sizes[0]) or self._cut_at(sizes[0]))
                self.sent += count
                return
            except (BlockingIOError, ConnectionRefusedError):
                self.dropped += count
                return
            except OSError as error:
                self._refused(error)
                self._send_plain(view, starts, sizes)
                return
        for first, count in run.groups(GSO_MAX_SEGMENTS, GSO_MAX_BYTES):
            begin, last = starts[first], first + count - 1
            end = starts[last] + sizes[last]
            size = sizes[first]
            try:
                if count == 1:
                    self.sock.send(view[begin:end])
                elif end - begin == (count - 1) * size + sizes[last]:
                    self.sock.sendmsg((view[begin:end],), self._cut_at(size))
                else:
                    pieces = [view[starts[i] : starts[i] + sizes[i]] for i in range(first, last + 1)]
                    self.sock.sendmsg(pieces, self._cut_at(size))
                self.sent += count
            except BlockingIOError:
                self.dropped += count
            except ConnectionRefusedError:
                self.dropped += count  # an earlier packet met a closed port; the peer may open it yet
            except OSError as error:
                self._refused(error)
                self._send_plain(view, starts[first : first + count], sizes[first : first + count])

    def _cut_at(self, size: int) -> list[tuple[int, int, bytes]]:
        ancillary = self._ancillary.get(size)
        if ancillary is None:
            if len(self._ancillary) > 256:
                self._ancillary.clear()
            ancillary = self._ancillary[size] = [(SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(size))]
        return ancillary

    def _refused(self, error: OSError) -> None:
        """Some paths refuse segmentation (EIO, EINVAL, packets above the MTU). After a few, do without."""
        self._refusals += 1
        if self._refusals >= self._MAX_REFUSALS and error.errno in (
            errno.EIO,
            errno.EINVAL,
            errno.EMSGSIZE,
            errno.EOPNOTSUPP,
        ):
            self.gso = False
            log.warning("event=segmentation_off reason=%s", errno.errorcode.get(error.errno or 0, "unknown"))

    def _send_plain(self, view: memoryview, starts: Sequence[int], sizes: Sequence[int]) -> None:
        send = self.sock.send
        for start, size in zip(starts, sizes, strict=True):
            try:
                send(view[start : start + size])
                self.sent += 1
            except (
                OSError
            ):  # full buffer, closed port, unreachable network: the packet is lost, the stream goes on
                self.dropped += 1
