"""The configuration elements that DeviceConfig sets and ConfigDownload brings back (2022 A.2.3.2, A.2.6.9)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Edition, Element, Xml

V16, V22 = Edition.V2016, Edition.V2022


class BasicParam(Element):
    """Name, lifetime of the registration and heartbeat, in seconds; place of the device in 2016 answers."""

    name: Annotated[str, Xml("Name")] = ""
    expiration: Annotated[int | None, Xml("Expiration")] = None
    heartbeat_interval: Annotated[int | None, Xml("HeartBeatInterval")] = None
    heartbeat_count: Annotated[int | None, Xml("HeartBeatCount")] = None
    position_capability: Annotated[int | None, Xml("PositionCapability", edition=V16)] = None
    longitude: Annotated[float | None, Xml("Longitude", edition=V16)] = None
    latitude: Annotated[float | None, Xml("Latitude", edition=V16)] = None


class VideoParamOpt(Element):
    """What the device can do; read only."""

    download_speed: Annotated[tuple[str, ...], Xml("DownloadSpeed", separator="/")] = ()
    resolution: Annotated[tuple[str, ...], Xml("Resolution", separator="/")] = ()


class VideoParam(Element):
    """One stream's picture format in codes of the f field; ``bit_rate`` in kbit/s (must for constant rate)."""

    stream_number: Annotated[int, Xml("StreamNumber", always=True)] = 0
    video_format: Annotated[str, Xml("VideoFormat", always=True)] = ""
    resolution: Annotated[str, Xml("Resolution", always=True)] = ""
    frame_rate: Annotated[str, Xml("FrameRate", always=True)] = ""
    bit_rate_type: Annotated[str, Xml("BitRateType", always=True)] = ""
    bit_rate: Annotated[str, Xml("VideoBitRate")] = ""


class TimeSegment(Element):
    """A stretch of a day."""

    start_hour: Annotated[int, Xml("StartHour", always=True)] = 0
    start_min: Annotated[int, Xml("StartMin", always=True)] = 0
    start_sec: Annotated[int, Xml("StartSec", always=True)] = 0
    stop_hour: Annotated[int, Xml("StopHour", always=True)] = 0
    stop_min: Annotated[int, Xml("StopMin", always=True)] = 0
    stop_sec: Annotated[int, Xml("StopSec", always=True)] = 0


class RecordSchedule(Element):
    """One weekday (1 Monday to 7 Sunday) with one to eight stretches."""

    week_day: Annotated[int, Xml("WeekDayNum", always=True)] = 1
    segment_count: Annotated[int, Xml("TimeSegmentSumNum", always=True)] = 0
    segments: Annotated[list[TimeSegment], Xml("TimeSegment")] = Field(default_factory=list)


class VideoRecordPlan(Element):
    """When the device records by itself; at most seven schedules."""

    record_enable: Annotated[int, Xml("RecordEnable", always=True)] = 0
    schedule_count: Annotated[int | None, Xml("RecordScheduleSumNum")] = None
    schedules: Annotated[list[RecordSchedule], Xml("RecordSchedule")] = Field(default_factory=list)
    stream_number: Annotated[int, Xml("StreamNumber", always=True)] = 0


class VideoAlarmRecord(Element):
    """Recording on alarm: seconds after and before it."""

    record_enable: Annotated[int, Xml("RecordEnable", always=True)] = 0
    record_time: Annotated[int | None, Xml("RecordTime")] = None
    pre_record_time: Annotated[int | None, Xml("PreRecordTime")] = None
    stream_number: Annotated[int, Xml("StreamNumber", always=True)] = 0


class MaskRegion(Element):
    """A covered rectangle: ``lx,ly,rx,ry`` in pixels."""

    seq: Annotated[int, Xml("Seq", always=True)] = 1
    point: Annotated[str, Xml("Point", always=True)] = ""


class PictureMask(Element):
    """Up to four covered rectangles."""

    on: Annotated[int, Xml("On", always=True)] = 0
    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    regions: Annotated[list[MaskRegion], Xml("RegionList", items="Item", num="Num")] = Field(
        default_factory=list
    )


class AlarmReport(Element):
    """Which detections report alarms."""

    motion_detection: Annotated[int, Xml("MotionDetection", always=True)] = 0
    field_detection: Annotated[int, Xml("FieldDetection", always=True)] = 0


class OsdText(Element):
    """One text over the picture, at most 32 characters, at a place in pixels."""

    text: Annotated[str, Xml("Text", always=True, limit=32)] = ""
    x: Annotated[int, Xml("X", always=True)] = 0
    y: Annotated[int, Xml("Y", always=True)] = 0


class OSDConfig(Element):
    """Texts and clock over the picture; ``length`` and ``width`` are the window in pixels."""

    length: Annotated[int, Xml("Length", always=True)] = 0
    width: Annotated[int, Xml("Width", always=True)] = 0
    time_x: Annotated[int, Xml("TimeX", always=True)] = 0
    time_y: Annotated[int, Xml("TimeY", always=True)] = 0
    time_enable: Annotated[int | None, Xml("TimeEnable")] = None
    time_type: Annotated[int | None, Xml("TimeType")] = None
    text_enable: Annotated[int | None, Xml("TextEnable")] = None
    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    texts: Annotated[list[OsdText], Xml("Item")] = Field(default_factory=list)


