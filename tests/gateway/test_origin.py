"""Who wanted something and over which platforms: what goes on to a lower platform, and what never leaves."""

from __future__ import annotations

import asyncio

import pytest

from gateway.inbox import Inbox
from gateway.model import Device, DeviceKind
from gateway.origin import (
    Origin,
    acting_for,
    current,
    headers_for,
    path_ahead,
    route_path,
    user_identity,
    way_along,
)

OWN, A, B = "41018300002000000001", "41018300002000000002", "41018300002000000003"
PLATFORM, CAMERA = Device(A, kind=DeviceKind.PLATFORM), Device("41018300001320000001", kind=DeviceKind.CAMERA)


@pytest.mark.gb("G267")
@pytest.mark.parametrize(
    ("value", "ahead"),
    [(f"{OWN}-{A}-{B}", (A, B)), (OWN, ()), ("", ()), (f" {A} - {B} ", (A, B)), (f"{OWN}--{A}-", (A,))],
)
def test_the_path_ahead_is_what_stands_behind_ourselves(value: str, ahead: tuple[str, ...]) -> None:
    assert path_ahead(value, OWN) == ahead


@pytest.mark.gb("G267")
def test_the_way_taken_begins_with_us() -> None:
    assert route_path(OWN, f"{A}-{B}") == f"{OWN}-{A}-{B}"
    assert route_path(OWN, "") == OWN


@pytest.mark.gb("G268")
def test_our_code_goes_before_a_user_and_nobody_stays_nobody() -> None:
    assert user_identity(OWN, f"{A}-officer.li") == f"{OWN}-{A}-officer.li"
    assert user_identity(OWN, "  ") == ""
    assert user_identity(OWN, "li\r\nEvil: 1") == f"{OWN}-liEvil: 1", "no value ends a header"


@pytest.mark.gb("G267", "G268")
def test_only_platforms_are_told_and_the_path_only_in_an_invite() -> None:
    with acting_for(Origin("admin", (A, B))):
        assert headers_for(CAMERA, OWN, invite=True) == []
        assert headers_for(PLATFORM, OWN) == [("Monitor-User-Identity", f"{OWN}-admin")]
        assert ("X-PreferredPath", f"{A}-{B}") in headers_for(PLATFORM, OWN, invite=True)
    assert headers_for(PLATFORM, OWN, invite=True) == []


@pytest.mark.gb("G267")
def test_of_several_ways_the_preferred_one_is_taken() -> None:
    ways = [(CAMERA.device_id, "1"), (A, "1"), (B, "1")]
    assert way_along(ways, (B, A)) == (B, "1")
    assert way_along(ways, ()) is None
    assert way_along(ways, ("41018300002000000009",)) is None


async def test_each_job_of_a_lane_acts_for_whoever_put_it() -> None:
    inbox, seen, gate = Inbox(), [], asyncio.Event()

    async def job() -> None:
        await gate.wait()
        seen.append(current().user)

    for user in ("li", "", "wang"):
        with acting_for(Origin(user)):
            inbox.put("peer", job)
    gate.set()
    async with asyncio.timeout(10):
        while len(seen) < 3:
            await asyncio.sleep(0.01)
    assert seen == ["li", "", "wang"]
    await inbox.close()
