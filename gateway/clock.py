"""The two clocks of the gateway in one value, so that tests move time instead of waiting for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

BEIJING = timezone(timedelta(hours=8))
"""Zone of every time on the wire, whatever the host's zone is (GB/T 28181-2022 9.10.3)."""


class Clock:
    """Monotonic seconds for deadlines, aware UTC for records. A step of the wall clock moves no deadline (G289)."""

    __slots__ = ()

    def mono(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(UTC)


class ManualClock(Clock):
    """A clock that stands still until it is moved."""

    __slots__ = ("_mono", "_utc")

    def __init__(
        self, mono: float = 1000.0, utc: datetime = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    ) -> None:
        self._mono = mono
        self._utc = utc

    def mono(self) -> float:
        return self._mono

    def utc(self) -> datetime:
        return self._utc

    def advance(self, seconds: float) -> None:
        """Time passes: both clocks move."""
        self._mono += seconds
        self._utc += timedelta(seconds=seconds)

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock: only UTC moves."""
        self._utc += timedelta(seconds=seconds)


def beijing_text(moment: datetime) -> str:
    """``2026-11-22T10:00:00.000``: the Date header of a registration (GB/T 28181-2022 9.10.3)."""
    return moment.astimezone(BEIJING).replace(tzinfo=None).isoformat(timespec="milliseconds")
