"""One stream's WebRTC viewers: each picture is made into packets once, each viewer gets them at a pace it can take."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from media.pump import Pump
from media.readers import h264_rtp, h265_rtp
from media.readers.rtc import DirectSender, MediaClock
from media.readers.rtc_packets import UnitPackets
from media.stream import Reader, Stream, StreamEnded
from media.unit import AccessUnit, Codec

PACE_BIT_S = 40_000_000
"""Bursts (key frames, the cached start) leave at this rate: unpaced ones overrun receive buffers."""
PACE_SLACK_S = 0.004
PACE_LATE_S = 0.5
"""A pump that comes late makes up for so much at once."""
PENDING_BYTES = 12 * 1024 * 1024
"""More than this waiting for one viewer, and all is dropped up to the next key frame."""
BACKLOG_UNITS = 12
"""With more than this waiting, a new key frame goes first and what waits is left out."""
REPEAT_S = 1.0
"""At most one repetition of the cached group of pictures per viewer in this time."""
REPEAT_UNITS = 1500
CACHED_UNITS = 256
G711_PACKET_BYTES = 480
"""60 ms: some devices send their G.711 in larger pieces than receivers like."""

_PACKETISE: dict[Codec, Callable[[bytes], list[bytes]]] = {
    Codec.H264: h264_rtp.packetise,
    Codec.H265: h265_rtp.packetise,
}
_G711 = frozenset({Codec.PCMA, Codec.PCMU})

Sounds = Sequence[tuple[int, UnitPackets]]
"""Audio packets with their times, in samples."""


class Pacer:
    """Holds a burst to a bit rate; what is live anyway passes without waiting."""

    def __init__(self, bit_s: int = PACE_BIT_S) -> None:
        self._per_byte_s = 8 / bit_s
        self._due = 0.0

    def ready(self, now: float) -> bool:
        return self._due - now <= PACE_SLACK_S

    def begin(self, now: float) -> None:
        """Something is to be sent after nothing was."""
        self._due = max(self._due, now)

    def sent(self, size: int, now: float) -> None:
        """While something waits, the time that passes counts, also when nobody looked in time."""
        self._due = max(self._due, now - PACE_LATE_S) + size * self._per_byte_s


@dataclass(slots=True)
class _Waiting:
    packets: UnitPackets
    stamp: int
    next_piece: int = 0


class Outbox:
    """What one viewer has still to get of the picture. It works when a picture comes and on the pump's ticks.

    ``on_drop(count)`` hears of pictures left out; ``on_key_wanted`` is called when only a key frame helps.
    """

    def __init__(
        self,
        video: DirectSender,
        pump: Pump,
        *,
        on_drop: Callable[[int], None],
        on_key_wanted: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.needs_key = True
        self.repeats = 0
        self._video = video
        self._pump = pump
        self._on_drop = on_drop
        self._on_key_wanted = on_key_wanted
        self._clock = clock
        self._pacer = Pacer()
        self._pending: deque[_Waiting] = deque()
        self._bytes = 0
        self._last_stamp: int | None = None
        self._repeat_after = 0.0

    def push(self, packets: UnitPackets, pts: int, *, key: bool) -> None:
        """The next picture in order."""
        if self.needs_key and not key:
            self._on_drop(1)
            return
        if (key and len(self._pending) > BACKLOG_UNITS) or self._bytes > PENDING_BYTES:
            self._skip()
            if not key:
                self._lost(1)
                return
        self.needs_key = False
        stamp = pts if self._last_stamp is None else max(pts, self._last_stamp + 1)
        self._append(packets, stamp)
        self._go()

    def repeat(self, units: Sequence[UnitPackets]) -> bool:
        """Send the group of pictures again to a player that lost its reference. False: not now, or not possible.

        The pictures are numbered on from the last one sent, a tick apart: a player's clock never runs backwards, and
        it decodes them at once to catch up with the live picture.
        """
        now = self._clock()
        last = self._last_stamp
        if (
            self._pending
            or last is None
            or not units
            or len(units) > REPEAT_UNITS
            or now < self._repeat_after
        ):
            return False
        self.repeats += 1
        self._repeat_after = now + REPEAT_S
        for place, packets in enumerate(units, 1):
            self._append(packets, last + place)
        self._go()
        return True

    def close(self) -> None:
        self._pending.clear()
        self._pump.forget(self)

    def _append(self, packets: UnitPackets, stamp: int) -> None:
        if not self._pending:
            self._pacer.begin(self._clock())
        self._pending.append(_Waiting(packets, stamp))
        self._bytes += packets.bytes
        self._last_stamp = stamp

    def _skip(self) -> None:
        """Leave out what waits, but finish the picture that has been begun."""
        begun = self._pending[0] if self._pending and self._pending[0].next_piece else None
        self._on_drop(len(self._pending) - (begun is not None))
        self._pending.clear()
        self._bytes = 0
        if begun is not None:
            self._pending.append(begun)
            self._bytes = begun.packets.bytes

    def _lost(self, count: int) -> None:
        self._on_drop(count)
        self.needs_key = True
        self._on_key_wanted()

    def _go(self) -> None:
        if self._work(self._clock()):
            self._pump.every_tick(self, self._work)

    def _work(self, now: float) -> bool:
        """Send what the pace allows; whether something is left."""
        video, pacer, pending = self._video, self._pacer, self._pending
        while pending:
            if not pacer.ready(now):
                return True
            first = pending[0]
            sent = video.send(first.packets, first.next_piece, first.stamp)
            if not sent:
                count = len(pending)
                pending.clear()
                self._bytes = 0
                self._lost(count)
                return False
            pacer.sent(sent, now)
            first.next_piece += 1
            if first.next_piece >= video.pieces(first.packets):
                pending.popleft()
                self._bytes -= first.packets.bytes
        return False


class ChannelViewer(Protocol):
    """What the channel needs of a viewer."""

    outbox: Outbox

    def hear(self, sounds: Sounds) -> None: ...

    def end(self, cause: str) -> None: ...


class RtcChannel:
    """Reads one stream for all its WebRTC viewers, from the first one's joining to the last one's leaving."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.clock = MediaClock()
        self.viewers: set[ChannelViewer] = set()
        self._codec = Codec(stream.video.codec) if stream.video is not None else Codec.H264
        # The unit is kept beside its packets: an id alone could be given to another object.
        self._cache: OrderedDict[int, tuple[AccessUnit, UnitPackets]] = OrderedDict()
        self._reader: Reader | None = None
        self._live = False
        self._task: asyncio.Task[None] | None = None

    def join(self, viewer: ChannelViewer) -> None:
        """Begin with the cached group of pictures. StreamEnded."""
        if self._reader is None:
            self._live = False
            self._reader = self.stream.attach("webrtc", on_unit=self._take)
            self._live = True
            self._task = asyncio.create_task(self._until_the_end(self._reader))
        self.viewers.add(viewer)
        pictures = [unit for unit in self.stream.gop() if unit.codec is self._codec]
        for unit in pictures:
            viewer.outbox.push(self.packets(unit), unit.pts, key=unit.key)
        if not pictures:
            self.stream.request_key_frame()

    def leave(self, viewer: ChannelViewer) -> None:
        """Idempotent."""
        self.viewers.discard(viewer)
        if not self.viewers:
            self._detach()

    async def close(self) -> None:
        """Stop reading (the node is stopping)."""
        task = self._task
        self._detach()
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _detach(self) -> None:
        if self._reader is not None:
            self._reader.detach()
            self._reader = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._cache.clear()

    async def _until_the_end(self, reader: Reader) -> None:
        """A reader with a callback hands out nothing here but the end."""
        try:
            await reader.next()
        except StreamEnded as ended:
            if self._reader is reader:
                self._end_all(ended.cause)

    def _end_all(self, cause: str) -> None:
        for viewer in tuple(self.viewers):
            viewer.end(cause)

    def packets(self, unit: AccessUnit) -> UnitPackets:
        """The picture's packets, made once for all viewers."""
        entry = self._cache.get(id(unit))
        if entry is None:
            entry = self._cache[id(unit)] = (unit, UnitPackets(_PACKETISE[self._codec](unit.data)))
            if len(self._cache) > CACHED_UNITS:
                self._cache.popitem(last=False)
        return entry[1]

    def picture_lost(self, viewer: ChannelViewer) -> None:
        """A player says that it cannot go on (RFC 4585 6.3.1): help from the cache, and ask the camera as well."""
        self.stream.request_key_frame()
        viewer.outbox.repeat([self.packets(unit) for unit in self.stream.gop() if unit.codec is self._codec])

    def _take(self, unit: AccessUnit) -> None:
        if not self._live:
            if unit.codec is self._codec and unit.arrival_mono:
                self.clock.note(unit.pts, unit.arrival_mono)
            return
        if unit.codec is self._codec:
            self.clock.note(unit.pts, unit.arrival_mono or time.monotonic())
            packets = self.packets(unit)
            for viewer in tuple(self.viewers):
                viewer.outbox.push(packets, unit.pts, key=unit.key)
        elif unit.codec.is_video:
            self._end_all("unsupported")
        elif unit.codec in _G711:
            sounds = _sounds(unit)
            for viewer in tuple(self.viewers):
                viewer.hear(sounds)


def _sounds(unit: AccessUnit) -> Sounds:
    stamp, data = unit.pts * 8000 // 90000, unit.data
    return [
        (stamp + start, UnitPackets([data[start : start + G711_PACKET_BYTES]]))
        for start in range(0, len(data), G711_PACKET_BYTES)
    ]
