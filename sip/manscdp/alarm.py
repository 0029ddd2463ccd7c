"""Alarm: subscription filter, notification and its answer (2022 A.2.4.6, A.2.5.3, 9.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from sip.manscdp.base import Body, ExtraInfo, Xml
from sip.manscdp.types import ok_error


class AlarmQuery(Body, root="Query", cmd_type="Alarm", clause="A.2.4.6", checks=("G142", "G145")):
    """Body of a SUBSCRIBE. Priorities 0 (all) to 4; methods and types may be ``/`` lists (G146)."""

    start_alarm_priority: Annotated[int | None, Xml("StartAlarmPriority")] = None
    end_alarm_priority: Annotated[int | None, Xml("EndAlarmPriority")] = None
    alarm_method: Annotated[tuple[str, ...], Xml("AlarmMethod", separator="/")] = ()
    alarm_type: Annotated[tuple[str, ...], Xml("AlarmType", separator="/")] = ()
    start_alarm_time: Annotated[datetime | None, Xml("StartAlarmTime")] = None
    end_alarm_time: Annotated[datetime | None, Xml("EndAlarmTime")] = None


class AlarmNotify(
    Body, root="Notify", cmd_type="Alarm", clause="A.2.5.3", checks=("G141", "G142", "G143", "G148")
):
    """Priority 1 (highest) to 4. Method 1 telephone, 2 device, 3 SMS, 4 GPS, 5 video, 6 device fault, 7 other.

    ``alarm_type`` is read whatever the method is (quirk 25); its meaning depends on the method.
    """

    alarm_priority: Annotated[int | None, Xml("AlarmPriority", always=True)] = None
    alarm_method: Annotated[int | None, Xml("AlarmMethod", always=True)] = None
    alarm_time: Annotated[datetime | None, Xml("AlarmTime", always=True)] = None
    description: Annotated[str, Xml("AlarmDescription")] = ""
    longitude: Annotated[float | None, Xml("Longitude")] = None
    latitude: Annotated[float | None, Xml("Latitude")] = None
    alarm_type: Annotated[int | None, Xml("AlarmType", group="Info")] = None
    event_type: Annotated[int | None, Xml("EventType", group="Info/AlarmTypeParam")] = None
    extra_info: ExtraInfo = ()


class AlarmResponse(Body, root="Response", cmd_type="Alarm", clause="A.2.6", checks=("G141",)):
    """The receiver's answer to an alarm, with the alarm's SN."""

    result: Annotated[str, Xml("Result", always=True, read=ok_error)] = "OK"
