"""Cuts G.711 into packets of one length, whatever length it came in. Pure (GB/T 28181-2022 C.2.4).

A browser sends 20 ms at a time, integrators push what they have: devices get packets of one length, 20 to 180 ms of
whole frames, on one clock that never jumps back. The samples themselves are not touched.
"""

from __future__ import annotations

from typing import NamedTuple

SAMPLES_PER_MS = 8
SILENCE = b"\xd5"
"""A sample of A-law silence (ITU-T G.711)."""
RESTART_SAMPLES = 8000
"""The source's clock moved by more than a second: another source, or a paused one. Our clock just goes on."""


class Frame(NamedTuple):
    """One packet's sound. ``stamp`` counts samples on our clock; ``first`` says that something is missing before it."""

    stamp: int
    payload: bytes
    first: bool


class Framer:
    """``add`` takes sound with its 32-bit RTP timestamp (in samples) and gives the packets that are whole now."""

    def __init__(self, packet_ms: int = 20) -> None:
        if not 20 <= packet_ms <= 180:
            raise ValueError(f"{packet_ms} ms are no packet of 20 to 180 ms")
        self.size = packet_ms * SAMPLES_PER_MS
        self.late = 0
        """Pieces that came after their place was sent."""
        self._rest = bytearray()
        self._expected: int | None = None
        """Timestamp of the source that follows what we have."""
        self._clock = 0
        """Sample on our clock at which ``_rest`` begins."""
        self._first = True

    def add(self, payload: bytes, stamp: int) -> list[Frame]:
        """Sound in order; what is missing in between is left out, or filled where a packet was begun."""
        gap = 0 if self._expected is None else _distance(stamp, self._expected)
        frames: list[Frame] = []
        if abs(gap) > RESTART_SAMPLES:
            frames += self.flush()
            self._first = True
        elif gap < 0:
            self.late += 1
            return []
        elif gap:
            frames += self._skip(gap)
        self._expected = (stamp + len(payload)) & 0xFFFFFFFF
        self._rest += payload
        return frames + self._whole()

    def flush(self) -> list[Frame]:
        """What was begun, filled with silence."""
        if not self._rest:
            return []
        self._rest += SILENCE * (self.size - len(self._rest))
        return self._whole()

    def rest(self, samples: int) -> None:
        """Nothing was said for so long: our clock went on."""
        self._clock += max(0, samples)
        self._first = True

    def _skip(self, gap: int) -> list[Frame]:
        """Leave out ``gap`` samples that never came."""
        if self._rest:
            filled = min(gap, self.size - len(self._rest))
            self._rest += SILENCE * filled
            gap -= filled
        frames = self._whole()
        self._clock += gap
        self._first = True
        return frames

    def _whole(self) -> list[Frame]:
        frames = []
        while len(self._rest) >= self.size:
            frames.append(Frame(self._clock, bytes(self._rest[: self.size]), self._first))
            del self._rest[: self.size]
            self._clock += self.size
            self._first = False
        return frames


def _distance(newer: int, older: int) -> int:
    """Signed distance of two 32-bit timestamps."""
    return ((newer - older + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def ticks_of(samples: int) -> int:
    """Samples of 8 kHz in ticks of 90 kHz."""
    return samples * 45 // 4


def samples_of(ticks: int) -> int:
    """Ticks of 90 kHz in samples of 8 kHz."""
    return ticks * 4 // 45
