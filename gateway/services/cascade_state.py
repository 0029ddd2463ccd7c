"""The state machine of one link to an upper platform: what is due when, told by the caller's clock, nothing sent here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from gateway.model import PlatformState


class Step(StrEnum):
    """What can happen to a link."""

    START = "start"
    GRANTED = "granted"
    FAILED = "failed"
    LOST = "lost"
    RETRY = "retry"
    STOP = "stop"


class Due(StrEnum):
    """What the owner of the machine has to do now."""

    REGISTER = "register"
    """With a new Call-ID: the first REGISTER of a new try."""
    REFRESH = "refresh"
    HEARTBEAT = "heartbeat"


_S = PlatformState
# A step that is missing here cannot happen: a KeyError is a fault of ours, not of the peer.
_NEXT: dict[tuple[PlatformState, Step], PlatformState] = {
    (_S.OFFLINE, Step.START): _S.REGISTERING,
    (_S.DISABLED, Step.START): _S.REGISTERING,
    (_S.REGISTERING, Step.GRANTED): _S.ONLINE,
    (_S.REGISTERING, Step.FAILED): _S.WAITING,
    (_S.ONLINE, Step.GRANTED): _S.ONLINE,
    (_S.ONLINE, Step.FAILED): _S.WAITING,
    (_S.ONLINE, Step.LOST): _S.WAITING,
    (_S.WAITING, Step.RETRY): _S.REGISTERING,
    **{(state, Step.STOP): _S.DISABLED for state in _S},
}


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """The figures of one link. Seconds; ``spread`` and ``refresh_at`` are fractions."""

    heartbeat_interval_s: float = 60.0
    heartbeat_count: int = 3
    register_retry_s: float = 60.0
    spread: float = 0.2
    refresh_at: float = 0.85


class LinkMachine:
    """Registration and heartbeat of one upper (GB/T 28181-2022 9.1.1, 9.6.1).

    The caller asks :meth:`due` for work, does it, and reports the outcome. Every time is an argument, so tests
    move the clock instead of sleeping.
    """

    def __init__(self, times: LinkTimes, random: Random) -> None:
        self.times = times
        self._random = random
        self.state = PlatformState.OFFLINE
        self.missed = 0
        self.granted_s = 0
        self._register_at: float | None = None
        self._heartbeat_at: float | None = None
        self._registering = False
        self._beating = False
        self._last_try: float | None = None

    def _go(self, step: Step) -> None:
        self.state = _NEXT[self.state, step]

    def start(self, now: float) -> None:
        """Begin: the first REGISTER is due at once."""
        self._go(Step.START)
        self._register_at = now

    def stop(self) -> bool:
        """Nothing is due any more. True when the upper believes us online (an Expires 0 is worth sending)."""
        online = self.state is PlatformState.ONLINE
        self._go(Step.STOP)
        self._register_at = self._heartbeat_at = None
        self._registering = self._beating = False
        return online

    def next_timer(self) -> float | None:
        """When :meth:`due` will have something, None while only outcomes are awaited."""
        times = []
        if self._register_at is not None and not self._registering:
            times.append(self._register_at)
        if self._heartbeat_at is not None and not self._beating:
            times.append(self._heartbeat_at)
        return min(times, default=None)

    def next_try_in(self, now: float) -> float | None:
        """Seconds to the next fresh REGISTER, None when the link is up or a try is running."""
        if self.state is not PlatformState.WAITING or self._register_at is None:
            return None
        return max(0.0, self._register_at - now)

    def due(self, now: float) -> list[Due]:
        """What must be sent now. Each entry is to be answered by one report of its outcome."""
        work: list[Due] = []
        if self._register_at is not None and not self._registering and now >= self._register_at:
            self._registering = True
            if self.state is PlatformState.WAITING:
                self._go(Step.RETRY)
            if self.state is PlatformState.REGISTERING:
                self._last_try = now
                work.append(Due.REGISTER)
            else:
                work.append(Due.REFRESH)
        if self._heartbeat_at is not None and not self._beating and now >= self._heartbeat_at:
            self._beating = True
            # A little early, never late: both sides have the same interval configured (9.6.1 d).
            self._heartbeat_at = now + self.times.heartbeat_interval_s * self._random.uniform(0.9, 1.0)
            work.append(Due.HEARTBEAT)
        return work

    def registered(self, granted_s: int, now: float) -> None:
        """A REGISTER was granted for ``granted_s`` seconds: the granted value rules, not the asked one."""
        fresh = self.state is PlatformState.REGISTERING
        self._go(Step.GRANTED)
        self._registering = False
        self.granted_s = granted_s
        self._register_at = now + max(1.0, granted_s * self.times.refresh_at)
        if fresh:
            self.missed = 0
            # Links that came up together after a restart must not beat together for ever.
            self._heartbeat_at = now + self.times.heartbeat_interval_s * self._random.uniform(0.2, 1.0)

    def register_failed(self, now: float) -> None:
        """A REGISTER or refresh was refused or not answered: offline, next try not before the retry interval."""
        self._go(Step.FAILED)
        self._down(now)

    def heartbeat_answered(self) -> None:
        self.missed = 0
        self._beating = False

    def heartbeat_missed(self, now: float) -> bool:
        """No answer in time. True when this was one too many: the upper counts as offline (9.6.1 e)."""
        self.missed += 1
        if self.missed >= self.times.heartbeat_count:
            self.lost(now)
            return True
        self._beating = False
        return False

    def lost(self, now: float) -> None:
        """The upper forgot us (403, 401, 404, 481 to a heartbeat), or its connection ended."""
        self._go(Step.LOST)
        self._down(now)

    def report_now(self, now: float) -> None:
        """Our own state changed: the next heartbeat is due at once (9.6.1 a)."""
        if self.state is PlatformState.ONLINE:
            self._heartbeat_at = now

    def try_now(self, now: float) -> None:
        """An operator changed something: do not sit out the retry interval."""
        if self.state is PlatformState.WAITING:
            self._register_at = now

    def _down(self, now: float) -> None:
        """Two fresh tries are never closer than the retry interval, spread so that many links do not come at once."""
        self._registering = self._beating = False
        self._heartbeat_at = None
        self.granted_s = 0
        retry = self.times.register_retry_s
        since = now if self._last_try is None else self._last_try
        soon = now + self._random.uniform(0.0, retry * self.times.spread)
        self._register_at = max(soon, since + retry * (1 + self._random.uniform(0.0, self.times.spread)))
