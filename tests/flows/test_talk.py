"""Talk and broadcast through the HTTP API to simulated cameras: both editions, UDP and TCP, busy rules, faults, ends."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from live_house import until
from rtc_talker import Talker
from talk_house import TalkHouse, noise, talk_house

from gateway.events import TalkChanged
from gateway.services.access import Role
from simulator.audio import AudioOptions
from simulator.camera import Camera
from simulator.picture import tone
from sip.manscdp import Edition

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]
SOUND = noise(4800)


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


# -- s=Talk ----------------------------------------------------------------------------------------------------


@pytest.mark.gb("G254")
@pytest.mark.parametrize("media", ["udp", "tcp_active", "tcp_passive"])
async def test_a_2016_device_that_knows_only_talk_is_called(house: TalkHouse, media: Any) -> None:
    """It answers the broadcast with ERROR; s=Talk is tried, and remembered."""
    device = await house.camera(edition=Edition.V2016, audio=AudioOptions(media=media, form="talk"))
    try:
        for forms in (["broadcast", "talk"], ["talk"]):
            before = len(device.received_bodies("Broadcast"))
            talk = await house.begin(device)
            assert (await house.reach(talk["talk_id"], "talking"))["form"] == "talk"
            await house.push(talk["talk_id"], SOUND)
            hearing = await whole(device, SOUND)
            assert hearing.name == "Talk"
            assert hearing.remote.name == "Talk"
            assert hearing.remote.media[0].direction == "sendrecv"
            if media == "udp":
                assert hearing.sources == {("127.0.0.1", hearing.remote.media[0].port)}
            assert len(device.received_bodies("Broadcast")) - before == ("broadcast" in forms)
            await house.stop(talk["talk_id"])
            await until(lambda: not device.audio.running)
        known = house.gateway.registry.devices[device.device_id].profile
        assert (known.talk_mode, known.origin("talk_mode")) == ("talk", "learned")
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_a_2022_device_is_never_called_with_talk(house: TalkHouse) -> None:
    device = await house.camera(audio=AudioOptions(form="talk"))
    try:
        talk = await house.begin(device)
        failed = await house.reach(talk["talk_id"], "failed")
        assert failed["cause"] == "rejected"
        assert not [entry for entry in device.received if entry.method == "INVITE"]
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_an_operator_chooses_the_form(house: TalkHouse) -> None:
    device = await house.camera(edition=Edition.V2016, audio=AudioOptions(form="both", payload="ps"))
    house.gateway.registry.devices[device.device_id].profile.order(talk_mode="talk", talk_audio="ps")
    try:
        talk = await house.begin(device)
        state = await house.reach(talk["talk_id"], "talking")
        assert (state["form"], state["audio"]) == ("talk", "ps")
        assert not device.received_bodies("Broadcast")
        await house.push(talk["talk_id"], SOUND)
        await whole(device, SOUND)
        await house.stop(talk["talk_id"])
    finally:
        await device.stop()
    await house.assert_nothing_left()


# -- who has a loudspeaker -------------------------------------------------------------------------------------


@pytest.mark.gb("G251")
async def test_a_device_without_an_output_is_shown_and_refused(house: TalkHouse) -> None:
    device = await house.camera(speaker=False)
    path = f"/api/channels/{device.channel_id}/talk"
    try:
        status, shown = await house.call("GET", path, role=Role.VIEWER)
        assert (status, shown["audio_output"], shown["source"]) == (200, False, "none")
        targets = {"targets": [{"channel_id": device.channel_id}]}
        status, problem = await house.call("POST", "/api/talks", targets)
        assert (status, problem["cause"]) == (409, "no_audio_output")
        assert not device.received_bodies("Broadcast")
        house.gateway.registry.devices[device.device_id].profile.order(audio_output="yes")
        _, shown = await house.call("GET", path, role=Role.VIEWER)
        assert (shown["audio_output"], shown["source"]) == (True, "operator")
        assert shown["output_id"] == device.channel_id
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        await house.push(talk["talk_id"], SOUND)
        await whole(device, SOUND)
        await house.stop(talk["talk_id"])
        house.gateway.registry.devices[device.device_id].profile.order(audio_output="no")
        status, problem = await house.call("POST", "/api/talks", targets)
        assert (status, problem["cause"]) == (409, "no_audio_output")
    finally:
        await device.stop()
    await house.assert_nothing_left()


def speaker_of(device: Camera) -> str:
    return next(code for code in device.channels if code[10:13] == "137")


@pytest.mark.gb("G252")
async def test_the_target_is_the_output_or_the_whole_device(house: TalkHouse) -> None:
    """The camera's and the loudspeaker's code mean the 137 Item; the device's own code means all of its outputs."""
    device = await house.camera()
    extra = speaker_of(device)[:-1] + "9"
    try:
        for code, wanted in (
            (device.channel_id, speaker_of(device)),
            (speaker_of(device), speaker_of(device)),
            (device.device_id, device.device_id),
        ):
            if code == device.device_id:
                device.channels[extra] = type(device.channels[speaker_of(device)])(
                    extra, "second loudspeaker", parent_ids=(device.device_id,)
                )
            before = len(device.audio.heard)
            body = {"targets": [{"channel_id": code, "device_id": device.device_id}]}
            status, talk = await house.call("POST", "/api/talks", body)
            assert status == 201, talk
            await house.reach(talk["talk_id"], "talking")
            assert device.received_bodies("Broadcast")[-1].target_id == wanted  # type: ignore[attr-defined]
            count = 2 if code == device.device_id else 1
            await until(lambda before=before, count=count: len(device.audio.heard) == before + count)
            await house.push(talk["talk_id"], SOUND[:1600])
            for hearing in device.audio.heard[before:]:
                await until(lambda hearing=hearing: len(hearing.sound) >= 1600)
                assert bytes(hearing.sound[-1600:]) == SOUND[:1600]
            await house.stop(talk["talk_id"])
            await until(lambda: not device.audio.running)
    finally:
        await device.stop()
    await house.assert_nothing_left()


