"""The pump's pieces: rewriting, grouping, segmented sends, batched reads, ticking."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import time

import pytest

from media import mmsg
from media.mmsg import BatchReceiver, address_of
from media.packet_cache import PacketCache
from media.pump import TICK_S, Pump, UdpOutput, mark_payload_type, probe_gso, rewrite
from media.rtp import build, parse
from media.runs import Run
from media.tcp import TcpOutput, _with_lengths


def run_of(packets: list[bytes], *, stride: int = 0, index: int = 0) -> Run:
    if stride:
        buffer = bytearray(b"".join(packet.ljust(stride, b"\xee") for packet in packets))
        starts: list[int] | range = range(0, stride * len(packets), stride)
    else:
        buffer = bytearray(b"".join(packets))
        starts = [sum(len(p) for p in packets[:n]) for n in range(len(packets))]
    stamps = [int.from_bytes(packet[4:8], "big") for packet in packets]
    return Run(
        buffer, memoryview(buffer), starts, [len(p) for p in packets], stamps,
        index=index, payload_type=96, arrival=0.0, stride=stride,
    )  # fmt: skip


def packets(sizes: list[int], first: int = 0) -> list[bytes]:
    noise = random.Random(5)
    return [
        build(96, first + n, 3600, 1, noise.randbytes(size), marker=n == len(sizes) - 1)
        for n, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("stride", [0, 112])
@pytest.mark.parametrize("shift", [0, 0xFFFFFF00])
@pytest.mark.parametrize("count", [1, 3, 4, 40])
def test_headers_are_rewritten_and_nothing_else(stride: int, shift: int, count: int) -> None:
    items = packets([100] * count)
    run = run_of(items, stride=stride)
    rewrite(run, 65534, shift, 200009319)
    for number in range(count):
        packet, original = parse(run.packet(number)), parse(items[number])
        assert packet is not None
        assert original is not None
        assert packet.sequence == (65534 + number) & 0xFFFF
        assert packet.timestamp == (3600 + shift) & 0xFFFFFFFF
        assert packet.ssrc == 200009319
        assert (packet.payload, packet.marker, packet.payload_type) == (original.payload, original.marker, 96)


def test_the_payload_type_changes_and_the_marker_stays() -> None:
    run = run_of(packets([10, 10]))
    mark_payload_type(run, 98)
    assert [run.packet(n)[1] for n in range(2)] == [98, 98 | 0x80]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([5], [(0, 1)]),
        ([5, 5, 5], [(0, 3)]),
        ([5, 5, 3], [(0, 3)]),
        ([5, 3, 5], [(0, 2), (2, 1)]),
        ([5, 5, 3, 5, 5, 5, 2], [(0, 3), (3, 4)]),
        ([5, 5, 5, 5, 3, 5], [(0, 5), (5, 1)]),
        ([3, 5, 5], [(0, 1), (1, 2)]),
        ([5] * 10, [(0, 8), (8, 2)]),
        ([20, 20, 20, 20], [(0, 3), (3, 1)]),
        ([70, 70], [(0, 1), (1, 1)]),
    ],
)
def test_neighbours_of_one_size_go_together_and_a_shorter_one_ends_the_group(
    sizes: list[int], groups: list[tuple[int, int]]
) -> None:
    run = Run(bytearray(), memoryview(b""), [], sizes, [], index=0, payload_type=96, arrival=0.0)
    assert list(run.groups(8, 60)) == groups


@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("stride", [0, 1412])
@pytest.mark.parametrize(
    "sizes", [[1400] * 13 + [700], [1400, 700, 1400], [30, 1400, 1400, 20], [1400] * 60, [900] * 5]
)
def test_every_packet_is_sent_alone_and_whole(
    sizes: list[int], stride: int, gso: bool, udp_socket: socket.socket
) -> None:
    if gso and not probe_gso():
        pytest.skip("no UDP segmentation here")
    items = packets(sizes)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(udp_socket.getsockname())
        output = UdpOutput(sock, gso=gso)
        output.send(run_of(items, stride=stride))
    assert [udp_socket.recv(65536) for _ in items] == items
    assert (output.sent, output.dropped) == (len(items), 0)


def test_a_path_that_refuses_segmentation_gets_plain_sends(udp_socket: socket.socket) -> None:
    class Refusing:
        """A socket that knows no UDP_SEGMENT."""

        def __init__(self, sock: socket.socket) -> None:
            self.send = sock.send
            self.refused = 0

        def sendmsg(self, *arguments: object) -> int:
            self.refused += 1
            raise OSError(5, "Input/output error")

    items = packets([100] * 5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(udp_socket.getsockname())
        refusing = Refusing(sock)
        output = UdpOutput(refusing, gso=True)  # type: ignore[arg-type]
        for _ in range(5):
            output.send(run_of(items))
    assert [udp_socket.recv(2048) for _ in range(25)] == items * 5
    assert (output.sent, output.gso, refusing.refused) == (25, False, 3)


@pytest.mark.parametrize("stride", [12, 60, 1412])
def test_many_datagrams_are_read_at_once(stride: int, udp_socket: socket.socket) -> None:
    if not mmsg.probe():
        pytest.skip("no recvmmsg here")
    noise = random.Random(1)
    sent = [noise.randbytes(noise.randrange(1, 1500)) for _ in range(100)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for data in sent:
            sock.sendto(data, udp_socket.getsockname())
        receiver = BatchReceiver(bytearray(mmsg.SLOTS * stride))
        received = []
        while lengths := receiver.receive(udp_socket.fileno(), stride):
            received += [receiver.whole(slot, stride, length) for slot, length in enumerate(lengths)]
            assert {address_of(receiver.source(slot)) for slot in range(len(lengths))} == {sock.getsockname()}
    assert received == sent
    assert receiver.receive(udp_socket.fileno(), stride) == []


def test_addresses_of_both_families() -> None:
    assert address_of(struct.pack("=H", 2) + bytes.fromhex("1f90 c0a80140") + bytes(8)) == (
        "192.168.1.64",
        8080,
    )
    six = struct.pack("=H", 10) + bytes.fromhex("1f90 00000000") + bytes(15) + b"\x01" + bytes(4)
    assert address_of(six) == ("::1", 8080)


async def test_the_pump_sleeps_without_traffic_and_wakes_with_it(udp_socket: socket.socket) -> None:
    pump = Pump()
    seen: list[bytes] = []
    woken = asyncio.Event()

    def drain(now: float) -> None:
        try:
            seen.append(udp_socket.recv(2048))
        except BlockingIOError:
            return
        woken.set()

    pump.register(udp_socket, drain)
    await asyncio.sleep(0.3)
    asleep = pump.ticks
    await asyncio.sleep(0.1)
    assert pump.ticks == asleep
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(3):
            woken.clear()
            sock.sendto(bytes((number,)), udp_socket.getsockname())
            await asyncio.wait_for(woken.wait(), 5)
    assert seen == [b"\0", b"\1", b"\2"]
    assert pump.ticks > asleep
    pump.unregister(udp_socket)
    pump.unregister(udp_socket)
    pump.close()
    pump.close()


async def test_paced_work_runs_on_each_tick_until_it_is_done() -> None:
    pump = Pump()
    turns: list[float] = []
    done = asyncio.Event()

    def work(now: float) -> bool:
        turns.append(now)
        if len(turns) == 5:
            done.set()
        return len(turns) < 5

    pump.every_tick(turns, work)
    await asyncio.wait_for(done.wait(), 5)
    await asyncio.sleep(0.05)
    assert len(turns) == 5
    assert turns == sorted(turns)
    pump.close()


async def test_the_share_of_paced_work_follows_the_time_that_passed() -> None:
    pump = Pump()
    shares: list[tuple[int, float]] = []
    done = asyncio.Event()

    def work(now: float) -> bool:
        shares.append((pump.share, now))
        if len(shares) == 3:
            time.sleep(0.2)  # the loop is kept busy by something else
        if len(shares) == 4:
            done.set()
        return len(shares) < 4

    pump.every_tick(shares, work)
    await asyncio.wait_for(done.wait(), 5)
    pump.close()
    assert 40 <= shares[3][0] <= 100
    for (_, before), (share, now) in itertools.pairwise(shares):
        assert share == max(1, min(int((now - before) / TICK_S), 100))


def test_the_cache_holds_the_packets_since_the_key_frame_and_not_more() -> None:
    cache = PacketCache(limit_bytes=1000)
    items = packets([88] * 10)
    cache.add(run_of(items[:4], stride=100).copy())
    assert cache.runs() == []
    cache.add(run_of(items[4:6], stride=100, index=4).copy())
    cache.cut(2)
    assert [run.packet(n) for run in cache.runs() for n in range(len(run))] == items[2:6]
    cache.cut(4)
    assert [run.index for run in cache.runs()] == [4]
    cache.add(run_of(packets([988]), index=6).copy())
    assert (cache.runs(), cache.bytes, cache.keeping) == ([], 0, False)
    cache.cut(7)
    assert cache.keeping


async def test_tcp_takes_lengths_and_packets_as_they_lie() -> None:
    """Vectored writes: more pieces than one call takes, parts of packets left over, and nothing changed in between."""
    reader, writer = socket.socketpair()
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    writer.setblocking(False)
    reader.setblocking(False)
    output = TcpOutput(writer, limit_bytes=4_000_000, on_lost=lambda: None)
    items = packets([1, 700, 1400, 33] * 300)
    run = run_of(items)
    output.send(run)
    run.buffer[:] = bytes(len(run.buffer))  # the pump's arena is used again at once
    received = bytearray()
    while output.waiting_bytes or len(received) < sum(map(len, items)) + 2 * len(items):
        output.flush(0.0)
        try:
            received += reader.recv(1 << 20)
        except BlockingIOError:
            await asyncio.sleep(0)
    expected = b"".join(len(item).to_bytes(2, "big") + item for item in items)
    assert bytes(received) == expected
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    ("sizes", "one_piece"),
    [([100] * 5, True), ([100] * 5 + [40], True), ([100, 90, 100], False), ([100], False), ([700] * 3, True)],
)
async def test_what_came_with_lengths_leaves_with_them(sizes: list[int], one_piece: bool) -> None:
    """Packets of one size between TCP connections go out as they lie; all others get their lengths anew."""
    items = packets(sizes)
    framed = b"".join(len(item).to_bytes(2, "big") + item for item in items)
    buffer = bytearray(b"\xee" * 7 + framed + b"\xee" * 9)
    starts = [7 + 2 + sum(len(item) + 2 for item in items[:n]) for n in range(len(items))]
    stride = (
        starts[1] - starts[0]
        if len(items) > 1
        and starts == list(range(starts[0], starts[0] + len(items) * (len(items[0]) + 2), len(items[0]) + 2))
        else 0
    )
    for spoilt in (False, True):
        reader, writer = socket.socketpair()
        run = Run(
            buffer, memoryview(buffer), starts, [len(item) for item in items], [3600] * len(items),
            index=0, payload_type=96, arrival=0.0, stride=stride,
        )  # fmt: skip
        if spoilt:
            buffer[starts[0] - 1] ^= 1  # not the packet's length: it must not be believed
        assert (_with_lengths(run) is not None) is (one_piece and not spoilt)
        output = TcpOutput(writer, limit_bytes=50_000, on_lost=lambda: None)
        output.send(run)
        assert reader.recv(65536) == framed
        reader.close()
        writer.close()


@pytest.mark.quirk(40)
async def test_a_slow_tcp_peer_costs_whole_packets_and_bounded_memory() -> None:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    reader.setblocking(False)
    lost: list[bool] = []
    output = TcpOutput(writer, limit_bytes=50_000, on_lost=lambda: lost.append(True))
    items = packets([1000] * 10)
    for _ in range(100):
        output.send(run_of(items))
    assert output.dropped > 0
    assert output.backlog_bytes < 70_000
    received = bytearray()
    while True:
        output.flush(0.0)
        try:
            received += reader.recv(1 << 20)
        except BlockingIOError:
            break
    assert output.backlog_bytes == 0
    frames = []
    while received:
        size = int.from_bytes(received[:2], "big")
        frames.append(bytes(received[2 : 2 + size]))
        del received[: 2 + size]
    assert len(frames) == output.sent == 1000 - output.dropped
    assert frames == (items * 100)[: len(frames)]
    reader.close()
    for _ in range(3):
        output.send(run_of(items))
    assert lost == [True]
    writer.close()
