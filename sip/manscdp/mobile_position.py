"""MobilePosition: where a moving device is (2022 A.2.4.9, A.2.5.6, 9.11.1). Coordinates are WGS-84."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, Edition, Element, Xml

V16, V22 = Edition.V2016, Edition.V2022


class PositionItem(Element):
    """One place of the 2022 list: speed km/h, direction degrees clockwise from north, altitude and height m."""

    device_id: Annotated[str, Xml("DeviceID", always=True)] = ""
    capture_time: Annotated[datetime | None, Xml("CaptureTime")] = None
    longitude: Annotated[float | None, Xml("Longitude")] = None
    latitude: Annotated[float | None, Xml("Latitude")] = None
    speed: Annotated[float | None, Xml("Speed", digits=2)] = None
    direction: Annotated[float | None, Xml("Direction", digits=2)] = None
    altitude: Annotated[float | None, Xml("Altitude", digits=2)] = None
    height: Annotated[float | None, Xml("Height", digits=2)] = None


class MobilePositionQuery(Body, root="Query", cmd_type="MobilePosition", clause="A.2.4.9", checks=("G151",)):
    """Body of a SUBSCRIBE; ``interval`` in seconds (5 where it is left out)."""

    interval: Annotated[int | None, Xml("Interval")] = None


class MobilePositionNotify(
    Body, root="Notify", cmd_type="MobilePosition", clause="A.2.5.6", checks=("G152", "G153", "G154")
):
    """2016: one flat place, usually without DeviceID (then it is the From user). 2022: a list of places.

    :attr:`places` gives both forms as one list.
    """

    device_id: Annotated[str, Xml("DeviceID", edition=V22)] = ""
    time: Annotated[datetime | None, Xml("Time", always=True)] = None
    longitude: Annotated[float | None, Xml("Longitude", edition=V16)] = None
    latitude: Annotated[float | None, Xml("Latitude", edition=V16)] = None
    speed: Annotated[float | None, Xml("Speed", edition=V16, digits=2)] = None
    direction: Annotated[float | None, Xml("Direction", edition=V16, digits=2)] = None
    altitude: Annotated[float | None, Xml("Altitude", edition=V16, digits=2)] = None
    sum_num: Annotated[int | None, Xml("SumNum", edition=V22)] = None
    items: Annotated[list[PositionItem], Xml("DeviceList", items="Item", num="Num", edition=V22)] = Field(
        default_factory=list
    )

    @property
    def places(self) -> list[PositionItem]:
        """The list, or the flat position as a list of one (its device_id may be empty)."""
        if self.items or self.longitude is None:
            return self.items
        return [
            PositionItem(
                device_id=self.device_id,
                capture_time=self.time,
                longitude=self.longitude,
                latitude=self.latitude,
                speed=self.speed,
                direction=self.direction,
                altitude=self.altitude,
            )
        ]
