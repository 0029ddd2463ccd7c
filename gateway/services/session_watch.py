"""What media nodes and devices do by themselves, and what follows from it for the sessions."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from config.settings import MediaSettings
from gateway.clock import Clock
from gateway.events import DeviceOffline, EventBus, MediaFault
from gateway.model import SessionState
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.session_opening import Opener
from gateway.services.session_record import LiveSession
from gateway.services.session_table import SessionTable
from gateway.services.session_verdict import input_lost
from media.specs import (
    DownloadEnded,
    KeyFrameWanted,
    NodeEvent,
    NodeStats,
    PartWanted,
    PlaybackEnded,
    SenderEnded,
    StreamFault,
    StreamIdle,
    StreamLost,
    StreamReady,
    StreamStats,
    StreamWanted,
    TalkEvent,
    ViewerEnded,
    ViewerRefused,
)
from sip.endpoint import InviteSession

log = logging.getLogger(__name__)

IDLE_MARGIN_S = 3.0
"""A session asked for so recently is not ended as idle: its viewer may be on the way."""
REOPEN_TRIES = 3
REOPEN_PAUSE_S = 2.0
PROOF_INTERVAL_S = 30.0
MISSING_BEATS = 2

_OBSERVED = {
    "ssrc_mismatch": "rtp_ssrc",
    "media_mismatch": "media_mismatch",
    "foreign_source": "foreign_media",
}
"""Faults of a node by what they mean for the device's profile."""
_RECEIVED = re.compile(r"received=(\d{1,10})")

KeyFrameSender = Callable[[str, str], Awaitable[object]]
"""Asks device, channel for a key frame now (control.key_frame)."""
ViewerListener = Callable[[NodeHandle, StreamWanted | ViewerRefused], None]
"""Hears of viewers that come to a node by themselves (wanted.node_event)."""


class Player(Protocol):
    async def play(self, device_id: str, channel_id: str, *, stream_number: int = 0) -> LiveSession: ...


