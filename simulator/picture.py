"""A moving test picture with a running clock, encoded to H.264 or H.265, and a beeping G.711 tone.

Two rows of 32 black and white blocks at the top carry the time in milliseconds and the frame number, so that
whoever decodes a frame can tell which one it is and how old it is (`read_mark`, `read_strip`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import av
import numpy as np
from av.video.frame import PictureType
from PIL import Image, ImageDraw, ImageFont

from media.unit import AccessUnit, Codec

BEIJING = timezone(timedelta(hours=8))
TICKS_PER_S = 90_000
STRIP_BITS = 32
LOOP_EPOCH = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""The clock's start in a prepared loop: loops are the same bytes in every run."""

CHINESE_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
)
AUDIO_UNIT_S = 0.04
AUDIO_RATE_HZ = 8000

Plane = np.ndarray[Any, np.dtype[np.uint8]]

_BLACK, _WHITE = 16, 235
_BAR_COLOURS = ((128, 128), (90, 150), (150, 90), (110, 110), (160, 160), (100, 180), (180, 120), (128, 100))


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decoded frame says of itself: frame number (24 bits) and Unix time in ms modulo 2**32."""

    frame: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """Everything that decides the encoded bytes; equal settings share one prepared loop."""

    width: int = 1280
    height: int = 720
    rate: int = 25
    codec: str = "h264"
    bitrate: int = 1_000_000
    gop: int = 50
    label: str = ""
    preset: str = "ultrafast"
    profile: str = ""
    b_frames: int = 0


def _strip_height(width: int) -> int:
    return max(16, width // STRIP_BITS)


def _checksum(value: int) -> int:
    return (value * 0x9E3779B1 >> 24) & 0xFF


def _edges(width: int) -> list[int]:
    return [index * width // STRIP_BITS for index in range(STRIP_BITS + 1)]


def _read_row(grey: Plane, row: int) -> int:
    height = _strip_height(grey.shape[1])
    band = grey[row * height + height // 4 : row * height + 3 * height // 4]
    edges = _edges(grey.shape[1])
    value = 0
    for left, right in pairwise(edges):
        quarter = max(1, (right - left) // 4)
        value = value << 1 | int(band[:, left + quarter : right - quarter].mean() > 127)
    return value


def read_mark(picture: Plane) -> Mark | None:
    """Read both strips of a decoded frame (grey HxW, or HxWx3); None when the check byte does not fit."""
    grey = picture if picture.ndim == 2 else picture.mean(axis=2).astype(np.uint8)
    time_ms, counter = _read_row(grey, 0), _read_row(grey, 1)
    frame, check = counter >> 8, counter & 0xFF
    if check != _checksum(time_ms ^ frame):
        return None
    return Mark(frame, time_ms)


def read_strip(picture: Plane) -> int:
    """Unix time in milliseconds, modulo 2**32, at which the frame was drawn. ValueError: not readable."""
    mark = read_mark(picture)
    if mark is None:
        raise ValueError("the time strip of this picture is not readable")
    return mark.time_ms


class _Canvas:
    """The YUV 4:2:0 planes: the background is drawn once, each frame only repaints what moves."""

    def __init__(self, settings: PictureSettings) -> None:
        width, height = settings.width, settings.height
        self.width, self.height, self.rate = width, height, settings.rate
        # One array in the layout PyAV takes for yuv420p: luma rows, then the two chroma planes.
        self.pixels: Plane = np.zeros((height * 3 // 2, width), dtype=np.uint8)
        self.luma = self.pixels[:height]
        quarter = (height // 2) * (width // 2)
        flat = self.pixels.reshape(-1)[width * height :]
        self.blue = flat[:quarter].reshape(height // 2, width // 2)
        self.red = flat[quarter:].reshape(height // 2, width // 2)
        self._strip = _strip_height(width)
        self._edges = _edges(width)
        self._draw_background(settings.label)
        self._glyphs = self._draw_glyphs()
        glyph_height, glyph_width = self._glyphs["0"].shape
        self._clock_top, self._clock_left = (height * 3 // 8) & ~1, (width - 12 * glyph_width) // 2
        behind_clock = np.s_[
            self._clock_top // 2 : (self._clock_top + glyph_height) // 2,
            self._clock_left // 2 : (self._clock_left + 12 * glyph_width) // 2,
        ]
        self.blue[behind_clock], self.red[behind_clock] = 128, 128
        self._box = max(32, height // 8) & ~1
        self._box_top = (height * 5 // 8) & ~1
        self._behind_box = self.luma[self._box_top : self._box_top + self._box].copy()
        self._texture_top = height * 7 // 8
        rows, columns = height - self._texture_top, width
        noise = np.random.default_rng(28181).integers(60, 190, size=(rows // 4 + 1, columns // 4 + 1))
        self._texture = np.kron(noise, np.ones((4, 4))).astype(np.uint8)[:rows, :columns]

    def _draw_background(self, label: str) -> None:
        ramp = np.linspace(70, 150, self.width, dtype=np.float64)
        self.luma[:] = ramp.astype(np.uint8)
        bars = len(_BAR_COLOURS)
        for index, (blue, red) in enumerate(_BAR_COLOURS):
            columns = slice(index * self.width // 2 // bars, (index + 1) * self.width // 2 // bars)
            self.blue[:, columns], self.red[:, columns] = blue, red
        neutral = slice(0, self._strip)  # the strips are two blocks high: half of that in chroma rows
        self.blue[neutral], self.red[neutral] = 128, 128
        if label:
            image = Image.fromarray(self.luma)
            size = max(14, self.height // 14)
            top = 2 * self._strip + size // 3
            text, font = _written(label, size)
            ImageDraw.Draw(image).text((size, top), text, fill=_WHITE, font=font)
            self.luma[:] = np.asarray(image)

    def _draw_glyphs(self) -> dict[str, Plane]:
        cell_width = self.width * 4 // 5 // 12
        cell_height = min(self.height // 5, cell_width * 2)
        font = _font(min(cell_height * 4 // 5, cell_width * 3 // 2))
        glyphs = {}
        for character in "0123456789:.":
            image = Image.new("L", (cell_width, cell_height), _BLACK)
            ImageDraw.Draw(image).text(
                (cell_width / 2, cell_height / 2), character, fill=_WHITE, font=font, anchor="mm"
            )
            glyphs[character] = np.asarray(image)
        return glyphs

    def paint(self, index: int, now_unix: float) -> Plane:
        """Bring the canvas to frame ``index``, drawn at ``now_unix``; the next call reuses the array."""
        milliseconds = round(now_unix * 1000)
        time_ms, frame = milliseconds & 0xFFFFFFFF, index & 0xFFFFFF
        self._paint_row(0, time_ms)
        self._paint_row(1, frame << 8 | _checksum(time_ms ^ frame))
        self._paint_clock(milliseconds)
        box = self._box
        band = self.luma[self._box_top : self._box_top + box]
        band[:] = self._behind_box
        reach = self.width - box
        position = index * max(2, self.width // (4 * self.rate)) % (2 * reach)
        left = position if position < reach else 2 * reach - position
        band[:, left : left + box] = _WHITE
        self.luma[self._texture_top :] = np.roll(self._texture, index * 53, axis=1)
        return self.pixels

    def _paint_row(self, row: int, value: int) -> None:
        band = self.luma[row * self._strip : (row + 1) * self._strip]
        for bit, (left, right) in enumerate(pairwise(self._edges)):
            band[:, left:right] = _WHITE if value >> (STRIP_BITS - 1 - bit) & 1 else _BLACK

    def _paint_clock(self, milliseconds: int) -> None:
        clock = datetime.fromtimestamp(milliseconds // 1000, BEIJING)
        text = f"{clock:%H:%M:%S}.{milliseconds % 1000:03d}"
        height, width = self._glyphs["0"].shape
        top, left = self._clock_top, self._clock_left
        for position, character in enumerate(text):
            x = left + position * width
            self.luma[top : top + height, x : x + width] = self._glyphs[character]


def _written(label: str, size: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Text and font of a label. Without a Chinese font on this machine only what Pillow's own font has is drawn."""
    if not label.isascii():
        for path in CHINESE_FONTS:
            try:
                return label, ImageFont.truetype(path, size)
            except OSError:
                continue
        label = "".join(character for character in label if character.isascii()).strip()
    return label, _font(size)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _open_encoder(settings: PictureSettings) -> av.VideoCodecContext:
    library = {"h264": "libx264", "h265": "libx265"}[settings.codec]
    encoder = cast(av.VideoCodecContext, av.CodecContext.create(library, "w"))
    encoder.width, encoder.height = settings.width, settings.height
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, TICKS_PER_S)
    encoder.framerate = Fraction(settings.rate, 1)
    encoder.bit_rate = settings.bitrate
    encoder.gop_size = settings.gop
    encoder.max_b_frames = settings.b_frames
    encoder.thread_count = 1
    options = {"preset": settings.preset, "forced-idr": "1"}
    if not settings.b_frames:
        options["tune"] = "zerolatency"
    if settings.profile:
        options["profile"] = settings.profile
    kilobits = settings.bitrate // 1000
    rate_control = f"vbv-maxrate={kilobits}:vbv-bufsize={kilobits}"
    if settings.codec == "h264":
        options["x264-params"] = f"repeat-headers=1:scenecut=0:bframes={settings.b_frames}:{rate_control}"
    else:
        # pools=none and one frame thread: no thread pool of x265's own beside ours.
        options["x265-params"] = (
            "repeat-headers=1:scenecut=0:log-level=none:pools=none:frame-threads=1:"
            f"bframes={settings.b_frames}:open-gop=0:{rate_control}"
        )
    encoder.options = options
    return encoder


