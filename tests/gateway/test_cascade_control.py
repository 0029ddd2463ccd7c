"""Commands and questions of an upper: rights, checks, audit, code map, answers, and INVITEs that are refused early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from cascade_house import NVR, PASSWORD, UPPER, CascadeHouse, camera, house, shares

from gateway.events import SecurityEvent
from gateway.model import SessionInfo, SessionKind, SessionState, Share
from gateway.services.cascade_invite import relay_payload
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_record import LiveSession
from media.specs import PayloadFormat
from simulator.camera import Camera
from simulator.device import DeviceOptions
from simulator.register import RegisterSettings
from simulator.upper_platform import UpperPlatform
from simulator.upper_pull import MediaPort
from sip.endpoint import Endpoint, Identity, Reply
from sip.errors import ParseError, Rejected
from sip.flow import Target
from sip.manscdp import (
    CONTENT_TYPE,
    DeviceControl,
    DeviceControlResponse,
    DeviceInfoResponse,
    DeviceStatusResponse,
    HomePosition,
    KeepaliveNotify,
    PresetQuery,
)
from sip.manscdp import encode as encode_body
from sip.manscdp.base import UnknownBody
from sip.ptz import Move, encode
from sip.sdp import SdpUnacceptable, read_offer

SERVER = "41018300002000000001"
CAMERA = "41018300001320000009"
CHANNEL = "41018300001310000009"
EXPORTED = "41018300001310000777"
RIGHT = encode(Move(pan=1, pan_speed=100))
STOP = encode(Move())


@dataclass
class Scene:
    county: CascadeHouse
    upper: UpperPlatform
    camera: Camera


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A registered camera, shown to one upper under another code."""
    async with house() as county:
        upper = county.upper()
        await upper.start()
        device = Camera(
            CAMERA,
            server=county.core.address,
            server_id=SERVER,
            password=PASSWORD,
            channel_id=CHANNEL,
            options=DeviceOptions(register=RegisterSettings(heartbeat_s=60, retry_s=(0.05, 0.2))),
        )
        await device.start()
        await device.wait_registered()
        county.channel(CAMERA, CHANNEL, parent_ids=(CAMERA,))
        await county.join(upper, share_all=False)
        await county.cascade.set_shares(UPPER, [Share(UPPER, CAMERA, CHANNEL, EXPORTED)])
        yield Scene(county, upper, device)
        await county.cascade.close()
        await device.stop()
        await upper.stop()


@pytest.mark.gb("G260")
async def test_ptz_reaches_the_camera_under_its_own_code(scene: Scene) -> None:
    response = await scene.upper.ptz(EXPORTED, RIGHT)
    assert response.status == 200
    await scene.camera.wait(lambda: scene.camera.ptz_log)
    code, command, _ = scene.camera.ptz_log[0]
    assert (code, command) == (CHANNEL, Move(pan=1, pan_speed=100))
    await scene.upper.ptz(EXPORTED, STOP)
    await scene.camera.wait(lambda: len(scene.camera.ptz_log) == 2)


@pytest.mark.gb("G160")
@pytest.mark.parametrize(
    "digits",
    ["A50F0102640000FF", "A50F010264", "B50F010264001ED1", "A50F01026400001B00", "xyz", "A50E0102640000"],
)
async def test_bad_ptz_is_dropped_and_still_answered_200(scene: Scene, digits: str) -> None:
    response = await scene.upper.ptz(EXPORTED, digits)
    assert response.status == 200
    await scene.upper.ptz(EXPORTED, STOP)
    await scene.camera.wait(lambda: scene.camera.ptz_log)
    assert [command for _, command, _ in scene.camera.ptz_log] == [Move()]
    assert not scene.camera.refused_ptz
    assert any(entry[3] == "malformed" for entry in scene.county.audited)


@pytest.mark.gb("G175")
@pytest.mark.parametrize(
    ("right", "control"),
    [
        ("ptz", DeviceControl(sn=1, device_id=EXPORTED, ptz_cmd=RIGHT)),
        ("config", DeviceControl(sn=1, device_id=EXPORTED, teleboot=True)),
        ("config", DeviceControl(sn=1, device_id=EXPORTED, guard_cmd="SetGuard")),
        ("play", DeviceControl(sn=1, device_id=EXPORTED, iframe=True)),
    ],
)
async def test_control_needs_its_right(scene: Scene, right: str, control: DeviceControl) -> None:
    refused: list[SecurityEvent] = []
    scene.county.bus.subscribe(SecurityEvent, callback=refused.append)
    platform = scene.county.cascade.records()[0]
    everything = frozenset({"play", "ptz", "playback", "download", "broadcast", "config"})
    await scene.county.cascade.put_platform(replace(platform, rights=everything - {right}))
    assert (await scene.upper.send(control)).status == 403
    await asyncio.sleep(0.1)
    assert not scene.camera.received_bodies("DeviceControl")
    assert scene.county.audited[-1][:4] == (f"platform:{UPPER}", f"upper.{right}", EXPORTED, "forbidden")
    assert refused[-1].kind == "upper_forbidden"
    await scene.county.cascade.put_platform(replace(platform, rights=frozenset({right})))
    assert (await scene.upper.send(control)).status == 200
    await scene.camera.wait(lambda: scene.camera.received_bodies("DeviceControl"))


