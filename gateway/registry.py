"""The in-memory truth about devices and channels. SIP paths read and write here; storage follows behind in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from gateway.clock import Clock
from gateway.credentials import DeviceSecret
from gateway.events import (
    ChannelAdded,
    ChannelChanged,
    ChannelConflict,
    ChannelRemoved,
    ChannelStatus,
    DeviceAdded,
    DeviceChanged,
    DeviceFault,
    DeviceMoved,
    DeviceOffline,
    DeviceOnline,
    DeviceRemoved,
    EventBus,
)
from gateway.model import Channel, ChannelKind, Device, DeviceKind, State
from sip.flow import Flow

MEDIA_PROOF_LIFETIME = timedelta(minutes=5)
"""So long pictures of a channel outweigh an older report that it is OFF (quirk 20)."""

_CHANNEL_FIELDS = (
    "name",
    "kind",
    "manufacturer",
    "model",
    "civil_code",
    "block",
    "address",
    "parental",
    "parent_ids",
    "business_group_id",
    "longitude",
    "latitude",
    "point_class",
    "grassroots_code",
    "ptz_type",
    "secrecy",
    "item",
)
_SHARED_BY_NATURE = frozenset(
    {ChannelKind.DIVISION, ChannelKind.BUSINESS_GROUP, ChannelKind.VIRTUAL_ORGANISATION, ChannelKind.SYSTEM}
)
"""Kinds that several devices may name without a conflict: nodes of directories."""


class Verdict(StrEnum):
    """Derived status of a channel, in the words of the catalog events (2022 A.2.5.7)."""

    ON = "ON"
    OFF = "OFF"
    VLOST = "VLOST"
    DEFECT = "DEFECT"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a channel counts as usable or not: the parts side by side, then the verdict and its reason."""

    device_online: bool
    reported: str
    defect: bool
    last_media_proof: datetime | None
    verdict: Verdict
    reason: str

    @property
    def online(self) -> bool:
        return self.verdict is Verdict.ON


@dataclass(slots=True)
class Changes:
    """Keys of records that changed since the last flush; the writer takes and saves them."""

    devices: set[str] = field(default_factory=set)
    removed_devices: set[str] = field(default_factory=set)
    channels: set[tuple[str, str]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.devices or self.removed_devices or self.channels)


FlowKey = tuple[str, str, int, int]


def flow_key(flow: Flow) -> FlowKey:
    """What makes a flow the same one, seen from the peer: transport, remote address, connection."""
    return (flow.transport, flow.host, flow.port, flow.connection)


