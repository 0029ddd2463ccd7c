"""Exported codes: kept, made up on collision, the same after a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.services.cascade_ids import IdMap, Key

OURS = "41018300002000000001"
CAMERA = "34020000001320000001"
NVR1, NVR2, NVR3 = (f"4101830000118000000{n}" for n in (1, 2, 3))


def test_a_code_that_is_free_stays() -> None:
    ids = IdMap(OURS)
    assert ids.assign((NVR1, CAMERA)) == CAMERA
    assert ids.changed is False
    assert ids.recoded == {}


@pytest.mark.quirk(18)
def test_the_second_camera_with_one_factory_code_gets_another() -> None:
    ids = IdMap(OURS)
    first = ids.assign((NVR1, CAMERA))
    second = ids.assign((NVR2, CAMERA))
    third = ids.assign((NVR3, CAMERA))
    assert first == CAMERA
    assert len({first, second, third}) == 3
    assert second[:14] == third[:14] == CAMERA[:14]
    assert ids.changed is True
    assert ids.recoded == {(NVR2, CAMERA): second, (NVR3, CAMERA): third}


@pytest.mark.quirk(18)
def test_codes_survive_a_restart_whatever_registers_first() -> None:
    before = IdMap(OURS)
    codes = {key: before.assign(key) for key in ((NVR2, CAMERA), (NVR1, CAMERA), (NVR3, CAMERA))}
    after = IdMap(OURS, recoded=before.recoded)
    assert {key: after.assign(key) for key in sorted(codes)} == codes


def test_the_operators_choice_goes_first() -> None:
    chosen = "41018300001320000077"
    ids = IdMap(OURS, chosen={(NVR1, CAMERA): chosen})
    assert ids.assign((NVR1, CAMERA)) == chosen
    other = ids.assign((NVR2, chosen))
    assert other != chosen


def test_codes_that_break_the_rule_get_one_of_our_area() -> None:
    code = IdMap(OURS).assign((NVR1, "CH-7"))
    assert len(code) == 20
    assert code.startswith("41018300")
    assert code[10:13] == "131"


def test_our_own_code_is_never_given_away() -> None:
    ids = IdMap(OURS)
    ids.reserve(OURS)
    assert ids.assign((NVR1, OURS)) != OURS


def test_two_ways_share_a_code_and_a_way_that_ends_frees_nothing_in_use() -> None:
    ids = IdMap(OURS)
    assert ids.assign((NVR1, CAMERA)) == CAMERA
    assert ids.join((NVR2, CAMERA), (NVR1, CAMERA)) == CAMERA
    ids.forget([(NVR2, CAMERA)])
    assert ids.assign((NVR3, CAMERA)) != CAMERA
    ids.forget([])
    assert ids.assign((NVR1, CAMERA)) == CAMERA


keys: st.SearchStrategy[Key] = st.tuples(
    st.sampled_from([NVR1, NVR2, NVR3]), st.sampled_from([CAMERA, NVR1, "X", "41018300001320000002", OURS])
)


@given(st.lists(keys, max_size=30))
def test_no_two_channels_ever_share_a_code_and_codes_never_change(order: list[Key]) -> None:
    ids = IdMap(OURS)
    ids.reserve(OURS)
    seen: dict[Key, str] = {}
    for key in order:
        code = ids.assign(key)
        assert len(code) == 20
        assert code.isdecimal()
        assert seen.setdefault(key, code) == code
    assert len(set(seen.values())) == len(seen)
