"""The records that cross the line between the gateway and a media node.

Plain values only: ids, addresses, numbers. A media node knows streams, not cameras or SIP dialogs.
Every record is a frozen pydantic model; it travels as JSON over the control API (see media/client.py).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

StreamId = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
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


class ReceiverSpec(Record):
    """Ask a node to open one receiving stream.

    ``ssrc`` is what we offered (None: learn it from the first valid packet). ``remote_host`` narrows the
    source of UDP packets and TCP connections where known. ``shared_port`` puts the stream on the node's
    single receiving port, keyed by SSRC and source.
    """

    stream_id: StreamId
    transport: Transport = Transport.UDP
    ssrc: Ssrc | None = None
    remote_host: str | None = None
    payloads: tuple[PayloadFormat, ...] = (PayloadFormat(number=96),)
    shared_port: bool = False
    no_rtp_timeout_s: float = 15.0
    idle_grace_s: float = 10.0


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
    last_packet_age_s: float | None = None
    media_mismatch: str | None = None


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
    pump: str = "python"
    gso: bool = False
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
    webrtc_port_min: Port = 24000
    webrtc_port_max: Port = 24999
    ticket_secret: str
    port_quarantine_s: float = 30.0
    reorder_window_s: float = 0.2
    gop_cache_bytes: int = 8 * 1024 * 1024
    reader_queue_units: int = 512
    snapshot_timeout_s: float = 8.0
    log_level: str = "INFO"


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


class SenderEnded(Record):
    """A relay stopped by itself. cause: connection_lost | dial_failed | stream_closed."""

    type: Literal["sender_ended"] = "sender_ended"
    stream_id: StreamId
    sender_id: StreamId
    cause: str


class ViewerEnded(Record):
    type: Literal["viewer_ended"] = "viewer_ended"
    stream_id: StreamId
    viewer_id: StreamId
    kind: str
    cause: str


class SegmentInfo(Record):
    """One recorded file, as the node's events and the gateway's index describe it (media/segments.py has the format).

    ``start`` and ``end`` are UTC unix seconds with fractions; media time t of the file is wall-clock ``start + t``.
    ``path`` is relative to the directory of ``disk_id``, with ``/``. ``device_id`` and ``channel_id`` are labels
    that name the folder. ``frames`` counts pictures. ``complete`` False: the file is being written, or was torn
    and not yet mended; ``end`` and ``bytes`` are then what is known so far. ``cause`` says why it was closed:
    length | stopped | stream_ended | format_changed | time_jump | write_failed | recovered.
    """

    segment_id: StreamId
    recording_id: StreamId
    device_id: StreamId
    channel_id: StreamId
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


AnyInput = InputSpec
"""What ``POST /inputs`` takes: the union of all kinds, told apart by ``kind``."""

NodeEvent = Annotated[
    StreamReady | StreamIdle | StreamLost | StreamFault | KeyFrameWanted | SenderEnded | ViewerEnded,
    Field(discriminator="type"),
]
