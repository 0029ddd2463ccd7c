"""Commands to cameras: pan, tilt, zoom, lens, presets, and the request for a key frame (GB/T 28181-2022 9.3, A.2.3.1).

A camera told to move goes on until it is told to stop. So a movement must be renewed while a user holds the
button; when renewals stay away, or the user's client is gone, the stop is sent from here (G168).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.clock import Clock
from gateway.model import Device
from gateway.registry import Registry
from gateway.services.errors import ControlCause, ControlFailed
from sip.errors import RemoteError, TransactionTimeout, TransportFailed
from sip.manscdp import Body
from sip.manscdp.device_control import DeviceControl
from sip.message import Response
from sip.ptz import LENS_STOP, STOP, Lens, Move, PtzCommand, encode, is_stop

log = logging.getLogger(__name__)

HOLD_S = 5.0
"""A movement that is not renewed within this time is stopped."""
KEY_FRAME_INTERVAL_S = 2.0
WATCHDOG = "watchdog"
MAX_REMEMBERED = 10_000

Audit = Callable[[str, str, str, str, str], None]
"""who, action, target (device/channel), result (ok or a cause), detail (the command's digits)."""
ChannelKey = tuple[str, str]


class CommandSender(Protocol):
    """Sends one MANSCDP body to a device as MESSAGE and returns its final answer (dispatch)."""

    async def send(self, device: Device, body: Body) -> Response: ...

    def next_sn(self, peer_id: str) -> int: ...


class LocalControl(Protocol):
    """Moves the cameras of our own inputs (gateway.services.inputs_control)."""

    def check(self, device_id: str, channel_id: str) -> None:
        """Raises ControlFailed(not_supported) for an input that cannot be moved."""

    async def ptz(
        self, device_id: str, channel_id: str, command: PtzCommand, *, preset_name: str = ""
    ) -> None:
        """Raises ControlFailed."""

    async def key_frame(self, device_id: str, channel_id: str) -> bool: ...


@dataclass(slots=True)
class _Motion:
    """A movement in progress: who holds it, and the timer that stops it."""

    who: str
    priority: int
    command: PtzCommand
    timer: asyncio.TimerHandle


class Control:
    """Sends commands, watches over movements, and tells the audit log about each command (G176)."""

    def __init__(
        self,
        *,
        registry: Registry,
        sender: CommandSender,
        clock: Clock | None = None,
        audit: Audit | None = None,
        hold_s: float = HOLD_S,
        key_frame_interval_s: float = KEY_FRAME_INTERVAL_S,
    ) -> None:
        self._registry = registry
        self._sender = sender
        self._clock = clock or Clock()
        self.audit = audit
        self.local: LocalControl | None = None
        """Set by gateway/assembly: who moves the cameras that are no devices."""
        self.said_last: Callable[[str], str] = lambda device_id: ""
        """Set by gateway/assembly: a device's last SIP answer and Result."""
        self._hold_s = hold_s
        self._key_frame_interval_s = key_frame_interval_s
        self._motions: dict[tuple[ChannelKey, type], _Motion] = {}
        self._generation: dict[ChannelKey, int] = {}
        self._key_frames: dict[ChannelKey, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.watchdog_stops = 0

    async def close(self) -> None:
        """Stop what still moves, then end the background work."""
        for (key, _), motion in list(self._motions.items()):
            self._stop_later(key, motion)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ptz(
        self,
        device_id: str,
        channel_id: str,
        command: PtzCommand,
        who: str,
        *,
        priority: int = 0,
        preset_name: str = "",
        cruise_track_name: str = "",
        hold_s: float | None = None,
    ) -> None:
        """Send one PTZ command; returns with the device's 200, no Response is awaited (G157).

        A Move or Lens that moves must be repeated within ``hold_s`` (default: the service's) or it is stopped. While
        a user of higher ``priority`` (0-255) moves the camera others are refused, except for stopping. Raises
        ControlFailed; LocalError for numbers out of range.
        """
        digits = encode(command)
        key = (device_id, channel_id)
        stops = is_stop(command)
        try:
            device = self._reachable(device_id, channel_id)
            self._may_be_moved(device, channel_id)
            self._may_move(key, who, priority, stops=stops)
            generation = self._generation[key] = self._generation.pop(key, 0) + 1
            self._trim()
            if stops:
                self._release(key, command)
            elif isinstance(command, Move | Lens):
                self._hold(key, command, who, priority, self._hold_s if hold_s is None else hold_s)
            names = {"preset_name": preset_name, "cruise_track_name": cruise_track_name}
            await self._command(device, channel_id, command, priority=priority, **names)
        except ControlFailed as failure:
            self._note(who, "ptz", key, failure.cause.value, digits)
            raise
        self._note(who, "ptz", key, "ok", digits)
        if isinstance(command, Move | Lens) and not stops and self._overtaken(key, generation, command):
            # a repeated start may have reached the camera after the stop: the last word must be the stop
            await self._send_stop(key, command, who)

    def client_gone(self, who: str) -> None:
        """The client of ``who`` vanished: everything it moves is stopped (G168)."""
        for (key, _), motion in list(self._motions.items()):
            if motion.who == who:
                self._stop_later(key, motion)

    def moving(self, device_id: str, channel_id: str) -> str:
        """Who moves this channel now, "" when nobody does."""
        return next((m.who for (key, _), m in self._motions.items() if key == (device_id, channel_id)), "")

    async def key_frame(self, device_id: str, channel_id: str, who: str = "") -> bool:
        """Ask for a key frame: ``IFameCmd`` to 2016 peers, ``IFrameCmd`` to 2022 peers (G170).

        At most one per channel in the interval; False when this one was left out or the device did not take it.
        """
        key, now = (device_id, channel_id), self._clock.mono()
        last = self._key_frames.get(key)
        if last is not None and now - last < self._key_frame_interval_s:
            return False
        self._key_frames.pop(key, None)
        self._key_frames[key] = now
        self._trim()
        try:
            device = self._reachable(device_id, channel_id)
            if device.local:
                return self.local is not None and await self.local.key_frame(device_id, channel_id)
            await self._send(
                device,
                DeviceControl(sn=self._sender.next_sn(device_id), device_id=channel_id, iframe=True),
            )
        except ControlFailed as failure:
            log.info("key frame not requested channel_id=%s cause=%s", channel_id, failure.cause.value)
            return False
        if who:
            self._note(who, "key_frame", key, "ok", "")
        return True

    # -- one command -----------------------------------------------------------------------------------------

    def _reachable(self, device_id: str, channel_id: str) -> Device:
        device = self._registry.devices.get(device_id)
        if device is None or (
            channel_id != device_id and self._registry.channel(device_id, channel_id) is None
        ):
            raise ControlFailed(ControlCause.NOT_FOUND, f"channel {channel_id} of {device_id} is not known")
        if not device.online:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, f"device {device_id} is offline")
        return device

    def _may_be_moved(self, device: Device, channel_id: str) -> None:
        if not device.local:
            return
        if self.local is None:
            raise ControlFailed(ControlCause.NOT_SUPPORTED, "this input cannot be moved")
        self.local.check(device.device_id, channel_id)

    async def _command(
        self,
        device: Device,
        channel_id: str,
        command: PtzCommand,
        *,
        priority: int = 0,
        preset_name: str = "",
        cruise_track_name: str = "",
    ) -> None:
        """One PTZ command, the way the device or input takes it. Raises ControlFailed."""
        if device.local and self.local is not None:
            await self.local.ptz(device.device_id, channel_id, command, preset_name=preset_name)
            return
        await self._send(
            device,
            DeviceControl(
                sn=self._sender.next_sn(device.device_id),
                device_id=channel_id,
                ptz_cmd=encode(command),
                preset_name=preset_name,
                cruise_track_name=cruise_track_name,
                control_priority=priority or None,
            ),
        )

    async def _send(self, device: Device, body: DeviceControl) -> None:
        try:
            response = await self._sender.send(device, body)
        except TransactionTimeout as error:
            raise ControlFailed(
                ControlCause.NO_ANSWER,
                "the device did not answer",
                device_status=408,
                device_response=self.said_last(device.device_id),
            ) from error
        except TransportFailed as error:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, f"could not be sent: {error}") from error
        except RemoteError as error:
            raise ControlFailed(ControlCause.REJECTED, str(error), device_status=error.status) from error
        if response.status >= 300:
            text = f"the device answered {response.status} {response.reason}"
            raise ControlFailed(
                ControlCause.REJECTED,
                text,
                device_status=response.status,
                device_response=f"{response.status} {response.reason} to {body.command}",
            )

    def _note(self, who: str, action: str, key: ChannelKey, result: str, detail: str) -> None:
        if self.audit is not None:
            self.audit(who, action, f"{key[0]}/{key[1]}", result, detail)

    def _trim(self) -> None:
        """Keep the notes bounded; the oldest ones go, they matter only for seconds."""
        for notes in (self._generation, self._key_frames):
            while len(notes) > MAX_REMEMBERED:
                del notes[next(iter(notes))]

    # -- movements -------------------------------------------------------------------------------------------

    def _may_move(self, key: ChannelKey, who: str, priority: int, *, stops: bool) -> None:
        if stops:
            return
        for (held, _), motion in self._motions.items():
            if held == key and motion.who != who and motion.priority > priority:
                raise ControlFailed(ControlCause.TAKEN, f"{motion.who} moves this camera")

    def _hold(self, key: ChannelKey, command: PtzCommand, who: str, priority: int, hold_s: float) -> None:
        """Start or renew the watch over a movement."""
        self._release(key, command)
        slot = (key, type(command))
        timer = asyncio.get_running_loop().call_later(hold_s, self._expired, slot)
        self._motions[slot] = _Motion(who, priority, command, timer)

    def _release(self, key: ChannelKey, command: PtzCommand) -> None:
        motion = self._motions.pop((key, type(command)), None)
        if motion is not None:
            motion.timer.cancel()

    def _expired(self, slot: tuple[ChannelKey, type]) -> None:
        motion = self._motions.get(slot)
        if motion is not None:
            self.watchdog_stops += 1
            log.info("movement stopped by watchdog channel_id=%s who=%s", slot[0][1], motion.who)
            self._stop_later(slot[0], motion)

    def _stop_later(self, key: ChannelKey, motion: _Motion) -> None:
        self._release(key, motion.command)
        self._generation[key] = self._generation.pop(key, 0) + 1
        self._spawn(self._send_stop(key, motion.command, WATCHDOG))

    def _overtaken(self, key: ChannelKey, generation: int, command: PtzCommand) -> bool:
        """True when a newer command came while this movement waited for its 200, and nothing moves now."""
        return self._generation.get(key) != generation and (key, type(command)) not in self._motions

    async def _send_stop(self, key: ChannelKey, command: PtzCommand, who: str) -> None:
        stop = LENS_STOP if isinstance(command, Lens) else STOP
        digits = encode(stop)
        try:
            await self._command(self._reachable(*key), key[1], stop)
        except ControlFailed as failure:
            self._note(who, "ptz", key, failure.cause.value, digits)
        else:
            self._note(who, "ptz", key, "ok", digits)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
