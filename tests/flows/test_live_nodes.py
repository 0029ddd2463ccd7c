"""A media node dies under a running picture: the camera gets its BYE, watchers get the picture back, SIP goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from live_house import LiveHouse, Watching, node_plan, until
from scripted_camera import ScriptedCamera

from gateway.services.nodes import Nodes

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

CAMERA = "41018300001320000001"
UNWATCHED = "41018300001320000002"


@pytest_asyncio.fixture(loop_scope="session")
async def own_nodes() -> AsyncIterator[Nodes]:
    nodes = Nodes(node_plan(), heartbeat_s=0.3, backoff_first_s=0.05)
    await nodes.start()
    yield nodes
    await nodes.close()


async def test_killed_node(own_nodes: Nodes) -> None:
    async with (
        ScriptedCamera(CAMERA) as camera,
        ScriptedCamera(UNWATCHED) as other,
        LiveHouse(own_nodes, invite_timeout_s=20.0) as house,
    ):
        house.add(CAMERA, camera.flow)
        house.add(UNWATCHED, other.flow)
        session = await house.sessions.play(CAMERA, CAMERA)
        unwatched = await house.sessions.play(UNWATCHED, UNWATCHED)
        upper = Watching()
        session.watch(upper)
        os.kill(own_nodes.pick().pid, signal.SIGKILL)
        await until(lambda: upper.successors, 60)
        successor = upper.successors[0]
        assert upper.causes == []
        assert successor.streaming
        assert successor.node is own_nodes.pick()
        assert session.info.end_cause == unwatched.info.end_cause == "node_lost"
        assert camera.trace.words(session.info.call_id)[-2:] == ["<BYE", ">200"]
        assert other.trace.words(unwatched.info.call_id)[-2:] == ["<BYE", ">200"]
        assert len(camera.calls) == 2
        assert len(other.calls) == 1
        assert house.registry.devices[CAMERA].online
