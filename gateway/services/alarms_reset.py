"""AlarmCmd ResetAlarm: a device that raised a method-2 alarm stays silent until it is told (2022 A.2.3.1.6, A.2.5.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.errors import GatewayError, QueryRefused
from gateway.model import Device
from gateway.registry import Registry
from gateway.services.errors import ControlCause, ControlFailed
from sip.manscdp import Body, DeviceControl, DeviceControlResponse

log = logging.getLogger(__name__)

RESET_TIMEOUT_S = 10.0
Audit = Callable[[str, str, str, str, str], None]
"""who, action, target, result, detail."""


class Asker(Protocol):
    """The part of gateway.dispatch.Dispatch that is needed."""

    async def query(self, device: Device, body: Body, *, timeout_s: float = RESET_TIMEOUT_S) -> Body: ...

    def next_sn(self, peer_id: str) -> int: ...


class AlarmReset:
    """Sends resets and waits for the device's Result (G144, G158)."""

    def __init__(self, *, registry: Registry, asker: Asker, audit: Audit | None = None) -> None:
        self._registry, self._asker = registry, asker
        self.audit = audit

    async def reset(
        self,
        device_id: str,
        target_id: str,
        *,
        methods: Sequence[int] = (),
        types: Sequence[int] = (),
        who: str,
    ) -> None:
        """``methods`` 0 (all) to 7 and ``types`` of what is to be reset, sent as lists like ``1/2`` (G146).

        ``target_id``: the device itself, an alarm input or a camera. Raises ControlFailed: not_found,
        device_offline, rejected (the device said ERROR or refused), no_answer.
        """
        detail = f"methods {'/'.join(map(str, methods))} types {'/'.join(map(str, types))}"
        try:
            await self._ask(device_id, target_id, methods, types)
        except ControlFailed as failure:
            self._note(who, device_id, target_id, failure.cause.value, detail)
            raise
        self._note(who, device_id, target_id, "ok", detail)

    async def _ask(
        self, device_id: str, target_id: str, methods: Sequence[int], types: Sequence[int]
    ) -> None:
        device = self._registry.devices.get(device_id)
        if device is None:
            raise ControlFailed(ControlCause.NOT_FOUND, f"device {device_id} is not known")
        if not device.online:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, f"device {device_id} is offline")
        if device.local:
            raise ControlFailed(ControlCause.NOT_SUPPORTED, "inputs raise no alarms")
        command = DeviceControl(
            sn=self._asker.next_sn(device_id),
            device_id=target_id,
            alarm_cmd="ResetAlarm",
            alarm_method=tuple(map(str, methods)),
            alarm_type=tuple(map(str, types)),
        )
        try:
            answer = await self._asker.query(device, command, timeout_s=RESET_TIMEOUT_S)
        except QueryRefused as error:
            cause = ControlCause.NO_ANSWER if error.sip_status == 408 else ControlCause.REJECTED
            raise ControlFailed(
                cause, str(error), device_status=error.sip_status, device_response=error.device_response
            ) from error
        except GatewayError as error:
            raise ControlFailed(
                ControlCause.NO_ANSWER, str(error), device_response=error.device_response
            ) from error
        if not isinstance(answer, DeviceControlResponse) or answer.result != "OK":
            raise ControlFailed(ControlCause.REJECTED, "the device answered Result ERROR to ResetAlarm")

    def _note(self, who: str, device_id: str, target_id: str, result: str, detail: str) -> None:
        if self.audit is not None:
            self.audit(who, "alarm.reset", f"{device_id}/{target_id}", result, detail)
