"""A node that is stopped lets out what waits in its relays, and takes nothing new meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from media import node as node_module
from media.client import MediaClient
from media.errors import MediaError
from media.node import Node
from media.rtp import RtpPacketizer
from media.specs import ReceiverSpec, SenderSpec, Transport

SSRC = 183000001
ROOT = Path(__file__).parents[3]


def key_frame(size: int) -> list[bytes]:
    """Packets of one frame that begins like a program stream and goes on as noise."""
    noise = random.Random(4).randbytes(size)
    return RtpPacketizer(SSRC, 96).packets(b"\x00\x00\x01\xba" + noise, 3600)


async def test_paced_packets_leave_before_a_stopped_node_ends(
    tmp_path: Path, node_settings: Any, udp_socket: socket.socket
) -> None:
    config = node_settings(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "media.node", stdin=PIPE, stdout=PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(config.model_dump_json().encode() + b"\n")
    await asyncio.wait_for(process.stdout.readline(), 60)
    client = MediaClient(config.control, config.control_secret)
    await client.start()
    info = await client.open_receiver(ReceiverSpec(stream_id="s", ssrc=SSRC))
    host, port = udp_socket.getsockname()
    await client.open_sender(
        SenderSpec(sender_id="u", stream_id="s", remote_host=host, remote_port=port, ssrc=9)
    )
    await client.start_sender("u")
    packets = key_frame(1_500_000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as camera:
        for number, packet in enumerate(packets):
            camera.sendto(packet, ("127.0.0.1", info.port))
            if number % 200 == 199:
                await asyncio.sleep(0.001)
    async with asyncio.timeout(30):
        while (await client.stream("s")).packets < len(packets):
            await asyncio.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        got = [await loop.sock_recv(udp_socket, 65536) for _ in packets]
    assert [packet[12:] for packet in got] == [packet[12:] for packet in packets]
    assert await asyncio.wait_for(process.wait(), 30) == 0
    await client.close()


async def test_a_peer_that_does_not_read_holds_a_node_up_for_a_bounded_time(
    tmp_path: Path, node_settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node_module, "DRAIN_S", 0.2)
    node = Node(node_settings(tmp_path))
    await node.start()
    info = node.open_receiver(ReceiverSpec(stream_id="s", ssrc=SSRC))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        node.open_sender(
            SenderSpec(
                sender_id="u", stream_id="s", transport=Transport.TCP_ACTIVE, remote_host="127.0.0.1",
                remote_port=server.getsockname()[1], ssrc=9,
            )
        )  # fmt: skip
        node.start_sender("u")
        server.setblocking(False)
        loop = asyncio.get_running_loop()
        peer, _ = await asyncio.wait_for(loop.sock_accept(server), 30)
        relay = node._relays["u"][1]
        with peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as camera:
            frame = 0
            async with asyncio.timeout(60):
                while relay.waiting_bytes < 100_000:
                    for packet in key_frame(200_000):
                        camera.sendto(packet, ("127.0.0.1", info.port))
                    frame += 1
                    await asyncio.sleep(0.02)
            with caplog.at_level(logging.WARNING, "media.node"):
                await asyncio.wait_for(node.drain(), 30)
            assert any("event=drain_incomplete" in record.getMessage() for record in caplog.records)
            await node.close()


async def test_a_node_that_is_being_stopped_takes_no_new_streams(tmp_path: Path, node_settings: Any) -> None:
    node = Node(node_settings(tmp_path))
    await node.start()
    node.open_receiver(ReceiverSpec(stream_id="s", ssrc=SSRC))
    await node.drain()
    for begin in (
        lambda: node.open_receiver(ReceiverSpec(stream_id="t")),
        lambda: node.open_sender(
            SenderSpec(sender_id="u", stream_id="s", transport=Transport.TCP_PASSIVE, ssrc=1)
        ),
    ):
        with pytest.raises(MediaError) as refused:
            begin()
        assert (refused.value.code, refused.value.status) == ("unavailable", 503)
    assert node.stream_stats("s").packets == 0
    await node.close()
