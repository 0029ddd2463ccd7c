"""A transcoder: pictures that browsers cannot play in, H.264 that every browser plays out. ``python -m media.transcode``.

One process per stream, fed by its standard input and ended with it; it crashes alone. Both ways go frames of one form:
what it is (1 byte), flags (1), pts and dts (8 each, signed), length (4, all big endian), data. The first frame in is
the order as JSON. Out come Baseline pictures without B-frames, each as soon as its source has been decoded.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, BinaryIO

FRAME = struct.Struct(">BBqqI")
ORDER, H264, H265 = 0, 1, 2
KEY = 1
"""In: a key frame. Out: likewise."""
WANT_KEY = 2
"""In: encode this picture as a key frame."""
MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 8192 * 4608
MEMORY_LIMIT_BYTES = 2 << 30
GOP = 50
_DECODERS = {H264: "h264", H265: "hevc"}
_TICKS_PER_SECOND = 90_000


@dataclass(frozen=True, slots=True)
class Order:
    """What the pictures shall become: at most so large, the shape kept, at about this bit rate.

    Pictures up to the time ``after_pts`` are only decoded: a process before this one has made them already.
    """

    max_width: int = 1280
    max_height: int = 720
    bit_rate: int = 2_000_000
    after_pts: int = -1

    def frame(self) -> bytes:
        """The first frame in."""
        data = json.dumps(asdict(self)).encode()
        return FRAME.pack(ORDER, 0, 0, 0, len(data)) + data


def fitted(width: int, height: int, order: Order) -> tuple[int, int]:
    """The size of what comes out: even, never larger than the source."""
    scale = min(1.0, order.max_width / width, order.max_height / height)
    return max(2, round(width * scale) & ~1), max(2, round(height * scale) & ~1)


class Transcoder:
    """One stream's decoder and encoder. Blocks: only for the process of its own."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._decoder: Any = None
        self._kind = ORDER
        self._encoder: Any = None
        self._size = (0, 0)
        self._want_key = True
        self._last_pts = order.after_pts

    def take(self, kind: int, flags: int, pts: int, data: bytes) -> list[tuple[int, int, bytes]]:
        """One source picture in; (flags, pts, access unit) out. What cannot be decoded gives nothing."""
        import av  # only the worker pays for the codecs

        if kind != self._kind:
            self._kind = kind
            self._decoder = av.CodecContext.create(_DECODERS[kind], "r")
            self._decoder.thread_count = 1
            self._decoder.options = {"max_pixels": str(MAX_PIXELS)}
        self._want_key = self._want_key or bool(flags & WANT_KEY)
        packet = av.Packet(data)
        packet.pts = pts
        packet.time_base = Fraction(1, _TICKS_PER_SECOND)
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            return []
        return [unit for frame in frames for unit in self._encode(frame)]

    def _encode(self, frame: Any) -> list[tuple[int, int, bytes]]:
        from av.video.frame import PictureType

        if frame.pts is not None and frame.pts <= self._order.after_pts:
            return []
        size = fitted(frame.width, frame.height, self._order)
        if self._encoder is None or size != self._size:
            self._encoder, self._size = _encoder(size, self._order), size
            self._want_key = True
        pts = max(frame.pts if frame.pts is not None else 0, self._last_pts + 1)
        self._last_pts = pts
        small = frame.reformat(*size, format="yuv420p")
        small.pts, small.time_base = pts, Fraction(1, _TICKS_PER_SECOND)
        small.pict_type = PictureType.I if self._want_key else PictureType.NONE
        self._want_key = False
        return [
            (KEY if packet.is_keyframe else 0, packet.pts, bytes(packet))
            for packet in self._encoder.encode(small)
        ]


def _encoder(size: tuple[int, int], order: Order) -> Any:
    import av

    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, _TICKS_PER_SECOND)
    encoder.framerate = Fraction(25, 1)
    encoder.bit_rate = order.bit_rate
    encoder.gop_size = GOP
    encoder.max_b_frames = 0
    encoder.thread_count = 1
    kilobits = order.bit_rate // 1000
    encoder.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "profile": "baseline",
        "forced-idr": "1",
        "maxrate": f"{kilobits * 3 // 2}k",
        "bufsize": f"{kilobits}k",
    }
    return encoder


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Transcode until the input ends. ValueError when it is no stream of frames."""
    _, data = _read(source)
    transcoder = Transcoder(Order(**json.loads(data)))
    while True:
        head, data = _read(source)
        if not head:
            return
        kind, flags, pts, _, _ = FRAME.unpack(head)
        for key, out_pts, unit in transcoder.take(kind, flags, pts, data):
            sink.write(FRAME.pack(H264, key, out_pts, out_pts, len(unit)) + unit)
            sink.flush()


def _read(source: BinaryIO) -> tuple[bytes, bytes]:
    """Head and data of one frame; both empty at the end."""
    head = source.read(FRAME.size)
    if len(head) < FRAME.size:
        return b"", b""
    length = FRAME.unpack(head)[4]
    if length > MAX_FRAME_BYTES:
        raise ValueError("a frame is too long")
    return head, source.read(length)


def main() -> None:
    import resource  # POSIX only, and only in the worker

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the pictures
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
