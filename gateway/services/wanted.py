"""Fixed RTSP addresses: a media node asks for a channel by its code, the session is started and held until watched.

The node has checked an account's password; an API token is checked here. What comes back is the stream on that node,
the address of the node that has it, or a refusal with the status that the player is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from gateway.events import EventBus, SecurityEvent
from gateway.registry import Registry
from gateway.services.access import Principal, Role, TooManyAttempts
from gateway.services.errors import PlayFailed
from gateway.services.lower_platforms import best_way, cameras_of
from gateway.services.nodes import NodeHandle
from gateway.services.session_record import LiveSession
from media.errors import MediaError
from media.specs import StreamWanted, ViewerRefused, WantedAnswer

log = logging.getLogger(__name__)

PARALLEL_STARTS = 512
"""More requests at once are refused: each may hold an INVITE."""

AuditNote = Callable[[str, str, str, str, str], None]
"""who, action, target, result, detail."""


class Tokens(Protocol):
    """The part of gateway.services.access.Access that checks API tokens."""

    async def by_token(self, secret: str, source: str) -> Principal | None: ...


class Player(Protocol):
    """The part of gateway.services.sessions.Sessions that starts pictures."""

    async def play(self, device_id: str, channel_id: str, *, stream_number: int = 0) -> LiveSession: ...

    def held(self, session: LiveSession) -> AbstractContextManager[None]: ...

    def viewer_urls(self, session: LiveSession, request_host: str = "localhost") -> dict[str, str]: ...


class Refused(Exception):
    """No picture for this request; ``status`` as in HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class WantedStreams:
    """Answers the nodes' StreamWanted and reports their ViewerRefused."""

    def __init__(
        self, *, registry: Registry, player: Player, tokens: Tokens, bus: EventBus, audit: AuditNote
    ) -> None:
        self._registry = registry
        self._player = player
        self._tokens = tokens
        self._bus = bus
        self._audit = audit
        self._tasks: set[asyncio.Task[None]] = set()

    def node_event(self, node: NodeHandle, event: StreamWanted | ViewerRefused) -> None:
        """One event of a node. Short: the work is done in a task."""
        if isinstance(event, ViewerRefused):
            self._bus.publish(
                SecurityEvent(event.kind, event.source, f"user {event.user}" if event.user else "")
            )
            return
        task = asyncio.create_task(self._serve(node, event), name=f"wanted-{event.channel_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is being started. Idempotent."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, node: NodeHandle, wanted: StreamWanted) -> None:
        who, result = wanted.user or "?", "ok"
        try:
            if len(self._tasks) > PARALLEL_STARTS:
                raise Refused(503, "too many channels are being started")
            who = await self._identify(wanted)
            session = await self._player.play(*self._key(wanted), stream_number=wanted.stream_number)
            with self._player.held(session):
                await self._hand_over(node, wanted, session)
        except (Refused, PlayFailed) as refusal:
            status, reason = refusal.status, str(refusal)
            result = refusal.cause.value if isinstance(refusal, PlayFailed) else str(status)
            await self._tell(node, wanted, WantedAnswer(status=status, reason=reason[:200]))
        self._audit(who, "live.rtsp", wanted.channel_id, result, f"from {wanted.source}")

    async def _identify(self, wanted: StreamWanted) -> str:
        """Who asks. An address ends in players' histories: only tokens of the role viewer are taken in it."""
        if wanted.user:
            return f"rtsp:{wanted.user}"
        try:
            principal = await self._tokens.by_token(wanted.token, wanted.source)
        except TooManyAttempts as error:
            raise Refused(403, str(error)) from error
        if principal is None:
            raise Refused(403, "the token is unknown or has expired")
        if principal.role is not Role.VIEWER:
            raise Refused(403, "in an address only a token of the role viewer is taken")
        return principal.name

    def _key(self, wanted: StreamWanted) -> tuple[str, str]:
        """``(device_id, channel_id)``; the device may be left out where the code means one camera (quirk 18)."""
        if wanted.device_id:
            return wanted.device_id, wanted.channel_id
        found = self._registry.find_channels(wanted.channel_id)
        if len(cameras_of(found, self._registry.devices)) > 1:
            raise Refused(409, f"several devices use the channel code {wanted.channel_id}")
        if found:
            return best_way(self._registry, found).key
        return self._registry.by_mapped.get(wanted.channel_id) or (wanted.channel_id, wanted.channel_id)

    async def _hand_over(self, node: NodeHandle, wanted: StreamWanted, session: LiveSession) -> None:
        """The stream if it is on the node that asks, else where it is. The node takes a seat before it answers us."""
        if session.node is node:
            await self._tell(node, wanted, WantedAnswer(stream_id=session.stream_id))
            return
        location = self._player.viewer_urls(session, _bracketed(wanted.host)).get("rtsp", "")
        if not location:
            raise Refused(503, "the node with this picture has no RTSP")
        await self._tell(node, wanted, WantedAnswer(status=302, location=location))

    async def _tell(self, node: NodeHandle, wanted: StreamWanted, answer: WantedAnswer) -> None:
        try:
            await node.client.answer_wanted(wanted.request_id, answer)
        except MediaError as error:  # the player has gone meanwhile, or the node
            log.info("event=wanted_not_told channel_id=%s cause=%s", wanted.channel_id, error)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
