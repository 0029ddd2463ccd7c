"""The catalog one upper platform sees: which entries it has, how they hang together, what a target selects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from gateway.model import Channel, ChannelKind, Device, DeviceKind, Platform
from gateway.services.cascade_ids import IdMap, Key
from gateway.services.lower_platforms import same_camera
from sip.ids import is_division, trim_division, valid_civil_code

_K = ChannelKind
DIRECTORY = frozenset({_K.DIVISION, _K.BUSINESS_GROUP, _K.VIRTUAL_ORGANISATION})
_GROUPS = frozenset({_K.BUSINESS_GROUP, _K.VIRTUAL_ORGANISATION})
_ABOVE = DIRECTORY | {_K.SYSTEM, _K.DEVICE}
_RANK = {
    _K.SYSTEM: 0,
    _K.DIVISION: 1,
    _K.BUSINESS_GROUP: 2,
    _K.VIRTUAL_ORGANISATION: 3,
    _K.DEVICE: 4,
}
_STRIDE = 500


class Directory(Protocol):
    """What the tree needs of the registry."""

    @property
    def devices(self) -> Mapping[str, Device]: ...

    def channels(self, device_id: str) -> Mapping[str, Channel]: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One exported entry. ``ways`` are the registry keys by which it is reached, the preferred first.

    ``parents`` and ``group`` are exported codes. The own system and divisions have no way.
    """

    exported_id: str
    kind: ChannelKind
    name: str
    ways: tuple[Key, ...] = ()
    parents: tuple[str, ...] = ()
    group: str = ""
    civil_code: str = ""
    parental: int = 0
    added_at: datetime | None = None


@dataclass(slots=True)
class Tree:
    """The exported entries in the order in which they are sent: own system, divisions, groups, devices, channels."""

    own_id: str
    entries: dict[str, Entry] = field(default_factory=dict)
    by_key: dict[Key, Entry] = field(default_factory=dict)
    _below: dict[str, list[Entry]] | None = None

    def _children(self) -> dict[str, list[Entry]]:
        if self._below is None:
            below: dict[str, list[Entry]] = {}
            for entry in self.entries.values():
                for parent in {*entry.parents, entry.group} - {""}:
                    below.setdefault(parent, []).append(entry)
            self._below = below
        return self._below

    def select(self, target: str) -> list[Entry]:
        """The entries a query or subscription for ``target`` covers (2022 annex J, N.2.1.2.1); unknown: none.

        Own system: everything. Division: the node, sub-divisions and what lies there. Everything else: the entry
        itself with what hangs below it.
        """
        if target == self.own_id:
            return list(self.entries.values())
        start = self.entries.get(target)
        if start is None:
            return []
        if start.kind is _K.DIVISION:
            return [
                e
                for e in self.entries.values()
                if e.civil_code.startswith(target) and e.exported_id != self.own_id
            ]
        children = self._children()
        found = {target}
        open_ = [start]
        while open_:
            for child in children.get(open_.pop().exported_id, ()):
                if child.exported_id not in found:
                    found.add(child.exported_id)
                    open_.append(child)
        return [entry for code, entry in self.entries.items() if code in found]

    @property
    def cameras(self) -> int:
        """Exported video channels."""
        return sum(entry.kind is _K.CAMERA for entry in self.entries.values())


def added_within(entries: Iterable[Entry], start: datetime | None, end: datetime | None) -> list[Entry]:
    """Entries added in the window (A.2.4.3). Entries without a date, like our own system, are not "added"."""
    if start is None and end is None:
        return list(entries)
    return [
        e
        for e in entries
        if e.added_at is not None
        and (start is None or e.added_at >= start)
        and (end is None or e.added_at <= end)
    ]


def civil_code(code: str, *owners: str) -> str:
    """2, 4, 6 or 8 digits: the division named by ``code``, else the area of the first owner that has one (G103)."""
    for owner in owners or ("",):
        found = valid_civil_code(code, owner)
        if found:
            return trim_division(found)
    return ""


@dataclass(frozen=True, slots=True)
class View:
    """Whose catalog is built: the upper, our code and name there, and the shared channels (None: all)."""

    platform: Platform
    own_id: str
    own_name: str
    own_civil_code: str
    shared: frozenset[Key] | None
    division_name: Callable[[str], str] = str


