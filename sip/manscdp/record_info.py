"""RecordInfo: which recordings exist (2022 A.2.4.5, A.2.6.7, 9.7)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, DeviceIdField, Edition, Element, ExtraInfo, Xml

V22 = Edition.V2022


class RecordItem(Element):
    """One recording. ``file_size`` in bytes; ``type`` time, alarm or manual."""

    device_id: DeviceIdField = ""
    name: Annotated[str, Xml("Name", always=True)] = ""
    file_path: Annotated[str, Xml("FilePath")] = ""
    address: Annotated[str, Xml("Address")] = ""
    start_time: Annotated[datetime | None, Xml("StartTime")] = None
    end_time: Annotated[datetime | None, Xml("EndTime")] = None
    secrecy: Annotated[int, Xml("Secrecy", always=True)] = 0
    type: Annotated[str, Xml("Type")] = ""
    recorder_id: Annotated[str, Xml("RecorderID")] = ""
    file_size: Annotated[int | None, Xml("FileSize")] = None
    record_location: Annotated[str, Xml("RecordLocation", edition=V22)] = ""
    stream_number: Annotated[int | None, Xml("StreamNumber", edition=V22)] = None


class RecordInfoQuery(Body, root="Query", cmd_type="RecordInfo", clause="A.2.4.5", checks=("G133", "G136")):
    """``indistinct_query`` 0: the place is chosen by the To id; 1: device and centre are searched and merged."""

    start_time: Annotated[datetime | None, Xml("StartTime")] = None
    end_time: Annotated[datetime | None, Xml("EndTime")] = None
    file_path: Annotated[str, Xml("FilePath")] = ""
    address: Annotated[str, Xml("Address")] = ""
    secrecy: Annotated[int | None, Xml("Secrecy")] = None
    type: Annotated[str, Xml("Type")] = ""
    recorder_id: Annotated[str, Xml("RecorderID")] = ""
    indistinct_query: Annotated[int | None, Xml("IndistinctQuery")] = None
    stream_number: Annotated[int | None, Xml("StreamNumber", edition=V22)] = None
    alarm_method: Annotated[str, Xml("AlarmMethod", edition=V22)] = ""
    alarm_type: Annotated[str, Xml("AlarmType", edition=V22)] = ""


class RecordInfoResponse(
    Body, root="Response", cmd_type="RecordInfo", clause="A.2.6.7", checks=("G133", "G134")
):
    """One part of a list of recordings; ``sum_num`` counts all parts together."""

    name: Annotated[str, Xml("Name", always=True)] = ""
    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    items: Annotated[list[RecordItem], Xml("RecordList", items="Item", num="Num")] = Field(
        default_factory=list
    )
    extra_info: ExtraInfo = ()
