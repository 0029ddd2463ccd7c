"""Puts the HTTP face together: users, audit, API resources, console, metrics listener. Built by gateway/assembly/http.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from argon2 import PasswordHasher

from config.settings import HttpSettings, MediaSettings, MetricsSettings, SnapshotSettings
from gateway.clock import Clock
from gateway.events import EventBus, SecurityEvent
from gateway.http.alarms import AlarmResource
from gateway.http.auth import Gatekeeper
from gateway.http.channels import ChannelResource
from gateway.http.commands import CommandResource
from gateway.http.conflicts import ConflictResource, Conflicts
from gateway.http.console import Console, DocumentResource
from gateway.http.device_config import DeviceConfigResource
from gateway.http.device_queries import DeviceQueryResource
from gateway.http.device_recordings import DeviceRecordingResource
from gateway.http.device_recordings_download import DeviceDownloadResource
from gateway.http.device_snapshots import DeviceSnapshotResource
from gateway.http.device_snapshots_upload import SnapshotUploadResource
from gateway.http.devices import CatalogAsker, DeviceResource
from gateway.http.events import EventResource
from gateway.http.health import Check, HealthResource, SystemInfo
from gateway.http.inputs import InputResource, InputsPort
from gateway.http.live import KeyFrames, LiveResource, Pictures
from gateway.http.platforms import PlatformResource, Uppers
from gateway.http.playback import Outputs, PlaybackResource, Playing
from gateway.http.positions import PositionResource
from gateway.http.profiles import ProfileResource
from gateway.http.provisioning import ProvisioningResource
from gateway.http.ptz import Controller, PtzResource
from gateway.http.recording_rules import RecordingRuleResource
from gateway.http.recordings import RecordingResource
from gateway.http.registration import RegistrationResource
from gateway.http.server import HttpServer
from gateway.http.sessions import SessionResource, SessionsPort
from gateway.http.shares import ShareResource
from gateway.http.subscriptions import SubscriptionResource
from gateway.http.talk import Speaking, TalkResource
from gateway.http.tokens import TokenResource
from gateway.http.tree import TreeResource
from gateway.http.upgrades import UpgradeResource
from gateway.http.users import UserResource
from gateway.http.video_upload import VideoUploadResource
from gateway.http.wire import WireResource
from gateway.metrics import Metrics, MetricsServer
from gateway.registry import Registry
from gateway.services.access import Access, AccessStore
from gateway.services.alarms import AlarmService
from gateway.services.alarms_reset import AlarmReset
from gateway.services.audit import Audit, AuditStore
from gateway.services.census import Census
from gateway.services.commands import DeviceCommands
from gateway.services.device_config import DeviceConfiguration
from gateway.services.device_download import DeviceDownloads
from gateway.services.device_records import DeviceRecords
from gateway.services.device_snapshots import DeviceSnapshots
from gateway.services.note_check import NoteCheck
from gateway.services.onvif import Onvif
from gateway.services.positions import PositionService
from gateway.services.profiles import ProfileService
from gateway.services.provisioning_devices import DeviceProvisioning
from gateway.services.recording_parts import Recording
from gateway.services.registrar import Registrar
from gateway.services.subscriptions import SubscriptionService
from gateway.services.upgrade import Upgrades
from gateway.services.video_upload import VideoUploads
from gateway.services.wire import WireLog
from gateway.services.wire_view import LocalOf

if TYPE_CHECKING:
    from gateway.services.nodes import NodeHandle


class LiveSessions(Pictures, SessionsPort, Outputs, Protocol):
    """gateway.services.sessions.Sessions as the API uses it."""


class CameraControl(Controller, KeyFrames, Protocol):
    """gateway.services.control.Control as the API uses it."""


class Store(AccessStore, AuditStore, Protocol):
    """gateway.storage.users.UserStore."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything of the gateway that the API shows or moves."""

    registry: Registry
    bus: EventBus
    census: Census
    conflicts: Conflicts
    metrics: Metrics
    catalog: CatalogAsker
    sessions: LiveSessions
    control: CameraControl
    playbacks: Playing
    device_records: DeviceRecords
    device_downloads: DeviceDownloads
    talks: Speaking
    most_sound_bytes: int
    uppers: Uppers
    inputs: InputsPort
    onvif: Onvif
    recording: Recording
    alarms: AlarmService
    alarm_reset: AlarmReset
    positions: PositionService
    subscriptions: SubscriptionService
    profiles: ProfileService
    wire: WireLog
    own_end: LocalOf
    commands: DeviceCommands
    upgrades: Upgrades
    configuration: DeviceConfiguration
    snapshots: DeviceSnapshots
    snapshot_settings: SnapshotSettings
    video_uploads: VideoUploads
    registrar: Registrar
    notes: NoteCheck
    system: SystemInfo
    realm: str
    checks: dict[str, Check]


