"""The four subscriptions that GB/T 28181 knows, as data: how each is asked for (2022 9.11, A.2.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.model import Device
from gateway.registry import Registry
from sip.manscdp import (
    AlarmQuery,
    Body,
    CatalogQuery,
    Edition,
    MobilePositionQuery,
    PTZPositionQuery,
)

CATALOG, ALARM, MOBILE_POSITION, PTZ_POSITION = "Catalog", "Alarm", "MobilePosition", "PTZPosition"
_MOBILE_TRANSMISSION = "138"
"""Type digits of mobile transmission equipment (E.1)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of subscription. ``event`` makes the Event header from a number of ours, ``query`` the body."""

    name: str
    event: Callable[[int], str]
    query: Callable[[int, str, int | None], Body]
    edition: Edition | None = None


def _presence(number: int) -> str:
    """2016 annex J and the field use this token for everything but the catalog."""
    return "presence"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            CATALOG,
            lambda number: f"Catalog;id={number}",
            lambda sn, target, interval_s: CatalogQuery(sn=sn, device_id=target),
        ),
        Kind(
            ALARM,
            _presence,
            lambda sn, target, interval_s: AlarmQuery(
                sn=sn, device_id=target, start_alarm_priority=0, end_alarm_priority=0, alarm_method=("0",)
            ),
        ),
        Kind(
            MOBILE_POSITION,
            _presence,
            lambda sn, target, interval_s: MobilePositionQuery(sn=sn, device_id=target, interval=interval_s),
        ),
        Kind(
            PTZ_POSITION,
            _presence,
            lambda sn, target, interval_s: PTZPositionQuery(sn=sn, device_id=target),
            Edition.V2022,
        ),
    )
}


def knows(device: Device, kind: str) -> bool:
    """Whether the device's edition has this subscription (G049)."""
    return KINDS[kind].edition in (None, Edition.from_header(device.edition))


def moves(registry: Registry, device: Device) -> bool:
    """Whether the device or something behind it is a mobile unit, by its code or its catalog."""
    if device.device_id[10:13] == _MOBILE_TRANSMISSION:
        return True
    return any(
        channel.channel_id[10:13] == _MOBILE_TRANSMISSION
        or channel.item.get("mobile_device_type") is not None
        for channel in registry.channels(device.device_id).values()
    )
