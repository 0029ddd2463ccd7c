"""SDCardStatus: the memory cards of a device (2022 A.2.4.14, A.2.6)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, Edition, Element, Xml

V22 = Edition.V2022


class SDCard(Element):
    """One card: ok, formatting, unformatted, idle or error; progress 0-100, sizes in MB."""

    id: Annotated[int, Xml("ID", always=True)] = 0
    name: Annotated[str, Xml("HddName", always=True)] = ""
    status: Annotated[str, Xml("Status", always=True)] = ""
    format_progress: Annotated[int | None, Xml("FormatProgress")] = None
    capacity: Annotated[int, Xml("Capacity", always=True)] = 0
    free_space: Annotated[int, Xml("FreeSpace", always=True)] = 0


class SDCardStatusQuery(
    Body, root="Query", cmd_type="SDCardStatus", clause="A.2.4.14", edition=V22, checks=("G129",)
):
    """Ask for the cards."""


class SDCardStatusResponse(
    Body, root="Response", cmd_type="SDCardStatus", clause="A.2.6", edition=V22, checks=("G129",)
):
    """At most eight cards."""

    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    cards: Annotated[list[SDCard], Xml("SDCardStatusInfo", items="Item", num="Num")] = Field(
        default_factory=list
    )
