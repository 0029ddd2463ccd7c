"""Profiles as records and as a service: layers, origins, storage, vendors' data under devices, and what obeys them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from gateway_core import NVR, RawDevice, core

from config.vendors import ProfileSettings, load_vendors
from gateway.clock import ManualClock
from gateway.events import DeviceChanged, EventBus
from gateway.model import Device, Profile
from gateway.profile import DEFAULTS, OBSERVED, SETTINGS, Layers
from gateway.registry import Registry
from gateway.services.profiles import ModelSummary, ProfileService
from gateway.services.profiles_models import JOURNAL_KIND
from gateway.services.session_offer import ladder, remember
from gateway.storage.journal import Journal
from media.specs import Transport

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def test_every_setting_is_in_the_record_with_a_default_that_is_allowed() -> None:
    assert set(SETTINGS) == set(DEFAULTS)
    ProfileSettings.model_validate({name: value for name, value in DEFAULTS.items() if value is not None})


def test_layers_cover_one_another() -> None:
    profile = Profile()
    assert (profile.media_transport, profile.origin("media_transport")) == (None, "default")
    profile.layers.vendor = {"media_transport": "tcp_passive", "sdp_form": "long"}
    profile.settle()
    assert (profile.media_transport, profile.origin("media_transport")) == ("tcp_passive", "vendor")
    profile.layers.model = {"media_transport": "tcp_active"}
    profile.settle()
    assert (profile.media_transport, profile.origin("media_transport")) == ("tcp_active", "model")
    assert profile.learn(media_transport="udp")
    assert not profile.learn(media_transport="udp")
    assert (profile.media_transport, profile.origin("media_transport")) == ("udp", "learned")
    assert profile.order(media_transport="tcp_active") == ("media_transport",)
    profile.learn(media_transport="tcp_passive")
    assert (profile.media_transport, profile.origin("media_transport")) == ("tcp_active", "operator")
    profile.order(media_transport=None)
    assert (profile.media_transport, profile.origin("media_transport")) == ("tcp_passive", "learned")
    assert profile.forget() == ("media_transport",)
    assert (profile.media_transport, profile.origin("media_transport")) == ("tcp_active", "model")
    profile.layers.model = {}
    profile.settle()
    assert (profile.media_transport, profile.sdp_form) == ("tcp_passive", "long")
    assert profile.origin("sdp_form") == "vendor"
    with pytest.raises(KeyError):
        profile.order(colour="red")


def test_a_profile_comes_back_from_storage_as_it_was() -> None:
    profile = Profile(charset="UTF-8", allowed_networks=("10.0.0.0/8",), said_edition="3.0")
    profile.learn(media_transport="udp")
    profile.order(media_ladder=("udp", "tcp_active"))
    profile.observe("rtp_ssrc", NOW, 5.0, "expected=1 received=2")
    profile.observe("rtp_ssrc", NOW, 6.0)
    profile.layers.vendor = {"ssrc": "strict"}
    profile.settle()
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again.layers.vendor == {}  # of this start's data, not of the last one's
    again.layers.vendor = profile.layers.vendor
    again.settle()
    assert again == profile
    assert (again.observed["rtp_ssrc"].count, again.observed["rtp_ssrc"].last_at) == (2, NOW)


@pytest.mark.parametrize(
    ("stored", "origins"),
    [
        (
            {"media_transport": "udp", "media_transport_learned": True, "sdp_form": "long"},
            ("learned", "learned"),
        ),
        (
            {"media_transport": "udp", "media_transport_learned": False, "sdp_form": "standard"},
            ("operator", "default"),
        ),
        (
            {"media_transport": None, "charset": "UTF-8", "reply_to_source": True, "local": True},
            ("default", "default"),
        ),
    ],
)
def test_records_of_earlier_versions_are_read(stored: dict[str, Any], origins: tuple[str, str]) -> None:
    profile = Profile.from_dict(stored)
    assert (profile.origin("media_transport"), profile.origin("sdp_form")) == origins
    assert profile.media_transport == stored["media_transport"]
    assert profile.local is stored.get("local", False)


def test_settings_that_are_gone_or_damaged() -> None:
    assert Profile.from_dict({"operator": {"colour": "red", "charset": "UTF-8"}}).charset == "UTF-8"
    with pytest.raises(ValueError):
        Profile.from_dict({"operator": {"sdp_form": "short"}})


def test_observations_are_saved_now_and_then() -> None:
    profile = Profile()
    saves = [profile.observe("busy", NOW, float(second)) for second in range(130)]
    assert [second for second, save in enumerate(saves) if save] == [0, 60, 120]
    assert profile.observed["busy"].count == 130
    with pytest.raises(KeyError):
        profile.observe("sleepy", NOW, 0.0)
    assert all(text and 1 <= quirk <= 50 for text, quirk in OBSERVED.values())


def test_makes_are_found_when_the_device_says_what_it_is() -> None:
    bus = EventBus()
    registry = Registry(bus=bus, clock=ManualClock())
    service = ProfileService(vendors=load_vendors(), registry=registry, bus=bus, journal=Journal())
    early = registry.put_device(Device("41018300001180000001", manufacturer="Huawei", model="NVR800"))
    service.start()
    assert early.profile.heartbeat_revives is True
    late = registry.put_device(Device("41018300001320000001"))
    assert late.profile.origin("stream_number_dialect") == "default"
    registry.update_device(late.device_id, manufacturer="dahua")
    assert (late.profile.stream_number_dialect, late.profile.origin("stream_number_dialect")) == (
        "streamprofile",
        "vendor",
    )
    registry.update_device(late.device_id, manufacturer="other")
    assert late.profile.stream_number_dialect == "streamnumber"
    late.profile.said_edition = "3.0"
    service.order(late, {"edition": "2.0"})
    assert late.edition == "2.0"
    service.order(late, {"edition": None})
    assert late.edition == "3.0"
    told: list[DeviceChanged] = []
    bus.subscribe(DeviceChanged, callback=told.append)
    registry.changes.devices.clear()
    assert registry.learn(late, max_streams=2)
    assert not registry.learn(late, max_streams=2)
    assert [event.fields for event in told] == [("learned", "max_streams")]
    assert registry.changes.devices == {late.device_id}
    service.close()
    registry.update_device(early.device_id, manufacturer="other")
    assert early.profile.heartbeat_revives is True  # nobody listens any more


def test_models_add_up_what_their_devices_needed() -> None:
    bus = EventBus()
    registry = Registry(bus=bus)
    service = ProfileService(vendors=load_vendors(), registry=registry, bus=bus, journal=Journal())
    for number in range(3):
        device = registry.put_device(
            Device(
                f"4101830000132000000{number}",
                manufacturer="Tiandy",
                model="TC-1",
                profile=Profile(layers=Layers()),
            )
        )
        registry.learn(device, media_transport="udp" if number else "tcp_active")
        registry.observe(device, "no_setup")
    registry.put_device(Device("41018300001320000009", manufacturer="Tiandy", model="TC-2"))
    one, two = service.models()
    assert (one.model, one.devices, one.vendor) == ("TC-1", 3, "tiandy")
    assert one.learned == {"media_transport": {"udp": 2, "tcp_active": 1}}
    assert one.observed == {"no_setup": 3}
    assert (two.devices, two.learned) == (1, {})
    assert service.forget_model("Tiandy", "TC-1") == 3
    assert service.models()[0].learned == {}


class SavedJournal(Journal):
    """What was put is there for the next life; counts the puts."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], dict[str, Any]] = {}
        self.puts = 0

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        self.puts += 1
        self.entries[kind, key] = json.loads(json.dumps(state))

    def remove(self, kind: str, key: str) -> None:
        self.entries.pop((kind, key), None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        return {key: state for (its, key), state in self.entries.items() if its == kind}


class Shop:
    """A registry with cameras of one model, and the service over them."""

    def __init__(self, journal: SavedJournal | None = None) -> None:
        self.bus = EventBus()
        self.registry = Registry(bus=self.bus)
        self.journal = journal or SavedJournal()
        self.service = ProfileService(
            vendors=load_vendors(), registry=self.registry, bus=self.bus, journal=self.journal
        )

    def open(self) -> Shop:
        asyncio.run(self.service.load())
        self.service.start()
        return self

    def camera(self, number: int, model: str = "N-1", **learned: Any) -> Device:
        device = self.registry.put_device(Device(f"410183000013200000{number:02d}"))
        if learned:
            self.registry.learn(device, **learned)
        self.registry.update_device(device.device_id, manufacturer="Nowhere", model=model)
        return device

    def summary(self, model: str = "N-1") -> ModelSummary:
        return next(summary for summary in self.service.models() if summary.model == model)


def way(device: Device) -> tuple[Any, str]:
    return device.profile.media_transport, device.profile.origin("media_transport")


def test_what_three_devices_learned_is_where_the_next_one_of_the_model_starts() -> None:
    shop = Shop().open()
    waiting = shop.camera(0)
    for number in range(1, 3):
        shop.camera(number, media_transport="udp", max_streams=2)
    shop.camera(8, model="N-2", media_transport="udp")
    assert way(waiting) == (None, "default")  # two are not enough, another model does not count
    third = shop.camera(3)
    shop.registry.learn(third, media_transport="udp", max_streams=2)
    assert way(waiting) == ("udp", "model")
    assert way(third) == ("udp", "learned")
    assert way(shop.camera(4)) == ("udp", "model")
    assert way(shop.camera(9, model="N-2")) == (None, "default")
    assert waiting.profile.max_streams is None  # owed to other clients of a device, perhaps
    assert (shop.summary().profile.learned, shop.summary().profile.agreed) == (
        {"media_transport": "udp"},
        {"media_transport": 3},
    )
    assert waiting.profile.to_dict()["learned"] == {}
    state = next(row for row in shop.service.settings(waiting) if row.name == "media_transport")
    assert (state.value, state.origin, state.model, state.learned) == ("udp", "model", "udp", None)
    puts = shop.journal.puts
    for _ in range(10):
        shop.registry.update_device(waiting.device_id, name="other")
        shop.registry.learn(waiting, charset="UTF-8")
        shop.registry.learn(waiting, charset=None)
    assert shop.journal.puts == puts

    contrary = shop.camera(5, media_transport="tcp_active")
    assert way(contrary) == ("tcp_active", "learned")
    assert way(waiting) == (None, "default")
    assert not shop.journal.entries
    shop.registry.remove_device(contrary.device_id)
    assert way(waiting) == ("udp", "model")
    shop.registry.update_device(waiting.device_id, model="N-3")  # it was mistaken for another
    assert way(waiting) == (None, "default")


def test_a_model_keeps_what_it_learned_over_restarts_until_somebody_says_forget() -> None:
    before = Shop().open()
    cameras = [before.camera(number, media_transport="udp", sdp_form="long") for number in range(3)]
    before.service.order_model("Nowhere", "N-1", {"media_ladder": ("udp", "tcp_active"), "max_streams": 4})
    before.registry.remove_device(cameras[0].device_id)
    assert before.service.forget(cameras[1], ["media_transport"]) == ("media_transport",)
    assert way(cameras[1]) == ("udp", "model")

    after = Shop(before.journal).open()
    device = after.camera(7)
    assert way(device) == ("udp", "model")
    assert (device.profile.sdp_form, device.profile.media_ladder) == ("long", ("udp", "tcp_active"))
    after.registry.learn(device, sdp_form="long")
    assert after.service.forget_model("Nowhere", "N-1", ["sdp_form"]) == 1
    assert (device.profile.sdp_form, way(device)) == ("standard", ("udp", "model"))
    assert after.service.forget_model("Nowhere", "N-1") == 0
    assert way(device) == (None, "default")
    assert device.profile.max_streams == 4  # an operator's word is not learned
    assert after.service.order_model("Nowhere", "N-1", dict.fromkeys(SETTINGS)).profile.values() == {}
    assert device.profile.max_streams is None
    assert not after.journal.entries


def test_an_operators_word_on_a_model_stands_between_what_model_and_device_learned() -> None:
    shop = Shop().open()
    for number in range(3):
        shop.camera(number, media_transport="udp")
    device = shop.camera(4)
    told = shop.service.order_model("Nowhere", "N-1", {"media_transport": "tcp_active", "edition": "2.0"})
    assert (told.devices, told.profile.values()["media_transport"]) == (4, "tcp_active")
    assert (way(device), device.edition) == (("tcp_active", "model"), "2.0")
    assert way(shop.registry.devices["41018300001320000000"]) == ("udp", "learned")
    shop.registry.learn(device, media_transport="tcp_passive")
    assert way(device) == ("tcp_passive", "learned")
    shop.service.order_model("Nowhere", "N-1", {"media_transport": None})
    shop.registry.learn(device, media_transport=None)
    assert way(device) == ("udp", "model")
    early = shop.service.order_model("Nowhere", "N-9", {"charset": "UTF-8"})
    assert (early.devices, early.profile.operator) == (0, {"charset": "UTF-8"})
    assert shop.camera(9, model="N-9").profile.charset == "UTF-8"


def test_damaged_records_of_models_are_left_out() -> None:
    shop = Shop()
    named = {"manufacturer": "Nowhere", "model": "N-1"}
    shop.journal.put(JOURNAL_KIND, "a", named | {"operator": {"charset": "KOI8"}})
    shop.journal.put(
        JOURNAL_KIND, "b", named | {"model": "N-2", "learned": {"colour": "red", "sdp_form": "long"}}
    )
    shop.open()
    assert shop.camera(1).profile.charset is None
    assert shop.camera(2, model="N-2").profile.sdp_form == "long"


def test_a_device_that_is_not_as_its_model_finds_its_own_way() -> None:
    shop = Shop().open()
    for number in range(3):
        shop.camera(number, media_transport="udp", sdp_form="long")
    device = shop.camera(4)
    rungs = ladder(device.profile, Transport.TCP_PASSIVE, None)
    assert (rungs[0].transport, rungs[0].form) == (Transport.UDP, "long")
    assert (rungs[-1].transport, rungs[-1].form) == (Transport.UDP, "standard")
    remember(shop.registry, device, rungs[-1], rungs[0], works=True)
    assert (device.profile.sdp_form, device.profile.origin("sdp_form")) == ("standard", "learned")
    assert shop.summary().profile.learned == {"media_transport": "udp"}  # of the form it is not sure any more


async def test_a_model_is_forgotten_at_once_however_many_devices_had_agreed() -> None:
    """On the loop events come later: none of them may bring back what was forgotten."""
    shop = Shop()
    shop.service.start()
    cameras = [shop.camera(number, media_transport="udp") for number in range(6)]
    await asyncio.sleep(0)
    assert shop.summary().profile.agreed == {"media_transport": 6}
    assert shop.service.forget_model("Nowhere", "N-1") == 6
    assert [way(device) for device in cameras] == [(None, "default")] * 6
    await asyncio.sleep(0)
    assert shop.summary().profile.values() == {}
    assert not shop.journal.entries


@pytest.mark.quirk(8)
@pytest.mark.parametrize(("ordered", "status"), [(None, 403), (True, 200), (False, 403)])
async def test_the_profile_says_whether_a_heartbeat_revives(ordered: bool | None, status: int) -> None:
    clock = ManualClock()
    async with core(clock=clock) as gateway, RawDevice(gateway.address) as device:
        await device.register(expires=60)
        gateway.device().profile.order(heartbeat_revives=ordered)
        clock.advance(61)
        gateway.liveness.sweep(clock.mono())
        assert (await device.keepalive()).status == status
        assert gateway.device().online is (status == 200)


@pytest.mark.quirk(1)
async def test_one_name_in_another_character_set_does_not_change_what_was_learned() -> None:
    """Device name and channel names of one unit come in different character sets."""

    def body(number: int, charset: str) -> bytes:
        return (
            f"<Notify><CmdType>Odd</CmdType><SN>{number}</SN><DeviceID>{NVR}</DeviceID><Text>新密</Text></Notify>"
        ).encode(charset)

    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        await device.message(body(1, "gb18030"))
        assert gateway.device().profile.origin("charset") == "default"
        await device.message(body(2, "utf-8"))
        assert gateway.device().profile.charset == "UTF-8"
        for number in range(3, 5):
            await device.message(body(number, "gb18030"))
        assert gateway.device().profile.charset == "UTF-8"
        await device.message(body(5, "utf-8"))
        for number in range(6, 9):
            await device.message(body(number, "gb18030"))
        assert gateway.device().profile.charset is None
