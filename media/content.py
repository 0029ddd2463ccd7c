"""From runs of packets to access units: where frames end, which container it is, which packet began a key frame. Pure.

Frames end on a change of the RTP timestamp; the marker bit is only believed after it has proven right
(GB/T 28181-2022 4.3.6; field practice). What the payload is, is decided by looking: program stream, transport stream
where a program stream was promised (field quirk 46), or elementary payloads by the negotiated rtpmap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from media import rtp
from media.es import AudioDepacketizer, Payloads, VideoDepacketizer
from media.ps import PsDemuxer
from media.runs import Run
from media.specs import PayloadFormat
from media.timeline import Timeline
from media.ts import TsDemuxer, looks_like_ts
from media.unit import ENCODINGS, AccessUnit, Codec

_TRUST_AFTER = 3
_DISTRUST = 50
_FLUSH_S = 0.2
"""A frame that stays open longer than this is handed on in pieces: the timestamps do not change."""
_MAX_FRAME_PACKETS = 8192
_PATIENCE_FRAMES = 40
"""Frames without any start code of a program stream, after which the payload is something else."""


class Decoder(Protocol):
    """Payloads of one RTP timestamp in, access units out."""

    @property
    def audio_announced(self) -> bool: ...

    @property
    def resyncs(self) -> int: ...

    def feed(
        self, payloads: Payloads, rtp_timestamp: int, *, gap: bool, end: bool, now: float
    ) -> list[AccessUnit]: ...


class PsDecoder:
    """A program stream behind the Decoder interface."""

    def __init__(self) -> None:
        self.ps = PsDemuxer()
        self.frames = 0

    @property
    def audio_announced(self) -> bool:
        return self.ps.audio_announced

    @property
    def resyncs(self) -> int:
        return self.ps.resyncs

    def feed(
        self, payloads: Payloads, rtp_timestamp: int, *, gap: bool, end: bool, now: float
    ) -> list[AccessUnit]:
        self.frames += end
        return self.ps.feed(b"".join(payloads), rtp_timestamp, gap=gap, end=end, now=now)


class TsDecoder:
    """A transport stream behind the Decoder interface."""

    def __init__(self) -> None:
        self.ts = TsDemuxer()

    @property
    def audio_announced(self) -> bool:
        return self.ts.audio_announced

    @property
    def resyncs(self) -> int:
        return self.ts.resyncs

    def feed(
        self, payloads: Payloads, rtp_timestamp: int, *, gap: bool, end: bool, now: float
    ) -> list[AccessUnit]:
        return self.ts.feed(b"".join(payloads), rtp_timestamp, gap=gap, now=now)


def _timeline(decoder: Decoder) -> Timeline | None:
    if isinstance(decoder, PsDecoder):
        return decoder.ps.timeline
    if isinstance(decoder, TsDecoder):
        return decoder.ts.timeline
    return decoder.timeline if isinstance(decoder, VideoDepacketizer) else None


class Content:
    """One session's packets as frames and units.

    ``publish(unit, first_index)`` gets each unit with the index of the first packet that it came from;
    ``on_fault(kind, detail)`` gets ``media_mismatch`` once.
    """

    def __init__(
        self,
        *,
        payloads: Sequence[PayloadFormat],
        publish: Callable[[AccessUnit, int], None],
        on_fault: Callable[[str, str], None] | None = None,
    ) -> None:
        self.payloads = tuple(payloads)
        self.mismatch: str | None = None
        self._publish = publish
        self._on_fault = on_fault
        self._decoders: dict[int, Decoder] = {}
        self._decoder: Decoder | None = None
        self._payload_type = -1
        self._pieces: list[bytes | memoryview] = []
        self._stamp: int | None = None
        self._first_marked = False
        self._count = 0
        self._gap = False
        self._frame_index = 0
        self._unit_index: int | None = None
        self._opened = 0.0
        self._trust = 0
        self._closed_by_marker = False
        self._last_marked = False
        self._joins = True
        """Whether the decoder takes one string of bytes as well as single payloads."""
        self._sniffed: set[int] = set()

    @property
    def resyncs(self) -> int:
        return sum(decoder.resyncs for decoder in self._decoders.values())

    @property
    def jumps(self) -> int:
        """How often a sender's clock was found elsewhere than before."""
        timelines = map(_timeline, self._decoders.values())
        return sum(timeline.jumps for timeline in timelines if timeline is not None)

    @property
    def audio_announced(self) -> bool:
        return any(decoder.audio_announced for decoder in self._decoders.values())

    def renegotiate(self, payloads: Sequence[PayloadFormat]) -> None:
        """The answer chose payload types. Decoders that found out themselves stay."""
        if tuple(payloads) != self.payloads:
            self.payloads = tuple(payloads)
            for number in [number for number in self._decoders if number not in self._sniffed]:
                if not isinstance(self._decoders[number], PsDecoder):
                    del self._decoders[number]
            self._payload_type = -1

    def take(self, run: Run) -> None:
        """All packets of one run. Payload bytes are copied; the run may be reused afterwards."""
        if run.payload_type != self._payload_type:
            self._close(run.arrival)
            self._choose(run)
        if run.lost:
            self._gap_before(run)
        buffer, view, starts, sizes, stamps = run.buffer, run.view, run.starts, run.sizes, run.stamps
        count = len(sizes)
        at = 0
        while at < count:
            stamp = stamps[at]
            if stamp != self._stamp:
                self._begin(stamp, run)
            elif self._closed_by_marker:
                self._trust, self._closed_by_marker = -_DISTRUST, False  # the frame went on behind its marker
            if at == 0 and stamps.count(stamp) == count:
                until = count
            else:
                until = at + 1
                while until < count and stamps[until] == stamp:
                    until += 1
            if self._count == 0:
                self._first_marked = buffer[starts[at] + 1] >= 0x80
                self._frame_index = run.index + at
            if run.plain and self._joins:
                self._pieces += run.payloads(at, until)
            elif run.plain:
                self._pieces += [view[starts[i] + 12 : starts[i] + sizes[i]] for i in range(at, until)]
            else:
                self._pieces += [_payload(view[starts[i] : starts[i] + sizes[i]]) for i in range(at, until)]
            self._count += until - at
            at = until
            marked = buffer[starts[until - 1] + 1] >= 0x80
            if until < count:
                self._judge(marked)
                self._close(run.arrival)
            elif marked and self._trust >= _TRUST_AFTER and not (self._first_marked and self._count > 1):
                self._closed_by_marker = True
                self._close(run.arrival)
            else:
                self._last_marked = marked
        if self._pieces:
            if run.arrival - self._opened > _FLUSH_S or self._count > _MAX_FRAME_PACKETS:
                self._hand_on(run.arrival, end=False)
            else:
                self._pieces = (
                    [b"".join(self._pieces)] if self._joins else [bytes(piece) for piece in self._pieces]
                )

    def restart(self) -> None:
        """Forget the frame in progress: the next run is not the one that followed."""
        self._pieces = []
        self._count = 0
        self._stamp = None
        self._unit_index = None
        self._closed_by_marker = False
        self._gap = True

    def flush(self, now: float) -> None:
        """The frame in progress, at the end of the session."""
        self._close(now)

    def _begin(self, stamp: int, run: Run) -> None:
        """A new timestamp: the frame before ends here."""
        if self._pieces or self._count:
            self._judge(self._last_marked)
            self._close(run.arrival)
        self._closed_by_marker = False
        self._stamp = stamp
        self._opened = run.arrival

    def _judge(self, marked: bool) -> None:
        """Whether the marker stood where the frame really ended, and only there."""
        good = marked and (self._count == 1 or not self._first_marked)
        self._trust = self._trust + 1 if good else min(self._trust, 0)

    def _gap_before(self, run: Run) -> None:
        if self._pieces:
            self._hand_on(run.arrival, end=run.stamps[0] != self._stamp)
        self._gap = True

    def _close(self, now: float) -> None:
        if self._pieces or self._count:
            self._hand_on(now, end=True)
        self._count = 0

    def _hand_on(self, now: float, *, end: bool) -> None:
        pieces, self._pieces = self._pieces, []
        gap, self._gap = self._gap, False
        decoder = self._decoder
        if decoder is None or self._stamp is None:
            return
        if self._unit_index is None:
            self._unit_index = self._frame_index
        units = decoder.feed(pieces, self._stamp, gap=gap, end=end, now=now)
        if units:
            first, self._unit_index = self._unit_index, None
            for unit in units:
                self._publish(unit, first)
        elif gap:
            self._unit_index = None
        if isinstance(decoder, PsDecoder) and decoder.ps.system_starts == 0:
            self._doubt(decoder, pieces)

    # --- what it is --------------------------------------------------------------------------------------------

    def _choose(self, run: Run) -> None:
        number = run.payload_type
        self._payload_type = number
        self._decoder = self._decoders.get(number)
        if self._decoder is None:
            self._decoder = self._decoders[number] = self._new_decoder(
                number, _payload(memoryview(run.packet(0)))
            )
        self._joins = isinstance(self._decoder, PsDecoder | TsDecoder)

    def _new_decoder(self, number: int, payload: bytes | memoryview) -> Decoder:
        negotiated = next((item for item in self.payloads if item.number == number), None)
        if looks_like_ts(payload):
            self._tell(f"payload_type={number} payload=MPEG-TS")
            self._sniffed.add(number)
            return TsDecoder()
        if bytes(payload[:4]) == b"\x00\x00\x01\xba":
            if negotiated is not None and negotiated.encoding.upper() not in ("PS", "MP2P"):
                self._tell(f"payload_type={number} negotiated={negotiated.encoding} payload=PS")
            elif negotiated is None and self.payloads:
                self._tell(f"payload_type={number} payload=PS not negotiated")
            self._sniffed.add(number)
            return PsDecoder()
        if negotiated is None:
            if number in _STATIC:
                return AudioDepacketizer(_STATIC[number], 8000)
            return PsDecoder()
        codec = ENCODINGS.get(negotiated.encoding.upper())
        if codec in (Codec.H264, Codec.H265):
            return VideoDepacketizer(codec)
        if codec is not None and not codec.is_video:
            return AudioDepacketizer(codec, negotiated.clock_rate_hz)
        return PsDecoder()

    def _doubt(self, decoder: PsDecoder, pieces: list[bytes | memoryview]) -> None:
        """No start code of a program stream so far: look again, and give up after a while."""
        number = self._payload_type
        head = bytes(pieces[0][:188]) if pieces else b""
        if head[:1] == b"\x47" and len(pieces[0]) >= 376 and pieces[0][188] == 0x47:
            self._tell(f"payload_type={number} payload=MPEG-TS")
            self._sniffed.add(number)
            self._decoder = self._decoders[number] = TsDecoder()
        elif decoder.frames >= _PATIENCE_FRAMES:
            self._tell(f"payload_type={number} payload=unknown head={head[:8].hex()}")

    def _tell(self, detail: str) -> None:
        if self.mismatch is None:
            self.mismatch = detail
            if self._on_fault is not None:
                self._on_fault("media_mismatch", detail)


_STATIC = {0: Codec.PCMU, 4: Codec.G723, 8: Codec.PCMA, 9: Codec.G722, 18: Codec.G729}


def _payload(packet: memoryview) -> memoryview | bytes:
    bounds = rtp.payload_bounds(packet)
    return b"" if bounds is None else packet[bounds[0] : bounds[1]]
