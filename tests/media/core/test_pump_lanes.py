"""A steady session through both pumps, with a sink that looks at every byte: the compiled lanes must do what Python does."""

from __future__ import annotations

import asyncio
import random
import select
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from port_ranges import brief_ports

from media import compiled, key_watch
from media.ports import PortPool
from media.pump import Pump, make_pump, probe_gso
from media.readers.relay import Relay
from media.rtp import RtpPacketizer, parse
from media.sources import gb
from media.sources.gb import GbSource
from media.specs import ReceiverSpec, SenderSpec
from media.stream import Stream

SSRC = 183000001
KINDS = [
    "python",
    pytest.param("compiled", marks=pytest.mark.skipif(bool(compiled.reason), reason="the pump is not built")),
]


class House:
    """One source with relays and their sinks, a camera, and a pump; housekeeping by hand."""

    def __init__(self, kind: str, *, gso: bool = True, cache_bytes: int = 8 << 20) -> None:
        self.pump: Pump = make_pump(kind)
        ports = brief_ports(64)
        self.ports = PortPool(ports[0], ports[-1], "127.0.0.1", 0.0)
        self.gso = gso
        self.faults: list[str] = []
        self.asked = 0
        self.stream = Stream(
            "s", gop_cache_bytes=8 << 20, queue_units=512, on_ready=lambda stream: None,
            on_key_frame_wanted=lambda stream: None, on_fault=lambda kind, detail: None, clock=time.monotonic,
        )  # fmt: skip
        self.source = GbSource(
            ReceiverSpec(stream_id="s", ssrc=SSRC), self.stream, pump=self.pump, ports=self.ports, host="127.0.0.1",
            window_s=0.2, cache_bytes=cache_bytes, on_lost=lambda cause: None,
            on_fault=lambda kind, detail: self.faults.append(kind),
        )  # fmt: skip
        self.target = ("127.0.0.1", self.source.open().port)
        self.camera = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.camera.bind(("127.0.0.1", 0))
        self.sinks: list[socket.socket] = []
        self.relays: list[Relay] = []

    def relay(self, *, payload_type: int | None = None) -> Relay:
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        number = len(self.sinks)
        spec = SenderSpec(
            sender_id=f"r{number}", stream_id="s", remote_host="127.0.0.1", remote_port=sink.getsockname()[1],
            ssrc=200_000_001 + number, payload_type=payload_type,
        )  # fmt: skip
        relay = Relay(
            spec, source=self.source, pump=self.pump, ports=self.ports, gso=self.gso, host="127.0.0.1",
            on_ended=lambda cause: None, clock=time.monotonic,
        )  # fmt: skip
        relay.open()
        relay.start()
        self.sinks.append(sink)
        self.relays.append(relay)
        return relay

    async def send(self, packets: list[bytes], sock: socket.socket | None = None) -> None:
        for packet in packets:
            (sock or self.camera).sendto(packet, self.target)

    async def taken(self, count: int) -> None:
        """Until the session counted ``count`` packets."""
        async with asyncio.timeout(30):
            while self.stats().packets < count:
                await asyncio.sleep(0.002)

    def stats(self) -> Any:
        return self.source.stats(time.monotonic(), 0)

    def check(self) -> None:
        self.source.check(time.monotonic())

    async def received(self, number: int, count: int) -> list[bytes]:
        """So many packets at sink ``number``, in order."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            return [await loop.sock_recv(self.sinks[number], 65536) for _ in range(count)]

    def close(self) -> None:
        for relay in self.relays:
            relay.close()
        self.source.close()
        self.pump.close()
        self.ports.sweep(time.monotonic() + 100)
        for sock in (self.camera, *self.sinks):
            sock.close()


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few frames are enough to trust the sender."""
    monkeypatch.setattr(key_watch, "_AGREED_UNITS", 3)
    monkeypatch.setattr(key_watch, "_AGREED_KEYS", 1)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def house_of(kind: str) -> AsyncIterator[Callable[..., House]]:
    houses: list[House] = []

    def build(**options: Any) -> House:
        houses.append(House(kind, **options))
        return houses[-1]

    yield build
    for house in houses:
        house.close()


