"""Vendor data: the shipped file, a user's own over it, matching, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.load import ConfigurationError
from config.vendors import ProfileSettings, Vendors, load_vendors


@pytest.fixture(scope="module")
def shipped() -> Vendors:
    return load_vendors()


@pytest.mark.parametrize(
    ("manufacturer", "model", "vendor", "settings"),
    [
        ("Hikvision", "DS-2CD", "hikvision", {"media_transport": "tcp_passive", "record_query_hours": 12}),
        ("海康威视数字技术", "", "hikvision", {"media_transport": "tcp_passive", "record_query_hours": 12}),
        ("ZheJiang DAHUA", "NVR", "dahua", None),
        ("浙江大华", "", "dahua", None),
        ("UNIVIEW", "", "uniview", {}),
        ("Huawei", "IPC6325", "huawei", {}),
        ("Huawei", "NVR800", "huawei", {"heartbeat_revives": True}),
        (
            "huawei",
            "D2120-10-SIU",
            "huawei",
            {"media_transport": "udp", "media_ladder": ("udp", "tcp_active")},
        ),
        ("Tiandy", "", "tiandy", {}),
        ("KEDACOM", "", "keda", {}),
        ("TP-LINK", "TL-NVR6100", "tplink", {"stream_number_dialect": "stream"}),
        ("H3C", "", "unis", {}),
        ("Somebody", "X1", None, None),
        ("", "", None, None),
    ],
)
def test_makes_are_recognised(
    shipped: Vendors, manufacturer: str, model: str, vendor: str | None, settings: dict[str, object] | None
) -> None:
    match = shipped.match(manufacturer=manufacturer, model=model)
    assert (match.vendor if match is not None else None) == vendor
    if match is not None and settings is not None:
        assert match.settings == settings


def test_a_library_is_recognised_by_its_user_agent(shipped: Vendors) -> None:
    match = shipped.match(manufacturer="", user_agent="eXosip/5.1.0")
    assert match is not None
    assert match.vendor == "exosip"
    assert match.notes[0].quirk == 43
    assert match.settings == {}  # a plain offer makes others on the same library crash


def test_every_note_is_readable_and_every_setting_is_one_of_a_profile(shipped: Vendors) -> None:
    for vendor in shipped.vendors.values():
        for rule in (vendor, *vendor.models):
            assert rule.profile.said().keys() <= ProfileSettings.model_fields.keys()
            assert rule.profile.said() or rule.notes
            assert all(note.text.endswith(".") for note in rule.notes)


def test_an_own_file_extends_and_overrides(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "vendors:\n"
        "  dahua:\n"
        "    name: Dahua of our county\n"
        "    match: {user_agent: ['DH*']}\n"
        "    profile: {talk_mode: broadcast, charset: UTF-8}\n"
        "    models:\n"
        "      - match: {model: ['IPC-?'], firmware: ['2.*']}\n"
        "        profile: {max_streams: 2}\n"
        "  ours:\n"
        "    name: Made here\n"
        "    match: {manufacturer: ['Hikvision OEM*']}\n",
        encoding="utf-8",
    )
    vendors = load_vendors(own)
    match = vendors.match(manufacturer="Dahua", model="IPC-7", firmware="2.800")
    assert match is not None
    assert (match.name, match.rules) == ("Dahua of our county", (0,))
    assert match.settings == {
        "ssrc": "learn", "stream_number_dialect": "streamprofile", "talk_mode": "broadcast", "charset": "UTF-8",
        "max_streams": 2,
    }  # fmt: skip
    only_model = vendors.match(manufacturer="Dahua", model="IPC-7", firmware="1.0")
    assert only_model is not None
    assert only_model.rules == ()
    by_agent = vendors.match(manufacturer="", user_agent="DH-SDK")
    assert by_agent is not None
    assert by_agent.vendor == "dahua"
    ours = vendors.match(manufacturer="Hikvision OEM 3")  # own vendors are looked at first
    assert ours is not None
    assert ours.vendor == "ours"


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("vendors:\n  a:\n    name: A\n    match: {}\n    profile:\n      sdp_form: short\n", 6, "sdp_form"),
        ("vendors:\n  a:\n    name: A\n    match: {}\n    colour: red\n", 5, "colour"),
        ("vendors:\n  a:\n    name: A\n    match: {manufacturer: [x]}\n", 4, "manufacturer.0"),
        ("vendors:\n  A b:\n    name: A\n    match: {}\n", 2, "A b"),
        ("vendors:\n  a:\n    match: {}\n", 2, "name"),
        ("vendors:\n  a:\n    name: A\n    match: {}\n    models:\n      - match: {}\n", 6, "match"),
        ("vendors:\n  a:\n    name: A\n    name: B\n    match: {}\n", 4, "name"),
        ("vendors:\n  a: [\n", 3, ""),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, text: str, line: int, key: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_vendors(own)
    problem = caught.value.problems[0]
    assert (problem.source, problem.line) == (str(own), line), str(problem)
    assert problem.key.endswith(key)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        load_vendors(tmp_path / "none.yaml")
