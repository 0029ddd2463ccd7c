"""Pictures of the past: our own recordings, those in devices, and what alarms and devices leave behind as files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from config.settings import Settings
from gateway.assembly.devices import Devices
from gateway.assembly.media import Media
from gateway.assembly.signalling import Signalling
from gateway.assembly.state import State
from gateway.services.alarms_pictures import AlarmPictures
from gateway.services.device_config import DeviceConfiguration
from gateway.services.device_download import DeviceDownloads
from gateway.services.device_playback import DevicePlaybacks
from gateway.services.device_playback_choice import PlaybackChoice
from gateway.services.device_playback_end import HistoryEnds
from gateway.services.device_records import DeviceRecords
from gateway.services.device_snapshots import DeviceSnapshots
from gateway.services.device_snapshots_address import UploadAddress
from gateway.services.device_snapshots_files import PictureFiles
from gateway.services.playback import Playbacks
from gateway.services.playback_library import Library
from gateway.services.recording_parts import Recording
from gateway.services.video_upload import VideoUploads
from gateway.storage.snapshots import SnapshotStore
from sip.manscdp import MediaStatusNotify


class Recordings:
    """``playing`` chooses between our recordings and a device's."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        signalling: Signalling,
        devices: Devices,
        media: Media,
        *,
        http_port: Callable[[], int],
    ) -> None:
        self._build_own(settings, state, media)
        self._build_in_devices(settings, state, signalling, media)
        self.alarm_pictures = AlarmPictures(
            settings=settings.alarms,
            archive=devices.alarms.archive,
            pictures=media.sessions,
            recorder=self.recording.service,
            bus=state.bus,
        )
        devices.alarms.listeners.append(self.alarm_pictures.alarm)
        self._build_uploads(settings, state, signalling, media, http_port)

    def _build_own(self, settings: Settings, state: State, media: Media) -> None:
        self.recording = Recording(
            settings=settings.recording,
            storage_directory=settings.storage.directory,
            database=state.database,
            registry=state.registry,
            bus=state.bus,
            sessions=media.sessions,
            nodes=media.nodes,
            clock=state.clock,
        )
        self.playbacks = Playbacks(
            settings=settings.playback,
            sessions=media.sessions,
            streams=media.opener,
            nodes=media.nodes,
            library=Library(self.recording.store, self.recording.directories, self.recording.cache),
        )
        media.sessions.connect(
            part_wanted=self.playbacks.part_wanted, download_ended=self.playbacks.download_ended
        )
        media.nodes.on_lost.append(self.playbacks.node_lost)

    def _build_in_devices(
        self, settings: Settings, state: State, signalling: Signalling, media: Media
    ) -> None:
        self.history_ends = HistoryEnds(sessions=media.sessions, drain_s=settings.device_recordings.drain_s)
        signalling.dispatch.on(MediaStatusNotify)(self.history_ends.notice)
        self.device_playbacks = DevicePlaybacks(
            settings=settings.playback,
            registry=state.registry,
            sessions=media.sessions,
            ends=self.history_ends,
        )
        self.device_records = DeviceRecords(
            settings=settings.device_recordings,
            registry=state.registry,
            asker=signalling.dispatch,
            clock=state.clock,
        )
        self.device_downloads = DeviceDownloads(
            settings=settings.device_recordings,
            directory=settings.storage.directory / "downloads",
            sessions=media.sessions,
            ends=self.history_ends,
            nodes=media.nodes,
            bus=state.bus,
            clock=state.clock,
        )
        self.playing = PlaybackChoice(self.playbacks, self.device_playbacks)
        media.sessions.connect(playback_ended=self.history_ends.node_ended)

    def _build_uploads(
        self,
        settings: Settings,
        state: State,
        signalling: Signalling,
        media: Media,
        http_port: Callable[[], int],
    ) -> None:
        """Configuration of devices, the pictures they upload, and the videos they announce."""
        store = SnapshotStore(state.database)
        self.configuration = DeviceConfiguration(
            settings=settings.device_config,
            registry=state.registry,
            asker=signalling.dispatch,
            timers=signalling.liveness,
            clock=state.clock,
        )
        address = UploadAddress(
            settings=settings.snapshots,
            own=signalling.own_address,
            bound=settings.http.host,
            port=http_port,
        )
        self.snapshots = DeviceSnapshots(
            settings=settings.snapshots,
            registry=state.registry,
            configuration=self.configuration,
            store=store,
            files=PictureFiles(settings.snapshots.directory or settings.storage.directory / "snapshots"),
            bus=state.bus,
            address=address.toward,
            clock=state.clock,
        )
        self.snapshots.connect(signalling.dispatch)
        self.video_uploads = VideoUploads(
            settings=settings.video_upload,
            registry=state.registry,
            store=store,
            player=media.sessions,
            recorder=self.recording.service,
            bus=state.bus,
            clock=state.clock,
        )
        self.video_uploads.connect(signalling.dispatch)

    def hold(self, stack: AsyncExitStack) -> None:
        """What ends before the sessions it plays by."""
        stack.push_async_callback(self.history_ends.close)
        stack.push_async_callback(self.device_playbacks.stop)
        stack.push_async_callback(self.device_records.close)

    async def start(self, stack: AsyncExitStack) -> None:
        """After the media nodes."""
        stack.push_async_callback(self.device_downloads.close)
        await self.device_downloads.start()
        stack.push_async_callback(self.recording.close)
        await self.recording.start()
        stack.push_async_callback(self.alarm_pictures.close)
        await self.alarm_pictures.start()
        stack.push_async_callback(self.video_uploads.close)
        await self.video_uploads.start()
        stack.push_async_callback(self.snapshots.close)
        await self.snapshots.start()
