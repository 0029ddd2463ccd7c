"""What may be set in devices: one request per configuration type, with the ranges of the standard (2022 A.2.3.2)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gateway.http.routes import Model
from gateway.services.liveness import COUNT_LIMITS, INTERVAL_LIMITS_S
from sip import manscdp
from sip.manscdp.base import Element

Flag = Annotated[int, Field(ge=0, le=1, description="1: on.")]
StreamNumber = Annotated[int, Field(ge=0, le=9, description="0: main stream, 1: first sub stream …")]
Pixel = Annotated[int, Field(ge=0, le=16383)]
Mode = Annotated[int, Field(ge=0, le=3)]
SESSION_ID = r"^[0-9A-Za-z-]{32,128}$"


class Request(Model):
    """Base: an element of the standard with its ranges. Field names are those that reading answers with."""

    def filled(self, element: type[Element], **more: object) -> Element:
        """The element of these values; what was not given stays out."""
        return element(**self.model_dump(exclude_none=True) | more)


class BasicParamRequest(Request):
    """What is left out stays as it is. The gateway's own heartbeat timers follow."""

    name: str | None = Field(default=None, min_length=1, max_length=64)
    expiration: int | None = Field(
        default=None, ge=60, le=604800, description="Lifetime of the registration, s."
    )
    heartbeat_interval: int | None = Field(
        default=None, ge=INTERVAL_LIMITS_S[0], le=INTERVAL_LIMITS_S[1], description="s"
    )
    heartbeat_count: int | None = Field(default=None, ge=COUNT_LIMITS[0], le=COUNT_LIMITS[1])

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("nothing to set")
        return self


class VideoParamRequest(Request):
    """One stream, in codes of the f field (annex G)."""

    stream_number: StreamNumber
    video_format: int = Field(ge=1, le=5, description="1 MPEG-4, 2 H.264, 3 SVAC, 4 3GP, 5 H.265")
    resolution: str = Field(
        pattern=r"^([1-6]|[1-9]\d{1,4}[xX][1-9]\d{1,4})$",
        description="1 QCIF, 2 CIF, 3 4CIF, 4 D1, 5 720P, 6 1080P, or width x height.",
    )
    frame_rate: int = Field(ge=1, le=99)
    bit_rate_type: int = Field(ge=1, le=2, description="1 constant, 2 variable")
    bit_rate: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        validate_default=True,
        description="kbit/s; needed for a constant rate.",
    )

    @field_validator("bit_rate")
    @classmethod
    def _constant_needs_a_rate(cls, value: int | None, others: ValidationInfo) -> int | None:
        if value is None and others.data.get("bit_rate_type") == 1:
            raise ValueError("needed for a constant rate (bit_rate_type 1)")
        return value

    def element(self) -> manscdp.VideoParam:
        return manscdp.VideoParam(
            stream_number=self.stream_number,
            video_format=str(self.video_format),
            resolution=self.resolution,
            frame_rate=str(self.frame_rate),
            bit_rate_type=str(self.bit_rate_type),
            bit_rate="" if self.bit_rate is None else str(self.bit_rate),
        )


class VideoParamAttributeRequest(Model):
    video_params: list[VideoParamRequest] = Field(min_length=1, max_length=10)

    @field_validator("video_params")
    @classmethod
    def _once(cls, value: list[VideoParamRequest]) -> list[VideoParamRequest]:
        _distinct([one.stream_number for one in value], "stream_number")
        return value


class TimeSegmentRequest(Request):
    start_hour: int = Field(ge=0, le=23)
    start_min: int = Field(default=0, ge=0, le=59)
    start_sec: int = Field(default=0, ge=0, le=59)
    stop_hour: int = Field(ge=0, le=24, description="24 only with stop_min and stop_sec 0.")
    stop_min: int = Field(default=0, ge=0, le=59)
    stop_sec: int = Field(default=0, ge=0, le=59)

    def span_s(self) -> tuple[int, int]:
        """Start and stop in seconds of the day."""
        return (
            self.start_hour * 3600 + self.start_min * 60 + self.start_sec,
            self.stop_hour * 3600 + self.stop_min * 60 + self.stop_sec,
        )

    @model_validator(mode="after")
    def _forward(self) -> Self:
        start, stop = self.span_s()
        if not start < stop <= 86400:
            raise ValueError("it must stop after it starts, on the same day")
        return self


