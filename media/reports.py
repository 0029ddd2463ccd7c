"""RTCP receiver reports for peers that send sender reports: some devices stop without them (RFC 3550 6.4). Pure."""

from __future__ import annotations

import secrets

from media import rtp
from media.ingest import Ingest

INTERVAL_S = 5.0


class ReceptionReports:
    """One session's answers to its sender's reports."""

    def __init__(self) -> None:
        self._ssrc = secrets.randbits(32)
        self._last: tuple[rtp.SenderReport, float] | None = None
        self._sent_mono: float | None = None
        self._counted = (0, 0)

    def heard(self, report: rtp.SenderReport, now: float) -> None:
        """The sender reported at ``now`` (monotonic seconds)."""
        self._last = (report, now)

    def due(self, now: float) -> bool:
        """Whether a report shall be sent: every 5 s, to senders that report themselves."""
        if self._last is None:
            return False
        return self._sent_mono is None or now - self._sent_mono >= INTERVAL_S

    def build(self, ingest: Ingest, now: float) -> bytes:
        """The receiver report on what ``ingest`` counted since the last one."""
        self._sent_mono = now
        received, lost = ingest.packets - self._counted[0], ingest.lost - self._counted[1]
        self._counted = (ingest.packets, ingest.lost)
        expected = received + lost
        last_sr = delay = 0
        if self._last is not None:
            report, heard = self._last
            last_sr, delay = report.ntp >> 16 & 0xFFFFFFFF, int((now - heard) * 65536)
        block = rtp.ReportBlock(
            ssrc=ingest.ssrc or 0,
            fraction_lost=min(255, lost * 256 // expected) if expected > 0 else 0,
            lost=ingest.lost,
            highest_sequence=ingest.highest_sequence,
            jitter=int(ingest.jitter),
            last_sr=last_sr,
            delay=delay,
        )
        return rtp.build_receiver_report(self._ssrc, [block])
