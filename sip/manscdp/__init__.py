"""MANSCDP: the XML bodies of GB/T 28181 as typed records, one file per command (2022 annex A).

``decode`` reads any body, ``encode`` writes one for a peer's edition and charset.
"""

from __future__ import annotations

from sip.manscdp.alarm import AlarmNotify, AlarmQuery, AlarmResponse
from sip.manscdp.base import REGISTRY, Body, Charset, Decoded, Edition, Element, UnknownBody
from sip.manscdp.broadcast import BroadcastNotify, BroadcastResponse
from sip.manscdp.catalog import CatalogItem, CatalogNotify, CatalogQuery, CatalogResponse
from sip.manscdp.device_control import (
    DeviceControl,
    DeviceControlResponse,
    DeviceUpgrade,
    DragZoom,
    HomePosition,
    PTZPrecise,
)
from sip.manscdp.device_info import DeviceInfoQuery, DeviceInfoResponse
from sip.manscdp.device_status import AlarmStatusItem, DeviceStatusQuery, DeviceStatusResponse
from sip.manscdp.keepalive import KeepaliveNotify, keepalive_fields
from sip.manscdp.media_status import MediaStatusNotify
from sip.manscdp.mobile_position import MobilePositionNotify, MobilePositionQuery, PositionItem
from sip.manscdp.record_info import RecordInfoQuery, RecordInfoResponse, RecordItem
from sip.manscdp.xml import decode, encode

CONTENT_TYPE = "Application/MANSCDP+xml"

__all__ = [
    "CONTENT_TYPE",
    "REGISTRY",
    "AlarmNotify",
    "AlarmQuery",
    "AlarmResponse",
    "AlarmStatusItem",
    "Body",
    "BroadcastNotify",
    "BroadcastResponse",
    "CatalogItem",
    "CatalogNotify",
    "CatalogQuery",
    "CatalogResponse",
    "Charset",
    "Decoded",
    "DeviceControl",
    "DeviceControlResponse",
    "DeviceInfoQuery",
    "DeviceInfoResponse",
    "DeviceStatusQuery",
    "DeviceStatusResponse",
    "DeviceUpgrade",
    "DragZoom",
    "Edition",
    "Element",
    "HomePosition",
    "KeepaliveNotify",
    "MediaStatusNotify",
    "MobilePositionNotify",
    "MobilePositionQuery",
    "PTZPrecise",
    "PositionItem",
    "RecordInfoQuery",
    "RecordInfoResponse",
    "RecordItem",
    "UnknownBody",
    "decode",
    "encode",
    "keepalive_fields",
]
