"""Which SSRC is the session's: field quirk 27 as bytes, and runs that say what is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from media.ingest import PERSISTENT_PACKETS, Ingest
from media.rtp import SenderReport, build, build_sender_report
from media.runs import Run


@dataclass
class Session:
    ssrc: int | None = 183000001
    runs: list[tuple[int, int, int]] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    rtcp: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ingest = Ingest(
            ssrc=self.ssrc,
            deliver=self.deliver,
            on_fault=lambda kind, detail: self.faults.append((kind, detail)),
            on_rtcp=lambda data, now: self.rtcp.append(data),
        )

    def deliver(self, run: Run) -> None:
        self.runs.append((run.index, len(run), run.lost))
        self.packets += [run.packet(n) for n in range(len(run))]

    def feed(self, packets: list[bytes], now: float = 0.0, stride: int = 0) -> None:
        if stride:
            buffer = bytearray(b"".join(packet.ljust(stride, b"\0") for packet in packets))
            starts: list[int] | range = range(0, stride * len(packets), stride)
        else:
            buffer = bytearray(b"".join(packets))
            starts = [sum(len(p) for p in packets[:n]) for n in range(len(packets))]
        self.ingest.feed(buffer, memoryview(buffer), starts, [len(p) for p in packets], now, stride)


def packets(count: int, ssrc: int = 183000001, first: int = 0, number: int = 96) -> list[bytes]:
    return [build(number, first + n, (first + n) // 4 * 3600, ssrc, bytes((n,)) * 20) for n in range(count)]


@pytest.mark.parametrize("stride", [0, 40])
def test_packets_in_order_are_one_run(stride: int) -> None:
    session = Session()
    items = packets(21)
    session.feed(items[:1])
    session.feed(items[1:], stride=stride)
    assert session.runs == [(0, 1, 0), (1, 20, 0)]
    assert session.packets == items
    assert (session.ingest.packets, session.ingest.lost) == (21, 0)


@pytest.mark.gb("G199")
@pytest.mark.quirk(27)
def test_a_another_y_in_the_200_re_keys_the_receiver() -> None:
    session = Session(ssrc=183000001)
    session.feed(packets(3, ssrc=0x11))  # something else on the port before the answer was read
    session.ingest.expect(200009319)
    session.feed(packets(1, ssrc=200009319))
    assert session.ingest.ssrc == 200009319
    assert session.packets[-1][8:12].hex() == "0bebe667"
    session.feed(packets(3, ssrc=0x11, first=3))
    assert session.ingest.foreign == 3


@pytest.mark.gb("G200")
@pytest.mark.quirk(27)
def test_b_ssrc_zero_is_taken_and_reported_once() -> None:
    session = Session(ssrc=183000001)
    items = packets(50, ssrc=0)
    assert items[0][8:12] == bytes(4)
    for item in items:
        session.feed([item])
    assert session.packets == items
    assert session.faults == [("ssrc_mismatch", "expected=0183000001 received=0000000000")]
    assert (session.ingest.ssrc, session.ingest.ssrc_faults) == (0, 1)


@pytest.mark.quirk(27)
def test_c_a_third_value_is_learned_from_the_first_valid_packet() -> None:
    session = Session(ssrc=183000001)
    session.feed([b"\x00" * 30, *packets(4, ssrc=0xDEADBEEF)])
    assert session.ingest.ssrc == 0xDEADBEEF
    assert len(session.packets) == 4
    assert session.ingest.invalid == 1
    assert [kind for kind, _ in session.faults] == ["ssrc_mismatch"]


@pytest.mark.quirk(27)
def test_d_without_any_expected_ssrc_there_is_no_fault() -> None:
    session = Session(ssrc=None)
    session.feed(packets(4, ssrc=77))
    assert session.ingest.ssrc == 77
    assert session.faults == []


def test_another_ssrc_in_between_is_foreign_until_it_persists() -> None:
    session = Session(ssrc=1)
    session.feed(packets(4, ssrc=1))
    session.feed(packets(3, ssrc=2))
    session.feed(packets(4, ssrc=1, first=4))
    assert (session.ingest.ssrc, session.ingest.foreign) == (1, 3)
    session.feed(packets(PERSISTENT_PACKETS, ssrc=2, first=100), now=0.1)
    assert session.ingest.ssrc == 2
    # Relays go on counting, the demuxer is told of the break, and no packet of the new sender is missing.
    assert session.runs[-PERSISTENT_PACKETS:] == [
        (8 + number, 1, 0 if number else -1) for number in range(PERSISTENT_PACKETS)
    ]
    assert session.ingest.foreign == 3
    session.feed(packets(1, ssrc=3, first=7), now=5.0)  # the known one was silent
    assert session.ingest.ssrc == 3


def test_relays_timestamps_go_on_over_a_change_of_sender() -> None:
    shifts: list[tuple[int, int]] = []
    ingest = Ingest(ssrc=None, deliver=lambda run: shifts.append((run.stamps[0], run.shift)))
    for packet, now in ((build(96, 0, 90000, 1, b"x"), 0.0), (build(96, 500, 4_000_000_000, 2, b"x"), 2.0)):
        buffer = bytearray(packet)
        ingest.feed(buffer, memoryview(buffer), [0], [len(buffer)], now)
    (_, first), (stamp, second) = shifts
    assert first == 0
    assert (stamp + second) & 0xFFFFFFFF == 90000 + 2 * 90000


@pytest.mark.gb("G219")
def test_lost_packets_are_told_and_leave_a_hole_in_the_numbering() -> None:
    session = Session()
    items = packets(10)
    session.feed(items[:3] + items[5:7])
    assert session.ingest.holding
    session.ingest.tick(0.3)
    session.feed(items[7:], now=0.31)
    assert session.runs == [(0, 1, 0), (1, 2, 0), (5, 1, 2), (6, 1, 0), (7, 3, 0)]
    assert session.ingest.lost == 2


def test_rtcp_among_rtp_is_set_apart() -> None:
    session = Session()
    report = build_sender_report(SenderReport(1, 2, 3, 4, 5))
    session.feed([*packets(2), report, *packets(2, first=2)])
    assert session.rtcp == [report]
    assert len(session.packets) == 4


@pytest.mark.parametrize("stride", [0, 33])
def test_the_fast_sweep_and_the_slow_way_agree(stride: int) -> None:
    items = packets(64, first=65500)
    items[20] = build(0, 65520, 0, 183000001, b"audio", marker=True)  # another payload type
    items[40] = b"\x90" + items[40][1:12] + bytes(4) + items[40][12:29]  # a header extension
    session = Session()
    for at in range(0, 64, 16):
        session.feed(items[at : at + 16], stride=stride and 36)
    assert session.packets == items
    assert sum(count for _, count, _ in session.runs) == 64
