"""The two trees over one device's catalog: administrative divisions, and business groups with virtual organisations.

GB/T 28181-2022 annex J and A.2.1.9. A node's kind (its code) decides first, ParentID second, BusinessGroupID third
(quirk 19); a camera may hang in several places; cycles are cut.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Protocol

from gateway.model import Channel, ChannelKind
from sip.ids import parent_divisions, trim_division

IN_THREAD_ABOVE = 2000
"""Channels; below it a directory is made in a few milliseconds."""
MOST_KEPT = 8

_K = ChannelKind
_GROUPS = (_K.BUSINESS_GROUP, _K.VIRTUAL_ORGANISATION)


class Directory:
    """Parents and children of the nodes of one catalog. ``roots`` hang directly under the device."""

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._channels = channels
        self._divisions = {
            trim_division(code): code for code, channel in channels.items() if channel.kind is _K.DIVISION
        }
        self._parents: dict[str, tuple[str, ...]] = {}
        self._children: dict[str, list[str]] = {}
        for channel_id in channels:
            self._place(channel_id)
        self.roots = [channel_id for channel_id in channels if not self._parents[channel_id]]

    def parents(self, channel_id: str) -> tuple[str, ...]:
        """Nodes of this catalog that the channel hangs under; none for a root."""
        return self._parents.get(channel_id, ())

    def children(self, node_id: str) -> list[str]:
        """What hangs directly under a node, in catalog order."""
        return self._children.get(node_id, [])

    def subtree(self, node_id: str) -> list[str]:
        """The node and all below it, each once."""
        found: dict[str, None] = {}
        pending = [node_id]
        while pending:
            current = pending.pop()
            if current not in found and current in self._channels:
                found[current] = None
                pending.extend(reversed(self.children(current)))
        return list(found)

    def _place(self, channel_id: str) -> None:
        channel = self._channels[channel_id]
        wanted = dict.fromkeys(self._candidates(channel))
        parents = tuple(
            parent
            for parent in wanted
            if parent in self._channels and parent != channel_id and not self._above(parent, channel_id)
        )
        self._parents[channel_id] = parents
        for parent in parents:
            self._children.setdefault(parent, []).append(channel_id)

    def _candidates(self, channel: Channel) -> Iterable[str]:
        match channel.kind:
            case _K.DIVISION:
                above = (self._divisions.get(code) for code in parent_divisions(channel.channel_id))
                return [next((code for code in above if code is not None), "")]
            case _K.BUSINESS_GROUP:
                return [p for p in channel.parent_ids if self._kind(p) not in _GROUPS]
            case _K.VIRTUAL_ORGANISATION:
                inside = [p for p in channel.parent_ids if self._kind(p) in _GROUPS]
                return inside or [channel.business_group_id]
            case _K.SYSTEM:
                return self._owners(
                    channel
                )  # a platform below is found as such, not among the cameras of a town
            case _:
                return [*self._owners(channel), self._division_of(channel)]

    def _owners(self, channel: Channel) -> list[str]:
        """Parents by ParentID; a camera named in a group only by BusinessGroupID hangs there."""
        parents = [p for p in channel.parent_ids if p in self._channels]
        if not any(self._kind(p) in _GROUPS for p in parents) and channel.business_group_id:
            parents.append(channel.business_group_id)
        return parents

    def _division_of(self, channel: Channel) -> str:
        """The nearest division node at or above the CivilCode."""
        if not channel.civil_code or not self._divisions:
            return ""
        code = trim_division(channel.civil_code)
        for candidate in (code, *parent_divisions(code)):
            if candidate in self._divisions:
                return self._divisions[candidate]
        return ""

    def _kind(self, channel_id: str) -> ChannelKind | None:
        channel = self._channels.get(channel_id)
        return channel.kind if channel is not None else None

    def _above(self, start: str, wanted: str) -> bool:
        """Whether ``wanted`` is reached from ``start`` going up: then the new edge would close a cycle."""
        seen: set[str] = set()
        pending = [start]
        while pending:
            current = pending.pop()
            if current == wanted:
                return True
            if current not in seen:
                seen.add(current)
                pending.extend(self._parents.get(current, ()))
        return False


class Shapes(Protocol):
    """What directories are made of (gateway.registry.Registry). ``shapes`` grows with each change, by device."""

    @property
    def shapes(self) -> Mapping[str, int]: ...

    def channels(self, device_id: str) -> Mapping[str, Channel]: ...


class Directories:
    """The directories that were looked at last, made anew when a catalog changed. A large one is made in a thread."""

    def __init__(self, registry: Shapes) -> None:
        self._registry = registry
        self._kept: OrderedDict[str, tuple[int, Directory]] = OrderedDict()
        self._making: dict[str, asyncio.Task[Directory]] = {}

    async def of(self, device_id: str) -> Directory:
        """The directory as of now; who asks while it is made waits for the same one."""
        shape = self._registry.shapes.get(device_id, 0)
        kept = self._kept.get(device_id)
        if kept is not None and kept[0] == shape:
            self._kept.move_to_end(device_id)
            return kept[1]
        channels = dict(self._registry.channels(device_id))
        if len(channels) <= IN_THREAD_ABOVE:
            return self._keep(device_id, shape, Directory(channels))
        task = self._making.get(device_id)
        if task is None:
            task = asyncio.create_task(self._make(device_id, shape, channels), name=f"directory-{device_id}")
            self._making[device_id] = task
            task.add_done_callback(lambda _: self._making.pop(device_id, None))
        return await asyncio.shield(task)

    async def _make(self, device_id: str, shape: int, channels: Mapping[str, Channel]) -> Directory:
        return self._keep(device_id, shape, await asyncio.to_thread(Directory, channels))

    def _keep(self, device_id: str, shape: int, directory: Directory) -> Directory:
        self._kept[device_id] = (shape, directory)
        self._kept.move_to_end(device_id)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return directory
