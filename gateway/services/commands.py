"""Questions and commands to devices besides moving the camera: asked, waited for, collected, audited (2022 9.3, 9.5).

One way for all of them: what may be sent is checked first, a command that has a Response is done when the device said
OK, and every failure is a :class:`ControlFailed` that tells what the device said last.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from config.settings import ControlSettings
from gateway.answers import Question
from gateway.errors import DeviceIsOffline, GatewayError, NotSupported, QueryRefused, QueryTimedOut
from gateway.model import Device
from gateway.registry import Registry
from gateway.services.errors import ControlCause, ControlFailed
from sip.manscdp import Body, DeviceControl, DeviceControlResponse
from sip.message import Response

log = logging.getLogger(__name__)

Audit = Callable[[str, str, str, str, str], None]
"""who, action, target (device/channel), result (ok or a cause), detail."""
REPEATS = 2
"""A list that came with holes is asked for again so often: some devices send another part of it each time."""
_UNKNOWN_THERE = frozenset({405, 415, 501})
"""SIP statuses by which a device says that it does not know a command at all."""

B = TypeVar("B", bound=Body)


class Asker(Protocol):
    """The part of gateway.dispatch.Dispatch that is needed."""

    async def send(self, device: Device, body: Body) -> Response: ...

    async def ask(self, device: Device, body: Body) -> Question: ...

    def next_sn(self, peer_id: str) -> int: ...

    def said_last(self, device_id: str) -> str: ...


@dataclass(slots=True)
class Collected(Generic[B]):
    """The parts of one answer. ``items`` are its distinct elements; ``sum_num`` is what the device announced."""

    first: B
    items: list[Any]
    sum_num: int | None
    parts: int

    @property
    def complete(self) -> bool:
        return self.sum_num is None or len(self.items) >= self.sum_num


class DeviceCommands:
    """Asks and commands devices and their channels. Raises ControlFailed and NotSupported (G049)."""

    def __init__(
        self, *, settings: ControlSettings, registry: Registry, asker: Asker, audit: Audit | None = None
    ) -> None:
        self._settings, self._registry, self._asker = settings, registry, asker
        self.audit = audit
        """Set by gateway/assembly when the audit log is there."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """By command and how it ended (ok or a cause), for metrics."""

    # -- commands --------------------------------------------------------------------------------------------

    async def order(
        self, device_id: str, target_id: str, body: DeviceControl, *, who: str, action: str, detail: str = ""
    ) -> str:
        """Send one control; returns what the device said: ``200 OK``, or ``Result OK`` where a Response is due.

        ``target_id`` is the device itself or one of its channels. ``action`` is the audit log's word.
        """
        result = "abandoned"
        try:
            with self._counted(body.command):
                said = await self._carry(self.reachable(device_id, target_id), target_id, body)
            result = "ok"
            return said
        except GatewayError as failure:
            result = _cause(failure)
            raise
        finally:
            self._note(who, action, f"{device_id}/{target_id}", result, detail)

    async def _carry(self, device: Device, target_id: str, body: DeviceControl) -> str:
        body = body.model_copy(update={"device_id": target_id, "sn": self._asker.next_sn(device.device_id)})
        with await self._ask(device, body) as question:
            if not body.wants_response:
                return question.accepted
            answer = await self._next(question, self._settings.answer_timeout_s)
        if not isinstance(answer, DeviceControlResponse) or answer.result != "OK":
            raise ControlFailed(
                ControlCause.REJECTED,
                f"the device answered Result ERROR to {body.command}",
                device_response=self._asker.said_last(device.device_id),
            )
        return "Result OK"

    # -- questions -------------------------------------------------------------------------------------------

    async def query(self, device_id: str, target_id: str, query: Body, answer: type[B]) -> B:
        """Ask for an answer of one part. A Result other than OK is a refusal."""
        with self._counted(query.command):
            device = self.reachable(device_id, target_id)
            with await self._ask(device, query.model_copy(update={"device_id": target_id})) as question:
                body = await self._next(question, self._settings.answer_timeout_s)
            return self._expected(device, body, answer)

    async def collect(
        self,
        device_id: str,
        target_id: str,
        query: Body,
        answer: type[B],
        *,
        items: str,
        key: Callable[[Any], Hashable] | None = None,
    ) -> Collected[B]:
        """Ask for an answer that may come in parts under one SN; ``items`` is the answer's list, ``key`` tells them apart.

        Complete when SumNum elements are there; without a SumNum, or with elements missing, when nothing more comes.
        A list with holes is asked for again and the parts are laid together.
        """
        device = self.reachable(device_id, target_id)
        query = query.model_copy(update={"device_id": target_id})
        found: dict[Hashable, Any] = {}
        with self._counted(query.command):
            collected = await self._collect(device, query, answer, items, key, found)
        for _ in range(REPEATS):
            before = len(found)
            if collected.complete:
                break
            try:
                again = await self._collect(device, query, answer, items, key, found)
            except ControlFailed:
                break
            collected = Collected(collected.first, again.items, again.sum_num, collected.parts + again.parts)
            if len(found) == before:
                break
        return collected

    async def _collect(
        self,
        device: Device,
        query: Body,
        answer: type[B],
        items: str,
        key: Callable[[Any], Hashable] | None,
        found: dict[Hashable, Any],
    ) -> Collected[B]:
        first: B | None = None
        sum_num: int | None = None
        seen: set[Hashable] = set()
        parts = 0
        with await self._ask(device, query) as question:
            while first is None or sum_num is None or len(seen) < sum_num:
                wait_s = self._settings.answer_timeout_s if first is None else self._settings.gap_timeout_s
                try:
                    body = await self._next(question, wait_s)
                except ControlFailed:
                    if first is None:
                        raise
                    break
                part = self._expected(device, body, answer)
                first, parts = first or part, parts + 1
                for item in getattr(part, items):
                    name = key(item) if key is not None else len(seen)
                    found.setdefault(name, item)
                    seen.add(name)
                sum_num = getattr(part, "sum_num", None)
        return Collected(first, list(found.values()), sum_num, parts)

    # -- pieces ----------------------------------------------------------------------------------------------

    def reachable(self, device_id: str, target_id: str) -> Device:
        """The device, when it is online and knows the target. Raises ControlFailed."""
        device = self._registry.devices.get(device_id)
        if device is None or (
            target_id != device_id and self._registry.channel(device_id, target_id) is None
        ):
            raise ControlFailed(ControlCause.NOT_FOUND, f"channel {target_id} of {device_id} is not known")
        if device.local:
            raise ControlFailed(ControlCause.NOT_SUPPORTED, "our own inputs know no commands of GB/T 28181")
        if not device.online:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, f"device {device_id} is offline")
        return device

    async def _ask(self, device: Device, body: Body) -> Question:
        try:
            return await self._asker.ask(device, body)
        except NotSupported:
            raise
        except QueryRefused as error:
            raise self._refused(device, body, error) from error
        except DeviceIsOffline as error:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, str(error)) from error

    def _refused(self, device: Device, body: Body, error: QueryRefused) -> ControlFailed:
        said = self._asker.said_last(device.device_id)
        if error.sip_status == 408:
            return ControlFailed(ControlCause.NO_ANSWER, str(error), device_response=said)
        cause = ControlCause.REJECTED
        text = str(error)
        if error.sip_status in _UNKNOWN_THERE:
            cause, text = ControlCause.NOT_SUPPORTED, f"not supported by this device: {text}"
        log.info("refused device=%s command=%s status=%d", device.device_id, body.command, error.sip_status)
        return ControlFailed(cause, text, device_status=error.sip_status, device_response=said)

    async def _next(self, question: Question, timeout_s: float) -> Body:
        try:
            return await question.next(timeout_s)
        except QueryTimedOut as error:
            text = f"{error}; it had answered the MESSAGE with {question.accepted or 'nothing'}"
            raise ControlFailed(
                ControlCause.NO_ANSWER, text, device_response=error.device_response
            ) from error

    def _expected(self, device: Device, body: Body, answer: type[B]) -> B:
        if not isinstance(body, answer) or getattr(body, "result", "OK") != "OK":
            raise ControlFailed(
                ControlCause.REJECTED,
                f"the device answered Result ERROR to {body.cmd_type}",
                device_response=self._asker.said_last(device.device_id),
            )
        return body

    @contextmanager
    def _counted(self, command: str) -> Iterator[None]:
        result = "abandoned"
        try:
            yield
            result = "ok"
        except GatewayError as failure:
            result = _cause(failure)
            raise
        finally:
            self.counts[command, result] += 1

    def _note(self, who: str, action: str, target: str, result: str, detail: str) -> None:
        if self.audit is not None:
            self.audit(who, action, target, result, detail)


def _cause(failure: GatewayError) -> str:
    return str(getattr(failure.cause, "value", failure.cause))
