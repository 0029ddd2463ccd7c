"""Frames out of packets: timestamps, markers, containers, elementary payloads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import pytest

from media.content import Content
from media.es import adts_header
from media.ingest import Ingest
from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer, build
from media.specs import PayloadFormat
from media.unit import AccessUnit, Codec

PS = (PayloadFormat(number=96),)


@dataclass
class Session:
    """Ingest and content as the node wires them."""

    payloads: tuple[PayloadFormat, ...] = PS
    units: list[AccessUnit] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.content = Content(
            payloads=self.payloads,
            publish=self.publish,
            on_fault=lambda kind, detail: self.faults.append((kind, detail)),
        )
        self.ingest = Ingest(ssrc=None, deliver=self.content.take)

    def publish(self, unit: AccessUnit, first: int) -> None:
        self.units.append(unit)
        self.firsts.append(first)

    def feed(self, packets: Sequence[bytes], step: float = 0.04) -> None:
        """One read's worth of packets, side by side as the pump finds them."""
        if not packets:
            return
        buffer = bytearray(b"".join(packets))
        sizes = [len(packet) for packet in packets]
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        self.ingest.feed(buffer, memoryview(buffer), starts, sizes, self.now)
        self.now += step

    @property
    def pictures(self) -> list[bytes]:
        return [unit.data for unit in self.units if unit.codec.is_video]


def without_markers(packets: list[bytes]) -> list[bytes]:
    return [packet[:1] + bytes((packet[1] & 0x7F,)) + packet[2:] for packet in packets]


@pytest.mark.gb("G213")
@pytest.mark.parametrize("markers", ["right", "none", "all"])
def test_frames_end_on_a_change_of_timestamp(h264_units: list[AccessUnit], markers: str) -> None:
    session, muxer, packetizer = Session(), PsMuxer(Codec.H264), RtpPacketizer(1, 96, mtu=300)
    for unit in h264_units:
        packets = packetizer.packets(muxer.mux(unit), unit.dts)
        if markers == "none":
            packets = without_markers(packets)
        elif markers == "all":
            packets = [packet[:1] + bytes((packet[1] | 0x80,)) + packet[2:] for packet in packets]
        for at in range(0, len(packets), 3):  # the reads do not respect frames
            session.feed(packets[at : at + 3], 0.04 / len(packets))
    session.content.flush(session.now)
    assert session.pictures == [unit.data for unit in h264_units]
    assert not any(unit.damaged for unit in session.units)


@pytest.mark.gb("G213")
def test_a_marker_that_has_proven_right_ends_the_frame_at_once(h264_units: list[AccessUnit]) -> None:
    session, muxer, packetizer = Session(), PsMuxer(Codec.H264), RtpPacketizer(1, 96)
    delays = []
    for number, unit in enumerate(h264_units[:10]):
        session.feed(packetizer.packets(muxer.mux(unit), unit.dts))
        delays.append(number + 1 - len(session.pictures))
    assert delays == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_the_first_packet_of_each_unit_is_known(h264_units: list[AccessUnit]) -> None:
    session, muxer, packetizer = Session(), PsMuxer(Codec.H264), RtpPacketizer(1, 96, mtu=500)
    firsts, count = [], 0
    for unit in h264_units:
        packets = packetizer.packets(muxer.mux(unit), unit.dts)
        firsts.append(count)
        count += len(packets)
        session.feed(packets)
    session.content.flush(session.now)
    assert session.firsts == firsts


@pytest.mark.quirk(40)
def test_an_rtp_timestamp_that_never_changes(h264_units: list[AccessUnit]) -> None:
    session, muxer, packetizer = Session(), PsMuxer(Codec.H264), RtpPacketizer(1, 96)
    for unit in h264_units:
        session.feed(without_markers(packetizer.packets(muxer.mux(unit), 7)))
    session.content.flush(session.now)
    assert session.pictures == [unit.data for unit in h264_units]


