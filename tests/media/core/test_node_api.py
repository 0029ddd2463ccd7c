"""A node on loopback through its real control API: receive, be ready, relay, count, end."""

from __future__ import annotations

import asyncio

from media.specs import ReceiverSpec


async def test_smoke(running_node, h264_units, udp_socket, sender_of):
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s1", ssrc=183000001))
    for frame in sender_of(h264_units, audio=True).frames():
        for packet in frame:
            udp_socket.sendto(packet, ("127.0.0.1", info.port))
        await asyncio.sleep(0.001)
    event = await running_node.event("stream_ready")
    print(event)
    await asyncio.sleep(0.1)
    print(await running_node.client.stream("s1"))
    print(await running_node.client.stats())
