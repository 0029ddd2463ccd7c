"""One picture as SRTP packets for many viewers: laid out once, then per viewer copied, given headers and encrypted.

Packets lie side by side with room for the authentication tag behind each, so that encryption works in place and
equal packets leave in one segmented send. Measured against protect-and-send per packet of the library: half the time
for encryption, a fifth for sending.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pylibsrtp._binding import ffi, lib

HEADER = struct.Struct(">BBHII")
PIECE_PACKETS = 16
"""A piece is what leaves at one moment: about 4 ms of a 40 Mbit/s burst."""
_SCRATCH_BYTES = 64 * 1024
TAG_BYTES = {b"SRTP_AES128_CM_SHA1_80": 10, b"SRTP_AEAD_AES_128_GCM": 16, b"SRTP_AEAD_AES_256_GCM": 16}


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours of equal size in a piece, the last may be shorter: offsets in the piece, wire bytes per packet."""

    begin: int
    end: int
    size: int
    count: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some packets of a unit: their place in the layout, offsets from the piece's begin and plain sizes."""

    first: int
    begin: int
    end: int
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    runs: tuple[Run, ...]
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    template: bytes
    pieces: tuple[Piece, ...]


class UnitPackets:
    """The RTP payloads of one unit, shared by all viewers and their retransmission histories."""

    __slots__ = ("_layouts", "payloads")

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.payloads = payloads
        self._layouts: dict[int, Layout] = {}

    def layout(self, tag: int) -> Layout:
        """The packets side by side, with ``tag`` bytes of room behind each."""
        layout = self._layouts.get(tag)
        if layout is None:
            layout = self._layouts[tag] = _lay_out(self.payloads, tag)
        return layout

    @property
    def bytes(self) -> int:
        return sum(map(len, self.payloads))


def _lay_out(payloads: Sequence[bytes], tag: int) -> Layout:
    header, room = bytes(HEADER.size), bytes(tag)
    template = b"".join([part for payload in payloads for part in (header, payload, room)])
    pieces, begin = [], 0
    for first in range(0, len(payloads), PIECE_PACKETS):
        chosen = payloads[first : first + PIECE_PACKETS]
        sizes = tuple(HEADER.size + len(payload) for payload in chosen)
        starts, position = [], 0
        for size in sizes:
            starts.append(position)
            position += size + tag
        runs = _runs(starts, [size + tag for size in sizes])
        payload_bytes = sum(map(len, chosen))
        pieces.append(Piece(first, begin, begin + position, tuple(starts), sizes, runs, payload_bytes))
        begin += position
    return Layout(template, tuple(pieces))


def _runs(starts: list[int], sizes: list[int]) -> tuple[Run, ...]:
    runs, first = [], 0
    while first < len(sizes):
        size, until = sizes[first], first + 1
        while until < len(sizes) and sizes[until] == size:
            until += 1
        if until < len(sizes) and sizes[until] < size:
            until += 1
        runs.append(Run(starts[first], starts[until - 1] + sizes[until - 1], size, until - first))
        first = until
    return tuple(runs)


class SrtpFailed(Exception):
    """The SRTP library refused a packet; the number is its error code."""


class _Scratch:
    """Where packets are made for sending, one after the other: sending is synchronous."""

    def __init__(self) -> None:
        self.memory = ffi.new("char[]", _SCRATCH_BYTES)
        self.view = memoryview(ffi.buffer(self.memory))
        self.length = ffi.new("int *")


_scratch = _Scratch()


def encrypt(
    session: Any,
    template: bytes,
    piece: Piece,
    second: int,
    sequence: int,
    stamp: int,
    ssrc: int,
    *,
    marker: bool,
) -> memoryview:
    """One piece as it goes on the wire, valid until the next call. ``second`` is the payload type.

    Sequence numbers count up from ``sequence``; ``marker`` is set on the last packet. SrtpFailed.
    """
    view, memory, length = _scratch.view, _scratch.memory, _scratch.length
    size = piece.end - piece.begin
    view[:size] = template[piece.begin : piece.end]
    pack, protect, srtp = HEADER.pack_into, lib.srtp_protect, session._srtp[0]
    for start in piece.starts:
        pack(view, start, 0x80, second, sequence, stamp, ssrc)
        sequence = sequence + 1 & 0xFFFF
    if marker:
        view[piece.starts[-1] + 1] = second | 0x80
    for start, plain in zip(piece.starts, piece.sizes, strict=True):
        length[0] = plain
        if code := protect(srtp, memory + start, length):
            raise SrtpFailed(code)
    return view[:size]
