"""The wire view through the real gateway: cameras of both editions over UDP and TCP, an upper platform, strangers; read by the
HTTP API and, as captures, by tshark."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import UPPER, Chain, Viewer, camera, chain
from gateway_process import PASSWORD
from outside import eventually
from raw_device import RawDevice

from simulator.camera import Camera, DeviceOptions
from sip.manscdp import Edition

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
WAYS = [(V16, "udp"), (V16, "tcp"), (V22, "udp"), (V22, "tcp")]


class Town:
    """A gateway with a camera of each edition over each transport, and an upper above."""

    def __init__(self, running: Chain, cameras: dict[tuple[Edition, str], Camera]) -> None:
        self.chain, self.cameras = running, cameras

    async def get(self, path: str, status: int = 200) -> Any:
        found, answer = await asyncio.to_thread(self.chain.gateway.call, "GET", path)
        assert found == status, answer
        return answer

    async def messages(self, device: Camera, **filters: Any) -> list[dict[str, Any]]:
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        answer = await self.get(f"/api/devices/{device.device_id}/messages?{query}")
        assert answer["total"] >= len(answer["items"])
        items: list[dict[str, Any]] = answer["items"]
        return items


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder: Path = tmp_path_factory.mktemp("wire")
    async with chain(folder, 0) as running:
        cameras = {
            way: camera(
                running.gateway,
                60 + number,
                DeviceOptions(edition=way[0], transport=way[1], media=way[1], page_size=1),  # type: ignore[arg-type]
                name=f"东门 {number}",
            )
            for number, way in enumerate(WAYS)
        }
        try:
            for one in cameras.values():
                await one.start()
            for one in cameras.values():
                await one.wait_registered(30)
                await running.channel_online(one)
            await running.upper.wait_registered(30)
            yield Town(running, cameras)
        finally:
            await asyncio.gather(*(one.stop() for one in cameras.values()), return_exceptions=True)


@pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: f"{way[0].name}-{way[1]}" if isinstance(way, tuple) else None
)
async def test_a_registration_and_a_heartbeat_as_a_ladder(town: Town, way: tuple[Edition, str]) -> None:
    """The first REGISTER came before anybody knew the device; it is shown all the same, without its secrets."""
    device = town.cameras[way]
    steps = await town.messages(device, method="REGISTER")
    first = [(step["direction"], step["status"]) for step in steps[:4]]
    assert first == [("in", None), ("out", 401), ("in", None), ("out", 200)]
    assert {step["transport"] for step in steps} == {way[1]}
    assert {step["remote"].partition(":")[0] for step in steps} == {"127.0.0.1"}
    assert {step["local"] for step in steps} == {f"127.0.0.1:{town.chain.gateway.sip_port}"}
    headers = dict(steps[2]["headers"])
    assert 'response="' + "*" * 32 in headers["Authorization"]
    assert f'username="{device.device_id}"' in headers["Authorization"]
    challenge = dict(steps[1]["headers"])["WWW-Authenticate"]
    assert 'nonce="*' in challenge
    assert steps[0]["answered_ms"] >= 0
    assert [step["cseq"] for step in steps[:2]] == [steps[0]["cseq"]] * 2

    before = len(await town.messages(device, cmd_type="Keepalive", limit=10_000))
    await device.send_raw(device._heartbeat())
    beats = await town.messages(device, cmd_type="Keepalive", limit=10_000)
    assert len(beats) == before + 2
    beat, answer = beats[-2:]
    assert (beat["direction"], beat["command"], beat["body_kind"]) == ("in", "Notify Keepalive", "manscdp")
    assert f"<DeviceID>{device.device_id}</DeviceID>" in beat["body"]
    assert (answer["direction"], answer["status"], answer["call_id"]) == ("out", 200, beat["call_id"])


@pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: f"{way[0].name}-{way[1]}" if isinstance(way, tuple) else None
)
async def test_bodies_are_decoded(town: Town, way: tuple[Edition, str]) -> None:
    """Names in GB2312 or GB18030 are readable; the label is told apart from what the bytes are; SDP stands line by line."""
    device = town.cameras[way]
    parts = [
        step
        for step in await town.messages(device, cmd_type="Catalog")
        if step["command"] == "Response Catalog"
    ]
    assert parts
    assert device.name in parts[0]["body"]
    assert parts[0]["charset"] == "GB18030"
    assert parts[0]["label"] == ("GB2312" if way[0] is V16 else "GB18030")

    viewer = await asyncio.to_thread(Viewer, town.chain.gateway, device.channel_id)
    try:
        await viewer.pictures(1, 30)
        invite, *rest = await town.messages(device, method="INVITE")
    finally:
        await viewer.close()
    assert (invite["direction"], invite["body_kind"]) == ("out", "sdp")
    lines = invite["body"].splitlines()
    assert "s=Play" in lines
    assert any(line.startswith("y=0") for line in lines)
    statuses = [step["status"] for step in rest]
    assert 200 in statuses
    assert invite["answered_ms"] > 0
    ack = await town.messages(device, call_id=invite["call_id"], method="ACK")
    assert [step["direction"] for step in ack] == ["out"]
    text = await town.get(f"/api/devices/{device.device_id}/messages.txt?call_id={invite['call_id']}")
    assert next(line.split()[2] for line in text.decode().splitlines()[1:]) == "INVITE"


async def test_what_is_wrongly_asked_is_refused(town: Town) -> None:
    device = town.cameras[V22, "udp"]
    await town.get("/api/devices/41018300001320009999/messages", 404)
    await town.get("/api/platforms/41010000002000009999/messages", 404)
    for query in ("limit=0", "method=1", "depth=3"):
        await town.get(f"/api/devices/{device.device_id}/messages?{query}", 422)


async def test_an_upper_platform_has_its_ladder_too(town: Town) -> None:
    answer = await town.get(f"/api/platforms/{UPPER}/messages?method=REGISTER")
    steps = [(step["direction"], step["status"]) for step in answer["items"][:4]]
    assert steps == [("out", None), ("in", 401), ("out", None), ("in", 200)]
    assert answer["items"][2]["to_id"] == town.chain.upper.lower_id
    headers = dict(answer["items"][2]["headers"])
    assert 'response="***' in headers["Authorization"]
    assert not [
        step
        for step in (await town.get(f"/api/platforms/{UPPER}/messages?limit=10000"))["items"]
        if step["remote"]
        in {f"127.0.0.1:{one.port}" for one in town.cameras.values() if one.options.transport == "udp"}
    ]


async def test_strangers_are_kept_apart(town: Town) -> None:
    """A code nobody knows that was refused, and bytes that are no SIP: bounded, for administrators."""
    async with RawDevice() as stranger:
        stranger.peer = ("127.0.0.1", town.chain.gateway.sip_port)
        for number in range(30):
            stranger.send(
                f"MESSAGE sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{stranger.port};branch=z9hG4bKs{number}\r\n"
                "From: <sip:41018300001320007777@4101830000>;tag=a\r\nTo: <sip:x@y>\r\n"
                f"Call-ID: stranger-{number}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
            )
            await stranger.receive("SIP/2.0 403")
        stranger.send("GET / HTTP/1.1\r\nAuthorization: Basic c2VjcmV0OnBhc3M=\r\n\r\n")

        async def seen() -> list[dict[str, Any]]:
            answer = await town.get("/api/wire/strangers?limit=10000")
            return [step for step in answer["items"] if step["remote"] == f"127.0.0.1:{stranger.port}"]

        async with asyncio.timeout(30):
            while not any(step["start_line"].startswith("GET") for step in await seen()):
                await asyncio.sleep(0.1)
        steps = await seen()
    assert len(steps) == 20  # the last ones; the others were counted
    assert steps[-1]["fault"]
    assert "c2VjcmV0" not in json.dumps(steps)
    assert (await town.get("/api/wire"))["stranger_dropped"] >= 41
    assert {step["status"] for step in steps if step["direction"] == "out"} == {403}


async def test_messages_as_they_pass(town: Town) -> None:
    """Server-sent events while a heartbeat passes; those of another device do not come."""
    device, other = town.cameras[V22, "udp"], town.cameras[V16, "udp"]
    gateway = town.chain.gateway
    request = urllib.request.Request(f"{gateway.url}/api/devices/{device.device_id}/messages/live")
    request.add_header("Cookie", gateway.token)
    loop, events = asyncio.get_running_loop(), []

    def read() -> None:
        with urllib.request.urlopen(request, timeout=30) as answer:
            loop.call_soon_threadsafe(opened.set)
            for line in answer:
                if line.startswith(b"data:"):
                    events.append(json.loads(line[5:]))
                    if len(events) == 2:
                        return

    opened = asyncio.Event()
    reading = asyncio.create_task(asyncio.to_thread(read))
    await asyncio.wait_for(opened.wait(), 30)
    await other.send_raw(other._heartbeat())
    await device.send_raw(device._heartbeat())
    await asyncio.wait_for(reading, 30)
    assert [event["cmd_type"] for event in events] == ["Keepalive", ""]
    assert {event["remote"] for event in events} == {f"127.0.0.1:{device.port}"}


def long_body(device: Camera) -> bytes:
    """A command nobody knows, longer than many segments: answered 200 all the same."""
    return (
        f"<Notify><CmdType>Odd</CmdType><SN>1</SN><DeviceID>{device.device_id}</DeviceID>"
        f"<Text>{'x' * 60_000}</Text></Notify>"
    ).encode()


def tshark(capture: bytes, folder: Path, *arguments: str) -> list[list[str]]:
    path = folder / "sip.pcap"
    path.write_bytes(capture)
    checks = [f"-o{name}.check_checksum:TRUE" for name in ("ip", "udp", "tcp")]
    run = subprocess.run(
        ["tshark", "-n", "-r", str(path), *checks, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line.split("\t") for line in run.stdout.splitlines()]


FIELDS = ("sip.Method", "sip.Status-Code", "sip.CSeq.method", "sip.Call-ID", "ip.src", "frame.protocols")


@pytest.mark.needs("tshark")
@pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: f"{way[0].name}-{way[1]}" if isinstance(way, tuple) else None
)
async def test_wireshark_reads_the_capture_as_sip(
    town: Town, way: tuple[Edition, str], tmp_path: Path
) -> None:
    """Every kept message is one SIP message there, with good checksums and unbroken sequence numbers; no secret is in it."""
    device = town.cameras[way]
    await device.send_raw(long_body(device) if way[1] == "tcp" else device._heartbeat())
    url = f"/api/devices/{device.device_id}/messages"
    kept = (await town.get(f"{url}?limit=10000"))["items"]
    capture = await town.get(f"{url}.pcap")
    found = tshark(capture, tmp_path, "-Ysip", "-Tfields", *(f"-e{name}" for name in FIELDS))
    assert len(found) >= len(kept)
    shown = [(row[0], row[1], row[2]) for row in found[: len(kept)]]
    assert shown == [
        ("" if step["status"] else step["method"], str(step["status"] or ""), step["method"]) for step in kept
    ]
    assert [row[3] for row in found[: len(kept)]] == [step["call_id"] for step in kept]
    assert {row[5].split(":")[3] for row in found} == {way[1]}
    bad = "ip.checksum.status==0 or udp.checksum.status==0 or tcp.checksum.status==0 or tcp.analysis.flags or _ws.malformed"
    assert tshark(capture, tmp_path, f"-Y{bad}") == []
    if way[1] == "tcp":
        assert (
            max(int(row[0]) for row in tshark(capture, tmp_path, "-Ysip", "-Tfields", "-esip.Content-Length"))
            > 59_000
        )
    assert PASSWORD.encode() not in capture
    assert not re.search(rb'(?:nonce|response)="[^"*]', capture)


@pytest.mark.needs("tshark")
async def test_captures_of_an_upper_and_of_strangers(town: Town, tmp_path: Path) -> None:
    upper = tshark(
        await town.get(f"/api/platforms/{UPPER}/messages.pcap"), tmp_path, "-Ysip", "-Tfields", "-esip.Method"
    )
    assert ["REGISTER"] in upper
    strangers = await town.get("/api/wire/strangers.pcap")
    assert strangers[:4] == b"\xd4\xc3\xb2\xa1"
    audit = await town.get("/api/audit?limit=50")
    assert "wire.capture" in {entry["action"] for entry in audit["items"]}


async def test_a_move_to_another_address_keeps_the_history(town: Town) -> None:
    """A camera whose connection breaks comes back from another port; what it said before is still shown."""
    device = town.cameras[V16, "tcp"]
    before = {step["remote"] for step in await town.messages(device, limit=10_000)}
    for connection in list(device.endpoint._transport.streams.connections.values()):
        connection.abort()
    device.registration.again()
    await eventually(lambda: device.registration.registered.is_set(), 30, "registered again")

    async with asyncio.timeout(30):
        while len(remotes := {step["remote"] for step in await town.messages(device, limit=10_000)}) < 2:
            await asyncio.sleep(0.2)
    assert before < remotes
