"""DeviceControl: PTZ, key frame, reboot, record, guard, alarm reset, drag zoom, home, upgrade (2022 A.2.3.1, 9.3)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, Edition, Element, Xml
from sip.manscdp.types import ok_error

V22 = Edition.V2022


class DragZoom(Element):
    """A rectangle in a window, all in pixels, origin top left (A.2.3.1.8)."""

    length: Annotated[int, Xml("Length", always=True)] = 0
    width: Annotated[int, Xml("Width", always=True)] = 0
    mid_point_x: Annotated[int, Xml("MidPointX", always=True)] = 0
    mid_point_y: Annotated[int, Xml("MidPointY", always=True)] = 0
    length_x: Annotated[int, Xml("LengthX", always=True)] = 0
    length_y: Annotated[int, Xml("LengthY", always=True)] = 0


class HomePosition(Element):
    """Return to a preset after ``reset_time`` seconds of rest (A.2.3.1.10)."""

    enabled: Annotated[int, Xml("Enabled", always=True)] = 0
    reset_time: Annotated[int | None, Xml("ResetTime")] = None
    preset_index: Annotated[int | None, Xml("PresetIndex", also=("PresetID",))] = None


class PTZPrecise(Element):
    """Absolute aim (2022 A.2.3.1.11): pan 0-360 degrees clockwise, tilt -30 to 90 down, zoom above 1."""

    pan: Annotated[float | None, Xml("Pan", digits=2)] = None
    tilt: Annotated[float | None, Xml("Tilt", digits=2)] = None
    zoom: Annotated[float | None, Xml("Zoom", digits=2)] = None


class DeviceUpgrade(Element):
    """Fetch and install firmware (2022 A.2.3.1.12); ``session_id`` 32 to 128 of letters, digits and ``-``."""

    firmware: Annotated[str, Xml("Firmware", always=True)] = ""
    file_url: Annotated[str, Xml("FileURL", always=True)] = ""
    manufacturer: Annotated[str, Xml("Manufacturer", always=True)] = ""
    session_id: Annotated[str, Xml("SessionID", always=True)] = ""


COMMANDS = {
    "ptz_cmd": "PTZCmd",
    "teleboot": "TeleBoot",
    "record_cmd": "RecordCmd",
    "guard_cmd": "GuardCmd",
    "alarm_cmd": "AlarmCmd",
    "iframe": "IFrameCmd",
    "drag_zoom_in": "DragZoomIn",
    "drag_zoom_out": "DragZoomOut",
    "home_position": "HomePosition",
    "ptz_precise": "PTZPreciseCtrl",
    "device_upgrade": "DeviceUpgrade",
    "format_sd_card": "FormatSDCard",
    "target_track": "TargetTrack",
}
"""The fields of DeviceControl that are commands, with their elements."""
ANSWERED = ("record_cmd", "guard_cmd", "alarm_cmd", "home_position", "device_upgrade")
"""Commands that a Response follows (9.3.1 e)."""
ONLY_2022 = frozenset({"PTZPreciseCtrl", "DeviceUpgrade", "FormatSDCard", "TargetTrack"})


class DeviceControl(
    Body,
    root="Control",
    cmd_type="DeviceControl",
    clause="A.2.3.1",
    checks=("G157", "G158", "G169", "G170", "G171", "G172", "G173"),
):
    """One control command; exactly one of the command fields is set.

    ``ptz_cmd`` is 16 hex digits (:mod:`sip.ptz`). ``iframe`` and ``teleboot`` are commands without value.
    ``record_cmd`` Record or StopRecord, ``guard_cmd`` SetGuard or ResetGuard, ``alarm_cmd`` ResetAlarm,
    ``target_track`` Auto, Manual or Stop, ``format_sd_card`` 0 for all cards.
    """

    ptz_cmd: Annotated[str, Xml("PTZCmd")] = ""
    preset_name: Annotated[str, Xml("PresetName", group="PTZCmdParams", edition=V22)] = ""
    cruise_track_name: Annotated[str, Xml("CruiseTrackName", group="PTZCmdParams", edition=V22)] = ""
    teleboot: Annotated[bool, Xml("TeleBoot", flag="Boot")] = False
    record_cmd: Annotated[str, Xml("RecordCmd")] = ""
    stream_number: Annotated[int | None, Xml("StreamNumber", edition=V22)] = None
    guard_cmd: Annotated[str, Xml("GuardCmd")] = ""
    alarm_cmd: Annotated[str, Xml("AlarmCmd")] = ""
    alarm_method: Annotated[tuple[str, ...], Xml("AlarmMethod", group="Info", separator="/")] = ()
    alarm_type: Annotated[tuple[str, ...], Xml("AlarmType", group="Info", separator="/")] = ()
    iframe: Annotated[bool, Xml("IFrameCmd", also=("IFame", "IFrame"), name_2016="IFameCmd", flag="Send")] = (
        False
    )
    drag_zoom_in: Annotated[DragZoom | None, Xml("DragZoomIn")] = None
    drag_zoom_out: Annotated[DragZoom | None, Xml("DragZoomOut")] = None
    home_position: Annotated[HomePosition | None, Xml("HomePosition")] = None
    ptz_precise: Annotated[PTZPrecise | None, Xml("PTZPreciseCtrl", edition=V22)] = None
    device_upgrade: Annotated[DeviceUpgrade | None, Xml("DeviceUpgrade", edition=V22)] = None
    format_sd_card: Annotated[int | None, Xml("FormatSDCard", edition=V22)] = None
    target_track: Annotated[str, Xml("TargetTrack", edition=V22)] = ""
    device_id_2: Annotated[str, Xml("DeviceID2", edition=V22)] = ""
    target_area: Annotated[DragZoom | None, Xml("TargetArea", edition=V22)] = None
    control_priority: Annotated[int | None, Xml("ControlPriority", group="Info")] = None

    @property
    def command(self) -> str:
        """Name of the element that holds the command, "DeviceControl" when there is none."""
        for name, element in COMMANDS.items():
            value = getattr(self, name)
            if value is not None and value is not False and value != "":  # card 0 means all cards
                return element
        return self.CMD_TYPE

    @property
    def needs(self) -> Edition | None:
        return V22 if self.command in ONLY_2022 else None

    @property
    def wants_response(self) -> bool:
        """True for the commands that a Response follows (9.3.1 e); the others end with the 200 (9.3.1 d)."""
        return any(getattr(self, name) for name in ANSWERED)

    @classmethod
    def answered(cls, name: str) -> bool:
        """Whether the command in the field ``name`` has a Response."""
        return name in ANSWERED


class DeviceControlResponse(
    Body, root="Response", cmd_type="DeviceControl", clause="A.2.6", checks=("G158",)
):
    """Outcome of a control command that has one."""

    result: Annotated[str, Xml("Result", always=True, read=ok_error)] = "OK"
