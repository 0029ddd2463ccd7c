"""Live media sessions toward devices: opened once, shared by every viewer, ended along one path.

``play`` and the two coroutines under it are the whole story, read top to bottom: each step puts its undoing on a
stack, one deadline stands over all. Whoever asks while a channel is live or being opened awaits the same task, so
twenty viewers cost the device one INVITE (GB/T 28181-2022 annex L). Everything that ends a session goes through
:meth:`Sessions.end`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing
from typing import Protocol

from config.settings import MediaSettings
from gateway.clock import Clock
from gateway.events import DeviceOnline, EventBus
from gateway.model import Device, SessionInfo, SessionKind
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.session_forms import SessionForms
from gateway.services.session_journal import DialogJournal
from gateway.services.session_offer import Rung, ladder, remember
from gateway.services.session_opening import Opener
from gateway.services.session_record import LiveKey, LiveSession
from gateway.services.session_room import Room
from gateway.services.session_table import SessionTable, Work
from gateway.services.session_watch import KeyFrameSender, SessionWatch, ViewerListener
from media import tickets
from media.errors import MediaError
from media.specs import PartWanted, PlaybackEnded, SenderEnded, Transport, WebRtcOffer

log = logging.getLogger(__name__)

SHORT_TRY_S = 2.0
"""Less than this left of the deadline: no further try."""

Rungs = list[Rung]
Tries = list[tuple[Rung, PlayFailed]]
Infos = list[SessionInfo]
SenderListener = Callable[[SenderEnded], None]
PlaybackListener = Callable[[LiveSession, PlaybackEnded], None]


class LocalPictures(Protocol):
    """The part of gateway.services.inputs.Inputs that opens pictures without a device's INVITE."""

    async def open(self, session: LiveSession) -> None: ...

    def stream_number(self, device_id: str, channel_id: str, number: int) -> int: ...


