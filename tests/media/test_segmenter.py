"""Where recorded files begin and end, and what is in them: decoded and compared with what went in. No disk thread yet."""

from __future__ import annotations

import hashlib
import io
import itertools
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from media import segments
from media.readers.segmenter import Closed, Opened, Piece, Segment, Segmenter, Step, WallClock, access_table
from media.specs import AudioTrack, SegmentInfo
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, tone

EPOCH = 1_795_312_800.0  # 2026-11-22 02:00 UTC, a border of files
PICTURES = {
    "h264": TestPicture(352, 288, gop=25),
    "h264 b-frames": TestPicture(352, 288, gop=25, preset="veryfast", b_frames=2),
    "h265": TestPicture(352, 288, codec="h265", gop=25),
}


def stream_of(
    picture: TestPicture, seconds: float, *, audio: bool = False, at: float = 0.0
) -> list[AccessUnit]:
    """Units that arrive when they are due; ``at``: seconds after `EPOCH`."""
    units = picture.encoded_loop(seconds) + (tone(seconds) if audio else [])
    units.sort(key=lambda unit: unit.dts)
    first = units[0].dts
    return [replace(unit, arrival_mono=at + (unit.dts - first) / 90_000) for unit in units]


def segmenter_of(segment_s: float = 5.0, *, audio: bool = False) -> Segmenter:
    segmenter = Segmenter(segment_s=segment_s, wall_of=lambda mono: EPOCH + mono)
    if audio:
        segmenter.expect_audio(AudioTrack(codec="pcma"))
    return segmenter


def info_of(segment: Segment, **values: object) -> SegmentInfo:
    return SegmentInfo.model_validate(
        {
            "segment_id": "aa", "recording_id": "r", "device_id": "41018300001320000001",
            "channel_id": "41018300001320000001", "disk_id": "d", "path": "x.mp4", "start": segment.start,
            "end": segment.start, **values,
        }
    )  # fmt: skip


def files_of(steps: list[Step]) -> list[tuple[Segment, bytes, str]]:
    """Each closed segment with its bytes and why it ended."""
    data: dict[Segment, bytearray] = {}
    groups: dict[Segment, list[tuple[int, int]]] = {}
    out = []
    for step in steps:
        if isinstance(step, Opened):
            data[step.segment] = bytearray(step.segment.init + segments.about_box(info_of(step.segment)))
            groups[step.segment] = []
        elif isinstance(step, Piece):
            if step.key:
                groups[step.segment].append((step.at_ticks, len(data[step.segment])))
            data[step.segment] += step.data
        elif isinstance(step, Closed):
            out.append(
                (step.segment, bytes(data[step.segment] + access_table(groups[step.segment])), step.cause)
            )
    return out


def recorded(segmenter: Segmenter, units: list[AccessUnit]) -> list[tuple[Segment, bytes, str]]:
    return files_of([step for unit in units for step in segmenter.push(unit)] + segmenter.finish("stopped"))


def hashes(frames: list[av.VideoFrame]) -> list[str]:
    return [hashlib.sha256(frame.to_ndarray(format="gray").tobytes()).hexdigest() for frame in frames]


def decode(units: list[AccessUnit]) -> list[av.VideoFrame]:
    decoder = av.CodecContext.create("h264" if units[0].codec is Codec.H264 else "hevc", "r")
    return [frame for unit in units for frame in decoder.decode(av.Packet(unit.data))] + decoder.decode(None)


