"""ConfigDownload: read the configuration of a device (2022 A.2.4.7, A.2.6.9)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, Edition, Xml
from sip.manscdp.config_types import (
    AlarmReport,
    BasicParam,
    OSDConfig,
    PictureMask,
    SnapShotConfig,
    SVACDecodeConfig,
    SVACEncodeConfig,
    VideoAlarmRecord,
    VideoParam,
    VideoParamOpt,
    VideoRecordPlan,
)
from sip.manscdp.types import ok_error

V22 = Edition.V2022
TYPES_2016 = ("BasicParam", "VideoParamOpt", "SVACEncodeConfig", "SVACDecodeConfig")
TYPES_2022 = (
    *TYPES_2016,
    "VideoParamAttribute",
    "VideoRecordPlan",
    "VideoAlarmRecord",
    "PictureMask",
    "FrameMirror",
    "AlarmReport",
    "OSDConfig",
    "SnapShotConfig",
)
READ_ONLY = ("VideoParamOpt",)
"""Types that say what a device can do; DeviceConfig does not have them."""
ATTRIBUTES = {
    "BasicParam": "basic_param",
    "VideoParamOpt": "video_param_opt",
    "SVACEncodeConfig": "svac_encode",
    "SVACDecodeConfig": "svac_decode",
    "VideoParamAttribute": "video_params",
    "VideoRecordPlan": "record_plan",
    "VideoAlarmRecord": "alarm_record",
    "PictureMask": "picture_mask",
    "FrameMirror": "frame_mirror",
    "AlarmReport": "alarm_report",
    "OSDConfig": "osd",
    "SnapShotConfig": "snapshot",
}
"""Where a type is found in ConfigDownloadResponse and DeviceConfig."""


def config_types(edition: Edition) -> tuple[str, ...]:
    """The types that an edition knows, in the order of its schema."""
    return TYPES_2022 if edition is Edition.V2022 else TYPES_2016


class ConfigDownloadQuery(Body, root="Query", cmd_type="ConfigDownload", clause="A.2.4.7", checks=("G132",)):
    """``config_types`` are names of :data:`TYPES_2016` or :data:`TYPES_2022`."""

    config_types: Annotated[tuple[str, ...], Xml("ConfigType", separator="/", always=True)] = ()


class ConfigDownloadResponse(
    Body, root="Response", cmd_type="ConfigDownload", clause="A.2.6.9", checks=("G132", "G185")
):
    """One or several of the asked types; a device may answer with several Responses of one SN.

    Some devices name the element otherwise than the type they were asked for: its children tell which it is.
    """

    BY_CHILDREN = True

    result: Annotated[str, Xml("Result", always=True, read=ok_error)] = "OK"
    basic_param: Annotated[BasicParam | None, Xml("BasicParam")] = None
    video_param_opt: Annotated[VideoParamOpt | None, Xml("VideoParamOpt")] = None
    svac_encode: Annotated[SVACEncodeConfig | None, Xml("SVACEncodeConfig")] = None
    svac_decode: Annotated[SVACDecodeConfig | None, Xml("SVACDecodeConfig")] = None
    video_params: Annotated[
        list[VideoParam], Xml("VideoParamAttribute", items="Item", num="Num", edition=V22)
    ] = Field(default_factory=list)
    record_plan: Annotated[VideoRecordPlan | None, Xml("VideoRecordPlan", edition=V22)] = None
    alarm_record: Annotated[VideoAlarmRecord | None, Xml("VideoAlarmRecord", edition=V22)] = None
    picture_mask: Annotated[PictureMask | None, Xml("PictureMask", edition=V22)] = None
    frame_mirror: Annotated[int | None, Xml("FrameMirror", edition=V22)] = None
    alarm_report: Annotated[AlarmReport | None, Xml("AlarmReport", edition=V22)] = None
    osd: Annotated[OSDConfig | None, Xml("OSDConfig", edition=V22)] = None
    snapshot: Annotated[SnapShotConfig | None, Xml("SnapShot", also=("SnapShotConfig",), edition=V22)] = None

    @property
    def answered(self) -> frozenset[str]:
        """Names of the types that this Response brings, so a collector knows when all asked ones came (G132)."""
        return frozenset(self.values())

    def values(self) -> dict[str, object]:
        """What came, by the name of its type: an Element, a list of VideoParam, or the number of FrameMirror."""
        return {
            name: value
            for name, attribute in ATTRIBUTES.items()
            if (value := getattr(self, attribute)) is not None
            and (value != [] or attribute in self.model_fields_set)
        }