class Sessions:
    """All live sessions of this gateway. One instance, built by gateway/assembly."""

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
        self._journal = journal
        self._ticket_secret = ticket_secret
        self._clock = clock or Clock()
        self._table = SessionTable(registry=registry, bus=bus, clock=self._clock)
        self._watch = SessionWatch(
            settings=settings,
            registry=registry,
            bus=bus,
            table=self._table,
            opener=opener,
            nodes=nodes,
            player=self,
            clock=self._clock,
        )
        self.room = Room(table=self._table, opener=opener, clock=self._clock)
        opener.learner = registry
        self._forms = SessionForms(
            settings=settings, table=self._table, opener=opener, player=self, clock=self._clock
        )
        self._unsubscribe: Callable[[], None] | None = None
        self._local: LocalPictures | None = None
        self._closing = False

    # -- life of the service ---------------------------------------------------------------------------------

    def connect(
        self,
        *,
        key_frame: KeyFrameSender | None = None,
        sender_ended: SenderListener | None = None,
        viewer_event: ViewerListener | None = None,
        playback_ended: PlaybackListener | None = None,
        part_wanted: Callable[[LiveSession, PartWanted], None] | None = None,
        download_ended: Callable[[str], None] | None = None,
        local: LocalPictures | None = None,
    ) -> None:
        """Tell the services that also need the sessions: who asks for key frames, who hears of ended relays, who
        answers viewers that ask a node by themselves, who hears of recordings played to their end, of their files
        that are wanted and of downloads that are over, who opens the pictures of our own inputs.
        """
        if key_frame is not None:
            self._watch.key_frame = key_frame
        if sender_ended is not None:
            self._watch.on_sender_ended = sender_ended
        if viewer_event is not None:
            self._watch.on_viewer_event = viewer_event
        if local is not None:
            self._local = local
        if part_wanted is not None:
            self._watch.on_part_wanted = part_wanted
        if download_ended is not None:
            self._watch.on_download_ended = download_ended
        if playback_ended is not None:
            self._watch.on_playback_ended.append(playback_ended)

    async def start(self) -> None:
        """Listen to nodes and devices, and end the dialogs that a crash left behind (G237)."""
        self._watch.on_foreign_ssrc = self._journal.ghosts.heard
        self._watch.start()
        self._unsubscribe = self._bus.subscribe(DeviceOnline, callback=self._device_online)
        await self._journal.end_orphans()
        for device_id in self._journal.waiting:
            device = self._registry.devices.get(device_id)
            if device is not None and device.online:
                self._journal.device_registered(device_id, device.flow)

    async def close(self) -> None:
        """BYE to every device, receivers closed, tasks ended. Idempotent."""
        self._closing = True
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._watch.stop()
        await self._table.close()
        await self._opener.close()
        await self._journal.close()

    def _device_online(self, event: DeviceOnline) -> None:
        device = self._registry.devices.get(event.device_id)
        self._journal.device_registered(event.device_id, device.flow if device is not None else None)

    # -- a picture -------------------------------------------------------------------------------------------

    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> LiveSession:
        """The running session of a channel, opened when there is none; returns when the first picture is there.

        ``stream_number`` 0 main, 1 first sub stream ... ``transport`` udp | tcp_passive | tcp_active pins the way
        (and is ignored when the channel is live already). Raises PlayFailed. When every caller is cancelled the
        INVITE is cancelled too.
        """
        key = self._key(device_id, channel_id, stream_number)
        session = self._table.live.get(key) or self._begin(key, transport)
        with self._table.held(session):
            try:
                return await asyncio.shield(session.opening)
            finally:
                if session.waiting == 1 and not session.opening.done():
                    self._table.forget(session)  # who comes now starts anew; this one is beyond rescue
                    session.opening.cancel()

    def _begin(self, key: LiveKey, transport: str | None) -> LiveSession:
        device = self._playable(key[0], key[1])
        if device.local and self._local is not None:
            return self._table.admit(key, self._local.open)
        pinned = Transport(transport) if transport is not None else None
        rungs = ladder(device.profile, Transport(self._settings.transport), pinned)
        return self._table.admit(key, lambda session: self._climb(session, device, rungs))

    async def _climb(self, session: LiveSession, device: Device, rungs: Rungs) -> None:
        """Try the ways to this device until one works (quirk 30), all within one deadline."""
        settings, loop = self._settings, asyncio.get_running_loop()
        deadline = loop.time() + settings.invite_timeout_s + 2 * settings.first_picture_timeout_s
        failures: Tries = []
        await self.room.make(device)
        for rung in rungs:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._attempt(session, device, rung, deadline)
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
        if session.history is None:  # what is wrong with one recording says nothing about the way
            remember(self._registry, device, rungs[0], rungs[0], works=False)
        raise _most_telling(failures)

    async def _attempt(self, session: LiveSession, device: Device, rung: Rung, deadline: float) -> None:
        """One try; a device that is full is asked once more when an idle stream of it could be ended (quirk 34)."""
        try:
            await self._opener.attempt(session, device, rung, deadline)
        except PlayFailed as failure:
            if failure.cause is not PlayCause.BUSY:
                raise
            if await self.room.end_idle(device.device_id):
                await self._opener.attempt(session, device, rung, deadline)
                return
            busy = self.room.busy(device, failure.detail)
            busy.device_status = failure.device_status
            raise busy from failure

    def _playable(self, device_id: str, channel_id: str) -> Device:
        """The device of a channel that can be asked now. Raises PlayFailed(not_found, device_offline, node_down)."""
        device = self._registry.devices.get(device_id)
        if device is None:
            cause, detail = PlayCause.NOT_FOUND, f"device {device_id} is not known"
        elif self._registry.channel(device_id, channel_id) is None and channel_id != device_id:
            cause, detail = PlayCause.NOT_FOUND, f"channel {channel_id} is not known at {device_id}"
        elif not device.online or (device.flow is None and not device.local):
            cause, detail = PlayCause.DEVICE_OFFLINE, f"device {device_id} is offline"
        elif self._closing:
            cause, detail = PlayCause.NODE_DOWN, "the gateway is stopping"
        else:
            return device
        raise self._table.failed(PlayFailed(cause, detail), device_id, channel_id)

    def admit(self, key: LiveKey, work: Work, *, kind: SessionKind = SessionKind.LIVE) -> LiveSession:
        """A session that ``work`` opens, for services with other ways to get a picture. See SessionTable.admit."""
        return self._table.admit(key, work, kind=kind)

    def open_history(self, key: LiveKey, prepare: Callable[[LiveSession], None]) -> LiveSession:
        """A session for a recording in the device. ``prepare`` fills in what shall be played, before it is opened.

        Raises PlayFailed at once when the device cannot be asked; ``opening`` tells how it went.
        """
        device = self._playable(key[0], key[1])
        if device.local:
            raise PlayFailed(PlayCause.NOT_FOUND, "an input of our own has no recordings in it")
        rungs = ladder(device.profile, Transport(self._settings.transport), None)
        session = self._table.admit(
            key, lambda session: self._climb(session, device, rungs), kind=SessionKind.PLAYBACK
        )
        prepare(session)
        return session

    def end(self, session: LiveSession, cause: str) -> asyncio.Task[None]:
        """The one way out of a session. See SessionTable.end."""
        return self._table.end(session, cause)

    # -- for browsers ----------------------------------------------------------------------------------------

    async def whep(
        self,
        device_id: str,
        channel_id: str,
        offer_sdp: str,
        *,
        stream_number: int = 0,
        accept: frozenset[str] | None = None,
    ) -> tuple[str, str]:
        """Play and attach a WebRTC viewer: ``(viewer_id, answer SDP)``.

        ``accept``: video codecs that the browser can play; the picture is brought into one of them if need be.
        Raises PlayFailed, or MediaError(unsupported) when the browser cannot take the codec: use fMP4 then.
        """
        if accept is None:
            session = await self.play(device_id, channel_id, stream_number=stream_number)
            return await self.attach_webrtc(session, offer_sdp)
        refusal = MediaError("unsupported")
        forms = self._forms.forms(device_id, channel_id, accept, stream_number=stream_number)
        async with aclosing(forms):
            async for session in forms:
                try:
                    return await self.attach_webrtc(session, offer_sdp)
                except MediaError as error:
                    if error.code != "unsupported":
                        raise
                    refusal = error  # B-frames: the next form has none
        raise refusal

    async def fitting(
        self,
        device_id: str,
        channel_id: str,
        accept: frozenset[str],
        *,
        stream_number: int = 0,
        transport: str | None = None,
    ) -> LiveSession:
        """Like :meth:`play`, but with video of one of the codecs ``accept``: as it is, from the sub stream, or
        transcoded. Raises PlayFailed."""
        return await self._forms.fitting(
            device_id, channel_id, accept, stream_number=stream_number, transport=transport
        )

    async def attach_webrtc(self, session: LiveSession, offer_sdp: str) -> tuple[str, str]:
        """A WebRTC viewer for a session that runs: ``(viewer_id, answer SDP)``. PlayFailed, MediaError."""
        node = self._node_of(session)
        viewer_id = secrets.token_hex(8)
        host = str(self._settings.host) if self._settings.host is not None else None
        offer = WebRtcOffer(viewer_id=viewer_id, sdp=offer_sdp, host=host)
        self._watch.viewers[viewer_id] = node  # before it is there: its end may be told before our answer
        with self._table.held(session):
            try:
                answer = await node.client.add_webrtc_viewer(session.stream_id, offer)
            except MediaError:
                self._watch.viewers.pop(viewer_id, None)
                raise
        return viewer_id, answer.sdp

    async def close_viewer(self, viewer_id: str) -> bool:
        """End one WebRTC viewer. False when it is gone already."""
        node = self._watch.viewers.pop(viewer_id, None)
        if node is None or not node.alive:
            return False
        try:
            await node.client.close_viewer(viewer_id)
        except MediaError:
            return False
        return True

    def held(self, session: LiveSession) -> AbstractContextManager[None]:
        """While a viewer is on its way to the picture, the session is not idle."""
        return self._table.held(session)

    def viewer_urls(self, session: LiveSession, request_host: str = "localhost") -> dict[str, str]:
        """Addresses of the picture by output: ``fmp4``, ``ws``, ``flv``, ``ws_flv``, ``ts``, ``hls`` and ``rtsp``
        (empty where the node has no RTSP).

        Each carries a ticket that runs out. ``request_host`` is the host the browser used to reach us (no port).
        """
        node = self._node_of(session)
        base = self._viewer_base(node, request_host)
        expires = self._clock.utc().timestamp() + self._settings.ticket_lifetime_s
        ticket = tickets.sign(self._ticket_secret, session.stream_id, expires)
        http = f"{base}/live/{session.stream_id}"
        websocket = "ws" + http.removeprefix("http")
        rtsp = self._settings.rtsp_public_url or f"rtsp://{request_host}:{node.rtsp_port}"
        rtsp = rtsp.replace("{node}", str(node.number)).rstrip("/")
        return {
            "rtsp": f"{rtsp}/live/{session.stream_id}?ticket={ticket}" if node.rtsp_port else "",
            "fmp4": f"{http}.mp4?ticket={ticket}",
            "ws": f"{websocket}/ws?ticket={ticket}",
            "flv": f"{http}.flv?ticket={ticket}",
            "ws_flv": f"{websocket}/ws.flv?ticket={ticket}",
            "ts": f"{http}.ts?ticket={ticket}",
            "hls": f"{http}.m3u8?ticket={ticket}",
        }

    def _viewer_base(self, node: NodeHandle, request_host: str) -> str:
        base = self._settings.viewer_public_url or f"http://{request_host}:{node.viewer_port}"
        return base.replace("{node}", str(node.number)).rstrip("/")

    def download_url(self, node: NodeHandle, download_id: str, request_host: str) -> str:
        """Where a browser fetches a download that was ordered from this node."""
        expires = self._clock.utc().timestamp() + self._settings.ticket_lifetime_s
        ticket = tickets.sign(self._ticket_secret, download_id, expires)
        return f"{self._viewer_base(node, request_host)}/download/{download_id}?ticket={ticket}"

    async def snapshot(self, device_id: str, channel_id: str) -> bytes:
        """A JPEG of what the channel shows now; opens the stream for it when nobody watches. PlayFailed, MediaError."""
        session = await self.play(device_id, channel_id)
        with self._table.held(session):
            return await self._node_of(session).client.snapshot(session.stream_id)

    # -- for the operator ------------------------------------------------------------------------------------

    async def stop(self, session_id: str, cause: str = "operator") -> None:
        """End a session for all its viewers. Raises PlayFailed(not_found)."""
        session = self._table.sessions.get(session_id)
        if session is None:
            raise PlayFailed(PlayCause.NOT_FOUND, f"session {session_id} is not known")
        await asyncio.shield(self.end(session, cause))

    def list(self) -> Infos:
        """Sessions that are opening, streaming or ending. Viewer counts are a node heartbeat old."""
        return [session.info for session in self._table.sessions.values()]

    def get(self, session_id: str) -> LiveSession | None:
        return self._table.sessions.get(session_id)

    def find(self, device_id: str, channel_id: str, stream_number: int = 0) -> LiveSession | None:
        """The session of a channel if it is live or being opened."""
        return self._table.live.get(self._key(device_id, channel_id, stream_number))

    def _key(self, device_id: str, channel_id: str, stream_number: int) -> LiveKey:
        """Inputs say themselves which of their streams there are."""
        device = self._registry.devices.get(device_id)
        if device is not None and device.local and self._local is not None:
            stream_number = self._local.stream_number(device_id, channel_id, stream_number)
        return device_id, channel_id, stream_number

    def by_call_id(self, call_id: str) -> LiveSession | None:
        """The session whose dialog toward the device has this Call-ID (quirk 23)."""
        return next((s for s in self._table.sessions.values() if s.info.call_id == call_id), None)

    @property
    def device_limits(self) -> dict[str, int]:
        """Streams that devices give at the same time, where a limit is known (quirk 34)."""
        limits = {device_id: d.profile.max_streams for device_id, d in self._registry.devices.items()}
        return {device_id: limit for device_id, limit in limits.items() if limit is not None}

    @property
    def failures(self) -> dict[str, int]:
        """Failed plays by cause."""
        return self._table.failures

    @property
    def ghosts_closed(self) -> int:
        """Streams that nodes still had although no session owned them (quirk 33)."""
        return self._watch.ghosts_closed

    def open_streams(self, device_id: str) -> int:
        """Dialogs open with this device now."""
        return self._opener.open_streams(device_id)

    def _node_of(self, session: LiveSession) -> NodeHandle:
        if session.node is None or not session.node.alive:
            raise PlayFailed(PlayCause.NODE_DOWN, "the media node of this session is gone")
        return session.node


def _most_telling(failures: Tries) -> PlayFailed:
    """Of several failed tries the one that came farthest; the text names them all."""
    order = list(PlayCause)
    best = max((failure for _, failure in failures), key=lambda failure: order.index(failure.cause))
    if len(failures) > 1:
        tries = "; ".join(f"{rung.transport.value}: {failure.detail}" for rung, failure in failures)
        best = PlayFailed(best.cause, tries, device_status=best.device_status, open_streams=best.open_streams)
    return best