def frames_in(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("name", PICTURES)
def test_no_picture_is_lost_or_changed_over_the_borders_of_files(name: str) -> None:
    units = stream_of(PICTURES[name], 12, audio=True)
    files = recorded(segmenter_of(audio=True), units)
    assert [cause for _, _, cause in files] == ["length", "length", "stopped"]
    shown = [frame for _, data, _ in files for frame in frames_in(data)]
    pictures = [unit for unit in units if unit.codec.is_video]
    assert hashes(shown) == hashes(decode(pictures))
    assert [len(frames_in(data)) for _, data, _ in files] == [125, 125, 50]
    # aligned to the wall-clock, and each begins where the one before ends
    assert [segment.start - EPOCH for segment, _, _ in files] == pytest.approx([0, 5, 10], abs=0.001)
    for (before, _, _), (after, _, _) in itertools.pairwise(files):
        assert after.start == pytest.approx(before.end, abs=0.001)


def test_sound_is_whole_and_in_step_in_every_file() -> None:
    files = recorded(segmenter_of(audio=True), stream_of(PICTURES["h264"], 12, audio=True))
    heard = 0.0
    for _segment, data, _ in files:
        with av.open(io.BytesIO(data)) as container:
            frames = list(container.decode(audio=0))
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        first = float(frames[0].pts * frames[0].time_base)
        assert first < 0.1
        heard += len(samples) / 8000
        # a beep begins with every second of the source: find them on the file's clock
        loud = np.abs(samples) > 0.1
        begins = [index for index in np.flatnonzero(loud) if not loud[max(0, index - 2000) : index].any()]
        for index in begins[1:]:
            assert (first + index / 8000) % 1.0 == pytest.approx(0, abs=0.1) or (
                first + index / 8000
            ) % 1.0 == pytest.approx(1, abs=0.1)
        assert len(begins) >= 2
    assert 11.6 < heard <= 12, "the encoder keeps the last third of a second for itself"


def test_another_size_begins_another_file() -> None:
    units = stream_of(PICTURES["h264"], 2)
    small = stream_of(TestPicture(176, 144, gop=25), 2, at=2.0)
    units += [replace(unit, dts=unit.dts + 180_000, pts=unit.pts + 180_000) for unit in small]
    files = recorded(segmenter_of(300), units)
    assert [(cause, segment.video.info.width) for segment, _, cause in files] == [
        ("format_changed", 352), ("stopped", 176),
    ]  # fmt: skip
    assert [len(frames_in(data)) for _, data, _ in files] == [50, 50]


def test_a_pause_of_the_sender_ends_the_file_and_the_next_has_the_right_time() -> None:
    """The stream's clock does not show the pause (media/timeline.py takes jumps out), only the arrival does."""
    units = stream_of(PICTURES["h264"], 8)
    paused = [replace(u, arrival_mono=u.arrival_mono + (30.0 if u.dts >= 270_000 else 0.0)) for u in units]
    files = recorded(segmenter_of(300), paused)
    assert [cause for _, _, cause in files] == ["time_jump", "stopped"]
    assert sum(len(frames_in(data)) for _, data, _ in files) == 200, "nothing is lost over it"
    # the first group after the pause tells; the file after it stands where it belongs
    assert files[1][0].start - EPOCH == pytest.approx(34.0, abs=0.1)


def test_a_hole_in_the_stream_ends_the_file() -> None:
    units = stream_of(PICTURES["h264"], 8)
    holed = [u for u in units if u.dts < 180_000] + [
        replace(u, dts=u.dts + 540_000, pts=u.pts + 540_000, arrival_mono=u.arrival_mono + 6.0)
        for u in units if u.dts >= 180_000
    ]  # fmt: skip
    files = recorded(segmenter_of(300), holed)
    assert [cause for _, _, cause in files] == ["time_jump", "stopped"]
    assert files[0][0].end - files[0][0].start == pytest.approx(2.0, abs=0.05), "no frozen last picture"
    assert files[1][0].start - EPOCH == pytest.approx(8.0, abs=0.05)


def test_a_congestion_that_catches_up_is_no_jump() -> None:
    units = stream_of(PICTURES["h264"], 20)
    late = [replace(u, arrival_mono=12.0) if 3.0 < u.arrival_mono < 12.0 else u for u in units]
    files = recorded(segmenter_of(300), late)
    assert [cause for _, _, cause in files] == ["stopped"]
    assert files[0][0].end - EPOCH == pytest.approx(20.0, abs=0.05)


def test_drift_of_a_camera_is_taken_out_at_the_borders() -> None:
    """A camera whose clock is 1 % slow: each file begins a little later than the last one ended, no file is cut."""
    units = stream_of(PICTURES["h264"], 30)
    slow = [replace(u, arrival_mono=u.arrival_mono * 1.01) for u in units]
    files = recorded(segmenter_of(5), slow)
    assert {cause for _, _, cause in files} == {"length", "stopped"}
    for (before, _, _), (after, _, _) in itertools.pairwise(files):
        assert -0.01 <= after.start - before.end <= 0.26
    assert files[-1][0].start > files[-2][0].start + 4.9


def test_damage_leaves_out_pictures_but_not_the_clock() -> None:
    units = stream_of(PICTURES["h264"], 4)
    units[30] = replace(units[30], damaged=True)
    ((segment, data, _),) = recorded(segmenter_of(300), units)
    shown = frames_in(data)
    assert len(shown) == 100 - 20, "from the damage to the next key frame"
    assert float(shown[30].pts * shown[30].time_base) == pytest.approx(2.0, abs=0.001)
    assert segment.end - segment.start == pytest.approx(4.0, abs=0.05)


def test_a_long_group_is_written_in_pieces() -> None:
    steps = []
    segmenter = segmenter_of(300)
    for unit in stream_of(TestPicture(352, 288, gop=250), 10):
        steps += segmenter.push(unit)
    pieces = [step for step in steps if isinstance(step, Piece)]
    assert len(pieces) >= 4
    assert [piece.key for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert pieces[-1].end - EPOCH > 7.9, "at most two seconds wait"


# -- reading back, and mending --------------------------------------------------------------------------------


def written(tmp_path: Path, seconds: float = 6.0, *, part: bool = False) -> tuple[Path, str, bytes]:
    ((segment, data, _),) = recorded(
        segmenter_of(300, audio=True), stream_of(PICTURES["h264"], seconds, audio=True)
    )
    path = f"{segments.folder(segment.start, 'dev', 'chan')}/{segments.file_name(segment.start, 'aa', part=part)}"
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(data)
    return tmp_path, path, data


def test_names_tell_time_and_id() -> None:
    assert segments.folder(EPOCH, "a", "b") == "20261122/a/b"
    name = segments.file_name(EPOCH + 61.2345, "0123abcd", part=True)
    assert name == "20261122T020101234Z_0123abcd.mp4.part" or name == "20261122T020101235Z_0123abcd.mp4.part"
    assert segments.parse_name(name) == (pytest.approx(EPOCH + 61.2345, abs=0.001), "0123abcd", True)
    assert segments.parse_name("20261122T020101234Z_0123abcd.mp4") == (EPOCH + 61.234, "0123abcd", False)
    for foreign in ("a.mp4", "20261322T020101234Z_0123abcd.mp4", "20261122T020101234Z_.mp4", ""):
        assert segments.parse_name(foreign) is None


def test_a_complete_file_is_read_back(tmp_path: Path) -> None:
    directory, path, data = written(tmp_path)
    found = segments.scan(directory, "main", path)
    assert (found.info.frames, found.info.complete, found.info.disk_id) == (150, True, "main")
    assert found.info.end - found.info.start == pytest.approx(6.0, abs=0.05)
    assert (found.good_bytes, found.torn_bytes, found.has_table) == (len(data), 0, True)
    assert [group.at_s for group in found.groups] == pytest.approx([0, 1, 2, 3, 4, 5])
    assert [group.frames for group in found.groups] == [25] * 6
    # each group decodes by itself
    for group in found.groups:
        alone = data[: found.head_bytes] + data[group.offset : group.offset + group.size]
        assert len(frames_in(alone)) == 25


def test_wherever_a_file_is_torn_all_whole_groups_stay(tmp_path: Path) -> None:
    """kill -9 or a power cut: cut at many places, mended, decoded."""
    directory, path, data = written(tmp_path, part=True)
    whole = segments.scan(directory, "main", path)
    ends = [group.offset + group.size for group in whole.groups]
    table_at = ends[-1]
    for cut in sorted({*range(whole.head_bytes, len(data), 9973), *ends, len(data) - 1, table_at + 4}):
        (directory / path).write_bytes(data[:cut])
        expected = sum(end <= cut for end in ends)
        if not expected:
            with pytest.raises(segments.Unreadable):
                segments.mend(directory, "main", path)
            continue
        mended = segments.mend(directory, "main", path)
        assert mended.info.complete
        assert mended.info.path == path.removesuffix(".part")
        assert not (directory / path).exists()
        final = (directory / mended.info.path).read_bytes()
        assert len(frames_in(final)) == mended.info.frames == 25 * expected
        again = segments.scan(directory, "main", mended.info.path)
        assert (again.torn_bytes, again.info.frames) == (0, mended.info.frames)
        (directory / mended.info.path).unlink()


def test_garbage_is_never_a_recording(tmp_path: Path) -> None:
    directory, path, data = written(tmp_path)
    for garbage in (b"", b"\0" * 100, data[:200], data[100:], b"\xff" * 5000, data[:40] + b"\0" * 2000):
        (directory / path).write_bytes(garbage)
        with pytest.raises(segments.Unreadable):
            segments.scan(directory, "main", path)
    # zeros where a power cut left blocks unwritten
    (directory / path).write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    assert segments.scan(directory, "main", path).torn_bytes > 0


def test_clock_estimate_takes_the_earliest_arrivals() -> None:
    clock = WallClock()
    for index in range(100):
        clock.note(index * 0.04, 500.0 + index * 0.04 + (0.3 if index % 5 else 0.0))
    assert clock.offset == pytest.approx(500.0)