# -- several, and a group --------------------------------------------------------------------------------------


async def test_one_voice_to_several_and_to_a_group(house: TalkHouse) -> None:
    """Each in its own way; the one that fails does not keep the others silent."""
    devices = [
        await house.camera(),
        await house.camera(transport="tcp", audio=AudioOptions(media="tcp_active")),
        await house.camera(edition=Edition.V2016, audio=AudioOptions(form="talk", media="tcp_passive")),
        await house.camera(audio=AudioOptions(faults={"error"})),
    ]
    try:
        talk = await house.begin(*devices, wait=True)
        assert [target["state"] for target in talk["targets"]] == ["talking"] * 3 + ["failed"]
        assert talk["targets"][3]["cause"] == "rejected"
        await house.push(talk["talk_id"], SOUND)
        for device in devices[:3]:
            await whole(device, SOUND)
        await house.stop(talk["talk_id"])
        await until(lambda: not any(device.audio.running for device in devices))
        status, group = await house.call("POST", "/api/talks", {"group": "division:4101", "wait": True})
        assert status == 201, group
        reached = {target["device_id"]: target["state"] for target in group["targets"]}
        assert {reached[device.device_id] for device in devices[:3]} == {"talking"}
        assert reached[devices[3].device_id] == "failed"
        await house.stop(group["talk_id"])
        node = f"device:{devices[0].device_id}"
        status, group = await house.call("POST", "/api/talks", {"group": node, "wait": True})
        assert [target["output_id"] for target in group["targets"]] == [devices[0].device_id]
        await house.stop(group["talk_id"])
    finally:
        for device in devices:
            await device.stop()
    await house.assert_nothing_left()


# -- busy ------------------------------------------------------------------------------------------------------


async def test_a_loudspeaker_has_one_talker_and_higher_rank_takes_it(house: TalkHouse) -> None:
    device, other = await house.camera(), await house.camera()
    targets = {"targets": [{"channel_id": device.channel_id}]}
    try:
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        status, problem = await house.call("POST", "/api/talks", targets)
        assert (status, problem["cause"]) == (409, "taken")
        assert "test operator" in problem["detail"]
        assert "priority 100" in problem["detail"]
        whole_device = {"targets": [{"channel_id": device.device_id}]}
        status, problem = await house.call("POST", "/api/talks", whole_device)
        assert (status, problem["cause"]) == (409, "taken")
        _, shown = await house.call("GET", f"/api/channels/{device.channel_id}/talk", role=Role.VIEWER)
        assert shown["holder"]["talk_id"] == talk["talk_id"]
        both = await house.begin(device, other, wait=True)
        assert [target["state"] for target in both["targets"]] == ["failed", "talking"]
        assert both["targets"][0]["cause"] == "taken"
        await house.stop(both["talk_id"])
        above = await house.begin(device, role=Role.ADMINISTRATOR)
        await house.reach(above["talk_id"], "talking")
        assert (await house.states(talk["talk_id"]))[0]["cause"] == "taken_over"
        assert [hearing.ended for hearing in device.audio.heard] == ["remote_bye", ""]
        status, _ = await house.call("DELETE", f"/api/talks/{above['talk_id']}")
        assert status == 403
        await house.stop(above["talk_id"], Role.ADMINISTRATOR)
    finally:
        await device.stop()
        await other.stop()
    await house.assert_nothing_left()


