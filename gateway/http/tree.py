"""The channel tree of the console, one level at a time: by device as the catalogs order it, or by division."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field

from gateway.directory import Directories
from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, View, route
from gateway.http.views import Page
from gateway.model import Channel, ChannelKind
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.census import CHUNK, UNASSIGNED, Census, ancestors

DIRECTORIES = frozenset(
    {
        ChannelKind.DIVISION,
        ChannelKind.BUSINESS_GROUP,
        ChannelKind.VIRTUAL_ORGANISATION,
        ChannelKind.SYSTEM,
        ChannelKind.DEVICE,
    }
)


class TreeOrder(StrEnum):
    DEVICE = "device"
    DIVISION = "division"


class TreeQuery(Page):
    by: TreeOrder = TreeOrder.DEVICE
    parent: str = Field(
        default="",
        pattern=r"^((device|division):[0-9A-Za-z_.-]{1,32}|channel:[0-9A-Za-z_.-]{1,32}/[0-9A-Za-z_.-]{1,32})?$",
        description="`id` of the node whose children are wanted; empty: the top level.",
    )
    limit: int = Field(default=500, ge=1, le=1000)


class TreeNode(View):
    id: str
    label: str
    kind: str = Field(description="device, division, or the kind of the channel.")
    leaf: bool
    online: bool
    online_count: int | None = Field(default=None, description="Cameras online below it, where known.")
    total_count: int | None = None
    device_id: str | None = None
    channel_id: str | None = None
    ptz_type: int | None = None
    reason: str = ""


class TreeLevel(View):
    total: int
    nodes: list[TreeNode]


class TreeResource:
    def __init__(self, *, registry: Registry, census: Census) -> None:
        self._registry = registry
        self._census = census
        self._directories = Directories(registry)

    @route(
        "GET",
        "/api/tree",
        summary="One level of the channel tree",
        role=Role.VIEWER,
        tag="channels",
        errors=(404,),
    )
    async def level(self, call: Call, query: TreeQuery) -> TreeLevel:
        """Ask for the top level first, then for the children of each node that is opened."""
        kind, _, code = query.parent.partition(":")
        if query.by is TreeOrder.DIVISION:
            if kind not in ("", "division"):
                raise Problem(422, "no node of this tree", cause="invalid_input", field="query.parent")
            nodes = await self._division_nodes(code)
        elif kind == "":
            return await self._devices(query)
        elif kind == "device":
            return await self._under(query, code, "")
        elif kind == "channel":
            return await self._under(query, *code.split("/"))
        else:
            raise Problem(422, "no node of this tree", cause="invalid_input", field="query.parent")
        return TreeLevel(total=len(nodes), nodes=nodes[query.offset : query.offset + query.limit])

    async def _devices(self, query: TreeQuery) -> TreeLevel:
        """Only the devices of this page are counted, and the loop gets its turn in between."""
        ids = sorted(self._registry.devices)
        nodes, looked_at = [], 0
        for device_id in ids[query.offset : query.offset + query.limit]:
            if device_id not in self._registry.devices:
                continue  # removed while we waited
            nodes.append(self._device_node(device_id))
            looked_at += len(self._registry.channels(device_id)) + 20
            if looked_at > CHUNK:
                looked_at = 0
                await asyncio.sleep(0)
        return TreeLevel(total=len(ids), nodes=nodes)

    # -- by device -------------------------------------------------------------------------------------------

    def _device_node(self, device_id: str) -> TreeNode:
        device = self._registry.devices[device_id]
        channels = self._registry.channels(device_id)
        cameras = [c for c in channels.values() if c.kind is ChannelKind.CAMERA]
        online = sum(map(self._registry.channel_online, cameras)) if device.online else 0
        return TreeNode(
            id=f"device:{device_id}",
            label=device.name or device_id,
            kind="device",
            leaf=not channels,
            online=device.online,
            online_count=online,
            total_count=len(cameras),
            device_id=device_id,
            # a camera without a catalog can be watched under its own code
            channel_id=device_id if not channels else None,
            reason="" if device.online else device.offline_cause or "never_registered",
        )

    async def _under(self, query: TreeQuery, device_id: str, parent: str) -> TreeLevel:
        """Only the nodes of this page are made: one organisation of a platform may hold 100,000 cameras."""
        if device_id not in self._registry.devices:
            raise not_found(f"device {device_id}")
        if parent and self._registry.channel(device_id, parent) is None:
            raise not_found(f"channel {parent}")
        directory = await self._directories.of(device_id)
        channels = self._registry.channels(device_id)
        codes = directory.children(parent) if parent else directory.roots
        members = [channel for code in codes if (channel := channels.get(code)) is not None]
        members.sort(
            key=lambda c: (c.kind not in DIRECTORIES, not directory.children(c.channel_id), c.channel_id)
        )
        page = members[query.offset : query.offset + query.limit]
        nodes = [self._channel_node(c, leaf=not directory.children(c.channel_id)) for c in page]
        return TreeLevel(total=len(members), nodes=nodes)

    def _channel_nodes(self, channels: Iterable[Channel], with_children: set[str]) -> list[TreeNode]:
        ordered = sorted(
            channels,
            key=lambda c: (c.kind not in DIRECTORIES, c.channel_id not in with_children, c.channel_id),
        )
        return [self._channel_node(c, leaf=c.channel_id not in with_children) for c in ordered]

    def _channel_node(self, channel: Channel, *, leaf: bool) -> TreeNode:
        evidence = self._registry.channel_evidence(channel)
        return TreeNode(
            id=f"channel:{channel.device_id}/{channel.channel_id}",
            label=channel.name or channel.channel_id,
            kind=channel.kind.value,
            leaf=leaf,
            online=evidence.online,
            device_id=channel.device_id,
            channel_id=channel.channel_id,
            ptz_type=channel.ptz_type,
            reason="" if evidence.online else evidence.reason,
        )

    # -- by division -----------------------------------------------------------------------------------------

    async def _division_nodes(self, parent: str) -> list[TreeNode]:
        result = await self._census.fresh()
        if parent and parent not in result.divisions:
            return []  # its last camera went away since the level above was shown
        children = []
        for division in result.divisions:
            above = ancestors(division)
            if (above[0] if above else "") == parent:
                children.append(division)
        nodes = []
        for division in sorted(children, key=lambda d: (d == UNASSIGNED, d)):
            tally = result.divisions[division]
            nodes.append(
                TreeNode(
                    id=f"division:{division}",
                    label=self._census.name(division) or division,
                    kind="division",
                    leaf=False,
                    online=tally.online > 0,
                    online_count=tally.online,
                    total_count=tally.total,
                )
            )
        known = [c for c in result.members.get(parent, ()) if self._registry.channel(*c.key) is c]
        nodes += self._channel_nodes(known, set())
        return nodes
