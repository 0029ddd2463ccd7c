"""Talk and broadcast: who speaks to which loudspeaker, how each device is reached, and how it all ends (9.12).

One task per target (``talk_reach``). A loudspeaker has one talker; a user of higher rank takes it over, all others are
told who holds it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from config.settings import MediaSettings, TalkSettings
from gateway.clock import Clock
from gateway.events import DeviceOffline, EventBus
from gateway.registry import Registry
from gateway.services.broadcast import Broadcasts
from gateway.services.errors import PlayFailed
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.session_record import LiveSession
from gateway.services.talk_calls import TalkCalls, media_failure
from gateway.services.talk_news import TalkNews
from gateway.services.talk_outputs import Outputs
from gateway.services.talk_reach import Asker, Reaching
from gateway.services.talk_record import (
    Branch,
    Talk,
    TalkCause,
    TalkFailed,
    TalkTarget,
    VoiceOpener,
)
from media.errors import MediaError
from media.specs import (
    TalkEvent,
    TalkLegEnded,
    TalkOffer,
    TalkPlayed,
    TalkQueued,
    TalkSpec,
    TalkUp,
)

log = logging.getLogger(__name__)

TAKE_OVER_WAIT_S = 10.0
KEPT_TALKS = 100
"""Ended talks that can still be asked for."""
Key = tuple[str, str]


class Player(Protocol):
    """What is needed of gateway.services.sessions.Sessions."""

    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> LiveSession: ...


class _Ear:
    """Ends a talk in full duplex with the picture whose sound it hears."""

    def __init__(self, talks: Talks, talk: Talk) -> None:
        self._talks, self._talk = talks, talk

    def session_ended(self, session: LiveSession, cause: str) -> None:
        self._talks.end(self._talk, f"picture_{cause}")

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None:
        self._talks.end(self._talk, "node_lost")


class Talks:
    """All talks of this gateway. Built by gateway/assembly; ``broadcasts.invite`` is the handler of devices' INVITEs."""

    def __init__(
        self,
        *,
        settings: TalkSettings,
        media: MediaSettings,
        registry: Registry,
        bus: EventBus,
        asker: Asker,
        player: Player,
        nodes: Nodes,
        calls: TalkCalls,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._media = settings, media
        self._registry, self._bus, self._player = registry, bus, player
        self._nodes, self._calls, self._clock = nodes, calls, clock or Clock()
        self.outputs = Outputs(registry)
        self.broadcasts = Broadcasts()
        self.news = TalkNews(bus)
        self._talks: dict[str, Talk] = {}
        self._ended: deque[Talk] = deque(maxlen=KEPT_TALKS)
        self._branches: dict[str, Branch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reaching = Reaching(
            settings=settings,
            registry=registry,
            asker=asker,
            calls=calls,
            broadcasts=self.broadcasts,
            news=self.news,
            branches=self._branches,
            spawn=self._spawn,
        )
        self._unsubscribe: Callable[[], None] | None = None
        self._closing = False

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen to nodes and devices."""
        self._nodes.on_talk = self._node_event
        self._nodes.on_lost.append(self._node_lost)
        self._unsubscribe = self._bus.subscribe(DeviceOffline, callback=self._device_offline)

    async def close(self) -> None:
        """BYE to everybody. Idempotent."""
        self._closing = True
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            self._nodes.on_lost.remove(self._node_lost)
        ends = [self.end(talk, "gateway_stopped") for talk in list(self._talks.values())]
        if ends:
            await asyncio.wait(ends, timeout=5.0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._calls.close()

    # -- what users see ----------------------------------------------------------------------------------------

    def under_way(self) -> list[Talk]:
        """Talks under way, in the order of their start."""
        return list(self._talks.values())

    def find(self, talk_id: str) -> Talk | None:
        """Also one that has just ended."""
        found = self._talks.get(talk_id)
        return found or next((talk for talk in self._ended if talk.talk_id == talk_id), None)

    def holder(self, target: TalkTarget) -> Talk | None:
        """Who speaks to this loudspeaker, or one of them."""
        for talk in self._talks.values():
            if any(other.live and other is not target and other.clashes(target) for other in talk.targets):
                return talk
        return None

    # -- beginning ---------------------------------------------------------------------------------------------

    async def begin(
        self,
        keys: Sequence[Key],
        *,
        who: str,
        priority: int,
        source: str,
        full_duplex: bool = False,
        open_voice: VoiceOpener | None = None,
    ) -> Talk:
        """A talk to these channels, ringing. Those that cannot be spoken to are in it as failed; with none left the
        reason of the first is raised. Raises TalkFailed, PlayFailed (full duplex: no picture).
        """
        self._admit(keys)
        talk = Talk(
            talk_id=secrets.token_hex(8),
            who=who,
            priority=priority,
            source=source,
            full_duplex=full_duplex,
            started_at=self._clock.utc(),
            node=self._pick(),
            open_voice=open_voice,
        )
        self._talks[talk.talk_id] = talk  # from now on others see what it holds
        try:
            failures = await self._take(talk, keys)
            live = self._live(talk, failures)
            await self._open(talk, live[0])
            live = self._live(talk, failures)
        except BaseException:
            self._talks.pop(talk.talk_id, None)
            await talk.undo.aclose()
            raise
        for target in live:
            self.news.tell(talk, target)
            target.task = self._spawn(self._reaching.run(talk, target), f"talk-{target.output_id}")
        self._spawn(self._watch(talk), f"talk-watch-{talk.talk_id}")
        return talk

    def _live(self, talk: Talk, failures: list[TalkFailed]) -> list[TalkTarget]:
        """The targets that are left. Raises TalkFailed when there are none, or the talk was ended meanwhile."""
        live = [target for target in talk.targets if target.live]
        if talk.ending is not None:
            raise TalkFailed(TalkCause.CANCELLED, f"ended while being opened: {talk.end_cause}")
        if not live:
            raise failures[0] if failures else TalkFailed(TalkCause.TAKEN, "taken over by another talker")
        return live

    def _admit(self, keys: Sequence[Key]) -> None:
        if self._closing:
            raise TalkFailed(TalkCause.NODE_DOWN, "the gateway is stopping")
        if not keys:
            raise TalkFailed(TalkCause.NO_AUDIO_OUTPUT, "no channel there has an audio output")
        if len(keys) > self._settings.most_targets:
            raise TalkFailed(
                TalkCause.TOO_MANY, f"a talk may have {self._settings.most_targets} targets, not {len(keys)}"
            )
        if len(self._talks) >= self._settings.most_talks:
            raise TalkFailed(TalkCause.TOO_MANY, f"{len(self._talks)} talks are under way")

    def _pick(self) -> NodeHandle:
        try:
            return self._nodes.pick()
        except PlayFailed as error:
            raise TalkFailed(TalkCause.NODE_DOWN, error.detail) from error

    async def _take(self, talk: Talk, keys: Sequence[Key]) -> list[TalkFailed]:
        """The loudspeakers that are free or may be taken over; what is refused is noted as failed."""
        failures = []
        for device_id, channel_id in keys:
            target = TalkTarget(device_id, channel_id, "")
            try:
                target = self.outputs.target(device_id, channel_id)
                if any(other.live and other.clashes(target) for other in talk.targets):
                    continue
                talk.targets.append(target)
                await self._make_free(talk, target)
            except TalkFailed as failure:
                failures.append(failure)
                if target not in talk.targets:
                    talk.targets.append(target)
                self.news.failed(talk, target, failure)
        return failures

    async def _make_free(self, talk: Talk, target: TalkTarget) -> None:
        """Raises TalkFailed(taken) with who holds it; one of lower rank loses it."""
        for other in list(self._talks.values()):
            if other is talk:
                return  # who comes later looks at us
            for held in other.targets:
                if not held.live or not held.clashes(target):
                    continue
                if other.priority >= talk.priority:
                    raise TalkFailed(
                        TalkCause.TAKEN,
                        f"{other.who} speaks to {held.output_id} (priority {other.priority})",
                    )
                if held.task is None:
                    self.news.over(other, held, "taken_over")
                    continue
                held.end("taken_over")
                await asyncio.wait([held.task], timeout=TAKE_OVER_WAIT_S)

    async def _open(self, talk: Talk, first: TalkTarget) -> None:
        """The talk at its node; in full duplex at the node of the picture, whose sound is heard (G253)."""
        listen: str | None = None
        device = self._registry.devices[first.device_id]
        if talk.full_duplex and self._reaching.forms(device)[0] == "broadcast":
            talk.session = session = await self._player.play(first.device_id, first.channel_id)
            if session.node is None:
                raise TalkFailed(TalkCause.NODE_DOWN, "the picture's session has no node")
            talk.node, listen = session.node, session.stream_id
            talk.undo.callback(session.watch(_Ear(self, talk)))
        spec = TalkSpec(talk_id=talk.talk_id, packet_ms=self._settings.packet_ms, listen_stream_id=listen)
        try:
            await talk.node.client.open_talk(spec)
        except MediaError as error:
            raise media_failure(error) from error
        talk.undo.push_async_callback(_close_talk, talk.node, talk.talk_id)

    # -- speaking ----------------------------------------------------------------------------------------------

    async def attach_browser(self, talk: Talk, offer_sdp: str) -> str:
        """The browser's microphone speaks: the SDP answer. MediaError."""
        host = str(self._media.host) if self._media.host is not None else None
        answer = await talk.node.client.add_talker(talk.talk_id, TalkOffer(sdp=offer_sdp, host=host))
        return answer.sdp

    async def push(self, talk: Talk, data: bytes, *, file: bool, end: bool) -> TalkQueued:
        """Sound of a program, said as soon as each target talks or has failed. MediaError, TalkFailed."""
        if talk.source != "push":
            raise TalkFailed(TalkCause.NOT_YOURS, f"this talk's voice is {talk.source}")
        await talk.settled()
        if not talk.live:
            raise TalkFailed(TalkCause.CANCELLED, f"the talk has ended: {talk.end_cause}")
        queued = await talk.node.client.push_sound(talk.talk_id, data, file=file)
        if end:
            talk.end_after = queued.number
            self._end_played(talk)
        return queued

    def _end_played(self, talk: Talk) -> None:
        if talk.end_after is not None and talk.played >= talk.end_after:
            self.end(talk, "played")

    async def mute(self, talk: Talk, *, muted: bool) -> None:
        """Half duplex: the button is let go, or pressed again. MediaError."""
        await talk.node.client.mute_talk(talk.talk_id, muted=muted)
        talk.muted = muted

    # -- the end -----------------------------------------------------------------------------------------------

    async def _watch(self, talk: Talk) -> None:
        """A talk ends when nobody is spoken to any more, and after its longest time."""
        tasks = [target.task for target in talk.targets if target.task is not None]
        _, pending = await asyncio.wait(tasks, timeout=self._settings.longest_s)
        self.end(talk, "too_long" if pending else "all_ended")

    def end(self, talk: Talk, cause: str) -> asyncio.Task[None]:
        """The one way out: BYE to every device, the talk at the node closed."""
        if talk.ending is None:
            talk.end_cause = cause
            talk.ending = self._spawn(self._end(talk, cause), f"talk-end-{talk.talk_id}")
        return talk.ending

    async def _end(self, talk: Talk, cause: str) -> None:
        for target in talk.targets:
            target.end(cause)
        tasks = [target.task for target in talk.targets if target.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        await talk.undo.aclose()
        self._talks.pop(talk.talk_id, None)
        self._ended.append(talk)
        log.info("talk over talk_id=%s who=%s cause=%s", talk.talk_id, talk.who, cause)

    def _node_event(self, node: NodeHandle, event: TalkEvent) -> None:
        if isinstance(event, TalkUp | TalkLegEnded):
            branch = self._branches.get(event.leg_id)
            if branch is None:
                return
            if isinstance(event, TalkUp):
                branch.up.set()
            else:
                branch.end(event.cause)
            return
        talk = self._talks.get(event.talk_id)
        if talk is None or talk.node is not node:
            return
        if isinstance(event, TalkPlayed):
            talk.played = event.number
            self._end_played(talk)
        else:
            self.end(talk, f"talker_{event.cause}")

    def register(self, branch: Branch) -> Callable[[], None]:
        """Let the node's words about a leg of somebody else's reach it. Returns the release."""
        self._branches[branch.leg_id] = branch

        def release() -> None:
            self._branches.pop(branch.leg_id, None)

        return release

    def _node_lost(self, node: NodeHandle, cause: str) -> None:
        for talk in list(self._talks.values()):
            if talk.node is node:
                self.end(talk, "node_lost")

    def _device_offline(self, event: DeviceOffline) -> None:
        """Its sound is released with it (annex K b)."""
        for talk in list(self._talks.values()):
            for target in talk.targets:
                if target.device_id == event.device_id and target.live:
                    target.end("device_offline")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _close_talk(node: NodeHandle, talk_id: str) -> None:
    if not node.alive:
        return
    try:
        await node.client.close_talk(talk_id)
    except MediaError as error:
        log.info("talk gone already talk_id=%s cause=%s", talk_id, error.code)
