"""The records that cross the line between the gateway and a media node.

Plain values only: ids, addresses, numbers. A media node knows streams, not cameras or SIP dialogs.
Every record is a frozen pydantic model; it travels as JSON over the control API (see media/client.py).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

StreamId = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
Label = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-][0-9A-Za-z_.-]{0,63}$")]
"""Names a folder."""
Port = Annotated[int, Field(ge=1, le=65535)]
Ssrc = Annotated[int, Field(ge=0, le=0xFFFFFFFF)]


class Record(BaseModel):
    """Base of everything on the wire to a node: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Transport(StrEnum):
    """How RTP travels. The TCP names are from our side: passive = we listen, active = we dial."""

    UDP = "udp"
    TCP_PASSIVE = "tcp_passive"
    TCP_ACTIVE = "tcp_active"


class PayloadFormat(Record):
    """One negotiated payload type: number, rtpmap encoding name in upper case, clock rate in Hz."""

    number: Annotated[int, Field(ge=0, le=127)]
    encoding: str = "PS"
    clock_rate_hz: int = 90000


class HistorySpec(Record):
    """The receiver gets a recording of this length that a device plays. ``keep_times``: a download, whose units keep
    the times of the recording; else they are brought to those of the playing at its speed."""

    length_s: Annotated[float, Field(gt=0)]
    keep_times: bool = False


class ReceiverSpec(Record):
    """Ask a node to open one receiving stream.

    ``ssrc`` is what we offered (None: learn it from the first valid packet). ``remote_host`` narrows the
    source of UDP packets and TCP connections where known. ``shared_port`` puts the stream on the node's
    single receiving port, keyed by SSRC and source. ``strict_ssrc``: no other SSRC is learned from packets.
    """

    stream_id: StreamId
    transport: Transport = Transport.UDP
    ssrc: Ssrc | None = None
    remote_host: str | None = None
    payloads: tuple[PayloadFormat, ...] = (PayloadFormat(number=96),)
    shared_port: bool = False
    strict_ssrc: bool = False
    no_rtp_timeout_s: float = 15.0
    idle_grace_s: float = 10.0
    history: HistorySpec | None = None
    """None: live pictures."""


class ReceiverInfo(Record):
    """The opened receiver: where the sender shall send, or from where we dial in active mode."""

    stream_id: StreamId
    host: str
    port: Port
    ssrc: Ssrc | None


class ReceiverUpdate(Record):
    """What the answer taught us: the SSRC to expect, the address to dial or expect, the chosen payloads.

    Fields left out stay as they are. With ``Transport.TCP_ACTIVE`` the first ``remote_port`` starts dialling
    (at least 3 tries at least 1 s apart, GB/T 28181-2022 annex D).
    """

    ssrc: Ssrc | None = None
    remote_host: str | None = None
    remote_port: Port | None = None
    payloads: tuple[PayloadFormat, ...] | None = None
    paused: bool | None = None


class InputSpec(Record):
    """Base of inputs that are no RTP session of a device. ``kind`` chooses the source (media/sources/inputs.py)."""

    kind: str
    stream_id: StreamId
    idle_grace_s: float = 10.0
    silence_s: float = 15.0
    """Without a unit for this long the stream counts as lost."""


class ClipPart(Record):
    """One recorded file to play: absolute ``path``, wall-clock of its media time 0 and of its end (unix seconds).

    ``growing``: it is being written, ``end`` is what was known; ``bytes`` is its size, 0 when that is not known.
    ``awaited``: PartWanted asks for the file when it is needed, and whoever ordered the playing brings it there in
    one step (rename); an empty file says that it cannot be had.
    """

    path: str
    start: float
    end: float
    bytes: int = 0
    growing: bool = False
    awaited: bool = False


