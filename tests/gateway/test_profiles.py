"""Profiles as records and as a service: layers, origins, storage, vendors' data under devices, and what obeys them."""

from __future__ import annotations

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
from gateway.services.profiles import ProfileService

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
    assert profile.learn(media_transport="udp")
    assert not profile.learn(media_transport="udp")
    assert (profile.media_transport, profile.origin("media_transport")) == ("udp", "learned")
    assert profile.order(media_transport="tcp_active") == ("media_transport",)
    profile.learn(media_transport="tcp_passive")
    assert (profile.media_transport, profile.origin("media_transport")) == ("tcp_active", "operator")
    profile.order(media_transport=None)
    assert (profile.media_transport, profile.origin("media_transport")) == ("tcp_passive", "learned")
    assert profile.forget() == ("media_transport",)
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
    service = ProfileService(vendors=load_vendors(), registry=registry, bus=bus)
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
    service = ProfileService(vendors=load_vendors(), registry=registry, bus=bus)
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