def frames(sender_of: Any, units: Any, **options: Any) -> Iterator[list[bytes]]:
    """Frames without end: the units again and again, as one sender would go on."""
    sender = sender_of(units * 4, **options)
    return iter(sender.frames())


async def steady(house: House, camera: Iterator[list[bytes]], kind: str, count: int = 8) -> list[bytes]:
    """Bring a session to the point where it is only relayed; returns what was sent."""
    sent: list[bytes] = []
    for _ in range(count):
        packets = next(camera)
        await house.send(packets)
        sent += packets
        await house.taken(len(sent))
        house.check()
    assert house.source.resting
    assert house.pump.lanes == (1 if kind == "compiled" else 0)
    return sent


def same(got: list[bytes], sent: list[bytes], ssrc: int, payload_type: int = 96, shift: int = 0) -> None:
    """Every byte: payload, marker and timestamp as sent, the relay's SSRC, sequence numbers without a gap."""
    assert len(got) == len(sent)
    first = int.from_bytes(got[0][2:4], "big")
    start = int.from_bytes(sent[0][2:4], "big")
    for packet, original in zip(got, sent, strict=True):
        place = (int.from_bytes(original[2:4], "big") - start) & 0xFFFF
        stamp = (int.from_bytes(original[4:8], "big") + shift) & 0xFFFFFFFF
        head = bytes((0x80, original[1] & 0x80 | payload_type)) + (first + place & 0xFFFF).to_bytes(2, "big")
        assert packet == head + stamp.to_bytes(4, "big") + ssrc.to_bytes(4, "big") + original[12:]


@pytest.mark.parametrize("gso", [True, False])
async def test_all_targets_get_every_byte(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any, gso: bool
) -> None:
    if gso and not probe_gso():
        pytest.skip("no UDP segmentation here")
    house: House = house_of(gso=gso)
    for payload_type in (None, 98, None):
        house.relay(payload_type=payload_type)
    camera = frames(sender_of, h264_units, audio=True)
    sent = await steady(house, camera, kind)
    for _ in range(60):
        packets = next(camera)
        await house.send(packets)
        sent += packets
        await asyncio.sleep(0.001)
    await house.taken(len(sent))
    for number, payload_type in enumerate((96, 98, 96)):
        same(await house.received(number, len(sent)), sent, 200_000_001 + number, payload_type)
        assert not select.select([house.sinks[number]], [], [], 0)[0]
    stats = house.stats()
    assert (stats.packets, stats.bytes) == (len(sent), sum(map(len, sent)))
    assert (stats.relay_packets, stats.relay_drops, stats.lost, stats.foreign_packets) == (
        3 * len(sent),
        0,
        0,
        0,
    )
    assert house.pump.lanes == (1 if kind == "compiled" else 0)
    assert stats.key_units == sum(b"\x00\x00\x01\xbb" in packet[12:76] for packet in sent)
    house.source.close()
    assert house.pump.lanes == 0


async def test_sequence_numbers_wrap(house_of: Any, kind: str, sender_of: Any, h264_units: Any) -> None:
    house: House = house_of()
    house.relay()
    sender = sender_of(h264_units * 4)
    sender.packetizer = RtpPacketizer(SSRC, 96, sequence=65_500)
    camera = sender.frames()
    sent = await steady(house, camera, kind, 6)
    for _ in range(60):
        packets = next(camera)
        await house.send(packets)
        sent += packets
        await house.taken(len(sent))
    assert len(sent) > 100
    same(await house.received(0, len(sent)), sent, 200_000_001)
    assert house.source.ingest.highest_sequence == 65_500 + len(sent) - 1


