"""Uppers ask what is recorded: RecordInfo answered from our own index and from the device, in parts like a catalog.

GB/T 28181-2022 9.7.1, annex M: IndistinctQuery 0 searches where the To header points, at us or at the device; 1 searches
both and says of each entry who holds it (G135). Where we never recorded a channel the device is asked anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.registry import Registry
from gateway.services.cascade_catalog import CatalogAnswers
from gateway.services.cascade_ids import Key
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.device_records import DeviceRecords, RecordFilter
from gateway.services.playback_library import Library
from media.specs import SegmentInfo
from sip.errors import RemoteError
from sip.manscdp import Body, Edition, RecordInfoQuery, RecordInfoResponse, RecordItem

log = logging.getLogger(__name__)

TYPES = {"continuous": "time", "event": "alarm", "manual": "manual"}
"""Our kinds of recording in the words of A.2.4.5."""
RIGHTS = frozenset({"playback", "download"})
Audit = Callable[[str, str, str, str, str], None]


class RecordSource(Protocol):
    """Somebody who may know recordings of a channel."""

    async def records(self, key: Key, start: datetime, end: datetime) -> list[RecordItem] | None:
        """Entries that touch ``[start, end)``, oldest first; None: this channel is not mine. Raises GatewayError.

        Code, name and place are filled in by the asker.
        """
        ...


class OwnRecords:
    """The recordings in our own storage."""

    def __init__(self, library: Library, clock: Clock) -> None:
        self._library = library
        self._clock = clock

    async def records(self, key: Key, start: datetime, end: datetime) -> list[RecordItem] | None:
        if not await self._library.has(*key):
            return None
        files = await self._library.files(*key, start.timestamp(), end.timestamp())
        return [self._item(info) for info in files]

    def _item(self, info: SegmentInfo) -> RecordItem:
        """Times to the second, whole within the file's own. A path tells nothing about our disks (G259)."""
        begin = datetime.fromtimestamp(int(info.start), UTC)
        end = datetime.fromtimestamp(int(info.end), UTC) if info.complete else self._clock.utc()
        return RecordItem(
            file_path=f"{begin:%Y%m%d}/{info.segment_id}.mp4",
            start_time=begin,
            end_time=max(end.replace(microsecond=0), begin),
            type=TYPES.get(info.kind, "time"),
            file_size=info.bytes,
            stream_number=0,
        )


class InDevices:
    """The recordings in the device that has the channel."""

    def __init__(self, records: DeviceRecords, registry: Registry) -> None:
        self._records = records
        self._registry = registry

    async def records(self, key: Key, query: RecordInfoQuery) -> list[RecordItem] | None:
        """What the device lists; None: it cannot be asked. Raises GatewayError when it does not answer."""
        device = self._registry.devices.get(key[0])
        start, end = query.start_time, query.end_time
        if (
            device is None
            or device.local
            or not device.online
            or start is None
            or end is None
            or start >= end
        ):
            return None
        newer = Edition.from_header(device.edition) is Edition.V2022
        wish = RecordFilter(
            type=query.type.strip().lower() or "all",
            secrecy=query.secrecy,
            file_path=query.file_path,
            indistinct=query.indistinct_query if query.indistinct_query else None,
            stream_number=query.stream_number if newer else None,
            alarm_method=query.alarm_method if newer else "",
            alarm_type=query.alarm_type if newer else "",
        )
        return (await self._records.find(*key, start, end, wish)).items


