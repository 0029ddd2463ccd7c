"""CruiseTrackQuery: the points of one cruise track (2022 A.2.4.12, A.2.6)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, Edition, Element, Xml

V22 = Edition.V2022


class CruisePoint(Element):
    """A stop: preset, seconds of stay, speed 1 to 15."""

    preset_index: Annotated[int, Xml("PresetIndex", always=True)] = 0
    stay_time: Annotated[int, Xml("StayTime", always=True)] = 0
    speed: Annotated[int, Xml("Speed", always=True)] = 0


class CruiseTrackQuery(
    Body, root="Query", cmd_type="CruiseTrackQuery", clause="A.2.4.12", edition=V22, checks=("G129",)
):
    """``number`` 0 is the first track."""

    number: Annotated[int, Xml("Number", also=("CruiseTrackID",), always=True)] = 0


class CruiseTrackResponse(
    Body, root="Response", cmd_type="CruiseTrackQuery", clause="A.2.6", edition=V22, checks=("G129",)
):
    """One track with its points; ``sum_num`` counts all points."""

    number: Annotated[int, Xml("Number", always=True)] = 0
    name: Annotated[str, Xml("Name", always=True)] = ""
    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    points: Annotated[list[CruisePoint], Xml("CruisePointList", items="CruisePoint", num="Num")] = Field(
        default_factory=list
    )