class RecordingInput(InputSpec):
    """Play recordings: the parts of one channel between ``start`` and ``end`` (unix seconds).

    ``speed`` is 0.25 to 8, negative for backward; the units' times are those of the playing, so that a player keeps
    up. ``delivery`` sends so many times faster than that without touching the times (download). ``keep_gaps``: what
    was not recorded lasts as long as it lasted, else it is left out. ``reverse_groups``: backward whole groups of
    pictures instead of key frames only (GB/T 28181-2022 B.2.8). ``wait_for_reader``: after the first pictures wait
    until somebody reads or relays. Above ``most_bits_per_s`` only key frames are sent.
    """

    kind: Literal["recording"] = "recording"
    parts: tuple[ClipPart, ...]
    start: float
    end: float
    speed: Annotated[float, Field(ge=-8, le=8)] = 1.0
    delivery: Annotated[float, Field(ge=0.25, le=64)] = 1.0
    paused: bool = False
    keep_gaps: bool = False
    reverse_groups: bool = False
    wait_for_reader: bool = True
    most_bits_per_s: int = 50_000_000


class InputControl(Record):
    """Change how a recording is played. Positions are seconds from the input's ``start``; fields left out stay.

    ``until_s`` bounds a backward run.
    """

    paused: bool | None = None
    speed: Annotated[float, Field(ge=-8, le=8)] | None = None
    position_s: Annotated[float, Field(ge=0)] | None = None
    until_s: Annotated[float, Field(ge=0)] | None = None


class PlayPosition(Record):
    """Where a recording is: seconds from the input's ``start`` of the picture sent last, or to be sent next after a
    seek. ``ended``: the end of the range (backward: its start) was reached."""

    stream_id: StreamId
    position_s: float
    speed: float
    paused: bool
    ended: bool


class RtspInput(InputSpec):
    """An RTSP camera. ``username`` and ``password`` are kept out of the URL, so that the URL can be logged."""

    kind: Literal["rtsp"] = "rtsp"
    url: Annotated[str, Field(pattern=r"^rtsps?://[^\s]+$", max_length=2048)]
    username: str = ""
    password: Annotated[str, Field(repr=False)] = ""
    transport: Literal["tcp", "udp"] = "tcp"
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    read_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0


class FileInput(InputSpec):
    """A media file below ``NodeConfig.inputs_directory``, played in real time. ``path`` is relative to it."""

    kind: Literal["file"] = "file"
    path: Annotated[str, Field(min_length=1, max_length=1024)]
    loop: bool = True


class DownloadSpec(Record):
    """Ask a node to send recordings as one file. ``format``: mp4, or ps (the program stream of GB/T 28181)."""

    download_id: StreamId
    parts: tuple[ClipPart, ...]
    start: float
    end: float
    format: Literal["mp4", "ps", "raw"] = "mp4"
    """raw: the first part's file as it is."""
    file_name: Annotated[str, Field(pattern=r"^[0-9A-Za-z_.-]{1,128}$")]


class TransferSpec(Record):
    """Ask a node to take a recording that a device sends into ``directory``: mp4, or ps (the bytes as they come).

    ``start`` (unix seconds) is the time of the first picture; nothing behind ``length_s`` is kept.
    """

    transfer_id: StreamId
    stream_id: StreamId
    directory: str
    start: float
    length_s: Annotated[float, Field(gt=0)]
    format: Literal["mp4", "ps"] = "mp4"


class TransferInfo(Record):
    """How far a transfer is: seconds of the recording, bytes on the disk. ``parts`` and ``duration_s`` when ``closed``:
    what is in the files, read back. ``fault``: why it cannot go on."""

    transfer_id: StreamId
    pictures: int = 0
    media_s: float = 0.0
    bytes: int = 0
    duration_s: float = 0.0
    parts: tuple[ClipPart, ...] = ()
    fault: str = ""
    closed: bool = False


class DownloadInfo(Record):
    """A planned download; ``size`` in bytes, None where it is not known before it is sent."""

    download_id: StreamId
    size: int | None = None


