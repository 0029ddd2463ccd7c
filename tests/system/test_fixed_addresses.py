"""Fixed addresses as players of integrators use them: FFmpeg opens one, the camera starts; it lets go, the camera stops."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise

import av
import pytest
import pytest_asyncio
from gateway_process import PASSWORD, SERVER_ID, GatewayProcess, gateway_process
from outside import eventually, series

from simulator.camera import Camera, DeviceOptions
from simulator.picture import read_mark
from simulator.register import RegisterSettings
from sip.ids import make_code

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@dataclass
class House:
    gateway: GatewayProcess
    camera: Camera
    token: str

    def address(self, form: str) -> str:
        return f"{self.gateway.url}/api/channels/{self.camera.channel_id}/live.{form}?token={self.token}"

    def viewers(self, kind: str) -> float:
        return series(self.gateway.metrics(), "gateway_viewers", kind=kind)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    overrides = {"media": {"idle_grace_s": 1, "nodes": 1}}
    with gateway_process(tmp_path_factory.mktemp("addresses"), overrides) as gateway:
        _, token = gateway.call("POST", "/api/tokens", {"name": "algorithm box", "role": "viewer"})
        camera = Camera(
            make_code("410183", 132, 700_001), server=("127.0.0.1", gateway.sip_port), server_id=SERVER_ID,
            password=PASSWORD, options=DeviceOptions(register=RegisterSettings(heartbeat_s=0.5)),
        )  # fmt: skip
        await camera.start()
        try:
            await camera.wait_registered(30)
            path = f"/api/channels/{camera.channel_id}"
            await eventually(lambda: gateway.call("GET", path)[0] == 200)
            yield House(gateway, camera, token["token"])
        finally:
            await camera.stop()


def sessions(house: House) -> list[object]:
    found: list[object] = house.gateway.call("GET", "/api/sessions")[1]["items"]
    return found


def watch(house: House, form: str, kind: str) -> tuple[list[int], set[str], float]:
    """Frame numbers and codecs that FFmpeg's own network code gets, and how many viewers are counted meanwhile."""
    numbers: list[int] = []
    with av.open(house.address(form), timeout=30) as container:
        for packet in container.demux():
            for frame in packet.decode():
                mark = (
                    read_mark(frame.to_ndarray(format="gray")) if isinstance(frame, av.VideoFrame) else None
                )
                if mark is not None:
                    numbers.append(mark.frame)
            if len(numbers) >= 30:
                break
        codecs = {stream.codec_context.name for stream in container.streams}
        counted = 0.0
        for _ in range(50):  # the gateway asks its nodes every other second
            counted = max(counted, house.viewers(kind))
            if counted:
                break
            list_of_packets(container, 5)
        return numbers, codecs, counted


def list_of_packets(container: av.container.InputContainer, count: int) -> None:
    """Take some more, as a player does that goes on."""
    for _, _packet in zip(range(count), container.demux(), strict=False):
        pass


async def test_a_fixed_address_without_a_good_token_is_refused(house: House) -> None:
    def status(address: str) -> int:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    address = house.address("ts")
    assert await asyncio.to_thread(status, address.partition("?")[0]) == 401
    assert await asyncio.to_thread(status, address + "x") == 401
    assert sessions(house) == []


@pytest.mark.parametrize(("form", "kind"), [("mp4", "fmp4"), ("flv", "flv"), ("ts", "ts"), ("m3u8", "hls")])
async def test_ffmpeg_opens_the_address_and_the_camera_starts_and_stops(
    house: House, form: str, kind: str
) -> None:
    await eventually(lambda: not sessions(house), 60)
    numbers, codecs, counted = await asyncio.to_thread(watch, house, form, kind)
    assert codecs == {"h264", "aac"}
    assert len(numbers) >= 30
    assert {after - before for before, after in pairwise(numbers)} == {1}, "every picture, in order"
    assert counted == 1
    assert house.token not in house.gateway.log()
    if (
        form != "m3u8"
    ):  # a playlist's viewer counts until it has not asked for a while: tests/media/test_hls.py
        await eventually(lambda: not sessions(house), 90, "the camera stops when nobody watches")
