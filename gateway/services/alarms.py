"""Alarms of devices: answered, merged when they repeat, limited when they flood, kept, told (GB/T 28181-2022 9.4)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from config.settings import AlarmSettings
from gateway.clock import Clock
from gateway.dispatch import BodyHandler, RoleName
from gateway.events import AlarmRaised, EventBus
from gateway.model import ChannelKind
from gateway.peers import Peer
from gateway.registry import Registry
from gateway.services.alarms_archive import AlarmArchive
from gateway.services.alarms_events import AlarmAcknowledged, AlarmFlood, AlarmRepeated, ClockFault
from gateway.services.alarms_words import describe
from gateway.services.limits import TokenBuckets
from gateway.storage.alarms import StoredAlarm
from sip.endpoint import Incoming
from sip.errors import ParseError
from sip.manscdp import AlarmNotify, AlarmResponse, Body
from sip.manscdp.charset import read_text

log = logging.getLogger(__name__)

MERGE_LONGEST_S = 60.0
"""An alarm that goes on is told anew after this time."""
TICK_S = 1.0
MOST_FRESH = 20_000
MOST_RAW = 16 * 1024
"""Characters of XML that are kept of one alarm."""
MOST_ANSWERS = 2000
MOST_ANSWERS_PER_DEVICE = 20
"""Response/Alarm messages on their way; a device that does not take them may not hold up the others."""

_Key = tuple[str, str, int | None, int | None, int | None, int | None]
Listener = Callable[[StoredAlarm, AlarmNotify], None]


class Desk(Protocol):
    """The part of gateway.dispatch.Dispatch that alarms need."""

    def on(self, model: type[Body], role: RoleName = "device") -> Callable[[BodyHandler], BodyHandler]: ...

    async def send_to(self, peer: Peer, body: Body) -> None: ...


@dataclass(slots=True, eq=False)
class _Fresh:
    """An alarm that may still repeat. ``told``: repeats as last told."""

    alarm: StoredAlarm
    last_mono: float
    first_mono: float
    told: int = 0


@dataclass(slots=True)
class _Flood:
    """What was suppressed of one device since the last report, after ``alarm``."""

    alarm: StoredAlarm
    new: int = 0


class AlarmService:
    """Takes alarms in. ``counts``: raised, repeated, suppressed, unanswered, clock_faults.

    Nothing is lost without being counted: the same alarm again raises ``repeats`` of the first one; what a device
    sends beyond its rate is counted in ``suppressed`` of the last alarm that was kept, and told as AlarmFlood.
    """

    def __init__(
        self,
        *,
        settings: AlarmSettings,
        registry: Registry,
        bus: EventBus,
        archive: AlarmArchive,
        clock: Clock,
    ) -> None:
        self._settings, self._registry, self._bus, self._clock = settings, registry, bus, clock
        self.archive = archive
        self.listeners: list[Listener] = []
        """Told of each new alarm at once: pictures, recording, uppers."""
        self._desk: Desk | None = None
        self._fresh: OrderedDict[_Key, _Fresh] = OrderedDict()
        self._last: OrderedDict[str, StoredAlarm] = OrderedDict()
        self._floods: dict[str, _Flood] = {}
        self._buckets: TokenBuckets[str] = TokenBuckets(
            rate=settings.per_device_per_s, burst=settings.per_device_burst
        )
        self._clock_faults: set[str] = set()
        self._answers: dict[asyncio.Task[None], str] = {}
        self._answering: Counter[str] = Counter()
        self._ticker: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()
        self.raised_by_method: Counter[str] = Counter()

    def connect(self, desk: Desk) -> None:
        """Take alarms from devices and lower platforms, by MESSAGE and by NOTIFY (G141, G142)."""
        self._desk = desk
        desk.on(AlarmNotify, "device")(self._notified)

    async def start(self) -> None:
        await self.archive.start()
        self._ticker = asyncio.create_task(self._tick(), name="alarms-tick")

    async def close(self) -> None:
        """Report what was counted, end all tasks, write the rest."""
        tasks = [*self._answers, *([self._ticker] if self._ticker is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.report()
        await self.archive.close()

    # -- what comes in ---------------------------------------------------------------------------------------

    async def _notified(self, peer: Peer, body: AlarmNotify, incoming: Incoming) -> None:
        by_message = incoming.request.method == "MESSAGE"
        self.take(peer.id, body, _raw_text(incoming.request.body), "message" if by_message else "notify")
        if by_message:
            self._answer(peer, body)

    def _answer(self, peer: Peer, body: AlarmNotify) -> None:
        """Response/Alarm with the alarm's SN (9.4.2); nobody waits for its 200."""
        if len(self._answers) >= MOST_ANSWERS or self._answering[peer.id] >= MOST_ANSWERS_PER_DEVICE:
            self.counts["unanswered"] += 1
            return
        desk = self._desk
        if desk is None:
            return
        answer = AlarmResponse(sn=body.sn, device_id=body.device_id or peer.id)
        task = asyncio.create_task(desk.send_to(peer, answer))
        self._answers[task] = peer.id
        self._answering[peer.id] += 1
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        peer_id = self._answers.pop(task)
        self._answering[peer_id] -= 1
        if not self._answering[peer_id]:
            del self._answering[peer_id]

    def take(self, device_id: str, body: AlarmNotify, raw: str, via: str) -> StoredAlarm | None:
        """One alarm of a device. Returns the alarm it became, None when it was merged or suppressed."""
        now, mono = self._clock.utc(), self._clock.mono()
        clock_fault = self._check_clock(device_id, body.alarm_time, now)
        channel_id = body.device_id or device_id
        key: _Key = (
            *(
                device_id,
                channel_id,
                body.alarm_priority,
                body.alarm_method,
                body.alarm_type,
                body.event_type,
            ),
        )
        if self._merged(key, body, now, mono):
            return None
        if not self._buckets.take(device_id, mono):
            self._suppress(device_id)
            return None
        alarm = self._record(device_id, channel_id, body, now)
        alarm.raw, alarm.via, alarm.clock_fault = raw, via, clock_fault
        self._remember(key, alarm, mono)
        self.archive.put(alarm)
        self.counts["raised"] += 1
        self.raised_by_method[str(body.alarm_method) if body.alarm_method in range(1, 8) else "other"] += 1
        log.info(
            "alarm device=%s channel=%s priority=%s method=%s type=%s alarm=%s",
            device_id, channel_id, alarm.priority, alarm.method, alarm.alarm_type, alarm.alarm_id,
        )  # fmt: skip
        for listener in self.listeners:
            listener(alarm, body)
        self._bus.publish(raised_event(alarm))
        return alarm

    def _record(self, device_id: str, channel_id: str, body: AlarmNotify, now: datetime) -> StoredAlarm:
        return StoredAlarm(
            alarm_id=f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(6)}",
            device_id=device_id,
            channel_id=channel_id,
            received_at=now,
            last_at=now,
            alarm_at=body.alarm_time,
            priority=body.alarm_priority,
            method=body.alarm_method,
            alarm_type=body.alarm_type,
            event_type=body.event_type,
            description=body.description[:1024],
            longitude=body.longitude,
            latitude=body.latitude,
            extra=list(body.extra_info)[:8],
            camera_id=self.camera_of(device_id, channel_id),
        )

    def camera_of(self, device_id: str, channel_id: str) -> str:
        """The channel whose picture belongs to an alarm: itself, or the only camera of the device; "" when unclear."""
        channel = self._registry.channel(device_id, channel_id)
        if channel is not None and channel.kind is ChannelKind.CAMERA:
            return channel_id
        channels = self._registry.channels(device_id)
        if len(channels) > 16:
            return ""
        cameras = [code for code, one in channels.items() if one.kind is ChannelKind.CAMERA]
        return cameras[0] if len(cameras) == 1 else ""

    # -- repeated, too fast, wrong time ----------------------------------------------------------------------

    def _merged(self, key: _Key, body: AlarmNotify, now: datetime, mono: float) -> bool:
        fresh = self._fresh.get(key)
        if fresh is None:
            return False
        same_time = body.alarm_time is not None and body.alarm_time == fresh.alarm.alarm_at
        goes_on = (
            mono - fresh.last_mono <= self._settings.merge_s and mono - fresh.first_mono <= MERGE_LONGEST_S
        )
        if not (same_time or goes_on):
            return False
        fresh.last_mono = mono
        fresh.alarm.repeats += 1
        fresh.alarm.last_at = now
        self.counts["repeated"] += 1
        return True

    def _remember(self, key: _Key, alarm: StoredAlarm, mono: float) -> None:
        old = self._fresh.pop(key, None)
        if old is not None:
            self._tell_repeats(old)
        while len(self._fresh) >= MOST_FRESH:
            self._tell_repeats(self._fresh.popitem(last=False)[1])
        self._fresh[key] = _Fresh(alarm, mono, mono)
        self._last.pop(alarm.device_id, None)
        while len(self._last) >= MOST_FRESH:
            self._last.popitem(last=False)
        self._last[alarm.device_id] = alarm

    def _suppress(self, device_id: str) -> None:
        self.counts["suppressed"] += 1
        last = self._last.get(device_id)
        if last is None:
            return
        flood = self._floods.get(device_id)
        if flood is None or flood.alarm is not last:
            if flood is not None:
                self._tell_flood(device_id, flood)
            flood = self._floods[device_id] = _Flood(last)
        flood.new += 1
        last.suppressed += 1

    def _check_clock(self, device_id: str, alarm_time: datetime | None, now: datetime) -> bool:
        """Whether the device's time is far from ours; a change is told (G150)."""
        if alarm_time is None:
            return False
        offset_s = (alarm_time - now).total_seconds()
        fault = abs(offset_s) > self._settings.clock_fault_s
        self.counts["clock_faults"] += fault
        if fault != (device_id in self._clock_faults):
            (self._clock_faults.add if fault else self._clock_faults.discard)(device_id)
            self._bus.publish(ClockFault(device_id, round(offset_s, 1), fault, "alarm"))
            log.warning(
                "clock of device differs device=%s offset_s=%.0f fault=%s", device_id, offset_s, fault
            )
            if device_id in self._registry.devices:
                self._registry.update_device(device_id, clock_offset_s=round(offset_s, 1))
        return fault

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.report()

    def report(self) -> None:
        """Tell and write what was only counted: repeats and floods. Forget what is no longer fresh."""
        mono = self._clock.mono()
        for key, fresh in list(self._fresh.items()):
            self._tell_repeats(fresh)
            if mono - fresh.last_mono > max(self._settings.merge_s, MERGE_LONGEST_S):
                del self._fresh[key]
        for device_id, flood in list(self._floods.items()):
            self._tell_flood(device_id, flood)
            del self._floods[device_id]

    def _tell_repeats(self, fresh: _Fresh) -> None:
        alarm = fresh.alarm
        if alarm.repeats == fresh.told:
            return
        fresh.told = alarm.repeats
        self.archive.change(alarm.alarm_id, repeats=alarm.repeats, last_at=alarm.last_at)
        self._bus.publish(AlarmRepeated(alarm.device_id, alarm.channel_id, alarm.alarm_id, alarm.repeats))

    def _tell_flood(self, device_id: str, flood: _Flood) -> None:
        self.archive.change(flood.alarm.alarm_id, suppressed=flood.alarm.suppressed)
        self._bus.publish(AlarmFlood(device_id, flood.new, TICK_S))
        log.warning("alarm flood device=%s suppressed=%d", device_id, flood.new)

    # -- what operators do -----------------------------------------------------------------------------------

    async def acknowledge(self, alarm: StoredAlarm, *, who: str, note: str, reset: str) -> StoredAlarm:
        """Somebody has seen to it; ``reset`` is what the device said to a reset, "" when none was asked for.

        The same alarm coming again from now on is a new one.
        """
        for key, fresh in list(self._fresh.items()):
            if fresh.alarm.alarm_id == alarm.alarm_id:
                self._tell_repeats(fresh)
                del self._fresh[key]
        values: dict[str, Any] = {
            "acknowledged_at": self._clock.utc(), "acknowledged_by": who, "note": note, "reset": reset or alarm.reset,
        }  # fmt: skip
        self.archive.change(alarm.alarm_id, **values)
        self._bus.publish(AlarmAcknowledged(alarm.alarm_id, alarm.device_id, alarm.channel_id, who, reset))
        return await self.archive.get(alarm.alarm_id) or alarm


def raised_event(alarm: StoredAlarm) -> AlarmRaised:
    text = describe(alarm.priority, alarm.method, alarm.alarm_type, alarm.event_type)
    return AlarmRaised(
        device_id=alarm.device_id,
        channel_id=alarm.channel_id,
        priority=alarm.priority or 0,
        method=alarm.method or 0,
        kind=alarm.alarm_type,
        description=alarm.description,
        alarm_at=(alarm.alarm_at or alarm.received_at).isoformat(),
        alarm_id=alarm.alarm_id,
        event_type=alarm.event_type,
        text_zh=text.zh,
        text_en=text.en,
        via=alarm.via,
    )


def _raw_text(data: bytes) -> str:
    try:
        return read_text(data[: 4 * MOST_RAW]).text[:MOST_RAW]
    except ParseError:
        return data[:MOST_RAW].decode("gb18030", "replace")
