"""Configuration of devices through the real gateway: read in one or many parts, set type by type, refused where it must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import Chain, camera, chain
from outside import eventually

from simulator.camera import Camera, DeviceOptions
from sip.manscdp import (
    AlarmReport,
    ConfigDownloadQuery,
    ConfigDownloadResponse,
    DeviceConfig,
    DeviceConfigResponse,
    Edition,
)
from sip.manscdp.config_download import TYPES_2016, TYPES_2022

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
WAYS = [(V16, "udp"), (V16, "tcp"), (V22, "udp"), (V22, "tcp")]
NEWER = [way for way in WAYS if way[0] is V22]
Way = tuple[Edition, str]


def name_of(way: Way) -> str:
    return f"{way[0].name}-{way[1]}"


class Street:
    """A gateway with one camera for each edition and transport, and an upper platform above."""

    def __init__(self, running: Chain, cameras: dict[Way, Camera]) -> None:
        self.chain, self.cameras = running, cameras

    async def api(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, answer = await asyncio.to_thread(self.chain.gateway.call, method, path, body)
        assert found == status, answer
        return answer

    async def read(self, device: Camera, types: str = "", status: int = 200) -> Any:
        path = f"/api/channels/{device.channel_id}/configuration?types={types}"
        return await self.api("GET", path, status=status)

    async def put(self, device: Camera, kind: str, body: Any, status: int = 200, target: str = "") -> Any:
        path = f"/api/channels/{target or device.channel_id}/configuration/{kind}"
        return await self.api("PUT", path, body, status)

    def on_the_wire(self, device: Camera) -> int:
        return len(device.received_bodies("ConfigDownload")) + len(device.received_bodies("DeviceConfig"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    folder: Path = tmp_path_factory.mktemp("street")
    overrides = {"device_config": {"answer_timeout_s": 2.5, "gap_timeout_s": 1.0}}
    async with chain(folder, 0, overrides=overrides) as running:
        cameras = {
            way: camera(
                running.gateway, 60 + number, DeviceOptions(edition=way[0], transport=way[1], media="udp")
            )  # type: ignore[arg-type]
            for number, way in enumerate(WAYS)
        }
        try:
            for one in cameras.values():
                await one.start()
            for one in cameras.values():
                await one.wait_registered(30)
                await running.channel_online(one)
            yield Street(running, cameras)
        finally:
            await asyncio.gather(*(one.stop() for one in cameras.values()), return_exceptions=True)


@pytest.fixture
def device(street: Street, request: pytest.FixtureRequest) -> Any:
    """The camera of a way, with its habits put back afterwards."""
    found = street.cameras[request.param]
    yield found
    habits = found.configuration
    habits.parts, habits.odd_names, habits.result = "one", False, "OK"
    habits.unknown, habits.refused = set(), set()


ways = pytest.mark.parametrize("device", WAYS, ids=name_of, indirect=True)
newer = pytest.mark.parametrize("device", NEWER, ids=name_of, indirect=True)
older = pytest.mark.parametrize("device", WAYS[:2], ids=name_of, indirect=True)


@pytest.mark.gb("G132")
@ways
@pytest.mark.parametrize("parts", ["one", "each"])
async def test_one_query_brings_all_types_in_one_or_many_responses(
    street: Street, device: Camera, parts: Any
) -> None:
    device.configuration.parts = parts
    types = TYPES_2022 if device.edition is V22 else TYPES_2016
    answer = await street.read(device)
    assert answer["complete"]
    assert (answer["missing"], answer["asked"]) == ([], list(types))
    assert answer["responses"] == (1 if parts == "one" else len(types))
    (query,) = [
        body
        for body in device.received_bodies("ConfigDownload")[-1:]
        if isinstance(body, ConfigDownloadQuery)
    ]
    assert query.config_types == types
    assert answer["basic_param"]["heartbeat_interval"] == round(device.options.register.heartbeat_s)
    assert answer["video_param_opt"]["download_speed"] == ["1", "2", "4"]
    if device.edition is V22:
        assert answer["basic_param"]["position_capability"] is None
        assert [one["frame_rate"] for one in answer["video_params"]] == ["25", "15"]
        assert len(answer["record_plan"]["schedules"]) == 7
        assert answer["frame_mirror"] in (0, 1, 2, 3)
        assert answer["svac_encode"]["surveillance"]["osd_flag"] == 1
        assert answer["snapshot"]["snap_num"] >= 1
    else:
        assert answer["basic_param"]["position_capability"] == 0
        assert answer["video_params"] is None
        assert answer["svac_encode"]["surveillance"]["event_flag"] == 0


@pytest.mark.gb("G132")
@newer
async def test_what_stays_away_is_named(street: Street, device: Camera) -> None:
    device.configuration.parts = "each"
    device.configuration.unknown = {"OSDConfig"}
    device.configuration.refused = {"AlarmReport"}
    answer = await street.read(device, "BasicParam,OSDConfig,AlarmReport,FrameMirror")
    assert not answer["complete"]
    assert answer["missing"] == ["OSDConfig", "AlarmReport"]
    assert answer["basic_param"]["name"] == device.name
    assert (answer["osd"], answer["alarm_report"]) == (None, None)


@pytest.mark.quirk(26)
@newer
async def test_elements_of_other_names_are_known_by_their_children(street: Street, device: Camera) -> None:
    device.configuration.odd_names = True
    types = "BasicParam,VideoParamAttribute,VideoRecordPlan,PictureMask,AlarmReport,OSDConfig"
    answer = await street.read(device, types)
    assert answer["complete"], answer["missing"]
    assert answer["basic_param"]["expiration"] == device.options.register.expires_s
    assert [one["stream_number"] for one in answer["video_params"]] == [0, 1]
    assert answer["osd"]["texts"]
    assert answer["picture_mask"]["regions"]


@pytest.mark.gb("G179", "G180")
@ways
async def test_basic_parameters_are_set_and_read_back_and_our_timers_follow(
    street: Street, device: Camera
) -> None:
    beats = device.registration.heartbeats
    wanted = {"name": "东门 & gate", "expiration": 7200, "heartbeat_interval": 30, "heartbeat_count": 5}
    await street.put(device, "BasicParam", wanted, target=device.device_id)
    read = (await street.read(device, "BasicParam"))["basic_param"]
    assert {name: read[name] for name in wanted} == wanted
    shown = await street.chain.device(device)
    assert (shown["heartbeat_interval_s"], shown["heartbeat_count"]) == (30, 5)
    await street.put(device, "BasicParam", {"heartbeat_interval": 45})
    shown = await street.chain.device(device)
    assert (shown["heartbeat_interval_s"], shown["heartbeat_count"]) == (45, 5), "what was left out stays"
    sent = device.configuration.applied[-1].basic_param
    assert sent is not None
    assert (sent.name, sent.expiration, sent.heartbeat_interval) == ("", None, 45)
    assert device.options.register.heartbeat_s == 45
    await eventually(lambda: device.registration.heartbeats > beats, 30, "a heartbeat in the new pace")


SETTINGS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "VideoParamAttribute",
        "video_params",
        {
            "video_params": [
                {
                    "stream_number": 0, "video_format": 5, "resolution": "2560x1440", "frame_rate": 20,
                    "bit_rate_type": 1, "bit_rate": 4096,
                },
                {
                    "stream_number": 1, "video_format": 2, "resolution": "4", "frame_rate": 15,
                    "bit_rate_type": 2,
                },
            ]
        },
    ),
    (
        "VideoRecordPlan",
        "record_plan",
        {
            "record_enable": 1,
            "stream_number": 1,
            "schedules": [
                {
                    "week_day": 2,
                    "segments": [
                        {
                            "start_hour": 8, "start_min": 0, "start_sec": 0, "stop_hour": 12, "stop_min": 30,
                            "stop_sec": 0,
                        },
                        {
                            "start_hour": 13, "start_min": 0, "start_sec": 1, "stop_hour": 24, "stop_min": 0,
                            "stop_sec": 0,
                        },
                    ],
                }
            ],
        },
    ),
    (
        "VideoAlarmRecord",
        "alarm_record",
        {"record_enable": 1, "record_time": 60, "pre_record_time": 10, "stream_number": 0},
    ),
    (
        "PictureMask",
        "picture_mask",
        {"on": 1, "regions": [{"seq": 1, "point": "20,30,50,60"}, {"seq": 4, "point": "0,0,9,9"}]},
    ),
    ("FrameMirror", "frame_mirror", {"frame_mirror": 3}),
    ("AlarmReport", "alarm_report", {"motion_detection": 0, "field_detection": 1}),
    (
        "OSDConfig",
        "osd",
        {
            "length": 1280, "width": 720, "time_x": 10, "time_y": 12, "time_enable": 1, "time_type": 1,
            "text_enable": 1, "texts": [{"text": "新密市 东门 <1>", "x": 10, "y": 680}],
        },
    ),
]  # fmt: skip


def holds(told: Any, wanted: Any) -> bool:
    """Everything that was set is in what was told; numbers may come as text."""
    if isinstance(wanted, dict):
        return all(holds(told[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return len(told) == len(wanted) and all(map(holds, told, wanted))
    return str(told) == str(wanted)


@pytest.mark.gb("G181")
@newer
@pytest.mark.parametrize(("kind", "field", "wanted"), SETTINGS, ids=[one[0] for one in SETTINGS])
async def test_the_types_of_2022_make_the_round_trip(
    street: Street, device: Camera, kind: str, field: str, wanted: dict[str, Any]
) -> None:
    assert (await street.put(device, kind, wanted))["type"] == kind
    told = (await street.read(device, kind))[field]
    assert holds(told, wanted.get(field, wanted)), told
    order = device.received_bodies("DeviceConfig")[-1]
    assert isinstance(order, DeviceConfig)
    assert order.device_id == device.channel_id
    raw = next(entry.raw for entry in device.received if entry.body is order).decode("gb18030")
    assert f"<{kind}" in raw
    if kind == "OSDConfig":
        assert "<SumNum>1</SumNum>" in raw
        assert "新密市 东门 &lt;1&gt;" in raw
    if kind == "VideoRecordPlan":
        assert "<TimeSegmentSumNum>2</TimeSegmentSumNum>" in raw


@ways
async def test_svac_flags_of_the_own_edition_only(street: Street, device: Camera) -> None:
    own, foreign = ("osd_flag", "event_flag") if device.edition is V22 else ("event_flag", "osd_flag")
    body: dict[str, Any] = {
        "roi": {"flag": 1, "items": [{"seq": 1, "top_left": 10, "bottom_right": 40, "qp": 2}]},
        "surveillance": {own: 1},
    }
    await street.put(device, "SVACEncodeConfig", body)
    told = (await street.read(device, "SVACEncodeConfig"))["svac_encode"]
    assert (told["roi"]["number"], told["roi"]["items"][0]["qp"]) == (1, 2)
    assert told["surveillance"][own] == 1
    assert told["audio"]["recognition_flag"] == 0, "what was left out stays"
    before = street.on_the_wire(device)
    body["surveillance"][foreign] = 0
    problem = await street.put(device, "SVACEncodeConfig", body, 409)
    assert problem["cause"] == "not_supported"
    assert ("EventFlag" if foreign == "event_flag" else "OSDFlag") in problem["detail"]
    await street.put(device, "SVACDecodeConfig", {"svc": {"stm_mode": 3}})
    assert (await street.read(device, "SVACDecodeConfig"))["svac_decode"]["svc"]["stm_mode"] == 3
    assert street.on_the_wire(device) == before + 2


@pytest.mark.gb("G049")
@older
async def test_what_the_edition_does_not_know_is_never_sent(street: Street, device: Camera) -> None:
    before = street.on_the_wire(device)
    for kind, _, wanted in SETTINGS:
        problem = await street.put(device, kind, wanted, 409)
        assert problem["cause"] == "not_supported"
        assert "not supported by this device" in problem["detail"]
    problem = await street.read(device, "BasicParam,FrameMirror", 409)
    assert problem["cause"] == "not_supported"
    assert street.on_the_wire(device) == before


def changed(kind: str, **values: Any) -> dict[str, Any]:
    return {**next(wanted for name, _, wanted in SETTINGS if name == kind), **values}


WRONG = [
    ("BasicParam", {"heartbeat_interval": 4}, "heartbeat_interval"),
    ("BasicParam", {"heartbeat_count": 11}, "heartbeat_count"),
    ("BasicParam", {"expiration": 0}, "expiration"),
    ("BasicParam", {"heartbeat": 60}, "heartbeat"),
    ("FrameMirror", {"frame_mirror": 4}, "frame_mirror"),
    ("PictureMask", {"on": 1, "regions": [{"seq": 5, "point": "0,0,9,9"}]}, "regions.0.seq"),
    ("PictureMask", {"on": 1, "regions": [{"seq": 1, "point": "9,9,0,0"}]}, "regions.0.point"),
    ("PictureMask", {"on": 1, "regions": [{"seq": n, "point": "0,0,9,9"} for n in (1, 1)]}, "regions"),
    ("OSDConfig", changed("OSDConfig", time_x=1280), "time_x"),
    (
        "OSDConfig",
        changed("OSDConfig", texts=[{"text": "x" * 33, "x": 1, "y": 1}]),
        "texts.0.text",
    ),
    ("VideoAlarmRecord", {"record_enable": 2}, "record_enable"),
    ("VideoRecordPlan", {"record_enable": 1, "schedules": [{"week_day": 8, "segments": []}]}, "schedules.0.week_day"),
    (
        "VideoParamAttribute",
        {
            "video_params": [
                {
                    "stream_number": 0, "video_format": 2, "resolution": "6", "frame_rate": 25,
                    "bit_rate_type": 1,
                }
            ]
        },
        "video_params.0.bit_rate",
    ),
    (
        "SnapShotConfig",
        {"snap_num": 11, "interval": 1, "upload_url": "http://192.0.2.1/x", "session_id": "a" * 32},
        "snap_num",
    ),
    ("SVACEncodeConfig", {"roi": {"flag": 1, "items": [{"seq": 1, "top_left": 0, "bottom_right": 1, "qp": 4}]}},
     "roi.items.0.qp"),
]  # fmt: skip


async def test_a_value_outside_its_range_is_refused_by_name_before_anything_is_sent(street: Street) -> None:
    device = street.cameras[V22, "udp"]
    before = street.on_the_wire(device)
    for kind, body, field in WRONG:
        problem = await street.put(device, kind, body, 422)
        named = [problem["field"], *(one["field"] for one in problem.get("errors") or [])]
        assert field in named, (kind, body, problem)
    assert (await street.read(device, "Nonsense", 422))["field"] == "query.types"
    assert street.on_the_wire(device) == before


@pytest.mark.gb("G158")
@ways
async def test_refusals_and_silence_of_the_device_are_told(street: Street, device: Camera) -> None:
    device.configuration.result = "ERROR"
    problem = await street.put(device, "BasicParam", {"heartbeat_interval": 20}, 409)
    assert problem["cause"] == "rejected"
    assert "Result ERROR" in problem["detail"]
    assert (await street.chain.device(device))["heartbeat_interval_s"] != 20
    device.configuration.refused = {"BasicParam"}
    assert (await street.read(device, "BasicParam", 409))["cause"] == "rejected"
    device.configuration.refused, device.configuration.unknown = set(), {"BasicParam"}
    problem = await street.read(device, "BasicParam", 504)
    assert problem["cause"] == "no_answer"
    assert "200 OK" in problem["device_response"]


async def test_rights_and_the_audit_log(street: Street) -> None:
    device, gateway = street.cameras[V22, "tcp"], street.chain.gateway
    path = f"/api/channels/{device.channel_id}/configuration"
    tokens = {}
    for role in ("viewer", "operator"):
        made = await street.api("POST", "/api/tokens", {"name": f"config {role}", "role": role}, 201)
        tokens[role] = f"Bearer {made['token']}"
    asked = [
        ("GET", path + "?types=BasicParam", None, "viewer", 403),
        ("GET", path + "?types=BasicParam", None, "operator", 200),
        ("PUT", path + "/FrameMirror", {"frame_mirror": 1}, "operator", 403),
    ]
    for method, where, body, role, status in asked:
        found, _ = await asyncio.to_thread(
            lambda m=method, w=where, b=body, r=role: gateway.call(m, w, b, Authorization=tokens[r])
        )
        assert found == status, (method, role)
    await street.put(device, "FrameMirror", {"frame_mirror": 1})
    log = (await street.api("GET", "/api/audit?limit=50"))["items"]
    mine = [entry for entry in log if entry["target"] == device.channel_id]
    told = {(entry["action"], entry["result"]) for entry in mine}
    assert {("device.configuration", "ok"), ("device.configuration", "role_too_low")} <= told
    assert ("device.configuration_read", "ok") in told
    assert any("FrameMirror 1" in entry["detail"] for entry in mine)


async def test_an_upper_with_the_right_reads_and_sets_under_its_own_codes(street: Street) -> None:
    device, upper = street.cameras[V22, "udp"], street.chain.upper
    await street.chain.upper.wait_registered(30)
    code = device.channel_id
    reading = ConfigDownloadQuery(device_id=code, config_types=("FrameMirror", "AlarmReport", "OSDConfig"))
    setting = DeviceConfig(device_id=code, frame_mirror=2, alarm_report=AlarmReport(field_detection=1))
    before = street.on_the_wire(device)
    for body in (reading, setting):
        assert (await upper.send(body.model_copy(update={"sn": upper.next_sn()}))).status == 403
    assert street.on_the_wire(device) == before, "what is forbidden never comes down"
    await street.api("PATCH", f"/api/platforms/{upper.platform_id}", {"rights": ["play", "ptz", "config"]})
    device.configuration.parts = "each"
    told = await upper.ask(reading, timeout_s=30)
    assert isinstance(told, ConfigDownloadResponse)
    assert (told.result, told.device_id) == ("OK", code)
    assert told.answered == {"FrameMirror", "AlarmReport", "OSDConfig"}
    done = await upper.ask(setting, timeout_s=30)
    assert isinstance(done, DeviceConfigResponse)
    assert done.result == "OK"
    assert device.configuration.of(code)["FrameMirror"] == 2
    assert device.configuration.of(code)["AlarmReport"].field_detection == 1
    log = (await street.api("GET", "/api/audit?limit=50"))["items"]
    mine = {(one["action"], one["result"]) for one in log if one["who"] == f"platform:{upper.platform_id}"}
    assert {("upper.config", "forbidden"), ("device.configuration", "ok")} <= mine


@older
async def test_an_upper_cannot_set_what_the_device_does_not_know(street: Street, device: Camera) -> None:
    upper = street.chain.upper
    await upper.wait_registered(30)
    await street.api("PATCH", f"/api/platforms/{upper.platform_id}", {"rights": ["play", "ptz", "config"]})
    before = street.on_the_wire(device)
    done = await upper.ask(DeviceConfig(device_id=device.channel_id, frame_mirror=2), timeout_s=30)
    assert isinstance(done, DeviceConfigResponse)
    assert done.result == "ERROR"
    assert street.on_the_wire(device) == before
