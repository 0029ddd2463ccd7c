"""PTZPosition: where a camera looks, in degrees (2022 A.2.4.13, A.2.5, A.2.6)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, Edition, Xml

V22 = Edition.V2022
Real = float | None


class PTZPositionQuery(
    Body, root="Query", cmd_type="PTZPosition", clause="A.2.4.13", edition=V22, checks=("G129", "G156")
):
    """Ask by MESSAGE, or subscribe by SUBSCRIBE."""


class PTZPositionResponse(
    Body, root="Response", cmd_type="PTZPosition", clause="A.2.6", edition=V22, checks=("G129",)
):
    """Pan, tilt, zoom, field angles in degrees, view distance in metres; all optional."""

    pan: Annotated[Real, Xml("Pan", digits=2)] = None
    tilt: Annotated[Real, Xml("Tilt", digits=2)] = None
    zoom: Annotated[Real, Xml("Zoom", digits=2)] = None
    horizontal_field_angle: Annotated[Real, Xml("HorizontalFieldAngle", digits=2)] = None
    vertical_field_angle: Annotated[Real, Xml("VerticalFieldAngle", digits=2)] = None
    max_view_distance: Annotated[Real, Xml("MaxViewDistance", digits=2)] = None


class PTZPositionNotify(
    Body, root="Notify", cmd_type="PTZPosition", clause="A.2.5", edition=V22, checks=("G156",)
):
    """Change of the position, as subscribed."""

    pan: Annotated[Real, Xml("Pan", digits=2)] = None
    tilt: Annotated[Real, Xml("Tilt", digits=2)] = None
    zoom: Annotated[Real, Xml("Zoom", digits=2)] = None
    horizontal_field_angle: Annotated[Real, Xml("HorizontalFieldAngle", digits=2)] = None
    vertical_field_angle: Annotated[Real, Xml("VerticalFieldAngle", digits=2)] = None
    max_view_distance: Annotated[Real, Xml("MaxViewDistance", digits=2)] = None