class TestPicture:
    """One live encoder. Not thread-safe; its calls take a few milliseconds of CPU each.

    ``width`` and ``height`` even, in pixels; ``rate`` in frames/s; ``bitrate`` in bit/s; ``gop`` in frames.
    Every key frame carries its parameter sets in front; without ``b_frames`` one frame in is one unit out.
    """

    __test__ = False  # no test case, whatever pytest makes of the name

    def __init__(
        self,
        width: int = 1280,
        height: int = 720,
        rate: int = 25,
        codec: str = "h264",
        bitrate: int = 1_000_000,
        gop: int = 50,
        label: str = "",
        *,
        preset: str = "ultrafast",
        profile: str = "",
        b_frames: int = 0,
    ) -> None:
        self.settings = PictureSettings(
            width, height, rate, codec, bitrate, gop, label, preset, profile, b_frames
        )
        self.codec = Codec.H264 if codec == "h264" else Codec.H265
        self._canvas: _Canvas | None = None
        self._encoder: av.VideoCodecContext | None = None

    def frame(self, index: int, *, key: bool = False, now_unix: float | None = None) -> AccessUnit:
        """Draw and encode frame ``index`` (pts = index / rate) with the clock at ``now_unix`` (default: now).

        ``key`` forces an IDR. Raises RuntimeError for settings with B-frames: they need `encoded_loop`.
        """
        units = self._encode(index, key=key, now_unix=time.time() if now_unix is None else now_unix)
        if len(units) != 1:
            raise RuntimeError("this encoder reorders frames; use encoded_loop()")
        return units[0]

    def jpeg(self, index: int = 0, *, now_unix: float | None = None) -> bytes:
        """Frame ``index`` as a JPEG, with the clock at ``now_unix`` (default: now)."""
        if self._canvas is None:
            self._canvas = _Canvas(self.settings)
        pixels = self._canvas.paint(index, time.time() if now_unix is None else now_unix)
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p").reformat(format="yuvj420p")
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "yuvj420p"
        encoder.time_base = Fraction(1, self.settings.rate)
        return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])

    def encoded_loop(self, seconds: float = 2.0) -> list[AccessUnit]:
        """Some seconds encoded once per settings, starting with a key frame; fresh records, shared bytes.

        The clock starts at `LOOP_EPOCH`, so that equal settings give equal bytes.
        """
        return [replace(unit) for unit in _encode_loop(self.settings, round(seconds * self.settings.rate))]

    def _encode(self, index: int, *, key: bool, now_unix: float) -> list[AccessUnit]:
        if self._encoder is None:
            self._encoder = _open_encoder(self.settings)
        if self._canvas is None:
            self._canvas = _Canvas(self.settings)
        pixels = self._canvas.paint(index, now_unix)
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
        frame.pts = index * TICKS_PER_S // self.settings.rate
        frame.time_base = Fraction(1, TICKS_PER_S)
        frame.pict_type = PictureType.I if key else PictureType.NONE
        return [self._unit(packet) for packet in self._encoder.encode(frame)]

    def _flush(self) -> list[AccessUnit]:
        return [] if self._encoder is None else [self._unit(packet) for packet in self._encoder.encode(None)]

    def _unit(self, packet: av.Packet[Any]) -> AccessUnit:
        pts, dts = packet.pts or 0, packet.dts or 0
        return AccessUnit(codec=self.codec, pts=pts, dts=dts, key=packet.is_keyframe, data=bytes(packet))