@pytest.mark.gb("G176")
async def test_every_control_is_audited_with_user_channel_bytes_and_result(scene: Scene) -> None:
    await scene.upper.ptz(EXPORTED, RIGHT, headers=[("Monitor-User-Identity", "operator7")])
    await scene.camera.wait(lambda: scene.camera.ptz_log)
    await scene.upper.wait(lambda: scene.county.audited)
    who = f"platform:{UPPER} {SERVER}-operator7"
    assert scene.county.audited[-1] == (who, "ptz", f"{CAMERA}/{CHANNEL}", "ok", RIGHT)


async def test_a_lost_upper_leaves_no_camera_moving(scene: Scene) -> None:
    await scene.upper.ptz(EXPORTED, RIGHT)
    await scene.camera.wait(lambda: scene.camera.ptz_log)
    scene.county.cascade._down(UPPER, "test")
    await scene.camera.wait(lambda: len(scene.camera.ptz_log) == 2)
    assert scene.camera.ptz_log[-1][1] == Move()


async def test_a_control_with_a_response_brings_it_up_under_the_uppers_number(scene: Scene) -> None:
    platform = scene.county.cascade.records()[0]
    await scene.county.cascade.put_platform(replace(platform, rights=frozenset({"config"})))
    answer = await scene.upper.ask(DeviceControl(sn=4321, device_id=EXPORTED, guard_cmd="SetGuard"))
    assert isinstance(answer, DeviceControlResponse)
    assert (answer.sn, answer.device_id, answer.result) == (4321, EXPORTED, "OK")
    scene.camera.faults.silent.add("DeviceControl")
    home = DeviceControl(sn=4322, device_id=camera(1), home_position=HomePosition(enabled=1))
    answer = await scene.upper.ask(home)
    assert isinstance(answer, DeviceControlResponse)
    assert (answer.sn, answer.device_id, answer.result) == (4322, camera(1), "ERROR")  # not shared


@pytest.mark.gb("G126")
async def test_device_info_of_ourselves_counts_exported_cameras(scene: Scene) -> None:
    scene.county.recorder(1, 2, 3)
    answer = await scene.upper.device_info()
    assert isinstance(answer, DeviceInfoResponse)
    assert (answer.device_id, answer.result, answer.channel) == (SERVER, "OK", 1)
    assert (answer.manufacturer, answer.model, answer.firmware) == ("Maker", "GW-1", "1.2.3")
    await scene.county.cascade.set_shares(
        UPPER, [*shares(UPPER, (NVR, camera(1)), (NVR, camera(2))), Share(UPPER, CAMERA, CHANNEL, EXPORTED)]
    )
    answer = await scene.upper.device_info()
    assert isinstance(answer, DeviceInfoResponse)
    assert answer.channel == 3
    known = await scene.upper.device_info(EXPORTED)
    assert isinstance(known, DeviceInfoResponse)
    assert (known.result, known.device_id) == ("OK", EXPORTED)
    hidden = await scene.upper.device_info(camera(3))
    assert isinstance(hidden, DeviceInfoResponse)
    assert (hidden.result, hidden.device_name) == ("ERROR", "")


@pytest.mark.gb("G127")
async def test_device_status_answers_by_evidence(scene: Scene) -> None:
    answers = [await scene.upper.device_status(code) for code in (SERVER, EXPORTED, camera(3))]
    device = scene.county.registry.devices[CAMERA]
    scene.county.registry.mark_offline(device, "heartbeat_lost")
    answers.append(await scene.upper.device_status(EXPORTED))
    found = [
        (answer.result, answer.online, answer.status)
        for answer in answers
        if isinstance(answer, DeviceStatusResponse)
    ]
    assert found == [
        ("OK", "ONLINE", "OK"),
        ("OK", "ONLINE", "OK"),
        ("ERROR", "OFFLINE", "ERROR"),
        ("OK", "OFFLINE", "ERROR"),
    ]


