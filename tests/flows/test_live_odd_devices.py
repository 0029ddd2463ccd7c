"""Devices that break the rules, played byte by byte: late answers, missing bodies and tags, silence, lost BYEs."""

from __future__ import annotations

import asyncio

import pytest
from live_house import LiveHouse, until
from raw_device import RawDevice, header, send_pictures
from scripted_camera import plain_answer

from gateway.model import SessionState
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import Nodes

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

CAMERA = "41018300001320000001"


@pytest.mark.gb("G236")
async def test_a_200_after_we_gave_up_is_acknowledged_and_ended(nodes: Nodes) -> None:
    async with RawDevice() as device, LiveHouse(nodes, invite_timeout_s=0.5) as house:
        house.add(CAMERA, device.flow)
        play = asyncio.create_task(house.sessions.play(CAMERA, CAMERA))
        invite = await device.receive("INVITE")
        device.answer(invite, "100 Trying")
        cancel = await device.receive("CANCEL")
        with pytest.raises(PlayFailed):
            await play
        # it never heard the CANCEL and answers the INVITE long after
        device.answer(
            invite,
            "200 OK",
            tag="late",
            body=plain_answer(CAMERA, "15060 RTP/AVP 96", "a=sendonly").decode(),
            headers=(f"Contact: <sip:{CAMERA}@127.0.0.1:{device.port}>",),
        )
        ack = await device.receive("ACK")
        bye = await device.receive("BYE")
        assert header(cancel, "Call-ID") == header(ack, "Call-ID") == header(bye, "Call-ID")
        assert header(ack, "To").endswith(";tag=late")
        assert header(bye, "To").endswith(";tag=late")
        device.answer(bye, "200 OK")
        await until(lambda: house.endpoint.counts["dialogs"] == 0)
        await house.assert_nothing_left()


@pytest.mark.quirk(43)
async def test_100_and_then_nothing_means_the_sdp_was_not_accepted(nodes: Nodes) -> None:
    async with RawDevice() as device, LiveHouse(nodes, invite_timeout_s=0.6) as house:
        record = house.add(CAMERA, device.flow)
        play = asyncio.create_task(house.sessions.play(CAMERA, CAMERA))
        invite = await device.receive("INVITE")
        device.answer(invite, "100 Trying")
        with pytest.raises(PlayFailed) as failure:
            await play
        assert failure.value.cause is PlayCause.SDP_NOT_ACCEPTED
        assert "SDP" in failure.value.detail
        assert header(await device.receive("CANCEL"), "Call-ID") == header(invite, "Call-ID")
        assert record.online
        assert "\r\ny=" in invite

        record.profile.order(sdp_form="plain")  # an operator's answer to this diagnosis
        play = asyncio.create_task(house.sessions.play(CAMERA, CAMERA))
        invite = await device.receive("INVITE")
        assert "\r\ny=" not in invite
        assert "\r\nf=" not in invite
        device.answer(invite, "486 Busy Here", tag="b")
        with pytest.raises(PlayFailed):
            await play


async def test_silence_is_a_time_out(nodes: Nodes) -> None:
    async with RawDevice() as device, LiveHouse(nodes, invite_timeout_s=0.5) as house:
        house.add(CAMERA, device.flow)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(CAMERA, CAMERA)
        assert (failure.value.cause, failure.value.status) == (PlayCause.INVITE_TIMEOUT, 504)
        await house.assert_nothing_left()


@pytest.mark.quirk(41)
async def test_200_without_body_and_tag_is_enough_for_tcp_passive(nodes: Nodes) -> None:
    async with RawDevice() as device, LiveHouse(nodes, transport="tcp_passive") as house:
        house.add(CAMERA, device.flow)
        play = asyncio.create_task(house.sessions.play(CAMERA, CAMERA))
        invite = await device.receive("INVITE")
        port = int(invite.partition("m=video ")[2].split()[0])
        ssrc = int(invite.partition("\r\ny=")[2].split()[0])
        sending = asyncio.create_task(send_pictures(port, ssrc))  # it dials at once
        device.answer(invite, "200 OK")
        ack = await device.receive("ACK")
        assert "tag=" not in header(ack, "To")
        session = await play
        assert session.streaming
        stop = asyncio.create_task(house.sessions.stop(session.session_id))
        bye = await device.receive("BYE")
        assert header(bye, "Call-ID") == header(invite, "Call-ID")
        assert "tag=" not in header(bye, "To")
        device.answer(bye, "200 OK")
        await stop
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await house.assert_nothing_left()


@pytest.mark.quirk(33)
async def test_a_lost_bye_is_repeated_and_holds_nothing_up(nodes: Nodes) -> None:
    async with RawDevice() as device, LiveHouse(nodes, transport="tcp_passive") as house:
        house.add(CAMERA, device.flow)
        play = asyncio.create_task(house.sessions.play(CAMERA, CAMERA))
        invite = await device.receive("INVITE")
        port = int(invite.partition("m=video ")[2].split()[0])
        ssrc = int(invite.partition("\r\ny=")[2].split()[0])
        sending = asyncio.create_task(send_pictures(port, ssrc))
        device.answer(invite, "200 OK", tag="d")
        session = await play
        stop = asyncio.create_task(house.sessions.stop(session.session_id))
        first = await device.receive("BYE")
        assert session.info.state is SessionState.ENDING
        second = await device.receive("BYE", again=True)  # nothing answered the first one
        assert first == second
        await stop  # after a few seconds without an answer the port and the SSRC are free all the same
        assert house.pool.leased == 0
        assert list(house.journal) == [
            session.info.call_id
        ]  # on record until the BYE is answered or given up
        device.answer(await device.receive("BYE", again=True), "481 Call/Transaction Does Not Exist")
        await until(lambda: not house.journal)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await house.assert_nothing_left()