async def test_two_at_once_do_not_both_get_it(house: TalkHouse) -> None:
    device = await house.camera()
    targets = {"targets": [{"channel_id": device.channel_id}], "wait": True}
    try:
        answers = await asyncio.gather(*(house.call("POST", "/api/talks", targets) for _ in range(5)))
        assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]
        talk = next(answer for status, answer in answers if status == 201)
        await house.stop(talk["talk_id"])
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_viewers_may_not_speak(house: TalkHouse) -> None:
    status, _ = await house.call("POST", "/api/talks", {"targets": [{"channel_id": "1"}]}, role=Role.VIEWER)
    assert status == 403


# -- devices that do not do as they should ---------------------------------------------------------------------


@pytest.mark.gb("G256")
@pytest.mark.parametrize(
    ("fault", "status", "cause"),
    [
        ("silent", 504, "no_answer"),
        ("no_invite", 504, "no_invite"),
        ("error", 409, "rejected"),
        ("aac_only", 504, "no_invite"),
    ],
)
async def test_what_cannot_be_reached_is_told(house: TalkHouse, fault: str, status: int, cause: str) -> None:
    device = await house.camera(audio=AudioOptions(faults={fault}))
    if fault == "aac_only":
        status, cause = 409, "sdp_not_accepted"
    try:
        body = {"targets": [{"channel_id": device.channel_id}], "wait": True}
        answered, problem = await house.call("POST", "/api/talks", body)
        assert (answered, problem["cause"]) == (status, cause), problem
        if fault == "aac_only":
            assert device.audio.refused == [488]
    finally:
        await device.stop()
    await house.assert_nothing_left()


@pytest.mark.parametrize("fault", ["no_response", "invite_first"])
async def test_the_invite_alone_is_enough(house: TalkHouse, fault: str) -> None:
    device = await house.camera(audio=AudioOptions(faults={fault}))
    try:
        talk = await house.begin(device, wait=True)
        assert talk["targets"][0]["state"] == "talking"
        await house.stop(talk["talk_id"])
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_the_device_says_bye(house: TalkHouse) -> None:
    device = await house.camera(audio=AudioOptions(faults={"bye_soon"}))
    try:
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        await house.push(talk["talk_id"], SOUND)
        ended = await house.reach(talk["talk_id"], "ended")
        assert ended["cause"] == "device_bye"
        _, shown = await house.call("GET", f"/api/talks/{talk['talk_id']}")
        await until(lambda: not house.gateway.talks.under_way())
        _, shown = await house.call("GET", f"/api/talks/{talk['talk_id']}")
        assert (shown["ended"], shown["end_cause"]) == (True, "all_ended")
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_the_device_goes_offline(house: TalkHouse) -> None:
    device = await house.camera(transport="tcp", audio=AudioOptions(media="tcp_active"))
    try:
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        await device.registration.stop(unregister=True)
        assert (await house.reach(talk["talk_id"], "ended"))["cause"] == "device_offline"
    finally:
        await device.stop(unregister=False)
    await house.assert_nothing_left()


async def test_the_media_connection_breaks(house: TalkHouse) -> None:
    device = await house.camera(audio=AudioOptions(media="tcp_active"))
    try:
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        await until(lambda: device.audio.running)
        device.audio.cut()
        assert (await house.reach(talk["talk_id"], "ended"))["cause"] == "connection_lost"
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_an_invite_that_nobody_awaits_is_refused(house: TalkHouse) -> None:
    device = await house.camera()
    try:
        await device.audio.ask("41018300001360000001")
        assert device.audio.refused == [480]
        device.audio.options.faults.add("aac_only")
        await device.audio.ask("41018300001360000001")
        assert device.audio.refused == [480, 480]
    finally:
        await device.stop()
    await house.assert_nothing_left()


# -- a browser speaks ------------------------------------------------------------------------------------------


