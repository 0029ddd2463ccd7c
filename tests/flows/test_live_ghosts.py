"""Ghost streams: a device that never hears our BYE goes on sending; it is found and told again (quirk 33)."""

from __future__ import annotations

import asyncio

import pytest
from live_house import LiveHouse, MemoryJournal, until
from raw_device import RawDevice, header, send_pictures
from scripted_camera import ScriptedCamera

from gateway.events import DeviceOnline
from gateway.services.nodes import Nodes
from gateway.services.session_record import LiveSession
from sip.endpoint import Timers

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

CAMERA, OTHER = "41018300001320000001", "41018300001320000002"
QUICK = Timers(t1=0.02, t2=0.1, t4=0.1)


async def haunt(house: LiveHouse, device: RawDevice) -> tuple[LiveSession, int]:
    """Play and stop; the device answers no BYE. Returns the session and its SSRC."""
    play = asyncio.create_task(house.sessions.play(CAMERA, CAMERA))
    invite = await device.receive("INVITE")
    ssrc = int(invite.partition("\r\ny=")[2].split()[0])
    sending = asyncio.create_task(send_pictures(int(invite.partition("m=video ")[2].split()[0]), ssrc))
    device.answer(invite, "200 OK", tag="d", headers=(f"Contact: <sip:{CAMERA}@127.0.0.1:{device.port}>",))
    session = await play
    await house.sessions.stop(session.session_id)
    await until(lambda: house.dialogs.ghosts.ghosts, 30)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return session, ssrc


@pytest.mark.quirk(33)
async def test_it_is_ended_when_the_device_registers_again(nodes: Nodes) -> None:
    """Over the device's new address; the record stays until then, also for the next start."""
    async with (
        RawDevice() as device,
        RawDevice() as moved,
        LiveHouse(nodes, transport="tcp_passive", timers=QUICK) as house,
    ):
        record = house.add(CAMERA, device.flow)
        session, _ = await haunt(house, device)
        call_id = session.info.call_id
        assert list(house.journal) == [call_id]
        assert house.pool.leased == 0
        assert record.profile.observed["bye_unanswered"].count == 1
        house.registry.set_flow(record, moved.flow(house.endpoint.port))
        house.bus.publish(DeviceOnline(CAMERA, "registered"))
        bye = await moved.receive("BYE")
        assert header(bye, "Call-ID") == call_id
        assert header(bye, "To").endswith(";tag=d")
        moved.answer(bye, "200 OK")
        await until(lambda: not house.journal)
        assert (house.dialogs.ghosts.laid, house.dialogs.ghosts.ghosts) == (1, {})


@pytest.mark.quirk(33)
async def test_it_is_ended_when_its_packets_are_heard_elsewhere(nodes: Nodes) -> None:
    """Its SSRC turns up in somebody else's stream: reason enough to say BYE at once."""
    async with (
        RawDevice() as device,
        ScriptedCamera(OTHER) as camera,
        LiveHouse(nodes, transport="tcp_passive", timers=QUICK) as house,
    ):
        house.add(CAMERA, device.flow)
        _, ssrc = await haunt(house, device)
        while not device._queue.empty():
            device._queue.get_nowait()
        camera.script.rtp_ssrc = ssrc
        house.add(OTHER, camera.flow, media_transport="udp")
        await house.sessions.play(OTHER, OTHER)
        bye = await device.receive("BYE")
        device.answer(bye, "481 Call/Transaction Does Not Exist")
        await until(lambda: house.dialogs.ghosts.laid == 1)


@pytest.mark.quirk(33)
async def test_it_is_known_after_a_restart(nodes: Nodes) -> None:
    journal = MemoryJournal()
    async with RawDevice() as device:
        async with LiveHouse(nodes, transport="tcp_passive", timers=QUICK, journal=journal) as house:
            house.add(CAMERA, device.flow)
            await haunt(house, device)
        assert len(journal) == 1
        async with LiveHouse(nodes, timers=QUICK, journal=journal) as later:
            later.add(CAMERA, device.flow)
            await until(lambda: later.dialogs.ghosts.ghosts, 30)  # said BYE at the start, and nobody answered
            assert len(journal) == 1
            later.bus.publish(DeviceOnline(CAMERA, "registered"))
            while not later.dialogs.ghosts.laid:
                device.answer(await device.receive("BYE", again=True), "200 OK")
                await asyncio.sleep(0.05)
            await until(lambda: not journal)
