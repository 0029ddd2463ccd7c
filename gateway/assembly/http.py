"""The HTTP side: what the API is given (its own parts: ``gateway/http/assembly.py``), who writes the audit log, RTSP tokens."""

from __future__ import annotations

from contextlib import AsyncExitStack

from config.settings import Settings
from gateway.assembly.cascade import Upward
from gateway.assembly.devices import Devices
from gateway.assembly.media import Media
from gateway.assembly.recordings import Recordings
from gateway.assembly.signalling import Signalling
from gateway.assembly.state import State
from gateway.http.assembly import Http, Parts
from gateway.http.health import SystemFacts
from gateway.networks import address_of
from gateway.services.wanted import WantedStreams
from gateway.storage.users import UserStore


class Web:
    """Built last of all that serves: it shows and moves every other part."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        signalling: Signalling,
        devices: Devices,
        media: Media,
        recordings: Recordings,
        upward: Upward,
    ) -> None:
        self._settings, self._state, self._signalling = settings, state, signalling
        self._devices, self._media = devices, media
        self._recordings, self._upward = recordings, upward
        self.http = Http(
            settings=settings.http,
            metrics_settings=settings.metrics,
            media_settings=settings.media,
            store=UserStore(state.database),
            parts=self._parts(),
            clock=state.clock,
        )
        self._wire_audit()
        self.wanted = WantedStreams(
            registry=state.registry,
            player=media.sessions,
            tokens=self.http.access,
            bus=state.bus,
            audit=self.http.audit.note,
        )
        media.sessions.connect(viewer_event=self.wanted.node_event)

    def _parts(self) -> Parts:
        settings, state, signalling = self._settings, self._state, self._signalling
        devices, media, recordings = self._devices, self._media, self._recordings
        return Parts(
            registry=state.registry,
            bus=state.bus,
            census=state.census,
            conflicts=state.lower_platforms,
            metrics=state.metrics,
            catalog=devices.catalog,
            sessions=media.sessions,
            control=media.control,
            playbacks=recordings.playing,
            device_records=recordings.device_records,
            device_downloads=recordings.device_downloads,
            talks=media.talks,
            most_sound_bytes=settings.talk.file_bytes,
            uppers=self._upward.cascade,
            inputs=media.inputs,
            onvif=media.onvif,
            recording=recordings.recording,
            alarms=devices.alarms,
            alarm_reset=devices.alarm_reset,
            positions=devices.positions,
            subscriptions=devices.subscriptions,
            profiles=state.profiles,
            wire=state.wire,
            own_end=signalling.own_end,
            configuration=recordings.configuration,
            snapshots=recordings.snapshots,
            snapshot_settings=settings.snapshots,
            video_uploads=recordings.video_uploads,
            commands=devices.commands,
            upgrades=devices.upgrades,
            registrar=signalling.registrar,
            notes=signalling.notes,
            system=self._facts(),
            realm=settings.sip.domain,
            checks={
                "sip": lambda: signalling.endpoint.running,
                "storage": lambda: not state.writer.counts.failing,
                "media": lambda: bool(media.nodes.handles()),
            },
        )

    def _facts(self) -> SystemFacts:
        return SystemFacts(
            server_id=self._settings.sip.server_id,
            domain=self._settings.sip.domain,
            own_address=self._signalling.own_address.toward,
            sip_port=lambda: self._signalling.endpoint.port,
            nodes=self._media.nodes.handles,
            sessions=self._media.sessions.list,
            platforms=self._upward.cascade.platforms,
        )

    def _wire_audit(self) -> None:
        """Everything that makes a device or a picture do something writes into the one audit log."""
        note = self.http.audit.note
        self._signalling.registrar.audit = note
        self._devices.commands.audit = self._devices.alarm_reset.audit = note
        self._media.control.audit = self._media.talks.news.audit = note
        self._recordings.recording.connect(audit=note)
        upward = self._upward
        upward.commands.audit = upward.configuration.audit = upward.relay.audit = note
        upward.playback.audit = upward.records.audit = upward.broadcasts.audit = note

    @property
    def url(self) -> str:
        """Where the console is; the route's address stands for "all addresses"."""
        http = self._settings.http
        if http.public_url is not None:
            return http.public_url
        bound = address_of(http.host)
        host = http.host
        if bound is not None and bound.is_unspecified:
            host = self._signalling.endpoint.local_address("192.0.2.1") or "127.0.0.1"
        port = self.http.server.port
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self, stack: AsyncExitStack) -> None:
        """Last, so that whoever gets in finds everything in place."""
        stack.push_async_callback(self.http.close)
        stack.push_async_callback(self.wanted.close)
        await self.http.start()
