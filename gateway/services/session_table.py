"""All sessions at one place, and the two ends of their life: opened or failed, and ended, each told exactly once."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from gateway.clock import Clock
from gateway.events import EventBus, FirstPicture, SessionEnded, SessionFailed, SessionStarted
from gateway.model import SessionInfo, SessionKind, SessionState
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_opening import retrieve
from gateway.services.session_record import LiveKey, LiveSession

log = logging.getLogger(__name__)

CLOSE_WAIT_S = 5.0

Work = Callable[[LiveSession], Coroutine[Any, Any, None]]
"""Opens a session: returns with ``session.undo`` set, or raises PlayFailed with everything undone."""


class SessionTable:
    """``live`` finds a session by its channel, ``sessions`` by its id (also while it ends)."""

    def __init__(self, *, registry: Registry, bus: EventBus, clock: Clock) -> None:
        self._registry = registry
        self._bus = bus
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self.live: dict[LiveKey, LiveSession] = {}
        self.sessions: dict[str, LiveSession] = {}
        self.failures: dict[str, int] = defaultdict(int)
        """Failed plays by cause, for metrics."""

    async def close(self) -> None:
        """End all sessions, then all tasks."""
        ends = [self.end(session, "gateway_stopped") for session in list(self.sessions.values())]
        if ends:
            await asyncio.wait(ends, timeout=CLOSE_WAIT_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run work that belongs to the sessions; ``close`` cancels what is left of it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def admit(self, key: LiveKey, work: Work, *, kind: SessionKind = SessionKind.LIVE) -> LiveSession:
        """A new session under ``key``, opened by ``work``; ``session.opening`` ends when it is open or has failed."""
        now = self._clock.mono()
        info = SessionInfo(
            session_id=secrets.token_hex(8),
            device_id=key[0],
            channel_id=key[1],
            kind=kind,
            state=SessionState.OPENING,
            stream_id="",
            node_id="",
            transport="",
            ssrc=None,
            started_at=self._clock.utc(),
        )
        session = LiveSession(key=key, info=info, opened_mono=now, touched_mono=now)
        self.live[key] = self.sessions[session.session_id] = session
        session.opening = self.spawn(self._open(session, work(session)), f"play-{key[1]}")
        session.opening.add_done_callback(retrieve)
        return session

    @contextmanager
    def held(self, session: LiveSession) -> Iterator[None]:
        """While somebody is between "give me the picture" and "I am attached", the session is not idle."""
        session.waiting += 1
        session.touched_mono = self._clock.mono()
        try:
            yield
        finally:
            session.waiting -= 1

    # -- opening ---------------------------------------------------------------------------------------------

    async def _open(self, session: LiveSession, work: Coroutine[Any, Any, None]) -> LiveSession:
        """Run an opening to its end, and tell that end, good or bad, exactly once."""
        try:
            await work
        except asyncio.CancelledError:
            if session.abort_cause is None:
                self._ended(session, PlayCause.CANCELLED.value)
                raise
            raise self._open_failed(session, session.abort_cause) from None
        except PlayFailed as failure:
            raise self._open_failed(session, failure) from failure.__cause__
        self._opened(session)
        return session

    def _opened(self, session: LiveSession) -> None:
        info, now = session.info, self._clock.mono()
        info.state = SessionState.STREAMING
        info.first_picture_s = now - session.opened_mono
        session.touched_mono = session.proof_mono = now
        if session.live:
            self._registry.media_proof(info.device_id, info.channel_id)
        self._bus.publish(SessionStarted(info))
        self._bus.publish(FirstPicture(info.kind.value, info.first_picture_s))
        log.info(
            "session started session_id=%s device_id=%s channel_id=%s transport=%s call_id=%s first_picture_s=%.3f",
            *(
                info.session_id,
                info.device_id,
                info.channel_id,
                info.transport,
                info.call_id,
                info.first_picture_s,
            ),
        )

    def _open_failed(self, session: LiveSession, failure: PlayFailed) -> PlayFailed:
        self._ended(session, failure.cause.value)
        return self.failed(failure, *session.key[:2])

    def failed(self, failure: PlayFailed, device_id: str, channel_id: str) -> PlayFailed:
        """Count and tell a failed play; returns the failure to raise."""
        self.failures[failure.cause.value] += 1
        self._bus.publish(SessionFailed(device_id, channel_id, failure.cause.value, failure.detail))
        return failure

    # -- ending ----------------------------------------------------------------------------------------------

    def end(self, session: LiveSession, cause: str) -> asyncio.Task[None]:
        """The one way out: BYE, receiver closed, SSRC given back, watchers told. Returns the task that does it.

        ``cause``: idle | operator | device_bye | device_offline | no_rtp | connection_lost | dial_failed |
        node_lost | gateway_stopped ... A session that is being opened fails with the matching PlayFailed.
        """
        if session.ending is None:
            self.forget(session)
            session.info.end_cause = cause
            if session.info.state is SessionState.OPENING:
                session.abort_cause = _aborted(cause)
            else:
                session.info.state = SessionState.ENDING
            session.ending = self.spawn(self._end(session, cause), f"end-{session.key[1]}")
        return session.ending

    async def _end(self, session: LiveSession, cause: str) -> None:
        opening = session.opening
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
            if session.undo is None:
                return  # the opening has undone and reported everything itself
        if not session.moving:
            self.tell_watchers(session, cause)
        if session.undo is not None:
            await session.undo.aclose()
        self._ended(session, cause)

    def tell_watchers(self, session: LiveSession, cause: str) -> None:
        """Each watcher hears of the end once."""
        watchers, session.watchers = session.watchers, []
        for watcher in watchers:
            watcher.session_ended(session, cause)

    def _ended(self, session: LiveSession, cause: str) -> None:
        """Last words: the record leaves the tables and the event goes out, exactly once."""
        self.forget(session)
        if self.sessions.pop(session.session_id, None) is None:
            return
        session.info.state = SessionState.ENDED
        session.info.end_cause = cause
        if not session.moving:
            self.tell_watchers(session, cause)
        if session.undo is None:
            return  # it never started; its failure is told as such
        self._bus.publish(SessionEnded(session.info))
        log.info(
            "session ended session_id=%s device_id=%s channel_id=%s call_id=%s cause=%s",
            *(session.session_id, *session.key[:2], session.info.call_id, cause),
        )

    def forget(self, session: LiveSession) -> None:
        """Nobody finds the session by its channel any more; a new play opens a new one."""
        if self.live.get(session.key) is session:
            del self.live[session.key]


def _aborted(cause: str) -> PlayFailed:
    """What the callers of a play hear when the session is ended while being opened."""
    if cause == "device_offline":
        return PlayFailed(PlayCause.DEVICE_OFFLINE, "the device went offline")
    if cause == "node_lost":
        return PlayFailed(PlayCause.NODE_DOWN, "the media node was lost")
    return PlayFailed(PlayCause.CANCELLED, f"ended while being opened: {cause}")
