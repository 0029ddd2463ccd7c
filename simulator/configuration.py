"""The configuration that a simulated device keeps: told to ConfigDownload, changed by DeviceConfig, followed by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from simulator.answer_table import answers
from sip.manscdp import (
    AlarmReport,
    AudioParam,
    BasicParam,
    Body,
    ConfigDownloadQuery,
    ConfigDownloadResponse,
    DecodeSurveillanceParam,
    DecodeSvcParam,
    DeviceConfig,
    DeviceConfigResponse,
    EncodeSurveillanceParam,
    EncodeSvcParam,
    MaskRegion,
    OSDConfig,
    OsdText,
    PictureMask,
    RecordSchedule,
    SnapShotConfig,
    SVACDecodeConfig,
    SVACEncodeConfig,
    TimeSegment,
    VideoAlarmRecord,
    VideoParam,
    VideoParamOpt,
    VideoRecordPlan,
    Xml,
)
from sip.manscdp.base import Edition, Element
from sip.manscdp.config_download import ATTRIBUTES, config_types

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

Parts = Literal["one", "each"]


class OddlyNamedResponse(ConfigDownloadResponse):
    """Elements of other names than the types that were asked for (quirk 26)."""

    basic_param: Annotated[BasicParam | None, Xml("DeviceParam")] = None
    video_params: Annotated[list[VideoParam], Xml("VideoParamList", items="Item", num="Num")] = Field(
        default_factory=list
    )
    record_plan: Annotated[VideoRecordPlan | None, Xml("RecordPlan")] = None
    picture_mask: Annotated[PictureMask | None, Xml("VideoMask")] = None
    alarm_report: Annotated[AlarmReport | None, Xml("Alarm")] = None
    osd: Annotated[OSDConfig | None, Xml("Osd")] = None


class Configuration:
    """What one device is set to, by type and DeviceID (its own, or a channel's).

    ``parts``: all asked types in one Response, or a Response for each. ``odd_names``: see OddlyNamedResponse.
    ``unknown`` are types it leaves out, ``refused`` those it answers with Result ERROR; ``result`` is what it answers
    to DeviceConfig, which is carried out when that is OK. ``applied`` are the DeviceConfigs that were.
    """

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._values: dict[str, dict[str, Any]] = {}
        self.parts: Parts = "one"
        self.odd_names = False
        self.unknown: set[str] = set()
        self.refused: set[str] = set()
        self.result = "OK"
        self.applied: list[DeviceConfig] = []

    def of(self, target_id: str) -> dict[str, Any]:
        """Values by type, all but BasicParam, which is where the device keeps it."""
        found = self._values.get(target_id)
        if found is None:
            found = self._values[target_id] = _factory_settings(self._device.edition)
        return found

    def basic(self) -> BasicParam:
        settings = self._device.options.register
        return BasicParam(
            name=self._device.name,
            expiration=settings.expires_s,
            heartbeat_interval=round(settings.heartbeat_s),
            heartbeat_count=settings.heartbeat_count,
            position_capability=0,
            longitude=113.4,
            latitude=34.5,
        )

    # -- reading ---------------------------------------------------------------------------------------------

    def answer(self, query: ConfigDownloadQuery) -> list[Body]:
        known = config_types(self._device.edition)
        asked = [name for name in query.config_types if name in known and name not in self.unknown]
        good = [name for name in asked if name not in self.refused]
        refused: list[Body] = [self._response(query, {}, "ERROR") for name in asked if name in self.refused]
        values = self.of(query.device_id) | {"BasicParam": self.basic()}
        if self.parts == "each":
            return [*(self._response(query, {name: values[name]}) for name in good), *refused]
        told = {name: values[name] for name in good}
        return [self._response(query, told), *refused] if told else refused

    def _response(self, query: ConfigDownloadQuery, told: dict[str, Any], result: str = "OK") -> Body:
        model = OddlyNamedResponse if self.odd_names else ConfigDownloadResponse
        fields = {ATTRIBUTES[name]: value for name, value in told.items()}
        return model(sn=query.sn, device_id=query.device_id, result=result, **fields)

    # -- setting ---------------------------------------------------------------------------------------------

    def apply(self, body: DeviceConfig) -> str:
        """The Result. What is set is kept; the device itself follows a new name and heartbeat."""
        if self.result != "OK":
            return self.result
        self.applied.append(body)
        kept = self.of(body.device_id)
        for name, attribute in ATTRIBUTES.items():
            value = getattr(body, attribute, None)
            if name == "BasicParam" and isinstance(value, BasicParam):
                self._follow(value)
            elif isinstance(value, Element) and name.startswith("SVAC"):
                kept[name] = _laid_over(kept[name], value)
            elif value is not None and value != []:
                kept[name] = value
        if body.snapshot is not None:
            self._device.snapshots.begin(body.device_id, body.snapshot)
        return "OK"

    def _follow(self, basic: BasicParam) -> None:
        settings = self._device.options.register
        self._device.name = basic.name or self._device.name
        settings.expires_s = basic.expiration or settings.expires_s
        settings.heartbeat_count = basic.heartbeat_count or settings.heartbeat_count
        if basic.heartbeat_interval:
            settings.heartbeat_s = basic.heartbeat_interval
            self._device.registration.keep_pace()


@answers(ConfigDownloadQuery)
def told(device: SimulatedDevice, query: ConfigDownloadQuery) -> list[Body]:
    return device.configuration.answer(query)


@answers(DeviceConfig)
def configured(device: SimulatedDevice, body: DeviceConfig) -> list[Body]:
    result = device.configuration.apply(body)
    return [DeviceConfigResponse(sn=body.sn, device_id=body.device_id, result=result)]


def _laid_over(old: Element, new: Element) -> Element:
    """Groups that were not given stay as they were."""
    given = {name: getattr(new, name) for name in type(new).model_fields if getattr(new, name) is not None}
    return old.model_copy(update=given)


def _factory_settings(edition: Edition) -> dict[str, Any]:
    newer = edition is Edition.V2022
    flags: dict[str, Any] = {"time_flag": 1} | ({"osd_flag": 1} if newer else {"event_flag": 0})
    shown: dict[str, Any] = {"time_show_flag": 1} | (
        {"osd_show_flag": 1} if newer else {"event_show_flag": 0}
    )
    values: dict[str, Any] = {
        "VideoParamOpt": VideoParamOpt(download_speed=("1", "2", "4"), resolution=("6", "5", "4")),
        "SVACEncodeConfig": SVACEncodeConfig(
            svc=EncodeSvcParam(space_support_mode=1, time_support_mode=1),
            surveillance=EncodeSurveillanceParam(**flags),
            audio=AudioParam(),
        ),
        "SVACDecodeConfig": SVACDecodeConfig(
            svc=DecodeSvcParam(space_support_mode=1, time_support_mode=1),
            surveillance=DecodeSurveillanceParam(**shown),
        ),
    }
    return values | _factory_settings_2022() if newer else values


def _factory_settings_2022() -> dict[str, Any]:
    day = TimeSegment(start_hour=8, stop_hour=20)
    week = [RecordSchedule(week_day=number, segment_count=1, segments=[day]) for number in range(1, 8)]
    return {
        "VideoParamAttribute": [
            VideoParam(stream_number=0, video_format="2", resolution="6", frame_rate="25", bit_rate_type="2"),
            VideoParam(
                stream_number=1,
                video_format="2",
                resolution="4",
                frame_rate="15",
                bit_rate_type="1",
                bit_rate="512",
            ),
        ],
        "VideoRecordPlan": VideoRecordPlan(record_enable=0, schedule_count=7, schedules=week),
        "VideoAlarmRecord": VideoAlarmRecord(record_time=30, pre_record_time=5),
        "PictureMask": PictureMask(on=0, sum_num=1, regions=[MaskRegion(seq=1, point="0,0,64,64")]),
        "FrameMirror": 0,
        "AlarmReport": AlarmReport(motion_detection=1),
        "OSDConfig": OSDConfig(
            length=1920,
            width=1080,
            time_x=10,
            time_y=10,
            time_enable=1,
            time_type=0,
            text_enable=1,
            sum_num=1,
            texts=[OsdText(text="camera", x=10, y=1000)],
        ),
        "SnapShotConfig": SnapShotConfig(upload_url="http://192.0.2.1/none", session_id="0" * 32),
    }
