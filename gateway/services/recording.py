"""Keeps recorded what should be recorded: compares plans and orders with what runs, and starts, stops and repairs.

Every few seconds the wishes (services/recording_wishes.py) are compared with the recorders at the nodes, so that a lost
event never stops a plan for long. A channel's stream comes from `Sessions.play`, shared with all viewers; the record of
the channel is a watcher of the session, so that it stays while nobody looks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from config.settings import RecordingSettings
from gateway.clock import Clock
from gateway.events import CatalogCollected, ChannelAdded, ChannelRemoved, DeviceOnline, EventBus
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.recording_channel import ChannelRecording, Desired, Key
from gateway.services.recording_disks import DiskGuard
from gateway.services.recording_events import RecordingStarted, RecordingStopped, RecordingTrouble
from gateway.services.recording_gaps import Gaps
from gateway.services.recording_healing import Healer
from gateway.services.recording_index import RecordingIndex
from gateway.services.recording_wishes import SLICE, Wishes
from gateway.services.session_record import LiveSession
from gateway.storage.recordings import Mark, RecordingStore
from media.errors import MediaError
from media.specs import (
    RecordingEnded,
    RecordingEvent,
    RecordingFault,
    RecordingSpec,
    SegmentClosed,
    SegmentOpened,
)

log = logging.getLogger(__name__)

CHECK_NODES_S = 15.0
CLOSE_WAIT_S = 5.0
EVENT_START_S = 30.0
"""So long an event waits for its camera to start."""


class Pictures(Protocol):
    """gateway.services.sessions.Sessions as recording needs it."""

    async def play(self, device_id: str, channel_id: str, *, stream_number: int = 0) -> LiveSession: ...


class RecordingService:
    """All channels that are recorded. Build after the sessions; ``start`` after the media nodes."""

    def __init__(
        self,
        *,
        settings: RecordingSettings,
        registry: Registry,
        bus: EventBus,
        sessions: Pictures,
        nodes: Nodes,
        store: RecordingStore,
        index: RecordingIndex,
        guard: DiskGuard,
        healer: Healer,
        wishes: Wishes,
        clock: Clock,
    ) -> None:
        self.channels: dict[Key, ChannelRecording] = {}
        self.failures: Counter[str] = Counter()
        """Starts in vain, by cause, for metrics."""
        self.wishes = wishes
        self._settings = settings
        self._registry = registry
        self._bus = bus
        self._sessions = sessions
        self._nodes = nodes
        self._store = store
        self._index = index
        self._guard = guard
        self._healer = healer
        self._clock = clock
        self._gaps = Gaps(store=store, clock=clock)
        self._by_recording: dict[str, ChannelRecording] = {}
        self._starting = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._checked_mono = 0.0
        self._unsubscribe: list[Callable[[], None]] = []

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.wishes.load()
        await self._gaps.start()
        self._nodes.on_recording = self._node_event
        self._nodes.on_lost.append(self._node_lost)
        listen = self._bus.subscribe
        self._unsubscribe = [
            listen(DeviceOnline, callback=self._device_online),
            listen(CatalogCollected, ChannelAdded, ChannelRemoved, callback=self._catalog_changed),
        ]
        self._task = asyncio.create_task(self._run(), name="recording")

    async def close(self) -> None:
        """Finish all files; recording goes on after the next start."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        self._nodes.on_lost.remove(self._node_lost)
        tasks = [one.task for one in self.channels.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stops = [asyncio.ensure_future(self._close_recorder(one)) for one in self.channels.values()]
        if stops:
            await asyncio.wait(stops, timeout=CLOSE_WAIT_S)
            await asyncio.sleep(0.1)  # the last SegmentClosed events come by another connection
        self.channels.clear()
        await self._gaps.close()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.reconcile()
            except SQLAlchemyError as error:
                log.error("recordings not compared cause=%s", error)
            try:
                await asyncio.wait_for(self._wake.wait(), self._settings.reconcile_s)
            except TimeoutError:
                continue

    # --- wishes and what runs ----------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Compare once: start what is missing, stop what nobody wants, take up what was lost unnoticed."""
        await self.wishes.refresh()
        desired = self.wishes.desired
        for key in desired:
            if key not in self.channels:
                self.channels[key] = ChannelRecording(key, self)
        for number, (key, one) in enumerate(list(self.channels.items()), 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            one.desired = self._with_event(one, desired.get(key))
            await self._step(one)
            if one.desired is None and one.running is None and not one.busy and one.gap_id is None:
                self.channels.pop(key, None)
        if desired:
            await self._gaps.alive()
        await self._gaps.forget_old(set(desired))
        if self._clock.mono() - self._checked_mono >= CHECK_NODES_S:
            self._checked_mono = self._clock.mono()
            await self._check_nodes()

    def _with_event(self, one: ChannelRecording, desired: Desired | None) -> Desired | None:
        """An event on a channel without a plan is recorded while it lasts."""
        if desired is None and one.event_until > self._clock.mono():
            return one.running if one.running is not None else self.wishes.of_kind(one.key, "event")
        return desired

    async def _step(self, one: ChannelRecording) -> None:
        if one.busy:
            return
        if one.desired is None:
            if one.running is not None:
                self._spawn(one, self._stop(one, "plan"))
            elif one.gap_id is not None:
                await self._gaps.close_one(one)
            return
        if one.running == one.desired:
            await self._keep_gap(one)
            self._renew_trigger(one)
            return
        if one.running is not None:
            self._spawn(one, self._change(one))
            return
        obstacle = self._obstacle(one)
        if obstacle:
            await self._not_recorded(one, obstacle)
        elif self._clock.mono() >= one.retry_at_mono and self._starting < self._settings.starts_at_once:
            self._starting += 1
            self._spawn(one, self._begin(one)).add_done_callback(self._started)
        elif one.failure:
            await self._not_recorded(one, one.failure)

    async def _keep_gap(self, one: ChannelRecording) -> None:
        """A recorder runs: files end a gap, a disk that takes none begins one."""
        opened, one.opened_at = one.opened_at, None
        fault, one.fault = one.fault, ""
        if opened is not None:
            await self._gaps.close_one(one, opened)
        elif fault:
            await self._not_recorded(one, fault)

    def _obstacle(self, one: ChannelRecording) -> str:
        """Why it makes no sense to ask the camera now."""
        device = self._registry.devices.get(one.key[0])
        if device is None or self._registry.channel(*one.key) is None:
            return "not_found"
        if not device.online:
            return "offline"
        if not self._guard.any_writable:
            return "no_disk"
        return ""

    async def _not_recorded(self, one: ChannelRecording, cause: str) -> None:
        one.failure = cause
        if one.desired is not None and not one.desired.standby:
            await self._gaps.open(one, cause)

    def _spawn(self, one: ChannelRecording, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        one.task = asyncio.create_task(self._guarded(one, work), name=f"record-{one.key[1]}")
        return one.task

    async def _guarded(self, one: ChannelRecording, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SQLAlchemyError as error:
            log.error("recording state not written channel_id=%s cause=%s", one.key[1], error)

    # --- one channel -------------------------------------------------------------------------------------------

    async def _begin(self, one: ChannelRecording) -> None:
        """Picture, then recorder. A failure is written down as a gap and tried again later."""
        desired = one.desired
        if desired is None:
            return
        try:
            session = await self._sessions.play(*one.key, stream_number=desired.stream)
            await self._record(one, session, desired)
        except PlayFailed as failure:
            await self._failed(one, _cause_of(failure))
        except MediaError as error:
            one.let_go()
            await self._failed(one, error.code)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting -= 1
        self._wake.set()

    async def _record(self, one: ChannelRecording, session: LiveSession, desired: Desired) -> None:
        """Put a recorder on a running stream. MediaError, PlayFailed(node_down)."""
        node = session.node
        if node is None or not node.alive:
            raise PlayFailed(PlayCause.NODE_DOWN, "the media node of this session is gone")
        one.hold(session)
        await self._guard.tell(node)
        settings, recording_id = self._settings, secrets.token_hex(8)
        self._by_recording[recording_id] = one
        triggered = one.event_until > self._clock.mono()
        planned = self.wishes.desired.get(one.key) is not None
        spec = RecordingSpec(
            recording_id=recording_id, stream_id=session.stream_id,
            device_id=one.key[0], channel_id=one.key[1], kind=desired.kind,
            storage_class=desired.storage_class, segment_s=settings.segment_s,
            standby=desired.standby, pre_event_s=settings.pre_event_s if planned else 0.0,
            pre_event_bytes=settings.pre_event_bytes,
        )  # fmt: skip
        try:
            await node.client.open_recording(spec)
        except MediaError:
            self._by_recording.pop(recording_id, None)
            raise
        one.running, one.recording_id = desired, recording_id
        one.failure, one.backoff_s, one.missing_beats, one.triggered_until = "", 0.0, 0, 0.0
        log.info(
            "recording started device_id=%s channel_id=%s kind=%s recording_id=%s node_id=%s",
            *(*one.key, desired.kind, recording_id, node.node_id),
        )
        self._bus.publish(RecordingStarted(*one.key, desired.kind))
        if triggered:
            self._renew_trigger(one)

    async def _failed(self, one: ChannelRecording, cause: str) -> None:
        self.failures[cause] += 1
        settings = self._settings
        one.backoff_s = min(max(one.backoff_s * 2, settings.retry_first_s), settings.retry_last_s)
        one.retry_at_mono = self._clock.mono() + one.backoff_s * random.uniform(0.8, 1.2)
        log.warning(
            "recording not started device_id=%s channel_id=%s cause=%s retry_s=%.0f",
            *(*one.key, cause, one.backoff_s),
        )
        await self._not_recorded(one, cause)

    async def _stop(self, one: ChannelRecording, cause: str) -> None:
        await self._close_recorder(one)
        self._bus.publish(RecordingStopped(*one.key, cause, False))
        log.info("recording stopped device_id=%s channel_id=%s cause=%s", *one.key, cause)
        self._wake.set()

    async def _change(self, one: ChannelRecording) -> None:
        """Another kind or class: a new recorder; on the same stream when that is the same."""
        session, desired, before = one.session, one.desired, one.running
        await self._close_recorder(one, keep_session=True)
        if desired is None or session is None or before is None or before.stream != desired.stream:
            one.let_go()
            self._wake.set()
            return
        try:
            await self._record(one, session, desired)
        except (PlayFailed, MediaError) as error:
            one.let_go()
            await self._failed(one, str(error))

    async def _close_recorder(self, one: ChannelRecording, *, keep_session: bool = False) -> None:
        """End the recorder; its files are finished by the node."""
        session, recording_id = one.session, one.recording_id
        one.running, one.recording_id = None, ""
        self._by_recording.pop(recording_id, None)
        if recording_id and session is not None and session.node is not None and session.node.alive:
            try:
                await session.node.client.close_recording(recording_id)
            except MediaError as error:
                log.warning("recorder not closed recording_id=%s cause=%s", recording_id, error)
        if not keep_session:
            one.let_go()

    # --- what happens --------------------------------------------------------------------------------------------

    def lost(self, one: ChannelRecording, cause: str) -> None:
        """The session ended: begin again soon."""
        self._gone(one, "offline" if cause == "device_offline" else cause)

    def moved(self, one: ChannelRecording, successor: LiveSession) -> None:
        """The node was lost and the picture runs elsewhere."""
        desired = one.running or one.desired
        self._by_recording.pop(one.recording_id, None)
        one.running, one.recording_id = None, ""
        if desired is not None and not one.busy:
            self._spawn(one, self._resume(one, successor, desired))
        self._wake.set()

    async def _resume(self, one: ChannelRecording, successor: LiveSession, desired: Desired) -> None:
        try:
            await self._record(one, successor, desired)
        except (PlayFailed, MediaError) as error:
            one.let_go()
            await self._failed(one, str(error))

    def _gone(self, one: ChannelRecording, cause: str) -> None:
        """The recorder is no more, through no wish of ours."""
        was = one.running
        self._by_recording.pop(one.recording_id, None)
        one.running, one.recording_id = None, ""
        if was is None:
            return
        one.failure = cause
        one.retry_at_mono = self._clock.mono() + random.uniform(0.2, 1.0)
        wanted = one.desired is not None
        log.warning("recording lost device_id=%s channel_id=%s cause=%s", *one.key, cause)
        self._bus.publish(RecordingStopped(*one.key, cause, wanted))
        self._wake.set()

    def _device_online(self, event: DeviceOnline) -> None:
        for one in self.channels.values():
            if one.key[0] == event.device_id and one.running is None:
                one.retry_at_mono = one.backoff_s = 0.0
        self._wake.set()

    def _catalog_changed(self, event: object) -> None:
        self.wishes.dirty = True

    def _node_lost(self, node: NodeHandle, cause: str) -> None:
        self._healer.look_soon()

    def _node_event(self, node: NodeHandle, event: RecordingEvent) -> None:
        if isinstance(event, SegmentOpened | SegmentClosed):
            self._segment(event)
            return
        one = self._by_recording.get(event.recording_id)
        if isinstance(event, RecordingFault):
            self._guard.look_soon()
            if one is not None:
                self._bus.publish(RecordingTrouble(*one.key, event.kind, event.disk_id, event.detail))
                if event.kind == "no_disk":
                    one.fault, one.opened_at = "no_disk", None
                    self._wake.set()
        elif isinstance(event, RecordingEnded) and one is not None:
            self._gone(one, event.cause)
            one.let_go()

    def _segment(self, event: SegmentOpened | SegmentClosed) -> None:
        info = event.segment
        self._index.put(info)
        one = self.channels.get((info.device_id, info.channel_id))
        if isinstance(event, SegmentClosed):
            if one is not None:
                one.last_segment_end = max(one.last_segment_end, info.end)
            if not info.complete:
                self._healer.look_soon()
            return
        if one is not None:
            one.opened_at, one.fault, one.failure = info.start, "", ""
            self._wake.set()

    async def _check_nodes(self) -> None:
        """What the nodes say they record, compared with what we think: strangers are closed, lost ones begin again."""
        for node in self._nodes.handles():
            try:
                present = await node.client.recordings()
            except MediaError as error:
                log.warning("recordings of node not read node_id=%s cause=%s", node.node_id, error)
                continue
            ours = {
                one.recording_id: one
                for one in self.channels.values()
                if one.recording_id and one.session is not None and one.session.node is node
            }
            for recording_id in set(present) - set(ours) - set(self._by_recording):
                try:
                    await node.client.close_recording(recording_id)
                except MediaError as error:
                    log.warning("stray recorder not closed recording_id=%s cause=%s", recording_id, error)
            for recording_id, one in ours.items():
                one.missing_beats = 0 if recording_id in present else one.missing_beats + 1
                if one.missing_beats >= 2 and not one.busy:
                    self._gone(one, "recorder_lost")
                    one.let_go()

    # --- orders of operators and events --------------------------------------------------------------------------

    async def order(self, key: Key, seconds: float) -> float:
        """An operator wants this channel recorded; returns until when (unix time)."""
        until = self._clock.utc().timestamp() + seconds
        await self.wishes.order(key, until)
        self._wake.set()
        return until

    async def withdraw(self, key: Key) -> bool:
        """The operator's order ends; a plan goes on. False when there was none."""
        found = await self.wishes.withdraw(key)
        self._wake.set()
        return found

    async def event(
        self, key: Key, *, seconds_before: float, seconds_after: float, label: str, who: str
    ) -> Mark:
        """Something happened here now: mark it on the timeline and have it recorded.

        What came before is there when the channel is recorded or in standby; else recording begins now.
        """
        now_mono, now = self._clock.mono(), self._clock.utc()
        at = now.timestamp()
        mark = Mark(
            secrets.token_hex(8),
            *key,
            "event",
            at - seconds_before,
            at + seconds_after,
            label,
            False,
            who,
            now,
        )
        await self._store.put_mark(mark)
        one = self.channels.setdefault(key, ChannelRecording(key, self))
        if one.running is None and one.event_until < now_mono:
            one.retry_at_mono = 0.0
        one.event_until = max(one.event_until, now_mono + seconds_after)
        if one.running is not None:
            self._renew_trigger(one)
        self._wake.set()
        return mark

    def _renew_trigger(self, one: ChannelRecording) -> None:
        """Let a recorder in standby write while the event lasts."""
        if one.running is None or not one.running.standby or one.busy:
            return
        if one.event_until > max(self._clock.mono(), one.triggered_until):
            one.triggered_until = one.event_until
            self._spawn(one, self._trigger(one, one.event_until - self._clock.mono()))

    async def _trigger(self, one: ChannelRecording, seconds: float) -> None:
        session = one.session
        if session is None or session.node is None:
            return
        try:
            await session.node.client.trigger_recording(one.recording_id, seconds)
        except MediaError as error:
            log.warning("event not recorded channel_id=%s cause=%s", one.key[1], error)
            one.triggered_until = 0.0

    # --- for metrics and the API -----------------------------------------------------------------------------------

    def state_of(self, key: Key) -> ChannelRecording | None:
        return self.channels.get(key)

    def active(self) -> Counter[str]:
        """Channels that are being recorded (or stand by), by kind."""
        return Counter(one.running.kind for one in self.channels.values() if one.running is not None)

    def missing(self) -> Counter[str]:
        """Channels that should be recorded and are not, by cause."""
        return Counter(
            one.failure or "starting"
            for one in self.channels.values()
            if one.running is None and one.desired is not None
        )


def _cause_of(failure: PlayFailed) -> str:
    return "offline" if failure.cause is PlayCause.DEVICE_OFFLINE else failure.cause.value