async def test_loss_reordering_strangers_and_odd_packets(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any
) -> None:
    """Whatever is not plain is judged as ever, and the session is plain again afterwards."""
    house: House = house_of()
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, kind)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for turn in range(6):
            packets = [packet for _ in range(3) for packet in next(camera)]
            wire = list(packets)
            if turn == 0:
                wire[1], wire[2] = wire[2], wire[1]
            elif turn == 1:
                sent_index = len(packets) // 2
                packets = [*packets[:sent_index], *packets[sent_index + 1 :]]
                wire = packets
            elif turn == 2:
                await house.send([wire[0]], stranger)
            elif turn == 3:
                wire = [wire[0], b"\x80\x60short", *wire[1:]]
            elif turn == 4:
                wire = [wire[0], bytes((0x80, 200, 0, 6)) + bytes(24), *wire[1:]]
            await house.send(wire)
            sent += packets
            await house.taken(len(sent))
            for _ in range(3):
                house.check()
    same(await house.received(0, len(sent)), sent, 200_000_001)
    stats = house.stats()
    assert (stats.lost, stats.reordered) == (1, 1)
    assert stats.foreign_packets == 2  # the stranger's, and the short one
    assert house.faults == ["foreign_source"]
    assert house.pump.lanes == (1 if kind == "compiled" else 0)


async def test_a_packet_longer_than_ever_is_not_cut(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any
) -> None:
    house: House = house_of()
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, kind)
    last = parse(sent[-1])
    assert last is not None
    noise = random.Random(3).randbytes(9000)
    sender = RtpPacketizer(SSRC, 96, sequence=last.sequence + 1, mtu=9500)
    longer = sender.packets(noise, last.timestamp + 3600)
    after = RtpPacketizer(SSRC, 96, sequence=last.sequence + 1 + len(longer))
    tail = after.packets(noise, last.timestamp + 7200)
    await house.send(longer + tail)
    sent += longer + tail
    await house.taken(len(sent))
    assert max(map(len, longer)) > 8000
    same(await house.received(0, len(sent)), sent, 200_000_001)


async def test_a_later_relay_begins_with_the_key_frame(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any
) -> None:
    house: House = house_of()
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, kind)
    for _ in range(25):  # past the second key frame
        packets = next(camera)
        await house.send(packets)
        sent += packets
        await house.taken(len(sent))
    key = max(n for n, packet in enumerate(sent) if b"\x00\x00\x01\xbb" in packet[12:76])
    assert 0 < key < len(sent) - 1
    house.relay()
    packets = next(camera)
    await house.send(packets)
    sent += packets
    same(await house.received(1, len(sent) - key), sent[key:], 200_000_002)
    same(await house.received(0, len(sent)), sent, 200_000_001)
    house.check()
    assert house.pump.lanes == (1 if kind == "compiled" else 0)


async def test_a_viewer_gets_the_pictures_since_the_key_frame(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any
) -> None:
    house: House = house_of()
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, kind, 30)
    units: list[Any] = []
    house.stream.attach("test", on_unit=units.append)
    assert house.pump.lanes == 0
    for _ in range(10):
        packets = next(camera)
        await house.send(packets)
        sent += packets
    await house.taken(len(sent))
    async with asyncio.timeout(30):
        while len(units) < 14:
            await asyncio.sleep(0.01)
    assert [unit.dts for unit in units[:14]] == [unit.dts for unit in h264_units[25:39]]
    assert units[0].key
    assert not any(unit.damaged for unit in units)
    same(await house.received(0, len(sent)), sent, 200_000_001)


