"""Recordings in devices over the API of a real gateway: found, played, moved and ended, against simulated recorders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import pytest_asyncio
from device_records_house import DAY, Player, Viewer, day, quiet_gateway, recorder, until
from playback_house import ApiClient, user

from gateway.app import Gateway
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
    async with recorder(gateway, 11, edition=edition, media=media) as device:
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
