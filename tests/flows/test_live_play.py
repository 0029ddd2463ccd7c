"""Live pictures from a camera, message by message, with real sockets and a real media node."""

from __future__ import annotations

import asyncio
import re
import socket

import aiohttp
import pytest
from live_house import SERVER, LiveHouse, Watching, until
from scripted_camera import ScriptedCamera, plain_answer

from gateway.events import FirstPicture, MediaFault
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import Nodes
from media import rtp

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

CAMERA = "41018300001320000001"


@pytest.mark.gb("G228", "G188", "G189", "G203")
async def test_the_whole_call_in_its_dialog(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        assert (session.info.video_codec.lower(), session.info.transport) == ("h264", "udp")
        await house.sessions.stop(session.session_id)
        await until(lambda: camera.trace.words()[-1] == ">200" and "<BYE" in camera.trace.words())
        assert camera.trace.words(session.info.call_id) == ["<INVITE", ">100", ">200", "<ACK", "<BYE", ">200"]
        assert len({call_id for _, _, call_id, _ in camera.trace.messages}) == 1

        invite, ack, bye = (camera.trace.texts(word)[0] for word in ("INVITE", "ACK", "BYE"))
        tags = [re.findall(r"^(?:From|To):.*?tag=(\S+?)\r", text, re.MULTILINE) for text in (ack, bye)]
        assert tags[0] == tags[1]
        assert len(tags[0]) == 2
        sequence = [int(re.findall(r"CSeq: (\d+)", text)[0]) for text in (invite, ack, bye)]
        assert sequence[0] == sequence[1] < sequence[2]

        assert invite.startswith(f"INVITE sip:{CAMERA}@127.0.0.1:{camera.endpoint.port} SIP/2.0")
        ssrc = f"{session.info.ssrc:010d}"
        assert re.search(rf"^Subject: {CAMERA}:{ssrc},{SERVER}:0\d{{0,19}}\r$", invite, re.MULTILINE)
        body = invite.partition("\r\n\r\n")[2].split("\r\n")
        assert body[1] == f"o={SERVER} 0 0 IN IP4 127.0.0.1"
        assert {"s=Play", "c=IN IP4 127.0.0.1", "t=0 0", "a=recvonly"} <= set(body)
        assert body[-3:] == [f"y={ssrc}", "f=v/////a///", ""]
        await house.assert_nothing_left()


@pytest.mark.gb("G226")
async def test_rtp_goes_to_an_even_port_and_strangers_are_dropped(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        port = camera.calls[0].offer.port
        assert port % 2 == 0
        node = nodes.pick()
        before = await node.client.stream(session.stream_id)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.9", 0))
            for number in range(20):
                stranger.sendto(
                    rtp.build(96, number, 0, session.info.ssrc or 0, b"\0" * 100), ("127.0.0.1", port)
                )
        await asyncio.sleep(0.3)
        after = await node.client.stream(session.stream_id)
        assert after.foreign_packets - before.foreign_packets == 20
        assert after.video_units > before.video_units
        assert after.damaged_units == before.damaged_units


@pytest.mark.gb("G227")
async def test_pictures_before_the_200_are_kept(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.rtp_before_answer = True
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        early = camera.trace.words().index("<ACK")
        assert camera.trace.words()[:early] == ["<INVITE", ">100", ">200"]
        await camera.silence()
        await asyncio.sleep(0.3)
        stats = await nodes.pick().client.stream(session.stream_id)
        assert stats.packets == camera.calls[0].packets  # those of the 0.3 s before the 200 are among them
        assert stats.key_units >= 1
        assert stats.lost == stats.damaged_units == 0


@pytest.mark.gb("G207")
async def test_tcp_passive(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes, transport="tcp_passive") as house:
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        invite = camera.trace.texts("INVITE")[0]
        assert "TCP/RTP/AVP" in invite
        assert "a=setup:passive\r\na=connection:new\r\n" in invite
        assert camera.calls[0].packets > 0
        await house.sessions.stop(session.session_id)
        await house.assert_nothing_left()


@pytest.mark.gb("G208")
async def test_tcp_active_with_a_late_listener(nodes: Nodes) -> None:
    slow = LiveHouse(nodes, transport="tcp_active", first_picture_timeout_s=15.0)
    async with ScriptedCamera(CAMERA) as camera, slow as house:
        camera.script.listen_delay_s = 1.5  # the first two tries find nobody
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        assert "a=setup:active\r\na=connection:new\r\n" in camera.trace.texts("INVITE")[0]
        assert session.info.first_picture_s is not None
        assert session.info.first_picture_s > 1.5
        assert len(camera.calls) == 1


@pytest.mark.gb("G199")
@pytest.mark.quirk(27)
async def test_device_chooses_its_own_ssrc(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.answer_ssrc = 200009319  # y=0200009319
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        assert "y=0200009319" in camera.trace.texts("200")[0]
        assert session.info.ssrc == 200009319
        assert (await nodes.pick().client.stream(session.stream_id)).ssrc == 200009319


@pytest.mark.gb("G200")
@pytest.mark.quirk(27)
@pytest.mark.parametrize("ssrc", [0, 777])
async def test_rtp_with_ssrc_zero_or_a_third_value_plays(nodes: Nodes, ssrc: int) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.rtp_ssrc = ssrc
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        assert (await nodes.pick().client.stream(session.stream_id)).ssrc == ssrc
        faults = await until(lambda: house.told(MediaFault))
        assert (faults[0].kind, faults[0].session_id) == ("ssrc_mismatch", session.session_id)


@pytest.mark.gb("G232")
async def test_twenty_viewers_one_invite_and_the_last_one_ends_it(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house, aiohttp.ClientSession() as http:
        house.add(CAMERA, camera.flow)
        sessions = await asyncio.gather(*(house.sessions.play(CAMERA, CAMERA) for _ in range(20)))
        session = sessions[0]
        url = house.sessions.viewer_urls(session, "127.0.0.1")["fmp4"]
        answers = [await http.get(url) for _ in range(20)]
        for answer in answers:
            assert answer.status == 200
            assert b"ftyp" in await answer.content.readany()
        await until(lambda: session.info.viewers == 20)
        assert camera.trace.words().count("<INVITE") == 1

        for answer in answers[:19]:
            answer.close()
        await until(lambda: session.info.viewers == 1)
        await asyncio.sleep(1.5)  # longer than the linger time
        assert session.streaming
        answers[19].close()
        await until(lambda: session.info.end_cause == "idle")
        await until(lambda: "<BYE" in camera.trace.words())
        await until(lambda: not house.journal)
        await house.assert_nothing_left()


@pytest.mark.gb("G233")
async def test_device_bye_ends_the_viewers(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house, aiohttp.ClientSession() as http:
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        upper = Watching()
        session.watch(upper)
        answer = await http.get(house.sessions.viewer_urls(session, "127.0.0.1")["fmp4"])
        dialog = camera.calls[0].session
        assert dialog is not None
        await dialog.bye()
        async with asyncio.timeout(10):
            while await answer.content.readany():
                pass  # the viewer's stream ends
        await until(lambda: upper.causes)
        assert upper.causes == ["device_bye"]
        await until(lambda: not house.sessions.list())
        await house.assert_nothing_left()


@pytest.mark.gb("G230")
async def test_lost_rtp_is_bye(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        upper = Watching()
        session.watch(upper)
        await camera.silence()
        await until(lambda: upper.causes)
        assert upper.causes == ["no_rtp"]
        await until(lambda: "<BYE" in camera.trace.words(session.info.call_id))
        await until(lambda: not house.journal)
        await house.assert_nothing_left()


@pytest.mark.gb("G231")
async def test_offline_device_releases_its_media(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        device = house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        upper = Watching()
        session.watch(upper)
        house.registry.mark_offline(device, "heartbeat_lost")
        await until(lambda: upper.causes)
        assert upper.causes == ["device_offline"]
        await until(lambda: "<BYE" in camera.trace.words(session.info.call_id))
        await until(lambda: not house.journal)
        await house.assert_nothing_left()


@pytest.mark.gb("G234")
@pytest.mark.parametrize("body", [b"", plain_answer(CAMERA, "0 RTP/AVP 96", "a=sendonly")])
async def test_200_that_cannot_be_used_is_bye(nodes: Nodes, body: bytes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.answer = lambda offer: body
        house.add(CAMERA, camera.flow)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(CAMERA, CAMERA, transport="udp")
        assert failure.value.cause is PlayCause.SDP_NOT_ACCEPTED
        assert camera.trace.words() == ["<INVITE", ">100", ">200", "<ACK", "<BYE", ">200"]
        await house.assert_nothing_left()


@pytest.mark.gb("G235")
async def test_no_rtp_after_the_200_is_bye_and_no_stream(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes, first_picture_timeout_s=1.0) as house:
        camera.script.rtp = False
        house.add(CAMERA, camera.flow)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(CAMERA, CAMERA, transport="udp")
        assert (failure.value.cause, failure.value.status) == (PlayCause.NO_STREAM, 504)
        assert camera.trace.words()[-2:] == ["<BYE", ">200"]
        await house.assert_nothing_left()


@pytest.mark.gb("G193")
@pytest.mark.quirk(34)
async def test_busy_device(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.status = 486
        house.add(CAMERA, camera.flow)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(CAMERA, CAMERA)
        assert (failure.value.cause, failure.value.sip_status) == (PlayCause.BUSY, 486)
        assert camera.trace.words() == ["<INVITE", ">100", ">486", "<ACK"]
        camera.script.status = 488
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(CAMERA, CAMERA, transport="udp")
        assert (failure.value.cause, failure.value.sip_status) == (PlayCause.SDP_NOT_ACCEPTED, 488)


@pytest.mark.quirk(30)
async def test_a_camera_that_only_dials_tcp(nodes: Nodes) -> None:
    """It refuses UDP with 415 and would not be dialled: the ladder ends at TCP passive and is remembered."""
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.refuse_transports = {"udp": 415, "tcp_passive": 488}
        device = house.add(CAMERA, camera.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        assert session.info.transport == "tcp_passive"
        assert (device.profile.media_transport, device.profile.origin("media_transport")) == (
            "tcp_passive",
            "learned",
        )
        await house.sessions.stop(session.session_id)
        await house.sessions.play(CAMERA, CAMERA)
        offers = [re.findall(r"m=video \d+ (\S+)", text)[0] for text in camera.trace.texts("INVITE")]
        assert offers == ["RTP/AVP", "TCP/RTP/AVP", "TCP/RTP/AVP"]


@pytest.mark.quirk(42)
async def test_nul_bytes_in_the_answer(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        port = "15060"

        def with_nul(offer: object) -> bytes:
            body = plain_answer(CAMERA, f"{port} RTP/AVP 96", "a=sendonly", "a=rtpmap:96 PS/90000")
            return body.replace(b"127.0.0.1\r\n", b"127.0.0.1" + b"\0" * 110 + b"\r\n")

        camera.script.answer = with_nul  # type: ignore[assignment]
        house.add(CAMERA, camera.flow)
        assert (await house.sessions.play(CAMERA, CAMERA)).streaming


@pytest.mark.quirk(46)
async def test_media_that_contradict_the_sdp(nodes: Nodes) -> None:
    """The answer said PS; what comes is neither PS nor TS nor anything known: a fault of its own, not "no stream"."""
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes, first_picture_timeout_s=2.0) as house:
        camera.script.payload = lambda data: bytes(len(data))
        camera.script.payload_type = 33
        house.add(CAMERA, camera.flow)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(CAMERA, CAMERA)
        assert failure.value.cause is PlayCause.MEDIA_MISMATCH
        assert house.told(MediaFault)[0].kind == "media_mismatch"


async def test_packets_without_key_frames_are_no_picture(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes, first_picture_timeout_s=1.5) as house:
        camera.script.key_frames = False
        house.add(CAMERA, camera.flow)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(CAMERA, CAMERA)
        assert failure.value.cause is PlayCause.NO_PICTURE
        assert len(camera.calls) == 1


@pytest.mark.quirk(12)
async def test_each_device_is_told_the_address_it_can_reach(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA, host="127.0.0.7") as camera, LiveHouse(nodes) as house:
        house.add(CAMERA, camera.flow)
        await house.sessions.play(CAMERA, CAMERA)
        invite = camera.trace.texts("INVITE")[0]
        named = set(
            re.findall(
                r"(?:Via: SIP/2.0/UDP |Contact: <sip:\d+@|c=IN IP4 |o=\d+ 0 0 IN IP4 )([\d.]+)", invite
            )
        )
        assert named == {"127.0.0.1"}
        assert "0.0.0.0" not in invite


async def test_cancelled_by_the_viewer(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.answer_delay_s = 30.0
        house.add(CAMERA, camera.flow)
        play = asyncio.create_task(house.sessions.play(CAMERA, CAMERA))
        await until(lambda: camera.calls)
        play.cancel()
        await asyncio.gather(play, return_exceptions=True)
        await until(lambda: camera.trace.words()[-1] == "<ACK")
        assert camera.trace.words() == ["<INVITE", ">100", "<CANCEL", ">200", ">487", "<ACK"]
        await until(lambda: not house.sessions.list())
        await house.assert_nothing_left()


async def test_h265_and_the_time_to_the_first_picture(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes) as house:
        camera.script.codec = "h265"
        house.add(CAMERA, camera.flow, edition="3.0")
        session = await house.sessions.play(CAMERA, CAMERA)
        assert session.info.video_codec.lower() == "h265"
        first = (await until(lambda: house.told(FirstPicture)))[0]
        assert first.kind == "live"
        assert 0 < first.seconds < 4


@pytest.mark.quirk(29)
async def test_plays_and_failures_leak_no_port_and_no_ssrc(nodes: Nodes) -> None:
    async with ScriptedCamera(CAMERA) as camera, LiveHouse(nodes, rest_s=0.0) as house:
        house.add(CAMERA, camera.flow)
        for number in range(30):
            camera.script.status = 486 if number % 3 == 2 else 200
            transport = "tcp_passive" if number % 2 else "udp"
            try:
                session = await house.sessions.play(CAMERA, CAMERA, transport=transport)
            except PlayFailed:
                continue
            await house.sessions.stop(session.session_id)
        await house.assert_nothing_left()
        stats = await nodes.pick().client.stats()
        assert stats.ports_leased == 0
        assert nodes.pick().placed == 0