async def test_a_change_of_sender_goes_on_in_the_relay(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another NAT port with the same SSRC after a silence; relays' sequence numbers have no gap."""
    monkeypatch.setattr(gb, "RELATCH_S", 0.05)
    house: House = house_of()
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, kind)
    await asyncio.sleep(0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for _ in range(4):
            packets = next(camera)
            await house.send(packets, other)
            sent += packets
            await house.taken(len(sent))
            house.check()
        assert house.stats().source == f"127.0.0.1:{other.getsockname()[1]}"
    same(await house.received(0, len(sent)), sent, 200_000_001)
    assert house.pump.lanes == (1 if kind == "compiled" else 0)


@pytest.mark.gb("G224")
@pytest.mark.parametrize("waits", [True, False])
async def test_a_key_frame_of_500_kb_is_spread_and_complete(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not waits:
        monkeypatch.setattr("media.sources.steady._WAITING_BYTES", 1 << 40)
    house: House = house_of()
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, kind)
    last = parse(sent[-1])
    assert last is not None
    burst = RtpPacketizer(SSRC, 96, sequence=last.sequence + 1).packets(
        random.Random(9).randbytes(500_000), last.timestamp + 3600
    )
    await house.send(burst)
    sent += burst
    arrivals: list[float] = []
    loop = asyncio.get_running_loop()
    got: list[bytes] = []
    async with asyncio.timeout(30):
        while len(got) < len(sent):
            got.append(await loop.sock_recv(house.sinks[0], 65536))
            arrivals.append(loop.time())
    same(got, sent, 200_000_001)
    # 64 KB at once, then 32 KB a tick: fourteen ticks lie between the first packet of the burst and the last
    assert arrivals[-1] - arrivals[-len(burst)] > 8 * 0.005


async def test_a_group_of_pictures_that_is_too_long_is_not_kept(
    house_of: Any, kind: str, sender_of: Any, h264_units: Any
) -> None:
    size = sum(len(packet) for frame in list(frames(sender_of, h264_units))[:12] for packet in frame)
    house: House = house_of(cache_bytes=int(size * 1.1))
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, kind, 6)
    for turn in range(45):
        packets = next(camera)
        await house.send(packets)
        sent += packets
        await house.taken(len(sent))
        if turn in (18, 22):
            kept = house.source.cached_runs()
            # before the second key frame the group was too long; with it keeping begins anew
            assert bool(kept) is (turn == 22)
            house.check()
    same(await house.received(0, len(sent)), sent, 200_000_001)


@pytest.mark.skipif(bool(compiled.reason), reason="the pump is not built")
async def test_a_peer_that_closed_its_port_costs_only_its_own_packets(
    sender_of: Any, h264_units: Any
) -> None:
    house = House("compiled")
    house.relay()
    house.relay()
    camera = frames(sender_of, h264_units)
    sent = await steady(house, camera, "compiled")
    await house.received(0, len(sent))
    house.sinks[0].close()
    for _ in range(20):
        packets = next(camera)
        await house.send(packets)
        sent += packets
        await house.taken(len(sent))
    same(await house.received(1, len(sent)), sent, 200_000_002)
    house.check()
    assert house.relays[0].dropped > 0
    assert house.relays[0].dropped + house.relays[0].sent == len(sent)
    assert house.relays[1].dropped == 0
    house.close()


def test_a_lane_refuses_what_makes_no_sense() -> None:
    if compiled.reason:
        pytest.skip(compiled.reason)
    sweep = compiled.sweep()
    terms: dict[str, Any] = {
        "stride": 1412, "ssrc": 1, "payload_type": 96, "expected": 0, "index": 0, "shift": 0, "stamp": 0, "arrival": None,
        "transit": None, "jitter": 0.0, "marked": -1, "watched": None, "kept_bytes": 0, "limit_bytes": 1, "waits": True,
        "burst_bytes": 1, "paced_bytes": 1, "targets": [],
    }  # fmt: skip
    with pytest.raises(ValueError):
        sweep.open(-1, bytes(16), **terms)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for wrong in ({"stride": 4}, {"stride": 1 << 20}):
            with pytest.raises(ValueError):
                sweep.open(sock.fileno(), bytes(16), **{**terms, **wrong})
        with pytest.raises(ValueError):
            sweep.open(sock.fileno(), bytes(64), **terms)
        lane = sweep.open(sock.fileno(), bytes(16), **terms)
        with pytest.raises(ValueError):
            sweep.open(sock.fileno(), bytes(16), **terms)
        with pytest.raises(RuntimeError):
            lane.runs()
        lane.close()
        lane.close()
        assert lane.runs() == []
        assert len(sweep) == 0
