"""DeviceUpgradeResult: how a firmware upgrade went (2022 A.2.5, 9.13)."""

from __future__ import annotations

from typing import Annotated

from sip.manscdp.base import Body, Edition, Xml
from sip.manscdp.types import ok_error


class DeviceUpgradeResultNotify(
    Body,
    root="Notify",
    cmd_type="DeviceUpgradeResult",
    clause="A.2.5",
    edition=Edition.V2022,
    checks=("G173",),
):
    """Reasons: 01 download timeout, 02 package damaged, 03 system error, 99 other."""

    session_id: Annotated[str, Xml("SessionID", always=True)] = ""
    upgrade_result: Annotated[str, Xml("UpgradeResult", always=True, read=ok_error)] = "OK"
    firmware: Annotated[str, Xml("Firmware", always=True)] = ""
    failed_reason: Annotated[str, Xml("UpgradeFailedReason")] = ""
