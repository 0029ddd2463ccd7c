"""A browser plays a recording that is in a device: fMP4 over WebSocket, shown smoothly at every speed, moved, paused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from device_records_house import Player, clock_of, day, quiet_gateway, recorder
from playback_house import user

from simulator.picture import read_mark
from simulator.records import RecordFaults

playwright = pytest.importorskip("playwright.async_api")

PLAYER = Path(__file__).with_name("player.html")
BROWSER_ARGUMENTS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--autoplay-policy=no-user-gesture-required",
]

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass
class Theatre:
    """One recorder's recordings, the API, and a page."""

    player: Player
    faults: RecordFaults
    page: Any

    async def look(self) -> tuple[int, float | None, float]:
        """Pictures shown so far, the recording's clock in the one on the screen, and the player's time."""
        seen = await self.page.evaluate("look()")
        assert not seen["errors"], seen["errors"]
        assert not seen["error"], seen["error"]
        if not seen["strip"]:
            return seen["frames"], None, seen["time"]
        mark = read_mark(np.array(seen["strip"], dtype=np.uint8).reshape(-1, seen["width"]))
        return seen["frames"], None if mark is None else clock_of(mark.time_ms), seen["time"]

    async def shown(self, count: int) -> tuple[float, float]:
        """Clock and player's time once so many pictures were shown."""
        async with asyncio.timeout(60):
            while True:
                frames, clock, time = await self.look()
                if frames >= count and clock is not None:
                    return clock, time
                await asyncio.sleep(0.05)

    async def after(self, seconds: float) -> tuple[int, float, float]:
        """The same once the player has played so much longer."""
        _, _, begun = await self.look()
        async with asyncio.timeout(60):
            while True:
                frames, clock, time = await self.look()
                if clock is not None and time >= begun + seconds:
                    return frames, clock, time
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Theatre]:
    async def page(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PLAYER)

    app = web.Application()
    app.router.add_get("/", page)
    site = TestServer(app)
    await site.start_server()
    async with (
        quiet_gateway(tmp_path_factory.mktemp("house")) as gateway,
        recorder(gateway) as device,
        user(gateway) as api,
        playwright.async_playwright() as driver,
    ):
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        browser = await driver.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER_ARGUMENTS)
        shown = await browser.new_page()
        await shown.goto(str(site.make_url("/")))
        yield Theatre(Player(api, device, channel_id), device.answers.records.faults, shown)
        await browser.close()
    await site.close()


@pytest.mark.quirk(40)
@pytest.mark.parametrize(("speed", "squeezed"), [(0.25, False), (2.0, True), (8.0, False)])
async def test_pictures_pass_smoothly_at_every_speed(theatre: Theatre, speed: float, squeezed: bool) -> None:
    theatre.faults.squeezed_stamps = squeezed
    await theatre.page.reload()
    playback = await theatre.player.open(600, 3600)
    await theatre.page.evaluate("url => playWebSocket(url)", playback["urls"]["ws"])
    await theatre.shown(5)
    if speed != 1:
        await theatre.player.change(playback, speed=speed)
    await theatre.after(2.0)  # what was sent before is through, and the device's way with its times is known
    loop, device = asyncio.get_running_loop(), theatre.player.device.calls.history[-1].player
    assert device is not None
    first_frames, first, begun = await theatre.after(0.1)
    place, began = device.position_s, loop.time()
    frames, last, ended = await theatre.after(3.0)
    pace = (device.position_s - place) / (loop.time() - began)  # a busy machine may not make the whole speed
    assert pace < 1.2 * speed
    # Seconds of the recording that pass in a second of the player's time, and pictures that were really shown.
    assert (last - first) / (ended - begun) == pytest.approx(pace, rel=0.4)
    assert frames - first_frames >= 3 * min(8, 25 * pace) * 0.4
    await theatre.player.close(playback)


async def test_a_move_a_pause_and_backward_are_seen_without_a_new_player(theatre: Theatre) -> None:
    theatre.faults.squeezed_stamps = False
    await theatre.page.reload()
    playback = await theatre.player.open(600, 3600)
    await theatre.page.evaluate("url => playWebSocket(url)", playback["urls"]["ws"])
    await theatre.shown(10)
    await theatre.player.change(playback, position_s=1000)
    async with asyncio.timeout(60):
        while ((await theatre.look())[1] or 0) < 1600:
            await asyncio.sleep(0.05)
    await theatre.player.change(playback, paused=True)
    await asyncio.sleep(2)
    _, stands, _ = await theatre.look()
    await asyncio.sleep(1)
    assert (await theatre.look())[1] == stands
    await theatre.player.change(playback, paused=False)
    async with asyncio.timeout(60):
        while ((await theatre.look())[1] or 0) <= (stands or 0):
            await asyncio.sleep(0.05)
    await theatre.player.change(playback, position_s=500, speed=-4)
    async with asyncio.timeout(60):
        while not 1000 < ((await theatre.look())[1] or 0) < 1095:
            await asyncio.sleep(0.05)
    await theatre.player.close(playback)
