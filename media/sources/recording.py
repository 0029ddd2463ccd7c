"""Plays recordings as a stream: paced by the clock, paused, moved, faster, slower and backward, one source per user.

A thread of its own reads the files, at most one batch ahead; one task on the loop publishes what is due, every 20 ms.
It publishes nothing early: after a stall the time lost is lost, and a relay over TCP that cannot keep up holds the
playing instead of losing packets. Sound is sent at normal speed only. What was not recorded is left out of the
stream; positions still count it, because they are wall-clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from media.clip import Clip, ClipUnit
from media.errors import MediaError
from media.sources.units import UnitSource
from media.specs import (
    InputControl,
    InputSpec,
    PartWanted,
    PlaybackEnded,
    PlayPosition,
    RecordingInput,
    StreamStats,
)
from media.stream import Stream
from media.unit import TICKS_PER_SECOND

if TYPE_CHECKING:
    from media.sources.inputs import InputHost

log = logging.getLogger(__name__)

TICK_S = 0.02
BATCH_UNITS = 64
BATCH_BYTES = 1024 * 1024
"""A batch ends with the unit that reaches one of the two. Two batches at most are in memory."""
KEYS_ONLY_FROM = 8.0
"""At this speed and above only key frames are sent."""
STALL_S = 0.5
"""Later than this behind its time, playing goes on from now instead of catching up."""
PREROLL_S = 1.0
"""At most so much is sent before the first reader is there; a stream is ready long before."""
CLOGGED_BYTES = 1024 * 1024
FRAME_TICKS = TICKS_PER_SECOND // 25
"""Between the last picture of one run and the first of the next."""
DRAIN_S = 10.0
"""So long the end is not told because relays still have packets to send."""


@dataclass(slots=True)
class _Order:
    """A change to be made by the playing task, and who waits for the outcome."""

    control: InputControl
    done: asyncio.Future[PlayPosition]


class RecordingSource(UnitSource):
    """One playing of one clip. ``control`` changes it; the end of the range is told by PlaybackEnded."""

    def __init__(self, spec: RecordingInput, stream: Stream, host: InputHost) -> None:
        super().__init__(
            stream, idle_grace_s=spec.idle_grace_s, silence_s=spec.silence_s,
            cache_bytes=host.config.gop_cache_bytes, on_lost=host.on_lost, clock=host.clock,
        )  # fmt: skip
        self._spec, self._host = spec, host
        self._loop = asyncio.get_running_loop()
        awaited = any(part.awaited for part in spec.parts)
        self._clip = Clip(
            spec.parts, spec.start, spec.end, keep_gaps=spec.keep_gaps,
            on_part=self._part_wanted if awaited else None,
        )  # fmt: skip
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recording")
        self._orders: deque[_Order] = deque()
        self._wake = asyncio.Event()
        self._speed = spec.speed or 1.0
        self._stopped = spec.paused
        self._held = spec.wait_for_reader
        self._ended = False
        self._closed = False
        self._at = spec.start if self._speed > 0 else spec.end
        self._run: Iterator[ClipUnit] = iter(())
        self._batch: deque[ClipUnit] = deque()
        self._ahead: asyncio.Future[tuple[list[ClipUnit], bool]] | None = None
        self._last_batch = False
        self._clock_from = 0
        """Place on the run's clock that goes out with time `_out_from`; None there: to be set by the next unit."""
        self._out_from: int | None = None
        self._out_next = 0
        self._due_clock = 0
        """Place on the run's clock that is due at `_due_from` (None: to be set by the next unit)."""
        self._due_from: float | None = None
        self.paused = True
        self._task = asyncio.get_running_loop().create_task(self._play(), name=f"recording {spec.stream_id}")

    # --- from outside ------------------------------------------------------------------------------------------

    @property
    def position_s(self) -> float:
        """Seconds from the start of the range, of the picture sent last."""
        return min(max(0.0, self._at - self._spec.start), self._spec.end - self._spec.start)

    async def control(self, control: InputControl) -> PlayPosition:
        """Pause, move, turn. Returns when it is done. MediaError: not_found when the source is closed meanwhile."""
        if self._closed or self._task.done():
            raise MediaError("not_found", "the playing is over")
        if control == InputControl():
            return self.position()
        order = _Order(control, asyncio.get_running_loop().create_future())
        self._orders.append(order)
        self._wake.set()
        if control.position_s is not None:
            self._clip.hurry.set()  # whatever file is being waited for is not wanted any more
        return await order.done

    def position(self) -> PlayPosition:
        return PlayPosition(
            stream_id=self.stream.stream_id, position_s=self.position_s, speed=self._speed,
            paused=self._stopped, ended=self._ended,
        )  # fmt: skip

    def close(self) -> None:
        """Stop task and thread, close the files."""
        self._closed = True
        self._task.cancel()
        for order in self._orders:
            if not order.done.done():
                order.done.set_exception(MediaError("not_found", "the playing is over"))
        self._orders.clear()
        self._clip.hurry.set()
        with contextlib.suppress(RuntimeError):  # closed twice
            self._thread.submit(self._clip.close)
        self._thread.shutdown(wait=False)
        super().close()

    def _part_wanted(self, path: str) -> None:
        """In the thread of the files."""
        event = PartWanted(stream_id=self.stream.stream_id, path=path)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._host.emit, event)

    def request_key_frame(self) -> None:
        """A recording has its key frames where they are."""

    def stats(self, now: float, viewers: int) -> StreamStats:
        return super().stats(now, viewers).model_copy(update={"position_s": self.position_s})

    # --- the task ----------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        try:
            await self._begin(self._at)
            if not self._batch:
                self._ended = True
                self.lose("not_found")
            with_sound = any(not found.unit.codec.is_video for found in self._batch)
            self.stream.audio_announced = with_sound and self._speed == 1 and not self._stopped
            if self._stopped:
                self._still()
            while True:
                while self._orders:
                    await self._obey(self._orders.popleft())
                if self._stopped or self._ended or self._waits_for_reader():
                    self.paused, self._due_from = True, None
                    await self._sleep(None if self._stopped or self._ended else 2 * TICK_S)
                elif self._clogged():
                    self._due_from = None
                    await self._sleep(TICK_S)
                else:
                    self.paused = False
                    await self._go_on()
        except OSError as error:
            log.warning("event=recording_failed stream_id=%s error=%s", self.stream.stream_id, error)
            self.lose("read_failed")

    async def _sleep(self, seconds: float | None) -> None:
        """Until something is ordered, at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _waits_for_reader(self) -> bool:
        if not self._held:
            return False
        self._held = not (self.stream.readers or self.relays)
        stream = self.stream
        complete = stream.ready and (stream.audio is not None or not stream.audio_announced)
        return self._held and (complete or self._out_next > PREROLL_S * TICKS_PER_SECOND)

    def _clogged(self) -> bool:
        return any(relay.waiting_bytes > CLOGGED_BYTES for relay in self.relays)

    async def _go_on(self) -> None:
        """Publish what is due, then sleep until more is."""
        if not self._batch:
            await self._refill()
            if not self._batch:
                await self._finish()
                return
        now = self._clock()
        due = self._due(self._batch[0], now)
        if now - due > STALL_S:
            self._due_from = None
            due = self._due(self._batch[0], now)
        while self._batch and due <= now + TICK_S / 2:
            self._send(self._batch.popleft(), now)
            if self._batch:
                due = self._due(self._batch[0], now)
        if self._batch:
            await self._sleep(max(TICK_S, due - now))

    def _due(self, next_unit: ClipUnit, now: float) -> float:
        """When a unit has to go out; the first one after a start or a stall goes now."""
        if self._due_from is None:
            self._due_from, self._due_clock = now, next_unit.unit.dts
        ticks = (next_unit.unit.dts - self._due_clock) / abs(self._speed) / self._spec.delivery
        return self._due_from + ticks / TICKS_PER_SECOND

    def _send(self, found: ClipUnit, now: float) -> None:
        unit, speed = found.unit, abs(self._speed)
        if speed != 1 and not unit.codec.is_video:
            return
        before = unit.dts
        if self._out_from is None:
            self._clock_from, self._out_from = before, self._out_next
        unit.dts = self._out_from + round((before - self._clock_from) / speed)
        unit.pts = unit.dts + round((unit.pts - before) / speed)
        unit.arrival_mono = now
        if unit.codec.is_video:
            self._at = found.at
            self._out_next = unit.dts + FRAME_TICKS
        self.publish(unit)

    async def _finish(self) -> None:
        """All is read: let relays send what they have, then tell the end once."""
        deadline = self._clock() + DRAIN_S
        while not self._orders and self._clock() < deadline and any(r.waiting_bytes for r in self.relays):
            await self._sleep(TICK_S)
        if not self._orders:
            self._ended = True
            log.info(
                "event=recording_ended stream_id=%s position_s=%.3f", self.stream.stream_id, self.position_s
            )
            self._host.emit(PlaybackEnded(stream_id=self.stream.stream_id, position_s=self.position_s))

    # --- orders ------------------------------------------------------------------------------------------------

    async def _obey(self, order: _Order) -> None:
        control, before = order.control, self._mode(self._speed)
        if control.speed and control.speed != self._speed:
            self._speed, self._out_from = control.speed, None
        if control.paused is not None:
            self._stopped = control.paused
        self._due_from = None
        if control.position_s is not None:
            await self._move(self._spec.start + control.position_s, control.until_s)
        elif self._mode(self._speed) != before:
            await self._turn(control.until_s)
        if not order.done.done():
            order.done.set_result(self.position())

    async def _move(self, place: float, until_s: float | None) -> None:
        """To another place; paused, one picture is sent of where it stands."""
        await self._begin(min(place, self._spec.end), until_s)
        if self._batch:
            self._at = self._batch[0].at
            if self._stopped:
                self._still()

    def _still(self) -> None:
        """One picture of where it stands."""
        self.stream.audio_announced = False
        if self._batch:
            self._send(self._batch.popleft(), self._clock())

    async def _turn(self, until_s: float | None) -> None:
        """Other units from the picture sent last on: backward or forward, key frames or all."""
        backward, keys_only = self._mode(self._speed)
        await self._begin(self._at, until_s)
        if keys_only and not backward:
            while self._batch and self._batch[0].at <= self._at:
                self._batch.popleft()

    def _mode(self, speed: float) -> tuple[bool, bool]:
        """What decides which units are read: backward, key frames only."""
        if speed < 0:
            return True, not self._spec.reverse_groups
        rate = self._clip.bits_per_s * speed
        return False, speed >= KEYS_ONLY_FROM or rate > self._spec.most_bits_per_s

    async def _begin(self, at: float, until_s: float | None = None) -> None:
        """A new run from ``at``; its first batch is there when this returns."""
        if self._ahead is not None:
            self._clip.hurry.set()
            await asyncio.wait([self._ahead])  # the thread must be through with the old run
            self._ahead = None
        self._clip.hurry.clear()
        backward, keys_only = self._mode(self._speed)
        if backward:
            until = None if until_s is None else self._spec.start + until_s
            self._run = self._clip.backward(at, until, groups=not keys_only)
        else:
            self._run = self._clip.forward(at, keys_only=keys_only)
        self._batch.clear()
        self._last_batch, self._ended = False, False
        self._due_from = self._out_from = None
        await self._refill()

    async def _refill(self) -> None:
        """The next batch, and the one after it ordered from the thread."""
        if self._ahead is None and not self._last_batch:
            self._ahead = self._order_batch()
        if self._ahead is None:
            return
        was_paused, self.paused = self.paused, True  # a file that has to be brought first is no loss
        units, self._last_batch = await asyncio.shield(self._ahead)
        self.paused = was_paused
        self._batch.extend(units)
        self._ahead = None if self._last_batch else self._order_batch()

    def _order_batch(self) -> asyncio.Future[tuple[list[ClipUnit], bool]]:
        ahead = asyncio.get_running_loop().run_in_executor(self._thread, _read_batch, self._run)
        ahead.add_done_callback(_looked_at)
        return ahead


def _read_batch(run: Iterator[ClipUnit]) -> tuple[list[ClipUnit], bool]:
    """In the thread: some units, and whether they were the last."""
    units: list[ClipUnit] = []
    size = 0
    for unit in run:
        units.append(unit)
        size += len(unit.unit.data)
        if len(units) >= BATCH_UNITS or size >= BATCH_BYTES:
            return units, False
    return units, True


def _looked_at(ahead: asyncio.Future[tuple[list[ClipUnit], bool]]) -> None:
    """A batch that nobody waits for any more may fail in silence."""
    if not ahead.cancelled():
        ahead.exception()


def make(spec: InputSpec, stream: Stream, host: InputHost) -> UnitSource:
    """A running source that plays recordings. MediaError(bad_request)."""
    if not isinstance(spec, RecordingInput):
        raise MediaError("bad_request", "no record of a recording")
    return RecordingSource(spec, stream, host)