class TranscodeInput(InputSpec):
    """Another stream of the same node as H.264 without B-frames, in pictures of at most this size."""

    kind: Literal["transcode"] = "transcode"
    source_stream_id: StreamId
    max_width: Annotated[int, Field(ge=16, le=4096)] = 1280
    max_height: Annotated[int, Field(ge=16, le=4096)] = 720
    bit_rate: Annotated[int, Field(ge=50_000, le=50_000_000)] = 2_000_000


class SenderSpec(Record):
    """Ask a node to relay a stream's RTP payload untouched to another platform.

    UDP and TCP active need the remote address; TCP passive listens. ``payload_type`` None keeps the source's.
    """

    sender_id: StreamId
    stream_id: StreamId
    transport: Transport = Transport.UDP
    remote_host: str | None = None
    remote_port: Port | None = None
    ssrc: Ssrc
    payload_type: Annotated[int, Field(ge=0, le=127)] | None = None


class SenderInfo(Record):
    """The opened sender's own address (for our SDP answer)."""

    sender_id: StreamId
    host: str
    port: Port


class VideoTrack(Record):
    """What is known of the picture. width and height are 0 until the parameter sets were read."""

    codec: str
    width: int = 0
    height: int = 0
    has_b_frames: bool = False


class AudioTrack(Record):
    codec: str
    clock_rate_hz: int = 8000
    channels: int = 1


class StreamStats(Record):
    """Counters since the stream was opened; gauges at the time of asking. Delays and ages in seconds."""

    stream_id: StreamId
    ready: bool = False
    video: VideoTrack | None = None
    audio: AudioTrack | None = None
    ssrc: Ssrc | None = None
    source: str | None = None
    packets: int = 0
    bytes: int = 0
    lost: int = 0
    reordered: int = 0
    late: int = 0
    ssrc_faults: int = 0
    foreign_packets: int = 0
    resyncs: int = 0
    damaged_units: int = 0
    video_units: int = 0
    audio_units: int = 0
    key_units: int = 0
    viewers: int = 0
    senders: int = 0
    reader_drops: int = 0
    relay_packets: int = 0
    relay_drops: int = 0
    kernel_drops: int = 0
    """Datagrams that the kernel dropped because the socket's receive buffer was full."""
    last_packet_age_s: float | None = None
    position_s: float | None = None
    """Recordings only: seconds from the start of the range."""
    media_mismatch: str | None = None


class SegmentInfo(Record):
    """One recorded file, as the node's events and the gateway's index describe it (media/segments.py has the format).

    ``start`` and ``end`` are UTC unix seconds with fractions; media time t of the file is wall-clock ``start + t``.
    ``path`` is relative to the directory of ``disk_id``, with ``/``. ``device_id`` and ``channel_id`` are labels
    that name the folder. ``frames`` counts pictures. ``complete`` False: the file is being written, or was torn
    and not yet mended; ``end`` and ``bytes`` are then what is known so far. ``cause`` says why it was closed:
    length | stopped | stream_ended | format_changed | time_jump | queue_full | write_failed | recovered.
    """

    segment_id: StreamId
    recording_id: StreamId
    device_id: Label
    channel_id: Label
    disk_id: StreamId
    path: str
    kind: str = "continuous"
    """continuous | event | manual."""
    storage_class: str = "standard"
    start: float
    end: float
    bytes: int = 0
    frames: int = 0
    video_codec: str = ""
    audio_codec: str = ""
    """aac, or empty without sound."""
    width: int = 0
    height: int = 0
    complete: bool = False
    cause: str = ""


class DiskSpec(Record):
    """One directory for recordings, as the gateway's disk guard sees it. No new files when ``usable`` is False, or
    when fewer than ``reserve_bytes`` are free."""

    disk_id: StreamId
    directory: str
    reserve_bytes: int = 0
    usable: bool = True


