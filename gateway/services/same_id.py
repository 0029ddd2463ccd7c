"""Two units that use one device code (quirk 18): found by what they do, settled by a rule, over when one is gone.

A unit is told by its host, its Contact and its User-Agent. A device that moves (a new address, another unit in its
place) shows up once from elsewhere; two units alternate. So by the default rule a move is believed, and only when the
old unit comes back while the new one is alive there are two: then the first one keeps the code until it is silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from gateway.clock import Clock
from gateway.events import DeviceConflict, DeviceConflictEnded, EventBus, SecurityEvent
from gateway.model import Device, State
from sip.flow import Flow

logger = logging.getLogger(__name__)

Policy = Literal["alternation", "newest_wins", "first_wins"]
_REMEMBERED = 10_000
SWEEP_S = 5.0


@dataclass(slots=True)
class Unit:
    """One unit as last seen."""

    flow: Flow
    agent: str
    contact: str
    seen_mono: float
    seen_at: datetime

    def same(self, other: Unit) -> bool:
        """Whether both may be one unit: it rebooted, its NAT gave it another port, or it changed the transport."""
        if self.contact == other.contact and self.agent == other.agent and self.flow.host == other.flow.host:
            return True
        return (
            self.flow.host == other.flow.host
            and self.agent == other.agent
            and self.flow.transport != other.flow.transport
        )

    def alike(self, other: Unit) -> bool:
        """Same Contact and User-Agent from another host: one unit behind a new address, or two with factory settings."""
        return self.contact == other.contact and self.agent == other.agent


@dataclass(slots=True)
class Conflict:
    """Two units under one code. ``kept`` is ``first``, ``second``, or ``newest`` where the newest always wins."""

    device_id: str
    first: Unit
    second: Unit
    kept: str
    since_at: datetime
    turns: int = 1
    refused: int = 0
    """Registrations of the unit that is not kept."""

    def unit_of(self, unit: Unit) -> Unit | None:
        return next((known for known in (self.first, self.second) if known.same(unit)), None)

    @property
    def kept_flow(self) -> Flow:
        if self.kept == "first":
            return self.first.flow
        if self.kept == "second":
            return self.second.flow
        return max((self.first, self.second), key=lambda unit: unit.seen_mono).flow


@dataclass(slots=True)
class _Trace:
    """What is remembered of a device that moved: the unit before, and how often the two took turns."""

    current: Unit
    before: Unit | None = None
    turns: int = 0
    moved_mono: float = field(default=0.0)


class SameId:
    """The judge. ``admit`` is asked at each REGISTER of a device that is online elsewhere."""

    def __init__(
        self,
        *,
        policy: Policy,
        memory_s: float,
        devices: Mapping[str, Device],
        bus: EventBus,
        clock: Clock | None = None,
    ) -> None:
        self._policy = policy
        self._memory_s = memory_s
        self._devices = devices
        self._bus = bus
        self._clock = clock or Clock()
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self.conflicts: dict[str, Conflict] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="same id")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.current()

    def admit(self, device: Device, flow: Flow, contact: str, agent: str, now: float) -> bool:
        """Whether this REGISTER may take the code over. Notes, tells and ends conflicts."""
        unit = Unit(flow, agent, contact, now, self._clock.utc())
        self._forget_if_over(device, now)
        if device.state is not State.ONLINE or device.flow is None:
            self._restart(device.device_id, unit)
            return True
        current = Unit(device.flow, device.user_agent, device.contact, device.last_seen_mono, unit.seen_at)
        conflict = self.conflicts.get(device.device_id)
        if conflict is not None:
            return self._in_conflict(conflict, unit, device, now)
        if current.same(unit) or not _alive(device, now):
            self._restart(device.device_id, unit, keep=True)
            return True
        return self._another(device, current, unit, now)

    def contested(self, device_id: str, flow: Flow) -> bool:
        """Whether a message over ``flow`` comes from the unit that was refused: it must not move the device."""
        conflict = self.conflicts.get(device_id)
        if conflict is None or conflict.kept == "newest":
            return False
        other = conflict.second if conflict.kept == "first" else conflict.first
        kept = conflict.first if conflict.kept == "first" else conflict.second
        return (other.flow.host, other.flow.port) == (flow.host, flow.port) or (
            other.flow.host == flow.host != kept.flow.host
        )

    def current(self) -> list[Conflict]:
        """All conflicts that last; those that are over are told and forgotten."""
        now = self._clock.mono()
        for device_id in list(self.conflicts):
            device = self._devices.get(device_id)
            if device is None:
                self._end(device_id, "removed")
            else:
                self._forget_if_over(device, now)
        return sorted(self.conflicts.values(), key=lambda conflict: conflict.device_id)

    # -- judging ---------------------------------------------------------------------------------------------

    def _another(self, device: Device, current: Unit, unit: Unit, now: float) -> bool:
        """A second unit while the first is alive, and no conflict yet."""
        trace = self._trace(device.device_id, current)
        came_back = (
            trace.before is not None and trace.before.same(unit) and now - trace.moved_mono <= self._memory_s
        )
        if self._policy == "first_wins" and not current.alike(unit):
            self._begin(device, current, unit, "first", unit, refused=True)
            return False
        if self._policy == "newest_wins" and not current.alike(unit):
            self._begin(device, current, unit, "newest", unit)
            return True
        trace.turns = trace.turns + 1 if came_back else 0
        # Alike units may be one device between two addresses: it takes a whole turn more to be sure.
        if trace.turns >= (3 if current.alike(unit) else 1):
            kept = "newest" if self._policy == "newest_wins" else "first"
            self._begin(device, unit, current, kept, unit)
            return True
        trace.current, trace.before, trace.moved_mono = unit, current, now
        logger.info(
            "device registers from elsewhere device=%s old=%s new=%s turns=%d",
            *(device.device_id, current.flow, unit.flow, trace.turns),
        )
        return True

    def _in_conflict(self, conflict: Conflict, unit: Unit, device: Device, now: float) -> bool:
        known = conflict.unit_of(unit)
        if known is None:
            return conflict.kept == "newest" or not _alive(device, now)
        known.flow, known.seen_mono, known.seen_at = unit.flow, now, unit.seen_at
        conflict.turns += 1
        if conflict.kept == "newest" or known is (
            conflict.first if conflict.kept == "first" else conflict.second
        ):
            return True
        conflict.refused += 1
        return False

    def _begin(
        self, device: Device, first: Unit, second: Unit, kept: str, newest: Unit, *, refused: bool = False
    ) -> None:
        conflict = Conflict(
            device.device_id, first, second, kept, newest.seen_at, refused=1 if refused else 0
        )
        self.conflicts[device.device_id] = conflict
        self._traces.pop(device.device_id, None)
        logger.warning(
            "two units use one code device=%s first=%s second=%s kept=%s",
            *(device.device_id, first.flow, second.flow, kept),
        )
        self._bus.publish(
            DeviceConflict(device.device_id, str(first.flow), str(second.flow), str(conflict.kept_flow))
        )
        detail = f"first {first.flow}, kept {conflict.kept_flow}"
        self._bus.publish(SecurityEvent("same_id", second.flow.host, detail, device.device_id))

    # -- forgetting ------------------------------------------------------------------------------------------

    def _forget_if_over(self, device: Device, now: float) -> None:
        conflict = self.conflicts.get(device.device_id)
        if conflict is None:
            return
        if device.state is not State.ONLINE or device.flow is None:
            self._end(device.device_id, "kept_unit_offline")
            return
        other = min((conflict.first, conflict.second), key=lambda unit: unit.seen_mono)
        if conflict.kept == "first":
            other = conflict.second
        elif conflict.kept == "second":
            other = conflict.first
        if now - other.seen_mono > self._memory_s:
            self._end(device.device_id, "other_unit_gone")
        elif not _alive(device, now):
            self._end(device.device_id, "kept_unit_silent")

    def _end(self, device_id: str, cause: str) -> None:
        conflict = self.conflicts.pop(device_id, None)
        if conflict is not None:
            logger.info("conflict over device=%s cause=%s refused=%d", device_id, cause, conflict.refused)
            self._bus.publish(DeviceConflictEnded(device_id, cause))

    def _trace(self, device_id: str, current: Unit) -> _Trace:
        trace = self._traces.get(device_id)
        if trace is None:
            if len(self._traces) >= _REMEMBERED:
                self._traces.popitem(last=False)
            trace = self._traces[device_id] = _Trace(current)
        return trace

    def _restart(self, device_id: str, unit: Unit, *, keep: bool = False) -> None:
        """The same unit again, or the first after a pause: only a unit that was gone is forgotten."""
        trace = self._traces.get(device_id)
        if trace is not None and keep:
            trace.current = unit
        else:
            self._traces.pop(device_id, None)


def _alive(device: Device, now: float) -> bool:
    return now - device.last_seen_mono < device.heartbeat_interval_s * device.heartbeat_count
