"""Talk and broadcast through the HTTP API to simulated cameras: both editions, UDP and TCP, busy rules, faults, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from live_house import until
from rtc_talker import Talker
from talk_house import TalkHouse, noise, talk_house

from gateway.services.access import Role
from simulator.audio import AudioOptions
from simulator.camera import Camera
from sip.manscdp import Edition

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]
SOUND = noise(8000)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TalkHouse]:
    async with talk_house(tmp_path_factory.mktemp("talk")) as made:
        yield made


async def whole(device: Camera, sound: bytes) -> Any:
    """Wait until the camera has heard all of it."""
    await until(lambda: device.audio.heard and len(device.audio.heard[-1].sound) >= len(sound), 40)
    hearing = device.audio.heard[-1]
    assert bytes(hearing.sound[: len(sound)]) == sound
    return hearing


# -- the broadcast of both editions ----------------------------------------------------------------------------


@pytest.mark.gb("G250", "G255")
@pytest.mark.parametrize("edition", list(Edition))
@pytest.mark.parametrize("media", ["udp", "tcp_active", "tcp_passive"])
async def test_the_device_fetches_the_sound(house: TalkHouse, edition: Edition, media: Any) -> None:
    device = await house.camera(edition=edition, audio=AudioOptions(media=media))
    try:
        talk = await house.begin(device)
        state = await house.reach(talk["talk_id"], "talking")
        assert (state["form"], state["audio"]) == ("broadcast", "raw")
        await house.push(talk["talk_id"], SOUND)
        hearing = await whole(device, SOUND)
        answer = hearing.remote.media[0]
        assert (answer.kind, answer.direction, answer.payloads) == ("audio", "sendonly", [8])
        assert hearing.remote.ssrc == hearing.ssrc
        if media == "udp":
            assert hearing.sources == {("127.0.0.1", answer.port)}
        assert {(p.payload_type, len(p.payload), p.ssrc) for p in hearing.packets} == {(8, 160, hearing.ssrc)}
        await house.stop(talk["talk_id"])
        await until(lambda: hearing.ended == "remote_bye")
        assert not device.calls.history
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_the_sound_in_a_program_stream(house: TalkHouse) -> None:
    device = await house.camera(audio=AudioOptions(payload="ps"))
    try:
        talk = await house.begin(device)
        assert (await house.reach(talk["talk_id"], "talking"))["audio"] == "ps"
        await house.push(talk["talk_id"], SOUND)
        hearing = await whole(device, SOUND)
        assert {p.payload_type for p in hearing.packets} == {96}
        await house.stop(talk["talk_id"])
    finally:
        await device.stop()
    await house.assert_nothing_left()
