"""A device that answers as its script says, and tells the script what happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from simulator.camera import Camera
from simulator.device import Channel, DeviceOptions
from simulator.faults import Faults
from simulator.register import RegisterSettings
from simulator.script import AnswerSpec, ChannelSpec, Script, ScriptError
from sip.endpoint import Incoming, IncomingInvite, Reply
from sip.ids import TypeKind, kind_of
from sip.manscdp import REGISTRY, Body, CatalogItem, Edition

log = logging.getLogger(__name__)

WATCH_S = 0.05


class ScriptedDevice(Camera):
    """``told`` is called with the names of each event: method, CmdType and both together for a request."""

    def __init__(
        self, script: Script, *, device_id: str, told: Callable[[tuple[str, ...], str], None], **values: Any
    ) -> None:
        super().__init__(device_id, **values)
        self._answers = {name.lower(): answer for name, answer in script.answers.items()}
        self._used: Counter[str] = Counter()
        self._told = told
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await super().start()
        self._watch = asyncio.create_task(self._watching(), name=f"watch-{self.device_id}")

    async def stop(self, *, unregister: bool = True) -> None:
        await self._end_watch()
        await super().stop(unregister=unregister)

    async def vanish(self) -> None:
        await self._end_watch()
        await super().vanish()

    async def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _watching(self) -> None:
        """What is no request is seen by looking: registration, refusals, calls that begin and end."""
        registered, failures = False, 0
        calls: dict[int, str] = {}
        while True:
            now = self.registration.registered.is_set()
            if now and not registered:
                self._told(("registered",), f"registered for {self.registration.granted_s} s")
            registered = now
            if self.registration.failures > failures:
                failures = self.registration.failures
                response = self.registration.last_response
                self._told(("refused",), f"{response.status} {response.reason}" if response else "no answer")
            running = {id(call): call.channel_id for call in self.calls.running}
            for key in running.keys() - calls.keys():
                self._told(("call",), running[key])
            for key in calls.keys() - running.keys():
                self._told(("call_ended",), calls[key])
            calls = running
            await asyncio.sleep(WATCH_S)

    # -- what comes in ------------------------------------------------------------------------------------

    async def _handle(self, incoming: Incoming) -> Reply | None:
        body = self._decoded(incoming)
        names = event_names(incoming, body)
        self._told(names, body.device_id if body is not None else "")
        spec = self._spec(names)
        if spec is None:
            return await super()._handle(incoming)
        if spec.silence:
            await asyncio.Event().wait()
        if spec.delay_s:
            await asyncio.sleep(spec.delay_s)
        if spec.status is not None and spec.status >= 300:
            return Reply(spec.status)
        if body is None or incoming.request.method != "MESSAGE" or isinstance(incoming, IncomingInvite):
            return await super()._handle(incoming)
        if not spec.unanswered:
            self.endpoint.spawn(self._send_parts(self._bodies(spec, body)))
        return Reply(spec.status or 200)

    def _spec(self, names: tuple[str, ...]) -> AnswerSpec | None:
        """The most exact answer that is still to be given."""
        for name in reversed(names):
            spec = self._answers.get(name.lower())
            if spec is not None and (spec.times is None or self._used[name] < spec.times):
                self._used[name] += 1
                return spec
        return None

    def _bodies(self, spec: AnswerSpec, question: Body) -> list[bytes]:
        if spec.xml is not None:
            texts = [spec.xml] if isinstance(spec.xml, str) else spec.xml
            return [self.encoded_text(filled(text, question)) for text in texts]
        answers = self.answers.answers_to(question)
        if not answers and (model := REGISTRY.get(("response", question.cmd_type.lower()))) is not None:
            answers = [model.model_validate({"sn": question.sn, "device_id": question.device_id})]
        changes = {**({"result": "ERROR"} if spec.error else {}), **spec.fields}
        return [self.encoded(changed(answer, changes)) for answer in answers]

    def encoded_text(self, text: str) -> bytes:
        """Raw XML in the device's character set."""
        charset = self.options.charset or ("GB2312" if self.options.edition is Edition.V2016 else "GB18030")
        return text.encode(charset.lower(), "replace")


def changed(body: Body, changes: dict[str, Any]) -> Body:
    """The body with other fields. Raises ScriptError for what the model does not know."""
    if not changes:
        return body
    known = {name: value for name, value in changes.items() if name in type(body).model_fields}
    unknown = sorted(set(changes) - set(known) - {"result"})
    if unknown:
        raise ScriptError(f"{body.root} {body.cmd_type} has no {', '.join(unknown)}")
    try:
        return type(body).model_validate({**dict(body), **known})
    except ValidationError as error:
        raise ScriptError(f"{body.root} {body.cmd_type}: {error}") from None


def filled(text: str, question: Body) -> str:
    """Raw XML with what only the question knows."""
    return (
        text.replace("{sn}", str(question.sn))
        .replace("{device_id}", question.device_id)
        .replace("{channel_id}", question.device_id)
    )


def event_names(incoming: Incoming, body: Body | None) -> tuple[str, ...]:
    """``MESSAGE``, ``Catalog`` and ``MESSAGE:Catalog``: the most exact last."""
    method = incoming.request.method
    return (method,) if body is None else (method, body.cmd_type, f"{method}:{body.cmd_type}")


def channel_of(spec: ChannelSpec) -> Channel:
    extra = dict(spec.item)
    if kind_of(spec.channel_id) in (
        TypeKind.DIVISION,
        TypeKind.BUSINESS_GROUP,
        TypeKind.VIRTUAL_ORGANISATION,
    ):
        extra.setdefault("directory", True)
    CatalogItem(**{name: value for name, value in extra.items() if name != "directory"})
    return Channel(spec.channel_id, spec.name or spec.channel_id, spec.status, tuple(spec.parents), extra)


def options_of(script: Script, edition: str, transport: str, codec: str, host: str = "") -> DeviceOptions:
    """The script's device, with what the command line says where the script says nothing."""
    device = script.device
    options = DeviceOptions()
    return replace(
        options,
        transport="tcp" if (device.transport or transport) == "tcp" else "udp",
        media=device.media,
        edition=Edition.V2022 if (device.edition or edition) == "2022" else Edition.V2016,
        charset=device.charset,
        host=host or "0.0.0.0",
        manufacturer=device.manufacturer,
        model=device.model,
        firmware=device.firmware,
        user_agent=device.user_agent,
        page_size=device.page_size,
        max_calls=device.max_calls,
        pictures=replace(options.pictures, codec=device.codec or codec),
        register=RegisterSettings(expires_s=device.expires_s, heartbeat_s=device.heartbeat_s),
    )


def faults_of(script: Script) -> Faults:
    return Faults(**script.device.faults)
