"""Counts devices and channels for metrics, the console's header and the division tree, without holding up the loop."""

from __future__ import annotations

import asyncio
import csv
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from gateway.clock import Clock
from gateway.model import Channel, ChannelKind
from gateway.registry import Registry
from gateway.services.lower_platforms import ways_of
from sip.ids import parent_divisions, township_key, trim_division, valid_civil_code

CHUNK = 2000
"""Channels looked at between two turns of the loop: about two milliseconds."""
MAX_AGE_S = 3.0
UNASSIGNED = "unassigned"
MAX_TOWNSHIPS = 500
"""Labels are bounded: townships beyond it are counted together as ``other``."""
OTHER = "other"


@dataclass(slots=True)
class Tally:
    online: int = 0
    total: int = 0

    def count(self, online: bool) -> None:
        self.total += 1
        self.online += online


@dataclass(slots=True)
class Result:
    """One count. Classes are the point classes 1, 2, 3, 9, or 0 where none is given."""

    device_townships: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Devices by (township, kind)."""
    cameras: Tally = field(default_factory=Tally)
    townships: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Cameras by (township, class)."""
    divisions: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Cameras by division of every level, the levels above counted in."""
    members: dict[str, list[Channel]] = field(default_factory=lambda: defaultdict(list))
    """Cameras that lie directly in a division."""
    names: dict[str, str] = field(default_factory=dict)
    """Names that catalogs give to divisions."""


@lru_cache(maxsize=50_000)
def place_of(civil_code: str, grassroots_code: str, code: str) -> str:
    """Narrowest known division of a channel: township key, else civil code, else ``unassigned``."""
    township = township_key(civil_code, grassroots_code, code)
    if township is not None:
        return township
    civil = valid_civil_code(civil_code, code)
    return trim_division(civil) if civil else UNASSIGNED


def place(channel: Channel) -> str:
    """Where a channel is counted."""
    return place_of(channel.civil_code, channel.grassroots_code, _stem(channel.channel_id))


def ancestors(division: str) -> list[str]:
    """The divisions above, nearest first; a township key of nine digits lies in its county."""
    if division == UNASSIGNED:
        return []
    if len(division) == 9:
        return [division[:6], *parent_divisions(division[:6])]
    return parent_divisions(division)


def division_names() -> dict[str, str]:
    """Names from config/divisions.csv."""
    path = Path(__file__).parents[2] / "config" / "divisions.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row["code"]: row["name"] for row in csv.DictReader(file)}


class Census:
    """Keeps the last count and makes a new one when somebody wants a fresher one."""

    def __init__(self, *, registry: Registry, clock: Clock | None = None) -> None:
        self._registry = registry
        self._clock = clock or Clock()
        self._names = division_names()
        self._counting: asyncio.Task[None] | None = None
        self._taken_mono = float("-inf")
        self.last = Result()

    async def fresh(self, max_age_s: float = MAX_AGE_S) -> Result:
        """A count at most ``max_age_s`` seconds old; callers at the same time share one count."""
        if self._clock.mono() - self._taken_mono <= max_age_s:
            return self.last
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count(), name="census")
        await asyncio.shield(self._counting)
        return self.last

    async def close(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)

    def name(self, division: str) -> str:
        """As the catalogs call it, else as the reference data do; empty when unknown."""
        return self.last.names.get(division) or self._names.get(division, "")

    async def _count(self) -> None:
        result = Result()
        registry = self._registry
        for device in list(registry.devices.values()):
            _bounded(
                result.device_townships, place_of("", "", _stem(device.device_id)), device.kind.value
            ).count(device.online)
        for number, channel in enumerate(list(registry.all_channels())):
            if number % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
            if channel.kind is ChannelKind.CAMERA:
                if channel.device_id in registry.devices:  # it may be gone since the list was made
                    ways = ways_of(registry, channel)
                    if ways[0] is channel:  # a camera known by several ways counts once (G274)
                        _count_camera(result, channel, any(map(registry.channel_online, ways)))
            elif channel.kind is ChannelKind.DIVISION and channel.name:
                result.names[trim_division(channel.channel_id)] = channel.name
        _add_levels(result)
        self.last = result
        self._taken_mono = self._clock.mono()


def _count_camera(result: Result, channel: Channel, online: bool) -> None:
    division = place(channel)
    result.cameras.count(online)
    result.members[division].append(channel)
    result.divisions[division].count(online)
    _bounded(result.townships, division, str(channel.point_class or 0)).count(online)


def _bounded(tallies: dict[tuple[str, str], Tally], township: str, group: str) -> Tally:
    key = (township, group)
    if key not in tallies and len(tallies) >= MAX_TOWNSHIPS:
        key = (OTHER, group)
    return tallies[key]


def _stem(code: str) -> str:
    """The first eight digits alone decide; the rest is made equal, so that neighbours share a cache entry."""
    return f"{code[:8]}000000000000" if len(code) == 20 else code


def _add_levels(result: Result) -> None:
    own = [(division, tally.online, tally.total) for division, tally in result.divisions.items()]
    for division, online, total in own:
        for above in ancestors(division):
            result.divisions[above].online += online
            result.divisions[above].total += total
