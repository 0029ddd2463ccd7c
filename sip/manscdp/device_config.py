"""DeviceConfig: set the configuration of a device (2022 A.2.3.2, 9.3.4)."""

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
    VideoRecordPlan,
)
from sip.manscdp.types import ok_error

V22 = Edition.V2022


class DeviceConfig(
    Body, root="Control", cmd_type="DeviceConfig", clause="A.2.3.2", checks=("G179", "G181", "G182")
):
    """Set one or more groups of settings; a Response with the result follows. ``frame_mirror`` 0 to 3."""

    basic_param: Annotated[BasicParam | None, Xml("BasicParam")] = None
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
    snapshot: Annotated[SnapShotConfig | None, Xml("SnapShotConfig", also=("SnapShot",), edition=V22)] = None


class DeviceConfigResponse(Body, root="Response", cmd_type="DeviceConfig", clause="A.2.6", checks=("G158",)):
    """Outcome of a DeviceConfig."""

    result: Annotated[str, Xml("Result", always=True, read=ok_error)] = "OK"
