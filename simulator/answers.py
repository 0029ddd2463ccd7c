"""What a simulated device answers to queries: catalog, information, status, recordings, presets, results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from simulator.records import RecordBook
from sip.manscdp import (
    BasicParam,
    Body,
    BroadcastNotify,
    BroadcastResponse,
    CatalogItem,
    CatalogQuery,
    CatalogResponse,
    ConfigDownloadQuery,
    ConfigDownloadResponse,
    DeviceConfig,
    DeviceConfigResponse,
    DeviceControl,
    DeviceControlResponse,
    DeviceInfoQuery,
    DeviceInfoResponse,
    DeviceStatusQuery,
    DeviceStatusResponse,
    PresetItem,
    PresetQuery,
    PresetResponse,
    PTZPositionQuery,
    RecordInfoQuery,
)

if TYPE_CHECKING:
    from simulator.device import Channel, SimulatedDevice


def broken_xml(data: bytes) -> bytes:
    """The same message with one Item whose name is no XML any more (quirk 2)."""
    return data.replace(b"</Name>", b"<\x01&</Name>", 1)


class AnswerBook:
    """Answers of one device, by type of the question."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.records = RecordBook(device)
        self.presets = [PresetItem(preset_id=1, name="gate"), PresetItem(preset_id=2, name="road")]
        self._makers: dict[type[Body], Callable[[Any], list[Body]]] = {
            CatalogQuery: self._catalog,
            DeviceInfoQuery: self._device_info,
            DeviceStatusQuery: self._device_status,
            RecordInfoQuery: self.records.answer,
            PresetQuery: self._presets,
            ConfigDownloadQuery: self._config,
            DeviceControl: self._control,
            DeviceConfig: self._configured,
            BroadcastNotify: self._broadcast,
            PTZPositionQuery: self._device.notices.where,
        }

    def answers_to(self, body: Body) -> list[Body]:
        """The answer in its parts; empty for what is not answered."""
        maker = self._makers.get(type(body))
        return maker(body) if maker is not None else []

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

    def _catalog(self, query: CatalogQuery) -> list[Body]:
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

    # -- the rest -----------------------------------------------------------------------------------------

    def _device_info(self, query: DeviceInfoQuery) -> list[Body]:
        device = self._device
        return [
            DeviceInfoResponse(
                sn=query.sn,
                device_id=query.device_id or device.device_id,
                device_name=device.name,
                manufacturer=device.options.manufacturer,
                model=device.options.model,
                firmware=device.options.firmware,
                channel=sum(channel.has_pictures for channel in device.channels.values()),
            )
        ]

    def _device_status(self, query: DeviceStatusQuery) -> list[Body]:
        device = self._device
        channel = device.channels.get(query.device_id)
        known = channel is not None or query.device_id in ("", device.device_id)
        online = known and (channel is None or channel.status != "OFF")
        return [
            DeviceStatusResponse(
                sn=query.sn,
                device_id=query.device_id or device.device_id,
                result="OK" if known else "ERROR",
                online="ONLINE" if online else "OFFLINE",
                status="OK" if known else "ERROR",
                encode="ON",
                record="OFF",
                device_time=datetime.now(UTC),
            )
        ]

    def _presets(self, query: PresetQuery) -> list[Body]:
        return [
            PresetResponse(
                sn=query.sn, device_id=query.device_id, sum_num=len(self.presets), presets=self.presets
            )
        ]

    def _config(self, query: ConfigDownloadQuery) -> list[Body]:
        settings = self._device.options.register
        basic = BasicParam(
            name=self._device.name,
            expiration=settings.expires_s,
            heartbeat_interval=round(settings.heartbeat_s),
            heartbeat_count=settings.heartbeat_count,
        )
        return [ConfigDownloadResponse(sn=query.sn, device_id=query.device_id, basic_param=basic)]

    def _control(self, body: DeviceControl) -> list[Body]:
        if not body.wants_response:
            return []
        result = self._device.notices.control(body) or "OK"
        return [DeviceControlResponse(sn=body.sn, device_id=body.device_id, result=result)]

    def _configured(self, body: DeviceConfig) -> list[Body]:
        settings = self._device.options.register
        if body.basic_param is not None and body.basic_param.heartbeat_interval:
            settings.heartbeat_s = body.basic_param.heartbeat_interval
        return [DeviceConfigResponse(sn=body.sn, device_id=body.device_id)]

    def _broadcast(self, body: BroadcastNotify) -> list[Body]:
        return [BroadcastResponse(sn=body.sn, device_id=body.target_id, result="ERROR")]
