"""One MP4 out of recordings: read by PyAV and ffprobe, its pictures equal to those recorded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from decoded import decode, source_hashes
from recorded import EPOCH, Recorded, joined, record

from media.mp4_file import Mp4File, NothingRecorded
from media.specs import ClipPart


def written(made: Recorded, start: float, end: float) -> tuple[Mp4File, bytes]:
    file = Mp4File(made.parts, EPOCH + start, EPOCH + end)
    return file, file.head + b"".join(file.blocks())


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_the_file_holds_every_picture_of_the_range(tmp_path: Path, codec: str) -> None:
    made = record(tmp_path, 6.0, codec=codec)
    file, data = written(made, 0, 6)
    assert len(data) == file.size
    found = decode(data)
    assert found.hashes == source_hashes(made.pictures)
    assert found.frames == list(range(150))
    assert found.shown_s == pytest.approx([number / 25 for number in range(150)], abs=0.002)
    assert found.sound_s >= 5.4, "the encoder keeps back some frames of 128 ms"
    assert max(abs(value) for value in found.sync_s) < 0.1


def test_it_is_cut_at_the_key_frame_before_and_at_the_end(tmp_path: Path) -> None:
    made = record(tmp_path, 6.0)
    file, data = written(made, 1.4, 4.5)
    assert decode(data).frames == list(range(25, 113))
    assert file.started_at == pytest.approx(EPOCH + 1.0, abs=0.002)
    assert file.duration_s == pytest.approx(3.52, abs=0.01)


@pytest.mark.needs("ffprobe")
def test_ffprobe_agrees_on_duration_and_counts(tmp_path: Path) -> None:
    made = record(tmp_path / "in", 6.0)
    file, data = written(made, 0.5, 5.5)
    target = tmp_path / "out.mp4"
    target.write_bytes(data)
    command = ["ffprobe", "-v", "warning", "-count_frames", "-of", "json", "-show_streams", "-show_format"]
    result = subprocess.run([*command, str(target)], capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr == ""
    told = json.loads(result.stdout)
    video = next(stream for stream in told["streams"] if stream["codec_type"] == "video")
    assert int(video["nb_frames"]) == int(video["nb_read_frames"]) == file.pictures == 138
    assert float(video["duration"]) == pytest.approx(5.5, abs=0.05)
    assert float(told["format"]["duration"]) == pytest.approx(5.0, abs=1.1), "within a group of the range"
    assert int(told["format"]["size"]) == len(data)


def test_gaps_are_left_out_and_sound_stays_in_step(tmp_path: Path) -> None:
    made = joined(record(tmp_path, 3.0), record(tmp_path, 3.0, at=63.0))
    file, data = written(made, 0, 100)
    found = decode(data)
    assert found.frames == [*range(75), *range(75)]
    assert file.duration_s == pytest.approx(6.0, abs=0.01)
    assert len(found.beeps_s) == 6
    assert max(abs(value) for value in found.sync_s) < 0.1


def test_another_size_in_the_middle_is_another_entry_of_the_track(tmp_path: Path) -> None:
    small = record(tmp_path, 2.0, sound=False)
    large = record(tmp_path, 2.0, at=2.0, sound=False, size=(640, 360))
    _, data = written(joined(small, large), 0, 4)
    assert data.count(b"avc1") == 2
    found = decode(data)
    assert found.frames == [*range(50), *range(50)]
    assert found.hashes == source_hashes(small.pictures) + source_hashes(large.pictures)


def test_a_torn_file_gives_what_is_whole(tmp_path: Path) -> None:
    made = record(tmp_path, 4.0, segment_s=60, sound=False)
    path = Path(made.parts[0].path)
    path.write_bytes(path.read_bytes()[:-500])
    _, data = written(made, 0, 4)
    assert decode(data).frames == list(range(75))


def test_nothing_recorded_is_said_before_a_byte_is_sent(tmp_path: Path) -> None:
    made = record(tmp_path, 2.0)
    with pytest.raises(NothingRecorded):
        Mp4File(made.parts, EPOCH + 100, EPOCH + 200)
    with pytest.raises(NothingRecorded):
        Mp4File([ClipPart(path=str(tmp_path / "gone.mp4"), start=EPOCH, end=EPOCH + 9)], EPOCH, EPOCH + 9)


def test_a_file_that_goes_away_meanwhile_breaks_the_copy(tmp_path: Path) -> None:
    made = record(tmp_path, 4.0)
    file = Mp4File(made.parts, EPOCH, EPOCH + 4)
    Path(made.parts[1].path).unlink()
    with pytest.raises(OSError, match="No such file"):
        b"".join(file.blocks())
