"""Exported entries as catalog Items: the lower side's fields kept, its codes mapped, its addresses left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import ValidationError

from gateway.model import Channel, ChannelKind, Device, DeviceKind
from gateway.services.cascade_tree import DIRECTORY, Entry
from gateway.services.channels import fields_of
from sip.manscdp.catalog import CatalogItem

_HIDDEN: dict[str, object] = {
    "ip_address": "",
    "port": None,
    "password": "",
    "extras": {},
    "event": "",
    "cert_num": "",
}


class Evidence(Protocol):
    """The verdict on one channel: ON, OFF, VLOST or DEFECT."""

    @property
    def verdict(self) -> str: ...


class Facts(Protocol):
    """What an Item needs of the registry."""

    @property
    def devices(self) -> Mapping[str, Device]: ...

    def channel(self, device_id: str, channel_id: str) -> Channel | None: ...

    def channel_evidence(self, channel: Channel) -> Evidence: ...


class ItemWriter:
    """Makes Items for one gateway. ``manufacturer`` and ``model`` describe the own system."""

    def __init__(self, facts: Facts, *, manufacturer: str, model: str, address: str = "") -> None:
        self._facts = facts
        self._manufacturer, self._model, self._address = manufacturer, model, address

    def status(self, entry: Entry) -> str:
        """ON when any way to the channel is (H.2.1), else what the best known way says."""
        verdicts = [self._verdict(*way) for way in entry.ways]
        for verdict in ("ON", "VLOST", "DEFECT"):
            if verdict in verdicts:
                return verdict
        return "OFF" if verdicts else "ON"

    def _verdict(self, device_id: str, channel_id: str) -> str:
        channel = self._facts.channel(device_id, channel_id)
        device = self._facts.devices.get(device_id)
        if channel is None or (
            device_id == channel_id and device is not None and device.kind is not DeviceKind.CAMERA
        ):
            return "ON" if device is not None and device.online else "OFF"
        if channel.kind in DIRECTORY:
            return "ON"
        return self._facts.channel_evidence(channel).verdict

    def short(self, entry: Entry, event: str) -> CatalogItem:
        """A notification entry of code and event only: ON, OFF, VLOST, DEFECT, DEL."""
        return CatalogItem(device_id=entry.exported_id, event=event)

    def full(self, entry: Entry, event: str = "") -> CatalogItem:
        """All fields, for answers and for ADD and UPDATE."""
        if entry.kind is ChannelKind.DIVISION:
            return CatalogItem(device_id=entry.exported_id, name=entry.name, event=event)
        update: dict[str, object] = {
            "device_id": entry.exported_id,
            "name": entry.name,
            "event": event,
            "civil_code": entry.civil_code,
            "parent_ids": entry.parents,
            "business_group_id": entry.group,
        }
        if entry.kind in DIRECTORY:
            return CatalogItem.model_validate(update)
        update |= {"status": "ON" if self.status(entry) == "ON" else "OFF", "parental": entry.parental}
        return self._base(entry).model_copy(update=update)

    def _base(self, entry: Entry) -> CatalogItem:
        if not entry.ways:
            return CatalogItem(
                manufacturer=self._manufacturer,
                model=self._model,
                address=self._address,
                register_way=1,
                secrecy=0,
            )
        for way in entry.ways:
            channel = self._facts.channel(*way)
            if channel is not None:
                return _as_received(channel)
        device = self._facts.devices.get(entry.ways[0][0])
        if device is None:
            return CatalogItem()
        return CatalogItem(manufacturer=device.manufacturer, model=device.model, register_way=1, secrecy=0)


def without_secrets(item: CatalogItem) -> CatalogItem:
    """The Item without what must not go up: addresses, passwords, unknown fields."""
    return item.model_copy(update=_HIDDEN)


def _as_received(channel: Channel) -> CatalogItem:
    """The Item as the lower side sent it, without what must not go up: addresses, passwords, unknown fields."""
    try:
        item = CatalogItem.model_validate(fields_of(channel))
    except ValidationError:
        item = CatalogItem()
    filled: dict[str, object] = {**_HIDDEN, "secrecy": channel.secrecy}
    for name in (
        "manufacturer",
        "model",
        "block",
        "address",
        "longitude",
        "latitude",
        "ptz_type",
        "grassroots_code",
    ):
        value = getattr(channel, name)
        if value not in ("", None):
            filled[name] = value
    if channel.point_class is not None:
        filled["point_type"] = channel.point_class
    return item.model_copy(update=filled)
