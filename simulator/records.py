"""What a simulated device has recorded, how it answers RecordInfo (2022 A.2.6.7, 9.7), and what it does wrong in both."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from sip.manscdp import Body, RecordInfoQuery, RecordInfoResponse, RecordItem

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

RECORD_LENGTH = timedelta(hours=1)
MAX_RECORDS = 100
TimeForm = Literal["", "zone", "unpadded", "milliseconds"]
_TIME = re.compile(rb"<(StartTime|EndTime)>(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)</")


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded file. ``kind``: time, alarm or manual. Aware times."""

    start: datetime
    end: datetime
    path: str = ""
    kind: str = "time"
    size: int | None = None
    stream_number: int | None = None


@dataclass(slots=True)
class RecordFaults:
    """Faults of lists, playing and downloads; every field may be changed while the device runs.

    Lists (quirk 22): ``shuffle`` sends parts and their items out of order; ``repeat`` are indexes of parts sent twice,
    ``lose`` of parts not sent; ``sum_num_offset`` makes SumNum lie; ``time_form`` writes odd times; ``part_delay_s``
    passes between two parts.

    Playing: ``squeezed_stamps`` sends times that pass in the time of the playing; ``refused_scales`` get 501;
    ``reverse_one`` plays backward at -1 only and says so; ``empty_answers`` are 200 without a body;
    ``other_cseq`` numbers answers for itself; ``no_info`` answers INFO with this status.

    The end: ``media_status`` says how it is told: in the dialog, outside with the device's or the channel's code,
    outside from a sender that is not the device (quirk 23), with another NotifyType first, or not at all. ``endless``
    goes on sending (quirk 24). ``filesize``: the value in the answer to a download; "true" for an honest guess.
    """

    shuffle: bool = False
    repeat: set[int] = field(default_factory=set)
    lose: set[int] = field(default_factory=set)
    sum_num_offset: int = 0
    time_form: TimeForm = ""
    part_delay_s: float = 0.0
    squeezed_stamps: bool = False
    refused_scales: set[float] = field(default_factory=set)
    reverse_one: bool = False
    empty_answers: bool = False
    other_cseq: bool = False
    no_info: int = 0
    media_status: Literal["dialog", "outside", "channel", "foreign", "odd_first", "none"] = "dialog"
    endless: bool = False
    filesize: int | Literal["true"] | None = None


class RecordBook:
    """The recordings of one device. ``records`` None: files of one hour each fill whatever stretch is asked for."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._dice = random.Random(28181)
        self.records: dict[str, list[Record]] | None = None
        """By channel; a channel that is missing has none."""
        self.faults = RecordFaults()
        self.queries: list[RecordInfoQuery] = []

    def between(self, channel_id: str, start: datetime, end: datetime) -> list[Record]:
        """What of a channel touches ``[start, end)``, oldest first."""
        if self.records is not None:
            found = self.records.get(channel_id, [])
            return sorted(
                (r for r in found if r.start < end and r.end > start), key=lambda record: record.start
            )
        hours: list[Record] = []
        while channel_id in self._device.channels and start < end and len(hours) < MAX_RECORDS:
            stop = min(start + RECORD_LENGTH, end)
            hours.append(Record(start, stop, f"/record/{start:%Y%m%d%H%M%S}.ps"))
            start = stop
        return hours

    # -- RecordInfo -----------------------------------------------------------------------------------------

    def answer(self, query: RecordInfoQuery) -> list[Body]:
        """The answer in its parts, in order; none when the parts are sent from here, with faults."""
        self.queries.append(query)
        parts = self._parts(query)
        if self.faults == RecordFaults():
            return list(parts)
        self._device.endpoint.spawn(self._send(parts))
        return []

    def _parts(self, query: RecordInfoQuery) -> list[RecordInfoResponse]:
        device, faults = self._device, self.faults
        channel = device.channels.get(query.device_id)
        items: list[RecordItem] = []
        if query.start_time is not None and query.end_time is not None:
            found = self.between(query.device_id, query.start_time, query.end_time)
            items += [self._item(record, query) for record in found if query.type in ("", "all", record.kind)]
        if faults.shuffle:
            self._dice.shuffle(items)
        size, name = device.options.page_size, channel.name if channel is not None else ""
        pages = [items[first : first + size] for first in range(0, len(items), size)] or [[]]
        total = max(0, len(items) + faults.sum_num_offset)
        return [
            RecordInfoResponse(
                sn=query.sn, device_id=query.device_id, name=name, sum_num=total, items=page
            )
            for page in pages
        ]  # fmt: skip

    def _item(self, record: Record, query: RecordInfoQuery) -> RecordItem:
        channel = self._device.channels.get(query.device_id)
        return RecordItem(
            device_id=query.device_id,
            name=channel.name if channel is not None else "",
            file_path=record.path or f"/record/{record.start:%Y%m%d%H%M%S}.ps",
            start_time=record.start,
            end_time=record.end,
            type=record.kind,
            file_size=record.size,
            record_location=self._device.device_id if query.indistinct_query else "",
            stream_number=record.stream_number,
        )

    async def _send(self, parts: Sequence[RecordInfoResponse]) -> None:
        faults = self.faults
        order = list(range(len(parts)))
        if faults.shuffle:
            self._dice.shuffle(order)
        for index in order:
            if index in faults.lose:
                continue
            data = written(self._device.encoded(parts[index]), faults.time_form)
            for _ in range(1 + (index in faults.repeat)):
                await self._device.send_raw(data)
            await asyncio.sleep(faults.part_delay_s)


def written(data: bytes, form: TimeForm) -> bytes:
    """The times of a list as some devices write them (quirk 22)."""
    if not form:
        return data

    def rewrite(match: re.Match[bytes]) -> bytes:
        name, *numbers = match.groups()
        year, month, day, hour, minute, second = numbers
        if form == "unpadded":
            month, day, hour, minute, second = (b"%d" % int(n) for n in (month, day, hour, minute, second))
        tail = {"zone": b"+08:00", "milliseconds": b".250"}.get(form, b"")
        return b"<%s>%s-%s-%sT%s:%s:%s%s</" % (name, year, month, day, hour, minute, second, tail)

    return _TIME.sub(rewrite, data)
