"""Writes down when a channel should have been recorded and was not, and why; and when the gateway itself was away."""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import Clock
from gateway.services.recording_channel import ChannelRecording
from gateway.services.recording_wishes import STATE
from gateway.storage.recordings import RecordingStore, StoredGap, StoredRule

log = logging.getLogger(__name__)

ALIVE = "alive"
ALIVE_EVERY_S = 5.0
NOBODY = ("", "")
"""Gaps of all channels: the gateway was down."""


class Gaps:
    """At most one open gap per channel; the channel's record keeps its number."""

    def __init__(self, *, store: RecordingStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._old: dict[tuple[str, str], StoredGap] = {}
        self._alive_mono = -ALIVE_EVERY_S

    async def start(self) -> None:
        """Take over gaps of the earlier life; write down for how long there was none of us."""
        self._old = {(gap.device_id, gap.channel_id): gap for gap in await self._store.open_gaps()}
        now = self._clock.utc().timestamp()
        for row in await self._store.rules():
            if (row.scope, row.key) == (STATE, ALIVE):
                last = float(row.settings.get("at", now))
                if now - last > 1.0:
                    gap_id = await self._store.open_gap(*NOBODY, last, "gateway_down")
                    await self._store.close_gap(gap_id, now)

    async def alive(self) -> None:
        """We live: renew the entry now and then."""
        if self._clock.mono() - self._alive_mono < ALIVE_EVERY_S:
            return
        self._alive_mono = self._clock.mono()
        await self._write_alive()

    async def close(self) -> None:
        try:
            await self._write_alive()
        except SQLAlchemyError as error:
            log.warning("end of recording not written cause=%s", error)

    async def _write_alive(self) -> None:
        await self._store.put_rule(StoredRule(STATE, ALIVE, {"at": self._clock.utc().timestamp()}))

    async def open(self, one: ChannelRecording, cause: str) -> None:
        """The channel is not recorded for this reason, from the end of its last file or from now on."""
        old = self._old.pop(one.key, None)
        if one.gap_id is None and old is not None:
            one.gap_id, one.gap_cause = old.gap_id, old.cause
        if one.gap_id is not None and one.gap_cause == cause:
            return
        now = self._clock.utc().timestamp()
        if one.gap_id is not None:
            await self._store.close_gap(one.gap_id, now)
        one.gap_id = await self._store.open_gap(*one.key, now, cause)
        one.gap_cause = cause

    async def close_one(self, one: ChannelRecording, at: float | None = None) -> None:
        """It is recorded again (``at``: start of the file), or it need not be any more."""
        old = self._old.pop(one.key, None)
        gap_id = one.gap_id if one.gap_id is not None else old.gap_id if old is not None else None
        one.gap_id, one.gap_cause = None, ""
        if gap_id is not None:
            await self._store.close_gap(gap_id, self._clock.utc().timestamp() if at is None else at)

    async def forget_old(self, wanted: set[tuple[str, str]]) -> None:
        """Gaps of the earlier life of channels that nobody wants any more."""
        for key in [key for key in self._old if key not in wanted]:
            await self._store.close_gap(self._old.pop(key).gap_id, self._clock.utc().timestamp())
