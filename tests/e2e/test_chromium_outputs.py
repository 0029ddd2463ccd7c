"""FLV, MPEG-TS and HLS on a real screen, by the players that integrators use: mpegts.js and hls.js in Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from studio import LIBRARIES, SIZE, Stage, Studio, delay_s, frame_shown, open_stage, open_studio

from simulator.picture import TestPicture

pytest.importorskip("playwright.async_api")

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.skipif(
        not ((LIBRARIES / "hls.js").is_dir() and (LIBRARIES / "mpegts.js").is_dir()),
        reason="hls.js and mpegts.js are not there: 'make tools' fetches them where npm is installed",
    ),
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def studio(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Studio]:
    async with open_studio(tmp_path_factory.mktemp("node")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def stage(studio: Studio) -> AsyncIterator[Stage]:
    async with open_stage(studio) as opened:
        yield opened


def check_moving(first: dict[str, Any], later: dict[str, Any], *, clock: bool = True) -> None:
    assert (first["width"], first["height"]) == SIZE
    assert np.std(first["grey"]) > 30, "not one colour"
    assert np.abs(np.array(first["grey"]) - np.array(later["grey"])).max() > 60, "it moves"
    shown = [frame for frame in (frame_shown(first), frame_shown(later)) if frame is not None]
    assert shown == sorted(shown)
    assert shown
    assert later["decodedAudio"] > 0, "the sound is decoded too"
    delay = delay_s(later) if clock else None
    assert delay is None or delay < 20, "the clock in the picture is the clock on the wall, more or less"


@pytest.mark.parametrize(("way", "b_frames"), [("flv", 2), ("ws_flv", 0), ("ts", 2)])
async def test_mpegts_js_shows_it(stage: Stage, way: str, b_frames: int) -> None:
    stream_id = await stage.film(
        TestPicture(*SIZE, preset="veryfast", profile="high", gop=25, b_frames=b_frames)
    )
    await stage.watch(way, stream_id)
    first = await stage.frames(20)
    later = await stage.frames(first["frames"] + 25)
    check_moving(
        first, later, clock=not b_frames
    )  # B-frames come from a prepared loop with a clock of its own
    assert later["about"]["videoCodec"].startswith("avc1.64")
    assert later["about"]["audioCodec"] == "mp4a.40.2"
    assert later["dropped"] < later["frames"] / 2


@pytest.mark.parametrize("way", ["flv", "ts"])
async def test_h265_is_understood_and_plays_where_the_browser_can(stage: Stage, way: str) -> None:
    stream_id = await stage.film(TestPicture(*SIZE, codec="h265", gop=25))
    await stage.watch(way, stream_id)
    async with asyncio.timeout(30):
        while not (seen := await stage.look())["about"] and not seen["errors"]:
            await asyncio.sleep(0.1)
    if await stage.page.evaluate("MediaSource.isTypeSupported('video/mp4; codecs=\"hvc1.1.6.L60.90\"')"):
        await stage.frames(20)
    else:
        assert seen["errors"], "the browser cannot"
        # The player got as far as handing the picture to the browser: the format was no riddle.
        assert all(error.startswith("MediaError") for error in seen["errors"]), seen["errors"]


async def test_hls_js_plays_with_low_latency(stage: Stage) -> None:
    asked: list[str] = []
    stage.page.on("request", lambda request: asked.append(request.url))
    stream_id = await stage.film(TestPicture(*SIZE, preset="veryfast", profile="high", gop=25))
    await stage.watch("hls", stream_id)
    first = await stage.frames(20)
    later = await stage.frames(first["frames"] + 50)
    check_moving(first, later)
    assert later["level"] == {"target": 4, "part": 0.4, "blocking": True, "live": True}
    assert later["parts"] > later["segments"], "it lives on parts"
    assert any("_HLS_msn=" in url and "_HLS_part=" in url for url in asked)
    assert later["latency"] < later["level"]["target"], "nearer to the camera than one segment"
    assert not [url for url in asked if "/hls/" in url and "ticket=" in url], "the key in the path is enough"
    assert (await stage.client.stream(stream_id)).viewers == 1


async def test_the_end_of_the_stream_reaches_the_players(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE, gop=25))
    await stage.watch("hls", stream_id)
    await stage.frames(10)
    assert (await stage.client.stats()).viewers_by_kind == {"hls": 1}
    await stage.client.close_receiver(stream_id)
    async with asyncio.timeout(30):
        while not (await stage.look())["ended"]:
            await asyncio.sleep(0.1)
