"""One live stream inside a node: a source publishes access units, many bounded readers take them.

A new reader first gets the units since the last undamaged key frame, so it has a picture at once. A reader whose
queue overflows, or to whom a damaged picture would come, is moved on to the next undamaged key frame: what is
handed out can always be decoded. What was left out is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from media import nal
from media.specs import AudioTrack, VideoTrack
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

KEY_FRAME_INTERVAL_S = 2.0
"""At most one request for a key frame per stream in this time."""
AUDIO_GRACE_TICKS = TICKS_PER_SECOND * 3 // 10
"""How long an announced audio track may keep back readiness after the first key frame."""
AUDIO_ONLY_TICKS = 2 * TICKS_PER_SECOND
"""Audio alone for this long makes a stream without any picture ready."""

_SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


class StreamEnded(Exception):
    """The stream was closed, or the reader was detached. ``cause`` is a short word."""

    def __init__(self, cause: str = "closed") -> None:
        super().__init__(cause)
        self.cause = cause


class Reader:
    """One consumer's bounded queue of access units.

    With ``on_unit`` there is no queue: the callback runs inside :meth:`Stream.publish` and must be short.
    """

    def __init__(
        self, stream: Stream, kind: str, limit: int, on_unit: Callable[[AccessUnit], None] | None
    ) -> None:
        self.stream = stream
        self.kind = kind
        self.dropped = 0
        """Units left out for this reader: queue overflow, and pictures skipped on the way to a key frame."""
        self.waiting_for_key = True
        self.closed_cause: str | None = None
        self._limit = limit
        self._on_unit = on_unit
        self._queue: deque[AccessUnit] = deque()
        self._started = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def next(self) -> AccessUnit:
        """The next unit in order. Raises StreamEnded when the stream closed and the queue is used up."""
        while not self._queue:
            if self.closed_cause is not None:
                raise StreamEnded(self.closed_cause)
            if self._waiter is not None:
                raise RuntimeError("a reader has one consumer")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._queue.popleft()

    def detach(self) -> None:
        """Leave the stream. Idempotent; a pending :meth:`next` raises StreamEnded."""
        self.stream.remove(self)
        self.close("detached")

    def close(self, cause: str) -> None:
        """No more units will come (called by the stream)."""
        if self.closed_cause is None:
            self.closed_cause = cause
            self._wake()

    def offer(self, unit: AccessUnit) -> bool:
        """Take one unit or count it as dropped. True when the reader has just begun to wait for a key frame."""
        if self.waiting_for_key and not self._ends_waiting(unit):
            self.dropped += 1
            return False
        if unit.damaged and unit.codec.is_video:
            self.waiting_for_key = True
            self.dropped += 1
            return True
        if self._on_unit is not None:
            self._on_unit(unit)
            return False
        if len(self._queue) >= self._limit and self._overflow():
            self.dropped += 1
            return True
        self._queue.append(unit)
        self._wake()
        return False

    def _ends_waiting(self, unit: AccessUnit) -> bool:
        """Whether a waiting reader may have this unit: a whole key frame, or audio that goes on between pictures."""
        if unit.key and not unit.damaged:
            self.waiting_for_key = False
            self._started = True
            return True
        if unit.codec.is_video:
            return False
        # Audio goes on while a damaged picture is skipped, but never starts before the first picture.
        return self._started or (self.stream.ready and self.stream.video is None)

    def _overflow(self) -> bool:
        """Make room. With video all is dropped up to the next key frame (True); audio alone loses its oldest."""
        if self.stream.video is None:
            self._queue.popleft()
            self.dropped += 1
            return False
        self.dropped += len(self._queue)
        self._queue.clear()
        self.waiting_for_key = True
        self._started = False
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Stream:
    """One source's access units with the cache of the running group of pictures.

    ``on_ready`` fires once; ``on_key_frame_wanted`` at most once per 2 s; ``on_fault(kind, detail)`` on a change of
    codec in flight. ``gop_cache_bytes`` bounds the cache: a longer group of pictures is not kept, and new readers
    then wait for the next key frame.
    """

    def __init__(
        self,
        stream_id: str,
        *,
        gop_cache_bytes: int = 8 * 1024 * 1024,
        queue_units: int = 512,
        on_ready: Callable[[Stream], None] | None = None,
        on_key_frame_wanted: Callable[[Stream], None] | None = None,
        on_fault: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream_id = stream_id
        self.video: VideoTrack | None = None
        self.audio: AudioTrack | None = None
        self.ready = False
        self.closed = False
        self.on_use: Callable[[], None] | None = None
        """Called before units are read or waited for: a source that rests (nobody watched) catches up."""
        self._last_key: AccessUnit | None = None
        self.readers: list[Reader] = []
        self.audio_announced = False
        """The source said that audio will come; readiness waits a moment for it."""
        self.video_units = self.audio_units = self.key_units = self.damaged_units = 0
        self.reader_drops = 0
        """Drops of readers that have left; :attr:`total_drops` adds those present."""
        self.generation = 0
        """Counts changes of the video codec in flight; readers compare it to restart their muxers."""
        self._gop: list[AccessUnit] = []
        self._gop_bytes = 0
        self._gop_open = False
        self._gop_limit = gop_cache_bytes
        self._queue_units = queue_units
        self._on_ready = on_ready
        self._on_key_frame_wanted = on_key_frame_wanted
        self._on_fault = on_fault
        self._clock = clock
        self._key_frame_asked_mono: float | None = None
        self._ready_waiters: set[asyncio.Future[None]] = set()
        self._closed_cause = "closed"
        self._first_key_dts: int | None = None
        self._first_audio_dts: int | None = None
        self._sps_seen = b""
        self._last_video_pts = 0

    # --- source side -------------------------------------------------------------------------------------------

    def publish(self, unit: AccessUnit) -> None:
        """Hand one unit to the cache and to all readers."""
        if self.closed:
            return
        if unit.codec.is_video:
            self._note_video(unit)
        else:
            self._note_audio(unit)
        self._cache(unit)
        wanted = False
        for reader in tuple(self.readers):
            wanted |= reader.offer(unit)
        if wanted:
            self.request_key_frame()
        if not self.ready:
            self._check_ready(unit)

    def close(self, cause: str = "closed") -> None:
        """End the stream: readers drain what they have and then see StreamEnded. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._closed_cause = cause
        for reader in tuple(self.readers):
            reader.close(cause)
        for waiter in self._ready_waiters:
            if not waiter.done():
                waiter.set_exception(StreamEnded(cause))
        self._clear_gop()
        self._last_key = None

    def _note_video(self, unit: AccessUnit) -> None:
        self.video_units += 1
        self.damaged_units += unit.damaged
        if self.video is None or self.video.codec != unit.codec:
            if self.video is not None:
                self._clear_gop()
                self._last_key = None
                self.generation += 1
                for reader in self.readers:
                    reader.waiting_for_key = True
                if self._on_fault is not None:
                    self._on_fault("codec_changed", f"{self.video.codec} -> {unit.codec}")
            self.video = VideoTrack(codec=unit.codec.value)
            self._sps_seen = b""
        if unit.key:
            self.key_units += 1
            if not unit.damaged:
                self._last_key = unit
                self._describe(unit)
        elif not self.video.has_b_frames and unit.pts < self._last_video_pts:
            self.video = self.video.model_copy(update={"has_b_frames": True})
        self._last_video_pts = unit.pts

    def _describe(self, unit: AccessUnit) -> None:
        """Read the picture size from the parameter sets in front of a key frame, when they have changed."""
        head = unit.data[:128]
        if head == self._sps_seen or self.video is None:
            return
        self._sps_seen = head
        info = nal.describe(unit.codec, unit.data)
        if info is not None:
            self.video = VideoTrack(
                codec=unit.codec.value,
                width=info.width,
                height=info.height,
                has_b_frames=self.video.has_b_frames or bool(info.num_reorder_frames),
            )

    def _note_audio(self, unit: AccessUnit) -> None:
        self.audio_units += 1
        if self.audio is None or self.audio.codec != unit.codec:
            rate, channels = _audio_format(unit)
            self.audio = AudioTrack(codec=unit.codec.value, clock_rate_hz=rate, channels=channels)

    def _check_ready(self, unit: AccessUnit) -> None:
        if self._last_key is not None:
            if self._first_key_dts is None:
                self._first_key_dts = self._last_key.dts
            waiting = self.audio_announced and self.audio is None
            if waiting and abs(unit.dts - self._first_key_dts) < AUDIO_GRACE_TICKS:
                return
        elif self.video is None and not unit.codec.is_video:
            if self._first_audio_dts is None:
                self._first_audio_dts = unit.dts
            if unit.dts - self._first_audio_dts < AUDIO_ONLY_TICKS:
                return
        else:
            return
        self.ready = True
        for waiter in self._ready_waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._on_ready is not None:
            self._on_ready(self)

    def _cache(self, unit: AccessUnit) -> None:
        if unit.key and not unit.damaged:
            self._gop = [unit]
            self._gop_bytes = len(unit.data)
            self._gop_open = True
            return
        if not self._gop_open:
            return
        if unit.damaged and unit.codec.is_video:
            self._gop_open = False  # what was kept so far can be shown; what follows cannot
            return
        self._gop_bytes += len(unit.data)
        if self._gop_bytes > self._gop_limit:
            self._clear_gop()
            return
        self._gop.append(unit)

    def _clear_gop(self) -> None:
        self._gop = []
        self._gop_bytes = 0
        self._gop_open = False

    # --- reader side -------------------------------------------------------------------------------------------

    def attach(self, kind: str, *, on_unit: Callable[[AccessUnit], None] | None = None) -> Reader:
        """A new reader, already given the cached group of pictures. Raises StreamEnded on a closed stream."""
        if self.closed:
            raise StreamEnded(self._closed_cause)
        self._use()
        reader = Reader(self, kind, max(self._queue_units, len(self._gop) + 64), on_unit)
        self.readers.append(reader)
        for unit in tuple(self._gop):
            reader.offer(unit)
        if self._gop and not self._gop_open:
            reader.waiting_for_key = True
        if reader.waiting_for_key and (self.video is not None or not self.ready):
            self.request_key_frame()
        return reader

    def remove(self, reader: Reader) -> None:
        """Forget a reader; its drops stay in the stream's total."""
        if reader in self.readers:
            self.readers.remove(reader)
            self.reader_drops += reader.dropped

    @property
    def total_drops(self) -> int:
        return self.reader_drops + sum(reader.dropped for reader in self.readers)

    def gop(self) -> list[AccessUnit]:
        """The units since the last undamaged key frame, oldest first; empty when there is none."""
        self._use()
        return list(self._gop)

    @property
    def last_key(self) -> AccessUnit | None:
        """The newest undamaged key frame, for snapshots."""
        self._use()
        return self._last_key

    def rest(self) -> None:
        """The source stops publishing until ``on_use``: what is cached grows old and is forgotten."""
        self._clear_gop()
        self._last_key = None

    def _use(self) -> None:
        if self.on_use is not None and not self.closed:
            self.on_use()

    @property
    def gop_bytes(self) -> int:
        return self._gop_bytes

    async def wait_ready(self, timeout_s: float) -> None:
        """Until the first key frame was seen. Raises TimeoutError, or StreamEnded when closed before."""
        if self.ready:
            return
        if self.closed:
            raise StreamEnded(self._closed_cause)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready_waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        finally:
            self._ready_waiters.discard(waiter)

    def on_key_frame_request(self, answer: Callable[[], None]) -> None:
        """A source that makes key frames itself takes the requests, in place of its owner."""
        self._on_key_frame_wanted = lambda _: answer()

    def request_key_frame(self) -> None:
        """Ask the source's owner for a key frame; requests within 2 s of the last one are left out."""
        now = self._clock()
        asked = self._key_frame_asked_mono
        if self.closed or (asked is not None and now - asked < KEY_FRAME_INTERVAL_S):
            return
        self._key_frame_asked_mono = now
        if self._on_key_frame_wanted is not None:
            self._on_key_frame_wanted(self)


def _audio_format(unit: AccessUnit) -> tuple[int, int]:
    """Clock rate in Hz and channels; from the ADTS header for AAC (ISO/IEC 13818-7 6.2)."""
    data = unit.data
    if unit.codec is Codec.AAC and len(data) >= 7 and data[0] == 0xFF and data[1] & 0xF0 == 0xF0:
        index = (data[2] >> 2) & 0x0F
        channels = ((data[2] & 1) << 2) | (data[3] >> 6)
        if index < len(_SAMPLE_RATES):
            return _SAMPLE_RATES[index], max(channels, 1)
    return 8000, 1