class SnapShotConfig(Element):
    """Take pictures and upload them; interval in seconds, session id 32 to 128 of letters, digits and ``-``."""

    snap_num: Annotated[int, Xml("SnapNum", always=True)] = 1
    interval: Annotated[int, Xml("Interval", always=True)] = 1
    upload_url: Annotated[str, Xml("UploadURL", always=True)] = ""
    session_id: Annotated[str, Xml("SessionID", always=True)] = ""


class RoiItem(Element):
    """One region of interest of an SVAC encoder."""

    seq: Annotated[int, Xml("ROISeq", always=True)] = 1
    top_left: Annotated[int, Xml("TopLeft", always=True)] = 0
    bottom_right: Annotated[int, Xml("BottomRight", always=True)] = 0
    qp: Annotated[int, Xml("ROIQP", always=True)] = 0


class RoiParam(Element):
    """Regions of interest, at most 16."""

    flag: Annotated[int, Xml("ROIFlag", always=True)] = 0
    number: Annotated[int, Xml("ROINumber", always=True)] = 0
    items: Annotated[list[RoiItem], Xml("Item")] = Field(default_factory=list)
    background_qp: Annotated[int | None, Xml("BackGroundQP", edition=V16)] = None
    background_skip: Annotated[int | None, Xml("BackGroundSkipFlag", edition=V16)] = None


class EncodeSvcParam(Element):
    """Scalable coding of an SVAC encoder; the support fields come in answers only."""

    space_domain_mode: Annotated[int, Xml("SVCSpaceDomainMode", always=True)] = 0
    time_domain_mode: Annotated[int, Xml("SVCTimeDomainMode", always=True)] = 0
    ratio_value: Annotated[str, Xml("SSVCRatioValue", edition=V22)] = ""
    space_support_mode: Annotated[int | None, Xml("SVCSpaceSupportMode")] = None
    time_support_mode: Annotated[int | None, Xml("SVCTimeSupportMode")] = None
    ratio_support: Annotated[tuple[str, ...], Xml("SSVCRatioSupportList", separator="/", edition=V22)] = ()


class EncodeSurveillanceParam(Element):
    """Which extra information an SVAC encoder writes."""

    time_flag: Annotated[int | None, Xml("TimeFlag")] = None
    event_flag: Annotated[int | None, Xml("EventFlag", edition=V16)] = None
    alert_flag: Annotated[int | None, Xml("AlertFlag", edition=V16)] = None
    osd_flag: Annotated[int | None, Xml("OSDFlag", edition=V22)] = None
    ai_flag: Annotated[int | None, Xml("AIFlag", edition=V22)] = None
    gis_flag: Annotated[int | None, Xml("GISFlag", edition=V22)] = None


class AudioParam(Element):
    """Sound recognition flag of an SVAC encoder."""

    recognition_flag: Annotated[int, Xml("AudioRecognitionFlag", always=True)] = 0


class SVACEncodeConfig(Element):
    """Settings of an SVAC encoder."""

    roi: Annotated[RoiParam | None, Xml("ROIParam")] = None
    svc: Annotated[EncodeSvcParam | None, Xml("SVCParam")] = None
    surveillance: Annotated[EncodeSurveillanceParam | None, Xml("SurveillanceParam")] = None
    audio: Annotated[AudioParam | None, Xml("AudioParam")] = None


class DecodeSvcParam(Element):
    """Scalable decoding of an SVAC decoder."""

    stm_mode: Annotated[int, Xml("SVCSTMMode", always=True)] = 0
    space_support_mode: Annotated[int | None, Xml("SVCSpaceSupportMode")] = None
    time_support_mode: Annotated[int | None, Xml("SVCTimeSupportMode")] = None


class DecodeSurveillanceParam(Element):
    """Which extra information an SVAC decoder shows."""

    time_show_flag: Annotated[int | None, Xml("TimeShowFlag")] = None
    event_show_flag: Annotated[int | None, Xml("EventShowFlag", edition=V16)] = None
    alert_show_flag: Annotated[int | None, Xml("AlertShowFlag", edition=V16)] = None
    osd_show_flag: Annotated[int | None, Xml("OSDShowFlag", edition=V22)] = None
    ai_show_flag: Annotated[int | None, Xml("AIShowFlag", edition=V22)] = None
    gis_show_flag: Annotated[int | None, Xml("GISShowFlag", edition=V22)] = None


class SVACDecodeConfig(Element):
    """Settings of an SVAC decoder."""

    svc: Annotated[DecodeSvcParam | None, Xml("SVCParam")] = None
    surveillance: Annotated[DecodeSurveillanceParam | None, Xml("SurveillanceParam")] = None
