"""Configuration of devices: ConfigDownload reads it, DeviceConfig sets it (GB/T 28181-2022 9.3.4, A.2.3.2, A.2.4.7)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from config.settings import DeviceConfigSettings
from gateway.answers import Question
from gateway.clock import Clock
from gateway.errors import DeviceIsOffline, NotSupported, QueryRefused, QueryTimedOut
from gateway.model import Device, DeviceKind
from gateway.registry import Registry
from gateway.services.errors import ControlCause, ControlFailed
from sip.manscdp import BasicParam, Body, ConfigDownloadQuery, ConfigDownloadResponse, DeviceConfig
from sip.manscdp.base import Edition, Element, foreign_fields
from sip.manscdp.config_download import ATTRIBUTES, READ_ONLY, config_types
from sip.manscdp.device_config import DeviceConfigResponse

log = logging.getLogger(__name__)

Value = Element | list[Any] | int
_UNKNOWN_THERE = frozenset({405, 415, 501})
"""SIP statuses by which a device says that it does not know a command at all."""


class Asker(Protocol):
    """The part of gateway.dispatch.Dispatch that is needed."""

    async def ask(self, device: Device, body: Body) -> Question: ...

    def said_last(self, device_id: str) -> str: ...


class Timers(Protocol):
    """The part of gateway.services.liveness.Liveness that is needed."""

    def set_heartbeat(self, device: Device, interval_s: int | None, count: int | None) -> None: ...


@dataclass(slots=True)
class Reading:
    """What a device told of its configuration. ``values`` by type; ``refused`` counts its Results ERROR."""

    device_id: str
    target_id: str
    asked: tuple[str, ...]
    values: dict[str, object] = field(default_factory=dict)
    responses: int = 0
    refused: int = 0

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in self.asked if name not in self.values)

    @property
    def complete(self) -> bool:
        """All asked types came (G132)."""
        return not self.missing

    def take(self, body: ConfigDownloadResponse) -> None:
        self.responses += 1
        found = body.values()
        self.values |= found
        if body.result != "OK" and not found:
            self.refused += 1


class DeviceConfiguration:
    """Reads and sets. Raises ControlFailed (not_found, device_offline, rejected, no_answer) and NotSupported."""

    def __init__(
        self,
        *,
        settings: DeviceConfigSettings,
        registry: Registry,
        asker: Asker,
        timers: Timers,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._registry = settings, registry
        self._asker, self._timers = asker, timers
        self._clock = clock or Clock()

    def types(self, device_id: str) -> tuple[str, ...]:
        """The types that this device's edition knows. Raises ControlFailed(not_found)."""
        return config_types(_edition(self._known(device_id)))

    def check(self, device_id: str, kind: str) -> Device:
        """The device, when this type could be set in it now. Raises ControlFailed, NotSupported."""
        device = self._reachable(device_id)
        _require_types(device, (kind,))
        return device

    async def read(self, device_id: str, target_id: str, types: Iterable[str]) -> Reading:
        """Ask for ``types`` in one query and wait until all came, or nothing more comes.

        An answer in parts that stops is not an error: see ``Reading.missing``. Without any answer: no_answer.
        """
        asked = tuple(dict.fromkeys(types))
        device = self._reachable(device_id)
        _require_types(device, asked)
        return await self.collect(device, target_id, asked)

    async def collect(self, device: Device, target_id: str, asked: tuple[str, ...]) -> Reading:
        """One ConfigDownload with all its Responses; rights and types are the caller's matter."""
        query = ConfigDownloadQuery(device_id=target_id, config_types=asked)
        reading = Reading(device.device_id, target_id, asked)
        with await self._ask(device, query) as question:
            end = self._clock.mono() + self._settings.answer_timeout_s
            while not reading.complete and reading.refused + len(reading.values) < len(asked):
                wait_s = self._settings.gap_timeout_s if reading.responses else end - self._clock.mono()
                try:
                    body = await question.next(wait_s)
                except QueryTimedOut as error:
                    if not reading.responses:
                        raise _no_answer(question, error) from error
                    break
                if isinstance(body, ConfigDownloadResponse):
                    reading.take(body)
        if not reading.values:
            raise self._rejected(device, "ConfigDownload")
        if reading.missing:
            log.info(
                "configuration incomplete device=%s target=%s missing=%s",
                *(device.device_id, target_id, ",".join(reading.missing)),
            )
        return reading

    async def write(self, device_id: str, target_id: str, kind: str, value: Value) -> None:
        """Set one type; returns when the device answered Result OK.

        Nothing is sent when its edition does not know the type or one of the elements that are set (G049).
        """
        device = self.check(device_id, kind)
        if kind in READ_ONLY:
            raise NotSupported(f"{kind} can only be read")
        body = DeviceConfig(device_id=target_id, **{ATTRIBUTES[kind]: value})
        _require_elements(device, body)
        await self.send(device, body)

    async def pass_on(self, device_id: str, body: DeviceConfig) -> None:
        """A DeviceConfig of an upper as it is, perhaps of several types, under the device's own code."""
        device = self._reachable(device_id)
        kinds = [name for name, attribute in ATTRIBUTES.items() if _given(getattr(body, attribute, None))]
        if not kinds:
            raise NotSupported("no configuration type that is known")
        _require_types(device, kinds)
        _require_elements(device, body)
        await self.send(device, body)

    async def send(self, device: Device, body: DeviceConfig) -> None:
        """One DeviceConfig and its Response; our timers follow a changed heartbeat (G180)."""
        with await self._ask(device, body) as question:
            try:
                answer = await question.next(self._settings.answer_timeout_s)
            except QueryTimedOut as error:
                raise _no_answer(question, error) from error
        if not isinstance(answer, DeviceConfigResponse) or answer.result != "OK":
            raise self._rejected(device, "DeviceConfig")
        if body.basic_param is not None:
            self._follow(device, body.device_id, body.basic_param)

    def _follow(self, device: Device, target_id: str, basic: BasicParam) -> None:
        """A channel's own heartbeat is not the one we watch; a camera answers under its channel's code too."""
        if target_id != device.device_id and device.kind in (DeviceKind.RECORDER, DeviceKind.PLATFORM):
            return
        interval, count = basic.heartbeat_interval, basic.heartbeat_count
        if interval is None and count is None:
            return
        self._timers.set_heartbeat(
            device,
            device.heartbeat_interval_s if interval is None else interval,
            device.heartbeat_count if count is None else count,
        )
        log.info(
            "heartbeat changed device=%s interval_s=%d count=%d",
            *(device.device_id, device.heartbeat_interval_s, device.heartbeat_count),
        )

    # -- the pieces ------------------------------------------------------------------------------------------

    def _known(self, device_id: str) -> Device:
        device = self._registry.devices.get(device_id)
        if device is None:
            raise ControlFailed(ControlCause.NOT_FOUND, f"device {device_id} is not known")
        return device

    def _reachable(self, device_id: str) -> Device:
        device = self._known(device_id)
        if device.local:
            raise ControlFailed(ControlCause.NOT_SUPPORTED, "inputs have no configuration of GB/T 28181")
        if not device.online:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, f"device {device_id} is offline")
        return device

    async def _ask(self, device: Device, body: Body) -> Question:
        try:
            return await self._asker.ask(device, body)
        except QueryRefused as error:
            said = self._asker.said_last(device.device_id)
            cause, status = ControlCause.REJECTED, error.sip_status
            if status == 408:
                cause, status = ControlCause.NO_ANSWER, 0
            elif status in _UNKNOWN_THERE:
                cause = ControlCause.NOT_SUPPORTED
            raise ControlFailed(cause, str(error), device_status=status, device_response=said) from error
        except DeviceIsOffline as error:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, str(error)) from error

    def _rejected(self, device: Device, command: str) -> ControlFailed:
        return ControlFailed(
            ControlCause.REJECTED,
            f"the device answered Result ERROR to {command}",
            device_response=self._asker.said_last(device.device_id),
        )


