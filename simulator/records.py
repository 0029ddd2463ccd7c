"""What a simulated device has recorded, and how it answers RecordInfo (2022 A.2.6.7, 9.7)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sip.manscdp import Body, RecordInfoQuery, RecordInfoResponse, RecordItem

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

RECORD_LENGTH = timedelta(hours=1)
MAX_RECORDS = 100


class RecordBook:
    """The recordings of one device: of one hour each, they fill whatever stretch is asked for."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    def answer(self, query: RecordInfoQuery) -> list[Body]:
        """The answer in its parts."""
        device = self._device
        channel = device.channels.get(query.device_id)
        items: list[RecordItem] = []
        start, end = query.start_time, query.end_time
        while (
            channel is not None
            and start is not None
            and end is not None
            and start < end
            and len(items) < MAX_RECORDS
        ):
            stop = min(start + RECORD_LENGTH, end)
            items.append(
                RecordItem(
                    device_id=query.device_id,
                    name=channel.name,
                    file_path=f"/record/{start:%Y%m%d%H%M%S}.ps",
                    start_time=start,
                    end_time=stop,
                    type="time",
                )
            )
            start = stop
        size = device.options.page_size
        pages = [items[first : first + size] for first in range(0, len(items), size)] or [[]]
        name = channel.name if channel is not None else ""
        return [
            RecordInfoResponse(
                sn=query.sn, device_id=query.device_id, name=name, sum_num=len(items), items=page
            )
            for page in pages
        ]
