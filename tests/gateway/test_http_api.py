"""Devices, channels, live pictures, control, platforms, shares, sessions, events and health over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from http_house import CAMERA, JPEG, LONER, NVR, OTHER_NVR, UPPER, House, Logged, house

from gateway.events import DeviceOnline, EventQueue, SecurityEvent
from gateway.model import ChannelKind, DeviceKind
from gateway.services.access import Role
from gateway.services.errors import ControlCause, ControlFailed, PlayCause, PlayFailed
from media.errors import MediaError
from sip import ptz

OFFER = "v=0\r\no=- 1 1 IN IP4 192.0.2.3\r\ns=-\r\nt=0 0\r\n"
SDP = {"Content-Type": "application/sdp"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


@pytest.fixture
async def operator(home: House) -> Logged:
    return await home.as_role(Role.OPERATOR)


def camera(number: int) -> str:
    return f"4101830000131{number:07d}"


# -- input and errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"device_id": "123"}, "device_id"),
        ({}, "device_id"),
        ({"device_id": NVR, "nmae": "typo"}, "nmae"),
        ({"device_id": NVR, "profile": {"charset": "EBCDIC"}}, "profile.charset"),
        ({"device_id": NVR, "name": "x" * 256}, "name"),
        ({"device_id": NVR, "password": ""}, "password"),
        ([], "body"),
    ],
)
async def test_bad_input_is_answered_with_the_field(operator: Logged, body: Any, field: str) -> None:
    response = await operator.ask("POST", "/api/devices", json=body)
    assert response.status == 422
    assert response.content_type == "application/problem+json"
    problem = await response.json(content_type=None)
    assert problem["field"] == field
    assert problem["title"] == "Unprocessable Entity" or problem["title"] == "Unprocessable Content"
    assert problem["status"] == 422
    assert problem["type"] == "urn:gateway:problem:invalid_input"


async def test_several_bad_fields_are_all_named(operator: Logged) -> None:
    problem = await operator.json("POST", "/api/devices", 422, json={"device_id": "1", "name": 5})
    assert [entry["field"] for entry in problem["errors"]] == ["device_id", "name"]


async def test_a_refused_secret_is_not_repeated(operator: Logged) -> None:
    text = await (
        await operator.ask("POST", "/api/devices", json={"device_id": NVR, "password": ["hush"]})
    ).text()
    assert "hush" not in text


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{", {"Content-Type": "application/json"}, 400),
        (b'{"device_id": NaN}', {"Content-Type": "application/json"}, 400),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400),
        (b"\xff\xfe", {"Content-Type": "application/json"}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
    ],
)
async def test_bodies_that_cannot_be_read(
    operator: Logged, data: bytes, headers: dict[str, str], status: int
) -> None:
    problem = await operator.json("POST", "/api/devices", status, data=data, headers=headers)
    assert problem["status"] == status
    assert problem["field"] == "body"


async def test_a_body_without_length_is_cut_off_at_the_limit(operator: Logged) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    response = await operator.ask(
        "POST", "/api/devices", data=endless(), headers={"Content-Type": "application/json"}
    )
    assert response.status == 413


async def test_unknown_query_keys_and_repeated_ones_are_refused(operator: Logged) -> None:
    assert (await operator.json("GET", "/api/devices?stat=online", 422))["field"] == "query.stat"
    assert (await operator.json("GET", "/api/devices?q=a&q=b", 422))["field"] == "query.q"
    assert (await operator.json("GET", "/api/devices?limit=0", 422))["field"] == "query.limit"
    assert (await operator.json("GET", "/api/me?x=1", 422))["field"] == "query.x"
    assert (await operator.json("GET", "/api/devices/..%2f..%2fetc", 422))["field"] == "device_id"


async def test_unknown_paths_and_methods_are_problems_too(operator: Logged) -> None:
    assert (await operator.json("GET", "/api/nothing", 404))["title"] == "Not Found"
    response = await operator.ask("PUT", "/api/devices")
    assert response.status == 405
    assert set(response.headers["Allow"].split(",")) == {"GET", "POST"}


async def test_a_fault_of_ours_is_500_without_its_text(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    home.sessions.failure = ValueError("secret inner state")
    problem = await operator.json("POST", f"/api/channels/{CAMERA}/live", 500)
    assert problem["cause"] == "internal"
    assert "secret" not in str(problem)


async def test_every_answer_carries_the_security_headers(home: House, operator: Logged) -> None:
    for path in (
        "/api/devices",
        "/api/nothing",
        "/health/live",
        "/",
        "/static/missing.js",
        "/api/openapi.json",
    ):
        response = await operator.ask("GET", path)
        assert response.headers["X-Content-Type-Options"] == "nosniff", path
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"], path
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        if path.startswith("/api/"):
            assert response.headers["Cache-Control"] == "no-store"


# -- devices -------------------------------------------------------------------------------------------------


async def test_a_device_is_entered_shown_changed_and_removed(home: House, operator: Logged) -> None:
    made = await operator.json(
        "POST",
        "/api/devices",
        201,
        json={"device_id": NVR, "name": "东门", "password": "pass-1", "profile": {"charset": "UTF-8"}},
    )
    assert made["provisioned"] is True
    assert made["password_set"] is True
    assert made["kind"] == "recorder"
    assert made["profile"]["charset"] == "UTF-8"
    assert "pass-1" not in str(made)
    secret = home.registry.secrets[NVR]
    assert "pass-1" not in str(secret.to_dict())
    assert (await operator.json("POST", "/api/devices", 409, json={"device_id": NVR}))["field"] == "device_id"
    changed = await operator.json(
        "PATCH",
        f"/api/devices/{NVR}",
        json={"name": "西门", "profile": {"media_transport": "udp", "charset": None}},
    )
    assert changed["name"] == "西门"
    assert changed["profile"]["media_transport"] == "udp"
    assert changed["profile"]["charset"] is None
    assert home.registry.secrets[NVR] is secret
    changed = await operator.json("PATCH", f"/api/devices/{NVR}", json={"remove_password": True})
    assert changed["password_set"] is False
    await operator.json("DELETE", f"/api/devices/{NVR}", 204)
    await operator.json("GET", f"/api/devices/{NVR}", 404)
    await operator.json("DELETE", f"/api/devices/{NVR}", 404)


async def test_devices_are_filtered_and_paged(home: House, operator: Logged) -> None:
    home.add_device(NVR, name="North gate")
    home.add_device(OTHER_NVR, online=False, name="South gate")
    home.add_device(LONER, kind=DeviceKind.CAMERA, manufacturer="Lens")
    home.add_channel()
    page = await operator.json("GET", "/api/devices?limit=2&offset=1")
    assert page["total"] == 3
    assert [device["device_id"] for device in page["items"]] == [OTHER_NVR, LONER]
    assert (await operator.json("GET", "/api/devices?state=offline"))["items"][0]["device_id"] == OTHER_NVR
    assert (await operator.json("GET", "/api/devices?kind=camera"))["total"] == 1
    assert (await operator.json("GET", "/api/devices?q=NORTH"))["total"] == 1
    assert (await operator.json("GET", "/api/devices?q=192.0.2.7"))["total"] == 2
    shown = await operator.json("GET", f"/api/devices/{NVR}")
    assert (shown["channels"], shown["channels_online"]) == (1, 1)
    assert shown["address"] == "tcp:192.0.2.7:40000"


async def test_a_catalog_is_asked_for(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_device(OTHER_NVR, online=False)
    await operator.json("POST", f"/api/devices/{NVR}/catalog", 202)
    await asyncio.sleep(0)
    assert home.catalog.asked == [NVR]
    problem = await operator.json("POST", f"/api/devices/{OTHER_NVR}/catalog", 409)
    assert problem["cause"] == "device_offline"


# -- channels ------------------------------------------------------------------------------------------------


async def test_channels_are_filtered_by_device_state_kind_division_and_text(
    home: House, operator: Logged
) -> None:
    home.add_device()
    home.add_device(OTHER_NVR, online=False)
    home.add_channel(camera(1), name="North gate", civil_code="410183")
    home.add_channel(camera(2), name="South gate", civil_code="410184", reported="OFF")
    home.add_channel(camera(3), OTHER_NVR, name="Bridge", civil_code="410183")
    home.add_channel("410183", kind=ChannelKind.DIVISION, name="新密市")

    async def codes(query: str) -> list[str]:
        return [c["channel_id"] for c in (await operator.json("GET", f"/api/channels?{query}"))["items"]]

    assert await codes("kind=camera") == [camera(1), camera(2), camera(3)]
    assert await codes("kind=camera&state=online") == [camera(1)]
    assert await codes("state=offline") == [camera(2), camera(3)]
    assert await codes(f"device_id={OTHER_NVR}") == [camera(3)]
    assert await codes("civil_code=410183&kind=camera") == [camera(1), camera(3)]
    assert await codes("civil_code=4101&q=gate") == [camera(1), camera(2)]
    assert await codes("limit=1&offset=2&kind=camera") == [camera(3)]


@pytest.mark.quirk(20)
async def test_a_channel_shows_the_three_parts_of_its_state(home: House, operator: Logged) -> None:
    """The device is offline, its catalog said ON: offline, with the reason."""
    home.add_device(online=False)
    home.add_channel()
    shown = await operator.json("GET", f"/api/channels/{CAMERA}")
    assert shown["online"] is False
    assert shown["evidence"] == {
        "device_online": False,
        "reported": "ON",
        "defect": False,
        "last_media_proof": None,
        "verdict": "OFF",
        "reason": "device offline: never registered",
    }


@pytest.mark.quirk(18)
async def test_one_code_under_two_devices_needs_the_device(home: House, operator: Logged) -> None:
    for device in (NVR, OTHER_NVR):
        home.add_device(device)
        home.add_channel(CAMERA, device)
    problem = await operator.json("GET", f"/api/channels/{CAMERA}", 409)
    assert (problem["cause"], problem["field"]) == ("ambiguous_channel", "query.device_id")
    assert NVR in problem["detail"]
    assert OTHER_NVR in problem["detail"]
    shown = await operator.json("GET", f"/api/channels/{CAMERA}?device_id={OTHER_NVR}")
    assert shown["device_id"] == OTHER_NVR
    response = await operator.ask("POST", f"/api/channels/{CAMERA}/whep", data=OFFER, headers=SDP)
    assert response.status == 409
    response = await operator.ask(
        "POST", f"/api/channels/{CAMERA}/whep?device_id={NVR}", data=OFFER, headers=SDP
    )
    assert response.status == 201
    assert home.sessions.asked == [(NVR, CAMERA, 0, None)]


# -- live pictures -------------------------------------------------------------------------------------------


async def test_whep_answers_with_location_and_etag_and_is_ended_there(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    response = await operator.ask("POST", f"/api/channels/{CAMERA}/whep", data=OFFER, headers=SDP)
    assert response.status == 201
    assert response.content_type == "application/sdp"
    assert (await response.text()).startswith("v=0")
    assert response.headers["ETag"]
    location = response.headers["Location"]
    await operator.json("DELETE", location, 204)
    await operator.json("DELETE", location, 404)


async def test_whep_takes_only_an_offer(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    path = f"/api/channels/{CAMERA}/whep"
    assert (await operator.json("POST", path, 415, json={}))["cause"] == "wrong_media_type"
    assert (await operator.json("POST", path, 400, data="hello", headers=SDP))["cause"] == "not_sdp"
    assert (await operator.json("POST", path, 413, data="v=0" + "x" * 70_000, headers=SDP))[
        "cause"
    ] == "too_big"


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (PlayCause.NOT_FOUND, 404),
        (PlayCause.DEVICE_OFFLINE, 409),
        (PlayCause.BUSY, 409),
        (PlayCause.REJECTED, 409),
        (PlayCause.NO_PORT, 503),
        (PlayCause.NODE_DOWN, 503),
        (PlayCause.INVITE_TIMEOUT, 504),
        (PlayCause.NO_PICTURE, 504),
    ],
)
async def test_a_failed_picture_says_why(
    home: House, operator: Logged, cause: PlayCause, status: int
) -> None:
    home.add_device()
    home.add_channel()
    home.sessions.failure = PlayFailed(cause, "told by the device", device_status=486)
    for method, path, more in (
        ("POST", "whep", {"data": OFFER, "headers": SDP}),
        ("POST", "live", {}),
        ("GET", "snapshot", {}),
        ("GET", "live.mp4", {}),
    ):
        problem = await operator.json(method, f"/api/channels/{CAMERA}/{path}", status, **more)
        assert problem["cause"] == cause.value
        assert "486" in problem["detail"]


async def test_a_codec_that_webrtc_cannot_carry_is_406(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    home.sessions.failure = MediaError("unsupported", "H265 does not go by WebRTC")
    problem = await operator.json("POST", f"/api/channels/{CAMERA}/whep", 406, data=OFFER, headers=SDP)
    assert problem["cause"] == "unsupported"


async def test_a_viewer_may_say_what_it_can_play(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    path = f"/api/channels/{CAMERA}"
    await operator.json("POST", f"{path}/live?accept=h264&stream=1&transport=udp")
    assert home.sessions.asked == [(NVR, CAMERA, 1, "udp")]
    await operator.ask("POST", f"{path}/whep?accept=h265,h264", data=OFFER, headers=SDP)
    response = await operator.ask("GET", f"{path}/live.flv?accept=h264")
    assert response.status == 307
    assert home.sessions.accepted == [frozenset({"h264"}), frozenset({"h264", "h265"}), frozenset({"h264"})]
    for wrong in ("", "av1", "h264;", "h264,h264,h265"):
        await operator.json("POST", f"{path}/live?accept={wrong}", 422)
    await operator.json("POST", f"{path}/live")
    assert len(home.sessions.accepted) == 3


async def test_live_tells_where_the_picture_is(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    live = await operator.json("POST", f"/api/channels/{CAMERA}/live?stream=1&transport=udp")
    assert home.sessions.asked == [(NVR, CAMERA, 1, "udp")]
    assert live["video_codec"] == "H264"
    assert live["ws"] == "ws://127.0.0.1:8081/live/s1/ws?ticket=t"
    for form, output in (("mp4", "fmp4"), ("flv", "flv"), ("ts", "ts"), ("m3u8", "hls")):
        response = await operator.ask("GET", f"/api/channels/{CAMERA}/live.{form}")
        assert response.status == 307
        assert response.headers["Location"] == live[output]
    assert (await operator.ask("GET", f"/api/channels/{CAMERA}/live.avi")).status == 404
    response = await operator.ask("GET", f"/api/channels/{CAMERA}/snapshot")
    assert response.content_type == "image/jpeg"
    assert await response.read() == JPEG


async def test_addresses_carry_what_the_caller_wants_different(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    live = await operator.json("POST", f"/api/channels/{CAMERA}/live?audio=0&hevc=enhanced")
    base = "http://127.0.0.1:8081/live/s1"
    assert live["fmp4"] == f"{base}.mp4?ticket=t&audio=0"
    assert live["flv"] == f"{base}.flv?ticket=t&hevc=enhanced&audio=0"
    live = await operator.json("POST", f"/api/channels/{CAMERA}/live?audio=g711")
    assert live["ws_flv"] == "ws://127.0.0.1:8081/live/s1/ws.flv?ticket=t&audio=g711"
    assert live["ts"] == f"{base}.ts?ticket=t", "G.711 does not go by MPEG-TS: it becomes AAC there"
    response = await operator.ask("GET", f"/api/channels/{CAMERA}/live.m3u8?stream=1&audio=0")
    assert response.headers["Location"] == f"{base}.m3u8?ticket=t&audio=0"
    assert home.sessions.asked[-1] == (NVR, CAMERA, 1, None)
    await operator.json("GET", f"/api/channels/{CAMERA}/live.ts?audio=loud", 422)


async def test_a_camera_without_catalog_is_watched_under_its_own_code(home: House, operator: Logged) -> None:
    home.add_device(LONER, kind=DeviceKind.CAMERA)
    await operator.json("POST", f"/api/channels/{LONER}/live")
    assert home.sessions.asked[0][:2] == (LONER, LONER)


# -- control -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ({"pan": -1, "tilt": 0.5, "zoom": 0.001}, ptz.Move(-1, 1, 1, 255, 128, 1)),
        ({"command": "stop"}, ptz.STOP),
        ({"command": "focus_near", "speed": 1}, ptz.Lens(focus=1, focus_speed=255)),
        ({"command": "iris_close"}, ptz.Lens(iris=-1, iris_speed=128)),
        ({"command": "lens_stop"}, ptz.LENS_STOP),
        ({"command": "preset_call", "preset": 5}, ptz.Preset(ptz.PresetAction.CALL, 5)),
        ({"command": "preset_set", "preset": 255, "name": "gate"}, ptz.Preset(ptz.PresetAction.SET, 255)),
        ({"command": "preset_delete", "preset": 1}, ptz.Preset(ptz.PresetAction.DELETE, 1)),
        (
            {"command": "cruise_add", "number": 1, "preset": 3},
            ptz.Cruise(ptz.CruiseAction.ADD_POINT, 1, 3),
        ),
        ({"command": "cruise_stay", "number": 1, "value": 20}, ptz.Cruise(ptz.CruiseAction.STAY, 1, 20)),
        ({"command": "cruise_start", "number": 0}, ptz.Cruise(ptz.CruiseAction.START, 0)),
        ({"command": "scan_speed", "number": 2, "value": 256}, ptz.Scan(ptz.ScanAction.SPEED, 2, 256)),
        ({"command": "scan_left", "number": 2}, ptz.Scan(ptz.ScanAction.LEFT_BORDER, 2)),
        ({"command": "switch_on", "number": 1}, ptz.Auxiliary(1, True)),
    ],
)
async def test_a_command_becomes_what_the_standard_calls_it(
    home: House, operator: Logged, body: dict[str, Any], command: ptz.PtzCommand
) -> None:
    home.add_device()
    home.add_channel()
    await operator.json("POST", f"/api/channels/{CAMERA}/ptz", json=body)
    assert home.control.commands == [(NVR, CAMERA, command, "token:test operator", 100)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"pan": 1.1}, "pan"),
        ({"command": "preset_call"}, "preset"),
        ({"command": "preset_call", "preset": 0}, "preset"),
        ({"command": "cruise_speed", "number": 1}, "value"),
        ({"command": "dance"}, "command"),
    ],
)
async def test_wrong_commands_name_the_field(
    home: House, operator: Logged, body: dict[str, Any], field: str
) -> None:
    home.add_device()
    home.add_channel()
    assert (await operator.json("POST", f"/api/channels/{CAMERA}/ptz", 422, json=body))["field"] == field


async def test_a_refused_command_says_why(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    home.control.failure = ControlFailed(ControlCause.TAKEN, "admin moves this camera")
    problem = await operator.json("POST", f"/api/channels/{CAMERA}/ptz", 409, json={"pan": 1})
    assert problem["cause"] == "taken"
    assert (await operator.json("POST", f"/api/channels/{CAMERA}/key-frame", 202)) == {"asked": True}


# -- platforms and shares ------------------------------------------------------------------------------------

NEW_UPPER = {"platform_id": UPPER, "name": "City", "host": "192.0.2.50", "password": "upper pass 1"}


async def test_an_upper_platform_is_entered_changed_and_removed(home: House, operator: Logged) -> None:
    made = await operator.json("POST", "/api/platforms", 201, json=NEW_UPPER)
    assert made["domain"] == UPPER[:10]
    assert made["password_set"] is True
    assert made["rights"] == ["play", "ptz"]
    assert made["status"]["last_response"] == "200 OK"
    assert "upper pass 1" not in str(await operator.json("GET", "/api/platforms"))
    assert home.uppers.known[UPPER].password == "upper pass 1"
    assert (await operator.json("POST", "/api/platforms", 409, json=NEW_UPPER))["field"] == "platform_id"
    changed = await operator.json("PATCH", f"/api/platforms/{UPPER}", json={"port": 5070, "rights": ["play"]})
    assert (changed["port"], changed["rights"], changed["name"]) == (5070, ["play"], "City")
    assert home.uppers.known[UPPER].password == "upper pass 1"
    assert home.uppers.known[UPPER].rights == frozenset({"play"})
    problem = await operator.json("PATCH", f"/api/platforms/{UPPER}", 422, json={"port": 70000})
    assert problem["field"] == "port"
    await operator.json("DELETE", f"/api/platforms/{UPPER}", 204)
    await operator.json("GET", f"/api/platforms/{UPPER}", 404)


async def test_the_selection_of_an_upper_is_replaced(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel(camera(1), name="North gate")
    home.add_channel(camera(2))
    await operator.json("POST", "/api/platforms", 201, json=NEW_UPPER)
    items = [
        {"device_id": NVR, "channel_id": camera(1), "exported_id": camera(77)},
        {"device_id": NVR, "channel_id": camera(2)},
    ]
    shared = await operator.json("PUT", f"/api/platforms/{UPPER}/shares", json={"items": items})
    assert shared["total"] == 2
    assert shared["items"][0] == {
        "device_id": NVR,
        "channel_id": camera(1),
        "exported_id": camera(77),
        "name": "North gate",
        "online": True,
    }
    assert (await operator.json("GET", f"/api/platforms/{UPPER}"))["shares"] == 2
    bad = [{"device_id": NVR, "channel_id": camera(1)}, {"device_id": NVR, "channel_id": camera(9)}]
    problem = await operator.json("PUT", f"/api/platforms/{UPPER}/shares", 422, json={"items": bad})
    assert problem["field"] == "items.1.channel_id"
    await operator.json("PUT", f"/api/platforms/{UPPER}/shares", json={"items": []})
    assert (await operator.json("GET", f"/api/platforms/{UPPER}/shares"))["total"] == 0
    await operator.json("GET", f"/api/platforms/{NVR}/shares", 404)


# -- sessions ------------------------------------------------------------------------------------------------


async def test_sessions_are_listed_shown_and_stopped(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel(name="North gate")
    await operator.json("POST", f"/api/channels/{CAMERA}/live")
    (listed,) = (await operator.json("GET", "/api/sessions"))["items"]
    assert listed["channel_name"] == "North gate"
    assert listed["ssrc"] == "0183000001"
    shown = await operator.json("GET", f"/api/sessions/{listed['session_id']}")
    assert shown["stats"]["packets"] == 100
    assert shown["stats"]["video"]["width"] == 640
    await operator.json("DELETE", f"/api/sessions/{listed['session_id']}", 204)
    assert (await operator.json("DELETE", f"/api/sessions/{listed['session_id']}", 404))[
        "cause"
    ] == "not_found"
    await operator.json("GET", f"/api/sessions/{listed['session_id']}", 404)


# -- events --------------------------------------------------------------------------------------------------


async def next_event(response: ClientResponse) -> tuple[str, dict[str, Any]]:
    """The next event of a stream, comments skipped."""
    name = ""
    async with asyncio.timeout(10):
        while True:
            line = (await response.content.readline()).decode().strip()
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                return name, json.loads(line[6:])


async def test_events_arrive_as_they_happen(home: House, operator: Logged) -> None:
    response = await operator.ask("GET", "/api/events")
    assert response.content_type == "text/event-stream"
    home.bus.publish(DeviceOnline(NVR, "registered"))
    name, data = await next_event(response)
    assert name == "device_online"
    assert data["device_id"] == NVR
    assert data["cause"] == "registered"
    assert data["at"].endswith("+00:00")
    response.close()


async def test_strangers_addresses_are_told_to_administrators_alone(home: House, operator: Logged) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    for reader, expected in ((admin, "security_event"), (operator, "device_online")):
        response = await reader.ask("GET", "/api/events")
        home.bus.publish(SecurityEvent("auth_failed", "198.51.100.9"))
        home.bus.publish(DeviceOnline(NVR))
        assert (await next_event(response))[0] == expected
        response.close()


async def test_events_are_filtered_by_name(home: House, operator: Logged) -> None:
    assert (await operator.json("GET", "/api/events?types=nonsense", 422))["field"] == "query.types"
    response = await operator.ask("GET", "/api/events?types=device_offline,device_online")
    home.add_device(online=False)
    home.bus.publish(DeviceOnline(NVR))
    assert (await next_event(response))[0] == "device_online"
    response.close()


async def test_a_slow_reader_is_told_what_it_missed(home: House, operator: Logged) -> None:
    response = await operator.ask("GET", "/api/events")
    queue: EventQueue[Any] = next(iter(home.http.events._queues))
    for _ in range(600):
        queue._put(DeviceOnline(NVR))
    told = [await next_event(response) for _ in range(3)]
    assert ("dropped", {"count": 100, "at": told[0][1]["at"]}) in [(n, d) for n, d in told if n == "dropped"]
    assert home.http.events.dropped == 100
    response.close()


async def test_an_event_stream_ends_with_the_log_in(home: House) -> None:
    home.http.events._ping_s = 0.05
    secret, token = await home.http.access.add_token("reader", Role.VIEWER, "admin", None)
    reader = await home.anonymous()
    response = await reader.ask("GET", "/api/events", headers={"Authorization": f"Bearer {secret}"})
    assert response.status == 200
    await home.http.access.remove_token(token.token_id)
    async with asyncio.timeout(10):
        while not response.content.at_eof():
            await response.content.readany()
    assert home.http.events.readers == 0


# -- system, health, description -----------------------------------------------------------------------------


async def test_health_tells_load_balancers_the_truth(home: House) -> None:
    stranger = await home.anonymous()
    assert await stranger.json("GET", "/health/live") == {"status": "live"}
    assert (await stranger.json("GET", "/health/ready"))["ready"] is True
    home.checks["media"] = False
    assert await stranger.json("GET", "/health/ready", 503) == {
        "ready": False,
        "parts": {"sip": True, "media": False},
    }


async def test_system_shows_what_a_newcomer_needs(home: House, operator: Logged) -> None:
    home.add_device()
    home.add_channel()
    shown = await operator.json("GET", "/api/system")
    assert shown["server_id"] == "41018300002000000001"
    assert shown["sip"] == ["udp:192.0.2.1:5060", "tcp:192.0.2.1:5060"]
    assert shown["counts"]["devices"] == {"online": 1, "total": 1}
    assert shown["counts"]["cameras"] == {"online": 1, "total": 1}
    assert shown["nodes"][0]["ports_free"] == 9


async def test_page_allows_the_media_nodes_and_nothing_else(home: House) -> None:
    stranger = await home.anonymous()
    response = await stranger.ask("GET", "/", headers={"Host": "gateway.example:8080"})
    policy = response.headers["Content-Security-Policy"]
    assert "connect-src 'self' http://gateway.example:8081 ws://gateway.example:8081;" in policy
    assert "script-src 'self';" in policy
    response = await stranger.ask("GET", "/", headers={"Host": "evil;script-src *"})
    assert "evil" not in response.headers.get("Content-Security-Policy", "")


async def test_static_files_are_cached_by_their_content_and_nothing_else_is_reached(home: House) -> None:
    stranger = await home.anonymous()
    first = await stranger.ask("GET", "/static/app.js")
    assert first.status == 200
    assert first.content_type == "text/javascript"
    again = await stranger.ask("GET", "/static/app.js", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status == 304
    for path in (
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/auth.py",
        "/static//etc/passwd",
    ):
        assert (await stranger.ask("GET", path)).status == 404