class UpperRecords:
    """Serves RecordInfo of all uppers. ``sources`` are our own, asked in their order; ``devices`` the others'."""

    def __init__(
        self,
        sources: Sequence[RecordSource],
        *,
        address_of: Callable[[Key], str],
        devices: InDevices | None = None,
    ) -> None:
        self._sources = sources
        self._devices = devices
        self._address_of = address_of
        self.audit: Audit | None = None

    async def find(
        self, link: UpperLink, tree: Tree, query: RecordInfoQuery, who: str, to: str = ""
    ) -> list[RecordItem] | None:
        """What the upper is to be told; None: neither ours to tell nor hers to know (the query is refused).

        ``to``: the code in the To header.
        """
        entry = tree.entries.get(query.device_id)
        result, found = "forbidden", None
        if link.platform.rights & RIGHTS:
            result = "not_found"
            if entry is not None and entry.ways:
                try:
                    found = await self._search(tree, entry, query, to)
                    result = "ok" if found is not None else "not_recorded"
                except GatewayError as error:
                    result = error.cause
                    log.warning("records not found out channel=%s error=%s", query.device_id, error)
        if self.audit is not None:
            self.audit(
                who, "upper.records", query.device_id, result, "" if found is None else str(len(found))
            )
        if found is None or entry is None:
            return None
        return found

    async def _search(
        self, tree: Tree, entry: Entry, query: RecordInfoQuery, to: str
    ) -> list[RecordItem] | None:
        """Ours, the device's, or both merged (G135)."""
        both = query.indistinct_query == 1
        at_device = to not in ("", tree.own_id) and not both
        own = None if at_device else self._told(tree, entry, query, await self._ask(entry, query), own=True)
        if own is not None and not both:
            return own
        theirs: list[RecordItem] | None = None
        try:
            theirs = self._told(tree, entry, query, await self._ask_devices(entry, query), own=False)
        except GatewayError:
            if own is None and not at_device:
                raise
        if at_device and theirs is None:
            own = self._told(tree, entry, query, await self._ask(entry, query), own=True)
        if own is None or theirs is None:
            return own if theirs is None else theirs
        return sorted([*own, *theirs], key=_order)

    def _told(
        self, tree: Tree, entry: Entry, query: RecordInfoQuery, found: list[RecordItem] | None, *, own: bool
    ) -> list[RecordItem] | None:
        """Entries under the codes the upper knows; a device's own codes are nobody's business above (G259)."""
        if found is None:
            return None
        holder = tree.own_id if own else entry.exported_id
        fields = {
            "device_id": entry.exported_id, "name": entry.name, "address": self._address_of(entry.ways[0]),
            "recorder_id": holder, "record_location": holder if query.indistinct_query == 1 else "",
        }  # fmt: skip
        complete = [item.model_copy(update=fields) for item in found]
        return [item for item in complete if wanted(item, query)]

    async def _ask_devices(self, entry: Entry, query: RecordInfoQuery) -> list[RecordItem] | None:
        if self._devices is None:
            return None
        for key in entry.ways:
            found = await self._devices.records(key, query)
            if found is not None:
                return found
        return None

    async def _ask(self, entry: Entry, query: RecordInfoQuery) -> list[RecordItem] | None:
        start = query.start_time or datetime.fromtimestamp(0, UTC)
        end = query.end_time or datetime(2100, 1, 1, tzinfo=UTC)
        for source in self._sources:
            for key in entry.ways:
                found = await source.records(key, start, end)
                if found is not None:
                    return found
        return None

    async def answer(
        self, link: UpperLink, answers: CatalogAnswers, tree: Tree, query: RecordInfoQuery, who: str,
        refused: Body | None, to: str = "",
    ) -> None:  # fmt: skip
        """Find and send; a channel that nobody records is answered by ``refused``."""
        found = await self.find(link, tree, query, who, to)
        if found is None:
            if refused is not None:
                try:
                    await link.message(refused)
                except RemoteError as error:
                    log.info("answer not delivered platform_id=%s error=%s", link.platform.platform_id, error)
            return
        entries, name = found, tree.entries[query.device_id].name

        def part(first: int, last: int) -> Body:
            return RecordInfoResponse(
                sn=query.sn,
                device_id=query.device_id,
                name=name,
                sum_num=len(entries),
                items=entries[first:last],
            )

        parts = await answers.send_list(len(entries), part)
        log.info(
            "records answered platform_id=%s sn=%d channel=%s records=%d parts=%d",
            *(link.platform.platform_id, query.sn, query.device_id, len(entries), parts),
        )


def _order(item: RecordItem) -> tuple[float, float, str]:
    start, end = item.start_time, item.end_time
    return (start.timestamp() if start else 0.0, end.timestamp() if end else 0.0, item.file_path)


def wanted(item: RecordItem, query: RecordInfoQuery) -> bool:
    """Whether an entry passes the query's filters (A.2.4.5); empty ones let everything pass."""
    kind = query.type.strip().lower()
    return (
        (kind in ("", "all") or kind == item.type)
        and (query.secrecy is None or query.secrecy == item.secrecy)
        and query.address.strip() in item.address
        and item.file_path.startswith(query.file_path.strip())
        and query.recorder_id.strip() in ("", item.recorder_id)
        and (query.stream_number is None or query.stream_number == (item.stream_number or 0))
    )
