"""One camera known by several ways, and one code used for several cameras: told apart, mapped, reported (F.3, H.2.1; quirk 18).

A camera that comes by two lower platforms, or directly and by a platform, is one camera: it counts once, and is played over
the best way. Two cameras with one code stay two: the one that was known first keeps the code, the other gets a mapped
code, made from its key, kept over restarts and shown by the API and to uppers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from gateway.events import ChannelConflict, ChannelRemoved, DeviceRemoved, EventBus
from gateway.model import Channel, ChannelKind, Device, DeviceKind
from gateway.registry import Registry
from sip.ids import is_code

logger = logging.getLogger(__name__)

JOURNAL_KIND = "channel_code"
NEAR_DEGREES = 0.001
"""So near, about 100 m, two positions are one place."""
LINE_EVERY_S = 1.0
SLICE = 200
_SERIALS = 1_000_000

Key = tuple[str, str]


class CodeJournal(Protocol):
    """gateway.storage.journal.Journal."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None: ...
    def remove(self, kind: str, key: str) -> None: ...
    async def load(self, kind: str) -> dict[str, dict[str, Any]]: ...


def same_camera(one: Channel, other: Channel, devices: Mapping[str, Device]) -> bool:
    """Is it one camera seen twice, or two cameras with one factory code? In doubt two: nobody gets lost.

    Two devices of our own never share a camera. By a platform it is the same where both give a position and these
    agree, or where the names agree.
    """
    if one.kind is ChannelKind.DIVISION:
        return True
    kinds = {device.kind for code in (one.device_id, other.device_id) if (device := devices.get(code))}
    if DeviceKind.PLATFORM not in kinds:
        return False
    if None not in (one.longitude, one.latitude, other.longitude, other.latitude):
        return _near(one.longitude, other.longitude) and _near(one.latitude, other.latitude)
    return one.name.strip() == other.name.strip()


def cameras_of(channels: Iterable[Channel], devices: Mapping[str, Device]) -> list[list[Channel]]:
    """Channels of one code, grouped by camera, each group in the order they came."""
    groups: list[list[Channel]] = []
    for channel in channels:
        for group in groups:
            if same_camera(group[0], channel, devices):
                group.append(channel)
                break
        else:
            groups.append([channel])
    return groups


def ways_of(registry: Registry, channel: Channel) -> list[Channel]:
    """All ways to this channel's camera, itself included; the one that is counted is the first."""
    if not registry.used_twice(channel.channel_id):
        return [channel]
    groups = cameras_of(registry.find_channels(channel.channel_id), registry.devices)
    return next((group for group in groups if channel in group), [channel])


