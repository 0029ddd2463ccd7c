"""RTP inside a TCP byte stream: RFC 4571 lengths, the ``$`` form and the eHome preface, found out by looking. Pure.

GB/T 28181-2022 annex D uses the two-byte length of RFC 4571. In the field there is also the four-byte form of RTSP
(``$``, channel, length), and a private header of 256 bytes in front of everything. The form is decided once per
connection, on the first packet.
"""

from __future__ import annotations

import re
import struct
from enum import Enum

from media.rtp import MAX_PACKET

_LENGTH = struct.Struct("!H")
_MIN_PACKET = 12
_BUFFER_SIZE = 256 * 1024
_SEARCH_LIMIT = 64 * 1024
_EHOME_SIZE = 256
_ALIKE = 4
"""From so many packets of one size on, one look at all of them is cheaper than one at each."""
_VERSION_BYTE = re.compile(rb"[\x80\x90\xa0\xb0]", re.DOTALL)


class Framing(Enum):
    """Bytes in front of each packet's RTP header."""

    UNKNOWN = 0
    RFC4571 = 2
    INTERLEAVED = 4


def frame(packet: bytes) -> bytes:
    """One packet with its two-byte length in front (RFC 4571 2). ValueError above 65,535 bytes."""
    if len(packet) > 0xFFFF:
        raise ValueError(f"a packet of {len(packet)} bytes does not fit RFC 4571")
    return _LENGTH.pack(len(packet)) + packet


