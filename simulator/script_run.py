"""Plays a script: steps in their order, reactions beside them, a log of all that happens, and a verdict."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from simulator.device import Channel
from simulator.script import ExpectSpec, NotifySpec, Script, ScriptError, Step
from simulator.script_device import ScriptedDevice, changed, channel_of, faults_of, options_of
from sip.ids import make_code, parse_code
from sip.manscdp import REGISTRY, Body

log = logging.getLogger(__name__)

MAX_EVENTS = 100_000
MAX_REACTIONS = 100
"""Reactions under way at one time; what comes on top is left out and told."""
FAILED = 1


class ScriptRun:
    """One device on its way through its script. ``say`` gets one line for each thing that happens."""

    def __init__(
        self,
        script: Script,
        *,
        server: tuple[str, int],
        server_id: str,
        domain: str = "",
        password: str | None = None,
        device_id: str = "",
        edition: str = "2022",
        transport: str = "udp",
        codec: str = "h264",
        name: str = "",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.script = script
        self.device_id = script.device.device_id or device_id
        self._say = say
        self._server, self._server_id = server, server_id
        self._common: dict[str, Any] = {
            "server": server,
            "server_id": server_id,
            "domain": domain,
            "password": script.device.password or password,
            "name": script.device.name or name,
        }
        self._look = (edition, transport, codec)
        self._faults = faults_of(script)
        self._channels = self._own_channels()
        self._events: list[tuple[str, ...]] = []
        self._since = 0
        """Number of the first event that happened since the last step began that was no ``expect``."""
        self._happened = asyncio.Event()
        self._reactions: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[int] | None = None
        self._started_mono = time.monotonic()
        self.failures: list[str] = []
        self.device = self._new_device()

    def _own_channels(self) -> list[Channel]:
        found = [channel_of(spec) for spec in self.script.device.channels]
        if any(channel.has_pictures for channel in found):
            return found
        code = parse_code(self.device_id)
        if code is None:
            raise ScriptError(f"{self.device_id} is no code of 20 digits, and no channel has pictures")
        own = make_code(code.area, 131, code.serial, unit=code.unit)
        return [Channel(own, self.script.device.name or f"camera {own[-4:]}"), *found]

    def _new_device(self, host: str = "") -> ScriptedDevice:
        return ScriptedDevice(
            self.script,
            device_id=self.device_id,
            told=self._told,
            channels=self._channels,
            options=options_of(self.script, *self._look, host=host),
            faults=self._faults,
            **self._common,
        )

    # -- the whole ----------------------------------------------------------------------------------------

    async def play(self, stop: asyncio.Event) -> int:
        """Until the script ends, fails, or ``stop`` is set. Returns the exit code."""
        self._over = asyncio.get_running_loop().create_future()
        self._started_mono = time.monotonic()
        await self.device.start()
        steps = asyncio.create_task(self._steps(), name="script")
        stopped: asyncio.Future[Any] = asyncio.create_task(stop.wait(), name="script-stop")
        ends: set[asyncio.Future[Any]] = {self._over, stopped}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            code = self._over.result() if self._over.done() else FAILED if self.failures else 0
            self.tell(f"end {code}" + (f": {'; '.join(self.failures)}" if self.failures else ""))
            return code
        finally:
            for task in (steps, stopped, *self._reactions):
                task.cancel()
            await asyncio.gather(steps, stopped, *self._reactions, return_exceptions=True)
            await self.device.stop()

    def tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._started_mono:9.3f} {text}")

    def _end(self, code: int) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(code)

    async def _steps(self) -> None:
        try:
            for number, step in enumerate(self.script.steps, 1):
                if step.on is None:
                    await self._step(number, step)
        except ScriptError as error:
            self.failures.append(str(error))
            self._end(FAILED)

    async def _step(self, number: int, step: Step) -> None:
        if step.at_s is not None:
            await asyncio.sleep(max(0.0, self._started_mono + step.at_s - time.monotonic()))
        if step.after is not None:
            await self._next(step.after, self._since, None)
        if step.expect is None:
            self._since = len(self._events)  # what comes while the step is carried out counts for the next
        await self._carry_out(number, step)

    async def _carry_out(self, number: int, step: Step) -> None:
        for _ in range(step.times):
            await asyncio.sleep(step.wait_s)
            action = step.actions[0]
            self.tell(f"step {number} {action}")
            await getattr(self, f"_do_{action}")(step.value(action))

    # -- events -------------------------------------------------------------------------------------------

    def _told(self, names: tuple[str, ...], detail: str) -> None:
        self.tell(f"<- {names[-1]} {detail}".rstrip())
        if len(self._events) < MAX_EVENTS:
            self._events.append(tuple(name.lower() for name in names))
        self._happened.set()
        for number, step in enumerate(self.script.steps, 1):
            if step.on is not None and step.on.lower() in self._names(names):
                self._react(number, step)

    def _names(self, names: Sequence[str]) -> set[str]:
        return {name.lower() for name in names}

    def _react(self, number: int, step: Step) -> None:
        if len(self._reactions) >= MAX_REACTIONS:
            self.tell(f"step {number} left out: too many reactions under way")
            return

        async def work() -> None:
            try:
                await self._carry_out(number, step)
            except ScriptError as error:
                self.failures.append(str(error))
                self._end(FAILED)

        task = asyncio.create_task(work(), name=f"reaction-{number}")
        self._reactions.add(task)
        task.add_done_callback(self._reactions.discard)

    async def _next(self, event: str, first: int, within_s: float | None, count: int = 1) -> bool:
        """Wait for so many events of this name behind number ``first``; False when the time is over."""
        wanted = event.lower()

        async def seen() -> None:
            while sum(wanted in names for names in self._events[first:]) < count:
                self._happened.clear()
                await self._happened.wait()

        try:
            async with asyncio.timeout(within_s):
                await seen()
            return True
        except TimeoutError:
            return False

    # -- actions ------------------------------------------------------------------------------------------

    def _channel(self, channel_id: str) -> str:
        return channel_id or self.device.channel_id

    async def _do_alarm(self, spec: Any) -> None:
        for number in range(spec.count):
            if number:
                await asyncio.sleep(spec.every_s)
            response = await self.device.notices.alarm(
                self._channel(spec.channel_id),
                method=spec.method,
                alarm_type=spec.type,
                event_type=spec.event_type,
                priority=spec.priority,
                description=spec.description,
                via=spec.via,
            )
            self.tell(f"-> Alarm {response.status if response is not None else 'not taken'}")

    async def _do_position(self, spec: Any) -> None:
        await self.device.position(spec.longitude, spec.latitude)

    async def _do_notify(self, spec: NotifySpec) -> None:
        model = REGISTRY[spec.root.lower(), spec.cmd_type.lower()]
        base = model.model_validate({"sn": self.device.next_sn(), "device_id": self.device_id})
        body: Body = changed(base, spec.fields)
        if spec.via == "message":
            response = await self.device.send(body)
        else:
            response = await self.device._notify(spec.via, body)
        self.tell(f"-> {spec.cmd_type} {response.status if response is not None else 'not taken'}")

    async def _do_xml(self, text: str) -> None:
        text = text.replace("{sn}", str(self.device.next_sn())).replace("{device_id}", self.device_id)
        response = await self.device.send_raw(
            self.device.encoded_text(text.replace("{channel_id}", self.device.channel_id))
        )
        self.tell(f"-> XML {response.status if response is not None else 'no answer'}")

    async def _do_sip(self, text: str) -> None:
        """Raw text of a SIP message, from the device's own socket. Names in braces are filled in."""
        device, target = self.device, self.device.target
        host = device.endpoint.local_address(target.host)
        names = {
            "server_id": self._server_id,
            "domain": device.domain,
            "device_id": self.device_id,
            "channel_id": device.channel_id,
            "host": host,
            "port": str(device.port),
            "branch": f"z9hG4bK{secrets.token_hex(8)}",
            "tag": secrets.token_hex(4),
            "call_id": secrets.token_hex(8),
            "sn": str(device.next_sn()),
        }
        head, _, body = text.partition("\n\n")
        for name, value in names.items():
            head, body = head.replace("{" + name + "}", value), body.replace("{" + name + "}", value)
        data = device.encoded_text(body)
        head = head.strip().replace("{length}", str(len(data)))
        device.endpoint._transport.send(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + data, target)

    async def _do_keepalives(self, count: int) -> None:
        for _ in range(count):
            await self.device.registration.beat()

    async def _do_catalog(self, codes: list[str]) -> None:
        items = [item for item in self.device.answers.items() if not codes or item.device_id in codes]
        await self.device.send_catalog(items=items)

    async def _do_state(self, states: dict[str, str]) -> None:
        for channel_id, status in states.items():
            if channel_id not in self.device.channels:
                raise ScriptError(f"state: there is no channel {channel_id}")
            await self.device.set_status(channel_id, status)

    async def _do_add(self, spec: Any) -> None:
        channel = channel_of(spec)
        self._channels.append(channel)
        await self.device.add_channel(channel)

    async def _do_remove(self, channel_id: str) -> None:
        if channel_id not in self.device.channels:
            raise ScriptError(f"remove: there is no channel {channel_id}")
        self._channels = [channel for channel in self._channels if channel.channel_id != channel_id]
        await self.device.remove_channel(channel_id)

    async def _do_faults(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self._faults, name, value)

    async def _do_media(self, what: str) -> None:
        if what == "bye":
            await self.device.calls.hang_up()
            return
        for call in self.device.live_calls:
            call.receiver.paused = what == "stop"

    async def _do_register(self, what: str) -> None:
        if what == "again":
            self.device.registration.again()
        else:
            await self.device.registration.stop()

    async def _do_move(self, spec: Any) -> None:
        await self.device.vanish()
        await asyncio.sleep(spec.after_s)
        self.device = self._new_device(spec.host)
        await self.device.start()
        self.tell(f"moved to port {self.device.port}")

    async def _do_expect(self, spec: ExpectSpec) -> None:
        came = await self._next(spec.event, self._since, spec.within_s, spec.count)
        times = f" {spec.count} times" if spec.count > 1 else ""
        if came is spec.none:
            verb = "came" if spec.none else "did not come"
            raise ScriptError(f"{spec.event} {verb}{times} within {spec.within_s:g} s")
        self.tell(f"ok {'no ' if spec.none else ''}{spec.event}{times}")

    async def _do_log(self, text: str) -> None:
        self.tell(text)

    async def _do_end(self, code: int) -> None:
        self._end(code)
        await asyncio.Event().wait()  # until play() takes everything down
