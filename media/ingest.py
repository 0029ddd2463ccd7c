"""From the packets of one session to runs in order: which SSRC, which place, what is lost. Pure; time is an argument.

The SSRC of the offer, of the answer and of the packets may be three different ones, or zero (field quirk 27): the
first valid packet teaches what to expect, a disagreement is reported once, nothing is reopened.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from media import rtp
from media.reorder import Ordered, ReorderBuffer
from media.runs import Run
from media.specs import PayloadFormat
from media.unit import TICKS_PER_SECOND

SILENCE_S = 1.0
"""After this silence of the known SSRC another one takes its place at once."""
PERSISTENT_PACKETS = 10
"""So many packets of another SSRC in a row take its place, too."""
_PAYLOAD_TYPES = frozenset((*range(64), *range(96, 128)))
"""64 to 95 collide with RTCP (RFC 5761 4)."""
_NEVER = -1
_MARKED = 0x00800000
_FEW = 4
"""Below so many packets one sweep over all headers costs more than it saves."""
_CLOCK_JUMP = 10 * TICKS_PER_SECOND


class Standing(NamedTuple):
    """Where a session in order stands: next packet's index and sequence, last timestamp and arrival, jitter."""

    next_index: int
    expected: int
    stamp: int
    arrival: float | None
    jitter: float
    transit: float | None


