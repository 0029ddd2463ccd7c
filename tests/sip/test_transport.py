"""Sockets under stress: full send buffers, kernel errors, overdue connections, dials that wait, routes remembered."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sip_wire import Counter, TcpPeer, UdpPeer, eventually, wire

from sip.connection import Connection
from sip.errors import TransportFailed
from sip.flow import Flow, Target
from sip.framing import FrameFault
from sip.routes import Routes, is_address
from sip.transport import SocketTransport
from sip.transport_shared import TransportLimits


class Heard:
    """A receiver that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, Flow]] = []
        self.failed: list[Flow | Target] = []
        self.closed: list[Flow] = []
        self.faults: list[FrameFault] = []
        self.batches = 0

    def message_received(self, data: bytes, flow: Flow) -> None:
        self.messages.append((data, flow))

    def stream_broken(self, fault: FrameFault, flow: Flow) -> None:
        self.faults.append(fault)

    def batch_done(self) -> None:
        self.batches += 1

    def connection_closed(self, flow: Flow) -> None:
        self.closed.append(flow)

    def send_failed(self, destination: Flow | Target, cause: str = "") -> None:
        self.failed.append(destination)


@asynccontextmanager
async def transport(
    limits: TransportLimits | None = None, observer: Counter | None = None
) -> AsyncIterator[tuple[SocketTransport, Heard]]:
    heard = Heard()
    made = SocketTransport("127.0.0.1", 0, heard, limits=limits, observer=observer)
    await made.start()
    try:
        yield made, heard
    finally:
        await made.close()


class BlockedSocket:
    """A UDP socket whose send buffer is full, or that fails, until it is told otherwise."""

    def __init__(self, real: socket.socket, error: OSError) -> None:
        self._real = real
        self.error: OSError | None = error

    def sendto(self, data: bytes, address: Any) -> int:
        if self.error is not None:
            raise self.error
        return self._real.sendto(data, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def blocked(made: SocketTransport, error: OSError) -> BlockedSocket:
    assert made.udp._socket is not None
    fake = BlockedSocket(made.udp._socket, error)
    made.udp._socket = fake  # type: ignore[assignment]
    return fake


def udp_flow(peer: UdpPeer) -> Flow:
    return Flow("udp", "127.0.0.1", peer.port, "127.0.0.1", 1)


async def test_what_does_not_fit_waits_in_order_and_the_line_is_bounded() -> None:
    counter = Counter()
    async with transport(TransportLimits(udp_send_queue=3), counter) as (made, _), UdpPeer() as peer:
        fake = blocked(made, BlockingIOError())
        for number in range(5):
            made.send(str(number).encode(), udp_flow(peer))
        assert counter.dropped_labels == ["udp_send", "udp_send"]
        fake.error = None
        assert [await peer.receive() for _ in range(3)] == [b"0", b"1", b"2"]
        made.send(b"last", udp_flow(peer))
        assert await peer.receive() == b"last"


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOBUFS, False), (errno.ENETUNREACH, True), (errno.EMSGSIZE, False)]
)
async def test_kernel_errors_of_a_send(number: int, told: bool) -> None:
    counter = Counter()
    async with transport(observer=counter) as (made, heard), UdpPeer() as peer:
        blocked(made, OSError(number, "no"))
        made.send(b"x", udp_flow(peer))
        assert heard.failed == []
        await asyncio.sleep(0.01)
        assert heard.failed == ([udp_flow(peer)] if told else [])
        assert counter.dropped_labels == ([] if told else ["udp_send"])


async def test_a_large_batch_is_drained_in_bounded_steps() -> None:
    async with transport(TransportLimits(udp_batch=10)) as (made, heard), UdpPeer() as peer:
        for _ in range(35):
            peer.send(wire(), made.port)
        await eventually(lambda: len(heard.messages) == 35)
        assert heard.batches >= 4
        assert {flow for _, flow in heard.messages} == {
            Flow("udp", "127.0.0.1", peer.port, "127.0.0.1", made.port)
        }


async def test_sending_on_a_connection_that_is_gone_fails() -> None:
    async with transport() as (made, heard):
        gone = Flow("tcp", "127.0.0.1", 9, "127.0.0.1", 9, 123456)
        made.send(b"x", gone)
        await asyncio.sleep(0.01)
        assert heard.failed == [gone]


