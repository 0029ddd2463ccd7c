"""An upper platform speaks to our cameras: its Broadcast down, the camera's INVITE up, the sound byte by byte (G257)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from live_house import SERVER, until
from talk_house import TalkHouse, noise, talk_house

from gateway.services.access import Role
from simulator.audio import AudioOptions
from simulator.camera import Camera
from simulator.upper_platform import UpperPlatform
from sip.errors import ParseError
from sip.manscdp import Edition

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]
SOUND = noise(4800, 3)
UPPER = "41010000002000000001"
MICROPHONE = "41010000001360000001"
PASSWORD = "Upper-Platform-Pw-03"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TalkHouse]:
    more = {"cascade": {"register_retry_s": 0.3}, "media": {"transport": "tcp_passive"}}
    async with talk_house(tmp_path_factory.mktemp("talk"), **more) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upper(house: TalkHouse) -> AsyncIterator[UpperPlatform]:
    above = UpperPlatform(UPPER, lower_id=SERVER, password=PASSWORD)
    await above.start()
    platform = {
        "platform_id": UPPER, "name": "upper", "host": "127.0.0.1", "port": above.port, "password": PASSWORD,
        "share_all": True, "rights": ["play", "broadcast"],
    }  # fmt: skip
    status, answer = await house.call("POST", "/api/platforms", platform, role=Role.ADMINISTRATOR)
    assert status == 201, answer
    await above.wait_registered(30)
    yield above
    await above.stop()


def speaker_of(device: Camera) -> str:
    return next(code for code in device.channels if code[10:13] == "137")


async def shared(upper: UpperPlatform, device: Camera) -> None:
    """Wait until the upper's catalog names the camera's loudspeaker."""
    wanted = speaker_of(device)
    for _ in range(40):
        if wanted in [item.device_id for item in await upper.query_catalog()]:
            return
    raise AssertionError("not shared")


@pytest.mark.gb("G257")
@pytest.mark.parametrize("edition", list(Edition))
@pytest.mark.parametrize("media", ["udp", "tcp_active"])
async def test_the_upper_speaks_to_a_camera(
    house: TalkHouse, upper: UpperPlatform, edition: Edition, media: Any
) -> None:
    device = await house.camera(edition=edition, audio=AudioOptions(media=media))
    try:
        await shared(upper, device)
        answer, said = await upper.announcements.announce(speaker_of(device), MICROPHONE, SOUND)
        assert (answer.result, answer.device_id) == ("OK", speaker_of(device))  # type: ignore[attr-defined]
        down = device.received_bodies("Broadcast")[-1]
        assert (down.source_id, down.target_id) == (SERVER, speaker_of(device))  # type: ignore[attr-defined]
        await until(lambda: device.audio.heard and len(device.audio.heard[-1].sound) >= len(SOUND), 40)
        heard = bytes(device.audio.heard[-1].sound[: len(SOUND)])
        assert heard in SOUND * 3  # from the moment on when the camera was ready
        up, offer = said.calls[0].request, said.offers[0]
        assert up.to.uri.user == MICROPHONE
        assert up.from_.uri.user == speaker_of(device)
        assert up.headers.get("Subject").startswith(f"{MICROPHONE}:")
        assert (offer.media.kind, offer.media.direction, offer.session.name) == ("audio", "recvonly", "Play")
        talk = house.gateway.talks.under_way()[0]
        assert (talk.source, talk.who) == ("upper", f"platform:{UPPER}")
        await upper.announcements.hang_up()
        await until(lambda: device.audio.heard[-1].ended == "remote_bye")
        assert talk.end_cause == "upper_bye"
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_the_camera_ends_it(house: TalkHouse, upper: UpperPlatform) -> None:
    device = await house.camera(audio=AudioOptions(faults={"bye_soon"}))
    try:
        await shared(upper, device)
        _, said = await upper.announcements.announce(speaker_of(device), MICROPHONE, SOUND)
        await until(lambda: said.sessions and said.sessions[0].ended.done())
        assert said.sessions[0].ended.result() == "remote_bye"
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_refusals_go_both_ways(house: TalkHouse, upper: UpperPlatform) -> None:
    """A camera that refuses, an upper that refuses, an unknown target, and a loudspeaker that a user holds."""
    device = await house.camera()
    try:
        await shared(upper, device)
        announce = upper.announcements.announce
        device.audio.options.faults.add("error")
        assert (await announce(speaker_of(device), MICROPHONE, SOUND))[0].result == "ERROR"  # type: ignore[attr-defined]
        device.audio.options.faults.clear()
        _, said = await announce(speaker_of(device), MICROPHONE, SOUND, refuse=486)
        await until(lambda: device.audio.refused == [486])
        assert len(said.calls) == 1
        unknown = speaker_of(device)[:-4] + "9999"
        assert (await announce(unknown, MICROPHONE, SOUND))[0].result == "ERROR"  # type: ignore[attr-defined]
        talk = await house.begin(device, role=Role.ADMINISTRATOR)
        await house.reach(talk["talk_id"], "talking")
        assert (await announce(speaker_of(device), MICROPHONE, SOUND))[0].result == "ERROR"  # type: ignore[attr-defined]
        await house.stop(talk["talk_id"], Role.ADMINISTRATOR)
    finally:
        await device.stop()
    await house.assert_nothing_left()


@pytest.mark.gb("G264")
async def test_without_the_right_it_is_forbidden(house: TalkHouse, upper: UpperPlatform) -> None:
    device = await house.camera()
    change = {"rights": ["play"]}
    try:
        await shared(upper, device)
        await house.call("PATCH", f"/api/platforms/{UPPER}", change, role=Role.ADMINISTRATOR)
        with pytest.raises(ParseError) as refused:
            await upper.announcements.announce(speaker_of(device), MICROPHONE, SOUND)
        assert refused.value.status == 403
        assert not device.received_bodies("Broadcast")
    finally:
        change["rights"] = ["play", "broadcast"]
        await house.call("PATCH", f"/api/platforms/{UPPER}", change, role=Role.ADMINISTRATOR)
        await device.stop()
    await house.assert_nothing_left()