class DiskList(Record):
    """All directories this node may write recordings to."""

    disks: tuple[DiskSpec, ...]


class RecordingSpec(Record):
    """Ask a node to record a stream. ``standby``: keep the last ``pre_event_s`` seconds in memory, at most
    ``pre_event_bytes``, and write only when triggered. ``device_id`` and ``channel_id`` name the folder."""

    recording_id: StreamId
    stream_id: StreamId
    device_id: Label
    channel_id: Label
    kind: str = "continuous"
    storage_class: str = "standard"
    segment_s: float = Field(default=300.0, gt=0, le=7200)
    standby: bool = False
    pre_event_s: float = Field(default=0.0, ge=0, le=300)
    pre_event_bytes: int = Field(default=32 * 1024 * 1024, ge=0)


class RecordingTrigger(Record):
    """Write from ``pre_event_s`` before now until ``seconds`` from now; a later end wins. Only for standby."""

    seconds: float = Field(gt=0, le=86400)


class RecordingStats(Record):
    """Recording on one node. ``bytes`` and all counts since the node's start; ``queued_bytes`` waits for disks;
    ``queue_drops`` are pictures that could not be written."""

    recordings: int = 0
    writing: int = 0
    segments: int = 0
    bytes: int = 0
    queued_bytes: int = 0
    queue_drops: int = 0
    write_errors: int = 0


class WebRtcStats(Record):
    """One node's WebRTC viewers in datagrams. ``port`` 0: each viewer has a port of its own."""

    port: int = 0
    viewers: int = 0
    received: int = 0
    stray: int = 0
    """From nobody we know."""
    refused: int = 0
    """Could not prove that they belong to a viewer."""
    dropped: int = 0
    unsent: int = 0
    moved: int = 0
    """Viewers that went on from another address."""
    retransmitted: int = 0
    repeats: int = 0
    """Groups of pictures sent again to players that had lost the picture."""


class DecodeStats(Record):
    """One node's decoding workers: jobs since the start and what became of them (media/decode.py)."""

    workers: int = 0
    waiting: int = 0
    jobs: int = 0
    refused: int = 0
    oversized: int = 0
    crashed: int = 0
    late: int = 0
    recycled: int = 0


class TranscodeStats(Record):
    """One node's transcoders: how many run, refusals and lost processes since the start (media/sources/transcode.py)."""

    limit: int = 0
    used: int = 0
    refused: int = 0
    restarts: int = 0
    skipped: int = 0


class TalkStats(Record):
    """One node's talks: legs that are open, packets since its start."""

    talks: int = 0
    legs: int = 0
    sent: int = 0
    dropped: int = 0
    received: int = 0


class NodeStats(Record):
    """One node's totals for metrics and for placing new streams."""

    node_id: str
    streams: int = 0
    senders: int = 0
    viewers: int = 0
    viewers_by_kind: dict[str, int] = Field(default_factory=dict)
    """fmp4, ws, flv, ws_flv, ts, hls, webrtc ..."""
    ports_leased: int = 0
    ports_quarantined: int = 0
    ports_free: int = 0
    cpu_seconds: float = 0.0
    rss_bytes: int = 0
    loop_lag_s: float = 0.0
    rtsp_port: int = 0
    """0: no RTSP here."""
    rtsp_refused: int = 0
    """Wrong passwords and tickets."""
    pump: str = "python"
    """``compiled`` or ``python``: what moves steady streams."""
    gso: bool = False
    batches: bool = False
    """Whether sockets are read many packets at a time (recvmmsg)."""
    lanes: int = 0
    """Streams in the hands of the compiled pump now."""
    kernel_drops: int = 0
    """The same on the shared port, which is no single stream's."""
    recording: RecordingStats = RecordingStats()
    webrtc: WebRtcStats = WebRtcStats()
    decode: DecodeStats = DecodeStats()
    transcode: TranscodeStats = TranscodeStats()
    talk: TalkStats = TalkStats()
    closed_totals: StreamStats | None = None
    per_stream: tuple[StreamStats, ...] = ()


