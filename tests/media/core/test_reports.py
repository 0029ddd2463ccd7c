"""Receiver reports: when they are due and what they say."""

from __future__ import annotations

import pytest

from media.ingest import Ingest
from media.reports import ReceptionReports
from media.rtp import SenderReport, build


def feed(ingest: Ingest, sequences: list[int], now: float) -> None:
    for sequence in sequences:
        packet = bytearray(build(96, sequence, sequence * 900, 7, b"x"))
        ingest.feed(packet, memoryview(packet), [0], [len(packet)], now)
    ingest.tick(now + 1)


@pytest.mark.gb("G225")
def test_only_a_sender_that_reports_is_answered_every_five_seconds() -> None:
    reports, ingest = ReceptionReports(), Ingest(ssrc=None, deliver=lambda run: None)
    assert not reports.due(100.0)
    reports.heard(SenderReport(7, 0x0001_2222_3333_0000, 0, 0, 0), 100.0)
    assert reports.due(100.0)
    reports.build(ingest, 100.0)
    assert not reports.due(104.9)
    assert reports.due(105.0)


@pytest.mark.gb("G225")
def test_loss_sequence_and_delay_are_told() -> None:
    reports, ingest = ReceptionReports(), Ingest(ssrc=None, deliver=lambda run: None)
    feed(ingest, [65530, 65531, 65532, 65534, 65535, 0, 1, 2], 1.0)
    reports.heard(SenderReport(7, 0x0001_2222_3333_0000, 0, 0, 0), 10.0)
    data = reports.build(ingest, 12.5)
    assert data[8:12].hex() == "00000007"
    assert data[12] == 256 // 9  # one of nine
    assert data[13:16].hex() == "000001"
    assert data[16:20].hex() == "00010002"  # one wrap of the sequence, then 2
    assert data[24:28].hex() == "22223333"
    assert data[28:32].hex() == "00028000"  # 2.5 s in 1/65536 s
    assert reports.build(ingest, 17.5)[12] == 0
