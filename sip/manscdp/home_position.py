"""HomePositionQuery: does the camera return to a preset by itself (2022 A.2.4.10, A.2.6)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, Edition, Xml
from sip.manscdp.device_control import HomePosition

V22 = Edition.V2022


class HomePositionQuery(
    Body, root="Query", cmd_type="HomePositionQuery", clause="A.2.4.10", edition=V22, checks=("G129",)
):
    """Ask for the home position."""


class HomePositionResponse(
    Body, root="Response", cmd_type="HomePositionQuery", clause="A.2.6", edition=V22, checks=("G129",)
):
    """The home position, None where the device has none."""

    home_position: Annotated[HomePosition | None, Xml("HomePosition")] = None