def build_tree(directory: Directory, view: View, ids: IdMap) -> Tree:
    """Build the catalog of one upper from what is known now. ``ids`` keeps its codes from one build to the next."""
    builder = _Builder(directory, view, ids)
    for _ in builder.steps():
        pass
    return builder.tree


async def build_tree_gently(directory: Directory, view: View, ids: IdMap) -> Tree:
    """The same, letting the loop serve others in between: 100,000 channels are two seconds of work."""
    builder = _Builder(directory, view, ids)
    for _ in builder.steps():
        await asyncio.sleep(0)
    return builder.tree


class _Builder:
    def __init__(self, directory: Directory, view: View, ids: IdMap) -> None:
        self.directory, self.view, self.ids = directory, view, ids
        self.channels: dict[Key, Channel] = {}
        self.devices: dict[str, Device] = {}
        self.taken: dict[str, list[Channel]] = {}
        self.tree = Tree(view.own_id)

    def steps(self) -> Iterator[None]:
        """Build; yields after every few hundred entries."""
        self.ids.reserve(self.view.own_id)
        for device_id in sorted(self.directory.devices):
            device = self.directory.devices.get(device_id)
            if device is not None and not comes_from(device, self.view.platform):
                self._take(device)
                yield
        devices = self._exported_devices()
        ways: dict[Key, list[Key]] = {}
        yield from self._merge(ways)
        for device_id in devices:
            ways.setdefault((device_id, device_id), [(device_id, device_id)])
        self.ids.forget(key for group in ways.values() for key in group)
        yield
        entries: list[Entry] = []
        for keys in ways.values():
            entries.append(self._entry(keys))
            if len(entries) % _STRIDE == 0:
                yield
        entries += self._divisions(entries)
        own = Entry(
            self.view.own_id, _K.SYSTEM, self.view.own_name, civil_code=self.view.own_civil_code, parental=1
        )
        entries.sort(key=lambda e: (_RANK.get(e.kind, 5), len(e.exported_id), e.exported_id))
        yield from self._fill([own, *entries])

    def _take(self, device: Device) -> None:
        """The channels of one device that this upper may see, with the nodes above and the loudspeakers beside them."""
        all_ = {
            c.channel_id: c
            for c in self.directory.channels(device.device_id).values()
            if c.deleted_at is None
        }
        shared = self.view.shared
        wanted = (
            set(all_) if shared is None else {code for code in all_ if (device.device_id, code) in shared}
        )
        if not wanted:
            return
        self.devices[device.device_id] = device
        if shared is not None:
            for code in list(wanted):
                wanted |= _above(code, all_)
            owners = wanted | {device.device_id}
            wanted |= {
                c.channel_id
                for c in all_.values()
                if c.kind is _K.AUDIO_OUT and (not c.parent_ids or owners.intersection(c.parent_ids))
            }
        for code in sorted(wanted):
            self.channels[device.device_id, code] = all_[code]

    def _exported_devices(self) -> list[str]:
        """Recorders, lower platforms and cameras of several channels are entries of their own."""
        for (device_id, _), channel in self.channels.items():
            self.taken.setdefault(device_id, []).append(channel)
        return [
            device_id
            for device_id, device in self.devices.items()
            if (device_id, device_id) in self.channels
            or device.kind in (DeviceKind.RECORDER, DeviceKind.PLATFORM)
            or len(self.taken[device_id]) > 1
        ]

    def _merge(self, ways: dict[Key, list[Key]]) -> Iterator[None]:
        """Ways to one camera together under the first key (2022 H.2.1); other cameras of the same code apart."""
        leaders: dict[str, list[Key]] = {}
        for count, (key, channel) in enumerate(self.channels.items()):
            if count % _STRIDE == 0:
                yield
            for leader in leaders.get(key[1], ()):
                if self._same(self.channels[leader], channel):
                    self._join(ways, leaders[key[1]], leader, key)
                    break
            else:
                leaders.setdefault(key[1], []).append(key)
                ways[key] = [key]

    def _join(self, ways: dict[Key, list[Key]], leaders: list[Key], leader: Key, key: Key) -> None:
        held = self.ids.code_of(key)
        if held is not None and self.ids.code_of(leader) is None:
            # The newcomer sorts first, but the other way already has the code: it leads on.
            ways[key] = [key, *ways.pop(leader)]
            leaders[leaders.index(leader)] = key
            self.ids.join(leader, key)
        else:
            ways[leader].append(key)
            self.ids.join(key, leader)

    def _same(self, one: Channel, other: Channel) -> bool:
        """Is it one camera seen twice, or two with one factory code (quirk 18)? What was said once stays."""
        held = self.ids.code_of(one.key)
        if held is not None and held == self.ids.code_of(other.key):
            return True  # an operator, or an earlier build, said so
        return same_camera(one, other, self.devices)

    def _entry(self, keys: list[Key]) -> Entry:
        keys = sorted(keys, key=self._preference)
        channel = next((self.channels[key] for key in keys if key in self.channels), None)
        code = self._code(keys)
        if channel is None:
            return self._device_entry(keys[0][0], code)
        device = self.devices[channel.device_id]
        own_device = any(key[0] == key[1] for key in keys)
        kind = channel.kind
        if own_device and device.kind is DeviceKind.PLATFORM:
            kind = _K.SYSTEM
        elif own_device and device.kind is DeviceKind.RECORDER:
            kind = _K.DEVICE
        if kind is _K.DIVISION:
            return Entry(code, kind, channel.name, tuple(keys), civil_code=code, added_at=channel.added_at)
        return Entry(
            exported_id=code,
            kind=kind,
            name=channel.name or device.name or code,
            ways=tuple(keys),
            civil_code=civil_code(channel.civil_code, channel.channel_id, device.device_id),
            parental=max(
                channel.parental, int(own_device and len(self.directory.channels(device.device_id)) > 1)
            ),
            added_at=channel.added_at,
        )

    def _code(self, keys: list[Key]) -> str:
        held = next((key for key in keys if self.ids.code_of(key) is not None), keys[0])
        if is_division(held[1]):
            return held[1]
        channel = self.channels.get(held)
        return self.ids.assign(held, channel.mapped_id if channel is not None else "")

    def _device_entry(self, device_id: str, code: str) -> Entry:
        device = self.devices[device_id]
        kind = _K.SYSTEM if device.kind is DeviceKind.PLATFORM else _K.DEVICE
        added = min((c.added_at for c in self.taken[device_id] if c.added_at is not None), default=None)
        return Entry(
            exported_id=code,
            kind=kind,
            name=device.name or device_id,
            ways=((device_id, device_id),),
            civil_code=civil_code("", device_id),
            parental=1,
            added_at=added or device.registered_at,
        )

    def _preference(self, key: Key) -> tuple[bool, bool, str]:
        """Online ways first, then those that are not behind another platform."""
        device = self.devices[key[0]]
        return (not device.online, device.kind is DeviceKind.PLATFORM, key[0])

    def _divisions(self, entries: list[Entry]) -> Iterator[Entry]:
        """The nodes of the administrative tree that the entries lie in; the province stays out, as in annex J."""
        known = {entry.exported_id for entry in entries}
        needed: set[str] = set()
        for civil in {self.view.own_civil_code, *(entry.civil_code for entry in entries)}:
            needed.update(civil[:length] for length in (4, 6, 8) if len(civil) >= length)
        for code in sorted(needed - known):
            yield Entry(code, _K.DIVISION, self.view.division_name(code) or code, civil_code=code)

    def _fill(self, entries: list[Entry]) -> Iterator[None]:
        code_of = {key: entry.exported_id for entry in entries for key in entry.ways}
        kinds = {entry.exported_id: entry.kind for entry in entries}
        parents: dict[str, tuple[str, ...]] = {}
        for count, entry in enumerate(entries):
            parents[entry.exported_id] = self._parents(entry, code_of, kinds)
            if count % _STRIDE == 0:
                yield
        _break_cycles(parents)
        yield
        for count, entry in enumerate(entries):
            above = parents[entry.exported_id]
            if not above and entry.exported_id != self.tree.own_id and entry.kind not in DIRECTORY:
                above = (self.tree.own_id,)
            done = replace(entry, parents=above, group=self._group(entry, code_of))
            self.tree.entries[done.exported_id] = done
            for key in done.ways:
                self.tree.by_key[key] = done
            if count % _STRIDE == 0:
                yield

    def _parents(
        self, entry: Entry, code_of: dict[Key, str], kinds: dict[str, ChannelKind]
    ) -> tuple[str, ...]:
        """The union over all ways (H.2.1), as exported codes: the device or system above, then organisations."""
        if entry.kind is _K.DIVISION or not entry.ways:
            return ()
        above: dict[str, None] = {}
        for device_id, code in entry.ways:
            channel = self.channels.get((device_id, code))
            named = {
                code_of[device_id, parent]
                for parent in (channel.parent_ids if channel else ())
                if (device_id, parent) in code_of
            } - {entry.exported_id}
            named = {parent for parent in named if kinds[parent] is not _K.DIVISION}
            if entry.kind is _K.VIRTUAL_ORGANISATION:
                named = {parent for parent in named if kinds[parent] is _K.VIRTUAL_ORGANISATION}
            elif not any(kinds[parent] not in _GROUPS for parent in named):
                named.add(self._owner(entry, device_id, code_of))
            above.update(dict.fromkeys(sorted(named, key=lambda parent: (kinds[parent] in _GROUPS, parent))))
        return tuple(sorted(above, key=lambda parent: kinds[parent] in _GROUPS))

    def _owner(self, entry: Entry, device_id: str, code_of: dict[Key, str]) -> str:
        owner = code_of.get((device_id, device_id), self.tree.own_id)
        return self.tree.own_id if owner == entry.exported_id else owner

    def _group(self, entry: Entry, code_of: dict[Key, str]) -> str:
        for device_id, code in entry.ways:
            channel = self.channels.get((device_id, code))
            group = channel.business_group_id if channel else ""
            found = code_of.get((device_id, group), "")
            if found and found != entry.exported_id:
                return found
        return ""


