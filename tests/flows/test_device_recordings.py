"""Recordings in devices over the API of a real gateway: found, played, moved and ended, against simulated recorders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import pytest_asyncio
from device_records_house import DAY, Player, Viewer, day, quiet_gateway, recorder, until
from playback_house import ApiClient, user

from gateway.app import Gateway
from simulator.records import RecordFaults
from simulator.records_play import RecordPlayer
from sip.manscdp import Edition

pytestmark = pytest.mark.asyncio(loop_scope="module")
UNIX = int(DAY.timestamp())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with quiet_gateway(tmp_path_factory.mktemp("house")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(gateway: Gateway) -> AsyncIterator[ApiClient]:
    async with user(gateway) as client:
        yield client


@pytest.mark.gb("G238", "G241", "G245")
@pytest.mark.parametrize(
    ("edition", "media"), [(Edition.V2016, "udp"), (Edition.V2022, "tcp")], ids=["2016-udp", "2022-tcp"]
)
async def test_a_recording_is_played_to_its_end(
    gateway: Gateway, api: ApiClient, edition: Edition, media: str
) -> None:
    async with recorder(gateway, edition=edition, media=media) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((3600, 7200))}
        player = Player(api, device, channel_id)
        playback = await player.open(4000, 4004)
        assert (playback["source"], playback["video_codec"]) == ("device", "h264")
        viewer = Viewer(api, playback["urls"]["fmp4"])
        call = device.calls.history[-1]
        session = call.offer.session
        assert (session.name, session.uri, session.time) == (
            "Playback", f"{channel_id}:0", (UNIX + 4000, UNIX + 4004),
        )  # fmt: skip
        assert f"{call.ssrc:010d}"[0] == "1"
        await until(lambda: call.ended)
        assert call.ended == "remote_bye"
        pictures = await viewer.whole()
        clocks = [picture.clock_s for picture in pictures]
        assert clocks[0] == pytest.approx(4000, abs=0.01)
        assert clocks[-1] == pytest.approx(4004 - 0.04, abs=0.05)
        assert all(b - a == pytest.approx(0.04, abs=0.002) for a, b in pairwise(clocks))
        shown = [picture.shown_s for picture in pictures]
        assert all(b - a == pytest.approx(0.04, abs=0.01) for a, b in pairwise(shown))
        assert await player.state(playback) is None
        assert gateway.history_ends.counts["matched_call"] >= 1
        assert gateway.history_ends.counts["media_time"] == 0


class Sampler:
    """When a device's player stood where: a busy machine may not make the whole speed."""

    def __init__(self, player: RecordPlayer) -> None:
        self._player = player
        self._samples: list[tuple[float, float]] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._player.over:
            self._samples.append((asyncio.get_running_loop().time(), self._player.position_s))
            await asyncio.sleep(0.02)

    def passed(self, start: float, end: float) -> float:
        """Seconds between sending one place and another."""
        first = next(now for now, place in self._samples if place >= start)
        return next(now for now, place in self._samples if place >= end) - first


@pytest.mark.gb("G241")
@pytest.mark.quirk(40)
@pytest.mark.parametrize(("speed", "squeezed"), [(0.25, False), (4.0, True), (8.0, False)])
async def test_pictures_pass_at_the_speed_that_was_asked_for(
    gateway: Gateway, api: ApiClient, speed: float, squeezed: bool
) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        device.answers.records.faults = RecordFaults(squeezed_stamps=squeezed)
        player = Player(api, device, channel_id)
        playback = await player.open(600, 1200)
        viewer = Viewer(api, playback["urls"]["fmp4"])
        call = device.calls.history[-1]
        playing = call.player
        assert playing is not None
        sampler = Sampler(playing)
        await until(lambda: playing.position_s > 0.5)
        changed = await player.change(playback, speed=speed)
        assert changed["speed"] == playing.scale == speed
        begun = playing.position_s
        await until(lambda: playing.position_s - begun >= 3 * speed)
        before = playing.position_s
        state = await player.state(playback)
        assert state is not None
        # The place that is told is the device's, but for what is on the way and the time it took to know its stamps.
        assert before - 0.8 - speed <= state["position_s"] <= playing.position_s + 0.8 + speed
        await player.close(playback)
        await until(lambda: call.ended)
        pictures = [picture for picture in await viewer.whole() if picture.shown_s > 2.2]
        sampler.task.cancel()
        assert len(pictures) >= 5
        assert all(b.shown_s > a.shown_s for a, b in pairwise(pictures))
        assert all(b.clock_s > a.clock_s for a, b in pairwise(pictures))
        # What took the device a second to send takes a second to watch.
        played = pictures[-1].shown_s - pictures[0].shown_s
        sent = sampler.passed(pictures[0].clock_s - 600, pictures[-1].clock_s - 600)
        assert played == pytest.approx(sent, rel=0.3, abs=0.5)


