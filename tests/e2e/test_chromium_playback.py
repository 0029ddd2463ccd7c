"""A browser plays a clip of our recordings: opened over the API, shown by MediaSource and WebRTC, at 1x and 4x, moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playback_house import DEVICE, ApiClient, recorded_gateway, user
from recorded import EPOCH, record

from simulator.picture import read_mark

playwright = pytest.importorskip("playwright.async_api")

PLAYER = Path(__file__).with_name("player.html")
BROWSER_ARGUMENTS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--autoplay-policy=no-user-gesture-required",
]
CHANNEL = "41018300001310000071"

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]


async def _page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PLAYER)


@dataclass
class Theatre:
    """A gateway with recordings, its API, and an empty page."""

    api: ApiClient
    page: Any

    async def open(self, **values: Any) -> dict[str, Any]:
        begin = datetime.fromtimestamp(EPOCH, UTC)
        body = {"start": begin.isoformat(), "end": (begin + timedelta(seconds=24)).isoformat(), **values}
        status, answer = await self.api.call("POST", f"/api/channels/{CHANNEL}/playback", body)
        assert status == 201, answer
        found: dict[str, Any] = answer
        return found

    async def change(self, playback: dict[str, Any], **values: Any) -> dict[str, Any]:
        status, answer = await self.api.call("PATCH", f"/api/playback/{playback['session_id']}", values)
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    async def close(self, playback: dict[str, Any]) -> None:
        status, _ = await self.api.call("DELETE", f"/api/playback/{playback['session_id']}")
        assert status == 204

    async def look(self) -> tuple[int, int, float]:
        """Pictures shown so far, the number of the one on the screen (-1: not readable), and its time."""
        seen = await self.page.evaluate("look()")
        assert not seen["errors"], seen["errors"]
        assert not seen["error"], seen["error"]
        number = -1
        if seen["strip"]:
            grey = np.array(seen["strip"], dtype=np.uint8).reshape(-1, seen["width"])
            mark = read_mark(grey)
            number = -1 if mark is None else mark.frame
        return seen["frames"], number, seen["time"]

    async def shown(self, count: int) -> tuple[int, int, float]:
        async with asyncio.timeout(60):
            while True:
                frames, number, at = await self.look()
                if frames >= count and number >= 0:
                    return frames, number, at
                await asyncio.sleep(0.05)


@dataclass
class House:
    """What all tests of this file share: the API, one browser, one page to open."""

    api: ApiClient
    browser: Any
    address: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    disk = tmp_path_factory.mktemp("disk")
    made = record(disk, 24.0, segment_s=12, channel_id=CHANNEL, device_id=DEVICE)
    app = web.Application()
    app.router.add_get("/", _page)
    site = TestServer(app)
    await site.start_server()
    async with (
        recorded_gateway(tmp_path_factory.mktemp("gateway"), disk, made) as gateway,
        user(gateway) as api,
        playwright.async_playwright() as driver,
    ):
        browser = await driver.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER_ARGUMENTS)
        yield House(api, browser, str(site.make_url("/")))
        await browser.close()
    await site.close()


@pytest_asyncio.fixture(loop_scope="module")
async def theatre(house: House) -> AsyncIterator[Theatre]:
    page = await house.browser.new_page()
    await page.goto(house.address)
    yield Theatre(house.api, page)
    await page.close()


@pytest.mark.parametrize("speed", [1, 4])
async def test_pictures_advance_at_the_speed_of_the_clip(theatre: Theatre, speed: int) -> None:
    playback = await theatre.open(speed=speed)
    await theatre.page.evaluate("url => playWebSocket(url)", playback["urls"]["ws"])
    _, first, began = await theatre.shown(10)
    frames, last, ended = await theatre.shown(60)
    assert frames >= 60
    assert ended > began
    assert last > first
    # Recorded pictures that pass in a second of the player's time: the mark in the picture tells.
    assert (last - first) / (ended - began) == pytest.approx(25 * speed, rel=0.2)
    await theatre.close(playback)


async def test_a_move_and_another_speed_are_seen_without_a_new_player(theatre: Theatre) -> None:
    playback = await theatre.open()
    await theatre.page.evaluate("url => playWebSocket(url)", playback["urls"]["ws"])
    frames, _, _ = await theatre.shown(10)
    moved = await theatre.change(playback, position_s=20.5)
    assert moved["position_s"] == pytest.approx(20.0, abs=0.01)
    async with asyncio.timeout(60):
        while (seen := await theatre.look())[1] < 500:
            await asyncio.sleep(0.05)
    assert seen[0] > frames
    await theatre.change(playback, position_s=10, speed=-4)
    async with asyncio.timeout(60):
        while not 0 <= (await theatre.look())[1] < 200:
            await asyncio.sleep(0.05)
    await theatre.close(playback)


async def test_a_playback_by_webrtc(theatre: Theatre) -> None:
    playback = await theatre.open()

    async def exchange(sdp: str) -> str:
        path = f"{theatre.api.base}/api/playback/{playback['session_id']}/whep"
        headers = {"Content-Type": "application/sdp", "Origin": theatre.api.base}
        async with theatre.api.session.post(path, data=sdp, headers=headers) as answer:
            assert answer.status == 201, await answer.text()
            return await answer.text()

    await theatre.page.expose_function("exchangePlayback", exchange)
    await theatre.page.evaluate("playWhep('exchangePlayback', true)")
    _, first, _ = await theatre.shown(10)
    _, last, _ = await theatre.shown(40)
    assert last > first
    await theatre.close(playback)