class WebRtcOffer(Record):
    """A browser's SDP offer for one stream. ``host`` is the address to announce in candidates, if forced."""

    viewer_id: StreamId
    sdp: str
    host: str | None = None


class WebRtcAnswer(Record):
    viewer_id: StreamId
    sdp: str


TalkRole = Literal["speak", "talk", "source"]
"""speak: sound goes out. talk: it also comes back and is heard by the talker. source: what comes is the talk's sound."""


class TalkSpec(Record):
    """Ask a node for a talk: one voice (a browser's microphone, pushed sound, another leg) to any number of legs.

    ``packet_ms`` of sound per packet (GB/T 28181-2022 C.2.4). ``listen_stream_id``: the talker hears the sound of this
    stream of the same node.
    """

    talk_id: StreamId
    packet_ms: Annotated[int, Field(ge=20, le=180)] = 20
    listen_stream_id: StreamId | None = None


class TalkLegSpec(Record):
    """Ask a node for one device's end of a talk. ``ssrc`` is what we send under; ``remote_host`` narrows who may dial."""

    leg_id: StreamId
    talk_id: StreamId
    role: TalkRole = "speak"
    transport: Transport = Transport.UDP
    ssrc: Ssrc
    remote_host: str | None = None


class TalkLegInfo(Record):
    """The opened leg's own address, for our SDP."""

    leg_id: StreamId
    host: str
    port: Port


class TalkLegTarget(Record):
    """What the other side's SDP said. ``peer_host``: where its signalling comes from, for devices behind NAT.

    ``program_stream``: the sound is wrapped in PS. Fields left out stay as they are.
    """

    remote_host: str | None = None
    remote_port: Port | None = None
    peer_host: str | None = None
    ssrc: Ssrc | None = None
    payload_type: Annotated[int, Field(ge=0, le=127)] | None = None
    program_stream: bool = False


class TalkOffer(Record):
    """A browser's SDP offer with its microphone. ``host`` is the address to announce in candidates, if forced."""

    sdp: str
    host: str | None = None


class TalkAnswer(Record):
    sdp: str


class TalkMute(Record):
    """Whether the voice is held back: the button is not pressed."""

    muted: bool


class TalkQueued(Record):
    """Pushed sound that waits to be sent, in seconds. ``number``: how often sound was pushed, this time included."""

    queued_s: float
    number: int = 0


RTSP_REALM = "gb28181-gateway"
"""Realm of the RTSP accounts: HA1 values are made for it."""


class RtspAccount(Record):
    """Who may ask an RTSP server for a channel: HA1 = H(username:realm:password) in lower-case hex, no password."""

    username: str
    ha1_md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", repr=False)]
    ha1_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]

    def ha1(self, algorithm: str) -> str:
        """``algorithm``: MD5 or SHA-256."""
        return self.ha1_sha256 if algorithm == "SHA-256" else self.ha1_md5


