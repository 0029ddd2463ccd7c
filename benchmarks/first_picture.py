"""First picture: from the API call to the first key frame at the viewer, with a cold camera and with a running stream."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import aiohttp

from benchmarks.measure import Row
from gateway.demo import CAMERAS, Demo, running_demo

ROUNDS = 5
IDLE_WAIT_S = 30.0


async def first_fragment(demo: Demo, channel_id: str) -> float:
    """Seconds from POST …/live to the first movie fragment (``moof``) over WebSocket."""
    began = time.monotonic()
    live = await demo.api.call("POST", f"/api/channels/{channel_id}/live", {})
    async with demo.api.session.ws_connect(live["ws"]) as socket:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY and b"moof" in message.data[:64]:
                return time.monotonic() - began
    raise RuntimeError("the viewer's connection ended without a picture")


async def wait_idle(demo: Demo) -> None:
    """Until no session is left, so that the next play is a cold one."""
    deadline = time.monotonic() + IDLE_WAIT_S
    while (await demo.api.call("GET", "/api/sessions"))["items"]:
        if time.monotonic() > deadline:
            raise RuntimeError("a session without viewers did not end")
        await asyncio.sleep(0.1)


async def measure() -> list[dict[str, Any]]:
    rows = []
    async with running_demo(0) as demo:
        by_device = {channel["device_id"]: channel["channel_id"] for channel in await demo.cameras()}
        for camera in CAMERAS[:3]:
            channel = by_device[camera["device_id"]]
            cold, warm = [], []
            for _ in range(ROUNDS):
                await wait_idle(demo)
                cold.append(await first_fragment(demo, channel))
                warm.append(await first_fragment(demo, channel))
            ratio = statistics.median(warm) / statistics.median(cold)
            rows.append(
                Row(
                    f"first picture, cold, {camera['media']}",
                    statistics.median(cold) * 1000,
                    "ms",
                    how=f"median of {ROUNDS}: POST live to the first fMP4 fragment at the viewer",
                ).as_dict()
            )
            rows.append(
                Row(
                    f"first picture, running stream, {camera['media']}",
                    statistics.median(warm) * 1000,
                    "ms",
                    "cold",
                    ratio,
                    "below the cold one",
                    ratio < 1,
                ).as_dict()
            )
    return rows


def run() -> list[dict[str, Any]]:
    """Rows for the table; runs the demo's gateway and cameras for about two minutes."""
    return asyncio.run(measure())