async def attached(talker: Talker, house: TalkHouse, device: Camera, **more: Any) -> dict[str, Any]:
    body = {"targets": [{"channel_id": device.channel_id}], "sdp": await talker.offer(), **more}
    status, talk = await house.call("POST", "/api/talks", body)
    assert status == 201, talk
    await talker.accept(talk["sdp"])
    return dict(talk)


@pytest.mark.gb("G255")
async def test_a_microphone_by_whip_reaches_the_camera_byte_by_byte(house: TalkHouse) -> None:
    device, talker = await house.camera(), Talker(SOUND * 60)
    try:
        path = f"/api/channels/{device.channel_id}/whip"
        status, (sdp, headers) = await house.call("POST", path, await talker.offer(), kind="application/sdp")
        assert status == 201
        await talker.accept(sdp)
        talk_id = headers["Location"].rsplit("/", 1)[1]
        await house.reach(talk_id, "talking")
        await until(lambda: device.audio.heard and len(device.audio.heard[-1].sound) >= 8000, 40)
        heard = bytes(device.audio.heard[-1].sound[:8000])
        assert heard in SOUND * 60
        assert {len(p.payload) for p in device.audio.heard[-1].packets} == {160}
        status, _ = await house.call("PATCH", f"/api/talks/{talk_id}", {"muted": True})
        assert status == 200
        await asyncio.sleep(0.3)
        before = len(device.audio.heard[-1].packets)
        await asyncio.sleep(0.5)
        assert len(device.audio.heard[-1].packets) == before
        await house.call("PATCH", f"/api/talks/{talk_id}", {"muted": False})
        await until(lambda: len(device.audio.heard[-1].packets) > before)
        await talker.close()
        ended = await house.reach(talk_id, "ended")
        assert ended["cause"].startswith("talker_")
    finally:
        await talker.close()
        await device.stop()
    await house.assert_nothing_left()


@pytest.mark.gb("G253")
async def test_both_ways_are_play_and_broadcast(house: TalkHouse) -> None:
    """The camera has two sessions: it sends picture and sound in one, and fetches ours in the other."""
    device, talker = await house.camera(), Talker(SOUND * 60, listen=True)
    try:
        talk = await attached(talker, house, device, duplex="full")
        await house.reach(talk["talk_id"], "talking")
        await until(lambda: device.audio.heard and len(device.audio.heard[-1].sound) >= 1600, 40)
        await until(lambda: len(talker.heard) >= 8000, 40)
        assert len(device.calls.running) == len(device.audio.running) == 1
        assert bytes(device.audio.heard[-1].sound[:1600]) in SOUND * 60
        loop = b"".join(unit.data for unit in tone(4))
        assert bytes(talker.heard[2000:4000]) in loop  # as the camera sent it
        await house.stop(talk["talk_id"])
        await until(lambda: not device.calls.running, 40)
    finally:
        await talker.close()
        await device.stop()
    await house.assert_nothing_left()


async def test_both_ways_in_one_session_of_talk(house: TalkHouse) -> None:
    reply = noise(3200, 9)
    audio = AudioOptions(form="talk", media="tcp_active", microphone=reply)
    device = await house.camera(edition=Edition.V2016, audio=audio)
    house.gateway.registry.devices[device.device_id].profile.order(talk_mode="talk")
    talker = Talker(SOUND * 60, listen=True)
    try:
        talk = await attached(talker, house, device, duplex="full")
        await house.reach(talk["talk_id"], "talking")
        await until(lambda: len(talker.heard) >= 3200, 40)
        assert bytes(talker.heard[800:2400]) in reply * 3
        assert not device.calls.history
        await until(lambda: len(device.audio.heard[-1].sound) >= 1600, 40)
        await house.stop(talk["talk_id"])
    finally:
        await talker.close()
        await device.stop()
    await house.assert_nothing_left()


async def test_a_browser_without_g711_gets_406_and_nobody_rings(house: TalkHouse) -> None:
    device = await house.camera()
    opus = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 AA:BB\r\n"
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:111 opus/48000/2\r\na=sendonly\r\n"
    )
    try:
        path = f"/api/channels/{device.channel_id}/whip"
        status, problem = await house.call("POST", path, opus, kind="application/sdp")
        assert (status, problem["cause"]) == (406, "unsupported")
    finally:
        await device.stop()
    await house.assert_nothing_left()


# -- programs speak --------------------------------------------------------------------------------------------


def wav(samples: bytes) -> bytes:
    """A WAV file of G.711A."""
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, 6, 1, 8000, 8000, 1, 8
    )
    return head + struct.pack("<4sI", b"data", len(samples)) + samples


