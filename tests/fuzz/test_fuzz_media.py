"""Random and damaged media: parsers give units or nothing, never an exception, in bounded time and memory."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from media.access import probe
from media.content import Content
from media.ingest import Ingest
from media.ps import PsDemuxer
from media.ps_mux import PsMuxer
from media.rfc4571 import Deframer, frame
from media.rtp import RtpPacketizer, build, is_rtcp, parse, parse_sender_report
from media.specs import PayloadFormat
from media.ts import TsDemuxer
from media.unit import AccessUnit, Codec

SETS = b"\x00\x00\x00\x01\x67\x42\xc0\x1e\xd9\x00\xa0\x47\xfe\xc8\x00\x00\x00\x01\x68\xce\x3c\x80"
QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def program_stream(count: int = 6) -> list[bytes]:
    muxer = PsMuxer(Codec.H264, Codec.PCMA)
    packs = []
    for number in range(count):
        key = number % 3 == 0
        data = (
            SETS + b"\x00\x00\x00\x01\x65\x88" + bytes(range(2, 200))
            if key
            else b"\x00\x00\x00\x01\x41\x9a" + bytes(range(2, 90))
        )
        packs.append(muxer.mux(AccessUnit(Codec.H264, number * 3600, number * 3600, key, data)))
        packs.append(muxer.mux(AccessUnit(Codec.PCMA, number * 3600, number * 3600, False, b"\xd5" * 160)))
    return packs


def check(units: list[AccessUnit]) -> None:
    for unit in units:
        assert isinstance(unit.data, bytes)
        assert unit.pts >= unit.dts >= 0


@QUICK
@given(st.binary(max_size=2000))
def test_any_bytes_are_a_packet_or_none(data: bytes) -> None:
    packet = parse(data)
    assert packet is None or len(packet.payload) <= len(data) - 12
    is_rtcp(data)
    parse_sender_report(data)
    probe(data)


@QUICK
@given(st.lists(st.binary(max_size=400), max_size=12), st.booleans(), st.booleans())
def test_any_bytes_as_a_program_stream(pieces: list[bytes], gap: bool, end: bool) -> None:
    demuxer, transport = PsDemuxer(), TsDemuxer()
    for number, piece in enumerate(pieces):
        check(demuxer.feed(b"\x00\x00\x01\xba" + piece, number, gap=gap, end=end, now=number))
        check(transport.feed(piece, number, gap=gap, now=number))
    check(demuxer.flush())


@QUICK
@given(st.integers(0, 1 << 32), st.integers(1, 30), st.integers(1, 1500))
def test_a_damaged_program_stream(seed: int, hits: int, size: int) -> None:
    noise = random.Random(seed)
    data = bytearray(b"".join(program_stream()))
    for _ in range(hits):
        at = noise.randrange(len(data))
        action = noise.randrange(3)
        if action == 0:
            data[at] = noise.randrange(256)
        elif action == 1:
            del data[at : at + noise.randrange(1, 60)]
        else:
            data[at:at] = noise.choice(
                [b"\x00\x00\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xe0\x00\x00", noise.randbytes(9)]
            )
        data = data or bytearray(b"\0")
    demuxer = PsDemuxer()
    for at in range(0, len(data), size):
        check(
            demuxer.feed(
                bytes(data[at : at + size]), at, gap=noise.random() < 0.1, end=noise.random() < 0.5, now=at
            )
        )
    check(demuxer.flush())


@QUICK
@given(st.integers(0, 1 << 32), st.integers(1, 5000))
def test_a_damaged_rtp_stream_over_tcp(seed: int, step: int) -> None:
    noise = random.Random(seed)
    packetizer = RtpPacketizer(7, 96, mtu=200)
    data = bytearray(
        b"".join(
            frame(p) for n, pack in enumerate(program_stream()) for p in packetizer.packets(pack, n * 3600)
        )
    )
    for _ in range(noise.randrange(12)):
        at = noise.randrange(len(data))
        if noise.random() < 0.5:
            data[at] = noise.randrange(256)
        else:
            del data[at : at + noise.randrange(1, 400)]
    deframer = Deframer()
    units: list[AccessUnit] = []
    content = Content(payloads=(PayloadFormat(number=96),), publish=lambda unit, first: units.append(unit))
    ingest = Ingest(ssrc=7, deliver=content.take)
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        deframer.space()[: len(piece)] = piece
        spans = [span for span in deframer.advance(len(piece)) if span[1] >= 12]
        ingest.feed(deframer.buffer, deframer.view, [s for s, _ in spans], [n for _, n in spans], at / 1e4)
    ingest.flush(1e3)
    content.flush(1e3)
    check(units)


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 3), st.binary(max_size=60)), max_size=60),
    st.sampled_from(["PS", "H264", "H265", "AAC", "PCMA"]),
)
def test_any_sequence_of_rtp_packets(entries: list[tuple[int, int, bytes]], encoding: str) -> None:
    units: list[AccessUnit] = []
    formats = (PayloadFormat(number=96, encoding=encoding),)
    content = Content(payloads=formats, publish=lambda unit, first: units.append(unit))
    ingest = Ingest(ssrc=None, deliver=content.take)
    for number, (sequence, ssrc, payload) in enumerate(entries):
        packet = bytearray(build(96, sequence, number // 3 * 3600, ssrc, payload, marker=number % 3 == 2))
        ingest.feed(packet, memoryview(packet), [0], [len(packet)], number * 0.05)
    ingest.flush(100.0)
    content.flush(100.0)
    check(units)


@pytest.mark.parametrize(
    "data",
    [
        bytes(3_000_000),
        b"\x00\x00\x01" * 700_000,
        b"\x00\x00\x01\xba" * 500_000,
        b"\x00\x00\x01\xe0\x00\x00\x80" * 300_000,
        b"\x00\x00\x01\xbc\xff\xff" * 300_000,
        b"\x80" * 3_000_000,
        b"\x24" * 3_000_000,
    ],
    ids=["zeros", "prefixes", "packs", "pes", "maps", "versions", "dollars"],
)
def test_hostile_repetitions_cost_bounded_time(data: bytes) -> None:
    started = time.process_time()
    demuxer = PsDemuxer()
    for at in range(0, len(data), 1400):
        demuxer.feed(
            b"\x00\x00\x01\xba" + data[at : at + 1400] if at == 0 else data[at : at + 1400], at, end=True
        )
    Deframer().feed(data)
    assert time.process_time() - started < 40
