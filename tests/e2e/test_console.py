"""The console in a real Chromium on the whole demo: log-in, tree, four live views, camera control, lists, end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from gateway.demo import Demo, running_demo

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow, pytest.mark.timeout(300)]

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 45_000
NO_WEBRTC = "delete window.RTCPeerConnection"
# What a decoded picture looks like: frames that go on, and a canvas that is neither black nor of one colour.
WATCH = """async (tile) => {
  const video = tile.querySelector("video");
  const canvas = document.createElement("canvas");
  canvas.width = 64; canvas.height = 36;
  const before = video.getVideoPlaybackQuality().totalVideoFrames;
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, 64, 36);
  const data = context.getImageData(0, 0, 64, 36).data;
  let sum = 0, squares = 0;
  for (let i = 0; i < data.length; i += 4) { sum += data[i + 1]; squares += data[i + 1] ** 2; }
  const n = data.length / 4, mean = sum / n;
  const frames = video.getVideoPlaybackQuality().totalVideoFrames - before;
  return {frames, mean, deviation: Math.sqrt(squares / n - mean * mean)};
}"""


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


class Console:
    """A page that is logged in, and what went wrong in it."""

    def __init__(self, page: Page, demo: Demo) -> None:
        self.page = page
        self.demo = demo
        self.faults: list[str] = []
        self.asked: list[tuple[str, str]] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        page.on("request", lambda request: self.asked.append((request.method, request.url)))
        page.set_default_timeout(PATIENCE_MS)

    async def log_in(self) -> None:
        await self.page.goto(self.demo.api.url + "/")
        await self.page.fill("#login-name", "admin")
        await self.page.fill("#login-password", self.demo.gateway.first_password or "")
        await self.page.click("button[type=submit]")
        await self.page.wait_for_selector(".tree-row.playable")

    async def open(self, name: str) -> None:
        await self.page.locator(".tree-row.playable", has_text=name).first.click()

    def tile(self, name: str) -> Any:
        return self.page.locator(".tile", has=self.page.locator(".tile-name", has_text=name))

    async def playing(self, name: str) -> dict[str, float]:
        """Wait until the picture plays; returns what is to be seen."""
        tile = self.tile(name)
        await self.page.wait_for_selector(f'.tile[data-state="playing"]:has(.tile-name:text-is("{name}"))')
        await tile.locator(".badge", has_text="fps").wait_for()
        seen: dict[str, float] = await tile.evaluate(WATCH)
        return seen

    async def count(self, selector: str, wanted: int) -> None:
        """Wait until so many elements are there (scripts of ours are not let in by the page's own policy)."""
        await expect(self.page.locator(selector)).to_have_count(wanted, timeout=PATIENCE_MS)


@contextlib.asynccontextmanager
async def console(demo: Demo, browser: Browser, *, script: str = "") -> AsyncIterator[Console]:
    context = await browser.new_context(viewport={"width": 1440, "height": 900}, locale="zh-CN")
    page = await context.new_page()
    if script:
        await page.add_init_script(script)
    opened = Console(page, demo)
    await opened.log_in()
    yield opened
    await context.close()


async def sessions_of(demo: Demo, channel: str) -> list[dict[str, Any]]:
    found = (await demo.api.call("GET", "/api/sessions"))["items"]
    return [session for session in found if session["channel_id"] == channel]


@pytest.mark.timeout(480)
@pytest.mark.usefixtures("only_demo")
async def test_the_console_shows_and_moves_real_cameras() -> None:
    """One demo for all of it: starting one costs more than the steps."""
    async with running_demo(0) as demo, chromium() as browser:
        await four_views_by_webrtc(demo, browser)
        await without_webrtc(demo, browser)
        await a_codec_the_browser_cannot_show(demo, browser)
        await lists_and_forms(demo, browser)
        await a_wrong_password(demo, browser)


async def four_views_by_webrtc(demo: Demo, browser: Browser) -> None:
    names = ["东门 H.264 UDP", "西门 H.264 TCP 被动", "学校路 H.264 TCP 主动", "医院 带声音"]
    async with console(demo, browser) as shown:
        for name in names:
            await shown.open(name)
        for name in names:
            seen = await shown.playing(name)
            assert seen["frames"] > 5
            assert seen["mean"] > 20
            assert seen["deviation"] > 10
            badges = await shown.tile(name).locator(".badge").all_inner_texts()
            assert badges[:2] == ["H264", "WebRTC"]
        await moves_the_camera(demo, shown, names[-1])
        await stops_cleanly(demo, shown, names)
        assert shown.faults == []


async def moves_the_camera(demo: Demo, shown: Console, name: str) -> None:
    """A button held renews the movement, letting go stops it; so do the arrow keys."""
    await shown.tile(name).click()
    box = await shown.page.locator('.pad-btn[aria-label="右"]').bounding_box()
    assert box is not None
    await shown.page.mouse.move(box["x"] + 8, box["y"] + 8)
    async with shown.page.expect_response("**/ptz?*"):
        await shown.page.mouse.down()
    await asyncio.sleep(2.6)
    async with shown.page.expect_response("**/ptz?*"):
        await shown.page.mouse.up()
    await shown.page.focus(".ptz-pad")
    async with shown.page.expect_response("**/ptz?*"):
        await shown.page.keyboard.down("ArrowUp")
    async with shown.page.expect_response("**/ptz?*"):
        await shown.page.keyboard.up("ArrowUp")
    await asyncio.sleep(0.5)
    lines = (await demo.api.call("GET", "/api/audit?limit=20"))["items"]
    commands = [line["detail"][6:8] for line in reversed(lines) if line["action"] == "ptz"]
    assert commands == ["01", "01", "00", "08", "00"]  # right, renewed, stop, up, stop


async def stops_cleanly(demo: Demo, shown: Console, names: list[str]) -> None:
    """Closing the views tells the gateway at once, and the cameras are released after the grace time."""
    await shown.page.click('.toolbar [aria-label="全部停止"]')
    await shown.count(".tile[data-state=empty]", 4)
    assert sum(method == "DELETE" and "/whep/" in url for method, url in shown.asked) == len(names)
    channels = {c["name"]: c["channel_id"] for c in await demo.cameras()}
    async with asyncio.timeout(30):
        while any([await sessions_of(demo, channels[name]) for name in names]):
            await asyncio.sleep(0.5)


async def without_webrtc(demo: Demo, browser: Browser) -> None:
    async with console(demo, browser, script=NO_WEBRTC) as shown:
        await shown.open("东门 H.264 UDP")
        seen = await shown.playing("东门 H.264 UDP")
        assert seen["frames"] > 5
        assert seen["deviation"] > 10
        badges = await shown.tile("东门 H.264 UDP").locator(".badge").all_inner_texts()
        assert badges[1] == "fMP4 / WebSocket"
        assert shown.faults == []  # above all: the content security policy lets the media node in


async def a_codec_the_browser_cannot_show(demo: Demo, browser: Browser) -> None:
    """H.265 is refused for WebRTC (406); by MSE it comes as it is where the browser can, else transcoded."""
    async with console(demo, browser) as shown:
        await shown.open("加油站 H.265")
        seen = await shown.playing("加油站 H.265")
        assert seen["frames"] > 5
        assert seen["deviation"] > 10
        badges = await shown.tile("加油站 H.265").locator(".badge").all_inner_texts()
        channels = {c["name"]: c["channel_id"] for c in await demo.cameras()}
        ways = {session["transport"] for session in await sessions_of(demo, channels["加油站 H.265"])}
        assert ("transcode" in ways) == (badges[0] == "H264")
        assert any("/live?" in url and "accept=h264" in url for _, url in shown.asked)


async def lists_and_forms(demo: Demo, browser: Browser) -> None:
    async with console(demo, browser) as shown:
        page = shown.page
        await page.click('.tab[data-view="devices"]')
        await shown.count(".view:not([hidden]) tbody tr", 7)
        await page.click(".view:not([hidden]) .btn.primary")
        await page.fill(".dialog input >> nth=0", "123")
        await page.click(".dialog .btn.primary")
        await page.wait_for_selector('.dialog input[aria-invalid="true"]')
        assert "格式不正确" in await page.locator(".dialog .form-error").first.inner_text()
        await page.fill(".dialog input >> nth=0", "41018300001320000099")
        await page.fill(".dialog input >> nth=1", "南门 & <北门>")
        await page.click(".dialog .btn.primary")
        await page.wait_for_selector("text=南门 & <北门>")
        await page.locator("tbody tr", has_text="学校路").locator('[aria-label="档案与信令"]').click()
        await page.wait_for_selector(".dialog .wire-step summary:has-text('REGISTER')")
        await (
            page.locator(".dialog .wire-step summary", has_text="Notify Keepalive")
            .or_(page.locator(".dialog .wire-step summary", has_text="Response Catalog"))
            .first.click()
        )
        assert "<CmdType>" in await page.locator(".dialog .wire-step[open] pre").inner_text()
        assert (
            "人工设置" in await page.locator(".dialog .wire table").inner_text()
        )  # the demo sets its media transport
        await page.click('.dialog [aria-label="×"]')
        await page.wait_for_selector(".dialog", state="detached")
        await page.click('.tab[data-view="platforms"]')
        await page.wait_for_selector(".card .tag.on")
        await page.click('.card [aria-label="共享选择"]')
        await shown.count(".share-row", 14)
        await page.click('.share-row input[type="checkbox"] >> nth=2')
        await page.click(".dialog .btn.primary")
        await page.wait_for_selector(".dialog", state="detached")
        shares = await demo.api.call("GET", "/api/platforms/41010000002000000001/shares")
        assert shares["total"] == 1
        await page.click('.tab[data-view="live"]')
        await page.fill(".side input[type=search]", "医院")
        await shown.count(".tree-row", 1)
        await page.click(".side [role=tab] >> nth=1")
        await page.wait_for_selector(".tree-label:text-is('郑州市')")
        await page.click(".top .btn.quiet[lang=en]")
        await page.wait_for_selector(".tab.active:text-is('Live')")
        assert [fault for fault in shown.faults if "422" not in fault] == []
        await page.locator(".user .btn", has_text="Log out").click()
        await page.wait_for_selector(".login-card")
        # what was being asked for at that moment is refused now
        assert [fault for fault in shown.faults if "422" not in fault and "401" not in fault] == []


async def a_wrong_password(demo: Demo, browser: Browser) -> None:
    context = await browser.new_context(locale="zh-CN")
    page = await context.new_page()
    await page.goto(demo.api.url + "/")
    await page.fill("#login-name", "admin")
    await page.fill("#login-password", "wrong guess")
    await page.click("button[type=submit]")
    await page.wait_for_selector(".form-error:text-is('用户名或密码错误')")
    await context.close()
