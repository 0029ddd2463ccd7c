"""Camera control: what goes out, the watch over movements, key frames."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from gateway.clock import ManualClock
from gateway.events import EventBus
from gateway.model import Channel, Device, State
from gateway.registry import Registry
from gateway.services.control import Control
from gateway.services.errors import ControlCause, ControlFailed
from sip import ptz
from sip.errors import LocalError, TransactionTimeout, TransportFailed
from sip.flow import Flow
from sip.headers import Headers
from sip.manscdp import Body, Edition, encode
from sip.manscdp.device_control import DeviceControl
from sip.message import Response

NVR = "41018300001180000001"
CAMERA = "41018300001320000001"
RIGHT = ptz.Move(pan=1, pan_speed=128)
NEAR = ptz.Lens(focus=1, focus_speed=48)


class FakeSender:
    """Keeps what was sent; ``gate`` holds answers back, ``status`` is what the device answers."""

    def __init__(self) -> None:
        self.sent: list[DeviceControl] = []
        self.xml: list[str] = []
        self.status = 200
        self.error: Exception | None = None
        self.gates: list[asyncio.Event] = []
        self._sn = count(1)

    def next_sn(self, peer_id: str) -> int:
        return next(self._sn)

    async def send(self, device: Device, body: Body) -> Response:
        assert isinstance(body, DeviceControl)
        self.sent.append(body)
        self.xml.append(encode(body, edition=Edition.from_header(device.edition)).decode("gb18030"))
        if self.gates:
            await self.gates.pop(0).wait()
        if self.error is not None:
            raise self.error
        return Response(self.status, "", Headers())

    @property
    def digits(self) -> list[str]:
        return [body.ptz_cmd for body in self.sent]


class Desk:
    """A control service with one recorder and one dome camera."""

    def __init__(self, edition: str = "2.0", hold_s: float = 30.0) -> None:
        self.clock = ManualClock()
        self.registry = Registry(bus=EventBus(), clock=self.clock)
        flow = Flow("udp", "10.0.0.9", 5060, "10.0.0.1", 5060)
        self.device = Device(NVR, edition=edition, state=State.ONLINE, flow=flow)
        self.registry.put_device(self.device)
        self.registry.put_channel(Channel(NVR, CAMERA))
        self.sender = FakeSender()
        self.audited: list[tuple[str, ...]] = []
        self.control = Control(
            registry=self.registry,
            sender=self.sender,
            clock=self.clock,
            audit=lambda *entry: self.audited.append(entry),
            hold_s=hold_s,
        )


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.mark.gb("G157")
async def test_a_command_ends_with_the_200() -> None:
    """No Response is awaited: the fake device never sends one."""
    desk = Desk()
    await desk.control.ptz(NVR, CAMERA, RIGHT, "operator-1")
    assert desk.sender.digits == ["A50F010180000036"]
    assert desk.sender.sent[0].device_id == CAMERA
    assert desk.audited == [("operator-1", "ptz", f"{NVR}/{CAMERA}", "ok", "A50F010180000036")]
    await desk.control.close()


@pytest.mark.gb("G167")
async def test_stop_is_the_all_zero_command() -> None:
    desk = Desk()
    await desk.control.ptz(NVR, CAMERA, RIGHT, "a")
    await desk.control.ptz(NVR, CAMERA, ptz.STOP, "a")
    assert desk.sender.digits[-1] == "A50F0100000000B5"
    assert desk.control.moving(NVR, CAMERA) == ""
    await desk.control.close()
    assert len(desk.sender.sent) == 2  # nothing left to stop


@pytest.mark.gb("G168")
async def test_a_movement_that_is_not_renewed_is_stopped() -> None:
    desk = Desk(hold_s=0.15)
    await desk.control.ptz(NVR, CAMERA, RIGHT, "a")
    await desk.control.ptz(NVR, CAMERA, NEAR, "a")
    async with asyncio.timeout(10):
        while len(desk.sender.sent) < 4:
            await asyncio.sleep(0.02)
    assert set(desk.sender.digits[2:]) == {"A50F0100000000B5", "A50F0140000000F5"}
    assert ("watchdog", "ptz", f"{NVR}/{CAMERA}", "ok", "A50F0100000000B5") in desk.audited
    assert desk.control.watchdog_stops == 2
    await desk.control.close()


@pytest.mark.gb("G168")
async def test_renewing_keeps_it_moving_and_a_lost_client_stops_it() -> None:
    desk = Desk(hold_s=0.4)
    for _ in range(5):
        await desk.control.ptz(NVR, CAMERA, RIGHT, "tab-1")
        await asyncio.sleep(0.15)
    assert desk.control.watchdog_stops == 0
    desk.control.client_gone("tab-2")
    desk.control.client_gone("tab-1")
    await settle()
    assert desk.sender.digits[-1] == "A50F0100000000B5"
    assert len(desk.sender.sent) == 6
    await desk.control.close()


@pytest.mark.gb("G168")
async def test_closing_stops_what_moves() -> None:
    desk = Desk()
    await desk.control.ptz(NVR, CAMERA, RIGHT, "a")
    await desk.control.close()
    assert desk.sender.digits[-1] == "A50F0100000000B5"


async def test_the_last_word_is_the_stop() -> None:
    """A start whose 200 comes after the stop went out may have been repeated behind it: stop once more."""
    desk = Desk()
    gate = asyncio.Event()
    desk.sender.gates = [gate]
    start = asyncio.create_task(desk.control.ptz(NVR, CAMERA, RIGHT, "a"))
    await settle()
    await desk.control.ptz(NVR, CAMERA, ptz.STOP, "a")
    gate.set()
    await start
    assert desk.sender.digits == ["A50F010180000036", "A50F0100000000B5", "A50F0100000000B5"]
    await desk.control.close()


async def test_preset_and_cruise_are_not_watched() -> None:
    desk = Desk(hold_s=0.05)
    await desk.control.ptz(NVR, CAMERA, ptz.Preset(ptz.PresetAction.CALL, 5), "a")
    await desk.control.ptz(NVR, CAMERA, ptz.Cruise(ptz.CruiseAction.START, 1), "a")
    await asyncio.sleep(0.15)
    assert desk.sender.digits == ["A50F01820005003C", "A50F01880100003E"]


@pytest.mark.gb("G169")
async def test_preset_names_go_to_2022_peers_only() -> None:
    preset = ptz.Preset(ptz.PresetAction.SET, 1)
    for edition, there in (("2.0", False), ("3.0", True)):
        desk = Desk(edition)
        await desk.control.ptz(NVR, CAMERA, preset, "a", preset_name="东门")
        assert ("<PresetName>东门</PresetName>" in desk.sender.xml[0]) is there


async def test_numbers_out_of_range_never_leave() -> None:
    desk = Desk()
    with pytest.raises(LocalError):
        await desk.control.ptz(NVR, CAMERA, ptz.Preset(ptz.PresetAction.SET, 0), "a")
    assert not desk.sender.sent


@pytest.mark.gb("G178")
async def test_a_higher_priority_takes_the_camera() -> None:
    desk = Desk()
    await desk.control.ptz(NVR, CAMERA, RIGHT, "chief", priority=5)
    assert "<ControlPriority>5</ControlPriority>" in desk.sender.xml[0]
    with pytest.raises(ControlFailed) as failure:
        await desk.control.ptz(NVR, CAMERA, RIGHT, "guest")
    assert failure.value.cause is ControlCause.TAKEN
    await desk.control.ptz(NVR, CAMERA, ptz.STOP, "guest")  # stopping is always allowed
    await desk.control.ptz(NVR, CAMERA, RIGHT, "guest")
    await desk.control.ptz(NVR, CAMERA, RIGHT, "chief", priority=5)
    assert "ControlPriority" not in desk.sender.xml[2]
    await desk.control.close()


@pytest.mark.gb("G170")
@pytest.mark.parametrize(("edition", "element"), [("2.0", "IFameCmd"), ("3.0", "IFrameCmd")])
async def test_key_frame_command_by_edition(edition: str, element: str) -> None:
    desk = Desk(edition)
    assert await desk.control.key_frame(NVR, CAMERA)
    assert f"<{element}>Send</{element}>" in desk.sender.xml[0]


async def test_key_frames_are_rate_limited_per_channel() -> None:
    desk = Desk()
    assert await desk.control.key_frame(NVR, CAMERA)
    assert not await desk.control.key_frame(NVR, CAMERA)
    assert await desk.control.key_frame(NVR, NVR)
    desk.clock.advance(2.1)
    assert await desk.control.key_frame(NVR, CAMERA)
    assert len(desk.sender.sent) == 3


@pytest.mark.parametrize(
    ("error", "status", "cause", "http"),
    [
        (None, 404, ControlCause.REJECTED, 409),
        (TransactionTimeout("silence"), 0, ControlCause.NO_ANSWER, 504),
        (TransportFailed("closed"), 0, ControlCause.DEVICE_OFFLINE, 409),
    ],
)
async def test_failures_have_a_cause(
    error: Exception | None, status: int, cause: ControlCause, http: int
) -> None:
    desk = Desk()
    desk.sender.error, desk.sender.status = error, status
    with pytest.raises(ControlFailed) as failure:
        await desk.control.ptz(NVR, CAMERA, RIGHT, "a")
    assert (failure.value.cause, failure.value.status) == (cause, http)
    assert desk.audited[0][3] == cause.value
    await desk.control.close()


async def test_unknown_channels_and_devices_that_are_offline() -> None:
    desk = Desk()
    with pytest.raises(ControlFailed) as failure:
        await desk.control.ptz(NVR, "41018300001320000999", RIGHT, "a")
    assert failure.value.status == 404
    desk.registry.mark_offline(desk.device, "expired")
    with pytest.raises(ControlFailed) as failure:
        await desk.control.ptz(NVR, CAMERA, RIGHT, "a")
    assert failure.value.status == 409
    assert not await desk.control.key_frame(NVR, CAMERA)
