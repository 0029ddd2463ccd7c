"""Broadcast: ask a device to fetch sound from us (2022 A.2.5, A.2.6, 9.12)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, Xml
from sip.manscdp.types import ok_error


class BroadcastNotify(Body, root="Notify", cmd_type="Broadcast", clause="A.2.5", checks=("G250",)):
    """``source_id`` is the sound's input, ``target_id`` the output or its device. There is no DeviceID."""

    device_id: Annotated[str, Xml("DeviceID")] = ""
    source_id: Annotated[str, Xml("SourceID", always=True)] = ""
    target_id: Annotated[str, Xml("TargetID", always=True)] = ""


class BroadcastResponse(Body, root="Response", cmd_type="Broadcast", clause="A.2.6", checks=("G250", "G256")):
    """``device_id`` is the sound output."""

    result: Annotated[str, Xml("Result", always=True, read=ok_error)] = "OK"