async def test_a_file_is_announced_and_ends_the_talk(house: TalkHouse) -> None:
    device = await house.camera()
    try:
        talk = await house.begin(device)
        await house.push(talk["talk_id"], wav(SOUND), form="file", end=1)
        await until(lambda: device.audio.heard and device.audio.heard[-1].ended == "remote_bye", 40)
        assert bytes(device.audio.heard[-1].sound[: len(SOUND)]) == SOUND
        _, shown = await house.call("GET", f"/api/talks/{talk['talk_id']}")
        assert (shown["ended"], shown["end_cause"]) == (True, "played")
        talk = await house.begin(device, wait=True)
        path = f"/api/talks/{talk['talk_id']}/audio"
        status, problem = await house.call("POST", path, b"no sound" * 99, kind="application/octet-stream")
        assert (status, problem["cause"]) == (406, "unsupported")
        status, _ = await house.call("POST", path, b"", kind="application/octet-stream")
        assert status == 422
        await house.stop(talk["talk_id"])
    finally:
        await device.stop()
    await house.assert_nothing_left()


async def test_what_is_asked_wrongly_is_refused_by_field(house: TalkHouse) -> None:
    for body in (
        {},
        {"targets": [{"channel_id": "1"}], "group": "division:41"},
        {"targets": [{"channel_id": "1"}], "duplex": "full"},
        {"group": "anything"},
    ):
        status, problem = await house.call("POST", "/api/talks", body)
        assert (status, problem["cause"]) == (422, "invalid_input")
    status, problem = await house.call("POST", "/api/talks", {"group": "division:99"})
    assert (status, problem["cause"]) == (409, "no_audio_output")
    status, _ = await house.call("GET", "/api/talks/none")
    assert status == 404


async def test_there_are_only_so_many(house: TalkHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    device, other = await house.camera(), await house.camera()
    settings = house.gateway.talks._settings
    fewer = settings.model_copy(update={"most_talks": 1, "most_targets": 1})
    monkeypatch.setattr(house.gateway.talks, "_settings", fewer)
    try:
        targets = [{"channel_id": one.channel_id} for one in (device, other)]
        status, problem = await house.call("POST", "/api/talks", {"targets": targets})
        assert (status, problem["cause"]) == (503, "too_many_talks")
        talk = await house.begin(device)
        status, problem = await house.call("POST", "/api/talks", {"targets": targets[1:]})
        assert (status, problem["cause"]) == (503, "too_many_talks")
        await house.stop(talk["talk_id"])
    finally:
        await device.stop()
        await other.stop()
    await house.assert_nothing_left()


async def test_every_talk_is_audited_and_told(house: TalkHouse) -> None:
    device, told = await house.camera(), []
    release = house.gateway.bus.subscribe(TalkChanged, callback=told.append)
    try:
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        metrics = (await house.gateway.metrics.exposition()).decode()
        assert 'gateway_talk_targets{state="talking"} 1.0' in metrics
        await house.stop(talk["talk_id"])
        await until(lambda: len(told) == 3)
        assert [(event.state, event.cause) for event in told] == [
            ("ringing", ""),
            ("talking", ""),
            ("ended", "stopped"),
        ]
        status, audit = await house.call("GET", "/api/audit?limit=50", role=Role.ADMINISTRATOR)
        assert status == 200
        entries = [(entry["action"], entry["target"], entry["result"]) for entry in audit["items"]]
        assert ("talk", f"{device.device_id}/{device.channel_id}", "ok") in entries
        assert any(action == "talk.end" for action, _, _ in entries)
    finally:
        release()
        await device.stop()
    await house.assert_nothing_left()


async def test_a_lost_media_node_ends_the_talk(house: TalkHouse) -> None:
    """The device gets its BYE, and the next talk works. Last: the node is another one afterwards."""
    device = await house.camera()
    try:
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        node = house.gateway.nodes.handles()[0]
        os.kill(node.pid, signal.SIGKILL)
        await until(lambda: device.audio.heard[-1].ended == "remote_bye", 40)
        assert (await house.states(talk["talk_id"]))[0]["cause"] == "node_lost"
        await until(lambda: house.gateway.nodes.handles(), 60)
        talk = await house.begin(device)
        await house.reach(talk["talk_id"], "talking")
        await house.stop(talk["talk_id"])
    finally:
        await device.stop()
    await house.assert_nothing_left()
