"""ONVIF devices, by the optional package onvif-zeep-async: what streams they have, and moving them.

Only here is that package touched, and only when it is asked for: without it everything else works, and what needs it
says how to install it.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError

from gateway.errors import GatewayError
from gateway.services.errors import ControlCause, ControlFailed
from gateway.services.inputs_record import Input
from sip.ptz import Move, Preset, PresetAction, PtzCommand, is_stop

log = logging.getLogger(__name__)

INSTALL = 'pip install "gb28181-gateway[onvif]"'
TIMEOUT_S = 15.0
"""For one conversation; the first one also reads the service descriptions."""
MOST_CAMERAS = 64
"""Connections kept for moving; the one unused for longest goes."""
MOVE_TIMEOUT = datetime.timedelta(seconds=60)
"""The camera stops by itself after this, should our stop never reach it."""
PAN_TILT_TOP, ZOOM_TOP = 255, 15
_CODECS = ("H264", "H265", "HEVC")


class OnvifMissing(GatewayError):
    """The optional package is not installed."""

    status = 501
    cause = "not_installed"

    def __init__(self) -> None:
        super().__init__(f"ONVIF needs an optional package: {INSTALL}")


class OnvifFailed(GatewayError):
    """The device did not answer as it should. ``cause``: unreachable | refused | no_profile."""

    status = 502

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.status = 409 if cause == "refused" else 502


@dataclass(frozen=True, slots=True)
class OnvifProfile:
    """One media profile with its RTSP address (without credentials)."""

    token: str
    name: str
    codec: str
    width: int
    height: int
    url: str


@dataclass(frozen=True, slots=True)
class OnvifDevice:
    """What a device says of itself; profiles from the largest picture to the smallest."""

    manufacturer: str
    model: str
    firmware: str
    ptz: bool
    profiles: tuple[OnvifProfile, ...] = field(default=())


@dataclass(slots=True)
class _Camera:
    """A device that is being moved: the library's client and its PTZ service."""

    client: Any
    ptz: Any
    media: Any
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


Finder = Callable[[str, str], Input | None]


class Onvif:
    """Conversations with ONVIF devices; moves the cameras of inputs (`gateway.services.control.LocalControl`).

    ``find`` gives the input behind a channel.
    """

    def __init__(self, *, find: Finder, timeout_s: float = TIMEOUT_S) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._cameras: dict[tuple[str, int, str, str], _Camera] = {}

    @staticmethod
    def installed() -> bool:
        return importlib.util.find_spec("onvif") is not None

    @classmethod
    def require(cls) -> None:
        """Raises OnvifMissing."""
        if not cls.installed():
            raise OnvifMissing

    async def close(self) -> None:
        """End all connections. Idempotent."""
        cameras, self._cameras = self._cameras, {}
        for camera in cameras.values():
            await camera.client.close()

    # -- what a device has -----------------------------------------------------------------------------------

    async def describe(self, host: str, port: int, username: str, password: str) -> OnvifDevice:
        """Ask a device for its profiles. Raises OnvifMissing, OnvifFailed."""
        self.require()
        async with _speaking(self._timeout_s):
            client = await _client(host, port, username, password)
            try:
                return await self._describe(client)
            finally:
                await client.close()

    async def _describe(self, client: Any) -> OnvifDevice:
        device = await client.create_devicemgmt_service()
        about = await device.GetDeviceInformation()
        media = await client.create_media_service()
        found = []
        for profile in await media.GetProfiles():
            encoder = getattr(profile, "VideoEncoderConfiguration", None)
            codec = str(getattr(encoder, "Encoding", "") or "")
            if codec.upper() not in _CODECS:
                continue
            answer = await media.GetStreamUri(
                {
                    "StreamSetup": {"Stream": "RTP-Unicast", "Transport": {"Protocol": "RTSP"}},
                    "ProfileToken": profile.token,
                }
            )
            size = getattr(encoder, "Resolution", None)
            found.append(
                OnvifProfile(
                    str(profile.token), str(profile.Name or ""), codec.lower(),
                    int(getattr(size, "Width", 0) or 0), int(getattr(size, "Height", 0) or 0), str(answer.Uri or ""),
                )
            )  # fmt: skip
        found.sort(key=lambda profile: -profile.width * profile.height)
        return OnvifDevice(
            str(about.Manufacturer or ""), str(about.Model or ""), str(about.FirmwareVersion or ""),
            await _has_ptz(client), tuple(profile for profile in found if profile.url),
        )  # fmt: skip

    # -- moving ----------------------------------------------------------------------------------------------

    def check(self, device_id: str, channel_id: str) -> None:
        """Raises ControlFailed(not_supported) for an input that cannot be moved."""
        record = self._find(device_id, channel_id)
        if record is None or record.onvif is None or not record.onvif.ptz:
            raise ControlFailed(
                ControlCause.NOT_SUPPORTED, "this input cannot be moved: no ONVIF service for it is known"
            )
        if not self.installed():
            raise ControlFailed(ControlCause.NOT_SUPPORTED, str(OnvifMissing()))

    async def ptz(
        self, device_id: str, channel_id: str, command: PtzCommand, *, preset_name: str = ""
    ) -> None:
        """Carry out one command. Raises ControlFailed."""
        self.check(device_id, channel_id)
        record = self._find(device_id, channel_id)
        if record is None or record.onvif is None:
            return
        if not isinstance(command, Move | Preset):
            raise ControlFailed(
                ControlCause.NOT_SUPPORTED, "ONVIF cameras are only moved, zoomed and sent to presets"
            )
        token = record.onvif.profile
        try:
            async with _speaking(self._timeout_s):
                camera = await self._camera(record)
                async with camera.lock:  # a stop must not overtake its start
                    if isinstance(command, Preset):
                        await _preset(camera.ptz, token, command, preset_name)
                    elif is_stop(command):
                        await camera.ptz.Stop({"ProfileToken": token, "PanTilt": True, "Zoom": True})
                    else:
                        await _move(camera.ptz, token, command)
        except OnvifFailed as error:
            await self._forget(record)
            cause = ControlCause.REJECTED if error.cause == "refused" else ControlCause.NO_ANSWER
            raise ControlFailed(cause, str(error)) from error

    async def key_frame(self, device_id: str, channel_id: str) -> bool:
        """SetSynchronizationPoint: the next picture is a key frame. False when the camera has no ONVIF or refuses."""
        record = self._find(device_id, channel_id)
        if record is None or record.onvif is None or not self.installed():
            return False
        try:
            async with _speaking(self._timeout_s):
                camera = await self._camera(record)
                await camera.media.SetSynchronizationPoint({"ProfileToken": record.onvif.profile})
        except OnvifFailed:
            await self._forget(record)
            return False
        return True

    async def _camera(self, record: Input) -> _Camera:
        key = _key(record)
        camera = self._cameras.pop(key, None)
        if camera is None:
            client = await _client(*key)
            camera = _Camera(
                client,
                await client.create_ptz_service() if record.onvif is not None and record.onvif.ptz else None,
                await client.create_media_service(),
            )
        self._cameras[key] = camera
        while len(self._cameras) > MOST_CAMERAS:
            await self._cameras.pop(next(iter(self._cameras))).client.close()
        return camera

    async def _forget(self, record: Input) -> None:
        camera = self._cameras.pop(_key(record), None)
        if camera is not None:
            await camera.client.close()