class Registry:
    """Devices, channels and secrets in memory, with the indexes that SIP paths need, all O(1).

    Records are shared, not copied. Change them through the methods here: they keep the indexes, publish the
    event and mark the record for storage.
    """

    def __init__(self, *, bus: EventBus, clock: Clock | None = None) -> None:
        self.bus = bus
        self.clock = clock or Clock()
        self.devices: dict[str, Device] = {}
        self.secrets: dict[str, DeviceSecret] = {}
        self.changes = Changes()
        self._channels: dict[str, dict[str, Channel]] = {}
        self._tombstones: dict[str, dict[str, Channel]] = {}
        self._owners: dict[str, dict[str, None]] = {}  # channel_id -> device_ids, in the order they came
        self._by_flow: dict[FlowKey, dict[str, None]] = {}
        self.by_mapped: dict[str, tuple[str, str]] = {}
        """Keys of channels by their mapped codes (gateway.services.lower_platforms)."""
        self.shapes: dict[str, int] = {}
        """By device: grows whenever its tree of channels may look different."""

    # -- devices ---------------------------------------------------------------------------------------------

    def put_device(self, device: Device, *, secret: DeviceSecret | None = None) -> Device:
        """Add a device or replace its record, and its secret when one is given. Publishes DeviceAdded or DeviceChanged."""
        known = self.devices.get(device.device_id)
        if known is not None and known is not device:
            self._unindex_flow(known)
        self.devices[device.device_id] = device
        self._index_flow(device)
        self._channels.setdefault(device.device_id, {})
        if secret is not None:
            self.secrets[device.device_id] = secret
        self._mark(device.device_id)
        self.bus.publish(DeviceAdded(device.device_id) if known is None else DeviceChanged(device.device_id))
        return device

    def update_device(self, device_id: str, **values: Any) -> tuple[str, ...]:
        """Set fields of a device; returns and publishes the names of those that really changed. KeyError if unknown.

        Not for ``state`` and ``flow``: these have their own methods.
        """
        device = self.devices[device_id]
        changed = tuple(name for name, value in values.items() if getattr(device, name) != value)
        for name in changed:
            setattr(device, name, values[name])
        if changed:
            self._mark(device_id)
            self.bus.publish(DeviceChanged(device_id, changed))
        return changed

    def learn(self, device: Device, **settings: Any) -> bool:
        """What a device turned out to need (None: forget it), for its profile. True when that is new."""
        if not device.profile.learn(**settings):
            return False
        self._mark(device.device_id)
        self.bus.publish(DeviceChanged(device.device_id, ("learned", *settings)))
        return True

    def observe(self, device: Device, name: str, detail: str = "") -> None:
        """Count something a device does differently (gateway.profile.OBSERVED). Cheap; saved now and then."""
        if device.profile.observe(name, self.clock.utc(), self.clock.mono(), detail):
            self._mark(device.device_id)

    def set_secret(self, device_id: str, secret: DeviceSecret | None) -> None:
        """Give a device its own secret, or take it away (None)."""
        if secret is None:
            self.secrets.pop(device_id, None)
        else:
            self.secrets[device_id] = secret
        if device_id in self.devices:
            self._mark(device_id)

    def remove_device(self, device_id: str) -> bool:
        """Forget a device, its channels and its secret. False when it was not known."""
        device = self.devices.get(device_id)
        if device is None:
            return False
        self.mark_offline(device, "removed")
        for channel_id in list(self._channels.pop(device_id, {})):
            self._disown(device_id, channel_id)
            self.bus.publish(ChannelRemoved(device_id, channel_id))
        self._tombstones.pop(device_id, None)
        self._unindex_flow(device)
        self.shapes.pop(device_id, None)
        del self.devices[device_id]
        self.secrets.pop(device_id, None)
        self.changes.devices.discard(device_id)
        self.changes.channels = {key for key in self.changes.channels if key[0] != device_id}
        self.changes.removed_devices.add(device_id)
        self.bus.publish(DeviceRemoved(device_id))
        return True

    def mark_online(self, device: Device, cause: str = "registered") -> bool:
        """Online from now on. True (and one DeviceOnline) only when it was offline."""
        self._mark(device.device_id)
        if device.state is State.ONLINE:
            return False
        device.state = State.ONLINE
        device.offline_cause = ""
        self.bus.publish(DeviceOnline(device.device_id, cause))
        return True

    def mark_offline(self, device: Device, cause: str) -> bool:
        """Offline from now on. True (and one DeviceOffline) only when it was online (G042)."""
        if device.state is State.OFFLINE:
            return False
        device.state = State.OFFLINE
        device.offline_cause = cause
        self._mark(device.device_id)
        self.bus.publish(DeviceOffline(device.device_id, cause))
        return True

    def set_flow(self, device: Device, flow: Flow | None) -> bool:
        """The device is reached over ``flow`` from now on. True (and DeviceMoved) when another one was known."""
        old = device.flow
        if old is not None and flow is not None and flow_key(old) == flow_key(flow):
            device.flow = flow
            return False
        self._unindex_flow(device)
        device.flow = flow
        self._index_flow(device)
        self._mark(device.device_id)
        if old is None or flow is None:
            return False
        self.bus.publish(DeviceMoved(device.device_id, str(old), str(flow)))
        return True

    def devices_on(self, flow: Flow) -> list[Device]:
        """Devices registered over exactly this flow (usually one; several behind one socket)."""
        return [self.devices[device_id] for device_id in self._by_flow.get(flow_key(flow), ())]

    def set_fault(self, device: Device, fault: bool, faulty_children: Iterable[str] = ()) -> None:
        """What a heartbeat says about health: Status ERROR, and children that are DEFECT until it no longer names
        them (G066, G067)."""
        children = frozenset(faulty_children)
        if device.fault != fault or children != device.faulty_children:
            device.fault = fault
            self.bus.publish(DeviceFault(device.device_id, fault, tuple(sorted(children))))
        if children == device.faulty_children:
            return
        changed = children ^ device.faulty_children
        device.faulty_children = children
        for channel_id in changed:
            channel = self.channel(device.device_id, channel_id)
            if channel is not None:
                before = self._verdict(device, channel)
                channel.defect = channel_id in children
                self._tell_status(device, channel, before)

    # -- channels --------------------------------------------------------------------------------------------

    def channels(self, device_id: str) -> Mapping[str, Channel]:
        """The device's channels (deleted ones are not among them), by channel code."""
        return self._channels.get(device_id, {})

    def channel(self, device_id: str, channel_id: str) -> Channel | None:
        return self._channels.get(device_id, {}).get(channel_id)

    def find_channels(self, channel_id: str) -> list[Channel]:
        """Channels with this code under any device: more than one when codes collide (quirk 18)."""
        return [self._channels[device_id][channel_id] for device_id in self._owners.get(channel_id, ())]

    def used_twice(self, channel_id: str) -> bool:
        """Whether several devices use this code."""
        return len(self._owners.get(channel_id, ())) > 1

    def all_channels(self) -> Iterator[Channel]:
        for channels in self._channels.values():
            yield from channels.values()

    def channel_count(self) -> int:
        return sum(len(channels) for channels in self._channels.values())

    def tombstones(self, device_id: str) -> Mapping[str, Channel]:
        """Channels that were deleted; kept so that their history stays."""
        return self._tombstones.get(device_id, {})

    def channel_conflicts(self) -> dict[str, list[Channel]]:
        """Channel codes used under several devices, directory nodes aside."""
        found = {}
        for channel_id, owners in self._owners.items():
            if len(owners) > 1:
                channels = [c for c in self.find_channels(channel_id) if c.kind not in _SHARED_BY_NATURE]
                if len(channels) > 1:
                    found[channel_id] = channels
        return found

    def put_channel(self, channel: Channel) -> Channel:
        """Insert or update by (device, channel); returns the record that is kept.

        Status is not copied from ``channel`` for a channel that is known: use :meth:`report`.
        Publishes ChannelAdded or ChannelChanged, or nothing when nothing changed. KeyError if the device is unknown.
        """
        device_id, channel_id = channel.key
        channels = self._channels[device_id]
        known = channels.get(channel_id)
        now = self.clock.utc()
        if known is None:
            return self._add_channel(channel, now)
        if known.missing_count:
            known.missing_count = 0
            self.changes.channels.add(channel.key)
        changed = tuple(name for name in _CHANNEL_FIELDS if getattr(known, name) != getattr(channel, name))
        if changed:
            for name in changed:
                setattr(known, name, getattr(channel, name))
            known.updated_at = now
            self._reshape(device_id)
            self.changes.channels.add(channel.key)
            self.bus.publish(ChannelChanged(device_id, channel_id, changed))
        return known

    def _add_channel(self, channel: Channel, now: datetime) -> Channel:
        device_id, channel_id = channel.key
        buried = self._tombstones.get(device_id, {}).pop(channel_id, None)
        channel.added_at = buried.added_at if buried is not None else (channel.added_at or now)
        channel.updated_at = now
        channel.deleted_at = None
        channel.missing_count = 0
        channel.reported_at = channel.reported_at or now
        channel.defect = channel_id in self.devices[device_id].faulty_children
        self._channels[device_id][channel_id] = channel
        self._reshape(device_id)
        owners = self._owners.setdefault(channel_id, {})
        owners[device_id] = None
        self.changes.channels.add(channel.key)
        self.bus.publish(ChannelAdded(device_id, channel_id))
        if len(owners) > 1 and channel.kind not in _SHARED_BY_NATURE:
            self.bus.publish(ChannelConflict(channel_id, tuple(owners)))
        return channel

    def remove_channel(self, device_id: str, channel_id: str) -> bool:
        """Soft delete: the record stays as tombstone. False when there is no such channel."""
        channel = self._channels.get(device_id, {}).pop(channel_id, None)
        if channel is None:
            return False
        self._disown(device_id, channel_id)
        self._reshape(device_id)
        channel.deleted_at = self.clock.utc()
        self._tombstones.setdefault(device_id, {})[channel_id] = channel
        self.changes.channels.add(channel.key)
        self.bus.publish(ChannelRemoved(device_id, channel_id))
        return True

    def count_missing(self, channel: Channel) -> int:
        """A complete catalog did not name this channel: returns how many in a row."""
        channel.missing_count += 1
        self.changes.channels.add(channel.key)
        return channel.missing_count

    def report(self, channel: Channel, status: str) -> None:
        """A catalog or NOTIFY says ON, OFF, VLOST or DEFECT of this channel."""
        device = self.devices[channel.device_id]
        before = self._verdict(device, channel)
        channel.reported_at = self.clock.utc()
        if channel.reported != status:
            channel.reported = status
            self.changes.channels.add(channel.key)
        self._tell_status(device, channel, before)

    def media_proof(self, device_id: str, channel_id: str) -> None:
        """Pictures of this channel arrive now: also a sign of life of the device."""
        device = self.devices.get(device_id)
        channel = self.channel(device_id, channel_id)
        if device is None:
            return
        device.last_seen_mono = self.clock.mono()
        if channel is not None:
            before = self._verdict(device, channel)
            channel.media_proof_at = self.clock.utc()
            self.changes.channels.add(channel.key)
            self._tell_status(device, channel, before)

    def channel_online(self, channel: Channel) -> bool:
        """The verdict alone: usable now."""
        return self._verdict(self.devices[channel.device_id], channel) is Verdict.ON

    def channel_evidence(self, channel: Channel) -> Evidence:
        """f(device, report, last picture), with the parts (quirk 20)."""
        device = self.devices[channel.device_id]
        verdict = self._verdict(device, channel)
        return Evidence(
            device_online=device.online,
            reported=channel.reported,
            defect=channel.defect,
            last_media_proof=channel.media_proof_at,
            verdict=verdict,
            reason=self._reason(device, channel, verdict),
        )

    def _verdict(self, device: Device, channel: Channel) -> Verdict:
        if device.state is State.OFFLINE:
            return Verdict.OFF
        if channel.reported != "ON" and self._pictures_contradict(channel):
            return Verdict.ON
        if channel.defect:
            return Verdict.DEFECT
        return Verdict(channel.reported)

    def _pictures_contradict(self, channel: Channel) -> bool:
        proof = channel.media_proof_at
        if proof is None or self.clock.utc() - proof > MEDIA_PROOF_LIFETIME:
            return False
        return channel.reported_at is None or proof >= channel.reported_at

    def _reason(self, device: Device, channel: Channel, verdict: Verdict) -> str:
        if not device.online:
            return f"device offline: {device.offline_cause or 'never registered'}"
        if verdict is Verdict.ON and channel.reported != "ON":
            return f"pictures arrived after it was reported {channel.reported}"
        if verdict is Verdict.DEFECT and channel.defect:
            return "named as faulty in the device's heartbeat"
        return f"reported {channel.reported}"

    def _tell_status(self, device: Device, channel: Channel, before: Verdict) -> None:
        verdict = self._verdict(device, channel)
        if verdict is not before:
            self.bus.publish(
                ChannelStatus(
                    channel.device_id,
                    channel.channel_id,
                    verdict is Verdict.ON,
                    verdict.value,
                    self._reason(device, channel, verdict),
                )
            )

    # -- storage ---------------------------------------------------------------------------------------------

    def load(self, device: Device, secret: DeviceSecret | None) -> None:
        """Put a stored device back at start: no event, nothing to save."""
        self.devices[device.device_id] = device
        self._channels.setdefault(device.device_id, {})
        if secret is not None:
            self.secrets[device.device_id] = secret
        self._index_flow(device)

    def load_channel(self, channel: Channel) -> None:
        """Put a stored channel (or tombstone) back at start. Skips channels of devices that are not known."""
        device_id, channel_id = channel.key
        if device_id not in self.devices:
            return
        if channel.deleted_at is not None:
            self._tombstones.setdefault(device_id, {})[channel_id] = channel
            return
        self._channels[device_id][channel_id] = channel
        self._owners.setdefault(channel_id, {})[device_id] = None

    def take_changes(self) -> Changes:
        """Hand over what has to be saved; the caller gives it back with :meth:`return_changes` when saving failed."""
        taken, self.changes = self.changes, Changes()
        return taken

    def return_changes(self, taken: Changes) -> None:
        self.changes.devices |= taken.devices
        self.changes.removed_devices |= taken.removed_devices
        self.changes.channels |= taken.channels

    # -- indexes ---------------------------------------------------------------------------------------------

    def _mark(self, device_id: str) -> None:
        self.changes.devices.add(device_id)
        self.changes.removed_devices.discard(device_id)

    def _reshape(self, device_id: str) -> None:
        self.shapes[device_id] = self.shapes.get(device_id, 0) + 1

    def _disown(self, device_id: str, channel_id: str) -> None:
        owners = self._owners.get(channel_id)
        if owners is not None:
            owners.pop(device_id, None)
            if not owners:
                del self._owners[channel_id]

    def _index_flow(self, device: Device) -> None:
        if device.flow is not None:
            self._by_flow.setdefault(flow_key(device.flow), {})[device.device_id] = None

    def _unindex_flow(self, device: Device) -> None:
        if device.flow is None:
            return
        key = flow_key(device.flow)
        devices = self._by_flow.get(key)
        if devices is not None:
            devices.pop(device.device_id, None)
            if not devices:
                del self._by_flow[key]


def device_kind(type_code: int | None) -> DeviceKind:
    """Kind of a registering unit by digits 11-13 of its code (GB/T 28181-2022 E.1)."""
    if type_code is None:
        return DeviceKind.OTHER
    if type_code in (111, 112, 113, 118, 130):
        return DeviceKind.RECORDER
    if type_code in (121, 122, 131, 132):
        return DeviceKind.CAMERA
    if 200 <= type_code <= 299:
        return DeviceKind.PLATFORM
    return DeviceKind.OTHER