class RecordScheduleRequest(Request):
    week_day: int = Field(ge=1, le=7, description="1 Monday … 7 Sunday")
    segments: list[TimeSegmentRequest] = Field(min_length=1, max_length=8)

    @field_validator("segments")
    @classmethod
    def _apart(cls, value: list[TimeSegmentRequest]) -> list[TimeSegmentRequest]:
        spans = sorted(one.span_s() for one in value)
        if any(second[0] < first[1] for first, second in pairwise(spans)):
            raise ValueError("two stretches of one day overlap")
        return value

    def element(self) -> manscdp.RecordSchedule:
        segments = [manscdp.TimeSegment(**one.model_dump()) for one in self.segments]
        return manscdp.RecordSchedule(week_day=self.week_day, segment_count=len(segments), segments=segments)


class VideoRecordPlanRequest(Request):
    record_enable: Flag
    schedules: list[RecordScheduleRequest] = Field(default=[], max_length=7)
    stream_number: StreamNumber = 0

    @field_validator("schedules")
    @classmethod
    def _once(cls, value: list[RecordScheduleRequest]) -> list[RecordScheduleRequest]:
        _distinct([one.week_day for one in value], "week_day")
        return value

    def element(self) -> manscdp.VideoRecordPlan:
        return manscdp.VideoRecordPlan(
            record_enable=self.record_enable,
            schedule_count=len(self.schedules),
            schedules=[one.element() for one in self.schedules],
            stream_number=self.stream_number,
        )


class VideoAlarmRecordRequest(Request):
    record_enable: Flag
    record_time: int | None = Field(default=None, ge=0, le=3600, description="s after the alarm")
    pre_record_time: int | None = Field(default=None, ge=0, le=3600, description="s before it")
    stream_number: StreamNumber = 0


class MaskRegionRequest(Request):
    seq: int = Field(ge=1, le=4)
    point: str = Field(
        pattern=r"^\d{1,5},\d{1,5},\d{1,5},\d{1,5}$",
        description="lx,ly,rx,ry in pixels: corners top left and bottom right.",
    )

    @field_validator("point")
    @classmethod
    def _a_rectangle(cls, value: str) -> str:
        left, top, right, bottom = map(int, value.split(","))
        if left >= right or top >= bottom:
            raise ValueError("the second corner must lie right of and below the first")
        return value


class PictureMaskRequest(Request):
    on: Flag
    regions: list[MaskRegionRequest] = Field(default=[], max_length=4)

    @field_validator("regions")
    @classmethod
    def _once(cls, value: list[MaskRegionRequest]) -> list[MaskRegionRequest]:
        _distinct([one.seq for one in value], "seq")
        return value

    def element(self) -> Element:
        return self.filled(manscdp.PictureMask, sum_num=len(self.regions))


class FrameMirrorRequest(Request):
    frame_mirror: int = Field(ge=0, le=3, description="0 none, 1 horizontal, 2 vertical, 3 both")


class AlarmReportRequest(Request):
    motion_detection: Flag
    field_detection: Flag


class OsdTextRequest(Request):
    text: str = Field(max_length=32)
    x: Pixel
    y: Pixel


class OSDConfigRequest(Request):
    length: int = Field(ge=1, le=16384, description="Width of the window that the places refer to, pixels.")
    width: int = Field(ge=1, le=16384, description="Its height, pixels.")
    time_x: Pixel = 0
    time_y: Pixel = 0
    time_enable: Flag = 1
    time_type: int | None = Field(
        default=None, ge=0, le=1, description="0 YYYY-MM-DD HH:MM:SS, 1 with Chinese units"
    )
    text_enable: Flag = 1
    texts: list[OsdTextRequest] = Field(default=[], max_length=8)

    @field_validator("time_x")
    @classmethod
    def _inside_length(cls, value: int, others: ValidationInfo) -> int:
        return _below(value, others, "length")

    @field_validator("time_y")
    @classmethod
    def _inside_width(cls, value: int, others: ValidationInfo) -> int:
        return _below(value, others, "width")

    @field_validator("texts")
    @classmethod
    def _inside(cls, value: list[OsdTextRequest], others: ValidationInfo) -> list[OsdTextRequest]:
        for one in value:
            _below(one.x, others, "length")
            _below(one.y, others, "width")
        return value

    def element(self) -> Element:
        return self.filled(manscdp.OSDConfig, sum_num=len(self.texts))


