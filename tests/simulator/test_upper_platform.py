"""The simulated upper judges what it receives: a checker that never complains would prove nothing."""

from __future__ import annotations

import asyncio
import socket

import pytest

from media.ps_mux import PsMuxer
from media.rfc4571 import frame
from media.rtp import RtpPacketizer, build, parse
from media.unit import Codec
from simulator.picture import TestPicture as Picture
from simulator.upper_pull import MediaPort

SSRC = 100000001


@pytest.fixture(scope="module")
def packs() -> list[tuple[bytes, int]]:
    """Two seconds of pictures as PS packs with their RTP timestamps."""
    muxer = PsMuxer(Codec.H264)
    picture = Picture(320, 192, 25, "h264", 200_000, 25, "test")
    return [(muxer.mux(unit), unit.pts) for unit in picture.encoded_loop(2.0)]


def packets(packs: list[tuple[bytes, int]]) -> list[bytes]:
    packetizer = RtpPacketizer(SSRC, 96, sequence=65_500)
    return [packet for data, pts in packs for packet in packetizer.packets(data, pts & 0xFFFFFFFF)]


async def receive(stream: list[bytes], count: int, transport: str = "udp") -> MediaPort:
    """Send the packets to a fresh port over a socket and wait until ``count`` arrived."""
    port = MediaPort(transport)
    port.start()
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as out:
        await asyncio.to_thread(out.connect, (port.host, port.port))
        for number, packet in enumerate(stream):
            if transport == "udp":
                out.send(packet)
            else:
                await asyncio.to_thread(out.sendall, frame(packet))
            if number % 20 == 0:
                await asyncio.sleep(0.002)
        await port.wait_packets(count)
        await asyncio.sleep(0.1)
    await port.close()
    return port


@pytest.mark.parametrize("transport", ["udp", "tcp_passive"])
async def test_a_clean_stream_is_found_clean(packs: list[tuple[bytes, int]], transport: str) -> None:
    stream = packets(packs)
    stats = (await receive(stream, len(stream), transport)).stats
    assert (stats.lost, stats.repeated, stats.reordered, stats.strange) == (0, 0, 0, 0)
    assert (stats.timestamp_faults, stats.structure_faults, stats.decode_errors) == (0, 0, 0)
    assert stats.rtp_frames == 50
    assert stats.frames >= 48
    assert stats.key_units == 2
    assert (stats.width, stats.height, stats.codec) == (320, 192, "h264")
    assert stats.ssrcs == {SSRC: len(stream)}
    assert stats.first_key_first is True


async def test_losses_and_repetitions_are_counted(packs: list[tuple[bytes, int]]) -> None:
    stream = packets(packs)
    broken = [*stream[:10], *stream[13:30], stream[29], *stream[30:]]
    stats = (await receive(broken, len(broken))).stats
    assert (stats.lost, stats.repeated) == (3, 1)


async def test_two_frames_under_one_timestamp_are_a_fault(packs: list[tuple[bytes, int]]) -> None:
    same = [(data, packs[index // 2 * 2][1]) for index, (data, _) in enumerate(packs)]
    stream = packets(same)
    stats = (await receive(stream, len(stream))).stats
    assert stats.timestamp_faults == 25


async def test_a_frame_over_two_timestamps_is_a_fault(packs: list[tuple[bytes, int]]) -> None:
    stream = packets(packs)
    first = [parse(packet) for packet in stream]
    torn = [
        build(96, p.sequence, p.timestamp + (index % 2), p.ssrc, bytes(p.payload), marker=p.marker)
        for index, p in enumerate(first)
        if p is not None
    ]
    stats = (await receive(torn, len(torn))).stats
    assert stats.timestamp_faults > 0


async def test_a_key_frame_without_map_is_a_fault(packs: list[tuple[bytes, int]]) -> None:
    bare = [(_without_map(data), pts) for data, pts in packs]
    stream = packets(bare)
    stats = (await receive(stream, len(stream))).stats
    assert stats.structure_faults == stats.key_units > 0


async def test_a_late_start_is_not_called_a_key_frame(packs: list[tuple[bytes, int]]) -> None:
    stream = packets(packs[5:])
    stats = (await receive(stream, len(stream))).stats
    assert stats.first_key_first is False
    assert 0 < stats.frames < 40


async def test_waiting_for_pictures_that_do_not_come_says_what_came() -> None:
    port = MediaPort("udp")
    port.start()
    with pytest.raises(TimeoutError, match="packets=0"):
        await port.wait_frames(1, timeout_s=0.2)
    await port.close()


def _without_map(data: bytes) -> bytes:
    at = data.find(b"\x00\x00\x01\xbc")
    if at < 0:
        return data
    length = int.from_bytes(data[at + 4 : at + 6], "big")
    return data[:at] + data[at + 6 + length :]
