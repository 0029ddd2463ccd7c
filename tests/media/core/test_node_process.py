"""The node as a process: configuration in, ready line out, work over its socket, an end in three ways."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from media.client import MediaClient
from media.errors import MediaError
from media.rtp import parse
from media.specs import NodeConfig, ReceiverSpec, SenderSpec


@dataclass
class NodeProcess:
    process: Process
    config: NodeConfig
    ready: dict[str, Any]
    client: MediaClient

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 20)


@pytest.fixture
async def spawn(
    tmp_path: Path, node_settings: Callable[..., NodeConfig]
) -> AsyncIterator[Callable[..., Any]]:
    running: list[NodeProcess] = []

    async def start(**options: object) -> NodeProcess:
        config = node_settings(tmp_path, **options)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "media.node", stdin=PIPE, stdout=PIPE, cwd=Path(__file__).parents[3]
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(config.model_dump_json().encode() + b"\n")
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        client = MediaClient(config.control, config.control_secret)
        await client.start()
        running.append(NodeProcess(process, config, json.loads(line), client))
        return running[-1]

    yield start
    for node in running:
        await node.client.close()
        if node.process.returncode is None:
            node.process.kill()
            await node.process.wait()


async def test_a_node_receives_relays_and_counts(spawn, h264_units, udp_socket, sender_of) -> None:
    node = await spawn()
    assert node.ready["ready"] is True
    assert node.ready["viewer_port"] > 0
    info = await node.client.open_receiver(ReceiverSpec(stream_id="s", ssrc=183000001))
    upper = udp_socket.getsockname()
    await node.client.open_sender(
        SenderSpec(sender_id="u", stream_id="s", remote_host=upper[0], remote_port=upper[1], ssrc=5)
    )
    await node.client.start_sender("u")
    events = node.client.events()

    async def until_ready() -> list[str]:
        kinds = []
        async for event in events:
            kinds.append(event.type)
            if event.type == "stream_ready":
                break
        return kinds

    waiting = asyncio.create_task(until_ready())
    sent = []
    loop = asyncio.get_running_loop()
    for packets in sender_of(h264_units).frames():
        for packet in packets:
            await loop.sock_sendto(udp_socket, packet, ("127.0.0.1", info.port))
        sent += packets
        await asyncio.sleep(0.002)
    received = [await asyncio.wait_for(loop.sock_recv(udp_socket, 65536), 10) for _ in sent]
    assert [packet[12:] for packet in received] == [packet[12:] for packet in sent]
    assert {parse(packet).ssrc for packet in received} == {5}
    # The relay began before any picture came, so a key frame was asked for first.
    assert await asyncio.wait_for(waiting, 10) == ["key_frame_wanted", "stream_ready"]
    await events.aclose()
    stats = await node.client.stats()
    assert (stats.node_id, stats.streams, stats.senders) == ("node-1", 1, 1)
    assert stats.per_stream[0].packets == len(sent)
    assert stats.per_stream[0].relay_packets == len(sent)
    assert Path(node.config.control.removeprefix("unix:")).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("way", ["stdin", "sigterm"])
async def test_a_node_ends_with_its_parent_or_when_told(spawn, way: str) -> None:
    node = await spawn()
    await node.client.open_receiver(ReceiverSpec(stream_id="s"))
    events = node.client.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.2)
    if way == "stdin":
        node.process.stdin.close()
    else:
        node.process.send_signal(signal.SIGTERM)
    assert await node.ended() == 0
    with pytest.raises(MediaError) as caught:
        await asyncio.wait_for(waiting, 10)
    assert caught.value.code == "unavailable"


async def test_a_killed_node_is_noticed_at_once(spawn) -> None:
    node = await spawn()
    events = node.client.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.2)
    node.process.kill()
    with pytest.raises(MediaError):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(MediaError) as caught:
        await node.client.stats()
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize(("line", "status"), [(b"not json\n", 2), (b"{}\n", 2), (b"\n", 2)])
async def test_a_wrong_configuration_is_refused(line: bytes, status: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "media.node",
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=Path(__file__).parents[3],
    )
    _, errors = await asyncio.wait_for(process.communicate(line), 30)
    assert process.returncode == status
    assert b"configuration is wrong" in errors


async def test_a_control_api_on_tcp(spawn, unused_tcp_port: int) -> None:
    node = await spawn(control=f"tcp:127.0.0.1:{unused_tcp_port}")
    assert (await node.client.stats()).streams == 0
