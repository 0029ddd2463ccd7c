"""Attacks on the real gateway: each is refused with the right code and counted, and a good camera notices nothing."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from gateway_process import DOMAIN, SERVER_ID, GatewayProcess, gateway_process
from outside import Stranger, eventually, rss_bytes, series
from sip_wire import TcpPeer

from simulator.camera import Camera, DeviceOptions
from simulator.register import RegisterSettings
from simulator.storm import Storm
from simulator.upper_platform import Pull, UpperPlatform
from sip.ids import make_code

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

GOOD = make_code("410183", 132, 500_007)
"""Among the codes that the attackers use."""
GOOD_PASSWORD = "Good-Camera-Pw-01"
OTHER = make_code("410183", 132, 600_001)
OTHER_PASSWORD = "Other-Camera-Pw-02"
UPPER = "41010000002000000001"
UPPER_PASSWORD = "Upper-Platform-Pw-03"
ATTACKERS = 50
PTZ_LEFT = b"A50F01021F0000D6"


@dataclass
class House:
    """The gateway, a good camera whose picture an upper platform watches all the time, and another registered device."""

    gateway: GatewayProcess
    camera: Camera
    other: Camera
    pull: Pull
    cookie: str
    api_token: str

    async def metric(self, name: str, **labels: str) -> float:
        return series(await asyncio.to_thread(self.gateway.metrics), name, **labels)

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = await asyncio.to_thread(self.gateway.call, method, path, body)
        assert status < 300, answer
        return answer


def options(**changes: Any) -> DeviceOptions:
    return DeviceOptions(register=RegisterSettings(heartbeat_s=0.5), **changes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """Every device has its own password; there is none for the domain. The log tells all it can."""
    overrides = {"registration": {"domain_password": None}, "log": {"level": "DEBUG", "wire": True}}
    with gateway_process(tmp_path_factory.mktemp("security"), overrides) as gateway:
        codes = [make_code("410183", 132, 500_000 + number) for number in range(ATTACKERS)]
        for code in codes:
            password = GOOD_PASSWORD if code == GOOD else f"Secret-of-{code}"
            status, _ = gateway.call("POST", "/api/devices", {"device_id": code, "password": password})
            assert status == 201
        gateway.call("POST", "/api/devices", {"device_id": OTHER, "password": OTHER_PASSWORD})
        _, token = gateway.call("POST", "/api/tokens", {"name": "script", "role": "viewer"})
        server = {"server": ("127.0.0.1", gateway.sip_port), "server_id": SERVER_ID}
        upper = UpperPlatform(UPPER, lower_id=SERVER_ID, password=UPPER_PASSWORD)
        camera = Camera(GOOD, password=GOOD_PASSWORD, options=options(), **server)
        other = Camera(OTHER, password=OTHER_PASSWORD, options=options(host="127.0.0.67"), **server)
        await upper.start()
        await camera.start()
        await other.start()
        try:
            platform = {"platform_id": UPPER, "name": "upper", "host": "127.0.0.1", "port": upper.port}
            gateway.call("POST", "/api/platforms", platform | {"password": UPPER_PASSWORD, "share_all": True})
            await camera.wait_registered(20)
            await other.wait_registered(20)
            await upper.wait_registered(20)
            path = f"/api/channels/{camera.channel_id}"
            await eventually(lambda: gateway.call("GET", path)[0] == 200)
            pull = await upper.invite(camera.channel_id)
            await pull.media.wait_frames(5)
            yield House(gateway, camera, other, pull, gateway.token, token["token"])
        finally:
            await upper.stop()
            await camera.stop()
            await other.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def undisturbed(house: House) -> AsyncIterator[None]:
    """Around each attack: the good camera stays registered, its heartbeats are answered, its picture loses nothing."""
    registration, stats = house.camera.registration, house.pull.media.stats
    frames, beats = stats.frames, registration.heartbeats
    yield
    await house.pull.media.wait_frames(max(frames, stats.frames) + 10)
    await house.camera.wait(lambda: registration.heartbeats > beats + 1)
    assert (registration.registers, registration.missed_heartbeats, registration.failures) == (1, 0, 0)
    assert (stats.lost, stats.decode_errors, stats.damaged_units) == (0, 0, 0)
    assert not house.pull.session.ended.done()
    (running,) = (await house.api("GET", "/api/sessions"))["items"]
    counted = (await house.api("GET", f"/api/sessions/{running['session_id']}"))["stats"]
    assert (counted["lost"], counted["damaged_units"]) == (0, 0)
    device = await house.api("GET", f"/api/devices/{GOOD}")
    assert device["state"] == "online"
    assert str(house.camera.port) in device["address"]


async def storm_of_wrong_passwords(house: House, host: str, first_serial: int, count: int) -> Storm:
    """Six REGISTERs with a wrong password of each device, slow enough for the limit per source."""
    storm = Storm(
        ("127.0.0.1", house.gateway.sip_port), SERVER_ID, count, password="wrong", first_serial=first_serial, host=host
    )  # fmt: skip
    storm.start()
    for _ in range(6):
        assert await storm.register(rate=50) == 0
    await storm.close()
    return storm


@pytest.mark.gb("G034", "G277")
async def test_wrong_passwords_are_challenged_then_locked_out_and_counted(house: House) -> None:
    before = {
        result: await house.metric("gateway_registrations_total", result=result)
        for result in ("auth_failed", "auth_locked")
    }
    storm = await storm_of_wrong_passwords(house, "127.0.0.66", 500_000, ATTACKERS)
    statuses = storm.counts.statuses
    # each try asks for a nonce first, until the lock answers at once
    assert statuses["REGISTER", 401] == ATTACKERS * (5 + 4)
    assert statuses["REGISTER", 403] == ATTACKERS * 2
    assert set(statuses) == {("REGISTER", 401), ("REGISTER", 403)}
    for result, expected in (("auth_failed", 5 * ATTACKERS), ("auth_locked", ATTACKERS)):
        after = await house.metric("gateway_registrations_total", result=result)
        assert after - before[result] == expected
    # the owner of a code that was attacked can still renew: the lock holds for the attacker's address
    response = await house.camera.registration._register(3600)
    assert response.status == 200
    house.camera.registration.registers -= 1


@pytest.mark.gb("G035")
async def test_the_password_of_one_device_is_none_of_another(house: House) -> None:
    stolen = Storm(
        ("127.0.0.1", house.gateway.sip_port),
        SERVER_ID,
        1,
        password=OTHER_PASSWORD,
        first_serial=500_009,
        host="127.0.0.70",
    )
    stolen.start()
    assert await stolen.register() == 0
    assert stolen.counts.statuses == {("REGISTER", 401): 2}
    await stolen.close()


@pytest.mark.gb("G035")
async def test_unknown_devices_are_refused_whatever_they_know(house: House) -> None:
    before = await house.metric("gateway_registrations_total", result="unknown_device")
    storm = await storm_of_wrong_passwords(house, "127.0.0.71", 700_000, 5)
    assert storm.counts.statuses["REGISTER", 200] == 0
    assert storm.counts.statuses["REGISTER", 403] >= 5
    assert await house.metric("gateway_registrations_total", result="unknown_device") > before
    status, _ = house.gateway.call("GET", f"/api/devices/{make_code('410183', 132, 700_000)}")
    assert status == 404


async def test_a_flood_from_one_address_is_put_off(house: House) -> None:
    storm = Storm(
        ("127.0.0.1", house.gateway.sip_port), SERVER_ID, 1500, password="x", first_serial=800_000, host="127.0.0.72"
    )  # fmt: skip
    storm.start()
    assert await storm.register() == 0
    await storm.close()
    assert storm.counts.statuses["REGISTER", 503] > 0
    assert await house.metric("gateway_security_events_total", kind="rate_limited") > 0


@pytest.mark.gb("G029")
async def test_oversize_messages_end_their_connection(house: House) -> None:
    async def malformed() -> float:
        return await house.metric("gateway_sip_malformed_messages_total")

    before = await malformed()
    with Stranger("127.0.0.73", house.gateway.sip_port) as stranger:
        big = stranger.request("MESSAGE", OTHER, Content_Length=str(2 * 1024 * 1024)).replace(
            b"/UDP", b"/TCP"
        )
        long = stranger.request("OPTIONS", OTHER, Subject="x" * 20_000).replace(b"/UDP", b"/TCP")
        async with await TcpPeer.connect(house.gateway.sip_port) as peer:
            await peer.send(big + b"<" * 4096)
            assert (await peer.response()).status == 513
            assert await peer.closed()
        async with await TcpPeer.connect(house.gateway.sip_port) as peer:
            await peer.send(long)
            assert await peer.closed()
        answer = await stranger.ask(stranger.request("OPTIONS", OTHER))
        assert answer.status == 200
    assert await malformed() >= before + 2


def laughs(levels: int = 10) -> bytes:
    entities = "".join(f'<!ENTITY l{level + 1} "{f"&l{level};" * 10}">' for level in range(levels))
    return (
        f'<?xml version="1.0"?><!DOCTYPE Notify [<!ENTITY l0 "ha">{entities}]>'
        f"<Notify><CmdType>Alarm</CmdType><SN>1</SN><DeviceID>&l{levels};</DeviceID></Notify>"
    ).encode()


@pytest.mark.gb("G076")
async def test_a_billion_laughs_cost_no_memory(house: House) -> None:
    deep = b"<?xml version='1.0'?><Notify>" + b"<a>" * 5000 + b"</a>" * 5000 + b"</Notify>"
    external = b'<!DOCTYPE Notify SYSTEM "file:///etc/passwd"><Notify><CmdType>Alarm</CmdType></Notify>'
    before = rss_bytes(house.gateway.process.pid)
    refused = await house.metric("gateway_messages_total", outcome="malformed")
    bodies = [laughs(), external, deep] * 10
    for body in bodies:
        response = await house.other.send_raw(body)
        assert response is not None
        assert response.status == 400
    assert await house.metric("gateway_messages_total", outcome="malformed") == refused + len(bodies)
    assert rss_bytes(house.gateway.process.pid) - before < 32 * 1024 * 1024


@pytest.mark.gb("G062")
async def test_a_foreign_address_is_not_the_device_it_claims_to_be(house: House) -> None:
    beat = (
        b"<?xml version='1.0'?><Notify><CmdType>Keepalive</CmdType><SN>9</SN><DeviceID>%s</DeviceID>"
        b"<Status>OK</Status></Notify>"
    ) % GOOD.encode()
    before = await house.metric("gateway_security_events_total", kind="foreign_source")
    unregistered = await house.metric("gateway_messages_total", outcome="unregistered")
    with Stranger("127.0.0.74", house.gateway.sip_port) as stranger:
        answer = await stranger.ask(stranger.request("MESSAGE", GOOD, beat))
        assert answer.status == 403
    assert await house.metric("gateway_security_events_total", kind="foreign_source") == before + 1
    assert await house.metric("gateway_messages_total", outcome="unregistered") == unregistered + 1


async def test_strangers_control_nothing(house: House) -> None:
    """PTZ, calls, subscriptions and ends of calls, in the names of the camera, the upper and nobody."""
    control = (
        b"<?xml version='1.0'?><Control><CmdType>DeviceControl</CmdType><SN>1</SN><DeviceID>%s</DeviceID>"
        b"<PTZCmd>%s</PTZCmd></Control>"
    ) % (house.camera.channel_id.encode(), PTZ_LEFT)
    moves = len(house.camera.ptz_log)
    dialog = house.pull.session
    with Stranger("127.0.0.75", house.gateway.sip_port) as stranger:
        for sender in (UPPER, GOOD, "41010000002000000099"):
            assert (await stranger.ask(stranger.request("MESSAGE", sender, control))).status == 403
            offer = b"v=0\r\no=- 0 0 IN IP4 127.0.0.75\r\ns=Play\r\nc=IN IP4 127.0.0.75\r\nt=0 0\r\n"
            subject = f"{house.camera.channel_id}:0,{sender}:0"
            invite = stranger.request("INVITE", sender, offer, Subject=subject)
            assert (await stranger.ask(invite)).status == 403
            assert (await stranger.ask(stranger.request("SUBSCRIBE", sender, Event="Catalog"))).status == 403
        bye = stranger.request(
            "BYE", UPPER, To=f"<sip:{SERVER_ID}@{DOMAIN}>;tag=guess", Call_ID=dialog.call_id
        )
        assert (await stranger.ask(bye)).status == 481
    assert len(house.camera.ptz_log) == moves
    assert not dialog.ended.done()


async def test_malformed_messages_are_counted_and_answered_where_possible(house: House) -> None:
    with Stranger("127.0.0.76", house.gateway.sip_port) as stranger:

        async def malformed() -> float:
            return await house.metric("gateway_sip_malformed_messages_total")

        for headers in (
            {"Content_Length": "9999"},
            {"Content_Length": "-1"},
            {"CSeq": "none OPTIONS"},
            {"CSeq": "99999999999999 OPTIONS"},
            {"CSeq": "1 INVITE"},
        ):
            before = await malformed()
            assert (await stranger.ask(stranger.request("OPTIONS", OTHER, **headers))).status == 400, headers
            assert await malformed() > before, headers
        for junk in (
            b"\0" * 1000,
            b"OPTIONS\r\n\r\n",
            secrets.token_bytes(500),
            b"SIP/2.0 abc\r\n\r\n",
            b"{}",
        ):
            before = await malformed()
            assert await stranger.silent(junk), junk[:20]
            assert await malformed() == before + 1, junk[:20]


@pytest.mark.gb("G282")
async def test_the_log_tells_no_secret(house: House) -> None:
    """At DEBUG with the wire in the log: no password, no digest, no token; no address of a user either."""
    house.gateway.call("POST", "/api/login", {"username": "admin", "password": "Wrong-Console-Pw-04"})
    house.gateway.call("GET", "/api/devices", Authorization=f"Bearer {house.api_token}")
    live = await house.api("POST", f"/api/channels/{house.camera.channel_id}/live", {})
    await house.api("GET", f"/api/channels/{house.camera.channel_id}/snapshot")
    text = await asyncio.to_thread(house.gateway.log)
    assert "REGISTER sip:" in text, "the wire is in this log"
    console = house.gateway.password
    assert text.count(console) == 1, "shown once, at the first start"
    ticket = re.search(r"ticket=([^&]+)", live["fmp4"])
    assert ticket is not None
    secrets_used = {
        "device": GOOD_PASSWORD,
        "other device": OTHER_PASSWORD,
        "attacked device": f"Secret-of-{make_code('410183', 132, 500_001)}",
        "upper": UPPER_PASSWORD,
        "wrong": "Wrong-Console-Pw-04",
        "cookie": house.cookie.partition("=")[2],
        "token": house.api_token,
        "ticket": ticket[1],
    }
    assert {name for name, secret in secrets_used.items() if secret in text} == set()
    shown = re.findall(r"(?i)(?:response|cnonce|nonce)=\"?[0-9a-z]{8,}", text)
    assert not shown, shown[0]
    assert not re.findall(r"(?i)authorization: *digest[^\n]*", text)
