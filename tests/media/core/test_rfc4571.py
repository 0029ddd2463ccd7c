"""RTP in TCP: three heads, byte-wise feeds, damaged streams."""

from __future__ import annotations

import random

import pytest

from media import rfc4571
from media.rfc4571 import Deframer, Framing, frame
from media.rtp import SenderReport, build, build_sender_report

SSRC = 0x0AE860C1


def packets(count: int = 30, size: int = 500) -> list[bytes]:
    noise = random.Random(3)
    return [build(96, 0x095A + n, n // 5 * 3600, SSRC, noise.randbytes(size + n)) for n in range(count)]


def stream(items: list[bytes], prefix: bytes = b"") -> bytes:
    return b"".join(prefix + frame(packet) for packet in items)


def feed(deframer: Deframer, data: bytes, step: int) -> list[bytes]:
    return [packet for at in range(0, len(data), step) for packet in deframer.feed(data[at : at + step])]


@pytest.mark.gb("G210")
@pytest.mark.parametrize("step", [1, 2, 13, 514, 100_000])
def test_lengths_are_read_over_any_cut_of_the_stream(step: int) -> None:
    items = packets()
    deframer = Deframer()
    assert feed(deframer, stream(items), step) == items
    assert deframer.framing is Framing.RFC4571
    assert deframer.resyncs == 0


@pytest.mark.gb("G210")
def test_lengths_are_written_in_network_order() -> None:
    assert frame(b"\x80" + bytes(299)).startswith(b"\x01\x2c\x80")
    with pytest.raises(ValueError, match="65536"):
        frame(bytes(65536))


@pytest.mark.gb("G211")
@pytest.mark.quirk(38)
@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize(
    ("head", "prefix", "framing"),
    [
        (b"", b"", Framing.RFC4571),
        (b"", b"$\x00", Framing.INTERLEAVED),
        (b"\x01\x00\x02" + bytes(253), b"", Framing.RFC4571),
        (b"\x01\x00\x01" + bytes(253), b"$\x00", Framing.INTERLEAVED),
    ],
    ids=["rfc4571", "dollar", "ehome", "ehome-dollar"],
)
def test_the_form_is_found_out_once_per_connection(
    head: bytes, prefix: bytes, framing: Framing, step: int
) -> None:
    items = packets()
    deframer = Deframer()
    assert feed(deframer, head + stream(items, prefix), step) == items
    assert deframer.framing is framing
    assert deframer.ehome is bool(head)


@pytest.mark.gb("G211")
def test_a_first_length_of_256_is_no_ehome_head() -> None:
    items = [build(96, n, 0, SSRC, bytes(244)) for n in range(3)]
    assert frame(items[0])[:3] == b"\x01\x00\x80"
    deframer = Deframer()
    assert deframer.feed(stream(items)) == items
    assert not deframer.ehome


@pytest.mark.gb("G212")
@pytest.mark.parametrize("step", [1, 5, 100_000])
def test_a_first_length_of_0x24xx_is_no_dollar(step: int) -> None:
    items = [build(96, n, 0, SSRC, bytes(9288)) for n in range(3)]
    assert frame(items[0])[:3] == b"\x24\x54\x80"
    deframer = Deframer()
    assert feed(deframer, stream(items), step) == items
    assert deframer.framing is Framing.RFC4571


def test_rtcp_passes_between_rtp_packets() -> None:
    items = packets(4)
    items.insert(2, build_sender_report(SenderReport(SSRC, 1, 2, 3, 4)))
    assert Deframer().feed(stream(items)) == items


@pytest.mark.quirk(38)
def test_a_stream_that_starts_inside_a_packet_is_picked_up_at_the_next() -> None:
    items = packets()
    deframer = Deframer()
    assert deframer.feed(stream(items)[200:]) == items[1:]
    assert deframer.resyncs == 1
    assert deframer.skipped_bytes == len(frame(items[0])) - 200


@pytest.mark.quirk(38)
def test_an_overwritten_packet_is_left_out_and_the_next_found_inside_it() -> None:
    items = packets()
    framed = [frame(packet) for packet in items]
    # The length of packet 10 is right, but the next header already sits in its middle: 80 60 09 64 ... 80 60 09 65.
    framed[10] = framed[10][:300]
    assert framed[10][2:6].hex() == "80600964"
    assert framed[11][2:6].hex() == "80600965"
    deframer = Deframer()
    assert deframer.feed(b"".join(framed)) == items[:10] + items[11:]
    assert deframer.resyncs == 1


def test_a_change_of_ssrc_on_the_connection_is_no_damage() -> None:
    items = packets(5) + [build(96, n, 0, 0x77, bytes(100)) for n in range(5)]
    deframer = Deframer()
    assert deframer.feed(stream(items)) == items
    assert deframer.resyncs == 0


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_costs_few_packets_and_invents_none(seed: int) -> None:
    noise = random.Random(seed)
    items = packets(60)
    data = bytearray(stream(items))
    for _ in range(3):
        del data[(at := noise.randrange(len(data) - 4000)) : at + noise.randrange(1, 900)]
    out = feed(Deframer(), bytes(data), noise.choice([50, 1460, 100_000]))
    intact = [packet for packet in out if packet in items]
    assert len(intact) >= 50
    assert len(out) - len(intact) <= 3


@pytest.mark.parametrize("prefix", [b"", b"$\x00"])
@pytest.mark.parametrize("spoilt", [None, 0, 3, 5, 8, 9])
def test_looking_at_many_packets_at_once_finds_what_looking_at_each_does(
    prefix: bytes, spoilt: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten packets of one size, one of them another SSRC, type, version or length, then shorter ones; in odd pieces."""
    noise = random.Random(6)
    for turn in range(60):
        stream = bytearray()
        for number in range(10):
            kind = noise.choice((96, 96 | 0x80))
            packet = bytearray(build(96, number, 3600, 7, bytes(noise.randrange(200) for _ in range(90))))
            packet[1] = kind
            if number == spoilt:
                where, value = noise.choice([(0, 0x90), (0, 0x12), (1, 200), (1, 97), (11, 9), (4, 1)])
                packet[where] = value
            stream += prefix + len(packet).to_bytes(2, "big") + packet
        for size in (40, 12, 300):
            packet = bytearray(build(96, 11, 3600, 7, bytes(size)))
            stream += prefix + len(packet).to_bytes(2, "big") + packet
        if spoilt is not None and turn % 3 == 0:
            stream[len(prefix) + spoilt * (104 + len(prefix))] ^= 1
        cuts = sorted(noise.sample(range(1, len(stream)), 3))
        pieces = [bytes(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        results = []
        for alike in (4, 1 << 30):
            monkeypatch.setattr(rfc4571, "_ALIKE", alike)
            deframer = Deframer()
            packets = [packet for piece in pieces for packet in deframer.feed(piece)]
            results.append(
                (packets, deframer.resyncs, deframer.skipped_bytes, deframer.framing, deframer.ssrc)
            )
        assert results[0] == results[1]
        if spoilt is None:
            assert len(results[0][0]) == 13
