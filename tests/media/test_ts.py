"""MPEG-TS: packets in order, tables repeated, a clock that is never late, and the pictures that went in."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from decoded import decode, ffprobe, source_hashes

from media.readers.fanout import Chunk
from media.readers.ts import LEAD_TICKS, TransportMuxer
from media.specs import AudioTrack
from media.ts import TsDemuxer
from media.ts_mux import AUDIO_PID, PMT_PID, VIDEO_PID, TsMuxer, crc32
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, tone

PICTURES = {
    "h264": TestPicture(352, 288),
    "h264 b-frames": TestPicture(352, 288, preset="veryfast", b_frames=2),
    "h265": TestPicture(352, 288, codec="h265"),
    "h265 b-frames": TestPicture(352, 288, codec="h265", preset="veryfast", b_frames=2),
}


def interleaved(*lists: list[AccessUnit]) -> list[AccessUnit]:
    return sorted((unit for units in lists for unit in units), key=lambda unit: unit.dts)


def chunks_of(units: list[AccessUnit], audio: str | None = None) -> list[Chunk]:
    muxer = TransportMuxer(with_audio=audio is not None)
    if audio is not None:
        muxer.expect_audio(AudioTrack(codec=audio))
    return [chunk for unit in units for chunk in muxer.feed(unit)]


def file_of(units: list[AccessUnit], audio: str | None = None) -> bytes:
    return b"".join(chunk.data for chunk in chunks_of(units, audio))


def packets(data: bytes) -> dict[int, list[bytes]]:
    """Whole packets by PID; sync bytes and continuity are checked."""
    assert len(data) % 188 == 0
    found: dict[int, list[bytes]] = defaultdict(list)
    for at in range(0, len(data), 188):
        packet = data[at : at + 188]
        assert packet[0] == 0x47
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if found[pid]:
            assert packet[3] & 15 == found[pid][-1][3] + 1 & 15, f"continuity of {pid:#x}"
        found[pid].append(packet)
    return found


def clock_of(packet: bytes) -> int | None:
    """The program clock reference in 90 kHz ticks."""
    if not packet[3] & 0x20 or packet[4] == 0 or not packet[5] & 0x10:
        return None
    base, low = struct.unpack_from(">IB", packet, 6)
    return base << 1 | low >> 7


def dts_of(packet: bytes) -> int | None:
    """The decoding time in a packet that begins a PES packet."""
    if not packet[1] & 0x40:
        return None
    at = 5 + packet[4] if packet[3] & 0x20 else 4
    both = packet[at + 7] & 0x40
    stamp = packet[at + 14 : at + 19] if both else packet[at + 9 : at + 14]
    return (stamp[0] >> 1 & 7) << 30 | stamp[1] << 22 | (stamp[2] >> 1) << 15 | stamp[3] << 7 | stamp[4] >> 1


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_comes_out_as_it_went_in_and_the_sound_is_in_step(name: str) -> None:
    units = PICTURES[name].encoded_loop(3)
    data = file_of(interleaved(units, tone(3)), "pcma")
    found = decode(data, "mpegts")
    assert found.codecs == [units[0].codec.value.replace("h265", "hevc"), "aac"]
    assert found.hashes == source_hashes(units)
    assert found.frames == list(range(75))
    assert len(found.sync_s) == 3
    assert max(map(abs, found.sync_s)) < 0.1


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize("name", ["h264 b-frames", "h265"])
def test_ffprobe_reads_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "live.ts"
    path.write_bytes(file_of(interleaved(PICTURES[name].encoded_loop(2), tone(2)), "pcma"))
    (video, audio), complaints = ffprobe(path)
    assert complaints == ""
    assert (video["width"], video["height"], int(video["nb_read_frames"])) == (352, 288, 50)
    assert (audio["codec_name"], audio["profile"], audio["sample_rate"]) == ("aac", "LC", "8000")


def test_packets_tables_and_clock() -> None:
    chunks = chunks_of(interleaved(PICTURES["h264"].encoded_loop(4), tone(4)), "pcma")
    found = packets(b"".join(chunk.data for chunk in chunks))
    assert set(found) == {0, PMT_PID, VIDEO_PID, AUDIO_PID}
    assert len(found[0]) == len(found[PMT_PID]) >= 8, "every half second, and at each key frame"
    for packet in (*found[0], *found[PMT_PID]):
        size = (packet[6] & 0x0F) << 8 | packet[7]
        assert crc32(packet[5 : 8 + size]) == 0
        assert packet[8 + size :] == b"\xff" * (180 - size)
    for chunk in chunks:
        if chunk.key:
            assert [chunk.data[at + 2] for at in (0, 188, 376)] == [0, PMT_PID & 0xFF, VIDEO_PID & 0xFF]
            assert chunk.data[376 + 5] & 0x40, "random access"
    clocks = [clock for packet in found[VIDEO_PID] if (clock := clock_of(packet)) is not None]
    times = [time for packet in found[VIDEO_PID] if (time := dts_of(packet)) is not None]
    assert len(clocks) == len(times) == 100
    assert [time - clock for time, clock in zip(times, clocks, strict=True)] == [LEAD_TICKS] * 100
    assert max(after - before for before, after in pairwise(clocks)) <= 9000


def test_sound_is_never_later_than_the_clock() -> None:
    """What the clock has passed is thrown away by receivers that play by it."""
    clock, late = 0, []
    units = interleaved(PICTURES["h264"].encoded_loop(4), tone(4))
    data = file_of(units, "pcma")
    for at in range(0, len(data), 188):
        packet = data[at : at + 188]
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid == VIDEO_PID:
            clock = clock_of(packet) or clock
        elif pid == AUDIO_PID and (time := dts_of(packet)) is not None:
            late.append(clock - time)
    assert late
    assert max(late) < 0


def test_our_own_demuxer_reads_it() -> None:
    units = interleaved(PICTURES["h265"].encoded_loop(2), tone(2))
    demuxer = TsDemuxer()
    out = demuxer.feed(file_of(units, "pcma"), None, now=1.0)
    pictures = [unit for unit in out if unit.codec is Codec.H265]
    assert demuxer.resyncs == 0
    assert [unit.key for unit in pictures] == [unit.key for unit in units if unit.codec.is_video][
        : len(pictures)
    ]
    assert len(pictures) >= 49
    assert {unit.codec for unit in out} == {Codec.H265, Codec.AAC}


def test_another_size_goes_on_and_another_codec_ends_the_file() -> None:
    small, large = TestPicture(352, 288).encoded_loop(0.4), TestPicture(704, 576).encoded_loop(0.4)
    later = [replace(unit, pts=unit.pts + 36000, dts=unit.dts + 36000) for unit in large]
    chunks = chunks_of(small + later)
    assert len({chunk.head for chunk in chunks}) == 1
    found = decode(b"".join(chunk.data for chunk in chunks), "mpegts")
    assert found.hashes == source_hashes(small) + source_hashes(large)
    other = [
        replace(unit, pts=unit.pts + 36000, dts=unit.dts + 36000)
        for unit in PICTURES["h265"].encoded_loop(0.4)
    ]
    heads = list(dict.fromkeys(chunk.head for chunk in chunks_of(small + other)))
    assert len(heads) == 2
    assert heads[1].after(heads[0]) is None


@pytest.mark.parametrize("size", [*range(150, 200), 360, 368, 65_500, 65_600])
def test_any_size_of_picture_and_sound_fills_whole_packets(size: int) -> None:
    muxer = TsMuxer(lead=0)
    muxer.begin(Codec.H264, audio=True)
    picture = b"\x00\x00\x00\x01\x65" + bytes(index * 7 & 0xFF | 1 for index in range(size))
    found = packets(muxer.picture(9000, 9000, picture, key=True) + muxer.sound(9000, picture))
    for pid in (VIDEO_PID, AUDIO_PID):
        payload = b"".join(
            packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:] for packet in found[pid]
        )
        assert payload.endswith(picture)
        length = int.from_bytes(payload[4:6], "big")
        assert length == (len(payload) - 6 if len(payload) - 6 <= 0xFFFF else 0)


def test_clocks_wrap_at_33_bits() -> None:
    muxer = TsMuxer(lead=3600)
    muxer.begin(Codec.H264, audio=False)
    end = (1 << 33) - 1800
    (packet,) = packets(muxer.picture(end, end + 7200, b"\x00\x00\x01\x65\x88", key=True))[VIDEO_PID]
    assert clock_of(packet) == end
    assert dts_of(packet) == 1800
