"""How one target of a talk is reached: the broadcast of 9.12 or s=Talk, from the first ring to the last BYE."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from config.settings import TalkSettings
from gateway.errors import GatewayError
from gateway.model import Device
from gateway.registry import Registry
from gateway.services.broadcast import Broadcasts, Claim, Expected, first_claim
from gateway.services.talk_calls import TalkCalls, new_branch, refusal
from gateway.services.talk_news import TalkNews
from gateway.services.talk_record import Branch, Talk, TalkCause, TalkFailed, TalkState, TalkTarget
from media.specs import TalkRole
from sip.errors import RemoteError
from sip.manscdp import Body, BroadcastNotify, BroadcastResponse, Edition

log = logging.getLogger(__name__)

UP_TIMEOUT_S = 20.0
"""From the device's ACK to a way for the sound: TCP dialled or accepted."""
LATER_S = 0.5
"""A missing Response is told before a missing INVITE."""
_TRY_TALK = frozenset(
    {TalkCause.REJECTED, TalkCause.NO_ANSWER, TalkCause.NO_INVITE, TalkCause.SDP_NOT_ACCEPTED}
)
"""A 2016 device that takes no broadcast may know s=Talk."""

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Starts a task that the talks' service owns."""


class Asker(Protocol):
    """What is needed of gateway.dispatch.Dispatch."""

    async def query(self, device: Device, body: Body, *, timeout_s: float = 5.0) -> Body: ...