class Deframer:
    """Cuts one connection's bytes into packets without copying them.

    Receive into :meth:`space`, tell the count to :meth:`advance`, use the returned ``(start, size)`` spans of
    :attr:`buffer` before the next call. Lost framing is searched again (``resyncs``).
    """

    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER_SIZE)
        self.view = memoryview(self.buffer)
        self.framing = Framing.UNKNOWN
        self.ehome = False
        self.resyncs = 0
        self.skipped_bytes = 0
        self.ssrc: bytes | None = None
        self._start = 0
        self._end = 0
        self._lost = False

    def space(self) -> memoryview:
        """Room for the next read; older spans are void from here on."""
        if self._start:
            rest = self._end - self._start
            self.buffer[:rest] = bytes(self.view[self._start : self._end])
            self._start, self._end = 0, rest
        return self.view[self._end :]

    def advance(self, count: int) -> list[tuple[int, int]]:
        """``count`` bytes were read into the space; returns the packets now whole, RTCP included."""
        self._end += count
        spans: list[tuple[int, int]] = []
        if self.framing is Framing.UNKNOWN and not self._lost and not self._decide():
            return spans
        while not self._lost or self._search(spans):
            self._cut(spans)
            if not self._lost:
                break
        return spans

    def unread_from(self, start: int) -> memoryview:
        """The raw bytes from the frame whose packet begins at ``start``, to be fed to another deframer."""
        return self.view[start - self.framing.value : self._end]

    def feed(self, data: bytes) -> list[bytes]:
        """Copying form of :meth:`space` and :meth:`advance`, for any amount of data."""
        packets = []
        for offset in range(0, len(data), _SEARCH_LIMIT):
            piece = data[offset : offset + _SEARCH_LIMIT]
            self.space()[: len(piece)] = piece
            packets += [bytes(self.view[start : start + size]) for start, size in self.advance(len(piece))]
        return packets

    def _decide(self) -> bool:
        """Settle the framing on the first bytes. False: more bytes are needed."""
        start, available = self._start, self._end - self._start
        if available < 3:
            return False
        first, second, third = self.buffer[start : start + 3]
        if not self.ehome and first == 1 and second == 0 and third >= 1 and third >> 6 != 2:
            # 01 00 is also a length of 256, but then an RTP version byte follows.
            if available < _EHOME_SIZE:
                return False
            self.ehome = True
            self._start += _EHOME_SIZE
            return self._decide()
        if available < 5:
            return False
        for framing in (Framing.RFC4571, Framing.INTERLEAVED):
            if framing is Framing.INTERLEAVED and first != 0x24:
                continue
            if self._plausible(start, framing.value, check_ssrc=False) is not False:
                self.framing = framing
                return True
        self._lose()
        return True

    def _plausible(self, at: int, prefix: int, *, check_ssrc: bool = True) -> int | bool:
        """The packet's size when a frame can begin at ``at``; False when not; True when the bytes do not say yet."""
        buffer, available = self.buffer, self._end - at
        if available < prefix:
            return True
        if prefix == 4 and buffer[at] != 0x24:
            return False
        size = (buffer[at + prefix - 2] << 8) | buffer[at + prefix - 1]
        if not _MIN_PACKET <= size <= MAX_PACKET and not 8 <= size < _MIN_PACKET:
            return False
        if available <= prefix + 1:
            return size if available <= prefix or buffer[at + prefix] >> 6 == 2 else False
        if buffer[at + prefix] >> 6 != 2:
            return False
        if 200 <= buffer[at + prefix + 1] <= 207:
            return size
        if size < _MIN_PACKET:
            return False
        if check_ssrc and self.ssrc is not None and available >= prefix + 12:
            return size if buffer[at + prefix + 8 : at + prefix + 12] == self.ssrc else False
        return size

    def _cut(self, spans: list[tuple[int, int]]) -> None:
        """Take whole packets from the front until the bytes end or the framing is lost."""
        prefix = self.framing.value
        self._cut_alike(spans, prefix)
        while True:
            start = self._start
            size = self._plausible(start, prefix)
            if size is True:
                return
            if size is False:
                self._lose()
                return
            after = start + prefix + size
            if after > self._end:
                return
            if not 200 <= self.buffer[start + prefix + 1] <= 207:
                self.ssrc = bytes(self.buffer[start + prefix + 8 : start + prefix + 12])
            if self._plausible(after, prefix) is False and not self._changes_ssrc(after, prefix):
                # The length was right but the next packet sits inside: a sender that overwrote its buffer.
                self._start = start + prefix
                self._lose()
                return
            spans.append((start + prefix, size))
            self._start = after

    def _cut_alike(self, spans: list[tuple[int, int]], prefix: int) -> None:
        """Take plain packets of one size and the known SSRC with one look at all; the last of them is left to be
        judged by what follows it."""
        buffer, start, ssrc = self.buffer, self._start, self.ssrc
        if ssrc is None or self._end - start < _ALIKE * _MIN_PACKET:
            return
        size = buffer[start + prefix - 2] << 8 | buffer[start + prefix - 1]
        stride = prefix + size
        until = start + (self._end - start) // stride * stride
        kind = buffer[start + prefix + 1] & 0x7F
        if (
            until - start < _ALIKE * stride or size < _MIN_PACKET or 72 <= kind <= 79
        ):  # RTCP's types without the marker
            return
        columns = [(prefix - 2, size >> 8), (prefix - 1, size & 0xFF), (prefix, 0x80)]
        columns += [(prefix + 8 + place, byte) for place, byte in enumerate(ssrc)]
        if prefix == Framing.INTERLEAVED.value:
            columns.append((0, 0x24))
        alike = _leading(buffer[start + prefix + 1 : until : stride], bytes((kind, kind | 0x80)))
        for place, byte in columns:
            alike = min(alike, _leading(buffer[start + place : until : stride], bytes((byte,))))
        first = start + prefix
        spans += [(at, size) for at in range(first, first + (alike - 1) * stride, stride)]
        self._start = start + max(0, alike - 1) * stride

    def _changes_ssrc(self, at: int, prefix: int) -> bool:
        """Whether a well-formed frame of another SSRC begins at ``at``, followed by one of the same."""
        size = self._plausible(at, prefix, check_ssrc=False)
        if size is False or size is True:
            return size is True
        following = at + prefix + size
        own = bytes(self.buffer[at + prefix + 8 : at + prefix + 12])
        if following + prefix + 12 > self._end:
            return True  # not to be told yet: keep the packet in hand
        if self.buffer[following + prefix + 8 : following + prefix + 12] != own:
            return False
        self.ssrc = own
        return self._plausible(following, prefix, check_ssrc=False) is not False

    def _lose(self) -> None:
        self._lost = True
        self.resyncs += 1

    def _search(self, spans: list[tuple[int, int]]) -> bool:
        """Find two frames of one SSRC in a row and go on there. False: not in these bytes."""
        prefixes = (self.framing.value,) if self.framing.value else (2, 4)
        position, end = self._start, self._end
        while (match := _VERSION_BYTE.search(self.buffer, position, end)) is not None:
            found = match.start()
            for prefix in prefixes:
                begin = found - prefix
                if begin < self._start or not self._chained(begin, prefix):
                    continue
                self.skipped_bytes += begin - self._start
                self._start = begin
                self._lost = False
                self.framing = Framing(prefix)
                self.ssrc = bytes(self.buffer[found + 8 : found + 12])
                return True
            position = found + 1
        keep = max(self._start, end - _SEARCH_LIMIT)
        self.skipped_bytes += keep - self._start
        self._start = keep
        return False

    def _chained(self, at: int, prefix: int) -> bool:
        size = self._plausible(at, prefix, check_ssrc=False)
        if size is True or size is False or size < _MIN_PACKET:
            return False
        following = at + prefix + size
        if following + prefix + 12 > self._end:
            return False
        here, there = at + prefix, following + prefix
        if self.buffer[here + 8 : here + 12] != self.buffer[there + 8 : there + 12]:
            return False
        return self._plausible(following, prefix, check_ssrc=False) is not False


def _leading(column: bytearray, wanted: bytes) -> int:
    """How many bytes at the front of ``column`` are among ``wanted``."""
    return len(column) - len(column.lstrip(wanted))