async def test_a_question_nobody_serves_gets_an_error_and_not_silence(scene: Scene) -> None:
    answer = await scene.upper.ask(PresetQuery(sn=77, device_id=EXPORTED))
    assert getattr(answer, "result", "") == "ERROR" or answer.extras.get("Result") == "ERROR"
    odd = UnknownBody(unknown_root="Query", unknown_cmd_type="WeatherInfo", sn=78, device_id=EXPORTED)
    answer = await scene.upper.ask(odd)
    assert (answer.cmd_type, answer.sn, answer.device_id) == ("WeatherInfo", 78, EXPORTED)
    assert answer.extras.get("Result") == "ERROR"


@pytest.mark.gb("G068")
async def test_a_fault_of_ours_is_told_at_once(scene: Scene) -> None:
    """No heartbeat is due for a minute; the loss of the media core is told all the same."""
    assert scene.upper.heartbeats == []
    scene.county.healthy = False
    scene.county.cascade.health_changed()
    scene.county.cascade.health_changed()
    await scene.upper.wait(lambda: scene.upper.heartbeats, timeout_s=3.0)
    scene.county.healthy = True
    scene.county.cascade.health_changed()
    await scene.upper.wait(lambda: len(scene.upper.heartbeats) >= 2, timeout_s=3.0)
    assert [body.status for _, body in scene.upper.heartbeats] == ["ERROR", "OK"]


async def test_a_stranger_at_another_port_is_nobody(scene: Scene) -> None:
    stranger = Endpoint(
        Identity("41990000002000000001", "4199000000"), host="127.0.0.1", port=0, handler=lambda _: Reply(200)
    )
    await stranger.start()
    try:
        response = await stranger.request(
            "MESSAGE",
            Target(f"sip:{SERVER}@4101830000", *scene.county.core.address),
            to=f"sip:{SERVER}@4101830000",
            body=encode_body(DeviceControl(sn=1, device_id=EXPORTED, ptz_cmd=RIGHT)),
            content_type=CONTENT_TYPE,
        )
        assert response.status == 403
        assert not scene.camera.ptz_log
    finally:
        await stranger.close(0)


async def status_of_invite(scene: Scene, channel: str = EXPORTED, **values: object) -> int:
    with pytest.raises(Rejected) as refused:
        await scene.upper.invite(channel, **values)  # type: ignore[arg-type]
    return refused.value.status


@pytest.mark.gb("G263")
@pytest.mark.parametrize(
    ("cause", "device_status", "expected"),
    [
        (PlayCause.NOT_FOUND, 0, 404),
        (PlayCause.DEVICE_OFFLINE, 0, 480),
        (PlayCause.BUSY, 486, 486),
        (PlayCause.INVITE_TIMEOUT, 0, 408),
        (PlayCause.NO_STREAM, 0, 504),
        (PlayCause.SDP_NOT_ACCEPTED, 488, 488),
        (PlayCause.SDP_NOT_ACCEPTED, 0, 408),
        (PlayCause.BUSY, 600, 600),
        (PlayCause.REJECTED, 603, 603),
        (PlayCause.NODE_DOWN, 0, 503),
    ],
)
async def test_failures_below_have_their_status_above(
    scene: Scene, cause: PlayCause, device_status: int, expected: int
) -> None:
    scene.county.sessions.failure = PlayFailed(cause, "test", device_status=device_status)
    assert await status_of_invite(scene) == expected
    assert scene.county.sessions.asked == [(CAMERA, CHANNEL, 0)]
    assert scene.county.relay.relays(UPPER) == []


@pytest.mark.gb("G264")
async def test_pictures_need_the_right_to_play(scene: Scene) -> None:
    platform = scene.county.cascade.records()[0]
    await scene.county.cascade.put_platform(replace(platform, rights=frozenset({"ptz"})))
    assert await status_of_invite(scene) == 403
    assert scene.county.sessions.asked == []


@pytest.mark.gb("G264")
@pytest.mark.parametrize(
    ("name", "rights", "expected"),
    [
        ("Playback", {"play", "ptz"}, 403),
        ("Download", {"play", "playback"}, 403),
        ("Talk", {"play"}, 403),
        ("Playback", {"playback"}, 488),
    ],
)
async def test_history_and_talk_need_their_own_rights(
    scene: Scene, name: str, rights: set[str], expected: int
) -> None:
    platform = scene.county.cascade.records()[0]
    await scene.county.cascade.put_platform(replace(platform, rights=frozenset(rights)))
    port = MediaPort("udp")
    offer = scene.upper.offer(port, "udp", 100000001)
    offer.name = name
    assert await status_of_invite(scene, offer=offer.to_bytes()) == expected
    await port.close()


@pytest.mark.gb("G196")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"PS/90000", b"DAHUA/90000"),
        (b"PS/90000", b"HIKVISION/90000"),
        (b"IN IP4 127.0.0.1", b"IN IP6 2001:db8::7"),
    ],
)
async def test_private_streams_and_ipv6_are_refused_with_488(scene: Scene, old: bytes, new: bytes) -> None:
    port = MediaPort("udp")
    description = scene.upper.offer(port, "udp", 100000001)
    media = description.media[0]
    media.payloads, media.rtpmaps = [96], {96: media.rtpmaps[96]}
    offer = description.to_bytes()
    assert old in offer
    assert await status_of_invite(scene, offer=offer.replace(old, new)) == 488
    assert scene.county.sessions.asked == []
    await port.close()


