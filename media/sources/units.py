"""A source that has access units already: an RTSP camera, a file, a recording, a transcoder.

Viewers read its stream like any other. For relays the units are muxed into a program stream and cut into RTP
packets, only while there is a relay; what goes upward is then no different from what a camera sends.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from media import rtp
from media.packet_cache import PacketCache
from media.ps_mux import PsMuxer
from media.readers.relay import Relay
from media.runs import Run
from media.specs import StreamStats
from media.stream import Stream
from media.unit import STREAM_TYPES, AccessUnit, Codec

PAYLOAD_TYPE = 96
PACKET_BYTES = 1400
"""RTP payload per packet (GB/T 28181-2022 C.1: below the path's MTU)."""
_MUXABLE = frozenset(STREAM_TYPES.values())


class PsPackets:
    """Access units in, runs of PS over RTP out. Pure. Indexes go on from unit to unit."""

    def __init__(self) -> None:
        self.index = 0
        self._muxer: PsMuxer | None = None
        self._stamp = -1
        self._video: Codec | None = None
        self._audio: Codec | None = None

    def expect(self, video: Codec | None, audio: Codec | None) -> None:
        """The tracks to announce from the next key frame on."""
        video = video if video in _MUXABLE else None
        audio = audio if audio in _MUXABLE else None
        if (video, audio) != (self._video, self._audio) or self._muxer is None:
            self._video, self._audio = video, audio
            self._muxer = PsMuxer(video, audio)

    def run(self, unit: AccessUnit) -> Run | None:
        """One unit as packets side by side; None for a codec that has no place in a program stream."""
        if unit.codec not in _MUXABLE:
            return None
        if unit.codec.is_video:
            self.expect(unit.codec, self._audio)
        else:
            self.expect(self._video, unit.codec)
        if self._muxer is None:
            return None
        # Two frames never share an RTP timestamp (2022 4.3.6), even when sound and picture are of one moment.
        self._stamp = unit.pts + (unit.pts == self._stamp)
        packets = rtp.RtpPacketizer(0, PAYLOAD_TYPE, PACKET_BYTES, sequence=self.index & 0xFFFF).packets(
            self._muxer.mux(unit), self._stamp
        )
        stride = rtp.HEADER_SIZE + PACKET_BYTES
        buffer = bytearray(b"".join(packets))
        sizes = [len(packet) for packet in packets]
        run = Run(
            buffer, memoryview(buffer), range(0, len(sizes) * stride, stride), sizes,
            [self._stamp & 0xFFFFFFFF] * len(sizes), index=self.index, payload_type=PAYLOAD_TYPE,
            arrival=unit.arrival_mono, stride=stride,
        )  # fmt: skip
        self.index += len(sizes)
        return run


class UnitSource:
    """Base of the sources that publish access units. Subclasses get units from somewhere and call :meth:`publish`.

    ``on_lost(cause)`` fires once per loss: no_rtp when nothing came for ``silence_s``, or what the subclass says.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        idle_grace_s: float = 10.0,
        silence_s: float = 15.0,
        cache_bytes: int = 8 * 1024 * 1024,
        on_lost: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = stream
        self.relays: list[Relay] = []
        self.idle_grace_s = idle_grace_s
        self.paused = False
        """Silence is meant: no loss is told."""
        self.units = 0
        self.bytes = 0
        self._silence_s = silence_s
        self._on_lost = on_lost
        self._clock = clock
        self._lost_told = False
        self._last_mono: float | None = None
        self._alive_mono = clock()
        self._packets = PsPackets()
        self._cache = PacketCache(cache_bytes)
        self._relayed_before = 0
        self._dropped_before = 0

    def publish(self, unit: AccessUnit) -> None:
        """One unit, in decoding order, on the event loop's thread."""
        self.units += 1
        self.bytes += len(unit.data)
        self._last_mono = self._alive_mono = self._clock()
        self._lost_told = False
        self.stream.publish(unit)
        if self.relays:
            run = self._packet_run(unit)
            if run is not None:
                for relay in tuple(self.relays):
                    relay.forward(run, lambda: run)

    def lose(self, cause: str) -> None:
        """Tell a loss once, until units come again."""
        if not self._lost_told:
            self._lost_told = True
            self._on_lost(cause)

    def check(self, now: float) -> None:
        if self.paused:
            self._alive_mono = now
        elif now - self._alive_mono > self._silence_s:
            self.lose("no_rtp")

    def close(self) -> None:
        """End relays and stream. Subclasses stop their task or thread first."""
        for relay in tuple(self.relays):
            relay.end_with_stream()
        self._cache.clear()
        self.stream.close()

    # --- packets for relays --------------------------------------------------------------------------------------

    def cached_runs(self) -> list[Run]:
        """Packets since the last key frame, made on the spot when there was no relay yet."""
        if not self.relays:
            self._cache.clear()
            video, audio = self.stream.video, self.stream.audio
            self._packets.expect(Codec(video.codec) if video else None, Codec(audio.codec) if audio else None)
            for unit in self.stream.gop():
                self._packet_run(unit)
        return self._cache.runs()

    def _packet_run(self, unit: AccessUnit) -> Run | None:
        run = self._packets.run(unit)
        if run is not None:
            self._cache.add(run)
            if unit.key and unit.codec.is_video:
                self._cache.cut(run.index)
        return run

    def add_relay(self, relay: Relay) -> None:
        self.relays.append(relay)

    def remove_relay(self, relay: Relay) -> None:
        if relay in self.relays:
            self.relays.remove(relay)
            self._relayed_before += relay.sent
            self._dropped_before += relay.dropped
        if not self.relays:
            self._cache.clear()

    def request_key_frame(self) -> None:
        self.stream.request_key_frame()

    def stats(self, now: float, viewers: int) -> StreamStats:
        """Counters since the opening; ``packets`` counts access units."""
        stream, last = self.stream, self._last_mono
        return StreamStats(
            stream_id=stream.stream_id, ready=stream.ready, video=stream.video, audio=stream.audio,
            packets=self.units, bytes=self.bytes, damaged_units=stream.damaged_units,
            video_units=stream.video_units, audio_units=stream.audio_units, key_units=stream.key_units,
            viewers=viewers, senders=len(self.relays), reader_drops=stream.total_drops,
            relay_packets=self._relayed_before + sum(relay.sent for relay in self.relays),
            relay_drops=self._dropped_before + sum(relay.dropped for relay in self.relays),
            last_packet_age_s=None if last is None else max(0.0, now - last),
        )  # fmt: skip
