"""Channels over HTTP: list and filter them, show one with the evidence for its state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pydantic import Field

from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, View, route
from gateway.http.views import (
    AnyCode,
    ChannelDetail,
    ChannelView,
    Page,
    WhichDevice,
    channel_detail,
    channel_view,
)
from gateway.model import Channel, ChannelKind, State
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.lower_platforms import best_way, cameras_of

YIELD_EVERY = 2000


class ChannelFilter(Page):
    device_id: AnyCode | None = None
    state: State | None = Field(default=None, description="The verdict, not merely what the device reports.")
    kind: ChannelKind | None = None
    civil_code: str | None = Field(
        default=None, pattern=r"^\d{2,8}$", description="Start of the civil code: 4101 takes in 410183."
    )
    q: str = Field(default="", max_length=64, description="Part of the code, name, address or manufacturer.")


class ChannelList(View):
    total: int = Field(description="Channels that match, on all pages.")
    items: list[ChannelView]


class ChannelFinder:
    """Finds the one channel that a path means."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def key(self, channel_id: str, device_id: str | None) -> tuple[str, str]:
        """``(device_id, channel_id)``. Raises Problem 404, or 409 when the code means several cameras (quirk 18).

        A camera known by several ways is taken by the best one; a mapped code finds its camera.
        A camera that sent no catalog is watched under its own code.
        """
        registry = self._registry
        if device_id is not None:
            if registry.channel(device_id, channel_id) is None and not (
                channel_id == device_id and device_id in registry.devices
            ):
                raise not_found(f"channel {channel_id} of device {device_id}")
            return device_id, channel_id
        found = registry.find_channels(channel_id)
        if len(found) > 1:
            cameras = cameras_of(found, registry.devices)
            if len(cameras) > 1:
                raise _ambiguous(channel_id, cameras)
            return best_way(registry, found).key
        if found:
            return found[0].key
        mapped = registry.by_mapped.get(channel_id)
        if mapped is not None and registry.channel(*mapped) is not None:
            return mapped
        if channel_id in registry.devices:
            return channel_id, channel_id
        raise not_found(f"channel {channel_id}")


def _ambiguous(channel_id: str, cameras: list[list[Channel]]) -> Problem:
    owners = ", ".join(
        f"{ways[0].device_id}{f' (mapped to {ways[0].mapped_id})' if ways[0].mapped_id else ''}"
        for ways in cameras[:10]
    )
    return Problem(
        409,
        f"several devices use the channel code {channel_id}: {owners}",
        cause="ambiguous_channel",
        field="query.device_id",
    )


class ChannelResource:
    def __init__(self, *, registry: Registry) -> None:
        self._registry = registry
        self._finder = ChannelFinder(registry)

    @route("GET", "/api/channels", summary="List channels", role=Role.VIEWER, tag="channels")
    async def list(self, call: Call, query: ChannelFilter) -> ChannelList:
        """In the order in which devices and channels became known."""
        registry = self._registry
        source: Iterable[Channel] = (
            registry.channels(query.device_id).values()
            if query.device_id is not None
            else registry.all_channels()
        )
        wanted = self._matcher(query)
        found = []
        for number, channel in enumerate(list(source)):
            if number % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            if channel.device_id in registry.devices and wanted(channel):
                found.append(channel)
        page = found[query.offset : query.offset + query.limit]
        items = [
            channel_view(channel, registry.channel_evidence(channel))
            for channel in page
            if channel.device_id in registry.devices
        ]
        return ChannelList(total=len(found), items=items)

    @route(
        "GET",
        "/api/channels/{channel_id}",
        summary="Show one channel with the evidence for its state",
        role=Role.VIEWER,
        tag="channels",
        errors=(404, 409),
    )
    async def show(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> ChannelDetail:
        key = self._finder.key(channel_id, query.device_id)
        channel = self._registry.channel(*key)
        if channel is None:
            raise not_found(f"channel {channel_id}")
        return channel_detail(channel, self._registry.channel_evidence(channel))

    def _matcher(self, query: ChannelFilter) -> Callable[[Channel], bool]:
        text = query.q.casefold()
        online = None if query.state is None else query.state is State.ONLINE

        def matches(channel: Channel) -> bool:
            if query.kind is not None and channel.kind is not query.kind:
                return False
            if query.civil_code is not None and not channel.civil_code.startswith(query.civil_code):
                return False
            if text and not any(
                text in part.casefold()
                for part in (channel.channel_id, channel.name, channel.address, channel.manufacturer)
            ):
                return False
            return online is None or self._registry.channel_online(channel) is online

        return matches
