"""Catalog items to channels: kinds, parents, civil codes, status words; and what a class of video point must have."""

from __future__ import annotations

from operator import attrgetter
from sys import intern
from typing import Any

from gateway.model import Channel, ChannelKind
from sip.ids import Grassroots, grassroots_kind, kind_of, valid_civil_code
from sip.manscdp import CatalogItem

MAX_ID_LENGTH = 20
REPORTS = frozenset({"ON", "OFF", "VLOST", "DEFECT"})
_HIDDEN = {"password", "event"}
"""A camera's password has no business in our database; the event belongs to the message, not to the channel."""

_OWN = {
    "device_id": "channel_id",
    "name": "name",
    "manufacturer": "manufacturer",
    "model": "model",
    "civil_code": "civil_code",
    "block": "block",
    "address": "address",
    "parental": "parental",
    "parent_ids": "parent_ids",
    "business_group_id": "business_group_id",
    "longitude": "longitude",
    "latitude": "latitude",
    "point_type": "point_class",
    "grassroots_code": "grassroots_code",
    "ptz_type": "ptz_type",
    "secrecy": "secrecy",
}
"""Fields of the Item and the fields of the channel that hold them."""
_ITEM_NAMES = tuple(_OWN)
_own_values = attrgetter(*_OWN.values())


def usable_id(channel_id: str) -> bool:
    """Whether a catalog's DeviceID can be a key: digits (or letters, seen in the field), at most 20."""
    return 0 < len(channel_id) <= MAX_ID_LENGTH and channel_id.isascii() and channel_id.isalnum()


def item_fields(item: CatalogItem) -> dict[str, Any]:
    """All fields that were sent, ready for JSON; the item can be rebuilt from them."""
    return item.model_dump(mode="json", exclude_defaults=True, exclude=_HIDDEN)


def merged(known: Channel, item: CatalogItem) -> CatalogItem:
    """An UPDATE that carries some fields only: what it leaves out stays as it was."""
    return CatalogItem.model_validate({**fields_of(known), **item_fields(item)})


def fields_of(channel: Channel) -> dict[str, Any]:
    """All fields of the catalog Item as received: those that the channel has itself, and those of ``channel.item``."""
    fields = _own_fields(channel) | channel.item
    return {name: value for name, value in fields.items() if value is not None}


def _own_fields(channel: Channel) -> dict[str, Any]:
    """Fields of the Item that the channel has as fields of its own, as far as they say something."""
    values = dict(zip(_ITEM_NAMES, _own_values(channel), strict=True))
    values["parent_ids"] = list(channel.parent_ids)
    return {name: value for name, value in values.items() if value}


def _rest(fields: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """What of the Item the channel does not have itself: kept twice it would be half of the memory and of the
    database of a large catalog. None: not sent, although the channel has a value (a civil code made from the code)."""
    own = _own_fields(channel)
    rest = {name: value for name, value in fields.items() if own.get(name) != value}
    return rest | {name: None for name in own if name not in fields}


def status_of(item: CatalogItem) -> str:
    """ON, OFF, VLOST or DEFECT. No Status is no complaint: ON. A word nobody knows: OFF."""
    if not item.status:
        return "ON"
    return item.status if item.status in REPORTS else "OFF"


def channel_of(device_id: str, item: CatalogItem) -> Channel:
    """The channel that an item describes under this device (GB/T 28181-2022 A.2.1.9, annex J).

    Texts that many entries share are kept once.
    """
    kind = ChannelKind(kind_of(item.device_id).value)
    parents = tuple(
        dict.fromkeys(intern(p.strip()) for p in item.parent_ids if p.strip() and p != item.device_id)
    )
    channel = Channel(
        device_id=device_id,
        channel_id=item.device_id,
        name=item.name,
        kind=kind,
        manufacturer=intern(item.manufacturer),
        model=intern(item.model),
        civil_code=intern(
            "" if kind is ChannelKind.DIVISION else valid_civil_code(item.civil_code, item.device_id)
        ),
        block=item.block,
        address=item.address,
        parental=item.parental or 0,
        parent_ids=() if kind is ChannelKind.DIVISION else parents,
        business_group_id=intern(item.business_group_id),
        longitude=item.longitude,
        latitude=item.latitude,
        point_class=item.point_type,
        grassroots_code=item.grassroots_code[:6],
        ptz_type=item.ptz_type,
        secrecy=item.secrecy or 0,
        reported=status_of(item),
    )
    channel.item = _rest(item_fields(item), channel)
    return channel


def quality_faults(item: CatalogItem) -> tuple[str, ...]:
    """What is missing or wrong in a camera's item for its class of video point, as element names (2022 A.2.1.9).

    Class 1 and 2 must have a position; class 1 also installation time, contact and days of storage. Every camera
    of 2022 has a PointType and a GrassrootsCode.
    """
    faults = []
    if item.point_type not in (1, 2, 3, 9):
        faults.append("PointType")
    if grassroots_kind(item.grassroots_code) is Grassroots.INVALID:
        faults.append("GrassrootsCode")
    if item.point_type in (1, 2) or item.longitude is not None or item.latitude is not None:
        if item.longitude is None or not -180 <= item.longitude <= 180:
            faults.append("Longitude")
        if item.latitude is None or not -90 <= item.latitude <= 90:
            faults.append("Latitude")
    if item.point_type == 1:
        wanted = {
            "InstallTime": item.install_time,
            "ContactInfo": item.contact_info,
            "RecordSaveDays": item.record_save_days,
        }
        faults += [name for name, value in wanted.items() if not value]
    if item.mac and not _is_mac(item.mac):
        faults.append("MAC")
    return tuple(faults)


def _is_mac(text: str) -> bool:
    parts = text.split("-")
    return len(parts) == 6 and all(
        len(part) == 2 and all(digit in "0123456789abcdefABCDEF" for digit in part) for part in parts
    )
