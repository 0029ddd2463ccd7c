"""DeviceInfo: maker, model and firmware (2022 A.2.4.4, A.2.6.5)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, ExtraInfo, Xml
from sip.manscdp.types import ok_error


class DeviceInfoQuery(Body, root="Query", cmd_type="DeviceInfo", clause="A.2.4.4", checks=("G123",)):
    """Ask a device or platform who made it."""


class DeviceInfoResponse(
    Body, root="Response", cmd_type="DeviceInfo", clause="A.2.6.5", checks=("G123", "G126")
):
    """``channel`` is the number of video inputs; older devices say MaxCamera, which is read as the same."""

    device_name: Annotated[str, Xml("DeviceName")] = ""
    result: Annotated[str, Xml("Result", always=True, read=ok_error)] = "OK"
    manufacturer: Annotated[str, Xml("Manufacturer")] = ""
    model: Annotated[str, Xml("Model")] = ""
    firmware: Annotated[str, Xml("Firmware")] = ""
    channel: Annotated[int | None, Xml("Channel", also=("MaxCamera",))] = None
    extra_info: ExtraInfo = ()