def best_way(registry: Registry, ways: Iterable[Channel]) -> Channel:
    """Online first, then those that are not behind a platform (2022 H.2.1: ON if any is ON)."""

    def rank(channel: Channel) -> tuple[bool, bool, bool]:
        device = registry.devices[channel.device_id]
        return (not registry.channel_online(channel), not device.online, device.kind is DeviceKind.PLATFORM)

    return min(ways, key=rank)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One code that several devices or platforms use. More than one camera: a collision."""

    channel_id: str
    cameras: tuple[tuple[Channel, ...], ...]

    @property
    def collision(self) -> bool:
        return len(self.cameras) > 1


class LowerPlatforms:
    """Keeps the mapped codes. ``registry.by_mapped`` finds a channel by its mapped code, ``channel.mapped_id`` shows it."""

    def __init__(
        self,
        *,
        registry: Registry,
        bus: EventBus,
        journal: CodeJournal,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._bus = bus
        self._journal = journal
        self._monotonic = monotonic
        self._codes: dict[Key, str] = {}
        self._taken: dict[str, Key] = {}
        self._collisions: set[str] = set()
        self._unsubscribe: list[Callable[[], None]] = []
        self._told_mono = float("-inf")
        self._untold = 0

    async def start(self) -> None:
        """Take up the codes of an earlier life, then look at what the stored catalogs say."""
        for state in (await self._journal.load(JOURNAL_KIND)).values():
            key, code = (str(state.get("device_id")), str(state.get("channel_id"))), str(state.get("code"))
            if is_code(code):
                self._codes[key], self._taken[code] = code, key
        for number, channel_id in enumerate(self._registry.channel_conflicts()):
            self._look(channel_id)
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        self._unsubscribe = [
            self._bus.subscribe(ChannelConflict, callback=lambda event: self._look(event.channel_id)),
            self._bus.subscribe(ChannelRemoved, callback=self._removed),
            self._bus.subscribe(DeviceRemoved, callback=self._device_removed),
        ]

    def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    @property
    def collisions(self) -> int:
        """Codes that mean more than one camera, for metrics."""
        return len(self._collisions)

    def conflicts(self, *, collisions_only: bool = False) -> list[Conflict]:
        """All codes used twice, in order."""
        found = []
        for channel_id in sorted(self._collisions if collisions_only else self._registry.channel_conflicts()):
            groups = cameras_of(self._registry.find_channels(channel_id), self._registry.devices)
            conflict = Conflict(channel_id, tuple(map(tuple, groups)))
            if conflict.collision or not collisions_only:
                found.append(conflict)
        return found

    def _look(self, channel_id: str) -> None:
        """Decide about one code: who keeps it, who is mapped."""
        groups = cameras_of(self._registry.find_channels(channel_id), self._registry.devices)
        if len(groups) < 2:
            self._collisions.discard(channel_id)
            return
        keeper = next((group for group in groups if not any(c.key in self._codes for c in group)), None)
        for group in groups:
            if group is not keeper:
                code = next((self._codes[c.key] for c in group if c.key in self._codes), "")
                for channel in group:
                    self._map(channel, code or self._make(group[0].key))
        if channel_id not in self._collisions:
            self._collisions.add(channel_id)
            self._tell(channel_id, groups)

    def _map(self, channel: Channel, code: str) -> None:
        key = channel.key
        channel.mapped_id = code
        self._registry.by_mapped[code] = key
        self._taken.setdefault(code, key)
        if self._codes.get(key) != code:
            self._codes[key] = code
            state = {"device_id": key[0], "channel_id": key[1], "code": code}
            self._journal.put(JOURNAL_KIND, "/".join(key), state)

    def _make(self, key: Key) -> str:
        """Area, industry, type and network of the own code; a serial derived from the key, past those in use."""
        own = key[1]
        if not is_code(own):
            own = f"{key[0][:10]:0<10}1310{'0' * 6}" if is_code(key[0]) else f"{'0' * 10}1310{'0' * 6}"
        serial = int.from_bytes(sha256("/".join(key).encode()).digest()[:8], "big") % _SERIALS
        for step in range(_SERIALS):
            code = f"{own[:14]}{(serial + step) % _SERIALS:06d}"
            if code not in self._taken and not self._registry.find_channels(code):
                return code
        raise ValueError(f"no free serial under {own[:14]}")

    def _removed(self, event: ChannelRemoved) -> None:
        """The code is kept for the case that the channel comes back."""
        key = (event.device_id, event.channel_id)
        if event.channel_id in self._collisions:
            self._look(event.channel_id)
        code = self._codes.get(key)
        if code is None:
            return
        if self._registry.by_mapped.get(code) == key:
            others = [c for c in self._registry.find_channels(event.channel_id) if c.mapped_id == code]
            if others:
                self._registry.by_mapped[code] = others[0].key
            else:
                del self._registry.by_mapped[code]

    def _device_removed(self, event: DeviceRemoved) -> None:
        for key in [key for key in self._codes if key[0] == event.device_id]:
            code = self._codes.pop(key)
            if self._taken.get(code) == key:
                del self._taken[code]
            self._journal.remove(JOURNAL_KIND, "/".join(key))

    def _tell(self, channel_id: str, groups: list[list[Channel]]) -> None:
        """One line a second: two platforms may have 100,000 codes in common."""
        now = self._monotonic()
        if now - self._told_mono < LINE_EVERY_S:
            self._untold += 1
            return
        logger.warning(
            "channel code means several cameras channel=%s cameras=%s more=%d",
            channel_id,
            " ".join(f"{group[0].device_id}:{group[0].mapped_id or 'own'}" for group in groups),
            self._untold,
        )
        self._told_mono, self._untold = now, 0


def _near(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) < NEAR_DEGREES
