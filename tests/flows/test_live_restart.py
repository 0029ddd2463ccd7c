"""kill -9 under running pictures: the next life of the gateway ends what the first one left open."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_process import free_ports
from live_house import SERVER, until
from port_ranges import kept_ports
from raw_device import header
from scripted_camera import DOMAIN, ScriptedCamera

from config.settings import Settings
from gateway.app import Gateway

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
CAMERA = "41018300001320000001"
RTP_PORTS, WEBRTC_PORTS = kept_ports(100), kept_ports(50)

FIRST_LIFE = """
import asyncio, json, sys
from config.settings import Settings
from gateway.app import Gateway
from gateway.model import Channel, Device, State
from sip.flow import Flow

async def main():
    settings, camera, port = Settings.model_validate(json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    gateway = Gateway(settings)
    await gateway.start()
    flow = Flow("udp", "127.0.0.1", port, "127.0.0.1", settings.sip.port)
    gateway.registry.put_device(Device(camera, state=State.ONLINE, flow=flow))
    gateway.registry.put_channel(Channel(camera, camera, reported="ON"))
    session = await gateway.sessions.play(camera, camera)
    await asyncio.sleep(3 * settings.storage.flush_interval_s)
    print(json.dumps({"call_id": session.info.call_id, "ssrc": session.info.ssrc}), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def settings(folder: Path) -> dict[str, Any]:
    sip, viewer, http, metrics = free_ports(4)
    return {
        "sip": {
            "server_id": SERVER,
            "domain": DOMAIN,
            "host": "127.0.0.1",
            "port": sip,
            "allow_loopback": True,
        },
        "media": {
            "transport": "udp",
            "viewer_host": "127.0.0.1",
            "viewer_port": viewer,
            "rtsp_port": None,
            "rtp_port_min": RTP_PORTS[0],
            "rtp_port_max": RTP_PORTS[1],
            "webrtc_port": WEBRTC_PORTS[0],
            "webrtc_port_min": WEBRTC_PORTS[0],
            "webrtc_port_max": WEBRTC_PORTS[1],
        },
        "http": {"host": "127.0.0.1", "port": http},
        "metrics": {"port": metrics},
        "storage": {"directory": str(folder), "flush_interval_s": 0.1},
        "log": {"level": "ERROR"},
    }


@pytest.mark.gb("G237")
@pytest.mark.quirk(33)
async def test_dialogs_of_a_killed_gateway_are_ended_at_the_next_start(tmp_path: Path) -> None:
    values = settings(tmp_path / "data")
    async with ScriptedCamera(CAMERA) as camera:
        arguments = [json.dumps(values), CAMERA, str(camera.endpoint.port)]
        first = subprocess.Popen(
            [sys.executable, "-c", FIRST_LIFE, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert first.stdout is not None
        try:
            told = json.loads(await asyncio.to_thread(first.stdout.readline))
        finally:
            first.kill()
            first.wait()
            first.stdout.close()
        assert camera.trace.words(told["call_id"]) == ["<INVITE", ">100", ">200", "<ACK"]
        dialog = camera.calls[0].session
        assert dialog is not None
        assert not dialog.ended.done()  # the camera still sends

        second = Gateway(Settings.model_validate(values))
        await second.start()
        try:
            await until(lambda: dialog.ended.done())
            assert dialog.ended.result() == "remote_bye"
            bye = camera.trace.texts("BYE")[0]
            invite, ack = camera.trace.texts("INVITE")[0], camera.trace.texts("ACK")[0]
            assert header(bye, "From") == header(invite, "From")
            assert header(bye, "To") == header(ack, "To")
            assert int(header(bye, "CSeq").split()[0]) > int(header(invite, "CSeq").split()[0])
            assert camera.trace.words(told["call_id"])[-1] == ">200"
            await until(lambda: second.ssrc_pool.leased == 0)
        finally:
            await second.stop()

        third = Gateway(Settings.model_validate(values))
        await third.start()
        await asyncio.sleep(0.3)
        await third.stop()
        assert camera.trace.words(told["call_id"]).count("<BYE") == 1  # not once more
