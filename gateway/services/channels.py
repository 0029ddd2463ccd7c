"""Catalog items to channels: kinds, parents, civil codes, status words; and what a class of video point must have."""

from __future__ import annotations

from typing import Any

from gateway.model import Channel, ChannelKind
from sip.ids import Grassroots, grassroots_kind, kind_of, valid_civil_code
from sip.manscdp import CatalogItem

MAX_ID_LENGTH = 20
REPORTS = frozenset({"ON", "OFF", "VLOST", "DEFECT"})
_HIDDEN = {"password", "event"}
"""A camera's password has no business in our database; the event belongs to the message, not to the channel."""


def usable_id(channel_id: str) -> bool:
    """Whether a catalog's DeviceID can be a key: digits (or letters, seen in the field), at most 20."""
    return 0 < len(channel_id) <= MAX_ID_LENGTH and channel_id.isascii() and channel_id.isalnum()


def item_fields(item: CatalogItem) -> dict[str, Any]:
    """All fields that were sent, ready for JSON; the item can be rebuilt from them."""
    return item.model_dump(mode="json", exclude_defaults=True, exclude=_HIDDEN)


def merged(known: Channel, item: CatalogItem) -> CatalogItem:
    """An UPDATE that carries some fields only: what it leaves out stays as it was."""
    return CatalogItem.model_validate({**known.item, **item_fields(item)})


def status_of(item: CatalogItem) -> str:
    """ON, OFF, VLOST or DEFECT. No Status is no complaint: ON. A word nobody knows: OFF."""
    if not item.status:
        return "ON"
    return item.status if item.status in REPORTS else "OFF"


def channel_of(device_id: str, item: CatalogItem) -> Channel:
    """The channel that an item describes under this device (GB/T 28181-2022 A.2.1.9, annex J)."""
    kind = ChannelKind(kind_of(item.device_id).value)
    parents = tuple(dict.fromkeys(p.strip() for p in item.parent_ids if p.strip() and p != item.device_id))
    return Channel(
        device_id=device_id,
        channel_id=item.device_id,
        name=item.name,
        kind=kind,
        manufacturer=item.manufacturer,
        model=item.model,
        civil_code="" if kind is ChannelKind.DIVISION else valid_civil_code(item.civil_code, item.device_id),
        block=item.block,
        address=item.address,
        parental=item.parental or 0,
        parent_ids=() if kind is ChannelKind.DIVISION else parents,
        business_group_id=item.business_group_id,
        longitude=item.longitude,
        latitude=item.latitude,
        point_class=item.point_type,
        grassroots_code=item.grassroots_code[:6],
        ptz_type=item.ptz_type,
        secrecy=item.secrecy or 0,
        item=item_fields(item),
        reported=status_of(item),
    )


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
