"""Puts RTP packets back into order within a time window and says what is lost. Pure; time is an argument.

The window is a time, not a count: a key frame of 500 packets waits no longer than a single audio packet.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from media.rtp import sequence_delta

T = TypeVar("T")

JUMP = 3000
"""A step of more packets than this is a sender that restarted its sequence, not loss (RFC 3550 A.1 MAX_DROPOUT)."""
MAX_HELD = 4096


class Ordered(NamedTuple, Generic[T]):
    """One packet in order; ``lost`` packets are missing in front of it (-1: the sequence started anew)."""

    lost: int
    sequence: int
    item: T


class ReorderBuffer(Generic[T]):
    """``push`` and ``expire`` return what may go on; ``expected`` is the next sequence number, None at first."""

    def __init__(self, window_s: float = 0.2) -> None:
        self.window_s = window_s
        self.expected: int | None = None
        self.lost = 0
        self.reordered = 0
        self.late = 0
        """Duplicates, and packets that came after their place was given up."""
        self.restarts = 0
        self.held: dict[int, tuple[float, T]] = {}
        """Packets that wait for those in front of them, by sequence number."""
        self._probation: tuple[int, T] | None = None
        self._highest = 0

    @property
    def holding(self) -> bool:
        return bool(self.held)

    def push(self, sequence: int, item: T, now: float, *, begins: bool = True) -> list[Ordered[T]]:
        """Take one packet. ``now`` in seconds of any monotonic clock.

        The numbering starts with the first packet that ``begins`` something; those before it are held for it, so
        that jitter at the start of a session does not cost the first key frame.
        """
        if self.expected is None:
            self.held[sequence] = (now, item)
            self._highest = sequence
            return self._start(sequence) if begins else self.expire(now)
        delta = sequence_delta(sequence, self.expected)
        if delta == 0:
            self._probation = None
            self.expected = (sequence + 1) & 0xFFFF
            result = [Ordered(0, sequence, item)]
            if self.held:
                self.reordered += 1  # it comes after packets that it belongs in front of
                self._follow(result)
                result += self.expire(now)
            return result
        if abs(delta) > JUMP:
            return self._jump(sequence, item)
        if delta < 0 or sequence in self.held:
            self.late += 1
            return self.expire(now)
        if self.held and sequence_delta(sequence, self._highest) < 0:
            self.reordered += 1
        else:
            self._highest = sequence
        self.held[sequence] = (now, item)
        return self.expire(now)

    def expire(self, now: float) -> list[Ordered[T]]:
        """Give up places whose followers have waited for the window."""
        result: list[Ordered[T]] = []
        if self.expected is None and self.held:
            oldest = min(arrival for arrival, _ in self.held.values())
            if now - oldest < self.window_s:
                return result
            result = self._start(next(iter(self.held)))
        while self.held:
            oldest = min(arrival for arrival, _ in self.held.values())
            if now - oldest < self.window_s and len(self.held) <= MAX_HELD:
                break
            self._skip(result)
        return result

    def flush(self) -> list[Ordered[T]]:
        """Everything that is held, in order."""
        result = self._start(next(iter(self.held))) if self.expected is None and self.held else []
        while self.held:
            self._skip(result)
        return result

    def restart(self) -> None:
        """Begin anew with the next packet (the sender changed). What was held is forgotten."""
        self.expected = None
        self.held.clear()
        self._probation = None

    def _start(self, near: int) -> list[Ordered[T]]:
        """Begin with the earliest packet held, in the neighbourhood of ``near``."""
        self.expected = min(self.held, key=lambda sequence: sequence_delta(sequence, near))
        result: list[Ordered[T]] = []
        self._follow(result)
        return result

    def _follow(self, result: list[Ordered[T]]) -> None:
        expected = self.expected or 0
        while (entry := self.held.pop(expected, None)) is not None:
            result.append(Ordered(0, expected, entry[1]))
            expected = (expected + 1) & 0xFFFF
        self.expected = expected

    def _skip(self, result: list[Ordered[T]]) -> None:
        expected = self.expected or 0
        nearest = min(self.held, key=lambda sequence: (sequence - expected) & 0xFFFF)
        missing = (nearest - expected) & 0xFFFF
        self.lost += missing
        _, item = self.held.pop(nearest)
        result.append(Ordered(missing, nearest, item))
        self.expected = (nearest + 1) & 0xFFFF
        self._follow(result)

    def _jump(self, sequence: int, item: T) -> list[Ordered[T]]:
        """A far packet alone is taken for a stray; two in sequence are a sender that restarted."""
        probation, self._probation = self._probation, (sequence, item)
        if probation is None or probation[0] != (sequence - 1) & 0xFFFF:
            if probation is not None:
                self.late += 1
            return []
        result = self.flush()
        self.restarts += 1
        result.append(Ordered(-1, probation[0], probation[1]))
        result.append(Ordered(0, sequence, item))
        self.expected = (sequence + 1) & 0xFFFF
        self._probation = None
        return result