class Ingest:
    """One session's packets. ``deliver`` gets every run; ``on_fault(kind, detail)`` what an operator should know.

    ``ssrc`` is the expected one, None when it is to be learned. ``strict``: packets of any other are refused, however
    long they keep coming. ``on_rtcp`` gets RTCP packets found among RTP.
    """

    def __init__(
        self,
        *,
        ssrc: int | None,
        deliver: Callable[[Run], None],
        on_fault: Callable[[str, str], None] | None = None,
        on_rtcp: Callable[[bytes, float], None] | None = None,
        window_s: float = 0.2,
        payloads: Sequence[PayloadFormat] = (),
        strict: bool = False,
    ) -> None:
        self.wanted = ssrc
        self.strict = strict
        self.payloads = tuple(payloads)
        self.ssrc: int | None = None
        """The SSRC in use, once learned."""
        self.packets = 0
        self.bytes = 0
        self.ssrc_faults = 0
        self.foreign = 0
        self.invalid = 0
        self.last_packet_mono: float | None = None
        self.payload_type = 0
        self.reorder: ReorderBuffer[bytes] = ReorderBuffer(window_s)
        self.jitter = 0.0
        """Interarrival jitter in ticks, sampled at the end of runs (RFC 3550 6.4.1)."""
        self._deliver = deliver
        self._on_fault = on_fault
        self._on_rtcp = on_rtcp
        self._index = 0
        self._sequence_base = 0
        self._shift = 0
        self._last_stamp = 0
        self._expected = _NEVER
        self._second = _NEVER
        """The second header byte with the marker set, as it is on every packet of the fast path."""
        self._other: tuple[int, int, int] = (0, 0, 0)
        """Another SSRC that was heard: its value, how often in a row, our packet count at that time."""
        self._others: list[bytes] = []
        """Its packets: they count when it takes over, for they may begin with a key frame."""
        self._restarted = False
        self._mismatch_told = False
        self._transit: float | None = None

    @property
    def lost(self) -> int:
        return self.reorder.lost

    @property
    def holding(self) -> bool:
        return self.reorder.holding

    @property
    def highest_sequence(self) -> int:
        """Extended highest sequence number (RFC 3550 6.4.1)."""
        return (self._sequence_base + self._index - 1) & 0xFFFFFFFF

    def expect(self, ssrc: int) -> None:
        """The answer named this SSRC. What arrives already is kept; the named one takes over when it comes."""
        self.wanted = ssrc
        if self.ssrc is not None and self.ssrc != ssrc:
            self._tell_mismatch()

    def is_valid(self, packet: bytes | memoryview) -> bool:
        """Whether this can be the first packet of a session: RTP version 2, a payload type that is none of RTCP."""
        return rtp.payload_bounds(packet) is not None and packet[1] & 0x7F in _PAYLOAD_TYPES

    def feed(
        self,
        buffer: bytearray,
        view: memoryview,
        starts: Sequence[int],
        sizes: list[int],
        now: float,
        stride: int = 0,
    ) -> None:
        """Packets as they came in, each at least twelve bytes; ``stride`` is the distance of the starts if it is one."""
        count = len(sizes)
        if stride and count >= _FEW:
            stamps = self._all_in_order(buffer, starts[0], stride, count)
            if stamps is not None:
                self._straight(
                    buffer, view, starts, sizes, stamps, self._expected + count & 0xFFFF, stride, now
                )
                return
        self._one_by_one(buffer, view, starts, sizes, now, stride)

    def _all_in_order(self, buffer: bytearray, first: int, stride: int, count: int) -> Sequence[int] | None:
        """The timestamps, when every packet is the next plain one of the known sender; all headers in one sweep."""
        if self._expected == _NEVER:
            return None
        fields = _headers(stride, count).unpack_from(buffer, first)
        words, rest = fields[::2], fields[1::2]
        plain = 0x80000000 | (self._second & 0x7F) << 16 | self._expected
        wanted = tuple(range(plain, plain + count))  # a wrap of the sequence takes the slow way
        if (words[:-1] != wanted[:-1] or words[-1] | _MARKED != wanted[-1] | _MARKED) and (
            tuple([word & ~_MARKED for word in words]) != wanted  # a marker inside of the batch is as good
        ):
            return None
        stamp, ssrc = rest[0] >> 32, self.ssrc
        if rest.count(rest[0]) == count:
            return (stamp,) * count if rest[0] & 0xFFFFFFFF == ssrc else None
        if any(both & 0xFFFFFFFF != ssrc for both in rest):
            return None
        return [both >> 32 for both in rest]

    def _one_by_one(
        self,
        buffer: bytearray,
        view: memoryview,
        starts: Sequence[int],
        sizes: list[int],
        now: float,
        stride: int,
    ) -> None:
        unpack = rtp.HEADER.unpack_from
        expected, ssrc, second = self._expected, self.ssrc, self._second
        stamps: list[int] = []
        first = 0
        for position, start in enumerate(starts):
            byte0, byte1, sequence, stamp, source = unpack(buffer, start)
            if sequence == expected and source == ssrc and byte0 == 0x80 and byte1 | 0x80 == second:
                stamps.append(stamp)
                expected = (expected + 1) & 0xFFFF
                continue
            if stamps:
                part = slice(first, position)
                self._straight(buffer, view, starts[part], sizes[part], stamps, expected, stride, now)
                stamps = []
            self._odd(bytes(view[start : start + sizes[position]]), now)
            first = position + 1
            expected, ssrc, second = self._expected, self.ssrc, self._second
        if stamps:
            self._straight(buffer, view, starts[first:], sizes[first:], stamps, expected, stride, now)

    @property
    def standing(self) -> Standing | None:
        """Where the fast path stands; None while packets are held back or the sender is not known."""
        if self._expected == _NEVER or self.ssrc is None or self._restarted:
            return None
        return Standing(
            self._index, self._expected, self._last_stamp, self.last_packet_mono, self.jitter, self._transit
        )

    @property
    def shift(self) -> int:
        """What relays add to timestamps so that they go on over a change of sender."""
        return self._shift

    def moved_on(self, packets: int, size: int, to: Standing) -> None:
        """Somebody else took ``packets`` plain packets of ``size`` bytes in order, up to ``to``."""
        self.packets += packets
        self.bytes += size
        self._index, expected, self._last_stamp, self.last_packet_mono, self.jitter, self._transit = to
        self._expected = self.reorder.expected = expected

    def tick(self, now: float) -> bool:
        """Give up waiting for late packets. True while packets are held."""
        if self.reorder.holding:
            self._pass_on(self.reorder.expire(now), now)
            self._renew()
        return self.reorder.holding

    def flush(self, now: float) -> None:
        """Hand out what is held, at the end."""
        self._pass_on(self.reorder.flush(), now)

    def _straight(
        self,
        buffer: bytearray,
        view: memoryview,
        starts: Sequence[int],
        sizes: list[int],
        stamps: Sequence[int],
        expected: int,
        stride: int,
        now: float,
    ) -> None:
        """The fast path: all in order, one sender, plain headers."""
        self._expected = self.reorder.expected = expected
        run = Run(
            buffer, view, starts, sizes, stamps, self._index, self.payload_type, now, stride, 0, self._shift
        )
        self._count(run, len(stamps), stamps[-1], now)
        self._deliver(run)

    def _count(self, run: Run, count: int, stamp: int, now: float) -> None:
        self.packets += count
        self.bytes += sum(run.sizes)
        self._index += count
        self.last_packet_mono = now
        if stamp != self._last_stamp:
            transit = now * TICKS_PER_SECOND - stamp
            if self._transit is not None:
                difference = abs(transit - self._transit)
                if difference < _CLOCK_JUMP:
                    self.jitter += (difference - self.jitter) / 16
            self._transit = transit
            self._last_stamp = stamp

    def _odd(self, packet: bytes, now: float) -> None:
        """Everything that is not the next plain packet of the known sender."""
        if rtp.is_rtcp(packet):
            if self._on_rtcp is not None:
                self._on_rtcp(packet, now)
            return
        if not self.is_valid(packet):
            self.invalid += 1
            return
        _, second, sequence, stamp, ssrc = rtp.HEADER.unpack_from(packet)
        if ssrc != self.ssrc and not self._admit(ssrc, stamp, now):
            self.foreign += 1
            if self._other[1] == 1:
                self._others.clear()
            self._others.append(packet)
            return
        if self._others:
            self._take_over(ssrc, now)
        if second & 0x7F != self.payload_type or self._second == _NEVER:
            self.payload_type = second & 0x7F
        self.last_packet_mono = now
        begins = self.reorder.expected is not None or self._begins(packet)
        self._pass_on(self.reorder.push(sequence, packet, now, begins=begins), now)
        self._renew()

    def _take_over(self, ssrc: int, now: float) -> None:
        """Packets that came before their SSRC was believed; those of a stranger are forgotten."""
        kept, self._others = self._others, []
        for packet in kept:
            _, _, sequence, _, source = rtp.HEADER.unpack_from(packet)
            if source == ssrc == self.ssrc:
                self.foreign -= 1
                self._pass_on(self.reorder.push(sequence, packet, now), now)

    def _begins(self, packet: bytes) -> bool:
        """Whether a session may start with this packet: not in the middle of a frame of a program stream."""
        if not any(item.encoding.upper() == "PS" for item in self.payloads):
            return True
        start, _ = rtp.payload_bounds(packet) or (0, 0)
        return packet.startswith(b"\x00\x00\x01\xba", start) or packet[start : start + 1] == b"\x47"

    def _renew(self) -> None:
        """What the fast path may expect next; nothing while packets are held back."""
        expected = self.reorder.expected
        self._expected = _NEVER if self.reorder.holding or expected is None else expected
        self._second = self.payload_type | 0x80

    def _admit(self, ssrc: int, stamp: int, now: float) -> bool:
        """Whether packets of this SSRC are (from now on) the session's."""
        if self.strict and self.wanted is not None and ssrc != self.wanted:
            self._tell_mismatch(ssrc)
            return False
        if self.ssrc is None:
            self.ssrc = ssrc
            if self.wanted is not None and ssrc != self.wanted:
                self._tell_mismatch()
            return True
        value, count, seen = self._other
        count = count + 1 if value == ssrc and seen == self.packets else 1
        self._other = (ssrc, count, self.packets)
        silent = self.last_packet_mono is not None and now - self.last_packet_mono > SILENCE_S
        if ssrc != self.wanted and not silent and count < PERSISTENT_PACKETS:
            return False
        self._pass_on(self.reorder.flush(), now)
        if ssrc != self.wanted:
            self.ssrc = ssrc
            self._tell_mismatch()
        self.ssrc = ssrc
        self.reorder.restart()
        self._restarted = True
        self._continue_clock(stamp, now)
        return True

    def _continue_clock(self, stamp: int, now: float) -> None:
        """Relays' timestamps go on where the old sender's stopped, by the time that passed."""
        passed = 0.0 if self.last_packet_mono is None else max(now - self.last_packet_mono, 0.04)
        target = self._last_stamp + self._shift + round(passed * TICKS_PER_SECOND)
        self._shift = (target - stamp) & 0xFFFFFFFF
        self._transit = None

    def _tell_mismatch(self, received: int | None = None) -> None:
        self.ssrc_faults += 1
        if not self._mismatch_told and self._on_fault is not None and self.wanted is not None:
            self._mismatch_told = True
            received = (self.ssrc or 0) if received is None else received
            self._on_fault("ssrc_mismatch", f"expected={self.wanted:010d} received={received:010d}")

    def _pass_on(self, packets: list[Ordered[bytes]], now: float) -> None:
        for lost, sequence, packet in packets:
            _, second, _, stamp, _ = rtp.HEADER.unpack_from(packet)
            if lost > 0:
                self._index += lost
            elif lost < 0 and abs(_clock_delta(stamp, self._last_stamp)) > _CLOCK_JUMP:
                self._continue_clock(stamp, now)
            if self._restarted:
                self._restarted, lost = False, -1
            if lost < 0 or self.packets == 0:
                self._sequence_base = sequence - self._index
            buffer = bytearray(packet)
            run = Run(
                buffer, memoryview(buffer), [0], [len(packet)], [stamp],
                index=self._index, payload_type=second & 0x7F, arrival=now, lost=lost, shift=self._shift,
                plain=packet[0] == 0x80,
            )  # fmt: skip
            self._count(run, 1, stamp, now)
            self._deliver(run)


def _clock_delta(newer: int, older: int) -> int:
    return ((newer - older + 0x80000000) & 0xFFFFFFFF) - 0x80000000


@functools.lru_cache(maxsize=1024)
def _headers(stride: int, count: int) -> struct.Struct:
    """Two numbers of each of ``count`` headers, ``stride`` bytes apart: the first word, then timestamp and SSRC."""
    return struct.Struct("!" + f"IQ{stride - rtp.HEADER_SIZE}x" * (count - 1) + "IQ")
