"""Recordings read back: pictures equal to those recorded, places found, gaps, torn tails, backward."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from decoded import source_hashes
from recorded import EPOCH, Recorded, joined, numbers, record

from media import nal
from media.clip import Clip, ClipUnit
from media.mp4_read import NotPlayable, Recording
from media.specs import ClipPart
from media.unit import AccessUnit, Codec


@pytest.fixture(scope="module", params=["h264", "h265"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("recorded"), 6.0, codec=request.param)


@pytest.fixture(scope="module")
def with_gap(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("gap")
    return joined(record(folder, 4.0), record(folder, 4.0, at=34.0))


def clip(made: Recorded, **values: bool) -> Clip:
    return Clip(made.parts, made.start, made.end, **values)


def units(found: list[ClipUnit], *, video: bool = True) -> list[AccessUnit]:
    return [entry.unit for entry in found if entry.unit.codec.is_video == video]


def bare(unit: AccessUnit) -> list[bytes]:
    """NAL units without parameter sets and delimiters: what files keep of a picture."""
    left_out = {7, 8, 9} if unit.codec is Codec.H264 else {32, 33, 34, 35}
    return [part for part in nal.split_annexb(unit.data) if nal.nal_type(unit.codec, part) not in left_out]


def test_every_picture_comes_back_as_it_was_recorded(recorded: Recorded) -> None:
    assert len(recorded.infos) == 3
    found = list(clip(recorded).forward(recorded.start))
    pictures = units(found)
    assert [bare(unit) for unit in pictures] == [bare(unit) for unit in recorded.pictures]
    assert [unit.key for unit in pictures] == [unit.key for unit in recorded.pictures]
    assert source_hashes(pictures) == source_hashes(recorded.pictures)
    assert all(nal.describe(unit.codec, unit.data) for unit in pictures if unit.key), (
        "parameter sets in front"
    )
    assert [later.dts - unit.dts for unit, later in pairwise(pictures)] == [3600] * 149, "no step at a border"
    places = [entry.at - recorded.start for entry in found if entry.unit.codec.is_video]
    assert places == pytest.approx([number / 25 for number in range(150)], abs=0.002)


def test_sound_is_in_step_and_in_order(recorded: Recorded) -> None:
    found = list(clip(recorded).forward(recorded.start))
    sounds = units(found, video=False)
    assert 44 <= len(sounds) <= 48, "6 s of 128 ms each"
    assert {unit.codec for unit in sounds} == {Codec.AAC}
    assert all(unit.data[:2] == b"\xff\xf1" for unit in sounds)
    steps = [later.dts - unit.dts for unit, later in pairwise(sounds)]
    assert steps.count(11520) >= len(steps) - 2, "1,024 samples at 8 kHz; half a frame is rounded at a border"
    assert max(steps) - min(steps) <= 5760
    times = [entry.unit.dts for entry in found]
    assert times == sorted(times), "sound stands beside its pictures, whatever the order in the file"


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0, 2.7, 3.99, 5.9])
def test_a_place_begins_with_its_key_frame(recorded: Recorded, offset: float) -> None:
    first = next(iter(clip(recorded).forward(recorded.start + offset)))
    assert first.unit.key
    assert first.unit.dts == 0
    assert first.at - recorded.start == pytest.approx(int(offset), abs=0.002)


def test_the_end_of_the_range_ends_the_run(recorded: Recorded) -> None:
    found = list(Clip(recorded.parts, recorded.start, recorded.start + 3.5).forward(recorded.start + 1.2))
    assert numbers(units(found)) == list(range(25, 88))


def test_key_frames_only(recorded: Recorded) -> None:
    found = list(clip(recorded).forward(recorded.start, keys_only=True))
    assert numbers(units(found)) == [0, 25, 50, 75, 100, 125]
    assert [unit.dts for unit in units(found)] == [number * 90_000 for number in range(6)]


def test_backward_by_key_frames_and_by_groups(recorded: Recorded) -> None:
    keys = list(clip(recorded).backward(recorded.start + 4.5))
    assert numbers(units(keys)) == [100, 75, 50, 25, 0]
    assert [unit.dts for unit in units(keys)] == [number * 90_000 for number in range(5)]
    groups = list(clip(recorded).backward(recorded.start + 3.1, recorded.start + 1.5, groups=True))
    assert numbers(units(groups)) == [*range(75, 100), *range(50, 75), *range(25, 50)]
    times = [unit.dts for unit in units(groups)]
    assert times == sorted(times), "sent times grow although pictures go back"


def test_gaps_are_left_out_or_kept(with_gap: Recorded) -> None:
    left_out = units(list(clip(with_gap).forward(EPOCH)))
    assert len(left_out) == 200
    assert left_out[-1].dts == 199 * 3600
    kept = units(list(clip(with_gap, keep_gaps=True).forward(EPOCH)))
    assert len(kept) == 200
    assert kept[100].dts - kept[99].dts == pytest.approx(30 * 90_000 + 3600, abs=400)


def test_a_place_in_a_gap_is_the_next_that_was_recorded(with_gap: Recorded) -> None:
    first = next(iter(clip(with_gap).forward(EPOCH + 20)))
    assert first.at == pytest.approx(EPOCH + 34, abs=0.01)
    back = list(clip(with_gap).backward(EPOCH + 20))
    assert [entry.at - EPOCH for entry in back] == pytest.approx([3, 2, 1, 0], abs=0.01)


def test_files_that_overlap_are_shown_once(tmp_path: Path) -> None:
    both = joined(
        record(tmp_path / "a", 4.0, segment_s=60), record(tmp_path / "b", 4.0, at=2.0, segment_s=60)
    )
    parts = [
        ClipPart(path=str(tmp_path / folder / info.path), start=info.start, end=info.end)
        for folder, info in zip("ab", both.infos, strict=True)
    ]
    places = [e.at - EPOCH for e in Clip(parts, EPOCH, EPOCH + 6).forward(EPOCH) if e.unit.codec.is_video]
    assert len(places) == 150
    assert places == sorted(places)


@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_torn_tail_costs_the_last_group_only(tmp_path: Path, cut: int) -> None:
    made = record(tmp_path, 4.0, segment_s=60, sound=False)
    path = Path(made.parts[0].path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Recording(path) as recording:
        found = [recording.unit(sample) for sample in recording.samples()]
        assert recording.end_dts() == 3 * 90_000
    assert numbers([unit for unit in found if unit is not None]) == list(range(75))


def test_a_file_that_is_still_written_goes_on_where_it_ended(tmp_path: Path) -> None:
    made = record(tmp_path, 4.0, segment_s=60, sound=False)
    path = Path(made.parts[0].path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with Recording(path) as recording:
        early = len(recording.extend())
        assert 0 < early < 4
        path.write_bytes(whole)
        assert len(recording.extend()) == 4


def test_a_file_is_found_under_its_name_of_before_and_after_closing(tmp_path: Path) -> None:
    made = record(tmp_path, 2.0, segment_s=60)
    part = made.parts[0]
    stale = part.model_copy(update={"path": part.path + ".part", "growing": True})
    assert len(units(list(Clip([stale], made.start, made.end).forward(made.start)))) == 50


def test_a_missing_or_foreign_file_counts_as_not_recorded(tmp_path: Path) -> None:
    made = record(tmp_path, 6.0)
    Path(made.parts[0].path).unlink()
    Path(made.parts[1].path).write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(40))
    opened = clip(made)
    assert numbers(units(list(opened.forward(made.start)))) == list(range(100, 150))
    assert opened.missing == 2
    opened.close()
    with pytest.raises(NotPlayable):
        Recording(made.parts[1].path)


def test_nothing_recorded_gives_nothing() -> None:
    empty = Clip([], EPOCH, EPOCH + 10)
    assert list(empty.forward(EPOCH)) == []
    assert list(empty.backward(EPOCH + 10)) == []
