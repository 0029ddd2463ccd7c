"""DeviceStatus: is the device well, does it encode and record, what time is it there (2022 A.2.4, A.2.6.6)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, DeviceIdField, Element, ExtraInfo, Xml
from sip.manscdp.types import ok_error, on_off, online_offline, upper


class AlarmStatusItem(Element):
    """Duty state of one alarm input: ONDUTY, OFFDUTY or ALARM."""

    device_id: DeviceIdField = ""
    duty_status: Annotated[str, Xml("DutyStatus", always=True, read=upper)] = ""


class DeviceStatusQuery(Body, root="Query", cmd_type="DeviceStatus", clause="A.2.4", checks=("G125",)):
    """Ask a device, or a platform about a channel, for its state."""


class DeviceStatusResponse(
    Body, root="Response", cmd_type="DeviceStatus", clause="A.2.6.6", checks=("G124", "G125", "G127")
):
    """``online`` is ONLINE or OFFLINE, ``status`` OK or ERROR, ``encode`` and ``record`` ON or OFF."""

    result: Annotated[str, Xml("Result", always=True, read=ok_error)] = "OK"
    online: Annotated[str, Xml("Online", always=True, read=online_offline)] = "ONLINE"
    status: Annotated[str, Xml("Status", always=True, read=ok_error)] = "OK"
    reason: Annotated[str, Xml("Reason")] = ""
    encode: Annotated[str, Xml("Encode", read=on_off)] = ""
    record: Annotated[str, Xml("Record", read=on_off)] = ""
    device_time: Annotated[datetime | None, Xml("DeviceTime")] = None
    alarm_status: Annotated[
        list[AlarmStatusItem], Xml("Alarmstatus", items="Item", num="Num", num_2016="num")
    ] = Field(default_factory=list)
    extra_info: ExtraInfo = ()