async def test_messages_wait_for_one_dial_and_their_number_is_bounded() -> None:
    counter = Counter()
    got: list[bytes] = []
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            got.append(data)
        writer.close()
        await writer.wait_closed()
        over.set()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    target = Target("sip:a@b", "127.0.0.1", listener.sockets[0].getsockname()[1], "tcp")
    async with transport(TransportLimits(dial_queue=3), counter) as (made, _):
        for number in range(5):
            made.send(str(number).encode(), target)
        await eventually(lambda: b"".join(got) == b"012")
        assert counter.dropped_labels == ["dial_queue", "dial_queue"]
        assert made.connection_count == 1
    await asyncio.wait_for(over.wait(), 10)
    listener.close()


async def test_a_dial_that_nobody_answers_ends_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        target = Target("sip:a@b", "127.0.0.1", full.getsockname()[1], "tcp")
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", target.port))
        async with transport(TransportLimits(connect_timeout_s=0.2)) as (made, heard):
            made.send(b"x", target)
            await eventually(lambda: heard.failed)
            assert heard.failed == [target]
        for filler in fillers:
            filler.close()


async def test_close_while_dialling_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    async with transport() as (made, heard):
        made.send(b"x", Target("sip:a@b", "203.0.113.1", 5060, "tcp"))
    assert asyncio.all_tasks() == before
    assert heard.failed == []
    made.send(b"x", Target("sip:a@b", "203.0.113.1", 5060, "tcp"))
    made.send(b"x", Target("sip:a@b", "127.0.0.1", 5060))
    with pytest.raises(TransportFailed):
        made.require_open()


@pytest.mark.quirk(5)
@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, ""),
        ({"stalled_since": 989.0}, "write_stall"),
        ({"stalled_since": 995.0}, ""),
        ({"partial_since": 960.0}, "partial_message"),
        ({"last_heard": 1000.0 - 1801.0}, "idle"),
    ],
)
async def test_which_connections_have_to_go(changes: dict[str, float], cause: str) -> None:
    async with transport() as (made, _):
        connection = Connection(made)
        connection.last_heard = 999.0
        for name, value in changes.items():
            setattr(connection, name, value)
        assert connection.overdue(1000.0, TransportLimits()) == cause


@pytest.mark.quirk(5)
async def test_a_stalled_write_is_swept_away() -> None:
    counter = Counter()
    limits = TransportLimits(write_stall_s=0.1, write_buffer_bytes=64 * 1024 * 1024)
    async with transport(limits, counter) as (made, heard), await TcpPeer.connect(made.port) as stuck:
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stuck.send(wire())
        await eventually(lambda: heard.messages)
        made.send(b"x" * 20_000_000, heard.messages[0][1])
        await eventually(lambda: heard.closed)
        assert counter.dropped_labels == ["write_stall"]


async def test_a_peer_that_reads_again_keeps_its_connection() -> None:
    async with transport() as (made, heard), await TcpPeer.connect(made.port) as slow:
        await slow.send(wire())
        await eventually(lambda: heard.messages)
        made.send(b"x" * 1_000_000, heard.messages[0][1])
        assert len(await slow.reader.readexactly(1_000_000)) == 1_000_000
        (connection,) = made.streams.connections.values()
        await eventually(lambda: connection.stalled_since == 0.0)
        assert heard.closed == []


@pytest.mark.quirk(12)
def test_routes_are_asked_once_and_never_say_any_address() -> None:
    routes = Routes("0.0.0.0")
    asked: list[str] = []
    ask = routes._ask
    routes._ask = lambda host: (asked.append(host), ask(host))[1]  # type: ignore[method-assign]
    assert [routes.local_host("127.0.0.1") for _ in range(3)] == ["127.0.0.1"] * 3
    assert asked == ["127.0.0.1"]
    for host in ("198.51.100.7", "no.such.name", "127.0.0.5"):
        assert is_address(routes.local_host(host))
        assert routes.local_host(host) != "0.0.0.0"
    assert Routes("192.0.2.1").local_host("127.0.0.1") == "192.0.2.1"


def test_the_memory_of_routes_is_bounded() -> None:
    routes = Routes("0.0.0.0", max_entries=10)
    for number in range(100):
        routes.local_host(f"127.0.0.{number}")
    assert len(routes._known) <= 10


@pytest.mark.parametrize(
    ("text", "is_one"), [("192.0.2.1", True), ("2001:db8::1", True), ("camera.local", False), ("", False)]
)
def test_addresses(text: str, is_one: bool) -> None:
    assert is_address(text) == is_one
