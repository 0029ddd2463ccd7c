"""An input whose reading runs in a process of its own: units arrive over a socket, a lost one is opened again.

The process is started anew after each loss, with growing pauses. The stream goes on over the gap: its clock
advances by the time that passed, so picture and sound stay together and viewers need not come again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
from collections.abc import Callable
from typing import Any

from media.sources.launch import Launcher
from media.sources.reading import CODECS, DAMAGED, HEAD, KEY, NOTE
from media.sources.units import UnitSource
from media.specs import StreamStats
from media.stream import Stream
from media.timeline import Timeline
from media.unit import TICKS_PER_SECOND, AccessUnit

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
"""Taken from the socket per turn of the loop."""
MAX_UNIT_BYTES = 16 * 1024 * 1024
BACKOFF_FIRST_S = 0.5
BACKOFF_LAST_S = 15.0
STEADY_S = 10.0
"""A connection that gave units for so long lets the pauses begin anew."""
TELL_AT_ONCE = frozenset({"refused", "not_found", "dial_failed", "unreadable", "ended"})
"""Causes that another try within seconds does not heal, when no unit came yet."""
MARGIN_S = 3.0
_LEAD_IN = TICKS_PER_SECOND
"""Sound may begin before the picture, and decoding before presentation, by less than this."""


class ExternalSource(UnitSource):
    """Owner of the socket to the reading process, of the pauses between tries, and of the stream's clock.

    ``job`` is what the process is told (media/sources/read_*.py). ``patience_s`` is how long the process may be
    silent before it is given up: its own time-outs should have ended it by then.
    """

    def __init__(
        self,
        job: dict[str, Any],
        stream: Stream,
        *,
        launcher: Launcher,
        patience_s: float,
        idle_grace_s: float,
        silence_s: float,
        cache_bytes: int,
        on_lost: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(
            stream,
            idle_grace_s=idle_grace_s,
            silence_s=silence_s,
            cache_bytes=cache_bytes,
            on_lost=on_lost,
            clock=clock,
        )
        self.tries = 0
        self.last_cause = ""
        self.last_detail = ""
        self._job = job
        self._launcher = launcher
        self._patience_s = patience_s + MARGIN_S
        self._sock: socket.socket | None = None
        self._buffer = bytearray()
        self._retry: asyncio.TimerHandle | None = None
        self._backoff_s = BACKOFF_FIRST_S
        self._opened_mono = clock()
        self._heard_mono = clock()
        self._timeline = Timeline()
        self._primed = False
        self._shift = 0
        self._newest = 0
        self._newest_mono: float | None = None
        self._dropped = 0
        self._dropped_before = 0
        self._closed = False

    def start(self) -> None:
        """Begin to read; what fails is told by ``on_lost``, later."""
        self._begin()

    def close(self) -> None:
        """End the process and the stream. Idempotent."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._hang_up()
        super().close()

    def check(self, now: float) -> None:
        """A process that hangs is given up; a loss that no new try healed in time is told with its cause."""
        if self._sock is not None and now - self._heard_mono > self._patience_s:
            self._ended("no_rtp", "the reading process was silent")
        if now - self._alive_mono > self._silence_s:
            self.lose(self.last_cause or "no_rtp")

    def stats(self, now: float, viewers: int) -> StreamStats:
        """As of every source; ``lost`` counts units dropped because this node was busy."""
        return super().stats(now, viewers).model_copy(update={"lost": self._dropped_before + self._dropped})

    # --- the process ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._retry = None
        self.tries += 1
        now = self._opened_mono = self._heard_mono = self._clock()
        try:
            sock = self._launcher.launch(self._job)
        except OSError as error:
            log.warning("event=input_not_started stream_id=%s error=%s", self.stream.stream_id, error)
            self._again("dial_failed", "its process could not be started")
            return
        self._sock = sock
        self._buffer.clear()
        self._timeline, self._primed = Timeline(), False
        if self._newest_mono is not None:
            gap = round((now - self._newest_mono) * TICKS_PER_SECOND)
            self._shift = self._newest + max(gap, _LEAD_IN // 2) - _LEAD_IN
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def _readable(self) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard_mono = self._clock()
        if data:
            self._buffer += data
            self._take()
        else:
            self._ended("connection_lost", "the reading process died")

    def _take(self) -> None:
        """All whole messages in the buffer."""
        at, buffer = 0, self._buffer
        while len(buffer) - at >= HEAD.size:
            kind, codec, flags, size, pts, dts, dropped = HEAD.unpack_from(buffer, at)
            if size > MAX_UNIT_BYTES or codec >= len(CODECS):
                self._ended("unreadable", "the reading process talks nonsense")
                return
            if len(buffer) - at - HEAD.size < size:
                break
            begin = at + HEAD.size
            body = bytes(memoryview(buffer)[begin : begin + size])
            at = begin + size
            if kind == NOTE:
                self._note(json.loads(body))
                if self._sock is None:
                    return
                continue
            self._dropped = dropped
            self._unit(AccessUnit(CODECS[codec], pts, dts, bool(flags & KEY), body, bool(flags & DAMAGED)))
        del buffer[:at]

    def _unit(self, unit: AccessUnit) -> None:
        now = self._clock()
        if not self._primed:  # so that nothing near the first unit falls below the clock's start
            self._primed = True
            self._timeline.map(unit.dts - _LEAD_IN, None, None, now - 1.0, video=True)
        pts, dts = self._timeline.map(unit.pts, unit.dts, None, now, video=unit.codec.is_video)
        unit.pts, unit.dts = pts + self._shift, dts + self._shift
        unit.arrival_mono = now
        self._newest, self._newest_mono = max(self._newest, unit.dts), now
        if now - self._opened_mono > STEADY_S:
            self._backoff_s = BACKOFF_FIRST_S
        self.publish(unit)

    def _note(self, note: dict[str, Any]) -> None:
        if "end" in note:
            self._ended(str(note["end"]), str(note.get("detail", "")))
        elif note.get("audio"):
            self.stream.audio_announced = True

    def _ended(self, cause: str, detail: str) -> None:
        """The process is of no use any more; another one is started after a pause."""
        self._hang_up()
        self._again(cause, detail)

    def _again(self, cause: str, detail: str) -> None:
        self.last_cause, self.last_detail = cause, detail
        log.info(
            "event=input_lost stream_id=%s cause=%s units=%d detail=%s",
            *(self.stream.stream_id, cause, self.units, detail),
        )
        if cause in TELL_AT_ONCE and (not self.units or cause == "ended"):
            self.lose(cause)
        if self._closed or cause == "ended":
            return
        pause = self._backoff_s * random.uniform(0.8, 1.2)
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_LAST_S)
        self._retry = asyncio.get_running_loop().call_later(pause, self._begin)

    def _hang_up(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None
            self._dropped_before += self._dropped
            self._dropped = 0
