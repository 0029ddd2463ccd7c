"""A picture in a form that the viewer can play: as it is, the camera's sub stream, or transcoded, in this order.

A browser that cannot decode H.265 says so (``accept``). Asking a camera for its sub stream is cheap, transcoding costs
a good part of a core: so the sub stream is tried once per channel, and what it turned out to be is remembered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from config.settings import MediaSettings
from gateway.clock import Clock
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_opening import Opener
from gateway.services.session_record import LiveSession
from gateway.services.session_table import SessionTable
from media.specs import TranscodeInput

log = logging.getLogger(__name__)

TARGET = "h264"
"""What transcoders make."""
TRANSCODED = 100
"""Added to the stream number of what a transcoded session shows."""
SUB_STREAM_WAIT_S = 8.0
"""A viewer waits so long for a sub stream that may not exist."""
REMEMBERED_S = 3600.0
TROUBLE_REMEMBERED_S = 60.0
"""A sub stream that could not be had is asked for again after this time: the device may have been busy."""
_ABSENT = "absent"

ChannelKey = tuple[str, str]


class Player(Protocol):
    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> LiveSession: ...


class _Tie:
    """Ends a transcoded session with the one it is made of."""

    def __init__(self, table: SessionTable, session: LiveSession) -> None:
        self._table = table
        self._session = session

    def session_ended(self, session: LiveSession, cause: str) -> None:
        self._table.end(self._session, cause)

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None:
        self._table.end(self._session, "node_lost")


class SessionForms:
    """Finds the form. ``sub_streams``: what is known of channels' sub streams: a codec, or ``absent``."""

    def __init__(
        self, *, settings: MediaSettings, table: SessionTable, opener: Opener, player: Player, clock: Clock
    ) -> None:
        self._settings = settings
        self._table = table
        self._opener = opener
        self._player = player
        self._clock = clock
        self._known: dict[ChannelKey, tuple[str, float]] = {}

    def sub_stream(self, device_id: str, channel_id: str) -> str | None:
        """The codec that the sub stream turned out to have, ``absent``, or None when it has to be tried."""
        codec, until = self._known.get((device_id, channel_id), ("", 0.0))
        return codec if codec and self._clock.mono() < until else None

    async def fitting(
        self,
        device_id: str,
        channel_id: str,
        accept: frozenset[str],
        *,
        stream_number: int = 0,
        transport: str | None = None,
    ) -> LiveSession:
        """A session whose video is one of ``accept``. PlayFailed, also (transcoders_busy) when only transcoding helps."""
        forms = self.forms(device_id, channel_id, accept, stream_number=stream_number, transport=transport)
        async with aclosing(forms):
            return await anext(forms)

    async def forms(
        self,
        device_id: str,
        channel_id: str,
        accept: frozenset[str],
        *,
        stream_number: int = 0,
        transport: str | None = None,
    ) -> AsyncGenerator[LiveSession, None]:
        """All forms that fit by their codec, the cheapest first, each opened when it is asked for. PlayFailed."""
        base = await self._player.play(
            device_id, channel_id, stream_number=stream_number, transport=transport
        )
        if _fits(base, accept):
            yield base
        with self._table.held(base):  # not idle while the others are tried
            if stream_number == 0:
                sub = await self._sub_stream(base, accept)
                if sub is not None:
                    yield sub
            if TARGET not in accept:
                raise PlayFailed(PlayCause.UNSUPPORTED, f"the camera has {base.info.video_codec}")
            session = await self._transcoded(base)
        yield session

    async def _sub_stream(self, base: LiveSession, accept: frozenset[str]) -> LiveSession | None:
        """The first sub stream, if it fits, or is not known not to."""
        key: ChannelKey = base.key[:2]
        known = self.sub_stream(*key)
        if known is not None and known not in accept:
            return None
        try:
            async with asyncio.timeout(SUB_STREAM_WAIT_S):
                sub = await self._player.play(*key, stream_number=1)
        except (PlayFailed, TimeoutError) as failure:
            log.info("no sub stream device_id=%s channel_id=%s cause=%s", *key, failure or "too slow")
            self._remember(key, _ABSENT, TROUBLE_REMEMBERED_S)
            return None
        if sub is base:
            self._remember(key, _ABSENT, REMEMBERED_S)
            return None
        self._remember(key, sub.info.video_codec or _ABSENT, REMEMBERED_S)
        if _fits(sub, accept):
            return sub
        if not sub.info.viewers and not sub.watchers and not sub.waiting:
            self._table.end(sub, "unsupported")
        return None

    def _remember(self, key: ChannelKey, codec: str, seconds: float) -> None:
        now = self._clock.mono()
        if len(self._known) > 50_000:
            self._known = {known: entry for known, entry in self._known.items() if entry[1] > now}
        self._known[key] = codec, now + seconds

    async def _transcoded(self, base: LiveSession) -> LiveSession:
        """``base`` made into H.264 on the same node, once for all its viewers."""
        key = (*base.key[:2], TRANSCODED + base.key[2])
        session = self._table.live.get(key)
        if session is None:
            session = self._table.admit(key, lambda opened: self._open(opened, base))
            session.derived = True
        with self._table.held(session):
            try:
                return await asyncio.shield(session.opening)
            finally:
                if session.waiting == 1 and not session.opening.done():
                    self._table.forget(session)
                    session.opening.cancel()

    async def _open(self, session: LiveSession, base: LiveSession) -> None:
        settings = self._settings

        def spec(stream_id: str) -> TranscodeInput:
            return TranscodeInput(
                stream_id=stream_id,
                source_stream_id=base.stream_id,
                max_width=settings.transcode_width,
                max_height=settings.transcode_height,
                bit_rate=settings.transcode_kbit_s * 1000,
                idle_grace_s=settings.idle_grace_s,
                silence_s=settings.no_rtp_timeout_s,
            )

        release = base.watch(_Tie(self._table, session))
        try:
            await self._opener.attempt_input(session, spec, "transcode", node=base.node)
        except BaseException:
            release()
            raise
        if session.undo is not None:
            session.undo.callback(release)


def _fits(session: LiveSession, accept: frozenset[str]) -> bool:
    return not session.info.video_codec or session.info.video_codec in accept
