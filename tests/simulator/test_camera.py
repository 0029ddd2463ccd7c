"""The simulated camera and recorder against the simulated upper platform: registration, answers, real media."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest

from simulator.camera import Camera, DeviceOptions, Pictures
from simulator.device import SimulatedDevice
from simulator.faults import Faults
from simulator.nvr import Recorder
from simulator.register import RegisterSettings
from simulator.upper_platform import Pull, UpperPlatform, UpperRules
from sip import mansrtsp, ptz
from sip.errors import Rejected
from sip.manscdp import (
    AlarmNotify,
    CatalogItem,
    ConfigDownloadQuery,
    ConfigDownloadResponse,
    DeviceControl,
    DeviceInfoResponse,
    DeviceStatusResponse,
    Edition,
    PresetQuery,
    PresetResponse,
    RecordInfoQuery,
    RecordInfoResponse,
)

UPPER_ID = "41018300002000000001"
CAMERA_ID = "41018300001320000007"
NVR_ID = "41018300001180000003"
PASSWORD = "demo-Only-1"
FAST = RegisterSettings(expires_s=3600, heartbeat_s=0.15, retry_s=(0.05, 0.2), answer_timeout_s=2.0)
SMALL = Pictures(width=320, height=192, bitrate=200_000, gop=25)

Start = Callable[[SimulatedDevice], Awaitable[SimulatedDevice]]


@pytest.fixture
async def upper() -> AsyncIterator[UpperPlatform]:
    platform = UpperPlatform(UPPER_ID, lower_id=CAMERA_ID, password=PASSWORD)
    await platform.start()
    yield platform
    await platform.stop()


@pytest.fixture
async def start(upper: UpperPlatform) -> AsyncIterator[Start]:
    devices: list[SimulatedDevice] = []

    async def begin(device: SimulatedDevice) -> SimulatedDevice:
        devices.append(device)
        upper.lower_id = device.device_id
        await device.start()
        await device.wait_registered()
        return device

    yield begin
    for device in devices:
        await device.stop()


def camera(upper: UpperPlatform, **changes: object) -> Camera:
    options = DeviceOptions(pictures=SMALL, register=FAST)
    values: dict[str, object] = {
        "server": (upper.host, upper.port),
        "server_id": UPPER_ID,
        "password": PASSWORD,
        "options": options,
    }
    return Camera(CAMERA_ID, **(values | changes))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def playing(
    upper: UpperPlatform, channel_id: str, transport: str = "udp", **more: object
) -> AsyncIterator[Pull]:
    pull = await upper.invite(channel_id, transport, **more)  # type: ignore[arg-type]
    try:
        yield pull
    finally:
        await pull.close()


# --- registration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_registers_with_digest_and_beats(upper: UpperPlatform, start: Start, transport: str) -> None:
    device = await start(camera(upper, transport=transport))
    assert [bool(request.headers.get("Authorization")) for request in upper.registers] == [False, True]
    await device.wait(lambda: len(upper.heartbeats) >= 3)
    assert upper.lower.flow.transport == transport
    assert {beat.device_id for _, beat in upper.heartbeats} == {CAMERA_ID}
    sns = [beat.sn for _, beat in upper.heartbeats]
    assert sns == sorted(set(sns))
    await device.stop()
    assert CAMERA_ID not in upper.lowers


async def test_a_wrong_password_is_tried_again_with_pauses_and_new_call_ids(upper: UpperPlatform) -> None:
    device = camera(upper, password="wrong")
    await device.start()
    await device.wait(lambda: device.registration.failures >= 2)
    await device.stop()
    assert not upper.lowers
    assert len({request.call_id for request in upper.registers}) >= 2


async def test_refreshes_before_the_lifetime_ends(upper: UpperPlatform, start: Start) -> None:
    upper.rules = UpperRules(realm=upper.rules.realm, password=PASSWORD, granted_s=1)
    device = await start(camera(upper))
    await device.wait(lambda: device.registration.registers >= 3)
    assert device.registration.granted_s == 1
    assert len({request.call_id for request in upper.registers}) == 1


async def test_lets_it_expire_when_told_so(upper: UpperPlatform, start: Start) -> None:
    upper.rules = UpperRules(realm=upper.rules.realm, password=PASSWORD, granted_s=1)
    device = await start(camera(upper, faults=Faults(no_reregister=True)))
    begun = time.monotonic()
    await device.wait(lambda: time.monotonic() - begun > 1.3)
    assert device.registration.registers == 1
    assert device.registration.heartbeats > 4


async def test_a_refused_heartbeat_leads_to_a_new_registration(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper))
    upper.forget()
    await device.wait(lambda: CAMERA_ID in upper.lowers)
    assert device.registration.registers == 2


async def test_versions_are_told(upper: UpperPlatform, start: Start) -> None:
    await start(camera(upper, edition=Edition.V2022))
    assert upper.registers[-1].headers.get("X-GB-Ver") == "3.0"


async def test_a_heartbeat_from_another_port(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper, faults=Faults(heartbeat_from_other_port=True)))
    await device.wait(lambda: upper.heartbeats)
    assert upper.lower.flow.port != device.port  # this upper follows the last message


# --- answers -------------------------------------------------------------------------------------------------


async def test_camera_answers_queries(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper, name="青屏湖", speaker=True))
    assert isinstance(device, Camera)
    items = await upper.query_catalog()
    assert [(item.device_id, item.name) for item in items] == [
        (device.channel_id, "青屏湖"),
        ("41018300001370000007", "青屏湖 loudspeaker"),
    ]
    assert items[1].parent_ids == (CAMERA_ID,)
    info = await upper.device_info()
    assert isinstance(info, DeviceInfoResponse)
    assert (info.device_name, info.channel, info.result) == ("青屏湖", 1, "OK")
    status = await upper.device_status(device.channel_id)
    assert isinstance(status, DeviceStatusResponse)
    assert (status.online, status.result) == ("ONLINE", "OK")
    unknown = await upper.device_status("41018300001310000999")
    assert isinstance(unknown, DeviceStatusResponse)
    assert unknown.result == "ERROR"
    presets = await upper.ask(PresetQuery(sn=upper.next_sn(), device_id=device.channel_id))
    assert isinstance(presets, PresetResponse)
    assert len(presets.presets) == 2
    config = await upper.ask(
        ConfigDownloadQuery(sn=upper.next_sn(), device_id=CAMERA_ID, config_types=("BasicParam",))
    )
    assert isinstance(config, ConfigDownloadResponse)
    assert config.basic_param is not None
    records = await upper.ask(
        RecordInfoQuery(
            sn=upper.next_sn(),
            device_id=device.channel_id,
            start_time=datetime(2026, 3, 1, tzinfo=UTC),
            end_time=datetime(2026, 3, 1, 2, 30, tzinfo=UTC),
        )
    )
    assert isinstance(records, RecordInfoResponse)
    assert (records.sum_num, len(records.items)) == (3, 3)
    assert [entry.method for entry in device.received].count("MESSAGE") == 7
    assert len(device.received_bodies("DeviceStatus")) == 2


async def test_controls_are_recorded(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper))
    assert isinstance(device, Camera)
    await upper.ptz(device.channel_id, ptz.encode(ptz.Move(pan=1, pan_speed=9)))
    await upper.ptz(device.channel_id, ptz.encode(ptz.STOP))
    assert (await upper.ptz(device.channel_id, "A50F0100000000B6")).status == 200
    assert [(channel, command) for channel, command, _ in device.ptz_log] == [
        (device.channel_id, ptz.Move(pan=1, pan_speed=9)),
        (device.channel_id, ptz.STOP),
    ]
    assert list(device.refused_ptz) == ["A50F0100000000B6"]
    answer = await upper.ask(
        DeviceControl(sn=upper.next_sn(), device_id=device.channel_id, record_cmd="Record")
    )
    assert answer.sn


async def test_recorder_sends_its_catalog_in_pages(upper: UpperPlatform, start: Start) -> None:
    recorder = Recorder(
        NVR_ID,
        9,
        server=(upper.host, upper.port),
        server_id=UPPER_ID,
        password=PASSWORD,
        alarms=True,
        speaker=True,
        directory=True,
        options=DeviceOptions(pictures=SMALL, register=FAST, page_size=4),
    )
    await start(recorder)
    collected = await upper.collect()
    assert len(collected.parts) == 4
    assert {part.sum_num for part in collected.parts} == {16}
    items = collected.items
    assert len({item.name for item in items.values()}) == 16
    assert len(recorder.camera_ids) == 9
    first = items[recorder.camera_ids[0]]
    assert first.parent_ids == (NVR_ID, "41018300002160003001")
    assert items["41018300002160003001"].business_group_id == "41018300002150003001"
    assert items["41018300002150003001"].status == ""
    assert [code for code in items if code[10:13] == "135"]


async def test_subscribers_hear_of_changes(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper))
    assert isinstance(device, Camera)
    device.channels[device.channel_id].status = "VLOST"
    await upper.subscribe_catalog()
    await device.wait(lambda: upper.events() == [("VLOST", device.channel_id)])
    await device.set_status(device.channel_id, "OFF")
    await device.remove_channel(device.channel_id)
    assert upper.events()[1:] == [("OFF", device.channel_id), ("DEL", device.channel_id)]


async def test_alarms_without_subscription_go_by_message(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper))
    assert isinstance(device, Camera)
    await device.alarm(device.channel_id)
    assert any(isinstance(body, AlarmNotify) for body, _ in upper.messages)


# --- media ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "codec"),
    [("udp", "h264"), ("udp", "h265"), ("tcp_passive", "h264"), ("tcp_active", "h265")],
)
async def test_pictures_and_sound_arrive(
    upper: UpperPlatform, start: Start, transport: str, codec: str
) -> None:
    device = await start(camera(upper, codec=codec))
    assert isinstance(device, Camera)
    async with playing(upper, device.channel_id, transport) as pull:
        await pull.media.wait_frames(30)
        stats = pull.media.stats
        assert (stats.codec, stats.width, stats.height) == (codec, 320, 192)
        assert stats.first_key_first
        assert (stats.lost, stats.structure_faults, stats.timestamp_faults, stats.decode_errors) == (
            0,
            0,
            0,
            0,
        )
        assert stats.audio_units > 0
        assert set(stats.ssrcs) == {pull.answer.ssrc} == {pull.ssrc}
        assert (
            device.live_calls[0].transport
            == {"udp": "udp", "tcp_passive": "tcp_active", "tcp_active": "tcp_passive"}[transport]
        )
    await device.wait(lambda: not device.live_calls)
    assert device.calls.history[0].ended == "remote_bye"


async def test_live_pictures_carry_a_running_clock(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper, picture="live"))
    assert isinstance(device, Camera)
    async with playing(upper, device.channel_id) as pull:
        await pull.media.wait_frames(10)


async def test_a_key_frame_follows_the_request(upper: UpperPlatform, start: Start) -> None:
    slow = DeviceOptions(pictures=Pictures(width=320, height=192, bitrate=200_000, gop=1000), register=FAST)
    device = await start(camera(upper, options=slow))
    assert isinstance(device, Camera)
    async with playing(upper, device.channel_id) as pull:
        await pull.media.wait_frames(5)
        before = pull.media.stats.key_units
        for edition in Edition:
            upper.edition = edition
            await upper.send(DeviceControl(sn=upper.next_sn(), device_id=device.channel_id, iframe=True))
        await device.wait(lambda: pull.media.stats.key_units > before)


async def test_several_viewers_have_their_own_streams(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper))
    assert isinstance(device, Camera)
    async with (
        playing(upper, device.channel_id) as one,
        playing(upper, device.channel_id, "tcp_passive") as two,
    ):
        await one.media.wait_frames(10)
        await two.media.wait_frames(10)
        assert one.answer.ssrc != two.answer.ssrc
        assert len(device.live_calls) == 2
        device.options.max_calls = 2
        with pytest.raises(Rejected) as caught:
            await upper.invite(device.channel_id)
        assert caught.value.status == 486


async def test_refusals(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper, media="tcp"))
    assert isinstance(device, Camera)
    for channel_id, status in ((device.channel_id, 488), ("41018300001310000999", 404)):
        with pytest.raises(Rejected) as caught:
            await upper.invite(channel_id, "udp")
        assert caught.value.status == status
    device.channels[device.channel_id].status = "OFF"
    with pytest.raises(Rejected) as caught:
        await upper.invite(device.channel_id, "tcp_passive")
    assert caught.value.status == 480


async def test_playback_pauses_and_ends_with_media_status(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper))
    assert isinstance(device, Camera)
    from simulator.upper_pull import MediaPort
    from sip.sdp import history_offer

    port = MediaPort("udp")
    offer = history_offer(
        upper.offer(port, "udp", 1_100_000_001),
        name="Playback",
        source_id=device.channel_id,
        record_type=0,
        start_unix=1_000_000,
        end_unix=1_000_001,
    )
    port.start()
    async with playing(upper, device.channel_id, offer=offer.to_bytes()) as pull:
        asked: list[str] = []
        pull.session.on_request = lambda incoming: _noted(asked, incoming.request.method)
        paused = await pull.session.request(
            "INFO", body=mansrtsp.pause(1).to_bytes(), content_type=mansrtsp.CONTENT_TYPE
        )
        player = device.live_calls[0].player
        assert player is not None
        assert (paused.status, player.paused, asked) == (200, True, [])
        await pull.session.request(
            "INFO", body=mansrtsp.resume(2).to_bytes(), content_type=mansrtsp.CONTENT_TYPE
        )
        await device.wait(lambda: asked == ["MESSAGE"])
    await port.close()
    await device.wait(lambda: not device.live_calls)


def _noted(asked: list[str], method: str):  # type: ignore[no-untyped-def]
    from sip.endpoint import Reply

    asked.append(method)
    return Reply(200)


async def test_nothing_stays_open(upper: UpperPlatform, start: Start) -> None:
    device = await start(camera(upper))
    assert isinstance(device, Camera)
    for transport in ("udp", "tcp_passive", "tcp_active"):
        async with playing(upper, device.channel_id, transport) as pull:
            await pull.media.wait_packets(5)
    await device.wait(lambda: not device.live_calls)
    assert all(not call.feed.receivers for call in device.calls.history)
    await device.stop()
    assert device.endpoint.counts["tasks"] == 0


async def test_six_cameras_are_cheap(upper: UpperPlatform) -> None:
    """Six streams from one process cost a small part of a core (generous bound: the machine is shared)."""
    recorder = Recorder(
        NVR_ID,
        6,
        server=(upper.host, upper.port),
        server_id=UPPER_ID,
        password=PASSWORD,
        options=DeviceOptions(pictures=Pictures(), register=RegisterSettings()),
    )
    upper.lower_id = NVR_ID
    await recorder.start()
    await recorder.wait_registered()
    pulls = [await upper.invite(code, offer=None) for code in recorder.camera_ids]
    for pull in pulls:
        await pull.media.close()  # nobody decodes: the sender's cost alone is looked at
    begin_cpu, begin = _cpu_s(), time.monotonic()
    await asyncio.sleep(2.0)
    used = (_cpu_s() - begin_cpu) / (time.monotonic() - begin)
    sent = [call.counts.frames + call.counts.dropped for call in recorder.live_calls]
    for pull in pulls:
        await pull.session.bye()
    upper.pulls.clear()
    await recorder.stop()
    assert len(sent) == 6
    assert min(sent) > 20
    assert used < 0.8


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def test_unknown_catalog_item_fields_do_not_disturb() -> None:
    with pytest.raises(ValueError, match="no such SDP faults"):
        Faults(sdp={"unheard_of"})
    assert CatalogItem().kind
