"""Key frames seen by the first packet of each frame, and when that may be trusted."""

from __future__ import annotations

from media.key_watch import KeyWatch
from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.runs import Run
from media.unit import AccessUnit, Codec


def runs(units: list[AccessUnit]) -> list[Run]:
    muxer, packetizer, result, index = PsMuxer(Codec.H264, Codec.PCMA), RtpPacketizer(1, 96, mtu=300), [], 0
    for unit in units:
        packets = packetizer.packets(muxer.mux(unit), unit.dts)
        buffer = bytearray(b"".join(packets))
        starts = [sum(len(p) for p in packets[:n]) for n in range(len(packets))]
        result.append(
            Run(
                buffer,
                memoryview(buffer),
                starts,
                [len(p) for p in packets],
                [unit.dts] * len(packets),
                index=index,
                payload_type=96,
                arrival=0.0,
            )
        )
        index += len(packets)
    return result


def test_key_frames_are_found_at_their_first_packet(h264_units: list[AccessUnit]) -> None:
    watch = KeyWatch()
    for run, unit in zip(runs(h264_units), h264_units, strict=True):
        assert watch.take(run) == ([run.index] if unit.key else [])
        watch.compare(unit.key, run.index, damaged=False)
    assert watch.trusted
    assert (watch.video_frames, watch.key_frames) == (50, 2)


def test_a_sender_without_system_headers_is_not_trusted(h264_units: list[AccessUnit]) -> None:
    watch = KeyWatch()
    for run in runs(h264_units):
        watch.take(run)
        watch.compare(True, run.index, damaged=False)
    assert not watch.trusted


def test_a_sender_that_marks_its_first_key_frame_only_is_found_out(h264_units: list[AccessUnit]) -> None:
    watch, all_runs = KeyWatch(), runs(h264_units)
    for run, unit in zip(all_runs, h264_units, strict=True):
        if run.index == 0 or not unit.key:
            watch.take(run)
        watch.compare(unit.key and run.index == 0, run.index, damaged=False)
    assert watch.trusted
    assert watch.doubt()
    assert not watch.trusted
    watch.compare(True, all_runs[25].index, damaged=False)
    assert not watch.trusted
    assert not watch.doubt()


def test_a_watch_in_doubt_is_trusted_again_after_two_more_key_frames(h264_units: list[AccessUnit]) -> None:
    watch, trusted = KeyWatch(), []
    for turn in range(2):
        for run, unit in zip(runs(h264_units), h264_units, strict=True):
            watch.take(run)
            watch.compare(unit.key, run.index, damaged=False)
        trusted.append(watch.trusted)
        assert watch.doubt() == (turn == 0)
    assert trusted == [True, True]
    assert watch.trusted


def test_sound_packs_are_told_from_pictures() -> None:
    watch = KeyWatch()
    for run in runs([AccessUnit(Codec.PCMA, n * 3600, n * 3600, False, b"\xd5" * 320) for n in range(3)]):
        assert watch.take(run) == []
    assert (watch.audio_frames, watch.video_frames) == (3, 0)