class SessionWatch:
    """Listens to nodes, dialogs and devices. ``viewers``: WebRTC viewers by id, with the node that serves them."""

    def __init__(
        self,
        *,
        settings: MediaSettings,
        registry: Registry,
        bus: EventBus,
        table: SessionTable,
        opener: Opener,
        nodes: Nodes,
        player: Player,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._bus = bus
        self._table = table
        self._opener = opener
        self._nodes = nodes
        self._player = player
        self._clock = clock
        self._strangers: set[tuple[NodeHandle, str]] = set()
        self._unsubscribe: Callable[[], None] | None = None
        self.viewers: dict[str, NodeHandle] = {}
        self.key_frame: KeyFrameSender | None = None
        self.on_sender_ended: Callable[[SenderEnded], None] | None = None
        self.on_viewer_event: ViewerListener | None = None
        self.on_part_wanted: Callable[[LiveSession, PartWanted], None] | None = None
        self.on_download_ended: Callable[[str], None] | None = None
        self.on_playback_ended: list[Callable[[LiveSession, PlaybackEnded], None]] = []
        self.on_foreign_ssrc: Callable[[int], object] | None = None
        """Told the SSRC of packets that do not belong to the stream they came to."""
        self.ghosts_closed = 0
        """Streams a node still had although no session owns them (quirk 33)."""

    def start(self) -> None:
        self._opener.on_dialog_ended = self._dialog_ended
        self._nodes.on_event = self.node_event
        self._nodes.on_stats = self.node_stats
        self._nodes.on_lost.append(self.node_lost)
        self._unsubscribe = self._bus.subscribe(DeviceOffline, callback=self._device_offline)

    def stop(self) -> None:
        """No session is opened again from now on."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            self._nodes.on_lost.remove(self.node_lost)

    def _dialog_ended(self, session: LiveSession, dialog: InviteSession) -> None:
        """The device said BYE (G233), or the dialog broke."""
        if session.dialog is not dialog or session.ending is not None:
            return
        cause = dialog.ended.result() if not dialog.ended.cancelled() else "transport"
        if cause == "local":
            return
        if session.info.state is SessionState.OPENING:
            session.fail_picture(
                PlayFailed(
                    PlayCause.NO_STREAM, f"the device ended the dialog before a picture came ({cause})"
                )
            )
        else:
            self._table.end(session, "device_bye" if cause == "remote_bye" else cause)

    def _device_offline(self, event: DeviceOffline) -> None:
        """Its media are released with it (annex K b, G231)."""
        for session in [
            s
            for s in self._table.sessions.values()
            if (s.live or s.history is not None) and s.info.device_id == event.device_id
        ]:
            self._table.end(session, "device_offline")

    def node_event(self, node: NodeHandle, event: NodeEvent) -> None:
        """One event of a media node."""
        if isinstance(event, ViewerEnded):
            self.viewers.pop(event.viewer_id, None)
            return
        if isinstance(event, StreamWanted | ViewerRefused):
            if self.on_viewer_event is not None:
                self.on_viewer_event(node, event)
            return
        if isinstance(event, SenderEnded):
            if self.on_sender_ended is not None:
                self.on_sender_ended(event)
            return
        if isinstance(event, DownloadEnded):
            if self.on_download_ended is not None:
                self.on_download_ended(event.download_id)
            return
        if isinstance(event, TalkEvent):
            return  # Nodes gives them to the talks
        session = self._opener.by_stream.get(event.stream_id)
        if session is None or session.node is not node:
            return
        if isinstance(event, StreamReady):
            if session.picture is not None and not session.picture.done():
                session.picture.set_result(event)
        elif isinstance(event, StreamLost):
            self._stream_lost(session, event.cause)
        elif isinstance(event, StreamIdle):
            self._stream_idle(session)
        elif isinstance(event, PartWanted):
            if self.on_part_wanted is not None:
                self.on_part_wanted(session, event)
        elif isinstance(event, PlaybackEnded):
            for told in self.on_playback_ended:
                told(session, event)
        elif isinstance(event, KeyFrameWanted):
            if self.key_frame is not None and session.live:
                self._table.spawn(self._want_key_frame(self.key_frame, session), f"key-{session.key[1]}")
        elif isinstance(event, StreamFault):
            log.warning(
                "stream fault session_id=%s channel_id=%s kind=%s detail=%s",
                *(session.session_id, session.key[1], event.kind, event.detail),
            )
            self._bus.publish(MediaFault(*session.key[:2], session.session_id, event.kind, event.detail))
            self._observe(session, event)

    def _observe(self, session: LiveSession, event: StreamFault) -> None:
        """Note it in the device's profile; packets of a ghost are a reason to say BYE to it again (quirk 33)."""
        device, name = self._registry.devices.get(session.key[0]), _OBSERVED.get(event.kind)
        if device is not None and name is not None:
            self._registry.observe(device, name, event.detail)
        if self.on_foreign_ssrc is not None and (found := _RECEIVED.search(event.detail)):
            self.on_foreign_ssrc(int(found[1]))

    def _stream_lost(self, session: LiveSession, cause: str) -> None:
        if session.local and session.info.state is SessionState.OPENING:
            session.fail_picture(input_lost(cause))
        elif session.info.state is SessionState.STREAMING:
            self._table.end(session, cause)  # annex K a: RTP stayed away, both neighbours get BYE (G230)
        elif cause != "no_rtp":  # while opening, the wait for the first picture judges silence itself
            session.fail_picture(
                PlayFailed(PlayCause.NO_STREAM, f"media connection: {cause}", other_way=True)
            )

    def _stream_idle(self, session: LiveSession) -> None:
        """The node saw no reader for the grace time. A session just asked for is judged at the next heartbeats."""
        fresh = self._clock.mono() - session.touched_mono < min(self._grace_s(session), IDLE_MARGIN_S)
        if session.streaming and not session.waiting and not session.watchers and not fresh:
            self._table.end(session, "idle")

    @staticmethod
    async def _want_key_frame(key_frame: KeyFrameSender, session: LiveSession) -> None:
        await key_frame(*session.key[:2])

    def node_stats(self, node: NodeHandle, stats: NodeStats) -> None:
        """A node's own account, compared with ours: lost streams end, ownerless ones are closed, counts taken over."""
        present = {stream.stream_id: stream for stream in stats.per_stream}
        for session in list(self._table.sessions.values()):
            if session.node is node and session.streaming:
                self._compare(session, present.get(session.stream_id))
        strangers = {(node, stream_id) for stream_id in present if stream_id not in self._opener.by_stream}
        for known in strangers & self._strangers:
            self.ghosts_closed += 1
            self._table.spawn(self._opener.close_receiver(*known), f"ghost-{known[1]}")
        self._strangers = {entry for entry in self._strangers if entry[0] is not node} | strangers

    def _compare(self, session: LiveSession, stats: StreamStats | None) -> None:
        now = self._clock.mono()
        if stats is None:
            session.missing_beats += 1
            if session.missing_beats >= MISSING_BEATS:
                self._table.end(session, "stream_missing")
            return
        session.missing_beats = 0
        session.info.viewers = stats.viewers
        proven = session.live and stats.packets > session.packets_seen
        if proven and now - session.proof_mono >= PROOF_INTERVAL_S:
            session.proof_mono = now
            self._registry.media_proof(session.info.device_id, session.info.channel_id)
        session.packets_seen = stats.packets
        wanted = stats.viewers or stats.senders or session.waiting or session.watchers
        if wanted:
            session.touched_mono = now
        elif now - session.touched_mono > self._grace_s(session) + IDLE_MARGIN_S:
            self._table.end(session, "idle")

    def _grace_s(self, session: LiveSession) -> float:
        return self._settings.idle_grace_s if session.idle_grace_s is None else session.idle_grace_s

    def node_lost(self, node: NodeHandle, cause: str) -> None:
        """A media process died: its sessions get BYE, those that are watched are opened again on a living node."""
        for viewer_id in [viewer for viewer, owner in self.viewers.items() if owner is node]:
            del self.viewers[viewer_id]
        for session in [s for s in self._table.sessions.values() if s.node is node]:
            watched = session.info.viewers or session.watchers or session.waiting
            session.moving = (
                session.live and bool(watched) and session.streaming and self._unsubscribe is not None
            )
            ending = self._table.end(session, "node_lost")
            if session.moving:
                self._table.spawn(self._reopen(session, ending), f"reopen-{session.key[1]}")

    async def _reopen(self, lost: LiveSession, ending: asyncio.Task[None]) -> None:
        """Play again what a lost node showed; watchers move over or are told the end."""
        await asyncio.wait([ending])
        device_id, channel_id, stream_number = lost.key
        for _ in range(REOPEN_TRIES):
            if await self._nodes.wait_any(self._settings.invite_timeout_s):
                try:
                    successor = await self._player.play(device_id, channel_id, stream_number=stream_number)
                except PlayFailed as failure:
                    log.warning("reopening failed channel_id=%s cause=%s", channel_id, failure.cause.value)
                else:
                    watchers, lost.watchers = lost.watchers, []
                    for watcher in watchers:
                        watcher.session_moved(lost, successor)
                    return
            await asyncio.sleep(REOPEN_PAUSE_S)
        self._table.tell_watchers(lost, "node_lost")
