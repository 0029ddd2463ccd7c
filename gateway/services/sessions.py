"""Live media sessions toward devices: opened once, shared by every viewer, ended along one path.

``play`` is the whole story, read top to bottom: each step puts its undoing on a stack, one deadline stands over
all. Whoever asks while a channel is live or being opened awaits the same task, so twenty viewers cost the device
one INVITE (GB/T 28181-2022 annex L). Everything that ends a session goes through :meth:`Sessions.end`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from config.settings import MediaSettings
from gateway.clock import Clock
from gateway.events import (
    DeviceOffline,
    DeviceOnline,
    EventBus,
    FirstPicture,
    MediaFault,
    SessionEnded,
    SessionFailed,
    SessionStarted,
)
from gateway.model import Device, SessionInfo, SessionKind, SessionState
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.session_journal import DialogJournal
from gateway.services.session_offer import Rung, ladder, remember
from gateway.services.session_opening import Opener, retrieve
from gateway.services.session_record import LiveKey, LiveSession, Watcher
from media import tickets
from media.errors import MediaError
from media.specs import (
    KeyFrameWanted,
    NodeEvent,
    NodeStats,
    SenderEnded,
    StreamFault,
    StreamIdle,
    StreamLost,
    StreamReady,
    StreamStats,
    Transport,
    ViewerEnded,
    WebRtcOffer,
)
from sip.endpoint import InviteSession

log = logging.getLogger(__name__)

IDLE_MARGIN_S = 3.0
"""A session asked for so recently is not ended as idle: its viewer may be on the way."""
CLOSE_WAIT_S = 5.0
REOPEN_TRIES = 3
REOPEN_PAUSE_S = 2.0
PROOF_INTERVAL_S = 30.0
SHORT_TRY_S = 2.0
"""Less than this left of the deadline: no further try."""
MISSING_BEATS = 2


Rungs = list[Rung]
Tries = list[tuple[Rung, PlayFailed]]
Infos = list[SessionInfo]
KeyFrameSender = Callable[[str, str], Awaitable[object]]
"""Asks device, channel for a key frame now (control.key_frame)."""


class Sessions:
    """All live sessions of this gateway. One instance, built by app.py."""

    def __init__(
        self,
        *,
        settings: MediaSettings,
        registry: Registry,
        bus: EventBus,
        opener: Opener,
        nodes: Nodes,
        journal: DialogJournal,
        ticket_secret: str,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._bus = bus
        self._opener = opener
        self._nodes = nodes
        self._journal = journal
        self._ticket_secret = ticket_secret
        self._clock = clock or Clock()
        self._live: dict[LiveKey, LiveSession] = {}
        self._sessions: dict[str, LiveSession] = {}
        self._viewers: dict[str, NodeHandle] = {}
        self._strangers: set[tuple[NodeHandle, str]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unsubscribe: list[Callable[[], None]] = []
        self._closing = False
        self.key_frame: KeyFrameSender | None = None
        """Set by app.py: control needs sessions and sessions need control."""
        self.on_sender_ended: Callable[[SenderEnded], None] | None = None
        """Set by the cascade: a relay stopped by itself."""
        self.ghosts_closed = 0
        """Streams a node still had although no session owns them (quirk 33)."""
        self.failures: dict[str, int] = defaultdict(int)
        """Failed plays by cause, for metrics."""

    # -- life of the service ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen to nodes and devices, and end the dialogs that a crash left behind (G237)."""
        self._opener.on_dialog_ended = self._dialog_ended
        self._nodes.on_event = self.node_event
        self._nodes.on_stats = self.node_stats
        self._nodes.on_lost = self.node_lost
        self._unsubscribe = [
            self._bus.subscribe(DeviceOffline, callback=self._device_offline),
            self._bus.subscribe(DeviceOnline, callback=self._device_online),
        ]
        await self._journal.end_orphans()
        for device_id in self._journal.waiting:
            device = self._registry.devices.get(device_id)
            if device is not None and device.online:
                self._journal.device_registered(device_id, device.flow)

    async def close(self) -> None:
        """BYE to every device, receivers closed, tasks ended. Idempotent."""
        self._closing = True
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        ends = [self.end(session, "gateway_stopped") for session in list(self._sessions.values())]
        if ends:
            await asyncio.wait(ends, timeout=CLOSE_WAIT_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._opener.close()
        await self._journal.close()

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what others ask for ---------------------------------------------------------------------------------

    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> LiveSession:
        """The running session of a channel, opened when there is none; returns when the first picture is there.

        ``stream_number`` 0 main, 1 first sub stream ... ``transport`` udp | tcp_passive | tcp_active pins the way
        (and is ignored when the channel is live already). Raises PlayFailed. When every caller is cancelled the
        INVITE is cancelled too.
        """
        key = (device_id, channel_id, stream_number)
        session = self._live.get(key) or self._begin(key, transport)
        with self._held(session):
            try:
                return await asyncio.shield(session.opening)
            finally:
                if session.waiting == 1 and not session.opening.done():
                    self._forget(session)  # who comes now starts anew; this one is beyond rescue
                    session.opening.cancel()

    def _begin(self, key: LiveKey, transport: str | None) -> LiveSession:
        device = self._playable(key[0], key[1])
        pinned = Transport(transport) if transport is not None else None
        rungs = ladder(device.profile, Transport(self._settings.transport), pinned)
        return self.admit(key, lambda session: self._climb(session, device, rungs))

    def admit(self, key: LiveKey, work: Callable[[LiveSession], Coroutine[Any, Any, None]]) -> LiveSession:
        """A new session under ``key``, opened by ``work``; ``session.opening`` ends when it is open or has failed."""
        now = self._clock.mono()
        info = SessionInfo(
            session_id=secrets.token_hex(8),
            device_id=key[0],
            channel_id=key[1],
            kind=SessionKind.LIVE,
            state=SessionState.OPENING,
            stream_id="",
            node_id="",
            transport="",
            ssrc=None,
            started_at=self._clock.utc(),
        )
        session = LiveSession(key=key, info=info, opened_mono=now, touched_mono=now)
        self._live[key] = self._sessions[session.session_id] = session
        session.opening = self._spawn(self._open(session, work(session)), f"play-{key[1]}")
        session.opening.add_done_callback(retrieve)
        return session

    def _playable(self, device_id: str, channel_id: str) -> Device:
        """The device of a channel that can be asked now. Raises PlayFailed(not_found, device_offline, node_down)."""
        device = self._registry.devices.get(device_id)
        if device is None:
            cause, detail = PlayCause.NOT_FOUND, f"device {device_id} is not known"
        elif self._registry.channel(device_id, channel_id) is None and channel_id != device_id:
            cause, detail = PlayCause.NOT_FOUND, f"channel {channel_id} is not known at {device_id}"
        elif not device.online or device.flow is None:
            cause, detail = PlayCause.DEVICE_OFFLINE, f"device {device_id} is offline"
        elif self._closing:
            cause, detail = PlayCause.NODE_DOWN, "the gateway is stopping"
        else:
            return device
        raise self._failed(PlayFailed(cause, detail), device_id, channel_id)

    @contextmanager
    def _held(self, session: LiveSession) -> Iterator[None]:
        """While somebody is between "give me the picture" and "I am attached", the session is not idle."""
        session.waiting += 1
        session.touched_mono = self._clock.mono()
        try:
            yield
        finally:
            session.waiting -= 1

    async def whep(
        self, device_id: str, channel_id: str, offer_sdp: str, *, stream_number: int = 0
    ) -> tuple[str, str]:
        """Play and attach a WebRTC viewer: ``(viewer_id, answer SDP)``.

        Raises PlayFailed, or MediaError(unsupported) when the browser cannot take the codec: use fMP4 then.
        """
        session = await self.play(device_id, channel_id, stream_number=stream_number)
        node = self._node_of(session)
        viewer_id = secrets.token_hex(8)
        host = str(self._settings.host) if self._settings.host is not None else None
        with self._held(session):
            answer = await node.client.add_webrtc_viewer(
                session.stream_id, WebRtcOffer(viewer_id=viewer_id, sdp=offer_sdp, host=host)
            )
        self._viewers[answer.viewer_id] = node
        return answer.viewer_id, answer.sdp

    async def close_viewer(self, viewer_id: str) -> bool:
        """End one WebRTC viewer. False when it is gone already."""
        node = self._viewers.pop(viewer_id, None)
        if node is None or not node.alive:
            return False
        try:
            await node.client.close_viewer(viewer_id)
        except MediaError:
            return False
        return True

    def viewer_urls(self, session: LiveSession, request_host: str = "localhost") -> dict[str, str]:
        """Addresses of the picture for browsers without WebRTC: ``fmp4`` over HTTP and ``ws`` over WebSocket.

        Each carries a ticket that runs out. ``request_host`` is the host the browser used to reach us (no port).
        """
        node = self._node_of(session)
        base = self._settings.viewer_public_url or f"http://{request_host}:{node.viewer_port}"
        base = base.replace("{node}", str(node.number)).rstrip("/")
        expires = self._clock.utc().timestamp() + self._settings.ticket_lifetime_s
        ticket = tickets.sign(self._ticket_secret, session.stream_id, expires)
        websocket = "ws" + base.removeprefix("http")
        return {
            "fmp4": f"{base}/live/{session.stream_id}.mp4?ticket={ticket}",
            "ws": f"{websocket}/live/{session.stream_id}/ws?ticket={ticket}",
        }

    async def snapshot(self, device_id: str, channel_id: str) -> bytes:
        """A JPEG of what the channel shows now; opens the stream for it when nobody watches. PlayFailed, MediaError."""
        session = await self.play(device_id, channel_id)
        with self._held(session):
            return await self._node_of(session).client.snapshot(session.stream_id)

    async def stop(self, session_id: str, cause: str = "operator") -> None:
        """End a session for all its viewers. Raises PlayFailed(not_found)."""
        session = self._sessions.get(session_id)
        if session is None:
            raise PlayFailed(PlayCause.NOT_FOUND, f"session {session_id} is not known")
        await asyncio.shield(self.end(session, cause))

    def list(self) -> Infos:
        """Sessions that are opening, streaming or ending. Viewer counts are a node heartbeat old."""
        return [session.info for session in self._sessions.values()]

    def get(self, session_id: str) -> LiveSession | None:
        return self._sessions.get(session_id)

    def find(self, device_id: str, channel_id: str, stream_number: int = 0) -> LiveSession | None:
        """The session of a channel if it is live or being opened."""
        return self._live.get((device_id, channel_id, stream_number))

    def by_call_id(self, call_id: str) -> LiveSession | None:
        """The session whose dialog toward the device has this Call-ID (quirk 23)."""
        return next((s for s in self._sessions.values() if s.info.call_id == call_id), None)

    @property
    def device_limits(self) -> dict[str, int]:
        """Streams a device allowed before it said 486, as learned (quirk 34)."""
        return self._opener.device_limits

    def open_streams(self, device_id: str) -> int:
        """Dialogs open with this device now."""
        return self._opener.open_streams(device_id)

    def _node_of(self, session: LiveSession) -> NodeHandle:
        if session.node is None or not session.node.alive:
            raise PlayFailed(PlayCause.NODE_DOWN, "the media node of this session is gone")
        return session.node

    # -- opening ---------------------------------------------------------------------------------------------

    async def _open(self, session: LiveSession, work: Coroutine[Any, Any, None]) -> LiveSession:
        """Run an opening to its end, and tell that end, good or bad, exactly once."""
        try:
            await work
        except asyncio.CancelledError:
            if session.abort_cause is None:
                self._ended(session, PlayCause.CANCELLED.value)
                raise
            raise self._open_failed(session, session.abort_cause) from None
        except PlayFailed as failure:
            raise self._open_failed(session, failure) from failure.__cause__
        self._opened(session)
        return session

    async def _climb(self, session: LiveSession, device: Device, rungs: Rungs) -> None:
        """Try the ways to this device until one works (quirk 30), all within one deadline."""
        settings, loop = self._settings, asyncio.get_running_loop()
        deadline = loop.time() + settings.invite_timeout_s + 2 * settings.first_picture_timeout_s
        failures: Tries = []
        for rung in rungs:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._opener.attempt(session, device, rung, deadline)
                remember(self._registry, device, rung, rungs[0], works=True)
                return
            except TimeoutError:
                failures.append((rung, PlayFailed(PlayCause.INVITE_TIMEOUT, "the deadline passed")))
            except PlayFailed as failure:
                failures.append((rung, failure))
            reason = failures[-1][1]
            log.warning(
                "play try failed device_id=%s channel_id=%s transport=%s form=%s cause=%s detail=%s",
                *(*session.key[:2], rung.transport.value, rung.form, reason.cause.value, reason.detail),
            )
            if not reason.other_way or deadline - loop.time() < SHORT_TRY_S:
                break
        remember(self._registry, device, rungs[0], rungs[0], works=False)
        raise _most_telling(failures)

    def _opened(self, session: LiveSession) -> None:
        info, now = session.info, self._clock.mono()
        info.state = SessionState.STREAMING
        info.first_picture_s = now - session.opened_mono
        session.touched_mono = session.proof_mono = now
        self._registry.media_proof(info.device_id, info.channel_id)
        self._bus.publish(SessionStarted(info))
        self._bus.publish(FirstPicture(info.kind.value, info.first_picture_s))
        log.info(
            "session started session_id=%s device_id=%s channel_id=%s transport=%s call_id=%s first_picture_s=%.3f",
            *(
                info.session_id,
                info.device_id,
                info.channel_id,
                info.transport,
                info.call_id,
                info.first_picture_s,
            ),
        )

    def _open_failed(self, session: LiveSession, failure: PlayFailed) -> PlayFailed:
        self._ended(session, failure.cause.value)
        return self._failed(failure, *session.key[:2])

    def _failed(self, failure: PlayFailed, device_id: str, channel_id: str) -> PlayFailed:
        self.failures[failure.cause.value] += 1
        self._bus.publish(SessionFailed(device_id, channel_id, failure.cause.value, failure.detail))
        return failure

    # -- ending ----------------------------------------------------------------------------------------------

    def end(self, session: LiveSession, cause: str) -> asyncio.Task[None]:
        """The one way out: BYE, receiver closed, SSRC given back, watchers told. Returns the task that does it.

        ``cause``: idle | operator | device_bye | device_offline | no_rtp | connection_lost | dial_failed |
        node_lost | gateway_stopped ... A session that is being opened fails with the matching PlayFailed.
        """
        if session.ending is None:
            self._forget(session)
            session.info.end_cause = cause
            if session.info.state is SessionState.OPENING:
                session.abort_cause = _aborted(cause)
            else:
                session.info.state = SessionState.ENDING
            session.ending = self._spawn(self._end(session, cause), f"end-{session.key[1]}")
        return session.ending

    async def _end(self, session: LiveSession, cause: str) -> None:
        opening = session.opening
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
            if session.undo is None:
                return  # the opening has undone and reported everything itself
        if cause != "node_lost" or not session.watchers:
            self._tell_watchers(session, cause)
        if session.undo is not None:
            await session.undo.aclose()
        self._ended(session, cause)

    def _tell_watchers(self, session: LiveSession, cause: str) -> None:
        watchers: list[Watcher] = session.watchers.copy()
        session.watchers.clear()
        for watcher in watchers:
            watcher.session_ended(session, cause)

    def _ended(self, session: LiveSession, cause: str) -> None:
        """Last words: the record leaves the tables and the event goes out, exactly once."""
        self._forget(session)
        if self._sessions.pop(session.session_id, None) is None:
            return
        session.info.state = SessionState.ENDED
        session.info.end_cause = cause
        if session.undo is None:
            return  # it never started; its failure is told as such
        self._bus.publish(SessionEnded(session.info))
        log.info(
            "session ended session_id=%s device_id=%s channel_id=%s call_id=%s cause=%s",
            *(session.session_id, *session.key[:2], session.info.call_id, cause),
        )

    def _forget(self, session: LiveSession) -> None:
        """Nobody finds the session by its channel any more; a new play opens a new one."""
        if self._live.get(session.key) is session:
            del self._live[session.key]

    # -- what happens by itself ------------------------------------------------------------------------------

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
            self.end(session, "device_bye" if cause == "remote_bye" else cause)

    def _device_offline(self, event: DeviceOffline) -> None:
        """Its media are released with it (annex K b, G231)."""
        for session in [s for s in self._sessions.values() if s.info.device_id == event.device_id]:
            self.end(session, "device_offline")

    def _device_online(self, event: DeviceOnline) -> None:
        device = self._registry.devices.get(event.device_id)
        self._journal.device_registered(event.device_id, device.flow if device is not None else None)

    def node_event(self, node: NodeHandle, event: NodeEvent) -> None:
        """One event of a media node."""
        if isinstance(event, ViewerEnded):
            self._viewers.pop(event.viewer_id, None)
            return
        if isinstance(event, SenderEnded):
            if self.on_sender_ended is not None:
                self.on_sender_ended(event)
            return
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
        elif isinstance(event, KeyFrameWanted):
            if self.key_frame is not None:
                self._spawn(self._want_key_frame(self.key_frame, session), f"key-{session.key[1]}")
        elif isinstance(event, StreamFault):
            log.warning(
                "stream fault session_id=%s channel_id=%s kind=%s detail=%s",
                *(session.session_id, session.key[1], event.kind, event.detail),
            )
            self._bus.publish(MediaFault(*session.key[:2], session.session_id, event.kind, event.detail))

    def _stream_lost(self, session: LiveSession, cause: str) -> None:
        if session.info.state is SessionState.STREAMING:
            self.end(session, cause)  # annex K a: RTP stayed away, both neighbours get BYE (G230)
        elif cause != "no_rtp":  # while opening, the wait for the first picture judges silence itself
            session.fail_picture(
                PlayFailed(PlayCause.NO_STREAM, f"media connection: {cause}", other_way=True)
            )

    def _stream_idle(self, session: LiveSession) -> None:
        """The node saw no reader for the grace time. A session just asked for is judged at the next heartbeats."""
        fresh = self._clock.mono() - session.touched_mono < min(self._settings.idle_grace_s, IDLE_MARGIN_S)
        if session.streaming and not session.waiting and not session.watchers and not fresh:
            self.end(session, "idle")

    @staticmethod
    async def _want_key_frame(key_frame: KeyFrameSender, session: LiveSession) -> None:
        await key_frame(*session.key[:2])

    def node_stats(self, node: NodeHandle, stats: NodeStats) -> None:
        """A node's own account, compared with ours: lost streams end, ownerless ones are closed, counts taken over."""
        present = {stream.stream_id: stream for stream in stats.per_stream}
        for session in list(self._sessions.values()):
            if session.node is node and session.streaming:
                self._compare(session, present.get(session.stream_id))
        strangers = {(node, stream_id) for stream_id in present if stream_id not in self._opener.by_stream}
        for known in strangers & self._strangers:
            self.ghosts_closed += 1
            self._spawn(self._opener.close_receiver(*known), f"ghost-{known[1]}")
        self._strangers = {entry for entry in self._strangers if entry[0] is not node} | strangers

    def _compare(self, session: LiveSession, stats: StreamStats | None) -> None:
        now = self._clock.mono()
        if stats is None:
            session.missing_beats += 1
            if session.missing_beats >= MISSING_BEATS:
                self.end(session, "stream_missing")
            return
        session.missing_beats = 0
        session.info.viewers = stats.viewers
        if stats.packets > session.packets_seen and now - session.proof_mono >= PROOF_INTERVAL_S:
            session.proof_mono = now
            self._registry.media_proof(session.info.device_id, session.info.channel_id)
        session.packets_seen = stats.packets
        wanted = stats.viewers or stats.senders or session.waiting or session.watchers
        if wanted:
            session.touched_mono = now
        elif now - session.touched_mono > self._settings.idle_grace_s + IDLE_MARGIN_S:
            self.end(session, "idle")

    def node_lost(self, node: NodeHandle, cause: str) -> None:
        """A media process died: its sessions get BYE, those that are watched are opened again on a living node."""
        for viewer_id in [viewer for viewer, owner in self._viewers.items() if owner is node]:
            del self._viewers[viewer_id]
        for session in [s for s in self._sessions.values() if s.node is node]:
            watched = session.streaming and (session.info.viewers or session.watchers or session.waiting)
            ending = self.end(session, "node_lost")
            if watched and not self._closing:
                self._spawn(self._reopen(session, ending), f"reopen-{session.key[1]}")

    async def _reopen(self, lost: LiveSession, ending: asyncio.Task[None]) -> None:
        """Play again what a lost node showed; watchers move over or are told the end."""
        await asyncio.wait([ending])
        device_id, channel_id, stream_number = lost.key
        for _ in range(REOPEN_TRIES):
            if await self._nodes.wait_any(self._settings.invite_timeout_s):
                try:
                    successor = await self.play(device_id, channel_id, stream_number=stream_number)
                except PlayFailed as failure:
                    log.warning("reopening failed channel_id=%s cause=%s", channel_id, failure.cause.value)
                else:
                    watchers = lost.watchers.copy()
                    lost.watchers.clear()
                    for watcher in watchers:
                        watcher.session_moved(lost, successor)
                    return
            await asyncio.sleep(REOPEN_PAUSE_S)
        self._tell_watchers(lost, "node_lost")


def _most_telling(failures: Tries) -> PlayFailed:
    """Of several failed tries the one that came farthest; the text names them all."""
    order = list(PlayCause)
    best = max((failure for _, failure in failures), key=lambda failure: order.index(failure.cause))
    if len(failures) > 1:
        tries = "; ".join(f"{rung.transport.value}: {failure.detail}" for rung, failure in failures)
        best = PlayFailed(best.cause, tries, device_status=best.device_status, open_streams=best.open_streams)
    return best


def _aborted(cause: str) -> PlayFailed:
    """What the callers of a play hear when the session is ended while being opened."""
    if cause == "device_offline":
        return PlayFailed(PlayCause.DEVICE_OFFLINE, "the device went offline")
    if cause == "node_lost":
        return PlayFailed(PlayCause.NODE_DOWN, "the media node was lost")
    return PlayFailed(PlayCause.CANCELLED, f"ended while being opened: {cause}")