class NodeConfig(Record):
    """All that a node process is told at its start (JSON on standard input). Times in seconds."""

    node_id: str
    control: str
    """``unix:/path`` or ``tcp:host:port`` of the control API."""
    control_secret: str
    media_host: str
    """Address announced in SDP when no per-peer address is given."""
    bind_host: str = "0.0.0.0"
    rtp_port_min: Port = 20000
    rtp_port_max: Port = 23999
    shared_rtp_port: Port | None = None
    viewer_host: str = "0.0.0.0"
    viewer_port: int = 8081
    rtsp_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """RTSP on ``viewer_host``; 0: any free port; None: off. A port that is taken is told, and the node runs without."""
    rtsp_realm: str = RTSP_REALM
    rtsp_accounts: Annotated[tuple[RtspAccount, ...], Field(repr=False)] = ()
    rtsp_start_timeout_s: float = 40.0
    """So long a client waits for a channel that the gateway starts on demand."""
    webrtc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """One UDP port for all WebRTC viewers; 0: any free port; None, or when it is taken: one each out of the range."""
    webrtc_port_min: Port = 24000
    webrtc_port_max: Port = 24999
    ticket_secret: str
    port_quarantine_s: float = 30.0
    reorder_window_s: float = 0.2
    gop_cache_bytes: int = 8 * 1024 * 1024
    reader_queue_units: int = 512
    downloads: Annotated[int, Field(ge=1)] = 4
    """Downloads of recordings at the same time."""
    snapshot_timeout_s: float = 8.0
    decode_workers: Annotated[int, Field(ge=1, le=32)] = 2
    """Processes that decode key frames."""
    transcoders: Annotated[int, Field(ge=0, le=64)] = 2
    """Processes that make H.264 of what browsers cannot play."""
    pump: Literal["auto", "python", "compiled"] = "auto"
    inputs_directory: str = ""
    """Files may be played from below here; empty: none."""
    recording_queue_bytes: int = 64 * 1024 * 1024
    """Bytes that may wait for one disk."""
    log_level: str = "INFO"
    log_format: str = "text"
    """text or json, as the gateway's own log."""


class StreamReady(Record):
    """First key frame seen and codec known: pictures can be served."""

    type: Literal["stream_ready"] = "stream_ready"
    stream_id: StreamId
    video: VideoTrack | None
    audio: AudioTrack | None


class StreamIdle(Record):
    """No viewer and no sender for the grace time."""

    type: Literal["stream_idle"] = "stream_idle"
    stream_id: StreamId


class StreamLost(Record):
    """No RTP for ``no_rtp_timeout_s``, or the TCP connection ended. cause: no_rtp | connection_lost | dial_failed;
    inputs also: refused | not_found | ended (``detail`` says more)."""

    type: Literal["stream_lost"] = "stream_lost"
    stream_id: StreamId
    cause: str
    detail: str = ""


class StreamFault(Record):
    """Something an operator should know, at most once per stream and kind.

    kind: ssrc_mismatch | media_mismatch | foreign_source | codec_changed.
    """

    type: Literal["stream_fault"] = "stream_fault"
    stream_id: StreamId
    kind: str
    detail: str


class KeyFrameWanted(Record):
    """A viewer cannot show a picture without a new key frame. Rate limited by the node to one per 2 s and stream."""

    type: Literal["key_frame_wanted"] = "key_frame_wanted"
    stream_id: StreamId


class PlaybackEnded(Record):
    """A recording was sent to the end of its range; told once, and again only after it was moved or turned."""

    type: Literal["playback_ended"] = "playback_ended"
    stream_id: StreamId
    position_s: float


class PartWanted(Record):
    """A playing with awaited parts begins to read one of its files (told for those that are there too)."""

    type: Literal["part_wanted"] = "part_wanted"
    stream_id: StreamId
    path: str


class DownloadEnded(Record):
    """The files of a download are not read any more: it was sent, broken or forgotten."""

    type: Literal["download_ended"] = "download_ended"
    download_id: StreamId


class SenderEnded(Record):
    """A relay stopped by itself. cause: connection_lost | dial_failed | stream_closed."""

    type: Literal["sender_ended"] = "sender_ended"
    stream_id: StreamId
    sender_id: StreamId
    cause: str


class StreamWanted(Record):
    """A viewer's program asks for a channel by its fixed address; the gateway answers by ``POST /wanted/{id}``.

    ``device_id`` empty: the only device with that channel. ``user`` is an account that the node has checked, else
    ``token`` is an API token that the gateway has to check. ``host``: how the client named this node.
    """

    type: Literal["stream_wanted"] = "stream_wanted"
    request_id: StreamId
    channel_id: str
    device_id: str = ""
    stream_number: int = 0
    user: str = ""
    token: Annotated[str, Field(repr=False)] = ""
    source: str = ""
    host: str = ""


