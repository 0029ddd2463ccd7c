"""Inputs: RTSP cameras and files as channels of a virtual device of our own, beside the cameras that speak GB/T 28181.

In the registry they are channels like any other: in the tree, in events, in the census, shared upward under their own
codes. What differs is kept here: how the picture is opened (`open`), and how it is known that a camera is there
(a light check now and then while nobody watches, spread over the interval, a few at a time).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from config.settings import InputSettings, MediaSettings
from gateway.clock import Clock
from gateway.errors import GatewayError, NotFound
from gateway.events import EventBus, SessionEnded, SessionFailed, SessionStarted
from gateway.model import Device, DeviceKind, Profile
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.inputs_probe import Verdict, check
from gateway.services.inputs_record import (
    CHANNEL_TYPE,
    DEVICE_TYPE,
    RTSP,
    Input,
    InputHealth,
    free_code,
)
from gateway.services.session_record import LiveSession
from media.specs import FileInput, InputSpec, RtspInput

log = logging.getLogger(__name__)

DEVICE_NAME = "RTSP cameras and files"
TICK_S = 0.5
FIRST_SPREAD_S = 5.0
"""The first checks after a start are spread over this time at most."""
SUSPECT_AGAIN_S = 10.0
"""A camera that failed is looked at again after this time, then after longer ones, up to the interval."""
_LOSSES = frozenset(
    {"no_rtp", "connection_lost", "dial_failed", "refused", "not_found", "unreadable", "stream_missing"}
)
_NO_PICTURE = frozenset(
    {
        PlayCause.NO_STREAM.value,
        PlayCause.NO_PICTURE.value,
        PlayCause.REJECTED.value,
        PlayCause.DEVICE_OFFLINE.value,
    }
)
SpecOf = Callable[[str], InputSpec]
"""Makes the node's order for a stream id."""


class InputConflict(GatewayError):
    """The code is in use, or none is left."""

    status = 409
    cause = "exists"


class Store(Protocol):
    """gateway.storage.inputs.InputStore."""

    async def load(self) -> list[Input]: ...
    async def put(self, record: Input) -> None: ...
    async def remove(self, channel_id: str) -> None: ...


class Opener(Protocol):
    """The part of gateway.services.session_opening.Opener that opens an input."""

    async def attempt_input(self, session: LiveSession, spec_of: SpecOf, transport: str) -> None: ...


class Lives(Protocol):
    """The part of gateway.services.sessions.Sessions that tells what runs."""

    def find(self, device_id: str, channel_id: str, stream_number: int = 0) -> LiveSession | None: ...

    def end(self, session: LiveSession, cause: str) -> asyncio.Task[None]: ...


Checker = Callable[[Input], Coroutine[Any, Any, Verdict]]