def _edition(device: Device) -> Edition:
    return Edition.from_header(device.edition)


def _given(value: object) -> bool:
    return value is not None and value != []


def _require_types(device: Device, asked: Iterable[str]) -> None:
    known = config_types(_edition(device))
    for name in asked:
        if name not in known:
            raise NotSupported(
                f"{name} is not supported by this device: {device.device_id} speaks GB/T 28181 {device.edition}"
            )


def _require_elements(device: Device, body: DeviceConfig) -> None:
    foreign = foreign_fields(body, _edition(device))
    if foreign:
        raise NotSupported(
            f"{', '.join(foreign)}: not supported by this device, which speaks GB/T 28181 {device.edition}"
        )


def _no_answer(question: Question, error: QueryTimedOut) -> ControlFailed:
    text = f"{error}; it had answered the MESSAGE with {question.accepted or 'nothing'}"
    return ControlFailed(ControlCause.NO_ANSWER, text, device_response=error.device_response)


def told(kind: str, value: Value) -> str:
    """The audit log's words: which type, and what was set, without upload addresses (they hold tickets)."""
    if not isinstance(value, Element):
        return f"{kind} {value}"[:500] if isinstance(value, int) else f"{kind} of {len(value)} streams"
    values = value.model_dump(exclude_none=True, exclude={"extras", "upload_url", "session_id"})
    return f"{kind} {values}"[:500]
