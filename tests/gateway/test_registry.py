"""The registry and the event bus."""

from __future__ import annotations

import asyncio
import logging

import pytest
from gateway_core import CAMERA, NVR

from gateway.clock import ManualClock
from gateway.events import (
    ChannelAdded,
    ChannelChanged,
    ChannelRemoved,
    DeviceAdded,
    DeviceChanged,
    DeviceOffline,
    DeviceOnline,
    DeviceRemoved,
    Event,
    EventBus,
)
from gateway.model import Channel, ChannelKind, Device, DeviceKind
from gateway.registry import Registry, device_kind
from sip.flow import Flow


def made() -> tuple[Registry, list[Event]]:
    bus = EventBus()
    seen: list[Event] = []
    bus.subscribe(Event, callback=seen.append)
    return Registry(bus=bus, clock=ManualClock()), seen


def test_devices_are_added_changed_and_removed_with_their_channels() -> None:
    registry, seen = made()
    registry.put_device(Device(NVR))
    assert registry.update_device(NVR, name="a", model="") == ("name",)
    assert registry.update_device(NVR, name="a") == ()
    registry.put_channel(Channel(NVR, CAMERA))
    assert registry.remove_device(NVR)
    assert not registry.remove_device(NVR)
    assert [type(event) for event in seen] == [
        DeviceAdded, DeviceChanged, ChannelAdded, ChannelRemoved, DeviceRemoved,
    ]  # fmt: skip
    assert registry.find_channels(CAMERA) == []
    changes = registry.take_changes()
    assert changes.removed_devices == {NVR}
    assert not changes.devices
    assert not changes.channels


def test_a_removed_device_that_comes_back_is_not_deleted_again() -> None:
    registry, _ = made()
    registry.put_device(Device(NVR))
    registry.remove_device(NVR)
    registry.put_device(Device(NVR))
    assert registry.changes.removed_devices == set()
    assert registry.changes.devices == {NVR}


@pytest.mark.gb("G042")
def test_state_changes_are_told_once() -> None:
    registry, seen = made()
    device = registry.put_device(Device(NVR))
    assert registry.mark_online(device)
    assert not registry.mark_online(device)
    assert registry.mark_offline(device, "expired")
    assert not registry.mark_offline(device, "heartbeat_lost")
    assert device.offline_cause == "expired"
    assert seen[1:] == [DeviceOnline(NVR), DeviceOffline(NVR, "expired")]


def test_devices_are_found_by_flow() -> None:
    registry, _ = made()
    one, two = registry.put_device(Device(NVR)), registry.put_device(Device(CAMERA))
    flow = Flow("udp", "10.0.0.9", 5060, "10.0.0.1", 5060)
    other = Flow("tcp", "10.0.0.9", 5060, "10.0.0.1", 5060, 4)
    assert not registry.set_flow(one, flow)
    registry.set_flow(two, flow)
    assert registry.devices_on(flow) == [one, two]
    assert registry.set_flow(one, other)
    assert registry.devices_on(flow) == [two]
    assert registry.devices_on(other) == [one]
    assert registry.devices_on(Flow("tcp", "10.0.0.9", 5060, "10.0.0.1", 5060, 5)) == []
    registry.set_flow(one, None)
    registry.remove_device(CAMERA)
    assert registry._by_flow == {}


def test_a_channel_is_told_only_when_it_changed() -> None:
    registry, seen = made()
    registry.put_device(Device(NVR))
    first = registry.put_channel(Channel(NVR, CAMERA, name="a"))
    assert registry.put_channel(Channel(NVR, CAMERA, name="a")) is first
    assert registry.put_channel(Channel(NVR, CAMERA, name="b", parental=1)) is first
    assert seen[-1] == ChannelChanged(NVR, CAMERA, ("name", "parental"))
    assert len(seen) == 3


def test_a_deleted_channel_that_comes_back_keeps_its_first_day() -> None:
    registry, _ = made()
    registry.put_device(Device(NVR))
    first = registry.put_channel(Channel(NVR, CAMERA))
    registry.clock.advance(100)  # type: ignore[attr-defined]
    registry.remove_channel(NVR, CAMERA)
    again = registry.put_channel(Channel(NVR, CAMERA))
    assert again.added_at == first.added_at
    assert registry.tombstones(NVR) == {}
    assert not registry.remove_channel(NVR, "nothing")


def test_nodes_of_directories_are_no_conflicts() -> None:
    registry, _ = made()
    for device_id in (NVR, CAMERA):
        registry.put_device(Device(device_id))
        registry.put_channel(Channel(device_id, "410183", kind=ChannelKind.DIVISION))
    assert registry.channel_conflicts() == {}
    assert len(registry.find_channels("410183")) == 2
    assert registry.channel_count() == 2
    assert len(list(registry.all_channels())) == 2


@pytest.mark.gb("G271")
@pytest.mark.parametrize(
    ("code", "kind"),
    [(118, DeviceKind.RECORDER), (111, DeviceKind.RECORDER), (132, DeviceKind.CAMERA), (131, DeviceKind.CAMERA),
     (200, DeviceKind.PLATFORM), (999, DeviceKind.OTHER), (None, DeviceKind.OTHER)],
)  # fmt: skip
def test_kinds_of_registering_units(code: int | None, kind: DeviceKind) -> None:
    assert device_kind(code) is kind


class TestBus:
    async def test_a_failing_listener_takes_no_other_with_it(self, caplog: pytest.LogCaptureFixture) -> None:
        bus = EventBus()
        seen: list[Event] = []

        def fails(event: DeviceAdded) -> None:
            raise RuntimeError("no luck")

        bus.subscribe(DeviceAdded, callback=fails)
        bus.subscribe(DeviceAdded, callback=seen.append)
        with caplog.at_level(logging.ERROR):
            bus.publish(DeviceAdded(NVR))
            await asyncio.sleep(0)
        assert seen == [DeviceAdded(NVR)]
        assert "no luck" in caplog.text

    async def test_listeners_run_after_the_publisher_is_done(self) -> None:
        bus = EventBus()
        seen: list[Event] = []
        bus.subscribe(DeviceAdded, DeviceOnline, callback=seen.append)
        bus.publish(DeviceAdded(NVR))
        bus.publish(DeviceOnline(NVR))
        assert seen == []
        await asyncio.sleep(0)
        assert seen == [DeviceAdded(NVR), DeviceOnline(NVR)]

    def test_unsubscribing(self) -> None:
        bus = EventBus()
        seen: list[Event] = []
        unsubscribe = bus.subscribe(DeviceAdded, callback=seen.append)
        bus.publish(DeviceAdded(NVR))
        unsubscribe()
        unsubscribe()
        bus.publish(DeviceAdded(NVR))
        assert len(seen) == 1

    async def test_a_queue_is_bounded_and_counts_what_it_drops(self) -> None:
        bus = EventBus()
        queue = bus.queue(DeviceOffline, size=3)
        for number in range(5):
            bus.publish(DeviceOffline(str(number), "x"))
        await asyncio.sleep(0)
        assert queue.dropped == 2
        got = []
        async for event in queue:
            got.append(event.device_id)
            if len(got) == 3:
                queue.close()
                queue.close()
        assert got == ["2", "3", "4"]
        bus.publish(DeviceOffline("9", "x"))
