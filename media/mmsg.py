"""Receives many datagrams with one system call: recvmmsg(2) through ctypes, so that no compiler is needed.

Packets land in slots of one stride, side by side when they are as long as the stride; what is longer spills into an
overflow area. On systems without recvmmsg, :func:`available` is False and sockets are read one packet at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import sys

SLOTS = 64
OVERFLOW = 9 * 1024
"""Longest packet is the stride plus this."""
_MSG_DONTWAIT = 0x40
_MMSGHDR = 64
_IOVEC = 16
_LENGTH_WORD = 14
"""msg_len of struct mmsghdr on 64-bit Linux, counted in 32-bit words: behind the 56 bytes of struct msghdr."""
_MAX_PLANS = 64


class _Plan:
    """The header and iovec arrays of one stride, pointing into the receiver's arena."""

    def __init__(self, owner: BatchReceiver, stride: int) -> None:
        self.iovecs = bytearray(SLOTS * 2 * _IOVEC)
        self.headers = bytearray(SLOTS * _MMSGHDR)
        iovecs_at = _address(self.iovecs)
        for slot in range(SLOTS):
            struct.pack_into(
                "=QQQQ", self.iovecs, slot * 2 * _IOVEC,
                owner.arena_at + slot * stride, stride, owner.overflow_at + slot * OVERFLOW, OVERFLOW,
            )  # fmt: skip
            struct.pack_into(
                "=QIIQQQQiIII", self.headers, slot * _MMSGHDR,
                owner.names_at + slot * owner.name_size, owner.name_size, 0,
                iovecs_at + slot * 2 * _IOVEC, 2, 0, 0, 0, 0, 0, 0,
            )  # fmt: skip
        self.pointer = ctypes.c_void_p(_address(self.headers))
        self.lengths = memoryview(self.headers).cast("I")


def _address(buffer: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def _load() -> ctypes._FuncPointer | None:
    """The C library's recvmmsg, where its structures are laid out as on 64-bit Linux."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None, use_errno=True).recvmmsg
        function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        function.restype = ctypes.c_int
        return function
    return None


_recvmmsg = _load()


def available() -> bool:
    """Whether this system has recvmmsg in the known layout; tried once on loopback by :func:`probe`."""
    return _recvmmsg is not None


class BatchReceiver:
    """Reads up to 64 datagrams at once into ``arena``. One per address family; its buffers never move.
    OSError where the system has no recvmmsg.

    After :meth:`receive`, packet ``i`` lies at ``i * stride`` and :attr:`names` holds the sources, ``name_size``
    bytes each. Everything is valid until the next call.
    """

    def __init__(self, arena: bytearray, family: socket.AddressFamily = socket.AF_INET) -> None:
        if _recvmmsg is None:
            raise OSError(errno.ENOSYS, "this system has no recvmmsg")
        self._call = _recvmmsg
        self.arena = arena
        self.name_size = 16 if family == socket.AF_INET else 28
        self.names = bytearray(SLOTS * self.name_size)
        self.overflow = bytearray(SLOTS * OVERFLOW)
        self.arena_at = _address(arena)
        self.names_at = _address(self.names)
        self.overflow_at = _address(self.overflow)
        self._plans: dict[int, _Plan] = {}

    def receive(self, number: int, stride: int) -> list[int]:
        """Lengths of the datagrams read from descriptor ``number``; fewer than 64 when it is empty now.

        ``stride`` is at least 12 and at most a 64th of the arena. A length above the stride means that
        the rest is in the overflow area (:meth:`whole`). Errors of the socket count as nothing read.
        """
        plan = self._plans.get(stride)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[stride] = _Plan(self, stride)
        count = self._call(number, plan.pointer, SLOTS, _MSG_DONTWAIT, None)
        if count <= 0:
            return []
        return plan.lengths[_LENGTH_WORD : _LENGTH_WORD + 16 * count : 16].tolist()

    def whole(self, slot: int, stride: int, length: int) -> bytes:
        """A copy of one packet, with what spilled over."""
        start = slot * stride
        if length <= stride:
            return bytes(self.arena[start : start + length])
        spill = slot * OVERFLOW
        return bytes(self.arena[start : start + stride] + self.overflow[spill : spill + length - stride])

    def source(self, slot: int) -> bytes:
        """The raw address of one packet."""
        return bytes(self.names[slot * self.name_size : (slot + 1) * self.name_size])


def address_of(name: bytes) -> tuple[str, int]:
    """Host and port of a raw sockaddr_in or sockaddr_in6."""
    port = name[2] << 8 | name[3]
    if len(name) == 16:
        return socket.inet_ntop(socket.AF_INET, name[4:8]), port
    return socket.inet_ntop(socket.AF_INET6, name[8:24]), port


def probe() -> bool:
    """Whether a batch of two packets arrives as it should, tried on loopback."""
    if not available():
        return False
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        try:
            sink.bind(("127.0.0.1", 0))
            source.connect(sink.getsockname())
            source.send(b"first")
            source.send(b"second packet")
            receiver = BatchReceiver(bytearray(SLOTS * 16))
            lengths = receiver.receive(sink.fileno(), 12)
        except OSError:
            return False
        return (
            lengths == [5, 13]
            and receiver.whole(0, 12, 5) == b"first"
            and receiver.whole(1, 12, 13) == b"second packet"
            and address_of(receiver.source(1)) == source.getsockname()
        )
