"""What uppers are told from our own knowledge: about ourselves, about shared channels, and the refusal of all else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol

from gateway.clock import Clock
from gateway.model import Channel, Device
from gateway.services.cascade_items import Evidence
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree
from sip.manscdp import Body, DeviceInfoQuery, DeviceInfoResponse, DeviceStatusQuery, DeviceStatusResponse
from sip.manscdp.base import UnknownBody, Xml


class RefusedResponse(UnknownBody):
    """``Result`` ERROR to any command: the answer where nothing else can be said (report B.8)."""

    result: Annotated[str, Xml("Result", always=True)] = "ERROR"


class Facts(Protocol):
    """What is needed of the registry."""

    @property
    def devices(self) -> Mapping[str, Device]: ...

    def channel(self, device_id: str, channel_id: str) -> Channel | None: ...

    def channel_evidence(self, channel: Channel) -> Evidence: ...


class UpperAnswers:
    """Answers at once; asks no device."""

    def __init__(
        self,
        *,
        facts: Facts,
        manufacturer: str,
        model: str,
        firmware: str,
        name: str,
        clock: Clock | None = None,
    ) -> None:
        self._facts = facts
        self._manufacturer, self._model, self._firmware, self._name = manufacturer, model, firmware, name
        self._clock = clock or Clock()

    def device_info(self, link: UpperLink, tree: Tree, query: DeviceInfoQuery) -> DeviceInfoResponse:
        """About ourselves with the number of exported cameras (G126), or about a channel from its record."""
        answer = DeviceInfoResponse(sn=query.sn, device_id=query.device_id)
        if query.device_id in (tree.own_id, ""):
            return answer.model_copy(
                update={
                    "device_id": query.device_id or tree.own_id,
                    "device_name": self._name,
                    "manufacturer": self._manufacturer,
                    "model": self._model,
                    "firmware": self._firmware,
                    "channel": tree.cameras,
                }
            )
        entry = tree.entries.get(query.device_id)
        if entry is None or not entry.ways:
            return answer.model_copy(update={"result": "ERROR"})
        device_id, channel_id = entry.ways[0]
        channel, device = self._facts.channel(device_id, channel_id), self._facts.devices.get(device_id)
        record: Channel | Device | None = channel or device
        if record is None:
            return answer.model_copy(update={"result": "ERROR"})
        known = {"device_name": entry.name, "manufacturer": record.manufacturer, "model": record.model}
        if device is not None and channel_id == device_id:
            known["firmware"] = device.firmware
        return answer.model_copy(update=known)

    def device_status(self, tree: Tree, query: DeviceStatusQuery) -> DeviceStatusResponse:
        """By own evidence (G127). An unknown code is an ERROR and tells nothing."""
        answer = DeviceStatusResponse(sn=query.sn, device_id=query.device_id, device_time=self._clock.utc())
        if query.device_id in (tree.own_id, ""):
            return answer.model_copy(update={"device_id": query.device_id or tree.own_id, "encode": "ON"})
        entry = tree.entries.get(query.device_id)
        if entry is None or not entry.ways:
            return answer.model_copy(
                update={"result": "ERROR", "online": "OFFLINE", "status": "ERROR", "device_time": None}
            )
        verdict, reason = self._verdict(entry)
        on = verdict == "ON"
        return answer.model_copy(
            update={
                "online": "OFFLINE" if verdict == "OFF" else "ONLINE",
                "status": "OK" if on else "ERROR",
                "reason": "" if on else reason,
                "encode": "ON" if on else "OFF",
            }
        )

    def _verdict(self, entry: Entry) -> tuple[str, str]:
        verdict = "OFF"
        for device_id, channel_id in entry.ways:
            channel, device = self._facts.channel(device_id, channel_id), self._facts.devices.get(device_id)
            if channel is not None:
                verdict = str(self._facts.channel_evidence(channel).verdict)
            else:
                verdict = "ON" if device is not None and device.online else "OFF"
            if verdict == "ON":
                return verdict, ""
        return verdict, {"VLOST": "video lost", "DEFECT": "reported as faulty"}.get(verdict, "offline")

    def refuse(self, body: Body) -> Body | None:
        """``Result`` ERROR to a question or command nobody serves; notifications and answers get none."""
        if body.root not in ("Query", "Control") or not body.cmd_type:
            return None
        return RefusedResponse(
            unknown_root="Response", unknown_cmd_type=body.cmd_type, sn=body.sn, device_id=body.device_id
        )