class WantedAnswer(Record):
    """What became of a StreamWanted: ``stream_id`` here, or ``location`` elsewhere, or a refusal.

    ``status`` is the one to answer with (HTTP and RTSP mean the same by 401, 403, 404, 409, 503 and 504).
    """

    status: Annotated[int, Field(ge=200, le=599)] = 200
    stream_id: StreamId | None = None
    location: Annotated[str, Field(repr=False)] = ""
    reason: str = ""


class ViewerRefused(Record):
    """Somebody could not prove that he may watch, at most one a second and kind.

    kind: rtsp_login | rtsp_token | rtsp_ticket | rtsp_locked.
    """

    type: Literal["viewer_refused"] = "viewer_refused"
    kind: str
    source: str
    user: str = ""


class ViewerEnded(Record):
    type: Literal["viewer_ended"] = "viewer_ended"
    stream_id: StreamId
    viewer_id: StreamId
    kind: str
    cause: str


class SegmentOpened(Record):
    """A recording began a file."""

    type: Literal["segment_opened"] = "segment_opened"
    stream_id: StreamId
    segment: SegmentInfo


class SegmentClosed(Record):
    """A file is finished and safe on its disk; with ``segment.complete`` False it was given up (cause write_failed)."""

    type: Literal["segment_closed"] = "segment_closed"
    stream_id: StreamId
    segment: SegmentInfo


class RecordingFault(Record):
    """A recording lost pictures or cannot write, at most once per 10 s, recording and kind.

    kind: write_failed | queue_full | no_disk | pre_event_cut. ``disk_id`` is empty when no disk is to blame.
    """

    type: Literal["recording_fault"] = "recording_fault"
    stream_id: StreamId
    recording_id: StreamId
    kind: str
    disk_id: str = ""
    detail: str = ""


class TalkUp(Record):
    """Sound can reach this leg's device."""

    type: Literal["talk_up"] = "talk_up"
    talk_id: StreamId
    leg_id: StreamId


class TalkLegEnded(Record):
    """A leg stopped by itself. cause: connection_lost | dial_failed | no_connection."""

    type: Literal["talk_leg_ended"] = "talk_leg_ended"
    talk_id: StreamId
    leg_id: StreamId
    cause: str


class TalkPlayed(Record):
    """All sound has been sent, up to the push of this ``number``."""

    type: Literal["talk_played"] = "talk_played"
    talk_id: StreamId
    number: int = 0


class TalkerGone(Record):
    """The browser with the microphone has left. cause: left | connection_failed | not_connected."""

    type: Literal["talker_gone"] = "talker_gone"
    talk_id: StreamId
    cause: str


class RecordingEnded(Record):
    """A recording stopped by itself: its stream has ended (``cause``)."""

    type: Literal["recording_ended"] = "recording_ended"
    stream_id: StreamId
    recording_id: StreamId
    cause: str


AnyInput = Annotated[RecordingInput | RtspInput | FileInput | TranscodeInput, Field(discriminator="kind")]
"""What ``POST /inputs`` takes: the union of all kinds, told apart by ``kind``."""

RecordingEvent = SegmentOpened | SegmentClosed | RecordingFault | RecordingEnded
TalkEvent = TalkUp | TalkLegEnded | TalkPlayed | TalkerGone

NodeEvent = Annotated[
    StreamReady
    | StreamIdle
    | StreamLost
    | StreamFault
    | KeyFrameWanted
    | SenderEnded
    | PlaybackEnded
    | PartWanted
    | DownloadEnded
    | ViewerEnded
    | StreamWanted
    | ViewerRefused
    | SegmentOpened
    | SegmentClosed
    | RecordingFault
    | RecordingEnded
    | TalkUp
    | TalkLegEnded
    | TalkPlayed
    | TalkerGone,
    Field(discriminator="type"),
]
