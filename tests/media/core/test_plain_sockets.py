"""The same work on a system without recvmmsg and without UDP segmentation."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from media import mmsg, node, pump
from media.node import Node
from media.specs import ReceiverSpec, SenderSpec


@pytest.mark.parametrize("segmentation", [True, False])
async def test_packets_are_read_and_sent_one_by_one(
    tmp_path: Path,
    node_settings,
    sender_of,
    h264_units,
    udp_socket: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    segmentation: bool,
) -> None:
    monkeypatch.setattr(mmsg, "probe", lambda: False)
    monkeypatch.setattr(node, "probe_gso", lambda: segmentation and pump.probe_gso())
    running = Node(node_settings(tmp_path))
    await running.start()
    assert not running.pump.batches
    info = running.open_receiver(ReceiverSpec(stream_id="s", ssrc=183000001))
    host, port = udp_socket.getsockname()
    running.open_sender(SenderSpec(sender_id="u", stream_id="s", remote_host=host, remote_port=port, ssrc=9))
    running.start_sender("u")
    sent: list[bytes] = []
    loop = asyncio.get_running_loop()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as camera,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        for packets in sender_of(h264_units, audio=True).frames():
            for packet in packets:
                camera.sendto(packet, ("127.0.0.1", info.port))
            stranger.sendto(packets[0], ("127.0.0.1", info.port))
            sent += packets
            await asyncio.sleep(0.001)
        received = [await asyncio.wait_for(loop.sock_recv(udp_socket, 65536), 10) for _ in sent]
    assert [packet[12:] for packet in received] == [packet[12:] for packet in sent]
    stats = running.stream_stats("s")
    assert (stats.packets, stats.foreign_packets, stats.lost) == (len(sent), 100, 0)
    await running.close()


def test_a_system_without_recvmmsg_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmsg, "_recvmmsg", None)
    assert not mmsg.available()
    assert not mmsg.probe()
    with pytest.raises(OSError, match="recvmmsg"):
        mmsg.BatchReceiver(bytearray(64))
