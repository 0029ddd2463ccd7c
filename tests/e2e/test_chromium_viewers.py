"""A browser watches a real media node: RTP goes in on one side, pictures appear on the screen on the other."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from studio import SIZE, Stage, Studio, delay_s, frame_shown, open_stage, open_studio
from udp_path import UdpPath

from media.client import MediaError
from media.specs import WebRtcOffer
from simulator.picture import TestPicture

pytest.importorskip("playwright.async_api")

pytestmark = [
    pytest.mark.needs("chromium"),
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


@pytest.mark.parametrize("way", ["whep", "ws", "file"])
@pytest.mark.parametrize("profile", ["baseline", "high"])
async def test_the_picture_is_on_the_screen_and_moves(stage: Stage, way: str, profile: str) -> None:
    stream_id = await stage.film(TestPicture(*SIZE, preset="veryfast", profile=profile))
    await stage.watch(way, stream_id)
    first = await stage.frames(20)
    assert (first["width"], first["height"]) == SIZE
    assert np.std(first["grey"]) > 30, "not one colour"
    later = await stage.frames(first["frames"] + 20)
    assert np.abs(np.array(first["grey"]) - np.array(later["grey"])).max() > 60, "it moves"
    shown = [frame for frame in (frame_shown(first), frame_shown(later)) if frame is not None]
    assert shown == sorted(shown)
    assert shown
    delay = delay_s(later)
    assert delay is None or delay < 15, "the clock in the picture is the clock on the wall, more or less"
    assert later["dropped"] < later["frames"] / 2


async def test_sound_comes_by_webrtc(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE))
    await stage.page.evaluate("video.muted = false")
    await stage.watch("whep", stream_id)
    await stage.frames(20)
    async with asyncio.timeout(20):
        while True:
            inbound = await stage.page.evaluate("inbound()")
            if inbound.get("audio", {}).get("energy", 0) > 0:
                break
            await asyncio.sleep(0.2)
    assert inbound["audio"]["packets"] > 10
    assert inbound["video"]["keys"] >= 1


async def test_sound_is_in_the_fragments(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE))
    await stage.watch("ws", stream_id)
    seen = await stage.frames(20)
    assert seen["about"]["audio"] == {"codec": "aac", "rate": 8000, "channels": 1}
    decoded = await stage.page.evaluate("video.webkitAudioDecodedByteCount")
    assert decoded > 0


async def test_b_frames_are_refused_by_webrtc_and_play_as_fragments(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE, preset="veryfast", b_frames=2))
    offer = await stage.page.evaluate(
        "(async () => { const peer = new RTCPeerConnection(); peer.addTransceiver('video', {direction: 'recvonly'});"
        " await peer.setLocalDescription(); return peer.localDescription.sdp; })()"
    )
    with pytest.raises(MediaError) as caught:
        await stage.client.add_webrtc_viewer(stream_id, WebRtcOffer(viewer_id="refused", sdp=offer))
    assert caught.value.code == "unsupported"
    await stage.watch("ws", stream_id)
    first = await stage.frames(20)
    later = await stage.frames(first["frames"] + 20)
    assert np.abs(np.array(first["grey"]) - np.array(later["grey"])).max() > 60


async def test_h265_plays_where_the_browser_can_and_says_so_where_not(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE, codec="h265"))
    await stage.watch("ws", stream_id)
    async with asyncio.timeout(20):
        while not (seen := await stage.look())["about"]:
            await asyncio.sleep(0.1)
    assert seen["about"]["mime"].startswith('video/mp4; codecs="hvc1.')
    if await stage.page.evaluate("mime => MediaSource.isTypeSupported(mime)", seen["about"]["mime"]):
        await stage.frames(20)
    else:
        assert seen["errors"] == ["unsupported " + seen["about"]["mime"]]


async def test_the_end_of_the_stream_reaches_the_player(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE))
    await stage.watch("ws", stream_id)
    await stage.frames(10)
    await stage.client.close_receiver(stream_id)
    async with asyncio.timeout(20):
        while not (seen := await stage.look())["ended"]:
            await asyncio.sleep(0.1)
    assert seen["close"][0] == 1001


async def test_a_page_that_goes_away_frees_the_stream(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE))
    await stage.watch("whep", stream_id)
    await stage.frames(10)
    assert (await stage.client.stream(stream_id)).viewers == 1
    await stage.page.evaluate("stopWatching()")
    async with asyncio.timeout(40):
        while (await stage.client.stream(stream_id)).viewers:
            await asyncio.sleep(0.1)


async def test_the_gateway_takes_a_snapshot(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE))
    assert (await stage.client.snapshot(stream_id))[:2] == b"\xff\xd8"


async def watch_over(stage: Stage, stream_id: str) -> UdpPath:
    """Watch by WebRTC over a path that can lose packets."""
    port = (await stage.client.stats()).webrtc.port
    path = UdpPath(("127.0.0.1", port))

    async def exchange(sdp: str) -> str:
        offer = WebRtcOffer(viewer_id=uuid.uuid4().hex, sdp=sdp)
        return path.through((await stage.client.add_webrtc_viewer(stream_id, offer)).sdp)

    await stage.page.expose_function("exchange", exchange)
    await stage.page.evaluate("playWhep('exchange', true)")
    await stage.frames(10)
    return path


async def test_losses_are_repaired_for_a_browser(stage: Stage) -> None:
    stream_id = await stage.film(TestPicture(*SIZE, bitrate=2_000_000))
    path = await watch_over(stage, stream_id)
    path.loss = 0.05
    before = (await stage.page.evaluate("inbound()"))["video"]["frames"]
    await asyncio.sleep(3)
    await stage.frames(before + 50)
    path.loss = 0.0
    video = (await stage.page.evaluate("inbound()"))["video"]
    assert path.lost > 5
    assert video["nack"] > 3
    assert video["pli"] == 0, "nothing was lost for good"
    assert (await stage.client.stats()).webrtc.retransmitted > 0
    path.close()


async def test_a_picture_lost_for_good_comes_back_from_the_cache(stage: Stage) -> None:
    """Neither repair nor the camera helps: the next key frame would come 40 s later."""
    stream_id = await stage.film(TestPicture(*SIZE, gop=1000))
    path = await watch_over(stage, stream_id)
    repeats = (await stage.client.stats()).webrtc.repeats
    path.dark = path.no_repairs = True
    await asyncio.sleep(0.2)
    path.dark = False
    async with asyncio.timeout(20):
        while (await stage.client.stats()).webrtc.repeats == repeats:
            await asyncio.sleep(0.1)
    at_the_report = await stage.look()
    await stage.frames(at_the_report["frames"] + 40)
    video = (await stage.page.evaluate("inbound()"))["video"]
    assert video["pli"] >= 1
    assert video["keys"] == 2, "the same key frame twice"
    delay = delay_s(await stage.look())
    assert delay is None or delay < 3, "the live picture, not the old one"
    path.close()
