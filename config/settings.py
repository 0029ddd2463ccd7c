"""Every setting, one pydantic class per section, units in the names. gateway.yaml is the reference file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyAddress,
    IPvAnyNetwork,
    SecretStr,
    field_validator,
    model_validator,
)

DeviceId = Annotated[str, Field(pattern=r"^\d{20}$")]
PortNumber = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """Base of the sections: a key that does not exist is an error, so a typing mistake is never silent."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class TlsSettings(Section):
    """SIP over TLS (GB/T 28181 8.2), beside UDP and TCP. The files are read again when they change."""

    enabled: bool = False
    """Listen on :attr:`port`. Uppers are called by TLS with or without it."""
    port: PortNumber = 5061
    certificate: Path | None = None
    """Our certificate with its chain, PEM."""
    key: Path | None = None
    """Its key; empty: in the same file."""
    client_ca: Path | None = None
    """Who may have signed the certificates of devices and lower platforms, PEM. Empty: none are asked for."""
    require_client_certificate: bool = False
    """Refuse connections of devices without a certificate of client_ca."""
    upper_ca: Path | None = None
    """Who may have signed the certificates of uppers, PEM. Empty: the system's CAs."""
    reload_interval_s: Annotated[float, Field(gt=0)] = 30.0
    """So often the files are looked at; changed ones hold for the next connections."""

    @model_validator(mode="after")
    def _complete(self) -> TlsSettings:
        if self.enabled and self.certificate is None:
            raise ValueError("certificate: needed where TLS is enabled")
        if self.require_client_certificate and self.client_ca is None:
            raise ValueError("client_ca: needed where client certificates are required")
        return self


class SipSettings(Section):
    """Who we are and where devices and platforms reach us."""

    server_id: DeviceId = "41018300002000000001"
    domain: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,64}$")] = "4101830000"
    host: str = "0.0.0.0"
    port: PortNumber = 5060
    advertise_host: IPvAnyAddress | None = None
    """Address put in Via, Contact and SDP. Empty: the address of the route to each peer."""
    advertise_by_network: dict[IPvAnyNetwork, IPvAnyAddress] = {}
    """Address to announce to peers of a network (NAT, several interfaces)."""
    allow_loopback: bool = False
    """Peers may be told a loopback address (demo and tests only)."""
    user_agent: str = "gb28181-gateway"
    max_connections: Annotated[int, Field(ge=10)] = 20000
    tls: TlsSettings = TlsSettings()
    note_window_s: Annotated[float, Field(gt=0, le=86400)] = 600.0
    """So far the Date of a signed message (Note header) may be from our clock; keys are given per peer by the API."""


class OpenRule(Section):
    """Devices from this network may register without a password. Never the default; each rule is logged at start."""

    network: IPvAnyNetwork
    reason: Annotated[str, Field(min_length=3)]


class RegistrationSettings(Section):
    """How devices and lower platforms are let in (GB/T 28181 9.1)."""

    domain_password: SecretStr | None = None
    """One password for devices without their own. Off unless set."""
    open_rules: list[OpenRule] = []
    allowed_networks: list[IPvAnyNetwork] = []
    """Registrations from elsewhere are refused with 403 before anything else; empty: any. Devices can have lists too."""
    accept_unknown_devices: bool = True
    """With the domain password, a device not entered before is taken in."""
    default_expires_s: Annotated[int, Field(ge=60)] = 86400
    min_expires_s: Annotated[int, Field(ge=0)] = 0
    """Shorter lifetimes are answered 423 (0: accept every lifetime)."""
    max_expires_s: Annotated[int, Field(ge=3600)] = 604800
    nonce_lifetime_s: Annotated[int, Field(ge=10, le=300)] = 120
    failures_before_forbidden: Annotated[int, Field(ge=1)] = 5
    failure_window_s: Annotated[int, Field(ge=1)] = 60
    send_date: bool = True
    same_id_policy: Literal["alternation", "newest_wins", "first_wins"] = "alternation"
    """Two units with one code. alternation: a move is believed once; when the old one comes back, two units exist and
    the first keeps the code while it is alive. first_wins: no move while the first is alive. newest_wins: always."""
    same_id_memory_s: Annotated[float, Field(ge=60)] = 900.0
    """A conflict is over when one of the units was not heard for this time."""
    heartbeat_revives: bool = False
    """A heartbeat from a flow that was authenticated may bring an expired registration back (quirk 8)."""
    requests_per_second_per_source: Annotated[float, Field(gt=0)] = 200.0


