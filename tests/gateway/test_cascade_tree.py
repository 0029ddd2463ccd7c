"""The exported catalog: what is in it, how it hangs together, what each target selects, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from gateway.model import Channel, ChannelKind, Device, DeviceKind, Platform, State
from gateway.services.cascade_ids import IdMap, Key
from gateway.services.cascade_items import ItemWriter
from gateway.services.cascade_tree import (
    Tree,
    View,
    added_within,
    build_tree,
    comes_from,
    differences,
)
from sip.flow import Flow

OURS = "41018300002000000001"
UPPER = "41010000002000000001"
NVR = "41018300001180000001"
IPC = "41018300001320000009"
LOWER = "41018301002000000001"
LOWER2 = "41018302002000000001"
GROUP, ORG, SUBORG = "41018301002150000001", "41018301002160000001", "41018301002160000002"
DAY = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Verdict:
    verdict: str


@dataclass
class Registry:
    """A registry of plain dictionaries."""

    devices: dict[str, Device] = field(default_factory=dict)
    _channels: dict[str, dict[str, Channel]] = field(default_factory=dict)

    def device(
        self, device_id: str, kind: DeviceKind, state: State = State.ONLINE, **values: object
    ) -> Device:
        values.setdefault("name", f"device {device_id[-4:]}")
        self.devices[device_id] = Device(device_id, kind=kind, state=state, **values)  # type: ignore[arg-type]
        return self.devices[device_id]

    def add(
        self, device_id: str, channel_id: str, kind: ChannelKind = ChannelKind.CAMERA, **values: object
    ) -> Channel:
        values = {"name": f"camera {channel_id[-4:]}", "reported": "ON", "added_at": DAY} | values
        channel = Channel(device_id, channel_id, kind=kind, **values)  # type: ignore[arg-type]
        self._channels.setdefault(device_id, {})[channel_id] = channel
        return channel

    def channels(self, device_id: str) -> Mapping[str, Channel]:
        return self._channels.get(device_id, {})

    def channel(self, device_id: str, channel_id: str) -> Channel | None:
        return self.channels(device_id).get(channel_id)

    def channel_evidence(self, channel: Channel) -> Verdict:
        return Verdict(channel.reported if self.devices[channel.device_id].online else "OFF")


def camera(number: int) -> str:
    return f"4101830000131{number:07d}"


def platform(**values: object) -> Platform:
    return Platform(UPPER, "municipal", "4101000000", "127.0.0.1", 5060, **values)  # type: ignore[arg-type]


def build(registry: Registry, shared: frozenset[Key] | None = None, ids: IdMap | None = None) -> Tree:
    view = View(
        platform(), OURS, "county platform", "410183", shared, {"4101": "city", "410183": "county"}.get
    )  # type: ignore[arg-type]
    return build_tree(registry, view, ids or IdMap(OURS))


@pytest.fixture
def county() -> Registry:
    """A recorder with two cameras, a lone camera with a loudspeaker, and a lower platform with both trees."""
    registry = Registry()
    registry.device(NVR, DeviceKind.RECORDER)
    registry.add(NVR, camera(1), parent_ids=(NVR,), civil_code="410183")
    registry.add(NVR, camera(2), parent_ids=(NVR,), civil_code="4101830000", reported="OFF")
    registry.device(IPC, DeviceKind.CAMERA)
    registry.add(IPC, camera(9), civil_code="null")
    registry.add(IPC, "41018300001370000009", ChannelKind.AUDIO_OUT, parent_ids=(IPC,))
    registry.device(LOWER, DeviceKind.PLATFORM, name="township platform")
    registry.add(LOWER, LOWER, ChannelKind.SYSTEM, name="township platform", civil_code="41018301")
    registry.add(LOWER, GROUP, ChannelKind.BUSINESS_GROUP, name="key units", parent_ids=(LOWER,))
    registry.add(LOWER, ORG, ChannelKind.VIRTUAL_ORGANISATION, name="streets", business_group_id=GROUP)
    registry.add(
        LOWER,
        SUBORG,
        ChannelKind.VIRTUAL_ORGANISATION,
        name="schools",
        parent_ids=(ORG,),
        business_group_id=GROUP,
    )
    registry.add(
        LOWER,
        camera(20),
        parent_ids=(LOWER, SUBORG),
        business_group_id=GROUP,
        civil_code="41018301",
        item={
            "device_id": camera(20),
            "name": "x",
            "ip_address": "10.9.8.7",
            "password": "secret",
            "model": "M1",
        },
    )
    return registry


@pytest.mark.gb("G101")
def test_a_loudspeaker_goes_up_with_its_device_as_parent(county: Registry) -> None:
    for shared in (None, frozenset({(IPC, camera(9))})):
        tree = build(county, shared)
        speaker = tree.entries["41018300001370000009"]
        assert speaker.parents == (IPC,)
        assert tree.entries[IPC].parental == 1
        assert tree.entries[camera(9)].parents == (IPC,)


def test_the_order_lets_the_upper_build_the_tree_as_it_reads(county: Registry) -> None:
    tree = build(county)
    order = list(tree.entries)
    assert order[0] == OURS
    assert tree.entries[OURS].parents == ()
    place = {code: index for index, code in enumerate(order)}
    for entry in tree.entries.values():
        for parent in entry.parents:
            if entry.kind is not ChannelKind.CAMERA or tree.entries[parent].kind is not ChannelKind.CAMERA:
                assert place[parent] < place[entry.exported_id]
    assert [code for code in order if len(code) < 20] == ["4101", "410183", "41018301"]
    assert tree.entries["4101"].name == "city"


@pytest.mark.gb("G103")
def test_no_exported_entry_has_an_odd_civil_code(county: Registry) -> None:
    entries = build(county).entries
    assert all(len(entry.civil_code) in (2, 4, 6, 8) for entry in entries.values())
    assert entries[camera(2)].civil_code == "410183"  # came as 4101830000
    assert entries[camera(9)].civil_code == "410183"  # came as null


def test_parents_are_the_recorder_the_system_and_the_organisation(county: Registry) -> None:
    tree = build(county)
    assert tree.entries[camera(1)].parents == (NVR,)
    assert tree.entries[NVR].parents == (OURS,)
    assert tree.entries[LOWER].parents == (OURS,)
    assert tree.entries[LOWER].kind is ChannelKind.SYSTEM
    assert tree.entries[GROUP].parents == (LOWER,)
    assert tree.entries[ORG].parents == ()
    assert tree.entries[ORG].group == GROUP
    assert tree.entries[SUBORG].parents == (ORG,)
    assert tree.entries[camera(20)].parents == (LOWER, SUBORG)


@pytest.mark.gb("G099")
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("410183", {"410183", "41018301", NVR, camera(1), camera(2), IPC, camera(9), "41018300001370000009", LOWER,
                    GROUP, ORG, SUBORG, camera(20)}),
        ("41018301", {"41018301", LOWER, camera(20)}),
        (LOWER, {LOWER, GROUP, ORG, SUBORG, camera(20)}),
        (GROUP, {GROUP, ORG, SUBORG, camera(20)}),
        (ORG, {ORG, SUBORG, camera(20)}),
        (SUBORG, {SUBORG, camera(20)}),
        (NVR, {NVR, camera(1), camera(2)}),
        (camera(1), {camera(1)}),
    ],
)  # fmt: skip
def test_a_target_selects_its_subtree(county: Registry, target: str, expected: set[str]) -> None:
    for number, code in enumerate((GROUP, ORG, SUBORG)):
        county.channels(LOWER)[code].civil_code = "410183" if number else ""
    selected = {entry.exported_id for entry in build(county).select(target)}
    if target == "41018301":
        selected -= {GROUP}  # its code carries the township's digits
    assert selected == expected


@pytest.mark.gb("G099", "G100")
def test_the_own_system_selects_all_and_an_unknown_target_nothing(county: Registry) -> None:
    shared = frozenset({(NVR, camera(1))})
    tree = build(county, shared)
    assert set(tree.entries) == {OURS, "4101", "410183", NVR, camera(1)}
    assert len(tree.select(OURS)) == 5
    for hidden in (camera(2), LOWER, GROUP, "41018301", "41018300001319999999", ""):
        assert tree.select(hidden) == []


def test_a_shared_camera_brings_the_nodes_above_it_and_no_sibling(county: Registry) -> None:
    county.add(LOWER, camera(21), parent_ids=(LOWER, ORG))
    tree = build(county, frozenset({(LOWER, camera(20))}))
    assert {LOWER, GROUP, ORG, SUBORG, camera(20)} <= set(tree.entries)
    assert camera(21) not in tree.entries


@pytest.mark.gb("G102")
def test_a_camera_known_by_two_ways_is_exported_once(county: Registry) -> None:
    county.device(LOWER2, DeviceKind.PLATFORM, name="other platform")
    county.add(LOWER2, camera(20), parent_ids=(LOWER2,), reported="OFF")
    tree = build(county)
    entry = tree.entries[camera(20)]
    assert set(entry.ways) == {(LOWER, camera(20)), (LOWER2, camera(20))}
    assert entry.parents == (LOWER, LOWER2, SUBORG)
    assert sum(code == camera(20) for code in tree.entries) == 1
    items = ItemWriter(county, manufacturer="gw", model="1")
    assert items.full(entry).status == "ON"
    county.devices[LOWER].state = State.OFFLINE
    assert items.full(build(county).entries[camera(20)]).status == "OFF"
    county.channels(LOWER2)[camera(20)].reported = "ON"
    again = build(county).entries[camera(20)]
    assert items.full(again).status == "ON"
    assert again.ways[0] == (LOWER2, camera(20))


@pytest.mark.quirk(18)
def test_two_recorders_with_factory_codes_show_both_cameras(county: Registry) -> None:
    other = "41018300001180000002"
    county.device(other, DeviceKind.RECORDER)
    county.add(other, camera(1), name=county.channels(NVR)[camera(1)].name, parent_ids=(other,))
    ids = IdMap(OURS)
    tree = build(county, ids=ids)
    codes = {
        entry.ways: entry.exported_id
        for entry in tree.entries.values()
        if entry.ways and entry.ways[0][1] == camera(1)
    }
    assert codes[((NVR, camera(1)),)] == camera(1)
    second = codes[((other, camera(1)),)]
    assert second != camera(1)
    assert tree.entries[second].parents == (other,)
    assert build(county, ids=IdMap(OURS, recoded=ids.recoded)).entries[second].ways == ((other, camera(1)),)


def test_a_second_way_that_sorts_first_does_not_change_the_code(county: Registry) -> None:
    own = {(LOWER, camera(20)): "41018301001310000777"}
    ids = IdMap(OURS, chosen=own)
    before = "41018100002000000001"
    build(county, ids=ids)
    county.device(before, DeviceKind.PLATFORM)
    county.add(before, camera(20))
    tree = build(county, ids=ids)
    assert set(tree.entries["41018301001310000777"].ways) == {(before, camera(20)), (LOWER, camera(20))}
    assert camera(20) not in tree.entries


@pytest.mark.gb("G265")
@pytest.mark.quirk(37)
def test_what_came_from_the_upper_does_not_go_back_to_it(county: Registry) -> None:
    county.device(UPPER, DeviceKind.PLATFORM)
    county.add(UPPER, camera(500))
    assert camera(500) not in build(county).entries
    shared = frozenset({(UPPER, camera(500)), (NVR, camera(1))})
    assert camera(500) not in build(county, shared).entries
    flow = Flow("udp", "127.0.0.1", 5060, "127.0.0.1", 5061)
    assert comes_from(Device(LOWER, kind=DeviceKind.PLATFORM, flow=flow), platform())
    assert not comes_from(Device(NVR, kind=DeviceKind.RECORDER, flow=flow), platform())


@pytest.mark.quirk(19)
def test_circles_and_selves_are_broken() -> None:
    registry = Registry()
    registry.device(LOWER, DeviceKind.PLATFORM)
    a, b, c = (f"4101830100216000000{n}" for n in (1, 2, 3))
    registry.add(LOWER, a, ChannelKind.VIRTUAL_ORGANISATION, parent_ids=(c,))
    registry.add(LOWER, b, ChannelKind.VIRTUAL_ORGANISATION, parent_ids=(a,))
    registry.add(LOWER, c, ChannelKind.VIRTUAL_ORGANISATION, parent_ids=(b, c))
    registry.add(LOWER, camera(1), parent_ids=(camera(1), a))
    tree = build(registry)
    for entry in tree.entries.values():
        seen: set[str] = set()
        open_ = list(entry.parents)
        while open_:
            parent = open_.pop()
            assert parent != entry.exported_id
            if parent not in seen:
                seen.add(parent)
                open_.extend(tree.entries[parent].parents)
    assert tree.entries[camera(1)].parents == (LOWER, a)


@pytest.mark.gb("G104")
def test_the_window_selects_what_was_added_in_it(county: Registry) -> None:
    county.add(NVR, camera(3), added_at=DAY + timedelta(days=5))
    everything = build(county).select(OURS)
    recent = added_within(everything, DAY + timedelta(days=4), DAY + timedelta(days=6))
    assert [entry.exported_id for entry in recent] == [camera(3)]
    assert added_within(everything, DAY + timedelta(days=6), None) == []
    assert len(added_within(everything, None, None)) == len(everything)


@pytest.mark.gb("G259")
def test_items_go_up_without_addresses_and_passwords(county: Registry) -> None:
    item = ItemWriter(county, manufacturer="gw", model="1").full(build(county).entries[camera(20)])
    assert item.model == "M1"
    assert item.ip_address == ""
    assert item.password == ""
    assert item.port is None
    assert item.extras == {}


def test_directory_items_carry_only_their_fields(county: Registry) -> None:
    tree = build(county)
    items = ItemWriter(county, manufacturer="gw", model="1")
    own = items.full(tree.entries[OURS])
    assert (own.parent_ids, own.status, own.manufacturer, own.civil_code) == ((), "ON", "gw", "410183")
    division = items.full(tree.entries["410183"])
    assert (division.name, division.status, division.civil_code, division.parent_ids) == (
        "county",
        "",
        "",
        (),
    )
    organisation = items.full(tree.entries[ORG])
    assert (organisation.business_group_id, organisation.status) == (GROUP, "")


def test_differences_tell_add_del_and_update(county: Registry) -> None:
    ids = IdMap(OURS)
    old = build(county, ids=ids)
    county.add(NVR, camera(3))
    del county._channels[NVR][camera(2)]
    county.channels(NVR)[camera(1)].name = "renamed"
    new = build(county, ids=ids)
    found = {(change.event, change.entry.exported_id) for change in differences(old, new)}
    assert found == {("DEL", camera(2)), ("ADD", camera(3)), ("UPDATE", camera(1))}
    touched = frozenset({(LOWER, camera(20))})
    assert [(c.event, c.entry.exported_id) for c in differences(new, new, touched)] == [
        ("UPDATE", camera(20))
    ]


def test_twenty_thousand_channels_are_all_there_once() -> None:
    registry = Registry()
    for n in range(200):
        device_id = f"4101830000118{n:07d}"
        registry.device(device_id, DeviceKind.RECORDER)
        for c in range(100):
            registry.add(
                device_id, f"4101830000131{n * 100 + c:07d}", parent_ids=(device_id,), civil_code="410183"
            )
    tree = build(registry)
    assert tree.cameras == 20_000
    assert len(tree.select("41018300001180000042")) == 101
