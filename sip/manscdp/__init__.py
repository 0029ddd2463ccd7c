"""MANSCDP: the XML bodies of GB/T 28181 as typed records, one file per command (2022 annex A).

``decode`` reads any body, ``encode`` writes one for a peer's edition and charset.
"""

from __future__ import annotations

from sip.manscdp.alarm import AlarmNotify, AlarmQuery, AlarmResponse
from sip.manscdp.base import REGISTRY, Body, Charset, Decoded, Edition, Element, UnknownBody, Xml
from sip.manscdp.broadcast import BroadcastNotify, BroadcastResponse
from sip.manscdp.catalog import CatalogItem, CatalogNotify, CatalogQuery, CatalogResponse
from sip.manscdp.config_download import ConfigDownloadQuery, ConfigDownloadResponse
from sip.manscdp.config_types import (
    AlarmReport,
    AudioParam,
    BasicParam,
    DecodeSurveillanceParam,
    DecodeSvcParam,
    EncodeSurveillanceParam,
    EncodeSvcParam,
    MaskRegion,
    OSDConfig,
    OsdText,
    PictureMask,
    RecordSchedule,
    RoiItem,
    RoiParam,
    SnapShotConfig,
    SVACDecodeConfig,
    SVACEncodeConfig,
    TimeSegment,
    VideoAlarmRecord,
    VideoParam,
    VideoParamOpt,
    VideoRecordPlan,
)
from sip.manscdp.cruise_track import CruisePoint, CruiseTrackQuery, CruiseTrackResponse
from sip.manscdp.cruise_track_list import CruiseTrackItem, CruiseTrackListQuery, CruiseTrackListResponse
from sip.manscdp.device_config import DeviceConfig, DeviceConfigResponse
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
from sip.manscdp.device_upgrade_result import DeviceUpgradeResultNotify
from sip.manscdp.home_position import HomePositionQuery, HomePositionResponse
from sip.manscdp.keepalive import KeepaliveNotify, keepalive_fields
from sip.manscdp.media_status import MediaStatusNotify
from sip.manscdp.mobile_position import MobilePositionNotify, MobilePositionQuery, PositionItem
from sip.manscdp.preset import PresetItem, PresetQuery, PresetResponse
from sip.manscdp.ptz_position import PTZPositionNotify, PTZPositionQuery, PTZPositionResponse
from sip.manscdp.record_info import RecordInfoQuery, RecordInfoResponse, RecordItem
from sip.manscdp.sd_card_status import SDCard, SDCardStatusQuery, SDCardStatusResponse
from sip.manscdp.upload_snapshot_finished import UploadSnapShotFinishedNotify
from sip.manscdp.video_upload import VideoUploadNotify
from sip.manscdp.xml import decode, encode

CONTENT_TYPE = "Application/MANSCDP+xml"

__all__ = [
    "CONTENT_TYPE",
    "REGISTRY",
    "AlarmNotify",
    "AlarmQuery",
    "AlarmReport",
    "AlarmResponse",
    "AlarmStatusItem",
    "AudioParam",
    "BasicParam",
    "Body",
    "BroadcastNotify",
    "BroadcastResponse",
    "CatalogItem",
    "CatalogNotify",
    "CatalogQuery",
    "CatalogResponse",
    "Charset",
    "ConfigDownloadQuery",
    "ConfigDownloadResponse",
    "CruisePoint",
    "CruiseTrackItem",
    "CruiseTrackListQuery",
    "CruiseTrackListResponse",
    "CruiseTrackQuery",
    "CruiseTrackResponse",
    "DecodeSurveillanceParam",
    "DecodeSvcParam",
    "Decoded",
    "DeviceConfig",
    "DeviceConfigResponse",
    "DeviceControl",
    "DeviceControlResponse",
    "DeviceInfoQuery",
    "DeviceInfoResponse",
    "DeviceStatusQuery",
    "DeviceStatusResponse",
    "DeviceUpgrade",
    "DeviceUpgradeResultNotify",
    "DragZoom",
    "Edition",
    "Element",
    "EncodeSurveillanceParam",
    "EncodeSvcParam",
    "HomePosition",
    "HomePositionQuery",
    "HomePositionResponse",
    "KeepaliveNotify",
    "MaskRegion",
    "MediaStatusNotify",
    "MobilePositionNotify",
    "MobilePositionQuery",
    "OSDConfig",
    "OsdText",
    "PTZPositionNotify",
    "PTZPositionQuery",
    "PTZPositionResponse",
    "PTZPrecise",
    "PictureMask",
    "PositionItem",
    "PresetItem",
    "PresetQuery",
    "PresetResponse",
    "RecordInfoQuery",
    "RecordInfoResponse",
    "RecordItem",
    "RecordSchedule",
    "RoiItem",
    "RoiParam",
    "SDCard",
    "SDCardStatusQuery",
    "SDCardStatusResponse",
    "SVACDecodeConfig",
    "SVACEncodeConfig",
    "SnapShotConfig",
    "TimeSegment",
    "UnknownBody",
    "UploadSnapShotFinishedNotify",
    "VideoAlarmRecord",
    "VideoParam",
    "VideoParamOpt",
    "VideoRecordPlan",
    "VideoUploadNotify",
    "Xml",
    "decode",
    "encode",
    "keepalive_fields",
]