@pytest.mark.quirk(46)
def test_a_transport_stream_where_a_program_stream_was_promised(h264_units: list[AccessUnit]) -> None:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mpegts") as container:
        stream = container.add_mux_stream("h264", rate=25, width=320, height=240)
        stream.time_base = Fraction(1, 90000)
        for unit in h264_units:
            packet = av.Packet(unit.data)
            packet.pts = packet.dts = unit.dts
            packet.stream, packet.is_keyframe, packet.time_base = stream, unit.key, stream.time_base
            container.mux(packet)
    data = sink.getvalue()
    assert data[0] == data[188] == 0x47
    session, packetizer = Session(), RtpPacketizer(1, 33, mtu=7 * 188)  # payload type 33, SDP said PS/96
    for number, at in enumerate(range(0, len(data), 7 * 188)):
        session.feed(packetizer.packets(data[at : at + 7 * 188], number * 900), 0.01)
    assert session.faults == [("media_mismatch", "payload_type=33 payload=MPEG-TS")]
    assert [unit.codec for unit in session.units[:1]] == [Codec.H264]
    assert session.units[0].key
    assert len(session.pictures) >= len(h264_units) - 1
    with av.open(io.BytesIO(b"".join(session.pictures)), format="h264") as container:
        assert sum(1 for _ in container.decode(video=0)) >= len(h264_units) - 1


@pytest.mark.quirk(46)
def test_a_payload_that_is_nothing_known_is_reported_once() -> None:
    session, packetizer = Session(), RtpPacketizer(1, 96)
    for number in range(100):
        session.feed(packetizer.packets(b"\x12\x34\x56\x78" * 100, number * 3600))
    assert [kind for kind, _ in session.faults] == ["media_mismatch"]
    assert session.units == []


def nal_units(unit: AccessUnit) -> list[bytes]:
    return [
        nal for nal in unit.data.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01") if nal
    ]


def h264_payloads(nal: bytes, size: int = 400) -> list[bytes]:
    """RFC 6184: one single NAL packet, or FU-A."""
    if len(nal) <= size:
        return [nal]
    pieces = [nal[at : at + size] for at in range(1, len(nal), size)]
    last = len(pieces) - 1
    return [
        bytes((nal[0] & 0xE0 | 28, (n == 0) << 7 | (n == last) << 6 | nal[0] & 0x1F)) + piece
        for n, piece in enumerate(pieces)
    ]


def h265_payloads(nal: bytes, size: int = 400) -> list[bytes]:
    """RFC 7798: one single NAL packet, or FU."""
    if len(nal) <= size:
        return [nal]
    pieces = [nal[at : at + size] for at in range(2, len(nal), size)]
    last = len(pieces) - 1
    return [
        bytes((nal[0] & 0x81 | 49 << 1, nal[1], (n == 0) << 7 | (n == last) << 6 | nal[0] >> 1 & 0x3F))
        + piece
        for n, piece in enumerate(pieces)
    ]


def packetize(payloads: list[bytes], number: int, stamp: int, sequence: int) -> list[bytes]:
    last = len(payloads) - 1
    return [
        build(number, sequence + n, stamp, 1, payload, marker=n == last) for n, payload in enumerate(payloads)
    ]


@pytest.mark.gb("G218")
@pytest.mark.parametrize(("codec", "number"), [(Codec.H264, 98), (Codec.H265, 100)])
def test_elementary_video_by_rtpmap(
    codec: Codec, number: int, h264_units: list[AccessUnit], h265_units: list[AccessUnit]
) -> None:
    units = h264_units if codec is Codec.H264 else h265_units
    cut = h264_payloads if codec is Codec.H264 else h265_payloads
    session = Session((PayloadFormat(number=number, encoding=codec.upper()),))
    sequence = 0
    for unit in units:
        packets = packetize([p for nal in nal_units(unit) for p in cut(nal)], number, unit.dts, sequence)
        sequence += len(packets)
        session.feed(packets)
    session.content.flush(session.now)
    assert [nal_units(unit) for unit in session.units] == [nal_units(unit) for unit in units]
    assert [unit.key for unit in session.units] == [unit.key for unit in units]
    assert [unit.dts for unit in session.units] == [unit.dts for unit in units]


@pytest.mark.gb("G218")
def test_aggregated_parameter_sets_and_a_lost_fragment() -> None:
    sps, pps = bytes.fromhex("6742c01ed900a047fec8"), bytes.fromhex("68ce3c80")
    idr, inter = b"\x65\x88" + bytes(range(1, 200)), b"\x41\x9a" + bytes(range(1, 200))
    stap = b"\x78" + len(sps).to_bytes(2, "big") + sps + len(pps).to_bytes(2, "big") + pps
    session = Session((PayloadFormat(number=98, encoding="H264"),))
    session.feed(packetize([stap, *h264_payloads(idr, 50)], 98, 0, 0))
    broken = packetize(h264_payloads(inter, 50), 98, 3600, 5)
    session.feed(broken[:1] + broken[2:])
    session.now = 1.0
    session.ingest.tick(session.now)
    session.feed(packetize([inter], 98, 7200, 5 + len(broken)))  # whole, but its reference is lost
    session.feed(packetize([stap, idr], 98, 10800, 6 + len(broken)))
    session.content.flush(session.now)
    assert [(unit.key, unit.damaged) for unit in session.units] == [
        (True, False),
        (False, True),
        (True, False),
    ]


