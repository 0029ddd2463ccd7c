"""Dialogs that a crash left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.services.session_journal import KIND, DialogJournal
from sip.flow import Flow
from sip.ids import SsrcPool

CAMERA = "41018300001310000001"


class FakeEndpoint:
    def __init__(self) -> None:
        self.ended: list[tuple[str, Flow | None]] = []

    async def end_orphan(self, snapshot: dict[str, Any], *, flow: Flow | None = None) -> bool:
        self.ended.append((snapshot["call_id"], flow))
        return True


class FakeJournal(dict[str, dict[str, Any]]):
    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        assert kind == KIND
        self[key] = state

    def remove(self, kind: str, key: str) -> None:
        self.pop(key, None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        return dict(self)


def entry(call_id: str, transport: str, ssrc: int = 183000000) -> dict[str, Any]:
    return {
        "device_id": CAMERA,
        "channel_id": CAMERA,
        "ssrc": ssrc,
        "dialog": {"call_id": call_id, "transport": transport},
    }


@pytest.mark.quirk(33)
async def test_udp_orphans_are_ended_at_start_and_tcp_ones_when_the_device_returns() -> None:
    endpoint, store, pool = FakeEndpoint(), FakeJournal(), SsrcPool("4101830000")
    store["a"], store["b"], store["broken"] = (
        entry("a", "udp", 183000001),
        entry("b", "tcp", 183000002),
        {"x": 1},
    )
    journal = DialogJournal(journal=store, endpoint=endpoint, ssrc_pool=pool)
    await journal.end_orphans()
    assert pool.leased == 2  # the cameras may still send with these
    for _ in range(5):
        await asyncio.sleep(0)
    assert endpoint.ended == [("a", None)]
    assert list(store) == ["b"]
    assert pool.leased == 1

    flow = Flow("tcp", "10.0.0.9", 40000, "10.0.0.1", 5060, 7)
    journal.device_registered("41018300001310000999", flow)
    journal.device_registered(CAMERA, flow)
    journal.device_registered(CAMERA, flow)
    for _ in range(5):
        await asyncio.sleep(0)
    assert endpoint.ended[1:] == [("b", flow)]
    assert not store
    assert (journal.orphans_found, journal.orphans_ended) == (2, 2)
    await journal.close()


async def test_confirmed_dialogs_are_kept_until_their_bye() -> None:
    store = FakeJournal()
    journal = DialogJournal(journal=store, endpoint=FakeEndpoint(), ssrc_pool=SsrcPool("4101830000"))
    journal.put(CAMERA, CAMERA, 183000001, {"call_id": "c", "transport": "udp"})
    assert store["c"]["ssrc"] == 183000001
    journal.remove("c")
    assert not store
