"""Keepalive: the heartbeat of a device or lower platform (2022 A.2.5.2, 9.6)."""

from __future__ import annotations

import re
from typing import Annotated

from sip.manscdp.base import Body, Xml
from sip.manscdp.types import ok_error


class KeepaliveNotify(Body, root="Notify", cmd_type="Keepalive", clause="A.2.5.2", checks=("G066", "G067")):
    """``faulty`` names the children the device reports as broken."""

    status: Annotated[str, Xml("Status", always=True, read=ok_error)] = "OK"
    faulty: Annotated[tuple[str, ...], Xml("DeviceID", group="Info")] = ()


_KEEPALIVE = re.compile(
    rb"\s*+(?:<\?xml[^>]*+>)?\s*+<Notify>\s*+<CmdType>Keepalive</CmdType>\s*+"
    rb"<SN>(\d{1,18})</SN>\s*+<DeviceID>([0-9A-Za-z]{1,32})</DeviceID>\s*+<Status>(OK|ERROR)</Status>\s*+"
    rb"(?:<Info>\s*+((?:<DeviceID>[0-9A-Za-z]{1,32}</DeviceID>\s*+)*+)</Info>\s*+|<Info\s*+/>\s*+)?</Notify>[\s\0]*+"
)
_CHILD = re.compile(rb">([0-9A-Za-z]{1,32})<")


def keepalive_fields(data: bytes) -> KeepaliveNotify | None:
    """Read a heartbeat without a parser when it has the usual form; None: use :func:`sip.manscdp.decode`.

    Heartbeats are most of a gateway's traffic, and this form is nearly all of them (about 2 us each).
    """
    match = _KEEPALIVE.fullmatch(data)
    if match is None:
        return None
    sn, device_id, status, children = match.groups()
    faulty = tuple(child.decode("ascii") for child in _CHILD.findall(children)) if children else ()
    return KeepaliveNotify(
        sn=int(sn), device_id=device_id.decode("ascii"), status=status.decode("ascii"), faulty=faulty
    )
