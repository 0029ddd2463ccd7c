"""CruiseTrackListQuery: the cruise tracks of a camera (2022 A.2.4.11, A.2.6)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, Edition, Element, Xml

V22 = Edition.V2022


class CruiseTrackItem(Element):
    """A track, counted from 0; its name has at most 32 bytes."""

    number: Annotated[int, Xml("Number", always=True)] = 0
    name: Annotated[str, Xml("Name", always=True)] = ""


class CruiseTrackListQuery(
    Body, root="Query", cmd_type="CruiseTrackListQuery", clause="A.2.4.11", edition=V22, checks=("G129",)
):
    """Ask for the list of tracks."""


class CruiseTrackListResponse(
    Body, root="Response", cmd_type="CruiseTrackListQuery", clause="A.2.6", edition=V22, checks=("G129",)
):
    """The tracks of one message; ``sum_num`` counts all."""

    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    tracks: Annotated[list[CruiseTrackItem], Xml("CruiseTrackList", items="CruiseTrack", num="Num")] = Field(
        default_factory=list
    )
