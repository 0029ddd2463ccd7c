"""UploadSnapShotFinished: the pictures of a SnapShotConfig are uploaded (2022 A.2.5, 9.14)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, Edition, Xml


class UploadSnapShotFinishedNotify(
    Body,
    root="Notify",
    cmd_type="UploadSnapShotFinished",
    clause="A.2.5",
    edition=Edition.V2022,
    checks=("G182", "G184"),
):
    """Fewer ``file_ids`` than asked pictures mean that some failed."""

    session_id: Annotated[str, Xml("SessionID", always=True)] = ""
    file_ids: Annotated[tuple[str, ...], Xml("SnapShotFileID", group="SnapShotList")] = ()
