"""VideoUploadNotify: a device wants its live pictures to be fetched (2022 A.2.5.8)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from sip.manscdp.base import Body, Edition, Xml


class VideoUploadNotify(
    Body,
    root="Notify",
    cmd_type="VideoUploadNotify",
    clause="A.2.5.8",
    edition=Edition.V2022,
    checks=("G187",),
):
    """Time and place of the request."""

    time: Annotated[datetime | None, Xml("Time", always=True)] = None
    longitude: Annotated[float | None, Xml("Longitude")] = None
    latitude: Annotated[float | None, Xml("Latitude")] = None
