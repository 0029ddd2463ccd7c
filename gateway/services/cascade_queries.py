"""Questions of an upper about a shared channel or device: asked there under its own code, answered under the upper's (F.5).

The answer has the form of the upper's edition, the upper's SN and the code under which it knows the channel. Where the
device does not answer in time the upper gets what we know ourselves, or ``Result`` ERROR: never silence.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Protocol, TypeVar

from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.inbox import Inbox
from gateway.services.cascade_answers import UpperAnswers
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.commands import Collected
from sip.errors import RemoteError
from sip.manscdp import (
    Body,
    CruiseTrackListQuery,
    CruiseTrackListResponse,
    CruiseTrackQuery,
    CruiseTrackResponse,
    DeviceInfoQuery,
    DeviceInfoResponse,
    DeviceStatusQuery,
    DeviceStatusResponse,
    Edition,
    HomePositionQuery,
    HomePositionResponse,
    PresetQuery,
    PresetResponse,
    PTZPositionQuery,
    PTZPositionResponse,
    SDCardStatusQuery,
    SDCardStatusResponse,
)

log = logging.getLogger(__name__)

RELAYED: tuple[type[Body], ...] = (
    DeviceInfoQuery,
    DeviceStatusQuery,
    PresetQuery,
    HomePositionQuery,
    CruiseTrackListQuery,
    CruiseTrackQuery,
    PTZPositionQuery,
    SDCardStatusQuery,
)
PAGE = 50
"""Presets in one message to an upper of 2022; one of 2016 is told no total, so it gets all in one."""
QUESTIONS_PER_TARGET = 20

B = TypeVar("B", bound=Body)


class Asking(Protocol):
    """The part of gateway.services.commands.DeviceCommands that is needed."""

    async def query(self, device_id: str, target_id: str, query: Body, answer: type[B]) -> B: ...

    async def collect(
        self,
        device_id: str,
        target_id: str,
        query: Body,
        answer: type[B],
        *,
        items: str,
        key: Callable[[Any], Hashable] | None = None,
    ) -> Collected[B]: ...


class Online(Protocol):
    """The registry's devices."""

    @property
    def devices(self) -> Any: ...