class SnapShotConfigRequest(Request):
    """For uploads to a server that is not this gateway; for ours order device snapshots instead."""

    snap_num: int = Field(ge=1, le=10)
    interval: int = Field(ge=1, le=3600, description="s between two pictures")
    upload_url: str = Field(pattern=r"^(https?|ftps?)://\S+$", max_length=500)
    session_id: str = Field(pattern=SESSION_ID, description="32 to 128 letters, digits and hyphens.")


class RoiItemRequest(Request):
    seq: int = Field(ge=1, le=16)
    top_left: int = Field(ge=0)
    bottom_right: int = Field(ge=0)
    qp: Mode = Field(description="0 ordinary … 3 best")


class RoiParamRequest(Request):
    flag: Flag
    items: list[RoiItemRequest] = Field(default=[], max_length=16)
    background_qp: Mode | None = Field(default=None, description="2016 only.")
    background_skip: Flag | None = Field(default=None, description="2016 only.")

    @field_validator("items")
    @classmethod
    def _once(cls, value: list[RoiItemRequest]) -> list[RoiItemRequest]:
        _distinct([one.seq for one in value], "seq")
        return value


class EncodeSvcRequest(Request):
    space_domain_mode: Mode
    time_domain_mode: Mode
    ratio_value: str | None = Field(default=None, pattern=r"^\d{1,2}:\d{1,2}$", description="2022 only.")


class EncodeSurveillanceRequest(Request):
    time_flag: Flag | None = None
    event_flag: Flag | None = Field(default=None, description="2016 only.")
    alert_flag: Flag | None = Field(default=None, description="2016 only.")
    osd_flag: Flag | None = Field(default=None, description="2022 only.")
    ai_flag: Flag | None = Field(default=None, description="2022 only.")
    gis_flag: Flag | None = Field(default=None, description="2022 only.")


class AudioRequest(Request):
    recognition_flag: Flag


class SVACEncodeConfigRequest(Request):
    """Groups that are left out stay as they are."""

    roi: RoiParamRequest | None = None
    svc: EncodeSvcRequest | None = None
    surveillance: EncodeSurveillanceRequest | None = None
    audio: AudioRequest | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("nothing to set")
        return self

    def element(self) -> Element:
        groups = self.model_dump(exclude_none=True)
        if self.roi is not None:
            groups["roi"]["number"] = len(self.roi.items)
        return manscdp.SVACEncodeConfig(**groups)


class DecodeSvcRequest(Request):
    stm_mode: Mode


class DecodeSurveillanceRequest(Request):
    time_show_flag: Flag | None = None
    event_show_flag: Flag | None = Field(default=None, description="2016 only.")
    alert_show_flag: Flag | None = Field(default=None, description="2016 only.")
    osd_show_flag: Flag | None = Field(default=None, description="2022 only.")
    ai_show_flag: Flag | None = Field(default=None, description="2022 only.")
    gis_show_flag: Flag | None = Field(default=None, description="2022 only.")


class SVACDecodeConfigRequest(Request):
    """Groups that are left out stay as they are."""

    svc: DecodeSvcRequest | None = None
    surveillance: DecodeSurveillanceRequest | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("nothing to set")
        return self


def _distinct(values: list[int], name: str) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{name}: given twice")


def _below(value: int, others: ValidationInfo, name: str) -> int:
    top = others.data.get(name)
    if top is not None and value >= top:
        raise ValueError(f"outside of the window: {name} is {top}")
    return value
