"""Codes, kinds, divisions, township keys and the SSRC pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip.errors import LocalError
from sip.ids import (
    Grassroots,
    SsrcExhausted,
    SsrcPool,
    TypeKind,
    domain_of,
    format_ssrc,
    grassroots_kind,
    industry_label,
    is_code,
    is_division,
    kind_of,
    make_code,
    parent_divisions,
    parse_code,
    parse_ssrc,
    township_key,
    trim_division,
    valid_civil_code,
)


@pytest.mark.gb("G270")
@given(
    area=st.sampled_from(["41", "4101", "410183", "110101", "650102"]),
    type_code=st.integers(100, 999),
    serial=st.integers(0, 999_999),
    unit=st.integers(0, 99),
    industry=st.integers(0, 99),
    network=st.integers(0, 9),
)
def test_generator_and_reader_are_inverse(
    area: str, type_code: int, serial: int, unit: int, industry: int, network: int
) -> None:
    code = make_code(area, type_code, serial, unit=f"{unit:02d}", industry=f"{industry:02d}", network=network)
    parsed = parse_code(code)
    assert parsed is not None
    assert str(parsed) == code
    assert is_code(code)
    assert (parsed.type, parsed.serial, parsed.network, parsed.area) == (
        type_code,
        serial,
        network,
        area.ljust(6, "0"),
    )


@pytest.mark.gb("G270")
@given(text=st.text(max_size=24))
def test_reader_takes_any_text(text: str) -> None:
    parse_code(text)
    assert kind_of(text) in TypeKind
    valid_civil_code(text, text)
    township_key(text, text, text)


@pytest.mark.gb("G270")
@pytest.mark.parametrize(
    ("area", "type_code", "serial"),
    [("99", 132, 1), ("4", 132, 1), ("410183", 99, 1), ("410183", 132, 10**6), ("x", 132, 1)],
)
def test_generator_is_strict(area: str, type_code: int, serial: int) -> None:
    with pytest.raises(LocalError):
        make_code(area, type_code, serial)


@pytest.mark.gb("G271")
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("41018300001310000001", TypeKind.CAMERA),
        ("41018300001320000001", TypeKind.CAMERA),
        ("41018300001210000001", TypeKind.CAMERA),
        ("41018300001180000001", TypeKind.DEVICE),
        ("41018300001110000001", TypeKind.DEVICE),
        ("41018300001340000001", TypeKind.ALARM),
        ("41018300001350000001", TypeKind.ALARM),
        ("41018300001360000001", TypeKind.AUDIO_IN),
        ("41018300001370000001", TypeKind.AUDIO_OUT),
        ("41018300002000000001", TypeKind.SYSTEM),
        ("41018300002150000001", TypeKind.BUSINESS_GROUP),
        ("41018300002160000001", TypeKind.VIRTUAL_ORGANISATION),
        ("41018300003000000001", TypeKind.OTHER),
        ("410183", TypeKind.DIVISION),
        ("41018301", TypeKind.DIVISION),
        ("4101830", TypeKind.OTHER),
        ("4101830000131000000x", TypeKind.OTHER),
        ("４１０１８３００００１３１０００００１x", TypeKind.OTHER),
        ("", TypeKind.OTHER),
    ],
)
def test_kinds(code: str, kind: TypeKind) -> None:
    assert kind_of(code) is kind


def test_divisions_by_prefix() -> None:
    assert parent_divisions("410183") == ["4101", "41"]
    assert parent_divisions("41018301") == ["410183", "4101", "41"]
    assert parent_divisions("41") == []
    assert trim_division("410100") == "4101"
    assert is_division("41018301")
    assert not is_division("410183001")
    assert domain_of("41018300002000000001") == "4101830000"


@pytest.mark.gb("G103")
@pytest.mark.parametrize(
    ("text", "device", "expected"),
    [
        ("410183", "", "410183"),
        ("4101830000", "", "410183"),
        ("4101830100", "", "41018301"),
        ("41018300", "", "410183"),
        ("41018300001320000001", "", "410183"),
        ("4101", "", "4101"),
        ("41018", "", "4101"),
        ("null", "41018300001320000001", "410183"),
        ("", "41018300001320000001", "410183"),
        ("CivilCode", "", ""),
        ("000000", "41018300001320000001", "410183"),
        ("", "00000000001320000001", ""),
    ],
)
def test_civil_codes_of_the_field(text: str, device: str, expected: str) -> None:
    assert valid_civil_code(text, device) == expected


@pytest.mark.gb("G273")
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("000000", Grassroots.NONE),
        ("001001", Grassroots.STREET),
        ("103598", Grassroots.TOWN),
        ("200200", Grassroots.TOWNSHIP),
        ("401498", Grassroots.TOWNSHIP_LIKE),
        ("600001", Grassroots.INVALID),
        ("001600", Grassroots.INVALID),
        ("000001", Grassroots.INVALID),
        ("12345", Grassroots.INVALID),
    ],
)
def test_grassroots_codes(code: str, kind: Grassroots) -> None:
    assert grassroots_kind(code) is kind


@pytest.mark.gb("G273")
def test_township_keys() -> None:
    assert township_key("410183", "104002") == "410183104"
    assert township_key("4101830000", "104002") == "410183104"
    assert township_key("410183", "000000", "41018305001320000001") == "41018305"
    assert township_key("41018305", "") == "41018305"
    assert township_key("410183", "", "41018300001320000001") is None


@pytest.mark.gb("G272")
def test_industries_by_edition() -> None:
    assert industry_label("43", edition_2022=False) == "metallurgy"
    assert industry_label("43", edition_2022=True) == "electricity heat gas water"
    assert industry_label("12", edition_2022=True) == "civil aviation"
    assert industry_label("12", edition_2022=False) == "reserved"
    assert industry_label("59", edition_2022=True) == "international organisations"
    assert industry_label("59", edition_2022=False) == "reserved"
    assert industry_label("95", edition_2022=True) == "user defined"
    assert industry_label("00", edition_2022=False) == industry_label("00", edition_2022=True)


def test_ssrc_text() -> None:
    assert format_ssrc(183000001) == "0183000001"
    assert [
        parse_ssrc(text)
        for text in ("0183000001", " 0200009319 \n", "4294967295", "4294967296", "", "null", "0x1", "1\0\0")
    ] == [
        183000001,
        200009319,
        4294967295,
        None,
        None,
        None,
        None,
        1,
    ]


@pytest.mark.gb("G198")
def test_values_have_their_digits_and_run_out_after_ten_thousand() -> None:
    pool = SsrcPool("4101830000")
    live = {pool.lease("live", 0) for _ in range(10_000)}
    assert len(live) == 10_000
    assert {format_ssrc(ssrc)[:6] for ssrc in live} == {"018300"}
    assert format_ssrc(pool.lease("history", 0)).startswith("118300")
    with pytest.raises(SsrcExhausted):
        pool.lease("live", 0)


@pytest.mark.gb("G201")
@pytest.mark.quirk(28)
def test_a_released_value_rests() -> None:
    pool = SsrcPool("4101830000", rest_s=60)
    taken = [pool.lease("live", 0) for _ in range(10_000)]
    pool.release(taken[5], 100)
    pool.release(taken[5], 100)
    assert (pool.leased, pool.resting(159)) == (9_999, 1)
    with pytest.raises(SsrcExhausted):
        pool.lease("live", 159)
    assert pool.lease("live", 160) == taken[5]


@pytest.mark.quirk(29)
def test_nothing_leaks() -> None:
    pool = SsrcPool("4101830000", rest_s=0)
    for now in range(30_000):
        pool.release(pool.lease("live", now), now)
    assert pool.leased == 0


def test_reserved_values_are_not_given_out() -> None:
    pool = SsrcPool("4101830000", rest_s=1)
    pool.reserve(183000000)
    pool.reserve(99)
    first = pool.lease("live", 0)
    assert first == 183000001
    pool.release(first, 0)
    pool.reserve(first)
    assert first not in {pool.lease("live", 10) for _ in range(9_998)}
    pool.release(183000000, 10)
    assert pool.lease("live", 11) == 183000000


def test_zero_is_never_given_out() -> None:
    pool = SsrcPool("1100000000")
    assert 0 not in {pool.lease("live", 0) for _ in range(9_999)}
    with pytest.raises(LocalError):
        SsrcPool("demo")
