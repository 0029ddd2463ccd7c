"""The audio track of fMP4: G.711 is encoded to AAC once per channel, AAC passes; gaps are filled with silence.

A player with an audio track stops when audio is missing, so a camera whose microphone falls silent must not
stop its picture: `AudioSource.advance` keeps the audio clock close to the picture's.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np

from media.fmp4 import SAMPLE_RATES_HZ, AudioConfig
from media.specs import AudioTrack
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

FRAME_SAMPLES = 1024
G711_RATE_HZ = 8000
BIT_RATE = 24_000
RESYNC_TICKS = TICKS_PER_SECOND // 5
"""A difference between the sample count and the time stamps beyond this is a gap or an overlap."""
MAX_LAG_TICKS = TICKS_PER_SECOND * 3 // 5
"""How far audio may stay behind the picture before silence is put in."""
LONGEST_FILL_TICKS = 5 * TICKS_PER_SECOND

Samples = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class AacFrame:
    """One raw AAC frame of 1024 samples starting at ``position`` samples on the track's clock."""

    position: int
    data: bytes


class AudioSource(Protocol):
    """Makes AAC frames with an unbroken sample clock."""

    config: AudioConfig

    def feed(self, unit: AccessUnit) -> list[AacFrame]:
        """Frames completed by this unit."""
        ...

    def advance(self, ticks: int) -> list[AacFrame]:
        """The picture is at ``ticks``: fill with silence what is more than `MAX_LAG_TICKS` behind."""
        ...