@lru_cache(maxsize=16)
def _encode_loop(settings: PictureSettings, frames: int) -> tuple[AccessUnit, ...]:
    picture = TestPicture(**{name: getattr(settings, name) for name in PictureSettings.__slots__})
    units: list[AccessUnit] = []
    for index in range(frames):
        units += picture._encode(index, key=index == 0, now_unix=LOOP_EPOCH + index / settings.rate)
    return tuple(units + picture._flush())


def _linear_to_alaw(samples: np.ndarray[Any, np.dtype[np.int16]]) -> bytes:
    """ITU-T G.711 A-law of 16-bit samples (the top 13 bits count)."""
    value = samples.astype(np.int32) >> 3
    sign = np.where(value >= 0, 0xD5, 0x55)
    magnitude = np.where(value >= 0, value, -value - 1)
    segment = np.maximum(0, np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 4)
    shift = np.maximum(segment, 1)
    code = segment << 4 | (magnitude >> shift & 0x0F)
    return bytes((code ^ sign).astype(np.uint8))


def _linear_to_ulaw(samples: np.ndarray[Any, np.dtype[np.int16]]) -> bytes:
    """ITU-T G.711 mu-law of 16-bit samples (the top 14 bits count)."""
    value = samples.astype(np.int32) >> 2
    sign = np.where(value >= 0, 0xFF, 0x7F)
    magnitude = np.minimum(np.abs(value), 8158) + 33
    segment = np.floor(np.log2(magnitude)).astype(np.int32) - 5
    code = segment << 4 | (magnitude >> (segment + 1) & 0x0F)
    return bytes((code ^ sign).astype(np.uint8))


@lru_cache(maxsize=4)
def _beep_second(codec: Codec) -> bytes:
    moments = np.arange(AUDIO_RATE_HZ) / AUDIO_RATE_HZ
    wave = np.sin(2 * math.pi * 1000 * moments) * 8000 * (moments < 0.2)
    samples = wave.astype(np.int16)
    return _linear_to_alaw(samples) if codec is Codec.PCMA else _linear_to_ulaw(samples)


def tone(seconds: float, codec: Codec = Codec.PCMA) -> list[AccessUnit]:
    """G.711 at 8 kHz in units of 40 ms (320 bytes): a 1 kHz beep in the first 0.2 s of each second."""
    samples = round(AUDIO_UNIT_S * AUDIO_RATE_HZ)
    ticks = round(AUDIO_UNIT_S * TICKS_PER_S)
    second = _beep_second(codec)
    units = []
    for index in range(round(seconds / AUDIO_UNIT_S)):
        start = index * samples % AUDIO_RATE_HZ
        units.append(AccessUnit(codec, index * ticks, index * ticks, False, second[start : start + samples]))
    return units