class Reaching:
    """Rings devices and speaks to them; knows nothing of other talks."""

    def __init__(
        self,
        *,
        settings: TalkSettings,
        registry: Registry,
        asker: Asker,
        calls: TalkCalls,
        broadcasts: Broadcasts,
        news: TalkNews,
        branches: dict[str, Branch],
        spawn: Spawn,
    ) -> None:
        self._settings, self._registry, self._asker, self._calls = settings, registry, asker, calls
        self._broadcasts, self._news, self._spawn = broadcasts, news, spawn
        self._branches = branches
        """Those that the node's events are for, by leg."""

    async def run(self, talk: Talk, target: TalkTarget) -> None:
        """Ring, talk, end. The device's dialogs and legs are given back whatever happens."""
        try:
            await self._reach(talk, target)
        except TalkFailed as failure:
            self._news.failed(talk, target, failure)
        except (GatewayError, RemoteError) as error:
            self._news.failed(talk, target, TalkFailed(TalkCause.REJECTED, str(error)))
        except asyncio.CancelledError:
            self._news.over(talk, target, target.end_cause or "gateway_stopped")
        finally:
            for branch in target.branches:
                self._branches.pop(branch.leg_id, None)

    async def _reach(self, talk: Talk, target: TalkTarget) -> None:
        device = self._registry.devices.get(target.device_id)
        if device is None:
            raise TalkFailed(TalkCause.NOT_FOUND, f"device {target.device_id} is not known any more")
        failure: TalkFailed | None = None
        for form in self.forms(device):
            target.form = form
            try:
                if form == "broadcast":
                    await self._broadcast(talk, target, device)
                else:
                    await self._call(talk, target, device)
                return
            except TalkFailed as error:
                if target.state is not TalkState.RINGING or error.why not in _TRY_TALK:
                    raise
                failure = failure or error
                if device.profile.origin("talk_mode") == "learned":
                    self._registry.learn(device, talk_mode=None)
        if failure is not None:
            raise failure

    def forms(self, device: Device) -> list[str]:
        """Ways to try: as the profile says; else the broadcast, and s=Talk where the edition of 2016 is spoken."""
        mode = device.profile.talk_mode
        if mode in ("broadcast", "talk"):
            return [mode]
        old = Edition.from_header(device.edition) is Edition.V2016
        return ["broadcast", "talk"] if old else ["broadcast"]

    async def _broadcast(self, talk: Talk, target: TalkTarget, device: Device) -> None:
        """Announce, wait for the device's INVITE, answer it; a whole device may send one per loudspeaker (G250)."""
        source = self._calls.server_id
        with self._broadcasts.expect(device.device_id, source, target.output_id) as expected:
            claim = await self._ring(target, device, expected, source)
            target.answered.set()
            async with _Branches(self, target) as branches:
                await branches.add(self.answer(talk, target, device, claim))
                self._news.talking(talk, target)
                self._news.over(talk, target, await branches.until_over(talk, target, device, expected))

    async def _ring(self, target: TalkTarget, device: Device, expected: Expected, source: str) -> Claim:
        """The device's first INVITE. Some come before the Response, some send no Response at all.

        Raises TalkFailed: rejected (Result ERROR), no_answer (the MESSAGE), no_invite (G256).
        """
        patience_s = self._settings.invite_wait_s
        notify = BroadcastNotify(source_id=source, target_id=target.output_id)
        asking = asyncio.create_task(self._asker.query(device, notify, timeout_s=patience_s))
        coming = asyncio.create_task(first_claim(expected, patience_s + LATER_S))
        try:
            await asyncio.wait({asking, coming}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() and asking.done():
                _check_response(asking, device)
                target.answered.set()
            return await coming
        finally:
            for task in (asking, coming):
                task.cancel()
            await asyncio.gather(asking, coming, return_exceptions=True)

    async def answer(self, talk: Talk, target: TalkTarget, device: Device, claim: Claim) -> Branch:
        """Our sound to a device that calls. A failure is told to the device, then raised as TalkFailed."""
        branch = self._new_branch(target)
        try:
            await self._voice(talk, target)
            await self._calls.answer(branch, device, target.output_id, talk.node, talk.talk_id, claim)
            await self._until_up(branch)
        except BaseException as error:
            stopped = TalkFailed(TalkCause.CANCELLED, "ended while being opened", sip_status=480)
            claim.settle(refusal(error if isinstance(error, TalkFailed) else stopped))
            await branch.undo.aclose()
            raise
        return branch

    async def _call(self, talk: Talk, target: TalkTarget, device: Device) -> None:
        """INVITE with s=Talk to the channel; what works is remembered (G254)."""
        branch = self._new_branch(target)
        role: TalkRole = "talk" if talk.full_duplex and talk.session is None else "speak"
        async with branch.undo:
            await self._voice(talk, target)
            target.answered.set()
            code = target.channel_id
            await self._calls.invite(branch, device, code, talk.node, talk.talk_id, role)
            await self._until_up(branch)
            if device.profile.talk_mode == "auto":
                self._registry.learn(device, talk_mode="talk")
            self._news.talking(talk, target)
            self._news.over(talk, target, await branch.over)

    def _new_branch(self, target: TalkTarget) -> Branch:
        branch = new_branch()
        target.branches.append(branch)
        self._branches[branch.leg_id] = branch
        return branch

    async def _voice(self, talk: Talk, target: TalkTarget) -> None:
        """Open the voice for the first device that wants it; the others wait for the same."""
        if talk.open_voice is None:
            return
        if talk.voice is None:
            opening = talk.open_voice(talk, target)
            talk.voice = self._spawn(opening, f"talk-voice-{talk.talk_id}")
            talk.voice.add_done_callback(_looked_at)
            talk.undo.push_async_callback(_stopped, talk.voice)
        await asyncio.shield(talk.voice)

    async def _until_up(self, branch: Branch) -> None:
        """Raises TalkFailed(no_media) when no sound can leave: nobody dialled, or the dialog ended."""
        up = asyncio.create_task(branch.up.wait())
        try:
            first: set[asyncio.Future[Any]] = {up, branch.over}
            await asyncio.wait(first, timeout=UP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if branch.up.is_set() and not branch.over.done():
            return
        why = branch.over.result() if branch.over.done() else "no_connection"
        raise TalkFailed(TalkCause.NO_MEDIA, f"no way for the sound: {why}")


class _Branches:
    """The dialogs of one broadcast: one, or for a whole device one per loudspeaker that came."""

    def __init__(self, reaching: Reaching, target: TalkTarget) -> None:
        self._reaching = reaching
        self._target = target
        self._open: set[Branch] = set()

    async def __aenter__(self) -> _Branches:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(branch.undo.aclose() for branch in self._open))

    async def add(self, opening: Awaitable[Branch]) -> None:
        self._open.add(await opening)

    async def until_over(self, talk: Talk, target: TalkTarget, device: Device, expected: Expected) -> str:
        """Serve further INVITEs until the last dialog is over: why it ended."""
        cause = ""
        while self._open:
            more = asyncio.ensure_future(expected.claims.get())
            try:
                first: set[asyncio.Future[Any]] = {more, *(branch.over for branch in self._open)}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not more.done():
                    more.cancel()
            for branch in [branch for branch in self._open if branch.over.done()]:
                self._open.discard(branch)
                cause = branch.over.result()
                await branch.undo.aclose()
            if more.done() and not more.cancelled():
                try:
                    await self.add(self._reaching.answer(talk, target, device, more.result()))
                except TalkFailed as failure:
                    log.info("further output refused device_id=%s cause=%s", device.device_id, failure)
        return cause


def _check_response(asking: asyncio.Task[Body], device: Device) -> None:
    """Raises TalkFailed for a Broadcast that was refused or not answered."""
    try:
        answer = asking.result()
    except GatewayError as error:
        silent = error.cause == "no_answer" or getattr(error, "sip_status", 0) == 408
        why = TalkCause.NO_ANSWER if silent else TalkCause.REJECTED
        if error.cause == "device_offline":
            why = TalkCause.DEVICE_OFFLINE
        raise TalkFailed(why, str(error)) from error
    if isinstance(answer, BroadcastResponse) and answer.result != "OK":
        raise TalkFailed(
            TalkCause.REJECTED, f"{device.device_id} answered Broadcast with Result {answer.result}"
        )


def _looked_at(task: asyncio.Task[None]) -> None:
    """A failure that nobody waits for any more is none to report."""
    if not task.cancelled():
        task.exception()


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