class RedirectTarget(Section):
    """One server to which devices are sent."""

    server_id: DeviceId
    host: Annotated[str, Field(pattern=r"^[0-9A-Za-z.:-]{1,253}$")]
    port: PortNumber = 5060
    transport: Literal["udp", "tcp", "tls"] = "udp"
    """Added to the Contact unless it is udp."""
    first_id: DeviceId | None = None
    last_id: DeviceId | None = None
    """Only devices with codes from first_id to last_id come here, and before all targets without a range."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share of the devices, among targets for which a device qualifies equally."""

    @model_validator(mode="after")
    def _range(self) -> RedirectTarget:
        if (self.first_id is None) != (self.last_id is None):
            raise ValueError("first_id and last_id: both or none")
        if self.first_id is not None and self.last_id is not None and self.first_id > self.last_id:
            raise ValueError("last_id: must not be below first_id")
        return self


class RedirectSettings(Section):
    """Answer REGISTER with 302 to another server (GB/T 28181-2022 9.1.2.3). A target that is ourselves serves here."""

    enabled: bool = False
    challenge: bool = True
    """Ask for the password before telling where to go."""
    expires_s: Annotated[int, Field(ge=60)] = 86400
    """Expires of the 302: so long a device may go on with the server it was told."""
    return_s: Annotated[float, Field(ge=0)] = 300.0
    """A device that is back within this time did not get in there: it is sent to the next one."""
    targets: list[RedirectTarget] = []

    @model_validator(mode="after")
    def _somewhere(self) -> RedirectSettings:
        if self.enabled and not self.targets:
            raise ValueError("targets: needed where redirecting is enabled")
        return self


class HeartbeatSettings(Section):
    interval_s: Annotated[int, Field(ge=5, le=600)] = 60
    count: Annotated[int, Field(ge=2, le=10)] = 3


class CatalogSettings(Section):
    query_on_register: bool = True
    subscribe: bool = True
    subscription_expires_s: Annotated[int, Field(ge=60)] = 3600
    first_part_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    gap_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    poll_interval_s: Annotated[int, Field(ge=60)] = 3600
    tolerant_notify: bool = False
    """Accept catalog NOTIFYs of registered peers for subscriptions we do not know (else 481)."""


MOST_NODES = 64
_PORTS_PER_NODE = 100


class RtspAccountSettings(Section):
    """Who may ask for any channel by RTSP, by Digest. Accounts of their own: users' passwords are kept as hashes only."""

    username: Annotated[str, Field(pattern=r"^[0-9A-Za-z_.@-]{1,64}$")]
    password: Annotated[SecretStr, Field(min_length=8)]


