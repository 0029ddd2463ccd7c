"""PresetQuery: the presets of a camera (2022 A.2.4.8, A.2.6)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sip.manscdp.base import Body, Edition, Element, Xml


class PresetItem(Element):
    """One preset, 1 to 255."""

    preset_id: Annotated[int, Xml("PresetID", always=True)] = 0
    name: Annotated[str, Xml("PresetName", always=True)] = ""


class PresetQuery(Body, root="Query", cmd_type="PresetQuery", clause="A.2.4.8", checks=("G128",)):
    """Ask a camera for its presets."""


class PresetResponse(Body, root="Response", cmd_type="PresetQuery", clause="A.2.6", checks=("G128",)):
    """The presets, over 200 of them in several parts; the total is said in 2022 only."""

    sum_num: Annotated[int | None, Xml("SumNum", edition=Edition.V2022)] = None
    presets: Annotated[list[PresetItem], Xml("PresetList", items="Item", num="Num")] = Field(
        default_factory=list
    )
