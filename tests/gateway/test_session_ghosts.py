"""Chasing ghost streams: when BYE is said again, when it is given up, and that nothing grows without bound."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.services import session_ghosts
from gateway.services.session_ghosts import Ghost, Ghosts
from sip.flow import Flow

pytestmark = pytest.mark.quirk(33)
CAMERA = "41018300001320000001"


class Chase:
    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.said: list[tuple[str, Flow | None]] = []
        self.forgotten: list[str] = []
        self.ghosts = Ghosts(end=self.end, forget=self.forgotten.append)

    async def end(self, dialog: dict[str, Any], flow: Flow | None) -> bool:
        self.said.append((dialog["call_id"], flow))
        return self.answers.pop(0) if self.answers else False

    def add(self, call_id: str = "a", ssrc: int = 7, device_id: str = CAMERA) -> None:
        self.ghosts.add(Ghost(call_id, device_id, device_id, ssrc, {"call_id": call_id}))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_signs_of_the_device_or_of_its_packets_are_a_reason_to_try() -> None:
    chase = Chase(False, True)
    chase.add()
    await settle()
    assert chase.said == []
    flow = Flow("udp", "10.41.183.61", 5060, "10.41.183.20", 5060)
    chase.ghosts.device_here("41018300001320000009", flow)
    assert not chase.ghosts.heard(8)
    await settle()
    assert chase.said == []
    chase.ghosts.device_here(CAMERA, flow)
    await settle()
    assert chase.said == [("a", flow)]
    assert chase.ghosts.heard(7)
    await settle()
    assert chase.said == [("a", flow)] * 2
    assert (chase.forgotten, chase.ghosts.laid, chase.ghosts.ghosts) == (["a"], 1, {})


async def test_it_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_ghosts, "PAUSES_S", (0.0, 0.0, 0.0))
    chase = Chase()
    chase.add()
    while chase.ghosts.ghosts:
        await asyncio.sleep(0.01)
    assert len(chase.said) == 3
    assert (chase.forgotten, chase.ghosts.given_up) == (["a"], 1)


async def test_only_so_many_are_chased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_ghosts, "MOST", 3)
    chase = Chase()
    for number in range(5):
        chase.add(str(number), number)
    chase.add("4", 4)
    assert list(chase.ghosts.ghosts) == ["2", "3", "4"]
    assert chase.forgotten == ["0", "1"]
    await chase.ghosts.close()
    assert chase.forgotten == ["0", "1"]  # the others stay on record
