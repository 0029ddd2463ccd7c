"""What comes out of an output, decoded by software that is not ours, to be compared with what went in."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from media.es import adts_header
from media.unit import AccessUnit, Codec
from simulator.picture import read_mark


@dataclass
class Decoded:
    """Pictures and sound of a file, however it was cut. Times in seconds."""

    codecs: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    """Numbers that the pictures carry."""
    shown_s: list[float] = field(default_factory=list)
    beeps_s: list[float] = field(default_factory=list)
    sound_s: float = 0.0
    rate_hz: int = 0

    @property
    def sync_s(self) -> list[float]:
        """Beep minus the picture of the same moment: the tone beeps with every 25th picture."""
        whole = [shown for frame, shown in zip(self.frames, self.shown_s, strict=True) if frame % 25 == 0]
        return [min((beep - shown for beep in self.beeps_s), key=abs) for shown in whole if self.beeps_s]


def picture_hash(frame: av.VideoFrame) -> str:
    return hashlib.md5(frame.to_ndarray(format="yuv420p").tobytes()).hexdigest()


def source_hashes(units: Iterable[AccessUnit]) -> list[str]:
    """The pictures of the source's own access units, decoded directly."""
    pictures = [unit for unit in units if unit.codec.is_video]
    decoder = av.CodecContext.create("h264" if pictures[0].codec is Codec.H264 else "hevc", "r")
    shown = [frame for unit in pictures for frame in decoder.decode(av.Packet(unit.data))]
    return [picture_hash(frame) for frame in shown + decoder.decode(None)]


def decode(data: bytes, form: str | None = None) -> Decoded:
    """All that PyAV gets out of ``data``. What is cut off at the end is left out."""
    found = Decoded()
    levels: list[tuple[float, np.ndarray[Any, Any]]] = []
    with av.open(io.BytesIO(data), format=form) as container:
        found.codecs = [stream.codec_context.name for stream in container.streams]
        try:
            for packet in container.demux():
                for frame in packet.decode():
                    _take(found, levels, frame)
        except av.error.InvalidDataError:
            pass
    found.beeps_s = beeps(levels, found.rate_hz)
    return found


def _take(found: Decoded, levels: list[tuple[float, np.ndarray[Any, Any]]], frame: Any) -> None:
    if isinstance(frame, av.VideoFrame):
        mark = read_mark(frame.to_ndarray(format="gray"))
        if mark is not None:
            found.hashes.append(picture_hash(frame))
            found.frames.append(mark.frame)
            found.shown_s.append(float(frame.time))
    elif isinstance(frame, av.AudioFrame):
        found.rate_hz = frame.sample_rate
        found.sound_s += frame.samples / frame.sample_rate
        wave = frame.to_ndarray()[0].astype(np.float64)
        levels.append((float(frame.time), wave / (32768 if frame.format.name.startswith("s16") else 1)))


def beeps(levels: list[tuple[float, np.ndarray[Any, Any]]], rate_hz: int) -> list[float]:
    """When a tone begins after at least 0.3 s without."""
    starts: list[float] = []
    heard = -1.0
    step = max(1, rate_hz // 200)
    for begin, wave in levels:
        for at in range(0, len(wave) - step, step):
            if np.sqrt((wave[at : at + step] ** 2).mean()) > 0.05:
                when = begin + at / rate_hz
                if when - heard > 0.3:
                    starts.append(when)
                heard = when
    return starts


def aac_tone(seconds: float, rate_hz: int) -> list[AccessUnit]:
    """AAC in ADTS with the beeps of `simulator.picture.tone`, one frame per unit."""
    encoder = cast(av.AudioCodecContext, av.CodecContext.create("aac", "w"))
    encoder.sample_rate, encoder.layout, encoder.format = rate_hz, "mono", "fltp"
    moments = np.arange(int(rate_hz * seconds)) / rate_hz
    wave = (np.sin(2 * np.pi * 1000 * moments) * 0.25 * (moments % 1 < 0.2)).astype(np.float32)
    units = []
    for start in range(0, len(wave) - 1024, 1024):
        frame = av.AudioFrame.from_ndarray(
            wave[start : start + 1024].reshape(1, -1), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = rate_hz, start
        for packet in encoder.encode(frame):
            data = bytes(packet)
            if packet.pts is not None and packet.pts >= 0:
                ticks = packet.pts * 90_000 // rate_hz
                units.append(
                    AccessUnit(Codec.AAC, ticks, ticks, False, adts_header(len(data), rate_hz) + data)
                )
    return units


def ffprobe(path: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    """The streams with their decoded frames counted, and what ffprobe complains about."""
    command = [
        "ffprobe",
        "-v",
        "warning",
        "-count_frames",
        "-of",
        "json",
        "-show_streams",
        *options,
        str(path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90)
    return json.loads(result.stdout or "{}").get("streams", []), result.stderr
