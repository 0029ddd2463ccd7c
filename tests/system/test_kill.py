"""kill -9 in the middle of everything: the media node's and the gateway's own. Whoever watches gets a picture again."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from chain import UPPER, Viewer, chain
from gateway_process import SERVER_ID
from outside import alive, can_bind, eventually, media_nodes, series

from simulator.camera import DeviceOptions
from simulator.register import RegisterSettings
from sip.manscdp import AlarmNotify
from sip.message import Request, parse

pytestmark = pytest.mark.timeout(240)


def options(heartbeat_s: float) -> DeviceOptions:
    return DeviceOptions(register=RegisterSettings(heartbeat_s=heartbeat_s))


async def test_a_killed_media_node_is_replaced_and_the_picture_comes_back(tmp_path: Path) -> None:
    async with chain(tmp_path, 2, options=options(0.5)) as house:
        watched, pulled = house.cameras
        viewer = await asyncio.to_thread(Viewer, house.gateway, watched.channel_id)
        await viewer.pictures()
        pull = await house.upper.invite(pulled.channel_id)
        await pull.media.wait_frames(10)
        # the gateway's heartbeat toward its node has noticed both

        def noticed() -> bool:
            _, answer = house.gateway.call("GET", "/api/sessions")
            return all(session["viewers"] for session in answer["items"] if not session["uppers"])

        await eventually(noticed)
        registers = [one.registration.registers for one in house.cameras]
        (node,) = media_nodes(house.gateway.process.pid)
        os.kill(node, signal.SIGKILL)

        # both cameras are told the end of the old call and asked anew, without anybody's doing
        for one in house.cameras:
            await one.wait(lambda one=one: one.calls.history[0].ended == "remote_bye", 30, "for BYE")
            await one.wait(lambda one=one: len(one.calls.history) > 1, 60, "for the second INVITE")
            assert one.calls.history[1].ssrc != one.calls.history[0].ssrc
        (successor,) = await eventually(lambda: media_nodes(house.gateway.process.pid))
        assert successor != node
        assert not alive(node)
        await viewer.wait_end()
        await viewer.close()
        again = await asyncio.to_thread(Viewer, house.gateway, watched.channel_id)
        await again.pictures()

        # the upper hears BYE and asks again; what it gets decodes
        await asyncio.wait_for(asyncio.shield(pull.session.ended), 30)
        assert pull.session.ended.result() == "remote_bye"
        second = await house.upper.invite(pulled.channel_id)
        await second.media.wait_frames(25)
        assert (second.media.stats.decode_errors, second.media.stats.lost) == (0, 0)

        # nobody lost his registration over it
        assert [one.registration.registers for one in house.cameras] == registers
        assert all(one.registration.missed_heartbeats == 0 for one in house.cameras)
        for one in house.cameras:
            assert (await house.device(one))["state"] == "online"
        assert series(house.gateway.metrics(), "gateway_node_restarts_total") == 1
        await again.close()


@pytest.mark.gb("G059", "G237")
async def test_after_kill_9_the_gateway_goes_on_where_it_was(tmp_path: Path) -> None:
    # nobody says a word by himself during the test: what is online afterwards is online from the record
    async with chain(tmp_path, 2, options=options(600.0)) as house:
        watched, pulled = house.cameras
        viewer = await asyncio.to_thread(Viewer, house.gateway, watched.channel_id)
        await viewer.pictures()
        pull = await house.upper.invite(pulled.channel_id)
        await pull.media.wait_frames(10)
        await house.upper.subscribe_catalog()
        await asyncio.sleep(1.5)  # several times the interval in which changes are written
        nodes = media_nodes(house.gateway.process.pid)
        before = [(one.registration.registers, one.registration.heartbeats) for one in house.cameras]
        upper_registers = len(house.upper.registers)
        upper_call_id = house.upper.registers[-1].headers.get("Call-ID")

        house.gateway.process.kill()
        house.gateway.process.wait()
        await viewer.close()
        await eventually(lambda: not any(alive(node) for node in nodes), 20, "old media nodes gone")
        assert await eventually(lambda: all(can_bind(port) for port in house.ports), 20)
        await house.restart()

        # devices: online at once, nothing was asked of them
        for one, counts in zip(house.cameras, before, strict=True):
            state = await house.device(one)
            assert (state["state"], state["offline_cause"]) == ("online", "")
            assert (one.registration.registers, one.registration.heartbeats) == counts
        # their calls of the earlier life have ended
        for one in house.cameras:
            await one.wait(lambda one=one: one.calls.history[0].ended == "remote_bye", 20, "for BYE")
            assert one.live_calls == []
        await asyncio.wait_for(asyncio.shield(pull.session.ended), 20)
        assert not set(nodes) & set(media_nodes(house.gateway.process.pid))

        # the upper: registered anew under another Call-ID
        await house.upper.wait(lambda: len(house.upper.registers) > upper_registers, 30, "for REGISTER")
        assert house.upper.registers[-1].headers.get("Call-ID") != upper_call_id
        await eventually(
            lambda: house.gateway.call("GET", f"/api/platforms/{UPPER}")[1]["status"]["state"] == "online"
        )

        # and all of it works: catalog, picture, viewer
        assert {one.channel_id for one in house.cameras} <= {
            item.device_id for item in await house.upper.query_catalog()
        }
        second = await house.upper.invite(watched.channel_id)
        await second.media.wait_frames(25)
        assert second.media.stats.decode_errors == 0
        again = await asyncio.to_thread(Viewer, house.gateway, pulled.channel_id)
        await again.pictures()
        await again.close()
        assert [(one.registration.registers, one.registration.heartbeats) for one in house.cameras] == before


@pytest.mark.gb("G030")
async def test_a_message_is_answered_while_the_database_is_blocked(tmp_path: Path) -> None:
    async with chain(tmp_path, 1, options=options(0.5)) as house:
        (device,) = house.cameras
        database = next((tmp_path / "data").glob("*.sqlite3"))
        lock = sqlite3.connect(database, isolation_level=None, timeout=20)
        try:
            lock.execute("BEGIN EXCLUSIVE")
            blocked_at, beats = time.monotonic(), device.registration.heartbeats
            alarm = AlarmNotify(
                sn=device.next_sn(), device_id=device.channel_id, alarm_priority=1, alarm_method=5
            )
            for _ in range(5):
                response = await device.send(alarm)
                assert response is not None
                assert (response.status, response.body) == (200, b"")
            await device.send_catalog()  # changes that must be written
            assert (await device.registration._register(3600)).status == 200
            await device.wait(lambda: device.registration.heartbeats > beats + 4)
            assert device.registration.missed_heartbeats == 0
            held_s = time.monotonic() - blocked_at
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        assert held_s > 1.5, "many writing intervals long"
        assert "Traceback" not in house.gateway.log()


async def test_a_killed_gateway_left_uppers_no_half_dead_subscription(tmp_path: Path) -> None:
    async with chain(tmp_path, 1, options=options(600.0)) as house:
        subscription = await house.upper.subscribe_catalog()
        await asyncio.sleep(1.5)
        house.gateway.process.kill()
        house.gateway.process.wait()
        seen = len(house.upper.wire_in)
        await house.restart()

        def terminated() -> list[Request]:
            texts = [data for data in house.upper.wire_in[seen:] if data.startswith(b"NOTIFY")]
            found = [message for message in map(parse, texts) if isinstance(message, Request)]
            return [m for m in found if (m.headers.get("Subscription-State") or "").startswith("terminated")]

        await house.upper.wait(terminated, 30, "for the last NOTIFY")
        assert terminated()[0].call_id == subscription.call_id
        assert SERVER_ID in str(terminated()[0].headers.get("From"))