class UpperQueries:
    """Relays the questions of all uppers; those for one target keep their order, others do not wait for them."""

    def __init__(
        self, *, asking: Asking, answers: UpperAnswers, facts: Online, clock: Clock | None = None
    ) -> None:
        self._asking, self._own_knowledge, self._facts = asking, answers, facts
        self._lanes = Inbox(jobs_per_peer=QUESTIONS_PER_TARGET, clock=clock or Clock())
        self._relays: dict[type[Body], Callable[[Any, str, str], Awaitable[list[Body]]]] = {
            PresetQuery: self._presets,
            HomePositionQuery: self._home,
            CruiseTrackListQuery: self._tracks,
            CruiseTrackQuery: self._track,
            PTZPositionQuery: self._aim,
            SDCardStatusQuery: self._cards,
        }

    async def close(self) -> None:
        await self._lanes.close()

    def answer(self, link: UpperLink, tree: Tree, query: Body) -> Body | None:
        """What can be said at once; None when the device is being asked and the answer follows."""
        entry = tree.entries.get(query.device_id)
        if entry is None or not entry.ways:
            return self._own(link, tree, query)

        async def work() -> None:
            for body in await self._answers(link, tree, entry, query):
                await link.message(body)

        async def guarded() -> None:
            try:
                await work()
            except RemoteError as error:
                platform_id = link.platform.platform_id
                log.warning("answer not delivered platform_id=%s error=%s", platform_id, error)

        if self._lanes.put((link.platform.platform_id, entry.exported_id), guarded):
            return None
        return self._own(link, tree, query)

    def _own(self, link: UpperLink, tree: Tree, query: Body) -> Body | None:
        """By own evidence: about us, about what is not shared, and when a device does not answer."""
        if isinstance(query, DeviceInfoQuery):
            return self._own_knowledge.device_info(link, tree, query)
        if isinstance(query, DeviceStatusQuery):
            return self._own_knowledge.device_status(tree, query)
        return self._own_knowledge.refuse(query)

    async def _answers(self, link: UpperLink, tree: Tree, entry: Entry, query: Body) -> list[Body]:
        way = self._way(entry)
        try:
            if isinstance(query, DeviceInfoQuery):
                found = [await self._info(link, tree, entry, way, query)]
            elif isinstance(query, DeviceStatusQuery):
                found = [await self._status(tree, way, query)]
            else:
                found = await self._relays[type(query)](query, *way)
        except (GatewayError, RemoteError) as error:
            log.info(
                "upper's question not answered by the device platform_id=%s cmd_type=%s target=%s error=%s",
                *(link.platform.platform_id, query.cmd_type, query.device_id, error),
            )
            own = self._own(link, tree, query)
            return [own] if own is not None else []
        found = _paged(found, Edition.from_header(link.platform.edition))
        return [body.model_copy(update={"sn": query.sn, "device_id": query.device_id}) for body in found]

    def _way(self, entry: Entry) -> tuple[str, str]:
        """The way to the channel whose device is online, when there are several."""
        devices = self._facts.devices
        return next(
            (way for way in entry.ways if way[0] in devices and devices[way[0]].online), entry.ways[0]
        )

    # -- one question each -----------------------------------------------------------------------------------

    async def _info(
        self, link: UpperLink, tree: Tree, entry: Entry, way: tuple[str, str], query: DeviceInfoQuery
    ) -> Body:
        told = await self._asking.query(*way, DeviceInfoQuery(), DeviceInfoResponse)
        known = self._own_knowledge.device_info(link, tree, query)
        update: dict[str, object] = {"device_name": entry.name, "channel": told.channel}
        for name in ("manufacturer", "model", "firmware"):
            update[name] = getattr(told, name) or getattr(known, name)
        return known.model_copy(update=update)

    async def _status(self, tree: Tree, way: tuple[str, str], query: DeviceStatusQuery) -> Body:
        """Whether it is online is our own evidence (G127); what it does is its own word. Codes above are the upper's."""
        known = self._own_knowledge.device_status(tree, query)
        told = await self._asking.query(*way, DeviceStatusQuery(), DeviceStatusResponse)
        duties = [
            item.model_copy(update={"device_id": mapped.exported_id})
            for item in told.alarm_status
            if (mapped := tree.by_key.get((way[0], item.device_id))) is not None
        ]
        return known.model_copy(
            update={
                "record": told.record,
                "encode": told.encode or known.encode,
                "device_time": told.device_time or known.device_time,
                "alarm_status": duties,
            }
        )

    async def _presets(self, query: PresetQuery, device_id: str, channel_id: str) -> list[Body]:
        told = await self._asking.collect(
            device_id,
            channel_id,
            PresetQuery(),
            PresetResponse,
            items="presets",
            key=lambda preset: preset.preset_id,
        )
        return [told.first.model_copy(update={"sum_num": len(told.items), "presets": told.items})]

    async def _home(self, query: HomePositionQuery, device_id: str, channel_id: str) -> list[Body]:
        return [await self._asking.query(device_id, channel_id, HomePositionQuery(), HomePositionResponse)]

    async def _tracks(self, query: CruiseTrackListQuery, device_id: str, channel_id: str) -> list[Body]:
        told = await self._asking.collect(
            device_id,
            channel_id,
            CruiseTrackListQuery(),
            CruiseTrackListResponse,
            items="tracks",
            key=lambda track: track.number,
        )
        return [told.first.model_copy(update={"sum_num": len(told.items), "tracks": told.items})]

    async def _track(self, query: CruiseTrackQuery, device_id: str, channel_id: str) -> list[Body]:
        told = await self._asking.collect(
            device_id, channel_id, CruiseTrackQuery(number=query.number), CruiseTrackResponse, items="points"
        )
        return [told.first.model_copy(update={"sum_num": len(told.items), "points": told.items})]

    async def _aim(self, query: PTZPositionQuery, device_id: str, channel_id: str) -> list[Body]:
        return [await self._asking.query(device_id, channel_id, PTZPositionQuery(), PTZPositionResponse)]

    async def _cards(self, query: SDCardStatusQuery, device_id: str, channel_id: str) -> list[Body]:
        told = await self._asking.collect(
            device_id,
            channel_id,
            SDCardStatusQuery(),
            SDCardStatusResponse,
            items="cards",
            key=lambda card: card.id,
        )
        return [told.first.model_copy(update={"sum_num": len(told.items), "cards": told.items})]


def _paged(bodies: list[Body], edition: Edition) -> list[Body]:
    """Long lists of presets in several messages."""
    found: list[Body] = []
    for body in bodies:
        if edition is Edition.V2016 or not isinstance(body, PresetResponse) or len(body.presets) <= PAGE:
            found.append(body)
            continue
        found += [
            body.model_copy(update={"presets": body.presets[at : at + PAGE]})
            for at in range(0, len(body.presets), PAGE)
        ]
    return found
