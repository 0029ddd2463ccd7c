"""VideoUploadNotify: a device wants its live pictures to be fetched; rules say what happens then (2022 A.2.5.8)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from config.settings import VideoUploadSettings
from gateway.clock import Clock
from gateway.events import DeviceRemoved, EventBus
from gateway.model import ChannelKind
from gateway.peers import Peer
from gateway.registry import Registry
from gateway.services.device_snapshots import Desk
from gateway.services.device_snapshots_events import VideoUploadAnnounced
from gateway.services.errors import PlayFailed
from gateway.storage.snapshots import SnapshotStore, UploadRule
from sip.endpoint import Incoming
from sip.manscdp import VideoUploadNotify

log = logging.getLogger(__name__)

Key = tuple[str, str]


class Player(Protocol):
    """The part of gateway.services.sessions.Sessions that is needed."""

    async def play(self, device_id: str, channel_id: str) -> Any: ...

    def held(self, session: Any) -> AbstractContextManager[None]: ...


class Recorder(Protocol):
    """The part of gateway.services.recording.RecordingService that is needed."""

    async def event(
        self, key: Key, *, seconds_before: float, seconds_after: float, label: str, who: str
    ) -> object: ...


class VideoUploads:
    """Fetches what devices announce, as the device's rule or the settings say.

    A further notice while the picture is held only moves its end. ``counts``: announced, pulled, failed, busy.
    """

    def __init__(
        self,
        *,
        settings: VideoUploadSettings,
        registry: Registry,
        store: SnapshotStore,
        player: Player,
        recorder: Recorder,
        bus: EventBus,
        clock: Clock,
    ) -> None:
        self._settings, self._registry, self._store = settings, registry, store
        self._player, self._recorder, self._bus, self._clock = player, recorder, bus, clock
        self._rules: dict[str, UploadRule] = {}
        self._pulls: dict[Key, asyncio.Task[None]] = {}
        self._until_mono: dict[Key, float] = {}
        self.counts: Counter[str] = Counter()

    def connect(self, desk: Desk) -> None:
        desk.on(VideoUploadNotify, "device")(self._announced)
        self._bus.subscribe(DeviceRemoved, callback=self._removed)

    async def start(self) -> None:
        """Raises SQLAlchemyError."""
        self._rules = {rule.device_id: rule for rule in await self._store.upload_rules()}

    async def close(self) -> None:
        for task in self._pulls.values():
            task.cancel()
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)

    # -- rules -----------------------------------------------------------------------------------------------

    def rule(self, device_id: str) -> UploadRule:
        """What holds for this device: its own rule, else the settings."""
        return self._rules.get(device_id) or UploadRule(
            device_id, self._settings.action, self._settings.keep_s
        )

    def own_rule(self, device_id: str) -> bool:
        return device_id in self._rules

    async def put_rule(self, rule: UploadRule) -> None:
        await self._store.put_upload_rule(rule)
        self._rules[rule.device_id] = rule

    async def remove_rule(self, device_id: str) -> None:
        """The settings hold again."""
        await self._store.remove_upload_rule(device_id)
        self._rules.pop(device_id, None)

    def _removed(self, event: DeviceRemoved) -> None:
        self._rules.pop(event.device_id, None)

    # -- notices ---------------------------------------------------------------------------------------------

    async def _announced(self, peer: Peer, body: VideoUploadNotify, incoming: Incoming) -> None:
        del incoming
        self.counts["announced"] += 1
        rule, channel_id = self.rule(peer.id), self._camera_of(peer.id, body.device_id)
        action = rule.action if channel_id else "off"
        if action != "off":
            action = self._pull((peer.id, channel_id), rule)
        if action == "record":
            await self._record((peer.id, channel_id), rule)
        log.info("video announced device=%s channel=%s action=%s", peer.id, channel_id, action)
        self._bus.publish(
            VideoUploadAnnounced(
                peer.id, channel_id, (body.time or self._clock.utc()).isoformat(), body.longitude,
                body.latitude, action, rule.keep_s if action != "off" else 0,
            )
        )  # fmt: skip

    def _camera_of(self, device_id: str, named: str) -> str:
        """The channel that is meant: the one named, else the device's only camera; "" when that cannot be told."""
        channel = self._registry.channel(device_id, named)
        if channel is not None and channel.kind is ChannelKind.CAMERA:
            return named
        cameras = [
            code for code, one in self._registry.channels(device_id).items() if one.kind is ChannelKind.CAMERA
        ]
        if len(cameras) == 1:
            return cameras[0]
        return device_id if not cameras and not self._registry.channels(device_id) else ""

    def _pull(self, key: Key, rule: UploadRule) -> str:
        """Fetch the picture and keep it; returns what is done: the rule's action, or busy."""
        if key not in self._pulls and len(self._pulls) >= self._settings.most_pulls:
            self.counts["busy"] += 1
            return "busy"
        self._until_mono[key] = self._clock.mono() + rule.keep_s
        if key not in self._pulls:
            task = self._pulls[key] = asyncio.create_task(self._hold(key), name=f"video-upload-{key[1]}")
            task.add_done_callback(lambda _: self._ended(key))
        return rule.action

    def _ended(self, key: Key) -> None:
        self._pulls.pop(key, None)
        self._until_mono.pop(key, None)

    async def _hold(self, key: Key) -> None:
        try:
            session = await self._player.play(*key)
        except PlayFailed as failure:
            self.counts["failed"] += 1
            log.warning("announced video not fetched device=%s channel=%s cause=%s", *key, failure)
            return
        self.counts["pulled"] += 1
        with self._player.held(session):
            while True:
                left_s = self._until_mono[key] - self._clock.mono()
                if left_s <= 0:
                    return
                await asyncio.sleep(left_s)

    async def _record(self, key: Key, rule: UploadRule) -> None:
        try:
            await self._recorder.event(
                key, seconds_before=0, seconds_after=rule.keep_s, label="VideoUploadNotify", who="device"
            )
        except SQLAlchemyError as error:
            log.error("announced video not recorded device=%s channel=%s error=%s", *key, error)