class Inputs:
    """All inputs. ``load`` before signalling starts, ``start`` when media nodes run."""

    def __init__(
        self,
        *,
        settings: InputSettings,
        media: MediaSettings,
        server_id: str,
        registry: Registry,
        bus: EventBus,
        store: Store,
        opener: Opener,
        clock: Clock | None = None,
        checker: Checker | None = None,
    ) -> None:
        self._settings = settings
        self._media = media
        self._own_id = server_id
        self._registry = registry
        self._bus = bus
        self._store = store
        self._opener = opener
        self._clock = clock or Clock()
        self._checker = checker or self._check
        self.sessions: Lives | None = None
        """Set by gateway/assembly: sessions and inputs need each other."""
        self.health: dict[str, InputHealth] = {}
        self.checks: Counter[str] = Counter()
        """Checks made, by outcome (ok, or the cause), for metrics."""
        self._records: dict[str, Input] = {}
        self._device_id = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self._unsubscribe: list[Callable[[], None]] = []
        self._slots = asyncio.Semaphore(settings.checks_at_once)

    # -- life of the service ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what is stored: the virtual device and its channels are there before anybody can ask or register."""
        for record in await self._store.load():
            self._records[record.channel_id] = record
        known = [device.device_id for device in self._registry.devices.values() if device.local]
        self._device_id = next((record.device_id for record in self._records.values()), "") or "".join(
            known[:1]
        )
        if self._device_id:
            self._put_device()
        for record in self._records.values():
            self._put_channel(record)
        if self._device_id:
            for channel_id in set(self._registry.channels(self._device_id)) - set(self._records):
                self._registry.remove_channel(self._device_id, channel_id)

    async def start(self) -> None:
        """Begin to check the cameras."""
        self._unsubscribe = [
            self._bus.subscribe(SessionStarted, callback=self._session_started),
            self._bus.subscribe(SessionEnded, callback=self._session_ended),
            self._bus.subscribe(SessionFailed, callback=self._session_failed),
        ]
        spread = min(FIRST_SPREAD_S, self._settings.check_interval_s)
        for health in self.health.values():
            health.due_mono = self._clock.mono() + random.uniform(0, spread)
        self._runner = asyncio.create_task(self._run(), name="inputs")

    async def close(self) -> None:
        """End the checks. Idempotent."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        tasks = [*self._tasks, *([self._runner] if self._runner is not None else [])]
        self._runner = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what there is ---------------------------------------------------------------------------------------

    def records(self) -> list[Input]:
        """All inputs in the order of their codes."""
        return [self._records[channel_id] for channel_id in sorted(self._records)]

    def get(self, channel_id: str) -> Input:
        """Raises NotFound."""
        record = self._records.get(channel_id)
        if record is None:
            raise NotFound(f"input {channel_id} does not exist")
        return record

    def find(self, device_id: str, channel_id: str) -> Input | None:
        """The input behind a channel; None for channels of devices."""
        record = self._records.get(channel_id)
        return record if record is not None and record.device_id == device_id else None

    async def add(self, record: Input) -> Input:
        """Enter an input; without a code it gets one. Raises InputConflict."""
        if record.channel_id and self._in_use(record.channel_id):
            raise InputConflict(f"the code {record.channel_id} is in use")
        try:
            self._device_id = self._device_id or free_code(self._registry, self._own_id, DEVICE_TYPE)
            self._put_device()
            record.device_id = self._device_id
            record.channel_id = record.channel_id or free_code(self._registry, self._own_id, CHANNEL_TYPE)
        except LookupError as error:
            raise InputConflict(str(error)) from None
        self._records[record.channel_id] = record
        self._put_channel(record)
        await self._store.put(record)
        log.info("input added channel_id=%s kind=%s url=%s", record.channel_id, record.kind, record.url)
        return record

    async def change(self, record: Input) -> Input:
        """Replace an input. A picture that runs is ended when it would be another one now. Raises NotFound."""
        before = self.get(record.channel_id)
        self._records[record.channel_id] = record
        self._put_channel(record)
        await self._store.put(record)
        if _source(before) != _source(record):
            self._end_sessions(record, "input_changed")
        log.info("input changed channel_id=%s", record.channel_id)
        return record

    async def remove(self, channel_id: str) -> None:
        """Forget an input; its channel goes as one that a device no longer names. Raises NotFound."""
        record = self.get(channel_id)
        del self._records[channel_id]
        self.health.pop(channel_id, None)
        await self._store.remove(channel_id)
        self._end_sessions(record, "input_removed")
        self._registry.remove_channel(record.device_id, channel_id)
        log.info("input removed channel_id=%s", channel_id)

    def _in_use(self, code: str) -> bool:
        registry = self._registry
        return code in registry.devices or code == self._own_id or bool(registry.find_channels(code))

    def _put_device(self) -> None:
        device = self._registry.devices.get(self._device_id)
        if device is None:
            device = self._registry.put_device(
                Device(
                    self._device_id, name=DEVICE_NAME, kind=DeviceKind.RECORDER, manufacturer="GB28181 gateway",
                    provisioned=True, catalog_complete=True, profile=Profile(local=True),
                )
            )  # fmt: skip
        self._registry.mark_online(device, "local")

    def _put_channel(self, record: Input) -> None:
        known = self._registry.channel(*record.key)
        channel = record.channel(self._own_id)
        channel.reported = "OFF"
        channel = self._registry.put_channel(channel)
        health = self.health.setdefault(record.channel_id, InputHealth())
        if known is not None and not record.enabled:
            self._registry.report(channel, "OFF")
        health.due_mono = 0.0

    def _end_sessions(self, record: Input, cause: str) -> None:
        for number in (0, 1):
            session = self.sessions.find(*record.key, number) if self.sessions is not None else None
            if session is not None and self.sessions is not None:
                self.sessions.end(session, cause)

    # -- pictures --------------------------------------------------------------------------------------------

    def stream_number(self, device_id: str, channel_id: str, number: int) -> int:
        """The stream that is really served: a camera without a smaller one has only its main stream."""
        record = self.find(device_id, channel_id)
        return 1 if number == 1 and record is not None and record.sub_url else 0

    async def open(self, session: LiveSession) -> None:
        """Open the picture of an input for a session. Raises PlayFailed."""
        device_id, channel_id, number = session.key
        record = self.find(device_id, channel_id)
        if record is None:
            raise PlayFailed(PlayCause.NOT_FOUND, f"input {channel_id} is not known")
        if not record.enabled:
            raise PlayFailed(PlayCause.DEVICE_OFFLINE, f"input {channel_id} is switched off")
        await self._opener.attempt_input(
            session, lambda stream_id: self._spec(record, stream_id, number), record.kind
        )

    def _spec(self, record: Input, stream_id: str, number: int) -> InputSpec:
        media, settings = self._media, self._settings
        if record.kind == RTSP:
            return RtspInput(
                stream_id=stream_id,
                idle_grace_s=media.idle_grace_s,
                silence_s=media.no_rtp_timeout_s,
                url=record.sub_url if number == 1 and record.sub_url else record.url,
                username=record.username,
                password=record.password,
                transport="udp" if record.transport == "udp" else "tcp",
                connect_timeout_s=settings.connect_timeout_s,
                read_timeout_s=settings.read_timeout_s,
            )
        return FileInput(
            stream_id=stream_id,
            idle_grace_s=media.idle_grace_s,
            silence_s=media.no_rtp_timeout_s,
            path=record.url,
        )

    # -- is it there? ----------------------------------------------------------------------------------------

    def _session_started(self, event: SessionStarted) -> None:
        record = self.find(event.info.device_id, event.info.channel_id)
        if record is not None:
            self._note(record, Verdict(True))

    def _session_ended(self, event: SessionEnded) -> None:
        if event.info.end_cause in _LOSSES:
            self._suspect(event.info.device_id, event.info.channel_id)

    def _session_failed(self, event: SessionFailed) -> None:
        if event.cause in _NO_PICTURE:
            self._suspect(event.device_id, event.channel_id)

    def _suspect(self, device_id: str, channel_id: str) -> None:
        """Something went wrong with the picture: look now."""
        record = self.find(device_id, channel_id)
        if record is not None:
            self.health[channel_id].due_mono = 0.0

    async def check_now(self, channel_id: str) -> InputHealth:
        """Look at one input at once and tell what was found. Raises NotFound."""
        record = self.get(channel_id)
        self._judge(record, await self._checker(record))
        return self.health[channel_id]

    async def _check(self, record: Input) -> Verdict:
        directory = str(self._settings.directory) if self._settings.directory is not None else ""
        return await check(record, directory=directory, timeout_s=self._settings.check_timeout_s)

    async def _run(self) -> None:
        while True:
            now = self._clock.mono()
            for record in list(self._records.values()):
                health = self.health[record.channel_id]
                if health.due_mono <= now and not health.checking:
                    self._look(record, health, now)
            await asyncio.sleep(TICK_S)

    def _look(self, record: Input, health: InputHealth, now: float) -> None:
        """Start the check of one input whose time has come. A camera that is watched proves itself."""
        health.due_mono = now + self._pause(health)
        if not record.enabled or self._streaming(record):
            return
        health.checking = True
        task = asyncio.create_task(self._check_later(record, health), name=f"input-{record.channel_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check_later(self, record: Input, health: InputHealth) -> None:
        try:
            async with self._slots:
                verdict = await self._checker(record)
        finally:
            health.checking = False
        self._judge(record, verdict)

    def _judge(self, record: Input, verdict: Verdict) -> None:
        """Take a verdict over, unless the input was changed or removed meanwhile, or its picture says otherwise."""
        self.checks[verdict.cause or "ok"] += 1
        if self._records.get(record.channel_id) is not record or not record.enabled:
            return
        if not verdict.ok and self._streaming(record):
            return
        self._note(record, verdict)

    def _note(self, record: Input, verdict: Verdict) -> None:
        health = self.health.setdefault(record.channel_id, InputHealth())
        utc = health.checked_at = self._clock.utc()
        changed = health.ok is not verdict.ok
        health.ok, health.cause, health.detail = verdict.ok, verdict.cause, verdict.detail
        if verdict.ok:
            health.last_ok_at, health.failures = utc, 0
        else:
            health.last_failure_at, health.failures = utc, health.failures + 1
        health.due_mono = self._clock.mono() + self._pause(health)
        channel = self._registry.channel(*record.key)
        if channel is not None:
            self._registry.report(channel, "ON" if verdict.ok else "OFF")
        if changed:
            log.info(
                "input %s channel_id=%s cause=%s detail=%s",
                *("on" if verdict.ok else "off", record.channel_id, verdict.cause, verdict.detail),
            )

    def _pause(self, health: InputHealth) -> float:
        """Time to the next check: the interval, sooner after the first failures, spread a little."""
        interval = float(self._settings.check_interval_s)
        if health.failures:
            interval = min(interval, SUSPECT_AGAIN_S * 2 ** min(health.failures - 1, 10))
        return interval * random.uniform(0.85, 1.15)

    def _streaming(self, record: Input) -> bool:
        if self.sessions is None:
            return False
        found = [self.sessions.find(*record.key, number) for number in (0, 1)]
        return any(session is not None and session.streaming for session in found)

    @property
    def online(self) -> Counter[tuple[str, bool]]:
        """Inputs by (kind, usable), for metrics."""
        return Counter(
            (record.kind, self.health[record.channel_id].ok is True) for record in self._records.values()
        )


def _source(record: Input) -> tuple[object, ...]:
    """What decides which picture it is."""
    return (
        record.kind, record.url, record.sub_url, record.username, record.password, record.transport, record.enabled,
    )  # fmt: skip
