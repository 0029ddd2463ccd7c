"""The one place that builds, starts and stops everything, in order; what was started is stopped in reverse."""

from __future__ import annotations

import logging
import secrets
from contextlib import AsyncExitStack

from config.settings import Settings
from config.vendors import load_vendors
from gateway import __version__
from gateway.clock import Clock
from gateway.dispatch import Answer, Dispatch
from gateway.events import EventBus
from gateway.http.assembly import Http, Parts
from gateway.http.health import SystemFacts
from gateway.metrics import Metrics
from gateway.metrics_alarms import AlarmGauges
from gateway.metrics_commands import CommandGauges
from gateway.metrics_device_recordings import DeviceRecordingGauges
from gateway.metrics_devices import DeviceGauges
from gateway.metrics_profiles import ProfileGauges
from gateway.metrics_recording import RecordingGauges
from gateway.metrics_signalling import SignallingGauges
from gateway.metrics_state import Sources
from gateway.metrics_talk import TalkGauges
from gateway.networks import AddressFault, OwnAddress, address_of
from gateway.peers import Peers
from gateway.registry import Registry
from gateway.runtime import Runtime
from gateway.services.alarms import AlarmService
from gateway.services.alarms_archive import AlarmArchive
from gateway.services.alarms_notices import UpperNotices
from gateway.services.alarms_pictures import AlarmPictures
from gateway.services.alarms_reset import AlarmReset
from gateway.services.alarms_upward import AlarmsUpward
from gateway.services.cascade import Cascade
from gateway.services.cascade_answers import UpperAnswers
from gateway.services.cascade_control import DEVICE_TIMEOUT_S, UpperCommands
from gateway.services.cascade_invite import InviteRelay
from gateway.services.cascade_items import ItemWriter
from gateway.services.cascade_journal import UpperJournal
from gateway.services.cascade_playback import UpperPlayback
from gateway.services.cascade_queries import UpperQueries
from gateway.services.cascade_records import InDevices, OwnRecords, UpperRecords
from gateway.services.catalog import CatalogService
from gateway.services.census import Census, division_names
from gateway.services.commands import DeviceCommands
from gateway.services.control import Control
from gateway.services.device_config import DeviceConfiguration
from gateway.services.device_config_upward import UpperConfiguration
from gateway.services.device_download import DeviceDownloads
from gateway.services.device_info import DeviceInfoService
from gateway.services.device_playback import DevicePlaybacks
from gateway.services.device_playback_choice import PlaybackChoice
from gateway.services.device_playback_end import HistoryEnds
from gateway.services.device_records import DeviceRecords
from gateway.services.device_snapshots import DeviceSnapshots
from gateway.services.device_snapshots_address import UploadAddress
from gateway.services.device_snapshots_files import PictureFiles
from gateway.services.inputs import Inputs
from gateway.services.inputs_provisioning import enter_inputs
from gateway.services.liveness import Liveness
from gateway.services.lower_platforms import LowerPlatforms
from gateway.services.nodes import NodePlan, Nodes
from gateway.services.note_check import NoteCheck
from gateway.services.onvif import Onvif
from gateway.services.playback import Playbacks
from gateway.services.playback_library import Library
from gateway.services.positions import PositionService
from gateway.services.profiles import ProfileService
from gateway.services.recording_parts import Recording
from gateway.services.redirect import Redirect
from gateway.services.registrar import Registrar
from gateway.services.session_address import MediaAddress
from gateway.services.session_journal import DialogJournal
from gateway.services.session_opening import Opener
from gateway.services.session_third_party import MediaServerRole
from gateway.services.sessions import Sessions
from gateway.services.subscriptions import SubscriptionService
from gateway.services.talk import Talks
from gateway.services.talk_calls import TalkCalls
from gateway.services.talk_upward import UpperBroadcasts
from gateway.services.tls_files import TlsFiles
from gateway.services.upgrade import Upgrades
from gateway.services.video_upload import VideoUploads
from gateway.services.wanted import WantedStreams
from gateway.services.wire import LineKey, WireLog
from gateway.storage.alarms import AlarmStore
from gateway.storage.database import Database, StorageFailed
from gateway.storage.devices import load_registry
from gateway.storage.inputs import InputStore
from gateway.storage.journal import Journal
from gateway.storage.notes import NoteStore
from gateway.storage.platforms import PlatformStore
from gateway.storage.positions import PositionStore
from gateway.storage.snapshots import SnapshotStore
from gateway.storage.users import UserStore
from gateway.storage.writer import Writer
from sip.endpoint import Endpoint, Identity, Incoming, Limits
from sip.flow import Flow
from sip.ids import SsrcPool
from sip.manscdp import BroadcastNotify, MediaStatusNotify
from sip.transport_shared import TransportLimits

