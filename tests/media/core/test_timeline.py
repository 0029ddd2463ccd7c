"""The sender's clock made straight: wraps, jumps, zeros, milliseconds (field quirk 40)."""

from __future__ import annotations

import itertools

import pytest

from media.timeline import Timeline

W33 = 1 << 33
W32 = 1 << 32


def run(stamps: list[tuple[int | None, int]], timeline: Timeline | None = None) -> list[int]:
    """dts of video units 40 ms apart with (pts, rtp timestamp)."""
    timeline = timeline or Timeline()
    return [
        timeline.map(pts, None, rtp, number * 0.04, video=True)[1] for number, (pts, rtp) in enumerate(stamps)
    ]


def steps(values: list[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(values)]


@pytest.mark.quirk(40)
@pytest.mark.parametrize(
    "stamps",
    [
        [(n * 3600, n * 3600) for n in range(10)],
        [((W33 - 9000 + n * 3600) % W33, n * 3600) for n in range(10)],
        [(None, (W32 - 9000 + n * 3600) % W32) for n in range(10)],
        [(n * 3600 + (1_000_000_000 if n > 4 else 0), n) for n in range(10)],
        [(n * 3600 if n < 5 else (n - 5) * 3600 + 40, n) for n in range(10)],
    ],
    ids=["straight", "33-bit wrap", "32-bit wrap", "jump of three hours", "small step back is straightened"],
)
def test_the_output_clock_goes_on(stamps: list[tuple[int | None, int]]) -> None:
    out = run(stamps)
    assert out[0] == 0
    if stamps[-1][0] == 4 * 3600 + 40:
        assert all(step >= 1 for step in steps(out))
    else:
        assert steps(out) == [3600] * 9


@pytest.mark.quirk(40)
def test_a_jump_back_goes_on_with_the_usual_step() -> None:
    timeline = Timeline()
    out = run([(10_000_000 + n * 3600, n) for n in range(5)] + [(n * 3600, n) for n in range(5)], timeline)
    assert steps(out) == [3600] * 9
    assert timeline.jumps == 1


@pytest.mark.quirk(40)
def test_picture_and_sound_stay_together_over_a_jump_of_both() -> None:
    timeline = Timeline()
    gaps = []
    for number in range(20):
        base = number * 3600 + (500_000_000 if number >= 10 else 0)
        picture = timeline.map(base, None, base & W32 - 1, number * 0.04, video=True)[1]
        sound = timeline.map(base + 900, None, base & W32 - 1, number * 0.04, video=False)[1]
        gaps.append(sound - picture)
    assert set(gaps) == {900}
    assert timeline.jumps == 2


@pytest.mark.quirk(40)
def test_pts_that_stand_still_give_way_to_the_rtp_clock() -> None:
    timeline = Timeline()
    out = run([(0, n * 3600) for n in range(20)], timeline)
    assert timeline.source == "rtp"
    assert steps(out)[5:] == [3600] * 14
    assert all(step > 0 for step in steps(out))


@pytest.mark.quirk(40)
def test_both_clocks_standing_still_give_way_to_the_arrival_time() -> None:
    timeline = Timeline()
    out = run([(0, 7) for _ in range(20)], timeline)
    assert timeline.source == "arrival"
    assert steps(out)[6:] == [3600] * 13


@pytest.mark.quirk(40)
def test_a_clock_of_milliseconds_is_found_out() -> None:
    timeline = Timeline()
    out = run([(n * 40, n * 40) for n in range(100)], timeline)
    assert timeline.scale == 90
    assert steps(out)[-20:] == [3600] * 20


def test_missing_pts_among_others_are_filled_in() -> None:
    assert run([(0, 0), (3600, 3600), (None, 7200), (10800, 10800)]) == [0, 3600, 7200, 10800]


def test_dts_grow_strictly_and_pts_are_never_below() -> None:
    timeline = Timeline()
    pairs = [
        timeline.map(pts, dts, dts, 0.04 * n, video=True)
        for n, (pts, dts) in enumerate([(7200, 0), (3600, 3600), (3600, 3600), (18000, 7200)])
    ]
    assert [dts for _, dts in pairs] == [0, 3600, 3601, 7200]
    assert all(pts >= dts for pts, dts in pairs)