def comes_from(device: Device, platform: Platform) -> bool:
    """Is the device the upper itself, registered with us as well? Its catalog must not go back to it (G265)."""
    if device.device_id == platform.platform_id:
        return True
    flow = device.flow
    return (
        device.kind is DeviceKind.PLATFORM
        and flow is not None
        and (flow.host, flow.port) == (platform.host, platform.port)
    )


def _above(code: str, channels: Mapping[str, Channel]) -> set[str]:
    """Directory nodes, systems and devices over ``code`` in its own catalog."""
    found: set[str] = set()
    open_ = [code]
    while open_:
        channel = channels[open_.pop()]
        for parent in (*channel.parent_ids, channel.business_group_id):
            if parent in channels and parent not in found and channels[parent].kind in _ABOVE:
                found.add(parent)
                open_.append(parent)
    return found


def _break_cycles(parents: dict[str, tuple[str, ...]]) -> None:
    """Drop every edge that closes a circle (quirk 19); walks without recursion."""
    done: set[str] = set()
    for start in parents:
        path: list[str] = []
        on_path: set[str] = set()
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            node, index = stack.pop()
            if index == 0:
                if node in done:
                    continue
                path.append(node)
                on_path.add(node)
            above = parents.get(node, ())
            while index < len(above) and above[index] in on_path:
                above = above[:index] + above[index + 1 :]
                parents[node] = above
            if index < len(above):
                stack.append((node, index + 1))
                if above[index] not in done:
                    stack.append((above[index], 0))
            else:
                done.add(node)
                on_path.discard(path.pop())


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two builds: ``event`` is ADD, DEL or UPDATE."""

    event: str
    entry: Entry


def differences(old: Tree, new: Tree, touched: frozenset[Key] = frozenset()) -> list[Change]:
    """What an upper that knows ``old`` must be told; ``touched`` names channels whose other fields changed."""
    changes = [Change("DEL", entry) for code, entry in old.entries.items() if code not in new.entries]
    for code, entry in new.entries.items():
        before = old.entries.get(code)
        if before is None:
            changes.append(Change("ADD", entry))
        elif _shown(before) != _shown(entry) or touched.intersection(entry.ways):
            changes.append(Change("UPDATE", entry))
    return changes


def _shown(entry: Entry) -> tuple[object, ...]:
    return (entry.kind, entry.name, entry.parents, entry.group, entry.civil_code, entry.parental)
