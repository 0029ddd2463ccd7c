"""Ports: even, with a neighbour, at rest after use, never forgotten. Time is moved, never slept."""

from __future__ import annotations

import socket

import pytest
from port_ranges import kept_ports

from media import ports
from media.ports import NoPort, PortPool

LOW = kept_ports(64)[0]


def pool(count: int = 4, quarantine_s: float = 30.0, low: int = LOW) -> PortPool:
    return PortPool(low, low + 2 * count - 1, "127.0.0.1", quarantine_s)


@pytest.mark.gb("G226")
def test_rtp_is_even_and_rtcp_its_neighbour() -> None:
    ports_ = PortPool(LOW + 1, LOW + 9, "127.0.0.1")
    lease = ports_.lease_udp(0.0)
    assert lease.port == LOW + 2
    assert lease.rtcp is not None
    assert (lease.rtp.getsockname()[1], lease.rtcp.getsockname()[1]) == (lease.port, lease.port + 1)
    lease.release(0.0)
    ports_.close()


@pytest.mark.quirk(29)
def test_a_thousand_streams_leak_no_port() -> None:
    pool_ = pool(8, quarantine_s=1.0)
    for turn in range(250):
        leases = [pool_.lease_udp(turn * 2.0) if n % 2 else pool_.lease_tcp(turn * 2.0) for n in range(4)]
        for lease in leases:
            lease.release(turn * 2.0 + 0.5)
            lease.release(turn * 2.0 + 0.5)
    pool_.sweep(1e6)
    assert (pool_.leased, pool_.quarantined, pool_.free) == (0, 0, 8)
    pool_.close()


def test_an_exhausted_pool_says_so_and_recovers() -> None:
    pool_ = pool(2)
    first, second = pool_.lease_udp(0.0), pool_.lease_udp(0.0)
    assert {first.port, second.port} == {LOW, LOW + 2}
    with pytest.raises(NoPort):
        pool_.lease_udp(0.0)
    first.release(0.0)
    with pytest.raises(NoPort):
        pool_.lease_udp(29.9)
    again = pool_.lease_udp(30.0)
    assert again.port == first.port
    again.release(30.0)
    second.release(30.0)
    pool_.close()


@pytest.mark.quirk(33)
def test_a_port_is_not_lent_again_while_somebody_still_sends_to_it() -> None:
    pool_ = pool(1, quarantine_s=30.0)
    heard: list[int] = []
    pool_.on_ghost = heard.append
    pool_.lease_udp(0.0).release(0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as camera:
        for now in (10.0, 20.0, 35.0, 60.0):
            camera.sendto(b"\x80\x60 a camera that never heard the BYE", ("127.0.0.1", LOW))
            pool_.sweep(now)
    assert pool_.ghost_packets == 4
    assert heard == [LOW] * 4
    with pytest.raises(NoPort):
        pool_.lease_udp(89.9)
    lease = pool_.lease_udp(90.0)
    with pytest.raises(BlockingIOError):
        lease.rtp.recv(2048)  # nothing of the old sender waits for the new stream
    lease.release(90.0)
    pool_.close()


def test_a_port_of_another_program_is_left_alone() -> None:
    pool_ = pool(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", LOW + 1))  # the RTCP port of the first pair
        lease = pool_.lease_udp(0.0)
        assert lease.port == LOW + 2
        assert pool_.quarantined == 1
    lease.release(0.0)
    pool_.sweep(6.0)
    assert pool_.free == 1
    pool_.close()


@pytest.mark.quirk(40)
def test_media_sockets_ask_for_4_mib() -> None:
    assert ports.RECEIVE_BUFFER == 4 * 1024 * 1024
    with (
        ports.media_socket("127.0.0.1", 0) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
    ):
        given = ports.grow(plain, ports.RECEIVE_BUFFER, ports.SEND_BUFFER)
        for option, size in zip((socket.SO_RCVBUF, socket.SO_SNDBUF), given, strict=True):
            assert sock.getsockopt(socket.SOL_SOCKET, option) // 2 == size
            assert 0 < size <= ports.RECEIVE_BUFFER
