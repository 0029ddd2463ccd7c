"""Who is alive: heartbeats, any other traffic, expiry of registrations, lost connections. Monotonic time, memory only."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging

from config.settings import HeartbeatSettings
from gateway.clock import Clock
from gateway.model import Device, State
from gateway.registry import Registry
from sip.flow import Flow
from sip.manscdp import KeepaliveNotify

logger = logging.getLogger(__name__)

INTERVAL_LIMITS_S = (5, 600)
COUNT_LIMITS = (2, 10)
TICK_S = 1.0
PAUSE_S = 5.0
"""A tick that comes this much too late means that we stood still, not that the devices were silent."""
MAX_GRACE_S = 60.0


def clamp_heartbeat(
    interval_s: int | None, count: int | None, defaults: HeartbeatSettings
) -> tuple[int, int]:
    """Interval and count inside sane limits; absent or absurd values take the defaults (quirk 9)."""
    interval = defaults.interval_s if not interval_s or interval_s < 0 else interval_s
    losses = defaults.count if not count or count < 0 else count
    return (
        min(max(interval, INTERVAL_LIMITS_S[0]), INTERVAL_LIMITS_S[1]),
        min(max(losses, COUNT_LIMITS[0]), COUNT_LIMITS[1]),
    )


class Liveness:
    """Keeps one deadline per online device in a heap; a heartbeat only writes a number, the heap finds out later.

    A device goes offline when nothing of any kind came from it for interval times count (GB/T 28181-2022 9.6.1),
    or when its registration expired (9.1.1 e), exactly once (G042).
    """

    def __init__(
        self,
        *,
        settings: HeartbeatSettings,
        registry: Registry,
        heartbeat_revives: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._heartbeat_revives = heartbeat_revives
        self._clock = clock or Clock()
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}  # the one valid heap entry of each device; others are stale
        self._last_tick: float | None = None
        self._judge_from = 0.0
        self._utc = self._clock.utc()
        self._task: asyncio.Task[None] | None = None
        self.keepalives = 0
        """Heartbeats accepted, for metrics."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="liveness")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            self.tick(self._clock.mono())
            await asyncio.sleep(TICK_S)

    # -- signs of life ---------------------------------------------------------------------------------------

    def registered(self, device: Device, now: float) -> bool:
        """May this device send us anything but a REGISTER? (G062)

        Online, or silent for a while but inside its registration; with ``heartbeat_revives`` (of its profile, else
        of all) also when that has expired (quirk 8). A log-out or a broken connection ends it.
        """
        if device.state is State.ONLINE:
            return True
        if device.flow is None:
            return False
        if device.offline_cause == "heartbeat_lost":
            return device.expires_mono > now
        revives = device.profile.heartbeat_revives
        return device.offline_cause == "expired" and (self._heartbeat_revives if revives is None else revives)

    def seen(self, device: Device, now: float) -> None:
        """Something came from this device over its authenticated flow."""
        device.last_seen_mono = now
        device.last_seen_at = self._utc
        if device.state is State.OFFLINE and self.registered(device, now):
            device.registration_expired = device.expires_mono <= now
            self.watch(device)
            self._registry.mark_online(device, "heartbeat")
            logger.info(
                "device back device=%s registration_expired=%s", device.device_id, device.registration_expired
            )

    def keepalive(self, device: Device, body: KeepaliveNotify, now: float) -> None:
        """A heartbeat: last-seen moves; its Status and faulty children are noted when they say anything new."""
        self.keepalives += 1
        self.seen(device, now)
        fault = body.status != "OK"
        if fault is not device.fault or body.faulty or device.faulty_children:
            self._registry.set_fault(device, fault, body.faulty)

    def connection_closed(self, flow: Flow) -> None:
        """A TCP connection is gone: what was registered over it is offline until it registers again (9.1.1 f)."""
        for device in self._registry.devices_on(flow):
            self._registry.set_flow(device, None)
            if self._registry.mark_offline(device, "connection_lost"):
                logger.info("device offline device=%s cause=connection_lost flow=%s", device.device_id, flow)

    # -- deadlines -------------------------------------------------------------------------------------------

    def watch(self, device: Device) -> None:
        """Judge this device from now on; again when its deadline may have come nearer (shorter lifetime)."""
        deadline = self._deadline(device)
        due = self._due.get(device.device_id)
        if due is None or deadline < due:
            self._schedule(device.device_id, deadline)

    def _schedule(self, device_id: str, deadline: float) -> None:
        self._due[device_id] = deadline
        heapq.heappush(self._heap, (deadline, device_id))

    def set_heartbeat(self, device: Device, interval_s: int | None, count: int | None) -> None:
        """Interval and count of one device, clamped (G064)."""
        interval, losses = clamp_heartbeat(interval_s, count, self._settings)
        self._registry.update_device(device.device_id, heartbeat_interval_s=interval, heartbeat_count=losses)
        self.watch(device)

    def _deadline(self, device: Device) -> float:
        silent = device.last_seen_mono + self._window(device)
        return silent if device.registration_expired else min(silent, device.expires_mono)

    def _window(self, device: Device) -> float:
        interval, count = device.heartbeat_interval_s, device.heartbeat_count
        if not (5 <= interval <= 600 and 2 <= count <= 10):
            interval, count = clamp_heartbeat(interval, count, self._settings)
        return float(interval * count)

    def tick(self, now: float) -> None:
        """Called each second. After a pause of the whole process devices get time to be heard before they are judged."""
        pause = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        if pause > TICK_S + PAUSE_S:
            self._judge_from = now + min(pause, MAX_GRACE_S)
            logger.warning("the process stood still pause_s=%.1f", pause)
        if now >= self._judge_from:
            self.sweep(now)

    def sweep(self, now: float) -> None:
        """Judge what is due. Costs nothing for devices whose time has not come."""
        self._utc = self._clock.utc()
        while self._heap and self._heap[0][0] <= now:
            due, device_id = heapq.heappop(self._heap)
            if self._due.get(device_id) != due:
                continue
            del self._due[device_id]
            device = self._registry.devices.get(device_id)
            if device is None or device.state is State.OFFLINE:
                continue
            deadline = self._deadline(device)
            if deadline <= now:
                self._expire(device, now)
            else:
                self._schedule(device_id, deadline)
                self._registry.changes.devices.add(device_id)  # the last-seen time is saved now and then

    def _expire(self, device: Device, now: float) -> None:
        expired = device.expires_mono <= now and not device.registration_expired
        cause = "expired" if expired else "heartbeat_lost"
        if expired:
            device.registration_expired = True
        self._registry.mark_offline(device, cause)
        logger.info(
            "device offline device=%s cause=%s silent_s=%.0f",
            device.device_id,
            cause,
            now - device.last_seen_mono,
        )