class Http:
    """Owner of the API server, the metrics listener, the audit writer and what they need."""

    def __init__(
        self,
        *,
        settings: HttpSettings,
        metrics_settings: MetricsSettings,
        media_settings: MediaSettings,
        store: Store,
        parts: Parts,
        clock: Clock | None = None,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._parts = parts
        self._metrics_settings = metrics_settings
        self._media_settings = media_settings
        self.audit = Audit(store=store, clock=clock)
        self.access = Access(
            store=store,
            session_lifetime_s=settings.session_lifetime_s,
            login_attempts_per_minute=settings.login_attempts_per_minute,
            clock=clock,
            hasher=hasher,
            on_failure=self._refused,
        )
        gatekeeper = Gatekeeper(
            access=self.access,
            public_url=settings.public_url,
            secure_cookie=settings.secure_cookie,
            clock=clock,
        )
        self.events = EventResource(bus=parts.bus, access=self.access)
        self._wire = WireResource(
            registry=parts.registry,
            uppers=parts.uppers,
            wire=parts.wire,
            local_of=parts.own_end,
            access=self.access,
        )
        self._entering = DeviceProvisioning(
            registry=parts.registry, realm=parts.realm, own_ids=frozenset({parts.system.server_id})
        )
        self._provisioning = ProvisioningResource(registry=parts.registry, provisioning=self._entering)
        self._devices = DeviceResource(registry=parts.registry, catalog=parts.catalog, realm=parts.realm)
        self.server = HttpServer(
            resources=self._resources(gatekeeper),
            gatekeeper=gatekeeper,
            audit=self.audit,
            host=settings.host,
            port=settings.port,
            on_request=parts.metrics.http_answered,
        )
        Console(viewer_origins=self._viewer_origins).add_routes(self.server.app)
        self.metrics_server = MetricsServer(
            metrics=parts.metrics, host=metrics_settings.host, port=metrics_settings.port
        )

    def _resources(self, gatekeeper: Gatekeeper) -> list[object]:
        parts = self._parts
        registry = parts.registry
        return [
            self._devices,
            ChannelResource(registry=registry),
            ConflictResource(registry=parts.registry, conflicts=parts.conflicts),
            TreeResource(registry=registry, census=parts.census),
            LiveResource(registry=registry, pictures=parts.sessions, key_frames=parts.control),
            PtzResource(registry=registry, controller=parts.control),
            DeviceQueryResource(registry=registry, asking=parts.commands),
            CommandResource(registry=registry, orders=parts.commands),
            UpgradeResource(registry=registry, upgrades=parts.upgrades),
            PlatformResource(uppers=parts.uppers),
            ShareResource(registry=registry, uppers=parts.uppers),
            InputResource(registry=registry, inputs=parts.inputs, onvif=parts.onvif),
            PlaybackResource(registry=registry, playing=parts.playbacks, outputs=parts.sessions),
            DeviceRecordingResource(registry=registry, records=parts.device_records),
            DeviceDownloadResource(registry=registry, downloads=parts.device_downloads),
            SessionResource(registry=registry, sessions=parts.sessions),
            TalkResource(registry=registry, talks=parts.talks, most_bytes=parts.most_sound_bytes),
            RecordingResource(registry=registry, recording=parts.recording),
            RecordingRuleResource(registry=registry, recording=parts.recording),
            AlarmResource(registry=registry, alarms=parts.alarms, reset=parts.alarm_reset),
            PositionResource(registry=registry, positions=parts.positions),
            SubscriptionResource(registry=registry, subscriptions=parts.subscriptions),
            DeviceConfigResource(registry=registry, configuration=parts.configuration),
            DeviceSnapshotResource(registry=registry, snapshots=parts.snapshots),
            SnapshotUploadResource(settings=parts.snapshot_settings, taker=parts.snapshots),
            VideoUploadResource(registry=registry, uploads=parts.video_uploads),
            ProfileResource(registry=registry, profiles=parts.profiles),
            self._wire,
            self._provisioning,
            RegistrationResource(
                registry=registry,
                same_id=parts.registrar.same_id,
                notes=parts.notes,
                upper_known=lambda code: any(p.platform_id == code for p in parts.uppers.records()),
            ),
            self.events,
            HealthResource(registry=registry, census=parts.census, system=parts.system, checks=parts.checks),
            DocumentResource(lambda: self.server.document),
            UserResource(access=self.access, gatekeeper=gatekeeper, audit=self.audit),
            TokenResource(access=self.access),
        ]

    async def start(self) -> None:
        """Listen. Raises OSError when a port is taken."""
        await self.audit.start()
        await self._parts.metrics.start()
        await self.server.start()
        if self._metrics_settings.enabled:
            await self.metrics_server.start()

    async def close(self) -> None:
        """End open answers, stop listening, write the last audit entries. May be called again."""
        self.events.close()
        self._wire.close()
        await self.server.close()
        await self.metrics_server.close()
        await self._devices.close()
        await self._entering.close()
        await self._parts.metrics.close()
        await self._parts.census.close()
        await self.audit.close()

    def _refused(self, kind: str, source: str) -> None:
        """A wrong password or token, or too many tries: an event, so that metrics and alerts see it."""
        self._parts.bus.publish(SecurityEvent(kind, source))

    def _viewer_origins(self, host: str) -> list[str]:
        return viewer_origins(host, self._media_settings, self._parts.system.nodes())


def viewer_origins(host: str, settings: MediaSettings, nodes: Iterable[NodeHandle]) -> list[str]:
    """Where the browser fetches pictures when WebRTC cannot be used; for the page's content security policy."""
    ports = {number: settings.viewer_port + number for number in range(settings.node_count)}
    ports |= {node.number: node.viewer_port for node in nodes}
    if settings.viewer_public_url is None:
        return [f"http://{host}:{port}" for port in sorted(set(ports.values()))]
    origins = []
    for number in sorted(ports):
        url = urlsplit(settings.viewer_public_url.replace("{node}", str(number)))
        origins.append(f"{url.scheme}://{url.netloc}")
    return list(dict.fromkeys(origins))