@pytest.mark.gb("G218")
def test_elementary_sound_by_rtpmap() -> None:
    session = Session((PayloadFormat(number=8, encoding="PCMA", clock_rate_hz=8000),))
    for n in range(5):
        session.feed([build(8, n, n * 160, 1, b"\xd5" * 160)], 0.02)
    session.content.flush(session.now)
    assert [(unit.codec, unit.data) for unit in session.units] == [(Codec.PCMA, b"\xd5" * 160)] * 5
    assert [unit.pts for unit in session.units] == [0, 1800, 3600, 5400, 7200]

    session = Session((PayloadFormat(number=102, encoding="AAC", clock_rate_hz=8000),))
    frames = [bytes((n,)) * 20 for n in range(2)]
    body = (
        (32).to_bytes(2, "big")
        + b"".join((len(frame) << 3).to_bytes(2, "big") for frame in frames)
        + b"".join(frames)
    )
    session.feed([build(102, 0, 0, 1, body)])
    session.content.flush(session.now)
    (unit,) = session.units
    assert unit.codec is Codec.AAC
    assert unit.data == adts_header(20, 8000) + frames[0] + adts_header(20, 8000) + frames[1]


def feed_units(session: Session, units: Sequence[AccessUnit], number: int = 96, sequence: int = 0) -> None:
    muxer, packetizer = PsMuxer(units[0].codec), RtpPacketizer(1, number, sequence=sequence)
    for unit in units:
        session.feed(packetizer.packets(muxer.mux(unit), unit.dts))
    session.content.flush(session.now)


@pytest.mark.quirk(46)
@pytest.mark.parametrize(
    ("formats", "number", "detail"),
    [
        ((PayloadFormat(number=98, encoding="H264"),), 98, "payload_type=98 negotiated=H264 payload=PS"),
        (PS, 99, "payload_type=99 payload=PS not negotiated"),
    ],
)
def test_a_program_stream_under_another_name_is_played(
    h264_units: list[AccessUnit], formats: tuple[PayloadFormat, ...], number: int, detail: str
) -> None:
    session = Session(formats)
    feed_units(session, h264_units, number)
    assert session.pictures == [unit.data for unit in h264_units]
    assert session.faults == [("media_mismatch", detail)]


@pytest.mark.gb("G218")
def test_the_answer_may_choose_another_payload(h264_units: list[AccessUnit]) -> None:
    session = Session((PayloadFormat(number=96), PayloadFormat(number=98, encoding="H264")))
    session.content.renegotiate((PayloadFormat(number=98, encoding="H265"),))
    payload = b"\x26\x01\xaf" + bytes(30)
    session.feed(packetize([payload], 98, 0, 0))
    session.content.renegotiate((PayloadFormat(number=98, encoding="H264"),))
    sequence = 1
    for unit in h264_units:
        packets = packetize(
            [p for nal in nal_units(unit) for p in h264_payloads(nal)], 98, unit.dts, sequence
        )
        sequence += len(packets)
        session.feed(packets)
    session.content.flush(session.now)
    assert [nal_units(unit) for unit in session.units if unit.codec is Codec.H264] == [
        nal_units(u) for u in h264_units
    ]


def test_g711_of_a_static_number_needs_no_rtpmap() -> None:
    session = Session(())
    for n in range(3):
        session.feed([build(8, n, n * 160, 1, b"\xd5" * 160)])
    session.content.flush(session.now)
    assert [unit.codec for unit in session.units] == [Codec.PCMA] * 3


def test_a_session_that_starts_inside_a_transport_packet_is_found_out() -> None:
    session = Session()
    packetizer = RtpPacketizer(1, 96)
    session.feed(packetizer.packets(bytes(1000), 0))
    ts = (b"\x47\x1f\xff\x10" + bytes(184)) * 7
    for n in range(1, 6):
        session.feed(packetizer.packets(ts, n * 900))
    assert session.faults == [("media_mismatch", "payload_type=96 payload=MPEG-TS")]