logger = logging.getLogger(__name__)

DRAIN_S = 2.0
MANUFACTURER = "GB28181 gateway"
"""What uppers are told in DeviceInfo and in the catalog's first Item."""


class StartFailed(Exception):
    """The gateway cannot start; the message is one line for the operator."""


class Gateway:
    """All parts of the service. Build, ``start``, ``stop``; a part that fails to start takes the others down again."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.bus = EventBus()
        self.runtime = Runtime(self.bus)
        self.first_password: str | None = None
        """The administrator's password when this start created him; to be shown once."""
        self._stack = AsyncExitStack()
        self._build_storage()
        self._build_signalling()
        self._build_devices()
        self._build_media()
        self._build_snapshots()
        self._build_cascade()
        self._build_http()

    # -- building --------------------------------------------------------------------------------------------

    def _build_storage(self) -> None:
        storage = self.settings.storage
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.database = Database(storage)
        self.journal = Journal(clock=self.clock)
        self.writer = Writer(
            database=self.database,
            registry=self.registry,
            journal=self.journal,
            interval_s=storage.flush_interval_s,
            clock=self.clock,
        )

        self.lower_platforms = LowerPlatforms(registry=self.registry, bus=self.bus, journal=self.journal)
        self.census = Census(registry=self.registry, clock=self.clock)
        self.metrics = Metrics(bus=self.bus, registry=self.registry, census=self.census, clock=self.clock)
        vendors = load_vendors(self.settings.profiles.vendors_file)
        self.profiles = ProfileService(vendors=vendors, registry=self.registry, bus=self.bus)

    def _build_signalling(self) -> None:
        sip = self.settings.sip
        self.identity = Identity(sip.server_id, sip.domain)
        self.own_address = OwnAddress(sip)
        self.tls_files = TlsFiles(sip.tls)
        self.notes = NoteCheck(
            store=NoteStore(self.database),
            registry=self.registry,
            bus=self.bus,
            window_s=sip.note_window_s,
            clock=self.clock,
        )
        self.endpoint = Endpoint(
            self.identity,
            host=sip.host,
            port=sip.port,
            handler=self._serve,
            user_agent=sip.user_agent,
            limits=Limits(transport=TransportLimits(connections=sip.max_connections)),
            advertise=self.own_address.configured,
            observer=self.metrics,
            stray_notify=self.settings.catalog.tolerant_notify,
            tls=self.tls_files.tls,
            guard=self.notes,
        )
        self.own_address.route = self.endpoint.local_address
        self.wire = WireLog(settings=self.settings.wire, devices=self.registry.devices, bus=self.bus)
        if self.wire.enabled:
            self.endpoint.tap = self.wire.tap

    def _serve(self, incoming: Incoming) -> Answer:
        return self.dispatch.handle(incoming)

    def _build_devices(self) -> None:
        settings = self.settings
        self.liveness = Liveness(
            settings=settings.heartbeat,
            registry=self.registry,
            heartbeat_revives=settings.registration.heartbeat_revives,
            clock=self.clock,
        )
        self.registrar = Registrar(
            settings=settings.registration,
            heartbeat=settings.heartbeat,
            domain=settings.sip.domain,
            registry=self.registry,
            liveness=self.liveness,
            bus=self.bus,
            clock=self.clock,
            redirect=Redirect(settings.redirect, settings.sip.server_id),
        )
        self.peers = Peers(registry=self.registry, liveness=self.liveness, clock=self.clock)
        self.peers.contested = self.registrar.same_id.contested
        self.dispatch = Dispatch(
            endpoint=self.endpoint,
            domain=settings.sip.domain,
            peers=self.peers,
            registrar=self.registrar,
            liveness=self.liveness,
            bus=self.bus,
            clock=self.clock,
            own_id=settings.sip.server_id,
        )
        self.endpoint.on_connection_closed = self.liveness.connection_closed
        self.catalog = CatalogService(
            settings=settings.catalog,
            registry=self.registry,
            bus=self.bus,
            dispatch=self.dispatch,
            clock=self.clock,
        )
        self.device_info = DeviceInfoService(registry=self.registry, bus=self.bus, dispatch=self.dispatch)
        self.subscriptions = SubscriptionService(
            settings=settings.catalog,
            domain=settings.sip.domain,
            registry=self.registry,
            bus=self.bus,
            dispatch=self.dispatch,
            endpoint=self.endpoint,
            catalog=self.catalog,
            journal=self.journal,
            clock=self.clock,
            alarms=settings.alarms,
            positions=settings.positions,
            wishes=PositionStore(self.database),
        )
        self.commands = DeviceCommands(settings=settings.control, registry=self.registry, asker=self.dispatch)
        self.upgrades = Upgrades(
            settings=settings.control,
            orders=self.commands,
            bus=self.bus,
            journal=self.journal,
            clock=self.clock,
        )
        self.upgrades.connect(self.dispatch)
        self._build_alarms()

    def _build_alarms(self) -> None:
        settings = self.settings
        self.alarms = AlarmService(
            settings=settings.alarms,
            registry=self.registry,
            bus=self.bus,
            archive=AlarmArchive(
                store=AlarmStore(self.database),
                settings=settings.alarms,
                directory=settings.storage.directory / "alarms",
                clock=self.clock,
            ),
            clock=self.clock,
        )
        self.alarms.connect(self.dispatch)
        self.alarm_reset = AlarmReset(registry=self.registry, asker=self.dispatch)
        self.positions = PositionService(
            settings=settings.positions, store=PositionStore(self.database), bus=self.bus, clock=self.clock
        )
        self.positions.connect(self.dispatch)

    def _build_media(self) -> None:
        settings, sip = self.settings.media, self.settings.sip
        bound = address_of(sip.host)
        tickets = secrets.token_urlsafe(32)
        self.nodes = Nodes(
            NodePlan(
                settings=settings,
                ticket_secret=tickets,
                media_host=str(settings.host or sip.advertise_host or sip.host),
                bind_host=sip.host if bound is not None and bound.is_loopback else "0.0.0.0",
                log_level=self.settings.log.level,
                log_format=self.settings.log.format,
                recording_queue_bytes=self.settings.recording.queue_bytes,
                downloads=self.settings.playback.most_downloads,
                inputs_directory=str(self.settings.inputs.directory or ""),
            )
        )
        self.media_address = MediaAddress(own=self.own_address, media=settings)
        self.ssrc_pool = SsrcPool(
            sip.domain if sip.domain[:8].isdecimal() else sip.server_id, rest_s=settings.ssrc_rest_s
        )
        self.dialogs = dialogs = DialogJournal(
            journal=self.journal, endpoint=self.endpoint, ssrc_pool=self.ssrc_pool, clock=self.clock
        )
        opener = Opener(
            settings=settings,
            server_id=sip.server_id,
            domain=sip.domain,
            endpoint=self.endpoint,
            nodes=self.nodes,
            address=self.media_address,
            journal=dialogs,
            ssrc_pool=self.ssrc_pool,
            clock=self.clock,
        )
        self.sessions = Sessions(
            settings=settings,
            registry=self.registry,
            bus=self.bus,
            opener=opener,
            nodes=self.nodes,
            journal=dialogs,
            ticket_secret=tickets,
            clock=self.clock,
        )
        self.control = Control(registry=self.registry, sender=self.dispatch, clock=self.clock)
        self.control.said_last = self.dispatch.said_last
        self.sessions.connect(key_frame=self.control.key_frame)
        self._build_inputs(opener)
        self._build_talks(dialogs)
        self.recording = Recording(
            settings=self.settings.recording,
            storage_directory=self.settings.storage.directory,
            database=self.database,
            registry=self.registry,
            bus=self.bus,
            sessions=self.sessions,
            nodes=self.nodes,
            clock=self.clock,
        )
        self.playbacks = Playbacks(
            settings=self.settings.playback,
            sessions=self.sessions,
            streams=opener,
            nodes=self.nodes,
            library=Library(self.recording.store, self.recording.directories, self.recording.cache),
        )
        self.sessions.connect(
            part_wanted=self.playbacks.part_wanted, download_ended=self.playbacks.download_ended
        )
        self.nodes.on_lost.append(self.playbacks.node_lost)
        self._build_device_recordings()
        self.alarm_pictures = AlarmPictures(
            settings=self.settings.alarms,
            archive=self.alarms.archive,
            pictures=self.sessions,
            recorder=self.recording.service,
            bus=self.bus,
        )
        self.alarms.listeners.append(self.alarm_pictures.alarm)
        self.media_server = MediaServerRole(server_id=sip.server_id, opener=opener, sessions=self.sessions)

    def _build_device_recordings(self) -> None:
        settings = self.settings.device_recordings
        self.history_ends = HistoryEnds(sessions=self.sessions, drain_s=settings.drain_s)
        self.dispatch.on(MediaStatusNotify)(self.history_ends.notice)
        self.device_playbacks = DevicePlaybacks(
            settings=self.settings.playback,
            registry=self.registry,
            sessions=self.sessions,
            ends=self.history_ends,
        )
        self.device_records = DeviceRecords(
            settings=settings, registry=self.registry, asker=self.dispatch, clock=self.clock
        )
        self.device_downloads = DeviceDownloads(
            settings=settings,
            directory=self.settings.storage.directory / "downloads",
            sessions=self.sessions,
            ends=self.history_ends,
            nodes=self.nodes,
            bus=self.bus,
            clock=self.clock,
        )
        self.playing = PlaybackChoice(self.playbacks, self.device_playbacks)
        self.sessions.connect(playback_ended=self.history_ends.node_ended)

    def _build_snapshots(self) -> None:
        """Configuration of devices, the pictures they upload, and what they announce."""
        settings, store = self.settings, SnapshotStore(self.database)
        self.configuration = DeviceConfiguration(
            settings=settings.device_config,
            registry=self.registry,
            asker=self.dispatch,
            timers=self.liveness,
            clock=self.clock,
        )
        address = UploadAddress(
            settings=settings.snapshots,
            own=self.own_address,
            bound=settings.http.host,
            port=lambda: self.http.server.port,
        )
        self.snapshots = DeviceSnapshots(
            settings=settings.snapshots,
            registry=self.registry,
            configuration=self.configuration,
            store=store,
            files=PictureFiles(settings.snapshots.directory or settings.storage.directory / "snapshots"),
            bus=self.bus,
            address=address.toward,
            clock=self.clock,
        )
        self.snapshots.connect(self.dispatch)
        self.video_uploads = VideoUploads(
            settings=settings.video_upload,
            registry=self.registry,
            store=store,
            player=self.sessions,
            recorder=self.recording.service,
            bus=self.bus,
            clock=self.clock,
        )
        self.video_uploads.connect(self.dispatch)

    def _build_inputs(self, opener: Opener) -> None:
        self.inputs = Inputs(
            settings=self.settings.inputs,
            media=self.settings.media,
            server_id=self.settings.sip.server_id,
            registry=self.registry,
            bus=self.bus,
            store=InputStore(self.database),
            opener=opener,
            clock=self.clock,
        )
        self.onvif = Onvif(find=self.inputs.find)
        self.inputs.sessions = self.sessions
        self.sessions.connect(local=self.inputs)
        self.control.local = self.onvif

    def _build_talks(self, dialogs: DialogJournal) -> None:
        settings, sip = self.settings, self.settings.sip
        calls = TalkCalls(
            server_id=sip.server_id,
            domain=sip.domain,
            media=settings.media,
            endpoint=self.endpoint,
            address=self.media_address,
            journal=dialogs,
            ssrc_pool=self.ssrc_pool,
            clock=self.clock,
        )
        self.talks = Talks(
            settings=settings.talk,
            media=settings.media,
            registry=self.registry,
            bus=self.bus,
            asker=self.dispatch,
            player=self.sessions,
            nodes=self.nodes,
            calls=calls,
            clock=self.clock,
        )
        self.dispatch.on_method("INVITE", "device")(self.talks.broadcasts.invite)
        self.upper_broadcasts = UpperBroadcasts(
            talks=self.talks,
            calls=calls,
            media=settings.media,
            bus=self.bus,
            uppers=lambda: self.cascade.served,
        )
        self.dispatch.before(BroadcastNotify, "upper")(self.upper_broadcasts.check)
        self.dispatch.on(BroadcastNotify, "upper")(self.upper_broadcasts.broadcast)

    def _build_cascade(self) -> None:
        settings, sip, names = self.settings, self.settings.sip, division_names()
        relay = InviteRelay(
            settings=settings.cascade,
            sessions=self.sessions,
            address=self.media_address,
            ssrc_pool=self.ssrc_pool,
            contacts=self.endpoint.core,
            bus=self.bus,
            clock=self.clock,
            own_id=settings.sip.server_id,
        )
        self.upper_commands = UpperCommands(
            facts=self.registry,
            mover=self.control,
            downward=self.dispatch,
            bus=self.bus,
            clock=self.clock,
        )
        answers = UpperAnswers(
            facts=self.registry,
            manufacturer=MANUFACTURER,
            model=sip.user_agent,
            firmware=__version__,
            name=sip.user_agent,
            clock=self.clock,
        )
        self.cascade = Cascade(
            settings=settings.cascade,
            identity=self.identity,
            name=sip.user_agent,
            registry=self.registry,
            bus=self.bus,
            endpoint=self.endpoint,
            dispatch=self.dispatch,
            relay=relay,
            commands=self.upper_commands,
            answers=answers,
            items=ItemWriter(self.registry, manufacturer=MANUFACTURER, model=sip.user_agent),
            store=PlatformStore(self.database),
            clock=self.clock,
            division_name=lambda code: names.get(code, ""),
            healthy=lambda: bool(self.nodes.handles()),
            journal=UpperJournal(journal=self.journal, endpoint=self.endpoint),
        )
        self.cascade.queries = self.upper_queries = UpperQueries(
            asking=DeviceCommands(
                settings=settings.control.model_copy(
                    update={"answer_timeout_s": min(DEVICE_TIMEOUT_S, settings.control.answer_timeout_s)}
                ),
                registry=self.registry,
                asker=self.dispatch,
            ),
            answers=answers,
            facts=self.registry,
            clock=self.clock,
        )
        self._build_upper_configuration()
        self.upper_commands.upgrader = self.upgrades
        self.upper_commands.link_of = self.cascade.link_of
        self.upgrades.on_result = self.upper_commands.upgrade_over
        self.upper_playback = UpperPlayback(
            settings=settings.playback, player=self.playing, devices=self.device_playbacks
        )
        self.device_playbacks.on_over = self.upper_playback.device_over
        self.notes.upper_at = self.cascade.upper_at
        relay.history = self.upper_playback
        self.sessions.connect(
            sender_ended=relay.sender_ended, playback_ended=self.upper_playback.playback_ended
        )
        self.upper_records = UpperRecords(
            [OwnRecords(self.playbacks.library, self.clock)],
            address_of=self._address_of,
            devices=InDevices(self.device_records, self.registry),
        )
        self.cascade.records_of = self.upper_records
        self.cascade.media_server = self.media_server
        self.alarms_upward = AlarmsUpward(lambda: self.cascade.served)
        self.alarms.listeners.append(self.alarms_upward.alarm)
        self.cascade.notices = notices = UpperNotices(
            self.subscriptions, lambda: self.cascade.served, self.alarms.camera_of
        )
        self.positions.listeners.append(notices.report)

    def _own_end(self, key: LineKey) -> tuple[str, int]:
        """Our address and port toward a peer, for the wire view."""
        port = self.endpoint.tls_port if key[2] == "tls" else self.endpoint.port
        return self.endpoint.local_address(key[0]), port

    def _build_upper_configuration(self) -> None:
        settings = self.settings.device_config
        patience_s = min(DEVICE_TIMEOUT_S, settings.answer_timeout_s)
        self.upper_configuration = UpperConfiguration(
            configuration=DeviceConfiguration(
                settings=settings.model_copy(update={"answer_timeout_s": patience_s}),
                registry=self.registry,
                asker=self.dispatch,
                timers=self.liveness,
                clock=self.clock,
            ),
            served=lambda: self.cascade.served,
            bus=self.bus,
            clock=self.clock,
        )
        self.cascade.configuration = self.upper_configuration
        self.snapshots.stranger = self.upper_configuration.snapshots_finished

    def _address_of(self, key: tuple[str, str]) -> str:
        channel = self.registry.channel(*key)
        return channel.address if channel is not None else ""

    def _build_http(self) -> None:
        settings = self.settings
        facts = SystemFacts(
            server_id=settings.sip.server_id,
            domain=settings.sip.domain,
            own_address=self.own_address.toward,
            sip_port=lambda: self.endpoint.port,
            nodes=self.nodes.handles,
            sessions=self.sessions.list,
            platforms=self.cascade.platforms,
        )
        self.http = Http(
            settings=settings.http,
            metrics_settings=settings.metrics,
            media_settings=settings.media,
            store=UserStore(self.database),
            parts=Parts(
                registry=self.registry,
                bus=self.bus,
                census=self.census,
                conflicts=self.lower_platforms,
                metrics=self.metrics,
                catalog=self.catalog,
                sessions=self.sessions,
                control=self.control,
                playbacks=self.playing,
                device_records=self.device_records,
                device_downloads=self.device_downloads,
                talks=self.talks,
                most_sound_bytes=settings.talk.file_bytes,
                uppers=self.cascade,
                inputs=self.inputs,
                onvif=self.onvif,
                recording=self.recording,
                alarms=self.alarms,
                alarm_reset=self.alarm_reset,
                positions=self.positions,
                subscriptions=self.subscriptions,
                profiles=self.profiles,
                wire=self.wire,
                own_end=self._own_end,
                configuration=self.configuration,
                snapshots=self.snapshots,
                snapshot_settings=settings.snapshots,
                video_uploads=self.video_uploads,
                commands=self.commands,
                upgrades=self.upgrades,
                registrar=self.registrar,
                notes=self.notes,
                system=facts,
                realm=settings.sip.domain,
                checks={
                    "sip": lambda: self.endpoint.running,
                    "storage": lambda: not self.writer.counts.failing,
                    "media": lambda: bool(self.nodes.handles()),
                },
            ),
            clock=self.clock,
        )
        self.control.audit = self.upper_commands.audit = self.http.audit.note
        self.upper_configuration.audit = self.http.audit.note
        self.cascade.relay.audit = self.http.audit.note
        self.upper_playback.audit = self.upper_records.audit = self.http.audit.note
        self.alarm_reset.audit = self.commands.audit = self.http.audit.note
        self.registrar.audit = self.http.audit.note
        self.recording.connect(audit=self.http.audit.note)
        self.talks.news.audit = self.upper_broadcasts.audit = self.http.audit.note
        self.metrics.collector.register(DeviceGauges(self.snapshots, self.video_uploads))
        self.metrics.collector.register(RecordingGauges(self.recording, self.nodes.handles))
        self.metrics.collector.register(
            DeviceRecordingGauges(
                self.device_records, self.device_playbacks, self.history_ends, self.device_downloads
            )
        )
        self.metrics.collector.register(
            ProfileGauges(self.registry, self.dialogs.ghosts, self.wire, lambda: self.sessions.room.made)
        )
        self.metrics.collector.register(TalkGauges(self.talks, self.nodes.handles))
        self.metrics.collector.register(
            SignallingGauges(self.registrar, self.notes, self.tls_files, lambda: self.metrics.tls_refusals)
        )
        self.metrics.collector.register(CommandGauges(self.commands, self.upgrades))
        self.metrics.collector.register(
            AlarmGauges(
                self.alarms, self.alarm_pictures, self.alarms_upward, self.positions, self.subscriptions
            )
        )
        self.wanted = WantedStreams(
            registry=self.registry,
            player=self.sessions,
            tokens=self.http.access,
            bus=self.bus,
            audit=self.http.audit.note,
        )
        self.sessions.connect(viewer_event=self.wanted.node_event)
        self.metrics.sources = Sources(
            nodes=self.nodes.handles,
            node_restarts=lambda: self.nodes.restarts,
            platforms=self.cascade.platforms,
            sessions=self.sessions.list,
            queues={
                "inbox": lambda: self.dispatch.inbox.waiting,
                "storage": lambda: len(self.registry.changes.channels) + len(self.registry.changes.devices),
                "audit": lambda: self.http.audit.waiting,
            },
            drops={
                "inbox": lambda: self.dispatch.inbox.counts["full"],
                "audit": lambda: self.http.audit.dropped,
                "event_readers": lambda: self.http.events.dropped,
            },
            outcomes=lambda: self.dispatch.counts,
            collisions=lambda: self.lower_platforms.collisions,
            inputs=lambda: self.inputs.online,
            input_checks=lambda: self.inputs.checks,
        )

    @property
    def url(self) -> str:
        """Where the console is; the route's address stands for "all addresses"."""
        http = self.settings.http
        if http.public_url is not None:
            return http.public_url
        bound = address_of(http.host)
        host = http.host
        if bound is not None and bound.is_unspecified:
            host = self.endpoint.local_address("192.0.2.1") or "127.0.0.1"
        return (
            f"http://[{host}]:{self.http.server.port}"
            if ":" in host
            else f"http://{host}:{self.http.server.port}"
        )

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all parts. Raises StartFailed, after stopping what was started."""
        try:
            self.own_address.check()
            await self._start_storage()
            await self._start_signalling()
            await self._start_devices()
            await self._start_media()
            await self._start_cascade()
            await self._start_http()
        except (StorageFailed, AddressFault, OSError) as error:
            await self.stop()
            raise StartFailed(_one_line(error)) from error
        except BaseException:
            await self.stop()
            raise
        logger.info(
            "gateway started server=%s port=%d devices=%d channels=%d",
            self.settings.sip.server_id, self.endpoint.port, len(self.registry.devices),
            self.registry.channel_count(),
        )  # fmt: skip

    async def stop(self) -> None:
        """Stop all parts in reverse order. Registrations and subscriptions stay on record. May be called again."""
        await self._stack.aclose()

    async def _start_storage(self) -> None:
        await self.database.open()
        self._stack.push_async_callback(self.database.close)
        async with self.database.connect() as connection:
            await load_registry(connection, self.registry)
            await self.journal.read(connection)
        await self.inputs.load()
        await self.lower_platforms.start()
        self._stack.callback(self.lower_platforms.close)
        self.profiles.start()
        self._stack.callback(self.profiles.close)
        self.wire.start()
        self._stack.callback(self.wire.close)
        await self.writer.start()
        self._stack.push_async_callback(self.writer.close)
        self._stack.push_async_callback(self.alarms.close)
        await self.alarms.start()
        self._stack.push_async_callback(self.positions.close)
        await self.positions.start()
        self.runtime.start()
        self._stack.callback(self.runtime.close)

    async def _start_signalling(self) -> None:
        await self.notes.load()
        await self.tls_files.start()
        self._stack.push_async_callback(self.tls_files.close)
        await self.endpoint.start()
        self._stack.push_async_callback(self.endpoint.close, DRAIN_S)

    async def _start_devices(self) -> None:
        self._stack.push_async_callback(self.dispatch.close)
        self.catalog.start()
        self._stack.push_async_callback(self.catalog.close)
        self.device_info.start()
        self._stack.push_async_callback(self.device_info.close)
        self._stack.push_async_callback(self.upgrades.close)
        await self.upgrades.start()
        await self.subscriptions.start()
        self._stack.push_async_callback(self.subscriptions.close)
        self.registrar.resume()
        await self.liveness.start()
        self._stack.push_async_callback(self.liveness.close)
        await self.registrar.same_id.start()
        self._stack.push_async_callback(self.registrar.same_id.close)

    async def _start_media(self) -> None:
        """Dialogs of an earlier life are ended first; devices register while the nodes load their codecs."""
        self._stack.push_async_callback(self.nodes.close)
        self._stack.push_async_callback(self.control.close)
        self._stack.push_async_callback(self.sessions.close)
        self._stack.push_async_callback(self.history_ends.close)
        self._stack.push_async_callback(self.device_playbacks.stop)
        self._stack.push_async_callback(self.device_records.close)
        await self.sessions.start()
        await self.nodes.start()
        self._stack.push_async_callback(self.talks.close)
        self.talks.start()
        self._stack.push_async_callback(self.onvif.close)
        self._stack.push_async_callback(self.inputs.close)
        await enter_inputs(self.inputs, self.settings.inputs.cameras)
        await self.inputs.start()
        self._stack.push_async_callback(self.device_downloads.close)
        await self.device_downloads.start()
        self._stack.push_async_callback(self.recording.close)
        await self.recording.start()
        self._stack.push_async_callback(self.alarm_pictures.close)
        await self.alarm_pictures.start()
        self._stack.push_async_callback(self.video_uploads.close)
        await self.video_uploads.start()
        self._stack.push_async_callback(self.snapshots.close)
        await self.snapshots.start()

    async def _start_cascade(self) -> None:
        """Uppers come last: what they ask for can be served. They hear of lost and regained media nodes."""
        self._stack.push_async_callback(self.upper_playback.close)
        self._stack.push_async_callback(self.upper_queries.close)
        self._stack.push_async_callback(self.upper_configuration.close)
        self._stack.push_async_callback(self.cascade.close)
        self._stack.push_async_callback(self.alarms_upward.close)
        self.alarms_upward.start()
        self._stack.push_async_callback(self.upper_broadcasts.close)
        self.upper_broadcasts.start()
        await self.cascade.start()
        self.endpoint.on_connection_closed = self._connection_closed
        self.nodes.on_ready.append(lambda node: self.cascade.health_changed())
        self.nodes.on_lost.append(lambda node, cause: self.cascade.health_changed())

    async def _start_http(self) -> None:
        """Last, so that whoever gets in finds everything in place."""
        self.first_password = await self.http.access.ensure_first_user()
        self._stack.push_async_callback(self.http.close)
        self._stack.push_async_callback(self.wanted.close)
        await self.http.start()

    def _connection_closed(self, flow: Flow) -> None:
        self.liveness.connection_closed(flow)
        self.cascade.connection_closed(flow)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