@pytest.mark.gb("G196")
async def test_an_offer_without_rtpmap_is_understood(scene: Scene) -> None:
    port = MediaPort("udp")
    description = scene.upper.offer(port, "udp", 100000001)
    description.media[0].payloads, description.media[0].rtpmaps = [96], {}
    assert await status_of_invite(scene, offer=description.to_bytes()) == 480
    assert scene.county.sessions.asked == [(CAMERA, CHANNEL, 0)]
    await port.close()


@pytest.mark.gb("G204")
@pytest.mark.quirk(31)
@pytest.mark.parametrize(
    ("uri_user", "subject", "u_line", "found"),
    [
        (SERVER, f"{EXPORTED}:0100000001,{UPPER}:0", "", True),
        (SERVER, "", f"{EXPORTED}:0", True),
        (EXPORTED, "", "", True),
        (EXPORTED, f"{camera(3)}:0100000001,{UPPER}:0", "", True),
        (SERVER, "", "", False),
        (camera(3), f"{camera(3)}:0100000001,{UPPER}:0", f"{camera(3)}:0", False),
    ],
)
async def test_the_channel_is_found_where_it_is_named(
    scene: Scene, uri_user: str, subject: str, u_line: str, found: bool
) -> None:
    port = MediaPort("udp")
    offer = scene.upper.offer(port, "udp", 100000001)
    offer.uri = u_line
    status = await status_of_invite(scene, offer=offer.to_bytes(), uri_user=uri_user, subject=subject)
    assert status == (480 if found else 404)
    assert scene.county.sessions.asked == ([(CAMERA, CHANNEL, 0)] if found else [])
    await port.close()


@pytest.mark.gb("G014")
async def test_a_cancelled_invite_stops_the_wait_for_the_camera(scene: Scene) -> None:
    scene.county.sessions.delay_s = 30.0
    call = asyncio.create_task(scene.upper.invite(EXPORTED))
    await scene.upper.wait(lambda: scene.county.sessions.asked)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await scene.upper.wait(lambda: scene.county.sessions.cancelled)
    assert scene.county.relay.relays(UPPER) == []


async def test_heartbeats_of_the_upper_itself_do_no_harm(scene: Scene) -> None:
    """A mutual peer may send us its own; without a registration of its own it is no device."""
    response = await scene.upper.send(KeepaliveNotify(sn=1, device_id=UPPER))
    assert response.status in (200, 403)
    with pytest.raises(ParseError):
        await scene.upper.ask(DeviceControl(sn=2, device_id=EXPORTED, teleboot=True))


def live_session(payload: PayloadFormat | None) -> LiveSession:
    info = SessionInfo("s", CAMERA, CHANNEL, SessionKind.LIVE, SessionState.STREAMING, "st", "n", "udp", None)
    return LiveSession(
        key=(CAMERA, CHANNEL, 0), info=info, opened_mono=0.0, touched_mono=0.0, payload=payload
    )


@pytest.mark.gb("G195")
@pytest.mark.parametrize(
    ("sent", "expected"),
    [(None, 96), (PayloadFormat(number=111), 111), (PayloadFormat(number=96, encoding="H264"), 98)],
)
def test_the_payload_number_is_the_uppers_own(sent: PayloadFormat | None, expected: int) -> None:
    lines = (
        b"v=0\r\no=41010000002000000001 0 0 IN IP4 10.41.1.20\r\ns=Play\r\nc=IN IP4 10.41.1.20\r\nt=0 0\r\n"
        b"m=video 40000 RTP/AVP 96 98\r\na=recvonly\r\na=rtpmap:96 PS/90000\r\na=rtpmap:98 H264/90000\r\n"
    )
    offer = read_offer(lines.replace(b" 96", b" 111").replace(b":96", b":111") if expected == 111 else lines)
    assert relay_payload(offer, live_session(sent)).number == expected


def test_what_the_upper_did_not_offer_is_488() -> None:
    lines = (
        b"v=0\r\no=1 0 0 IN IP4 10.41.1.20\r\ns=Play\r\nc=IN IP4 10.41.1.20\r\nt=0 0\r\n"
        b"m=video 40000 RTP/AVP 96\r\na=recvonly\r\na=rtpmap:96 PS/90000\r\n"
    )
    with pytest.raises(SdpUnacceptable):
        relay_payload(read_offer(lines), live_session(PayloadFormat(number=98, encoding="H265")))
