"""A network that delays, jitters and loses, with time moved by hand (GB/T 28181-2022 5.5)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from media.content import Content
from media.ingest import Ingest
from media.specs import PayloadFormat
from media.unit import AccessUnit


@pytest.mark.gb("G220", "G221")
@pytest.mark.parametrize("loss", [0.0, 0.001])
def test_400_ms_of_delay_50_ms_of_jitter_and_one_loss_in_a_thousand(
    h264_units: list[AccessUnit], sender_of, loss: float
) -> None:
    noise = random.Random(9)
    turns = 10
    units = [
        replace(unit, pts=unit.pts + turn * 180_000, dts=unit.dts + turn * 180_000)
        for turn in range(turns)
        for unit in h264_units
    ]
    arrivals: list[tuple[float, bytes]] = []
    sent = lost = 0
    for unit, packets in zip(units, sender_of(units).frames(), strict=True):
        for number, packet in enumerate(packets):
            sent += 1
            if noise.random() < loss and sent > 1:
                lost += 1
                continue
            arrivals.append((unit.dts / 90_000 + number * 0.0001 + 0.4 + noise.uniform(0, 0.05), packet))
    arrivals.sort(key=lambda arrival: arrival[0])
    out: list[AccessUnit] = []
    content = Content(payloads=(PayloadFormat(number=96),), publish=lambda unit, first: out.append(unit))
    ingest = Ingest(ssrc=None, deliver=content.take, window_s=0.2, payloads=content.payloads)
    ticks = 0.0
    for now, packet in arrivals:
        while ticks < now:
            ingest.tick(ticks)
            ticks += 0.005
        buffer = bytearray(packet)
        ingest.feed(buffer, memoryview(buffer), [0], [len(packet)], now)
    ingest.flush(1e3)
    content.flush(1e3)
    assert (ingest.reorder.late, ingest.lost) == (0, lost)
    assert ingest.reorder.reordered > 100
    wholes = {unit.data for unit in h264_units}
    assert all(unit.data in wholes for unit in out if not unit.damaged)
    if not loss:
        assert [unit.data for unit in out] == [unit.data for unit in units]
    else:
        assert lost >= 1
        keys = [unit for unit in out if unit.key and not unit.damaged]
        assert len(keys) >= 2 * turns - lost - 1
