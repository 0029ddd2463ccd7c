"""What the gateway knows: devices, channels, upper platforms, shares, sessions. Plain records, no behaviour beyond derivation.

Times named ``*_at`` are aware UTC datetimes (they survive a restart); times named ``*_mono`` are
``time.monotonic()`` seconds of this process, so a step of the wall clock moves no deadline (G289).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gateway.profile import Profile as Profile
from sip.flow import Flow


class DeviceKind(StrEnum):
    """What registers: a camera, a recorder (NVR, DVR, encoder) or a lower platform (type 200 and kin)."""

    CAMERA = "camera"
    RECORDER = "recorder"
    PLATFORM = "platform"
    OTHER = "other"


class ChannelKind(StrEnum):
    """Kind by the type digits 11-13 of the code (GB/T 28181-2022 E.1)."""

    CAMERA = "camera"
    ALARM = "alarm"
    AUDIO_IN = "audio_in"
    AUDIO_OUT = "audio_out"
    DIVISION = "division"
    BUSINESS_GROUP = "business_group"
    VIRTUAL_ORGANISATION = "virtual_organisation"
    SYSTEM = "system"
    DEVICE = "device"
    OTHER = "other"


class State(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(slots=True)
class Device:
    """One registered (or provisioned) device, recorder or lower platform."""

    device_id: str
    name: str = ""
    kind: DeviceKind = DeviceKind.OTHER
    manufacturer: str = ""
    model: str = ""
    firmware: str = ""
    edition: str = "2.0"
    """X-GB-Ver of the peer: 1.0, 1.1, 2.0 (2016) or 3.0 (2022)."""
    user_agent: str = ""
    profile: Profile = field(default_factory=Profile)
    provisioned: bool = False
    """Entered by an operator, so it is kept when it never registers."""
    state: State = State.OFFLINE
    offline_cause: str = ""
    flow: Flow | None = None
    contact: str = ""
    registered_at: datetime | None = None
    expires_at: datetime | None = None
    last_seen_at: datetime | None = None
    expires_mono: float = 0.0
    last_seen_mono: float = 0.0
    heartbeat_interval_s: int = 60
    heartbeat_count: int = 3
    registration_expired: bool = False
    fault: bool = False
    faulty_children: frozenset[str] = frozenset()
    catalog_at: datetime | None = None
    catalog_complete: bool = False
    catalog_polled: bool = False
    """It refused the catalog subscription, so it is asked from time to time (G113)."""
    clock_offset_s: float | None = None

    @property
    def online(self) -> bool:
        return self.state is State.ONLINE

    @property
    def local(self) -> bool:
        """Our own virtual device (gateway.services.inputs)."""
        return self.profile.local


@dataclass(slots=True)
class Channel:
    """One entry of a device's catalog. The key is (device_id, channel_id): codes collide in the field (quirk 18)."""

    device_id: str
    channel_id: str
    name: str = ""
    kind: ChannelKind = ChannelKind.OTHER
    manufacturer: str = ""
    model: str = ""
    civil_code: str = ""
    block: str = ""
    address: str = ""
    parental: int = 0
    parent_ids: tuple[str, ...] = ()
    business_group_id: str = ""
    longitude: float | None = None
    latitude: float | None = None
    point_class: int | None = None
    """PointType: 1, 2, 3 video point of that class, 9 other."""
    grassroots_code: str = ""
    ptz_type: int | None = None
    secrecy: int = 0
    item: dict[str, object] = field(default_factory=dict)
    """Fields of the catalog Item that have no place above; gateway.services.channels.fields_of puts all together."""
    reported: str = "OFF"
    """What the catalog or a NOTIFY said: ON, OFF, VLOST or DEFECT."""
    reported_at: datetime | None = None
    defect: bool = False
    """Named as faulty child in the device's heartbeat."""
    media_proof_at: datetime | None = None
    """When pictures of this channel last arrived."""
    deleted_at: datetime | None = None
    missing_count: int = 0
    """Complete catalogs in a row that did not name this channel (two delete it, quirk 16)."""
    added_at: datetime | None = None
    updated_at: datetime | None = None
    mapped_id: str = ""
    """Another code for it where its own means several cameras (gateway.services.lower_platforms)."""

    @property
    def key(self) -> tuple[str, str]:
        return (self.device_id, self.channel_id)


@dataclass(slots=True)
class Platform:
    """One upper platform to which we register, as an operator entered it."""

    platform_id: str
    """Server code of the upper."""
    name: str
    domain: str
    host: str
    port: int
    transport: str = "udp"
    """udp | tcp | tls."""
    tls_server_name: str = ""
    """TLS: the name its certificate must hold; empty: host."""
    our_id: str = ""
    """The code we use toward it; empty: our server code."""
    username: str = ""
    password: str = ""
    expires_s: int = 86400
    heartbeat_interval_s: int = 60
    heartbeat_count: int = 3
    edition: str = "3.0"
    charset: str = "GB18030"
    page_size_udp: int = 1
    page_size_tcp: int = 100
    ssrc_policy: str = "echo"
    """echo | own (GB/T 28181-2022 annex G note 16)."""
    media_host: str = ""
    share_all: bool = False
    max_streams: int = 0
    """Parallel streams the upper may pull; 0: no limit."""
    rights: frozenset[str] = frozenset({"play", "ptz"})
    """Of: play, ptz, playback, download, broadcast, config."""
    alarms: str = "subscription"
    """subscription: alarms go up where it subscribed; always: also by MESSAGE while it has no subscription."""
    enabled: bool = True


@dataclass(slots=True, frozen=True)
class Share:
    """One channel shown to one upper platform under the code ``exported_id``."""

    platform_id: str
    device_id: str
    channel_id: str
    exported_id: str


class PlatformState(StrEnum):
    DISABLED = "disabled"
    REGISTERING = "registering"
    ONLINE = "online"
    OFFLINE = "offline"
    WAITING = "waiting"
    """Between two tries."""


@dataclass(slots=True)
class PlatformStatus:
    """Live state of one upper for API, page and metrics."""

    platform_id: str
    state: PlatformState = PlatformState.OFFLINE
    since_at: datetime | None = None
    registered_at: datetime | None = None
    expires_s: int = 0
    last_response: str = ""
    """Status line of the last answer, e.g. ``403 Forbidden`` (quirk 36)."""
    missed_heartbeats: int = 0
    clock_offset_s: float | None = None
    subscriptions: int = 0
    streams: int = 0
    next_try_in_s: float | None = None
    server: str = ""
    """Where we are registered: its own address, or the server it redirected us to (9.1.2.3)."""


class SessionKind(StrEnum):
    LIVE = "live"
    PLAYBACK = "playback"
    DOWNLOAD = "download"


class SessionState(StrEnum):
    OPENING = "opening"
    STREAMING = "streaming"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(slots=True)
class SessionInfo:
    """One media session toward a device, shared by its viewers."""

    session_id: str
    device_id: str
    channel_id: str
    kind: SessionKind
    state: SessionState
    stream_id: str
    node_id: str
    transport: str
    ssrc: int | None
    call_id: str = ""
    started_at: datetime | None = None
    first_picture_s: float | None = None
    video_codec: str = ""
    audio_codec: str = ""
    viewers: int = 0
    uppers: tuple[str, ...] = ()
    route_path: str = ""
    """Platforms on the way to the camera as the next one told (X-RoutePath); "" when it told nothing."""
    end_cause: str = ""
