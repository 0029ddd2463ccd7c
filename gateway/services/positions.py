"""Positions of what moves and directions of cameras: read in both editions' forms, checked, kept, told (2022 A.2.5.6)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from sqlalchemy.exc import SQLAlchemyError

from config.settings import PositionSettings
from gateway.clock import Clock
from gateway.events import EventBus
from gateway.peers import Peer
from gateway.services.alarms import Desk
from gateway.services.alarms_events import PositionFault, PositionReported, PtzPositionReported
from gateway.services.positions_coordinates import coordinate_fault
from gateway.storage.positions import PositionStore, StoredPosition
from sip.endpoint import Incoming
from sip.manscdp import MobilePositionNotify, PositionItem, PTZPositionNotify, PTZPositionResponse

log = logging.getLogger(__name__)

Key = tuple[str, str]
MOST_KNOWN = 200_000
"""Channels whose last report is held in memory; the one heard longest ago goes first."""
MOST_WAITING = 100_000
"""Reports that may wait for the database; beyond it they are counted as ``lost``."""
WRITE_PAUSE_S = 0.5
RETENTION_S = 600.0
FASTEST_KMH = 1500.0


@dataclass(frozen=True, slots=True)
class PtzPosition:
    """Where a camera looks: degrees, zoom as a factor, view distance in metres."""

    device_id: str
    channel_id: str
    received_at: datetime
    pan: float | None
    tilt: float | None
    zoom: float | None
    horizontal_field_angle: float | None
    vertical_field_angle: float | None
    max_view_distance: float | None


Listener = Callable[[StoredPosition | PtzPosition], None]


class PositionService:
    """Takes positions in. ``counts``: reported, kept, thinned, lost, ptz, and fault_<kind>."""

    def __init__(
        self, *, settings: PositionSettings, store: PositionStore, bus: EventBus, clock: Clock
    ) -> None:
        self._settings, self._store, self._bus, self._clock = settings, store, bus, clock
        self.listeners: list[Listener] = []
        """Told of each report at once (uppers)."""
        self._latest: OrderedDict[Key, StoredPosition] = OrderedDict()
        self._kept_mono: dict[Key, float] = {}
        self._faults: dict[Key, tuple[str, ...]] = {}
        self._looks: OrderedDict[Key, PtzPosition] = OrderedDict()
        self._waiting: dict[tuple[str, str, datetime], StoredPosition] = {}
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()

    def connect(self, desk: Desk) -> None:
        """Take positions by NOTIFY and by MESSAGE, asked for or not (G152, G153, G156)."""
        desk.on(MobilePositionNotify, "device")(self._notified)
        desk.on(PTZPositionNotify, "device")(self._looked)
        desk.on(PTZPositionResponse, "device")(self._looked)

    async def start(self) -> None:
        """Read the last report of each channel, then write behind. Raises SQLAlchemyError."""
        for position in await self._store.newest(limit=MOST_KNOWN):
            self._latest[position.device_id, position.channel_id] = position
        self._tasks = [
            asyncio.create_task(self._write(), name="positions-write"),
            asyncio.create_task(self._forget(), name="positions-retention"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.flush()

    # -- what comes in ---------------------------------------------------------------------------------------

    async def _notified(self, peer: Peer, body: MobilePositionNotify, incoming: Incoming) -> None:
        self.take(peer.id, body, "message" if incoming.request.method == "MESSAGE" else "notify")

    def take(self, device_id: str, body: MobilePositionNotify, via: str) -> list[StoredPosition]:
        """All places of a report. One without DeviceID is that of the sender (G152)."""
        if not body.places:
            self._tell_faults((device_id, body.device_id or device_id), ("missing",))
            return []
        found = []
        for place in body.places:
            channel_id = place.device_id or body.device_id or device_id
            position = self._read(device_id, channel_id, place, place.capture_time or body.time, via)
            if position is not None:
                self._keep(position)
                found.append(position)
        return found

    def _read(
        self, device_id: str, channel_id: str, place: PositionItem, at: datetime | None, via: str
    ) -> StoredPosition | None:
        """None where there are no coordinates at all; everything else is kept with its faults (G155)."""
        now = self._clock.utc()
        faults = self._faults_of(place, at, now)
        self._tell_faults((device_id, channel_id), faults)
        if place.longitude is None or place.latitude is None:
            return None
        return StoredPosition(
            device_id,
            channel_id,
            now if at is None or "clock" in faults else at,
            now,
            place.longitude,
            place.latitude,
            place.speed,
            place.direction,
            place.altitude,
            place.height,
            ",".join(faults),
            via,
        )

    def _faults_of(self, place: PositionItem, at: datetime | None, now: datetime) -> tuple[str, ...]:
        wrong_time = at is None or abs((at - now).total_seconds()) > self._settings.future_s
        direction, speed = place.direction, place.speed
        found = (
            coordinate_fault(place.longitude, place.latitude),
            "clock" if wrong_time else "",
            "direction" if direction is not None and not 0 <= direction <= 360 else "",
            "speed" if speed is not None and not 0 <= speed <= FASTEST_KMH else "",
        )
        return tuple(fault for fault in found if fault)

    def _tell_faults(self, key: Key, faults: tuple[str, ...]) -> None:
        for fault in faults:
            self.counts[f"fault_{fault}"] += 1
        if faults == self._faults.get(key, ()):
            return
        if faults and len(self._faults) < MOST_KNOWN:
            self._faults[key] = faults
        else:
            self._faults.pop(key, None)
        self._bus.publish(PositionFault(*key, faults))
        log.info("position of channel device=%s channel=%s faults=%s", *key, ",".join(faults) or "none")

    def _keep(self, position: StoredPosition) -> None:
        key, mono = (position.device_id, position.channel_id), self._clock.mono()
        self.counts["reported"] += 1
        known = self._latest.pop(key, None)
        self._latest[key] = position if known is None or position.at >= known.at else known
        while len(self._latest) > MOST_KNOWN:
            self._kept_mono.pop(self._latest.popitem(last=False)[0], None)
        if mono - self._kept_mono.get(key, -1e9) < self._settings.least_gap_s:
            self.counts["thinned"] += 1
        elif len(self._waiting) >= MOST_WAITING:
            self.counts["lost"] += 1
        else:
            self._kept_mono[key] = mono
            self._waiting[(*key, position.at)] = position
            self._wake.set()
        for listener in self.listeners:
            listener(position)
        self._bus.publish(
            PositionReported(
                *key, position.at, position.longitude, position.latitude, position.speed_kmh,
                position.direction_deg, tuple(filter(None, position.faults.split(","))),
            )
        )  # fmt: skip

    async def _looked(
        self, peer: Peer, body: PTZPositionNotify | PTZPositionResponse, incoming: Incoming
    ) -> None:
        key = (peer.id, body.device_id or peer.id)
        values = (
            body.pan, body.tilt, body.zoom, body.horizontal_field_angle, body.vertical_field_angle,
            body.max_view_distance,
        )  # fmt: skip
        look = PtzPosition(*key, self._clock.utc(), *values)
        self.counts["ptz"] += 1
        self._looks.pop(key, None)
        self._looks[key] = look
        while len(self._looks) > MOST_KNOWN:
            self._looks.popitem(last=False)
        for listener in self.listeners:
            listener(look)
        self._bus.publish(PtzPositionReported(*key, *values))

    # -- what others ask -------------------------------------------------------------------------------------

    @property
    def latest(self) -> Mapping[Key, StoredPosition]:
        """The last report of each channel."""
        return MappingProxyType(self._latest)

    @property
    def doubtful(self) -> int:
        """Channels whose last report had faults."""
        return len(self._faults)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def look(self, key: Key) -> PtzPosition | None:
        return self._looks.get(key)

    async def track(self, key: Key, start: datetime, end: datetime, *, limit: int) -> list[StoredPosition]:
        """The newest ``limit`` kept reports of [start, end), oldest first. Raises SQLAlchemyError."""
        await self.flush()
        return await self._store.track(*key, start, end, limit=limit)

    # -- the database ----------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what waits. A failing database is logged; what could not be written stays."""
        async with self._writing:
            waiting, self._waiting = self._waiting, {}
            if not waiting:
                return
            try:
                await self._store.put(list(waiting.values()))
                self.counts["kept"] += len(waiting)
            except SQLAlchemyError as error:
                self._waiting = waiting | self._waiting
                log.error("positions not written waiting=%d error=%s", len(self._waiting), error)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            await asyncio.sleep(WRITE_PAUSE_S)
            if self._waiting:
                self._wake.set()

    async def _forget(self) -> None:
        while True:
            try:
                await self.forget()
            except SQLAlchemyError as error:
                log.error("old positions not removed error=%s", error)
            await asyncio.sleep(RETENTION_S)

    async def forget(self) -> int:
        """Remove what is older than ``keep_days`` or beyond ``keep_most``; returns how many reports."""
        before = self._clock.utc() - timedelta(days=self._settings.keep_days)
        removed = await self._store.remove_before(before)
        return removed + await self._store.remove_beyond(self._settings.keep_most)