@pytest.mark.gb("G243")
async def test_backward_the_clock_runs_back(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        device.answers.records.faults = RecordFaults(reverse_one=True)
        player = Player(api, device, channel_id)
        playback = await player.open(600, 700)
        viewer = Viewer(api, playback["urls"]["fmp4"])
        call = device.calls.history[-1]
        changed = await player.change(playback, speed=-4, position_s=50)
        assert changed["speed"] == -1  # that is what the device plays, and says
        (order,) = call.info_log
        assert (order.scale, order.range and order.range.start) == (-4.0, 50.0)
        await until(lambda: call.player is not None and call.player.position_s < 46)
        state = await player.state(playback)
        assert state is not None
        assert 44 < state["position_s"] < 50
        await player.close(playback)
        clocks = [picture.clock_s for picture in await viewer.whole()]
        back = clocks[next(n for n, clock in enumerate(clocks) if clock > 645) :]
        assert len(back) >= 3
        assert all(a > b for a, b in pairwise(back))


@pytest.mark.gb("G241", "G249")
@pytest.mark.parametrize("odd", ["empty_answers", "other_cseq"])
async def test_pause_move_and_resume(gateway: Gateway, api: ApiClient, odd: str) -> None:
    async with recorder(gateway, edition=Edition.V2016, media="udp") as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        if odd:
            setattr(device.answers.records.faults, odd, True)
        player = Player(api, device, channel_id)
        playback = await player.open(600, 1200)
        viewer = Viewer(api, playback["urls"]["fmp4"])
        await viewer.more(20_000)
        paused = await player.change(playback, paused=True)
        assert paused["paused"]
        call = device.calls.history[-1]
        assert call.player is not None
        assert call.player.paused
        stands = call.player.position_s
        await asyncio.sleep(
            4
        )  # longer than a node waits for pictures (see no_rtp_timeout_s): a pause is no loss
        assert call.player.position_s == stands
        await player.change(playback, paused=False)
        await viewer.more(10_000)
        moved = await player.change(playback, position_s=300)
        assert moved["position_s"] == pytest.approx(300, abs=1.5)
        await until(lambda: call.player is not None and call.player.position_s > 301)
        state = await player.state(playback)
        assert state is not None
        assert state["position_s"] == pytest.approx(call.player.position_s, abs=1.5)
        assert state["at"].startswith("2026-11-20T00:15:0")
        await player.close(playback)
        await until(lambda: call.ended)
        assert [order.method for order in call.info_log] == ["PAUSE", "PLAY", "PLAY", "TEARDOWN"]
        pictures = await viewer.whole()
        # No hole and no step back where it was paused and moved.
        assert all(0 < b.shown_s - a.shown_s < 0.5 for a, b in pairwise(pictures))
        steps = [b.clock_s - a.clock_s for a, b in pairwise(pictures)]
        assert sum(step > 1 for step in steps) == 1


async def test_what_a_device_refuses_is_told(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway, edition=Edition.V2016) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        faults = device.answers.records.faults
        player = Player(api, device, channel_id)
        nothing = await player.open(8000, 8100, expect=409)
        assert "404" in nothing["detail"]
        playback = await player.open(600, 1200)
        call = device.calls.history[-1]
        backward = await player.change(playback, speed=-1, expect=409)
        assert (backward["cause"], call.info_log) == ("not_supported", [])
        faults.refused_scales = {8.0}
        refused = await player.change(playback, speed=8, expect=409)
        assert (refused["cause"], "501" in refused["detail"]) == ("rejected", True)
        faults.no_info = 405
        refused = await player.change(playback, paused=True, expect=409)
        assert "405" in refused["detail"]
        state = await player.state(playback)
        assert state is not None
        assert (state["paused"], state["speed"]) == (False, 1.0)
        await player.close(playback)


@pytest.mark.gb("G248")
async def test_two_users_move_independently_until_the_device_is_busy(
    gateway: Gateway, api: ApiClient
) -> None:
    async with recorder(gateway, max_calls=2) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        player = Player(api, device, channel_id)
        first, second = await player.open(600, 1200), await player.open(600, 1200)
        one, two = device.calls.history[-2:]
        assert one.ssrc != two.ssrc
        assert all(f"{call.ssrc:010d}".startswith("1") for call in (one, two))
        await player.change(first, paused=True)
        await player.change(second, position_s=500)
        assert one.player is not None
        assert two.player is not None
        assert (one.player.paused, two.player.paused) == (True, False)
        assert one.player.position_s < 100 < two.player.position_s
        busy = await player.open(600, 1200, expect=409)
        assert busy["cause"] == "busy"
        await player.close(first)
        await player.close(second)
        await until(lambda: one.ended and two.ended)


@pytest.mark.gb("G245")
@pytest.mark.quirk(23)
@pytest.mark.parametrize(
    ("form", "way"),
    [
        ("outside", "matched_device"), ("channel", "matched_channel"), ("foreign", "matched_call"),
        ("odd_first", "matched_call"), ("none", "media_time"),
    ],
)  # fmt: skip
async def test_the_end_is_understood_however_it_is_told(
    gateway: Gateway, api: ApiClient, form: str, way: str
) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        device.answers.records.faults.media_status = form  # type: ignore[assignment]
        before = gateway.history_ends.counts[way]
        player = Player(api, device, channel_id)
        playback = await player.open(600, 602)
        call = device.calls.history[-1]
        viewer = Viewer(api, playback["urls"]["fmp4"])
        await until(lambda: call.ended)
        assert call.ended == "remote_bye"
        assert gateway.history_ends.counts[way] == before + 1
        clocks = [picture.clock_s for picture in await viewer.whole()]
        assert clocks[-1] == pytest.approx(602 - 0.04, abs=0.05)


@pytest.mark.quirk(24)
async def test_a_device_that_never_stops_is_stopped(gateway: Gateway, api: ApiClient) -> None:
    async with recorder(gateway) as device:
        channel_id = device.camera_ids[0]
        device.answers.records.records = {channel_id: day((0, 7200))}
        device.answers.records.faults = RecordFaults(endless=True, media_status="none")
        player = Player(api, device, channel_id)
        await player.open(600, 602)
        call = device.calls.history[-1]
        await until(lambda: call.ended)
        assert call.ended == "remote_bye"
        assert call.player is not None
        assert call.player.position_s < 30
