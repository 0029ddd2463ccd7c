"""What a simulated device answers: the catalog, and by :mod:`simulator.answer_table` every other question.

A new command is one function marked ``@answers(Model)`` (or ``@carries_out`` for a part of DeviceControl) in the file of
its subject, which is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulator import answers_aim, answers_state, configuration
from simulator.answer_table import DOERS, MAKERS, answers
from simulator.records import RecordBook
from sip.manscdp import (
    Body,
    BroadcastNotify,
    CatalogItem,
    CatalogQuery,
    CatalogResponse,
    DeviceControl,
    DeviceControlResponse,
    RecordInfoQuery,
)

if TYPE_CHECKING:
    from simulator.device import Channel, SimulatedDevice

SUBJECTS = (answers_aim, answers_state, configuration)
"""Files whose functions are entered in the table by being imported."""


def broken_xml(data: bytes) -> bytes:
    """The same message with one Item whose name is no XML any more (quirk 2)."""
    return data.replace(b"</Name>", b"<\x01&</Name>", 1)


class AnswerBook:
    """Answers of one device, by type of the question."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.records = RecordBook(device)

    def answers_to(self, body: Body) -> list[Body]:
        """The answer in its parts; empty for what is not answered."""
        maker = MAKERS.get(type(body))
        return maker(self._device, body) if maker is not None else []

    def encoded_parts(self, answers: Sequence[Body]) -> list[bytes]:
        return [self._device.encoded(answer) for answer in answers]

    async def send_catalog(self, sn: int, device_id: str, items: Sequence[CatalogItem] | None) -> None:
        """Send catalog parts that nobody asked for."""
        for part in self._pages(sn, device_id, list(items) if items is not None else self.items()):
            await self._device.send(part)

    # -- catalog ------------------------------------------------------------------------------------------

    def item(self, channel: Channel) -> CatalogItem:
        """The catalog entry of a channel."""
        options, device = self._device.options, self._device
        fields: dict[str, Any] = {
            "device_id": channel.channel_id,
            "name": channel.name,
            "status": "OFF" if channel.status == "OFF" else "ON",
            "parent_ids": channel.parent_ids,
        }
        if channel.has_pictures or not channel.extra.get("directory"):
            fields |= {
                "manufacturer": options.manufacturer,
                "model": options.model,
                "owner": "simulator",
                "civil_code": device.device_id[:6],
                "address": channel.name,
                "parental": 0,
                "register_way": 1,
                "secrecy": 0,
            }
            if not channel.parent_ids and channel.channel_id != device.device_id:
                fields["parent_ids"] = (device.device_id,)
        else:
            fields.pop("status")
        fields |= {name: value for name, value in channel.extra.items() if name != "directory"}
        return CatalogItem(**fields)

    def items(self) -> list[CatalogItem]:
        return [self.item(channel) for channel in self._device.channels.values()]

    def catalog(self, query: CatalogQuery) -> list[Body]:
        asked, device = query.device_id, self._device
        items = self.items()
        if asked not in ("", device.device_id):
            items = [item for item in items if item.device_id == asked or asked in item.parent_ids]
        sn = query.sn + 1000 if device.faults.wrong_sn else query.sn
        return list(self._pages(sn, asked or device.device_id, items))

    def _pages(self, sn: int, device_id: str, items: list[CatalogItem]) -> list[CatalogResponse]:
        size = self._device.options.page_size
        total = max(0, len(items) + self._device.faults.sum_num_offset)
        pages = [items[start : start + size] for start in range(0, len(items), size)] or [[]]
        return [CatalogResponse(sn=sn, device_id=device_id, sum_num=total, items=page) for page in pages]


@answers(CatalogQuery)
def catalog(device: SimulatedDevice, query: CatalogQuery) -> list[Body]:
    return device.answers.catalog(query)


@answers(RecordInfoQuery)
def records(device: SimulatedDevice, query: RecordInfoQuery) -> list[Body]:
    return device.answers.records.answer(query)


@answers(DeviceControl)
def control(device: SimulatedDevice, body: DeviceControl) -> list[Body]:
    """Carries the command out; a Response only to those that have one (9.3.1 d, e)."""
    result = "OK"
    for field, carry_out in DOERS.items():
        value = getattr(body, field)
        if value is None or value is False or value == "":
            continue
        result = device.condition.results.get(field) or carry_out(device, body)
    if not body.wants_response:
        return []
    return [DeviceControlResponse(sn=body.sn, device_id=body.device_id, result=result)]


@answers(BroadcastNotify)
def broadcast(device: SimulatedDevice, body: BroadcastNotify) -> list[Body]:
    """Answered and fetched in simulator/audio.py."""
    return device.audio.broadcast(body)