class MediaSettings(Section):
    nodes: Annotated[int, Field(ge=1, le=MOST_NODES)] | Literal["auto"] = 1
    """auto: one for each core but one, at least one (:attr:`node_count`)."""
    pump: Literal["auto", "python", "compiled"] = "auto"
    """compiled: the nodes refuse to start where the compiled packet pump is not built."""
    host: IPvAnyAddress | None = None
    """Address announced in SDP. Empty: the same as for SIP."""
    rtp_port_min: PortNumber = 20000
    rtp_port_max: PortNumber = 23999
    shared_rtp_port: PortNumber | None = None
    use_shared_port: bool = False
    viewer_host: str = "0.0.0.0"
    viewer_port: PortNumber = 8081
    """Viewers' HTTP port of the first node; node n listens on viewer_port + n."""
    viewer_public_url: str | None = None
    """Where browsers reach the nodes when a proxy stands before them; {node} is the node's number."""
    webrtc_port: PortNumber | None = 24000
    """One UDP port for all WebRTC viewers of the first node; node n listens on webrtc_port + n."""
    rtsp_port: PortNumber | None = 8554
    """RTSP of the first node; node n listens on rtsp_port + n. Empty or 0: off."""
    rtsp_public_url: str | None = None
    """Where players reach the nodes' RTSP when it is forwarded; {node} is the node's number."""
    rtsp_accounts: list[RtspAccountSettings] = []
    """None: only tickets and API tokens open a picture."""
    webrtc_port_min: PortNumber = 24000
    webrtc_port_max: PortNumber = 24999
    decode_workers: Annotated[int, Field(ge=1, le=32)] = 2
    """Processes per node that decode key frames for snapshots."""
    transcoders: Annotated[int, Field(ge=0, le=64)] = 2
    """Processes per node that make H.264 of what a browser cannot play; 0: none."""
    transcode_width: Annotated[int, Field(ge=16, le=4096)] = 1280
    transcode_height: Annotated[int, Field(ge=16, le=4096)] = 720
    transcode_kbit_s: Annotated[int, Field(ge=50, le=50_000)] = 2000
    transport: Literal["udp", "tcp_passive", "tcp_active"] = "tcp_passive"
    """Default toward devices; each device can have its own."""
    invite_timeout_s: Annotated[float, Field(gt=0)] = 15.0
    first_picture_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    no_rtp_timeout_s: Annotated[float, Field(gt=0)] = 15.0
    idle_grace_s: Annotated[float, Field(ge=0)] = 10.0
    ticket_lifetime_s: Annotated[int, Field(ge=10)] = 300
    port_quarantine_s: Annotated[float, Field(ge=0)] = 30.0
    ssrc_rest_s: Annotated[float, Field(ge=0)] = 60.0

    @property
    def node_count(self) -> int:
        """How many media processes; auto leaves one core to the signalling and each node at least 100 RTP ports."""
        if self.nodes != "auto":
            return self.nodes
        ports = (self.rtp_port_max - self.rtp_port_min + 1) // _PORTS_PER_NODE
        return max(1, min(len(os.sched_getaffinity(0)) - 1, ports, MOST_NODES))

    @field_validator("rtsp_port", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return None if value in (0, "0", "") else value

    @model_validator(mode="after")
    def _ranges(self) -> MediaSettings:
        if self.rtp_port_max < self.rtp_port_min + 1:
            raise ValueError("rtp_port_max must be above rtp_port_min")
        if self.webrtc_port_max < self.webrtc_port_min:
            raise ValueError("webrtc_port_max must not be below webrtc_port_min")
        return self


class UpperPlatform(Section):
    """One upper platform entered by configuration (unattended set-up); the console and the API can change it later."""

    platform_id: DeviceId
    name: str = ""
    domain: str = ""
    """Empty: the first ten digits of its code."""
    host: str
    port: PortNumber = 5060
    transport: Literal["udp", "tcp", "tls"] = "udp"
    tls_server_name: str = ""
    """The name its certificate must hold; empty: host."""
    our_id: DeviceId | None = None
    username: str = ""
    password: SecretStr
    share_all: bool = False
    rights: set[Literal["play", "ptz", "playback", "download", "broadcast", "config"]] = {"play", "ptz"}


class CascadeSettings(Section):
    platforms: list[UpperPlatform] = []
    """Taken in at start when the database does not know the code yet."""
    register_retry_s: Annotated[float, Field(gt=0)] = 60.0
    register_retry_spread: Annotated[float, Field(ge=0, le=1)] = 0.2
    refresh_at: Annotated[float, Field(gt=0.1, lt=1)] = 0.85
    notify_batch_s: Annotated[float, Field(gt=0)] = 2.0
    """Longest wait before changes go up; 100 entries go at once."""
    flap_damping_s: Annotated[float, Field(ge=0)] = 1.5
    answer_within_s: Annotated[float, Field(gt=0)] = 8.0
    """So long an upper's INVITE waits for the first picture; then 200 goes up if the device has at least answered."""
    ack_guard_s: Annotated[float, Field(gt=0)] = 32.0


class PlaybackSettings(Section):
    """Playing and downloading our own recordings."""

    most: Annotated[int, Field(ge=1)] = 200
    """Playings at the same time, those of upper platforms included."""
    most_per_user: Annotated[int, Field(ge=1)] = 16
    """The same for one user or one upper platform."""
    idle_grace_s: Annotated[float, Field(ge=1)] = 30.0
    """A playing that nobody watches ends after this time."""
    end_grace_s: Annotated[float, Field(ge=0)] = 10.0
    """So long an upper may take for its BYE (or a seek) after it was told that all was sent; then we send BYE."""
    most_downloads: Annotated[int, Field(ge=1, le=100)] = 4
    """Files being downloaded at the same time from one media node."""
    longest_download_s: Annotated[int, Field(ge=60)] = 86400
    download_speed_max: Annotated[int, Field(ge=1, le=64)] = 8
    """Most that an upper gets of the downloadspeed it asks for."""


class DeviceRecordingSettings(Section):
    """Recordings in devices: lists, playing, downloads."""

    first_answer_timeout_s: Annotated[float, Field(ge=1, le=120)] = 15.0
    gap_timeout_s: Annotated[float, Field(ge=0.5, le=60)] = 4.0
    """A list whose parts stop coming ends after this time, whatever its SumNum says."""
    step_h: Annotated[float, Field(ge=0.25, le=168)] = 6.0
    """A longer range is asked for in pieces of this length."""
    keep_s: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """So long a complete list is given again without asking."""
    most_records: Annotated[int, Field(ge=100)] = 50_000
    drain_s: Annotated[float, Field(ge=0, le=30)] = 2.5
    """Between the notice that all was sent and our BYE."""
    download_directory: Path | None = None
    """Default: downloads, in the storage directory."""
    most_downloads: Annotated[int, Field(ge=1, le=64)] = 4
    """At the same time; one per device. Others wait."""
    most_waiting: Annotated[int, Field(ge=0, le=1000)] = 20
    download_silence_s: Annotated[float, Field(ge=2, le=120)] = 10.0
    """A download to which nothing new comes for this time is over."""
    download_keep_h: Annotated[float, Field(ge=0.1, le=720)] = 24.0
    download_reserve_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """Free space that downloads leave."""


class TalkSettings(Section):
    """Speaking to devices: talk and broadcast."""

    most_talks: Annotated[int, Field(ge=1, le=500)] = 32
    """Talks at the same time."""
    most_targets: Annotated[int, Field(ge=1, le=500)] = 64
    """Loudspeakers of one talk."""
    invite_wait_s: Annotated[float, Field(ge=1, le=60)] = 10.0
    """A device gets so long to fetch the sound after it was announced."""
    longest_s: Annotated[float, Field(ge=10)] = 3600.0
    packet_ms: Annotated[int, Field(ge=20, le=180)] = 20
    """Sound per RTP packet (GB/T 28181-2022 C.2.4)."""
    file_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 10 * 1024 * 1024
    """Longest sound file or piece of sound that may be uploaded."""


class HttpSettings(Section):
    host: str = "0.0.0.0"
    port: PortNumber = 8080
    public_url: str | None = None
    session_lifetime_s: Annotated[int, Field(ge=300)] = 43200
    secure_cookie: bool = False
    login_attempts_per_minute: Annotated[int, Field(ge=1)] = 10


class MetricsSettings(Section):
    enabled: bool = True
    host: str = "127.0.0.1"
    port: PortNumber = 9281


class StorageSettings(Section):
    directory: Path = Path("data")
    url: SecretStr | None = None
    """SQLAlchemy URL; empty: SQLite in the directory."""
    flush_interval_s: Annotated[float, Field(gt=0, le=60)] = 1.0


class DiskSettings(Section):
    """One directory for recordings, best a disk of its own."""

    disk_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    directory: Path
    reserve_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """No new files when fewer bytes are free."""
    reserve_percent: Annotated[float, Field(ge=0, lt=100)] = 3.0
    """The same in percent of the disk; the greater of both counts."""


class S3Settings(Section):
    """S3-compatible storage for finished files; needs the extra ``s3``."""

    endpoint: str
    bucket: Annotated[str, Field(min_length=3, max_length=63)]
    region: str = "us-east-1"
    access_key: SecretStr
    secret_key: SecretStr
    prefix: str = ""
    classes: list[str] = []
    """Storage classes to upload; empty: all."""
    keep_local: bool = True
    """False: the file leaves its disk when the object is safe."""
    uploads_at_once: Annotated[int, Field(ge=1, le=16)] = 2
    cache_directory: Path | None = None
    """Where files that are only there are brought back for playing; None: storage.directory/s3-cache."""
    cache_bytes: Annotated[int, Field(ge=1024**2)] = 20 * 1024**3
    """Most that lies there; what was not played for the longest goes first."""
    cache_reserve_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """So much stays free on the cache's disk."""
    fetch_timeout_s: Annotated[float, Field(gt=0, le=600)] = 20.0
    """So long a playback or download waits for a file; then 504, and the fetch goes on."""
    fetches_at_once: Annotated[int, Field(ge=1, le=16)] = 4


class RecordingSettings(Section):
    """Recording to disk. Nothing is recorded until a plan or an operator says so."""

    disks: list[DiskSettings] = []
    """Empty: one disk "main" at storage.directory/recordings."""
    segment_s: Annotated[float, Field(ge=2, le=7200)] = 300.0
    pre_event_s: Annotated[float, Field(ge=0, le=300)] = 10.0
    """So many seconds are kept in memory for channels planned for events."""
    pre_event_bytes: Annotated[int, Field(ge=0)] = 32 * 1024**2
    queue_bytes: Annotated[int, Field(ge=1024**2)] = 64 * 1024**2
    """Bytes that may wait for one disk at each node."""
    classes: dict[str, Annotated[int, Field(ge=1, le=3660)]] = {"standard": 60, "key": 90, "picture": 365}
    """Storage classes and for how many days each is kept."""
    default_class: str = "standard"
    when_full: Literal["stop", "delete_oldest"] = "stop"
    """A disk without room where nothing is expired: stop (with alarm), or delete what is not expired (with alarm)."""
    reconcile_s: Annotated[float, Field(gt=0)] = 5.0
    """So often what is recorded is compared with what should be."""
    starts_at_once: Annotated[int, Field(ge=1, le=100)] = 8
    retry_first_s: Annotated[float, Field(gt=0)] = 5.0
    retry_last_s: Annotated[float, Field(gt=0)] = 120.0
    retention_s: Annotated[float, Field(gt=0)] = 300.0
    """So often expired files are looked for."""
    disk_check_s: Annotated[float, Field(gt=0)] = 10.0
    heal_files_per_s: Annotated[float, Field(gt=0)] = 200.0
    """Speed of the comparison of index and disks after a start."""
    s3: S3Settings | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RecordingSettings:
        if self.default_class not in self.classes:
            raise ValueError(f"default_class: {self.default_class!r} is not one of the classes")
        ids = [disk.disk_id for disk in self.disks]
        if len(set(ids)) != len(ids):
            raise ValueError("disks: two disks have the same disk_id")
        return self


class InputCamera(Section):
    """One input entered by configuration; the console and the API can change it later."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    url: Annotated[str, Field(pattern=r"^(rtsps?://|file:)\S+$", max_length=2048)]
    """rtsp://…, or file:name below inputs.directory."""
    username: str = ""
    password: SecretStr = SecretStr("")
    transport: Literal["tcp", "udp"] = "tcp"
    channel_id: DeviceId | None = None
    """Empty: a code is made."""
    civil_code: Annotated[str, Field(pattern=r"^(\d{2}){0,4}$")] = ""
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None


class InputSettings(Section):
    """Cameras and files that do not speak GB/T 28181 (RTSP, ONVIF, media files)."""

    cameras: list[InputCamera] = []
    """Taken in at start when no input has the code or the address yet."""
    directory: Path | None = None
    """Media files may be played from below here. None: no files."""
    check_interval_s: Annotated[int, Field(ge=5)] = 60
    """So often a camera that nobody watches is asked whether it is there."""
    check_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    checks_at_once: Annotated[int, Field(ge=1, le=200)] = 16
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    read_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0


class AlarmSettings(Section):
    """Alarms of devices (GB/T 28181-2022 9.4)."""

    subscribe: bool = True
    """Subscribe to the alarms of each device; without it those come that it sends by itself."""
    subscription_expires_s: Annotated[int, Field(ge=60)] = 3600
    merge_s: Annotated[float, Field(ge=0)] = 5.0
    """The same alarm within this time of the last one only raises its count."""
    per_device_per_s: Annotated[float, Field(gt=0)] = 10.0
    """Different alarms of one device that are kept one by one; the rest is counted."""
    per_device_burst: Annotated[int, Field(ge=1)] = 50
    clock_fault_s: Annotated[float, Field(gt=0)] = 300.0
    """A device whose AlarmTime is further from ours has a clock fault."""
    snapshot: Literal["off", "live", "always"] = "live"
    """A picture at alarm time: never, of cameras that are being watched or recorded, or of every camera."""
    snapshots_at_once: Annotated[int, Field(ge=1, le=32)] = 2
    record: bool = False
    """Start event recording at the camera of an alarm."""
    record_before_s: Annotated[float, Field(ge=0, le=300)] = 10.0
    record_after_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    keep_days: Annotated[int, Field(ge=1, le=3660)] = 90
    keep_most: Annotated[int, Field(ge=1000)] = 1_000_000


class PositionSettings(Section):
    """Positions of what moves, and where cameras look (GB/T 28181-2022 9.11, A.2.5.6)."""

    subscribe: Literal["off", "mobile", "all"] = "mobile"
    """mobile: at devices whose catalog names mobile units; all: at every device."""
    interval_s: Annotated[int, Field(ge=1, le=3600)] = 5
    subscription_expires_s: Annotated[int, Field(ge=60)] = 3600
    poll_interval_s: Annotated[float, Field(gt=0)] = 60.0
    """A device that refuses the subscription is asked so often."""
    least_gap_s: Annotated[float, Field(ge=0)] = 1.0
    """Reports of one channel that come closer together are told but not kept."""
    future_s: Annotated[float, Field(gt=0)] = 300.0
    """A time further from ours is a fault of the report."""
    keep_days: Annotated[int, Field(ge=1, le=3660)] = 30
    keep_most: Annotated[int, Field(ge=1000)] = 5_000_000


class DeviceConfigSettings(Section):
    """Reading and setting the configuration of devices (GB/T 28181-2022 A.2.3.2, A.2.4.7)."""

    answer_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    """So long a device may take for its Response."""
    gap_timeout_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    """An answer in several Responses is over when no further one came for so long."""


class SnapshotSettings(Section):
    """Pictures that devices take by themselves and upload (GB/T 28181-2022 9.14)."""

    directory: Path | None = None
    """Where they are kept; empty: snapshots below storage.directory."""
    upload_url: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$", max_length=300)] | None = (
        None
    )
    """What devices are told of our HTTP address; empty: by the route to each device."""
    most_bytes: Annotated[int, Field(ge=10_000, le=100 * 1024**2)] = 8 * 1024**2
    """Of one picture."""
    uploads_at_once: Annotated[int, Field(ge=1, le=256)] = 16
    upload_timeout_s: Annotated[float, Field(gt=0, le=600)] = 60.0
    finish_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """So long after its last picture is due a device may take to upload and to say that it has finished."""
    grace_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    """Pictures that are still on their way when the device says so are taken for so long."""
    keep_days: Annotated[int, Field(ge=1, le=3660)] = 30


