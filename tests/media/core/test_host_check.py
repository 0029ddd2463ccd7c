"""What is told at start about the kernel's limits, and drops counted by the kernel."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from media import host_check, ports


def test_a_buffer_smaller_than_asked_is_named_with_its_sysctl_and_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(host_check, "grow", lambda sock, receive, send: (212_992, send))
    monkeypatch.setattr(host_check, "LOCAL_PORTS", tmp_path / "nothing")
    with caplog.at_level(logging.WARNING):
        host_check.warn(20000, 23999, shared_port=False)
    (record,) = caplog.records
    assert "net.core.rmem_max=4194304" in record.getMessage()
    assert "given_bytes=212992" in record.getMessage()
    (line,) = host_check.buffer_warnings(shared_port=True)
    assert "net.core.rmem_max=33554432" in line


def test_send_buffers_have_a_sysctl_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "grow", lambda sock, receive, send: (receive, 1000))
    (line,) = host_check.buffer_warnings(shared_port=False)
    assert "net.core.wmem_max=4194304" in line


def test_enough_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "grow", lambda sock, receive, send: (receive, send))
    assert host_check.buffer_warnings(shared_port=True) == []


def test_without_privilege_the_kernels_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forced option is refused; what the plain one gives is what is told."""
    monkeypatch.setattr(ports, "_SO_RCVBUFFORCE", 4711)
    monkeypatch.setattr(ports, "_SO_SNDBUFFORCE", 4711)
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        receive, _ = ports.grow(sock, limit + 4096, 4096)
        assert receive == limit


@pytest.mark.parametrize(
    ("low", "high", "overlaps"),
    [(20000, 23999, False), (32000, 33000, True), (61000, 62000, False), (60999, 61200, True)],
)
def test_rtp_ports_in_the_range_of_outgoing_connections_are_told(
    tmp_path: Path, low: int, high: int, overlaps: bool
) -> None:
    path = tmp_path / "range"
    path.write_text("32768\t60999\n")
    lines = host_check.port_warnings(low, high, path)
    assert bool(lines) is overlaps
    assert all("net.ipv4.ip_local_port_range" in line and f"{low}-{high}" in line for line in lines)
    assert host_check.port_warnings(low, high, tmp_path / "missing") == []


def test_what_the_kernel_drops_is_counted() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sink.bind(("127.0.0.1", 0))
        assert host_check.kernel_drops(sink) == 0
        for _ in range(100):
            source.sendto(bytes(1000), sink.getsockname())
        received = 0
        sink.setblocking(False)
        while True:
            try:
                sink.recv(2000)
            except BlockingIOError:
                break
            received += 1
        assert 0 < received < 100
        assert host_check.kernel_drops(sink) == 100 - received
