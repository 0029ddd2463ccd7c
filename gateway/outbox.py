"""What we send to devices: one MANSCDP body as MESSAGE over the device's flow, in its edition and charset, and queries."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gateway.answers import AnswerDesk, Question
from gateway.errors import DeviceIsOffline, DeviceSilent, NotSupported, QueryRefused
from gateway.model import Device
from gateway.origin import headers_for
from sip.errors import TransactionTimeout, TransportFailed
from sip.flow import Target
from sip.manscdp import CONTENT_TYPE, Body, Decoded, Edition, encode
from sip.message import Response

logger = logging.getLogger(__name__)

QUERY_TIMEOUT_S = 10.0


CONTRARY_BODIES = 3
"""So many bodies in a row must be in another character set than the one learned (quirk 1: names differ within a unit)."""


class Learner(Protocol):
    """The registry, as far as it keeps what devices turned out to need."""

    def learn(self, device: Device, **settings: Any) -> bool: ...

    def observe(self, device: Device, name: str, detail: str = "") -> None: ...


class Requester(Protocol):
    """The part of the SIP endpoint that sends a request outside of dialogs."""

    async def request(
        self,
        method: str,
        target: Target,
        *,
        to: str,
        body: bytes = b"",
        content_type: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> Response: ...


class Outbox:
    """Sends to devices. ``counts``: sent, refused, silent, failed."""

    def __init__(self, *, endpoint: Requester, domain: str, desk: AnswerDesk, own_id: str = "") -> None:
        self._endpoint = endpoint
        self._domain = domain
        self._own_id = own_id
        self._contrary: dict[str, int] = {}
        self.learner: Learner | None = None
        self.desk = desk
        self.on_answered: Callable[[Device, Response], None] | None = None
        """Called with each final answer: a sign of life, and perhaps an answer in its body (quirk 45)."""
        self.counts: Counter[str] = Counter()

    def learn_charset(self, device: Device, decoded: Decoded) -> None:
        """Remember that a device writes UTF-8, to answer in the same (quirk 1); any other set goes by its edition."""
        if not decoded.proven or self.learner is None:
            return
        told = "UTF-8" if decoded.charset == "UTF-8" else None
        known = device.profile.layers.learned.get("charset")
        if told == known:
            self._contrary.pop(device.device_id, None)
            return
        contrary = self._contrary.get(device.device_id, 0) + 1
        if known is None or contrary >= CONTRARY_BODIES:
            self._contrary.pop(device.device_id, None)
            self.learner.learn(device, charset=told)
        else:
            self._contrary[device.device_id] = contrary

    def encode_for(self, device: Device, body: Body) -> bytes:
        """The body in the edition of this device and the charset of its profile."""
        edition = Edition.from_header(device.edition)
        return encode(body, charset=device.profile.charset, edition=edition)

    async def send(self, device: Device, body: Body) -> Response:
        """Send and return the final answer, whatever its status.

        Raises NotSupported when the device's edition does not know the command (G049), TransportFailed when there
        is no way to the device, TransactionTimeout when it stays silent.
        """
        require_edition(device, body)
        if device.flow is None:
            raise TransportFailed(f"device {device.device_id} has no flow")
        target = device_target(device)
        try:
            response = await self._endpoint.request(
                "MESSAGE",
                target,
                to=f"sip:{device.device_id}@{self._domain}",
                body=self.encode_for(device, body),
                content_type=CONTENT_TYPE,
                headers=headers_for(device, self._own_id),
            )
        except TransactionTimeout:
            self.counts["silent"] += 1
            raise
        except TransportFailed:
            self.counts["failed"] += 1
            raise
        self.counts["sent" if response.status < 300 else "refused"] += 1
        self.desk.heard(device.device_id, f"{response.status} {response.reason} to {body.command}")
        if self.on_answered is not None:
            self.on_answered(device, response)
        return response

    async def ask(self, device: Device, body: Body) -> Question:
        """Send a query; its answers come through the Question, which the caller closes.

        Raises DeviceIsOffline, NotSupported, QueryRefused (also for a timeout, with status 408).
        """
        if not device.online:
            raise DeviceIsOffline(f"device {device.device_id} is offline")
        sn = body.sn or self.desk.next_sn(device.device_id)
        question = self.desk.ask(device.device_id, body.cmd_type, sn)
        try:
            response = await self.send(device, body.model_copy(update={"sn": sn}))
        except TransactionTimeout as error:
            question.close()
            silent = DeviceSilent(f"{device.device_id} did not answer the MESSAGE with {body.cmd_type}")
            silent.device_response = self.desk.said_last(device.device_id)
            raise silent from error
        except TransportFailed as error:
            question.close()
            raise QueryRefused(f"{body.cmd_type} to {device.device_id}: {error}", error.status) from error
        except BaseException:
            question.close()
            raise
        if response.status >= 300:
            question.close()
            text = f"{device.device_id} answered {response.status} {response.reason} to {body.cmd_type}"
            if self.learner is not None:
                self.learner.observe(device, "query_refused", f"{body.cmd_type}: {response.status}")
            refused = QueryRefused(text, response.status)
            refused.device_response = self.desk.said_last(device.device_id)
            raise refused
        question.accepted = f"{response.status} {response.reason}"
        return question

    async def query(self, device: Device, body: Body, *, timeout_s: float = QUERY_TIMEOUT_S) -> Body:
        """Send a query and wait for its (first) answer. Raises what :meth:`ask` raises, and QueryTimedOut."""
        with await self.ask(device, body) as question:
            return await question.next(timeout_s)


def require_edition(device: Device, body: Body) -> None:
    """Raises NotSupported for a command of 2022 to a 2016 device (annex I, G049)."""
    if body.needs is Edition.V2022 and Edition.from_header(device.edition) is Edition.V2016:
        raise NotSupported(
            f"not supported by this device: {body.command} needs GB/T 28181-2022, {device.device_id} speaks {device.edition}"
        )


def device_target(device: Device) -> Target:
    """Where requests to this device go: its learned flow; the Request-URI names what it is reached under."""
    flow = device.flow
    if flow is None:
        raise TransportFailed(f"device {device.device_id} has no flow")
    host = f"[{flow.host}]" if ":" in flow.host else flow.host
    return Target.of_flow(f"sip:{device.device_id}@{host}:{flow.port}", flow)
