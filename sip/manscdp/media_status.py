"""MediaStatus: a history file has been sent to its end (2022 A.2.5.4)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, Xml

FILE_SENT = "121"
"""The only NotifyType of the standard."""


class MediaStatusNotify(Body, root="Notify", cmd_type="MediaStatus", clause="A.2.5.4", checks=("G245",)):
    """``device_id`` is the sender of the media. Types other than 121 are seen in the field and mean nothing."""

    notify_type: Annotated[str, Xml("NotifyType", always=True)] = FILE_SENT
