"""Three platforms in a row, two of them real gateways: an upper, we, a lower gateway with a camera. Pictures, controls and the
way they take (2022 H.3), and who wanted them (8.3), go down and come back through the whole chain."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import QUICK, UPPER, Chain, chain
from gateway_process import PASSWORD, SERVER_ID, GatewayProcess, free_ports, start
from outside import eventually

from simulator.camera import Camera
from sip.ids import make_code
from sip.ptz import Move, encode

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOWER = "41018400002000000044"
OFFICER = "41000000002000000009-officer.li"
WAIT_S = 60.0


@dataclass
class Row:
    """``top`` holds the upper and the gateway in the middle; ``lower`` is the gateway that has the camera."""

    top: Chain
    lower: GatewayProcess
    camera: Camera


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def row(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Row]:
    folder: Path = tmp_path_factory.mktemp("row")
    async with chain(folder / "middle", 0) as top:
        overrides: dict[str, Any] = {name: dict(values) for name, values in QUICK.items()}
        overrides["sip"] = {
            "server_id": LOWER,
            "domain": LOWER[:10],
            "host": "127.0.0.1",
            "allow_loopback": True,
        }
        ports = await asyncio.to_thread(free_ports, 4)
        overrides["sip"]["port"] = ports[0]
        lower = await asyncio.to_thread(start, folder / "lower", overrides, ports)
        camera = Camera(
            make_code("410184", 132, 77),
            server=("127.0.0.1", lower.sip_port),
            server_id=LOWER,
            password=PASSWORD,
            media="udp",
        )
        try:
            platform = {
                "platform_id": SERVER_ID, "name": "middle", "host": "127.0.0.1", "port": top.gateway.sip_port,
                "password": PASSWORD, "share_all": True, "rights": ["play", "ptz"],
            }  # fmt: skip
            await camera.start()
            await camera.wait_registered(WAIT_S)
            status, answer = await asyncio.to_thread(lower.call, "POST", "/api/platforms", platform)
            assert status == 201, answer

            def known() -> Any:
                top.gateway.call("POST", f"/api/devices/{LOWER}/catalog")
                status, channel = top.gateway.call("GET", f"/api/channels/{camera.channel_id}")
                return status == 200 and channel["online"]

            await eventually(known, WAIT_S, "the camera two platforms further up", every_s=1.0)
            async with asyncio.timeout(WAIT_S):
                while camera.channel_id not in {i.device_id for i in await top.upper.query_catalog()}:
                    await asyncio.sleep(0.5)
            yield Row(top, lower, camera)
        finally:
            await camera.stop()
            try:
                await asyncio.to_thread(lower.end)
            except subprocess.TimeoutExpired:
                lower.process.kill()


@pytest.mark.gb("G266", "G267")
async def test_a_picture_takes_the_preferred_path_and_tells_it(row: Row) -> None:
    path = f"{SERVER_ID}-{LOWER}"
    pull = await row.top.upper.invite(row.camera.channel_id, headers=[("X-PreferredPath", path)])
    try:
        await eventually(lambda: pull.media.stats.frames > 5, WAIT_S, "pictures at the upper")
        assert pull.session.accepted is not None
        assert pull.session.accepted.headers.get("X-RoutePath") == path, "each platform put itself in front"
        _, sessions = await asyncio.to_thread(row.top.gateway.call, "GET", "/api/sessions")
        assert [session["route_path"] for session in sessions["items"]] == [LOWER]
    finally:
        await pull.close()
    _, audit = await asyncio.to_thread(row.lower.call, "GET", "/api/audit?limit=100")
    plays = [entry for entry in audit["items"] if entry["action"] == "play"]
    assert plays, audit
    assert plays[0]["detail"] == LOWER, "the path came without the code of the platform before"


@pytest.mark.gb("G268")
async def test_who_wanted_it_is_known_at_the_end_of_the_chain(row: Row) -> None:
    headers = [("Monitor-User-Identity", f"{UPPER}-{OFFICER}")]
    answer = await row.top.upper.ptz(
        row.camera.channel_id, encode(Move(pan=1, pan_speed=60)), headers=headers
    )
    assert answer.status == 200
    await row.camera.wait(lambda: row.camera.ptz_log, WAIT_S, "PTZ through two gateways")
    assert row.camera.ptz_log[-1][0] == row.camera.channel_id

    def audited() -> bool:
        _, page = row.lower.call("GET", "/api/audit?limit=100")
        whole = f"{LOWER}-{SERVER_ID}-{UPPER}-{OFFICER}"
        return any(whole in f"{entry['who']} {entry['detail']}" for entry in page["items"])

    await eventually(audited, WAIT_S, "the whole value, our own code in front of each")
