"""What an alarm sets going at its camera: a picture of that moment, and event recording."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from config.settings import AlarmSettings
from gateway.events import EventBus
from gateway.services.alarms_archive import AlarmArchive
from gateway.services.alarms_events import AlarmSnapshot
from gateway.services.alarms_words import describe
from gateway.services.errors import PlayFailed
from gateway.storage.alarms import StoredAlarm
from media.errors import MediaError
from sip.manscdp import AlarmNotify

log = logging.getLogger(__name__)

MOST_WAITING = 64
"""Alarms that may wait for their picture; beyond it the picture is left out and counted."""
SNAPSHOT_TIMEOUT_S = 20.0
MARKED_ANEW_S = 5.0
"""Alarms of one camera closer together share one mark on the timeline."""


class Pictures(Protocol):
    """The part of gateway.services.sessions.Sessions that is needed."""

    async def snapshot(self, device_id: str, channel_id: str) -> bytes: ...

    def find(self, device_id: str, channel_id: str, stream_number: int = 0) -> object | None: ...


class Recorder(Protocol):
    """The part of gateway.services.recording.RecordingService that is needed."""

    async def event(
        self, key: tuple[str, str], *, seconds_before: float, seconds_after: float, label: str, who: str
    ) -> object: ...


class AlarmPictures:
    """Add ``alarm`` to AlarmService.listeners. ``counts``: taken, failed, left_out, recorded, not_recorded."""

    def __init__(
        self,
        *,
        settings: AlarmSettings,
        archive: AlarmArchive,
        pictures: Pictures,
        recorder: Recorder,
        bus: EventBus,
    ) -> None:
        self._settings, self._archive, self._bus = settings, archive, bus
        self._pictures, self._recorder = pictures, recorder
        self._queue: asyncio.Queue[tuple[StoredAlarm, bool]] = asyncio.Queue(MOST_WAITING)
        self._marked: dict[tuple[str, str], float] = {}
        self._workers: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        self._workers = [
            asyncio.create_task(self._work(), name=f"alarm-pictures-{number}")
            for number in range(self._settings.snapshots_at_once)
        ]

    async def close(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def alarm(self, alarm: StoredAlarm, body: AlarmNotify) -> None:
        """A new alarm: take its picture and record, when settings say so and its camera is known."""
        del body
        if not alarm.camera_id:
            return
        settings = self._settings
        live = self._pictures.find(alarm.device_id, alarm.camera_id) is not None
        picture = settings.snapshot == "always" or (settings.snapshot == "live" and live)
        if not picture and not settings.record:
            return
        try:
            self._queue.put_nowait((alarm, picture))
        except asyncio.QueueFull:
            self.counts["left_out"] += 1

    async def _work(self) -> None:
        while True:
            alarm, picture = await self._queue.get()
            if self._settings.record:
                await self._record(alarm)
            if picture:
                await self._take(alarm)

    async def _take(self, alarm: StoredAlarm) -> None:
        try:
            async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
                jpeg = await self._pictures.snapshot(alarm.device_id, alarm.camera_id)
            await self._archive.keep_picture(alarm.alarm_id, jpeg)
        except (PlayFailed, MediaError, OSError, TimeoutError) as error:
            self.counts["failed"] += 1
            log.info(
                "no picture of alarm alarm=%s channel=%s cause=%s", alarm.alarm_id, alarm.camera_id, error
            )
            return
        self.counts["taken"] += 1
        self._bus.publish(AlarmSnapshot(alarm.alarm_id, alarm.device_id, alarm.channel_id))

    async def _record(self, alarm: StoredAlarm) -> None:
        key, at = (alarm.device_id, alarm.camera_id), alarm.received_at.timestamp()
        if at - self._marked.get(key, 0.0) < MARKED_ANEW_S:
            return
        self._marked.pop(key, None)
        self._marked[key] = at
        while len(self._marked) > 10_000:
            del self._marked[next(iter(self._marked))]
        text = describe(alarm.priority, alarm.method, alarm.alarm_type, alarm.event_type)
        try:
            await self._recorder.event(
                key,
                seconds_before=self._settings.record_before_s,
                seconds_after=self._settings.record_after_s,
                label=f"alarm {alarm.alarm_id}: {text.en}"[:255],
                who="alarm",
            )
        except SQLAlchemyError as error:
            self.counts["not_recorded"] += 1
            log.warning("alarm not recorded alarm=%s error=%s", alarm.alarm_id, error)
        else:
            self.counts["recorded"] += 1
