"""Catalog items to channels and trees: kinds, several parents, divisions, groups, cycles, quality of points."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.clock import ManualClock
from gateway.directory import Directory
from gateway.events import EventBus
from gateway.model import Channel, ChannelKind, Device
from gateway.registry import Registry
from gateway.services.channels import (
    channel_of,
    fields_of,
    item_fields,
    merged,
    quality_faults,
    status_of,
    usable_id,
)
from sip.manscdp import CatalogItem, CatalogResponse, decode

SYSTEM = "41018300002000000001"
NVR = "41018300001180000003"
GROUP = "41018300002150000001"
BRANCH = "41018300002160000001"
TWIG = "41018300002160000002"
CAMERA = "41018300001320000007"
OTHER = "41018300001320000008"


def catalog(body: str) -> dict[str, Channel]:
    """The channels that a Response with these Items makes under the system."""
    xml = (
        f"<Response><CmdType>Catalog</CmdType><SN>1</SN><DeviceID>{SYSTEM}</DeviceID><SumNum>9</SumNum>"
        f"<DeviceList>{body}</DeviceList></Response>"
    )
    decoded = decode(xml.encode()).body
    assert isinstance(decoded, CatalogResponse)
    return {item.device_id: channel_of(SYSTEM, item) for item in decoded.items}


def node(code: str, **fields: str) -> str:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    return f"<Item><DeviceID>{code}</DeviceID><Name>{code[-4:]}</Name>{inner}</Item>"


@pytest.mark.gb("G088")
def test_parent_id_is_a_set_whose_members_are_told_apart() -> None:
    channels = catalog(
        node(SYSTEM)
        + node(NVR, ParentID=SYSTEM)
        + node(GROUP, ParentID=SYSTEM)
        + node(BRANCH, BusinessGroupID=GROUP)
        + node(CAMERA, ParentID=f"{NVR}/{BRANCH} / {SYSTEM}/{NVR}")
    )
    assert channels[CAMERA].parent_ids == (NVR, BRANCH, SYSTEM)
    tree = Directory(channels)
    kinds = {parent: channels[parent].kind for parent in tree.parents(CAMERA)}
    assert kinds == {
        NVR: ChannelKind.DEVICE,
        BRANCH: ChannelKind.VIRTUAL_ORGANISATION,
        SYSTEM: ChannelKind.SYSTEM,
    }
    assert channels[GROUP].kind is ChannelKind.BUSINESS_GROUP


@pytest.mark.gb("G089")
def test_divisions_are_nodes_by_prefix() -> None:
    channels = catalog(
        node("41018310") + node("41") + node("410183") + node("4101") + node(CAMERA, CivilCode="410183")
        + node(OTHER, CivilCode="4101831099")
    )  # fmt: skip
    tree = Directory(channels)
    assert tree.roots == ["41"]
    assert tree.parents("4101") == ("41",)
    assert tree.parents("410183") == ("4101",)
    assert tree.parents("41018310") == ("410183",)
    assert tree.parents(CAMERA) == ("410183",)
    assert tree.parents(OTHER) == ("41018310",)
    assert tree.children("410183") == ["41018310", CAMERA]
    assert all(channels[code].kind is ChannelKind.DIVISION for code in ("41", "4101", "410183", "41018310"))


@pytest.mark.gb("G089")
def test_a_level_that_is_not_named_is_skipped() -> None:
    tree = Directory(catalog(node("41") + node("410183") + node("4102")))
    assert tree.parents("410183") == ("41",)
    assert tree.parents("4102") == ("41",)


@pytest.mark.gb("G090")
def test_organisations_hang_under_group_and_parent_and_cameras_under_several() -> None:
    channels = catalog(
        node(GROUP, ParentID=SYSTEM)
        + node(BRANCH, BusinessGroupID=GROUP)
        + node(TWIG, BusinessGroupID=GROUP, ParentID=BRANCH)
        + node(CAMERA, ParentID=f"{SYSTEM}/{BRANCH}/{TWIG}")
        + node(OTHER, BusinessGroupID=GROUP)
    )
    tree = Directory(channels)
    assert tree.roots == [GROUP]
    assert tree.parents(BRANCH) == (GROUP,)
    assert tree.parents(TWIG) == (BRANCH,)
    assert tree.parents(CAMERA) == (BRANCH, TWIG)
    assert tree.parents(OTHER) == (GROUP,)
    assert tree.subtree(BRANCH) == [BRANCH, TWIG, CAMERA]
    assert len(tree.subtree(GROUP)) == 5  # the camera once


@pytest.mark.quirk(19)
def test_a_channel_that_is_its_own_parent() -> None:
    tree = Directory(catalog(node(CAMERA, ParentID=CAMERA)))
    assert tree.roots == [CAMERA]


@pytest.mark.quirk(19)
def test_cycles_are_cut() -> None:
    channels = catalog(
        node(BRANCH, ParentID=TWIG) + node(TWIG, ParentID=BRANCH) + node(CAMERA, ParentID=TWIG)
    )
    tree = Directory(channels)
    assert tree.roots
    assert set(tree.subtree(tree.roots[0])) == {BRANCH, TWIG, CAMERA}


@pytest.mark.quirk(19)
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("null", "410183"),
        ("4101830000", "410183"),
        ("", "410183"),
        ("4101", "4101"),
        ("41018310", "41018310"),
        ("x", "410183"),
    ],
)
def test_civil_codes_of_the_field(sent: str, kept: str) -> None:
    assert catalog(node(CAMERA, CivilCode=sent))[CAMERA].civil_code == kept


@pytest.mark.quirk(19)
def test_no_parent_and_repeated_elements() -> None:
    channels = catalog(
        node(CAMERA) + f"<Item><DeviceID>{OTHER}</DeviceID><Secrecy>0</Secrecy><Secrecy>1</Secrecy></Item>"
    )
    assert channels[CAMERA].parent_ids == ()
    assert channels[OTHER].secrecy in (0, 1)


FULL = """<Item><DeviceID>41018300001320000007</DeviceID><Name>East gate</Name><Manufacturer>Demo</Manufacturer>
<Model>DC-7</Model><CivilCode>410183</CivilCode><Address>Ring road 1</Address><Parental>0</Parental>
<ParentID>41018300001180000003</ParentID><RegisterWay>1</RegisterWay><Secrecy>0</Secrecy><Password>hidden</Password>
<Status>ON</Status><Longitude>113.40125</Longitude><Latitude>34.5325</Latitude><Info><PTZType>1</PTZType>
<PhotoelectricImagingType>1/2</PhotoelectricImagingType><CapturePositionType>0220100</CapturePositionType>
<RoomType>1</RoomType><SupplyLightType>2</SupplyLightType><DirectionType>4</DirectionType><Resolution>6/5</Resolution>
<StreamNumberList>0/1</StreamNumberList><DownloadSpeed>1/2/4</DownloadSpeed><SVCSpaceSupportMode>0</SVCSpaceSupportMode>
<SVCTimeSupportMode>1</SVCTimeSupportMode><SSVCRatioSupportList>4:3</SSVCRatioSupportList>
<MobileDeviceType>9</MobileDeviceType><HorizontalFieldAngle>62.5</HorizontalFieldAngle>
<VerticalFieldAngle>37.25</VerticalFieldAngle><MaxViewDistance>120</MaxViewDistance><GrassrootsCode>104002</GrassrootsCode>
<PointType>1</PointType><PointCommonName>Gate</PointCommonName><MAC>02-00-5E-10-00-07</MAC>
<FunctionType>01/03</FunctionType><EncodeType>5</EncodeType><InstallTime>2024-05-01T08:00:00</InstallTime>
<ManagementUnit>Demo unit</ManagementUnit><ContactInfo>demo</ContactInfo><RecordSaveDays>90</RecordSaveDays>
<IndustrialClassification>S9224</IndustrialClassification></Info></Item>"""
INFO_OF_2022 = {
    "ptz_type": 1,
    "photoelectric_imaging_type": ["1", "2"],
    "capture_position_type": "0220100",
    "room_type": 1,
    "supply_light_type": 2,
    "direction_type": 4,
    "resolution": ["6", "5"],
    "stream_numbers": ["0", "1"],
    "download_speed": ["1", "2", "4"],
    "svc_space_support_mode": 0,
    "svc_time_support_mode": 1,
    "ssvc_ratio_support": ["4:3"],
    "mobile_device_type": 9,
    "horizontal_field_angle": 62.5,
    "vertical_field_angle": 37.25,
    "max_view_distance": 120.0,
    "grassroots_code": "104002",
    "point_type": 1,
    "point_name": "Gate",
    "mac": "02-00-5E-10-00-07",
    "function_types": ["01", "03"],
    "encode_type": "5",
    "management_unit": "Demo unit",
    "contact_info": "demo",
    "record_save_days": 90,
    "industrial_classification": "S9224",
}


@pytest.mark.gb("G091")
def test_all_info_fields_of_2022_are_stored() -> None:
    channel = catalog(FULL)[CAMERA]
    fields = fields_of(channel)
    assert {name: fields.get(name) for name in INFO_OF_2022} == INFO_OF_2022
    assert str(fields["install_time"]).startswith("2024-05-01T00:00:00")  # UTC inside
    assert (channel.point_class, channel.grassroots_code, channel.ptz_type) == (1, "104002", 1)
    assert (channel.longitude, channel.latitude) == (113.40125, 34.5325)
    assert "password" not in fields


def point(**fields: Any) -> CatalogItem:
    base: dict[str, Any] = {"device_id": CAMERA, "grassroots_code": "104002", "point_type": 3}
    return CatalogItem(**{**base, **fields})


PLACE = {"longitude": 113.4, "latitude": 34.5}
KEPT = {"install_time": datetime(2024, 5, 1, tzinfo=UTC), "contact_info": "demo", "record_save_days": 90}


@pytest.mark.gb("G091")
@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({}, ()),
        ({"point_type": 1}, ("Longitude", "Latitude", "InstallTime", "ContactInfo", "RecordSaveDays")),
        ({"point_type": 1, **PLACE, **KEPT}, ()),
        ({"point_type": 2}, ("Longitude", "Latitude")),
        ({"point_type": 2, **PLACE}, ()),
        ({"point_type": 9}, ()),
        ({"point_type": None}, ("PointType",)),
        ({"point_type": 4}, ("PointType",)),
        ({"grassroots_code": ""}, ("GrassrootsCode",)),
        ({"grassroots_code": "000000"}, ()),
        ({"grassroots_code": "104999"}, ("GrassrootsCode",)),
        ({"longitude": 999.0, "latitude": 34.5}, ("Longitude",)),
        ({"mac": "02:00:5E:10:00:07"}, ("MAC",)),
        ({"mac": "02-00-5E-10-00-07"}, ()),
    ],
)
def test_fields_are_checked_per_class_of_point(fields: dict[str, Any], faults: tuple[str, ...]) -> None:
    assert quality_faults(point(**fields)) == faults


@pytest.mark.gb("G092")
def test_items_of_2016_are_read() -> None:
    channel = catalog(
        node(CAMERA, Owner="Demo", SafetyWay="2", CertNum="7", Certifiable="1", ErrCode="0", EndTime="2027-01-01T00:00:00")
        .replace("</Item>", f"<Info><BusinessGroupID>{GROUP}</BusinessGroupID><PositionType>3</PositionType></Info></Item>")
    )[CAMERA]  # fmt: skip
    assert channel.business_group_id == GROUP
    assert channel.item["owner"] == "Demo"
    assert channel.item["safety_way"] == 2
    assert channel.item["position_type"] == 3


def test_an_update_keeps_what_it_leaves_out() -> None:
    known = catalog(FULL)[CAMERA]
    after = channel_of(SYSTEM, merged(known, CatalogItem(device_id=CAMERA, name="West gate")))
    assert after.name == "West gate"
    assert after.longitude == known.longitude
    assert after.item["record_save_days"] == 90


def test_an_item_can_be_rebuilt_from_what_is_stored() -> None:
    stored = catalog(FULL)[CAMERA].item
    assert item_fields(CatalogItem.model_validate(stored)) == stored


def test_status_words_beyond_the_vocabulary() -> None:
    assert status_of(CatalogItem(device_id=CAMERA)) == "ON"
    assert status_of(CatalogItem(device_id=CAMERA, status="BROKEN")) == "OFF"


@pytest.mark.parametrize(
    ("code", "usable"),
    [("41", True), (CAMERA, True), ("", False), ("4" * 21, False), ("ä", False), ("a b", False)],
)
def test_usable_ids(code: str, usable: bool) -> None:
    assert usable_id(code) is usable


class TestEvidence:
    """Quirk 20: device state, report and last picture side by side."""

    def make(self) -> tuple[Registry, ManualClock, Channel]:
        clock = ManualClock()
        registry = Registry(bus=EventBus(), clock=clock)
        device = registry.put_device(Device(NVR))
        channel = registry.put_channel(Channel(NVR, CAMERA, kind=ChannelKind.CAMERA, reported="ON"))
        registry.mark_online(device)
        return registry, clock, channel

    @pytest.mark.quirk(20)
    def test_an_offline_device_has_no_online_channels(self) -> None:
        registry, _, channel = self.make()
        registry.mark_offline(registry.devices[NVR], "heartbeat_lost")
        evidence = registry.channel_evidence(channel)
        assert (evidence.verdict, evidence.reported) == ("OFF", "ON")
        assert evidence.reason == "device offline: heartbeat_lost"

    @pytest.mark.quirk(20)
    @pytest.mark.parametrize("report", ["OFF", "VLOST", "DEFECT"])
    def test_pictures_outweigh_an_older_report(self, report: str) -> None:
        registry, clock, channel = self.make()
        registry.report(channel, report)
        assert registry.channel_evidence(channel).verdict == report
        clock.advance(10)
        registry.media_proof(NVR, CAMERA)
        assert registry.channel_evidence(channel).verdict == "ON"
        assert "pictures" in registry.channel_evidence(channel).reason
        clock.advance(301)
        assert registry.channel_evidence(channel).verdict == report
        registry.media_proof(NVR, CAMERA)
        clock.advance(1)
        registry.report(channel, report)  # a newer word than the picture
        assert registry.channel_evidence(channel).verdict == report
