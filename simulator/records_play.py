"""Plays recordings of a simulated device: moving pictures whose clock shows the time of the recording, at any speed.

The pictures are drawn and encoded when they are due, so that every second of every day can be played; the frame
number in the picture counts what was sent.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from media.unit import TICKS_PER_SECOND, AccessUnit, Codec
from simulator.picture import TestPicture, tone
from simulator.stream_faults import PackSpoiler

if TYPE_CHECKING:
    from simulator.records import RecordBook, RecordFaults
    from simulator.sending import Pictures, Receiver
    from sip.mansrtsp import PlayControl

KEYS_ONLY_FROM = 8.0
LATE_S = 1.0


class RecordPlayer:
    """One playing or download of ``[start, end)`` in unix seconds. ``run`` returns when all was sent.

    ``delivery``: so many times faster than the clock, as a download wants it. ``at`` is where it stands.
    """

    def __init__(
        self,
        pictures: Pictures,
        receiver: Receiver,
        book: RecordBook,
        channel_id: str,
        start: float,
        end: float,
        *,
        delivery: float = 1.0,
    ) -> None:
        self.start, self.end = start, end
        self.at = start
        self.scale = 1.0
        self.paused = False
        self.over = False
        self.frames = 0
        self._delivery = delivery
        self._pictures, self._receiver, self._book, self._channel_id = pictures, receiver, book, channel_id
        self._picture = TestPicture(
            pictures.width, pictures.height, pictures.rate, pictures.codec,
            bitrate=pictures.bitrate, gop=pictures.gop, label=pictures.label,
        )  # fmt: skip
        self._tone = tone(1.0) if pictures.sound else []
        self._packs = PackSpoiler(self._picture.codec, Codec.PCMA if pictures.sound else None, ())
        self._jumped = True
        self._since_key = 0
        self._out = 0.0
        self._wake = asyncio.Event()

    @property
    def faults(self) -> RecordFaults:
        return self._book.faults

    @property
    def position_s(self) -> float:
        """Seconds from the start of the range."""
        return self.at - self.start

    def obey(self, control: PlayControl) -> None:
        """PAUSE, PLAY with Scale and Range, TEARDOWN (annex B)."""
        if control.method in ("PAUSE", "TEARDOWN"):
            self.paused = True
            return
        self.paused = False
        if control.scale is not None and control.scale != self.scale:
            self.scale, self._jumped = control.scale, True
        place = control.range
        if place is not None and place.start is not None:
            self.at, self._jumped, self.over = min(self.start + place.start, self.end), True, False
        self._wake.set()

    async def run(self) -> None:
        """Until the range has been sent, backward or forward. Goes on when it is moved back; cancel it to stop."""
        self.over = False
        due = time.monotonic()
        while not self._finished():
            if self.paused or self._receiver.paused:
                await self._woken()
                due = time.monotonic()
                continue
            due += await self._send_next()
            wait_s = due - time.monotonic()
            if wait_s < -LATE_S:
                due = time.monotonic()
            await asyncio.sleep(max(0.0, wait_s))
        self.over = True

    async def moved_back(self) -> None:
        """After the end: until there is something to play again."""
        while self.over:
            await self._woken()

    async def _woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    def _finished(self) -> bool:
        if self.scale < 0:
            return self.at < self.start
        if self.faults.endless:
            return False
        return not self._skip_gap()

    def _skip_gap(self) -> bool:
        """To the next place with a recording; False when there is none."""
        moments = (datetime.fromtimestamp(moment, UTC) for moment in (self.at, self.end))
        found = self._book.between(self._channel_id, *moments)
        if not found or self.at >= min(self.end, found[-1].end.timestamp()) - 0.001:
            return False
        begin = found[0].start.timestamp()
        if begin > self.at:
            self.at, self._jumped = begin, True
        return True

    async def _send_next(self) -> float:
        """One picture, and how long to wait until the next."""
        rate, speed = self._pictures.rate, abs(self.scale)
        keys_only = self.scale < 0 or speed >= KEYS_ONLY_FROM
        key = keys_only or self._jumped or self._since_key >= self._pictures.gop
        self._jumped = False
        self._since_key = 1 if key else self._since_key + 1
        unit = await asyncio.to_thread(self._picture.frame, self.frames, key=key, now_unix=self.at)
        self.frames += 1
        step_s = (self._pictures.gop if keys_only else 1) / rate
        stamp = self._out if self.faults.squeezed_stamps else self.at - self.start + 10.0
        self._send(unit, stamp)
        if self._tone and not keys_only:
            sound = self._tone[self.frames % len(self._tone)]
            self._send(sound, stamp + 0.5 / rate)
        self.at += step_s if self.scale > 0 else -step_s
        wall_s = step_s / speed / self._delivery
        self._out += wall_s
        return wall_s

    def _send(self, unit: AccessUnit, seconds: float) -> None:
        ticks = round(seconds * TICKS_PER_SECOND)
        unit.pts = unit.dts = ticks
        for pack, stamp in self._packs.packs(unit, ticks):
            self._receiver.send(pack, stamp)
