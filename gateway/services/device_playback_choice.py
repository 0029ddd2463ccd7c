"""Which recordings are played: our own where they cover what is asked for, else those in the device.

One face for both (the API, uppers): a playing is opened, moved and ended the same way whoever sends its pictures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal, Protocol

from gateway.errors import GatewayError
from gateway.services.device_playback import DevicePlayback, DevicePlaybacks
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.playback import Playback, Playbacks, Wish
from gateway.services.playback_library import Found, LibraryFailed
from media.specs import InputControl, PlayPosition

log = logging.getLogger(__name__)

GAP_S = 60.0
"""Our own recordings cover a range when no longer piece of it is missing (G140)."""


class Stretch(Protocol):
    """Anything with a beginning and an end in unix seconds."""

    @property
    def start(self) -> float: ...

    @property
    def end(self) -> float: ...


def uncovered(
    parts: Sequence[Stretch], start: float, end: float, gap_s: float = GAP_S
) -> list[tuple[float, float]]:
    """Pieces of ``[start, end)`` longer than ``gap_s`` in which nothing is recorded."""
    gaps, reached = [], start
    for part in sorted(parts, key=lambda part: part.start):
        if part.start - reached > gap_s:
            gaps.append((reached, min(part.start, end)))
        reached = max(reached, part.end)
    if end - reached > gap_s:
        gaps.append((reached, end))
    return gaps


class PlaybackChoice:
    """All playings, whoever they come from."""

    def __init__(self, own: Playbacks, devices: DevicePlaybacks) -> None:
        self._own = own
        self._devices = devices

    def get(self, session_id: str) -> Playback | None:
        return self._own.get(session_id) or self._devices.get(session_id)

    async def open(self, wish: Wish, owner: str) -> Playback:
        """See Playbacks.open and DevicePlaybacks.open. With source auto a device that cannot is no failure where we
        have something ourselves."""
        if wish.source == "device":
            return await self._devices.open(wish, owner)
        possible = wish.source == "auto" and self._devices.possible(wish.device_id, wish.channel_id)
        if not possible:
            return await self._own.open(wish, owner)
        found = await self._recorded(wish)
        if found.parts and not uncovered(found.parts, wish.start, wish.end):
            return await self._own.open(wish, owner)
        try:
            return await self._devices.open(wish, owner)
        except GatewayError as failure:
            if not found.parts:
                raise
            log.info(
                "device cannot play, our own recordings do channel=%s cause=%s", wish.channel_id, failure
            )
        return await self._own.open(wish, owner)

    async def _recorded(self, wish: Wish) -> Found:
        try:
            return await self._own.library.find(wish.device_id, wish.channel_id, wish.start, wish.end)
        except LibraryFailed as error:
            raise PlayFailed(PlayCause.NODE_DOWN, str(error)) from error

    async def control(self, playback: Playback, control: InputControl) -> PlayPosition:
        """Pause, move, turn. Raises PlayFailed, ControlFailed, NotSupported, MediaError."""
        if isinstance(playback, DevicePlayback):
            return await self._devices.control(playback, control)
        return await self._own.control(playback, control)

    def close(self, playback: Playback, cause: str) -> asyncio.Task[None]:
        if isinstance(playback, DevicePlayback):
            return self._devices.close(playback, cause)
        return self._own.close(playback, cause)

    async def download(
        self, device_id: str, channel_id: str, start: float, end: float, form: Literal["mp4", "ps"], host: str
    ) -> str:
        """Of our own recordings; those of devices are jobs (services/device_download.py)."""
        return await self._own.download(device_id, channel_id, start, end, form, host)