def _decode_table(codec: Codec) -> Samples:
    """All 256 codes of ITU-T G.711 as samples between -1 and 1."""
    values = []
    for raw in range(256):
        if codec is Codec.PCMA:
            code = raw ^ 0x55
            segment, step = code >> 4 & 7, code & 0x0F
            magnitude = (step << 4) + 8 if segment == 0 else (step << 4) + 0x108 << segment - 1
            values.append(magnitude if code & 0x80 else -magnitude)
        else:
            code = ~raw & 0xFF
            magnitude = ((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)
            values.append(0x84 - magnitude if code & 0x80 else magnitude - 0x84)
    return (np.array(values, dtype=np.float32) / 32768).astype(np.float32)


_TABLES = {codec: _decode_table(codec) for codec in (Codec.PCMA, Codec.PCMU)}


def _open_encoder(rate: int, channels: int) -> av.AudioCodecContext:
    encoder = av.CodecContext.create("aac", "w")
    encoder.sample_rate = rate
    encoder.layout = "mono" if channels == 1 else "stereo"
    encoder.format = "fltp"
    encoder.bit_rate = BIT_RATE
    encoder.time_base = Fraction(1, rate)
    return encoder


class G711Source:
    """G.711 at 8 kHz, decoded by table and encoded to AAC-LC at 8 kHz."""

    def __init__(self, codec: Codec) -> None:
        self.config = AudioConfig(G711_RATE_HZ, 1)
        self._table = _TABLES[codec]
        self._encoder = _open_encoder(G711_RATE_HZ, 1)
        self._pending: Samples = np.zeros(0, dtype=np.float32)
        self._origin: int | None = None
        self._taken = 0

    @property
    def _end_ticks(self) -> int:
        samples = (self._origin or 0) + self._taken + len(self._pending)
        return samples * TICKS_PER_SECOND // G711_RATE_HZ

    def feed(self, unit: AccessUnit) -> list[AacFrame]:
        samples = self._table[np.frombuffer(unit.data, dtype=np.uint8)]
        if self._origin is None:
            if unit.pts < 0:  # older than the first picture
                return []
            self._origin = unit.pts * G711_RATE_HZ // TICKS_PER_SECOND
        gap = unit.pts - self._end_ticks
        if gap < -RESYNC_TICKS:
            samples = samples[-gap * G711_RATE_HZ // TICKS_PER_SECOND :]
        elif gap > RESYNC_TICKS:
            self._push(_silence(min(gap, LONGEST_FILL_TICKS)))
        self._push(samples)
        return self._encode()

    def advance(self, ticks: int) -> list[AacFrame]:
        if self._origin is None:
            if ticks < MAX_LAG_TICKS:
                return []
            self._origin = 0
        lag = ticks - self._end_ticks
        if lag <= MAX_LAG_TICKS:
            return []
        self._push(_silence(min(lag - MAX_LAG_TICKS // 2, LONGEST_FILL_TICKS)))
        return self._encode()

    def _push(self, samples: Samples) -> None:
        self._pending = np.concatenate((self._pending, samples))

    def _encode(self) -> list[AacFrame]:
        frames: list[AacFrame] = []
        while len(self._pending) >= FRAME_SAMPLES:
            block, self._pending = self._pending[:FRAME_SAMPLES], self._pending[FRAME_SAMPLES:]
            frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="fltp", layout="mono")
            frame.sample_rate = G711_RATE_HZ
            frame.pts = self._taken
            frame.time_base = Fraction(1, G711_RATE_HZ)
            self._taken += FRAME_SAMPLES
            # The encoder's own delay shows as negative time: that frame is priming and nobody needs it.
            frames += [
                AacFrame((self._origin or 0) + packet.pts, bytes(packet))
                for packet in self._encoder.encode(frame)
                if packet.pts is not None and packet.pts >= 0
            ]
        return frames


def _silence(ticks: int) -> Samples:
    return np.zeros(ticks * G711_RATE_HZ // TICKS_PER_SECOND, dtype=np.float32)


class AacSource:
    """AAC in ADTS: headers off, frames on. Silence is one prepared frame of the same rate and channels."""

    def __init__(self, config: AudioConfig) -> None:
        self.config = config
        self._next: int | None = None
        self._silent = b""

    def feed(self, unit: AccessUnit) -> list[AacFrame]:
        start = unit.pts * self.config.sample_rate // TICKS_PER_SECOND
        blocks = [block for config, block in adts_frames(unit.data) if config == self.config]
        if not blocks or (self._next is None and start < 0):
            return []
        if self._next is None:
            self._next = start
        frames = []
        drift = (start - self._next) * TICKS_PER_SECOND // self.config.sample_rate
        if drift < -RESYNC_TICKS:
            return []
        if drift > RESYNC_TICKS:
            frames = self._fill(min(drift, LONGEST_FILL_TICKS))
        for block in blocks:
            frames.append(AacFrame(self._next, block))
            self._next += FRAME_SAMPLES
        return frames

    def advance(self, ticks: int) -> list[AacFrame]:
        if self._next is None:
            if ticks < MAX_LAG_TICKS:
                return []
            self._next = 0
        lag = ticks - self._next * TICKS_PER_SECOND // self.config.sample_rate
        if lag <= MAX_LAG_TICKS:
            return []
        return self._fill(min(lag - MAX_LAG_TICKS // 2, LONGEST_FILL_TICKS))

    def _fill(self, ticks: int) -> list[AacFrame]:
        self._silent = self._silent or silent_frame(self.config)
        frames = []
        for _ in range(ticks * self.config.sample_rate // TICKS_PER_SECOND // FRAME_SAMPLES):
            frames.append(AacFrame(self._next or 0, self._silent))
            self._next = (self._next or 0) + FRAME_SAMPLES
        return frames


def silent_frame(config: AudioConfig) -> bytes:
    """A raw AAC-LC frame of silence."""
    encoder = _open_encoder(config.sample_rate, config.channels)
    zeros = np.zeros((config.channels, FRAME_SAMPLES), dtype=np.float32)
    data = b""
    for index in range(3):
        layout = "mono" if config.channels == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(zeros, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = config.sample_rate, index * FRAME_SAMPLES
        for packet in encoder.encode(frame):
            data = bytes(packet)
    return data


def adts_frames(data: bytes) -> list[tuple[AudioConfig, bytes]]:
    """The frames of an ADTS run (ISO/IEC 13818-7 6.2); stops at the first byte that is no header.

    Only what fMP4 here can carry is returned: AAC-LC, 1 or 2 channels, at most 48 kHz.
    """
    frames = []
    at = 0
    while at + 7 <= len(data) and data[at] == 0xFF and data[at + 1] & 0xF6 == 0xF0:
        header = 7 if data[at + 1] & 1 else 9
        profile, index = data[at + 2] >> 6, data[at + 2] >> 2 & 0x0F
        channels = (data[at + 2] & 1) << 2 | data[at + 3] >> 6
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if length <= header or at + length > len(data):
            break
        if profile == 1 and 3 <= index < len(SAMPLE_RATES_HZ) and channels in (1, 2):
            config = AudioConfig(SAMPLE_RATES_HZ[index], channels)
            frames.append((config, data[at + header : at + length]))
        at += length
    return frames


def source_for(unit: AccessUnit) -> AudioSource | None:
    """The source that makes an audio track of units like this one; None when browsers could not play it."""
    if unit.codec in _TABLES:
        return G711Source(unit.codec)
    if unit.codec is Codec.AAC:
        frames = adts_frames(unit.data)
        return AacSource(frames[0][0]) if frames else None
    return None


def source_for_track(track: AudioTrack) -> AudioSource | None:
    """The same for a track that is known already."""
    if track.codec in _TABLES:
        return G711Source(Codec(track.codec))
    if track.codec == Codec.AAC and track.clock_rate_hz in SAMPLE_RATES_HZ[3:] and track.channels in (1, 2):
        return AacSource(AudioConfig(track.clock_rate_hz, track.channels))
    return None
