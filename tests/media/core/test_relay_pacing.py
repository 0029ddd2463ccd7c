"""How a relay spreads bursts, and that nothing is lost or changes places on the way."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from media.readers.relay import BURST_BYTES, PACED_BYTES, Relay
from media.rtp import RtpPacketizer, parse
from media.runs import Run
from media.specs import SenderSpec


class Bench:
    """The relay's surroundings by hand: a pump that ticks when told, ports, a source with a cache."""

    def __init__(self, target: tuple[str, int], cached: list[Run] | None = None) -> None:
        self.cached = cached or []
        self.work: Callable[[float], bool] | None = None
        self.asked = 0
        self.ended: list[str] = []
        self.relay = Relay(
            SenderSpec(sender_id="u", stream_id="s", remote_host=target[0], remote_port=target[1], ssrc=7),
            source=self, pump=self, ports=self, gso=True, host="127.0.0.1",  # type: ignore[arg-type]
            on_ended=self.ended.append, clock=lambda: 0.0,
        )  # fmt: skip
        self.relay.open()
        self.relay.start()

    def lease_udp(self, now: float) -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        sock.setblocking(False)
        bench = self

        class Lease:
            rtp, rtcp, port = sock, None, 4

            def release(self, now: float, *, hear_ghosts: bool = True) -> None:
                assert not hear_ghosts
                sock.close()
                bench.released = True

        return Lease()

    released = False
    share = 1

    def every_tick(self, owner: object, work: Callable[[float], bool]) -> None:
        self.work = work

    def forget(self, owner: object) -> None:
        self.work = None

    def unregister(self, sock: socket.socket) -> None:
        pass

    def cached_runs(self) -> list[Run]:
        return self.cached

    def add_relay(self, relay: Relay) -> None:
        pass

    def remove_relay(self, relay: Relay) -> None:
        pass

    def request_key_frame(self) -> None:
        self.asked += 1


def runs_of(size: int, *, index: int = 0, arrival: float = 1.0, length: int = 64) -> list[Run]:
    """One frame of ``size`` bytes as the pump reads it: batches of up to 64 packets."""
    packets = RtpPacketizer(1, 96, sequence=index & 0xFFFF).packets(random.Random(size).randbytes(size), 3600)
    result = []
    for at in range(0, len(packets), length):
        part = packets[at : at + length]
        buffer = bytearray(b"".join(part))
        result.append(
            Run(
                buffer, memoryview(buffer), range(0, 1412 * len(part), 1412), [len(p) for p in part], [3600] * len(part),
                index=index + at, payload_type=96, arrival=arrival, stride=1412,
            )
        )  # fmt: skip
    return result


def received(sock: socket.socket) -> list[bytes]:
    packets = []
    while True:
        try:
            packets.append(sock.recv(65536))
        except BlockingIOError:
            return packets


@pytest.mark.gb("G224")
@pytest.mark.parametrize("cached", [False, True])
def test_a_key_frame_of_500_kb_leaves_over_many_ticks(udp_socket: socket.socket, cached: bool) -> None:
    runs = runs_of(500_000)
    bench = Bench(udp_socket.getsockname(), runs if cached else None)
    assert bench.asked == (0 if cached else 1)
    if not cached:
        for run in runs:
            bench.relay.forward(run, run.copy)
    bursts = [received(udp_socket)]
    assert sum(map(len, bursts[0])) <= BURST_BYTES + 64 * 1412
    later = runs_of(5_000, index=358, arrival=2.0)
    for number in range(100):
        if number == 3:
            bench.relay.forward(later[0], later[0].copy)  # the next frame waits its turn
        if bench.work is None or not bench.work(0.0):
            break
        bursts.append(received(udp_socket))
    bursts.append(received(udp_socket))
    assert max(sum(map(len, burst)) for burst in bursts[1:]) <= PACED_BYTES + 1412
    assert len(bursts) >= 500_000 // PACED_BYTES - 2
    got = [parse(packet) for burst in bursts for packet in burst]
    assert [p.sequence for p in got] == [(got[0].sequence + n) & 0xFFFF for n in range(358 + 4)]
    assert b"".join(bytes(p.payload) for p in got) == b"".join(
        run.packet(n)[12:] for run in [*runs, *later] for n in range(len(run))
    )
    bench.relay.close()
    bench.relay.close()
    assert bench.released


def test_usual_frames_are_not_held_back(udp_socket: socket.socket) -> None:
    bench = Bench(udp_socket.getsockname())
    for number in range(10):
        (run,) = runs_of(20_000, index=15 * number, arrival=float(number))
        bench.relay.forward(run, run.copy)
        assert len(received(udp_socket)) == 15
    assert bench.work is None
    bench.relay.close()


def test_a_pump_that_is_late_sends_what_has_come_meanwhile(udp_socket: socket.socket) -> None:
    """Held to one tick's share on each late tick, everything would wait, be copied, and make the pump later still."""
    udp_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    bench = Bench(udp_socket.getsockname())
    bench.share = 10
    for number in range(3):
        for run in runs_of(500_000, index=358 * number, arrival=float(number)):
            bench.relay.forward(run, run.copy)
        assert len(received(udp_socket)) == 358
    assert bench.work is None
    bench.share = 1
    for run in runs_of(500_000, index=358 * 3, arrival=3.0):
        bench.relay.forward(run, run.copy)
    assert bench.work is not None
    received(udp_socket)
    bench.share = 4
    assert bench.work(0.0)
    assert PACED_BYTES < sum(map(len, received(udp_socket))) <= 4 * PACED_BYTES + 1412
    bench.relay.close()


def test_packets_that_wait_are_bounded(udp_socket: socket.socket) -> None:
    bench = Bench(udp_socket.getsockname(), runs_of(100_000))
    bench.relay._pending_limit = 1_000_000
    for number in range(40):
        for run in runs_of(50_000, index=100 + 36 * number, arrival=float(number)):
            bench.relay.forward(run, run.copy)
    assert bench.relay.dropped > 0
    while bench.work is not None and bench.work(0.0):
        pass
    assert bench.relay.sent + bench.relay.dropped == 72 + 40 * 36
    bench.relay.close()