def _key(record: Input) -> tuple[str, int, str, str]:
    onvif = record.onvif
    if onvif is None:
        raise OnvifFailed("no_profile", "the input has no ONVIF address")
    return onvif.host, onvif.port, record.username, record.password


async def _client(host: str, port: int, username: str, password: str) -> Any:
    from onvif import ONVIFCamera

    client = ONVIFCamera(host, port, username or None, password or None, adjust_time=True)
    try:
        try:
            await client.update_xaddrs()
        except AttributeError:  # a device that does not tell its time: ours must do
            client.adjust_time = False
            await client.update_xaddrs()
    except BaseException:
        await client.close()
        raise
    return client


async def _has_ptz(client: Any) -> bool:
    from onvif.exceptions import ONVIFError

    try:
        await client.create_ptz_service()
    except ONVIFError:
        return False
    return True


async def _move(ptz: Any, token: str, move: Move) -> None:
    """ONVIF PTZ 5.3.3: velocities between -1 and 1; right, up and in are positive, as with us."""
    velocity: dict[str, Any] = {
        "PanTilt": {
            "x": move.pan * min(1.0, move.pan_speed / PAN_TILT_TOP),
            "y": move.tilt * min(1.0, move.tilt_speed / PAN_TILT_TOP),
        },
        "Zoom": {"x": move.zoom * min(1.0, move.zoom_speed / ZOOM_TOP)},
    }
    await ptz.ContinuousMove({"ProfileToken": token, "Velocity": velocity, "Timeout": MOVE_TIMEOUT})


async def _preset(ptz: Any, token: str, command: Preset, name: str) -> None:
    """Presets of ONVIF have tokens: ours are known by their name "GB<number>", those of the camera by their token."""
    presets = await ptz.GetPresets({"ProfileToken": token}) or []
    ours = re.compile(rf"GB{command.number}(\s|$)")
    known = next(
        (p.token for p in presets if ours.match(str(p.Name or ""))),
        next((p.token for p in presets if str(p.token) == str(command.number)), None),
    )
    if command.action is PresetAction.SET:
        order = {"ProfileToken": token, "PresetName": f"GB{command.number} {name}".strip()}
        await ptz.SetPreset(order if known is None else {**order, "PresetToken": known})
    elif known is None:
        raise OnvifFailed("refused", f"the camera has no preset {command.number}")
    elif command.action is PresetAction.CALL:
        await ptz.GotoPreset({"ProfileToken": token, "PresetToken": known})
    else:
        await ptz.RemovePreset({"ProfileToken": token, "PresetToken": known})


@asynccontextmanager
async def _speaking(timeout_s: float) -> AsyncIterator[None]:
    """Turns what the library and the network raise into OnvifFailed, and ends a conversation that takes too long.

    The texts of its errors are not passed on: they may repeat what was sent.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise OnvifFailed("unreachable", "the device did not answer in time") from None
    except _faults() as error:
        raise _failure(error) from None


def _faults() -> tuple[type[Exception], ...]:
    from onvif.exceptions import ONVIFError
    from zeep.exceptions import Error

    return (ONVIFError, Error, ClientError, OSError, AttributeError, TypeError, ValueError)


def _failure(error: Exception) -> OnvifFailed:
    from onvif.exceptions import ONVIFAuthError, ONVIFError, ONVIFTimeoutError
    from zeep.exceptions import Fault, TransportError

    words = f"{error} {getattr(error, 'subcodes', '')}".lower()
    status = getattr(error, "status_code", 0)
    if isinstance(error, ONVIFAuthError) or "authorized" in words or status in (401, 403):
        return OnvifFailed("refused", "the device refuses the user name or password")
    unreached = (ONVIFTimeoutError, TransportError, ClientError, OSError)
    if isinstance(error, unreached) or "connect" in words or "timeout" in words:
        return OnvifFailed("unreachable", "the device cannot be reached")
    if isinstance(error, Fault | ONVIFError):
        return OnvifFailed("refused", "the device refuses the request")
    return OnvifFailed("refused", "the device's answer cannot be understood")