class VideoUploadSettings(Section):
    """What VideoUploadNotify sets going (GB/T 28181-2022 A.2.5.8); a device may have its own rule."""

    action: Literal["off", "keep", "record"] = "off"
    """off: only the event; keep: fetch the picture and keep it for keep_s; record: also record it."""
    keep_s: Annotated[int, Field(ge=1, le=86400)] = 60
    most_pulls: Annotated[int, Field(ge=1, le=1000)] = 64
    """Pictures that are fetched for this reason at the same time."""

    @field_validator("action", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: object) -> object:
        return "off" if value is False else value


class ControlSettings(Section):
    """Questions and commands to devices (GB/T 28181-2022 9.3, 9.5)."""

    answer_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    """So long a device may take for its Response; then 504."""
    gap_timeout_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """A list in several parts is over when no further one came for so long."""
    upgrade_timeout_s: Annotated[int, Field(ge=1, le=86400)] = 3600
    """So long a device may take from accepting a firmware upgrade to telling how it went."""
    upgrades_kept: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Upgrades that the API still shows; the oldest that are over go first."""


class ProfilesSettings(Section):
    """What is known of makes and models of devices."""

    vendors_file: Path | None = None
    """A file of your own in the form of config/vendors.yaml; it extends the shipped one."""


class WireSettings(Section):
    """The last SIP messages of each device and platform, kept in memory for the API (never on disk)."""

    enabled: bool = True
    messages_per_peer: Annotated[int, Field(ge=10, le=10_000)] = 200
    bytes_per_peer: Annotated[int, Field(ge=16_384)] = 262_144
    max_bytes: Annotated[int, Field(ge=1024**2)] = 64 * 1024**2
    """For all peers together; with many peers each keeps less."""


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
    wire: bool = False
    """Log SIP messages at DEBUG on sip.wire, credentials masked."""


class Settings(Section):
    """The whole configuration."""

    sip: SipSettings = SipSettings()
    registration: RegistrationSettings = RegistrationSettings()
    redirect: RedirectSettings = RedirectSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    catalog: CatalogSettings = CatalogSettings()
    media: MediaSettings = MediaSettings()
    cascade: CascadeSettings = CascadeSettings()
    playback: PlaybackSettings = PlaybackSettings()
    talk: TalkSettings = TalkSettings()
    device_recordings: DeviceRecordingSettings = DeviceRecordingSettings()
    http: HttpSettings = HttpSettings()
    metrics: MetricsSettings = MetricsSettings()
    storage: StorageSettings = StorageSettings()
    recording: RecordingSettings = RecordingSettings()
    inputs: InputSettings = InputSettings()
    alarms: AlarmSettings = AlarmSettings()
    positions: PositionSettings = PositionSettings()
    device_config: DeviceConfigSettings = DeviceConfigSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    video_upload: VideoUploadSettings = VideoUploadSettings()
    control: ControlSettings = ControlSettings()
    profiles: ProfilesSettings = ProfilesSettings()
    wire: WireSettings = WireSettings()
    log: LogSettings = LogSettings()

    @field_validator("storage")
    @classmethod
    def _no_file_in_the_way(cls, value: StorageSettings) -> StorageSettings:
        if value.directory.is_file():
            raise ValueError(f"directory: {value.directory} is a file")
        return value
